# How well predictions do for each group, and a comparison of two models over groups. No Python is needed.

#' Metrics of each group, and a bootstrap over groups
#'
#' The protocol of Woerner et al. (2023): a metric is found for each person and then averaged, so that differences
#' between persons do not pass for accuracy within them. Two models are compared by drawing persons with replacement and
#' averaging the differences of their metrics.
#'
#' @param y Responses, of rows that no model has learnt from.
#' @param predicted,predicted_a,predicted_b Predictions of the same rows.
#' @param group The group of each row, such as the person.
#' @param metric `"rmse"`, `"mae"`, `"nrmse"` (root mean squared error over the standard deviation of all responses),
#'   `"r"` (Pearson's correlation), `"ccc"` (Lin's concordance correlation, with variances over n), or a function of the
#'   responses and the predictions of one group that returns a number.
#' @param n Resamples.
#' @param seed Of the resamples; the state of R's generator stays as it was.
#' @param level Coverage of the interval.
#' @param x What `paired_bootstrap()` returns.
#' @param ... Nothing.
#' @return `group_metrics()` a data frame with a row for each group: `group`, `rows` and the metric (`metric` for a
#'   function), `NA` where a correlation is not defined. `paired_bootstrap()` a list with `metric`, `mean_a`, `mean_b`,
#'   `difference` (a less b), `lower`, `upper`, `level`, `p_value`, `groups`, `left_out` (groups without a value) and
#'   `n`. The limits are percentiles; the two-sided p value counts the sample itself. They are too narrow and too small
#'   where groups are few.
#' @references Woerner, T. et al. (2023), Neural Mixed Effects for Nonlinear Personalized Predictions, section 5.3. Lin,
#'   L. I. (1989), A concordance correlation coefficient to evaluate reproducibility.
#' @export
#' @examples
#' set.seed(1)
#' person <- gl(30, 20)
#' y <- rnorm(600)
#' better <- y + rnorm(600, sd = 0.5)
#' worse <- y + rnorm(600)
#' mean(group_metrics(y, better, person)$rmse)
#' paired_bootstrap(y, better, worse, person, "r")
group_metrics <- function(y, predicted, group, metric = "rmse") {
  y <- plain_numbers(y, "y")
  predicted <- plain_numbers(predicted, "predicted", length(y))
  groups <- plain_groups(group, length(y))
  measured <- by_each_group(measure_of(metric, y), y, predicted, groups)
  found <- data.frame(group = levels(groups), rows = as.integer(table(groups)))
  found[[if (is.function(metric)) "metric" else metric]] <- measured
  found
}

#' @rdname group_metrics
#' @export
paired_bootstrap <- function(y, predicted_a, predicted_b, group, metric = "rmse", n = 10000, seed = 1, level = 0.95) {
  if (!is.numeric(n) || length(n) != 1L || is.na(n) || n < 1) {
    stop("n is a number of resamples, 1 or more.", call. = FALSE)
  }
  if (!is.numeric(level) || length(level) != 1L || is.na(level) || level <= 0 || level >= 1) {
    stop("level is a number between 0 and 1.", call. = FALSE)
  }
  y <- plain_numbers(y, "y")
  a <- plain_numbers(predicted_a, "predicted_a", length(y))
  b <- plain_numbers(predicted_b, "predicted_b", length(y))
  groups <- plain_groups(group, length(y))
  measure <- measure_of(metric, y)
  a <- by_each_group(measure, y, a, groups)
  b <- by_each_group(measure, y, b, groups)
  known <- is.finite(a) & is.finite(b)
  if (sum(known) < 2L) {
    stop(sprintf("%d groups have a value of the metric: a bootstrap over groups needs two or more.", sum(known)),
         call. = FALSE)
  }
  differences <- (a - b)[known]
  means <- resampled_means(differences, n, seed)
  limits <- stats::quantile(means, c((1 - level) / 2, (1 + level) / 2), names = FALSE)
  structure(
    list(
      metric = if (is.function(metric)) "metric" else metric, mean_a = mean(a[known]), mean_b = mean(b[known]),
      difference = mean(differences), lower = limits[1L], upper = limits[2L], level = level,
      p_value = min(1, 2 * (1 + min(sum(means <= 0), sum(means >= 0))) / (n + 1)),
      groups = sum(known), left_out = sum(!known), n = n
    ),
    class = "paired_bootstrap"
  )
}

#' @rdname group_metrics
#' @export
print.paired_bootstrap <- function(x, ...) {
  left_out <- if (x$left_out > 0L) sprintf(", %d without a value left out", x$left_out) else ""
  cat(sprintf("Mean %s of %d groups%s: %.4g (a), %.4g (b)\n", x$metric, x$groups, left_out, x$mean_a, x$mean_b))
  cat(sprintf("a - b: %.4g, %g%% interval %.4g to %.4g, p = %.3g (%s resamples of groups)\n", x$difference,
              100 * x$level, x$lower, x$upper, x$p_value, format(x$n, big.mark = ",")))
  invisible(x)
}

resampled_means <- function(values, n, seed) {
  state <- random_state(seed)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  vapply(seq_len(n), function(k) mean(values[sample.int(length(values), replace = TRUE)]), 0)
}

plain_numbers <- function(values, name, n = length(values)) {
  if (!is.numeric(values)) stop(sprintf("%s is not numeric: these metrics are for numbers.", name), call. = FALSE)
  if (length(values) == 0L) stop(sprintf("%s is empty: give one number for each row.", name), call. = FALSE)
  if (length(values) != n) {
    stop(sprintf("%s has %d values and y %d: give one for each row.", name, length(values), n), call. = FALSE)
  }
  bad <- sum(!is.finite(values))
  if (bad > 0L) {
    stop(sprintf("%s is missing or infinite in %d rows: leave them out, in all that is compared.", name, bad),
         call. = FALSE)
  }
  as.double(values)
}

plain_groups <- function(group, n) {
  if (length(group) != n) {
    stop(sprintf("group has %d values and y %d: give one for each row.", length(group), n), call. = FALSE)
  }
  if (anyNA(group)) stop(sprintf("group is missing in %d rows: leave them out.", sum(is.na(group))), call. = FALSE)
  droplevels(as.factor(group))
}

# A function of the responses and predictions of one group.
measure_of <- function(metric, y) {
  if (is.function(metric)) {
    return(metric)
  }
  spread <- sqrt(mean((y - mean(y))^2))
  known <- list(
    rmse = function(y, f) sqrt(mean((y - f)^2)),
    mae = function(y, f) mean(abs(y - f)),
    nrmse = function(y, f) if (spread > 0) sqrt(mean((y - f)^2)) / spread else NA_real_,
    r = function(y, f) if (all(y == y[1L]) || all(f == f[1L])) NA_real_ else stats::cor(y, f),
    ccc = function(y, f) {
      if (all(y == y[1L]) && all(f == f[1L])) {
        return(NA_real_)
      }
      moments <- mean((y - mean(y))^2) + mean((f - mean(f))^2) + (mean(y) - mean(f))^2
      2 * mean((y - mean(y)) * (f - mean(f))) / moments
    }
  )
  if (!is.character(metric) || length(metric) != 1L || !metric %in% names(known)) {
    stop(sprintf("metric is %s: use one of %s, or a function of y and predictions.", deparse1(metric),
                 paste(names(known), collapse = ", ")), call. = FALSE)
  }
  known[[metric]]
}

by_each_group <- function(measure, y, f, groups) {
  rows <- split(seq_along(y), groups)
  vapply(rows, function(own) as.double(measure(y[own], f[own])), 0, USE.NAMES = FALSE)
}
