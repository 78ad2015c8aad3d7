# Tests that fit need Python with the packages of pylmernn; others do not.
skip_without_python <- function() {
  testthat::skip_if_not(python_ready(), "Python with pylmernn's packages is not available")
}

lme4_data <- function(name) {
  env <- new.env()
  utils::data(list = name, package = "lme4", envir = env)
  env[[name]]
}

sleepstudy <- lme4_data("sleepstudy")
Penicillin <- lme4_data("Penicillin")
cake <- lme4_data("cake")
Dyestuff <- lme4_data("Dyestuff")

# The same call by lme4, searched to the end.
by_lme4 <- function(...) {
  call <- match.call()
  call[[1L]] <- quote(lme4::lmer)
  call$control <- quote(
    lme4::lmerControl(optCtrl = list(xtol_abs = 1e-9, xtol_rel = 1e-9), check.scaleX = "ignore")
  )
  suppressMessages(suppressWarnings(eval(call, parent.frame())))
}

criterion_of <- function(fit) if (isREML(fit)) REMLcrit(fit) else deviance(fit)

# Estimates of both agree, and ours are at least as good.
expect_same_fit <- function(ours, theirs, tolerance = 1e-4) {
  testthat::expect_lte(criterion_of(ours), criterion_of(theirs) * (1 + 1e-9))
  testthat::expect_equal(criterion_of(ours), criterion_of(theirs), tolerance = 1e-7)
  for (verb in c("fixef", "vcov", "sigma", "logLik", "ngrps", "fitted", "residuals", "nobs", "df.residual", "formula",
                 "weights", "isREML", "model.matrix")) {
    f <- match.fun(verb)
    testthat::expect_equal(f(ours), f(theirs), tolerance = tolerance, info = verb)
  }
  for (verb in c("VarCorr", "ranef", "coef")) {
    f <- match.fun(verb)
    testthat::expect_equal(f(ours), f(theirs), tolerance = 50 * tolerance, info = verb)
  }
}
