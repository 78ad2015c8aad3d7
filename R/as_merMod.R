# A genuine lme4 object, and the verbs that go through one.

#' The same fit as an object of lme4
#'
#' Builds the `lmerMod` or `glmerMod` that lme4 would have made at the estimated parameters, without searching for them
#' again; of generalized models only binomial and Poisson ones, since lme4 approximates the others in another way. All
#' that other packages do with lme4's fits then works: profiles, [lme4::bootMer()], lmerTest, emmeans, performance.
#' It is built each time, which takes seconds where there are 100,000 rows.
#'
#' @param fit A fit by [lmernn()] or [glmernn()].
#' @return An object of class `lmerMod` or `glmerMod`.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' class(as_merMod(fit))
as_merMod <- function(fit) {
  if (!inherits(fit, "merModNN")) {
    stop("as_merMod() takes a fit by lmernn() or glmernn().", call. = FALSE)
  }
  if (!is.null(fit$classes) || is_ordinal(fit)) {
    stop(sprintf("lme4 has no %s models.", fit$family$family), call. = FALSE)
  }
  if (!is.null(fit$networks)) {
    stop("lme4 has no networks: as_merMod() takes fits without nn().", call. = FALSE)
  }
  other <- intersect(vapply(fit$bars, `[[`, "", "covariance"), location_terms)
  if (length(other)) {
    stop(sprintf("lme4 has no %s(): as_merMod() takes fits without such terms.", other[1L]), call. = FALSE)
  }
  if (isGLMM(fit)) as_glmerMod(fit) else as_lmerMod(fit)
}

# What lme4 makes an object of: list(formula, frame, random), the last as mkReTrms() has it.
lme4_parts <- function(fit) {
  parsed <- parse_formula(lme4_formula(fit$formula))
  frame <- lme4_frame(fit, parsed)
  bars <- lapply(parsed$bars, function(bar) call("|", bar$columns, bar$group))
  random <- tryCatch(
    lme4::mkReTrms(bars, frame),
    error = function(e) stop("lme4 cannot hold this model: ", one_line(conditionMessage(e)), ".", call. = FALSE)
  )
  list(formula = parsed$formula, frame = frame, random = random)
}

as_lmerMod <- function(fit) {
  parts <- lme4_parts(fit)
  frame <- parts$frame
  random <- parts$random
  devfun <- lme4::mkLmerDevfun(frame, fixed_matrix(fit), random, REML = fit$REML)
  theta <- theta_for(fit, random)
  value <- devfun(theta)
  # refit(), profile() and bootMer() read from `opt` by which optimizer they should search
  opt <- structure(
    list(par = theta, fval = value, feval = fit$convergence$n_evaluations, conv = 0, message = "from pylmernn"),
    optimizer = "nloptwrap", control = list(), derivs = lme4_derivatives(fit, devfun, theta)
  )
  devfun(theta) # leaves lme4's workspace at the estimate
  lme4::mkMerMod(environment(devfun), opt, random, fr = frame, mc = lme4_call(fit, parts$formula),
                 lme4conv = optimizer_info(fit)$conv$lme4)
}

as_glmerMod <- function(fit) {
  if (fit$has_dispersion) {
    stop(sprintf("lme4 approximates a %s model in another way: as_merMod() takes binomial and Poisson models.",
                 fit$family$family), call. = FALSE)
  }
  parts <- lme4_parts(fit)
  control <- lme4::glmerControl(tolPwrss = 1e-10) # else derivatives by differences are noise
  devfun <- lme4::mkGlmerDevfun(parts$frame, fixed_matrix(fit), parts$random, fit$family, control = control)
  par <- theta <- theta_for(fit, parts$random)
  devfun(theta) # with beta free, as for nAGQ = 0; it looks for lme4's GHrule() in this package, which imports it
  if (fit$nAGQ > 0L) {
    if (fit$nAGQ > 1L && (length(fit$theta) > 1L || fit$nAGQ > 25L)) {
      stop("lme4 has quadrature for one scalar random effect and up to 25 nodes only: fit the model with nAGQ = 1.",
           call. = FALSE)
    }
    devfun <- lme4::updateGlmerDevfun(devfun, parts$random, nAGQ = fit$nAGQ)
    par <- c(theta, unname(fit$beta))
  }
  opt <- structure(
    list(par = par, fval = devfun(par), feval = fit$convergence$n_evaluations, conv = 0, message = "from pylmernn"),
    optimizer = "bobyqa", control = list(),
    derivs = if (fit$nAGQ > 0L) lme4_derivatives(fit, devfun, par, most = 40L)
  )
  devfun(par) # leaves lme4's workspace at the estimate
  workspace <- environment(devfun)
  if (fit$nAGQ > 0L) workspace$resp$setOffset(workspace$baseOffset) # devfun() has put X beta there
  lme4::mkMerMod(workspace, opt, parts$random, fr = parts$frame, mc = lme4_call(fit, parts$formula),
                 lme4conv = optimizer_info(fit)$conv$lme4)
}

