# Sequences of states, against what their estimates say and against Python.

dyads <- function(groups = 8, times = 8, sequences = 2) {
  set.seed(3)
  n <- groups * sequences * times
  d <- data.frame(
    x1 = rnorm(n), x2 = rnorm(n), dyad = rep(sprintf("d%d", seq_len(groups)), each = sequences * times),
    s = rep(seq_len(groups * sequences), each = times), t = rep(seq_len(times), groups * sequences)
  )
  stay <- rep(rnorm(groups, 1), each = sequences * times)
  states <- c("calm", "joy", "row")
  d$state <- sample(states, n, TRUE)
  for (i in which(d$t > 1)) {
    eta <- stay[i] * (states == d$state[i - 1]) + c(0, d$x1[i], d$x2[i])
    d$state[i] <- sample(states, 1, prob = exp(eta))
  }
  d
}

moving <- state ~ nn(x1, x2, hidden = c(3)) + (crf | dyad)

fit_dyads <- function(formula = moving, data = dyads(), ..., epochs = 3, sequence = "s", time = "t") {
  glmernn(formula, data, "crf", sequence = sequence, time = time, control = list(epochs = epochs), seed = 1, ...)
}

test_that("transitions are fitted, told of and kept", {
  skip_without_torch()
  d <- dyads()
  fit <- fit_dyads()
  expect_s3_class(fit, c("sequenceModNN", "varyingModNN", "merModNN"), exact = TRUE)
  moves <- paste0("transitions[", outer(c("calm", "joy", "row"), c("calm", "joy", "row"), paste, sep = ","), "]")
  expect_setequal(names(fixef(fit)), c(paste0("(Intercept):", c("calm", "joy", "row")), moves))
  expect_equal(fixef(fit)[["transitions[calm,joy]"]], transitions(fit)["calm", "joy"])
  expect_equal(mean(transitions(fit)), 0)
  effects <- ranef(fit, condVar = TRUE)
  expect_identical(dim(effects$dyad), c(8L, 9L))
  own <- matrix(unlist(effects$dyad["d4", ]), 3, byrow = TRUE)
  expect_equal(transitions(fit, "d4"), (transitions(fit) + own) - mean(own), ignore_attr = TRUE)
  long <- as.data.frame(effects)
  at <- long$term == "transitions[joy,row]" & long$grp == "d7"
  expect_identical(long$condval[at], effects$dyad["d7", "transitions[joy,row]"])
  expect_identical(long$condsd[at], sqrt(attr(effects$dyad, "postVar")[6, 6, 7]))
  expect_identical(names(VarCorr(fit)), "dyad.crf")
  table <- as.data.frame(VarCorr(fit))
  expect_equal(table$vcov, unname(diag(VarCorr(fit)$dyad.crf)))
  expect_equal(table$sdcor^2, table$vcov)
  expect_output(print(VarCorr(fit)), "dyad.crf transitions\\[calm,calm\\]")
  expect_equal(c(nobs(fit), ngrps(fit)), c(128, dyad = 8))
  likelihood <- logLik(fit)
  expect_equal(c(AIC(fit), BIC(fit)), -2 * c(likelihood) + attr(likelihood, "df") * c(2, log(128)))
  expect_identical(formula(fit), moving)
  expect_output(print(fit), "Number of obs: 128, sequences: 16, groups: dyad, 8", fixed = TRUE)
  expect_output(print(summary(fit)), "Transitions, from row to column:", fixed = TRUE)
  expect_equal(nrow(history(fit)), 3)
  expect_s3_class(plot(fit, kind = "history"), "trellis")
  expect_identical(family(fit)$family, "crf")
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  expect_identical(predict(readRDS(file), d), predict(fit, d))
})

test_that("a model is updated", {
  skip_without_torch()
  d <- dyads(4, 5)
  fit <- glmernn(moving, d, family = "crf", sequence = "s", time = "t", control = list(epochs = 2), seed = 1)
  shared <- update(fit, . ~ . - (crf | dyad))
  expect_identical(deparse1(formula(shared)), "state ~ nn(x1, x2, hidden = c(3))")
  expect_length(shared$layers, 0)
  expect_length(fit$layers, 9)
  some <- update(fit, subset = s > 2)
  expect_identical(names(predict(some)), as.character(11:40))
  expect_equal(predict(some, d[11:40, ], type = "prob"), fitted(some))
})

