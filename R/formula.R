# Reading lme4's formula language: which part is fixed, which bars there are, what each bar expands to.

covariance_wrappers <- c("us", "diag", "embed", "rr")
later_wrappers <- c("cs", "ar1", "arma", "toep", "ou", "propto", "kron")

# One formula taken apart.
#
# Returns a list: `formula` (as lme4 stores it, `||` written out), `fixed` (no bars), `frame` (bars replaced by sums, to
# find all variables), `bars`, a list with the elements of `new_bar`, in the order in which lme4 expands them,
# `networks`, as collect_networks() has them, and `varying`, the bars with a network left of them, as varying_bars().
# Where rows are `sequences` of states there need be no bars, and `crf` left of one means the transitions.
parse_formula <- function(formula, data = NULL, nets = NULL, sequences = FALSE) {
  formula <- check_formula(formula)
  if (has_network(formula[[3L]])) formula[[3L]] <- expand_network_dots(formula[[3L]], formula, data)
  networks <- with_options(collect_networks(formula[[3L]]), nets)
  whole <- formula
  rhs <- replace_networks(formula[[3L]])
  if (is.null(rhs)) rhs <- 1
  written <- collect_bars(rhs)
  if (length(written) == 0L && !sequences) {
    stop("the formula has no random term: add one, as in (1 | group), or use lm().", call. = FALSE)
  }
  varies <- varies_in(networks, names(data))
  varying <- varying_bars(written, networks, varies, sequences)
  bars <- unlist(lapply(Filter(function(bar) !varies(bar$columns), written), expand_bar), recursive = FALSE)
  check_fields(bars)
  fixed <- without_bars(rhs)
  with_rhs <- function(new_rhs) {
    result <- formula
    result[[3L]] <- new_rhs
    result
  }
  fixed <- with_rhs(if (is.null(fixed)) 1 else fixed)
  if ("." %in% all.vars(fixed[[3L]])) {
    fixed <- formula(terms(fixed, data = data), data = data)
    environment(fixed) <- environment(formula)
  }
  check_networks(networks, c(bars, varying), deparse1(formula[[2L]]))
  inputs <- unlist(lapply(networks, `[[`, "inputs"), recursive = FALSE)
  list(
    formula = with_rhs(write_out_double_bars(whole[[3L]], varies)),
    fixed = fixed,
    frame = with_rhs(Reduce(function(a, b) call("+", a, b), inputs,
                            bars_as_sums(write_out_double_bars(rhs, varies), varies))),
    bars = bars,
    networks = networks,
    varying = varying
  )
}

check_formula <- function(formula) {
  if (!inherits(formula, "formula")) {
    stop("formula must be a formula, as in y ~ x + (1 | group).", call. = FALSE)
  }
  if (length(formula) != 3L) {
    stop("the formula has no response: write one left of ~.", call. = FALSE)
  }
  formula
}

# One random term: `columns` and `group` are expressions, `label` is for messages, `options` are those of the structure,
# `coordinates` are expressions where the levels are locations.
new_bar <- function(columns, group, written) {
  list(columns = columns, group = group, covariance = written$covariance, label = written$label,
       options = written$options, coordinates = written$coordinates)
}

call_name <- function(e) if (is.call(e) && is.name(e[[1L]])) as.character(e[[1L]]) else ""

is_bar <- function(e) call_name(e) %in% c("|", "||")

strip_parentheses <- function(e) {
  while (call_name(e) == "(") e <- e[[2L]]
  e
}

# A bar, alone or inside a covariance structure such as diag(x | g), or a term over locations.
is_random <- function(e) {
  is_bar(e) || is_location_term(e) || (call_name(e) %in% c(covariance_wrappers, later_wrappers) && length(e) > 1L &&
                  is_bar(strip_parentheses(e[[2L]])))
}

has_random <- function(e) {
  if (!is.call(e)) {
    return(FALSE)
  }
  operators <- c("(", "+", "-", "*", "/", ":", "^", "%in%")
  is_random(e) || (call_name(e) %in% operators && any(vapply(as.list(e)[-1L], has_random, NA)))
}

# The random terms of a right-hand side as written, each a list(columns, group, double, covariance, label, options,
# coordinates).
collect_bars <- function(e) {
  if (!has_random(e)) {
    return(NULL)
  }
  if (is_random(e)) {
    return(list(read_random(e)))
  }
  operator <- call_name(e)
  if (operator == "-" && has_random(e[[length(e)]]) || !operator %in% c("(", "+", "-")) {
    stop(sprintf("the random term in %s must be added to the formula with +.", deparse1(e)), call. = FALSE)
  }
  unlist(lapply(as.list(e)[-1L], collect_bars), recursive = FALSE)
}

