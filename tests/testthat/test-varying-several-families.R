# Generalized models with networks that vary by several bars, against lme4 and against what their linear predictors say.

nested_responses <- function(n = 400) {
  set.seed(8)
  person <- rep(seq_len(20), length.out = n)
  culture <- 1 + person %% 5
  d <- data.frame(x = rnorm(n), z = rnorm(n), person = sprintf("p%02d", person), culture = letters[culture],
                  school = sample(c("s1", "s2", "s3", "s4"), n, TRUE))
  eta <- sin(d$x) * (1 + 0.6 * rnorm(5)[culture] + 0.4 * rnorm(20)[person]) + 0.4 * rnorm(20)[person]
  d$success <- factor(ifelse(runif(n) < plogis(2 * eta), "yes", "no"))
  d$count <- rpois(n, exp(eta))
  d$grade <- cut(eta + rlogis(n), c(-Inf, -1, 1, Inf), c("low", "mid", "high"), ordered_result = TRUE)
  d
}

fit_several <- function(response, family, bars, d = nested_responses(), hidden = "c(3)") {
  formula <- stats::as.formula(sprintf("%s ~ nn(x, hidden = %s) + %s", response, hidden, bars))
  glmernn(formula, d, family, control = list(epochs = 4), seed = 1)
}

strangers <- data.frame(x = c(0.5, 0.5, NA), person = c("p03", "new", "p02"), culture = c("d", "d", "c"), school = "s1",
                        row.names = letters[1:3])

test_that("a linear network is the model of lme4", {
  skip_without_torch()
  d <- nested_responses()
  fit <- fit_several("count", stats::poisson, "(nn | culture/person) + (1 | school)", d, "c(), standardize = FALSE")
  formula <- stats::as.formula("count ~ x + (1 + x | culture/person) + (1 | school)")
  theirs <- suppressMessages(lme4::glmer(formula, d, stats::poisson, lme4::glmerControl("bobyqa")))
  expect_s3_class(fit, c("multiVaryingModNN", "glmerVaryingModNN", "varyingModNN", "merModNN"), exact = TRUE)
  expect_lte(-2 * c(logLik(fit)), -2 * c(logLik(theirs)) + 1e-4)
  expect_equal(c(logLik(fit)), c(logLik(theirs)), tolerance = 1e-5)
  expect_equal(attr(logLik(fit), "df"), attr(logLik(theirs), "df"))
  expect_equal(unname(fitted(fit)), unname(fitted(theirs)), tolerance = 1e-2)
  expect_false("Residual" %in% as.data.frame(VarCorr(fit))$grp)
  expect_equal(sort(ngrps(fit)), sort(lme4::ngrps(theirs)))
  expect_equal(residuals(fit, "pearson"), residuals(theirs, "pearson"), tolerance = 2e-2, ignore_attr = TRUE)
})

test_that("counts by several factors have means, limits, averages and draws", {
  skip_without_torch()
  d <- nested_responses()
  fit <- fit_several("count", "poisson", "(nn.last | culture/person) + (1 | school)", d)
  expect_output(print(fit), "Family: poisson(log)", fixed = TRUE)
  expect_equal(fitted(fit), exp(predict(fit)), tolerance = 1e-10)
  expect_equal(predict(fit, d), predict(fit), tolerance = 1e-4)
  expect_error(predict(fit, strangers), "levels that the fit has not seen: new")
  means <- predict(fit, strangers, allow.new.levels = TRUE, type = "response", average = 500)
  mean <- predict(fit, strangers, allow.new.levels = TRUE, type = "response")
  expect_equal(means[["a"]], mean[["a"]], tolerance = 1e-6)
  expect_gte(means[["b"]], mean[["b"]] * 0.99) # exp() is convex
  expect_identical(unname(is.na(means)), c(FALSE, FALSE, TRUE))
  generic <- predict(fit, strangers[1, ], re.form = NA) # of the culture alone: between generic and all
  expect_false(isTRUE(all.equal(predict(fit, strangers[1, ], re.form = ~ (nn.last | culture)), generic)))
  link <- predict(fit, d[1:3, ], se.fit = TRUE)
  limits <- predict(fit, d[1:3, ], type = "response", interval = "confidence", level = 0.9)
  expect_equal(unname(limits[, "lwr"]), unname(exp(link$fit - stats::qnorm(0.95) * link$se.fit)))
  expect_equal(unname(predict(fit, d[1:3, ], random.only = TRUE)),
               unname(predict(fit, d[1:3, ]) - predict(fit, d[1:3, ], re.form = NA)), tolerance = 1e-5)
  drawn <- simulate(fit, 2, seed = 1)
  expect_true(all(drawn >= 0 & drawn == round(drawn)))
  expect_equal(dim(importance(fit, 2)), c(1L, 4L))
  expect_equal(sort(unique(partial_dependence(fit, "x", 5, groups = "all", factor = "culture")$culture)),
               factor(letters[1:5]))
  expect_error(predict(fit, type = "class"), "type = \"class\" is for classes")
  expect_s3_class(plot(fit, "predicted"), "trellis")
  expect_s3_class(plot(fit, "curves", factor = "culture"), "trellis")
})

test_that("new levels learn from classes, and all survives a file", {
  skip_without_torch()
  d <- nested_responses()
  fit <- fit_several("success", stats::binomial, "(nn.last | person) + (1 | school)", d)
  path <- withr::local_tempfile()
  saveRDS(fit, path)
  fit <- readRDS(path)
  own <- transform(subset(d, person == "p04"), person = "new")
  after <- update_random_effects(fit, own)
  expect_equal(ngrps(after)[["person"]], 21L)
  expect_equal(ranef(after)$person["p05", ], ranef(fit)$person["p05", ])
  expect_lt(max(abs(predict(after, own) - predict(fit, subset(d, person == "p04")))), 1)
  first <- predict(fit, own, allow.new.levels = TRUE, se.fit = TRUE)$se.fit
  expect_lt(mean(predict(after, own, se.fit = TRUE)$se.fit), mean(first))
  P <- predict(fit, d[1:4, ], type = "prob")
  expect_identical(colnames(P), c("no", "yes"))
  expect_equal(unname(P[, "yes"]), unname(predict(fit, d[1:4, ], type = "response")))
  expect_s3_class(simulate(fit, 1, seed = 2)$sim_1, "factor")
})

test_that("classes in order keep their thresholds", {
  skip_without_torch()
  d <- nested_responses()
  fit <- fit_several("grade", "ordinal", "(nn.last | person) + (1 | school)", d)
  P <- predict(fit, d[1:5, ], type = "prob")
  expect_equal(unname(rowSums(P)), rep(1, 5))
  expect_equal(unname(P[, "low"]), unname(plogis(fit$phi[1] - predict(fit, d[1:5, ]))), tolerance = 1e-6)
  averages <- predict(fit, d[1:2, ], type = "response", re.form = NA, average = 20)
  expect_equal(unname(rowSums(averages)), c(1, 1))
  expect_identical(as.character(predict(fit, type = "class")), colnames(fitted(fit))[max.col(fitted(fit), "first")])
})

test_that("what several bars have not is one sentence", {
  skip_without_torch()
  d <- nested_responses()
  d$kind <- factor(rep(c("u", "v", "w", "v"), 100))
  expect_error(fit_several("kind", "multinomial", "(nn.last | person) + (1 | school)", d), "varies by one bar alone")
  formula <- count ~ nn(x, hidden = c(2)) + (nn.last | person) + (1 | school)
  expect_error(glmernn(formula, d, "poisson", nAGQ = 5), "several bars take Laplace's approximation only")
})
