# Predictions and draws of generalized models.

#' Predict from a generalized fit
#'
#' As [lme4::predict.merMod()], with probabilities and classes, standard errors that count the uncertainty of fixed and
#' random effects (and of networks) together, and limits made of them. These are by the normal approximation at the
#' conditional modes, the variances and the dispersion (or thresholds) taken as known.
#'
#' A level that the fit has not seen has the effect zero, but that is not its mean response, since the inverse link is
#' curved: `marginal = TRUE` gives the mean over `b ~ N(0, Sigma)`, which is nearer to the middle.
#'
#' @inheritParams predict.merModNN
#' @param object A fit by [glmernn()].
#' @param type `"link"`, the linear predictor, as in lme4; `"response"`, the mean (for ordinal responses the
#'   probabilities of the classes, one column each); `"prob"`, the probabilities of the two or more classes of a
#'   binomial or ordinal response; or `"class"`, the most likely one.
#' @param se.fit Whether standard errors are wanted, for `"response"` by the delta method. Needs Python.
#' @param interval `"none"`, `"confidence"` (of the linear predictor, for `"response"` carried through the inverse link)
#'   or `"prediction"` (of a new response, by 4,000 draws; `TRUE` as well), which needs `type = "response"`. Needs
#'   Python.
#' @param marginal Whether means and probabilities of levels that the fit has not seen are averaged over the
#'   distribution of their effects. Needs Python where there are such levels.
#' @param seed A seed of the draws behind prediction intervals.
#' @return A named vector; a matrix with a column for each class; a factor; with `interval` a matrix with columns `fit`,
#'   `lwr`, `upr`; with `se.fit` a list with elements `fit` and `se.fit`.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("cbpp", package = "lme4")
#' fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp)
#' new <- data.frame(period = c("1", "4"), herd = c("1", "new"))
#' predict(fit, new, type = "response", allow.new.levels = TRUE)
#' predict(fit, new, type = "response", allow.new.levels = TRUE, marginal = TRUE)
#' predict(fit, new, type = "response", allow.new.levels = TRUE, interval = "confidence")
predict.glmerModNN <- function(object, newdata = NULL, re.form = NULL, random.only = FALSE, allow.new.levels = FALSE,
                               na.action = stats::na.pass, type = c("link", "response", "prob", "class"),
                               se.fit = FALSE, interval = c("none", "confidence", "prediction"), level = 0.95,
                               marginal = FALSE, seed = 0, ...) {
  if (...length()) {
    stop("predict() of a glmerModNN takes no further arguments.", call. = FALSE)
  }
  type <- match.arg(type)
  interval <- if (is.logical(interval)) c("none", "prediction")[isTRUE(interval) + 1L] else match.arg(interval)
  with_errors <- se.fit || interval != "none"
  check_prediction(object, type, with_errors, interval, random.only || marginal)
  include <- included_columns(object, re.form)
  rows <- if (is.null(newdata)) {
    old_rows(object)
  } else {
    new_rows(object, newdata, include, !random.only, allow.new.levels, na.action)
  }
  if (random.only) rows$X <- rows$offset <- rows$nets <- NULL
  eta <- predicted(object, rows, include)
  if (with_errors) {
    weights <- if (is.null(newdata)) row_weights(object) else rep(1, length(eta))
    return(predict_with_errors(object, eta, rows, include, type, se.fit, interval, level, weights, seed))
  }
  if (type != "link") {
    eta <- response_at(object, eta, if (marginal) unseen_variance(object, rows, include))
    if (type != "response" && !is_ordinal(object)) eta <- cbind(1 - eta, eta)
    if (is.matrix(eta)) colnames(eta) <- response_names(object)
  }
  answer <- if (is.matrix(eta)) `rownames<-`(eta, rows$names) else stats::setNames(eta, rows$names)
  answer <- stats::napredict(rows$na.action, answer)
  if (type == "class") most_likely(answer, is_ordinal(object)) else answer
}

check_prediction <- function(object, type, with_errors, interval, partial) {
  if (type %in% c("prob", "class") && !is_ordinal(object) && object$family$family != "binomial") {
    stop(sprintf("type = \"%s\" is for classes, not for the %s family: use type = \"response\".", type,
                 sub("\\(.*", "", object$family$family)), call. = FALSE)
  }
  if (!with_errors) {
    return(invisible())
  }
  if (partial) {
    stop("standard errors are for whole predictions given b: leave out random.only and marginal, or se.fit.",
         call. = FALSE)
  }
  if (type %in% c("prob", "class")) {
    stop("standard errors are offered for type = \"link\" and \"response\" only.", call. = FALSE)
  }
  if (interval == "prediction" && type == "link") {
    stop("a new response is on its own scale: use type = \"response\" with interval = \"prediction\".", call. = FALSE)
  }
  if (type == "response" && is_ordinal(object)) {
    stop("standard errors of an ordinal model are of the linear predictor: use type = \"link\".", call. = FALSE)
  }
}

# Names of the classes of a binomial or ordinal response.
response_names <- function(object) {
  classes <- observed_in(object$frame, object$settings$family)$classes
  if (is.null(classes)) c("0", "1") else classes
}

