# What the R programs of this folder share.

# A folder of columns, as lmm_cases.py writes it, as a data frame.
read_columns <- function(folder) {
  described <- jsonlite::read_json(file.path(folder, "columns.json"))
  columns <- lapply(described$columns, function(column) {
    path <- file.path(folder, paste0(column$name, ".bin"))
    if (column$type == "factor") {
      structure(
        readBin(path, "integer", described$n, endian = "little"),
        levels = unlist(column$levels), class = "factor"
      )
    } else {
      readBin(path, "double", described$n, endian = "little")
    }
  })
  names(columns) <- vapply(described$columns, `[[`, "", "name")
  as.data.frame(columns)
}

# Memory of this process in MB.
memory_now <- function() {
  status <- readLines("/proc/self/status")
  as.numeric(gsub("[^0-9]", "", grep("VmRSS", status, value = TRUE))) / 1024
}
