# Multinomial models: what a fit keeps, and its estimates by class.

#' Verbs of multinomial models
#'
#' The probability of class c is the softmax of linear predictors, each with its own fixed effects, random effects and
#' networks. What is added to all classes alike changes no probability, so fixed and random effects are reported with
#' sum zero over classes: a positive one means that the class becomes more likely than the classes are on (geometric)
#' average. Effects of a level are independent over classes, with a variance for each.
#'
#' Random effects are sampled, so there is no likelihood: `logLik()`, `AIC()`, `BIC()`, `anova()`, `drop1()` and verbs
#' that go through lme4 stop. `deviance()` is -2 times the sum of the log-probabilities of the observed classes at the
#' posterior means. The summary tells by R-hat and the effective sample size over the chains whether these have
#' converged. Verbs of [lmernn()]'s fits that are not listed here work too: `formula()`, [ngrps()], [history()],
#' `update()`, `nobs()`.
#'
#' @param object,x,fit A fit by `glmernn(family = "multinomial")`, or what its verbs return.
#' @param add.dropped Whether columns dropped from a rank-deficient model matrix appear, as `NA`.
#' @param condVar Whether posterior variances come along, as attribute `"postVar"`, a data frame of the same shape.
#' @param whichel Names of the grouping factors that are wanted.
#' @param sigma,drop,scaled,scale,k Not used, as everything here is relative to a scale of 1.
#' @param level The coverage of the limits.
#' @param parm Names of the parameters, such as `"x:b"`; `"theta_"` are all standard deviations (their limits are normal
#'   on the log scale), `"beta_"` all fixed effects.
#' @param method `"Wald"`: normal limits.
#' @param type Of predictions: `"link"` (linear predictors), `"response"` or `"prob"` (probabilities) or `"class"` (the
#'   most likely one); of residuals: `"response"` (1 for the observed class and 0 for the others, less the
#'   probabilities), `"pearson"` (these over `sqrt(p (1 - p) / weight)`) or `"deviance"` (`sqrt(-2 weight log p)` of the
#'   observed class, one number a row).
#' @param newdata,re.form,allow.new.levels,na.action As in [predict.merModNN()].
#' @param se.fit,interval Whether standard errors, and limits (`"confidence"`), come along, of probabilities or linear
#'   predictors: standard deviations and quantiles over joint draws of fixed and random effects. Networks and variances
#'   are taken as known, and fixed effects where there are many classes. Effects of levels that the fit has not seen
#'   are drawn from their distribution.
#' @param marginal Whether probabilities of levels that the fit has not seen are means over the distribution of random
#'   effects, which needs Python; else their effects are zero. Such means are nearer to each other.
#' @param nsim,seed,use.u As in [simulate.merModNN()].
#' @param newresp The new response: a class of the model for each row.
#' @param name A name of lme4's [lme4::getME()], several, or `"ALL"`.
#' @param row.names,optional As in [as.data.frame()].
#' @param digits Significant digits.
#' @param tol A standard deviation below this is singular.
#' @param ... Nothing.
#' @return `fixef()` a matrix, columns of the model matrix by classes; `ranef()` and `coef()` lists of data frames,
#'   levels by classes (with several columns, their names come before the class: `"x:b"`), of which `as.data.frame()`
#'   makes one table; `VarCorr()` a list of the terms, each a list of covariance matrices by class, which prints with
#'   95% limits of the variances and of which `as.data.frame()` makes a table; `vcov()` a matrix; `fitted()` and
#'   `predict()` matrices, rows by classes, or a factor, and with standard errors or limits a list of the matrices
#'   `fit`, `se.fit`, `lwr` and `upr`; `simulate()` a data frame of factors; `summary()` an object of
#'   class `summary.multinomialModNN`.
#' @name multinomial
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(x = rnorm(300), g = gl(15, 20))
#' eta <- cbind(a = 0, b = d$x, c = rnorm(15)[d$g])
#' d$y <- factor(apply(eta, 1, function(e) sample(colnames(eta), 1, prob = exp(e))))
#' fit <- glmernn(y ~ x + (1 | g), d, family = "multinomial", seed = 1)
#' fit
#' VarCorr(fit)
#' head(predict(fit, type = "response"))
#' table(predict(fit, type = "class"), d$y)
#' predict(fit, d[1:2, ], type = "response", se.fit = TRUE, interval = "confidence")
NULL

