# Times lme4, or ours from R, on a folder of columns:
#   Rscript fit_in_r.R FOLDER FORMULA REPEATS REML|ML lme4|pylmernn
# Prints JSON as the Python programs of this folder do.
suppressMessages(library(lme4))

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
formula <- as.formula(arguments[2])
repeats <- as.integer(arguments[3])
reml <- arguments[4] == "REML"
ours <- arguments[5] == "pylmernn"
fitter <- if (ours) pylmernn::lmernn else lmer
criterion <- if (ours) pylmernn::REMLcrit else REMLcrit

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "columns.R"))
data <- read_columns(folder)
before <- memory_now()

# what loads on first use
invisible(fitter(Reaction ~ Days + (Days | Subject), sleepstudy))
wall <- cpu <- numeric(repeats)
for (i in seq_len(repeats)) {
  start <- proc.time()
  fit <- suppressWarnings(suppressMessages(fitter(formula, data, REML = reml)))
  spent <- proc.time() - start
  wall[i] <- spent[["elapsed"]]
  cpu[i] <- spent[["user.self"]] + spent[["sys.self"]]
}
# proc.time() has steps of a millisecond: the mean of many short fits is finer
if (repeats > 5) {
  start <- proc.time()
  for (i in seq_len(repeats)) {
    suppressWarnings(suppressMessages(fitter(formula, data, REML = reml)))
  }
  spent <- (proc.time() - start) / repeats
  wall <- spent[["elapsed"]]
  cpu <- spent[["user.self"]] + spent[["sys.self"]]
}
cat(jsonlite::toJSON(list(
  wall = I(wall), cpu = I(cpu), memory_before = before,
  objective = if (reml) criterion(fit) else -2 * as.numeric(logLik(fit)),
  evaluations = if (ours) NA else fit@optinfo$feval,
  variances = I(as.data.frame(VarCorr(fit))$vcov),
  fixed = I(unname(fixef(fit))),
  blas = basename(extSoftVersion()[["BLAS"]])
), auto_unbox = TRUE, digits = I(15)), "\n")
