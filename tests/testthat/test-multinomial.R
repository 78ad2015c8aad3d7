# Multinomial models against what their estimates say of probabilities, and against what Python prints.

classes_data <- function(n = 300) {
  set.seed(1)
  d <- data.frame(x = rnorm(n), g = gl(15, n / 15), h = gl(6, 1, n))
  eta <- cbind(b = d$x, a = 0, c = rnorm(15)[d$g])
  d$y <- factor(apply(eta, 1L, function(e) sample(colnames(eta), 1L, prob = exp(e))), c("b", "a", "c"))
  d
}

quick_draws <- list(draws = 30, warmup = 20)

fit_classes <- function(formula = y ~ x + (1 | g), data = classes_data(), control = quick_draws, ...) {
  suppressWarnings(suppressMessages(
    glmernn(formula, data, family = "multinomial", control = control, seed = 1, ...)
  ))
}

test_that("estimates have a column for each class and sum to zero", {
  skip_without_torch()
  d <- classes_data()
  fit <- fit_classes()
  expect_s3_class(fit, c("multinomialModNN", "merModNN"), exact = TRUE)
  expect_identical(dimnames(fixef(fit)), list(c("(Intercept)", "x"), levels(d$y)))
  expect_equal(unname(rowSums(fixef(fit))), c(0, 0), tolerance = 1e-8)
  effects <- ranef(fit)
  expect_identical(names(effects$g), levels(d$y))
  expect_equal(unname(rowSums(effects$g)), numeric(15), tolerance = 1e-6)
  expect_identical(dim(attr(effects$g, "postVar")), c(15L, 3L))
  long <- as.data.frame(effects)
  expect_identical(names(long), c("grpvar", "term", "class", "grp", "condval", "condsd"))
  expect_identical(long$condval[long$class == "c" & long$grp == "4"], effects$g["4", "c"])
  table <- as.data.frame(VarCorr(fit))
  expect_identical(names(table), c("grp", "var1", "class", "vcov", "sdcor", "lower", "upper"))
  expect_identical(names(which.max(stats::setNames(table$vcov, table$class))), "c")
  expect_true(all(table$lower < table$vcov & table$vcov < table$upper))
  limits <- confint(fit)
  expect_identical(rownames(limits)[c(1L, 4L, 9L)], c("sd_(Intercept)|g:b", "(Intercept):b", "x:c"))
  expect_lt(limits["x:a", 2L], limits["x:b", 1L])
  expect_equal(unname((limits["x:b", 2L] - limits["x:b", 1L]) / (2 * qnorm(0.975))), sqrt(vcov(fit)["x:b", "x:b"]))
  total <- coef(fit)$g
  expect_equal(total["3", "(Intercept):c"], fixef(fit)["(Intercept)", "c"] + effects$g["3", "c"])
  expect_equal(total["3", "x:a"], fixef(fit)["x", "a"])
})

test_that("probabilities, classes, residuals and draws follow from the linear predictors", {
  skip_without_torch()
  d <- classes_data()
  fit <- fit_classes()
  eta <- outer(rep(1, 300), fixef(fit)["(Intercept)", ]) + outer(d$x, fixef(fit)["x", ]) +
    as.matrix(ranef(fit)$g)[as.character(d$g), ]
  P <- exp(eta) / rowSums(exp(eta))
  expect_equal(unname(fitted(fit)), unname(P), tolerance = 1e-6)
  expect_equal(predict(fit, d, type = "response"), fitted(fit), tolerance = 1e-6)
  expect_identical(predict(fit, type = "prob"), predict(fit, type = "response"))
  expect_identical(as.character(predict(fit)), levels(d$y)[max.col(P)])
  own <- P[cbind(1:300, as.integer(d$y))]
  expect_equal(deviance(fit), -2 * sum(log(own)), tolerance = 1e-6)
  expect_equal(sum(residuals(fit, "deviance")^2), deviance(fit))
  expect_equal(unname(residuals(fit)[2L, ]), unname((levels(d$y) == d$y[2L]) - P[2L, ]), tolerance = 1e-6)
  drawn <- simulate(fit, 2, seed = 1)
  expect_identical(levels(drawn$sim_2), levels(d$y))
  expect_identical(simulate(fit, 2, seed = 1), drawn)
  new <- data.frame(x = c(0, 1), g = c("3", "new"))
  expect_error(predict(fit, new), "levels that the fit has not seen: new")
  averaged <- predict(fit, new, type = "prob", allow.new.levels = TRUE)
  at_zero <- predict(fit, new, type = "prob", allow.new.levels = TRUE, marginal = FALSE)
  expect_equal(averaged["1", ], at_zero["1", ])
  sd <- as.data.frame(VarCorr(fit))$sdcor
  set.seed(1)
  b <- matrix(rnorm(3e5), ncol = 3L) %*% diag(sd)
  e <- exp(sweep(b, 2L, predict(fit, new, type = "link", allow.new.levels = TRUE)["2", ], `+`))
  expect_equal(unname(averaged["2", ]), colMeans(e / rowSums(e)), tolerance = 5e-3)
  expect_identical(nrow(simulate(fit, newdata = new, allow.new.levels = TRUE)), 2L)
  new$x[2L] <- NA
  expect_identical(unname(is.na(predict(fit, new, allow.new.levels = TRUE))), c(FALSE, TRUE))
})

