# From a parsed formula and data to the arrays of a model, all with R's own model.frame() and model.matrix().

na_actions <- c("omit", "exclude", "fail", "pass")

# The model frame, as lme4 has it: one frame for fixed and random variables, weights and offset.
#
# `call` is the matched call of lmernn(): weights, subset and offset are evaluated in the data, then where the formula
# was written, then where lmernn() was called.
build_frame <- function(parsed, data, call, caller) {
  env <- environment(parsed$formula)
  if (is.null(env)) env <- caller
  data <- check_data(data)
  check_variables(parsed$frame, data, env)
  check_dimensions(parsed$frame, data)
  extra <- lapply(call[intersect(c("subset", "weights", "offset"), names(call))], evaluate_extra, data, env, caller)
  for (name in names(extra)) check_extra(extra[[name]], name, data, parsed$frame, env)
  frame_call <- as.call(c(
    list(quote(stats::model.frame), formula = parsed$frame, data = data),
    extra,
    list(na.action = evaluate_na_action(call, caller))
  ))
  frame <- tryCatch(eval(frame_call), error = function(e) stop(frame_problem(e, parsed$frame, data), call. = FALSE))
  if (nrow(frame) == 0L) {
    stop("no rows are left: every row has a missing value or is outside subset.", call. = FALSE)
  }
  text_groups_as_factors(drop_unused_levels(frame), c(parsed$bars, parsed$varying))
}

# As drop.unused.levels = TRUE of model.frame(), which takes a quarter of a second at a million rows to find nothing.
drop_unused_levels <- function(frame) {
  for (name in names(frame)) {
    column <- frame[[name]]
    if (is.factor(column) && any(tabulate(column, nlevels(column)) == 0L)) frame[[name]] <- droplevels(column)
  }
  frame
}

# The distinct values in factor()'s order. Where that is the order of bytes, radix sorting finds it five times sooner.
sorted_text <- function(x) {
  by_bytes <- Sys.getlocale("LC_COLLATE") %in% c("C", "POSIX", "C.UTF-8")
  sort(unique(x), method = if (by_bytes) "radix" else "auto")
}

# Grouping variables that are text become factors in the frame, as in lme4.
text_groups_as_factors <- function(frame, bars) {
  names <- unique(unlist(lapply(bars, function(bar) vapply(group_parts(bar$group), deparse1, ""))))
  for (name in intersect(names, names(frame))) {
    if (is.character(frame[[name]])) frame[[name]] <- factor(frame[[name]], sorted_text(frame[[name]]))
  }
  frame
}

# What model.frame() complains about, with columns named where na.fail() only says that something is missing.
frame_problem <- function(error, formula, data) {
  message <- one_line(conditionMessage(error))
  columns <- intersect(all.vars(formula), names(data))
  missing <- vapply(columns, function(name) sum(is.na(data[[name]])), 0L)
  if (!grepl("missing values in object", message, fixed = TRUE) || all(missing == 0L)) {
    return(message)
  }
  found <- paste0("'", columns, "' (", missing, ")")[missing > 0L]
  sprintf("there are missing values in %s: use na.action = \"omit\" or \"exclude\".", abbreviate_list(found))
}

check_data <- function(data) {
  if (is.null(data) || inherits(data, "data.frame")) {
    return(as_plain_frame(data))
  }
  if (is.list(data) || is.environment(data)) {
    return(data)
  }
  stop(sprintf("data must be a data frame, not an object of class '%s'.", class(data)[1L]), call. = FALSE)
}

# A tibble or data.table keeps its columns but not its own indexing, which model.frame() does not expect.
as_plain_frame <- function(data) {
  if (is.null(data) || identical(class(data), "data.frame")) data else as.data.frame(data)
}

check_variables <- function(formula, data, env) {
  known <- c(names(data), ".")
  for (name in setdiff(all.vars(formula), known)) {
    value <- get0(name, envir = env)
    if (is.null(value) || is.function(value)) { # a column 't' that is missing must not become base::t
      columns <- if (length(names(data))) paste0(": the columns are ", abbreviate_list(names(data))) else ""
      stop(sprintf("the formula uses '%s', which is not a column of the data%s.", name, columns), call. = FALSE)
    }
  }
}

# model.frame() takes an array of three dimensions for one long vector.
check_dimensions <- function(formula, data) {
  for (name in intersect(all.vars(formula), names(data))) {
    if (length(dim(data[[name]])) > 2L) {
      stop(sprintf("the column '%s' has %d dimensions: make it a matrix with one row for each row of the data.", name,
                   length(dim(data[[name]]))), call. = FALSE)
    }
  }
}

abbreviate_list <- function(names, most = 10L) {
  if (length(names) > most) names <- c(names[seq_len(most)], "...")
  paste(names, collapse = ", ")
}

evaluate_extra <- function(expression, data, env, caller) {
  tryCatch(
    eval(expression, data, env),
    error = function(e) {
      tryCatch(eval(expression, data, caller), error = function(again) stop(conditionMessage(e), call. = FALSE))
    }
  )
}

