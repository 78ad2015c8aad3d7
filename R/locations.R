# Random terms that are no bars: gp(lon, lat), a random field over locations, and embed(lon, lat). Their levels are the
# distinct locations, sorted by the first coordinate, then the second, and so on.

location_terms <- c("gp", "embed")

# Correlations at distances in units of the length-scale (Rasmussen & Williams 2006, chapter 4).
correlations <- list(
  exp_quad = function(distance) exp(-distance^2 / 2),
  matern32 = function(distance) (1 + sqrt(3) * distance) * exp(-sqrt(3) * distance),
  matern52 = function(distance) (1 + sqrt(5) * distance + 5 * distance^2 / 3) * exp(-sqrt(5) * distance),
  exponential = function(distance) exp(-distance)
)

# gp(lon, lat) or embed(lon, lat); embed(1 | g) is a bar.
is_location_term <- function(e) {
  call_name(e) %in% location_terms && !(length(e) > 1L && is_bar(strip_parentheses(e[[2L]])))
}

# A term over locations as collect_bars() has random terms; `coordinates` are the expressions of its columns.
read_location_term <- function(e) {
  label <- deparse1(e)
  covariance <- call_name(e)
  arguments <- split_arguments(e, label)
  if (length(arguments$inputs) == 0L) {
    stop(sprintf("%s: name the coordinates, as in %s(lon, lat).", label, covariance), call. = FALSE)
  }
  options <- arguments$options
  options <- if (covariance == "gp") gp_options(options, label) else embed_options(options, label, c("dim", "hidden"))
  list(
    columns = 1, group = as.call(c(e[[1L]], arguments$inputs)), double = FALSE, covariance = covariance, label = label,
    options = options, coordinates = lapply(arguments$inputs, as_variable)
  )
}

# Arguments without names, and the values of those with names.
split_arguments <- function(e, label) {
  arguments <- as.list(e)[-1L]
  names <- names(arguments)
  if (is.null(names)) names <- rep("", length(arguments))
  options <- lapply(arguments[names != ""], function(value) {
    tryCatch(eval(value, baseenv()), error = function(error) {
      stop(sprintf("%s: the option '%s' must be a plain number, text, TRUE, FALSE or c(...).", label, deparse1(value)),
           call. = FALSE)
    })
  })
  list(inputs = unname(arguments[names == ""]), options = options)
}

gp_options <- function(options, label) {
  unknown <- setdiff(names(options), "cov")
  if (length(unknown)) {
    stop(sprintf("%s: gp() has no option '%s'; it has cov.", label, unknown[1L]), call. = FALSE)
  }
  cov <- if (is.null(options$cov)) "exp_quad" else options$cov
  if (!is.character(cov) || !isTRUE(cov %in% names(correlations))) {
    stop(sprintf("%s: cov must be one of %s.", label, paste(names(correlations), collapse = ", ")), call. = FALSE)
  }
  list(cov = cov)
}

# Options of embed(), of which `known` exist here: whole numbers.
embed_options <- function(options, label, known) {
  unknown <- setdiff(names(options), known)
  if (length(unknown)) {
    stop(sprintf("%s: embed() has no option '%s'; it has %s.", label, unknown[1L], paste(known, collapse = " and ")),
         call. = FALSE)
  }
  for (name in names(options)) {
    value <- options[[name]]
    if (!is.numeric(value) || anyNA(value) || any(value < 1 | value != round(value))) {
      stop(sprintf("%s: %s must be whole numbers of at least 1.", label, name), call. = FALSE)
    }
  }
  options
}

# Two fields over the same coordinates cannot be told apart.
check_fields <- function(bars) {
  groups <- vapply(Filter(is_located, bars), function(bar) group_label(bar$group), "")
  if (anyDuplicated(groups)) {
    stop(sprintf("%s stands in the formula twice: its two fields cannot be told apart.",
                 groups[duplicated(groups)][1L]), call. = FALSE)
  }
}

