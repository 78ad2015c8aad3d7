# Networks in the mean: nn(x1, x2, hidden = c(50, 25)) in a formula, their inputs, and what a fit keeps of them.

is_network <- function(e) call_name(e) == "nn"

has_network <- function(e) {
  is_network(e) || (call_name(e) %in% c("(", "+", "-") && any(vapply(as.list(e)[-1L], has_network, NA)))
}

# The nn() calls of a right-hand side, each a list(label, name, inputs, options).
collect_networks <- function(e) {
  if (is_network(e)) {
    return(list(read_network(e)))
  }
  if (!has_network(e)) {
    return(NULL)
  }
  unlist(lapply(as.list(e)[-1L], collect_networks), recursive = FALSE)
}

read_network <- function(e) {
  label <- deparse1(e)
  arguments <- split_arguments(e, label)
  if (length(arguments$inputs) == 0L) {
    stop(sprintf("%s: name the columns that the network takes, nn(x1, x2), or nn(.) for all others.", label),
         call. = FALSE)
  }
  options <- arguments$options
  name <- if (is.null(options$net)) "nn" else options$net
  options$net <- NULL
  list(label = label, name = name, inputs = lapply(arguments$inputs, as_variable), options = layers_of(options))
}

# Options in which hidden = c(), which is NULL, means no hidden layers.
layers_of <- function(options) {
  if ("hidden" %in% names(options) && is.null(options$hidden)) options$hidden <- numeric(0)
  options
}

# The right-hand side without its networks (NULL where nothing is left), or with f(network call) in their place.
replace_networks <- function(e, f = function(call) NULL) {
  if (is_network(e)) {
    return(f(e))
  }
  if (!has_network(e)) {
    return(e)
  }
  parts <- lapply(as.list(e)[-1L], replace_networks, f)
  left <- Filter(Negate(is.null), parts)
  if (length(left) == length(parts)) {
    return(as.call(c(e[[1L]], left)))
  }
  if (length(left) == 0L) NULL else left[[1L]]
}

# nn(.) written out: every column that the formula does not use elsewhere.
expand_network_dots <- function(rhs, formula, data) {
  replace_networks(rhs, function(call) {
    dots <- vapply(as.list(call), identical, NA, as.name("."))
    if (!any(dots)) {
      return(call)
    }
    free <- setdiff(names(data), all.vars(formula))
    if (length(free) == 0L) {
      stop(sprintf("%s: no column is left for '.'; all are used elsewhere.", deparse1(call)), call. = FALSE)
    }
    as.call(append(as.list(call)[!dots], lapply(free, as.name), after = which(dots)[1L] - 1L))
  })
}

# What nets says of each network by name: options, list(nn = list(hidden = c(50, 25))), of which those in the formula
# come first, or the user's own torch module, a Python object.
with_options <- function(networks, nets) {
  known <- vapply(networks, `[[`, "", "name")
  unknown <- setdiff(names(nets), known)
  if (length(unknown)) {
    stop(sprintf("nets has '%s', but no network of the formula has that name: write nn(..., net = ).", unknown[1L]),
         call. = FALSE)
  }
  lapply(networks, function(network) {
    if (network$name != "nn" && is.null(nets[[network$name]])) {
      stop(sprintf("%s: nets has no '%s'.", network$label, network$name), call. = FALSE)
    }
    given <- nets[[network$name]]
    if (inherits(given, "python.builtin.object")) {
      network$module <- given
    } else if (is.null(given) || is.list(given)) {
      network$options <- utils::modifyList(layers_of(as.list(given)), network$options)
    } else {
      stop(sprintf("nets: '%s' is of class '%s': give a list of options such as list(hidden = c(50, 25)), or a %s.",
                   network$name, class(given)[1L], "torch module made through reticulate"), call. = FALSE)
    }
    network
  })
}

# The user's own modules by name; NULL where there are none.
own_modules <- function(networks) {
  modules <- lapply(networks, `[[`, "module")
  names(modules) <- vapply(networks, `[[`, "", "name")
  modules <- Filter(Negate(is.null), modules)
  if (length(modules)) modules
}

check_networks <- function(networks, bars, response) {
  groups <- vapply(bars, function(bar) deparse1(bar$group), "")
  for (network in networks) {
    for (name in vapply(network$inputs, deparse1, "")) {
      if (name == response) {
        stop(sprintf("%s: the response '%s' cannot be an input.", network$label, name), call. = FALSE)
      }
      if (name %in% groups) {
        stop(sprintf("%s: '%s' is the grouping factor of a random term too; take it out of one of them.",
                     network$label, name), call. = FALSE)
      }
    }
  }
}

