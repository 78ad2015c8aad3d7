#' Fit a generalized linear mixed model
#'
#' Fits the model that [lme4::glmer()] fits, written in the same formula language, by maximum likelihood: Laplace's
#' approximation or adaptive Gauss-Hermite quadrature. Theta, beta and the dispersion are found together by the exact
#' gradient.
#'
#' The log-likelihood has all its constants for every `nAGQ`, so fits with different `nAGQ` can be compared; those of
#' lme4 cannot. Binomial and Poisson models are approximated as lme4 does, those with a dispersion as glmmTMB does, and
#' the dispersion is estimated by maximum likelihood: `Var(y)` is `phi mu^2 / weight` for Gamma, `phi mu^3 / weight` for
#' inverse Gaussian, `mu + mu^2 / phi` for negative binomial, `mu (1 - mu) / (1 + phi)` for beta responses.
#'
#' @inheritParams lmernn
#' @param formula A two-sided formula with at least one random term, in lme4's grammar. A binomial response is 0/1,
#'   logical, a factor (its first level is failure), `cbind(successes, failures)`, or a proportion with the numbers of
#'   trials as `weights`.
#' @param family `binomial` (links logit, probit, cloglog, cauchit), `poisson` (log), `Gamma` (inverse, log,
#'   identity), `inverse.gaussian` (1/mu^2, log, inverse), as R has them, or their names, `"binomial(probit)"`; or
#'   `"negative.binomial"` (log) or `"beta"` (logit, probit, cloglog).
#' @param nAGQ 1 is Laplace's approximation; more is adaptive Gauss-Hermite quadrature, for one grouping factor with one
#'   or several columns; 0 is Laplace's approximation with beta found together with the modes, faster and rougher.
#' @param weights,subset,offset As in [lme4::glmer()]: expressions of columns of `data`.
#' @param control A named list of settings of the optimizer: `tolerance`, `max_evaluations`, `singular_tolerance`,
#'   `dense_limit`.
#'
#' @return An object of class `glmerModNN`, which is also a `merModNN`: a list of plain R data, which [saveRDS()] keeps
#'   whole. It answers lme4's verbs; see [generalized]. [as_merMod()] makes lme4's own object of binomial and Poisson
#'   fits.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("cbpp", package = "lme4")
#' fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp)
#' summary(fit)
#' head(predict(fit, type = "response"))
#' logLik(update(fit, nAGQ = 9))
glmernn <- function(formula, data = NULL, family = stats::binomial, nAGQ = 1L, weights, subset, na.action, offset,
                    contrasts = NULL, control = NULL, ...) {
  refuse_unknown("glmernn", ...)
  call <- match.call()
  settings <- list(REML = FALSE, family = family_text(family), nAGQ = checked_nodes(nAGQ), control = as.list(control))
  if (is.character(formula)) formula <- stats::as.formula(formula, env = parent.frame())
  parsed <- parse_formula(formula, data)
  if (length(parsed$networks)) {
    stop(sprintf("%s: glmernn() fits no networks yet; use lmernn(), or take the term out.",
                 parsed$networks[[1L]]$label), call. = FALSE)
  }
  frame <- build_frame(parsed, data, call, parent.frame())
  attr(frame, "formula") <- parsed$formula
  model <- model_parts(parsed, frame, contrasts, settings$family)
  call$formula <- parsed$formula
  fit <- estimate(model, settings)
  fit$call <- call
  report_fit(fit)
  fit
}

# "name(link)" of what R users give as a family; Python knows which there are.
family_text <- function(family) {
  if (is.function(family)) {
    family <- tryCatch(family(), error = function(e) NULL)
  }
  if (inherits(family, "family")) {
    if (startsWith(family$family, "Negative Binomial")) {
      stop("family: glmernn() estimates the size of negative binomial counts: write family = \"negative.binomial\".",
           call. = FALSE)
    }
    return(sprintf("%s(%s)", family$family, family$link))
  }
  if (!is.character(family) || length(family) != 1L || is.na(family)) {
    stop("family must be a family such as binomial, poisson(\"log\") or \"negative.binomial\".", call. = FALSE)
  }
  family
}

is_binomial <- function(family) grepl("^\\s*binomial\\b", family)

checked_nodes <- function(nAGQ) {
  if (!is.numeric(nAGQ) || length(nAGQ) != 1L || !isTRUE(nAGQ >= 0 && nAGQ == round(nAGQ))) {
    stop(sprintf("nAGQ is %s: use a whole number, 0 or more.", deparse1(nAGQ)), call. = FALSE)
  }
  as.integer(nAGQ)
}

