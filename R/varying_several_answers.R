# Standard errors, simulation, importance, curves, limits and pictures of networks that vary by several bars.

# A fit with all its rows as rseveral_answers.py reads it: list(meta, buffers, modules).
send_whole_several <- function(object) {
  with_rows <- function(known) factor(known, levels(known)[seq_len(max(as.integer(known)))]) # not those learnt later
  model <- model_of(object)
  model$networks <- object$networks$inputs
  model$varying <- object$varying
  factors <- lapply(unname(term_factors(object)), with_rows)
  model$groups <- factors[seq_along(object$bars)]
  model$varying_groups <- factors[-ordinary_first(object)]
  design <- send_design(model)
  if (isGLMM(object)) design$meta$generalized <- TRUE
  sent <- send_several_fit(object)
  added <- object$added
  list(
    meta = c(sent$meta, list(design = design$meta, exact = object$exact, added = NROW(added$X))),
    buffers = c(design$buffers, sent$buffers, as_buffers(object$fitted), if (!is.null(added)) send_several_rows(added),
                if (length(added$weights)) as_buffers(added$weights)),
    modules = sent$modules
  )
}

# Rows as rseveral_answers.py reads them; `codes` of all bars count from 1, 0 for none.
send_several_rows <- function(rows) {
  c(if (ncol(rows$X)) as_buffers(rows$X), as_buffers(rows$inputs),
    unlist(lapply(unname(rows$codes), function(codes) as_buffers(as.integer(codes) - 1L)), recursive = FALSE),
    unlist(lapply(unname(rows$columns), as_buffers), recursive = FALSE))
}

# Variances of means and the noise of a new response: list(variance, noise), NA where a value is missing. `taken` is as
# several_taken() has it.
several_variances <- function(object, rows, taken) {
  used <- vapply(taken$include, any, NA)
  n <- nrow(rows$X)
  none <- integer(n)
  codes <- c(Map(function(own, wanted) if (wanted) own else none, rows$levels, taken$varying),
             Map(function(own, wanted) if (wanted) own else none, rows$codes, used))
  columns <- Map(function(own, keep) {
    if (any(keep)) sweep(own, 2L, as.numeric(keep), `*`) else matrix(0, n, length(keep))
  }, rows$columns, taken$include)
  missing <- Reduce(`|`, lapply(codes, is.na), rowSums(is.na(cbind(rows$X, rows$inputs))) > 0)
  missing <- Reduce(`|`, lapply(columns, function(own) rowSums(is.na(own)) > 0), missing)
  whole <- which(!missing)
  variance <- rep(NA_real_, n)
  if (length(whole) == 0L) {
    return(list(variance = variance, noise = NA_real_))
  }
  some <- list(X = rows$X[whole, , drop = FALSE], inputs = rows$inputs[whole, , drop = FALSE],
               codes = lapply(codes, `[`, whole), columns = lapply(columns, function(own) own[whole, , drop = FALSE]))
  sent <- send_whole_several(object)
  meta <- c(sent$meta, list(rows = length(whole), include = as_array(unname(c(taken$varying, used)))))
  reply <- call_python("several_variance", meta, c(sent$buffers, send_several_rows(some)), sent$modules)
  variance[whole] <- reply$arrays$variance
  list(variance = variance, noise = reply$noise)
}

#' @rdname varying
#' @export
simulate.multiVaryingModNN <- function(object, nsim = 1, seed = NULL, use.u = FALSE, re.form = NA, newdata = NULL,
                                         allow.new.levels = FALSE, na.action = stats::na.pass, ...) {
  state <- random_state(seed)
  if (!is.null(seed)) on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  kept <- several_taken(object, if (use.u) NULL else re.form)
  all <- several_taken(object, NULL)
  rows <- if (is.null(newdata)) {
    several_old_rows(object)
  } else {
    strangers_apart(object, several_rows(object, newdata, all, allow.new.levels, na.action), newdata)
  }
  n <- length(rows$fixed)
  weights <- if (is.null(newdata)) row_weights(object) else rep(1, n)
  pad <- function(values) stats::napredict(rows$na.action, values)
  draws <- lapply(seq_len(nsim), function(k) pad(draw_varying(object, one_draw(object, rows, kept), weights)))
  names <- names(pad(stats::setNames(numeric(n), rows$names)))
  result <- structure(stats::setNames(draws, paste0("sim_", seq_len(nsim))), row.names = names, class = "data.frame")
  structure(result, na.action = rows$na.action, seed = state$seed)
}

