# Networks whose parameters vary by several bars, or beside ordinary ones.

# The fit of the reply. Beside what new_varying_fit() lists it has `bars` (ordinary ones, in Python's order), and for
# `effects`, `variances` and `factor` `parts`: for each bar of the network, then each ordinary one, a list of
#
# group, columns, layers  its factor, names of parameters or columns, and the layer of each parameter
# effects, variances      q x d; d x d x q, or q x d where only variances are known
# factor                  L with Sigma = L L', d x k, or a vector of standard deviations where Sigma is diagonal
new_several_fit <- function(model, settings, reply) {
  order <- as.integer(unlist(reply$order)) + 1L
  model$bars <- model$bars[order]
  varying <- seq_along(model$varying)
  groups <- c(model$groups[order], model$varying_groups)
  labels <- vapply(c(model$bars, model$varying), `[[`, "", "label_group")
  fit <- varying_skeleton(model, settings, reply)
  fit$bars <- model$bars
  fit$flist <- shared_factors(groups, labels)
  parts <- lapply(seq_along(reply$bars), function(k) {
    own <- reply$bars[[k]]
    at <- as.integer(unlist(own$places)) + 1L
    bar <- if (k <= length(varying)) model$varying[[k]] else model$bars[[k - length(varying)]]
    columns <- if (length(at)) reply$labels[at] else bar$names
    arrays <- reply$arrays[paste0(c("effects", "variances", "factor"), k - 1L)]
    several_part(bar$label_group, levels(fit$flist[[bar$label_group]]), columns, reply$layers[at],
                 as.integer(unlist(own$shape)), arrays)
  })
  fit$parts <- parts
  names <- lapply(parts, `[[`, "columns")
  fit$cnms <- stats::setNames(c(names[-varying], names[varying]), labels)
  class(fit) <- c("multiVaryingModNN", class(fit))
  fit
}

# One bar of the reply; `arrays` are its effects, variances and factor, row by row.
several_part <- function(group, levels, columns, layers, shape, arrays) {
  names <- list(levels, columns)
  list(
    group = group, columns = columns, layers = layers,
    effects = matrix(arrays[[1L]], ncol = length(columns), byrow = TRUE, dimnames = names),
    variances = if (length(layers)) {
      posterior_variances(arrays[[2L]], names)
    } else {
      array(arrays[[2L]], c(rep(length(columns), 2L), length(levels)), list(columns, columns, levels))
    },
    factor = if (length(shape) == 1L) arrays[[3L]] else matrix(arrays[[3L]], shape[1L], byrow = TRUE)
  )
}

# The parts of a factor: positions among `parts`, of bars with more levels first, as they are everywhere.
parts_by_group <- function(object) {
  groups <- vapply(object$parts, `[[`, "", "group")
  sizes <- vapply(object$parts, function(part) nrow(part$effects), 0L)
  at <- order(-sizes)
  split(at, factor(groups[at], unique(groups[at])))
}

#' @rdname varying
#' @export
ngrps.multiVaryingModNN <- function(object, ...) {
  vapply(parts_by_group(object), function(at) nrow(object$parts[[at[1L]]]$effects), 0L)
}

#' @rdname varying
#' @export
ranef.multiVaryingModNN <- function(object, condVar = FALSE, whichel = names(object$flist), ...) {
  groups <- parts_by_group(object)
  effects <- lapply(groups[names(groups) %in% whichel], function(at) {
    parts <- object$parts[at]
    table <- as.data.frame(do.call(cbind, lapply(parts, `[[`, "effects")), optional = TRUE)
    variances <- lapply(parts, `[[`, "variances")
    if (condVar) attr(table, "postVar") <- if (length(at) == 1L) variances[[1L]] else variances
    table
  })
  structure(effects, class = "ranef.varyingModNN")
}

