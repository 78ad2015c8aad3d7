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

skip_without_torch <- function() {
  skip_without_python()
  testthat::skip_if_not(reticulate::py_module_available("torch"), "torch is not available")
}

# A network's data: sin(2 x) z, a factor, a linear effect of 1.5 and 40 groups, whose effects do not hang on `seed`.
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

# A field of standard deviation 1 and length-scale 2 over 60 locations, beside a slope of 2 and residuals of 0.5.
simulated_field <- function(n = 600, q = 60, seed = 1L) {
  set.seed(seed)
  places <- data.frame(lon = runif(q, 0, 10), lat = runif(q, 0, 10))
  K <- exp(-as.matrix(dist(places))^2 / 8)
  field <- drop(t(chol(K + 1e-9 * diag(q))) %*% rnorm(q))
  at <- c(seq_len(q), sample(q, n - q, TRUE))
  d <- data.frame(places[at, ], x = rnorm(n), g = factor(sample(12, n, TRUE)), row.names = NULL)
  d$y <- 1 + 2 * d$x + field[at] + 0.5 * rnorm(n)
  d
}

# What a script of Python prints as JSON, by the Python of reticulate, with the source inside this package.
by_python <- function(lines, ...) {
  script <- tempfile(fileext = ".py")
  source <- system.file("python", package = "pylmernn")
  writeLines(c("import json, sys, warnings", sprintf("sys.path.insert(0, %s)", shQuote(source, "cmd")),
               "warnings.simplefilter('ignore')", "import pandas as pd", "import pylmernn", lines), script)
  shown <- system2(reticulate::py_exe(), c(script, ...), stdout = TRUE)
  jsonlite::fromJSON(shown[length(shown)])
}
