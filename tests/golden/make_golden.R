# Makes the golden numbers: lme4's optima, estimates and objectives at random
# theta for the models below, and the data they were fitted to.
#
#   OMP_NUM_THREADS=1 Rscript tests/golden/make_golden.R    (about 3 minutes)
#
# Writes tests/golden/models.json.gz, tests/golden/data/ and
# pylmernn/datasets/data/. Run from the root of the checkout.

suppressMessages({
  library(lme4)
  library(splines)
})

shipped <- "pylmernn/datasets/data" # the sets that examples use
beside <- "tests/golden/data" # the others

# ---- data -------------------------------------------------------------------

from_package <- function(name, package, columns = NULL) {
  holder <- new.env()
  utils::data(list = name, package = package, envir = holder)
  x <- as.data.frame(holder[[name]])
  class(x) <- "data.frame" # nlme's groupedData classes mean nothing here
  x[] <- lapply(x, function(v) {
    attributes(v) <- attributes(v)[c("levels", "class")]
    v
  })
  if (is.null(columns)) x else x[columns]
}

# sleepstudy with the columns that weights, offsets, dependent columns and
# missing values need, all made by plain arithmetic.
sleepstudy_more <- function() {
  x <- from_package("sleepstudy", "lme4")
  i <- seq_len(nrow(x))
  x$w <- 0.5 + (i %% 7) / 3
  x$o <- 10 * sin(i)
  x$Days2 <- 2 * x$Days
  x$phase <- cut(x$Days, c(-1, 2, 6, 9), labels = c("start", "mid", "end"))
  x$with_na <- ifelse(i %% 11 == 0, NA, x$Days)
  x$late <- x$Days > 4
  x
}

# An empty cell: two of the interaction's columns are dependent.
cake_gap <- function() {
  x <- from_package("cake", "lme4")
  x[!(x$recipe == "B" & x$temperature %in% c("185", "225")), ]
}

data_sets <- list(
  sleepstudy = from_package("sleepstudy", "lme4"),
  Dyestuff = from_package("Dyestuff", "lme4"),
  Dyestuff2 = from_package("Dyestuff2", "lme4"),
  Penicillin = from_package("Penicillin", "lme4"),
  Pastes = from_package("Pastes", "lme4"),
  cake = from_package("cake", "lme4"),
  InstEval = from_package("InstEval", "lme4"),
  sleepstudy_more = sleepstudy_more(),
  cake_gap = cake_gap(),
  Machines = from_package("Machines", "nlme"),
  Oxboys = from_package("Oxboys", "nlme"),
  Orthodont = from_package("Orthodont", "nlme"),
  Oxide = from_package("Oxide", "nlme"),
  Exam = from_package("Exam", "mlmRev"),
  Chem97 = from_package(
    "Chem97", "mlmRev", c("lea", "school", "score", "gender", "age", "gcsecnt")
  ),
  egsingle = from_package("egsingle", "mlmRev")
)
in_package <- c(
  "sleepstudy", "Dyestuff", "Dyestuff2", "Penicillin", "Pastes", "cake",
  "InstEval"
)

column_type <- function(x) {
  if (is.factor(x)) {
    list(type = "factor", ordered = is.ordered(x), levels = I(levels(x)))
  } else {
    list(type = switch(typeof(x), double = "float", typeof(x)))
  }
}

# A csv.gz that gives every double back exactly; its types go to columns.json.
write_set <- function(x, name, folder) {
  text <- lapply(x, function(v) {
    if (is.double(v)) {
      # The shortest of 15 and 17 digits that is exact.
      short <- formatC(v, digits = 15, format = "g", width = 1)
      exact <- formatC(v, digits = 17, format = "g", width = 1)
      out <- ifelse(suppressWarnings(as.numeric(short)) == v, short, exact)
      replace(out, is.na(v), NA)
    } else {
      as.character(v)
    }
  })
  path <- file.path(folder, paste0(name, ".csv.gz"))
  out <- gzfile(path, "wb", compression = 9)
  on.exit(close(out))
  utils::write.csv(
    as.data.frame(text, optional = TRUE, stringsAsFactors = FALSE), out,
    row.names = FALSE, quote = which(vapply(x, is.factor, TRUE)), eol = "\n"
  )
  lapply(x, column_type)
}

