# Fixed and random effects and their (co)variances.

#' Estimates of a fit
#'
#' The verbs of lme4, with its arguments and its answers: `fixef()` the fixed effects, `ranef()` the conditional modes
#' of the random effects, `coef()` their sums, `VarCorr()` and `sigma()` the variances, `vcov()` the covariance of the
#' fixed effects, `ngrps()` the numbers of levels.
#'
#' @param object,x A fit by [lmernn()].
#' @param add.dropped Whether columns dropped from a rank-deficient model matrix appear, as `NA`.
#' @param condVar Whether the conditional variances come along, as attribute `"postVar"`.
#' @param drop Whether effects with one column become vectors.
#' @param whichel Names of the grouping factors that are wanted.
#' @param sigma A factor for the standard deviations, 1 by default, as in [nlme::VarCorr()].
#' @param correlation Whether [vcov()] also stores the correlation matrix, as [summary()] wants it.
#' @param ... Ignored.
#' @return What lme4 returns: `ranef()` an object of class `ranef.mer`, `coef()` of class `coef.mer`, `VarCorr()` of
#'   class `VarCorr.merMod`, `vcov()` a `dpoMatrix`.
#' @name estimates
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' fixef(fit)
#' head(as.data.frame(ranef(fit)))
#' VarCorr(fit)
NULL

#' @rdname estimates
#' @export
fixef.merModNN <- function(object, add.dropped = FALSE, ...) {
  if (!add.dropped || length(object$dropped) == 0L) {
    return(object$beta)
  }
  all <- c(object$beta, replace(object$dropped, TRUE, NA_real_))
  all[order(c(object$kept, object$dropped))]
}

#' @rdname estimates
#' @export
ranef.merModNN <- function(object, condVar = TRUE, drop = FALSE, whichel = names(object$flist), ...) {
  assign <- attr(object$flist, "assign")
  condVar <- condVar && !has_learned(object) # theta alone says nothing of learned features
  variances <- if (condVar) conditional_variances(object)
  effects <- lapply(seq_along(object$flist), function(i) {
    own <- which(assign == i)
    columns <- do.call(cbind, lapply(own, function(k) {
      matrix(t(object$b[[k]]), ncol = length(object$cnms[[k]]), dimnames = list(NULL, object$cnms[[k]]))
    }))
    frame <- data.frame(columns, row.names = levels(object$flist[[i]]), check.names = FALSE)
    if (condVar) {
      attr(frame, "postVar") <- if (length(own) == 1L) {
        variances[[own]]
      } else {
        stats::setNames(variances[own], as.character(unname(object$cnms[own]))) # names as lme4 has them
      }
    }
    frame
  })
  names(effects) <- names(object$flist)
  effects <- effects[names(effects) %in% whichel]
  if (drop) effects <- lapply(effects, drop_single_column)
  structure(effects, class = "ranef.mer")
}

drop_single_column <- function(frame) {
  if (ncol(frame) > 1L) {
    return(frame)
  }
  vector <- stats::setNames(frame[[1L]], rownames(frame))
  variance <- attr(frame, "postVar")
  if (!is.null(variance)) attr(vector, "postVar") <- drop(variance)
  vector
}

# Var(b | y) of each term, d x d x levels: stored in small fits, else from Python, else from lme4.
conditional_variances <- function(object) {
  if (!is.null(object$cond_var)) {
    return(object$cond_var)
  }
  if (python_ready()) {
    sent <- send_fit(object, networks = FALSE)
    reply <- call_python("conditional_variance", sent$meta, sent$buffers)
    return(variance_arrays(reply$arrays, object$bars))
  }
  modes <- lme4::ranef(as_merMod(object), condVar = TRUE)
  by_factor <- lapply(modes, function(frame) {
    variance <- attr(frame, "postVar")
    if (is.list(variance)) variance else list(variance)
  })
  unlist(by_factor, recursive = FALSE, use.names = FALSE)[order(order(attr(object$flist, "assign")))]
}

#' @rdname estimates
#' @export
coef.merModNN <- function(object, ...) {
  fixed <- fixef(object)
  located <- vapply(object$bars, is_located, NA) # a field has no coefficients of columns
  random <- ranef(object, condVar = FALSE, whichel = setdiff(names(object$flist), names(object$cnms)[located]))
  only_random <- setdiff(unlist(lapply(random, colnames)), names(fixed))
  fixed <- c(stats::setNames(numeric(length(only_random)), only_random), fixed)
  sums <- lapply(random, function(effects) {
    total <- matrix(fixed, nrow(effects), length(fixed), byrow = TRUE, dimnames = list(rownames(effects), names(fixed)))
    for (name in colnames(effects)) total[, name] <- total[, name] + effects[[name]]
    data.frame(total, check.names = FALSE)
  })
  structure(sums, class = "coef.mer")
}

