# What verbs answer for generalized models where that differs from linear ones.

#' Verbs of generalized models
#'
#' All verbs of [lmernn()]'s fits that are not listed here work on those of [glmernn()] too.
#'
#' Fitted values are means; `predict()` gives the linear predictor unless asked otherwise, as in lme4. `sigma()` is the
#' root of the dispersion of Gamma and inverse Gaussian models and 1 for the others. `logLik()` has all its constants;
#' `deviance()` is the sum of the squared deviance residuals, not -2 log-likelihood, as in lme4. `simulate()` draws
#' binomial responses in the form of the response of the fit; for `newdata`, whose numbers of trials are not known, as
#' 0 and 1. `hatvalues()`, `cooks.distance()`, `rstudent()`, `influence()`, `profile()`, `REMLcrit()`, standard errors
#' of predictions and `augment()` are for linear models only and stop.
#'
#' @param object,x,fitted,model A fit by [glmernn()].
#' @param type Of residuals: `"deviance"`, `"pearson"`, `"working"` or `"response"`; of predictions: `"link"` or
#'   `"response"`.
#' @param scaled Whether to divide by sigma.
#' @param newdata,re.form,random.only,allow.new.levels,na.action As in [predict.merModNN()].
#' @param se.fit,interval Not offered.
#' @param sigma A factor for the standard deviations.
#' @param correlation As in [vcov.merModNN()].
#' @param use.hessian Whether the covariance comes from the curvature of the log-likelihood in all parameters, as by
#'   default, or takes the variances of the random effects as known. After `nAGQ = 0` it is always the latter.
#' @param parm,level,oldNames As in [confint.merModNN()].
#' @param method `"Wald"`; profiles and the bootstrap come from [as_merMod()].
#' @param refit,model.names As in [anova.merModNN()].
#' @param newresp The new response, in the form of the first: a matrix of two columns for `cbind()`.
#' @param ... As in the methods for linear models.
#' @return As for linear models.
#' @name generalized
#' @examplesIf pylmernn::python_ready()
#' data("cbpp", package = "lme4")
#' fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp)
#' anova(update(fit, . ~ . - period), fit)
#' confint(fit)
#' head(residuals(fit, "pearson"))
#' predict(fit, data.frame(period = "1", herd = "new"), type = "response", allow.new.levels = TRUE)
NULL

# Whether the dispersion multiplies the variance, so that its root is a standard deviation of sorts.
has_scale <- function(object) object$family$family %in% c("Gamma", "inverse.gaussian")

only_linear <- function(what, instead) {
  stop(sprintf("%s is offered for linear mixed models only: %s.", what, instead), call. = FALSE)
}

generalized_residuals <- function(object, residual, mu, type) {
  family <- object$family
  switch(
    type,
    response = residual,
    working = residual / family$mu.eta(linear_predictor(object)),
    pearson = residual * sqrt(row_weights(object) / family$variance(mu)),
    deviance = {
      squares <- family$dev.resids(response_values(object), unname(mu), row_weights(object))
      sign(residual) * sqrt(pmax(squares, 0))
    }
  )
}

#' @rdname generalized
#' @export
residuals.glmerModNN <- function(object, type = c("deviance", "pearson", "working", "response"), scaled = FALSE, ...) {
  residuals.merModNN(object, match.arg(type), scaled)
}

#' @rdname generalized
#' @export
predict.glmerModNN <- function(object, newdata = NULL, re.form = NULL, random.only = FALSE, allow.new.levels = FALSE,
                               na.action = stats::na.pass, type = c("link", "response"), se.fit = FALSE,
                               interval = "none", ...) {
  if (!isFALSE(se.fit) || !(isFALSE(interval) || identical(interval, "none"))) {
    only_linear("predict() with se.fit or interval", "draw with simulate()")
  }
  type <- match.arg(type)
  eta <- predict.merModNN(object, newdata, re.form, random.only, allow.new.levels, na.action, ...)
  if (type == "link") {
    return(eta)
  }
  eta[] <- object$family$linkinv(eta)
  eta
}

#' @rdname generalized
#' @export
sigma.glmerModNN <- function(object, ...) if (has_scale(object)) sqrt(object$phi) else 1

