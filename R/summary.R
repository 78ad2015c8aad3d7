# print() and summary(), in lme4's layout.

#' Print or summarize a fit
#'
#' `summary()` holds what lme4's summary holds and prints as it does.
#'
#' @param object,x A fit by [lmernn()], or its summary.
#' @param correlation Whether to show the correlations of the fixed effects.
#' @param digits Significant digits.
#' @param ranef.comp What to show of the random effects: `"Variance"`, `"Std.Dev."`.
#' @param ... Passed on.
#' @return `summary()` an object of classes `summary.merModNN` and `summary.merMod`.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("Penicillin", package = "lme4")
#' summary(lmernn(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin))
summary.merModNN <- function(object, correlation = length(object$beta) <= 20L, ...) {
  se <- sqrt(diag(object$unscaled_vcov)) * object$sigma
  table <- cbind(Estimate = object$beta, "Std. Error" = se)
  if (length(object$beta)) table <- cbind(table, "t value" = object$beta / se)
  structure(
    list(
      methTitle = method_title(object),
      objClass = class(object)[1L],
      devcomp = deviance_components(object),
      isLmer = TRUE,
      useScale = TRUE,
      logLik = logLik(object),
      family = NULL,
      link = NULL,
      ngrps = ngrps(object),
      coefficients = table,
      sigma = object$sigma,
      vcov = vcov(object, correlation = correlation),
      varcor = VarCorr(object),
      AICtab = information_table(object),
      call = object$call,
      residuals = residuals(object, "pearson", scaled = TRUE),
      fitMsgs = character(0),
      optinfo = optimizer_info(object),
      networks = network_lines(object)
    ),
    class = c("summary.merModNN", "summary.merMod")
  )
}

#' @rdname summary.merModNN
#' @export
print.merModNN <- function(x, digits = max(3, getOption("digits") - 3), ranef.comp = "Std.Dev.", ...) {
  lme4::.prt.methTit(method_title(x), class(x)[1L])
  print_networks(sampling_lines(x$draws))
  lme4::.prt.family(x$family)
  lme4::.prt.call(x$call)
  lme4::.prt.aictab(information_table(x), 4)
  print_variances(VarCorr(x), digits, ranef.comp)
  lme4::.prt.grps(ngrps(x), nobs = nobs(x))
  if (length(x$beta)) {
    cat("Fixed Effects:\n")
    print.default(format(x$beta, digits = digits), print.gap = 2L, quote = FALSE)
  } else {
    cat("No fixed effect coefficients\n")
  }
  if (is_ordinal(x)) {
    cat("Thresholds:\n")
    print.default(format(thresholds(x), digits = digits), print.gap = 2L, quote = FALSE)
  }
  lme4::.prt.warn(optimizer_info(x), summary = TRUE)
  print_networks(x$networks$short_lines)
  invisible(x)
}

#' @rdname summary.merModNN
#' @export
print.summary.merModNN <- function(x, digits = max(3, getOption("digits") - 3), ranef.comp = c("Variance", "Std.Dev."),
                                   ...) {
  print_lme4 <- utils::getS3method("print", "summary.merMod", envir = asNamespace("lme4"))
  lines <- utils::capture.output(print_lme4(x, digits = digits, ranef.comp = ranef.comp, ...))
  if (inherits(x$varcor, "VarCorr.merModNN")) { # lme4 knows no length-scales
    own <- utils::capture.output(print_variances(x$varcor, digits, ranef.comp))
    start <- match("Random effects:", lines)
    end <- start + match(TRUE, startsWith(lines[-seq_len(start)], "Number of obs:"))
    lines <- c(lines[seq_len(start - 1L)], own, lines[end:length(lines)])
  }
  if (length(x$sampling)) lines <- append(lines, x$sampling, after = match(TRUE, startsWith(lines, " Family:")) - 1L)
  cat(lines, sep = "\n")
  if (length(x$thresholds)) {
    cat("\nThresholds:\n")
    stats::printCoefmat(x$thresholds, digits = digits, cs.ind = 1:2, tst.ind = 3L, has.Pvalue = FALSE)
  }
  print_networks(x$networks)
  invisible(x)
}

