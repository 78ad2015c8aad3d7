test_that("predictions are lme4's, for old and new data, all and some random effects", {
  skip_without_python()
  sleepstudy$room <- gl(6, 30)
  ours <- lmernn(Reaction ~ poly(Days, 2) + (Days | Subject) + (1 | room), sleepstudy)
  theirs <- as_merMod(ours)
  new <- data.frame(Days = c(0, 11, 3.5, 2), Subject = c("308", "999", "372", "310"), room = c("1", "2", "9", "3"))
  for (re_form in list(NULL, NA, ~0, ~ (1 | Subject), ~ (Days | Subject), ~ (1 | room))) {
    expect_equal(predict(ours, re.form = re_form), predict(theirs, re.form = re_form), tolerance = 1e-8)
    expect_equal(
      predict(ours, new, re.form = re_form, allow.new.levels = TRUE),
      predict(theirs, new, re.form = re_form, allow.new.levels = TRUE), tolerance = 1e-8
    )
  }
  expect_equal(predict(ours, random.only = TRUE), predict(theirs, random.only = TRUE), tolerance = 1e-7)
  new$Days[2] <- NA
  expect_equal(
    predict(ours, new, allow.new.levels = TRUE), predict(theirs, new, allow.new.levels = TRUE), tolerance = 1e-8
  )
  expect_length(predict(ours, new, allow.new.levels = TRUE, na.action = na.omit), 3L)
})

# Var(x' beta_hat + z' (b_hat - b)) from Henderson's mixed model equations, written out densely.
dense_errors <- function(fit, X_new, Z_new) {
  X <- getME(fit, "X")
  ZL <- as.matrix(getME(fit, "Z") %*% getME(fit, "Lambda"))
  precision <- crossprod(cbind(X, ZL))
  random <- ncol(X) + seq_len(ncol(ZL))
  diag(precision)[random] <- diag(precision)[random] + 1
  rows <- cbind(X_new, as.matrix(Z_new %*% getME(fit, "Lambda")))
  sigma(fit) * sqrt(rowSums(rows * t(solve(precision, t(rows)))))
}

test_that("standard errors solve the mixed model equations", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  shown <- predict(fit, se.fit = TRUE)
  expect_equal(shown$fit, fitted(fit))
  expect_equal(unname(shown$se.fit), unname(dense_errors(fit, getME(fit, "X"), getME(fit, "Z"))), tolerance = 1e-6)
  population <- predict(fit, data.frame(Days = 0:9), re.form = NA, se.fit = TRUE)$se.fit
  X <- cbind(1, 0:9)
  expect_equal(unname(population), sqrt(rowSums((X %*% as.matrix(vcov(fit))) * X)), tolerance = 1e-6)
})

test_that("intervals have their width, new levels the whole variance", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  new <- data.frame(Days = c(4, 4, 4), Subject = c("308", "999", NA))
  inner <- predict(fit, new, allow.new.levels = TRUE, interval = "confidence", se.fit = TRUE)
  outer <- predict(fit, new, allow.new.levels = TRUE, interval = "prediction", level = 0.8)
  expect_equal(colnames(outer), c("fit", "lwr", "upr"))
  expect_equal(inner$fit[1:2, "upr"] - inner$fit[1:2, "fit"], qnorm(0.975) * inner$se.fit[1:2])
  expect_equal(outer[1:2, "upr"] - outer[1:2, "fit"], qnorm(0.9) * sqrt(inner$se.fit[1:2]^2 + sigma(fit)^2))
  heavy <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy, weights = rep(4, 180))
  own <- predict(heavy, interval = "prediction", se.fit = TRUE)
  expect_equal(
    unname(own$fit[, "upr"] - own$fit[, "fit"]), unname(qnorm(0.975) * sqrt(own$se.fit^2 + sigma(heavy)^2 / 4))
  )
  x <- c(1, 4)
  whole <- sum(x * (VarCorr(fit)$Subject + as.matrix(vcov(fit))) %*% x)
  expect_equal(unname(inner$se.fit[2]), sqrt(whole), tolerance = 1e-6)
  expect_true(all(is.na(outer[3, ])))
})

test_that("simulate() draws lme4's numbers", {
  skip_without_python()
  fit <- lmernn(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin)
  theirs <- as_merMod(fit)
  expect_equal(simulate(fit, 2, seed = 5), simulate(theirs, 2, seed = 5), tolerance = 1e-8)
  # lme4 1.1-31 draws the samples here with the variance of the plates, so the draws are made by hand
  drawn <- simulate(fit, 1, seed = 5, re.form = ~ (1 | plate))$sim_1
  set.seed(5)
  samples <- attr(VarCorr(fit)$sample, "stddev") * rnorm(6)
  noise <- sigma(fit) * rnorm(144)
  expect_equal(drawn, unname(predict(fit, re.form = ~ (1 | plate))) + samples[as.integer(Penicillin$sample)] + noise)
  expect_equal(simulate(fit, 2, seed = 5, use.u = TRUE), simulate(theirs, 2, seed = 5, use.u = TRUE), tolerance = 1e-8)
  new <- data.frame(plate = c("a", "a", "q"), sample = "A")
  drawn <- simulate(fit, 4000, seed = 1, newdata = new)
  expect_equal(dim(drawn), c(3L, 4000L))
  spread <- cov(t(as.matrix(drawn))) # of two rows of one plate and one of another, all of one sample
  variances <- vapply(VarCorr(fit), as.numeric, 0)
  expect_equal(spread[1, 2], sum(variances), tolerance = 0.1)
  expect_equal(spread[1, 3], variances[["sample"]], tolerance = 0.1)
  expect_equal(spread[1, 1], sum(variances) + sigma(fit)^2, tolerance = 0.1)
})

test_that("weights divide the variance of simulated residuals", {
  skip_without_python()
  heavy <- rep(c(1, 100), 90)
  fit <- lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = heavy)
  noise <- as.matrix(simulate(fit, 300, seed = 3, use.u = TRUE)) - fitted(fit)
  expect_equal(sd(noise[heavy == 1, ]) / sd(noise[heavy == 100, ]), 10, tolerance = 0.03)
})
