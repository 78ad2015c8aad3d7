# Intervals, simulation, importance, curves, limits and pictures of networks that vary by several bars.

pupils <- function(nested = FALSE) {
  set.seed(3)
  n <- 600
  person <- sample(30, n, TRUE)
  school <- if (nested) person %% 6 + 1 else sample(6, n, TRUE)
  d <- data.frame(x = rnorm(n), z = rnorm(n), v = rnorm(n), person = factor(person), school = factor(school),
                  w = runif(n, 0.5, 2))
  a <- matrix(rnorm(12), 6)
  b <- 0.5 * matrix(rnorm(60), 30)
  d$y <- 1 + 2 * d$x + 0.7 * d$z + a[school, 1] + 0.5 * a[school, 2] * d$x + b[person, 1] + b[person, 2] * d$x +
    0.5 * rnorm(n)
  d
}

kept <- new.env()

# Fits of several tests: linear networks with the linear mixed models that they are, and networks with a hidden layer.
pupils_fit <- function(which) {
  if (is.null(kept[[which]])) {
    linear <- function(bars, data) {
      formula <- as.formula(paste("y ~ z + nn(x, hidden = c(), standardize = FALSE) +", bars))
      lmernn(formula, data, weights = w, control = list(epochs = 3), seed = 1)
    }
    mixed <- function(bars, data) by_lme4(as.formula(paste("y ~ z + x +", bars)), data, weights = w)
    kept[[which]] <- suppressWarnings(switch(
      which,
      crossed = linear("(nn | person) + (1 + x | school)", pupils()),
      crossed_mixed = mixed("(1 + x | person) + (1 + x | school)", pupils()),
      nested = linear("(nn | school / person)", pupils(TRUE)),
      nested_mixed = mixed("(1 + x | school / person)", pupils(TRUE)),
      last = lmernn(y ~ nn(x, z, hidden = c(3)) + (nn.last | school / person) + (1 + v | school), pupils(TRUE),
                    control = list(epochs = 8), seed = 1),
      deep = lmernn(y ~ nn(x, hidden = c(3)) + rr(nn | person, d = 2) + (1 | school), pupils(), seed = 1,
                    control = list(epochs = 8))
    ))
  }
  kept[[which]]
}

# Standard errors of the means of lme4's fit at its rows: the joint posterior of fixed and random effects, by its parts.
joint_errors <- function(fit) {
  C <- cbind(as.matrix(lme4::getME(fit, "Z") %*% lme4::getME(fit, "Lambda")), lme4::getME(fit, "X"))
  penalty <- diag(rep(c(1, 0), c(lme4::getME(fit, "q"), lme4::getME(fit, "p"))))
  sigma(fit) * sqrt(rowSums((C %*% solve(crossprod(C, weights(fit) * C) + penalty)) * C))
}

test_that("a linear network has the standard errors of lme4's fit", {
  skip_without_torch()
  for (which in c("crossed", "nested")) {
    truth <- joint_errors(pupils_fit(paste0(which, "_mixed")))
    fit <- pupils_fit(which)
    expect_equal(unname(predict(fit, se.fit = TRUE)$se.fit), unname(truth), tolerance = 1e-3)
    d <- pupils(which == "nested")[1:40, ]
    expect_equal(unname(predict(fit, d, se.fit = TRUE)$se.fit), unname(truth[1:40]), tolerance = 1e-3)
  }
})

test_that("it has the intervals of the linear mixed model for new levels of some factors and of all", {
  skip_without_torch()
  for (which in c("crossed", "nested")) {
    d <- pupils(which == "nested")
    ours <- pupils_fit(which)
    bars <- if (which == "nested") "(1 + x | school / person)" else "(1 + x | person) + (1 + x | school)"
    theirs <- lmernn(as.formula(paste("y ~ z + x +", bars)), d, weights = w)
    new <- transform(d[1:60, ], person = as.character(person), school = as.character(school))
    new$person[1:40] <- "new"
    new$school[21:50] <- "new"
    for (interval in c("confidence", "prediction")) {
      a <- predict(ours, new, allow.new.levels = TRUE, se.fit = TRUE, interval = interval, level = 0.8)
      b <- predict(theirs, new, allow.new.levels = TRUE, se.fit = TRUE, interval = interval, level = 0.8)
      expect_equal(a, b, tolerance = 1e-3)
    }
    expect_equal(predict(ours, interval = TRUE), predict(theirs, interval = "prediction"), tolerance = 1e-3)
    expect_equal(predict(ours, re.form = NA, se.fit = TRUE), predict(theirs, re.form = NA, se.fit = TRUE),
                 tolerance = 1e-3)
    of_school <- if (which == "nested") ~ (nn | school) else ~ (1 + x | school)
    expect_equal(predict(ours, d, re.form = of_school, se.fit = TRUE),
                 predict(theirs, d, re.form = ~ (1 + x | school), se.fit = TRUE), tolerance = 1e-3)
  }
})