test_that("several terms with slopes are kept in a file, refitted and drawn", {
  skip_without_torch()
  d <- classes_data()
  fit <- fit_classes(y ~ x + (x || g) + (1 | h), control = list(draws = 10, warmup = 5))
  expect_identical(names(ranef(fit)$g), c(paste0("(Intercept):", levels(d$y)), paste0("x:", levels(d$y))))
  expect_identical(names(ranef(fit)$h), levels(d$y))
  expect_identical(dim(coef(fit)$g), c(15L, 6L))
  expect_identical(names(VarCorr(fit)), c("g", "g.1", "h"))
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  again <- readRDS(file)
  expect_identical(fitted(again), fitted(fit))
  expect_false(any(rapply(unclass(fit), function(x) inherits(x, "python.builtin.object"), how = "unlist")))
  expect_output(print(summary(again)), "class c:\n (Intercept)", fixed = TRUE)
  for (kind in c("ranef", "distribution", "trace", "calibration", "roc")) expect_s3_class(plot(fit, kind), "trellis")
  expect_error(plot(fit, "pie"), "plot() of a multinomial model has no kind 'pie'", fixed = TRUE)
  refitted <- suppressWarnings(refit(fit, simulate(fit, seed = 1)))
  expect_false(identical(fixef(refitted), fixef(fit)))
  expect_error(refit(fit, rep("z", 300)), "newresp has no class of the model in row 1: use b, a, c.")
  for (verb in c("logLik", "AIC", "anova", "drop1", "df.residual")) {
    expect_error(match.fun(verb)(fit), paste0(sub("AIC", "logLik", verb), "() is not offered for multinomial models"),
                 fixed = TRUE)
  }
  expect_identical(dim(getME(fit, "b")), c(36L, 3L))
})

test_that("tables for the tidyverse have a column for the class", {
  skip_without_torch()
  skip_if_not_installed("generics")
  fit <- fit_classes(y ~ x + (x | g), control = list(draws = 10, warmup = 5))
  effects <- c("fixed", "ran_pars", "ran_vals", "ran_coefs")
  table <- as.data.frame(generics::tidy(fit, effects = effects, conf.int = TRUE))
  expect_equal(as.vector(table(table$effect)[effects]), c(6L, 9L, 90L, 90L))
  slope <- table$effect == "fixed" & table$class == "b" & table$term == "x"
  expect_equal(c(table$conf.low[slope], table$conf.high[slope]), unname(confint(fit)["x:b", ]))
  correlation <- table[which(table$term == "cor__(Intercept).x" & table$class == "c"), ]
  expect_equal(correlation$estimate, attr(VarCorr(fit)$g$c, "correlation")[2L, 1L])
  own <- table$effect == "ran_coefs" & table$level == "3" & table$class == "a" & table$term == "x"
  expect_equal(table$estimate[own], coef(fit)$g["3", "x:a"])
  expect_equal(generics::glance(fit)$deviance, deviance(fit))
})

test_that("networks have a number for each class", {
  skip_without_torch()
  fit <- fit_classes(y ~ nn(x, hidden = 4) + (1 | g), control = list(epochs = 5, folds = 0, draws = 10, warmup = 5))
  expect_equal(predict(fit, classes_data(), type = "response"), fitted(fit), tolerance = 1e-4)
  expect_identical(importance(fit, 2)$input, "x")
  curve <- partial_dependence(fit, "x", grid_size = 5)
  expect_identical(levels(curve$class), c("b", "a", "c"))
  expect_identical(nrow(curve), 15L)
  for (kind in c("history", "importance", "partial")) expect_s3_class(plot(fit, kind), "trellis")
  expect_output(print(summary(fit)), "Networks:")
})

