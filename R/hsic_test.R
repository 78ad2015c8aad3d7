# Whether effects of groups depend on an outer variable. No Python is needed.

#' Test of independence by HSIC
#'
#' Whether x and y depend on each other in any way, by the Hilbert-Schmidt independence criterion and permutations of y.
#' With kernel matrices K of x and L of y and `H = I - 1/n` the statistic is `trace(K H L H) / n` (Gretton et al., 2008,
#' equation 4, times n). Numbers have a Gaussian kernel, `exp(-d^2 / (2 bandwidth^2))`, with the median distance of rows
#' that differ as its bandwidth; factors, texts and truth values have 1 for the same and 0 for others.
#'
#' Any table of effects will do, such as `ranef(fit)$subject` with an outer variable of each subject (Woerner et al.,
#' 2023, ask so whether deviations of persons depend on depression). Modes are drawn to zero, the more so the fewer rows
#' a group has: where the number of rows depends on y, the spread of the modes does too, and the test may find just
#' that.
#'
#' @param x,y Numbers, as a vector, a matrix or a data frame with a row for each pair, or a factor, texts or truth
#'   values. Where `x` has row names and `y` is a named vector (or has row names) y is matched to x by them.
#' @param permutations How many, from which the p value is found; the data as they are count as one more.
#' @param seed Of the permutations; the state of R's generator stays as it was.
#' @param scale Whether columns of numbers are divided by their standard deviations first, for columns of different
#'   units.
#' @return An object of class `htest`, with `statistic` (HSIC), `p.value`, `parameter` (n, permutations) and
#'   `bandwidths` (`NA` for factors).
#' @references Gretton, A. et al. (2008), A kernel statistical test of independence, Advances in Neural Information
#'   Processing Systems 20. Woerner, T. et al. (2023), Neural Mixed Effects for Nonlinear Personalized Predictions.
#' @export
#' @examples
#' x <- seq(-1, 1, length.out = 40)
#' hsic_test(x, x^2, permutations = 199)
hsic_test <- function(x, y, permutations = 4999, seed = 0, scale = FALSE) {
  names <- paste(deparse1(substitute(x)), "and", deparse1(substitute(y)))
  if (!is.numeric(permutations) || length(permutations) != 1L || is.na(permutations) || permutations < 1) {
    stop("permutations is a number, 1 or more.", call. = FALSE)
  }
  y <- matched_pairs(x, y)
  x <- kernel_values(x, "x")
  y <- kernel_values(y, "y")
  n <- NROW(x)
  if (NROW(y) != n) stop(sprintf("x has %d rows and y has %d: they must be pairs.", n, NROW(y)), call. = FALSE)
  if (n < 5L) stop(sprintf("there are %d pairs of x and y: the test needs at least 5.", n), call. = FALSE)
  of_x <- kernel_matrix(x, "x", scale)
  of_y <- kernel_matrix(y, "y", scale)
  centred <- sweep(of_x$matrix, 2L, colMeans(of_x$matrix))
  centred <- centred - rowMeans(centred)
  observed <- sum(centred * of_y$matrix) / n
  found <- permuted(centred, of_y$matrix, permutations, seed)
  structure(
    list(
      statistic = c(HSIC = observed), parameter = c(n = n, permutations = permutations),
      p.value = (1 + sum(found >= observed * (1 - 1e-12))) / (1 + permutations),
      method = "Permutation test of independence by the Hilbert-Schmidt independence criterion",
      alternative = "x and y depend on each other", data.name = names,
      bandwidths = c(x = of_x$bandwidth, y = of_y$bandwidth)
    ),
    class = "htest"
  )
}

permuted <- function(centred, kernel, permutations, seed) {
  state <- random_state(seed)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  n <- nrow(kernel)
  vapply(seq_len(permutations), function(k) {
    order <- sample.int(n)
    sum(centred * kernel[order, order]) / n
  }, 0)
}

# y in the order of x, where both name their rows.
matched_pairs <- function(x, y) {
  of_x <- pair_names(x)
  of_y <- pair_names(y)
  if (is.null(of_x) || is.null(of_y) || identical(of_x, of_y)) {
    return(y)
  }
  if (anyDuplicated(of_x) || anyDuplicated(of_y)) {
    stop("x and y have names that differ and name rows twice: give both without names, in one order.", call. = FALSE)
  }
  absent <- setdiff(of_x, of_y)
  if (length(absent) > 0L) {
    stop(sprintf("y has no row '%s', which x has: name y as x, or leave out its names.", absent[1L]), call. = FALSE)
  }
  place <- match(of_x, of_y)
  if (length(dim(y)) == 2L) y[place, , drop = FALSE] else y[place]
}

# Row names; those of a data frame only where they are no plain numbers.
pair_names <- function(values) {
  if (is.data.frame(values)) {
    return(if (is.character(attr(values, "row.names"))) rownames(values))
  }
  if (length(dim(values)) == 2L) rownames(values) else names(values)
}

# A matrix of numbers, or codes of categories.
kernel_values <- function(values, name) {
  if (length(dim(values)) == 2L && ncol(values) == 1L) values <- values[, 1L, drop = TRUE]
  if (anyNA(values)) stop(sprintf("%s has missing values: leave these rows out of both.", name), call. = FALSE)
  if (length(dim(values)) != 2L && !is.numeric(values)) {
    return(as.integer(factor(as.vector(values))))
  }
  if (is.data.frame(values) && !all(vapply(values, is.numeric, NA)) || !is.data.frame(values) && !is.numeric(values)) {
    stop(sprintf("%s has several columns, and not all hold numbers: give one column of texts.", name), call. = FALSE)
  }
  values <- unname(as.matrix(values))
  storage.mode(values) <- "double"
  if (!all(is.finite(values))) {
    stop(sprintf("%s has missing or infinite values: leave these rows out of both.", name), call. = FALSE)
  }
  values
}

kernel_matrix <- function(values, name, scale) {
  first <- if (is.matrix(values)) rep(values[1L, ], each = nrow(values)) else values[1L]
  if (all(values == first)) stop(sprintf("%s does not vary, so nothing can depend on it.", name), call. = FALSE)
  if (!is.matrix(values)) {
    return(list(matrix = outer(values, values, `==`) + 0, bandwidth = NA_real_))
  }
  if (scale) {
    spread <- sqrt(colMeans(sweep(values, 2L, colMeans(values))^2))
    values <- sweep(values[, spread > 0, drop = FALSE], 2L, spread[spread > 0], `/`)
  }
  distances <- as.matrix(stats::dist(values))
  pairs <- distances[lower.tri(distances)]
  bandwidth <- stats::median(pairs[pairs > 1e-6 * max(pairs)])
  list(matrix = unname(exp(-distances^2 / (2 * bandwidth^2))), bandwidth = bandwidth)
}
