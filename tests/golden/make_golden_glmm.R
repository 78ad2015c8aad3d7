# Makes the golden numbers of generalized linear mixed models: optima and
# objectives at fixed parameters from lme4, optima from glmmTMB where a
# dispersion is estimated, and the data.
#
#   OMP_NUM_THREADS=1 Rscript tests/golden/make_golden_glmm.R  (about 3 minutes)
#
# Writes tests/golden/glmm_models.json and tests/golden/glmm_data/. Run from
# the root of the checkout.

suppressMessages({
  library(lme4)
  library(glmmTMB)
})
script <- new.env() # write_set() and from_package() of the linear models
script$interactive <- function() TRUE # define its functions, run nothing
sys.source("tests/golden/make_golden.R", script)
from_package <- script$from_package
folder <- "tests/golden/glmm_data"

# ---- data -------------------------------------------------------------------

with_obs <- function(x) {
  x$obs <- factor(seq_len(nrow(x)))
  x
}

culcita <- function() {
  holder <- new.env()
  load(
    system.file("testdata", "culcita_dat.RData", package = "lme4"), holder
  )
  x <- as.data.frame(holder$culcita_dat)
  x$block <- factor(x$block)
  x
}

arabidopsis <- function() {
  x <- from_package("Arabidopsis", "lme4")
  x$gen <- factor(x$gen)
  x$nutrient <- factor(x$nutrient)
  x$rack <- factor(x$rack)
  with_obs(x)
}

epil <- function() {
  x <- from_package("epil", "MASS")
  x$subject <- factor(x$subject)
  with_obs(x)
}

grouse <- function() {
  x <- from_package("grouseticks", "lme4")
  x$cHEIGHT <- (x$HEIGHT - mean(x$HEIGHT)) / 100
  x
}

data_sets <- list(
  cbpp = with_obs(from_package("cbpp", "lme4")),
  VerbAgg = from_package("VerbAgg", "lme4"),
  Contraception = from_package("Contraception", "mlmRev"),
  grouseticks = grouse(),
  bacteria = from_package("bacteria", "MASS"),
  Mmmec = from_package("Mmmec", "mlmRev"),
  epil = epil(),
  culcita = culcita(),
  Arabidopsis = arabidopsis(),
  sleepstudy = from_package("sleepstudy", "lme4")
)

write_data <- function() {
  dir.create(folder, showWarnings = FALSE)
  types <- list()
  for (name in names(data_sets)) {
    types[[name]] <- script$write_set(data_sets[[name]], name, folder)
  }
  text <- jsonlite::toJSON(types, auto_unbox = TRUE)
  writeLines(text, file.path(folder, "columns.json"))
}

# ---- models -----------------------------------------------------------------

model <- function(id, data, formula, family = "binomial", link = NULL,
                  agq = 1, weights = NULL) {
  list(
    id = id, data = data, formula = formula, family = family, link = link,
    nAGQ = agq, weights = weights
  )
}

cbpp <- "cbind(incidence, size - incidence) ~ period + (1 | herd)"
contra <- "use ~ age + I(age^2) + urban + livch + (1 | district)"
epil_formula <- "y ~ lbase * trt + lage + V4 + (1 | subject)"
ticks <- "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)"
lme4_models <- list(
  model("cbpp", "cbpp", cbpp),
  model("cbpp_0", "cbpp", cbpp, agq = 0),
  model("cbpp_9", "cbpp", cbpp, agq = 9),
  model("cbpp_25", "cbpp", cbpp, agq = 25),
  model("cbpp_obs", "cbpp", paste(cbpp, "+ (1 | obs)")),
  model(
    "cbpp_weights", "cbpp", "incidence / size ~ period + (1 | herd)",
    weights = "size"
  ),
  model("cbpp_probit", "cbpp", cbpp, link = "probit"),
  model("cbpp_cloglog", "cbpp", cbpp, link = "cloglog"),
  model("cbpp_cauchit", "cbpp", cbpp, link = "cauchit"),
  model("contraception", "Contraception", contra),
  model("contraception_0", "Contraception", contra, agq = 0),
  model("contraception_7", "Contraception", contra, agq = 7),
  model(
    "contraception_slope", "Contraception",
    "use ~ age + I(age^2) + urban + livch + (urban | district)"
  ),
  model("contraception_probit", "Contraception", contra, link = "probit"),
  model(
    "verbagg", "VerbAgg",
    "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
  ),
  model(
    "verbagg_slope", "VerbAgg",
    "r2 ~ Anger + Gender + mode + situ + (mode | id) + (1 | item)"
  ),
  model("ticks", "grouseticks", ticks, "poisson"),
  model(
    "ticks_slope", "grouseticks",
    "TICKS ~ YEAR + cHEIGHT + (cHEIGHT | LOCATION) + (1 | INDEX)", "poisson"
  ),
  model(
    "bacteria", "bacteria", "y ~ trt + I(week > 2) + (1 | ID)"
  ),
  model(
    "mmmec", "Mmmec",
    "deaths ~ uvb + offset(log(expected)) + (1 | nation) + (1 | region)",
    "poisson"
  ),
  model("epil", "epil", epil_formula, "poisson"),
  model("epil_obs", "epil", paste(epil_formula, "+ (1 | obs)"), "poisson"),
  model("epil_11", "epil", epil_formula, "poisson", agq = 11),
  model("culcita", "culcita", "predation ~ ttt + (1 | block)"),
  model(
    "arabidopsis", "Arabidopsis",
    paste(
      "total.fruits ~ nutrient * amd + rack + status + (1 | popu) +",
      "(1 | gen) + (1 | obs)"
    ),
    "poisson"
  )
)
tmb_models <- list(
  model("epil_nb", "epil", epil_formula, "negative.binomial"),
  model(
    "ticks_nb", "grouseticks",
    "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)",
    "negative.binomial"
  ),
  model(
    "sleep_gamma", "sleepstudy", "Reaction ~ Days + (Days | Subject)",
    "Gamma", "log"
  ),
  model(
    "sleep_beta", "sleepstudy",
    "I((Reaction - 180) / 300) ~ Days + (Days | Subject)", "beta"
  ),
  model(
    "sleep_gamma_int", "sleepstudy", "Reaction ~ Days + (1 | Subject)",
    "Gamma", "log"
  )
)

