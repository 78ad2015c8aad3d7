# Probabilities, predictions and draws of multinomial models.

log_sum_exp <- function(eta) {
  top <- do.call(pmax, lapply(seq_len(ncol(eta)), function(c) eta[, c]))
  top + log(rowSums(exp(eta - top)))
}

softmax <- function(eta) exp(eta - log_sum_exp(eta))

#' @rdname multinomial
#' @export
fitted.multinomialModNN <- function(object, ...) {
  stats::napredict(attr(object$frame, "na.action"), fitted_classes(object))
}

# Probabilities of the rows that were used, n x C.
fitted_classes <- function(object) {
  probabilities <- softmax(object$eta)
  dimnames(probabilities) <- list(row.names(object$frame), object$classes)
  probabilities
}

# Logarithms of the probabilities of the observed classes.
observed_logs <- function(object) {
  codes <- observed_in(object$frame, object$settings$family)$y + 1
  object$eta[cbind(seq_along(codes), codes)] - log_sum_exp(object$eta)
}

#' @rdname multinomial
#' @export
residuals.multinomialModNN <- function(object, type = c("response", "pearson", "deviance"), scaled = FALSE, ...) {
  type <- match.arg(type)
  weights <- row_weights(object)
  if (type == "deviance") {
    values <- sqrt(pmax(-2 * weights * observed_logs(object), 0))
    return(stats::naresid(attr(object$frame, "na.action"), stats::setNames(values, row.names(object$frame))))
  }
  p <- fitted_classes(object)
  codes <- observed_in(object$frame, object$settings$family)$y + 1
  values <- outer(codes, seq_along(object$classes), `==`) - p
  if (type == "pearson") values <- values * sqrt(weights / pmax(p * (1 - p), .Machine$double.xmin))
  stats::naresid(attr(object$frame, "na.action"), values)
}

#' @rdname multinomial
#' @export
predict.multinomialModNN <- function(object, newdata = NULL, re.form = NULL,
                                     type = c("class", "response", "prob", "link"), allow.new.levels = FALSE,
                                     na.action = stats::na.pass, marginal = TRUE, ...) {
  if (...length()) {
    stop("predict() of a multinomial model takes no further arguments.", call. = FALSE)
  }
  type <- match.arg(type)
  include <- included_columns(object, re.form)
  rows <- if (is.null(newdata)) {
    old_rows(object)
  } else {
    new_rows(object, newdata, include, TRUE, allow.new.levels, na.action)
  }
  eta <- class_predictors(object, rows, include)
  dimnames(eta) <- list(rows$names, object$classes)
  if (type == "link") {
    return(stats::napredict(rows$na.action, eta))
  }
  probabilities <- if (marginal && !is.null(newdata)) marginal_classes(object, eta, rows, include) else softmax(eta)
  dimnames(probabilities) <- dimnames(eta)
  probabilities <- stats::napredict(rows$na.action, probabilities)
  if (type == "class") most_likely(probabilities) else probabilities
}

# The most likely class of each row, a factor with the names of the rows.
most_likely <- function(probabilities, ordered = FALSE) {
  classes <- colnames(probabilities)
  missing <- rowSums(is.na(probabilities)) > 0
  best <- max.col(replace(probabilities, is.na(probabilities), 0), ties.method = "first")
  stats::setNames(factor(classes[replace(best, missing, NA)], classes, ordered = ordered), rownames(probabilities))
}

# The networks' part of the rows of a multinomial fit, n x C; 0 of other fits, which have it in the offset.
class_networks <- function(object) {
  if (is.null(object$networks) || is.null(object$classes)) {
    return(0)
  }
  matrix(object$networks$arrays$networks.fitted, ncol = length(object$classes), byrow = TRUE)
}

# Offset, X beta, networks and the random part of the columns that are included: m x C.
class_predictors <- function(object, rows, include) {
  m <- length(rows$names)
  C <- length(object$classes)
  eta <- matrix(0, m, C) + rows$X %*% object$beta + rows$offset
  for (k in which(vapply(include, any, NA))) {
    eta <- eta + class_effects(object$b[[k]], rows$codes[[k]], rows$columns[[k]], include[[k]])
  }
  eta
}

