quick <- list(epochs = 20, folds = 0, weight_decay = 1e-3)

test_that("a network beside linear and random terms is fitted, told of and kept", {
  skip_without_python()
  train <- simulated(3000)
  new <- simulated(1000, seed = 2)
  fit <- lmernn(y ~ treat + nn(x, log(z + 3), k, hidden = c(50, 25)) + (1 | g), train, control = quick, seed = 1)
  expect_lt(mean((predict(fit, new) - new$y)^2), 0.25 * 1.5)
  expect_equal(fixef(fit)[["treat"]], 1.5, tolerance = 0.1)
  expect_equal(predict(fit, train), fitted(fit), tolerance = 1e-5)
  expect_output(print(summary(fit)), "Networks:")
  expect_output(print(summary(fit)), "take the networks as known")
  expect_identical(deparse1(formula(fit, fixed.only = TRUE)), "y ~ treat")
  expect_equal(nrow(fit$networks$history), 20)
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  expect_identical(predict(readRDS(file), new), predict(fit, new))
  ml <- refitML(fit)
  expect_false(isREML(ml))
  expect_identical(ml$networks, fit$networks)
  expect_error(as_merMod(fit), "lme4 has no networks")
  expect_error(predict(fit, transform(new, k = "q")), "level 'q' of 'k'")
})

test_that("the same seed gives the same networks", {
  skip_without_python()
  d <- simulated(500)
  once <- function() fitted(lmernn(y ~ nn(., hidden = 8) + (1 | g), d, control = list(epochs = 2, folds = 0), seed = 3))
  expect_identical(once(), once())
})

test_that("options come from the formula first, then from nets", {
  skip_without_python()
  d <- simulated(500)
  fit <- lmernn(y ~ nn(x, net = "tower") + (1 | g), d, nets = list(tower = list(hidden = 5)),
                control = list(epochs = 2, folds = 0))
  expect_match(fit$networks$lines[4], "hidden layers 5")
})

test_that("networks that make no sense are refused in one sentence", {
  skip_without_python()
  d <- simulated(200)
  expect_error(lmernn(y ~ nn() + (1 | g), d), "name the columns that the network takes")
  expect_error(lmernn(y ~ nn(q) + (1 | g), d), "'q', which is not a column")
  expect_error(lmernn(y ~ nn(x, y) + (1 | g), d), "the response 'y' cannot be an input")
  expect_error(lmernn(y ~ nn(x, g) + (1 | g), d), "grouping factor of a random term too")
  expect_error(lmernn(y ~ nn(x, hidden = 0) + (1 | g), d), "hidden must be whole numbers")
  expect_error(lmernn(y ~ nn(x, hiden = 3) + (1 | g), d), "unknown option 'hiden'")
  expect_error(lmernn(y ~ nn(x) + (1 | g), d, nets = list(tower = list())), "nets has 'tower'")
  expect_error(lmernn(y ~ nn(x, net = "tower") + (1 | g), d), "nets has no 'tower'")
  expect_error(lmernn(y ~ x + z + treat + k + nn(.) + (1 | g), d), "no column is left")
  expect_error(lmernn(y ~ x + (1 | g), d, method = "alternating"), "is for networks")
})

test_that("R and Python give the same fit", {
  skip_without_torch()
  d <- simulated(500)
  file <- tempfile(fileext = ".csv")
  write.csv(d, file, row.names = FALSE)
  fit <- lmernn(y ~ treat + nn(x, z, k, hidden = c(16, 8)) + (1 | g), d, control = list(epochs = 5), seed = 7)
  python <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "data = pd.read_csv(sys.argv[1], float_precision='round_trip', dtype={'g': str})",
    "levels = [str(j + 1) for j in range(40)]",
    "data['g'] = pd.Categorical(data.g, [level for level in levels if level in set(data.g)])",
    "fit = pylmernn.lmernn('y ~ treat + nn(x, z, k, hidden=c(16, 8)) + (1 | g)', data, seed=7,",
    "                      control=Control(training=Training(epochs=5)))",
    "print(json.dumps(dict(beta=fit.fixef().tolist(), sigma=fit.sigma(), fitted=fit.fitted().tolist())))"
  ), file)
  expect_equal(unname(fixef(fit)), python$beta, tolerance = 1e-5)
  expect_equal(sigma(fit), python$sigma, tolerance = 1e-5)
  expect_equal(unname(fitted(fit)), python$fitted, tolerance = 1e-5)
})

test_that("what networks have learnt is told and drawn", {
  skip_without_torch()
  fit <- lmernn(y ~ treat + nn(x, z, k, hidden = 16) + (1 | g), simulated(800), control = list(epochs = 15, folds = 3),
                seed = 1)
  table <- importance(fit, n_repeats = 2)
  expect_equal(names(table), c("network", "input", "importance", "se"))
  expect_equal(table$input, c("x", "z", "k"))
  expect_gt(min(table$importance), 0)
  expect_identical(importance(fit, 2), table)
  curve <- partial_dependence(fit, "k")
  expect_identical(levels(curve$k), c("a", "b", "c"))
  expect_identical(which.max(curve$f), 2L)
  expect_equal(dim(partial_dependence(fit, c("x", "z"), grid_size = 6)), c(16L, 3L))
  expect_equal(unique(history(fit)$member), 0:2)
  for (kind in c("predicted", "history", "importance", "partial")) {
    expect_s3_class(plot(fit, kind = kind), "trellis")
  }
  expect_s3_class(plot(fit, kind = "partial", pair = c("x", "k"), grid_size = 6), "trellis")
  expect_output(print(summary(fit)), "explains 0\\.[0-9]+ of the variance of y")
  expect_error(partial_dependence(fit, "q"), "no network has an input 'q': they take x, z, k.")
  expect_error(importance(fit, 0), "ask for at least one permutation")
  expect_error(predict(fit, data.frame(x = 1, treat = 1, k = "a", g = "1")), "the formula uses 'z'")
  linear <- lmernn(y ~ treat + (1 | g), simulated(200))
  expect_error(history(linear), "this model has no network, so there is no training to tell of")
  expect_error(plot(linear, kind = "pie"), "plot() has no kind 'pie'", fixed = TRUE)
})

test_that("prediction intervals count the networks", {
  skip_without_torch()
  fit <- lmernn(y ~ treat + nn(x, z, k, hidden = c(20, 10)) + (1 | g), simulated(1500),
                control = list(epochs = 20, folds = 3), seed = 1)
  new <- simulated(1000, seed = 2)
  limits <- predict(fit, new, interval = TRUE, level = 0.9)
  expect_equal(mean(new$y > limits[, "lwr"] & new$y < limits[, "upr"]), 0.9, tolerance = 0.04)
  narrow <- predict(fit, new, interval = "confidence", level = 0.9)
  expect_true(all(narrow[, "upr"] < limits[, "upr"]))
  new$x[2] <- NA
  expect_identical(unname(which(is.na(predict(fit, new, se.fit = TRUE)$se.fit))), 2L)
})

test_that("random slopes of an input want its line", {
  skip_without_python()
  d <- simulated(500)
  suppressMessages(expect_warning(
    lmernn(y ~ nn(x, z, hidden = 5) + (x | g), d, control = quick, seed = 1),
    "'x' has random slopes in (x | g) and is an input of nn(x, z, hidden = 5)", fixed = TRUE
  ))
})