read_random <- function(e) {
  if (is_location_term(e)) {
    return(read_location_term(e))
  }
  label <- deparse1(e)
  covariance <- "us"
  options <- list()
  if (!is_bar(e)) {
    covariance <- call_name(e)
    if (!covariance %in% covariance_wrappers) {
      stop(sprintf("%s: the structure '%s' is not available; use us() or diag().", label, covariance), call. = FALSE)
    }
    if (covariance == "embed") {
      options <- embed_options(split_arguments(e, label)$options, label, "dim")
    } else if (covariance == "rr") {
      options <- split_arguments(e, label)$options
    } else if (length(e) > 2L) {
      stop(sprintf("%s: options of '%s' are not available; write %s(%s).", label, covariance, covariance,
                   deparse1(e[[2L]])), call. = FALSE)
    }
    e <- strip_parentheses(e[[2L]])
  } else {
    label <- paste0("(", label, ")")
  }
  if (length(all.vars(e[[3L]])) == 0L) {
    stop(sprintf("the random term %s has no grouping factor: name one right of the bar.", label), call. = FALSE)
  }
  list(columns = e[[2L]], group = e[[3L]], double = is_bar(e) && call_name(e) == "||", covariance = covariance,
       label = label, options = options)
}

# `||` and `/` as lme4 expands them: columns first, then the grouping factors, innermost first.
expand_bar <- function(bar) {
  if (is_located(bar)) {
    return(list(new_bar(bar$columns, bar$group, bar)))
  }
  columns <- if (bar$double) split_columns(bar$columns) else list(bar$columns)
  groups <- expand_group(bar$group)
  unlist(lapply(columns, function(column) {
    lapply(groups, function(group) new_bar(column, group, bar))
  }), recursive = FALSE)
}

# (x || g) is (1 | g) + (0 + x | g): one term for the intercept and one for each term label.
split_columns <- function(columns) {
  parts <- terms(one_sided(columns))
  pieces <- lapply(attr(parts, "term.labels"), function(text) call("+", 0, str2lang(text)))
  if (attr(parts, "intercept") == 1L) c(list(1), pieces) else pieces
}

expand_group <- function(group) {
  group <- strip_parentheses(group)
  switch(
    call_name(group),
    "/" = {
      outer <- expand_group(group[[2L]])
      c(list(call(":", strip_parentheses(group[[3L]]), outer[[1L]])), outer)
    },
    "*" = {
      left <- expand_group(group[[2L]])
      right <- expand_group(group[[3L]])
      both <- unlist(lapply(left, function(a) lapply(right, function(b) call(":", a, b))), recursive = FALSE)
      c(left, right, both)
    },
    list(group)
  )
}

one_sided <- function(rhs, env = baseenv()) stats::as.formula(call("~", rhs), env = env)

# The right-hand side without its bars; NULL where nothing is left.
without_bars <- function(e) {
  if (!has_random(e)) {
    return(e)
  }
  if (is_random(e)) {
    return(NULL)
  }
  parts <- lapply(as.list(e)[-1L], without_bars)
  left <- Filter(Negate(is.null), parts)
  if (length(left) == 0L) {
    return(NULL)
  }
  if (length(left) == length(parts)) {
    return(as.call(c(e[[1L]], left)))
  }
  if (call_name(e) == "-") call("-", left[[1L]]) else left[[1L]]
}

# Applies `f` to each random term of a right-hand side and leaves the rest as it is.
map_random <- function(e, f) {
  if (!has_random(e)) {
    return(e)
  }
  if (is_random(e)) {
    return(f(e))
  }
  as.call(c(e[[1L]], lapply(as.list(e)[-1L], map_random, f)))
}

plain_bar <- function(e) if (is_bar(e)) e else strip_parentheses(e[[2L]])

# Columns of a bar that `varies` are parameters of a network, hence no variables.
bars_as_sums <- function(rhs, varies = never) {
  map_random(rhs, function(e) {
    if (is_location_term(e)) {
      return(Reduce(function(a, b) call("+", a, b), read_location_term(e)$coordinates))
    }
    bar <- plain_bar(e)
    if (varies(bar[[2L]])) bar[[3L]] else call("+", bar[[2L]], bar[[3L]])
  })
}

never <- function(columns) FALSE

write_out_double_bars <- function(rhs, varies = never) {
  map_random(rhs, function(e) {
    if (call_name(e) != "||" || varies(e[[2L]])) {
      return(e)
    }
    terms <- lapply(split_columns(e[[2L]]), function(column) call("(", call("|", column, e[[3L]])))
    Reduce(function(a, b) call("+", a, b), terms)
  })
}

# The formula as any lme4 can read it: diag(x | g) as x || g is written out, us(x | g) is (x | g), a * b is expanded.
lme4_formula <- function(formula) {
  formula[[3L]] <- map_random(formula[[3L]], function(e) {
    bar <- plain_bar(e)
    if (call_name(e) == "diag") bar[[1L]] <- as.name("||")
    if ("*" %in% all.names(bar[[3L]])) {
      written <- lapply(expand_group(bar[[3L]]), function(group) {
        call("(", write_out_double_bars(call(call_name(bar), bar[[2L]], group)))
      })
      return(Reduce(function(a, b) call("+", a, b), written))
    }
    if (is_bar(e)) e else call("(", write_out_double_bars(bar))
  })
  formula
}
