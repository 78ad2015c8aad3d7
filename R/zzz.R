#' @keywords internal
"_PACKAGE"

#' @importFrom stats AIC BIC anova coef confint cooks.distance deviance df.residual drop1 extractAIC family fitted
#' formula
#' @importFrom stats hatvalues influence logLik model.frame model.matrix nobs predict profile residuals rstudent sigma
#' @importFrom stats simulate terms update vcov weights getCall
#' @importFrom lme4 GHrule getME isGLMM isLMM isNLMM isREML ngrps rePCA refit refitML
#' @importFrom nlme VarCorr fixef ranef
#' @importFrom Matrix t
#' @importFrom methods as new
NULL

#' Generics of other packages
#'
#' These are passed on, so that `library(pylmernn)` alone suffices: see [nlme::fixef()], [nlme::ranef()],
#' [nlme::VarCorr()], [lme4::getME()], [lme4::ngrps()], [lme4::isREML()], [lme4::refit()], [lme4::refitML()],
#' [lme4::rePCA()], [lme4::isLMM()].
#'
#' @name reexports
#' @keywords internal
#' @aliases fixef ranef VarCorr getME ngrps isREML isLMM isGLMM isNLMM refitML rePCA
#' @export fixef
#' @export ranef
#' @export VarCorr
#' @export getME
#' @export ngrps
#' @export isREML
#' @export isLMM
#' @export isGLMM
#' @export isNLMM
#' @export refit
#' @export refitML
#' @export rePCA
NULL

# Generics of suggested packages: our own methods, and those that answer for lme4's object of the fit.
own_methods <- list(generics = c("tidy", "glance", "augment"))
methods_through_lme4 <- list(
  emmeans = c("recover_data", "emm_basis"),
  insight = c(
    "model_info", "find_formula", "find_parameters", "find_statistic", "find_random", "find_predictors",
    "find_response", "find_variables", "find_terms", "get_parameters", "get_data", "get_varcov", "get_statistic",
    "get_df", "get_variance", "get_predicted", "get_loglikelihood", "get_modelmatrix", "get_response", "get_random",
    "get_sigma", "get_deviance", "link_inverse", "link_function", "is_converged", "n_parameters", "n_obs"
  ),
  performance = c("r2", "model_performance", "check_convergence", "check_singularity", "icc")
)

# Registers `make(generic)` as the method of each generic for a class, now or when its package is loaded.
register_when_loaded <- function(package, generics, make, class = "merModNN") {
  force(package)
  force(generics)
  force(make)
  force(class)
  register <- function(...) {
    space <- asNamespace(package)
    for (generic in intersect(generics, getNamespaceExports(space))) {
      registerS3method(generic, class, make(generic), envir = space)
    }
  }
  if (isNamespaceLoaded(package)) register()
  setHook(packageEvent(package, "onLoad"), register)
}

# Makes a method that hands lme4's object to the generic; its first argument is called as the generic calls it.
through_lme4 <- function(package) {
  force(package)
  function(generic) {
    target <- getExportedValue(package, generic)
    first <- names(formals(target))[1L]
    method <- function(x, ...) NULL
    names(formals(method))[1L] <- first
    body(method) <- substitute(target(as_merMod(first), ...), list(target = target, first = as.name(first)))
    environment(method) <- topenv()
    method
  }
}

own_method <- function(class, space) {
  force(class)
  function(generic) get(paste0(generic, ".", class), envir = space)
}

.onLoad <- function(libname, pkgname) {
  space <- asNamespace(pkgname)
  for (class in c("merModNN", "multinomialModNN")) {
    for (package in names(own_methods)) {
      register_when_loaded(package, own_methods[[package]], own_method(class, space), class)
    }
  }
  register_when_loaded("generics", "tidy", own_method("varyingModNN", space), "varyingModNN")
  for (package in names(methods_through_lme4)) {
    register_when_loaded(package, methods_through_lme4[[package]], through_lme4(package))
  }
}