test_that("states and probabilities are those of whole sequences, in the order of the data", {
  skip_without_torch()
  d <- dyads()
  fit <- fit_dyads()
  P <- predict(fit, d, type = "prob")
  expect_equal(P, fitted(fit))
  expect_identical(predict(fit, d, type = "response"), P)
  expect_equal(unname(rowSums(P)), rep(1, 128))
  expect_identical(dimnames(P), list(row.names(d), c("calm", "joy", "row")))
  expect_identical(predict(fit, d), predict(fit))
  expect_identical(levels(predict(fit)), c("calm", "joy", "row"))
  set.seed(1)
  shuffled <- d[sample(128), ]
  expect_equal(predict(fit, shuffled, type = "prob"), P[row.names(shuffled), ])
  expect_identical(predict(fit, shuffled), predict(fit)[row.names(shuffled)])
  within <- d[order(d$s, rnorm(128)), ]
  again <- fit_dyads(data = within)
  expect_equal(fitted(again)[row.names(d), ], P, tolerance = 1e-10)
  expect_equal(deviance(fit, shuffled), deviance(fit))
  expect_gt(deviance(fit, re.form = NA), deviance(fit))
  expect_equal(deviance(fit, d, re.form = ~0), deviance(fit, re.form = NA))
  one <- predict(fit, d[5, ], type = "prob")
  expect_equal(sum(one), 1)
  # a sequence of one row has no moves: its probabilities are those of scores alone
  alone <- predict(fit, rbind(d[5, ], d[9, ]), type = "prob")
  expect_equal(alone[1, ], one[1, ])
  times <- as.Date("2024-01-31") + d$t
  expect_equal(unname(predict(fit, transform(d, t = times), type = "prob")), unname(P))
  expect_equal(unname(predict(fit, transform(d, t = as.POSIXlt(times)), type = "prob")), unname(P))
  expect_equal(unname(predict(fit, transform(d, t = factor(letters[t])), type = "prob")), unname(P))
})

test_that("new groups get what all share, the mean over draws, or deviations of their own", {
  skip_without_torch()
  d <- dyads()
  fit <- fit_dyads()
  own <- subset(d, dyad == "d5")
  new <- transform(own, dyad = "new")
  expect_error(predict(fit, new), "levels that the fit has not seen: new; use allow.new.levels", fixed = TRUE)
  generic <- predict(fit, new, allow.new.levels = TRUE, type = "prob")
  expect_equal(generic, predict(fit, own, re.form = NA, type = "prob"))
  means <- predict(fit, new, allow.new.levels = TRUE, type = "prob", average = 10, seed = 2)
  expect_equal(unname(rowSums(means)), rep(1, 16))
  expect_gt(max(abs(means - generic)), 1e-4)
  classes <- predict(fit, new, allow.new.levels = TRUE, average = 10, seed = 2)
  expect_identical(as.character(classes), colnames(means)[max.col(means, "first")])
  both <- rbind(d, transform(new, s = s + 100))
  mixed <- predict(fit, both, allow.new.levels = TRUE, type = "prob")
  expect_equal(unname(mixed), unname(rbind(fitted(fit), generic)))
  after <- update_random_effects(fit, new)
  expect_identical(ngrps(after), c(dyad = 9L))
  expect_output(print(after), "groups: dyad, 9")
  expect_equal(unlist(ranef(after)$dyad["new", ]), unlist(ranef(fit)$dyad["d5", ]), tolerance = 1e-3)
  expect_identical(ranef(after)$dyad[1:8, ], ranef(fit)$dyad)
  expect_equal(deviance(after, new), deviance(fit, own), tolerance = 1e-4)
  expect_equal(transitions(after, "new"), transitions(fit, "d5"), tolerance = 1e-3)
  lone <- update_random_effects(fit, transform(d[1, ], dyad = "lone"))
  expect_equal(unlist(ranef(lone)$dyad["lone", ]), 0 * unlist(ranef(fit)$dyad[1, ])) # one state tells of no moves
})