#' @rdname generalized
#' @export
VarCorr.glmerModNN <- function(x, sigma = 1, ...) {
  result <- VarCorr.merModNN(x, sigma)
  attr(result, "sc") <- sigma(x) * sigma
  attr(result, "useSc") <- has_scale(x)
  result
}

#' @rdname generalized
#' @export
vcov.glmerModNN <- function(object, correlation = TRUE, use.hessian = TRUE, ...) {
  if (!use.hessian) object$unscaled_vcov <- object$given_vcov
  vcov.merModNN(object, correlation)
}

#' @rdname generalized
#' @export
logLik.glmerModNN <- function(object, ...) {
  n <- nobs(object)
  df <- length(object$beta) + length(object$theta) + object$has_dispersion
  structure(-object$objective / 2, nobs = n, nall = n, df = df, class = "logLik")
}

#' @rdname generalized
#' @export
deviance.glmerModNN <- function(object, ...) sum(residual_rows(object, "deviance")^2)

#' @rdname generalized
#' @export
df.residual.glmerModNN <- function(object, ...) nobs(object) - attr(logLik(object), "df")

#' @rdname generalized
#' @export
summary.glmerModNN <- function(object, correlation = length(object$beta) <= 20L, ...) {
  result <- summary.merModNN(object, correlation, ...)
  table <- result$coefficients
  if (nrow(table)) {
    if (!has_scale(object)) colnames(table)[3L] <- "z value"
    table <- cbind(table, "Pr(>|z|)" = 2 * stats::pnorm(-abs(table[, 3L])))
  }
  changed <- list(isLmer = FALSE, useScale = has_scale(object), family = object$family$family,
                  link = object$family$link, coefficients = table, sigma = sigma(object))
  result[names(changed)] <- changed
  result
}

# lme4's devcomp of a generalized model.
generalized_components <- function(object) {
  n <- nobs(object)
  p <- length(object$beta)
  scale <- sigma(object)
  list(
    cmp = c(
      ldL2 = object$ldL2, ldRX2 = object$ldRX2, wrss = object$wrss, ussq = object$ussq, pwrss = object$pwrss,
      drsum = deviance(object), REML = NA, dev = object$objective,
      sigmaML = if (has_scale(object)) scale else NA, sigmaREML = NA
    ),
    dims = c(
      N = n, n = n, p = p, nmp = n - p, q = sum(lengths(object$b)), nth = length(object$theta),
      useSc = as.integer(has_scale(object)), reTrms = n_terms(object), spFe = 0L, nAGQ = object$nAGQ, REML = 0L,
      GLMM = 1L, NLMM = 0L
    )
  )
}

#' @rdname generalized
#' @export
confint.glmerModNN <- function(object, parm, level = 0.95, method = c("Wald", "profile", "boot"), oldNames = TRUE,
                               ...) {
  method <- match.arg(method)
  if (method != "Wald") {
    only_linear(sprintf("confint(method = \"%s\")", method),
                sprintf("use method = \"Wald\", or confint(as_merMod(fit), method = \"%s\")", method))
  }
  last <- length(variance_labels(object, oldNames)) # sigma is no parameter of its own here
  limits <- confint.merModNN(object, level = level, method = "Wald", oldNames = oldNames)[-last, , drop = FALSE]
  limits[chosen_parameters(parm, rownames(limits), last - 1L), , drop = FALSE]
}

#' @rdname generalized
#' @export
anova.glmerModNN <- function(object, ..., refit = TRUE, model.names = NULL) {
  quadrature <- vapply(list(...), function(one) {
    inherits(one, "glmerMod") && getME(one, "devcomp")$dims[["nAGQ"]] > 1L
  }, NA)
  if (any(quadrature)) {
    stop("the log-likelihoods of lme4's fits with nAGQ > 1 leave constants out: fit those models by glmernn().",
         call. = FALSE)
  }
  if (is.null(model.names) && ...length()) {
    written <- as.list(match.call(expand.dots = FALSE)$...)
    model.names <- vapply(c(match.call()$object, written), deparse1, "")
    if (anyDuplicated(model.names) || max(nchar(model.names)) > 200L) model.names <- NULL
  }
  anova.merModNN(object, ..., refit = refit, model.names = model.names)
}