# The response of a frame as numbers and the prior weights (NULL where there are none): list(y, weights). `family` is
# that of a generalized model, as text. Binomial responses become proportions, weighted by the numbers of trials.
observed_in <- function(frame, family = NULL) {
  weights <- stats::model.weights(frame)
  if (is.null(family)) {
    return(list(y = response_of(frame), weights = weights))
  }
  y <- frame[[1L]]
  name <- names(frame)[1L]
  if (!is_binomial(family)) {
    if (is.matrix(y) && ncol(y) == 2L) {
      stop(sprintf("the response '%s': cbind() belongs to a binomial model: use family = binomial.", name),
           call. = FALSE)
    }
    return(list(y = response_of(frame, "this family"), weights = weights))
  }
  if (is.matrix(y) && ncol(y) > 1L) {
    return(proportions_of(y, name, weights))
  }
  list(y = if (is.factor(y)) classes_of(y, name) else response_of(as_numbers(frame), "a binomial model"),
       weights = weights)
}

# Logical responses as 0 and 1.
as_numbers <- function(frame) {
  if (is.logical(frame[[1L]])) frame[[1L]] <- as.double(frame[[1L]])
  frame[1L]
}

classes_of <- function(y, name) {
  if (nlevels(y) < 2L) {
    stop(sprintf("the response '%s' has one level, '%s': it needs two.", name, levels(y)), call. = FALSE)
  }
  as.double(as.integer(y) > 1L)
}

proportions_of <- function(counts, name, weights) {
  if (ncol(counts) != 2L || !is.numeric(counts)) {
    stop(sprintf("the response '%s' has %d columns: write cbind(successes, failures), two columns of counts.", name,
                 ncol(counts)), call. = FALSE)
  }
  bad <- which(rowSums(counts < 0 | counts != round(counts)) > 0)
  if (length(bad)) {
    shown <- counts[bad[1L], ]
    stop(sprintf("'%s' is %g and %g in row %d: counts are whole numbers.", name, shown[1L], shown[2L], bad[1L]),
         call. = FALSE)
  }
  trials <- unname(rowSums(counts))
  if (any(trials == 0)) {
    stop(sprintf("'%s' has %d rows without trials: leave them out with subset.", name, sum(trials == 0)), call. = FALSE)
  }
  list(y = unname(counts[, 1L]) / trials, weights = if (is.null(weights)) trials else trials * weights)
}

# Sends a generalized model to Python and makes the fit of the reply. Beyond new_fit() it has: family (R's family
# object), link, phi (the dispersion or size), nAGQ, has_dispersion, messages, and two covariances of beta:
# unscaled_vcov from the curvature in all parameters, given_vcov with the variances taken as known. Its sigma is 1: b
# is Lambda u without a scale.
estimate_generalized <- function(model, settings) {
  sent <- send_design(model)
  meta <- c(sent$meta, settings)
  if (length(settings$control) == 0L) meta$control <- NULL
  reply <- call_python("fit_generalized", meta, sent$buffers)
  fit <- new_fit(model, settings, reply)
  fit$family <- family_object(reply$family, reply$link, reply$phi)
  fit$has_dispersion <- reply$has_dispersion
  fit$phi <- reply$phi
  fit$nAGQ <- reply$nAGQ
  fit$messages <- as.character(unlist(reply$messages))
  fit$given_vcov <- fit$unscaled_vcov
  fit$unscaled_vcov[] <- reply$arrays$vcov
  class(fit) <- c("glmerModNN", class(fit))
  fit
}

family_object <- function(name, link, phi) {
  switch(
    name,
    binomial = stats::binomial(link),
    poisson = stats::poisson(link),
    Gamma = stats::Gamma(link),
    inverse.gaussian = stats::inverse.gaussian(link),
    negative.binomial = negative_binomial(link, phi),
    beta = beta_family(link, phi),
    stop(sprintf("family '%s' is offered in Python only.", name), call. = FALSE)
  )
}

# Families that R has no object for, with phi in their name.
own_family <- function(name, link, phi, variance, dev.resids) {
  link <- stats::make.link(link)
  structure(
    c(list(family = sprintf("%s(%.4g)", name, phi), link = link$name), unclass(link)[c("linkfun", "linkinv", "mu.eta")],
      list(variance = variance, dev.resids = dev.resids, valideta = link$valideta)),
    class = "family"
  )
}

# Counts with variance mu + mu^2 / size.
negative_binomial <- function(link, size) {
  own_family("negative.binomial", link, size, function(mu) mu + mu^2 / size, function(y, mu, wt) {
    2 * wt * (y * log(pmax(y, 1) / mu) - (y + size) * log((y + size) / (mu + size)))
  })
}

# Numbers between 0 and 1 with variance mu (1 - mu) / (1 + phi).
beta_family <- function(link, phi) {
  density <- function(y, mu) stats::dbeta(y, mu * phi, (1 - mu) * phi, log = TRUE)
  own_family("beta", link, phi, function(mu) mu * (1 - mu) / (1 + phi), function(y, mu, wt) {
    2 * wt * (density(y, y) - density(y, mu))
  })
}