test_that("Python prints the same summary", {
  skip_without_torch()
  d <- classes_data()
  file <- tempfile(fileext = ".csv")
  utils::write.csv(d, file, row.names = FALSE)
  shown <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.engines.sampling_options import Sampling",
    "data = pd.read_csv(sys.argv[1])",
    "data['y'] = pd.Categorical(data.y, ['b', 'a', 'c'])",
    "fit = pylmernn.glmernn('y ~ x + (1 | g)', data, family='multinomial', seed=1,",
    "                       control=Control(sampling=Sampling(draws=30, warmup=20)))",
    "print(json.dumps(str(fit.summary()).splitlines()))"
  ), file)
  fit <- fit_classes()
  fit$call$control <- NULL
  of_r <- capture.output(print(summary(fit)))
  compared <- function(lines) { # without the class, the name of the data and what only one language has settings for
    last <- match(TRUE, startsWith(lines, "Signif"), nomatch = length(lines) + 1L)
    lines <- lines[seq_len(last - 1L)]
    lines[nzchar(lines) & !startsWith(lines, "   Data")][-1L]
  }
  expect_gt(length(compared(shown)), 18L)
  expect_equal(compared(of_r), compared(shown))
})

test_that("a response that is no class is refused in one sentence", {
  skip_without_python()
  d <- classes_data()
  refused <- function(code, message) {
    error <- expect_error(code, message, fixed = TRUE)
    expect_null(conditionCall(error))
  }
  refused(fit_classes(x ~ 1 + (1 | g), d), "the multinomial family needs classes, a factor, text or whole numbers.")
  d$one <- "a"
  refused(fit_classes(one ~ x + (1 | g), d), "the response 'one' has one class only, 'a': it needs two.")
  refused(fit_classes(y ~ x + (1 | g), d, method = "pirls"), "method 'pirls' fits no multinomial models")
})

test_that("standard errors and limits are the spread over joint draws of fixed and random effects", {
  skip_without_torch()
  d <- classes_data()
  fit <- fit_classes()
  new <- d[c(1, 40, 300), ]
  found <- predict(fit, new, type = "response", se.fit = TRUE, interval = "confidence", level = 0.9)
  expect_identical(names(found), c("fit", "se.fit", "lwr", "upr"))
  expect_equal(found$fit, predict(fit, new, type = "response"))
  expect_identical(dimnames(found$se.fit), dimnames(found$fit))
  draws <- fit$joint
  P <- vapply(seq_len(nrow(draws$beta)), function(s) {
    eta <- draws$beta[s, 1L, ] + d$x[40L] * draws$beta[s, 2L, ] + draws$b[[1L]][s, as.integer(d$g[40L]), 1L, ]
    exp(eta) / sum(exp(eta))
  }, numeric(3L))
  expect_equal(unname(found$se.fit[2L, ]), apply(P, 1L, sd))
  expect_equal(unname(found$lwr[2L, ]), unname(apply(P, 1L, quantile, 0.05)))
  expect_equal(unname(found$upr[2L, ]), unname(apply(P, 1L, quantile, 0.95)))
  set.seed(5)
  state <- .Random.seed
  new$g <- factor(c("1", "other", "15"))
  new$x[3L] <- NA
  unseen <- predict(fit, new, type = "link", se.fit = TRUE, allow.new.levels = TRUE)
  expect_identical(.Random.seed, state)
  expect_identical(names(unseen), c("fit", "se.fit"))
  expect_gt(unseen$se.fit[2L, "c"], unseen$se.fit[1L, "c"])
  expect_true(all(is.na(unseen$se.fit[3L, ])))
  longer <- suppressWarnings(update_random_effects(fit, d[1:20, ]))
  again <- predict(longer, d[1:2, ], type = "response", interval = "confidence")
  expect_true(all(again$lwr < again$fit & again$fit < again$upr))
  expect_gt(sd(longer$joint$beta[, 2L, 1L]), 0)
  expect_error(predict(fit, se.fit = TRUE), "use type = \"response\"")
  expect_error(predict(fit, type = "prob", interval = "prediction"), "a new class has no limits")
})

test_that("a weight counts a row as often, and nodes are refused", {
  skip_without_torch()
  d <- classes_data()
  d$w <- 1 + seq_len(300) %% 2
  weighted <- suppressWarnings(
    glmernn(y ~ x + (1 | g), d, family = "multinomial", control = quick_draws, seed = 1, weights = w)
  )
  repeated <- fit_classes(data = d[rep(seq_len(300), d$w), ])
  expect_equal(fixef(weighted), fixef(repeated), tolerance = 0.2)
  expect_equal(deviance(weighted), deviance(repeated), tolerance = 0.03)
  expect_equal(sum(residuals(weighted, "deviance")^2), deviance(weighted))
  expect_error(glmernn(y ~ x + (1 | g), d, family = "multinomial", nAGQ = 3), "nAGQ is 3, but a multinomial model")
})