test_that("networks vary too, or nothing does", {
  skip_without_torch()
  d <- dyads(4, 5)
  both <- fit_dyads(state ~ x2 + nn(x1, hidden = c(2)) + (nn.last | dyad) + (crf | dyad), d)
  expect_identical(dim(ranef(both)$dyad), c(4L, 9L + 9L))
  expect_identical(names(VarCorr(both)), c("dyad.nn", "dyad.crf"))
  expect_equal(predict(both, d, type = "prob"), fitted(both))
  expect_identical(deparse1(formula(both, random.only = TRUE)), "state ~ (nn.last | dyad) + (crf | dyad)")
  network <- fit_dyads(state ~ nn(x1, hidden = c(2)) + (nn.last | dyad), d)
  expect_identical(names(VarCorr(network)), "dyad.nn")
  expect_identical(transitions(network, "d2"), transitions(network))
  alone <- fit_dyads(state ~ 0 + nn(., hidden = c(2)), subset(d, select = -dyad))
  expect_identical(alone$networks$inputs[[1]]$inputs, list(quote(x1), quote(x2)))
  expect_length(fixef(alone), 9)
  expect_length(ngrps(alone), 0)
  expect_false(isSingular(alone))
  for (ask in expression(ranef(alone), VarCorr(alone), transitions(alone, "d1"), update_random_effects(alone, d))) {
    expect_error(eval(ask), "nothing varies by group in this model: add a bar such as (crf | group)", fixed = TRUE)
  }
  for (fit in list(network, alone)) expect_equal(predict(fit, d, type = "prob"), fitted(fit))
  expect_equal(deviance(alone), -2 * c(logLik(alone)), tolerance = 1e-8)
  skip_if_not_installed("generics")
  expect_setequal(generics::tidy(alone)$term, names(fixef(alone)))
  expect_equal(nrow(generics::tidy(both)), length(fixef(both)) + nrow(as.data.frame(VarCorr(both))))
  expect_output(print(alone), "sequences: 8\n", fixed = TRUE)
})

test_that("covariances are told of where groups are many", {
  skip_without_torch()
  d <- transform(dyads(40, 15, 2), state = ifelse(state == "calm", "calm", "other"))
  fit <- fit_dyads(state ~ nn(x1, hidden = c()) + (crf | dyad), d, epochs = 1)
  Sigma <- VarCorr(fit)$dyad.crf
  table <- as.data.frame(VarCorr(fit))
  expect_identical(names(table), c("grp", "var1", "var2", "vcov", "sdcor"))
  expect_equal(table$vcov, c(diag(Sigma), Sigma[lower.tri(Sigma)]), ignore_attr = TRUE)
  expect_gt(max(abs(Sigma[lower.tri(Sigma)])), 0)
  expect_equal(Sigma, fit$factor %*% t(fit$factor), ignore_attr = TRUE)
  expect_identical(isSingular(fit, tol = 1e3), TRUE)
})

test_that("a module of the user's own scores states", {
  skip_without_torch()
  nn <- reticulate::import("torch.nn", convert = FALSE)
  tower <- nn$Sequential(nn$Linear(2L, 2L), nn$Tanh(), nn$Linear(2L, 3L))
  d <- dyads(4, 5)
  fit <- fit_dyads(state ~ nn(x1, x2, net = "tower") + (crf | dyad), d, nets = list(tower = tower))
  expect_equal(predict(fit, d, type = "prob"), fitted(fit))
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  expect_error(predict(readRDS(file), d), "a module of your own, which a file does not hold")
  expect_identical(predict(with_nets(readRDS(file), list(tower = tower)), d), predict(fit, d))
})

