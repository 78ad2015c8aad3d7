# Likelihood, sizes and what kind of model it is.

#' Likelihood, information criteria and sizes
#'
#' With lme4's meaning: `logLik()` of a REML fit is the restricted likelihood; `deviance()` of a REML fit warns and
#' gives the criterion, unless `REML = FALSE`.
#'
#' @param object,fit,x A fit by [lmernn()]; for `isSingular()` and `REMLcrit()` also a fit by lme4.
#' @param REML Whether the restricted or the full likelihood is wanted; by default the one that was fitted.
#' @param scale Not used.
#' @param k The penalty for a parameter.
#' @param tol A relative standard deviation or Cholesky diagonal below this is singular.
#' @param ... Ignored.
#' @return Numbers; `isSingular()` and its kin `TRUE` or `FALSE`.
#' @name likelihood
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' logLik(fit)
#' REMLcrit(fit)
NULL

#' @rdname likelihood
#' @export
logLik.merModNN <- function(object, REML = NULL, ...) {
  if (is.null(REML)) REML <- object$REML
  n <- nrow(object$frame)
  structure(
    -criterion(object, REML) / 2,
    nobs = n, nall = n, df = length(object$beta) + length(object$theta) + 1L, class = "logLik"
  )
}

# The REML criterion or -2 log-likelihood at the estimated theta, whichever was fitted (Bates et al. 2015, eq. 39, 42).
criterion <- function(object, REML) {
  if (isTRUE(REML) == object$REML) {
    return(object$objective)
  }
  if (inherits(object, "varyingModNN")) {
    not_varying(if (REML) "the REML criterion of an ML fit" else "the likelihood of a REML fit",
                "train again by update() with the other REML")
  }
  n <- nrow(object$frame)
  df <- if (REML) n - length(object$beta) else n
  weights <- stats::model.weights(object$frame)
  object$ldL2 + (if (REML) object$ldRX2 else 0) + df * (1 + log(2 * pi * object$pwrss / df)) -
    (if (is.null(weights)) 0 else sum(log(weights)))
}

#' @rdname likelihood
#' @export
deviance.merModNN <- function(object, REML = NULL, ...) {
  if (is.null(REML)) {
    if (object$REML) {
      warning("deviance() of a REML fit is the REML criterion: use REMLcrit(), or deviance(REML = FALSE).",
              call. = FALSE)
    }
    REML <- object$REML
  }
  criterion(object, REML)
}

#' @rdname likelihood
#' @export
REMLcrit <- function(object) UseMethod("REMLcrit")

#' @export
REMLcrit.default <- function(object) lme4::REMLcrit(object)

#' @rdname likelihood
#' @export
REMLcrit.merModNN <- function(object) criterion(object, TRUE)

#' @rdname likelihood
#' @export
extractAIC.merModNN <- function(fit, scale = 0, k = 2, ...) {
  if (fit$REML) fit <- refitML(fit)
  likelihood <- logLik(fit)
  edf <- attr(likelihood, "df")
  c(edf, -2 * c(likelihood) + k * edf)
}

#' @rdname likelihood
#' @export
df.residual.merModNN <- function(object, ...) nobs(object) - length(object$beta) - length(object$theta) - 1L

#' @rdname likelihood
#' @export
nobs.merModNN <- function(object, ...) nrow(object$frame)

#' @rdname likelihood
#' @export
isREML.merModNN <- function(x, ...) x$REML

#' @rdname likelihood
#' @export
isLMM.merModNN <- function(x, ...) is.null(x$family)

#' @rdname likelihood
#' @export
isGLMM.merModNN <- function(x, ...) !is.null(x$family)

#' @rdname likelihood
#' @export
isNLMM.merModNN <- function(x, ...) FALSE

#' @rdname likelihood
#' @export
isSingular <- function(x, tol = 1e-4, ...) UseMethod("isSingular")

#' @export
isSingular.default <- function(x, tol = 1e-4, ...) lme4::isSingular(x, tol = tol)

#' @rdname likelihood
#' @export
isSingular.merModNN <- function(x, tol = 1e-4, ...) {
  at_end <- any(is_field(x)) && isTRUE(x$singular) # a length-scale at the end of its range has no bound in theta
  any(x$theta[theta_on_diagonal(x)] < tol) || at_end
}

#' @rdname likelihood
#' @export
family.merModNN <- function(object, ...) if (isGLMM(object)) object$family else stats::gaussian()
