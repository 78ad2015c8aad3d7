# R's half of the bridge: sourced once into an environment of its own.

# Evaluates code where every variable is a symbol, so that the call a fit keeps
# stays short; messages, warnings and the error come back as text.
run <- function(code, where) {
  messages <- character()
  warnings <- character()
  failure <- NULL
  value <- tryCatch(
    withCallingHandlers(
      eval(parse(text = code), where),
      message = function(m) {
        messages <<- c(messages, sub("\n$", "", conditionMessage(m)))
        invokeRestart("muffleMessage")
      },
      warning = function(w) {
        warnings <<- c(warnings, conditionMessage(w))
        invokeRestart("muffleWarning")
      }
    ),
    error = function(e) failure <<- conditionMessage(e)
  )
  list(value, messages, warnings, failure)
}

new_place <- function() new.env(parent = globalenv())

# ---- Python to R ------------------------------------------------------------

# Strings travel as UTF-8 text with a zero byte after each.
unpack_strings <- function(bytes, n) {
  out <- readBin(bytes, character(), n)
  Encoding(out) <- "UTF-8"
  out
}

put_strings <- function(codes, values) values[codes]

put_factor <- function(codes, levels, ordered) {
  attributes(codes) <- list(
    levels = levels,
    class = if (ordered) c("ordered", "factor") else "factor"
  )
  codes
}

put_date <- function(days) structure(days, class = "Date")

# A pandas time without a zone is shown by the clock it had, and remembers that
# it had none.
put_time <- function(seconds, zone) {
  out <- .POSIXct(seconds, tz = if (nzchar(zone)) zone else "UTC")
  if (!nzchar(zone)) attr(out, "no_zone") <- TRUE
  out
}

put_span <- function(seconds) {
  structure(seconds, class = "difftime", units = "secs")
}

put_frame <- function(columns, names, row_names) {
  attributes(columns) <- list(
    names = names, class = "data.frame",
    row.names = row_names
  )
  columns
}

default_row_names <- function(n) .set_row_names(n)

# ---- R to Python ------------------------------------------------------------

# Integers, because rpy2 gives no view of the memory of a raw vector.
pack_strings <- function(x) {
  x <- enc2utf8(x)
  Encoding(x) <- "bytes" # written as they are, whatever the locale
  bytes <- writeBin(x, raw())
  bytes <- c(bytes, raw(-length(bytes) %% 4))
  readBin(bytes, integer(), length(bytes) %/% 4)
}

take_frame <- function(x) {
  if (!is.data.frame(x)) x <- as.data.frame(x, stringsAsFactors = FALSE)
  rows <- attr(x, "row.names")
  list(
    names(x),
    if (.row_names_info(x) < 0 || !nrow(x)) NULL else rows,
    nrow(x),
    lapply(unclass(x), take_column)
  )
}

take_column <- function(x) {
  if (inherits(x, "POSIXlt")) x <- as.POSIXct(x)
  if (!is.null(dim(x)) || is.list(x)) {
    return(list("unknown", class(x)[1]))
  }
  if (is.factor(x)) {
    take_factor(x)
  } else if (inherits(x, "POSIXct")) {
    take_time(x)
  } else if (inherits(x, "Date")) {
    list("date", as.double(x))
  } else if (inherits(x, "difftime")) {
    units(x) <- "secs"
    list("span", as.double(x))
  } else if (inherits(x, "integer64")) {
    list("integer64", as.vector(unclass(x)))
  } else {
    take_vector(x)
  }
}

take_vector <- function(x) {
  switch(typeof(x),
    logical = ,
    integer = ,
    double = list(typeof(x), as.vector(x)),
    character = take_strings(x),
    list("unknown", typeof(x))
  )
}

take_strings <- function(x) {
  values <- unique(x)
  values <- values[!is.na(values)]
  codes <- match(x, values)
  list("character", codes, pack_strings(values), length(values))
}

take_factor <- function(x) {
  if (anyNA(levels(x))) {
    return(list("unknown", "factor with NA as a level"))
  }
  list(
    "factor", as.vector(unclass(x)), pack_strings(levels(x)), nlevels(x),
    is.ordered(x)
  )
}

take_time <- function(x) {
  zone <- attr(x, "tzone")[1]
  if (isTRUE(attr(x, "no_zone"))) {
    zone <- "none"
  } else if (is.null(zone) || !nzchar(zone)) {
    zone <- Sys.timezone()
  }
  list("time", as.double(x), if (is.na(zone)) "UTC" else zone)
}

# ---- lme4 -------------------------------------------------------------------

# A genuine lmerMod at a given theta: lme4's own steps, without its optimizer.
# The call is evaluated where its symbols are, and kept as it is.
lmer_at <- function(call_text, where, theta) {
  call <- match.call(lme4::lmer, parse(text = call_text)[[1]])
  parts_call <- call
  parts_call[[1]] <- quote(lme4::lFormula)
  parts <- eval(parts_call, where)
  if (length(parts$reTrms$theta) != length(theta)) {
    stop("this lme4 reads the formula as another model", call. = FALSE)
  }
  devfun <- do.call(lme4::mkLmerDevfun, parts)
  opt <- list(
    par = theta, fval = devfun(theta), feval = 1L, conv = 0L,
    message = "theta was estimated by pylmernn"
  )
  # refit(), profile() and bootMer() read these two
  attr(opt, "optimizer") <- "nloptwrap"
  attr(opt, "control") <- list()
  lme4::mkMerMod(environment(devfun), opt, parts$reTrms,
    fr = parts$fr, mc = call
  )
}

criterion <- function(fit) {
  if (lme4::isREML(fit)) {
    lme4::REMLcrit(fit)
  } else {
    -2 * as.numeric(stats::logLik(fit))
  }
}

as_plain_frame <- function(x) {
  as.data.frame(as.matrix(x), optional = TRUE, stringsAsFactors = FALSE)
}

printed <- function(code, where) {
  paste(utils::capture.output(print(eval(parse(text = code), where))),
    collapse = "\n"
  )
}
