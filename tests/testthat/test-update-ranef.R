# Random effects of more rows against the formulas of conditional expectations, and against fits at the same parameters.

test_that("a new level gets the effect that its rows say, the others keep theirs", {
  skip_without_python()
  known <- subset(sleepstudy, Subject != "372")
  few <- head(subset(sleepstudy, Subject == "372"), 3)
  fit <- lmernn(Reaction ~ Days + (Days | Subject), known)
  after <- update_random_effects(fit, few)
  Z <- cbind(1, few$Days)
  D <- unclass(VarCorr(fit)$Subject)[, ]
  V <- Z %*% D %*% t(Z) + diag(sigma(fit)^2, 3)
  wanted <- D %*% t(Z) %*% solve(V, few$Reaction - Z %*% fixef(fit))
  expect_equal(unlist(ranef(after)$Subject["372", ], use.names = FALSE), as.vector(wanted), tolerance = 1e-8)
  expect_equal(ranef(after)$Subject["308", ], ranef(fit)$Subject["308", ], tolerance = 1e-8, ignore_attr = TRUE)
  expect_identical(fixef(after), fixef(fit))
  expect_identical(nobs(after), 173L)
  expect_equal(unname(tail(fitted(after), 3)), unname(predict(after, few)))
  expect_equal(dim(attr(ranef(after)$Subject, "postVar")), c(2L, 2L, 18L))
  named <- update_random_effects(fit, transform(few, Subject = as.character(Subject)))
  expect_identical(ranef(named)$Subject, ranef(after)$Subject)
  known_rows <- update_random_effects(update_random_effects(fit, few[1:2, ]), few[3L, ])
  expect_equal(ranef(known_rows)$Subject, ranef(after)$Subject, tolerance = 1e-8)
})

test_that("generalized models, weights, factors and interactions are extended", {
  skip_without_python()
  cbpp <- lme4_data("cbpp")
  fit <- glmernn(incidence / size ~ period + (1 | herd), subset(cbpp, herd != "15"), weights = size)
  after <- update_random_effects(fit, subset(cbpp, herd == "15"))
  own <- subset(cbpp, herd == "15")
  eta <- model.matrix(~ period, own) %*% fixef(fit)
  sd <- attr(VarCorr(fit)$herd, "stddev")
  posterior <- function(b) {
    sum(dbinom(own$incidence, own$size, plogis(eta + b), log = TRUE)) + dnorm(b, 0, sd, log = TRUE)
  }
  mode <- optimize(posterior, c(-3, 3), maximum = TRUE, tol = 1e-9)$maximum
  expect_equal(ranef(after)$herd["15", 1L], mode, tolerance = 1e-5)
  expect_equal(unname(weights(after))[53:56], as.double(own$size)) # after the rows of the fit
  cake$replicate <- as.integer(cake$replicate)
  nested <- lmernn(angle ~ recipe + (1 | recipe:replicate), subset(cake, replicate < 15))
  longer <- update_random_effects(nested, subset(cake, replicate == 15))
  expect_identical(nrow(ranef(longer)[[1L]]), 45L)
  expect_identical(levels(longer$frame$recipe), levels(cake$recipe))
})

test_that("networks stay as they are", {
  skip_without_torch()
  d <- simulated(500)
  fit <- suppressMessages(lmernn(y ~ treat + nn(x, z, hidden = 4) + (1 | g), subset(d, g != "7"),
                                 control = list(epochs = 3, folds = 0), seed = 1))
  after <- update_random_effects(fit, subset(d, g == "7"))
  expect_identical(predict(after, d, re.form = NA), predict(fit, d, re.form = NA))
  expect_equal(predict(after), predict(after, d)[names(predict(after))], tolerance = 1e-5)
  expect_identical(nrow(importance(after, 1)), 2L)
})

test_that("a multinomial model is sampled anew, its parameters kept", {
  skip_without_torch()
  set.seed(1)
  d <- data.frame(x = rnorm(300), g = gl(15, 20))
  eta <- cbind(a = 0, b = d$x, c = 2 * rnorm(15)[d$g])
  d$y <- factor(apply(eta, 1L, function(e) sample(colnames(eta), 1L, prob = exp(e))))
  fit <- suppressWarnings(glmernn(y ~ x + (1 | g), subset(d, g != "15"), family = "multinomial", seed = 1,
                                  control = list(draws = 30, warmup = 20)))
  after <- suppressWarnings(update_random_effects(fit, subset(d, g == "15")))
  expect_identical(after$beta, fit$beta)
  expect_identical(VarCorr(after), VarCorr(fit))
  expect_identical(dim(ranef(after)$g), c(15L, 3L))
  expect_gt(cor(ranef(after)$g[1:14, "c"], ranef(fit)$g[, "c"]), 0.98)
  share <- mean(d$y[d$g == "15"] == "c")
  expect_equal(mean(fitted(after)[281:300, "c"]), share, tolerance = 0.25)
  expect_error(update_random_effects(fit, transform(d[1:3, ], y = "z")), "the model has no such class")
})

test_that("new rows that do not fit are refused in one sentence", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (1 | Subject), sleepstudy)
  refused <- function(code, message) {
    error <- expect_error(code, message, fixed = TRUE)
    expect_null(conditionCall(error))
  }
  refused(update_random_effects(fit, sleepstudy["Days"]), "the formula uses 'Reaction'")
  refused(update_random_effects(fit, transform(sleepstudy, Days = "a")), "'Days' was fitted with type \"numeric\"")
  refused(update_random_effects(fit, 3), "newdata must be a data frame.")
  refused(update_random_effects(fit, data.frame(Reaction = NA_real_, Days = 1, Subject = "x")), "no rows are left")
})
