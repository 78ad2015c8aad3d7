# Generalized models with networks that vary by group: what differs from linear ones.

#' @rdname varying
#' @export
residuals.glmerVaryingModNN <- function(object, type = c("deviance", "pearson", "working", "response"), ...) {
  if (has_classes(object)) {
    stop("a response of several classes has no residuals: look at fitted() or predict(type = \"prob\").", call. = FALSE)
  }
  residuals.merModNN(object, match.arg(type))
}

#' @rdname varying
#' @export
thresholds.glmerVaryingModNN <- function(object, ...) thresholds.glmerModNN(object)
