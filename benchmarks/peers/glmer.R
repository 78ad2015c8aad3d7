# Times lme4's glmer on a folder of columns:
#   Rscript glmer.R FOLDER FORMULA FAMILY REPEATS
# Prints JSON as the Python programs of this folder do.
suppressMessages(library(lme4))

arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
formula <- as.formula(arguments[2])
family <- get(arguments[3])()
repeats <- as.integer(arguments[4])

read_column <- function(column, n) {
  path <- file.path(folder, paste0(column$name, ".bin"))
  if (column$type == "factor") {
    structure(
      readBin(path, "integer", n, endian = "little"),
      levels = unlist(column$levels), class = "factor"
    )
  } else {
    readBin(path, "double", n, endian = "little")
  }
}

described <- jsonlite::read_json(file.path(folder, "columns.json"))
data <- lapply(described$columns, read_column, n = described$n)
names(data) <- vapply(described$columns, `[[`, "", "name")
data <- as.data.frame(data)

status <- readLines("/proc/self/status")
before <- as.numeric(gsub("[^0-9]", "", grep("VmRSS", status, value = TRUE)))
# what loads on first use
invisible(glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial))

timed <- vapply(seq_len(repeats), function(i) {
  start <- proc.time()
  fit <<- suppressWarnings(suppressMessages(glmer(formula, data, family)))
  spent <- proc.time() - start
  c(spent[["elapsed"]], spent[["user.self"]] + spent[["sys.self"]])
}, c(0, 0))
cat(jsonlite::toJSON(list(
  wall = I(timed[1, ]), cpu = I(timed[2, ]), memory_before = before / 1024,
  objective = -2 * as.numeric(logLik(fit)),
  fixed = I(unname(fixef(fit)))
), auto_unbox = TRUE, digits = I(15)), "\n")
