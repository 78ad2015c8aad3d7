# Generalized models against lme4, searched to the end, and against what a family says of means.

cbpp <- lme4_data("cbpp")
grouseticks <- lme4_data("grouseticks")

by_glmer <- function(...) {
  call <- match.call()
  call[[1L]] <- quote(lme4::glmer)
  call$control <- quote(lme4::glmerControl(tolPwrss = 1e-10, optCtrl = list(rhobeg = 2e-4, rhoend = 2e-9)))
  suppressMessages(suppressWarnings(eval(call, parent.frame())))
}

fit_cbpp <- function(...) glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, ...)

glmer_cbpp <- function(...) by_glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, ...)

expect_same_glmm <- function(ours, theirs, tolerance = 1e-3) {
  expect_gte(c(logLik(ours)), c(logLik(theirs)) - 1e-6)
  expect_equal(c(logLik(ours)), c(logLik(theirs)), tolerance = 1e-4 / abs(c(logLik(theirs))))
  for (verb in c("fixef", "vcov", "sigma", "deviance", "ngrps", "fitted", "residuals", "nobs", "df.residual", "formula",
                 "weights", "isGLMM", "isLMM", "isREML", "AIC", "BIC", "predict", "VarCorr", "ranef",
                 "coef")) {
    f <- match.fun(verb)
    expect_equal(f(ours), f(theirs), tolerance = tolerance, info = verb)
  }
}

test_that("cbpp is lme4's: estimates, residuals, predictions and what its summary holds", {
  skip_without_python()
  ours <- fit_cbpp()
  theirs <- glmer_cbpp()
  expect_s3_class(ours, c("glmerModNN", "merModNN"), exact = TRUE)
  expect_same_glmm(ours, theirs)
  for (type in c("deviance", "pearson", "working", "response")) {
    expect_equal(residuals(ours, type), residuals(theirs, type), tolerance = 1e-3, info = type)
  }
  new <- data.frame(period = factor(c(1, 4)), herd = c("3", "new"))
  for (type in c("link", "response")) {
    expect_equal(predict(ours, new, type = type, allow.new.levels = TRUE),
                 predict(theirs, new, type = type, allow.new.levels = TRUE), tolerance = 1e-3)
    expect_equal(predict(ours, new, type = type, re.form = NA), predict(theirs, new, type = type, re.form = NA),
                 tolerance = 1e-3)
  }
  expect_equal(confint(ours), confint(theirs, method = "Wald")[, ], tolerance = 1e-3)
  a <- summary(ours)
  b <- summary(theirs)
  for (part in c("methTitle", "isLmer", "useScale", "logLik", "family", "link", "ngrps", "coefficients", "sigma",
                 "varcor", "AICtab", "residuals")) {
    expect_equal(a[[part]], b[[part]], tolerance = 2e-3, info = part)
  }
  theirs@call$control <- NULL # so that it is not printed
  theirs@call$family <- NULL
  printed <- function(x) {
    lines <- sub("\\[glmerMod.*\\]", "", capture.output(print(x, digits = 2)))
    lines[!startsWith(lines, "optimizer")] # lme4's has a warning
  }
  expect_equal(printed(ours), printed(theirs))
  expect_equal(printed(a)[1:16], printed(summary(theirs))[1:16])
})

test_that("Python prints the same summary", {
  skip_without_python()
  data <- transform(cbpp, k = incidence, m = size - incidence, period = paste0("p", period))
  file <- tempfile(fileext = ".csv")
  utils::write.csv(data, file, row.names = FALSE)
  shown <- by_python(c(
    "fit = pylmernn.glmernn('cbind(k, m) ~ period + (1 | herd)', pd.read_csv(sys.argv[1]), nAGQ=3)",
    "print(json.dumps(str(fit.summary()).splitlines()))"
  ), file)
  fit <- glmernn(cbind(k, m) ~ period + (1 | herd), data, nAGQ = 3)
  of_r <- capture.output(print(summary(fit), signif.stars = TRUE))
  compared <- function(lines) { # without the title, which has the class, the name of the data and kinds of quotes
    lines <- lines[nzchar(lines) & !grepl("^(   Data|Signif)", lines)]
    lines[-(1:2)]
  }
  expect_gt(length(compared(shown)), 15L)
  expect_equal(compared(of_r), compared(shown))
})

