# Transition probabilities of sequences, two sets of groups compared, and their pictures.

#' Transition probabilities
#'
#' Probabilities of the next state given the present one, of fits by `glmernn(family = "crf")`; see [sequences].
#'
#' By themselves transitions are scores, `T_bar + T_i`, and their probabilities are the softmax along each row: those of
#' a next state where the inputs favour none. With `newdata` they are those that the model expects in these sequences,
#' inputs and network counted: expected moves from each state to each other over expected moves from it.
#'
#' Several groups get the mean over them. What is known of a group is drawn to what all groups share; a set of groups is
#' drawn to a mean of its own instead, estimated by maximum likelihood, so that sets differ as much as their sequences
#' say. The mean is over the posterior distributions of the groups too.
#'
#' `compare_transitions()` compares two sets of groups, such as families with a depressed mother and others. Its limits
#' are quantiles of a bootstrap that draws groups with replacement within each set (Woerner et al., 2023, Table 5); the
#' network, what all groups share and covariances are taken as known. Each interval is of one cell. The test is of all
#' cells together: [hsic_test()] of the modes of the groups' transitions, less their mean, and the sets.
#'
#' @param object A fit by `glmernn(family = "crf")`.
#' @param group A level of the grouping factor, or several; by default what all groups share.
#' @param newdata Sequences with their inputs; states and groups in it are not read.
#' @param interval Whether to give limits: of the posterior distribution for one group, by a bootstrap of groups for
#'   several, and for what all share by one of all groups.
#' @param level Coverage of the limits.
#' @param draws From the posterior distribution, or of the bootstrap.
#' @param seed Of these draws, and of the permutations.
#' @param by A named vector, list or factor: from levels of the grouping factor to two labels. Groups without one, or
#'   with a missing one, are left out. The second label is the later one in order, or of the levels of a factor.
#' @param permutations Of the test.
#' @param x What `compare_transitions()` returns.
#' @param digits Of the limits, in percentage points.
#' @param ... Nothing.
#' @return `transition_probabilities()` a matrix, from the state of a row to that of a column; with `interval` a data
#'   frame with `from`, `to`, `fit`, `lwr` and `upr`. `compare_transitions()` a list: `names` and `groups` (how many) of
#'   the two sets, matrices `first`, `second`, `difference` (second less first), `lower` and `upper`, `level`, and
#'   `independence`, of class `htest`.
#' @export
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(dyad = rep(sprintf("d%d", 1:12), each = 20), t = rep(1:20, 12), x = rnorm(240))
#' change <- rep(c(0.1, 0.7), 6)  # dyads stay in a state, or do not
#' d$state <- unlist(lapply(change, function(p) c("calm", "row")[1 + cumsum(runif(20) < p) %% 2]))
#' fit <- glmernn(state ~ nn(x, hidden = 2) + (crf | dyad), d, family = "crf", sequence = "dyad", time = "t",
#'                control = list(epochs = 2), seed = 1)
#' transition_probabilities(fit, "d3")
#' by <- setNames(rep(c("clinic", "home"), 6), sprintf("d%d", 1:12))
#' compare_transitions(fit, by, draws = 100, permutations = 99)
#' plot(fit, "transitions", by = by, draws = 100, permutations = 99)
transition_probabilities <- function(object, group = NULL, newdata = NULL, interval = FALSE, level = 0.95, draws = 1000,
                                     seed = 0, ...) {
  need_sequences(object)
  if (!is.null(group)) group <- as.character(group)
  if (!is.null(newdata)) {
    if (interval) stop("limits are for transitions by themselves: leave out newdata, or interval.", call. = FALSE)
    return(expected_transitions(object, group, newdata))
  }
  check_limits(level, draws)
  sent <- send_transitions(object)
  several <- length(group) != 1L && !is.null(group)
  meta <- c(sent$meta, list(group = if (several) as_array(group) else group, interval = isTRUE(interval), level = level,
                            draws = as.integer(draws), seed = as.integer(seed)))
  arrays <- call_python("transition_probabilities", meta, sent$buffers)$arrays
  if (!interval) {
    return(by_states(object, arrays$fit))
  }
  pairs <- expand.grid(to = object$classes, from = object$classes, stringsAsFactors = FALSE)
  data.frame(from = pairs$from, to = pairs$to, fit = arrays$fit, lwr = arrays$lower, upr = arrays$upper)
}

