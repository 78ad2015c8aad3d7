# Pictures of a fit, all by lattice.

#' Plot a fit
#'
#' @param x A fit by [lmernn()].
#' @param form A formula as in [lme4::plot.merMod()], handled by lme4; only where there are no networks, `gp()` or
#'   `embed()`; or a text, which is taken as `kind`.
#' @param kind What to draw:
#'   * `"residuals"`: standardized residuals against fitted values;
#'   * `"predicted"`: observed against predicted responses, on rows that the networks have not learnt from where there
#'     are any;
#'   * `"history"`: training and held-out error of the networks against epochs, the epoch that was kept marked;
#'   * `"importance"`: [importance()] of the inputs, with two standard errors;
#'   * `"partial"`: [partial_dependence()] on `inputs` (by default the six most important), a panel each; on a `pair` of
#'     inputs as a map;
#'   * `"variogram"`: half the mean squared difference of two rows' residuals (the field left in) against the distance
#'     of their locations, with the curve that a `gp()` has estimated;
#'   * `"map"`: a `gp()` or `embed()` over the region of its locations;
#'   * `"distribution"`: the distribution of the effects of each grouping factor, with those of one `row` marked;
#'   * `"calibration"`, `"roc"`: observed classes against probabilities, of binomial and ordinal models, of the rows of
#'     the fit or of `newdata`;
#'   * `"trace"`: variances over the draws of method `"mcem"`, a line for each chain.
#' @param inputs Names of inputs, for `"partial"`.
#' @param pair Two inputs, for `"partial"`.
#' @param term Which field, for `"variogram"` and `"map"`: `"gp(lon, lat)"`; by default the first.
#' @param row The name of a row of the data, for `"distribution"`.
#' @param newdata A data frame with the response, best of rows that the model has not learnt from, for `"calibration"`
#'   and `"roc"`.
#' @param bins How many bins of equal size, for `"calibration"`.
#' @param n_repeats,seed As in [importance()].
#' @param grid_size Points along an axis, for `"partial"` and `"map"`.
#' @param ... Arguments of [lattice::xyplot()], or of lme4's method where `form` is given.
#' @return A lattice plot, drawn when printed.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' plot(fit)
#' plot(fit, kind = "predicted")
plot.merModNN <- function(x, form = NULL, kind = "residuals", inputs = NULL, pair = NULL, term = NULL, n_repeats = 5,
                          seed = 0, grid_size = 40, row = NULL, newdata = NULL, bins = 10, ...) {
  if (is.character(form)) {
    kind <- form
  } else if (!is.null(form)) {
    return(plot(as_merMod(x), form, ...))
  }
  kinds <- c("residuals", "predicted", "history", "importance", "partial", "variogram", "map", "distribution",
             "calibration", "roc", "trace")
  if (!is.character(kind) || !isTRUE(kind %in% kinds)) {
    stop(sprintf("plot() has no kind '%s': use one of %s.", format(kind)[1L], paste(kinds, collapse = ", ")),
         call. = FALSE)
  }
  switch(
    kind,
    residuals = plot_residuals(x, ...),
    predicted = plot_predicted(x, ...),
    history = plot_history(x, ...),
    importance = plot_importance(x, n_repeats, seed, ...),
    partial = if (is.null(pair)) {
      plot_partial(x, inputs, grid_size, seed, ...)
    } else {
      plot_pair(x, pair, grid_size, seed, ...)
    },
    variogram = plot_variogram(x, which_field(x, term, "gp"), seed, ...),
    map = plot_map(x, which_field(x, term, location_terms), grid_size, ...),
    distribution = plot_distribution(x, row, ...),
    calibration = plot_calibration(x, newdata, bins, ...),
    roc = plot_roc(x, newdata, ...),
    trace = plot_trace(x, ...)
  )
}

plot_colours <- c(blue = "#1f6fb4", orange = "#d9622b", grey = "grey60")

