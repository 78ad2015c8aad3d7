# Networks with parameters that vary by group: what a fit keeps, and its estimates.

#' Verbs of networks that vary by group
#'
#' In `lmernn(y ~ x + nn(z) + (nn.last | g), data)` level i of `g` has a network of its own, with parameters
#' `theta_bar + eta_i`, where the deviations `eta_i` are normal with covariance matrix Sigma. Here `theta_bar` is the
#' generic network, that of a level of which nothing is known. Where the last layer alone varies, the estimates given
#' the layers below are those of a linear mixed model; else the network is linearised at the modes.
#'
#' The log-likelihood is that of these models. What needs the training to be repeated is left to `update()`: there is
#' no `refit()`, `anova()` or `drop1()`. `confint()` has Wald limits of the linear coefficients where `vcov()` knows
#' them.
#'
#' A network may vary by several factors, nested or crossed, and ordinary bars may stand beside those of the network:
#' `y ~ nn(x) + (nn.last | culture / person)`, `y ~ nn(x) + (nn.last | person) + (1 | school)`. Deviations add up, so
#' that a new person of a known culture has the culture's network. Then `ranef()` has a table for each factor,
#' `coef()` too, `VarCorr()` all terms, `re.form` may be a formula of bars, and `update_random_effects()` learns new
#' levels alone: known ones stay as they are. Standard errors take the random effects of all bars jointly; curves and
#' pictures are of one `factor`.
#'
#' Where rows are few, `(nn | g)` lets the last layer alone vary unless held-out rows are predicted better by more. The
#' summary says which it is. `fit$held_out` has the number of these `rows`, their mean losses (squared errors) where the
#' `last` layer varies and where `all` do, the standard error of the difference (`noise`) and what was `kept`.
#'
#' Fits of [glmernn()] are the same on the scale of the link, by Laplace's approximation, with sigma 1. A network of a
#' multinomial model has one output for each class, all classes' parameters vary together, and by one bar alone.
#'
#' Verbs of other fits that are not listed here work too: `fitted()` (means; of several classes probabilities, rows by
#' classes), `sigma()`, `formula()`, `nobs()`, `deviance()` (-2 times the log-likelihood), [ngrps()], [history()],
#' [with_nets()].
#'
#' @param object,x,fit A fit by [lmernn()] or [glmernn()] of a network that varies by group, or what its verbs return.
#' @param network Whether `theta_bar` of what varies comes after the linear coefficients.
#' @param condVar Whether posterior variances come along, as attribute `"postVar"`: an array, parameters x parameters x
#'   levels, or a matrix of variances, levels x parameters, where Sigma is diagonal or of reduced rank.
#' @param whichel Names of the grouping factors that are wanted.
#' @param sigma,scale,k,REML Not used.
#' @param row.names,optional As in [as.data.frame()].
#' @param newdata A data frame; by default the data of the fit. For `update_random_effects()` rows of new levels, with
#'   the response; of a level that the fit knows, the new rows alone count, so give all of them.
#' @param re.form `NULL`: the network of each level; `NA` or `~0`: the generic network. Of several bars also a formula
#'   of those that take part: `simulate()` keeps their effects and draws the others.
#' @param allow.new.levels Whether levels that the fit has not seen get the generic network; else they are an error.
#' @param na.action What happens to rows of `newdata` with missing values: by default they are predicted as `NA`.
#' @param average So many draws of deviations from their distribution, over which predictions for new levels (and for
#'   all levels with `re.form = NA`) are averaged. A network that bends in its parameters has another mean there.
#' @param seed Of draws and permutations.
#' @param type Of predictions of [glmernn()]'s fits: `"link"` (linear predictors), `"response"` (means; of several
#'   classes probabilities, rows by classes), `"prob"` (probabilities, also of two classes) or `"class"` (the most
#'   likely one); averages need one of the last three. Of linear models `"link"` and `"response"` are the same. Of
#'   residuals as in [residuals.glmerModNN()].
#' @param name A name of lme4's [lme4::getME()], several, or `"ALL"`.
#' @param tol A standard deviation (relative to sigma) of a direction of the deviations below this is singular.
#' @param ... Nothing.
#' @return `fixef()` a named vector; `ranef()` and `coef()` lists of a data frame, levels by parameters, of which
#'   `as.data.frame()` makes one table; `VarCorr()` a list of covariance matrices, one for each layer (of all parameters
#'   together where all covariances are free), of which `as.data.frame()` makes a table as lme4's; `vcov()` a matrix, of
#'   the linear coefficients given the network; `predict()` a named vector, or as [predict.merModNN()] with standard
#'   errors and limits; `update_random_effects()` the fit, whose `ranef()` and `predict()` know the new levels;
#'   `summary()` an object of class `summary.varyingModNN`.
#' @name varying
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(x = rnorm(300), person = gl(15, 20))
#' slope <- rnorm(15, 1, 0.5)
#' d$y <- slope[d$person] * sin(d$x) + rnorm(300, sd = 0.3)
#' fit <- lmernn(y ~ nn(x, hidden = c(8, 4)) + (nn.last | person), d, control = list(epochs = 20), seed = 1)
#' fit
#' head(ranef(fit)$person, 3)
#' as.data.frame(VarCorr(fit))
#' predict(fit, data.frame(x = 1, person = c("3", "new")), allow.new.levels = TRUE)
#' new <- data.frame(x = c(-1, 0, 1), y = c(-2, 0, 2), person = "new")
#' predict(update_random_effects(fit, new), data.frame(x = 1, person = "new"))
NULL

