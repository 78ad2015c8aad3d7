# Each kind of bad input gets one sentence, without a traceback of Python or a call of R.

refused <- function(code, message) {
  error <- tryCatch(code, error = function(e) e)
  testthat::expect_s3_class(error, "error")
  testthat::expect_null(conditionCall(error))
  testthat::expect_match(conditionMessage(error), message, fixed = TRUE)
  testthat::expect_no_match(conditionMessage(error), "\n", fixed = TRUE)
}

test_that("unknown columns are named", {
  refused(lmernn(Reaction ~ Dayz + (1 | Subject), sleepstudy),
          "the formula uses 'Dayz', which is not a column of the data: the columns are Reaction, Days, Subject.")
  refused(lmernn(Reaction ~ Days + (1 | Subjekt), sleepstudy), "the formula uses 'Subjekt'")
  refused(lmernn(Reaction ~ t + (1 | Subject), sleepstudy), "the formula uses 't', which is not a column of the data")
})

test_that("unknown arguments and options are refused", {
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, famly = 1), "lmernn() has no argument 'famly'.")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, REML = NA), "REML must be TRUE or FALSE.")
  refused(lmernn(Reaction ~ Days + (1 | Subject), 1:3), "data must be a data frame, not an object of class 'integer'.")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, na.action = "drop"), "na.action must be \"omit\"")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, contrasts = list(Dys = "contr.sum")),
          "contrasts names 'Dys'")
})

test_that("a response that is not numeric is refused", {
  refused(lmernn(Subject ~ Days + (1 | Subject), sleepstudy), "the response 'Subject' is of class 'factor'")
  refused(lmernn(cbind(Days, Reaction) ~ 1 + (1 | Subject), sleepstudy), "is a matrix: a linear mixed model needs one")
})

test_that("bad weights are refused", {
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = Days - 1), "weights has 18 negative values")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = replace(Days, 2, NA)),
          "weights has 1 missing values: give every row a weight.")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = 1:3),
          "weights has 3 values but the data have 180 rows.")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = "Days"), "weights must be numeric")
})

test_that("missing values are named under na.fail, and no rows left is an error", {
  sleepstudy$Days[2:3] <- NA
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, na.action = "fail"),
          "there are missing values in 'Days' (2): use na.action = \"omit\" or \"exclude\".")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, subset = Days > 99), "no rows are left")
})

test_that("what only the numbers show is refused by Python in one sentence", {
  skip_without_python()
  sleepstudy$one <- "a"
  sleepstudy$own <- seq_len(180)
  sleepstudy$flat <- 3
  sleepstudy$long <- replace(sleepstudy$Days, 7, Inf)
  refused(lmernn(Reaction ~ Days + (1 | one), sleepstudy), "the grouping factor 'one' of (1 | one) has 1 level")
  refused(lmernn(Reaction ~ Days + (1 | own), sleepstudy), "has 180 levels in 180 rows")
  refused(lmernn(flat ~ Days + (1 | Subject), sleepstudy), "the response 'flat' is constant")
  refused(lmernn(long ~ Days + (1 | Subject), sleepstudy), "the response 'long' has 1 infinite or missing values")
  refused(lmernn(Reaction ~ long + (1 | Subject), sleepstudy), "'long' has 1 infinite values (first in row 7)")
  refused(lmernn(Reaction ~ Days + (long | Subject), sleepstudy), "'long' has 1 infinite values")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = Days), "weights has 18 zeros")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, method = "vb"), "method is 'vb': use one of auto,")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, device = "tpu"), "device is 'tpu'")
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, control = list(maxit = 3)),
          "control has no setting 'maxit'")
})

test_that("bad requests to a fit are refused", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  new <- data.frame(Days = 1, Subject = c("308", "new"))
  refused(predict(fit, new), "the grouping factor 'Subject' has levels that the fit has not seen: new;")
  refused(predict(fit, new["Subject"]), "the formula uses 'Days', which is not a column of the data")
  refused(predict(fit, re.form = ~ (1 | School)), "which is not among the random effects of the fit.")
  refused(predict(fit, re.form = 3), "re.form must be NULL, NA or a formula")
  shifted <- rep(0:1, 90)
  moved <- lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, offset = shifted)
  refused(predict(moved, sleepstudy[1:3, ]), "the offset has 180 values but newdata has 3 rows")
  refused(refit(fit, 1:4), "the new response has 4 values but the model has 180 rows.")
  refused(refit(fit, letters), "the new response must be numeric")
  refused(getME(fit, "nothing"), "getME() has no part 'nothing'")
  refused(anova(fit, 3), "anova() compares fits by lmernn(), lme4 or lm() only.")
  refused(confint(fit, "rho", method = "Wald"), "confint() has no parameter 'rho'.")
  refused(drop1(fit, "Hours"), "scope names 'Hours'")
})

test_that("R inside Python is refused", {
  owner <- Sys.getenv("PYTHON_SESSION_INITIALIZED", NA)
  on.exit({
    if (is.na(owner)) Sys.unsetenv("PYTHON_SESSION_INITIALIZED") else Sys.setenv(PYTHON_SESSION_INITIALIZED = owner)
  })
  Sys.setenv(PYTHON_SESSION_INITIALIZED = sprintf("current_pid=%d:sys.executable=/usr/bin/python3", Sys.getpid()))
  refused(lmernn(Reaction ~ Days + (1 | Subject), sleepstudy), "this R runs inside Python")
})

# A second R, since one session has one Python.
in_new_session <- function(lines, env = character()) {
  script <- tempfile(fileext = ".R")
  paths <- sprintf(".libPaths(c(%s))", paste(dQuote(.libPaths(), FALSE), collapse = ", "))
  writeLines(c(paths, lines), script)
  rscript <- file.path(R.home("bin"), "Rscript")
  suppressWarnings(system2(rscript, c("--vanilla", script), stdout = TRUE, stderr = TRUE, env = env))
}

test_that("a Python without the packages is one sentence that names install_pylmernn()", {
  skip_if_not_installed("pylmernn")
  candidates <- unique(c(Sys.which("python3"), "/usr/bin/python3", "/usr/local/bin/python3"))
  lacks_packages <- function(python) {
    system2(python, c("-c", shQuote("import numpy, scipy, pandas")), stdout = FALSE, stderr = FALSE) != 0
  }
  bare <- Find(lacks_packages, candidates[file.exists(candidates)])
  skip_if(is.null(bare), "every Python of this machine has all packages")
  shown <- in_new_session(
    c("d <- data.frame(y = rnorm(9), g = gl(3, 3))", "pylmernn::lmernn(y ~ 1 + (1 | g), d)"),
    env = paste0("RETICULATE_PYTHON=", bare)
  )
  expect_length(grep("^Error", shown), 1L)
  expect_match(paste(shown, collapse = " "), "run install_pylmernn\\(\\)")
  expect_no_match(paste(shown, collapse = " "), "Traceback")
})
