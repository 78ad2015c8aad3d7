# What lme4's verbs answer, as text and as numbers: golden answers for tests/fit/test_verbs.py.
# Run: Rscript tests/fit/golden/verbs.R | gzip -9n > tests/fit/golden/verbs.json.gz
# lme4 stops a little short of its optimum; some Newton steps on its own devfun bring it there, so that printed digits are
# those of the optimum.
suppressMessages({
  library(lme4)
  library(broom.mixed)
})
options(width = 80)
tight <- lmerControl(optCtrl = list(xtol_abs = 1e-12, xtol_rel = 0, ftol_abs = 1e-13, ftol_rel = 0, maxeval = 1e5),
                     check.conv.grad = "ignore", check.conv.hess = "ignore", check.conv.singular = "ignore")
sleepstudy$w <- 1 + sleepstudy$Days %% 3
sleepstudy$o <- sleepstudy$Days / 2

models <- list(
  sleep = list("Reaction ~ Days + (Days | Subject)", "sleepstudy", TRUE),
  sleep_ml = list("Reaction ~ Days + (Days | Subject)", "sleepstudy", FALSE),
  sleep_double = list("Reaction ~ Days + (Days || Subject)", "sleepstudy", TRUE),
  sleep_weights = list("Reaction ~ Days + (1 | Subject)", "sleepstudy", TRUE, weights = "w"),
  sleep_offset = list("Reaction ~ Days + (Days | Subject)", "sleepstudy", FALSE, offset = "o"),
  sleep_slope = list("Reaction ~ 1 + (0 + Days | Subject)", "sleepstudy", TRUE),
  penicillin = list("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", TRUE),
  cake = list("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", TRUE),
  cake_ml = list("angle ~ recipe + temp + (1 | replicate) + (1 | recipe:replicate)", "cake", FALSE),
  pastes = list("strength ~ 1 + (1 | batch/cask)", "Pastes", TRUE),
  dyestuff2 = list("Yield ~ 1 + (1 | Batch)", "Dyestuff2", TRUE)
)

central <- function(f, x, free, h = 2e-5, wide = 1e-3) {
  k <- length(free)
  at <- function(i, j, si, sj, h) {
    z <- x
    z[free[i]] <- z[free[i]] + si * h
    z[free[j]] <- z[free[j]] + sj * h
    f(z)
  }
  gradient <- vapply(seq_len(k), function(i) (at(i, i, 0.5, 0.5, h) - at(i, i, -0.5, -0.5, h)) / (2 * h), 0)
  hessian <- matrix(0, k, k)
  for (i in seq_len(k)) for (j in seq_len(k)) {
    mixed <- at(i, j, 1, 1, wide) - at(i, j, 1, -1, wide) - at(i, j, -1, 1, wide) + at(i, j, -1, -1, wide)
    hessian[i, j] <- mixed / (4 * wide^2)
  }
  list(gradient = gradient, hessian = hessian)
}

polish <- function(fit) {
  f <- suppressMessages(update(fit, devFunOnly = TRUE))
  theta <- unname(getME(fit, "theta"))
  singular <- any(theta[getME(fit, "lower") == 0] < 1e-4)
  free <- if (singular) integer() else seq_along(theta)
  for (step in seq_len(if (length(free)) 4 else 0)) {
    d <- central(f, theta, free)
    theta[free] <- theta[free] - solve(d$hessian, d$gradient)
  }
  opt <- structure(list(par = theta, fval = f(theta), feval = 1, conv = 0, message = NULL), optimizer = "nloptwrap")
  call <- fit@call
  call[[1]] <- quote(lme4::lFormula)
  parts <- suppressMessages(eval(call))
  mkMerMod(environment(f), opt, parts$reTrms, fr = fit@frame, mc = fit@call)
}

fit_one <- function(m) {
  arguments <- list(formula = stats::as.formula(m[[1]], env = globalenv()), data = as.name(m[[2]]), REML = m[[3]],
                    control = quote(tight))
  for (extra in intersect(c("weights", "offset"), names(m))) arguments[[extra]] <- as.name(m[[extra]])
  fit <- suppressWarnings(suppressMessages(do.call(lme4::lmer, arguments, quote = FALSE)))
  fit <- polish(fit)
  fit@call$control <- NULL
  fit@call$REML <- NULL
  fit@call$data <- as.name(m[[2]])
  fit
}
lines_of <- function(x) utils::capture.output(print(x))
frame_of <- function(x) as.list(as.data.frame(lapply(x, function(v) if (is.factor(v)) as.character(v) else v),
                                             check.names = FALSE))

