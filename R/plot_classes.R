# Pictures of probabilities, of effects by factor and class, and of chains; by lattice.

class_colours <- c("#1f6fb4", "#d9622b", "#2a8c57", "#8a4fa3", "#b8860b", "#c2417c", "#4a9aa8", "#6b6b6b")
shown_classes <- 8L
density_from <- 12L # with fewer levels than this a factor's effects are drawn one by one
named_levels <- 60L # with more, names on an axis cannot be read

#' Plot a multinomial fit
#'
#' @param x A fit by `glmernn(family = "multinomial")`.
#' @param kind What to draw:
#'   * `"ranef"`: posterior means with their 95% intervals, a panel for each class (those apart from 0 in orange);
#'   * `"distribution"`: the distribution of the effects of each factor and class, with those of one `row` marked
#'     (Tschalzev et al. 2024, figure 3);
#'   * `"trace"`: variances over the draws, a line for each chain;
#'   * `"calibration"`, `"roc"`: observed classes against probabilities, of the rows of the fit or of `newdata`;
#'   * `"history"`, `"importance"`, `"partial"`: of networks, as in [plot.merModNN()].
#' @param term The grouping factor, for `"ranef"`; by default the first.
#' @param column The column whose effects are shown, for `"ranef"`; by default the first.
#' @param classes Names of the classes to show; by default up to eight.
#' @param row The name of a row of the data, for `"distribution"`.
#' @param newdata A data frame with the response, best of rows that the model has not learnt from.
#' @param bins How many bins of equal size, for `"calibration"`.
#' @param inputs,n_repeats,seed,grid_size As in [plot.merModNN()].
#' @param ... Arguments of [lattice::xyplot()].
#' @return A lattice plot, drawn when printed.
#' @export
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(x = rnorm(300), g = gl(15, 20))
#' eta <- cbind(a = 0, b = d$x, c = rnorm(15)[d$g])
#' d$y <- factor(apply(eta, 1, function(e) sample(colnames(eta), 1, prob = exp(e))))
#' fit <- glmernn(y ~ x + (1 | g), d, family = "multinomial", seed = 1)
#' plot(fit)
#' plot(fit, "distribution", row = "7")
#' plot(fit, "calibration")
plot.multinomialModNN <- function(x, kind = "ranef", term = NULL, column = NULL, classes = NULL, row = NULL,
                                  newdata = NULL, bins = 10, inputs = NULL, n_repeats = 5, seed = 0, grid_size = 40,
                                  ...) {
  kinds <- c("ranef", "distribution", "trace", "calibration", "roc", "history", "importance", "partial")
  if (!is.character(kind) || !isTRUE(kind %in% kinds)) {
    stop(sprintf("plot() of a multinomial model has no kind '%s': use one of %s.", format(kind)[1L],
                 paste(kinds, collapse = ", ")), call. = FALSE)
  }
  shown <- some_classes(x, classes)
  switch(
    kind,
    ranef = plot_class_ranef(x, term, column, shown, ...),
    distribution = plot_distribution(x, row, shown, ...),
    trace = plot_trace(x, ...),
    calibration = plot_calibration(x, newdata, bins, ...),
    roc = plot_roc(x, newdata, ...),
    history = plot_history(x, ...),
    importance = plot_importance(x, n_repeats, seed, ...),
    partial = plot_partial(x, inputs, grid_size, seed, ...)
  )
}

some_classes <- function(object, classes) {
  unknown <- setdiff(classes, object$classes)
  if (length(unknown)) {
    stop(sprintf("there is no class '%s': use %s.", unknown[1L], paste(object$classes, collapse = ", ")), call. = FALSE)
  }
  if (is.null(classes)) utils::head(object$classes, shown_classes) else classes
}

# The name asked for, by default the first.
one_of <- function(what, name, known) {
  if (is.null(name)) {
    return(known[1L])
  }
  if (!name %in% known) {
    stop(sprintf("there is no %s '%s': use %s.", what, name, paste(known, collapse = ", ")), call. = FALSE)
  }
  name
}