test_that("residuals add up to the deviance, and coefficients have standard errors", {
  skip_without_torch()
  d <- dyads()
  fit <- fit_dyads(state ~ x1 + nn(x2, hidden = c(2)) + (crf | dyad), d)
  p <- fitted(fit)
  observed <- outer(d$state, colnames(p), "==")
  expect_equal(residuals(fit), observed - p)
  expect_equal(resid(fit, "pearson"), (observed - p) / sqrt(p * (1 - p)))
  steps <- residuals(fit, type = "deviance")
  expect_equal(sum(steps^2), deviance(fit))
  own <- d$dyad == "d3"
  expect_equal(sum(steps[own]^2), deviance(fit, d[own, ]))
  expect_error(residuals(fit, type = "working"), "should be one of")
  covariance <- vcov(fit)
  expect_identical(dimnames(covariance), list(names(fixef(fit)), names(fixef(fit))))
  expect_equal(covariance, t(covariance))
  expect_equal(rowSums(covariance[, 4:6]), rep(0, 15), ignore_attr = TRUE, tolerance = 1e-6)
  se <- sqrt(diag(covariance))
  expect_equal(confint(fit)[, 2] - fixef(fit), qnorm(0.975) * se)
  expect_identical(dim(confint(fit, "x1:joy", 0.5)), c(1L, 2L))
  expect_identical(rownames(confint(fit, 2)), "(Intercept):joy")
  expect_error(confint(fit, "x3"), "there is no coefficient 'x3'")
  expect_error(confint(fit, method = "profile"), "has method = \"Wald\" alone")
  expect_output(print(fit), "Their standard errors:", fixed = TRUE)
  skip_if_not_installed("generics")
  expect_equal(generics::tidy(fit, "fixed")$std.error, unname(se))
})

test_that("the variances of a bar of dyads that are alike are zero", {
  skip_without_torch()
  d <- dyads(12, 15, 2)
  set.seed(5)
  d$state <- sample(c("calm", "joy", "row"), nrow(d), TRUE)
  fit <- fit_dyads(data = d, epochs = 10)
  expect_output(print(fit), "(crf | dyad): its variances are zero, by Akaike's criterion.", fixed = TRUE)
  expect_identical(isSingular(fit), TRUE)
  expect_true(all(ranef(fit)$dyad == 0))
  expect_true(all(VarCorr(fit)$dyad.crf == 0))
  expect_equal(deviance(fit), -2 * c(logLik(fit)))
  expect_identical(predict(fit), predict(fit, re.form = NA))
})

test_that("rows that are left out are missing in answers, and only at an end", {
  skip_without_torch()
  d <- dyads(4, 5)
  d$x1[c(1, 10)] <- NA
  fit <- fit_dyads(data = d, na.action = na.exclude)
  expect_equal(nobs(fit), 38)
  expect_identical(unname(which(is.na(predict(fit)))), c(1L, 10L))
  expect_identical(unname(which(is.na(fitted(fit)[, 1]))), c(1L, 10L))
  expect_identical(unname(which(is.na(residuals(fit)[, 1]))), c(1L, 10L))
  expect_identical(unname(which(is.na(residuals(fit, type = "deviance")))), c(1L, 10L))
  expect_identical(unname(which(is.na(predict(fit, re.form = NA)))), c(1L, 10L))
  d$x1[3] <- NA
  expect_error(fit_dyads(data = d), "the sequence '1' has a row with missing values amid others")
  expect_error(fit_dyads(data = d, na.action = na.fail), "missing values in 'x1' \\(3\\)")
})