# Sends a model to Python and makes the fit of the reply. Beside what new_fit() lists (no theta, no b) it has, with p
# linear coefficients, D parameters that vary and q levels:
#
# varying                the bar, as varying_bars() has it, in a list
# beta, theta_bar        p linear coefficients (p C of multinomial models, "x:b"), D parameters of the generic network
# layers                 the layer of each of these parameters
# effects, variances     q x D; D x D x q, or q x D where only variances are known
# factor                 L with Sigma = L L', D x k, or a vector of standard deviations where Sigma is diagonal
# fixed_covariance       p x p, or NULL
# fitted                 linear predictors, deviations included: n, or n x C
# exact, df, text, variances_text
# held_out               list of rows, last, all, noise and kept, or NULL
# family, phi            of generalized models
estimate_varying <- function(model, settings) {
  sent <- send_design(model)
  meta <- c(sent$meta, settings, list(formula = deparse1(model$formula)))
  if (length(settings$control) == 0L) meta$control <- NULL
  reply <- call_python("fit", meta, sent$buffers, own_modules(model$networks))
  (if (is.null(reply$bars)) new_varying_fit else new_several_fit)(model, settings, reply)
}

new_varying_fit <- function(model, settings, reply) {
  arrays <- reply$arrays
  group <- model$varying[[1L]]$label_group
  names <- list(levels(model$varying_groups[[1L]]), reply$labels)
  D <- length(reply$labels)
  fit <- varying_skeleton(model, settings, reply)
  fit$flist <- shared_factors(model$varying_groups, group)
  fit$cnms <- stats::setNames(list(reply$labels), group)
  fit$effects <- matrix(arrays$effects, ncol = D, byrow = TRUE, dimnames = names)
  fit$variances <- posterior_variances(arrays$variances, names)
  fit$factor <- if (length(reply$shape) == 1L) arrays$factor else matrix(arrays$factor, D, byrow = TRUE)
  fit
}