write_data <- function() {
  types <- list()
  for (name in names(data_sets)) {
    folder <- if (name %in% in_package) shipped else beside
    types[[folder]][[name]] <- write_set(data_sets[[name]], name, folder)
  }
  for (folder in names(types)) {
    text <- jsonlite::toJSON(types[[folder]], auto_unbox = TRUE)
    # one line a data set, so that a change shows
    writeLines(gsub("},\"([A-Za-z0-9_]+)\":{\"([A-Za-z_0-9.]+)\":{",
      "},\n\"\\1\":{\"\\2\":{", text,
      perl = TRUE
    ), file.path(folder, "columns.json"))
  }
}

# ---- models -----------------------------------------------------------------

model <- function(id, data, formula, reml = TRUE, weights = NULL,
                  offset = NULL) {
  list(
    id = id, data = data, formula = formula, REML = reml, weights = weights,
    offset = offset
  )
}

inst3 <- "y ~ service + (1|s) + (1|d) + (1|dept:service)"
models <- list(
  model("sleep", "sleepstudy", "Reaction ~ Days + (Days | Subject)"),
  model("sleep_ml", "sleepstudy", "Reaction ~ Days + (Days | Subject)", FALSE),
  model("sleep_bars", "sleepstudy", "Reaction ~ Days + (Days || Subject)"),
  model("sleep_int", "sleepstudy", "Reaction ~ Days + (1 | Subject)"),
  model(
    "sleep_null_ml", "sleepstudy", "Reaction ~ 1 + (Days | Subject)", FALSE
  ),
  model(
    "sleep_poly", "sleepstudy", "Reaction ~ poly(Days, 2) + (Days | Subject)"
  ),
  model(
    "sleep_factor", "sleepstudy", "Reaction ~ factor(Days) + (1 | Subject)"
  ),
  model(
    "sleep_square", "sleepstudy",
    "Reaction ~ Days + I(Days^2) + (0 + Days | Subject)"
  ),
  model(
    "sleep_log", "sleepstudy", "log(Reaction) ~ scale(Days) + (Days | Subject)"
  ),
  model(
    "sleep_ns", "sleepstudy",
    "Reaction ~ ns(Days, df = 3) + (Days | Subject)", FALSE
  ),
  model(
    "sleep_weights", "sleepstudy_more", "Reaction ~ Days + (Days | Subject)",
    weights = "w"
  ),
  model(
    "sleep_weights_ml", "sleepstudy_more",
    "Reaction ~ Days + (1 | Subject)", FALSE,
    weights = "w"
  ),
  model(
    "sleep_offset", "sleepstudy_more", "Reaction ~ Days + (Days | Subject)",
    offset = "o"
  ),
  model(
    "sleep_offset_term", "sleepstudy_more",
    "Reaction ~ Days + offset(o) + (1 | Subject)", FALSE
  ),
  model(
    "sleep_rank", "sleepstudy_more",
    "Reaction ~ Days + Days2 + phase + (Days | Subject)"
  ),
  model(
    "sleep_missing", "sleepstudy_more",
    "Reaction ~ with_na + (with_na | Subject)"
  ),
  model(
    "sleep_phase", "sleepstudy_more",
    "Reaction ~ phase * Days + (1 | Subject) + (1 | Subject:phase)"
  ),
  model(
    "sleep_logical", "sleepstudy_more",
    "Reaction ~ late / Days + (late | Subject)", FALSE
  ),
  model("dyestuff", "Dyestuff", "Yield ~ 1 + (1 | Batch)"),
  model("dyestuff_ml", "Dyestuff", "Yield ~ 1 + (1 | Batch)", FALSE),
  model("dyestuff2", "Dyestuff2", "Yield ~ 1 + (1 | Batch)"),
  model("dyestuff2_ml", "Dyestuff2", "Yield ~ 1 + (1 | Batch)", FALSE),
  model(
    "penicillin", "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"
  ),
  model(
    "penicillin_ml", "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)",
    FALSE
  ),
  model("pastes", "Pastes", "strength ~ 1 + (1 | batch / cask)"),
  model(
    "pastes_ml", "Pastes", "strength ~ 1 + (1 | sample) + (1 | batch)", FALSE
  ),
  model(
    "cake", "cake", "angle ~ recipe * temperature + (1 | recipe:replicate)"
  ),
  model(
    "cake_nested", "cake",
    "angle ~ recipe + temp + (1 | replicate / recipe)", FALSE
  ),
  model(
    "cake_gap", "cake_gap",
    "angle ~ recipe * temperature + (1 | recipe:replicate)"
  ),
  model(
    "cake_slope", "cake",
    "angle ~ recipe + temp + (0 + temp | replicate) + (1 | recipe:replicate)"
  ),
  model("inst_crossed", "InstEval", "y ~ 1 + (1 | s) + (1 | d)"),
  model("inst_three", "InstEval", inst3),
  model(
    "inst_fixed_ml", "InstEval", "y ~ service * dept + (1 | s) + (1 | d)", FALSE
  ),
  model("machines", "Machines", "score ~ Machine + (1 | Worker / Machine)"),
  model("machines_us", "Machines", "score ~ Machine + (Machine | Worker)"),
  model(
    "machines_cell_ml", "Machines", "score ~ Machine + (0 + Machine | Worker)",
    FALSE
  ),
  model(
    "oxboys", "Oxboys", "height ~ age + I(age^2) + (age + I(age^2) | Subject)"
  ),
  model(
    "oxboys_poly_ml", "Oxboys", "height ~ poly(age, 4) + (age | Subject)", FALSE
  ),
  model("orthodont", "Orthodont", "distance ~ age * Sex + (age | Subject)"),
  model(
    "orthodont_centred", "Orthodont",
    "distance ~ I(age - 11) * Sex + (I(age - 11) || Subject)", FALSE
  ),
  model("oxide", "Oxide", "Thickness ~ 1 + (1 | Lot / Wafer)"),
  model(
    "oxide_source_ml", "Oxide",
    "Thickness ~ Source + (1 | Lot:Wafer) + (1 | Lot)", FALSE
  ),
  model(
    "exam", "Exam",
    "normexam ~ standLRT + sex + schgend + (standLRT | school)"
  ),
  model(
    "exam_ml", "Exam", "normexam ~ standLRT * vr + (1 | school)", FALSE
  ),
  model(
    "chem", "Chem97", "score ~ gcsecnt + gender + (1 | school) + (1 | lea)"
  ),
  model(
    "chem_slope_ml", "Chem97",
    "score ~ gcsecnt + (gcsecnt | lea) + (1 | school)", FALSE
  ),
  model(
    "egsingle", "egsingle",
    "math ~ year * lowinc + retained + (year | childid) + (year | schoolid)"
  ),
  model(
    "egsingle_ml", "egsingle",
    "math ~ year * size + female + (1 | childid) + (year | schoolid)", FALSE
  )
)