# Gradient and Hessian of lme4's own objective, which performance::check_convergence() reads. As in lme4, only where the
# model is small; not on the boundary, where one-sided differences would say nothing.
lme4_derivatives <- function(fit, devfun, theta, most = 10L) {
  m <- length(theta)
  if (nrow(fit$frame) > 1e4 || m > most || isSingular(fit)) {
    return(NULL)
  }
  h <- 1e-4
  step <- function(i) replace(numeric(m), i, h)
  centre <- devfun(theta)
  ahead <- vapply(seq_len(m), function(i) devfun(theta + step(i)), 0)
  behind <- vapply(seq_len(m), function(i) devfun(theta - step(i)), 0)
  hessian <- diag((ahead - 2 * centre + behind) / h^2, m)
  for (i in seq_len(m)) {
    for (j in seq_len(i - 1L)) {
      corners <- devfun(theta + step(i) + step(j)) + devfun(theta - step(i) - step(j)) -
        devfun(theta + step(i) - step(j)) - devfun(theta - step(i) + step(j))
      hessian[i, j] <- hessian[j, i] <- corners / (4 * h^2)
    }
  }
  list(gradient = (ahead - behind) / (2 * h), Hessian = hessian)
}

# The model frame with the attributes that lme4 gives it.
lme4_frame <- function(fit, parsed) {
  frame <- fit$frame
  terms <- attr(frame, "terms")
  attr(terms, "predvars.fixed") <- attr(fit$fixed$terms, "predvars")
  attr(terms, "varnames.fixed") <- variable_names(fit$fixed$terms)
  random <- formula(fit, random.only = TRUE)
  random[[3L]] <- bars_as_sums(random[[3L]])
  attr(terms, "predvars.random") <- attr(terms_in_frame(random, frame), "predvars")
  attr(frame, "terms") <- terms
  attr(frame, "formula") <- parsed$formula
  frame
}

# theta in the order of lme4's terms: ours, but for diag(), whose columns are separate terms there.
theta_for <- function(fit, random) {
  labels <- theta_labels(fit)
  wanted <- unlist(Map(function(names, group) {
    at <- theta_positions(list(names = names, covariance = "us"))
    paste0(group, ".", names[at[, 1L]], ifelse(at[, 1L] == at[, 2L], "", paste0(".", names[at[, 2L]])))
  }, random$cnms, names(random$cnms)), use.names = FALSE)
  if (identical(labels, wanted)) {
    return(fit$theta)
  }
  if (anyDuplicated(labels) || !setequal(labels, wanted)) {
    stop("lme4 cannot hold the diag() term of this model, whose columns it would correlate.", call. = FALSE)
  }
  fit$theta[match(wanted, labels)]
}

# The call as lmer() would have had it.
lme4_call <- function(fit, formula) {
  call <- as.list(fit$call)
  shared <- intersect(names(call), c("data", "weights", "subset", "na.action", "offset", "contrasts"))
  if (isGLMM(fit)) {
    return(as.call(c(quote(lme4::glmer), list(formula = formula), call[c(shared, intersect("family", names(call)))],
                     list(nAGQ = fit$nAGQ))))
  }
  as.call(c(quote(lme4::lmer), list(formula = formula), call[shared], list(REML = fit$REML)))
}

#' Verbs that work through lme4
#'
#' Profiles, principal components of the random effects and diagnostics of influence: each makes lme4's object of the
#' fit first, see [as_merMod()], and returns what lme4 returns for it.
#'
#' @param model,fitted,x A fit by [lmernn()].
#' @param ... Arguments of lme4's method.
#' @return What lme4 returns.
#' @name through-lme4
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' head(hatvalues(fit))
NULL

#' @rdname through-lme4
#' @export
profile.merModNN <- function(fitted, ...) profile(as_merMod(fitted), ...)

#' @rdname through-lme4
#' @export
rePCA.merModNN <- function(x) rePCA(as_merMod(x))

#' @rdname through-lme4
#' @export
influence.merModNN <- function(model, ...) {
  # lme4 looks the data up where influence() was called
  do.call(stats::influence, list(as_merMod(model), ...), envir = parent.frame())
}

#' @rdname through-lme4
#' @export
hatvalues.merModNN <- function(model, ...) hatvalues(as_merMod(model), ...)

#' @rdname through-lme4
#' @export
cooks.distance.merModNN <- function(model, ...) cooks.distance(as_merMod(model), ...)

#' @rdname through-lme4
#' @export
rstudent.merModNN <- function(model, ...) rstudent(as_merMod(model), ...)
