# States of sequences, their probabilities and likelihood, and deviations of new groups.

# Whether the columns of sequence and time are there.
check_order_columns <- function(data, sequence, time) {
  for (argument in c("sequence", "time")) {
    name <- if (argument == "sequence") sequence else time
    if (is.null(name)) next
    if (!is.character(name) || length(name) != 1L || is.na(name)) {
      stop(sprintf("%s must be the name of a column, in quotes.", argument), call. = FALSE)
    }
    if (!name %in% names(data)) {
      stop(sprintf("the data have no column '%s', which %s names: the columns are %s.", name, argument,
                   abbreviate_list(names(data))), call. = FALSE)
    }
  }
}

# Sequences and times of some rows of the data as rsequences.py reads them: list(meta, buffers, names, codes, ranks), of
# which codes of the sequences start at 0.
order_of <- function(data, sequence, time, rows = seq_len(nrow(data))) {
  labels <- as.character(data[[sequence]])[rows]
  times <- if (is.null(time)) rows else data[[time]][rows]
  for (column in c(sequence, time)) {
    missing <- which(is.na(data[[column]][rows]))
    if (length(missing)) {
      stop(sprintf("'%s' is missing in row %d: every row needs its sequence and its time.", column,
                   as.integer(rows[missing[1L]])), call. = FALSE)
    }
  }
  names <- unique(labels)
  codes <- match(labels, names) - 1L
  ranks <- ranks_of(times, time)
  again <- anyDuplicated(codes * (max(ranks) + 1) + ranks)
  if (again) {
    stop(sprintf(paste("the sequence '%s' has the time %s twice in '%s': every row of a sequence needs a time of its",
                       "own, and every sequence a name of its own."), labels[again], format(times[again]), time),
         call. = FALSE)
  }
  made_order(names, codes, ranks)
}

made_order <- function(names, codes, ranks) {
  list(meta = list(names = as_array(names)), buffers = c(as_buffers(codes), as_buffers(ranks)), names = names,
       codes = codes, ranks = ranks)
}

# Times as whole numbers in their order.
ranks_of <- function(times, name) {
  if (is.factor(times)) {
    return(as.integer(times))
  }
  if (is.character(times)) {
    stop(sprintf("'%s' is text, which has no order of time: make it a number, a date or a factor.", name),
         call. = FALSE)
  }
  if (inherits(times, "POSIXlt")) times <- as.POSIXct(times)
  if (!is.atomic(times) || !is.null(dim(times))) {
    stop(sprintf("'%s' has no order of time: make it a number, a date or a factor.", name), call. = FALSE)
  }
  match(times, sort(unique(times)))
}

#' @rdname sequences
#' @export
fitted.sequenceModNN <- function(object, ...) {
  values <- structure(object$probabilities, dimnames = list(row.names(object$frame), object$classes))
  stats::napredict(attr(object$frame, "na.action"), values)
}

#' @rdname sequences
#' @export
residuals.sequenceModNN <- function(object, type = c("response", "pearson", "deviance"), ...) {
  type <- match.arg(type)
  left_out <- attr(object$frame, "na.action")
  if (type == "deviance") {
    values <- stats::setNames(sqrt(pmax(-2 * object$log_steps, 0)), row.names(object$frame))
    return(stats::naresid(left_out, values))
  }
  p <- structure(object$probabilities, dimnames = list(row.names(object$frame), object$classes))
  values <- outer(as.integer(object$frame[[1L]]), seq_along(object$classes), `==`) - p
  if (type == "pearson") values <- values / sqrt(pmax(p * (1 - p), .Machine$double.xmin))
  stats::naresid(left_out, values)
}