# Makes a fit of a model and Python's reply. Beside what new_fit() lists it has, with C classes, p columns and K terms:
#
# classes                names of the classes
# beta                   p x C; fixed_covariance, pC x pC, the classes of a column side by side, or NULL
# b, variances           K arrays q x d x C: posterior means and variances
# covariances            K arrays C x d x d; covariance_errors: K matrices C x d, standard errors of log variances
# eta                    n x C, linear predictors
# draws                  list: sampler, n_chains, n_draws, rhat, ess, divergences, accept, and the variances drawn
new_multinomial_fit <- function(model, settings, reply) {
  order <- reply$order + 1L
  bars <- model$bars[order]
  arrays <- reply$arrays
  classes <- reply$classes
  C <- length(classes)
  dropped <- as.integer(unlist(reply$dropped_at)) + 1L
  kept <- setdiff(seq_len(ncol(model$X)), dropped)
  names <- colnames(model$X)[kept]
  flist <- shared_factors(model$groups[order], vapply(bars, `[[`, "", "label_group"))
  d <- vapply(bars, function(bar) length(bar$names), 0L)
  of_terms <- function(letter, dim) {
    lapply(seq_along(bars), function(k) row_major(arrays[[paste0(letter, k - 1L)]], dim(k)))
  }
  levels_by_class <- function(k) c(NA, d[k], C)
  structure(
    list(
      call = NULL, formula = model$formula, frame = model$frame, fixed = model$fixed, bars = bars, flist = flist,
      cnms = stats::setNames(lapply(bars, `[[`, "names"), names(flist)[attr(flist, "assign")]),
      kept = kept, dropped = stats::setNames(dropped, colnames(model$X)[dropped]),
      REML = FALSE, method = reply$method, settings = settings, classes = classes,
      family = structure(list(family = "multinomial", link = "softmax"), class = "family"),
      beta = matrix(arrays$beta, length(kept), C, byrow = TRUE, dimnames = list(names, classes)),
      fixed_covariance = if (length(arrays$fixed_covariance)) matrix(arrays$fixed_covariance, C * length(kept)),
      b = of_terms("b", levels_by_class), variances = of_terms("v", levels_by_class),
      covariances = of_terms("c", function(k) c(C, d[k], d[k])),
      covariance_errors = of_terms("e", function(k) c(C, d[k])),
      eta = matrix(arrays$eta, ncol = C, byrow = TRUE, dimnames = list(NULL, classes)),
      draws = keep_draws(reply), joint = keep_joint(reply, length(kept), d, C),
      convergence = c(reply$convergence, list(gradient = arrays$gradient)),
      messages = sampling_messages(reply$draws), scales_differ = reply$scales_differ,
      networks = if (!is.null(reply$networks)) keep_networks(model$networks, reply, model$frame)
    ),
    class = c("multinomialModNN", "merModNN")
  )
}

# Draws of fixed and random effects together: beta, S x p x C, and for each term b, S x q x d x C; NULL where none came.
keep_joint <- function(reply, p, d, C) {
  S <- reply$joint
  if (is.null(S)) {
    return(NULL)
  }
  b <- lapply(seq_along(d), function(k) row_major(reply$arrays[[paste0("joint.b", k - 1L)]], c(S, NA, d[k], C)))
  list(beta = row_major(reply$arrays$joint.beta, c(S, p, C)), b = b)
}

# An array that Python wrote row by row; one NA in `dim` is found from the length.
row_major <- function(values, dim) {
  if (anyNA(dim)) dim[is.na(dim)] <- length(values) / prod(dim, na.rm = TRUE)
  aperm(array(values, rev(dim)), rev(seq_along(dim)))
}

