# Predictions, their standard errors, and which random effects they include.

#' Predict from a fit
#'
#' As [lme4::predict.merMod()], with standard errors that count the uncertainty of fixed and random effects together
#' (the variance parameters taken as known), and intervals made of them. An offset given as an argument of [lmernn()] is
#' evaluated in `newdata` too, which lme4 leaves out.
#'
#' A `gp()` or `embed()` of coordinates has values at new locations too, for which `allow.new.levels` is not needed.
#' Beside networks, standard errors count their uncertainty as well: that of the last layer, and the size of errors at
#' rows that a network has not learnt from.
#'
#' @param object A fit by [lmernn()].
#' @param newdata A data frame; by default the data of the fit.
#' @param re.form `NULL`: all random effects; `NA` or `~0`: none; a one-sided formula such as `~ (1 | Subject)`: those.
#' @param random.only Whether to leave the fixed effects and the offset out.
#' @param allow.new.levels Whether levels that the fit has not seen are predicted with random effects of zero. Their
#'   standard errors then count the whole variance of these effects. Otherwise they are an error.
#' @param na.action What happens to rows of `newdata` with missing values: by default they are predicted as `NA`.
#' @param se.fit Whether standard errors are wanted. Needs Python.
#' @param interval `"none"`, `"confidence"` (for the mean of the level) or `"prediction"` (for a new observation: with
#'   weight 1 in `newdata`, with its own weight in the data of the fit). `TRUE` is `"prediction"`. Needs Python.
#' @param level The coverage of the interval.
#' @param type `"link"` or `"response"`: the same for a linear model.
#' @param ... Nothing.
#' @return A named vector; with `interval` a matrix with columns `fit`, `lwr`, `upr`; with `se.fit` a list with elements
#'   `fit` and `se.fit`.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' new <- data.frame(Days = 10:12, Subject = "308")
#' predict(fit, new)
#' predict(fit, new, re.form = NA, interval = "confidence")
predict.merModNN <- function(object, newdata = NULL, re.form = NULL, random.only = FALSE, allow.new.levels = FALSE,
                             na.action = stats::na.pass, se.fit = FALSE,
                             interval = c("none", "confidence", "prediction"), level = 0.95,
                             type = c("link", "response"), ...) {
  if (...length()) {
    stop("predict() of a merModNN takes no further arguments.", call. = FALSE)
  }
  interval <- if (is.logical(interval)) c("none", "prediction")[isTRUE(interval) + 1L] else match.arg(interval)
  match.arg(type)
  include <- included_columns(object, re.form)
  rows <- if (is.null(newdata)) {
    old_rows(object)
  } else {
    new_rows(object, newdata, include, !random.only, allow.new.levels, na.action)
  }
  if (random.only) rows$X <- rows$offset <- rows$nets <- NULL
  pad <- function(values) stats::napredict(rows$na.action, stats::setNames(values, rows$names))
  fit <- predicted(object, rows, include)
  if (!se.fit && interval == "none") {
    return(pad(fit))
  }
  spread <- prediction_variances(object, rows, include)
  se <- sqrt(spread$variance)
  answer <- pad(fit)
  if (interval != "none") {
    noise <- spread$noise / (if (is.null(newdata)) row_weights(object) else 1)
    reach <- stats::qnorm((1 + level) / 2) * sqrt(spread$variance + if (interval == "prediction") noise else 0)
    answer <- cbind(fit = answer, lwr = pad(fit - reach), upr = pad(fit + reach))
  }
  if (se.fit) list(fit = answer, se.fit = pad(se)) else answer
}

# Which columns of each term belong to a prediction: a logical vector for each term.
included_columns <- function(object, re.form) {
  all_of <- function(value) lapply(object$cnms, function(names) rep(value, length(names)))
  if (is.null(re.form)) {
    return(unname(all_of(TRUE)))
  }
  if (!inherits(re.form, "formula")) {
    if (length(re.form) == 1L && is.na(re.form)) {
      return(unname(all_of(FALSE)))
    }
    stop("re.form must be NULL, NA or a formula such as ~ (1 | group).", call. = FALSE)
  }
  rhs <- re.form[[length(re.form)]]
  include <- unname(all_of(FALSE))
  written <- collect_bars(rhs)
  if (is.null(written) && !identical(rhs, 0)) {
    stop("re.form has no random term: use ~0 or NA for none.", call. = FALSE)
  }
  for (bar in unlist(lapply(written, expand_bar), recursive = FALSE)) {
    include <- include_bar(object, bar, include)
  }
  include
}