#' @rdname varying
#' @export
coef.multiVaryingModNN <- function(object, ...) {
  fixed <- fixef(object)
  random <- ranef(object)
  only_random <- setdiff(unlist(lapply(random, names)), names(fixed))
  fixed <- c(stats::setNames(numeric(length(only_random)), only_random), fixed)
  lapply(unclass(random), function(effects) {
    total <- matrix(fixed, nrow(effects), length(fixed), byrow = TRUE, dimnames = list(rownames(effects), names(fixed)))
    for (k in seq_along(effects)) total[, names(effects)[k]] <- total[, names(effects)[k]] + effects[[k]]
    data.frame(total, check.names = FALSE)
  })
}

#' @rdname varying
#' @export
VarCorr.multiVaryingModNN <- function(x, sigma = 1, ...) {
  at <- unlist(parts_by_group(x), use.names = FALSE)
  at <- at[order(-vapply(x$parts[at], function(part) nrow(part$effects), 0L))]
  names <- make.unique(vapply(x$parts[at], `[[`, "", "group"))
  found <- unlist(Map(covariances_of_part, x$parts[at], names), recursive = FALSE)
  correlated <- vapply(found, attr, NA, "free")
  structure(lapply(found, structure, free = NULL), names = vapply(found, attr, "", "term"), sc = x$sigma,
            useSc = !isGLMM(x), correlated = unname(correlated), text = x$variances_text,
            class = "VarCorr.varyingModNN")
}

# Covariance matrices of one part: the whole one of an ordinary bar or where all covariances are free, else one a layer.
covariances_of_part <- function(part, name) {
  whole <- if (is.matrix(part$factor)) tcrossprod(part$factor) else diag(part$factor^2, length(part$factor))
  dimnames(whole) <- list(part$columns, part$columns)
  by_layer <- length(part$layers) && length(dim(part$variances)) < 3L
  layers <- if (by_layer) unique(part$layers) else ""
  unname(lapply(layers, function(layer) {
    inside <- if (by_layer) part$layers == layer else TRUE
    covariance <- whole[inside, inside, drop = FALSE]
    sd <- sqrt(diag(covariance))
    correlation <- covariance / outer(sd, sd)
    diag(correlation) <- 1
    structure(covariance, stddev = sd, correlation = correlation, free = is.matrix(part$factor),
              term = if (by_layer) paste(name, layer, sep = ".") else name)
  }))
}

#' @rdname varying
#' @export
isSingular.multiVaryingModNN <- function(x, tol = 1e-4, ...) {
  smallest <- vapply(x$parts, function(part) {
    min(if (is.matrix(part$factor)) svd(part$factor, 0L, 0L)$d else abs(part$factor))
  }, 0)
  min(smallest) < tol * x$sigma
}

#' @rdname varying
#' @export
predict.multiVaryingModNN <- function(object, newdata = NULL, re.form = NULL, random.only = FALSE,
                                        allow.new.levels = FALSE, na.action = stats::na.pass, se.fit = FALSE,
                                        interval = c("none", "confidence", "prediction"), level = 0.95, average = 0,
                                        seed = 0, type = c("link", "response", "prob", "class"), ...) {
  extra <- ...names_or_numbers(...)
  if (length(extra)) {
    stop(sprintf("predict() of a network that varies by several bars has no argument '%s'.", extra[1L]), call. = FALSE)
  }
  type <- match.arg(type)
  interval <- if (is.logical(interval)) c("none", "prediction")[isTRUE(interval) + 1L] else match.arg(interval)
  check_average(average)
  check_varying_type(object, type, average)
  with_errors <- se.fit || interval != "none"
  check_varying_errors(object, type, average, random.only, with_errors)
  taken <- several_taken(object, re.form)
  rows <- if (is.null(newdata)) {
    several_old_rows(object)
  } else {
    several_rows(object, newdata, taken, allow.new.levels, na.action)
  }
  whole <- is.null(newdata) && all(taken$varying) && all(unlist(taken$include))
  mean <- if (whole && !random.only) {
    object$fitted
  } else {
    other <- if (random.only) -several_values(object, rows, logical(length(taken$varying)), 0, 0) else rows$fixed
    other + several_values(object, rows, taken$varying, if (isGLMM(object)) 0 else average, seed) +
      ordinary_part(object, rows, taken$include)
  }
  if (with_errors) {
    weights <- if (is.null(newdata)) row_weights(object) else 1
    spread <- several_variances(object, rows, taken)
    return(varying_with_errors(object, mean, rows, NA, type, se.fit, interval, level, weights, seed, spread))
  }
  if (isGLMM(object) && type != "link") {
    return(several_responses(object, mean, rows, taken, type, average, seed))
  }
  stats::napredict(rows$na.action, stats::setNames(mean, rows$names))
}