#' @rdname transition_probabilities
#' @export
compare_transitions <- function(object, by, level = 0.95, draws = 1000, permutations = 4999, seed = 0, ...) {
  need_sequences(object)
  if (!object$moves) {
    stop("transitions do not vary in this model: add a bar such as (crf | group).", call. = FALSE)
  }
  check_limits(level, draws)
  labels <- two_labels(object, by)
  sent <- send_transitions(object)
  codes <- as.list(stats::setNames(as.integer(labels) - 1L, names(labels)))
  meta <- c(sent$meta, list(by = codes, level = level, draws = as.integer(draws), seed = as.integer(seed)))
  arrays <- lapply(call_python("compare_transitions", meta, sent$buffers)$arrays, by_states, object = object)
  own <- object$effects[names(labels), of_transitions(object), drop = FALSE]
  test <- hsic_test(own - rowMeans(own), labels, permutations, seed)
  test$data.name <- sprintf("transitions by %s and set", names(object$flist))
  structure(
    list(
      names = levels(labels), groups = as.integer(table(labels)), first = arrays$first, second = arrays$second,
      difference = arrays$second - arrays$first, lower = arrays$lower, upper = arrays$upper, level = level,
      independence = test
    ),
    class = "transition_comparison"
  )
}

#' @rdname transition_probabilities
#' @export
print.transition_comparison <- function(x, digits = 1, ...) {
  cat(sprintf("Transition probabilities of '%s' (%d groups) less those of '%s' (%d groups)\n", x$names[2L],
              x$groups[2L], x$names[1L], x$groups[1L]))
  cat(sprintf("%g%% intervals in percentage points, from row to column (*: zero is outside)\n", 100 * x$level))
  cells <- sprintf("[%.*f, %.*f]%s", digits, 100 * x$lower, digits, 100 * x$upper, ifelse(apart_from_zero(x), "*", " "))
  print(array(cells, dim(x$lower), dimnames(x$lower)), quote = FALSE, right = TRUE)
  cat(sprintf("Transitions independent of the set? HSIC = %.4g, p = %.4g (%d groups, %s permutations)\n",
              x$independence$statistic, x$independence$p.value, sum(x$groups),
              format(x$independence$parameter[["permutations"]], big.mark = ",")))
  invisible(x)
}

apart_from_zero <- function(x) x$lower > 0 | x$upper < 0

need_sequences <- function(object) {
  if (!inherits(object, "sequenceModNN")) {
    stop("transitions belong to sequences of states: fit them by glmernn() with family = \"crf\".", call. = FALSE)
  }
}

check_limits <- function(level, draws) {
  if (!is.numeric(level) || length(level) != 1L || is.na(level) || level <= 0 || level >= 1) {
    stop("level is a number between 0 and 1.", call. = FALSE)
  }
  if (!is.numeric(draws) || length(draws) != 1L || is.na(draws) || draws < 1) {
    stop("draws is a number, 1 or more.", call. = FALSE)
  }
}

# A factor of two levels, named by groups.
two_labels <- function(object, by) {
  if (is.list(by)) by <- unlist(by)
  if (is.null(names(by))) {
    stop("by has no names: it is a named vector, from groups to two labels.", call. = FALSE)
  }
  groups <- names(by)[!is.na(by)]
  labels <- droplevels(as.factor(unname(by[!is.na(by)])))
  if (anyDuplicated(groups)) stop("by names a group twice: give each group one label.", call. = FALSE)
  unknown <- setdiff(groups, rownames(object$effects))
  if (length(unknown)) {
    stop(sprintf("'%s' is no group that the fit has seen: see rownames(ranef(fit)[[1]]).", unknown[1L]), call. = FALSE)
  }
  if (nlevels(labels) != 2L) {
    stop(sprintf("by has %d labels (%s): transitions of two sets of groups are compared.", nlevels(labels),
                 abbreviate_list(levels(labels))), call. = FALSE)
  }
  few <- levels(labels)[table(labels) < 3L]
  if (length(few)) {
    stop(sprintf("'%s' has %d groups: limits need at least 3 of each label.", few[1L], sum(labels == few[1L])),
         call. = FALSE)
  }
  stats::setNames(labels, groups)
}

# Transitions and what varies, without the network: list(meta, buffers).
send_transitions <- function(object) {
  if_any <- function(values) if (length(values)) as_buffers(values)
  list(
    meta = list(classes = as_array(object$classes), levels = as_array(as.character(rownames(object$effects))),
                moves = object$moves, size = length(object$layers)),
    buffers = c(as_buffers(object$transitions), if_any(object$effects), if_any(object$variances), if_any(object$factor))
  )
}

by_states <- function(object, values) {
  matrix(values, length(object$classes), byrow = TRUE, dimnames = list(object$classes, object$classes))
}

expected_transitions <- function(object, group, newdata) {
  wanted <- matrix(0, 1L, length(object$layers))
  if (!is.null(group)) {
    at <- match(group, rownames(object$effects))
    if (anyNA(at) || length(at) == 0L) {
      stop(sprintf("'%s' is no group that the fit has seen: see rownames(ranef(fit)[[1]]).", group[is.na(at)][1L]),
           call. = FALSE)
    }
    wanted <- object$effects[at, , drop = FALSE]
  }
  sent <- send_sequences(object, sequence_rows(object, newdata, TRUE, TRUE))
  buffers <- c(sent$buffers, if (length(wanted)) as_buffers(unname(wanted)))
  meta <- c(sent$meta, list(groups = nrow(wanted)))
  by_states(object, call_python("expected_transitions", meta, buffers, sent$modules)$arrays$fit)
}

