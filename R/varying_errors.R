# Standard errors, simulation, importance, curves and limits of networks that vary by group.

# A fit with all its rows as rvarying_answers.py reads it: list(meta, buffers, modules).
send_whole_fit <- function(object) {
  model <- model_of(object)
  model$networks <- object$networks$inputs
  model$varying <- object$varying
  known <- object$flist[[1L]] # levels that were learnt later have no rows
  model$varying_groups <- list(factor(known, levels(known)[seq_len(max(as.integer(known)))]))
  design <- send_design(model)
  if (isGLMM(object)) design$meta$generalized <- TRUE
  sent <- send_varying_fit(object, seq_len(nrow(object$effects)))
  added <- object$added
  fitted <- object$fitted
  later <- if (!is.null(added)) {
    c(if (ncol(added$X)) as_buffers(added$X), as_buffers(added$inputs), as_buffers(added$codes - 1L),
      as_buffers(added$weights))
  }
  list(
    meta = c(sent$meta, list(design = design$meta, exact = object$exact, added = length(added$codes))),
    buffers = c(design$buffers, sent$buffers, as_buffers(fitted), later), modules = sent$modules
  )
}

# Variances of linear predictors and the noise of a new response: list(variance, noise), NA where a value is missing.
varying_variances <- function(object, rows, deviations) {
  if (!is.null(object$view)) {
    return(view_variances(object, rows))
  }
  variance <- rep(NA_real_, length(rows$codes))
  whole <- which(!is.na(rows$codes) & rowSums(is.na(rows$X)) == 0 & rowSums(is.na(rows$inputs)) == 0)
  if (length(whole) == 0L) {
    return(list(variance = variance, noise = NA_real_))
  }
  sent <- send_whole_fit(object)
  X <- rows$X[whole, , drop = FALSE]
  buffers <- c(sent$buffers, if (ncol(X)) as_buffers(X), as_buffers(rows$inputs[whole, , drop = FALSE]),
               as_buffers(rows$codes[whole] - 1L))
  meta <- c(sent$meta, list(rows = length(whole), deviations = deviations))
  reply <- call_python("varying_variance", meta, buffers, sent$modules)
  variance[whole] <- reply$arrays$variance
  list(variance = variance, noise = reply$noise)
}

# Predictions with limits and standard errors, shaped as those of other fits.
varying_with_errors <- function(object, eta, rows, deviations, type, se.fit, interval, level, weights, seed,
                                spread = varying_variances(object, rows, deviations)) {
  pad <- function(values) stats::napredict(rows$na.action, stats::setNames(as.vector(values), rows$names))
  se <- sqrt(spread$variance)
  mean <- isGLMM(object) && type == "response"
  fit <- if (mean) object$family$linkinv(eta) else eta
  reach <- stats::qnorm((1 + level) / 2) * se
  if (interval == "prediction" && isGLMM(object) && !mean) {
    stop("a new response is on its own scale: use type = \"response\" with interval = \"prediction\".", call. = FALSE)
  }
  limits <- if (interval == "prediction" && mean) {
    response_limits(object, eta, se, weights, level, seed)
  } else if (interval == "prediction") {
    half <- stats::qnorm((1 + level) / 2) * sqrt(spread$variance + spread$noise / weights)
    cbind(eta - half, eta + half)
  } else if (mean) {
    ends <- cbind(object$family$linkinv(eta - reach), object$family$linkinv(eta + reach))
    cbind(pmin(ends[, 1L], ends[, 2L]), pmax(ends[, 1L], ends[, 2L]))
  } else {
    cbind(eta - reach, eta + reach)
  }
  if (mean) se <- se * abs(object$family$mu.eta(eta))
  answer <- pad(fit)
  if (interval != "none") answer <- cbind(fit = answer, lwr = pad(limits[, 1L]), upr = pad(limits[, 2L]))
  if (se.fit) list(fit = answer, se.fit = pad(se)) else answer
}

