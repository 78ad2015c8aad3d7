#' Fit a generalized linear mixed model
#'
#' Fits the model that [lme4::glmer()] fits, written in the same formula language, by maximum likelihood: Laplace's
#' approximation or adaptive Gauss-Hermite quadrature. Theta, beta and the dispersion are found together by the exact
#' gradient. The linear predictor may hold networks, and the response may be one of several classes, ordered or not.
#'
#' The log-likelihood has all its constants for every `nAGQ`, so fits with different `nAGQ` can be compared; those of
#' lme4 cannot. Binomial and Poisson models are approximated as lme4 does, those with a dispersion as glmmTMB does, and
#' the dispersion is estimated by maximum likelihood: `Var(y)` is `phi mu^2 / weight` for Gamma, `phi mu^3 / weight` for
#' inverse Gaussian, `mu + mu^2 / phi` for negative binomial, `mu (1 - mu) / (1 + phi)` for beta responses.
#'
#' With networks, `nn(x1, x2)` as in [lmernn()], they are trained on the scale of the link, and all else is estimated
#' given them: standard errors, likelihood and criteria take them as known.
#'
#' Families that you define yourself are offered in Python only.
#'
#' @inheritParams lmernn
#' @param formula A two-sided formula with at least one random term, in lme4's grammar. A binomial response is 0/1,
#'   logical, a factor (its first level is failure), `cbind(successes, failures)`, or a proportion with the numbers of
#'   trials as `weights`. The response of `"multinomial"` is a factor, that of `"ordinal"` an ordered one, which keep
#'   the order of their levels.
#' @param family `binomial` (links logit, probit, cloglog, cauchit), `poisson` (log), `Gamma` (inverse, log,
#'   identity), `inverse.gaussian` (1/mu^2, log, inverse), as R has them, or their names, `"binomial(probit)"`; or
#'   `"negative.binomial"` (log), `"beta"` (logit, probit, cloglog), `"ordinal"` (cumulative logits, whose thresholds
#'   stand for the intercept: see [ordinal]), `"multinomial"` (softmax: see [multinomial]) or `"crf"` (states in
#'   sequences, a conditional random field: see [sequences]).
#' @param nAGQ 1 is Laplace's approximation; more is adaptive Gauss-Hermite quadrature, for one grouping factor with one
#'   or several columns; 0 is Laplace's approximation with beta found together with the modes, faster and rougher.
#' @param weights,subset,offset As in [lme4::glmer()]: expressions of columns of `data`. Of classes a weight a counts
#'   a row a times; weights of multinomial models that are not whole are sampled by the No-U-Turn sampler.
#' @param method `"pirls"` fits models without networks. With networks, `"alternating"` trains them between steps that
#'   find the random effects and their variances on all rows; `"lmmnn"` trains on the quadrature likelihood of Simchoni
#'   and Rosset (2023), for one grouping factor; `"mcem"` is the Monte Carlo EM algorithm of Tschalzev et al. (2024),
#'   which also fits multinomial models, with or without networks; `"nme"` lets parameters of a network vary by group,
#'   `(nn.last | g)`, by several factors, `(nn.last | culture/person)`, or beside ordinary bars,
#'   `(nn.last | person) + (1 | school)`, as [lmernn()] does, and gives a fit of class `varyingModNN`, see [varying];
#'   by several it takes Laplace's approximation, and multinomial models have one such bar alone. `"auto"` chooses:
#'   `"nme"` for such bars; `"mcem"` for multinomial models and, with networks, where levels have few binary rows or
#'   crossed factors are large; else `"alternating"` or `"pirls"`.
#' @param control A named list of settings. Of the optimizer: `tolerance`, `max_evaluations`, `singular_tolerance`,
#'   `dense_limit`. Of the training of networks: those of [lmernn()]. Of method `"mcem"`: `sampler` (`"polya-gamma"`
#'   for binomial and multinomial models, `"nuts"` for all, `"auto"`), `chains`, `draws` (kept of each) and `warmup`
#'   after training, `per_epoch` and `burn_in` while networks are trained, `step_size`, `fixed_effects_weight` (the
#'   paper's lambda), and `sampling_preset`, of which `"faithful"` does as the authors' code does.
#' @param device Where networks are trained and effects sampled: `"cpu"`, `"cuda"`, or `"auto"`, which is CUDA where
#'   there is one.
#' @param seed A whole number for training and sampling.
#' @param sequence,time For `family = "crf"`, names of columns: which sequence a row belongs to, and in which order its
#'   rows are (by default that of the data).
#'
#' @return An object of class `glmerModNN`, which is also a `merModNN`: a list of plain R data, which [saveRDS()] keeps
#'   whole. It answers lme4's verbs; see [generalized]. [as_merMod()] makes lme4's own object of binomial and Poisson
#'   fits without networks. Of multinomial models it is of class `multinomialModNN` instead, see [multinomial]; of
#'   sequences of class `sequenceModNN`, see [sequences].
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("cbpp", package = "lme4")
#' fit <- glmernn(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp)
#' summary(fit)
#' head(predict(fit, type = "response"))
#' logLik(update(fit, nAGQ = 9))
glmernn <- function(formula, data = NULL, family = stats::binomial, nAGQ = 1L, weights, subset, na.action, offset,
                    contrasts = NULL, nets = NULL, method = "auto", control = NULL, device = "auto", seed = NULL,
                    progress = FALSE, sequence = NULL, time = NULL, ...) {
  refuse_unknown("glmernn", ...)
  call <- match.call()
  settings <- list(REML = FALSE, family = family_text(family), nAGQ = checked_nodes(nAGQ), method = method,
                   control = as.list(control), device = device, seed = if (!is.null(seed)) as.integer(seed),
                   progress = isTRUE(progress))
  if (is.character(formula)) formula <- stats::as.formula(formula, env = parent.frame())
  if (is_family(settings$family, "crf")) {
    return(fit_sequences(formula, data, sequence, time, contrasts, nets, settings, call, parent.frame()))
  }
  if (!is.null(sequence) || !is.null(time)) {
    stop("sequence and time are for family = \"crf\", states in sequences.", call. = FALSE)
  }
  parsed <- parse_formula(formula, data, nets)
  frame <- build_frame(parsed, data, call, parent.frame())
  attr(frame, "formula") <- parsed$formula
  frame <- with_classes(frame, settings$family)
  model <- model_parts(parsed, frame, contrasts, settings$family)
  warn_of_slopes(model)
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
  if (inherits(family, "python.builtin.object")) {
    stop("family: families of your own are offered in Python only.", call. = FALSE)
  }
  if (!is.character(family) || length(family) != 1L || is.na(family)) {
    stop("family must be a family such as binomial, poisson(\"log\") or \"negative.binomial\".", call. = FALSE)
  }
  family
}

