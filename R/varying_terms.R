# Bars with a network left of them, (nn.last | person): which parameters of which network vary by what.

# Names that mean a network wherever no column has them.
reserved_networks <- c("nn", "crf")

# A function that says whether an expression left of a bar names a network; columns of the data come first.
varies_in <- function(networks, columns) {
  nets <- c(vapply(networks, `[[`, "", "name"), reserved_networks)
  function(expression) any(nzchar(net_of(setdiff(all.vars(expression), columns), nets)))
}

# For each name the network that it is, or begins with ("nn.last"); "" where there is none.
net_of <- function(names, nets) {
  vapply(names, function(name) {
    found <- nets[name == nets | startsWith(name, paste0(nets, "."))]
    if (length(found)) found[which.max(nchar(found))] else ""
  }, "", USE.NAMES = FALSE)
}

# The bars of networks among those that collect_bars() has found, one for each factor: elements of new_bar(), and `net`
# (its name), `selector` ("" for all parameters, "last", "first" or the name of one) and `rank` (of rr(), 0 where it is
# not given). Sequences of states may have two bars: one of the network, one of transitions.
varying_bars <- function(written, networks, varies, sequences = FALSE) {
  is_varying <- vapply(written, function(bar) !is_located(bar) && varies(bar$columns), NA)
  nets <- c(vapply(networks, `[[`, "", "name"), if (sequences) "crf")
  for (bar in written[!is_varying]) {
    if (bar$covariance == "rr") {
      stop(sprintf("%s: this version fits rr() of the parameters of a network only.", bar$label), call. = FALSE)
    }
  }
  found <- unlist(lapply(written[is_varying], function(bar) by_factor(varying_bar(bar, nets), bar)), recursive = FALSE)
  if (sequences) refuse_several(found, written[!is_varying])
  found
}

# The bars of sequences: one of the network, one of transitions, by one factor.
refuse_several <- function(found, others) {
  of_network <- vapply(found, function(bar) bar$net != "crf", NA)
  groups <- unique(vapply(found, `[[`, "", "label_group"))
  if (anyDuplicated(of_network) || length(groups) > 1L) {
    stop(sprintf("%s: this version lets sequences vary by one factor only.", found[[length(found)]]$label),
         call. = FALSE)
  }
  if (length(found) && length(others)) {
    stop(sprintf("%s: this version does not fit columns that vary by group beside %s: take one of them out.",
                 others[[1L]]$label, found[[1L]]$label), call. = FALSE)
  }
}

# A bar of a network for each of its factors, which a/b and a*b have several of.
by_factor <- function(made, written) {
  groups <- expand_group(made$group)
  if (length(groups) == 1L) {
    return(list(made))
  }
  lapply(groups, function(group) {
    made$group <- group
    made$label_group <- group_label(group)
    inside <- paste(deparse1(made$columns), if (written$double) "||" else "|", made$label_group)
    options <- if (made$rank > 0L) sprintf(", d = %d", made$rank) else ""
    made$label <- sprintf("%s(%s%s)", if (written$covariance == "us") "" else written$covariance, inside, options)
    made
  })
}

varying_bar <- function(bar, nets) {
  refuse <- function(...) stop(sprintf("%s: %s", bar$label, sprintf(...)), call. = FALSE)
  target <- strip_parentheses(bar$columns)
  inside <- call_name(target) == "[" && is.name(target[[2L]])
  named <- net_of(all.vars(target), c(nets, reserved_networks))
  named <- named[nzchar(named)][1L]
  if (!is.name(target) && !inside) {
    refuse("parameters of a network stand alone left of a bar: write (%s | %s).", named, group_label(bar$group))
  }
  if (named == "crf" && !named %in% nets) {
    refuse("transitions belong to sequences: use glmernn() with family = \"crf\".")
  }
  if (!named %in% nets) refuse("the formula has no network '%s': add a term such as nn(x1, x2).", named)
  if (!bar$covariance %in% c("us", "diag", "rr")) {
    refuse("parameters of a network take us(), diag() or rr(), not %s().", bar$covariance)
  }
  if (inside && !(length(target) == 3L && is.character(target[[3L]]))) {
    refuse("name one parameter in quotes, such as %s[\"layers.0.weight\"].", deparse1(target[[2L]]))
  }
  made <- new_bar(target, bar$group, bar)
  made$covariance <- if (bar$double) "diag" else bar$covariance
  made$net <- named
  made$selector <- if (inside) target[[3L]] else substring(deparse1(target), nchar(named) + 2L)
  made$rank <- rank_of(bar, refuse)
  made$label_group <- group_label(bar$group)
  made
}

# What rr(nn | g, d = 4) asks for, 0 for nothing.
rank_of <- function(bar, refuse) {
  if (length(bar$options) == 0L) {
    return(0L)
  }
  d <- bar$options$d
  plain <- is.numeric(d) && length(d) == 1L && !is.na(d) && d >= 1 && d == round(d)
  if (bar$covariance != "rr" || !identical(names(bar$options), "d") || !plain) {
    refuse("rr() takes a rank, a whole number: write rr(%s | group, d = 4).", deparse1(bar$columns))
  }
  as.integer(d)
}

# What rprotocol.py reads of these bars: list(meta, buffers).
send_varying <- function(model) {
  meta <- Map(function(bar, group) {
    if (nlevels(group) < 2L) {
      stop(sprintf("the grouping factor '%s' of %s has %d level: it needs at least 2.", bar$label_group, bar$label,
                   nlevels(group)), call. = FALSE)
    }
    list(group = bar$label_group, n_levels = nlevels(group), net = bar$net, selector = bar$selector,
         covariance = bar$covariance, label = bar$label, rank = bar$rank)
  }, model$varying, model$varying_groups)
  buffers <- lapply(model$varying_groups, function(group) as_buffers(as.integer(group) - 1L))
  list(meta = unname(meta), buffers = unlist(buffers, recursive = FALSE))
}