# z' b of effects q x d x C: m x C. Zero for levels that were not seen (code 0), NA where the level is missing.
class_effects <- function(b, codes, columns, used) {
  C <- dim(b)[3L]
  part <- matrix(ifelse(is.na(codes), NA_real_, 0), length(codes), C)
  known <- which(codes > 0L)
  for (j in which(used)) {
    part[known, ] <- part[known, ] + columns[known, j] * matrix(b[codes[known], j, ], ncol = C)
  }
  part
}

# Mean probabilities over the effects of levels that the fit has not seen, from Python; as they are elsewhere.
marginal_classes <- function(object, eta, rows, include) {
  variance <- matrix(0, nrow(eta), ncol(eta))
  for (k in which(vapply(include, any, NA))) {
    at <- which(rows$codes[[k]] == 0L)
    z <- sweep(rows$columns[[k]][at, , drop = FALSE], 2L, as.numeric(include[[k]]), `*`)
    for (c in seq_len(ncol(eta))) {
      Sigma <- matrix(object$covariances[[k]][c, , ], ncol(z))
      variance[at, c] <- variance[at, c] + rowSums((z %*% Sigma) * z)
    }
  }
  probabilities <- softmax(eta)
  unseen <- which(rowSums(variance) > 0 & rowSums(is.na(eta)) == 0)
  if (length(unseen) == 0L) {
    return(probabilities)
  }
  meta <- list(rows = length(unseen), classes = ncol(eta))
  buffers <- c(as_buffers(eta[unseen, , drop = FALSE]), as_buffers(variance[unseen, , drop = FALSE]))
  reply <- call_python("marginal_classes", meta, buffers)
  probabilities[unseen, ] <- row_major(reply$arrays$probabilities, c(length(unseen), ncol(eta)))
  probabilities
}

#' @rdname multinomial
#' @export
simulate.multinomialModNN <- function(object, nsim = 1, seed = NULL, use.u = FALSE, re.form = NA, newdata = NULL,
                                      allow.new.levels = FALSE, na.action = stats::na.pass, ...) {
  state <- random_state(seed)
  if (!is.null(seed)) on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  if (use.u) re.form <- NULL
  kept <- included_columns(object, re.form)
  drawn <- lapply(kept, `!`)
  rows <- if (is.null(newdata)) {
    old_rows(object)
  } else {
    new_rows(object, newdata, kept, TRUE, allow.new.levels, na.action)
  }
  fixed <- class_predictors(object, rows, kept)
  levels <- if (is.null(newdata) || !any(unlist(drawn))) rows else drawn_rows(object, newdata, drawn, na.action)
  values <- lapply(seq_len(nsim), function(s) {
    eta <- fixed
    for (k in which(vapply(drawn, any, NA))) {
      b <- drawn_class_effects(object$covariances[[k]], max(levels$codes[[k]], 0L, na.rm = TRUE))
      eta <- eta + class_effects(b, levels$codes[[k]], levels$columns[[k]], drawn[[k]])
    }
    stats::napredict(rows$na.action, drawn_classes(softmax(eta), object$classes))
  })
  names <- names(stats::napredict(rows$na.action, stats::setNames(numeric(nrow(fixed)), rows$names)))
  result <- structure(stats::setNames(values, paste0("sim_", seq_len(nsim))), row.names = names, class = "data.frame")
  structure(result, na.action = rows$na.action, seed = state$seed)
}

# New effects of q levels, q x d x C, for covariances C x d x d that may be singular.
drawn_class_effects <- function(covariances, q) {
  d <- dim(covariances)[2L]
  made <- vapply(seq_len(dim(covariances)[1L]), function(c) {
    parts <- eigen(matrix(covariances[c, , ], d), symmetric = TRUE)
    root <- parts$vectors %*% diag(sqrt(pmax(parts$values, 0)), d)
    matrix(stats::rnorm(q * d), q) %*% t(root)
  }, matrix(0, q, d))
  array(made, c(q, d, dim(covariances)[1L]))
}

drawn_classes <- function(probabilities, classes) {
  C <- length(classes)
  u <- stats::runif(nrow(probabilities))
  above <- t(apply(probabilities, 1L, cumsum))[, -C, drop = FALSE]
  factor(classes[1L + rowSums(u > above)], classes)
}