plot_class_ranef <- function(x, term, column, shown, ...) {
  table <- as.data.frame(ranef(x))
  group <- one_of("grouping factor", term, names(x$flist))
  table <- table[table$grpvar == group, ]
  chosen <- one_of("column", column, unique(table$term))
  table <- table[table$term == chosen & table$class %in% shown, ]
  first <- table[table$class == shown[1L], ]
  table$grp <- factor(table$grp, first$grp[order(first$condval)])
  table$class <- factor(table$class, shown)
  half <- stats::qnorm(0.975) * table$condsd
  named <- nlevels(table$grp) <= named_levels
  lattice::xyplot(
    grp ~ condval | class, table, layout = c(length(shown), 1L), ylab = group,
    xlab = paste("effect of", if (chosen == "(Intercept)") group else paste(chosen, "by", group)),
    xlim = grDevices::extendrange(c(table$condval - half, table$condval + half)), half = half,
    scales = list(y = list(draw = named, cex = 0.7)),
    panel = function(x, y, subscripts, half, ...) {
      reach <- half[subscripts]
      colour <- plot_colours[ifelse(abs(x) > reach, "orange", "blue")]
      lattice::panel.abline(v = 0, col = plot_colours[["grey"]])
      lattice::panel.segments(x - reach, y, x + reach, y, col = colour, alpha = 0.55)
      lattice::panel.points(x, y, pch = 19, cex = if (named) 0.5 else 0.2, col = colour)
    },
    ...
  )
}

# Effects of each term and column, and of each class where there are some: a list of list(panel, class, values, mark).
effect_panels <- function(object, row, shown) {
  at <- if (!is.null(row)) match(as.character(row), row.names(object$frame))
  if (isTRUE(is.na(at))) {
    stop(sprintf("there is no row '%s' among those of the fit.", row), call. = FALSE)
  }
  made <- lapply(seq_len(n_terms(object)), function(k) {
    codes <- as.integer(term_factors(object)[[k]])
    lapply(seq_along(object$cnms[[k]]), function(j) {
      column <- object$cnms[[k]][j]
      group <- names(object$cnms)[k]
      name <- if (column == "(Intercept)") group else paste(column, "by", group)
      if (is.null(object$classes)) {
        values <- list(object$b[[k]][j, ])
      } else {
        values <- lapply(match(shown, object$classes), function(c) object$b[[k]][, j, c])
      }
      Map(function(values, class) list(panel = name, class = class, values = values, mark = values[codes[at]]), values,
          if (is.null(object$classes)) "" else shown)
    })
  })
  unlist(unlist(made, recursive = FALSE), recursive = FALSE)
}

plot_distribution <- function(x, row, shown = NULL, ...) {
  parts <- effect_panels(x, row, shown)
  several <- !is.null(x$classes)
  table <- do.call(rbind, lapply(parts, function(part) {
    data.frame(effect = part$values, panel = part$panel, class = part$class)
  }))
  table$panel <- factor(table$panel, unique(table$panel))
  table$class <- factor(table$class, unique(table$class))
  marks <- lapply(parts, `[[`, "mark")
  observed <- if (!is.null(row)) sprintf("dashed: row %s", row)
  reach <- 1.06 * max(abs(table$effect), 1e-12)
  lattice::xyplot(
    effect ~ effect | class * panel, table, as.table = TRUE, ylab = "", main = list(observed, cex = 0.9, font = 1),
    xlab = if (several) "effect, added to the linear predictor of the class" else "effect", xlim = c(-reach, reach),
    ylim = c(0, 1.15), scales = list(y = list(draw = FALSE)),
    strip = if (several) TRUE else lattice::strip.custom(which.given = 2L),
    panel = function(x, ...) {
      lattice::panel.abline(v = 0, col = plot_colours[["grey"]])
      if (length(x) >= density_from && diff(range(x)) > 0) {
        curve <- stats::density(x, n = 400L)
        lattice::panel.polygon(curve$x, curve$y / max(curve$y), col = plot_colours[["blue"]], alpha = 0.25, border = NA)
        lattice::panel.lines(curve$x, curve$y / max(curve$y), col = plot_colours[["blue"]], lwd = 1.4)
      } else {
        lattice::panel.segments(x, 0, x, 0.5, col = plot_colours[["blue"]])
      }
      mark <- marks[[lattice::packet.number()]]
      if (length(mark)) {
        lattice::panel.abline(v = mark, col = plot_colours[["orange"]], lty = 2, lwd = 1.6)
        lattice::panel.text(mark, 1.08, sprintf("%+.2f", mark), pos = if (mark > 0.35 * reach) 2 else 4, cex = 0.7,
                            col = plot_colours[["orange"]])
      }
    },
    ...
  )
}