is_family <- function(family, name) !is.null(family) && grepl(paste0("^\\s*", name, "\\b"), family)

# Whether the response is a class, one of several.
is_categorical <- function(family) any(vapply(c("multinomial", "ordinal", "crf"), is_family, NA, family = family))

checked_nodes <- function(nAGQ) {
  if (!is.numeric(nAGQ) || length(nAGQ) != 1L || !isTRUE(nAGQ >= 0 && nAGQ == round(nAGQ))) {
    stop(sprintf("nAGQ is %s: use a whole number, 0 or more.", deparse1(nAGQ)), call. = FALSE)
  }
  as.integer(nAGQ)
}

# The response of a frame as numbers and the prior weights (NULL where there are none): list(y, weights, classes), the
# last NULL for numbers. `family` is that of a generalized model, as text. Binomial responses become proportions,
# weighted by the numbers of trials; classes become codes from 0.
observed_in <- function(frame, family = NULL) {
  weights <- stats::model.weights(frame)
  if (is.null(family)) {
    return(list(y = response_of(frame), weights = weights))
  }
  y <- frame[[1L]]
  name <- names(frame)[1L]
  if (is_categorical(family)) {
    return(list(y = as.integer(y) - 1, weights = weights, classes = levels(y)))
  }
  if (!is_family(family, "binomial")) {
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
       weights = weights, classes = two_classes(levels(y)))
}

# Names of failure and success: of more than two levels, the first and what is not the first.
two_classes <- function(levels) if (length(levels) > 2L) c(levels[1L], paste("not", levels[1L])) else levels

