# Networks that vary by group, against what their estimates say and against Python.

personal <- function(n = 240, q = 12) {
  set.seed(5)
  person <- rep(seq_len(q), length.out = n)
  slope <- rnorm(q)
  d <- data.frame(x = rnorm(n), z = rnorm(n), person = sprintf("p%02d", person))
  d$y <- sin(d$x) * (1 + 0.5 * slope[person]) + 0.3 * d$z + 0.3 * rnorm(n)
  d
}

fit_personal <- function(formula, data = personal(), control = list(epochs = 5), ...) {
  lmernn(formula, data, control = control, seed = 1, ...)
}

last_layer <- y ~ z + nn(x, hidden = c(6, 4)) + (nn.last | person)

bars_of <- function(text, networks = "nn(x)") {
  parse_formula(stats::as.formula(paste("y ~", networks, "+", text)), data.frame(y = 1, x = 1, person = 1))$varying[[1]]
}

test_that("bars of networks are told from bars of columns", {
  expect_identical(bars_of("(nn | person)")[c("net", "selector", "covariance", "rank", "label")],
                   list(net = "nn", selector = "", covariance = "us", rank = 0L, label = "(nn | person)"))
  expect_identical(bars_of("(nn.last | person)")$selector, "last")
  expect_identical(bars_of("(nn[\"layers.0.weight\"] | person)")$selector, "layers.0.weight")
  expect_identical(bars_of("(nn || person)")[c("covariance", "label")],
                   list(covariance = "diag", label = "(nn || person)"))
  expect_identical(bars_of("diag(nn.first | person)")[c("covariance", "selector")],
                   list(covariance = "diag", selector = "first"))
  expect_identical(bars_of("rr(nn | person, d = 4)")[c("covariance", "rank")], list(covariance = "rr", rank = 4L))
  own <- parse_formula(y ~ nn(x) + (1 + nn | person), data.frame(y = 1, x = 1, nn = 1, person = 1))
  expect_length(own$varying, 0)
  expect_identical(all.vars(parse_formula(last_layer)$frame), c("y", "z", "person", "x"))
})

test_that("bars of networks that make no sense are refused in one sentence", {
  refused <- function(text, message) expect_error(bars_of(text), message, fixed = TRUE)
  refused("(1 + nn | person)", "parameters of a network stand alone left of a bar: write (nn | person).")
  refused("(nn[1] | person)", "name one parameter in quotes, such as nn[\"layers.0.weight\"].")
  refused("(crf | person)", "transitions belong to sequences: use glmernn() with family")
  refused("rr(nn | person, d = 0)", "rr() takes a rank, a whole number: write rr(nn | group, d = 4).")
  refused("embed(nn | person)", "take us(), diag() or rr(), not embed()")
  refused("rr(x | person)", "fits rr() of the parameters of a network only")
  expect_error(bars_of("(nn | person)", "x"), "the formula has no network 'nn'")
  skip_without_torch()
  d <- personal()
  expect_error(fit_personal(y ~ nn(x) + (nn["layers.9.bias"] | person)), "the network has no parameter 'layers.9.bias'")
  expect_error(fit_personal(last_layer, method = "alternating"), "only method 'nme' lets a network vary by group")
  expect_error(fit_personal(last_layer, transform(d, person = "a")), "has 1 level: it needs at least 2")
})

test_that("a last layer that varies is fitted, told of and kept", {
  skip_without_torch()
  d <- personal()
  fit <- fit_personal(last_layer)
  expect_s3_class(fit, c("varyingModNN", "merModNN"), exact = TRUE)
  parameters <- c(sprintf("layers.4.weight[%d]", 1:4), "layers.4.bias")
  expect_identical(names(fixef(fit)), c("(Intercept)", "z", parameters))
  expect_identical(names(fixef(fit, network = FALSE)), c("(Intercept)", "z"))
  effects <- ranef(fit, condVar = TRUE)
  expect_identical(dimnames(effects$person), list(sprintf("p%02d", 1:12), parameters))
  expect_identical(dim(attr(effects$person, "postVar")), c(5L, 5L, 12L))
  long <- as.data.frame(effects)
  at <- long$term == "layers.4.weight[3]" & long$grp == "p07"
  expect_identical(long$condval[at], effects$person["p07", 3])
  expect_identical(long$condsd[at], sqrt(attr(effects$person, "postVar")[3, 3, 7]))
  expect_equal(unlist(coef(fit)$person["p07", ]), fixef(fit) + c(0, 0, unlist(effects$person["p07", ])))
  table <- as.data.frame(VarCorr(fit))
  expect_identical(names(table), c("grp", "var1", "var2", "vcov", "sdcor"))
  expect_equal(nrow(table), 5 + 10 + 1)
  expect_equal(table$vcov[c(1, 16)], c(VarCorr(fit)$person[1, 1], sigma(fit)^2))
  expect_equal(unname(residuals(fit)), d$y - unname(fitted(fit)))
  expect_equal(c(nobs(fit), ngrps(fit)), c(240, person = 12))
  expect_equal(dim(vcov(fit)), c(2, 2))
  rank <- qr(VarCorr(fit)$person, tol = 1e-6)$rank # as many directions, or some of them without variance
  counts <- 5 * rank:5 - rank:5 * (rank:5 - 1) / 2
  expect_true(attr(logLik(fit), "df") %in% (2 + 5 - 1 + counts + 1)) # the bias is the intercept
  expect_equal(-2 * c(logLik(fit)), REMLcrit(fit))
  expect_identical(formula(fit), last_layer)
  expect_identical(deparse1(formula(fit, random.only = TRUE)), "y ~ (nn.last | person)")
  expect_equal(nrow(history(fit)), 5)
  expect_output(print(fit), "(nn.last | person): 5 of 45 parameters vary", fixed = TRUE)
  expect_output(print(summary(fit)), "Number of obs: 240, groups: person, 12")
  for (kind in c("residuals", "predicted", "history")) expect_s3_class(plot(fit, kind), "trellis")
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  expect_identical(predict(readRDS(file), d), predict(fit, d))
  again <- lmernn(y ~ nn(x, hidden = 4) + (nn.last | person), d, control = list(epochs = 2), seed = 1)
  expect_false(isREML(update(again, REML = FALSE)))
})

