# Grouping factors as integer codes and level names.

group_label <- function(group) deparse1(group)

# The factors whose interaction `group` is, outermost first: a:b:c has three.
group_parts <- function(group) {
  group <- strip_parentheses(group)
  if (call_name(group) == ":") c(group_parts(group[[2L]]), group_parts(group[[3L]])) else list(group)
}

# A grouping factor of the model frame: factor with used levels only, in lme4's order of levels.
group_factor <- function(group, frame) {
  parts <- lapply(group_parts(group), function(part) {
    column <- frame[[deparse1(part)]]
    if (is.null(column)) column <- evaluate_group(part, frame)
    used_levels(column)
  })
  made <- Reduce(cross_levels, parts)
  if (anyNA(made$codes)) {
    stop(sprintf("the grouping factor '%s' has missing values: use na.action = \"omit\".", group_label(group)),
         call. = FALSE)
  }
  structure(made$codes, levels = made$levels, class = "factor")
}

# The grouping factor of a term; attribute "locations" (levels x k) where its levels are locations.
levels_of_term <- function(bar, frame) {
  if (!is_located(bar)) {
    return(group_factor(bar$group, frame))
  }
  made <- distinct_locations(coordinates_in(bar, frame))
  structure(made$codes, levels = made$levels, class = "factor", locations = made$locations)
}

# An expression of the right side of a bar, such as interaction(a, b), that is no column of the frame itself.
evaluate_group <- function(part, data) {
  tryCatch(
    eval(part, data, environment(attr(data, "terms"))),
    error = function(e) {
      stop(sprintf("the grouping factor '%s' cannot be evaluated: make it a column of the data.", deparse1(part)),
           call. = FALSE)
    }
  )
}

# Codes from 1 and names of the levels that occur.
used_levels <- function(x) {
  if (is.factor(x)) {
    codes <- as.integer(x)
    names <- levels(x)
    used <- tabulate(codes, length(names)) > 0L
    if (all(used)) {
      return(list(codes = codes, levels = names))
    }
    return(list(codes = cumsum(used)[codes], levels = names[used]))
  }
  if (is.integer(x) && !is.object(x) && length(x)) {
    return(integer_levels(x))
  }
  if (is.numeric(x) && is.null(dim(x)) && !is.object(x)) {
    # factor() would turn every row into text; here only the distinct values are
    values <- sort(unique(x))
    names <- as.character(values)
    if (!anyDuplicated(names)) {
      return(list(codes = match(x, values), levels = names))
    }
  }
  x <- factor(x)
  list(codes = as.integer(x), levels = levels(x))
}

# Levels of an integer vector, by counting where its range allows that.
integer_levels <- function(x) {
  range <- range(x, na.rm = TRUE)
  if (diff(as.numeric(range)) > 10 * length(x)) {
    values <- sort(unique(x))
    return(list(codes = match(x, values), levels = as.character(values)))
  }
  shifted <- x - range[1L] + 1L
  used <- tabulate(shifted) > 0L
  list(codes = cumsum(used)[shifted], levels = as.character(which(used) + range[1L] - 1L))
}

# The interaction of two factors: levels "a:b", the first factor slowest, only combinations that occur.
cross_levels <- function(a, b, sep = ":") {
  width <- length(b$levels)
  cell <- (a$codes - 1) * width + b$codes
  cells <- sort(unique(cell))
  first <- (cells - 1) %/% width + 1
  second <- cells - (first - 1) * width
  list(
    codes = match(cell, cells),
    levels = make.unique(paste(a$levels[first], b$levels[second], sep = sep))
  )
}

# Codes of new data against the levels of a fit: NA for a missing group, 0 for a level the fit has not seen.
#
# Attribute "unseen" holds the names of those levels.
new_codes <- function(group, levels, data) {
  columns <- lapply(group_parts(group), function(part) {
    column <- data[[deparse1(part)]]
    as.character(if (is.null(column)) evaluate_group(part, data) else column)
  })
  missing <- Reduce(`|`, lapply(columns, is.na))
  text <- do.call(paste, c(columns, sep = ":"))
  codes <- match(text, levels, nomatch = 0L)
  unseen <- unique(text[codes == 0L & !missing])
  codes[missing] <- NA_integer_
  structure(codes, unseen = unseen)
}