include_bar <- function(object, bar, include) {
  group <- group_label(bar$group)
  terms <- which(names(object$cnms) == group)
  names <- if (is_located(bar)) unlist(object$cnms[terms]) else bar_part(bar, object$frame[1:2, , drop = FALSE])$names
  missing <- setdiff(names, unlist(object$cnms[terms]))
  if (length(terms) == 0L || length(missing)) {
    stop(sprintf("re.form asks for %s, which is not among the random effects of the fit.", bar$label), call. = FALSE)
  }
  for (k in terms) include[[k]] <- include[[k]] | object$cnms[[k]] %in% names
  include
}

# What a prediction is made from: X, offset, codes and columns of each term, locations (NULL where a term has none),
# inputs of each network, names of the rows, na.action for padding.
old_rows <- function(object) {
  offset <- stats::model.offset(object$frame)
  list(
    X = fixed_matrix(object),
    offset = (if (is.null(offset)) 0 else offset) + class_networks(object),
    codes = lapply(unname(term_factors(object)), as.integer),
    locations = lapply(seq_len(n_terms(object)), function(k) {
      object$bars[[k]]$locations[as.integer(term_factors(object)[[k]]), , drop = FALSE]
    }),
    columns = lapply(seq_len(n_terms(object)), function(k) term_columns(object, k)),
    nets = lapply(object$networks$inputs, function(network) network_inputs(network, object$frame)$values),
    names = row.names(object$frame),
    na.action = attr(object$frame, "na.action")
  )
}

new_rows <- function(object, newdata, include, fixed, allow.new.levels, na.action) {
  newdata <- as_plain_frame(newdata)
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  parts <- prediction_parts(object, include, fixed)
  check_variables(parts$variables, newdata, environment(object$formula))
  kept <- rows_without_missing(object, newdata, parts, na.action)
  rows <- list(X = NULL, offset = 0, names = row.names(kept$data), na.action = kept$na.action)
  if (fixed) {
    rows$X <- keep_columns(object, one_sentence(matrix_for(object$fixed, kept$data)))
    rows$offset <- new_offset(object, kept$data)
    if (!is.null(object$networks)) {
      rows$nets <- new_inputs(object, kept$data)
      rows$offset <- rows$offset + network_values(object, rows$nets)
    }
  }
  of_terms <- lapply(seq_len(n_terms(object)), function(k) {
    if (any(include[[k]])) term_rows(object, k, kept$data, allow.new.levels) else unused_term_rows(object, k, kept$data)
  })
  for (part in c("codes", "columns", "locations")) rows[[part]] <- lapply(of_terms, `[[`, part)
  rows
}

# Codes, columns and locations of term k for new data.
term_rows <- function(object, k, newdata, allow.new.levels) {
  bar <- object$bars[[k]]
  places <- if (is_located(bar)) new_coordinates(object, bar, newdata)
  list(
    codes = if (is_located(bar)) known_locations(bar, places) else seen_codes(object, k, newdata, allow.new.levels),
    columns = if (is.null(bar$part$terms)) {
      matrix(1, nrow(newdata), 1L)
    } else {
      one_sentence(matrix_for(bar$part, newdata))
    },
    locations = places
  )
}

# The same for a term that is left out of a prediction: any level, and columns of zeros.
unused_term_rows <- function(object, k, newdata) {
  bar <- object$bars[[k]]
  first <- rep(1L, nrow(newdata))
  list(
    codes = first,
    columns = matrix(0, length(first), length(bar$names)),
    locations = bar$locations[first, , drop = FALSE]
  )
}

# The coordinates of new data (m x k), by the expressions of a term.
new_coordinates <- function(object, bar, newdata) {
  columns <- lapply(bar$coordinates, evaluate_variable, object, newdata)
  names(columns) <- vapply(bar$coordinates, deparse1, "")
  coordinates_in(bar, columns)
}

# A variable of the model frame for new data, with the centre and basis that scale() or poly() had in the fit.
evaluate_variable <- function(expression, object, newdata) {
  whole <- attr(object$frame, "terms")
  at <- match(deparse1(expression), variable_names(whole))
  if (!is.na(at)) expression <- attr(whole, "predvars")[[at + 1L]]
  one_sentence(eval(expression, newdata, environment(object$formula)))
}

# Runs code that may fail with base R's message and passes on that message alone.
one_sentence <- function(code) tryCatch(code, error = function(e) stop(one_line(conditionMessage(e)), call. = FALSE))

# A formula of all variables that new data must have.
prediction_parts <- function(object, include, fixed) {
  pieces <- if (fixed) list(stats::delete.response(object$fixed$terms)[[2L]]) else list()
  if (fixed) pieces <- c(pieces, unlist(lapply(object$networks$inputs, `[[`, "inputs"), recursive = FALSE))
  for (k in which(vapply(include, any, NA))) {
    bar <- object$bars[[k]]
    pieces <- c(pieces, list(bar$columns), if (is_located(bar)) bar$coordinates else group_parts(bar$group))
  }
  if (length(pieces) == 0L) pieces <- list(1)
  list(variables = one_sided(Reduce(function(a, b) call("+", a, b), pieces)))
}