test_that("predictions are those of each person, of the generic network, or their mean", {
  skip_without_torch()
  d <- personal()
  fit <- fit_personal(last_layer)
  expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  expect_equal(predict(fit, re.form = NA), predict(fit, d, re.form = ~0))
  new <- data.frame(x = c(0.5, 0.5, NA, 1), z = 0, person = c("p03", "new", "p02", NA), row.names = letters[1:4])
  expect_error(predict(fit, new), "levels that the fit has not seen: new")
  values <- predict(fit, new, allow.new.levels = TRUE)
  generic <- predict(fit, new, re.form = NA)
  expect_identical(values[["b"]], generic[["b"]])
  expect_false(values[["a"]] == generic[["a"]])
  expect_identical(unname(which(is.na(values))), 3:4)
  expect_identical(unname(which(is.na(generic))), 3L)
  expect_length(predict(fit, new, na.action = na.omit, allow.new.levels = TRUE), 2)
  # values are linear in the deviations, with variance J' Sigma J
  effects <- as.matrix(ranef(fit)$person)
  differences <- predict(fit, data.frame(x = 0.5, z = 0, person = rownames(effects))) - generic[["a"]]
  parts <- svd(effects)
  kept <- parts$d > 1e-3 * parts$d[1L]
  J <- drop(parts$v[, kept] %*% (crossprod(parts$u[, kept], differences) / parts$d[kept]))
  expect_equal(drop(effects %*% J), differences, tolerance = 1e-3, ignore_attr = TRUE)
  reach <- 4 * sqrt(drop(J %*% VarCorr(fit)$person %*% J) / 400)
  means <- predict(fit, new, allow.new.levels = TRUE, average = 400)
  expect_lt(abs(means[["b"]] - generic[["b"]]), reach)
  expect_false(means[["b"]] == generic[["b"]])
  expect_identical(means[["a"]], values[["a"]])
  expect_error(predict(fit, new, weights = 1), "has no argument 'weights'")
  expect_error(predict(fit, new, re.form = ~ (1 | person)), "re.form must be NULL")
  expect_error(predict(fit, new["x"]), "the formula uses 'z'")
})

test_that("new persons are learnt from rows of theirs", {
  skip_without_torch()
  d <- personal()
  for (formula in list(last_layer, y ~ z + nn(x, hidden = c(6, 4)) + (nn | person))) {
    fit <- fit_personal(formula)
    own <- subset(d, person == "p04")
    after <- update_random_effects(fit, transform(own, person = "new"))
    expect_equal(ngrps(after), c(person = 13))
    expect_output(print(after), "groups: person, 13")
    expect_identical(ranef(after)$person[1:12, ], ranef(fit)$person)
    same <- predict(after, transform(own, person = "new")) - predict(fit, own)
    expect_lt(max(abs(same)), if (fit$exact) 1e-3 else 0.1)
    expect_error(predict(fit, transform(own, person = "new")), "update_random_effects")
  }
  expect_error(update_random_effects(fit, transform(own, y = Inf)), "infinite values in the new rows")
})

