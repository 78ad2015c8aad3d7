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
                                     na.action = stats::na.pass, marginal = TRUE, se.fit = FALSE,
                                     interval = c("none", "confidence"), level = 0.95, ...) {
  if (...length()) {
    stop("predict() of a multinomial model takes no further arguments.", call. = FALSE)
  }
  type <- match.arg(type)
  interval <- if (is.logical(interval)) c("none", "confidence")[isTRUE(interval) + 1L] else interval[1L]
  with_errors <- se.fit || interval != "none"
  if (with_errors) check_class_errors(object, type, interval, level)
  include <- included_columns(object, re.form)
  rows <- if (is.null(newdata)) {
    old_rows(object)
  } else {
    new_rows(object, newdata, include, TRUE, allow.new.levels, na.action)
  }
  eta <- class_predictors(object, rows, include)
  dimnames(eta) <- list(rows$names, object$classes)
  values <- eta
  if (type != "link") {
    values <- if (marginal && !is.null(newdata)) marginal_classes(object, eta, rows, include) else softmax(eta)
    dimnames(values) <- dimnames(eta)
  }
  answer <- stats::napredict(rows$na.action, values)
  if (with_errors) {
    spread <- class_spread(object, rows, include, if (type == "link") identity else softmax, level)
    spread <- lapply(spread, function(part) stats::napredict(rows$na.action, `dimnames<-`(part, dimnames(eta))))
    wanted <- c(if (se.fit) "se.fit", if (interval != "none") c("lwr", "upr"))
    return(c(list(fit = answer), spread[wanted]))
  }
  if (type == "class") most_likely(answer) else answer
}

check_class_errors <- function(object, type, interval, level) {
  if (type == "class") {
    stop("standard errors and limits are of probabilities or linear predictors: use type = \"response\".",
         call. = FALSE)
  }
  if (!interval %in% c("none", "confidence")) {
    stop(sprintf("interval is \"%s\": use \"confidence\"; a new class has no limits.", interval), call. = FALSE)
  }
  if (!isTRUE(level > 0 && level < 1)) {
    stop(sprintf("level is %s: use a number between 0 and 1.", deparse1(level)), call. = FALSE)
  }
  if (is.null(object$joint)) {
    stop("this fit kept no draws for standard errors: fit it again.", call. = FALSE)
  }
}

numbers_at_a_time <- 4e6 # of all draws, for standard errors

# Standard deviations and quantiles over the joint draws of what `scale` makes of the linear predictors: matrices m x C.
class_spread <- function(object, rows, include, scale, level) {
  state <- random_state(0)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  m <- length(rows$names)
  C <- length(object$classes)
  size <- max(1, numbers_at_a_time %/% (C * nrow(object$joint$beta)))
  blocks <- split(seq_len(m), (seq_len(m) - 1) %/% size)
  parts <- lapply(blocks, function(at) spread_of_rows(object, some_rows(rows, at), include, scale, level))
  lapply(c(se.fit = 1L, lwr = 2L, upr = 3L), function(i) do.call(rbind, lapply(parts, `[[`, i)))
}

some_rows <- function(rows, at) {
  offset <- rows$offset
  if (!is.matrix(offset)) offset <- matrix(rep_len(offset, length(rows$names)))
  if (ncol(offset) == 1L) offset <- as.vector(offset)[at] else offset <- offset[at, , drop = FALSE]
  list(
    names = rows$names[at], X = rows$X[at, , drop = FALSE], offset = offset,
    codes = lapply(rows$codes, `[`, at), columns = lapply(rows$columns, function(z) z[at, , drop = FALSE])
  )
}

spread_of_rows <- function(object, rows, include, scale, level) {
  joint <- object$joint
  C <- length(object$classes)
  unseen <- sqrt(class_variance(object, rows, include))
  drawn <- vapply(seq_len(nrow(joint$beta)), function(s) {
    object$beta <- matrix(joint$beta[s, , ], ncol = C)
    object$b <- lapply(joint$b, function(b) array(b[s, , , ], dim(b)[-1L]))
    as.vector(scale(class_predictors(object, rows, include) + unseen * stats::rnorm(length(unseen))))
  }, numeric(length(unseen)))
  drawn <- matrix(drawn, length(unseen))
  tails <- apply(drawn, 1L, function(values) {
    if (anyNA(values)) c(NA, NA) else stats::quantile(values, c(1 - level, 1 + level) / 2, names = FALSE)
  })
  lapply(list(apply(drawn, 1L, stats::sd), tails[1L, ], tails[2L, ]), matrix, ncol = C)
}

# Prior variance, m x C, of the random part of levels that the fit has not seen.
class_variance <- function(object, rows, include) {
  C <- length(object$classes)
  variance <- matrix(0, length(rows$names), C)
  for (k in which(vapply(include, any, NA))) {
    at <- which(rows$codes[[k]] == 0L)
    z <- sweep(rows$columns[[k]][at, , drop = FALSE], 2L, as.numeric(include[[k]]), `*`)
    for (c in seq_len(C)) {
      Sigma <- matrix(object$covariances[[k]][c, , ], ncol(z))
      variance[at, c] <- variance[at, c] + rowSums((z %*% Sigma) * z)
    }
  }
  variance
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
  variance <- class_variance(object, rows, include)
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