#' @rdname varying
#' @param nsim,use.u As in [simulate.merModNN()], with `re.form = NA` to draw the deviations of every level anew.
#' @export
simulate.varyingModNN <- function(object, nsim = 1, seed = NULL, use.u = FALSE, re.form = NA, newdata = NULL,
                                  allow.new.levels = FALSE, na.action = stats::na.pass, ...) {
  state <- random_state(seed)
  if (!is.null(seed)) on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  drawn <- without_deviations(re.form) && !use.u
  rows <- if (is.null(newdata)) {
    fitted_rows_of(object, FALSE)
  } else {
    rows_with_strangers(object, newdata, allow.new.levels, na.action)
  }
  n <- length(rows$codes)
  weights <- if (is.null(newdata)) row_weights(object) else rep(1, n)
  draws <- lapply(seq_len(nsim), function(k) {
    eta <- rows$fixed + varying_values(with_drawn_effects(object, rows, drawn), rows, 0, 0)
    draw_varying(object, eta, weights)
  })
  pad <- function(values) stats::napredict(rows$na.action, values)
  names <- names(pad(stats::setNames(numeric(n), rows$names)))
  values <- lapply(draws, pad)
  result <- structure(stats::setNames(values, paste0("sim_", seq_len(nsim))), row.names = names, class = "data.frame")
  structure(result, na.action = rows$na.action, seed = state$seed)
}

# New rows in which each level that the fit has not seen has a code of its own.
rows_with_strangers <- function(object, newdata, allow.new.levels, na.action) {
  rows <- varying_rows(object, newdata, TRUE, allow.new.levels, na.action)
  unseen <- which(rows$codes == 0L)
  if (length(unseen)) {
    kept <- if (is.null(rows$na.action)) newdata else newdata[-rows$na.action, , drop = FALSE]
    named <- as.character(group_factor(object$varying[[1L]]$group, as_plain_frame(kept))[unseen])
    rows$codes[unseen] <- nrow(object$effects) + match(named, unique(named))
  }
  rows
}

# The fit with deviations drawn from their distribution, of all levels or of those that are not known.
with_drawn_effects <- function(object, rows, all) {
  known <- nrow(object$effects)
  D <- ncol(object$effects)
  q <- max(known, rows$codes, na.rm = TRUE)
  first <- if (all) 1L else known + 1L
  count <- q - first + 1L
  if (count > 0L) {
    k <- NCOL(object$factor)
    fresh <- if (is.matrix(object$factor)) {
      matrix(stats::rnorm(count * k), count) %*% t(object$factor)
    } else {
      sweep(matrix(stats::rnorm(count * D), count), 2L, object$factor, `*`)
    }
    object$effects <- rbind(if (!all) object$effects, fresh)
  }
  object
}

# One response a row, at linear predictors (n, or n x C).
draw_varying <- function(object, eta, weights) {
  if (!isGLMM(object)) {
    return(as.vector(eta + object$sigma * stats::rnorm(length(eta)) / sqrt(weights)))
  }
  if (!has_classes(object)) {
    drawn <- draw_family(object, as.matrix(eta), weights)[, 1L]
    return(like_response(drawn, object, weights))
  }
  means <- varying_means(object, eta, NULL)
  total <- means
  for (c in seq_len(ncol(means))[-1L]) total[, c] <- total[, c - 1L] + means[, c]
  at <- 1L + rowSums(stats::runif(nrow(means)) >= total[, -ncol(total), drop = FALSE])
  factor(response_names(object)[at], response_names(object), ordered = is_ordinal(object))
}