print_variances <- function(varcor, digits, comp) {
  if (!inherits(varcor, "VarCorr.merModNN")) {
    return(lme4::.prt.VC(varcor, digits = digits, comp = comp))
  }
  cat("Random effects:\n")
  print(format_components(varcor, digits, comp), quote = FALSE, digits = digits)
}

#' @rdname summary.merModNN
#' @export
vcov.summary.merModNN <- function(object, ...) object$vcov

method_title <- function(object) {
  if (object$method == "mcem") {
    return("Generalized linear mixed model fit by Monte Carlo EM")
  }
  if (isGLMM(object)) {
    title <- lme4::methTitle(c(GLMM = 1, NLMM = 0, REML = 0, nAGQ = object$nAGQ))
    how <- if (object$method == "pirls") "" else paste0(", method ", object$method)
    return(sub("maximum likelihood", paste0("maximum likelihood", how), title, fixed = TRUE))
  }
  paste("Linear mixed model fit by", if (object$REML) "REML" else "maximum likelihood ")
}

samplers <- c("polya-gamma" = "Polya-Gamma Gibbs sampler", nuts = "No-U-Turn sampler")

# Sampler, draws and convergence; nothing where nothing was sampled.
sampling_lines <- function(draws) {
  if (is.null(draws)) {
    return(NULL)
  }
  ends <- if (draws$divergences > 0) sprintf("%d divergences", draws$divergences) else "no divergences"
  c(
    sprintf("Sampled: %s, %d chains of %d draws", samplers[[draws$sampler]], draws$n_chains, draws$n_draws),
    sprintf("         largest R-hat %.3f, smallest ESS %.0f, %s", as.numeric(draws$rhat), as.numeric(draws$ess), ends)
  )
}

information_table <- function(object) {
  if (object$REML) {
    return(c(REML = object$objective))
  }
  likelihood <- logLik(object)
  c(AIC = AIC(likelihood), BIC = BIC(likelihood), logLik = c(likelihood), deviance = object$objective,
    df.resid = df.residual(object))
}

# lme4's devcomp: log-determinants, sums of squares and dimensions.
deviance_components <- function(object) {
  n <- nrow(object$frame)
  p <- length(object$beta)
  REML <- object$REML
  if (isGLMM(object)) {
    return(generalized_components(object))
  }
  list(
    cmp = c(
      ldL2 = object$ldL2, ldRX2 = object$ldRX2, wrss = object$wrss, ussq = object$ussq, pwrss = object$pwrss,
      drsum = NA, REML = if (REML) object$objective else NA, dev = if (REML) NA else object$objective,
      sigmaML = sqrt(object$pwrss / n), sigmaREML = sqrt(object$pwrss / (n - p))
    ),
    dims = c(
      N = n, n = n, p = p, nmp = n - p, q = sum(lengths(object$b)), nth = length(object$theta), useSc = 1L,
      reTrms = n_terms(object), spFe = 0L, REML = if (REML) p else 0L, GLMM = 0L, NLMM = 0L
    )
  )
}

# The list in which lme4 keeps what the optimizer said; singular fits are named there too.
optimizer_info <- function(object) {
  messages <- c(if (isSingular(object)) "boundary (singular) fit: see help('isSingular')",
                sampling_messages(object$draws))
  list(
    optimizer = object$method,
    control = object$settings$control,
    derivs = list(gradient = object$convergence$gradient),
    conv = list(
      opt = if (object$convergence$converged) 0 else 1,
      lme4 = if (is.null(messages)) list() else list(code = 0L, messages = messages)
    ),
    feval = object$convergence$n_evaluations,
    message = object$convergence$message,
    warnings = list(),
    val = object$theta
  )
}