test_that("quadrature finds lme4's estimates, and log-likelihoods of every nAGQ can be compared", {
  skip_without_python()
  nodes <- c(0L, 1L, 9L, 25L)
  fits <- lapply(nodes, function(k) fit_cbpp(nAGQ = k))
  values <- vapply(fits, logLik, 0)
  expect_equal(fixef(fits[[3L]]), fixef(glmer_cbpp(nAGQ = 9)), tolerance = 1e-3)
  expect_equal(fixef(fits[[1L]]), fixef(glmer_cbpp(nAGQ = 0)), tolerance = 1e-3)
  expect_equal(values[3L], values[4L], tolerance = 1e-5)
  expect_lt(abs(values[2L] - values[4L]), 0.1) # Laplace's error, not constants that one of them leaves out
  expect_match(capture.output(print(fits[[3L]]))[2L], "nAGQ = 9", fixed = TRUE)
})

test_that("crossed and observation-level Poisson effects and an offset are lme4's", {
  skip_without_python()
  grouseticks$h <- (grouseticks$HEIGHT - 460) / 50
  ours <- glmernn(TICKS ~ YEAR + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), grouseticks, "poisson")
  theirs <- by_glmer(TICKS ~ YEAR + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), grouseticks, poisson)
  expect_same_glmm(ours, theirs)
  shifted <- glmernn(TICKS ~ YEAR + offset(log(HEIGHT)) + (1 | BROOD), grouseticks, poisson())
  expect_same_glmm(shifted, by_glmer(TICKS ~ YEAR + offset(log(HEIGHT)) + (1 | BROOD), grouseticks, poisson))
  new <- grouseticks[1:4, ]
  doubled <- transform(new, HEIGHT = 2 * HEIGHT)
  expect_equal(predict(shifted, doubled, type = "response"), 2 * predict(shifted, new, type = "response"))
})

test_that("counts, proportions with weights, 0 and 1, factors and logicals are one likelihood", {
  skip_without_python()
  counted <- fit_cbpp()
  shares <- glmernn(incidence / size ~ period + (1 | herd), cbpp, weights = size)
  expect_equal(fixef(shares), fixef(counted), tolerance = 1e-8)
  expect_equal(logLik(shares), logLik(counted), tolerance = 1e-10)
  rows <- rep(seq_len(nrow(cbpp)), cbpp$size)
  long <- cbpp[rows, ]
  long$sick <- sequence(cbpp$size) <= long$incidence
  long$one <- as.integer(long$sick)
  long$state <- factor(ifelse(long$sick, "sick", "well"), levels = c("well", "sick"))
  one <- glmernn(one ~ period + (1 | herd), long)
  expect_equal(fixef(one), fixef(counted), tolerance = 1e-5)
  expect_identical(fixef(glmernn(sick ~ period + (1 | herd), long)), fixef(one))
  as_factor <- glmernn(state ~ period + (1 | herd), long)
  expect_identical(fixef(as_factor), fixef(one))
  expect_identical(levels(simulate(as_factor, seed = 1)[[1L]]), c("well", "sick"))
})

test_that("links are lme4's and families are given as R users give them", {
  skip_without_python()
  probit <- fit_cbpp(family = binomial("probit"))
  expect_equal(fixef(probit),
               fixef(by_glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial("probit"))),
               tolerance = 1e-3)
  expect_identical(fixef(fit_cbpp(family = "binomial(probit)")), fixef(probit))
  expect_identical(family(probit)$link, "probit")
  expect_identical(fixef(fit_cbpp(family = binomial())), fixef(fit_cbpp()))
})