#' @rdname varying
#' @param n_repeats,inputs,grid_size As in [importance()] and [partial_dependence()]. Each row has the network of its
#'   level when inputs are permuted; deviations have been estimated on all rows.
#' @export
importance.varyingModNN <- function(x, n_repeats = 5, seed = 0, ...) {
  if (!is.numeric(n_repeats) || length(n_repeats) != 1L || is.na(n_repeats) || n_repeats < 1) {
    stop(sprintf("n_repeats is %s: ask for at least one permutation.", deparse1(n_repeats)), call. = FALSE)
  }
  sent <- send_whole_fit(x)
  meta <- c(sent$meta, list(n_repeats = as.integer(n_repeats), seed = as.integer(seed)))
  reply <- call_python("varying_importance", meta, sent$buffers, sent$modules)
  se <- reply$arrays$se
  data.frame(network = unlist(reply$network), input = unlist(reply$input), importance = reply$arrays$importance,
             se = replace(se, is.nan(se), NA_real_))
}

#' @rdname varying
#' @param groups Names of levels, `"all"` for all: `partial_dependence()` has a curve of each of them instead of the
#'   generic one, averaged over the same rows, and `plot()` draws bands of their means.
#' @export
partial_dependence.varyingModNN <- function(x, inputs, grid_size = 40, seed = 0, groups = NULL, ...) {
  codes <- if (is.null(groups)) -1L else level_codes(x, groups) - 1L
  sent <- send_whole_fit(x)
  meta <- c(sent$meta, list(inputs = as_array(as.character(inputs)), grid_size = as.integer(grid_size),
                            seed = as.integer(seed), codes = as_array(codes)))
  reply <- call_python("varying_partial_dependence", meta, sent$buffers, sent$modules)
  columns <- reply$arrays
  group <- columns$group
  columns$group <- NULL
  levels <- unlist(lapply(unname(x$networks$inputs), `[[`, "levels"), recursive = FALSE)
  for (name in inputs) {
    if (!is.null(levels[[name]])) columns[[name]] <- factor(levels[[name]][columns[[name]] + 1], levels[[name]])
  }
  if (!is.null(reply$class)) {
    columns <- append(columns, list(class = factor(unlist(reply$class), response_names(x))), length(inputs))
  }
  if (!is.null(groups)) {
    of_group <- list(factor(rownames(x$effects)[group + 1], rownames(x$effects)))
    columns <- c(stats::setNames(of_group, names(x$flist)), columns)
  }
  as.data.frame(columns, optional = TRUE)
}

# Numbers of levels by name; "all" is all of them.
level_codes <- function(object, groups) {
  known <- rownames(object$effects)
  if (identical(groups, "all") && !"all" %in% known) {
    return(seq_along(known))
  }
  at <- match(as.character(groups), known)
  if (anyNA(at)) {
    stop(sprintf("the grouping factor '%s' has no level '%s'.", names(object$flist), groups[is.na(at)][1L]),
         call. = FALSE)
  }
  at
}

#' @rdname varying
#' @param parm Names of linear coefficients; by default all.
#' @param method `"Wald"`: limits by [vcov()], the network taken as known.
#' @export
confint.varyingModNN <- function(object, parm = NULL, level = 0.95, method = "Wald", ...) {
  if (!identical(method, "Wald")) {
    stop("confint() of a network that varies by group has method = \"Wald\" alone.", call. = FALSE)
  }
  covariance <- vcov(object)
  names <- rownames(covariance)
  if (is.null(parm)) parm <- names
  if (is.numeric(parm)) parm <- names[parm]
  if (anyNA(parm) || !all(parm %in% names)) {
    stop(sprintf("there is no linear coefficient '%s': there are %s.", setdiff(parm, names)[1L],
                 abbreviate_list(names, 10L)), call. = FALSE)
  }
  tails <- c((1 - level) / 2, (1 + level) / 2)
  limits <- object$beta[names] + sqrt(diag(covariance)) %o% stats::qnorm(tails)
  dimnames(limits) <- list(names, paste(format(100 * tails, trim = TRUE, digits = 3), "%"))
  limits[parm, , drop = FALSE]
}