# ---- fits -------------------------------------------------------------------

controls <- function(big) {
  tight <- list(xtol_abs = 1e-10, ftol_abs = 1e-10, maxeval = 3000)
  out <- list(
    lmerControl(
      optimizer = "nloptwrap", calc.derivs = FALSE, optCtrl = tight
    ),
    lmerControl(
      optimizer = "bobyqa", calc.derivs = FALSE,
      optCtrl = list(rhoend = 1e-9, maxfun = 10000)
    )
  )
  if (big) out[1] else out
}

# The arguments of lmer as symbols' values, so that weights and offset are
# plain vectors found in the data.
call_of <- function(m, data) {
  out <- list(
    formula = as.formula(m$formula), data = data, REML = m$REML
  )
  if (!is.null(m$weights)) out$weights <- data[[m$weights]]
  if (!is.null(m$offset)) out$offset <- data[[m$offset]]
  out
}

criterion <- function(fit) {
  if (isREML(fit)) REMLcrit(fit) else -2 * as.numeric(logLik(fit))
}

best_fit <- function(args, big) {
  fits <- lapply(controls(big), function(control) {
    suppressMessages(suppressWarnings(
      do.call(lmer, c(args, list(control = control)))
    ))
  })
  if (!big) { # once more from the best optimum found so far
    best <- fits[[which.min(vapply(fits, criterion, 0))]]
    start <- pmax(getME(best, "theta"), getME(best, "lower"))
    fits <- c(fits, best, suppressMessages(suppressWarnings(
      do.call(lmer, c(args, list(
        control = controls(big)[[1]], start = as.numeric(start)
      )))
    )))
  }
  fits[[which.min(vapply(fits, criterion, 0))]]
}

