# Tables for the tidyverse. tidy, glance and augment are methods of the generics package, which is only suggested: zzz.R
# registers them once it is loaded.

#' Tables of a fit
#'
#' `tidy()` has a row for each parameter, `glance()` one row for the fit, `augment()` the data with fitted values and
#' residuals. Columns are those of broom.mixed. They are methods for the generics of the package generics, which broom
#' and broom.mixed pass on.
#'
#' @param x A fit by [lmernn()].
#' @param effects Which effects: `"ran_pars"`, `"fixed"`, `"ran_vals"`, `"ran_coefs"`.
#' @param conf.int Whether fixed effects get Wald intervals.
#' @param conf.level Their coverage.
#' @param data The data to put beside fitted values; by default the model frame.
#' @param ... Ignored.
#' @return A data frame, a tibble where tibble is installed.
#' @name tidiers
#' @examplesIf pylmernn::python_ready() && requireNamespace("generics", quietly = TRUE)
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' generics::tidy(fit, conf.int = TRUE)
#' generics::glance(fit)
NULL

#' @rdname tidiers
tidy.merModNN <- function(x, effects = c("ran_pars", "fixed"), conf.int = FALSE, conf.level = 0.95, ...) {
  makers <- list(fixed = tidy_fixed, ran_pars = tidy_variances, ran_vals = tidy_modes, ran_coefs = tidy_coefficients)
  unknown <- setdiff(effects, names(makers))
  if (length(unknown)) {
    stop(sprintf("tidy() has no effects '%s': use %s.", unknown[1L], paste(names(makers), collapse = ", ")),
         call. = FALSE)
  }
  order <- intersect(c("fixed", "ran_pars", "ran_vals", "ran_coefs"), effects)
  tables <- lapply(order, function(name) makers[[name]](x))
  if (conf.int && "fixed" %in% order) {
    limits <- confint(x, "beta_", level = conf.level, method = "Wald")
    tables[[1L]]$conf.low <- unname(limits[, 1L])
    tables[[1L]]$conf.high <- unname(limits[, 2L])
  }
  columns <- c("effect", "group", "level", "term", "estimate", "std.error", "statistic", "p.value", "conf.low",
               "conf.high")
  columns <- intersect(columns, unlist(lapply(tables, names)))
  filled <- lapply(tables, function(table) {
    for (name in setdiff(columns, names(table))) table[[name]] <- NA
    table[columns]
  })
  as_tibble_if_installed(do.call(rbind, filled))
}

tidy_fixed <- function(x) {
  se <- unname(sqrt(diag(x$unscaled_vcov)) * x$sigma)
  table <- data.frame(effect = rep("fixed", length(se)), term = as.character(names(x$beta)),
                      estimate = unname(x$beta), std.error = se, statistic = unname(x$beta) / se)
  if (isGLMM(x)) table$p.value <- 2 * stats::pnorm(-abs(table$statistic))
  table
}

tidy_variances <- function(x) {
  table <- as.data.frame(VarCorr(x), order = "lower.tri")
  residual <- table$grp == "Residual" & is.na(table$var1)
  kind <- ifelse(is.na(table$var2), "sd__", "cor__")
  names <- ifelse(is.na(table$var2), table$var1, paste(table$var1, table$var2, sep = "."))
  lscale <- is.na(table$vcov) & table$var1 == "lscale"
  terms <- ifelse(lscale, "lscale", paste0(kind, ifelse(residual, "Observation", names)))
  data.frame(effect = "ran_pars", group = table$grp, term = terms,
             estimate = table$sdcor)
}

tidy_modes <- function(x) {
  table <- as.data.frame(ranef(x))
  data.frame(effect = "ran_vals", group = as.character(table$grpvar), level = as.character(table$grp),
             term = as.character(table$term), estimate = table$condval, std.error = table$condsd)
}

tidy_coefficients <- function(x) {
  tables <- coef(x)
  do.call(rbind, lapply(names(tables), function(group) {
    frame <- tables[[group]]
    data.frame(effect = "ran_coefs", group = group, level = rep(rownames(frame), ncol(frame)),
               term = rep(names(frame), each = nrow(frame)), estimate = unlist(frame, use.names = FALSE))
  }))
}

#' @rdname tidiers
glance.merModNN <- function(x, ...) {
  likelihood <- logLik(x)
  table <- data.frame(nobs = nobs(x), sigma = sigma(x), logLik = c(likelihood), AIC = AIC(likelihood),
                      BIC = BIC(likelihood))
  table[[if (x$REML) "REMLcrit" else "deviance"]] <- if (isGLMM(x)) deviance(x) else x$objective
  table$df.residual <- df.residual(x)
  as_tibble_if_installed(table)
}

#' @rdname tidiers
augment.merModNN <- function(x, data = stats::model.frame(x), ...) {
  if (isGLMM(x)) only_linear("augment()", "use fitted() and residuals()")
  fitted <- if (nrow(data) == nobs(x)) fitted_rows(x) else fitted(x)
  if (length(fitted) != nrow(data)) {
    stop(sprintf("data has %d rows but the model has %d.", nrow(data), length(fitted)), call. = FALSE)
  }
  residual <- if (nrow(data) == nobs(x)) response_values(x) - fitted else residuals(x)
  table <- as.data.frame(data)
  table$.fitted <- unname(fitted)
  table$.resid <- unname(residual)
  table$.fixed <- unname(predict(x, re.form = NA))[seq_len(nrow(table))]
  as_tibble_if_installed(table)
}

as_tibble_if_installed <- function(table) {
  if (requireNamespace("tibble", quietly = TRUE)) tibble::as_tibble(table) else table
}
