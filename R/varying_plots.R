# Pictures of networks that vary by group, all by lattice.

#' @rdname varying
#' @param kind What to draw:
#'   * `"curves"`: the generic curve along one `input` and that of each level, all else at its mean, with bands of the
#'     levels named in `groups`;
#'   * `"shrinkage"`: how far each level's network lies from the generic one, against its number of rows, with what
#'     shrinkage lets expect;
#'   * `"baseline"`: deviations of the last layer's bias against the mean response of each level, as figure 4 of Woerner
#'     et al. (2023);
#'   * `"variances"`: standard deviations of the parameters by layer;
#'   * `"ranef"`: random effects of a `factor` with intervals, where there are several bars (ordinary ones too);
#'   * `"residuals"`, `"predicted"`, `"history"`, `"importance"` and `"partial"` as in [plot.merModNN()].
#' @param input The name of a number that the network takes; by default the one of most importance.
#' @export
plot.varyingModNN <- function(x, kind = "residuals", input = NULL, groups = NULL, level = 0.9, ...) {
  if (inherits(kind, "formula")) not_varying("plot() of a formula", "name a kind of picture")
  one <- x$networks$outputs == 1L
  kinds <- c(if (!has_classes(x)) c("residuals", "predicted"), "history",
             if (one) c("curves", "shrinkage", "baseline"), "variances", "importance", "partial")
  if (!isTRUE(kind %in% kinds)) {
    not_varying(sprintf("plot(kind = \"%s\")", format(kind)[1L]), paste("use one of", paste(kinds, collapse = ", ")))
  }
  switch(
    kind,
    curves = plot_curves(x, input, groups, level, ...),
    shrinkage = plot_shrinkage(x, ...),
    baseline = plot_baseline(x, ...),
    variances = plot_variances(x, ...),
    plot.merModNN(x, kind = kind, ...)
  )
}

band_colours <- c("#d9622b", "#2a9d5c", "#7b52ab", "#c23b75", "#8c6d1f", "#17899a") # of groups that are named
most_curves <- 300L
points_of_curve <- 60L

# A curve for each group along one input, all else at its mean; those that are named with bands of their mean.
plot_curves <- function(x, input, groups, level, ...) {
  at <- curve_rows(x, input)
  q <- nrow(x$effects)
  named <- if (is.null(groups)) integer(0) else level_codes(x, groups)
  if (length(named) > length(band_colours)) {
    stop(sprintf("%d groups are too many to tell apart: name at most %d.", length(named), length(band_colours)),
         call. = FALSE)
  }
  shown <- sort(union(named, with_state(0, sample.int(q, min(q, most_curves)))))
  codes <- rep(c(shown, 0L), each = points_of_curve)
  rows <- list(codes = codes, inputs = at$inputs[rep(seq_len(points_of_curve), length(shown) + 1L), , drop = FALSE])
  f <- matrix(at$level + varying_values(x, rows, 0, 0), points_of_curve)
  bands <- lapply(named, function(code) {
    one <- list(codes = rep(code, points_of_curve), inputs = at$inputs, X = at$X)
    stats::qnorm((1 + level) / 2) * sqrt(varying_variances(x, one, TRUE)$variance)
  })
  place <- match(named, shown)
  reach <- range(f, unlist(Map(function(k, half) c(f[, k] - half, f[, k] + half), place, bands)))
  group <- names(x$flist)
  note <- if (length(named)) sprintf(", %g%% bands", 100 * level) else ""
  lattice::xyplot(
    c(f) ~ rep(at$x, ncol(f)), xlab = at$name, ylim = grDevices::extendrange(reach),
    ylab = paste0(if (isGLMM(x)) "linear predictor of ", names(x$frame)[1L]),
    main = list(sprintf("%d curves by %s%s", q, group, note), cex = 0.9, font = 1),
    key = list(
      lines = list(col = c("black", band_colours[seq_along(named)]), lwd = 2),
      text = list(c("generic network", sprintf("%s %s", group, rownames(x$effects)[named])), cex = 0.8),
      columns = min(3L, 1L + length(named))
    ),
    panel = function(...) {
      faint <- grDevices::adjustcolor("grey50", max(0.12, min(0.6, 15 / length(shown))))
      for (k in setdiff(seq_along(shown), place)) lattice::panel.lines(at$x, f[, k], col = faint)
      for (j in seq_along(named)) {
        own <- f[, place[j]]
        lattice::panel.polygon(c(at$x, rev(at$x)), c(own - bands[[j]], rev(own + bands[[j]])), border = NA,
                               col = grDevices::adjustcolor(band_colours[j], 0.18))
        lattice::panel.lines(at$x, own, col = band_colours[j], lwd = 1.6)
      }
      lattice::panel.lines(at$x, f[, ncol(f)], col = "black", lwd = 2.2)
    },
    ...
  )
}