plot_residuals <- function(x, ...) {
  fitted <- fitted_rows(x)
  residual <- residual_rows(x, "pearson") / sigma(x)
  lattice::xyplot(
    residual ~ fitted, data.frame(fitted = fitted, residual = residual),
    xlab = "Fitted values", ylab = "Standardized residuals",
    panel = function(x, y, ...) {
      lattice::panel.abline(h = 0, col = plot_colours[["grey"]])
      lattice::panel.xyplot(x, y, ...)
    },
    ...
  )
}

plot_predicted <- function(x, ...) {
  response <- names(x$frame)[1L]
  shown <- rows_to_show(x)
  points <- data.frame(predicted = fitted_rows(x), observed = response_values(x))[shown$rows, ]
  range <- range(points)
  lattice::xyplot(
    observed ~ predicted, points, xlab = paste("predicted", response), ylab = paste("observed", response),
    main = list(sprintf("%s, root mean squared error %.4g", shown$note,
                        sqrt(mean((points$observed - points$predicted)^2))), cex = 0.9, font = 1),
    aspect = "iso", xlim = grDevices::extendrange(range), ylim = grDevices::extendrange(range),
    panel = function(x, y, ...) {
      lattice::panel.xyplot(x, y, pch = 19, cex = 0.4, alpha = max(0.15, min(0.6, 500 / length(x))),
                            col = plot_colours[["blue"]])
      lattice::panel.abline(0, 1, col = plot_colours[["orange"]])
    },
    ...
  )
}

# Rows whose predictions are out of sample for the networks, where there are any: list(rows, note).
rows_to_show <- function(object) {
  all <- seq_len(nrow(object$frame))
  networks <- object$networks
  if (is.null(networks)) {
    return(list(rows = all, note = sprintf("%d rows of the fit", length(all))))
  }
  if (isTRUE(networks$out_of_fold)) {
    return(list(rows = all, note = sprintf("%d rows, networks out of fold", length(all))))
  }
  unseen <- which(networks$held_out)
  if (length(unseen) > 1L) {
    return(list(rows = unseen, note = sprintf("%d rows held out in training", length(unseen))))
  }
  list(rows = all, note = sprintf("%d rows that the networks learnt from", length(all)))
}

plot_history <- function(x, ...) {
  table <- history(x)
  curves <- c(loss = "rows learnt from", validation = "rows held out", validation_levels = "whole levels held out")
  curves <- curves[vapply(names(curves), function(name) any(is.finite(table[[name]])), NA)]
  lines <- do.call(rbind, lapply(names(curves), function(name) {
    data.frame(table[c("member", "epoch")], error = table[[name]], rows = curves[[name]])
  }))
  lines$rows <- factor(lines$rows, curves)
  lines$member <- factor(lines$member, unique(table$member), paste("network", unique(table$member) + 1))
  kept <- x$networks$best_epoch
  colours <- plot_colours[c(loss = "grey", validation = "blue", validation_levels = "orange")[names(curves)]]
  lattice::xyplot(
    error ~ epoch | member, lines, groups = lines$rows, type = "l", as.table = TRUE,
    xlab = "epoch", ylab = x$networks$criterion,
    key = list(lines = list(col = unname(colours)), text = list(levels(lines$rows)), columns = length(curves)),
    par.settings = list(superpose.line = list(col = unname(colours), lwd = 1.5)),
    panel = function(x, y, ...) {
      lattice::panel.superpose(x, y, ...)
      lattice::panel.abline(v = kept[lattice::packet.number()], col = "grey30", lty = 2)
    },
    ...
  )
}

plot_importance <- function(x, n_repeats, seed, ...) {
  table <- importance(x, n_repeats, seed)
  if (length(unique(table$network)) > 1L) table$input <- paste0(table$input, " in ", substr(table$network, 1L, 24L))
  table <- table[order(table$importance), ]
  reach <- 2 * ifelse(is.na(table$se), 0, table$se)
  lattice::dotplot(
    factor(table$input, unique(table$input)) ~ table$importance,
    xlab = if (isGLMM(x)) {
      sprintf("rise of the deviance when permuted,\nas share of that of a constant mean of %s", names(x$frame)[1L])
    } else {
      sprintf("rise of the squared error when permuted,\nas share of var(%s)", names(x$frame)[1L])
    },
    xlim = grDevices::extendrange(c(0, table$importance - reach, table$importance + reach)),
    panel = function(x, y, ...) {
      lattice::panel.abline(v = 0, col = plot_colours[["grey"]])
      lattice::panel.segments(x - reach, y, x + reach, y, col = "grey40")
      lattice::panel.dotplot(x, y, pch = 19, col = plot_colours[["blue"]])
    },
    ...
  )
}