# Means of the response, or its probabilities (m x K), at linear predictors; averaged where `variance` says how much of
# them is unknown.
response_at <- function(object, eta, variance = NULL) {
  family <- object$family
  means <- if (is_ordinal(object)) family$probabilities(eta) else family$linkinv(eta)
  spread <- which(variance > 0 & !is.na(eta))
  if (length(spread) == 0L) {
    return(means)
  }
  buffers <- c(as_buffers(object$phi), as_buffers(eta[spread]), as_buffers(variance[spread]))
  averaged <- call_python("marginal_means", list(family = object$settings$family), buffers)$arrays$means
  if (is.matrix(means)) {
    means[spread, ] <- row_major(averaged, c(length(spread), ncol(means)))
  } else {
    means[spread] <- averaged
  }
  means
}

# Prior variance of z' b over the levels that the fit has not seen; 0 where all were seen.
unseen_variance <- function(object, rows, include) {
  total <- numeric(length(rows$names))
  for (k in which(vapply(include, any, NA))) {
    at <- which(rows$codes[[k]] == 0L)
    z <- sweep(rows$columns[[k]][at, , drop = FALSE], 2L, as.numeric(include[[k]]), `*`)
    total[at] <- total[at] + rowSums((z %*% templates(object)[[k]])^2)
  }
  total
}

# Predictions with standard errors of linear predictors, or of means by the delta method, and limits.
predict_with_errors <- function(object, eta, rows, include, type, se.fit, interval, level, weights, seed) {
  pad <- function(values) stats::napredict(rows$na.action, stats::setNames(values, rows$names))
  se <- sqrt(prediction_variances(object, rows, include)$variance)
  reach <- stats::qnorm((1 + level) / 2) * se
  limits <- cbind(eta - reach, eta + reach)
  fit <- eta
  if (type == "response") {
    fit <- object$family$linkinv(eta)
    limits <- if (interval == "prediction") {
      response_limits(object, eta, se, weights, level, seed)
    } else {
      ends <- matrix(object$family$linkinv(limits), ncol = 2L)
      cbind(pmin(ends[, 1L], ends[, 2L]), pmax(ends[, 1L], ends[, 2L]))
    }
    se <- se * abs(object$family$mu.eta(eta))
  }
  answer <- pad(fit)
  if (interval != "none") answer <- cbind(fit = answer, lwr = pad(limits[, 1L]), upr = pad(limits[, 2L]))
  if (se.fit) list(fit = answer, se.fit = pad(se)) else answer
}

draws_of_response <- 4000L

# Quantiles of new responses whose linear predictors are normal, m x 2.
response_limits <- function(object, eta, se, weights, level, seed) {
  if (object$family$family == "binomial" && all(weights == 1)) {
    stop("a new response of one trial is one class or another, which no interval tells: use type = \"prob\", or ",
         "interval = \"confidence\" for its probability.", call. = FALSE)
  }
  state <- random_state(seed)
  on.exit(assign(".Random.seed", state$before, envir = globalenv()))
  tails <- c((1 - level) / 2, (1 + level) / 2)
  limits <- vapply(seq_along(eta), function(i) {
    if (is.na(eta[i]) || is.na(se[i])) {
      return(c(NA_real_, NA_real_))
    }
    drawn <- draw_family(object, matrix(stats::rnorm(draws_of_response, eta[i], se[i])), weights[i])
    stats::quantile(if (object$family$family == "binomial") drawn / weights[i] else drawn, tails, names = FALSE)
  }, numeric(2L))
  t(limits)
}

# New responses given linear predictors (n x nsim): of a binomial model the numbers of successes.
draw_family <- function(object, eta, weights) {
  mu <- object$family$linkinv(eta)
  size <- length(mu)
  phi <- object$phi
  drawn <- switch(
    sub("\\(.*", "", object$family$family),
    binomial = stats::rbinom(size, weights, mu),
    poisson = stats::rpois(size, mu),
    Gamma = stats::rgamma(size, weights / phi, scale = mu * phi / weights),
    inverse.gaussian = draw_inverse_gaussian(mu, weights / phi),
    negative.binomial = stats::rnbinom(size, size = phi, mu = mu),
    beta = stats::rbeta(size, mu * phi, (1 - mu) * phi),
    ordinal = findInterval(eta + stats::rlogis(size), phi)
  )
  matrix(drawn, nrow(eta))
}

# By a root of a quadratic in a squared normal number (Michael, Schucany and Haas 1976).
draw_inverse_gaussian <- function(mu, lambda) {
  v <- mu * stats::rnorm(length(mu))^2
  root <- mu * (1 + (v - sqrt(v * (4 * lambda + v))) / (2 * lambda))
  ifelse(stats::runif(length(mu)) <= mu / (mu + root), root, mu^2 / root)
}

# Drawn responses of one simulation in the form of the response of the fit; `trials` is NULL for new data.
like_response <- function(values, object, trials) {
  y <- object$frame[[1L]]
  if (is_ordinal(object)) {
    return(factor(levels(y)[values + 1L], levels(y), ordered = is.ordered(y)))
  }
  if (object$family$family != "binomial" || is.null(trials)) {
    return(values)
  }
  if (is.factor(y)) {
    return(factor(levels(y)[1L + (values > 0)], levels(y)))
  }
  if (NCOL(y) == 2L) {
    return(matrix(c(values, trials - values), ncol = 2L, dimnames = list(NULL, colnames(y))))
  }
  values / trials
}
