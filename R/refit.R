# Fitting again: another response, another criterion, another formula.

#' Fit a model again
#'
#' `refit()` fits the same model to another response, `refitML()` the same data by maximum likelihood. `update()` works
#' through [stats::update()]. All need Python.
#'
#' @param object,x A fit by [lmernn()].
#' @param newresp The new response: a numeric vector with one value for each row of the model frame (or of the data,
#'   when `na.action = na.exclude` left rows out), or a list or data frame holding one, such as a result of
#'   [simulate()].
#' @param ... Ignored.
#' @return A fit of class `merModNN`.
#' @name refit
#' @examplesIf pylmernn::python_ready()
#' data("Dyestuff", package = "lme4")
#' fit <- lmernn(Yield ~ 1 + (1 | Batch), Dyestuff)
#' refit(fit, simulate(fit, seed = 1))
#' refitML(fit)
NULL

#' @rdname refit
#' @export
refit.merModNN <- function(object, newresp = NULL, ...) {
  newresp <- single_response(newresp)
  refuse_learned(object)
  fit <- estimate(model_of(object, y = new_response(object, newresp)), object$settings)
  fit$networks <- object$networks # kept as they are: their part of the mean is in the offset
  fit$call <- object$call
  report_fit(fit)
  fit
}

# A list or data frame that holds one response, as that response.
single_response <- function(newresp) {
  if (!is.list(newresp)) {
    return(newresp)
  }
  if (length(newresp) != 1L) {
    stop(sprintf("refit() takes one response, not %d: call it once for each.", length(newresp)), call. = FALSE)
  }
  newresp[[1L]]
}

refuse_learned <- function(object) {
  if (has_learned(object)) {
    stop("the features of embed() were learned together with the networks: fit the model again by lmernn().",
         call. = FALSE)
  }
}

new_response <- function(object, newresp) {
  if (is.null(newresp)) {
    return(NULL)
  }
  n <- nrow(object$frame)
  omitted <- attr(object$frame, "na.action")
  if (!is.null(omitted) && length(newresp) == n + length(omitted)) newresp <- newresp[-omitted]
  if (!is.numeric(newresp)) {
    stop(sprintf("the new response must be numeric, not of class '%s'.", class(newresp)[1L]), call. = FALSE)
  }
  if (length(newresp) != n) {
    stop(sprintf("the new response has %d values but the model has %d rows.", length(newresp), n), call. = FALSE)
  }
  as.double(newresp)
}

#' @rdname refit
#' @export
refitML.merModNN <- function(x, ...) {
  if (!x$REML) {
    return(x)
  }
  refuse_learned(x)
  settings <- x$settings
  settings$REML <- FALSE
  fit <- estimate(model_of(x), settings)
  fit$networks <- x$networks
  fit$call <- x$call
  fit$call$REML <- FALSE
  report_fit(fit)
  fit
}

#' Simulate responses from a fit
#'
#' As [lme4::simulate.merMod()]: with the same seed it draws the same numbers, except that residuals are divided by the
#' square root of their weights, and effects left out of a partial `re.form` are drawn with their own variance (lme4
#' 1.1-31 does neither).
#'
#' @param object A fit by [lmernn()].
#' @param nsim How many responses.
#' @param seed A seed; the state of the generator is restored afterwards.
#' @param use.u Whether all random effects stay at their conditional modes; the same as `re.form = NULL`.
#' @param re.form Random effects that stay at their conditional modes; the others are drawn. By default all are drawn.
#' @param newdata A data frame; by default the data of the fit.
#' @param allow.new.levels Whether levels that the fit has not seen may stand in effects that are kept.
#' @param na.action What happens to rows of `newdata` with missing values.
#' @param ... Ignored.
#' @return A data frame with columns `sim_1`, `sim_2`, ... and the attribute `"seed"`.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("Dyestuff", package = "lme4")
#' fit <- lmernn(Yield ~ 1 + (1 | Batch), Dyestuff)
#' head(simulate(fit, 2, seed = 42))
simulate.merModNN <- function(object, nsim = 1, seed = NULL, use.u = FALSE, re.form = NA, newdata = NULL,
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
  mean <- predicted(object, rows, kept)
  n <- length(mean)
  if (any(unlist(drawn))) {
    new_effects <- if (is.null(newdata)) rows else drawn_rows(object, newdata, drawn, na.action)
    effects <- draw_effects(object, new_effects, drawn, nsim)
  } else {
    effects <- 0
  }
  eta <- matrix(mean + object$sigma * effects, n, nsim)
  weights <- if (is.null(newdata)) row_weights(object) else rep(1, n)
  values <- if (isGLMM(object)) draw_family(object, eta, weights) else draw_normal(object, eta, weights)
  pad <- function(values) stats::napredict(rows$na.action, values)
  values <- apply(values, 2L, pad, simplify = FALSE)
  if (isGLMM(object)) values <- lapply(values, like_response, object, if (is.null(newdata)) pad(weights))
  names <- names(pad(stats::setNames(numeric(n), rows$names)))
  result <- structure(stats::setNames(values, paste0("sim_", seq_len(nsim))), row.names = names, class = "data.frame")
  structure(result, na.action = rows$na.action, seed = state$seed)
}

