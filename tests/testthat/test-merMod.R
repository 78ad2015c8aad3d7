# What other packages do with a genuine merMod, at our parameters.

test_that("the merMod is lme4's own at the same theta", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  made <- as_merMod(fit)
  own <- by_lme4(Reaction ~ Days + (Days | Subject), sleepstudy)
  expect_s4_class(made, "lmerMod")
  expect_equal(getME(made, "theta"), getME(own, "theta"), tolerance = 1e-4)
  expect_equal(coef(summary(made)), coef(summary(own)), tolerance = 1e-5)
  expect_equal(REMLcrit(made), REMLcrit(fit), tolerance = 1e-10)
  expect_equal(suppressMessages(confint(fit)), suppressMessages(confint(own)), tolerance = 1e-3)
  expect_equal(anova(made), anova(own), tolerance = 1e-5)
  expect_equal(refit(made, sleepstudy$Reaction + 1)@beta[2], own@beta[2], tolerance = 1e-5)
})

test_that("term order, diag() and character groups survive the way", {
  skip_without_python()
  sleepstudy$h <- as.character(gl(36, 5))
  fit <- lmernn(Reaction ~ Days + diag(Days | Subject) + (1 | h), sleepstudy)
  made <- as_merMod(fit)
  expect_equal(REMLcrit(made), REMLcrit(fit), tolerance = 1e-10)
  expect_error(as_merMod(lmernn(angle ~ temp + diag(recipe | replicate), cake)), "lme4 cannot hold the diag() term",
               fixed = TRUE)
})

test_that("bootMer and influence work", {
  skip_without_python()
  fit <- lmernn(Yield ~ 1 + (1 | Batch), Dyestuff)
  own <- by_lme4(Yield ~ 1 + (1 | Batch), Dyestuff)
  boot <- lme4::bootMer(as_merMod(fit), fixef, nsim = 4, seed = 1)
  expect_equal(boot$t, lme4::bootMer(own, fixef, nsim = 4, seed = 1)$t, tolerance = 1e-4)
  expect_equal(hatvalues(fit), hatvalues(own), tolerance = 1e-3)
  expect_equal(cooks.distance(fit), cooks.distance(own), tolerance = 1e-3)
  expect_equal(rstudent(fit), rstudent(own), tolerance = 1e-3)
  expect_s3_class(influence(fit, "Batch"), "influence.merMod")
  expect_s3_class(profile(fit), "thpr")
  expect_equal(rePCA(fit)$Batch$sdev, rePCA(own)$Batch$sdev, tolerance = 1e-3)
})

test_that("lmerTest finds Satterthwaite's degrees of freedom", {
  skip_without_python()
  skip_if_not_installed("lmerTest")
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  table <- coef(summary(lmerTest::as_lmerModLmerTest(as_merMod(fit))))
  expect_equal(unname(table[, "df"]), c(17, 17), tolerance = 1e-3)
})

test_that("emmeans takes the fit itself", {
  skip_without_python()
  skip_if_not_installed("emmeans")
  fit <- lmernn(angle ~ recipe + temp + (1 | recipe:replicate), cake)
  own <- by_lme4(angle ~ recipe + temp + (1 | recipe:replicate), cake)
  means <- function(object) as.data.frame(emmeans::emmeans(object, ~recipe, lmer.df = "asymptotic"))
  expect_equal(means(fit), means(own), tolerance = 1e-5)
  expect_equal(means(as_merMod(fit)), means(own), tolerance = 1e-5)
})

test_that("broom.mixed, performance and insight work", {
  skip_without_python()
  fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
  own <- by_lme4(Reaction ~ Days + (Days | Subject), sleepstudy)
  if (requireNamespace("broom.mixed", quietly = TRUE)) {
    expect_equal(broom.mixed::tidy(as_merMod(fit)), broom.mixed::tidy(own), tolerance = 1e-3)
  }
  if (requireNamespace("performance", quietly = TRUE)) {
    expect_equal(performance::r2(fit), performance::r2(own), tolerance = 1e-3, ignore_attr = TRUE)
    expect_true(performance::check_convergence(fit))
    expect_equal(performance::model_performance(fit), performance::model_performance(own), tolerance = 1e-3,
                 ignore_attr = TRUE)
  }
  if (requireNamespace("insight", quietly = TRUE)) {
    expect_equal(insight::find_random(fit), insight::find_random(own))
    expect_true(insight::model_info(fit)$is_mixed)
  }
})