test_that("data that make no sequences are refused in one sentence", {
  d <- dyads(4, 5)
  refused <- function(data, message, ...) expect_error(fit_dyads(data = data, ...), message, fixed = TRUE)
  refused(d, "the data have no column 'sitting', which sequence names: the columns are x1, x2,", sequence = "sitting")
  refused(d, "the data have no column 'day', which time names", time = "day")
  refused(d, "family \"crf\" needs sequence =", sequence = NULL)
  refused(d, "time must be the name of a column, in quotes.", time = time)
  refused(transform(d, t = replace(t, 2, 1)), "the sequence '1' has the time 1 twice in 't'")
  refused(transform(d, t = replace(t, 7, NA)), "'t' is missing in row 7")
  refused(transform(d, s = replace(s, 7, NA)), "'s' is missing in row 7")
  refused(transform(d, t = as.character(t)), "'t' is text, which has no order of time")
  refused(NULL, "data must be a data frame, with the columns of sequence and time.")
  refused(d, "family \"crf\" takes neither weights nor an offset.", weights = t)
  refused(d, "vary by one factor only", formula = state ~ nn(x1) + (crf | dyad) + (nn | s))
  refused(d, "does not fit columns that vary by group beside", formula = state ~ nn(x1) + (crf | dyad) + (1 | dyad))
  refused(d, "the formula uses 'pair'", formula = state ~ nn(x1) + (crf | pair))
  refused(transform(d, state = "calm"), "the response 'state' has one class only")
  expect_error(glmernn(state ~ nn(x1) + (1 | dyad), d, "multinomial", sequence = "s"), "are for family = \"crf\"")
  expect_error(glmernn(state ~ nn(x1) + (crf | dyad), d, "multinomial"), "transitions belong to sequences")
  expect_error(transitions(structure(list(), class = "merModNN")), "transitions belong to sequences of states")
  skip_without_torch()
  refused(transform(d, dyad = replace(dyad, 2, "d2")), "the sequence '1' has rows of several levels of 'dyad'")
  refused(transform(d, s = seq_along(s)), "every sequence has length 1")
  refused(d, "method 'mcem' fits no sequences", method = "mcem")
  refused(d, "a sequence model has one network", formula = state ~ x1 + (crf | dyad))
  refused(d, "transitions vary as a whole", formula = state ~ nn(x1) + (crf.last | dyad))
  lone <- rbind(d, transform(d[1, ], dyad = "lone", s = 99))
  fit <- fit_dyads(data = lone)
  expect_equal(unname(unlist(ranef(fit)$dyad["lone", ])), rep(0, 9), tolerance = 1e-6)
  expect_identical(as.character(names(predict(fit, lone[41, ]))), row.names(lone)[41])
})

test_that("new data that make no sequences are refused in one sentence", {
  skip_without_torch()
  d <- dyads(4, 5)
  fit <- fit_dyads(data = d)
  asks <- list(function(new) predict(fit, new, allow.new.levels = TRUE), function(new) update_random_effects(fit, new),
               function(new) deviance(fit, new, allow.new.levels = TRUE))
  refused <- function(new, message, which = asks) {
    for (ask in which) expect_error(ask(new), message, fixed = TRUE)
  }
  refused(transform(d, x2 = replace(x2, 4, NA)), "'x2' is missing in row 4 of newdata: a sequence is taken as a whole")
  refused(transform(d, dyad = replace(dyad, 8, NA)), "'dyad' is missing in row 8 of newdata")
  refused(transform(d, t = replace(t, 2, NA)), "'t' is missing in row 2")
  refused(transform(d, t = replace(t, 2, 1)), "the sequence '1' has the time 1 twice in 't'")
  refused(transform(d, dyad = replace(dyad, 2, "d2")), "the sequence '1' has rows of several levels of 'dyad'")
  refused(transform(d, dyad = ifelse(t < 3, "new", "newer")), "has rows of several levels of 'dyad'")
  refused(subset(d, select = -s), "the data have no column 's'")
  refused(subset(d, select = -t), "the data have no column 't'")
  refused(subset(d, select = -dyad), "the formula uses 'dyad'")
  refused(d[0, ], "newdata has no rows.")
  refused(1:3, "newdata must be a data frame.")
  unseen <- transform(d, state = replace(state, 3, "rage"))
  refused(unseen, "'state' is 'rage' in row 3 of newdata: the fit has not seen that state, only calm, joy", asks[2:3])
  expect_identical(predict(fit, unseen), predict(fit, d)) # states of new data are not read
  expect_identical(predict(fit, subset(d, select = -state)), predict(fit, d))
  refused(transform(d, state = replace(state, 3, NA)), "'state' is missing in row 3 of newdata", asks[2:3])
  expect_error(predict(fit, d, se.fit = TRUE), "has no argument 'se.fit'")
  expect_error(predict(fit, d, average = -1), "average is -1")
  expect_error(predict(fit, d, re.form = ~ (1 | dyad)), "re.form must be NULL")
  expect_error(transitions(fit, "nobody"), "'nobody' is no level of 'dyad' that the fit has seen")
  expect_error(plot(fit, kind = "residuals"), "plot(kind = \"residuals\") is not offered for sequences", fixed = TRUE)
  expect_error(getME(fit, "theta"), "has no part 'theta'")
  expect_identical(getME(fit, "beta"), fit$beta)
  for (verb in list(anova, drop1, extractAIC, refit, simulate, importance, partial_dependence, coef)) {
    expect_error(verb(fit), "is not offered for sequences of states")
  }
  expect_error(as_merMod(fit), "lme4 has no")
})