# Names of fixed effects by class, "x:b", the classes of a column side by side.
fixed_labels <- function(object) as.vector(t(outer(rownames(object$beta), object$classes, paste, sep = ":")))

# Python's sentences about verbs that are not offered.
no_likelihood <- paste("Monte Carlo EM does not compute the log-likelihood: compare models by the probabilities that",
                       "predict(type = \"response\") gives the observed classes of rows held out of the fit")

not_multinomial <- function(what, why = no_likelihood) {
  stop(sprintf("%s is not offered for multinomial models: %s.", what, why), call. = FALSE)
}

#' @rdname multinomial
#' @export
fixef.multinomialModNN <- function(object, add.dropped = FALSE, ...) {
  if (!add.dropped || length(object$dropped) == 0L) {
    return(object$beta)
  }
  lost <- matrix(NA_real_, length(object$dropped), ncol(object$beta), dimnames = list(names(object$dropped), NULL))
  rbind(object$beta, lost)[order(c(object$kept, object$dropped)), , drop = FALSE]
}

#' @rdname multinomial
#' @export
ranef.multinomialModNN <- function(object, condVar = TRUE, drop = FALSE, whichel = names(object$flist), ...) {
  effects <- class_tables(object, object$b)
  if (condVar) {
    variances <- class_tables(object, object$variances)
    effects <- Map(function(table, variance) structure(table, postVar = variance), effects, variances)
  }
  structure(effects[names(effects) %in% whichel], class = "ranef.multinomialModNN")
}

# A data frame for each grouping factor, levels x classes, of arrays q x d x C; columns of several terms side by side.
class_tables <- function(object, parts) {
  C <- length(object$classes)
  assign <- attr(object$flist, "assign")
  tables <- lapply(seq_along(object$flist), function(i) {
    own <- which(assign == i)
    columns <- do.call(cbind, lapply(own, function(k) {
      of_columns <- lapply(seq_along(object$cnms[[k]]), function(j) matrix(parts[[k]][, j, ], ncol = C))
      do.call(cbind, of_columns)
    }))
    names <- unlist(object$cnms[own], use.names = FALSE)
    colnames(columns) <- class_labels(names, object$classes)
    structure(data.frame(columns, row.names = levels(object$flist[[i]]), check.names = FALSE), columns = names,
              classes = object$classes)
  })
  stats::setNames(tables, names(object$flist))
}

# "b" for the intercept alone, else "x:b".
class_labels <- function(columns, classes) {
  if (identical(columns, "(Intercept)")) {
    return(classes)
  }
  as.vector(t(outer(columns, classes, paste, sep = ":")))
}

#' @rdname multinomial
#' @export
print.ranef.multinomialModNN <- function(x, ...) {
  print(lapply(unclass(x), function(table) structure(table, postVar = NULL)), ...)
  has_variances <- !vapply(lapply(unclass(x), attr, "postVar"), is.null, NA)
  if (any(has_variances)) cat("with conditional variances for", dQuote(names(x)[has_variances]), "\n")
  invisible(x)
}

#' @rdname multinomial
#' @export
as.data.frame.ranef.multinomialModNN <- function(x, row.names = NULL, optional = FALSE, ...) {
  parts <- lapply(names(x), function(group) {
    table <- x[[group]]
    variance <- attr(table, "postVar")
    columns <- attr(table, "columns")
    classes <- attr(table, "classes")
    long <- data.frame(
      grpvar = group, term = rep(columns, each = length(classes) * nrow(table)),
      class = rep(rep(classes, each = nrow(table)), length(columns)), grp = rep(rownames(table), ncol(table)),
      condval = unlist(table, use.names = FALSE)
    )
    if (!is.null(variance)) long$condsd <- sqrt(unlist(variance, use.names = FALSE))
    long
  })
  do.call(rbind, parts)
}

