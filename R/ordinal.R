# Ordinal responses: cumulative logits, P(y <= k) = logistic(threshold_k - eta).

#' Ordinal models
#'
#' `glmernn(family = "ordinal")` fits the cumulative logit model of an ordered factor (McCullagh 1980):
#' `P(y <= k) = plogis(threshold_k - eta)`, where `eta` is the linear predictor with its random effects and networks. A
#' larger `eta` means a higher class. The thresholds stand for the intercept, so the model has none.
#'
#' `thresholds()` gives the thresholds. `fitted()` and `predict(type = "response")` give the probabilities of the
#' classes, one column each; `predict(type = "class")` the most likely one. Residuals are those of the codes 0, 1, ...
#' of the classes, but `"deviance"`, whose squares sum to -2 times the log-density at the conditional modes. All other
#' verbs are those of [generalized] models.
#'
#' @param object A fit by `glmernn(family = "ordinal")`.
#' @param ... Nothing.
#' @return `thresholds()` a named vector, `"low|high"` from its lower to its upper class; `fitted()` a matrix, rows by
#'   classes.
#' @name ordinal
#' @examplesIf pylmernn::python_ready()
#' set.seed(1)
#' d <- data.frame(x = rnorm(300), g = gl(15, 20))
#' latent <- d$x + rnorm(15)[d$g] + rlogis(300)
#' d$y <- cut(latent, c(-Inf, -1, 1, Inf), c("low", "middle", "high"), ordered_result = TRUE)
#' fit <- glmernn(y ~ x + (1 | g), d, family = "ordinal")
#' summary(fit)
#' thresholds(fit)
#' head(predict(fit, type = "response"))
NULL

#' @rdname ordinal
#' @export
thresholds <- function(object, ...) UseMethod("thresholds")

#' @rdname ordinal
#' @export
thresholds.glmerModNN <- function(object, ...) {
  if (!is_ordinal(object)) {
    stop(sprintf("a %s model has no thresholds: they are of ordinal models.", object$family$family), call. = FALSE)
  }
  classes <- response_names(object)
  stats::setNames(object$phi, paste(classes[-length(classes)], classes[-1L], sep = "|"))
}

# Thresholds with standard errors, for the summary.
threshold_table <- function(object) {
  estimate <- thresholds(object)
  se <- sqrt(diag(object$threshold_vcov))
  cbind(Estimate = estimate, "Std. Error" = se, "z value" = estimate / se)
}

# A family as R has them: its mean is that of the codes 0, 1, ... of the classes.
ordinal_family <- function(thresholds) {
  probabilities <- function(eta) {
    cuts <- c(-Inf, thresholds, Inf)
    upper <- outer(-as.vector(eta), cuts[-1L], `+`)
    lower <- outer(-as.vector(eta), cuts[-length(cuts)], `+`)
    # F(u) - F(l) = F(u) F(-l) (1 - exp(l - u)), which loses no digits
    stats::plogis(upper) * stats::plogis(-lower) * -expm1(lower - upper)
  }
  structure(
    list(family = "ordinal", link = "logit", probabilities = probabilities,
         linkinv = function(eta) as.vector(probabilities(eta) %*% seq(0, length(thresholds)))),
    class = "family"
  )
}

#' @rdname ordinal
#' @export
fitted.glmerModNN <- function(object, ...) {
  if (!is_ordinal(object)) {
    return(fitted.merModNN(object, ...))
  }
  probabilities <- object$family$probabilities(linear_predictor(object))
  dimnames(probabilities) <- list(row.names(object$frame), response_names(object))
  stats::napredict(attr(object$frame, "na.action"), probabilities)
}

# Residuals of the codes of the classes; `residual` is code less mean code.
code_residuals <- function(object, residual, type) {
  eta <- linear_predictor(object)
  P <- object$family$probabilities(eta)
  y <- response_values(object)
  weights <- row_weights(object)
  own <- cbind(seq_along(y), y + 1)
  switch(
    type,
    response = residual,
    pearson = sign(residual) * sqrt(weights * (1 / P[own] - 1) / (ncol(P) - 1)),
    deviance = sign(residual) * sqrt(pmax(-2 * weights * log(P[own]), 0)),
    working = {
      cuts <- c(-Inf, object$phi, Inf)
      upper <- cuts[y + 2] - eta
      lower <- cuts[y + 1] - eta
      score <- stats::plogis(lower) - stats::plogis(-upper)
      stats::setNames(score / (stats::dlogis(upper) + stats::dlogis(lower)), names(residual))
    }
  )
}
