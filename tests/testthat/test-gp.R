# Gaussian processes over locations.

test_that("a field is recovered, told of and predicted as in Python", {
  skip_without_python()
  d <- simulated_field()
  fit <- lmernn(y ~ x + gp(lon, lat), d)
  shown <- as.data.frame(VarCorr(fit))
  expect_equal(shown$var1, c("exp_quad", "lscale", NA))
  expect_equal(shown$sdcor, c(1, 2, 0.5), tolerance = 0.2) # one field: its standard deviation is known to about 15%
  expect_equal(fixef(fit)[["x"]], 2, tolerance = 0.05)
  expect_equal(unname(ngrps(fit)), 60L)
  expect_identical(rownames(ranef(fit)[[1L]])[1L], "0.133903331588954, 7.11121222469956")
  file <- tempfile(fileext = ".csv")
  write.csv(d, file, row.names = FALSE)
  new <- data.frame(lon = c(1.5, 9, d$lon[1L]), lat = c(2.5, 0.1, d$lat[1L]), x = c(0, 1, 2))
  python <- by_python(c(
    "data = pd.read_csv(sys.argv[1], float_precision='round_trip')",
    "fit = pylmernn.lmernn('y ~ x + gp(lon, lat)', data)",
    "new = pd.DataFrame(dict(lon=[1.5, 9, data.lon[0]], lat=[2.5, 0.1, data.lat[0]], x=[0.0, 1, 2]))",
    "limits = fit.predict(new, interval='prediction')",
    "print(json.dumps(dict(theta=fit.getME('theta').tolist(), crit=fit.REMLcrit(), text=str(fit.VarCorr()),",
    "                      fit=limits['fit'].tolist(), se=limits['se'].tolist(), lwr=limits['lwr'].tolist())))"
  ), file)
  ours <- predict(fit, new, interval = TRUE, se.fit = TRUE)
  expect_equal(fit$theta, python$theta, tolerance = 1e-6)
  expect_equal(REMLcrit(fit), python$crit, tolerance = 1e-10)
  expect_equal(unname(ours$fit[, "fit"]), python$fit, tolerance = 1e-6)
  expect_equal(unname(ours$se.fit), python$se, tolerance = 1e-6)
  expect_equal(unname(ours$fit[, "lwr"]), python$lwr, tolerance = 1e-6)
  expect_equal(capture.output(print(VarCorr(fit))), strsplit(python$text, "\n")[[1L]])
})

test_that("values at new places join those at known ones", {
  skip_without_python()
  d <- simulated_field(300, 40)
  for (cov in names(correlations)) {
    formula <- eval(bquote(y ~ x + gp(lon, lat, cov = .(cov)) + (1 | g)))
    fit <- suppressMessages(lmernn(formula, d))
    k <- which(vapply(fit$bars, `[[`, "", "covariance") == "gp")
    at_known <- field_at(fit, k, fit$bars[[k]]$locations)
    expect_equal(at_known, as.vector(fit$b[[k]]), tolerance = 1e-6, info = cov)
  }
})

test_that("the verbs know a field", {
  skip_without_python()
  d <- simulated_field(300, 40)
  d$g <- factor(rep(1:12, 25))
  d$y <- d$y + rep(rnorm(12), 25)
  fit <- lmernn(y ~ x + gp(lon, lat, cov = "matern32") + (1 | g), d)
  new <- d[1:5, ]
  expect_equal(predict(fit, d), fitted(fit))
  expect_equal(
    predict(fit, new),
    predict(fit, new, re.form = ~ gp(lon, lat)) + predict(fit, new, re.form = ~ (1 | g)) -
      predict(fit, new, re.form = NA)
  )
  expect_true(is.na(predict(fit, transform(new, lon = NA))[[1L]]))
  expect_identical(deparse1(formula(fit, random.only = TRUE)), "y ~ gp(lon, lat, cov = \"matern32\") + (1 | g)")
  expect_identical(deparse1(formula(fit, fixed.only = TRUE)), "y ~ x")
  expect_equal(attr(logLik(fit), "df"), 6)
  expect_equal(names(getME(fit, "theta")), c("gp(lon, lat).matern32", "gp(lon, lat).lscale", "g.(Intercept)"))
  expect_equal(names(coef(fit)), "g")
  expect_equal(getME(fit, "lower"), c(0, 0, 0), ignore_attr = TRUE)
  expect_lt(deviance(refitML(fit)), deviance(fit, REML = FALSE))
  expect_equal(refit(fit, d$y)$theta, fit$theta, tolerance = 1e-4)
  expect_output(print(summary(fit)), "lscale")
  expect_s3_class(plot(fit, kind = "variogram"), "trellis")
  expect_s3_class(plot(fit, kind = "map", grid_size = 5), "trellis")
})

test_that("simulated fields have the covariance of the model", {
  skip_without_python()
  d <- simulated_field(300, 40)
  fit <- lmernn(y ~ x + gp(lon, lat), d)
  new <- data.frame(lon = c(1, 1, 1.5, 9), lat = 1, x = 0)
  draws <- as.matrix(simulate(fit, 4000, seed = 1, newdata = new))
  K <- correlation_between("exp_quad", fit$theta[2L], as.matrix(new[1:2]), as.matrix(new[1:2]))
  expected <- fit$sigma^2 * (fit$theta[1L]^2 * K + diag(4))
  expect_equal(cov(t(draws)), expected, tolerance = 0.08, ignore_attr = TRUE)
  expect_equal(rowMeans(simulate(fit, 2, newdata = new, re.form = NULL, seed = 2)), predict(fit, new), tolerance = 2)
})

test_that("coordinates may be expressions, and new data take the centre of the fit", {
  skip_without_python()
  d <- simulated_field(300, 40)
  fit <- lmernn(y ~ x + gp(lon / 10, scale(lat)), d)
  expect_equal(predict(fit, d[5:9, ]), fitted(fit)[5:9])
  expect_identical(names(ngrps(fit)), "gp(lon/10, scale(lat))")
})

test_that("bad fields are refused in one sentence", {
  skip_without_python()
  d <- simulated_field(120, 20)
  d$one <- 1
  d$far <- replace(d$lon, 3, Inf)
  expect_error(lmernn(y ~ gp(one), d), "all rows are at one location")
  expect_error(lmernn(y ~ gp(g), d), "the coordinate 'g' is of class 'factor': coordinates must be numbers")
  expect_error(lmernn(y ~ gp(far, lat), d), "the coordinate 'far' has infinite values")
  expect_error(lmernn(y ~ gp(lon, lat) + gp(lon, lat, cov = "exponential"), d), "stands in the formula twice")
  fit <- lmernn(y ~ gp(lon, lat), d)
  expect_error(predict(fit, d["lon"]), "the formula uses 'lat', which is not a column of the data")
  expect_error(predict(fit, re.form = ~ gp(lon)), "not among the random effects")
  expect_error(as_merMod(fit), "lme4 has no gp()", fixed = TRUE)
  expect_error(getME(fit, "Lambda"), "is for bars")
  expect_error(plot(fit, kind = "map", term = "gp(a)"), "the model has no field 'gp(a)'", fixed = TRUE)
})