check_extra <- function(value, name, data, formula, env) {
  if (is.null(value) || name == "subset") {
    return(invisible())
  }
  if (!is.numeric(value) && !(is.logical(value) && all(is.na(value)))) {
    stop(sprintf("%s must be numeric, not of class '%s'.", name, class(value)[1L]), call. = FALSE)
  }
  rows <- if (is.data.frame(data)) nrow(data) else NROW(eval(formula[[2L]], data, env))
  if (length(value) != rows) {
    stop(sprintf("%s has %d values but the data have %d rows.", name, length(value), rows), call. = FALSE)
  }
  if (name == "weights") {
    check_weights(value)
  }
}

check_weights <- function(weights) {
  if (anyNA(weights)) {
    stop(sprintf("weights has %d missing values: give every row a weight.", sum(is.na(weights))), call. = FALSE)
  }
  if (any(weights < 0)) {
    stop(sprintf("weights has %d negative values: weights must be positive.", sum(weights < 0)), call. = FALSE)
  }
}

# na.action = "omit", "na.omit" or na.omit; the default is R's own option.
evaluate_na_action <- function(call, caller) {
  if (is.null(call$na.action)) {
    return(getOption("na.action", "na.omit"))
  }
  action <- eval(call$na.action, caller)
  if (is.character(action)) {
    short <- sub("^na\\.", "", action)
    if (length(action) != 1L || !short %in% na_actions) {
      stop("na.action must be \"omit\", \"exclude\" or \"fail\", or a function such as na.omit.", call. = FALSE)
    }
    action <- paste0("na.", short)
  }
  action
}

# The response as a plain double vector; `model` is for messages.
response_of <- function(frame, model = "a linear mixed model") {
  y <- frame[[1L]]
  name <- names(frame)[1L]
  if (is.matrix(y) && ncol(y) == 1L) y <- drop(y)
  if (!is.numeric(y) || is.matrix(y)) {
    kind <- if (is.matrix(y)) "a matrix" else paste0("of class '", class(y)[1L], "'")
    stop(sprintf("the response '%s' is %s: %s needs one numeric column.", name, kind, model), call. = FALSE)
  }
  as.double(y)
}

# terms of a formula with the predvars that the model frame found, so that poly() or scale() of new data use the same
# centre and basis.
terms_in_frame <- function(formula, frame) {
  result <- terms(formula)
  whole <- attr(frame, "terms")
  at <- match(variable_names(result), variable_names(whole))
  if (anyNA(at)) {
    stop(sprintf("cannot find '%s' in the model frame.", variable_names(result)[is.na(at)][1L]), call. = FALSE)
  }
  attr(result, "predvars") <- as.call(c(quote(list), as.list(attr(whole, "predvars"))[at + 1L]))
  attr(result, "dataClasses") <- attr(whole, "dataClasses")[at]
  result
}

variable_names <- function(terms) vapply(as.list(attr(terms, "variables"))[-1L], deparse1, "")

# A model matrix with what is needed to make it again for new data.
#
# Returns list(terms, matrix, contrasts, xlev).
matrix_part <- function(formula, frame, contrasts = NULL) {
  part_terms <- terms_in_frame(formula, frame)
  unused <- setdiff(names(contrasts), rownames(attr(part_terms, "factors")))
  if (length(unused)) {
    stop(sprintf("contrasts names '%s', which is not a fixed-effect factor.", unused[1L]), call. = FALSE)
  }
  used <- tryCatch(
    stats::model.matrix(part_terms, frame, contrasts.arg = contrasts),
    error = function(e) stop(conditionMessage(e), call. = FALSE)
  )
  # names of rows are made when R first copies them: a quarter of a second at a million rows, for nothing
  dimnames(used) <- list(NULL, colnames(used))
  list(
    terms = part_terms,
    matrix = used,
    contrasts = attr(used, "contrasts"),
    xlev = stats::.getXlevels(part_terms, frame)
  )
}

# The columns of a bar; `matrix` is NULL for a plain intercept, which every row shares.
bar_part <- function(bar, frame) {
  if (identical(bar$columns, 1)) {
    return(list(terms = NULL, matrix = NULL, names = if (bar$covariance == "gp") bar$options$cov else "(Intercept)"))
  }
  part <- matrix_part(one_sided(bar$columns, environment(attr(frame, "terms"))), frame)
  part$names <- colnames(part$matrix)
  if (length(part$names) == 0L) {
    stop(sprintf("the random term %s has no columns left of the bar.", bar$label), call. = FALSE)
  }
  part
}

# A part's matrix for other data.
matrix_for <- function(part, data, na.action = stats::na.pass) {
  part_terms <- stats::delete.response(part$terms)
  frame <- stats::model.frame(part_terms, data, na.action = na.action, xlev = part$xlev)
  stats::model.matrix(part_terms, frame, contrasts.arg = part$contrasts)
}