test_that("both languages have the same errors, importance and curves", {
  skip_without_torch()
  d <- pupils(TRUE)
  file <- tempfile(fileext = ".csv")
  utils::write.csv(d, file, row.names = FALSE)
  theirs <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "d = pd.read_csv(sys.argv[1])",
    "fit = pylmernn.lmernn('y ~ nn(x, z, hidden=c(3)) + (nn.last | school / person) + (1 + v | school)', d,",
    "                      control=Control(training=Training(epochs=8)), seed=1)",
    "curve = fit.partial_dependence('x', grid_size=5, groups='7:2')['f'].tolist()",
    "found = fit.predict(interval=True)[['fit', 'lwr', 'upr']].to_numpy().tolist()",
    "print(json.dumps([found, fit.importance()['importance'].tolist(), curve]))"
  ), file)
  fit <- pupils_fit("last")
  expect_equal(unname(predict(fit, interval = "prediction")), theirs[[1L]], tolerance = 1e-4)
  expect_equal(importance(fit)$importance, theirs[[2L]], tolerance = 1e-4)
  curve <- partial_dependence(fit, "x", grid_size = 5, groups = "7:2")
  expect_named(curve, c("person:school", "x", "f"))
  expect_equal(curve$f, theirs[[3L]], tolerance = 1e-4)
})

test_that("levels that were learnt are about as certain as their twins", {
  skip_without_torch()
  for (which in c("last", "deep")) {
    fit <- pupils_fit(which)
    d <- pupils(which == "last")
    own <- d[d$person == "7", ]
    twin <- transform(own, person = "twin")
    known <- predict(fit, own, se.fit = TRUE)$se.fit
    learnt <- update_random_effects(fit, twin)
    found <- predict(learnt, twin, se.fit = TRUE)$se.fit
    expect_equal(unname(found), unname(known), tolerance = 0.12)
    few <- predict(update_random_effects(fit, twin[1, ]), twin, se.fit = TRUE)$se.fit
    expect_gt(mean(few), 1.1 * mean(known))
    other <- update_random_effects(learnt, transform(d[d$person == "9", ], person = "other"))
    expect_equal(predict(other, twin, se.fit = TRUE)$se.fit, found, tolerance = 0.05)
    expect_equal(predict(unserialize(serialize(other, NULL)), twin, se.fit = TRUE)$se.fit,
                 predict(other, twin, se.fit = TRUE)$se.fit)
  }
})

test_that("levels are learnt where there are no linear coefficients too", {
  skip_without_torch()
  d <- pupils()
  twin <- transform(d[d$person == "7", ], person = "twin")
  for (bars in c("(nn | person)", "(nn | person) + (1 | school)")) {
    formula <- as.formula(paste("y ~ 0 + nn(x, hidden = c()) +", bars))
    fit <- suppressWarnings(lmernn(formula, d, control = list(epochs = 2), seed = 1))
    before <- predict(fit, twin, allow.new.levels = TRUE, se.fit = TRUE)$se.fit
    expect_true(all(predict(update_random_effects(fit, twin), twin, se.fit = TRUE)$se.fit < before))
  }
})

test_that("what random effects add, missing values and refusals", {
  skip_without_torch()
  fit <- pupils_fit("last")
  d <- pupils(TRUE)
  expect_equal(predict(fit, d, re.form = NA) + predict(fit, d, random.only = TRUE), predict(fit, d), tolerance = 1e-5)
  rows <- d[1:3, ]
  rows$x[2] <- NA
  rows$school[3] <- NA
  expect_identical(unname(is.na(predict(fit, rows, interval = "prediction")[, "upr"])), c(FALSE, TRUE, TRUE))
  expect_error(predict(fit, random.only = TRUE, se.fit = TRUE), "without average and random.only")
  expect_error(predict(fit, wide = TRUE), "has no argument 'wide'")
})

