# Networks in generalized models, and methods that train them.

few <- list(epochs = 5, folds = 0)

# 0 and 1 with sin(2 x) in the linear predictor, a factor of two levels, and 20 groups.
binary <- function(n, seed = 1L) {
  set.seed(seed)
  d <- data.frame(x = runif(n, -2, 2), z = rnorm(n), k = sample(c("u", "v"), n, TRUE), g = gl(20, 1, n))
  set.seed(99)
  b <- rnorm(20)
  d$y <- rbinom(n, 1, plogis(0.5 * d$z + 2 * sin(2 * d$x) + b[d$g]))
  d
}

test_that("a network beside fixed and random terms is fitted, told of and kept", {
  skip_without_torch()
  d <- binary(500)
  fit <- glmernn(y ~ z + nn(x, k, hidden = 8) + (1 | g), d, control = c(few, weight_decay = 0), seed = 1)
  expect_s3_class(fit, c("glmerModNN", "merModNN"), exact = TRUE)
  expect_identical(fit$method, "alternating")
  expect_equal(predict(fit, d, type = "response"), fitted(fit), tolerance = 1e-5)
  expect_output(print(summary(fit)), "method alternating")
  expect_output(print(summary(fit)), "of the deviance of y")
  expect_output(print(fit), "Networks, taken as known by all of the above")
  expect_equal(nrow(history(fit)), 5)
  expect_identical(importance(fit, 2)$input, c("x", "k"))
  expect_equal(dim(partial_dependence(fit, "x", grid_size = 6)), c(6L, 2L))
  for (kind in c("history", "importance", "partial", "calibration", "roc", "distribution")) {
    expect_s3_class(plot(fit, kind = kind), "trellis")
  }
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  new <- binary(50, 2)
  expect_identical(predict(readRDS(file), new, type = "response"), predict(fit, new, type = "response"))
  expect_false(any(rapply(unclass(fit), function(x) inherits(x, "python.builtin.object"), how = "unlist")))
  drawn <- simulate(fit, 2, seed = 1)
  expect_setequal(drawn$sim_1, 0:1)
  again <- refit(fit, drawn["sim_1"])
  expect_identical(again$networks, fit$networks)
  expect_identical(again$method, "alternating")
  less <- update(fit, . ~ . - z)
  expect_identical(names(fixef(less)), "(Intercept)")
  expect_identical(nrow(history(less)), 5L)
  limits <- predict(fit, binary(5, 3), type = "response", interval = "confidence", se.fit = TRUE)
  expect_true(all(limits$fit[, "lwr"] < limits$fit[, "fit"] & limits$fit[, "fit"] < limits$fit[, "upr"]))
  expect_error(as_merMod(fit), "lme4 has no networks")
})

test_that("every method fits, and the same seed gives the same networks", {
  skip_without_torch()
  d <- binary(400)
  fits <- lapply(c("alternating", "lmmnn", "mcem"), function(method) {
    control <- c(few, if (method == "mcem") list(draws = 20, warmup = 10))
    suppressWarnings(suppressMessages(glmernn(y ~ z + nn(x, hidden = 4) + (1 | g), d, method = method,
                                              control = control, seed = 3)))
  })
  for (fit in fits) {
    expect_gt(cor(predict(fit, d, type = "response"), d$y), 0.3)
  }
  again <- glmernn(y ~ z + nn(x, hidden = 4) + (1 | g), d, control = few, seed = 3)
  expect_identical(fitted(again), fitted(fits[[1L]]))
  sampled <- fits[[3L]]
  expect_output(print(sampled), "Sampled: Polya-Gamma Gibbs sampler, 2 chains of 20 draws")
  expect_output(print(summary(sampled)), "largest R-hat")
  expect_identical(dim(sampled$draws$variances)[1:2], c(2L, 20L))
  expect_s3_class(plot(sampled, kind = "trace"), "trellis")
  expect_error(plot(fits[[1L]], kind = "trace"), "fit with method = \"mcem\"", fixed = TRUE)
})

test_that("counts have networks too", {
  skip_without_torch()
  d <- binary(400)
  d$count <- rpois(400, exp(sin(2 * d$x)))
  control <- list(epochs = 30, folds = 0, weight_decay = 0)
  fit <- suppressMessages(glmernn(count ~ nn(x, hidden = 8) + (1 | g), d, poisson, control = control, seed = 1))
  expect_gt(cor(fitted(fit), d$count), 0.3)
  expect_error(predict(fit, type = "prob"), "is for classes, not for the poisson family")
})

test_that("a module of your own is put back for new rows", {
  skip_without_torch()
  d <- binary(300)
  tower <- reticulate::import("torch")$nn$Sequential(reticulate::import("torch")$nn$Linear(1L, 1L))
  fit <- glmernn(y ~ nn(x, net = "tower") + (1 | g), d, nets = list(tower = tower), control = few, seed = 1)
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  again <- readRDS(file)
  expect_identical(fitted(again), fitted(fit))
  expect_error(predict(again, d), "put it back")
  expect_identical(predict(with_nets(again, list(tower = tower)), d), predict(fit, d))
})

test_that("settings that make no sense are refused in one sentence", {
  skip_without_torch()
  d <- binary(200)
  refused <- function(code, message) {
    error <- expect_error(code, message, fixed = TRUE)
    expect_null(conditionCall(error))
    expect_no_match(conditionMessage(error), "\n", fixed = TRUE)
  }
  refused(glmernn(y ~ z + (1 | g), d, method = "guess"), "method is 'guess': use one of auto, pirls,")
  refused(glmernn(y ~ z + (1 | g), d, method = "alternating"), "method 'alternating' is for networks")
  refused(glmernn(y ~ nn(z) + (1 | g), d, method = "pirls"), "method 'pirls' fits no networks")
  refused(glmernn(y ~ z + (1 | g), d, method = "mcem", control = list(chains = 0)), "chains is 0")
  refused(glmernn(y ~ z + (1 | g), d, method = "mcem", control = list(sampler = "gibbs")), "sampler is 'gibbs'")
  refused(glmernn(y ~ z + (1 | g), d, device = "abacus"), "device is 'abacus'")
  refused(glmernn(y ~ nn(q) + (1 | g), d), "'q', which is not a column")
  refused(lmernn(y ~ z + (1 | g), d, control = list(chains = 3)), "control has no setting 'chains'")
  family <- reticulate::import("fractions")$Fraction(1L, 2L)
  refused(glmernn(y ~ z + (1 | g), d, family = family), "families of your own are offered in Python only.")
})
