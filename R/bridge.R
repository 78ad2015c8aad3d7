# Talking to Python: raw bytes and JSON text only, and never before a model is fitted.

bridge <- new.env(parent = emptyenv())

virtualenv_name <- "r-pylmernn"
python_packages <- c("numpy", "scipy", "pandas", "tqdm") # for linear models; networks and CUDA need torch too

# The module pylmernn.rdoor of the Python source inside this package; starts Python on first use.
python_half <- function() {
  refuse_second_bridge()
  if (is.null(bridge$module)) bridge$module <- import_python_half()
  bridge$module
}

# rpy2 and reticulate in one process abort it, so an R that runs inside Python is refused.
refuse_second_bridge <- function() {
  owner <- sub("^.*current_pid=([0-9]+).*$", "\\1", Sys.getenv("PYTHON_SESSION_INITIALIZED"))
  if (identical(owner, as.character(Sys.getpid()))) {
    stop("this R runs inside Python, where a second Python would end the session: call pylmernn from Python instead.",
         call. = FALSE)
  }
}

import_python_half <- function() {
  choose_python()
  advice <- "run install_pylmernn(), or set RETICULATE_PYTHON to a Python that has numpy, scipy and pandas."
  if (!start_python()) {
    stop("no Python was found: ", advice, call. = FALSE)
  }
  source <- system.file("python", package = "pylmernn")
  tryCatch(
    reticulate::import_from_path("pylmernn.rdoor", source, convert = FALSE),
    error = function(e) {
      stop("pylmernn's Python half cannot be loaded (", one_line(conditionMessage(e)), "): ", advice, call. = FALSE)
    }
  )
}

# reticulate would offer to install Miniconda; install_pylmernn() is the way here.
start_python <- function() {
  old <- Sys.getenv("RETICULATE_MINICONDA_ENABLED", NA)
  Sys.setenv(RETICULATE_MINICONDA_ENABLED = "FALSE")
  on.exit({
    if (is.na(old)) Sys.unsetenv("RETICULATE_MINICONDA_ENABLED") else Sys.setenv(RETICULATE_MINICONDA_ENABLED = old)
  })
  # reticulate takes any pyproject.toml in the working directory for a Poetry project and warns
  suppressWarnings(tryCatch(reticulate::py_available(initialize = TRUE), error = function(e) FALSE))
}

# reticulate's own rules, with our virtual environment where the user has named no other Python.
choose_python <- function() {
  chosen <- nzchar(Sys.getenv("RETICULATE_PYTHON")) || nzchar(Sys.getenv("RETICULATE_PYTHON_ENV")) ||
    reticulate::py_available(initialize = FALSE)
  if (chosen) {
    return(invisible())
  }
  if (reticulate::virtualenv_exists(virtualenv_name)) {
    reticulate::use_virtualenv(virtualenv_name, required = FALSE)
  } else if ("py_require" %in% getNamespaceExports("reticulate")) { # from reticulate 1.41 on
    getExportedValue("reticulate", "py_require")(python_packages, python_version = ">=3.11")
  }
}

one_line <- function(text) {
  lines <- trimws(strsplit(text, "\n", fixed = TRUE)[[1L]])
  lines <- lines[nzchar(lines)]
  if (length(lines)) sub("[.:]$", "", lines[1L]) else "unknown error"
}

#' Whether Python and what pylmernn needs in it can be loaded
#'
#' Starts Python if it has not been started. Fitting, [refit()] and standard errors of predictions need Python; all else
#' works on the stored numbers of a fit.
#'
#' @return `TRUE` or `FALSE`.
#' @seealso [install_pylmernn()]
#' @export
#' @examples
#' python_ready()
python_ready <- function() {
  tryCatch(!is.null(python_half()), error = function(e) FALSE)
}

#' Install the Python packages that pylmernn needs
#'
#' Makes the virtual environment `r-pylmernn` with numpy, scipy, pandas and tqdm, which [lmernn()] then finds by itself.
#' A Python named in the environment variable `RETICULATE_PYTHON` is used instead where that is set.
#'
#' @param envname Name or path of the virtual environment.
#' @param python Path of the Python (3.11 or newer) to build it from; by default reticulate's choice.
#' @param packages More Python packages, as pip takes them: `"torch"` for networks and `device = "cuda"`, or pins like
#'   `"numpy<3"`.
#' @return The path of the environment, invisibly.
#' @export
#' @examples
#' \dontrun{
#' install_pylmernn()
#' }
install_pylmernn <- function(envname = "r-pylmernn", python = NULL, packages = NULL) {
  if (!reticulate::virtualenv_exists(envname)) {
    reticulate::virtualenv_create(envname, python = python, packages = NULL)
  }
  reticulate::virtualenv_install(envname, packages = c(python_packages, packages), ignore_installed = FALSE)
  message("Installed. Restart R if Python was already running in this session.")
  invisible(reticulate::virtualenv_python(envname))
}

# Calls a function of rdoor.py: `meta` goes as JSON, `buffers` is a list of raw vectors, `modules` a named list of torch
# modules or NULL.
#
# Returns the reply's header with the element `arrays`, a named list of double vectors.
call_python <- function(name, meta, buffers, modules = NULL) {
  module <- python_half()
  text <- jsonlite::toJSON(meta, auto_unbox = TRUE, digits = NA, null = "null")
  reply <- tryCatch(
    reticulate::py_to_r(module[[name]](as.character(text), buffers, modules)),
    error = function(e) stop("Python failed: ", one_line(conditionMessage(e)), call. = FALSE)
  )
  if (is.character(reply)) reply <- list(reply)
  header <- jsonlite::fromJSON(reply[[1L]])
  if (!is.null(header$error)) stop(header$error, call. = FALSE)
  bodies <- lapply(reply[-1L], function(bytes) readBin(bytes, "double", length(bytes) / 8))
  header$arrays <- stats::setNames(bodies, header$arrays)
  header
}

# A vector or matrix as raw vectors, in a list of one, or of more where one would be too long for writeBin().
as_buffers <- function(x) {
  if (!is.null(dim(x))) x <- as.vector(x)
  most <- 2^27 # doubles: 1 GB
  if (length(x) <= most) {
    return(list(writeBin(x, raw())))
  }
  starts <- seq(1, length(x), by = most)
  lapply(starts, function(start) writeBin(x[start:min(start + most - 1, length(x))], raw()))
}

# Vectors that JSON must keep as arrays even at length one.
as_array <- function(x) I(as.vector(x))