# What the ordinary bars add.
ordinary_part <- function(object, rows, include) {
  total <- numeric(length(rows$fixed))
  for (k in which(vapply(include, any, NA))) {
    effects <- object$parts[[length(object$varying) + k]]$effects
    known <- which(rows$codes[[k]] > 0L)
    part <- ifelse(is.na(rows$codes[[k]]), NA_real_, 0)
    b <- sweep(effects[rows$codes[[k]][known], , drop = FALSE], 2L, as.numeric(include[[k]]), `*`)
    part[known] <- rowSums(rows$columns[[k]][known, , drop = FALSE] * b)
    total <- total + part
  }
  total
}

# Which bars of the network take part (logical), and which columns of each ordinary bar (list of logical).
several_taken <- function(object, re.form) {
  ordinary <- seq_along(object$bars)
  all_of <- function(value) lapply(object$bars, function(bar) rep(value, length(bar$names)))
  n <- length(object$varying)
  if (is.null(re.form)) {
    return(list(varying = rep(TRUE, n), include = all_of(TRUE)))
  }
  if (!inherits(re.form, "formula")) {
    if (length(re.form) == 1L && is.na(re.form)) {
      return(list(varying = logical(n), include = all_of(FALSE)))
    }
    stop("re.form must be NULL, NA or a formula such as ~ (nn.last | group).", call. = FALSE)
  }
  rhs <- re.form[[length(re.form)]]
  written <- collect_bars(rhs)
  if (is.null(written) && !identical(rhs, 0)) {
    stop("re.form has no random term: use ~0 or NA for none.", call. = FALSE)
  }
  varies <- varies_in(object$networks$inputs, names(object$frame))
  asked <- varying_bars(written, object$networks$inputs, varies)
  labels <- vapply(object$varying, `[[`, "", "label")
  unknown <- setdiff(vapply(asked, `[[`, "", "label"), labels)
  if (length(unknown)) {
    stop(sprintf("re.form asks for %s, but the bars of the network are %s.", unknown[1L], toString(labels)),
         call. = FALSE)
  }
  include <- included_columns(object, NA)
  others <- Filter(function(bar) !varies(bar$columns), written)
  for (bar in unlist(lapply(others, expand_bar), recursive = FALSE)) include <- include_bar(object, bar, include)
  list(varying = labels %in% vapply(asked, `[[`, "", "label"), include = include[ordinary])
}

# What a prediction is made from, as fitted_rows_of() and varying_rows() have it, with `codes` and `columns` of each
# ordinary bar and the codes of each bar of the network (`levels`).
several_old_rows <- function(object) {
  offset <- stats::model.offset(object$frame)
  ordinary <- seq_along(object$bars)
  X <- fixed_matrix(object)
  list(
    fixed = linear_part(object, X, if (is.null(offset)) 0 else offset), X = X,
    codes = lapply(unname(term_factors(object))[ordinary], as.integer),
    columns = lapply(ordinary, function(k) several_columns(object$bars[[k]], object$frame)),
    levels = lapply(unname(term_factors(object))[-ordinary_first(object)], as.integer),
    inputs = network_inputs(object$networks$inputs[[1L]], object$frame)$values,
    names = row.names(object$frame), na.action = attr(object$frame, "na.action")
  )
}

# Places of the ordinary bars among the factors of the terms; more than there are where there is none.
ordinary_first <- function(object) if (length(object$bars)) seq_along(object$bars) else length(object$parts) + 1L

several_columns <- function(bar, data) {
  if (is.null(bar$part$terms)) matrix(1, nrow(data), 1L) else one_sentence(matrix_for(bar$part, data))
}

