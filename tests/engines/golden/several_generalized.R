# Golden numbers of generalized linear mixed models with random slopes by several factors, which a linear network with
# several bars is: from lme4, and from glmmTMB where a dispersion is estimated.
#
#   OMP_NUM_THREADS=1 Rscript tests/engines/golden/several_generalized.R
#
# Reads tests/golden/glmm_data/, writes tests/engines/golden/several_generalized.json. Run from the root of the checkout.

suppressMessages({
  library(lme4)
  library(glmmTMB)
})

read <- function(name) utils::read.csv(gzfile(file.path("tests/golden/glmm_data", paste0(name, ".csv.gz"))))
women <- read("Contraception")
women$y <- as.numeric(women$use == "Y")
women$decades <- women$age / 10
deaths <- read("Mmmec")
data <- list(Contraception = women, Mmmec = deaths)

models <- list(
  list(id = "binomial, beside a bar", data = "Contraception", family = "binomial", response = "y", x = "decades",
       bars = "(1 + decades | district) + (1 | livch)", network = "(nn | district) + (1 | livch)", offset = ""),
  list(id = "binomial, crossed", data = "Contraception", family = "binomial", response = "y", x = "decades",
       bars = "(1 + decades | district) + (1 + decades | livch)", network = "(nn | district) + (nn | livch)",
       offset = ""),
  list(id = "poisson, beside a bar", data = "Mmmec", family = "poisson", response = "deaths", x = "uvb",
       bars = "(1 + uvb | nation) + (1 | region)", network = "(nn | nation) + (1 | region)",
       offset = " + offset(log(expected))"),
  list(id = "poisson, nested", data = "Mmmec", family = "poisson", response = "deaths", x = "uvb",
       bars = "(1 + uvb | nation/region)", network = "(nn | nation/region)", offset = " + offset(log(expected))"),
  list(id = "negative binomial, beside a bar", data = "Mmmec", family = "negative.binomial", response = "deaths",
       x = "uvb", bars = "(1 + uvb | nation) + (1 | region)", network = "(nn | nation) + (1 | region)",
       offset = " + offset(log(expected))")
)

fitted_by_them <- function(model) {
  text <- sprintf("%s ~ %s%s + %s", model$response, model$x, model$offset, model$bars)
  formula <- stats::as.formula(text)
  if (model$family == "negative.binomial") {
    fit <- glmmTMB(formula, data[[model$data]], family = nbinom2)
    return(list(objective = -2 * as.numeric(logLik(fit)), beta = fixef(fit)$cond, phi = sigma(fit),
                covariances = lapply(VarCorr(fit)$cond, function(S) unname(as.matrix(S[, ])))))
  }
  control <- glmerControl("bobyqa", optCtrl = list(maxfun = 1e5, rhoend = 1e-9))
  fit <- glmer(formula, data[[model$data]], model$family, control = control)
  list(objective = -2 * as.numeric(logLik(fit)), beta = fixef(fit), phi = 1,
       covariances = lapply(VarCorr(fit), function(S) unname(as.matrix(S[, ]))))
}

found <- lapply(models, function(model) {
  theirs <- fitted_by_them(model)
  theirs$beta <- unname(theirs$beta)
  theirs$covariances <- lapply(theirs$covariances, unname)
  c(model, theirs)
})
made_with <- list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
                  glmmTMB = as.character(packageVersion("glmmTMB")))
text <- jsonlite::toJSON(list(made_with = made_with, models = found), auto_unbox = TRUE, digits = I(10), pretty = TRUE)
writeLines(text, "tests/engines/golden/several_generalized.json")