# Runs code with a seed of its own.
with_state <- function(seed, code) {
  state <- random_state(seed)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  force(code)
}

# Rows along one input: list(name, x, inputs, X, level), `level` being the intercept's part.
curve_rows <- function(object, input) {
  network <- network_inputs(object$networks$inputs[[1L]], object$frame)
  numbers <- network$names[vapply(network$levels, is.null, NA)]
  if (is.null(input)) {
    table <- importance(object)
    input <- setdiff(table$input[order(-table$importance)], setdiff(network$names, numbers))[1L]
  }
  if (!isTRUE(input %in% numbers)) {
    stop(sprintf("'%s' is no number that the network takes: it has %s.", input, abbreviate_list(numbers)),
         call. = FALSE)
  }
  values <- network$values
  centre <- vapply(seq_len(ncol(values)), function(j) {
    if (is.null(network$levels[[j]])) mean(values[, j]) else which.max(tabulate(values[, j] + 1L)) - 1
  }, 0)
  ends <- stats::quantile(values[, match(input, network$names)], c(0.01, 0.99), names = FALSE)
  along <- seq(ends[1L], ends[2L], length.out = points_of_curve)
  inputs <- matrix(centre, points_of_curve, length(centre), byrow = TRUE)
  inputs[, match(input, network$names)] <- along
  X <- fixed_matrix(object)
  constant <- apply(X, 2L, function(column) if (all(column == column[1L])) column[1L] else 0)
  X <- matrix(constant, points_of_curve, ncol(X), byrow = TRUE)
  list(name = input, x = along, inputs = inputs, X = X, level = as.vector(X %*% object$beta))
}

# Distances of groups' networks from the generic one against their rows, with what shrinkage lets expect.
plot_shrinkage <- function(x, ...) {
  table <- distances_of(x)
  line <- table[!is.na(table$expected), ]
  line <- stats::aggregate(expected ~ rows, line, mean)
  wide <- max(table$rows) > 8 * max(1, min(table$rows))
  lattice::xyplot(
    distance ~ pmax(rows, 0.5), table, xlab = paste("rows of each", names(x$flist)),
    ylab = "distance from the generic network (rms)",
    scales = if (wide) list(x = list(log = 10, equispaced.log = FALSE)) else list(),
    ylim = c(0, 1.1 * max(table$distance, table$prior)),
    key = list(
      text = list(c("expected, after shrinkage", "of the groups as they are, by the variances"), cex = 0.8),
      lines = list(col = c(plot_colours[["orange"]], "grey50"), lwd = 2, lty = c(1, 2))
    ),
    panel = function(x, y, ...) {
      at <- if (wide) log10(pmax(line$rows, 0.5)) else line$rows
      lattice::panel.abline(h = table$prior[1L], col = "grey50", lty = 2)
      lattice::panel.lines(at, line$expected, col = plot_colours[["orange"]], lwd = 1.6)
      if (length(at) == 1L) lattice::panel.points(at, line$expected, pch = 19, col = plot_colours[["orange"]])
      lattice::panel.xyplot(x, y, pch = 19, alpha = max(0.3, min(0.8, 60 / length(x))), col = plot_colours[["blue"]])
    },
    ...
  )
}