# lon / 100 as one variable of the model frame, where a formula would read a nested factor.
as_variable <- function(e) {
  if (call_name(e) %in% c("+", "-", "*", "/", "^", ":", "(", "%in%")) call("I", e) else e
}

is_located <- function(bar) !is.null(bar$coordinates)

# The coordinates of the rows of a frame, rows x k.
coordinates_in <- function(bar, columns) {
  parts <- lapply(bar$coordinates, function(coordinate) {
    name <- deparse1(coordinate)
    column <- columns[[name]]
    if (!(is.numeric(column) || all(is.na(column))) || NCOL(column) != 1L) {
      kind <- if (is.numeric(column)) "matrix" else class(column)[1L]
      stop(sprintf("%s: the coordinate '%s' is of class '%s': coordinates must be numbers.", bar$label, name, kind),
           call. = FALSE)
    }
    if (any(is.infinite(column))) {
      stop(sprintf("%s: the coordinate '%s' has infinite values.", bar$label, name), call. = FALSE)
    }
    as.double(column)
  })
  names <- vapply(bar$coordinates, deparse1, "")
  matrix(unlist(parts), ncol = length(parts), dimnames = list(NULL, names))
}

# Distinct rows of a matrix of coordinates: list(codes, levels, locations).
distinct_locations <- function(places) {
  made <- Reduce(function(a, b) cross_levels(a, b, ", "), lapply(seq_len(ncol(places)), function(j) {
    values <- sort(unique(places[, j]))
    list(codes = match(places[, j], values), levels = make.unique(formatC(values, digits = 15, format = "g")))
  }))
  first <- match(seq_along(made$levels), made$codes)
  c(made, list(locations = unname(places[first, , drop = FALSE])))
}

# Codes of places (m x k) among the locations of a term: 0 for a new location, NA where a coordinate is missing.
known_locations <- function(bar, places) {
  every <- distinct_locations(rbind(bar$locations, unname(places[stats::complete.cases(places), , drop = FALSE])))
  q <- nrow(bar$locations)
  codes <- rep(NA_integer_, nrow(places))
  codes[stats::complete.cases(places)] <- match(every$codes[-seq_len(q)], every$codes[seq_len(q)], nomatch = 0L)
  codes
}

# Correlations of a field between places (m x k) and others (q x k).
correlation_between <- function(cov, lscale, places, others) {
  square <- 0
  for (j in seq_len(ncol(places))) square <- square + outer(places[, j], others[, j], `-`)^2
  correlations[[cov]](sqrt(square) / lscale)
}

# Values of the field of term k at new places (m x k): its covariance with the known locations times
# Z'V^-1 (y - X beta), which the fit keeps as u of the term. For embed() they are those of the learned network.
field_at <- function(object, k, places) {
  bar <- object$bars[[k]]
  if (bar$covariance == "embed") {
    return(embedding_at(object, bar, places))
  }
  theta <- theta_of(object, k)
  scores <- as.vector(object$u[[k]])
  rows <- max(1L, 4e6 %/% length(scores))
  values <- numeric(nrow(places))
  for (start in seq(1L, nrow(places), by = rows)) {
    part <- start:min(start + rows - 1L, nrow(places))
    K <- correlation_between(bar$options$cov, theta[2L], places[part, , drop = FALSE], bar$locations)
    values[part] <- theta[1L]^2 * as.vector(K %*% scores)
  }
  values
}

embedding_at <- function(object, bar, places) {
  kept <- send_kept_networks(object)
  meta <- c(kept$meta, list(group = bar$label_group, rows = nrow(places), width = ncol(places)))
  buffers <- c(kept$buffers, as_buffers(places))
  call_python("embedding_values", meta, buffers, own_modules(object$networks$inputs))$arrays$values
}

# Whether method "lmmnn" has learned the features of some embed() term.
has_learned <- function(object) {
  object$method == "lmmnn" && any(vapply(object$bars, function(bar) bar$covariance == "embed", NA))
}