# Linear predictors with effects as they are or drawn: new ones of all levels but in what is kept.
one_draw <- function(object, rows, kept) {
  codes <- c(rows$levels, rows$codes)
  keep <- c(Map(function(part, wanted) rep(wanted, ncol(part$effects)), object$parts[seq_along(kept$varying)],
                kept$varying), kept$include)
  for (k in seq_along(object$parts)) {
    object$parts[[k]]$effects <- drawn_effects(object$parts[[k]], codes[[k]], keep[[k]])
  }
  total <- rows$fixed + several_values(object, rows, rep(TRUE, length(kept$varying)), 0, 0)
  for (k in seq_along(object$bars)) {
    effects <- object$parts[[length(object$varying) + k]]$effects
    total <- total + rowSums(rows$columns[[k]] * effects[rows$codes[[k]], , drop = FALSE])
  }
  unname(total)
}

# Effects of all levels of a bar, those after the known ones too, which are always drawn.
drawn_effects <- function(part, codes, keep) {
  known <- nrow(part$effects)
  q <- max(known, codes, na.rm = TRUE)
  if (q == known && all(keep)) {
    return(part$effects)
  }
  normal <- matrix(stats::rnorm(q * NCOL(part$factor) * if (is.matrix(part$factor)) 1L else length(part$factor)), q)
  drawn <- if (is.matrix(part$factor)) normal %*% t(part$factor) else sweep(normal, 2L, part$factor, `*`)
  drawn[seq_len(known), keep] <- part$effects[, keep]
  drawn
}

# New rows in which each level that the fit has not seen has a code of its own.
strangers_apart <- function(object, rows, newdata) {
  newdata <- as_plain_frame(newdata)
  kept <- if (is.null(rows$na.action)) newdata else newdata[-rows$na.action, , drop = FALSE]
  apart <- function(codes, bar, part) {
    unseen <- which(codes == 0L)
    named <- as.character(group_factor(bar$group, kept)[unseen])
    replace(codes, unseen, nrow(part$effects) + match(named, unique(named)))
  }
  at <- seq_along(object$varying)
  rows$levels <- Map(apart, rows$levels, object$varying, object$parts[at])
  rows$codes <- Map(apart, rows$codes, object$bars, object$parts[-at])
  rows
}

#' @rdname varying
#' @export
importance.multiVaryingModNN <- function(x, n_repeats = 5, seed = 0, ...) {
  if (!is.null(x$view)) x <- x$view$whole_fit
  if (!is.numeric(n_repeats) || length(n_repeats) != 1L || is.na(n_repeats) || n_repeats < 1) {
    stop(sprintf("n_repeats is %s: ask for at least one permutation.", deparse1(n_repeats)), call. = FALSE)
  }
  sent <- send_whole_several(x)
  meta <- c(sent$meta, list(n_repeats = as.integer(n_repeats), seed = as.integer(seed)))
  reply <- call_python("several_importance", meta, sent$buffers, sent$modules)
  se <- reply$arrays$se
  data.frame(network = unlist(reply$network), input = unlist(reply$input), importance = reply$arrays$importance,
             se = replace(se, is.nan(se), NA_real_))
}

