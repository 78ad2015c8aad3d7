# Fitted values and residuals, and what the model was fitted to.

#' Fitted values, residuals and the parts of a model
#'
#' @param object,x,formula A fit by [lmernn()].
#' @param type `"response"` (y less fitted values), `"pearson"` or `"deviance"` (times the square root of the weights)
#'   or `"working"` (as `"response"`).
#' @param scaled Whether to divide by sigma.
#' @param fixed.only,random.only Which part of the formula, terms, frame or matrix is wanted. `model.matrix()` takes
#'   `type = "fixed"` or `"random"`.
#' @param ... Ignored.
#' @return As in lme4. With `na.action = na.exclude`, fitted values and residuals have `NA` for the rows left out.
#' @name parts
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' head(residuals(fit, "pearson", scaled = TRUE))
#' formula(fit, fixed.only = TRUE)
NULL

#' @rdname parts
#' @export
fitted.merModNN <- function(object, ...) {
  stats::napredict(attr(object$frame, "na.action"), fitted_rows(object))
}

# Fitted values of the rows that were used, named by row; means where the model is generalized.
fitted_rows <- function(object) {
  if (inherits(object, "varyingModNN")) {
    return(varying_means(object, object$fitted, row.names(object$frame)))
  }
  eta <- linear_predictor(object)
  stats::setNames(if (isGLMM(object)) object$family$linkinv(eta) else eta, row.names(object$frame))
}

linear_predictor <- function(object) {
  if (inherits(object, "varyingModNN")) object$fitted else fixed_predictor(object) + random_predictor(object)
}

# X beta + offset.
fixed_predictor <- function(object) {
  offset <- stats::model.offset(object$frame)
  eta <- as.vector(fixed_matrix(object) %*% object$beta)
  if (is.null(offset)) eta else eta + offset
}

# Sum of Z b over the terms; `include` has one logical vector (one entry a column) for each term.
random_predictor <- function(object, include = NULL) {
  eta <- numeric(nrow(object$frame))
  factors <- term_factors(object)
  for (k in seq_len(n_terms(object))) {
    used <- if (is.null(include)) rep(TRUE, length(object$cnms[[k]])) else include[[k]]
    eta <- eta + modes_at(object, k, as.integer(factors[[k]]), function() term_columns(object, k), used)
  }
  eta
}

# z' b of term k for the given codes; `columns()` gives the rows of z.
modes_at <- function(object, k, codes, columns, used) {
  if (!any(used)) {
    return(numeric(length(codes)))
  }
  b <- object$b[[k]]
  if (is.null(object$bars[[k]]$part$terms)) {
    return(b[1L, codes])
  }
  z <- columns()
  total <- numeric(length(codes))
  for (j in which(used)) total <- total + z[, j] * b[j, codes]
  unname(total)
}

#' @rdname parts
#' @export
residuals.merModNN <- function(object, type = c("response", "pearson", "deviance", "working"), scaled = FALSE, ...) {
  residual <- residual_rows(object, match.arg(type))
  if (scaled) residual <- residual / sigma(object)
  stats::naresid(attr(object$frame, "na.action"), residual)
}

# Residuals of the rows that were used, named by row.
residual_rows <- function(object, type) {
  fitted <- fitted_rows(object)
  residual <- response_values(object) - fitted
  if (isGLMM(object)) {
    return(generalized_residuals(object, residual, fitted, type))
  }
  if (type %in% c("pearson", "deviance")) residual * sqrt(row_weights(object)) else residual
}

# The response as numbers: of a binomial model the proportion of successes.
response_values <- function(object) observed_in(object$frame, object$settings$family)$y

# Prior weights: of a binomial model the numbers of trials.
row_weights <- function(object) {
  weights <- observed_in(object$frame, object$settings$family)$weights
  if (is.null(weights)) rep(1, nrow(object$frame)) else weights
}

#' @rdname parts
#' @export
weights.merModNN <- function(object, ...) row_weights(object)

#' @rdname parts
#' @export
formula.merModNN <- function(x, fixed.only = FALSE, random.only = FALSE, ...) {
  if (fixed.only && random.only) {
    stop("only one of fixed.only and random.only may be TRUE.", call. = FALSE)
  }
  result <- x$formula
  if (fixed.only) {
    rest <- without_bars(replace_networks(result[[3L]]))
    result[[3L]] <- if (is.null(rest)) 1 else rest
  }
  if (random.only) {
    bars <- if (length(x$varying)) {
      c(x$varying, x$bars)
    } else {
      unlist(lapply(collect_bars(result[[3L]]), expand_bar), recursive = FALSE)
    }
    result[[3L]] <- Reduce(function(a, b) call("+", a, b), lapply(bars, written_bar))
  }
  result
}

# A random term as it stands in a formula.
written_bar <- function(bar) {
  inside <- if (is_located(bar)) as.list(bar$group)[-1L] else list(call("|", bar$columns, bar$group))
  as.call(c(as.name(if (bar$covariance == "us") "(" else bar$covariance), inside, bar$options))
}

#' @rdname parts
#' @export
terms.merModNN <- function(x, fixed.only = TRUE, random.only = FALSE, ...) {
  if (random.only) {
    random <- formula(x, random.only = TRUE)
    random[[3L]] <- bars_as_sums(random[[3L]], varies_in(x$networks$inputs, names(x$frame)))
    return(terms_in_frame(random, x$frame))
  }
  if (fixed.only) x$fixed$terms else attr(x$frame, "terms")
}

#' @rdname parts
#' @export
model.frame.merModNN <- function(formula, fixed.only = FALSE, ...) {
  frame <- formula$frame
  if (fixed.only) {
    frame <- frame[variable_names(formula$fixed$terms)]
  }
  frame
}

#' @rdname parts
#' @export
model.matrix.merModNN <- function(object, type = c("fixed", "random"), ...) {
  type <- match.arg(type)
  if (type == "fixed") fixed_matrix(object) else Matrix::t(random_matrix_transposed(object))
}
