# What networks have learnt: history of the training, importance of the inputs, partial dependence.

#' What the networks of a fit have learnt
#'
#' `history()` has a row for each epoch of the training. `importance()` says how much the mean squared error rises when
#' one input is permuted among the rows, as share of the variance of the response; of a generalized model the deviance,
#' as share of that of a constant mean. Up to 5,000 rows are used, held-out ones where there are any, each with networks
#' that have not learnt from it. Inputs that carry the same information share their importance. `partial_dependence()`
#' is the networks' part of the mean (of a generalized model, of the linear predictor) against one or two of their
#' inputs, averaged over the others.
#'
#' @param x A fit by [lmernn()] or [glmernn()]; for `history()` also nothing, which is [utils::history()].
#' @param n_repeats Permutations of each input.
#' @param seed Of the permutations and of the rows that are used.
#' @param inputs Names of one or two inputs, as written in `nn()`. Where several networks take an input it moves in all
#'   of them; where it is a fixed effect too, that does not move.
#' @param grid_size Values of a number, from its 1% to its 99% quantile; half as many along each of two. Factors and
#'   numbers of few values take all of theirs.
#' @param ... Ignored; for `history()` arguments of [utils::history()].
#' @return Data frames: `history()` with columns member, epoch, loss, validation and validation_levels (errors at rows
#'   and at whole levels held out), sigma and seconds; `importance()` with network, input, importance and se (its
#'   standard error over the permutations); `partial_dependence()` with one column for each input, and f; of a
#'   multinomial model with a row for each class, named in a column class.
#' @seealso [plot.merModNN()] draws them.
#' @name networks
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(x = runif(600), z = runif(600), g = gl(30, 20))
#' d$y <- sin(6 * d$x) + rnorm(30)[d$g] + rnorm(600, sd = 0.3)
#' fit <- lmernn(y ~ nn(x, z, hidden = c(16, 8)) + (1 | g), d, control = list(epochs = 30, folds = 0), seed = 1)
#' tail(history(fit), 2)
#' importance(fit)
#' head(partial_dependence(fit, "x"))
NULL

#' @rdname networks
#' @export
history <- function(x, ...) if (missing(x)) utils::history(...) else UseMethod("history")

#' @export
history.default <- function(x, ...) utils::history(x, ...)

#' @rdname networks
#' @export
history.merModNN <- function(x, ...) {
  need_network(x, "there is no training to tell of")
  x$networks$history
}

#' @rdname networks
#' @export
importance <- function(x, ...) UseMethod("importance")

#' @rdname networks
#' @export
importance.merModNN <- function(x, n_repeats = 5, seed = 0, ...) {
  need_network(x, "there are no inputs to permute")
  if (!is.numeric(n_repeats) || length(n_repeats) != 1L || n_repeats < 1) {
    stop(sprintf("n_repeats is %s: ask for at least one permutation.", deparse1(n_repeats)), call. = FALSE)
  }
  ask_importance(x, n_repeats, seed)$table
}

#' @rdname networks
#' @export
partial_dependence <- function(x, ...) UseMethod("partial_dependence")

#' @rdname networks
#' @export
partial_dependence.merModNN <- function(x, inputs, grid_size = 40, seed = 0, ...) {
  need_network(x, "there is no input to vary")
  sent <- send_fit(x)
  meta <- c(sent$meta, list(inputs = as_array(as.character(inputs)), grid_size = as.integer(grid_size),
                            seed = as.integer(seed)))
  reply <- call_python("partial_dependence", meta, sent$buffers, sent$modules)
  columns <- reply$arrays
  levels <- unlist(lapply(unname(x$networks$inputs), `[[`, "levels"), recursive = FALSE)
  for (name in inputs) {
    if (!is.null(levels[[name]])) columns[[name]] <- factor(levels[[name]][columns[[name]] + 1], levels[[name]])
  }
  if (!is.null(reply$class)) columns <- append(columns, list(class = factor(reply$class, x$classes)), length(inputs))
  as.data.frame(columns, optional = TRUE)
}

need_network <- function(object, consequence) {
  if (is.null(object$networks)) {
    stop(sprintf("this model has no network, so %s.", consequence), call. = FALSE)
  }
}

# Importance from Python: list(table, lines), the lines being those of the summary.
ask_importance <- function(object, n_repeats = 5, seed = 0) {
  sent <- send_fit(object)
  meta <- c(sent$meta, list(n_repeats = as.integer(n_repeats), seed = as.integer(seed)))
  reply <- call_python("importance", meta, sent$buffers, sent$modules)
  list(
    table = data.frame(network = reply$network, input = reply$input, importance = reply$arrays$importance,
                       se = reply$arrays$se),
    lines = reply$lines
  )
}

# The lines of the summary about networks: with what they explain where Python and the user's modules are there, else
# those of the fit.
network_lines <- function(object) {
  if (is.null(object$networks) || length(lost_modules(object)) || !python_ready()) {
    return(object$networks$lines)
  }
  ask_importance(object)$lines
}