test_that("R and Python give the same fit", {
  skip_without_torch()
  d <- dyads()
  set.seed(2)
  d <- d[sample(nrow(d)), ]
  file <- tempfile(fileext = ".csv")
  write.csv(d, file, row.names = FALSE)
  python <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "data = pd.read_csv(sys.argv[1], float_precision='round_trip')",
    "fit = pylmernn.glmernn('state ~ x2 + nn(x1, x2, hidden=c(3)) + (nn.last | dyad) + (crf | dyad)', data, 'crf',",
    "                       seed=1, sequence='s', time='t', control=Control(training=Training(epochs=3)))",
    "own = data[data.dyad == 'd4'].assign(dyad='new')",
    "grown = fit.update_ranef(own)",
    "ranef = fit.ranef(condVar=True)",
    "variances = {name: table.to_numpy().tolist() for name, table in fit.VarCorr().items()}",
    "print(json.dumps(dict(fixef=fit.fixef().to_dict(), ranef=ranef['dyad'].to_numpy().tolist(),",
    "    condsd=ranef.condsd()['dyad'].to_numpy().tolist(), variances=variances, loglik=float(fit.logLik()),",
    "    df=fit.logLik().df, fitted=fit.fitted().to_numpy().tolist(), states=fit.predict().tolist(),",
    "    transitions=fit.transitions('d4').to_numpy().tolist(), new=grown.ranef()['dyad'].loc['new'].tolist(),",
    "    means=fit.predict_proba(own, allow_new_levels=True, average=5, seed=4).to_numpy().tolist(),",
    "    deviances=[fit.deviance(), fit.deviance(data, re_form='NA'), grown.deviance(own)],",
    "    text=str(fit).splitlines())))"
  ), file)
  fit <- fit_dyads(state ~ x2 + nn(x1, x2, hidden = c(3)) + (nn.last | dyad) + (crf | dyad), d)
  own <- transform(subset(d, dyad == "d4"), dyad = "new")
  after <- update_random_effects(fit, own)
  expect_equal(fixef(fit), unlist(python$fixef), tolerance = 1e-8)
  expect_equal(unname(as.matrix(ranef(fit)$dyad)), python$ranef, tolerance = 1e-6)
  long <- as.data.frame(ranef(fit, condVar = TRUE))
  expect_equal(long$condsd, c(python$condsd), tolerance = 1e-6)
  for (name in names(python$variances)) {
    expect_equal(unname(VarCorr(fit)[[name]][, ]), python$variances[[name]], tolerance = 1e-6)
  }
  expect_equal(c(logLik(fit)), python$loglik, tolerance = 1e-8)
  expect_identical(attr(logLik(fit), "df"), python$df)
  expect_equal(unname(fitted(fit)), python$fitted, tolerance = 1e-6)
  expect_identical(as.character(predict(fit)), python$states)
  expect_equal(unname(transitions(fit, "d4")), python$transitions, tolerance = 1e-6)
  expect_equal(unname(unlist(ranef(after)$dyad["new", ])), python$new, tolerance = 1e-5)
  means <- predict(fit, own, allow.new.levels = TRUE, average = 5, seed = 4, type = "prob")
  expect_equal(unname(means), python$means, tolerance = 1e-6)
  deviances <- c(deviance(fit), deviance(fit, d, re.form = NA), deviance(after, own))
  expect_equal(deviances, python$deviances, tolerance = 1e-6)
  shown <- trimws(capture.output(print(fit)))
  expect_identical(shown[-2], trimws(python$text)[-2]) # the second line is the formula, as each language writes it
})