# The inputs of a network as a matrix: numbers as they are, factors as codes from 0.
#
# Returns list(values, names, levels, shapes): `levels` is one character vector for a factor, NULL for a number;
# `shapes` has one element for each input, the length of its rows where it is a matrix among the data, else nothing.
network_inputs <- function(network, frame, levels = NULL) {
  parts <- lapply(network$inputs, function(input) {
    name <- deparse1(input)
    column <- frame[[name]]
    if (is.character(column) || is.factor(column)) {
      known <- if (is.null(levels)) levels(factor(column)) else levels[[name]]
      unseen <- setdiff(unique(as.character(column)), c(known, NA))
      if (length(unseen)) {
        stop(sprintf("the new data have level '%s' of '%s', which the network has not seen.", unseen[1L], name),
             call. = FALSE)
      }
      return(list(values = matrix(match(as.character(column), known) - 1), names = name, levels = list(known),
                  shapes = list(integer(0))))
    }
    if (is.null(column)) {
      stop(sprintf("%s: '%s' is not among the data.", network$label, name), call. = FALSE)
    }
    values <- matrix(as.double(column), ncol = NCOL(column))
    names <- if (ncol(values) == 1L) name else paste0(name, seq_len(ncol(values)))
    whole <- is.matrix(column) && holds_arrays(input)
    list(values = values, names = names, levels = rep(list(NULL), ncol(values)),
         shapes = if (whole) list(ncol(column)) else rep(list(integer(0)), ncol(values)))
  })
  list(
    values = do.call(cbind, lapply(parts, `[[`, "values")),
    names = unlist(lapply(parts, `[[`, "names")),
    levels = unlist(lapply(parts, `[[`, "levels"), recursive = FALSE),
    shapes = unlist(lapply(parts, `[[`, "shapes"), recursive = FALSE)
  )
}

# A matrix that is a column of the data holds one array a row; poly(x, 2) is several numbers.
holds_arrays <- function(input) is.name(input) || (call_name(input) == "I" && is.name(input[[2L]]))

# What rdoor.py reads of the networks: list(meta, buffers).
send_networks <- function(networks, frame) {
  inputs <- lapply(networks, network_inputs, frame)
  meta <- Map(function(network, input) {
    list(label = network$label, name = network$name, names = as_array(input$names),
         levels = as_array(lengths(input$levels)), options = named_list(network$options),
         shapes = if (any(lengths(input$shapes))) lapply(input$shapes, as_array))
  }, networks, inputs)
  buffers <- lapply(inputs, function(input) as_buffers(input$values))
  list(meta = unname(meta), buffers = unlist(buffers, recursive = FALSE))
}

# JSON wants {} for a list without elements, and arrays for vectors that are meant to have several.
named_list <- function(options) {
  if (length(options) == 0L) {
    return(structure(list(), names = character(0)))
  }
  if (!is.null(options$hidden)) options$hidden <- as_array(options$hidden)
  options
}

# What a fit keeps: `state` and `shapes` (texts for Python), `arrays` (the weights), `lines` of the summary and
# `short_lines` of print(), `history` of the `criterion`, how many `outputs` a row has, `best_epoch` of each member,
# whether the networks' part of each row is `out_of_fold`, which rows no member has learnt from (`held_out`), and
# `inputs`, each with its expressions and levels.
keep_networks <- function(networks, reply, frame) {
  own <- grep("^networks\\.", names(reply$arrays), value = TRUE)
  list(
    state = reply$networks$state,
    shapes = reply$networks$shapes,
    lines = as.character(reply$networks$lines),
    short_lines = as.character(reply$networks$short_lines),
    history = as.data.frame(reply$networks$history),
    criterion = reply$networks$criterion,
    outputs = reply$networks$outputs,
    messages = as.character(reply$networks$messages),
    best_epoch = as.integer(reply$networks$best_epoch),
    out_of_fold = reply$networks$out_of_fold,
    held_out = reply$arrays$held_out == 1,
    arrays = reply$arrays[own],
    inputs = lapply(networks, function(network) {
      levels <- lapply(network$inputs, function(input) {
        column <- frame[[deparse1(input)]]
        if (is.character(column) || is.factor(column)) levels(factor(column))
      })
      names(levels) <- vapply(network$inputs, deparse1, "")
      c(network, list(levels = levels))
    })
  )
}

# The networks' part of the mean joins the offset of the model frame, where every verb finds it.
add_to_offset <- function(frame, values) {
  offset <- frame[["(offset)"]]
  frame[["(offset)"]] <- if (is.null(offset)) values else offset + values
  frame
}

