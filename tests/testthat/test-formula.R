# Parsing needs no Python.

bars_of <- function(formula) {
  vapply(parse_formula(formula)$bars, function(bar) deparse1(call("|", bar$columns, bar$group)), "")
}

test_that("bars expand as in lme4", {
  formulas <- list(
    y ~ x + (x | a / b / c), y ~ (x * b || a) + (1 | c), y ~ 0 + (1 + log(x) | a:b) - 1, y ~ 1 | g,
    log(y) ~ x + (1 | g) + offset(z), y ~ (0 + x | g) + x + (1 | a / b)
  )
  for (formula in formulas) {
    expanded <- lme4::expandDoubleVerts(formula)
    parsed <- parse_formula(formula)
    expect_equal(bars_of(formula), vapply(lme4::findbars(expanded), deparse1, ""))
    expect_equal(parsed$fixed, lme4::nobars(formula), ignore_formula_env = TRUE)
    expect_equal(parsed$formula, expanded, ignore_formula_env = TRUE)
  }
})

test_that("what lme4 1.1-31 cannot read is written out for it", {
  expect_equal(bars_of(y ~ (1 | a * b)), c("1 | a", "1 | b", "1 | a:b"))
  parsed <- parse_formula(y ~ x + diag(x | g) + us(1 | h))
  expect_equal(vapply(parsed$bars, `[[`, "", "covariance"), c("diag", "us"))
  expect_equal(lme4_formula(parsed$formula), y ~ x + ((1 | g) + (0 + x | g)) + (1 | h), ignore_formula_env = TRUE)
})

test_that("a logical or inside I() is not a random term", {
  expect_equal(bars_of(y ~ I(a | b) + (1 | g)), "1 | g")
})

test_that("formulas that make no mixed model are refused in one sentence", {
  refused <- function(formula, message) expect_error(parse_formula(formula), message, fixed = TRUE)
  refused(y ~ x, "the formula has no random term: add one, as in (1 | group), or use lm().")
  refused(~ x + (1 | g), "the formula has no response: write one left of ~.")
  refused(y ~ (x | 1), "the random term (x | 1) has no grouping factor: name one right of the bar.")
  refused(y ~ x * (1 | g), "the random term in x * (1 | g) must be added to the formula with +.")
  refused(y ~ ar1(0 + x | g), "the structure 'ar1' is not available; use us() or diag().")
  refused(y ~ diag(x | g, hom = TRUE), "write diag(x | g).")
  refused(y ~ x * gp(lon, lat), "the random term in x * gp(lon, lat) must be added to the formula with +.")
  refused(y ~ gp(cov = "exponential"), "name the coordinates, as in gp(lon, lat).")
  refused(y ~ gp(lon, lat, cov = "cubic"), "cov must be one of exp_quad, matern32, matern52, exponential.")
  refused(y ~ gp(lon, lat, k = 3), "gp() has no option 'k'; it has cov.")
  refused(y ~ gp(lon, cov = unknown), "the option 'unknown' must be a plain number, text, TRUE, FALSE or c(...).")
  refused("y", "formula must be a formula, as in y ~ x + (1 | group).")
})

test_that("levels of crossed groups are those of lme4, in its order", {
  expect_equal(
    cross_levels(used_levels(c("b", "a", "b")), used_levels(c(2L, 10L, 10L))),
    list(codes = c(2L, 1L, 3L), levels = c("a:10", "b:2", "b:10"))
  )
  expect_equal(used_levels(c(5L, -3L, 5L)), list(codes = c(2L, 1L, 2L), levels = c("-3", "5")))
  expect_equal(used_levels(c(1L, 2000000000L, 1L)), list(codes = c(1L, 2L, 1L), levels = c("1", "2000000000")))
  expect_equal(used_levels(factor(c("u", "w"), levels = c("u", "v", "w"))), list(codes = 1:2, levels = c("u", "w")))
  text <- c("b", "A", "a", "\u00e9", "Z", "10", "9", "b")
  expect_equal(factor(text, sorted_text(text)), factor(text))
  expect_equal(used_levels(c(0.5, NA, 0.25)), list(codes = c(2L, NA, 1L), levels = c("0.25", "0.5")))
})

test_that("hidden = c() is a network without hidden layers, not the default one", {
  hidden <- function(formula, nets = NULL) {
    parse_formula(formula, data.frame(y = 1, x = 1, g = 1), nets)$networks[[1]]$options
  }
  expect_identical(hidden(y ~ nn(x, hidden = c()) + (1 | g)), list(hidden = numeric(0)))
  expect_identical(hidden(y ~ nn(x) + (1 | g), list(nn = list(hidden = NULL))), list(hidden = numeric(0)))
  expect_identical(hidden(y ~ nn(x, hidden = 3) + (1 | g), list(nn = list(hidden = NULL)))$hidden, 3)
  expect_identical(hidden(y ~ nn(x) + (1 | g))$hidden, NULL)
})