#' @rdname varying
#' @param factor Of a network that varies by several factors: the one that `groups` are levels of, or that the picture
#'   is of; by default the one with most levels. A level nested in one of another factor has the deviations of both.
#' @export
partial_dependence.multiVaryingModNN <- function(x, inputs, grid_size = 40, seed = 0, groups = NULL, factor = NULL,
                                                   ...) {
  factor <- factor_of_network(x, factor)
  bar <- match(factor, vapply(x$varying, `[[`, "", "label_group"))
  known <- rownames(x$parts[[bar]]$effects)
  codes <- if (is.null(groups)) -1L else level_codes(list(effects = x$parts[[bar]]$effects, flist = x$flist[factor]),
                                                     groups) - 1L
  sent <- send_whole_several(x)
  meta <- c(sent$meta, list(inputs = as_array(as.character(inputs)), grid_size = as.integer(grid_size),
                            seed = as.integer(seed), codes = as_array(codes), bar = bar - 1L))
  columns <- call_python("several_partial_dependence", meta, sent$buffers, sent$modules)$arrays
  group <- columns$group
  columns$group <- NULL
  levels <- unlist(lapply(unname(x$networks$inputs), `[[`, "levels"), recursive = FALSE)
  for (name in inputs) {
    if (!is.null(levels[[name]])) columns[[name]] <- base::factor(levels[[name]][columns[[name]] + 1], levels[[name]])
  }
  if (!is.null(groups)) {
    columns <- c(stats::setNames(list(base::factor(known[group + 1], known)), factor), columns)
  }
  as.data.frame(columns, optional = TRUE)
}

# The name of a factor by which the network varies; by default that with most levels.
factor_of_network <- function(object, factor) {
  groups <- vapply(object$varying, `[[`, "", "label_group")
  if (is.null(factor)) {
    return(groups[which.max(vapply(object$parts[seq_along(groups)], function(part) nrow(part$effects), 0L))])
  }
  if (!isTRUE(factor %in% groups)) {
    stop(sprintf("the network does not vary by a grouping factor '%s': it varies by %s.", format(factor)[1L],
                 toString(sprintf("'%s'", unique(groups)))), call. = FALSE)
  }
  factor
}

#' @rdname varying
#' @export
confint.multiVaryingModNN <- function(object, parm = NULL, level = 0.95, method = "Wald", ...) {
  confint.varyingModNN(object, parm, level, method, ...)
}

# ---- pictures

#' @rdname varying
#' @export
plot.multiVaryingModNN <- function(x, kind = "residuals", input = NULL, groups = NULL, level = 0.9, factor = NULL,
                                     ...) {
  if (inherits(kind, "formula")) not_varying("plot() of a formula", "name a kind of picture")
  by_factor <- c("curves", "shrinkage", "baseline", "variances")
  kinds <- c("residuals", "predicted", "history", by_factor, "ranef", "importance", "partial")
  if (!isTRUE(kind %in% kinds)) {
    not_varying(sprintf("plot(kind = \"%s\")", format(kind)[1L]), paste("use one of", paste(kinds, collapse = ", ")))
  }
  if (!is.null(factor) && !kind %in% c(by_factor, "ranef")) {
    stop(sprintf("kind = \"%s\" is a picture of all factors together: leave out factor.", kind), call. = FALSE)
  }
  if (kind %in% by_factor) x <- factor_view(x, factor, kind == "curves")
  switch(
    kind,
    curves = plot_curves(x, input, groups, level, ...),
    shrinkage = stats::update(plot_shrinkage(x, ...), ylab = "what its own deviations add to the network (rms)"),
    baseline = plot_baseline(x, ...),
    variances = plot_variances(x, ...),
    ranef = plot_effects(x, factor, level, ...),
    plot.merModNN(x, kind = kind, ...)
  )
}

# The fit as pictures of a fit with one bar read it, for one of its factors: `flist`, `effects`, `factor`, `layers`,
# `theta_bar` and `added` are of this factor; `view` has the fit itself, levels of the bars of the network at each level
# of the factor, and which of these take part: with `whole` those of all factors in which this one is nested.
factor_view <- function(object, factor, whole) {
  factor <- factor_of_network(object, factor)
  groups <- vapply(object$varying, `[[`, "", "label_group")
  levels <- levels_of_bars(object, factor)
  include <- if (whole) vapply(levels, function(own) all(own > 0L), NA) else groups == factor
  own <- object$parts[which(groups == factor)]
  view <- object
  view$view <- list(whole_fit = object, levels = levels, include = include)
  view$flist <- object$flist[factor]
  view$effects <- do.call(cbind, lapply(own, `[[`, "effects"))
  view$layers <- unlist(lapply(own, `[[`, "layers"))
  view$theta_bar <- object$theta_bar[colnames(view$effects)]
  view$factor <- blocks_of(lapply(own, `[[`, "factor"))
  codes <- object$added$codes[[which(groups == factor)[1L]]]
  view$added <- list(codes = codes[codes > max(as.integer(object$flist[[factor]]))])
  view
}

