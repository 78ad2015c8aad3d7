# Predictions of networks that vary by group, and deviations of new groups.

#' @rdname varying
#' @param random.only Whether what the deviations add to the generic prediction is wanted alone.
#' @param se.fit Whether standard errors are wanted, of deviations, linear coefficients and the last layer jointly, the
#'   variances taken as known; for `"response"` by the delta method. The layers below the last count as known, so that
#'   limits of the mean are too narrow beside hidden layers. A new level adds the variance of its deviations.
#' @param interval Whether limits of the mean, or of a new response of weight 1, are wanted. Those of a new response
#'   count what rows held out in training show of the network's errors.
#' @param level Coverage of limits and bands.
#' @export
predict.varyingModNN <- function(object, newdata = NULL, re.form = NULL, random.only = FALSE,
                                 allow.new.levels = FALSE, na.action = stats::na.pass, se.fit = FALSE,
                                 interval = c("none", "confidence", "prediction"), level = 0.95, average = 0, seed = 0,
                                 type = c("link", "response", "prob", "class"), ...) {
  extra <- ...names_or_numbers(...)
  if (length(extra)) {
    stop(sprintf("predict() of a network that varies by group has no argument '%s'.", extra[1L]), call. = FALSE)
  }
  type <- match.arg(type)
  interval <- if (is.logical(interval)) c("none", "prediction")[isTRUE(interval) + 1L] else match.arg(interval)
  check_average(average)
  check_varying_type(object, type, average)
  with_errors <- se.fit || interval != "none"
  check_varying_errors(object, type, average, random.only, with_errors)
  generic <- without_deviations(re.form)
  rows <- if (is.null(newdata)) {
    fitted_rows_of(object, generic)
  } else {
    varying_rows(object, newdata, !generic, allow.new.levels, na.action)
  }
  if (random.only) {
    none <- replace(rows, "codes", list(rows$codes * 0L))
    added <- varying_values(object, rows, 0, seed) - varying_values(object, none, 0, seed)
    return(stats::napredict(rows$na.action, named_rows(object, added, rows$names)))
  }
  linear <- if (isGLMM(object)) 0 else average
  eta <- if (is.null(rows$eta)) rows$fixed + varying_values(object, rows, linear, seed) else rows$eta
  if (with_errors) {
    weights <- if (is.null(newdata)) row_weights(object) else rep(1, length(eta))
    return(varying_with_errors(object, eta, rows, !generic, type, se.fit, interval, level, weights, seed))
  }
  if (!isGLMM(object) || type == "link") {
    return(stats::napredict(rows$na.action, named_rows(object, eta, rows$names)))
  }
  values <- varying_means(object, eta, rows$names)
  unseen <- which(rows$codes == 0L & rowSums(is.na(rows$inputs)) == 0)
  if (average && length(unseen)) {
    averages <- varying_averages(object, rows, unseen, average, seed)
    if (is.matrix(values)) values[unseen, ] <- averages else values[unseen] <- averages
  }
  shaped_means(object, values, rows, type)
}

# Means as they are, or as probabilities of classes, or the class with most of it.
shaped_means <- function(object, values, rows, type) {
  if (type != "response" && !is.matrix(values)) {
    values <- structure(cbind(1 - values, values), dimnames = list(rows$names, response_names(object)))
  }
  values <- stats::napredict(rows$na.action, values)
  if (type == "class") most_likely(values, is_ordinal(object)) else values
}

check_average <- function(average) {
  if (!is.numeric(average) || length(average) != 1L || !isTRUE(average >= 0 && average == round(average))) {
    stop(sprintf("average is %s: give a number of draws, or 0 for none.", deparse1(average)), call. = FALSE)
  }
}

check_varying_errors <- function(object, type, average, random.only, with_errors) {
  if (random.only && (average > 0 || type %in% c("prob", "class") || (isGLMM(object) && type != "link"))) {
    stop("random.only is for linear predictors: use type = \"link\" and leave average out.", call. = FALSE)
  }
  if (!with_errors) {
    return(invisible())
  }
  if (type %in% c("prob", "class") || average > 0 || random.only) {
    stop("standard errors are for type = \"link\" or \"response\", without average and random.only.", call. = FALSE)
  }
  if (object$networks$outputs > 1L) {
    stop("standard errors of a multinomial model with a network that varies are not known.", call. = FALSE)
  }
  if (has_classes(object) && type == "response") {
    stop("standard errors of an ordinal model are of the linear predictor: use type = \"link\".", call. = FALSE)
  }
}

# Whether the response is one of several classes, which ordinal and multinomial models have.
has_classes <- function(object) is_categorical(object$settings$family)

check_varying_type <- function(object, type, average) {
  if (type %in% c("prob", "class") && !has_classes(object) && !identical(object$family$family, "binomial")) {
    stop(sprintf("type = \"%s\" is for classes: use type = \"response\".", type), call. = FALSE)
  }
  if (isGLMM(object) && type == "link" && average > 0) {
    stop("average is for means and probabilities: use type = \"response\" with it.", call. = FALSE)
  }
}

