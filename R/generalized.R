# What verbs answer for generalized models where that differs from linear ones.

#' Verbs of generalized models
#'
#' All verbs of [lmernn()]'s fits that are not listed here work on those of [glmernn()] too.
#'
#' Fitted values are means. `sigma()` is the root of the dispersion of Gamma and inverse Gaussian models and 1 for the
#' others. `logLik()` has all its constants; `deviance()` is the sum of the squared deviance residuals, not
#' -2 log-likelihood, as in lme4. `simulate()` draws binomial responses in the form of the response of the fit; for
#' `newdata`, whose numbers of trials are not known, as 0 and 1. `hatvalues()`, `cooks.distance()`, `rstudent()`,
#' `influence()`, `profile()`, `REMLcrit()` and `augment()` are for linear models only and stop.
#'
#' With networks, `refit()` keeps them and estimates the rest again.
#'
#' @param object,x,fitted,model A fit by [glmernn()].
#' @param type `"deviance"`, `"pearson"`, `"working"` or `"response"`.
#' @param scaled Whether to divide by sigma.
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
#' @seealso [predict.glmerModNN()]
#' @name generalized
#' @examplesIf pylmernn::python_ready()
#' data("cbpp", package = "lme4")
#' fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp)
#' anova(update(fit, . ~ . - period), fit)
#' confint(fit)
#' head(residuals(fit, "pearson"))
NULL

is_ordinal <- function(object) identical(object$family$family, "ordinal")

# Whether the dispersion multiplies the variance, so that its root is a standard deviation of sorts.
has_scale <- function(object) object$family$family %in% c("Gamma", "inverse.gaussian")

only_linear <- function(what, instead) {
  stop(sprintf("%s is offered for linear mixed models only: %s.", what, instead), call. = FALSE)
}

generalized_residuals <- function(object, residual, mu, type) {
  if (is_ordinal(object)) {
    return(code_residuals(object, residual, type))
  }
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
  df <- length(object$beta) + length(object$theta) + object$has_dispersion * length(object$phi)
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
                  link = object$family$link, coefficients = table, sigma = sigma(object),
                  sampling = sampling_lines(object$draws), thresholds = if (is_ordinal(object)) threshold_table(object))
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
  newresp <- single_response(newresp)
  fit <- estimate(model_of(object, y = same_form(object, newresp)), refit_settings(object))
  fit$networks <- object$networks # kept as they are: their part of the mean is in the offset
  fit$method <- object$method
  fit$call <- object$call
  report_fit(fit)
  fit
}

# Settings for the same model given its networks, which stand in the offset.
refit_settings <- function(object) {
  settings <- object$settings
  if (!is.null(object$networks)) settings$method <- if (object$method == "mcem") "mcem" else "auto"
  settings$nAGQ <- object$nAGQ # a method may have chosen it
  settings
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
