simulated <- function(n, seed = 1L) {
  set.seed(seed)
  d <- data.frame(
    x = runif(n, -2, 2), z = runif(n, -2, 2), treat = rbinom(n, 1, 0.5), k = sample(letters[1:3], n, TRUE),
    g = factor(sample(40, n, TRUE))
  )
  set.seed(99)
  b <- rnorm(40)
  d$y <- sin(2 * d$x) * d$z + 1.5 * d$treat + b[d$g] + (d$k == "b") + 0.5 * rnorm(n)
  d
}

quick <- list(epochs = 20, folds = 0)

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