#' @rdname multinomial
#' @export
coef.multinomialModNN <- function(object, ...) {
  effects <- ranef(object, condVar = FALSE)
  sums <- lapply(names(effects), function(group) {
    own <- which(names(object$flist)[attr(object$flist, "assign")] == group)
    columns <- unlist(object$cnms[own], use.names = FALSE)
    only_random <- setdiff(columns, rownames(object$beta))
    none <- matrix(0, length(only_random), length(object$classes), dimnames = list(only_random, NULL))
    fixed <- rbind(none, object$beta)
    table <- effects[[group]]
    total <- matrix(as.vector(t(fixed)), nrow(table), length(fixed), byrow = TRUE,
                    dimnames = list(rownames(table), class_labels(rownames(fixed), object$classes)))
    wide <- class_labels(c(columns, ""), object$classes)[seq_along(table)] # with names of columns, also the intercept's
    full <- class_labels(c(rownames(fixed), ""), object$classes)[seq_len(ncol(total))]
    at <- match(wide, full)
    for (j in seq_along(at)) total[, at[j]] <- total[, at[j]] + table[[j]]
    structure(data.frame(total, check.names = FALSE), columns = rownames(fixed), classes = object$classes)
  })
  stats::setNames(sums, names(effects))
}

#' @rdname multinomial
#' @export
VarCorr.multinomialModNN <- function(x, sigma = 1, ...) {
  terms <- lapply(seq_len(n_terms(x)), function(k) {
    names <- x$cnms[[k]]
    by_class <- lapply(seq_along(x$classes), function(c) {
      covariance <- matrix(x$covariances[[k]][c, , ], length(names), dimnames = list(names, names))
      sd <- stats::setNames(sqrt(diag(covariance)), names)
      correlation <- covariance / outer(sd, sd)
      diag(correlation) <- 1
      structure(covariance, stddev = sd, correlation = correlation, log_errors = x$covariance_errors[[k]][c, ])
    })
    structure(stats::setNames(by_class, x$classes), correlated = x$bars[[k]]$covariance == "us")
  })
  structure(stats::setNames(terms, make.unique(names(x$cnms))), class = "VarCorr.multinomialModNN")
}

#' @rdname multinomial
#' @export
as.data.frame.VarCorr.multinomialModNN <- function(x, row.names = NULL, optional = FALSE, level = 0.95, ...) {
  reach <- stats::qnorm((1 + level) / 2)
  rows <- lapply(names(x), function(group) {
    columns <- names(attr(x[[group]][[1L]], "stddev"))
    lapply(seq_along(columns), function(j) {
      lapply(names(x[[group]]), function(class) {
        part <- x[[group]][[class]]
        error <- attr(part, "log_errors")[j]
        data.frame(grp = group, var1 = columns[j], class = class, vcov = part[j, j], sdcor = sqrt(part[j, j]),
                   lower = part[j, j] * exp(-reach * error), upper = part[j, j] * exp(reach * error))
      })
    })
  })
  do.call(rbind, unlist(unlist(rows, recursive = FALSE), recursive = FALSE))
}

#' @rdname multinomial
#' @export
vcov.multinomialModNN <- function(object, ...) {
  if (is.null(object$fixed_covariance)) {
    stop("this fit has no standard errors of its fixed effects: fit with more draws for them.", call. = FALSE)
  }
  names <- fixed_labels(object)
  matrix(object$fixed_covariance, length(names), dimnames = list(names, names))
}

# Standard errors of the fixed effects, p x C; NA where there are none.
fixed_errors <- function(object) {
  errors <- if (is.null(object$fixed_covariance)) NA_real_ else sqrt(diag(object$fixed_covariance))
  matrix(errors, nrow(object$beta), ncol(object$beta), byrow = TRUE)
}

#' @rdname multinomial
#' @export
confint.multinomialModNN <- function(object, parm, level = 0.95, method = "Wald", ...) {
  if (!identical(method, "Wald")) {
    stop(sprintf("confint of a multinomial model has no method '%s': use \"Wald\".", method[1L]), call. = FALSE)
  }
  variances <- as.data.frame(VarCorr(object), level = level)
  tails <- c((1 - level) / 2, (1 + level) / 2)
  fixed <- as.vector(t(object$beta)) + outer(as.vector(t(fixed_errors(object))), stats::qnorm(tails))
  limits <- rbind(sqrt(as.matrix(variances[c("lower", "upper")])), fixed)
  names <- c(sprintf("sd_%s|%s:%s", variances$var1, variances$grp, variances$class), fixed_labels(object))
  dimnames(limits) <- list(names, paste(format(100 * tails, trim = TRUE, digits = 3), "%"))
  limits[chosen_parameters(parm, names, nrow(variances)), , drop = FALSE]
}