# 20 values of theta over the plausible range: diagonals of Lambda in (0, 2),
# the rest around zero; the last one is on the boundary.
random_theta <- function(fit, how_many = 20) {
  lower <- getME(fit, "lower")
  set.seed(20240229)
  lapply(seq_len(how_many), function(i) {
    theta <- ifelse(
      lower == 0, runif(length(lower), 0, 2), rnorm(length(lower), 0, 0.5)
    )
    if (i == how_many) theta[which(lower == 0)[1]] <- 0
    theta
  })
}

golden <- function(m) {
  data <- data_sets[[m$data]]
  args <- call_of(m, data)
  big <- m$data == "InstEval"
  fit <- best_fit(args, big)
  parts <- suppressMessages(do.call(lFormula, args))
  devfun <- do.call(mkLmerDevfun, parts)
  thetas <- random_theta(fit)
  sds <- as.data.frame(VarCorr(fit))
  modes <- ranef(fit)
  small <- sum(vapply(modes, nrow, 0L)) < 100
  cat(sprintf("%-20s %.8f\n", m$id, criterion(fit)))
  c(m[c("id", "data", "formula", "REML", "weights", "offset")], list(
    objective = criterion(fit),
    fixef = as.list(fixef(fit)),
    se = as.list(sqrt(diag(as.matrix(vcov(fit))))),
    sigma = sigma(fit),
    theta = as.list(unname(getME(fit, "theta"))),
    theta_names = as.list(names(getME(fit, "theta"))),
    nobs = nobs(fit),
    ngrps = as.list(ngrps(fit)),
    varcorr = sds,
    singular = isSingular(fit),
    ranef = if (small) {
      lapply(modes, function(x) {
        list(
          levels = as.list(rownames(x)), columns = as.list(colnames(x)),
          values = as.matrix(x)
        )
      })
    },
    random_theta = lapply(thetas, function(x) as.list(unname(x))),
    random_objective = as.list(vapply(thetas, devfun, 0))
  ))
}

if (!interactive()) {
  write_data()
  wanted <- commandArgs(trailingOnly = TRUE) # some ids only, for a trial
  if (length(wanted)) {
    models <- Filter(function(m) m$id %in% wanted, models)
  }
  out <- list(
    made_with = list(
      R = R.version.string, lme4 = as.character(packageVersion("lme4"))
    ),
    models = lapply(models, golden)
  )
  file <- if (length(wanted)) "/dev/null" else "tests/golden/models.json.gz"
  holder <- gzfile(file, "wb", compression = 9)
  writeLines(
    jsonlite::toJSON(out, auto_unbox = TRUE, digits = I(17), null = "null"),
    holder
  )
  close(holder)
}
