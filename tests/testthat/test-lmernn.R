test_that("sleepstudy is lme4's, down to what its summary holds", {
  skip_without_python()
  ours <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  theirs <- by_lme4(Reaction ~ Days + (Days | Subject), sleepstudy)
  expect_same_fit(ours, theirs)
  a <- summary(ours)
  b <- summary(theirs)
  for (part in c("methTitle", "devcomp", "isLmer", "useScale", "logLik", "family", "link", "ngrps", "coefficients",
                 "sigma", "vcov", "varcor", "AICtab", "residuals", "fitMsgs")) {
    expect_equal(a[[part]], b[[part]], tolerance = 1e-4, info = part)
  }
  theirs@call$control <- NULL # so that it is not printed
  printed <- function(x) sub("\\['.*'\\]", "", capture.output(print(x, digits = 3))) # the class differs
  expect_equal(printed(ours), printed(theirs))
  expect_equal(printed(a), printed(summary(theirs)))
})

test_that("crossed, nested, weighted, offset and ML fits are lme4's", {
  skip_without_python()
  expect_same_fit(
    lmernn(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin),
    by_lme4(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin)
  )
  expect_same_fit(
    lmernn(angle ~ recipe * temperature + (1 | recipe:replicate), cake, REML = FALSE),
    by_lme4(angle ~ recipe * temperature + (1 | recipe:replicate), cake, REML = FALSE)
  )
  sleepstudy$w <- seq(0.5, 2, length.out = 180)
  expect_same_fit(
    lmernn(Reaction ~ poly(Days, 2) + (Days || Subject), sleepstudy, weights = w),
    by_lme4(Reaction ~ poly(Days, 2) + (Days || Subject), sleepstudy, weights = w)
  )
  expect_same_fit(
    lmernn(Reaction ~ offset(Days) + (1 | Subject), sleepstudy, offset = 2 * w, subset = Days < 8),
    by_lme4(Reaction ~ offset(Days) + (1 | Subject), sleepstudy, offset = 2 * w, subset = Days < 8)
  )
})

test_that("na.exclude pads and contrasts are obeyed", {
  skip_without_python()
  sleepstudy$Reaction[c(3, 70)] <- NA
  ours <- lmernn(Reaction ~ factor(Days) + (1 | Subject), sleepstudy, na.action = "exclude",
                 contrasts = list("factor(Days)" = "contr.sum"))
  theirs <- by_lme4(Reaction ~ factor(Days) + (1 | Subject), sleepstudy, na.action = na.exclude,
                    contrasts = list("factor(Days)" = "contr.sum"))
  expect_same_fit(ours, theirs)
  expect_equal(unname(which(is.na(residuals(ours)))), c(3L, 70L))
})

test_that("levels that a subset leaves empty are dropped", {
  skip_without_python()
  few <- c("308", "309", "310", "330")
  sleepstudy$third <- factor(sleepstudy$Days %% 3)
  expect_same_fit(
    lmernn(Reaction ~ third + (1 | Subject), sleepstudy, subset = third != "2" & Subject %in% few),
    by_lme4(Reaction ~ third + (1 | Subject), sleepstudy, subset = third != "2" & Subject %in% few)
  )
})

test_that("a column that depends on others is dropped with lme4's message", {
  skip_without_python()
  sleepstudy$twice <- 2 * sleepstudy$Days
  expect_message(
    fit <- lmernn(Reaction ~ Days + twice + (1 | Subject), sleepstudy),
    "fixed-effect model matrix is rank deficient so dropping 1 column / coefficient", fixed = TRUE
  )
  expect_equal(names(fixef(fit)), c("(Intercept)", "Days"))
  expect_equal(fixef(fit, add.dropped = TRUE)[["twice"]], NA_real_)
  expect_equal(predict(fit, sleepstudy), fitted(fit))
})

test_that("a singular fit is named", {
  skip_without_python()
  flat <- lme4_data("Dyestuff2")
  expect_message(fit <- lmernn(Yield ~ 1 + (1 | Batch), flat), "boundary (singular) fit: see help('isSingular')",
                 fixed = TRUE)
  expect_true(isSingular(fit))
  expect_equal(fit$theta, 0)
  expect_false(isSingular(lme4::lmer(Yield ~ 1 + (1 | Batch), Dyestuff)))
})

test_that("uncorrelated columns of a factor are one diag() term", {
  skip_without_python()
  fit <- lmernn(angle ~ temp + diag(0 + recipe | replicate), cake)
  columns <- data.frame(model.matrix(~ 0 + recipe, cake), cake)
  apart <- by_lme4(
    angle ~ temp + (0 + recipeA | replicate) + (0 + recipeB | replicate) + (0 + recipeC | replicate), columns
  )
  expect_equal(REMLcrit(fit), REMLcrit(apart), tolerance = 1e-8)
  expect_equal(fit$theta, unname(getME(apart, "theta")), tolerance = 1e-3)
})

test_that("weights, offset and subset are found where lmer() would find them", {
  skip_without_python()
  fit_in_function <- function(w) lmernn(Reaction ~ Days + (1 | Subject), sleepstudy, weights = w)
  w <- rep(c(1, 2), 90)
  inside <- fit_in_function(w)
  expect_equal(weights(inside), w)
  fit_given_formula <- function(formula, heavy) lmernn(formula, sleepstudy, weights = heavy)
  expect_equal(weights(fit_given_formula(Reaction ~ Days + (1 | Subject), w)), w)
})

test_that("the data are not changed and the object holds no Python", {
  skip_without_python()
  before <- sleepstudy
  fit <- lmernn(Reaction ~ Days + (1 | Subject), sleepstudy)
  expect_identical(sleepstudy, before)
  expect_type(unclass(fit), "list")
  expect_false(any(rapply(unclass(fit), function(x) inherits(x, "python.builtin.object"), how = "unlist")))
})