#' @rdname multinomial
#' @export
sigma.multinomialModNN <- function(object, ...) 1

#' @rdname multinomial
#' @export
isSingular.multinomialModNN <- function(x, tol = 1e-4, ...) {
  smallest <- vapply(x$covariances, function(Sigma) {
    min(apply(Sigma, 1L, function(one) min(eigen(as.matrix(one), symmetric = TRUE, only.values = TRUE)$values)))
  }, 0)
  min(smallest) < tol^2
}

#' @rdname multinomial
#' @export
deviance.multinomialModNN <- function(object, ...) -2 * sum(row_weights(object) * observed_logs(object))

#' @rdname multinomial
#' @export
logLik.multinomialModNN <- function(object, ...) not_multinomial("logLik()")

#' @rdname multinomial
#' @export
anova.multinomialModNN <- function(object, ...) not_multinomial("anova()")

#' @rdname multinomial
#' @export
drop1.multinomialModNN <- function(object, ...) not_multinomial("drop1()")

#' @rdname multinomial
#' @export
extractAIC.multinomialModNN <- function(fit, scale, k = 2, ...) not_multinomial("extractAIC()")

#' @rdname multinomial
#' @export
REMLcrit.multinomialModNN <- function(object) not_multinomial("REMLcrit()")

#' @rdname multinomial
#' @export
df.residual.multinomialModNN <- function(object, ...) not_multinomial("df.residual()")

#' @rdname multinomial
#' @export
refitML.multinomialModNN <- function(x, ...) {
  not_multinomial("refitML()", "it is no REML fit, so there is nothing to refit")
}

#' @rdname multinomial
#' @export
refit.multinomialModNN <- function(object, newresp = NULL, ...) {
  newresp <- single_response(newresp)
  y <- same_form(object, newresp)
  if (!is.null(y)) {
    unknown <- which(!as.character(y) %in% object$classes)
    if (length(unknown)) {
      stop(sprintf("newresp has no class of the model in row %d: use %s.", unknown[1L],
                   paste(object$classes, collapse = ", ")), call. = FALSE)
    }
    y <- factor(as.character(y), object$classes)
  }
  model <- model_of(object, y = y)
  model$networks <- object$networks$inputs
  fit <- estimate(model, object$settings)
  fit$call <- object$call
  report_fit(fit)
  fit
}

# What getME() computes of a multinomial fit: a function of the fit for each name.
class_parts <- function() {
  native <- native_parts()
  shared <- c("X", "Z", "Zt", "Ztlist", "mmList", "y", "Gp", "flist", "n_rtrms", "n_rfacs", "N", "n", "p", "q", "p_i",
              "l_i", "q_i", "k", "cnms", "offset")
  c(native[intersect(shared, names(native))], list(
    b = function(object) {
      do.call(rbind, lapply(object$b, function(b) matrix(aperm(b, c(2L, 1L, 3L)), ncol = dim(b)[3L])))
    },
    beta = fixef, fixef = fixef, eta = function(object) object$eta, sigma = function(object) 1
  ))
}

#' @rdname multinomial
#' @export
getME.multinomialModNN <- function(object, name, ...) {
  parts <- class_parts()
  if (identical(name, "ALL")) name <- names(parts)
  unknown <- setdiff(name, names(parts))
  if (length(unknown)) {
    stop(sprintf("getME() of a multinomial model has no part '%s': it has %s.", unknown[1L],
                 paste(names(parts), collapse = ", ")), call. = FALSE)
  }
  if (length(name) == 1L) parts[[name]](object) else sapply(name, function(one) parts[[one]](object), simplify = FALSE)
}