plot_partial <- function(x, inputs, grid_size, seed, ...) {
  need_network(x, "there is no input to vary")
  if (is.null(inputs)) inputs <- most_important(x)
  curves <- lapply(inputs, function(input) {
    table <- partial_dependence(x, input, grid_size, seed)
    levels <- levels(table[[1L]])
    class <- if (is.null(table$class)) "" else table$class
    list(points = data.frame(input = input, value = as.numeric(table[[1L]]), f = table$f, class = class),
         levels = levels,
         at = if (is.null(levels)) pretty(table[[1L]]) else seq_along(levels))
  })
  points <- do.call(rbind, lapply(curves, `[[`, "points"))
  points$input <- factor(points$input, inputs)
  labels <- lapply(curves, function(curve) if (is.null(curve$levels)) format(curve$at, trim = TRUE) else curve$levels)
  is_factor <- !vapply(lapply(curves, `[[`, "levels"), is.null, NA)
  points$class <- factor(points$class, unique(points$class))
  several <- nlevels(points$class) > 1L
  lattice::xyplot(
    f ~ value | input, points, xlab = "", as.table = TRUE, groups = points$class,
    ylab = if (several) "f, added to each class" else sprintf("f, part of %s", names(x$frame)[1L]),
    key = if (several) class_key(levels(points$class)),
    scales = list(x = list(relation = "free", at = lapply(curves, `[[`, "at"), labels = labels)),
    between = list(x = 1), # else labels of neighbours run together
    panel = function(x, y, groups, subscripts, ...) {
      lattice::panel.abline(h = 0, col = plot_colours[["grey"]])
      factors <- is_factor[lattice::packet.number()]
      type <- if (!factors) "l" else if (several) "b" else c("p", "h")
      of_class <- as.integer(groups)[subscripts]
      for (c in unique(of_class)) {
        lattice::panel.xyplot(x[of_class == c], y[of_class == c], type = type, pch = 19, lwd = 1.5,
                              col = class_colours[(c - 1L) %% length(class_colours) + 1L], origin = 0)
      }
    },
    ...
  )
}

# The inputs that have a curve, at most six, the most important first.
most_important <- function(object, most = 6L) {
  arrays <- unlist(lapply(object$networks$inputs, function(network) {
    names <- vapply(network$inputs, deparse1, "")
    names[vapply(names, function(name) NCOL(object$frame[[name]]) > 1L, NA)]
  }))
  table <- importance(object)
  inputs <- setdiff(table$input[order(-table$importance)], arrays)
  if (length(inputs) == 0L) {
    stop("all inputs of the networks hold arrays, so there is no curve of them.", call. = FALSE)
  }
  inputs[seq_len(min(most, length(inputs)))]
}

plot_pair <- function(x, pair, grid_size, seed, ...) {
  if (length(pair) != 2L) {
    stop(sprintf("pair has %d inputs: name two.", length(pair)), call. = FALSE)
  }
  table <- partial_dependence(x, pair, grid_size, seed)
  draw_map(table[[1L]], table[[2L]], table$f, pair, sprintf("f, part of %s", names(x$frame)[1L]), ...)
}

# A map of z around zero: blue below, white at zero, red above.
draw_map <- function(x, y, z, names, title, ...) {
  reach <- max(abs(z), 1e-12)
  lattice::levelplot(
    z ~ x * y, xlab = names[1L], ylab = names[2L], main = list(title, cex = 1, font = 1),
    at = seq(-reach, reach, length.out = 100), col.regions = grDevices::hcl.colors(100, "Blue-Red 3"), ...
  )
}

