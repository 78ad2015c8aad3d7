test_that("tables of tests are lme4's", {
  skip_without_python()
  fit <- lmernn(angle ~ recipe * temperature + (1 | recipe:replicate), cake)
  small <- lmernn(angle ~ recipe + temperature + (1 | recipe:replicate), cake)
  full <- by_lme4(angle ~ recipe * temperature + (1 | recipe:replicate), cake)
  less <- by_lme4(angle ~ recipe + temperature + (1 | recipe:replicate), cake)
  expect_equal(anova(fit), anova(full), tolerance = 1e-5)
  ours <- suppressMessages(anova(fit, small, model.names = c("full", "less")))
  expect_equal(ours, suppressMessages(anova(full, less)), tolerance = 1e-6)
  expect_message(anova(fit, small), "refitting model(s) with ML (instead of REML)", fixed = TRUE)
  expect_equal(suppressMessages(anova(fit, less, model.names = c("full", "less"))), ours, tolerance = 1e-6)
  expect_equal(drop1(small, test = "Chisq"), suppressMessages(drop1(less, test = "Chisq")), tolerance = 1e-5)
  expect_equal(drop1(fit), suppressMessages(drop1(full)), tolerance = 1e-6)
})

test_that("Wald intervals are lme4's, by every name", {
  skip_without_python()
  ours <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  theirs <- as_merMod(ours)
  for (old in c(TRUE, FALSE)) {
    expect_equal(
      confint(ours, method = "Wald", oldNames = old), confint(theirs, method = "Wald", oldNames = old), tolerance = 1e-6
    )
  }
  for (parm in list("beta_", "Days", 5)) {
    expect_equal(
      confint(ours, parm, level = 0.9, method = "Wald"), confint(theirs, parm, level = 0.9, method = "Wald"),
      tolerance = 1e-6
    )
  }
})

test_that("getME() has lme4's parts", {
  skip_without_python()
  ours <- lmernn(Reaction ~ Days + (Days || Subject) + (1 | room), transform(sleepstudy, room = gl(6, 30)))
  theirs <- as_merMod(ours)
  for (name in c("X", "y", "mu", "offset", "Z", "Zt", "mmList", "b", "u", "Gp", "Tp", "Lambda", "Lambdat", "Lind",
                 "Tlist", "RX", "sigma", "flist", "fixef", "beta", "theta", "lower", "cnms", "REML", "is_REML",
                 "devcomp", "n_rtrms", "n_rfacs", "N", "n", "p", "q", "p_i", "l_i", "k", "m_i", "m", "Ztlist", "L", "A",
                 "RZX", "ST")) {
    expect_equal(getME(ours, name), getME(theirs, name), tolerance = 1e-6, info = name)
  }
  expect_equal(getME(ours, "devfun")(ours$theta), REMLcrit(ours))
  expect_named(getME(ours, c("theta", "beta")), c("theta", "beta"))
})

test_that("refit(), refitML() and update() fit again", {
  skip_without_python()
  fit <- lmernn(Yield ~ 1 + (1 | Batch), Dyestuff)
  again <- refit(fit, Dyestuff$Yield * 2)
  expect_equal(fixef(again), 2 * fixef(fit), tolerance = 1e-7)
  expect_equal(again$theta, fit$theta, tolerance = 1e-4)
  expect_equal(REMLcrit(refit(fit)), REMLcrit(fit))
  ml <- refitML(fit)
  expect_false(isREML(ml))
  expect_equal(deviance(ml), deviance(by_lme4(Yield ~ 1 + (1 | Batch), Dyestuff, REML = FALSE)), tolerance = 1e-9)
  expect_equal(deviance(update(fit, REML = FALSE)), deviance(ml))
  slopes <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  expect_equal(formula(update(slopes, . ~ . - Days)), Reaction ~ (Days | Subject), ignore_formula_env = TRUE)
})

test_that("likelihoods at the other criterion are lme4's", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = Days + 1)
  theirs <- as_merMod(fit)
  expect_equal(logLik(fit, REML = FALSE), logLik(theirs, REML = FALSE), tolerance = 1e-9)
  expect_equal(deviance(fit, REML = FALSE), deviance(theirs, REML = FALSE), tolerance = 1e-9)
  expect_warning(expect_equal(deviance(fit), REMLcrit(fit)), "REML criterion")
  expect_equal(extractAIC(fit), extractAIC(theirs), tolerance = 1e-7)
  expect_equal(c(AIC(fit), BIC(fit)), c(AIC(theirs), BIC(theirs)), tolerance = 1e-9)
})

test_that("a fit answers in a session that never started Python", {
  skip_without_python()
  skip_if_not_installed("pylmernn")
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  script <- tempfile(fileext = ".R")
  writeLines(c(
    sprintf(".libPaths(c(%s))", paste(dQuote(.libPaths(), FALSE), collapse = ", ")),
    "library(pylmernn)",
    sprintf("fit <- readRDS(%s)", dQuote(file, FALSE)),
    "summary(fit); ranef(fit); VarCorr(fit); coef(fit); anova(fit); simulate(fit, seed = 1)",
    "new <- data.frame(Days = 12, Subject = '308')",
    "stopifnot(!reticulate::py_available(initialize = FALSE))",
    "cat(format(c(predict(fit, new), sum(ranef(fit)$Subject)), digits = 10), class(as_merMod(fit)))"
  ), script)
  shown <- system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", script), stdout = TRUE)
  new <- data.frame(Days = 12, Subject = "308")
  expected <- c(predict(fit, new), sum(ranef(fit)$Subject))
  expect_equal(tail(shown, 1L), paste(c(format(expected, digits = 10), "lmerMod"), collapse = " "))
})

test_that("tables for the tidyverse are those of broom.mixed", {
  skip_without_python()
  skip_if_not_installed("generics")
  skip_if_not_installed("broom.mixed")
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  theirs <- as_merMod(fit)
  plain <- function(table) as.data.frame(table)
  expect_equal(plain(generics::tidy(fit)), plain(broom.mixed::tidy(theirs)), tolerance = 1e-6)
  columns <- c("nobs", "sigma", "logLik", "AIC", "BIC", "REMLcrit", "df.residual")
  expect_equal(plain(generics::glance(fit))[columns], plain(broom.mixed::glance(theirs))[columns], tolerance = 1e-6)
  columns <- c(".fitted", ".resid", ".fixed")
  expect_equal(plain(generics::augment(fit))[columns], plain(broom.mixed::augment(theirs))[columns], tolerance = 1e-6)
})

test_that("plots are lattice objects", {
  skip_without_python()
  grDevices::pdf(NULL) # lattice asks the device for its settings
  on.exit(grDevices::dev.off())
  fit <- lmernn(Yield ~ 1 + (1 | Batch), Dyestuff)
  expect_s3_class(plot(fit), "trellis")
  expect_s3_class(plot(fit, resid(.) ~ fitted(.)), "trellis")
  expect_s3_class(lattice::dotplot(ranef(fit))[[1L]], "trellis")
})