draw_normal <- function(object, eta, weights) {
  eta + object$sigma * matrix(stats::rnorm(length(eta)), nrow(eta)) / sqrt(weights)
}

random_state <- function(seed) {
  if (!exists(".Random.seed", envir = globalenv(), inherits = FALSE)) stats::runif(1L)
  before <- get(".Random.seed", envir = globalenv())
  if (is.null(seed)) {
    return(list(before = before, seed = before))
  }
  set.seed(seed)
  list(before = before, seed = get(".Random.seed", envir = globalenv()))
}

# Rows for drawn effects: every level of the new data counts, seen by the fit or not.
drawn_rows <- function(object, newdata, drawn, na.action) {
  known <- new_rows(object, newdata, drawn, FALSE, TRUE, na.action)
  kept <- if (is.null(known$na.action)) newdata else newdata[-known$na.action, , drop = FALSE]
  for (k in which(vapply(drawn, any, NA) & !vapply(object$bars, is_located, NA))) {
    parts <- lapply(group_parts(object$bars[[k]]$group), function(part) {
      column <- kept[[deparse1(part)]]
      used_levels(if (is.null(column)) evaluate_group(part, kept) else column)
    })
    known$codes[[k]] <- Reduce(cross_levels, parts)$codes
  }
  known
}

# Z Lambda u with new standard normal u, rows x nsim, relative to sigma. The draws are in lme4's order: one simulation
# after the other, within it term by term, level by level.
draw_effects <- function(object, rows, drawn, nsim) {
  terms <- which(vapply(drawn, any, NA))
  priors <- lapply(terms, function(k) prior_of(object, k, rows))
  sizes <- vapply(priors, function(prior) prior$width * prior$levels, 0)
  u <- matrix(stats::rnorm(sum(sizes) * nsim), ncol = nsim)
  ends <- cumsum(sizes)
  total <- 0
  for (i in seq_along(terms)) {
    prior <- priors[[i]]
    own <- u[seq.int(ends[i] - sizes[i] + 1, length.out = sizes[i]), , drop = FALSE]
    z <- sweep(rows$columns[[terms[i]]], 2L, as.numeric(drawn[[terms[i]]]), `*`)
    total <- total + vapply(seq_len(nsim), function(s) {
      b <- prior$draw(matrix(own[, s], nrow = prior$width))
      rowSums(z * t(b)[prior$codes, , drop = FALSE])
    }, numeric(length(prior$codes)))
  }
  matrix(total, ncol = nsim)
}

# How effects of term k are drawn for some rows: their codes, the number of levels, the columns of a level, and what
# makes effects (width x levels) of standard normal numbers.
prior_of <- function(object, k, rows) {
  bar <- object$bars[[k]]
  Lambda <- templates(object)[[k]]
  if (isTRUE(bar$learned)) {
    stop(sprintf("%s: its features were learned, so no new effects can be drawn: keep them by re.form = NULL.",
                 bar$label), call. = FALSE)
  }
  if (bar$covariance != "gp") {
    codes <- rows$codes[[k]]
    return(list(codes = codes, levels = max(codes, 0L, na.rm = TRUE), width = nrow(Lambda),
                draw = function(u) Lambda %*% u))
  }
  places <- distinct_locations(rows$locations[[k]])
  lscale <- theta_of(object, k)[2L]
  parts <- eigen(correlation_between(bar$options$cov, lscale, places$locations, places$locations), symmetric = TRUE)
  root <- parts$vectors %*% (sqrt(pmax(parts$values, 0)) * t(parts$vectors)) # smooth fields have no Cholesky factor
  list(codes = places$codes, levels = nrow(root), width = 1L, draw = function(u) Lambda[1L, 1L] * (u %*% root))
}
