# Times lme4's glmer on a folder of columns:
#   Rscript glmer.R FOLDER FORMULA FAMILY REPEATS
# Prints JSON as the Python programs of this folder do.
suppressMessages(library(lme4))

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
formula <- as.formula(arguments[2])
family <- get(arguments[3])()
repeats <- as.integer(arguments[4])

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "columns.R"))
data <- read_columns(folder)
before <- memory_now()
# what loads on first use
invisible(glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial))

timed <- vapply(seq_len(repeats), function(i) {
  start <- proc.time()
  fit <<- suppressWarnings(suppressMessages(glmer(formula, data, family)))
  spent <- proc.time() - start
  c(spent[["elapsed"]], spent[["user.self"]] + spent[["sys.self"]])
}, c(0, 0))
cat(jsonlite::toJSON(list(
  wall = I(timed[1, ]), cpu = I(timed[2, ]), memory_before = before,
  objective = -2 * as.numeric(logLik(fit)),
  fixed = I(unname(fixef(fit)))
), auto_unbox = TRUE, digits = I(15)), "\n")