shown_traces <- 12L

plot_trace <- function(x, ...) {
  if (is.null(x$draws)) {
    stop("this fit has no draws: fit with method = \"mcem\" to sample the random effects.", call. = FALSE)
  }
  values <- x$draws$variances
  first <- seq_len(min(dim(values)[3L], shown_traces))
  table <- expand.grid(chain = factor(seq_len(dim(values)[1L])), draw = seq_len(dim(values)[2L]), name = first)
  table$value <- as.vector(values[, , first])
  table$name <- factor(x$draws$names[table$name], x$draws$names)
  lattice::xyplot(
    value ~ draw | name, table, groups = table$chain, type = "l", as.table = TRUE, ylab = "variance",
    main = list(sprintf("%d chains, largest R-hat %.2f, smallest ESS %.0f", x$draws$n_chains, x$draws$rhat,
                        x$draws$ess), cex = 0.9, font = 1),
    scales = list(y = list(relation = "free")),
    par.settings = list(superpose.line = list(col = class_colours)), ...
  )
}

# Probabilities and observed shares of the classes (n x C each), trials of each row, and which rows these are.
observed_classes <- function(object, newdata) {
  family <- object$settings$family
  if (!is_categorical(family) && !is_family(family, "binomial")) {
    stop(sprintf("this picture is of classes, not of the %s family.", sub("\\(.*", "", object$family$family)),
         call. = FALSE)
  }
  if (is.null(newdata)) {
    frame <- object$frame
    P <- if (is_categorical(family)) fitted(object) else fitted_rows(object)
    P <- if (is.matrix(P)) P[stats::complete.cases(P), , drop = FALSE] else cbind(1 - P, P)
    note <- sprintf("%d rows of the fit", nrow(frame))
  } else {
    frame <- new_frame(object, newdata)
    P <- predict(object, newdata[row.names(frame), , drop = FALSE], type = "prob", allow.new.levels = TRUE)
    note <- sprintf("%d new rows", nrow(frame))
  }
  observed <- observed_in(frame, family)
  y <- observed$y
  shares <- if (is_categorical(family)) outer(y, seq_len(ncol(P)) - 1, `==`) + 0 else cbind(1 - y, y)
  classes <- if (is.null(object$classes)) response_names(object) else object$classes
  colnames(P) <- colnames(shares) <- classes
  trials <- if (is_categorical(family) || is.null(observed$weights)) rep(1, nrow(P)) else observed$weights
  frequent <- utils::head(order(-colSums(shares)), shown_classes)
  list(P = P, shares = shares, trials = trials, note = note, shown = if (ncol(P) == 2L) 2L else sort(frequent),
       classes = classes)
}

# Predicted probabilities against observed shares in bins of equal size, with Wilson's limits.
calibration_table <- function(probability, share, trials, bins, level = 0.95) {
  edges <- unique(stats::quantile(probability, seq(0, 1, length.out = bins + 1), names = FALSE))
  place <- factor(findInterval(probability, edges, all.inside = TRUE))
  n <- as.vector(tapply(trials, place, sum))
  predicted <- as.vector(tapply(trials * probability, place, sum)) / n
  observed <- as.vector(tapply(trials * share, place, sum)) / n
  z <- stats::qnorm((1 + level) / 2)
  centre <- (observed + z^2 / (2 * n)) / (1 + z^2 / n)
  half <- z / (1 + z^2 / n) * sqrt(observed * (1 - observed) / n + z^2 / (4 * n^2))
  data.frame(predicted = predicted, observed = observed, lwr = centre - half, upr = centre + half, n = n)
}