#' @rdname generalized
#' @export
refit.glmerModNN <- function(object, newresp = NULL, ...) {
  if (is.list(newresp)) {
    if (length(newresp) != 1L) {
      stop(sprintf("refit() takes one response, not %d: call it once for each.", length(newresp)), call. = FALSE)
    }
    newresp <- newresp[[1L]]
  }
  fit <- estimate(model_of(object, y = same_form(object, newresp)), object$settings)
  fit$call <- object$call
  report_fit(fit)
  fit
}

# A new response in the form of the old one, without the rows that na.exclude left out.
same_form <- function(object, newresp) {
  if (is.null(newresp)) {
    return(NULL)
  }
  n <- nrow(object$frame)
  omitted <- attr(object$frame, "na.action")
  whole <- !is.null(omitted) && NROW(newresp) == n + length(omitted)
  if (whole) newresp <- if (is.matrix(newresp)) newresp[-omitted, , drop = FALSE] else newresp[-omitted]
  if (NROW(newresp) != n) {
    stop(sprintf("the new response has %d values but the model has %d rows.", NROW(newresp), n), call. = FALSE)
  }
  if (NCOL(newresp) != NCOL(object$frame[[1L]])) {
    stop(sprintf("the new response has %d columns but that of the fit has %d.", NCOL(newresp),
                 NCOL(object$frame[[1L]])), call. = FALSE)
  }
  newresp
}

# New responses given linear predictors (n x nsim): of a binomial model the numbers of successes.
draw_family <- function(object, eta, weights) {
  mu <- object$family$linkinv(eta)
  size <- length(mu)
  phi <- object$phi
  drawn <- switch(
    sub("\\(.*", "", object$family$family),
    binomial = stats::rbinom(size, weights, mu),
    poisson = stats::rpois(size, mu),
    Gamma = stats::rgamma(size, weights / phi, scale = mu * phi / weights),
    inverse.gaussian = draw_inverse_gaussian(mu, weights / phi),
    negative.binomial = stats::rnbinom(size, size = phi, mu = mu),
    beta = stats::rbeta(size, mu * phi, (1 - mu) * phi)
  )
  matrix(drawn, nrow(eta))
}

# By a root of a quadratic in a squared normal number (Michael, Schucany and Haas 1976).
draw_inverse_gaussian <- function(mu, lambda) {
  v <- mu * stats::rnorm(length(mu))^2
  root <- mu * (1 + (v - sqrt(v * (4 * lambda + v))) / (2 * lambda))
  ifelse(stats::runif(length(mu)) <= mu / (mu + root), root, mu^2 / root)
}

# Drawn responses of one simulation in the form of the response of the fit; `trials` is NULL for new data.
like_response <- function(values, object, trials) {
  if (object$family$family != "binomial" || is.null(trials)) {
    return(values)
  }
  y <- object$frame[[1L]]
  if (is.factor(y)) {
    return(factor(levels(y)[1L + (values > 0)], levels(y)))
  }
  if (NCOL(y) == 2L) {
    return(matrix(c(values, trials - values), ncol = 2L, dimnames = list(NULL, colnames(y))))
  }
  values / trials
}

#' @rdname generalized
#' @export
REMLcrit.glmerModNN <- function(object) only_linear("REMLcrit()", "use logLik()")

#' @rdname generalized
#' @export
profile.glmerModNN <- function(fitted, ...) only_linear("profile()", "use confint(method = \"Wald\")")

#' @rdname generalized
#' @export
influence.glmerModNN <- function(model, ...) only_linear("influence()", "refit with update(subset = )")

#' @rdname generalized
#' @export
hatvalues.glmerModNN <- function(model, ...) only_linear("hatvalues()", "look at residuals(type = \"pearson\")")

#' @rdname generalized
#' @export
cooks.distance.glmerModNN <- function(model, ...) {
  only_linear("cooks.distance()", "look at residuals(type = \"pearson\")")
}

#' @rdname generalized
#' @export
rstudent.glmerModNN <- function(model, ...) only_linear("rstudent()", "look at residuals(type = \"pearson\")")