# Of each bar of the network the level that each level of a factor belongs to, 0 where the factors are crossed.
levels_of_bars <- function(object, factor) {
  groups <- vapply(object$varying, `[[`, "", "label_group")
  codes <- Map(function(group, k) c(as.integer(object$flist[[group]]), object$added$codes[[k]]), groups,
               seq_along(groups))
  at <- match(factor, groups)
  q <- nrow(object$parts[[at]]$effects)
  lapply(codes, function(own) {
    found <- tapply(own, base::factor(codes[[at]], seq_len(q)), unique, simplify = FALSE)
    if (all(lengths(found) == 1L)) as.integer(unlist(found)) else integer(q)
  })
}

# A matrix with these factors of covariance matrices as its blocks.
blocks_of <- function(factors) {
  factors <- lapply(factors, function(own) if (is.matrix(own)) own else diag(own, length(own)))
  rows <- cumsum(c(0L, vapply(factors, nrow, 0L)))
  columns <- cumsum(c(0L, vapply(factors, ncol, 0L)))
  out <- matrix(0, rows[length(rows)], columns[length(columns)])
  for (k in seq_along(factors)) {
    out[seq.int(rows[k] + 1L, rows[k + 1L]), seq.int(columns[k] + 1L, columns[k + 1L])] <- factors[[k]]
  }
  out
}

# Rows with codes of the factor of a view, with the levels of all bars of the network; ordinary bars take no part.
rows_of_view <- function(object, rows) {
  view <- object$view
  ordinary <- view$whole_fit$bars
  n <- length(rows$codes)
  levels <- Map(function(own, wanted) if (wanted) c(0L, own)[rows$codes + 1L] else integer(n), view$levels,
                view$include)
  columns <- lapply(ordinary, function(bar) matrix(0, n, length(bar$names)))
  c(rows[c("X", "inputs")], list(levels = unname(levels), codes = rep(list(integer(n)), length(ordinary)),
                                 columns = columns))
}

# The network's part, and variances of the mean, for rows with codes of the factor of a view.
view_values <- function(object, rows) {
  several_values(object$view$whole_fit, rows_of_view(object, rows), object$view$include, 0, 0)
}

view_variances <- function(object, rows) {
  none <- lapply(object$view$whole_fit$bars, function(bar) rep(FALSE, length(bar$names)))
  several_variances(object$view$whole_fit, rows_of_view(object, rows),
                    list(varying = object$view$include, include = none))
}

# Random effects of a factor with intervals, levels in order of the first, a panel for each column.
plot_effects <- function(x, factor, level, ...) {
  table <- as.data.frame(ranef(x, condVar = TRUE))
  if (is.null(factor)) factor <- table$grpvar[1L]
  if (!factor %in% table$grpvar) {
    stop(sprintf("there is no grouping factor '%s' to plot: use one of %s.", factor,
                 toString(unique(table$grpvar))), call. = FALSE)
  }
  table <- table[table$grpvar == factor, ]
  first <- table[table$term == table$term[1L], ]
  table$grp <- base::factor(table$grp, first$grp[order(first$condval)])
  table$term <- base::factor(table$term, unique(table$term))
  half <- stats::qnorm((1 + level) / 2) * table$condsd
  colour <- plot_colours[ifelse(abs(table$condval) > half, "orange", "blue")]
  lattice::dotplot(
    grp ~ condval | term, table, xlab = sprintf("mode and %g%% interval (orange: apart from zero)", 100 * level),
    ylab = factor, xlim = grDevices::extendrange(c(table$condval - half, table$condval + half)),
    scales = list(y = list(draw = nlevels(table$grp) <= 60L)),
    panel = function(x, y, subscripts, ...) {
      lattice::panel.abline(v = 0, col = plot_colours[["grey"]])
      at <- as.integer(y)
      lattice::panel.segments(x - half[subscripts], at, x + half[subscripts], at, col = colour[subscripts])
      lattice::panel.points(x, at, pch = 19, cex = 0.6, col = colour[subscripts])
    },
    ...
  )
}