several_rows <- function(object, newdata, taken, allow.new.levels, na.action) {
  newdata <- as_plain_frame(newdata)
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  groups <- unlist(lapply(object$varying[taken$varying], function(bar) group_parts(bar$group)), recursive = FALSE)
  parts <- prediction_parts(object, taken$include, TRUE)
  pieces <- c(list(parts$variables[[2L]]), groups)
  parts <- list(variables = one_sided(Reduce(function(a, b) call("+", a, b), pieces)))
  check_variables(parts$variables, newdata, environment(object$formula))
  kept <- rows_without_missing(object, newdata, parts, na.action)
  X <- keep_columns(object, one_sentence(matrix_for(object$fixed, kept$data)))
  ordinary <- length(object$bars)
  used <- vapply(taken$include, any, NA)
  of_terms <- lapply(seq_len(ordinary), function(k) {
    if (used[k]) term_rows(object, k, kept$data, allow.new.levels) else list(codes = integer(nrow(kept$data)))
  })
  factors <- unname(term_factors(object))
  list(
    fixed = linear_part(object, X, new_offset(object, kept$data)), X = X,
    codes = lapply(of_terms, `[[`, "codes"), columns = lapply(of_terms, `[[`, "columns"),
    levels = lapply(seq_along(object$varying), function(k) {
      if (!taken$varying[k]) {
        return(integer(nrow(kept$data)))
      }
      several_codes(object$varying[[k]], levels(factors[[ordinary + k]]), kept$data, allow.new.levels)
    }),
    inputs = new_inputs(object, kept$data)[[1L]], names = row.names(kept$data), na.action = kept$na.action
  )
}

several_codes <- function(bar, levels, newdata, allow.new.levels) {
  codes <- new_codes(bar$group, levels, newdata)
  unseen <- attr(codes, "unseen")
  if (length(unseen) && !allow.new.levels) {
    stop(sprintf(paste("the grouping factor '%s' has levels that the fit has not seen: %s; use allow.new.levels = TRUE",
                       "for deviations of zero, or learn from rows of theirs by update_random_effects()."),
                 bar$label_group, abbreviate_list(unseen, 5L)), call. = FALSE)
  }
  as.integer(codes)
}

# The network's part of some rows, from Python; NA where a level or an input is missing.
several_values <- function(object, rows, varying, average, seed) {
  sent <- send_several_fit(object)
  codes <- Map(function(codes, taken) if (taken) codes else codes * 0L, rows$levels, varying)
  missing <- Reduce(`|`, lapply(codes, is.na))
  codes <- lapply(codes, function(own) replace(own, is.na(own), 0L) - 1L)
  meta <- c(sent$meta, list(rows = nrow(rows$inputs), width = ncol(rows$inputs), average = as.integer(average),
                            seed = as.integer(seed)))
  buffers <- c(sent$buffers, unlist(lapply(codes, as_buffers), recursive = FALSE), as_buffers(rows$inputs))
  values <- call_python("several_values", meta, buffers, sent$modules)$arrays$values
  replace(values, is.nan(values) | missing, NA_real_)
}

# A fit as rseveral.py reads it: list(meta, buffers, modules).
send_several_fit <- function(object) {
  kept <- send_kept_networks(object)
  inputs <- network_inputs(object$networks$inputs[[1L]], object$frame[1L, , drop = FALSE],
                           object$networks$inputs[[1L]]$levels)
  bars <- lapply(seq_along(object$parts), function(k) {
    part <- object$parts[[k]]
    bar <- if (k <= length(object$varying)) object$varying[[k]] else list(label = part$group)
    shape <- if (is.matrix(part$factor)) dim(part$factor) else length(part$factor)
    list(selector = bar$selector, label = bar$label, n_levels = nrow(part$effects), width = ncol(part$effects),
         shape = as_array(shape), in_full = length(dim(part$variances)) == 3L)
  })
  list(
    meta = list(networks = kept$meta, input_names = as_array(inputs$names), sigma = object$sigma, bars = bars,
                family = object$settings$family),
    buffers = c(kept$buffers, unlist(lapply(object$parts, function(part) {
      c(as_buffers(part$factor), as_buffers(part$effects))
    }), recursive = FALSE), if (isGLMM(object)) as_buffers(object$phi)),
    modules = own_modules(object$networks$inputs)
  )
}