test_that("deeper layers have variances by layer, and verbs that do not apply stop", {
  skip_without_torch()
  fit <- fit_personal(y ~ z + nn(x, hidden = c(6, 4)) + rr(nn | person, d = 2))
  expect_false(isREML(fit))
  expect_identical(names(VarCorr(fit)), paste0("person.layers.", c(0, 2, 4)))
  expect_identical(dim(attr(ranef(fit, condVar = TRUE)$person, "postVar")), c(12L, 45L))
  expect_identical(ncol(fit$factor), 2L)
  expect_output(print(VarCorr(fit)), "person.layers.2 +28")
  expect_equal(predict(fit, personal()), fitted(fit), tolerance = 1e-4)
  expect_equal(deviance(fit), -2 * c(logLik(fit)))
  expect_error(vcov(fit), "only where the last layer alone varies")
  for (verb in list(anova, drop1, refit)) {
    expect_error(verb(fit), "is not offered for networks that vary by group")
  }
  expect_error(as_merMod(fit), "lme4 has no networks")
  expect_error(plot(fit, kind = "map"), "use one of residuals, predicted, history")
  expect_error(getME(fit, "theta"), "has no part 'theta'")
  expect_identical(getME(fit, "mu"), unname(fitted(fit)))
  diagonal <- fit_personal(y ~ z + nn(x, hidden = c(6, 4)) + (nn.first || person))
  expect_identical(deparse1(formula(diagonal)[[3]][[3]]), "(nn.first || person)")
  expect_true(all(is.na(as.data.frame(VarCorr(diagonal))$var2)))
})

test_that("crossed factors, factors among inputs, weights and left-out rows go along", {
  skip_without_torch()
  d <- transform(personal(), k = gl(3, 1, 240), half = rep(c("a", "b"), each = 120), w = 1 + z^2)
  d$x[5] <- NA
  formula <- y ~ offset(z) + nn(x, k, hidden = 4) + (nn["layers.2.bias"] | person:half)
  fit <- lmernn(formula, d, weights = w, na.action = na.exclude, control = list(epochs = 2), seed = 1)
  expect_identical(unname(which(is.na(fitted(fit)))), 5L)
  expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  expect_equal(predict(fit, d, re.form = NA), predict(fit, re.form = NA), tolerance = 1e-5)
  expect_identical(dim(attr(ranef(fit, condVar = TRUE)[["person:half"]], "postVar")), c(1L, 1L, 24L))
  expect_error(predict(fit, transform(d, k = "q")), "level 'q' of 'k'")
  after <- update_random_effects(fit, transform(d[1:20, ], person = "p99"))
  expect_identical(tail(rownames(ranef(after)[[1]]), 1), "p99:a")
})

test_that("a module of the user's own varies by its layers", {
  skip_without_torch()
  nn <- reticulate::import("torch.nn", convert = FALSE)
  tower <- nn$Sequential(nn$Linear(2L, 4L), nn$Tanh(), nn$Linear(4L, 1L))
  formula <- y ~ nn(x, z, net = "tower") + (tower.last | person)
  fit <- lmernn(formula, personal(), nets = list(tower = tower), control = list(epochs = 2), seed = 1)
  expect_identical(colnames(ranef(fit)$person), c(sprintf("2.weight[%d]", 1:4), "2.bias"))
  expect_equal(predict(fit, personal()), fitted(fit), tolerance = 1e-5)
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  read <- readRDS(file)
  expect_identical(fitted(read), fitted(fit))
  expect_error(predict(read, personal()), "a module of your own, which a file does not hold")
  expect_identical(predict(with_nets(read, list(tower = tower)), personal()), predict(fit, personal()))
})

test_that("R and Python give the same fit", {
  skip_without_torch()
  d <- personal()
  file <- tempfile(fileext = ".csv")
  write.csv(d, file, row.names = FALSE)
  fit <- fit_personal(last_layer)
  python <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "data = pd.read_csv(sys.argv[1], float_precision='round_trip')",
    "fit = pylmernn.lmernn('y ~ z + nn(x, hidden=c(6, 4)) + (nn.last | person)', data, seed=1,",
    "                      control=Control(training=Training(epochs=5)))",
    "new = fit.update_ranef(data[data.person == 'p04'].assign(person='new'))",
    "print(json.dumps(dict(fixef=fit.fixef().tolist(), fitted=fit.fitted().tolist(), sigma=fit.sigma(),",
    "    ranef=fit.ranef()['person'].to_numpy().tolist(), new=new.ranef()['person'].loc['new'].tolist(),",
    "    mean=fit.predict(data.head(3), re_form='NA', average=20, seed=4).tolist())))"
  ), file)
  expect_equal(unname(fixef(fit)), python$fixef, tolerance = 1e-5)
  expect_equal(sigma(fit), python$sigma, tolerance = 1e-5)
  expect_equal(unname(fitted(fit)), python$fitted, tolerance = 1e-5)
  expect_equal(unname(as.matrix(ranef(fit)$person)), python$ranef, tolerance = 1e-4)
  expect_equal(unname(predict(fit, head(d, 3), re.form = NA, average = 20, seed = 4)), python$mean, tolerance = 1e-4)
  after <- update_random_effects(fit, transform(subset(d, person == "p04"), person = "new"))
  expect_equal(unname(unlist(ranef(after)$person["new", ])), python$new, tolerance = 1e-4)
})