# ---- fits -------------------------------------------------------------------

family_of <- function(m) {
  switch(m$family,
    binomial = binomial(if (is.null(m$link)) "logit" else m$link),
    poisson = poisson(),
    negative.binomial = nbinom2(),
    beta = beta_family(),
    Gamma = Gamma(m$link)
  )
}

# What lme4 leaves out of -2 log L where nAGQ > 1: the log-likelihood of the
# saturated model.
left_out <- function(fit, agq) {
  if (agq < 2) {
    return(0)
  }
  r <- fit@resp
  -2 * switch(family(fit)$family,
    binomial = sum(dbinom(
      round(r$weights * r$y), r$weights, r$y,
      log = TRUE
    )),
    poisson = sum(dpois(r$y, r$y, log = TRUE))
  )
}

lme4_golden <- function(m) {
  data <- data_sets[[m$data]]
  args <- list(
    formula = as.formula(m$formula), data = data, family = family_of(m),
    nAGQ = m$nAGQ
  )
  if (!is.null(m$weights)) args$weights <- data[[m$weights]]
  control <- function(optimizer, tol = 1e-9) {
    glmerControl(optimizer = optimizer, tolPwrss = tol, calc.derivs = FALSE)
  }
  fits <- lapply(c("bobyqa", "nloptwrap"), function(optimizer) {
    suppressMessages(suppressWarnings(
      do.call(glmer, c(args, list(control = control(optimizer))))
    ))
  })
  value <- function(fit) -2 * as.numeric(logLik(fit))
  fit <- fits[[which.min(vapply(fits, value, 0))]]
  constant <- left_out(fit, m$nAGQ)
  # As exact as lme4's step halving, which judges by rounding, lets it be.
  devfuns <- lapply(c(1e-12, 1e-10, 1e-8), function(tol) {
    suppressWarnings(do.call(
      glmer, c(args, list(control = control("bobyqa", tol), devFunOnly = TRUE))
    ))
  })
  first_of <- function(par) {
    for (devfun in devfuns) {
      value <- tryCatch(devfun(par), error = function(e) NULL)
      if (!is.null(value)) {
        return(value)
      }
    }
    stop("lme4 finds no modes for ", m$id)
  }
  theta <- unname(getME(fit, "theta"))
  beta <- unname(fixef(fit))
  se <- sqrt(diag(as.matrix(vcov(fit, use.hessian = FALSE))))
  set.seed(1)
  points <- lapply(1:4, function(i) {
    list(
      theta = theta * c(1, 0.7, 1.4, 1.1)[i] + 0.02 * (i > 1),
      beta = beta + (i > 1) * rnorm(length(beta), 0, 0.3) * se
    )
  })
  at <- vapply(points, function(x) {
    first_of(if (m$nAGQ == 0) x$theta else c(x$theta, x$beta))
  }, 0)
  cat(sprintf("%-22s %.8f\n", m$id, value(fit) + constant))
  modes <- ranef(fit)
  c(m, list(
    program = "lme4", objective = value(fit) + constant,
    theta = I(theta), fixef = as.list(fixef(fit)), points = points,
    point_objective = I(at + constant),
    ranef = if (sum(vapply(modes, nrow, 0L)) < 100) {
      lapply(modes, function(x) I(unname(as.matrix(x))))
    },
    nobs = nobs(fit), df = attr(logLik(fit), "df")
  ))
}

tmb_golden <- function(m) {
  fit <- glmmTMB(
    as.formula(m$formula), data_sets[[m$data]],
    family = family_of(m)
  )
  cat(sprintf("%-22s %.8f\n", m$id, -2 * as.numeric(logLik(fit))))
  c(m, list(
    program = "glmmTMB", objective = -2 * as.numeric(logLik(fit)),
    fixef = as.list(fixef(fit)$cond), sigma = sigma(fit),
    sd = I(unlist(lapply(VarCorr(fit)$cond, attr, "stddev"),
      use.names = FALSE
    )),
    nobs = nobs(fit), df = attr(logLik(fit), "df")
  ))
}

# Standard errors from the Hessian: glmmTMB's is exact, glmer's is a difference
# of deviances, good to two digits here.
errors <- function() {
  fit <- glmmTMB(as.formula(cbpp), data_sets$cbpp, family = binomial)
  as.list(sqrt(diag(vcov(fit)$cond)))
}

if (!interactive()) {
  write_data()
  out <- list(
    made_with = list(
      R = R.version.string, lme4 = as.character(packageVersion("lme4")),
      glmmTMB = as.character(packageVersion("glmmTMB"))
    ),
    cbpp_se = errors(),
    models = c(lapply(lme4_models, lme4_golden), lapply(tmb_models, tmb_golden))
  )
  writeLines(
    jsonlite::toJSON(out, auto_unbox = TRUE, digits = I(17), null = "null"),
    "tests/golden/glmm_models.json"
  )
}
