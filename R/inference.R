# Tests and intervals.

#' Compare models, drop terms, confidence intervals
#'
#' `anova()` of one fit is the table of sequential F statistics, of several fits the likelihood ratio tests; fits by
#' REML are refitted by maximum likelihood first. `drop1()` deletes each fixed term in turn. `confint()` computes
#' `method = "Wald"` itself; `"profile"` and `"boot"` go through [as_merMod()].
#'
#' @param object A fit by [lmernn()].
#' @param ... For `anova()`, more fits (by [lmernn()], lme4 or [stats::lm()]); for `confint()`, arguments of
#'   [lme4::confint.merMod()].
#' @param refit Whether fits by REML are refitted by maximum likelihood.
#' @param model.names Names of the models in the table.
#' @param scope Terms to consider, a formula or their names.
#' @param scale Not used.
#' @param test `"none"` or `"Chisq"`.
#' @param k The penalty for a parameter in AIC.
#' @param trace Whether to print each term.
#' @param parm Names or positions of the parameters: `.sig01`, ..., `.sigma` and the fixed effects; `"beta_"` and
#'   `"theta_"` stand for all of a kind.
#' @param level The coverage.
#' @param method `"profile"`, `"Wald"` or `"boot"`.
#' @param oldNames Whether standard deviations are called `.sig01`, ... rather than `sd_(Intercept)|Subject`.
#' @return As in lme4.
#' @name inference
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' anova(fit)
#' anova(fit, update(fit, . ~ . - (Days | Subject) + (1 | Subject)))
#' confint(fit, method = "Wald")
NULL

#' @rdname inference
#' @export
anova.merModNN <- function(object, ..., refit = TRUE, model.names = NULL) {
  others <- list(...)
  is_model <- vapply(others, function(one) inherits(one, c("merModNN", "merMod", "lm")), NA)
  if (!all(is_model)) {
    stop("anova() compares fits by lmernn(), lme4 or lm() only.", call. = FALSE)
  }
  if (length(others) == 0L) {
    return(sequential_table(object))
  }
  if (is.null(model.names)) {
    written <- as.list(match.call(expand.dots = FALSE)$...)
    model.names <- vapply(c(match.call()$object, written), function(e) deparse1(e), "")
    if (anyDuplicated(model.names) || max(nchar(model.names)) > 200L) {
      model.names <- paste0("MODEL", seq_along(model.names))
    }
  }
  compare_models(c(list(object), others), model.names, refit)
}

# Sums of squares of each term after those before it: the rows of RX beta, gathered by term.
sequential_table <- function(object) {
  assign <- attr(fixed_matrix(object), "assign")
  scores <- as.vector(getME(object, "RX") %*% object$beta)^2
  labels <- c("(Intercept)", attr(object$fixed$terms, "term.labels"))[unique(assign) + 1L]
  squares <- as.vector(rowsum(scores, assign, reorder = FALSE))
  df <- as.vector(rowsum(rep(1L, length(assign)), assign, reorder = FALSE))
  table <- data.frame(npar = df, squares, squares / df, squares / df / object$sigma^2, row.names = labels)
  names(table)[-1L] <- c("Sum Sq", "Mean Sq", "F value")
  structure(table[labels != "(Intercept)", ], heading = c("Analysis of Variance Table", network_note(list(object))),
            class = c("anova", "data.frame"))
}

compare_models <- function(models, names, refit) {
  if (length(names) != length(models)) {
    stop(sprintf("model.names has %d names for %d models.", length(names), length(models)), call. = FALSE)
  }
  if (length(unique(vapply(models, stats::nobs, 0))) > 1L) {
    stop("the models were not all fitted to the same number of rows.", call. = FALSE)
  }
  check_comparable(models, names)
  by_reml <- vapply(models, function(one) !inherits(one, "lm") && isREML(one), NA)
  if (refit && any(by_reml)) {
    message("refitting model(s) with ML (instead of REML)")
    models[by_reml] <- lapply(models[by_reml], refitML)
  } else if (any(by_reml) && !all(by_reml)) {
    warning("some models were fitted by REML, some not.", call. = FALSE)
  }
  data <- unique(lapply(models, function(one) getCall(one)$data))
  if (length(data) > 1L) {
    stop("the models must all be fitted to the same data object.", call. = FALSE)
  }
  likelihoods <- lapply(models, logLik)
  npar <- vapply(likelihoods, attr, 0, "df")
  order <- order(npar)
  value <- vapply(likelihoods[order], c, 0)
  df <- c(NA, diff(npar[order]))
  chisq <- 2 * pmax(0, c(NA, diff(value)))
  table <- data.frame(
    npar = npar[order],
    AIC = vapply(likelihoods[order], AIC, 0),
    BIC = vapply(likelihoods[order], BIC, 0),
    logLik = value,
    deviance = -2 * value,
    Chisq = chisq,
    Df = df,
    p = ifelse(df == 0, NA, stats::pchisq(chisq, df, lower.tail = FALSE)),
    row.names = names[order]
  )
  names(table)[8L] <- "Pr(>Chisq)"
  formulas <- vapply(models[order], function(one) deparse1(formula(one)), "")
  subset <- unique(lapply(models, function(one) getCall(one)$subset))
  heading <- c(
    paste("Data:", substr(deparse1(data[[1L]]), 1L, 60L)),
    if (length(subset) == 1L && !is.null(subset[[1L]])) paste("Subset:", deparse1(subset[[1L]])),
    "Models:",
    paste(names[order], formulas, sep = ": "),
    network_note(models)
  )
  structure(table, heading = heading, class = c("anova", "data.frame"))
}

