# Generalized models with networks that vary by group, against what their linear predictors say and against Python.

personal_responses <- function(n = 240, q = 12) {
  set.seed(6)
  person <- rep(seq_len(q), length.out = n)
  d <- data.frame(x = rnorm(n), z = rnorm(n), person = sprintf("p%02d", person))
  eta <- sin(d$x) * (1 + 0.5 * rnorm(q)[person]) + 0.3 * d$z
  d$success <- factor(ifelse(runif(n) < plogis(2 * eta), "yes", "no"))
  d$count <- rpois(n, exp(eta))
  d$grade <- cut(eta + rlogis(n), c(-Inf, -1, 1, Inf), c("low", "mid", "high"), ordered_result = TRUE)
  d$class <- factor(apply(cbind(0, 2 * eta, rnorm(n)), 1, function(e) sample(c("u", "v", "w"), 1, prob = exp(e))))
  d
}

fit_response <- function(response, family, d = personal_responses(), epochs = 5) {
  formula <- stats::as.formula(sprintf("%s ~ z + nn(x, hidden = c(4, 2)) + (nn.last | person)", response))
  glmernn(formula, d, family, control = list(epochs = epochs), seed = 1)
}

unknown <- data.frame(x = c(0.5, 0.5, NA), z = 0, person = c("p03", "new", "p02"), row.names = letters[1:3])

test_that("means, residuals and averages are those of the family", {
  skip_without_torch()
  d <- personal_responses()
  fit <- fit_response("count", "poisson")
  expect_s3_class(fit, c("glmerVaryingModNN", "varyingModNN", "merModNN"), exact = TRUE)
  expect_identical(c(isGLMM(fit), isREML(fit)), c(TRUE, FALSE))
  expect_equal(fitted(fit), exp(predict(fit)), tolerance = 1e-10)
  expect_equal(predict(fit, d), predict(fit), tolerance = 1e-4)
  expect_equal(unname(residuals(fit, "response")), d$count - unname(fitted(fit)))
  expect_equal(unname(residuals(fit, "pearson")), unname((d$count - fitted(fit)) / sqrt(fitted(fit))))
  expect_equal(residuals(fit)^2, fit$family$dev.resids(d$count, fitted(fit), 1), ignore_attr = TRUE)
  expect_false("Residual" %in% as.data.frame(VarCorr(fit))$grp)
  expect_equal(attr(logLik(fit), "df"), 2 + 3 + 6 - 1) # the bias is the intercept
  expect_error(predict(fit, unknown), "levels that the fit has not seen: new")
  means <- predict(fit, unknown, allow.new.levels = TRUE, type = "response", average = 200)
  generic <- predict(fit, unknown, re.form = NA, type = "response")
  expect_gt(means[["b"]], generic[["b"]]) # exp() is convex
  expect_equal(means[["a"]], exp(predict(fit, unknown["a", ])[["a"]]))
  expect_identical(unname(is.na(means)), c(FALSE, FALSE, TRUE))
  expect_error(predict(fit, unknown, average = 5, re.form = NA), "use type = \"response\" with it")
  expect_error(predict(fit, type = "class"), "type = \"class\" is for classes")
  expect_error(thresholds(fit), "has no thresholds")
  expect_s3_class(plot(fit, "predicted"), "trellis")
  expect_output(print(fit), "Family: poisson(log)", fixed = TRUE)
})

test_that("classes have probabilities, a column each", {
  skip_without_torch()
  d <- personal_responses()
  own <- transform(subset(d, person == "p04"), person = "new")
  for (response in c("grade", "class")) {
    fit <- fit_response(response, c(grade = "ordinal", class = "multinomial")[[response]])
    P <- fitted(fit)
    expect_identical(colnames(P), levels(d[[response]]))
    expect_equal(unname(rowSums(P)), rep(1, 240))
    expect_equal(predict(fit, d, type = "prob"), P, tolerance = 1e-4)
    expect_identical(as.character(predict(fit, type = "class")), colnames(P)[max.col(P, "first")])
    means <- predict(fit, unknown, re.form = NA, type = "response", average = 20)
    expect_equal(unname(rowSums(means)), c(1, 1, NA))
    after <- update_random_effects(fit, own)
    expect_equal(predict(after, own, type = "prob"), fitted(fit)[d$person == "p04", ], tolerance = 0.1)
    expect_error(residuals(fit), "a response of several classes has no residuals")
    expect_error(update_random_effects(fit, `[<-`(own, response, value = "other")), "the model has no such class")
  }
  expect_identical(names(fixef(fit))[1:4], c("(Intercept):u", "(Intercept):v", "(Intercept):w", "z:u"))
  ordinal <- fit_response("grade", "ordinal", epochs = 2)
  expect_identical(names(thresholds(ordinal)), c("low|mid", "mid|high"))
  expect_identical(names(fixef(ordinal, network = FALSE)), "z")
})

test_that("R and Python give the same fit", {
  skip_without_torch()
  d <- personal_responses()
  file <- tempfile(fileext = ".csv")
  write.csv(d, file, row.names = FALSE)
  python <- by_python(c(
    "from pylmernn.engines.control import Control",
    "from pylmernn.training.options import Training",
    "data = pd.read_csv(sys.argv[1], float_precision='round_trip')",
    "new = data[data.person == 'p04'].assign(person='new')",
    "found = {}",
    "for response, family in (('success', 'binomial'), ('class', 'multinomial')):",
    "    formula = response + ' ~ z + nn(x, hidden=c(4, 2)) + (nn.last | person)'",
    "    fit = pylmernn.glmernn(formula, data, family, seed=1, control=Control(training=Training(epochs=5)))",
    "    means = fit.predict(data.head(3), re_form='NA', type='response', average=20, seed=4)",
    "    means = means.to_numpy().tolist()",
    "    grown = fit.update_ranef(new).ranef()['person'].loc['new'].tolist()",
    "    found[response] = dict(fixef=fit.fixef().tolist(), fitted=fit.fitted().to_numpy().tolist(), means=means,",
    "                           new=grown, loglik=float(fit.logLik()))",
    "print(json.dumps(found))"
  ), file)
  for (response in names(python)) {
    fit <- fit_response(response, c(success = "binomial", class = "multinomial")[[response]])
    theirs <- python[[response]]
    expect_equal(unname(fixef(fit)), theirs$fixef, tolerance = 1e-4)
    expect_equal(unname(fitted(fit)), theirs$fitted, tolerance = 1e-4)
    expect_equal(c(logLik(fit)), theirs$loglik, tolerance = 1e-6)
    means <- predict(fit, head(d, 3), re.form = NA, average = 20, seed = 4, type = "response")
    expect_equal(unname(means), theirs$means, tolerance = 1e-4)
    after <- update_random_effects(fit, transform(subset(d, person == "p04"), person = "new"))
    expect_equal(unname(unlist(ranef(after)$person["new", ])), theirs$new, tolerance = 1e-3)
  }
})
