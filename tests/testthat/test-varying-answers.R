# Intervals, simulation, importance, curves and pictures of networks that vary by group.

orthodont <- as.data.frame(nlme::Orthodont)
orthodont$Subject <- factor(as.character(orthodont$Subject))

shared <- new.env()

# Fits of several tests: a linear network, the linear mixed model that it is, and a network with a hidden layer.
fit_of <- function(which) {
  if (is.null(shared[[which]])) {
    shared[[which]] <- suppressWarnings(switch(
      which,
      linear = lmernn(distance ~ nn(age, hidden = c()) + (nn | Subject), orthodont, control = list(epochs = 5)),
      mixed = lmernn(distance ~ age + (age | Subject), orthodont),
      last = lmernn(distance ~ nn(age, Sex, hidden = c(3)) + (nn.last | Subject), orthodont,
                    control = list(epochs = 15), seed = 1),
      deep = lmernn(distance ~ nn(age, hidden = c(3)) + (nn | Subject), orthodont, control = list(epochs = 15),
                    seed = 1)
    ))
  }
  shared[[which]]
}

test_that("a linear network has the errors of the linear mixed model", {
  skip_without_torch()
  rows <- orthodont
  levels(rows$Subject)[1:8] <- "new"
  for (interval in c("confidence", "prediction")) {
    ours <- predict(fit_of("linear"), rows, allow.new.levels = TRUE, se.fit = TRUE, interval = interval, level = 0.8)
    theirs <- predict(fit_of("mixed"), rows, allow.new.levels = TRUE, se.fit = TRUE, interval = interval, level = 0.8)
    expect_equal(ours, theirs, tolerance = 1e-4)
  }
  expect_equal(predict(fit_of("linear"), re.form = NA, se.fit = TRUE),
               predict(fit_of("mixed"), re.form = NA, se.fit = TRUE), tolerance = 1e-4)
})

test_that("both languages have the same errors", {
  skip_without_torch()
  ours <- predict(fit_of("deep"), interval = "prediction")
  file <- tempfile(fileext = ".csv")
  utils::write.csv(orthodont, file, row.names = FALSE)
  theirs <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "d = pd.read_csv(sys.argv[1])",
    "fit = pylmernn.lmernn('distance ~ nn(age, hidden=c(3)) + (nn | Subject)', d,",
    "                      control=Control(training=Training(epochs=15)), seed=1)",
    "print(json.dumps(fit.predict(interval=True)[['fit', 'lwr', 'upr']].to_numpy().tolist()))"
  ), file)
  expect_equal(unname(ours), theirs, tolerance = 1e-4)
})

test_that("levels that were learnt are as certain as their twins", {
  skip_without_torch()
  own <- orthodont[orthodont$Subject == "M10", ]
  twin <- transform(own, Subject = "twin")
  for (which in c("last", "deep")) {
    known <- predict(fit_of(which), own, se.fit = TRUE)$se.fit
    learnt <- update_random_effects(fit_of(which), twin)
    expect_equal(predict(learnt, twin, se.fit = TRUE)$se.fit, known, tolerance = 0.05)
    few <- predict(update_random_effects(fit_of(which), twin[1, ]), twin, se.fit = TRUE)$se.fit
    expect_gt(mean(few), 1.1 * mean(known))
  }
})

test_that("what deviations add, missing values and refusals", {
  skip_without_torch()
  fit <- fit_of("last")
  expect_equal(predict(fit, orthodont, re.form = NA) + predict(fit, orthodont, random.only = TRUE),
               predict(fit, orthodont), tolerance = 1e-5)
  rows <- orthodont[1:3, ]
  rows$age[2] <- NA
  expect_identical(unname(is.na(predict(fit, rows, interval = "prediction")[, "upr"])), c(FALSE, TRUE, FALSE))
  expect_error(predict(fit, random.only = TRUE, se.fit = TRUE), "without average and random.only")
  expect_error(predict(fit, average = 5, se.fit = TRUE), "without average and random.only")
})

test_that("draws have the moments of the linear mixed model", {
  skip_without_torch()
  draws <- as.matrix(simulate(fit_of("linear"), 400, seed = 1))
  mixed <- fit_of("mixed")
  X <- model.matrix(mixed)
  variance <- sigma(mixed)^2 + rowSums((X %*% VarCorr(mixed)$Subject) * X)
  expect_equal(mean(apply(draws, 1, var)), mean(variance), tolerance = 0.1)
  expect_equal(rowMeans(draws), predict(mixed, re.form = NA), tolerance = 0.02)
  kept <- as.matrix(simulate(fit_of("linear"), 300, seed = 1, use.u = TRUE))
  expect_equal(rowMeans(kept), fitted(mixed), tolerance = 0.02)
  expect_identical(simulate(fit_of("linear"), 2, seed = 5), simulate(fit_of("linear"), 2, seed = 5))
  new <- orthodont[c(1, 1, 1), ]
  new$Subject <- c("u", "u", "v")
  expect_error(simulate(fit_of("last"), newdata = new), "levels that the fit has not seen: u, v")
  drawn <- as.matrix(simulate(fit_of("last"), 300, seed = 2, newdata = new, allow.new.levels = TRUE))
  expect_equal(var(drawn[1, ] - drawn[2, ]), 2 * sigma(fit_of("last"))^2, tolerance = 0.25)
  expect_gt(var(drawn[1, ] - drawn[3, ]), 1.5 * var(drawn[1, ] - drawn[2, ]))
})