test_that("Gamma, inverse Gaussian, negative binomial and beta fits have a dispersion and obey their families", {
  skip_without_python()
  formula <- Reaction ~ Days + (1 | Subject)
  fits <- list(glmernn(formula, sleepstudy, Gamma("log")), glmernn(formula, sleepstudy, inverse.gaussian("log")),
               glmernn(TICKS ~ YEAR + (1 | BROOD), grouseticks, "negative.binomial"),
               glmernn(angle / 100 ~ temp + (1 | recipe:replicate), cake, "beta"))
  for (fit in fits) {
    mu <- fitted(fit)
    y <- as.double(fit$frame[[1L]])
    expect_equal(attr(logLik(fit), "df"), length(fixef(fit)) + 2L)
    expect_equal(unname(residuals(fit, "pearson")), unname((y - mu) / sqrt(family(fit)$variance(mu))))
    expect_equal(unname(residuals(fit, "working")), unname((y - mu) / family(fit)$mu.eta(predict(fit))))
    expect_equal(predict(fit, type = "response"), mu)
    expect_equal(mean(as.matrix(simulate(fit, 50, seed = 1, re.form = NULL))), mean(mu), tolerance = 0.02)
    expect_error(as_merMod(fit), "as_merMod() takes binomial and Poisson models", fixed = TRUE)
  }
  expect_equal(sigma(fits[[1L]]), sqrt(fits[[1L]]$phi))
  expect_identical(as.data.frame(VarCorr(fits[[1L]]))$grp, c("Subject", "Residual"))
  expect_identical(sigma(fits[[3L]]), 1)
  # the density at the modes, by R: Laplace's approximation adds |u|^2 and the determinant to it
  gamma <- fits[[1L]]
  density <- sum(dgamma(sleepstudy$Reaction, 1 / gamma$phi, scale = fitted(gamma) * gamma$phi, log = TRUE))
  expect_equal(-2 * density + gamma$ussq + gamma$ldL2, gamma$objective, tolerance = 1e-8)
  counts <- fits[[3L]]
  density <- sum(dnbinom(grouseticks$TICKS, size = counts$phi, mu = fitted(counts), log = TRUE))
  expect_equal(-2 * density + counts$ussq + counts$ldL2, counts$objective, tolerance = 1e-8)
  shares <- fits[[4L]]
  mu <- fitted(shares)
  density <- sum(dbeta(cake$angle / 100, mu * shares$phi, (1 - mu) * shares$phi, log = TRUE))
  expect_equal(-2 * density + shares$ussq + shares$ldL2, shares$objective, tolerance = 1e-8)
  expect_match(capture.output(print(shares))[3L], "beta\\(.*\\)  \\( logit \\)")
})

test_that("inverse Gaussian draws have the mean and variance of the family", {
  set.seed(1)
  drawn <- pylmernn:::draw_inverse_gaussian(rep(2, 1e5), 3)
  expect_equal(mean(drawn), 2, tolerance = 0.02)
  expect_equal(var(drawn), 8 / 3, tolerance = 0.05)
})

test_that("tests, refits, simulations and updates are lme4's", {
  skip_without_python()
  ours <- fit_cbpp()
  theirs <- glmer_cbpp()
  less <- glmernn(cbind(incidence, size - incidence) ~ 1 + (1 | herd), cbpp)
  less_by_lme4 <- by_glmer(cbind(incidence, size - incidence) ~ 1 + (1 | herd), cbpp, binomial)
  expect_equal(anova(less, ours)$Chisq, anova(less_by_lme4, theirs)$Chisq, tolerance = 1e-4)
  expect_identical(rownames(anova(less, ours)), c("less", "ours"))
  fixed <- glm(cbind(incidence, size - incidence) ~ period, binomial, cbpp)
  expect_equal(anova(ours, fixed)$Chisq, anova(theirs, fixed)$Chisq, tolerance = 1e-3)
  expect_equal(anova(ours)[["F value"]], anova(theirs)[["F value"]], tolerance = 1e-3)
  expect_equal(drop1(ours, test = "Chisq")$LRT[2L], anova(less, ours)$Chisq[2L], tolerance = 1e-6)
  # lme4 has a rounding error more in its means, so a draw at a step of the distribution may differ
  drawn <- simulate(ours, 2, seed = 1)
  expect_equal(drawn$sim_1[, 1L], simulate(theirs, 2, seed = 1)$sim_1[, 1L], tolerance = 0.1)
  expect_equal(rowSums(drawn$sim_2), cbpp$size)
  expect_equal(fixef(refit(ours, drawn["sim_1"])), fixef(refit(theirs, drawn["sim_1"])), tolerance = 1e-2)
  expect_equal(fixef(update(ours, . ~ . - period)), fixef(less))
  expect_equal(nobs(update(ours, subset = period != "4")), sum(cbpp$period != "4"))
})

test_that("the glmerMod is lme4's own at the same parameters", {
  skip_without_python()
  fit <- fit_cbpp()
  made <- as_merMod(fit)
  expect_s4_class(made, "glmerMod")
  expect_equal(fixef(made), fixef(fit), tolerance = 1e-10)
  expect_equal(c(logLik(made)), c(logLik(fit)), tolerance = 1e-7)
  expect_equal(vcov(made), vcov(fit), tolerance = 1e-4)
  expect_equal(getME(made, "theta"), getME(fit, "theta"))
  expect_equal(ranef(made), ranef(fit), tolerance = 1e-5)
  expect_equal(fixef(refit(made, fit$frame[[1L]])), fixef(fit), tolerance = 1e-2)
  expect_equal(getME(fit, "RX"), getME(made, "RX"), tolerance = 1e-5, ignore_attr = TRUE)
  expect_equal(fixef(as_merMod(fit_cbpp(nAGQ = 9L))), fixef(fit_cbpp(nAGQ = 9L)), tolerance = 1e-10)
})