# Levels by rows, distance, prior and, of at most `most_curves`, what to expect: a data frame.
distances_of <- function(object) {
  inputs <- network_inputs(object$networks$inputs[[1L]], object$frame)$values
  some <- with_state(0, sort(sample.int(nrow(inputs), min(nrow(inputs), 100L))))
  inputs <- inputs[some, , drop = FALSE]
  q <- nrow(object$effects)
  m <- nrow(inputs)
  codes <- rep(c(seq_len(q), 0L), each = m)
  rows <- list(codes = codes, inputs = inputs[rep(seq_len(m), q + 1L), , drop = FALSE])
  f <- matrix(varying_values(object, rows, 0, 0), m)
  distance <- sqrt(colMeans((f[, seq_len(q), drop = FALSE] - f[, q + 1L])^2))
  counts <- tabulate(as.integer(object$flist[[1L]]), q)
  fresh <- tabulate(as.integer(object$added$codes), q)
  counts[fresh > 0L] <- fresh[fresh > 0L]
  shown <- with_state(0, sort(sample.int(q, min(q, most_curves))))
  asked <- c(0L, shown) # 0 is a level of which nothing is known
  of_asked <- list(codes = rep(asked, each = m), inputs = inputs[rep(seq_len(m), length(asked)), , drop = FALSE],
                   X = matrix(0, m * length(asked), ncol(fixed_matrix(object))))
  variance <- matrix(varying_variances(object, of_asked, TRUE)$variance, m)
  prior <- variance[, 1L]
  expected <- rep(NA_real_, q)
  expected[shown] <- sqrt(colMeans(pmax(prior - variance[, -1L, drop = FALSE], 0)))
  data.frame(rows = counts, distance = distance, expected = expected, prior = sqrt(mean(prior)))
}

# Woerner et al. (2023, figure 4): deviations of the last layer's bias against the level of each group.
plot_baseline <- function(x, ...) {
  last <- last_bias(x)
  if (is.na(last)) {
    stop("the bias of the last layer does not vary here: there is no deviation of it to show.", call. = FALSE)
  }
  y <- response_values(x)
  group <- droplevels(x$flist[[1L]])
  level <- as.vector(tapply(y, group, mean))
  table <- data.frame(level = level, deviation = x$effects[levels(group), last])
  lattice::xyplot(
    deviation ~ level, table, xlab = sprintf("mean %s of each %s", names(x$frame)[1L], names(x$flist)),
    ylab = "deviation of the last layer's bias",
    main = list(sprintf("correlation %.2f over %d groups", stats::cor(table$level, table$deviation), nrow(table)),
                cex = 0.9, font = 1),
    panel = function(x, y, ...) {
      lattice::panel.abline(h = 0, col = plot_colours[["grey"]])
      lattice::panel.xyplot(x, y, pch = 19, alpha = max(0.3, min(0.8, 60 / length(x))), col = plot_colours[["blue"]])
    },
    ...
  )
}

# The name of the last layer's bias among what varies, NA where it does not.
last_bias <- function(object) {
  biases <- grep("bias$", names(object$networks$arrays), value = TRUE)
  stems <- sub("\\[.*", "", names(object$theta_bar))
  found <- grepl("bias$", stems) & endsWith(biases[length(biases)], paste0(".", stems))
  names(object$theta_bar)[found][1L]
}

# Standard deviations of the parameters by layer: of the model and of the deviations.
plot_variances <- function(x, ...) {
  prior <- if (is.matrix(x$factor)) sqrt(rowSums(x$factor^2)) else abs(x$factor)
  modes <- sqrt(colMeans(sweep(x$effects, 2L, colMeans(x$effects))^2))
  layers <- factor(x$layers, rev(unique(x$layers)))
  what <- c("of the model, root of the diagonal of Sigma", "of the estimated deviations, which are shrunken")
  table <- data.frame(layer = rep(layers, 2L), sd = c(prior, modes),
                      of = factor(rep(what, each = length(prior)), what))
  colours <- plot_colours[c("orange", "blue")]
  shift <- c(0.15, -0.15)
  lattice::stripplot(
    layer ~ sd, table, groups = table$of, xlab = "standard deviation of a parameter (bars: root mean square)",
    xlim = c(0, 1.06 * max(table$sd)),
    key = list(text = list(what, cex = 0.8), points = list(col = unname(colours), pch = 19)),
    panel = function(x, y, groups, subscripts, ...) {
      of <- as.integer(groups)[subscripts]
      at <- as.integer(y)
      lattice::panel.points(x, at + shift[of], pch = 19, cex = 0.6, alpha = 0.5, col = colours[of])
      for (layer in unique(at)) {
        for (k in 1:2) {
          mean <- sqrt(mean(x[at == layer & of == k]^2))
          lattice::panel.segments(mean, layer + shift[k] - 0.13, mean, layer + shift[k] + 0.13, col = colours[k],
                                  lwd = 2.5)
        }
      }
    },
    ...
  )
}