#' @rdname estimates
#' @export
VarCorr.merModNN <- function(x, sigma = 1, ...) {
  scale <- x$sigma * sigma
  covariances <- lapply(seq_len(n_terms(x)), function(k) {
    Lambda <- templates(x)[[k]]
    names <- x$cnms[[k]]
    covariance <- scale^2 * tcrossprod(Lambda)
    dimnames(covariance) <- list(names, names)
    stddev <- stats::setNames(sqrt(diag(covariance)), names)
    correlation <- covariance / outer(stddev, stddev)
    diag(correlation) <- 1
    lscale <- if (x$bars[[k]]$covariance == "gp") theta_of(x, k)[2L]
    structure(covariance, stddev = stddev, correlation = correlation, lscale = lscale)
  })
  names(covariances) <- make.unique(names(x$cnms))
  class <- c(if (any(is_field(x))) "VarCorr.merModNN", "VarCorr.merMod")
  structure(covariances, sc = scale, useSc = TRUE, class = class)
}

# Which terms are gp().
is_field <- function(object) vapply(object$bars, function(bar) bar$covariance == "gp", NA)

lscales <- function(varcor) lapply(unclass(varcor), attr, "lscale")

#' @rdname estimates
#' @param row.names,optional As in [as.data.frame()].
#' @param order `"cov.last"` or `"lower.tri"`, as in lme4. The length-scale of a `gp()` has a row of its own, with
#'   `var1` "lscale" and its value in `sdcor`.
#' @export
as.data.frame.VarCorr.merModNN <- function(x, row.names = NULL, optional = FALSE,
                                           order = c("cov.last", "lower.tri"), ...) {
  table <- NextMethod()
  for (name in names(Filter(Negate(is.null), lscales(x)))) {
    row <- data.frame(grp = name, var1 = "lscale", var2 = NA, vcov = NA, sdcor = attr(x[[name]], "lscale"))
    last <- max(which(table$grp == name))
    table <- rbind(table[seq_len(last), ], row, table[-seq_len(last), ])
  }
  rownames(table) <- NULL
  table
}

#' @rdname estimates
#' @param digits Significant digits.
#' @param comp What to show: `"Variance"`, `"Std.Dev."`.
#' @param formatter A function that formats numbers.
#' @export
print.VarCorr.merModNN <- function(x, digits = max(3, getOption("digits") - 2), comp = "Std.Dev.", formatter = format,
                                   ...) {
  print(format_components(x, digits, comp, formatter), quote = FALSE, ...)
  invisible(x)
}

# lme4's table of variances, with a row for the length-scale of each field in the column of standard deviations.
format_components <- function(varcor, digits, comp, formatter = format) {
  scales <- lscales(varcor)
  wider <- Map(function(component, scale) {
    if (is.null(scale)) {
      return(component)
    }
    names <- c(colnames(component), "lscale")
    structure(diag(2L), dimnames = list(names, names), stddev = c(attr(component, "stddev"), scale),
              correlation = diag(2L))
  }, unclass(varcor), scales)
  attributes(wider) <- attributes(unclass(varcor))
  table <- lme4::formatVC(wider, digits = digits, comp = comp, formatter = formatter)
  at <- cumsum(vapply(wider, ncol, 0L))[!vapply(scales, is.null, NA)]
  table[at, colnames(table) == "Variance"] <- ""
  correlations <- seq_len(ncol(table)) > 2L & !colnames(table) %in% c("Variance", "Std.Dev.")
  if (all(vapply(unclass(varcor), ncol, 0L) == 1L)) {
    return(table[, !correlations, drop = FALSE])
  }
  table[at, correlations] <- ""
  table
}

#' @rdname estimates
#' @export
sigma.merModNN <- function(object, ...) object$sigma

#' @rdname estimates
#' @export
vcov.merModNN <- function(object, correlation = TRUE, ...) {
  covariance <- object$sigma^2 * object$unscaled_vcov
  result <- methods::new("dpoMatrix", x = as.vector(covariance), Dim = dim(covariance), Dimnames = dimnames(covariance))
  if (correlation) result@factors$correlation <- methods::as(result, "corMatrix")
  result
}

#' @rdname estimates
#' @export
ngrps.merModNN <- function(object, ...) vapply(object$flist, nlevels, 0L)