# The fitted networks as rdoor.py reads them: list(meta, buffers).
send_kept_networks <- function(object) {
  check_modules(object)
  kept <- object$networks
  list(
    meta = list(state = kept$state, shapes = kept$shapes, names = as_array(names(kept$arrays))),
    buffers = unlist(lapply(unname(kept$arrays), as_buffers), recursive = FALSE)
  )
}

# A module is a Python object: readRDS() brings back an empty pointer.
check_modules <- function(object) {
  lost <- lost_modules(object)
  if (length(lost)) {
    stop(sprintf("the network '%s' is a module of your own, which a file does not hold: put it back, %s.", lost[1L],
                 sprintf("fit <- with_nets(fit, list(%s = module))", lost[1L])), call. = FALSE)
  }
}

lost_modules <- function(object) {
  modules <- own_modules(object$networks$inputs)
  names(modules)[vapply(modules, function(module) reticulate::py_is_null_xptr(module), NA)]
}

#' Put your own networks back into a fit
#'
#' A fit with a torch module of your own, `nn(x, net = "tower")`, keeps the weights of the module in R, but the module
#' is code of Python, which [saveRDS()] does not hold. After [readRDS()] all verbs work but those that need the network
#' at new rows; these ask for the module again.
#'
#' @param fit A fit by [lmernn()].
#' @param nets A named list of modules, as [lmernn()] took them.
#' @return The fit.
#' @export
#' @examples
#' \dontrun{
#' fit <- with_nets(readRDS("fit.rds"), list(tower = module))
#' predict(fit, new)
#' }
with_nets <- function(fit, nets) {
  if (!inherits(fit, "merModNN") || !is.list(nets)) {
    stop("with_nets() takes a fit by lmernn() and a named list of modules.", call. = FALSE)
  }
  known <- names(own_modules(fit$networks$inputs))
  unknown <- setdiff(names(nets), known)
  if (length(unknown) || is.null(names(nets))) {
    stop(sprintf("nets has '%s', but the fit has no module of that name.", c(unknown, "")[1L]), call. = FALSE)
  }
  fit$networks$inputs <- lapply(fit$networks$inputs, function(network) {
    if (!is.null(nets[[network$name]])) network$module <- nets[[network$name]]
    network
  })
  fit
}

# The inputs of each network for new data: a list of matrices.
new_inputs <- function(object, newdata) {
  lapply(object$networks$inputs, function(network) {
    columns <- lapply(network$inputs, evaluate_variable, object, newdata)
    names(columns) <- vapply(network$inputs, deparse1, "")
    network_inputs(network, columns, network$levels)$values
  })
}

# The networks' part of the mean for their inputs, from Python: a vector, or a matrix m x C of a multinomial model.
network_values <- function(object, inputs) {
  kept <- send_kept_networks(object)
  meta <- c(kept$meta, list(rows = nrow(inputs[[1L]]), widths = as_array(vapply(inputs, ncol, 0L))))
  buffers <- c(kept$buffers, unlist(lapply(inputs, as_buffers), recursive = FALSE))
  values <- call_python("network_values", meta, buffers, own_modules(object$networks$inputs))$arrays$values
  values[is.nan(values)] <- NA_real_
  if (object$networks$outputs > 1L) matrix(values, ncol = object$networks$outputs, byrow = TRUE) else values
}

# What stands above a table of tests or criteria of these models; nothing where none has networks.
network_note <- function(models) {
  networks <- lapply(models, function(one) if (inherits(one, "merModNN")) one$networks$arrays)
  if (all(vapply(networks, is.null, NA))) {
    return(NULL)
  }
  text <- "Networks count as known: no df counts their parameters, and no standard error their uncertainty."
  if (length(unique(networks)) > 1L) {
    text <- paste(text, "They were trained anew for each model, so a chi-squared statistic has no known distribution.")
  }
  strwrap(text, 80)
}

print_networks <- function(lines) {
  if (length(lines)) cat(lines, sep = "\n")
}

# Warns of columns left of a bar that only a network has in the mean: the random slopes may take their average effect.
warn_of_slopes <- function(model) {
  text <- paste("'%s' has random slopes in %s and is an input of %s, but has no fixed effect: add it as a term of",
                "its own, or the random slopes may take its average effect")
  for (network in model$networks) {
    inputs <- vapply(network$inputs, deparse1, "")
    for (bar in model$bars) {
      for (name in setdiff(intersect(bar$names, inputs), colnames(model$X))) {
        warning(sprintf(text, name, bar$label, network$label), call. = FALSE)
      }
    }
  }
}
