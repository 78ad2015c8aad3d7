# Ordinal models against thresholds on a latent scale, MASS::polr without random effects, and what Python prints.

ordered_data <- function(n = 300) {
  set.seed(1)
  d <- data.frame(x = rnorm(n), f = gl(3, 1, n, labels = c("u", "v", "w")), g = gl(15, 1, n))
  d$y <- cut(d$x + (d$f == "v") + rnorm(15)[d$g] + rlogis(n), c(-Inf, -1, 1, Inf), c("low", "middle", "high"),
             ordered_result = TRUE)
  d
}

test_that("an ordinal model has thresholds for an intercept, and answers the verbs", {
  skip_without_python()
  d <- ordered_data()
  fit <- glmernn(y ~ x + f + (1 | g), d, family = "ordinal")
  expect_identical(names(fixef(fit)), c("x", "fv", "fw"))
  expect_identical(colnames(model.matrix(fit)), c("x", "fv", "fw"))
  expect_identical(names(thresholds(fit)), c("low|middle", "middle|high"))
  expect_equal(attr(logLik(fit), "df"), 6)
  P <- fitted(fit)
  expect_identical(colnames(P), levels(d$y))
  eta <- predict(fit)
  cumulative <- plogis(outer(-eta, thresholds(fit), `+`))
  expect_equal(unname(P), unname(cbind(cumulative[, 1L], cumulative[, 2L] - cumulative[, 1L], 1 - cumulative[, 2L])))
  expect_identical(predict(fit, type = "prob"), P)
  expect_identical(predict(fit, d, type = "response"), P)
  expect_identical(levels(predict(fit, type = "class")), levels(d$y))
  expect_s3_class(predict(fit, type = "class"), "ordered")
  expect_identical(as.integer(predict(fit, type = "class")), unname(max.col(P)))
  own <- P[cbind(seq_len(300), as.integer(d$y))]
  expect_equal(deviance(fit), -2 * sum(log(own)))
  expect_equal(unname(residuals(fit, "response")), as.integer(d$y) - 1 - as.vector(P %*% 0:2))
  h <- 1e-6 # working residuals are score / curvature of the log-density in eta
  log_density <- function(eta) log(fit$family$probabilities(eta)[cbind(seq_len(300), as.integer(d$y))])
  score <- (log_density(eta + h) - log_density(eta - h)) / (2 * h)
  h <- 1e-4
  curvature <- -(log_density(eta + h) - 2 * log_density(eta) + log_density(eta - h)) / h^2
  expect_equal(unname(residuals(fit, "working")), unname(score / curvature), tolerance = 1e-4)
  expect_s3_class(simulate(fit, seed = 1)$sim_1, "ordered")
  expect_equal(mean(simulate(fit, seed = 1)$sim_1 == "low"), mean(d$y == "low"), tolerance = 0.2)
  expect_equal(anova(update(fit, . ~ . - f), fit)$Df[2L], 2)
  expect_equal(mean(residuals(fit, "pearson")^2), mean((1 / own - 1) / 2))
  expect_equal(drop1(fit)$AIC[3L], AIC(update(fit, . ~ . - f)))
  expect_identical(fixef(refit(fit, d$y)), fixef(fit))
  expect_output(print(fit), "Thresholds:")
  expect_error(thresholds(glmernn(I(y == "low") ~ x + (1 | g), d)), "a binomial model has no thresholds")
  expect_error(as_merMod(fit), "lme4 has no ordinal models.")
})

test_that("with tiny random effects it is MASS::polr", {
  skip_without_python()
  skip_if_not_installed("MASS")
  d <- ordered_data(400)
  d <- d[order(d$y), ]
  d$h <- gl(20, 1, 400) # every level has the same classes
  fit <- suppressMessages(glmernn(y ~ x + f + (1 | h), d, family = "ordinal"))
  plain <- MASS::polr(y ~ x + f, d, Hess = TRUE)
  expect_true(isSingular(fit))
  expect_equal(fixef(fit), coef(plain), tolerance = 1e-4)
  expect_equal(unname(thresholds(fit)), unname(plain$zeta), tolerance = 1e-4)
  errors <- unname(sqrt(diag(vcov(plain))))
  expect_equal(unname(c(coef(summary(fit))[, 2L], summary(fit)$thresholds[, 2L])), errors, tolerance = 1e-3)
  expect_equal(c(logLik(fit)), c(logLik(plain)), tolerance = 1e-8)
})

test_that("Python prints the same summary", {
  skip_without_python()
  d <- ordered_data()
  file <- tempfile(fileext = ".csv")
  utils::write.csv(d, file, row.names = FALSE)
  shown <- by_python(c(
    "data = pd.read_csv(sys.argv[1])",
    "data['y'] = pd.Categorical(data.y, ['low', 'middle', 'high'], ordered=True)",
    "fit = pylmernn.glmernn('y ~ x + f + (1 | g)', data, family='ordinal')",
    "print(json.dumps(str(fit.summary()).splitlines()))"
  ), file)
  of_r <- capture.output(print(summary(glmernn(y ~ x + f + (1 | g), d, family = "ordinal")), signif.stars = TRUE))
  compared <- function(lines) lines[nzchar(lines) & !grepl("^(   Data|Signif)", lines)][-(1:2)]
  expect_gt(length(compared(shown)), 18L)
  expect_equal(compared(of_r), compared(shown))
})

test_that("means over unseen levels are integrals over their distribution", {
  skip_without_python()
  d <- ordered_data()
  fit <- glmernn(y ~ x + (1 | g), d, family = "ordinal")
  new <- data.frame(x = c(-1, 2), g = "new")
  sd <- attr(VarCorr(fit)$g, "stddev")
  eta <- fixef(fit)[["x"]] * new$x
  wanted <- t(vapply(eta, function(centre) {
    vapply(1:3, function(k) {
      share <- function(b) fit$family$probabilities(centre + b)[, k] * dnorm(b, 0, sd)
      integrate(share, -Inf, Inf, rel.tol = 1e-10)$value
    }, 0)
  }, numeric(3L)))
  found <- predict(fit, new, type = "prob", allow.new.levels = TRUE, marginal = TRUE)
  expect_equal(unname(found), wanted, tolerance = 1e-7)
  expect_equal(unname(predict(fit, new, type = "prob", allow.new.levels = TRUE)), unname(fit$family$probabilities(eta)))
})

test_that("responses without an order are warned of or refused", {
  skip_without_python()
  d <- ordered_data()
  d$text <- as.character(d$y)
  expect_warning(glmernn(text ~ x + (1 | g), d, family = "ordinal"), "taken in the order high < low < middle")
  d$code <- as.integer(d$y)
  expect_equal(fixef(glmernn(code ~ x + (1 | g), d, family = "ordinal")),
               fixef(glmernn(y ~ x + (1 | g), d, family = "ordinal")))
  expect_error(glmernn(x ~ f + (1 | g), d, family = "ordinal"), "the ordinal family needs classes")
  expect_error(glmernn(y ~ 0 + x + (1 | g), d, family = "ordinal"), "thresholds of an ordinal model stand for its")
  d$one <- factor("a")
  expect_error(glmernn(one ~ x + (1 | g), d, family = "ordinal"), "has one class only, 'a'")
})