test_that("na.exclude pads, and a fit survives saveRDS without Python", {
  skip_without_python()
  holes <- replace(cbpp, "period", list(replace(cbpp$period, 5, NA)))
  fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), holes, na.action = na.exclude)
  expect_identical(unname(which(is.na(residuals(fit)))), 5L)
  expect_identical(nrow(simulate(fit, seed = 1)), nrow(holes))
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  again <- readRDS(file)
  expect_identical(predict(again, type = "response"), predict(fit, type = "response"))
  expect_identical(capture.output(summary(again)), capture.output(summary(fit)))
  expect_false(any(rapply(unclass(fit), function(x) inherits(x, "python.builtin.object"), how = "unlist")))
})

test_that("tables for the tidyverse have p values", {
  skip_without_python()
  skip_if_not_installed("generics")
  fit <- fit_cbpp()
  table <- as.data.frame(generics::tidy(fit, effects = "fixed"))
  expect_equal(table$p.value, unname(coef(summary(fit))[, "Pr(>|z|)"]))
  expect_equal(generics::glance(fit)$deviance, deviance(fit))
})

test_that("bad input to glmernn() is refused in one sentence", {
  refused <- function(code, message) {
    error <- expect_error(code, message, fixed = TRUE)
    expect_null(conditionCall(error))
    expect_no_match(conditionMessage(error), "\n", fixed = TRUE)
  }
  refused(fit_cbpp(REML = TRUE), "glmernn() has no argument 'REML'.")
  refused(fit_cbpp(nAGQ = 1.5), "nAGQ is 1.5: use a whole number, 0 or more.")
  refused(fit_cbpp(family = 3), "family must be a family such as binomial")
  refused(fit_cbpp(family = structure(list(family = "Negative Binomial(2)", link = "log"), class = "family")),
          "write family = \"negative.binomial\".")
  refused(fit_cbpp(family = poisson), "cbind() belongs to a binomial model")
  refused(glmernn(cbind(incidence, size, 1) ~ 1 + (1 | herd), cbpp), "has 3 columns: write cbind(successes, failures)")
  refused(glmernn(cbind(incidence, incidence - size) ~ 1 + (1 | herd), cbpp), "counts are whole numbers.")
  refused(glmernn(cbind(incidence, 0) ~ 1 + (1 | herd), cbpp), "rows without trials: leave them out with subset.")
  cbpp$same <- factor("a")
  refused(glmernn(same ~ 1 + (1 | herd), cbpp), "the response 'same' has one level, 'a': it needs two.")
  refused(glmernn(period ~ 1 + (1 | herd), cbpp, poisson), "of class 'factor': this family needs one numeric column.")
})

test_that("what only Python knows is refused in one sentence", {
  skip_without_python()
  refused <- function(code, message) {
    error <- expect_error(code, message, fixed = TRUE)
    expect_null(conditionCall(error))
  }
  refused(glmernn(size ~ 1 + (1 | herd), cbpp, "quasi"), "family 'quasi' is not known: use one of binomial, poisson,")
  refused(glmernn(size ~ 1 + (1 | herd), cbpp, gaussian), "family 'gaussian': use lmernn(), which fits linear")
  refused(fit_cbpp(family = binomial("log")), "the binomial family has no link 'log': use one of logit,")
  refused(fit_cbpp(control = list(probes = 3)), "control has no setting 'probes' for generalized models")
  refused(glmernn(incidence ~ 1 + (1 | herd), cbpp), "a binomial response is 0 or 1")
  refused(glmernn(incidence / size ~ 1 + (1 | herd), cbpp), "give the numbers of trials as weights.")
  refused(glmernn(size / 2 ~ 1 + (1 | herd), cbpp, poisson), "a Poisson response is a whole number, 0 or more.")
  refused(glmernn(incidence ~ 1 + (1 | herd), cbpp, Gamma("log")), "Gamma responses are positive.")
  refused(glmernn(TICKS ~ 1 + (1 | BROOD) + (1 | LOCATION), grouseticks, poisson, nAGQ = 9), "nAGQ")
  refused(glmernn(incidence ~ 1 + gp(size, incidence), cbpp, poisson), "glmernn fits bars such as (x | group) only")
})