# A model frame whose response is a factor where the family is one of classes. Text and factors without an order come in
# alphabetical order, which an ordinal model is warned of.
with_classes <- function(frame, family) {
  if (!is_categorical(family)) {
    return(frame)
  }
  name <- names(frame)[1L]
  y <- frame[[1L]]
  ordinal <- is_family(family, "ordinal")
  what <- sprintf("the %s family", trimws(sub("\\(.*", "", family)))
  if (NCOL(y) > 1L) {
    stop(sprintf("the response '%s' is a matrix: %s needs one column.", name, what), call. = FALSE)
  }
  if (is.numeric(y) && !is.factor(y) && any(y != round(y))) {
    stop(sprintf("the response '%s' has the value %g: %s needs classes, a factor, text or whole numbers.", name,
                 y[y != round(y)][1L], what), call. = FALSE)
  }
  if (!is.factor(y)) y <- factor(y, if (is.character(y)) sorted_text(y) else sort(unique(y)))
  if (nlevels(y) < 2L) {
    stop(sprintf("the response '%s' has one class only, '%s': it needs two.", name, levels(y)), call. = FALSE)
  }
  if (ordinal && !is.ordered(y)) {
    if (looks_sorted(levels(y))) {
      warning(sprintf("the classes of '%s' are taken in the order %s: make it an ordered factor if they have another.",
                      name, paste(levels(y), collapse = " < ")), call. = FALSE)
    }
    y <- ordered(y, levels(y))
  }
  frame[[1L]] <- y
  frame
}

# Whether the order is alphabetical, as of a text that nobody put into order, and not that of numbers.
looks_sorted <- function(levels) {
  length(levels) > 2L && identical(levels, sort(levels)) && !all(grepl("^-?[0-9]+$", levels))
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
# object), link, phi (the dispersion or size, the thresholds of an ordinal model), nAGQ, has_dispersion, messages, and
# two covariances of beta: unscaled_vcov from the curvature in all parameters, given_vcov with the variances taken as
# known. Its sigma is 1: b is Lambda u without a scale.
estimate_generalized <- function(model, settings) {
  sent <- send_design(model)
  meta <- c(sent$meta, settings)
  if (length(settings$control) == 0L) meta$control <- NULL
  if (length(model$varying)) {
    meta$formula <- deparse1(model$formula)
    reply <- call_python("fit_generalized", meta, sent$buffers, own_modules(model$networks))
    return((if (is.null(reply$bars)) new_varying_fit else new_several_fit)(model, settings, reply))
  }
  reply <- call_python("fit_generalized", meta, sent$buffers, own_modules(model$networks))
  if (reply$family == "multinomial") {
    return(new_multinomial_fit(model, settings, reply))
  }
  fit <- new_fit(model, settings, reply)
  fit$family <- family_object(reply$family, reply$link, reply$arrays$phi)
  fit$has_dispersion <- reply$has_dispersion
  fit$phi <- reply$arrays$phi
  fit$nAGQ <- reply$nAGQ
  K <- length(fit$phi)
  fit$threshold_vcov <- if (is_ordinal(fit)) matrix(reply$arrays$threshold_vcov, K, K)
  fit$draws <- keep_draws(reply)
  fit$messages <- c(as.character(unlist(reply$messages)), sampling_messages(fit$draws))
  fit$given_vcov <- fit$unscaled_vcov
  fit$unscaled_vcov[] <- reply$arrays$vcov
  class(fit) <- c("glmerModNN", class(fit))
  fit
}

# How effects were sampled, and the variances that were drawn, chains x draws x m; NULL where nothing was.
keep_draws <- function(reply) {
  if (is.null(reply$draws)) {
    return(NULL)
  }
  dim <- c(reply$draws$n_chains, NA, length(reply$draws$names))
  c(reply$draws, list(variances = row_major(reply$arrays$draws, dim)))
}

# What is wrong with the draws, and what to try.
sampling_messages <- function(draws) {
  nuts <- identical(draws$sampler, "nuts")
  other <- if (nuts) ", or sampler = \"polya-gamma\" for a binomial (logit) or multinomial model" else ""
  c(
    if (isTRUE(draws$rhat > 1.1)) {
      sprintf(paste("the chains do not agree: R-hat is %.3f (1 where they do, above 1.1 too large), so variances and",
                    "effects are uncertain; try control = list(warmup = , draws = ) with larger numbers%s"), draws$rhat,
              other)
    },
    if (isTRUE(draws$divergences > 0)) {
      sprintf(paste("%d draws diverged, so parts of the posterior may be left out; try control = list(step_size = )",
                    "with a smaller number, or a longer warmup"), draws$divergences)
    }
  )
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
    ordinal = ordinal_family(phi),
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