#' @rdname varying
#' @export
update_random_effects.multiVaryingModNN <- function(object, newdata, ...) {
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  frame <- new_frame(object, as_plain_frame(newdata))
  observed <- observed_in(frame, object$settings$family)
  y <- as.double(observed$y)
  if (any(is.infinite(y))) {
    stop(sprintf("the response '%s' has infinite values in the new rows.", names(frame)[1L]), call. = FALSE)
  }
  X <- keep_columns(object, stats::model.matrix(object$fixed$terms, frame, contrasts.arg = object$fixed$contrasts))
  offset <- stats::model.offset(frame)
  fixed <- linear_part(object, X, if (is.null(offset)) 0 else offset)
  network <- object$networks$inputs[[1L]]
  inputs <- network_inputs(network, frame, network$levels)$values
  bars <- c(object$varying, object$bars)
  groups <- lapply(bars, function(bar) group_factor(bar$group, frame))
  levels <- Map(function(part, group) union(rownames(part$effects), levels(group)), object$parts, groups)
  added <- mapply(function(part, all) length(all) - nrow(part$effects), object$parts, levels)
  if (!any(added > 0L)) {
    stop("the new rows have no level that the fit does not know: fit the model again with them.", call. = FALSE)
  }
  codes <- Map(function(group, all) match(levels(group), all)[as.integer(group)] - 1L, groups, levels)
  columns <- lapply(object$bars, function(bar) as_buffers(several_columns(bar, frame)))
  sent <- send_several_fit(object)
  meta <- c(sent$meta, list(rows = nrow(frame), width = ncol(inputs), added = as_array(added)))
  buffers <- c(sent$buffers, unlist(lapply(unname(codes), as_buffers), recursive = FALSE),
               unlist(columns, recursive = FALSE), as_buffers(inputs),
               responses_sent(object, y, observed$weights, fixed))
  arrays <- call_python("update_several", meta, buffers, sent$modules)$arrays
  for (k in which(added > 0L)) object$parts[[k]] <- longer_part(object$parts[[k]], levels[[k]], arrays, k)
  for (k in seq_along(bars)) {
    group <- bars[[k]]$label_group
    object$flist[[group]] <- factor(object$flist[[group]], levels[[k]])
  }
  known <- mapply(length, levels) - added
  with_several_learnt(object, X, inputs, lapply(codes, `+`, 1L), lapply(object$bars, several_columns, frame), known,
                      arrays$information)
}

# The fit with the rows that have a level after the known ones, which it has learnt from, and with what each tells of
# its linear predictor (NULL in linear models).
with_several_learnt <- function(object, X, inputs, codes, columns, known, information) {
  new <- which(Reduce(`|`, Map(`>`, codes, known)))
  old <- object$added
  rows <- function(values) values[new, , drop = FALSE]
  joined <- function(before, after) if (is.null(before)) after else Map(rbind, before, after)
  codes <- unname(lapply(codes, `[`, new))
  object$added <- list(
    X = below(old$X, rows(X)), inputs = below(old$inputs, rows(inputs)),
    codes = if (is.null(old)) codes else Map(c, old$codes, codes), columns = joined(old$columns, lapply(columns, rows)),
    weights = c(old$weights, information[new])
  )
  object
}

# A part with the effects of levels after its own.
longer_part <- function(part, levels, arrays, k) {
  fresh <- setdiff(levels, rownames(part$effects))
  new <- several_part(part$group, fresh, part$columns, part$layers, 1L,
                      c(arrays[paste0(c("effects", "variances"), k - 1L)], list(NULL)))
  d <- length(part$columns)
  part$variances <- if (length(dim(part$variances)) == 3L) {
    array(c(part$variances, new$variances), c(d, d, length(levels)), list(part$columns, part$columns, levels))
  } else {
    rbind(part$variances, new$variances)
  }
  part$effects <- rbind(part$effects, new$effects)
  part
}
