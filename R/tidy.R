# Tables for the tidyverse. tidy, glance and augment are methods of the generics package, which is only suggested: zzz.R
# registers them once it is loaded.

#' Tables of a fit
#'
#' `tidy()` has a row for each parameter, `glance()` one row for the fit, `augment()` the data with fitted values and
#' residuals. Columns are those of broom.mixed, and class for multinomial models. They are methods for the generics of
#' the package generics, which broom and broom.mixed pass on.
#'
#' @param x A fit by [lmernn()] or [glmernn()].
#' @param effects Which effects: `"ran_pars"`, `"fixed"`, `"ran_vals"`, `"ran_coefs"`.
#' @param conf.int Whether fixed effects get Wald intervals (of multinomial models standard deviations too).
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
  order <- tidy_order(effects)
  tables <- lapply(order, function(name) makers[[name]](x))
  if (conf.int && "fixed" %in% order) {
    limits <- confint(x, "beta_", level = conf.level, method = "Wald")
    tables[[1L]]$conf.low <- unname(limits[, 1L])
    tables[[1L]]$conf.high <- unname(limits[, 2L])
  }
  stacked_tables(tables)
}

# The kinds of effects that are wanted, in the order in which they are shown.
tidy_order <- function(effects) {
  known <- c("fixed", "ran_pars", "ran_vals", "ran_coefs")
  unknown <- setdiff(effects, known)
  if (length(unknown)) {
    stop(sprintf("tidy() has no effects '%s': use %s.", unknown[1L], paste(known, collapse = ", ")), call. = FALSE)
  }
  intersect(known, effects)
}

# Tables one below the other, with the columns that any of them has.
stacked_tables <- function(tables) {
  columns <- c("effect", "group", "level", "class", "term", "estimate", "std.error", "statistic", "p.value", "conf.low",
               "conf.high")
  columns <- intersect(columns, unlist(lapply(tables, names)))
  filled <- lapply(tables, function(table) {
    for (name in setdiff(columns, names(table))) table[[name]] <- NA
    table[columns]
  })
  as_tibble_if_installed(do.call(rbind, filled))
}

#' @rdname tidiers
tidy.multinomialModNN <- function(x, effects = c("ran_pars", "fixed"), conf.int = FALSE, conf.level = 0.95, ...) {
  limits <- function(table) if (conf.int) table else table[setdiff(names(table), c("conf.low", "conf.high"))]
  reach <- stats::qnorm((1 + conf.level) / 2)
  makers <- list(
    fixed = function() {
      found <- summary(x)
      table <- found$coefficients
      limits(data.frame(effect = "fixed", class = found$of_class, term = found$columns, estimate = table[, 1L],
                        std.error = table[, 2L], statistic = table[, 3L], p.value = table[, 4L],
                        conf.low = table[, 1L] - reach * table[, 2L], conf.high = table[, 1L] + reach * table[, 2L],
                        row.names = NULL))
    },
    ran_pars = function() limits(tidy_class_variances(x, conf.level)),
    ran_vals = function() {
      table <- as.data.frame(ranef(x))
      data.frame(effect = "ran_vals", group = table$grpvar, level = table$grp, class = table$class, term = table$term,
                 estimate = table$condval, std.error = table$condsd)
    },
    ran_coefs = function() {
      table <- as.data.frame.ranef.multinomialModNN(coef(x))
      data.frame(effect = "ran_coefs", group = table$grpvar, level = table$grp, class = table$class, term = table$term,
                 estimate = table$condval)
    }
  )
  stacked_tables(lapply(tidy_order(effects), function(name) makers[[name]]()))
}

#' @rdname tidiers
tidy.varyingModNN <- function(x, effects = c("ran_pars", "fixed"), ...) {
  long <- function(effect, tables) {
    table <- as.data.frame.ranef.varyingModNN(tables)
    made <- data.frame(effect = effect, group = table$grpvar, level = table$grp, term = table$term,
                       estimate = table$condval)
    if (!is.null(table$condsd)) made$std.error <- table$condsd
    made
  }
  makers <- list(
    fixed = function() {
      estimates <- fixef(x)
      known <- if (!is.null(x$fixed_covariance)) sqrt(diag(vcov(x)))
      se <- c(known, rep(NA_real_, length(estimates) - length(known)))
      data.frame(effect = "fixed", term = names(estimates), estimate = unname(estimates), std.error = unname(se),
                 statistic = unname(estimates / se))
    },
    ran_pars = function() tidy_variances(x),
    ran_vals = function() long("ran_vals", ranef(x, condVar = TRUE)),
    ran_coefs = function() long("ran_coefs", coef(x))
  )
  order <- tidy_order(effects)
  if (length(x$flist) == 0L) order <- intersect(order, "fixed") # sequences of states in which nothing varies
  stacked_tables(lapply(order, function(name) makers[[name]]()))
}

# Standard deviations and correlations by term and class; correlations have no limits.
tidy_class_variances <- function(x, level) {
  varcor <- VarCorr(x)
  shown <- as.data.frame(varcor, level = level)
  rows <- data.frame(effect = "ran_pars", group = shown$grp, class = shown$class, term = paste0("sd__", shown$var1),
                     estimate = shown$sdcor, conf.low = sqrt(shown$lower), conf.high = sqrt(shown$upper))
  pairs <- lapply(names(varcor), function(group) {
    if (!isTRUE(attr(varcor[[group]], "correlated"))) {
      return(NULL)
    }
    lapply(names(varcor[[group]]), function(class) {
      correlation <- attr(varcor[[group]][[class]], "correlation")
      at <- which(lower.tri(correlation), arr.ind = TRUE)
      if (nrow(at) == 0L) {
        return(NULL)
      }
      names <- colnames(correlation)
      data.frame(effect = "ran_pars", group = group, class = class, estimate = correlation[at], conf.low = NA,
                 term = paste0("cor__", names[at[, 2L]], ".", names[at[, 1L]]), conf.high = NA)
    })
  })
  do.call(rbind, c(list(rows), unlist(pairs, recursive = FALSE)))
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
glance.multinomialModNN <- function(x, ...) {
  draws <- x$draws
  as_tibble_if_installed(data.frame(
    nobs = nobs(x), classes = length(x$classes), deviance = deviance(x), sampler = draws$sampler,
    chains = draws$n_chains, draws = draws$n_draws, rhat = as.numeric(draws$rhat), ess = as.numeric(draws$ess),
    divergences = draws$divergences
  ))
}

#' @rdname tidiers
augment.multinomialModNN <- function(x, ...) {
  not_multinomial("augment()", "use fitted() and residuals()")
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