# Linear predictors with names of rows, and of classes where there are several.
named_rows <- function(object, eta, names) {
  if (!is.matrix(eta)) {
    return(stats::setNames(eta, names))
  }
  structure(eta, dimnames = list(names, response_names(object)))
}

# Means of the response at linear predictors; probabilities, rows by classes, where it is one of several classes.
varying_means <- function(object, eta, names) {
  if (!isGLMM(object)) {
    return(stats::setNames(eta, names))
  }
  kind <- object$family$family
  means <- switch(kind, multinomial = softmax(eta), ordinal = object$family$probabilities(eta),
                  object$family$linkinv(eta))
  named_rows(object, means, names)
}

# Whether re.form asks for the generic network.
without_deviations <- function(re.form) {
  if (is.null(re.form)) {
    return(FALSE)
  }
  none <- if (inherits(re.form, "formula")) identical(re.form[[length(re.form)]], 0) else isTRUE(is.na(re.form))
  if (!none) {
    stop("re.form must be NULL for the network of each level, or NA for the generic one.", call. = FALSE)
  }
  TRUE
}

# X beta and offset: m, or m x C where there are several classes.
linear_part <- function(object, X, offset) {
  if (object$networks$outputs == 1L) {
    return(as.vector(X %*% object$beta) + offset)
  }
  unname(X %*% matrix(object$beta, ncol(X), byrow = TRUE)) + offset
}

# What a prediction is made from: `fixed` (X beta and offset), X, codes (0: generic, NA: a missing level), inputs of the
# network, names of the rows, na.action for padding, `eta` where it is known. Here the rows of the fit, with their
# levels or with none.
fitted_rows_of <- function(object, generic) {
  offset <- stats::model.offset(object$frame)
  X <- fixed_matrix(object)
  list(fixed = linear_part(object, X, if (is.null(offset)) 0 else offset), X = X,
       eta = if (!generic) object$fitted, codes = as.integer(object$flist[[1L]]) * !generic,
       inputs = network_inputs(object$networks$inputs[[1L]], object$frame)$values,
       names = row.names(object$frame), na.action = attr(object$frame, "na.action"))
}

varying_rows <- function(object, newdata, with_levels, allow.new.levels, na.action) {
  newdata <- as_plain_frame(newdata)
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  bar <- object$varying[[1L]]
  pieces <- c(list(prediction_parts(object, list(), TRUE)$variables[[2L]]), if (with_levels) group_parts(bar$group))
  parts <- list(variables = one_sided(Reduce(function(a, b) call("+", a, b), pieces)))
  check_variables(parts$variables, newdata, environment(object$formula))
  kept <- rows_without_missing(object, newdata, parts, na.action)
  X <- keep_columns(object, one_sentence(matrix_for(object$fixed, kept$data)))
  list(
    fixed = linear_part(object, X, new_offset(object, kept$data)), X = X,
    codes = if (with_levels) varying_codes(object, kept$data, allow.new.levels) else integer(nrow(kept$data)),
    inputs = new_inputs(object, kept$data)[[1L]], names = row.names(kept$data), na.action = kept$na.action
  )
}

varying_codes <- function(object, newdata, allow.new.levels) {
  codes <- new_codes(object$varying[[1L]]$group, rownames(object$effects), newdata)
  unseen <- attr(codes, "unseen")
  if (length(unseen) && !allow.new.levels) {
    stop(sprintf(paste("the grouping factor '%s' has levels that the fit has not seen: %s; use allow.new.levels = TRUE",
                       "for the generic network, or learn from rows of theirs by update_random_effects()."),
                 names(object$flist), abbreviate_list(unseen, 5L)), call. = FALSE)
  }
  as.integer(codes)
}

# The network's part of some rows, from Python; NA where a level or an input is missing.
varying_values <- function(object, rows, average, seed) {
  if (!is.null(object$view)) {
    return(view_values(object, rows))
  }
  codes <- rows$codes
  used <- sort(unique(c(1L, codes[codes > 0L & !is.na(codes)]))) # of many levels only these travel
  sent <- send_varying_fit(object, used)
  meta <- c(sent$meta, list(rows = length(codes), width = ncol(rows$inputs), average = as.integer(average),
                            seed = as.integer(seed)))
  buffers <- c(sent$buffers, as_buffers(match(codes, used, 0L) - 1L), as_buffers(rows$inputs))
  values <- call_python("varying_values", meta, buffers, sent$modules)$arrays$values
  values <- per_class(values, object$networks$outputs)
  replace(values, is.nan(values) | rep(is.na(codes), NCOL(values)), NA_real_)
}