plot_calibration <- function(x, newdata, bins, ...) {
  if (!is.numeric(bins) || length(bins) != 1L || !isTRUE(bins >= 2)) {
    stop(sprintf("bins is %s: it must be at least 2.", deparse1(bins)), call. = FALSE)
  }
  seen <- observed_classes(x, newdata)
  table <- do.call(rbind, lapply(seen$shown, function(c) {
    cbind(calibration_table(seen$P[, c], seen$shares[, c], seen$trials, bins), class = seen$classes[c])
  }))
  table$class <- factor(table$class, seen$classes[seen$shown])
  lattice::xyplot(
    observed ~ predicted, table, groups = table$class, aspect = "iso", xlim = c(-0.03, 1.03), ylim = c(-0.03, 1.03),
    xlab = class_label("predicted probability", levels(table$class)), ylab = "observed share, with 95% limits",
    main = list(seen$note, cex = 0.9, font = 1), key = class_key(levels(table$class)), limits = table[c("lwr", "upr")],
    panel = function(x, y, groups, subscripts, limits, ...) {
      lattice::panel.abline(0, 1, col = plot_colours[["grey"]])
      colour <- class_colours[as.integer(groups)[subscripts]]
      lattice::panel.segments(x, limits$lwr[subscripts], x, limits$upr[subscripts], col = colour)
      for (class in unique(colour)) {
        lattice::panel.xyplot(x[colour == class], y[colour == class], type = "b", pch = 19, col = class)
      }
    },
    ...
  )
}

# False and true positive rates at every threshold; tied scores are one step.
roc_curve <- function(score, share, trials) {
  place <- match(-score, sort(unique(-score)))
  hits <- as.vector(tapply(trials * share, place, sum))
  misses <- as.vector(tapply(trials * (1 - share), place, sum))
  if (sum(hits) <= 0 || sum(misses) <= 0) {
    stop("a ROC curve needs rows of both classes.", call. = FALSE)
  }
  data.frame(false = c(0, cumsum(misses) / sum(misses)), true = c(0, cumsum(hits) / sum(hits)))
}

area_under <- function(curve) {
  n <- nrow(curve)
  sum(diff(curve$false) * (curve$true[-1L] + curve$true[-n]) / 2)
}

plot_roc <- function(x, newdata, ...) {
  seen <- observed_classes(x, newdata)
  present <- Filter(function(c) any(seen$shares[, c] > 0) && any(seen$shares[, c] < 1), seen$shown)
  curves <- lapply(present, function(c) roc_curve(seen$P[, c], seen$shares[, c], seen$trials))
  areas <- vapply(curves, area_under, 0)
  labels <- sprintf("AUC %.3f", areas)
  if (length(present) > 1L) labels <- paste0(seen$classes[present], ": ", labels)
  table <- do.call(rbind, Map(cbind, curves, class = labels))
  table$class <- factor(table$class, labels)
  lattice::xyplot(
    true ~ false, table, groups = table$class, type = "l", aspect = "iso", xlab = "false positive rate",
    ylab = class_label("true positive rate", seen$classes[present]), main = list(seen$note, cex = 0.9, font = 1),
    key = class_key(labels, always = TRUE), par.settings = list(superpose.line = list(col = class_colours, lwd = 1.8)),
    panel = function(...) {
      lattice::panel.abline(0, 1, col = plot_colours[["grey"]], lty = 2)
      lattice::panel.superpose(...)
    },
    ...
  )
}

class_label <- function(what, classes) if (length(classes) == 1L) paste(what, "of", classes) else what

class_key <- function(labels, always = FALSE) {
  if (length(labels) > 1L || always) {
    list(lines = list(col = class_colours[seq_along(labels)], lwd = 1.8), text = list(labels, cex = 0.8),
         columns = min(length(labels), 3L))
  }
}