test_that("draws have the moments of the linear mixed model", {
  skip_without_torch()
  fit <- pupils_fit("nested")
  mixed <- pupils_fit("nested_mixed")
  d <- pupils(TRUE)
  draws <- as.matrix(simulate(fit, 300, seed = 1))
  theirs <- as.matrix(simulate(mixed, 300, seed = 1))
  expect_equal(mean(apply(draws, 1, var)), mean(apply(theirs, 1, var)), tolerance = 0.1)
  of_school <- as.matrix(simulate(fit, 200, seed = 1, re.form = ~ (nn | school)))
  expect_equal(rowMeans(of_school), predict(mixed, re.form = ~ (1 + x | school)), tolerance = 0.05)
  kept <- as.matrix(simulate(fit, 200, seed = 1, use.u = TRUE))
  expect_equal(rowMeans(kept), fitted(mixed), tolerance = 0.05)
  expect_equal(mean(apply(kept, 1, sd) * sqrt(d$w)), sigma(mixed), tolerance = 0.05)
  expect_identical(simulate(fit, 2, seed = 5), simulate(fit, 2, seed = 5))
  new <- d[c(1, 1, 1, 1), ]
  new$person <- c("u", "u", "v", "u")
  new$school <- c("s", "s", "s", "t")
  last <- pupils_fit("last")
  expect_error(simulate(last, newdata = new), "grouping factor .* has levels that the fit has not seen")
  drawn <- as.matrix(simulate(last, 300, seed = 2, newdata = new, allow.new.levels = TRUE))
  noise <- 2 * sigma(last)^2
  expect_equal(var(drawn[1, ] - drawn[2, ]), noise, tolerance = 0.25)
  expect_gt(var(drawn[1, ] - drawn[3, ]), 1.2 * noise)
  expect_gt(var(drawn[1, ] - drawn[4, ]), var(drawn[1, ] - drawn[3, ]))
})

test_that("importance, curves and limits", {
  skip_without_torch()
  table <- importance(pupils_fit("last"))
  expect_named(table, c("network", "input", "importance", "se"))
  expect_identical(table$input, c("x", "z"))
  mixed <- pupils_fit("nested_mixed")
  slopes <- coef(mixed)$school$x
  own <- ranef(mixed)[["person:school"]]
  curve <- partial_dependence(pupils_fit("nested"), "x", groups = "7:2")
  expect_equal(diff(range(curve$f)) / diff(range(curve$x)), abs(slopes[2] + own["7:2", "x"]), tolerance = 1e-3)
  curve <- partial_dependence(pupils_fit("nested"), "x", groups = "2", factor = "school")
  expect_equal(diff(range(curve$f)) / diff(range(curve$x)), abs(slopes[2]), tolerance = 1e-3)
  expect_error(partial_dependence(pupils_fit("last"), "x", groups = "Z"), "has no level 'Z'")
  expect_error(partial_dependence(pupils_fit("last"), "x", groups = "1", factor = "w"), "does not vary by a grouping")
  expect_equal(confint(pupils_fit("crossed"), "z", level = 0.9), confint(pupils_fit("crossed_mixed"), "z", 0.9, "Wald"),
               tolerance = 1e-3, ignore_attr = TRUE)
  expect_error(confint(pupils_fit("deep")), "only where the last layer alone varies")
})

test_that("pictures can be drawn of every factor", {
  skip_without_torch()
  fit <- pupils_fit("last")
  for (kind in c("curves", "shrinkage", "baseline", "variances", "ranef")) {
    for (factor in list(NULL, "school")) {
      grDevices::pdf(NULL)
      picture <- plot(fit, kind, factor = factor)
      expect_s3_class(picture, "trellis")
      expect_no_error(print(picture))
      grDevices::dev.off()
    }
  }
  grDevices::pdf(NULL)
  on.exit(grDevices::dev.off())
  expect_no_error(print(plot(fit, "curves", input = "x", groups = c("7:2", "1:2"))))
  for (kind in c("importance", "partial", "history", "predicted")) expect_no_error(print(plot(fit, kind)))
  for (kind in c("curves", "shrinkage")) expect_no_error(print(plot(pupils_fit("deep"), kind)))
  table <- distances_of(factor_view(pupils_fit("nested"), "person:school", FALSE))
  expect_equal(table$rows, as.vector(table(pupils_fit("nested")$flist[["person:school"]])))
  expect_true(all(table$expected < table$prior))
  expect_error(plot(fit, "calibration"), "use one of residuals, predicted, history")
  expect_error(plot(fit, "history", factor = "school"), "leave out factor")
  expect_error(plot(fit, "ranef", factor = "w"), "no grouping factor 'w'")
})