# Mean responses of a generalized model at some rows, over draws of deviations.
varying_averages <- function(object, rows, at, average, seed) {
  sent <- send_varying_fit(object)
  fixed <- as.matrix(rows$fixed)[at, , drop = FALSE]
  meta <- c(sent$meta, list(rows = length(at), width = ncol(rows$inputs), average = as.integer(average),
                            seed = as.integer(seed)))
  buffers <- c(sent$buffers, as_buffers(rows$inputs[at, , drop = FALSE]), as_buffers(fixed))
  means <- call_python("varying_averages", meta, buffers, sent$modules)$arrays$means
  per_class(means, length(means) / length(at))
}

# A fit with some of its levels as rvarying.py reads it: list(meta, buffers, modules).
send_varying_fit <- function(object, used = 1L) {
  kept <- send_kept_networks(object)
  bar <- object$varying[[1L]]
  inputs <- network_inputs(object$networks$inputs[[1L]], object$frame[1L, , drop = FALSE],
                           object$networks$inputs[[1L]]$levels)
  shape <- if (is.matrix(object$factor)) dim(object$factor) else length(object$factor)
  list(
    meta = list(networks = kept$meta, selector = bar$selector, label = bar$label, input_names = as_array(inputs$names),
                n_levels = length(used), shape = as_array(shape), sigma = object$sigma,
                in_full = length(dim(object$variances)) == 3L, family = object$settings$family),
    buffers = c(kept$buffers, as_buffers(object$factor), as_buffers(object$effects[used, , drop = FALSE]),
                if (isGLMM(object)) as_buffers(object$phi)),
    modules = own_modules(object$networks$inputs)
  )
}

#' @rdname varying
#' @export
update_random_effects.varyingModNN <- function(object, newdata, ...) {
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  frame <- new_frame(object, as_plain_frame(newdata))
  observed <- observed_in(frame, object$settings$family)
  if (any(is.infinite(observed$y))) {
    stop(sprintf("the response '%s' has infinite values in the new rows.", names(frame)[1L]), call. = FALSE)
  }
  X <- keep_columns(object, stats::model.matrix(object$fixed$terms, frame, contrasts.arg = object$fixed$contrasts))
  offset <- stats::model.offset(frame)
  fixed <- linear_part(object, X, if (is.null(offset)) 0 else offset)
  weights <- if (is.null(observed$weights)) rep(1, nrow(frame)) else as.double(observed$weights)
  network <- object$networks$inputs[[1L]]
  inputs <- network_inputs(network, frame, network$levels)$values
  group <- group_factor(object$varying[[1L]]$group, frame)
  sent <- send_varying_fit(object)
  meta <- c(sent$meta, list(rows = nrow(frame), width = ncol(inputs), q = nlevels(group)))
  buffers <- c(sent$buffers, as_buffers(as.integer(group) - 1L), as_buffers(inputs), as_buffers(fixed),
               as_buffers(as.double(observed$y)), if (isGLMM(object)) as_buffers(weights))
  arrays <- call_python("update_varying", meta, buffers, sent$modules)$arrays
  object <- with_levels(object, levels(group), arrays$effects, arrays$variances)
  told <- if (is.null(arrays$information)) weights else arrays$information
  with_rows_learnt(object, X, inputs, match(as.character(group), rownames(object$effects)), told)
}

# Rows below those before, if there are any: rbind(NULL, x) adds a row where x has no column.
below <- function(before, after) if (is.null(before)) after else rbind(before, after)

# The fit with rows from which levels were learnt, for standard errors; of a level that is learnt anew these alone.
with_rows_learnt <- function(object, X, inputs, codes, weights) {
  old <- object$added
  kept <- which(!old$codes %in% codes)
  object$added <- list(
    X = below(old$X[kept, , drop = FALSE], X), inputs = below(old$inputs[kept, , drop = FALSE], inputs),
    codes = c(old$codes[kept], codes), weights = c(old$weights[kept], weights)
  )
  object
}

# The fit with deviations of some levels, new ones or known ones.
with_levels <- function(object, levels, effects, variances) {
  parameters <- colnames(object$effects)
  all <- union(rownames(object$effects), levels)
  old <- rownames(object$effects)
  known <- object$effects
  object$effects <- matrix(0, length(all), length(parameters), dimnames = list(all, parameters))
  object$effects[old, ] <- known
  object$effects[levels, ] <- matrix(effects, ncol = length(parameters), byrow = TRUE)
  before <- object$variances
  after <- posterior_variances(variances, list(levels, parameters))
  if (length(dim(before)) == 3L) {
    object$variances <- array(0, c(dim(before)[1:2], length(all)), list(parameters, parameters, all))
    object$variances[, , old] <- before
    object$variances[, , levels] <- after
  } else {
    object$variances <- matrix(0, length(all), length(parameters), dimnames = list(all, parameters))
    object$variances[old, ] <- before
    object$variances[levels, ] <- after
  }
  object$flist[[1L]] <- factor(object$flist[[1L]], all)
  object
}
