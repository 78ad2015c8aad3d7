# Learned random effects: embed() of a factor and of coordinates.

quick <- list(epochs = 3, folds = 0)

test_that("embed() of coordinates is fitted and predicts new places", {
  skip_without_torch()
  d <- simulated(600)
  d$lon <- round(d$x)
  d$lat <- round(d$z)
  fit <- lmernn(y ~ treat + nn(x, z, hidden = 8) + (1 | g) + embed(lon, lat, dim = 5, hidden = 6), d,
                control = quick, seed = 1)
  expect_identical(fit$method, "lmmnn")
  expect_setequal(names(ngrps(fit)), c("g", "embed(lon, lat)"))
  expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  k <- which(vapply(fit$bars, `[[`, "", "covariance") == "embed")
  expect_equal(field_at(fit, k, fit$bars[[k]]$locations), as.vector(fit$b[[k]]), tolerance = 1e-4)
  expect_true(all(is.finite(predict(fit, transform(d[1:3, ], lon = lon + 0.5)))))
  expect_null(attr(ranef(fit)[["embed(lon, lat)"]], "postVar"))
  expect_error(predict(fit, d, se.fit = TRUE), "its features were learned by method 'lmmnn'")
  expect_error(simulate(fit), "no new effects can be drawn")
  expect_error(refitML(fit), "fit the model again by lmernn()", fixed = TRUE)
})

test_that("embed() of a factor is a random intercept but for method lmmnn", {
  skip_without_torch()
  d <- simulated(600)
  plain <- lmernn(y ~ treat + nn(x, hidden = 8) + (1 | g), d, control = quick, seed = 1)
  embed <- lmernn(y ~ treat + nn(x, hidden = 8) + embed(1 | g, dim = 5), d, control = quick, seed = 1)
  expect_equal(embed$theta, plain$theta)
  learned <- lmernn(y ~ treat + nn(x, hidden = 8) + embed(1 | g, dim = 5), d, method = "lmmnn", control = quick)
  expect_equal(predict(learned, d), fitted(learned), tolerance = 1e-5)
  expect_true(has_learned(learned))
  expect_error(lmernn(y ~ treat + nn(x) + embed(1 | g, dims = 5), d), "dims")
})

test_that("methods lmmnn and menets are passed on, with the settings of the training", {
  skip_without_torch()
  d <- simulated(400)
  for (method in c("lmmnn", "menets")) {
    fit <- lmernn(y ~ treat + nn(x, z, hidden = 8) + (1 | g), d, method = method, control = quick, seed = 1)
    expect_identical(fit$method, method)
    expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  }
  expect_error(lmernn(y ~ nn(x) + (1 | g), d, control = list(preset = "exact")), "preset is 'exact'")
  expect_error(lmernn(y ~ nn(x) + (1 | g), d, control = list(epochs = "ten")), "epochs is 'ten' but must be a whole")
  expect_error(lmernn(y ~ nn(x) + (1 | g), d, control = list(folds = 2.5)), "folds is 2.5 but must be a whole")
})
