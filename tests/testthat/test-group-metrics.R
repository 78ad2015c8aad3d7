# Metrics of each group, and the bootstrap over groups. No fit and no Python is needed.

rows_of_groups <- function() {
  set.seed(3)
  group <- sample(sprintf("p%d", 1:9), 120, TRUE)
  y <- rnorm(120)
  list(y = y, a = y + rnorm(120), b = y + 0.5 * rnorm(120), group = group)
}

test_that("each group has its own figure", {
  d <- rows_of_groups()
  by_hand <- list(
    rmse = function(y, f) sqrt(sum((y - f)^2) / length(y)),
    mae = function(y, f) sum(abs(y - f)) / length(y),
    nrmse = function(y, f) sqrt(sum((y - f)^2) / length(y) / (var(d$y) * 119 / 120)),
    r = function(y, f) cor(y, f),
    ccc = function(y, f) {
      m <- length(y)
      1 - mean((y - f)^2) / ((m - 1) / m * (var(y) + var(f)) + (mean(y) - mean(f))^2)
    }
  )
  for (metric in names(by_hand)) {
    table <- group_metrics(d$y, d$a, d$group, metric)
    expect_identical(table$group, sort(unique(d$group)))
    expected <- vapply(table$group, function(g) by_hand[[metric]](d$y[d$group == g], d$a[d$group == g]), 0)
    expect_equal(table[[metric]], unname(expected), info = metric)
  }
  table <- group_metrics(d$y, d$a, d$group, function(y, f) median(abs(y - f)))
  expect_named(table, c("group", "rows", "metric"))
  expect_identical(sum(table$rows), 120L)
})

test_that("models are compared over groups", {
  d <- rows_of_groups()
  set.seed(5)
  before <- .Random.seed
  found <- paired_bootstrap(d$y, d$a, d$b, d$group, "mae", n = 2000, seed = 4)
  expect_identical(.Random.seed, before)
  expect_identical(found, paired_bootstrap(d$y, d$a, d$b, d$group, "mae", n = 2000, seed = 4))
  own <- group_metrics(d$y, d$a, d$group, "mae")$mae - group_metrics(d$y, d$b, d$group, "mae")$mae
  expect_equal(found$difference, mean(own))
  half <- qnorm(0.975) * sqrt(mean((own - mean(own))^2) / 9)
  expect_equal(c(found$lower, found$upper), mean(own) + c(-half, half), tolerance = 0.1)
  expect_output(print(found), "a - b: .*, 95% interval .* to .*, p = .* \\(2,000 resamples of groups\\)")
  # two groups have four resamples, of which the one that is negative twice is a quarter
  few <- paired_bootstrap(c(0, 0), c(3, 1), c(1, 2), c("u", "v"), "mae", n = 4000)
  expect_equal(c(few$lower, few$upper), c(-1, 2))
  expect_equal(few$p_value, 0.5, tolerance = 0.1)
})

test_that("groups without a value are left out, and bad input is named", {
  d <- rows_of_groups()
  d$y[d$group == "p2"] <- 1
  found <- paired_bootstrap(d$y, d$a, d$b, d$group, "r", n = 50)
  expect_identical(c(found$groups, found$left_out), c(8L, 1L))
  expect_true(is.na(group_metrics(d$y, d$a, d$group, "r")$r[2L]))
  expect_error(group_metrics(d$y, d$a, d$group, "rmsse"), "metric is \"rmsse\": use one of rmse, mae")
  expect_error(group_metrics(d$y, d$a[-1], d$group), "predicted has 119 values and y 120")
  expect_error(group_metrics(letters, 1:26, 1:26), "y is not numeric")
  expect_error(group_metrics(c(1, NA), 1:2, 1:2), "y is missing or infinite in 1 rows")
  expect_error(group_metrics(1:2, 1:2, c("a", NA)), "group is missing in 1 rows")
  expect_error(paired_bootstrap(1:2, 1:2, 1:2, c("a", "a")), "1 groups have a value of the metric")
  expect_error(paired_bootstrap(1:2, 1:2, 1:2, 1:2, n = 0), "n is a number of resamples")
  expect_error(paired_bootstrap(1:2, 1:2, 1:2, 1:2, level = 95), "level is a number between 0 and 1")
})