# All of a fit but its random effects.
varying_skeleton <- function(model, settings, reply) {
  arrays <- reply$arrays
  first <- is_family(settings$family, "ordinal") # its X comes without the intercept
  dropped <- as.integer(unlist(reply$dropped_at)) + 1L
  kept <- setdiff(seq_len(ncol(model$X)), dropped)
  fixed <- colnames(model$X)[kept]
  several <- length(arrays$beta) > length(fixed)
  if (several) fixed <- as.vector(t(outer(fixed, model$classes, paste, sep = ":")))
  p <- length(fixed)
  structure(
    list(
      call = NULL, formula = model$formula, frame = model$frame, fixed = model$fixed, bars = list(),
      varying = model$varying, flist = NULL, cnms = NULL,
      kept = kept + first, dropped = stats::setNames(dropped + first, colnames(model$X)[dropped]),
      REML = reply$REML, method = reply$method, settings = settings,
      beta = stats::setNames(arrays$beta, fixed), theta_bar = stats::setNames(arrays$theta_bar, reply$labels),
      layers = reply$layers, sigma = reply$sigma,
      fixed_covariance = if (length(arrays$fixed_covariance)) {
        matrix(arrays$fixed_covariance, p, p, dimnames = list(fixed, fixed))
      },
      fitted = per_class(arrays$fitted, reply$networks$outputs),
      objective = reply$objective, exact = reply$exact, df = reply$df,
      convergence = c(reply$convergence, list(gradient = arrays$gradient)), scales_differ = reply$scales_differ,
      text = reply$text, variances_text = as.character(unlist(reply$variances_text)),
      networks = keep_networks(model$networks, reply, model$frame), held_out = reply$held_out,
      family = if (!is.null(reply$family)) varying_family(reply), phi = arrays$phi
    ),
    class = c(if (!is.null(reply$family)) "glmerVaryingModNN", "varyingModNN", "merModNN")
  )
}

varying_family <- function(reply) {
  if (reply$family == "multinomial") {
    return(structure(list(family = "multinomial", link = "softmax"), class = "family"))
  }
  family_object(reply$family, reply$link, reply$arrays$phi)
}

# Numbers that Python wrote row by row, with a column for each class where there are several.
per_class <- function(values, outputs) if (outputs > 1L) matrix(values, ncol = outputs, byrow = TRUE) else values

# D x D x q of matrices (symmetric, so rows are columns), or q x D of variances alone; `names`: levels and parameters.
posterior_variances <- function(values, names) {
  size <- lengths(names)
  if (length(values) == size[1L] * size[2L] && size[2L] > 1L) {
    return(matrix(values, ncol = size[2L], byrow = TRUE, dimnames = names))
  }
  array(values, size[c(2L, 2L, 1L)], names[c(2L, 2L, 1L)])
}

not_varying <- function(what, why) {
  stop(sprintf("%s is not offered for networks that vary by group: %s.", what, why), call. = FALSE)
}

#' @rdname varying
#' @export
fixef.varyingModNN <- function(object, network = TRUE, ...) c(object$beta, if (network) object$theta_bar)

#' @rdname varying
#' @export
ranef.varyingModNN <- function(object, condVar = FALSE, whichel = names(object$flist), ...) {
  table <- as.data.frame(object$effects, optional = TRUE)
  if (condVar) attr(table, "postVar") <- object$variances
  effects <- stats::setNames(list(table), names(object$flist))
  structure(effects[names(effects) %in% whichel], class = "ranef.varyingModNN")
}

#' @rdname varying
#' @export
print.ranef.varyingModNN <- function(x, ...) print.ranef.multinomialModNN(x, ...)

#' @rdname varying
#' @export
as.data.frame.ranef.varyingModNN <- function(x, row.names = NULL, optional = FALSE, ...) {
  parts <- lapply(names(x), function(group) {
    table <- x[[group]]
    variance <- level_variances(attr(table, "postVar"), dim(table))
    long <- data.frame(grpvar = group, term = rep(names(table), each = nrow(table)),
                       grp = rep(rownames(table), ncol(table)), condval = unlist(table, use.names = FALSE))
    if (!is.null(variance)) long$condsd <- sqrt(pmax(as.vector(variance), 0))
    long
  })
  do.call(rbind, parts)
}