test_that("importance, curves and limits", {
  skip_without_torch()
  table <- importance(fit_of("last"))
  expect_named(table, c("network", "input", "importance", "se"))
  expect_identical(table$input, c("age", "Sex"))
  curves <- partial_dependence(fit_of("linear"), "age", groups = c("M01", "F03"))
  expect_named(curves, c("Subject", "age", "f"))
  for (level in c("M01", "F03")) {
    own <- curves[curves$Subject == level, ]
    expect_equal(diff(range(own$f)) / diff(range(own$age)), abs(coef(fit_of("mixed"))$Subject[level, "age"]),
                 tolerance = 1e-4)
  }
  expect_identical(levels(partial_dependence(fit_of("last"), "Sex")$Sex), c("Male", "Female"))
  expect_equal(nrow(partial_dependence(fit_of("last"), "age", groups = "all")), 27 * 4)
  expect_error(partial_dependence(fit_of("last"), "age", groups = "Z"), "has no level 'Z'")
  expect_equal(unname(confint(fit_of("linear"))[, 2] - confint(fit_of("linear"))[, 1]),
               2 * qnorm(0.975) * unname(sqrt(vcov(fit_of("linear"))[1, 1])))
  expect_error(confint(fit_of("deep")), "only where the last layer alone varies")
})

test_that("pictures can be drawn", {
  skip_without_torch()
  for (kind in c("curves", "shrinkage", "baseline", "variances", "importance", "partial", "predicted", "residuals")) {
    grDevices::pdf(NULL)
    for (which in c("last", "deep")) {
      picture <- plot(fit_of(which), kind = kind)
      expect_s3_class(picture, "trellis")
      expect_no_error(print(picture))
    }
    grDevices::dev.off()
  }
  grDevices::pdf(NULL)
  expect_no_error(print(plot(fit_of("last"), kind = "curves", input = "age", groups = c("M01", "F03"))))
  grDevices::dev.off()
  table <- distances_of(fit_of("linear"))
  expect_true(all(table$rows == 4))
  expect_true(all(table$expected < table$prior))
  expect_error(plot(fit_of("last"), kind = "map"), "use one of residuals, predicted")
  expect_error(plot(fit_of("last"), kind = "curves", input = "Sex"), "'Sex' is no number that the network takes")
})

test_that("generalized models have errors on both scales", {
  skip_without_torch()
  set.seed(2)
  d <- data.frame(x = runif(300, -2, 2), person = gl(30, 10))
  level <- rnorm(30)
  d$k <- rpois(300, exp(0.5 + 0.4 * d$x + 0.5 * level[d$person]))
  ours <- glmernn(k ~ nn(x, hidden = c()) + (nn | person), d, "poisson", control = list(epochs = 5))
  theirs <- glmernn(k ~ x + (x | person), d, "poisson")
  for (type in c("link", "response")) {
    a <- predict(ours, d, type = type, se.fit = TRUE, interval = "confidence")
    b <- predict(theirs, d, type = type, se.fit = TRUE, interval = "confidence")
    expect_equal(a, b, tolerance = 0.02)
  }
  expect_error(predict(ours, interval = "prediction"), "use type = \"response\"")
  limits <- predict(ours, type = "response", interval = "prediction")
  expect_true(mean(d$k >= limits[, "lwr"] & d$k <= limits[, "upr"]) > 0.9)
  draws <- as.matrix(simulate(ours, 100, seed = 1, use.u = TRUE))
  expect_equal(mean(draws), mean(fitted(theirs)), tolerance = 0.05)
  d$c <- factor(ifelse(d$k == 0, "none", ifelse(d$k < 3, "few", "many")))
  several <- glmernn(c ~ nn(x, hidden = c()) + (nn || person), d, "multinomial", control = list(epochs = 5))
  expect_identical(levels(simulate(several, 1, seed = 1)$sim_1), levels(d$c))
  expect_error(predict(several, type = "link", se.fit = TRUE), "multinomial model with a network that varies are not")
  expect_named(partial_dependence(several, "x", groups = "1"), c("person", "x", "class", "f"))
})