answers <- lapply(models, function(m) {
  fit <- fit_one(m)
  ml <- refitML(fit)
  data <- get(m[[2]])
  new <- data[c(1, 7, 20), ]
  assign("fit", fit, envir = globalenv())
  list(
    formula = m[[1]], data = m[[2]], REML = m[[3]], weights = m$weights, offset = m$offset,
    summary = lines_of(summary(fit)), print = lines_of(fit), varcorr = lines_of(VarCorr(fit)),
    varcorr_both = utils::capture.output(print(VarCorr(fit), comp = c("Variance", "Std.Dev."), digits = 3)),
    varcorr_frame = frame_of(as.data.frame(VarCorr(fit))),
    varcorr_lower = frame_of(as.data.frame(VarCorr(fit), order = "lower.tri")),
    ranef = frame_of(as.data.frame(ranef(fit, condVar = TRUE))), coef = lapply(coef(fit), frame_of),
    anova = lines_of(anova(fit)), anova_numbers = frame_of(anova(fit)),
    wald = frame_of(as.data.frame(confint(fit, method = "Wald"))),
    vcov = as.matrix(vcov(fit)), logLik = as.numeric(logLik(fit)), df = attr(logLik(fit), "df"), AIC = stats::AIC(fit),
    BIC = stats::BIC(fit), deviance_ml = deviance(fit, REML = FALSE), extractAIC = stats::extractAIC(fit),
    logLik_ml = as.numeric(logLik(ml)), df_residual = stats::df.residual(fit),
    loglik_text = lines_of(logLik(fit)),
    fitted = unname(fitted(fit)), resid = unname(resid(fit)), pearson = unname(resid(fit, "pearson")),
    scaled = unname(resid(fit, "pearson", scaled = TRUE)),
    hat = unname(hatvalues(fit)), cook = unname(cooks.distance(fit)), rstudent = unname(rstudent(fit)),
    predict = if (is.null(m$offset)) unname(predict(fit, new)),
    predict_fixed = if (is.null(m$offset)) unname(predict(fit, new, re.form = NA)),
    predict_random = if (is.null(m$offset)) unname(predict(fit, new, random.only = TRUE)),
    repca = lapply(rePCA(fit), function(x) x$sdev),
    tidy = frame_of(as.data.frame(tidy(fit, effects = c("fixed", "ran_pars", "ran_vals"), conf.int = FALSE))),
    tidy_vcov = frame_of(as.data.frame(tidy(fit, effects = "ran_pars", scales = "vcov"))),
    glance = frame_of(as.data.frame(glance(fit))), augment = frame_of(as.data.frame(augment(fit))),
    theta = as.list(getME(fit, "theta")), beta = getME(fit, "beta"), RX = as.matrix(getME(fit, "RX")),
    u_norm = sum(getME(fit, "u")^2), cmp = as.list(getME(fit, "devcomp")$cmp)
  )
})

a <- lmer(Reaction ~ 1 + (Days | Subject), sleepstudy, REML = FALSE, control = tight)
b <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE, control = tight)
k <- lmer(angle ~ recipe * temp + (1 | replicate), cake, REML = FALSE, control = tight)
k2 <- lmer(angle ~ recipe + temp + (1 | replicate), cake, REML = FALSE, control = tight)
p <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, REML = FALSE, control = tight)
d <- lmer(Yield ~ 1 + (1 | Batch), Dyestuff, REML = FALSE, control = tight)
set.seed(3)
long <- "angle ~ recipe * temperature + I(temp^2) + (1 + temp | recipe:replicate) + (1 | replicate)"
tables <- list(
  pair = lines_of(anova(a, b)), pair_numbers = frame_of(as.data.frame(anova(a, b))),
  drop_b = lines_of(drop1(b, test = "Chisq")), drop_b_none = lines_of(drop1(b)), drop_k = lines_of(drop1(k, test = "Chisq")),
  drop_k2 = lines_of(drop1(k2, test = "Chisq")), drop_k2_numbers = frame_of(as.data.frame(drop1(k2, test = "Chisq"))),
  sleep_profile = frame_of(as.data.frame(confint(b, quiet = TRUE))),
  penicillin_profile = frame_of(as.data.frame(confint(p, quiet = TRUE))),
  dyestuff_profile = frame_of(as.data.frame(confint(d, quiet = TRUE, level = 0.9))),
  new_names = names(attr(profile(b, signames = FALSE, which = "theta_"), "forward")),
  long_formula = utils::capture.output(print(suppressMessages(lmer(stats::as.formula(long), cake))))[2:3]
)
cat(jsonlite::toJSON(list(models = answers, tables = tables), digits = NA, auto_unbox = TRUE, na = "null", null = "null"))