# Variances of all effects of a factor, levels x parameters, from `postVar` of one bar or a list of those of several.
level_variances <- function(variance, size) {
  if (is.list(variance)) {
    widths <- vapply(variance, function(one) if (length(dim(one)) == 3L) dim(one)[1L] else ncol(one), 0L)
    return(do.call(cbind, Map(function(one, d) level_variances(one, c(size[1L], d)), variance, widths)))
  }
  if (length(dim(variance)) == 3L) {
    variance <- vapply(seq_len(size[1L]), function(i) diag(as.matrix(variance[, , i])), numeric(size[2L]))
    variance <- t(matrix(variance, size[2L]))
  }
  variance
}

#' @rdname varying
#' @export
coef.varyingModNN <- function(object, ...) {
  q <- nrow(object$effects)
  linear <- matrix(object$beta, q, length(object$beta), byrow = TRUE, dimnames = list(NULL, names(object$beta)))
  own <- sweep(object$effects, 2L, object$theta_bar, `+`)
  stats::setNames(list(data.frame(linear, own, row.names = rownames(own), check.names = FALSE)), names(object$flist))
}

# Whether Sigma is a full matrix, whose layers are not told apart.
is_free <- function(x) {
  is.matrix(x$factor) && (nrow(x$factor) <= ncol(x$factor) || length(dim(x$variances)) == 3L)
}

#' @rdname varying
#' @export
VarCorr.varyingModNN <- function(x, sigma = 1, ...) {
  group <- names(x$flist)
  layers <- unique(x$layers)
  inside <- if (is_free(x)) list(seq_along(x$layers)) else lapply(layers, function(one) which(x$layers == one))
  names(inside) <- if (is_free(x)) group else paste(group, layers, sep = ".")
  terms <- lapply(inside, function(at) {
    covariance <- if (is.matrix(x$factor)) {
      tcrossprod(x$factor[at, , drop = FALSE])
    } else {
      diag(x$factor[at]^2, length(at))
    }
    dimnames(covariance) <- list(names(x$theta_bar)[at], names(x$theta_bar)[at])
    sd <- sqrt(diag(covariance))
    correlation <- covariance / outer(sd, sd)
    diag(correlation) <- 1
    structure(covariance, stddev = sd, correlation = correlation)
  })
  structure(terms, sc = x$sigma, useSc = !isGLMM(x), correlated = is.matrix(x$factor), text = x$variances_text,
            class = "VarCorr.varyingModNN")
}

#' @rdname varying
#' @export
as.data.frame.VarCorr.varyingModNN <- function(x, row.names = NULL, optional = FALSE, ...) {
  correlated <- rep_len(attr(x, "correlated"), length(x)) # one for all terms, or one for each
  rows <- lapply(seq_along(x), function(k) {
    term <- x[[k]]
    names <- colnames(term)
    at <- which(lower.tri(term) & correlated[k], arr.ind = TRUE)
    data.frame(
      grp = names(x)[k], var1 = c(names, names[at[, 2L]]), var2 = c(rep(NA, length(names)), names[at[, 1L]]),
      vcov = c(diag(term), term[at]), sdcor = c(attr(term, "stddev"), attr(term, "correlation")[at]), row.names = NULL
    )
  })
  sc <- attr(x, "sc")
  residual <- if (attr(x, "useSc")) data.frame(grp = "Residual", var1 = NA, var2 = NA, vcov = sc^2, sdcor = sc)
  do.call(rbind, c(rows, list(residual)))
}