test_that("standard errors are those of the working linear model, limits those of the link", {
  skip_without_python()
  fit <- fit_cbpp()
  new <- data.frame(period = c("1", "4"), herd = c("3", "new"))
  link <- predict(fit, new, allow.new.levels = TRUE, se.fit = TRUE)
  # given its modes the model is linear: Henderson's equations with the weights n p (1 - p)
  X <- model.matrix(fit)
  Z <- as.matrix(getME(fit, "Z"))
  w <- cbpp$size * fitted(fit) * (1 - fitted(fit))
  D <- diag(1 / VarCorr(fit)$herd[1L], ncol(Z))
  W <- cbind(X, Z)
  C <- solve(crossprod(W, w * W) + as.matrix(Matrix::bdiag(matrix(0, 4, 4), D)))
  row <- c(1, 0, 0, 0, as.double(levels(cbpp$herd) == "3"))
  expect_equal(link$se.fit[["1"]], sqrt(drop(row %*% C %*% row)), tolerance = 1e-5)
  unseen <- c(1, 0, 0, 1)
  expect_equal(link$se.fit[["2"]], sqrt(drop(unseen %*% C[1:4, 1:4] %*% unseen) + VarCorr(fit)$herd[1L]),
               tolerance = 1e-5)
  means <- predict(fit, new, type = "response", allow.new.levels = TRUE, se.fit = TRUE, interval = "confidence")
  p <- plogis(link$fit)
  expect_equal(means$fit[, "fit"], p)
  expect_equal(means$se.fit, link$se.fit * p * (1 - p))
  expect_equal(means$fit[, "upr"], plogis(link$fit + qnorm(0.975) * link$se.fit))
  drawn <- predict(fit, type = "response", interval = "prediction", level = 0.8)
  share <- cbpp$incidence / cbpp$size
  expect_gt(mean(share >= drawn[, "lwr"] & share <= drawn[, "upr"]), 0.75)
  expect_identical(predict(fit, type = "response", interval = TRUE), predict(fit, type = "response", interval = TRUE))
  expect_error(predict(fit, new[1L, ], type = "response", interval = TRUE), "which no interval tells")
  expect_error(predict(fit, interval = TRUE), "a new response is on its own scale")
  expect_error(predict(fit, type = "prob", se.fit = TRUE), "offered for type = \"link\" and \"response\" only")
})

test_that("probabilities have a column for each class, also averaged over unseen levels", {
  skip_without_python()
  fit <- fit_cbpp()
  P <- predict(fit, type = "prob")
  expect_identical(colnames(P), c("0", "1"))
  expect_equal(P[, "1"], fitted(fit))
  expect_identical(predict(fit, type = "class")[["1"]], factor("0", c("0", "1")))
  new <- data.frame(period = "1", herd = "new")
  sd <- attr(VarCorr(fit)$herd, "stddev")
  wanted <- integrate(function(b) plogis(fixef(fit)[[1L]] + b) * dnorm(b, 0, sd), -Inf, Inf, rel.tol = 1e-10)$value
  found <- predict(fit, new, type = "response", allow.new.levels = TRUE, marginal = TRUE)
  expect_equal(found[["1"]], wanted, tolerance = 1e-8)
  cbpp$state <- factor(ifelse(cbpp$incidence > 0, "sick", "well"), c("well", "sick"))
  named <- glmernn(state ~ period + (1 | herd), cbpp)
  expect_identical(colnames(predict(named, type = "prob")), c("well", "sick"))
})

test_that("verbs of linear models stop for generalized ones", {
  skip_without_python()
  fit <- fit_cbpp()
  expect_error(REMLcrit(fit), "is offered for linear mixed models only: use logLik().", fixed = TRUE)
  for (verb in c("profile", "influence", "hatvalues", "cooks.distance", "rstudent")) {
    expect_error(match.fun(verb)(fit), paste0(verb, "() is offered for linear mixed models only"), fixed = TRUE)
  }
  expect_error(confint(fit, method = "profile"), "or confint(as_merMod(fit), method = \"profile\").", fixed = TRUE)
  expect_error(refit(fit, cbpp$incidence), "the new response has 1 columns but that of the fit has 2.", fixed = TRUE)
  expect_error(refit(fit, matrix(1, 3, 2)), "the new response has 3 values but the model has 56 rows.", fixed = TRUE)
  counts <- glmernn(incidence ~ period + (1 | herd), cbpp, poisson)
  expect_error(anova(fit, counts), "likelihoods of a binomial model and a poisson model cannot be compared: fit and",
               fixed = TRUE)
  expect_error(anova(fit, glmer_cbpp(nAGQ = 9)), "fit those models by glmernn().", fixed = TRUE)
})
