explicit_hsic <- function(K, L) {
  n <- nrow(K)
  two <- three <- four <- 0
  for (i in seq_len(n)) for (j in seq_len(n)) {
    two <- two + K[i, j] * L[i, j]
    for (q in seq_len(n)) {
      three <- three + K[i, j] * L[i, q]
      for (r in seq_len(n)) four <- four + K[i, j] * L[q, r]
    }
  }
  n * (two / n^2 + four / n^4 - 2 * three / n^3)
}

test_that("the statistic is that of explicit sums", {
  set.seed(1)
  x <- matrix(rnorm(14), 7)
  y <- c(0, 1, 3, 3, -1, 0.5, 2)
  gaussian <- function(v) {
    d <- as.matrix(dist(v))
    exp(-d^2 / (2 * median(d[lower.tri(d) & d > 0])^2))
  }
  found <- hsic_test(x, y, 9)
  expect_equal(unname(found$statistic), explicit_hsic(gaussian(x), gaussian(y)))
  expect_equal(unname(found$bandwidths), c(median(dist(x)), median(dist(y)[dist(y) > 0])))
  group <- c("a", "b", "a", "a", "c", "b", "a")
  expect_equal(unname(hsic_test(x, group, 9)$statistic), explicit_hsic(gaussian(x), outer(group, group, "==") + 0))
  expect_equal(hsic_test(x, factor(group), 9)$p.value, hsic_test(x, group, 9)$p.value)
  scaled <- hsic_test(sweep(x, 2, c(1, 1e6), "*"), y, 9, scale = TRUE)
  expect_equal(scaled$statistic, hsic_test(x, y, 9, scale = TRUE)$statistic)
})

test_that("size and power", {
  set.seed(2)
  null <- power <- numeric(100)
  for (k in 1:100) {
    x <- matrix(rnorm(90), 30)
    group <- runif(30) < 0.5
    null[k] <- hsic_test(x, group, 49, k)$p.value
    power[k] <- hsic_test(x + group, group, 49, k)$p.value
  }
  expect_lt(abs(mean(null) - 0.5), 3 / sqrt(12 * 100))
  expect_lt(mean(null <= 0.05), 0.05 + 3 * sqrt(0.05 * 0.95 / 100))
  expect_gt(mean(power <= 0.05), 0.8)
})

test_that("rows are matched by name, and the generator stays", {
  x <- data.frame(a = c(1, 4, 2, 8, 5, 7), row.names = letters[1:6])
  y <- setNames(c(3, 1, 4, 1, 5, 9), letters[1:6])
  expect_equal(hsic_test(x, y[6:1], 19)$statistic, hsic_test(x, unname(y), 19)$statistic)
  expect_error(hsic_test(x, y[-2]), "y has no row 'b'")
  expect_error(hsic_test(x, c(y, y)), "name rows twice")
  set.seed(5)
  before <- .Random.seed
  hsic_test(x, y, 9)
  expect_identical(.Random.seed, before)
  expect_output(print(hsic_test(x, y, 9)), "Hilbert-Schmidt")
})

test_that("bad input is named", {
  expect_error(hsic_test(1:6, 1:5), "x has 6 rows and y has 5")
  expect_error(hsic_test(1:4, 1:4), "at least 5")
  expect_error(hsic_test(1:6, rep("a", 6)), "y does not vary")
  expect_error(hsic_test(c(1:5, NA), 1:6), "x has missing values")
  expect_error(hsic_test(c(1:5, Inf), 1:6), "infinite")
  expect_error(hsic_test(matrix("a", 6, 2), 1:6), "not all hold numbers")
  expect_error(hsic_test(1:6, 1:6, 0), "permutations is a number")
})