#' @rdname sequences
#' @export
predict.sequenceModNN <- function(object, newdata = NULL, re.form = NULL, allow.new.levels = FALSE, average = 0,
                                  seed = 0, type = c("class", "response", "prob"), ...) {
  extra <- ...names_or_numbers(...)
  if (length(extra)) {
    stop(sprintf("predict() of sequences of states has no argument '%s'.", extra[1L]), call. = FALSE)
  }
  type <- match.arg(type)
  if (!is.numeric(average) || length(average) != 1L || !isTRUE(average >= 0 && average == round(average))) {
    stop(sprintf("average is %s: give a number of draws, or 0 for none.", deparse1(average)), call. = FALSE)
  }
  generic <- without_deviations(re.form)
  probabilities <- type != "class" || average > 0
  if (is.null(newdata) && !generic) {
    values <- if (probabilities) object$probabilities else object$states
    return(named_states(object, values, row.names(object$frame), attr(object$frame, "na.action"), type))
  }
  rows <- sequence_rows(object, newdata, generic, allow.new.levels)
  sent <- send_sequences(object, rows)
  meta <- c(sent$meta, list(probabilities = probabilities, average = as.integer(average), seed = as.integer(seed)))
  arrays <- call_python("sequence_values", meta, sent$buffers, sent$modules)$arrays
  values <- if (probabilities) {
    matrix(arrays$probabilities, ncol = length(object$classes), byrow = TRUE)
  } else {
    as.integer(arrays$states) + 1L
  }
  named_states(object, values, rows$names, rows$na.action, type)
}

# Codes or probabilities of rows as predict() returns them, padded where rows were left out by na.exclude.
named_states <- function(object, values, names, na.action, type) {
  if (is.matrix(values)) {
    dimnames(values) <- list(names, object$classes)
    values <- stats::napredict(na.action, values)
    return(if (type == "class") most_likely(values) else values)
  }
  values <- stats::napredict(na.action, stats::setNames(values, names))
  stats::setNames(factor(object$classes[values], object$classes), names(values))
}

#' @rdname sequences
#' @export
deviance.sequenceModNN <- function(object, newdata = NULL, re.form = NULL, allow.new.levels = FALSE, ...) {
  rows <- sequence_rows(object, newdata, without_deviations(re.form), allow.new.levels, TRUE)
  sent <- send_sequences(object, rows)
  call_python("sequence_deviance", sent$meta, sent$buffers, sent$modules)$arrays$deviance
}

# Rows for Python: X, inputs, their `order` (see order_of()), `groups` (codes of levels from 1; above the number of
# levels where these are new), `states` (codes from 0, where they are wanted), names, and na.action for padding. Without
# new data they are those of the fit.
sequence_rows <- function(object, newdata, generic, allow.new.levels, states = FALSE) {
  grouped <- length(object$varying) > 0L && !generic
  if (!is.null(newdata)) {
    rows <- new_sequence_rows(object, newdata, grouped, states)
    rows$groups <- if (grouped) sequence_groups(object, rows$data, allow.new.levels)
    return(rows)
  }
  kept <- object$sequences
  names <- unique(kept$of)
  list(
    X = fixed_matrix(object), inputs = network_inputs(object$networks$inputs[[1L]], object$frame)$values,
    order = made_order(names, match(kept$of, names) - 1L, kept$at),
    groups = if (grouped) as.integer(object$flist[[1L]]), states = if (states) as.integer(object$frame[[1L]]) - 1L,
    names = row.names(object$frame), na.action = attr(object$frame, "na.action")
  )
}

# The same of new data, but for the groups, with the `data` as a plain data frame.
new_sequence_rows <- function(object, newdata, grouped, states) {
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  data <- as_plain_frame(newdata)
  if (nrow(data) == 0L) {
    stop("newdata has no rows.", call. = FALSE)
  }
  pieces <- c(list(prediction_parts(object, list(), TRUE)$variables[[2L]]), if (states) object$formula[[2L]],
              if (grouped) group_parts(object$varying[[1L]]$group))
  check_variables(one_sided(Reduce(function(a, b) call("+", a, b), pieces)), data, environment(object$formula))
  check_order_columns(data, object$sequences$sequence, object$sequences$time)
  X <- keep_columns(object, one_sentence(matrix_for(object$fixed, data)))
  inputs <- new_inputs(object, data)[[1L]]
  refuse_missing(object, data, X, inputs, grouped)
  list(
    X = X, inputs = inputs, order = order_of(data, object$sequences$sequence, object$sequences$time),
    states = if (states) new_states(object, data), names = row.names(data), data = data
  )
}

# Missing values of new data: a sequence with one cannot be taken as a whole.
refuse_missing <- function(object, data, X, inputs, grouped) {
  group <- if (grouped) is.na(new_codes(object$varying[[1L]]$group, character(0), data))
  missing <- cbind(is.na(X), is.na(inputs), group)
  row <- which(rowSums(missing) > 0)[1L]
  if (is.na(row)) {
    return(invisible())
  }
  names <- c(colnames(X), input_names(object), names(object$flist))
  stop(sprintf("'%s' is missing in row %d of newdata: a sequence is taken as a whole, so fill it in, or leave %s.",
               names[which(missing[row, ])[1L]], row, "the sequence out"), call. = FALSE)
}