# Densities of numbers, counts and proportions are of different things.
check_comparable <- function(models, names) {
  families <- sub("\\(.*", "", tolower(vapply(models, function(one) family(one)$family, "")))
  kinds <- c("negative binomial" = "poisson", negative.binomial = "poisson", inverse.gaussian = "gamma")
  same <- ifelse(families %in% names(kinds), kinds[families], families)
  other <- which(same != same[1L])
  if (length(other)) {
    stop(sprintf("likelihoods of a %s model and a %s model cannot be compared: %s and %s.", families[1L],
                 families[other[1L]], names[1L], names[other[1L]]), call. = FALSE)
  }
}

#' @rdname inference
#' @export
drop1.merModNN <- function(object, scope, scale = 0, test = c("none", "Chisq"), k = 2, trace = FALSE, ...) {
  test <- match.arg(test)
  whole <- refitML(object)
  terms <- droppable_terms(object, scope)
  fits <- c(list(whole), lapply(terms, function(term) {
    if (trace) cat("trying -", term, "\n")
    without_term(whole, term)
  }))
  likelihoods <- lapply(fits, logLik)
  npar <- vapply(likelihoods, attr, 0, "df")
  deviances <- -2 * vapply(likelihoods, c, 0)
  df <- c(NA, (npar[1L] - npar)[-1L])
  table <- data.frame(npar = df, AIC = deviances + k * npar, row.names = c("<none>", terms))
  if (test == "Chisq") {
    table$LRT <- c(NA, (deviances - deviances[1L])[-1L])
    table[["Pr(Chi)"]] <- stats::pchisq(pmax(table$LRT, 0), df, lower.tail = FALSE)
  }
  heading <- c("Single term deletions", "\nModel:", deparse1(formula(object)), network_note(list(object)))
  structure(table, heading = heading, class = c("anova", "data.frame"))
}

droppable_terms <- function(object, scope) {
  possible <- stats::drop.scope(object$fixed$terms)
  if (missing(scope)) {
    return(possible)
  }
  wanted <- scope
  if (!is.character(scope)) {
    wanted <- attr(terms(stats::update(formula(object, fixed.only = TRUE), scope)), "term.labels")
  }
  unknown <- setdiff(wanted, attr(object$fixed$terms, "term.labels"))
  if (length(unknown)) {
    stop(sprintf("scope names '%s', which is not a fixed term of the model.", unknown[1L]), call. = FALSE)
  }
  wanted
}

# The same frame with one fixed term less; no data are looked up again.
without_term <- function(object, term) {
  model <- model_of(object)
  shorter <- stats::update(stats::formula(object$fixed$terms), stats::as.formula(paste(". ~ . -", term)))
  model$fixed <- matrix_part(shorter, object$frame, kept_contrasts(object, shorter))
  model$X <- estimated_columns(model$fixed, object$settings$family)
  model$fixed$matrix <- NULL
  estimate(model, refit_settings(object))
}

kept_contrasts <- function(object, formula) {
  contrasts <- object$fixed$contrasts
  contrasts[intersect(names(contrasts), all.vars(formula))]
}

#' @rdname inference
#' @export
confint.merModNN <- function(object, parm, level = 0.95, method = c("profile", "Wald", "boot"), oldNames = TRUE, ...) {
  method <- match.arg(method)
  if (method != "Wald") {
    fit <- as_merMod(object)
    if (missing(parm)) {
      return(confint(fit, level = level, method = method, oldNames = oldNames, ...))
    }
    return(confint(fit, parm = parm, level = level, method = method, oldNames = oldNames, ...))
  }
  tails <- c((1 - level) / 2, (1 + level) / 2)
  random <- variance_labels(object, oldNames)
  names <- c(random, names(object$beta))
  se <- sqrt(diag(object$unscaled_vcov)) * object$sigma
  limits <- rbind(matrix(NA_real_, length(random), 2L), object$beta + outer(se, stats::qnorm(tails)))
  dimnames(limits) <- list(names, paste(format(100 * tails, trim = TRUE, digits = 3), "%"))
  limits[chosen_parameters(parm, names, length(random)), , drop = FALSE]
}

chosen_parameters <- function(parm, names, n_random) {
  if (missing(parm)) {
    return(seq_along(names))
  }
  if (identical(parm, "theta_")) {
    return(seq_len(n_random))
  }
  if (identical(parm, "beta_")) {
    return(setdiff(seq_along(names), seq_len(n_random)))
  }
  at <- if (is.character(parm)) match(parm, names) else seq_along(names)[parm]
  if (anyNA(at)) {
    stop(sprintf("confint() has no parameter '%s'.", parm[is.na(at)][1L]), call. = FALSE)
  }
  at
}

# lme4's names of the standard deviations and correlations.
variance_labels <- function(object, old) {
  if (old) {
    return(c(sprintf(".sig%02d", seq_along(object$theta)), ".sigma"))
  }
  labels <- unlist(Map(function(bar, group) {
    at <- theta_positions(bar)
    c(ifelse(at[, 1L] == at[, 2L], paste0("sd_", bar$names[at[, 1L]], "|", group),
             paste0("cor_", bar$names[at[, 1L]], ".", bar$names[at[, 2L]], "|", group)),
      if (bar$covariance == "gp") paste0("lscale|", group))
  }, object$bars, names(object$cnms)), use.names = FALSE)
  c(labels, "sigma")
}