# Heat maps: one matrix, or two beside each other with their difference.
plot_transitions <- function(x, by = NULL, group = NULL, newdata = NULL, ...) {
  if (is.null(by)) {
    return(plot_one_matrix(x, group, newdata, ...))
  }
  if (!is.null(group) || !is.null(newdata)) {
    stop("plot() of transitions takes two sets by `by`, or one matrix by `group` and `newdata`.", call. = FALSE)
  }
  found <- if (inherits(by, "transition_comparison")) by else compare_transitions(x, by, ...)
  panels <- c(sprintf("%s (%d groups)", found$names, found$groups), paste(rev(found$names), collapse = " less "))
  reach <- max(abs(found$difference), 1e-8)
  highest <- max(found$first, found$second)
  # One scale of colours for both: differences from 0 to 1, probabilities from 2 to 3.
  table <- rbind(
    cell_table(found$first, 2 + found$first / highest, percent(found$first), panels[1L]),
    cell_table(found$second, 2 + found$second / highest, percent(found$second), panels[2L]),
    cell_table(found$difference, 0.5 + 0.5 * found$difference / reach,
               sprintf("%+.0f\n[%.0f, %.0f]", 100 * found$difference, 100 * found$lower, 100 * found$upper), panels[3L],
               apart_from_zero(found))
  )
  table$panel <- factor(table$panel, panels)
  title <- sprintf("Transition probabilities, %%; framed: the %g%% interval leaves out zero. HSIC %.2g, p = %.2g",
                   100 * found$level, found$independence$statistic, found$independence$p.value)
  heat_maps(table, x, title, layout = c(3L, 1L))
}

plot_one_matrix <- function(x, group, newdata, ...) {
  found <- transition_probabilities(x, group, newdata, ...)
  if (is.data.frame(found)) stop("a heat map has no limits: leave out interval.", call. = FALSE)
  whose <- if (is.null(group)) "that all share" else if (length(group) > 1L) {
    sprintf("of %d groups", length(group))
  } else {
    sprintf("of %s", group)
  }
  title <- sprintf("Transition probabilities %s, %%", whose)
  heat_maps(cell_table(found, 2 + found, percent(found), "one"), x, title, strip = FALSE)
}

percent <- function(values) sprintf("%.0f", 100 * values)

cell_table <- function(values, shade, text, panel, framed = FALSE) {
  at <- expand.grid(from = seq_len(nrow(values)), to = seq_len(ncol(values)))
  data.frame(at, shade = c(shade), text = gsub("-0([],\n])", "0\\1", c(text)), framed = c(framed), panel = panel)
}

heat_maps <- function(table, x, title, ...) {
  states <- x$classes
  differences <- grDevices::colorRampPalette(c(plot_colours[["blue"]], "white", plot_colours[["orange"]]))(50L)
  probabilities <- grDevices::colorRampPalette(c("white", "#a9cbe6", plot_colours[["blue"]], "#0c2f4d"))(50L)
  scales <- list(x = list(at = seq_along(states), labels = states, rot = 35),
                 y = list(at = seq_along(states), labels = rev(states)), alternating = 1L, tck = 0)
  table$up <- length(states) + 1L - table$from
  response <- names(x$frame)[1L]
  lattice::levelplot(
    shade ~ to * up | panel, table, aspect = "iso", colorkey = FALSE, scales = scales,
    at = c(seq(0, 1, length.out = 51L), seq(2, 3 + 1e-8, length.out = 51L)),
    col.regions = c(differences, "white", probabilities), main = list(title, cex = 0.9, font = 1),
    xlab = paste("next", response), ylab = paste(response, "now"), between = list(x = 0.6),
    par.settings = list(strip.background = list(col = "transparent"), strip.border = list(col = "transparent")),
    panel = function(x, y, z, subscripts, ...) {
      lattice::panel.levelplot(x, y, z, subscripts = subscripts, border = "white", ...)
      cells <- table[subscripts, ]
      dark <- cells$shade > 2.55
      if (length(states) <= shown_classes) {
        size <- if (any(grepl("\n", cells$text))) 0.62 else 0.85
        lattice::panel.text(cells$to, cells$up, cells$text, cex = size, col = ifelse(dark, "white", "black"))
      }
      framed <- cells[cells$framed, ]
      if (nrow(framed)) {
        lattice::panel.rect(framed$to - 0.47, framed$up - 0.47, framed$to + 0.47, framed$up + 0.47, border = "black",
                            lwd = 1.8)
      }
    },
    ...
  )
}