rows_without_missing <- function(object, newdata, parts, na.action) {
  known <- intersect(all.vars(parts$variables), names(newdata))
  cleaned <- match.fun(na.action)(newdata[known])
  omitted <- attr(cleaned, "na.action")
  data <- if (is.null(omitted)) newdata else newdata[-omitted, , drop = FALSE]
  list(data = data, na.action = omitted)
}

# offset() terms of the formula and the offset argument, evaluated in new data.
new_offset <- function(object, newdata) {
  total <- numeric(nrow(newdata))
  env <- environment(object$formula)
  fixed <- object$fixed$terms
  for (i in attr(fixed, "offset")) {
    total <- total + eval(attr(fixed, "variables")[[i + 1L]], newdata, env)
  }
  if (!is.null(object$call$offset)) {
    offset <- evaluate_extra(object$call$offset, newdata, env, parent.frame())
    if (length(offset) != nrow(newdata)) {
      stop(sprintf("the offset has %d values but newdata has %d rows: make it a column of the data.", length(offset),
                   nrow(newdata)), call. = FALSE)
    }
    total <- total + offset
  }
  total
}

# Codes of term k in new data; 0 for a new level if those are allowed.
seen_codes <- function(object, k, newdata, allow.new.levels) {
  codes <- new_codes(object$bars[[k]]$group, levels(term_factors(object)[[k]]), newdata)
  unseen <- attr(codes, "unseen")
  if (length(unseen) && !allow.new.levels) {
    stop(sprintf("the grouping factor '%s' has levels that the fit has not seen: %s; use allow.new.levels = TRUE.",
                 object$bars[[k]]$label_group, abbreviate_list(unseen, 5L)), call. = FALSE)
  }
  as.integer(codes)
}

predicted <- function(object, rows, include) {
  total <- numeric(length(rows$names))
  if (!is.null(rows$X)) total <- total + as.vector(rows$X %*% object$beta) + rows$offset
  for (k in which(vapply(include, any, NA))) {
    codes <- rows$codes[[k]]
    known <- which(codes > 0L)
    part <- ifelse(is.na(codes), NA_real_, 0)
    part[known] <- modes_at(object, k, codes[known], function() rows$columns[[k]][known, , drop = FALSE], include[[k]])
    elsewhere <- which(codes == 0L)
    if (is_located(object$bars[[k]]) && length(elsewhere)) {
      part[elsewhere] <- field_at(object, k, rows$locations[[k]][elsewhere, , drop = FALSE])
    }
    total <- total + part
  }
  total
}

# Variances of predictions (of generalized models, of linear predictors), from Python, and the noise of a new
# observation beyond them: list(variance, noise), with NA where a row has missing values.
prediction_variances <- function(object, rows, include) {
  m <- length(rows$names)
  X <- if (is.null(rows$X)) matrix(0, m, length(object$beta)) else rows$X
  columns <- Map(function(z, used) sweep(z, 2L, as.numeric(used), `*`), rows$columns, include)
  missing <- Reduce(`|`, Map(function(z, codes) rowSums(is.na(z)) > 0 | is.na(codes), columns, rows$codes),
                    rowSums(is.na(X)) > 0)
  for (inputs in rows$nets) missing <- missing | rowSums(is.na(inputs)) > 0
  variance <- rep(NA_real_, m)
  whole <- which(!missing)
  if (length(whole) == 0L) {
    return(list(variance = variance, noise = NA_real_))
  }
  sent <- send_fit(object, networks = length(rows$nets) > 0L)
  meta <- c(sent$meta, list(rows = length(whole), include = as_array(vapply(include, any, NA)),
                            widths = as_array(vapply(rows$nets, ncol, 0L))))
  of_terms <- Map(function(z, codes, places) {
    c(as_buffers(codes[whole] - 1L), as_buffers(z[whole, , drop = FALSE]),
      if (!is.null(places)) as_buffers(places[whole, , drop = FALSE]))
  }, columns, rows$codes, rows$locations)
  inputs <- lapply(rows$nets, function(inputs) as_buffers(inputs[whole, , drop = FALSE]))
  buffers <- c(sent$buffers, if (ncol(X)) as_buffers(X[whole, , drop = FALSE]),
               unlist(unname(of_terms), recursive = FALSE), unlist(inputs, recursive = FALSE))
  reply <- call_python(if (isGLMM(object)) "predictor_variance" else "prediction_variance", meta, buffers, sent$modules)
  variance[whole] <- pmax(reply$arrays$variance, 0)
  list(variance = variance, noise = reply$noise)
}