# The number of the term that is a field; `kinds` are covariances that will do.
which_field <- function(object, term, kinds) {
  found <- which(vapply(object$bars, function(bar) is_located(bar) && bar$covariance %in% kinds, NA))
  labels <- vapply(object$bars[found], `[[`, "", "label_group")
  if (length(found) == 0L) {
    stop("this model has no field: it needs a term such as gp(lon, lat).", call. = FALSE)
  }
  if (is.null(term)) {
    return(found[1L])
  }
  if (!term %in% labels) {
    stop(sprintf("the model has no field '%s': it has %s.", term, paste(labels, collapse = ", ")), call. = FALSE)
  }
  found[match(term, labels)]
}

rows_of_variogram <- 2000L # their pairs are drawn: two million

plot_variogram <- function(x, k, seed, ...) {
  table <- variogram_of(x, k, seed)
  theta <- theta_of(x, k)
  correlation <- correlations[[x$bars[[k]]$options$cov]]
  noise <- x$sigma^2 * mean(1 / row_weights(x))
  curve <- function(distance) noise + (x$sigma * theta[1L])^2 * (1 - correlation(distance / theta[2L]))
  lattice::xyplot(
    gamma ~ distance, table, xlab = "distance", ylab = "semivariance",
    main = list(x$bars[[k]]$label, cex = 1, font = 1),
    xlim = c(0, 1.04 * max(table$distance)), ylim = c(0, 1.08 * max(table$gamma, curve(max(table$distance)))),
    panel = function(x, y, ...) {
      lattice::panel.xyplot(x, y, pch = 19, col = plot_colours[["blue"]])
      at <- seq(0, max(x), length.out = 200)
      lattice::panel.lines(at, curve(at), col = plot_colours[["orange"]], lwd = 1.5)
    },
    ...
  )
}

# Half the mean squared difference of residuals that keep the field of term k, in bins of distance (the first for one
# place): data frame with distance, gamma and pairs. At most `rows_of_variogram` rows, distances up to half the largest.
variogram_of <- function(object, k, seed, bins = 15L) {
  codes <- as.integer(term_factors(object)[[k]])
  residual <- response_of(object$frame) - fitted_rows(object) + object$b[[k]][1L, codes]
  state <- random_state(seed)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  rows <- sample.int(length(codes), min(length(codes), rows_of_variogram))
  places <- object$bars[[k]]$locations[codes[rows], , drop = FALSE]
  distance <- as.vector(stats::dist(places))
  gamma <- as.vector(stats::dist(residual[rows]))^2 / 2
  bin <- findInterval(distance, c(0, seq(.Machine$double.xmin, max(distance) / 2, length.out = bins + 1L)))
  pairs <- tabulate(bin, bins + 1L)
  shown <- which(pairs >= min(30, max(pairs)))
  data.frame(
    distance = as.vector(tapply(distance, bin, mean)[as.character(shown)]),
    gamma = as.vector(tapply(gamma, bin, mean)[as.character(shown)]),
    pairs = pairs[shown]
  )
}

plot_map <- function(x, k, grid_size, ...) {
  bar <- x$bars[[k]]
  names <- vapply(bar$coordinates, deparse1, "")
  if (ncol(bar$locations) == 1L) {
    at <- seq(min(bar$locations), max(bar$locations), length.out = 5L * grid_size)
    curve <- data.frame(at = at, value = field_at(x, k, matrix(at)))
    return(lattice::xyplot(value ~ at, curve, type = "l", xlab = names, ylab = bar$label,
                           col = plot_colours[["blue"]], ...))
  }
  if (ncol(bar$locations) > 2L) {
    stop(sprintf("a map needs one or two coordinates, and %s has %d.", bar$label, ncol(bar$locations)), call. = FALSE)
  }
  axes <- lapply(1:2, function(j) seq(min(bar$locations[, j]), max(bar$locations[, j]), length.out = grid_size))
  places <- as.matrix(expand.grid(axes))
  known <- bar$locations
  draw_map(
    places[, 1L], places[, 2L], field_at(x, k, places), names, bar$label,
    panel = function(...) {
      lattice::panel.levelplot(...)
      lattice::panel.points(known[, 1L], known[, 2L], pch = 3, cex = 0.3, col = "grey25")
    },
    ...
  )
}