input_names <- function(object) {
  network <- object$networks$inputs[[1L]]
  network_inputs(network, object$frame[1L, , drop = FALSE], network$levels)$names
}

# Codes from 0 of the states of new data.
new_states <- function(object, data) {
  name <- names(object$frame)[1L]
  given <- as.character(evaluate_variable(object$formula[[2L]], object, data))
  codes <- match(given, object$classes)
  bad <- which(is.na(codes))
  if (length(bad) && is.na(given[bad[1L]])) {
    stop(sprintf("the response '%s' is missing in row %d of newdata.", name, bad[1L]), call. = FALSE)
  }
  if (length(bad)) {
    stop(sprintf("the response '%s' is '%s' in row %d of newdata: the fit has not seen that state, only %s.", name,
                 given[bad[1L]], bad[1L], abbreviate_list(object$classes)), call. = FALSE)
  }
  codes - 1L
}

# Codes of the levels of new data; levels that the fit has not seen come after its own, each with a code.
sequence_groups <- function(object, data, allow.new.levels) {
  group <- object$varying[[1L]]$group
  levels <- rownames(object$effects)
  codes <- new_codes(group, levels, data)
  unseen <- attr(codes, "unseen")
  if (length(unseen) && !allow.new.levels) {
    stop(sprintf(paste("the grouping factor '%s' has levels that the fit has not seen: %s; use allow.new.levels = TRUE",
                       "for what all share, or learn from sequences of theirs by update_random_effects()."),
                 names(object$flist), abbreviate_list(unseen, 5L)), call. = FALSE)
  }
  codes <- as.integer(codes)
  new <- codes == 0L
  codes[new] <- length(levels) + as.integer(new_codes(group, unseen, data))[new]
  codes
}

# A fit, with the deviations of the levels that some rows have, and these rows: list(meta, buffers, modules).
send_sequences <- function(object, rows) {
  kept <- send_kept_networks(object)
  q <- nrow(object$effects)
  groups <- if (is.null(rows$groups)) rep(q + 1L, nrow(rows$inputs)) else rows$groups
  used <- sort(unique(groups[groups <= q]))
  effects <- object$effects[used, , drop = FALSE]
  codes <- ifelse(groups <= q, match(groups, used), groups - q + length(used)) - 1L
  bars <- Filter(function(bar) bar$net == object$networks$inputs[[1L]]$name, object$varying)
  bar <- if (length(bars)) list(selector = bars[[1L]]$selector, label = bars[[1L]]$label,
                                input_names = as_array(input_names(object)))
  if_any <- function(values) if (length(values)) as_buffers(values)
  list(
    meta = list(
      networks = kept$meta, classes = as_array(object$classes), p = nrow(object$beta), moves = object$moves, bar = bar,
      n_levels = length(used), size = length(object$layers), rows = nrow(rows$inputs), width = ncol(rows$inputs),
      sequences = rows$order$meta, group = as.character(names(object$flist))[1L], observed = !is.null(rows$states)
    ),
    buffers = c(
      kept$buffers, if_any(object$beta), as_buffers(object$transitions), if_any(object$factor), if_any(effects),
      if_any(rows$X), as_buffers(rows$inputs), rows$order$buffers, as_buffers(as.integer(codes)), if_any(rows$states)
    ),
    modules = own_modules(object$networks$inputs)
  )
}

#' @rdname sequences
#' @export
update_random_effects.sequenceModNN <- function(object, newdata, ...) {
  need_deviations(object)
  rows <- new_sequence_rows(object, newdata, TRUE, TRUE)
  group <- group_factor(object$varying[[1L]]$group, rows$data)
  rows$groups <- nrow(object$effects) + as.integer(group) # deviations that the fit has play no part
  sent <- send_sequences(object, rows)
  meta <- c(sent$meta, list(q = nlevels(group)))
  arrays <- call_python("update_sequences", meta, sent$buffers, sent$modules)$arrays
  with_levels(object, levels(group), arrays$effects, arrays$variances)
}