#' @rdname varying
#' @export
print.VarCorr.varyingModNN <- function(x, ...) {
  if (length(attr(x, "text"))) {
    cat(attr(x, "text"), sep = "\n")
    return(invisible(x))
  }
  spread <- vapply(x, function(term) sqrt(mean(diag(term))), 0)
  shown <- data.frame(parameters = vapply(x, nrow, 0L), "mean Std.Dev." = spread, check.names = FALSE)
  print(shown, digits = 4L)
  if (attr(x, "useSc")) cat(sprintf("Residual: %.4g\n", attr(x, "sc")))
  invisible(x)
}

#' @rdname varying
#' @export
vcov.varyingModNN <- function(object, ...) {
  if (is.null(object$fixed_covariance)) {
    stop("standard errors of the fixed effects are known only where the last layer alone varies.", call. = FALSE)
  }
  object$fixed_covariance
}

#' @rdname varying
#' @export
isSingular.varyingModNN <- function(x, tol = 1e-4, ...) {
  spread <- if (is.matrix(x$factor)) svd(x$factor, 0L, 0L)$d else abs(x$factor)
  min(spread) < tol * x$sigma
}

#' @rdname varying
#' @export
logLik.varyingModNN <- function(object, REML = object$REML, ...) {
  n <- nobs(object)
  structure(-criterion(object, REML) / 2, nobs = n, nall = n, df = object$df, class = "logLik")
}

#' @rdname varying
#' @export
df.residual.varyingModNN <- function(object, ...) nobs(object) - attr(logLik(object), "df")

again <- "each model trains its own network, so fit the models and compare predictions at rows held out"

#' @rdname varying
#' @export
anova.varyingModNN <- function(object, ...) not_varying("anova()", again)

#' @rdname varying
#' @export
drop1.varyingModNN <- function(object, ...) not_varying("drop1()", again)

#' @rdname varying
#' @export
extractAIC.varyingModNN <- function(fit, scale, k = 2, ...) not_varying("extractAIC()", "use AIC()")

#' @rdname varying
#' @export
refit.varyingModNN <- function(object, ...) not_varying("refit()", "train again by lmernn() or update()")

#' @rdname varying
#' @export
refitML.varyingModNN <- function(x, ...) {
  if (x$REML) not_varying("refitML()", "train again by update(fit, REML = FALSE)") else x
}

#' @rdname varying
#' @export
getME.varyingModNN <- function(object, name, ...) {
  parts <- native_parts()[c("X", "y", "mu", "offset", "flist", "sigma", "beta", "cnms", "N", "n", "p", "l_i", "REML",
                            "is_REML")]
  if (identical(name, "ALL")) name <- names(parts)
  unknown <- setdiff(name, names(parts))
  if (length(unknown)) {
    stop(sprintf("getME() of a network that varies by group has no part '%s': it has %s.", unknown[1L],
                 paste(names(parts), collapse = ", ")), call. = FALSE)
  }
  if (length(name) == 1L) parts[[name]](object) else sapply(name, function(one) parts[[one]](object), simplify = FALSE)
}

#' @rdname varying
#' @export
summary.varyingModNN <- function(object, ...) {
  structure(
    list(call = object$call, text = varying_text(object), coefficients = fixef(object), varcor = VarCorr(object),
         sigma = sigma(object), ngrps = ngrps(object), nobs = nobs(object), logLik = logLik(object)),
    class = "summary.varyingModNN"
  )
}

# Python's text, with the levels that update_random_effects() may have added.
varying_text <- function(object) {
  groups <- paste(sprintf("%s, %d", names(ngrps(object)), ngrps(object)), collapse = "; ")
  text <- object$text
  at <- startsWith(text, "Number of obs:")
  text[at] <- sprintf("Number of obs: %d, groups: %s", nobs(object), groups)
  text
}

#' @rdname varying
#' @export
print.summary.varyingModNN <- function(x, ...) {
  cat(x$text, sep = "\n")
  invisible(x)
}

#' @rdname varying
#' @export
print.varyingModNN <- function(x, ...) {
  cat(varying_text(x), sep = "\n")
  invisible(x)
}
