# Generalized models whose network varies by several bars: what differs from linear ones.

# Means of the response at linear predictors, shaped as the type asks: over draws of the effects of levels that are not
# known, and of bars of the network that take no part, where an average is wanted.
several_responses <- function(object, eta, rows, taken, type, average, seed) {
  values <- if (average > 0) {
    several_averages(object, rows, taken, average, seed)
  } else {
    varying_means(object, eta, rows$names)
  }
  missing <- is.na(eta)
  if (is.matrix(values)) values[missing, ] <- NA_real_ else values[missing] <- NA_real_
  shaped_means(object, values, rows, type)
}

# The averages of several_responses(), from Python.
several_averages <- function(object, rows, taken, average, seed) {
  n <- nrow(rows$inputs)
  used <- vapply(taken$include, any, NA)
  known <- function(own, wanted) if (wanted) replace(own, is.na(own), 0L) - 1L else rep(-1L, n)
  codes <- c(Map(known, rows$levels, taken$varying), Map(known, rows$codes, used))
  columns <- Map(function(own, keep) {
    if (any(keep)) sweep(own, 2L, as.numeric(keep), `*`) else matrix(0, n, length(keep))
  }, rows$columns, taken$include)
  sent <- send_several_fit(object)
  meta <- c(sent$meta, list(rows = n, width = ncol(rows$inputs), average = as.integer(average),
                            seed = as.integer(seed)))
  buffers <- c(sent$buffers, unlist(lapply(unname(codes), as_buffers), recursive = FALSE),
               unlist(lapply(unname(columns), as_buffers), recursive = FALSE), as_buffers(rows$inputs),
               as_buffers(rows$fixed))
  means <- per_class(call_python("several_averages", meta, buffers, sent$modules)$arrays$means,
                     if (has_classes(object)) length(response_names(object)) else 1L)
  if (is.matrix(means)) {
    structure(means, dimnames = list(rows$names, response_names(object)))
  } else {
    stats::setNames(means, rows$names)
  }
}

# What new rows respond, as rseveral.py reads it: numbers less `fixed`, or responses, their weights and `fixed`.
responses_sent <- function(object, y, weights, fixed) {
  if (!isGLMM(object)) {
    return(as_buffers(y - fixed))
  }
  if (is.null(weights)) weights <- rep(1, length(y))
  c(as_buffers(y), as_buffers(as.double(weights)), as_buffers(fixed))
}
