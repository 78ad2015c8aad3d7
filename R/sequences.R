# Sequences of states, a conditional random field on a network: what a fit keeps, and its estimates.

#' Verbs of sequence models
#'
#' `glmernn(state ~ nn(x1, x2) + (crf | g), data, family = "crf", sequence = "s", time = "t")` fits a linear-chain
#' conditional random field to sequences of states: the log-probability of a sequence is, but for a constant, the sum of
#' a score of each state, from linear coefficients and a network, and of a score of each move from a state to the next.
#' Where `(crf | g)` stands, level i of `g` has transitions of its own around those that all share, `T_bar + T_i`; where
#' `(nn.last | g)` stands, parameters of its own in the network, as in [varying]. Without bars nothing varies.
#'
#' Rows are ordered by `time` within each sequence, and answers have the order of the data. A sequence is taken as a
#' whole: rows of `newdata` with missing values are an error, and so are rows left out of a fit amid a sequence.
#'
#' The log-likelihood is that of whole sequences, by Laplace's approximation where something varies, given the network.
#' `fitted()` are probabilities of the states, rows by states.
#'
#' Verbs of other fits that are not listed here work too: `formula()`, `nobs()`, [ngrps()], [history()], [with_nets()],
#' `AIC()`, `BIC()`, `update()`. What needs the training to be repeated is left to `update()`: there is no `refit()`,
#' `anova()`, `drop1()` or `simulate()`.
#'
#' Akaike's criterion chooses the variances of each bar: one for each number that varies (a full covariance matrix where
#' these are few and levels many), one in common for all weights of a layer, its biases or the transitions, or zero,
#' which is the model without the bar, and the network is then trained anew without it. The fit says so where the latter
#' two are chosen.
#'
#' `vcov()`, and by it `confint()`, take the network and variances as known. Coefficients of a column add up to zero
#' over the states, and so do all transitions, so the matrix is singular. A move that never occurs has a huge variance.
#' An intercept and the moves towards its state are told apart by the first and last times of the sequences alone, so
#' with few sequences the variances of both are large.
#'
#' @param object,x,fit A fit by `glmernn(family = "crf")`, or what its verbs return.
#' @param group A level of the grouping factor (for `plot()` several too); by default what all groups share.
#' @param condVar Whether posterior variances come along, as attribute `"postVar"`: an array, parameters x parameters x
#'   levels.
#' @param whichel Names of the grouping factors that are wanted.
#' @param sigma,scale,k Not used.
#' @param row.names,optional As in [as.data.frame()].
#' @param newdata A data frame with the columns of sequences and times; by default the data of the fit. The states are
#'   needed for `deviance()` and `update_random_effects()` only; in the latter, of a level that the fit knows the new
#'   sequences alone count, so give all of them.
#' @param re.form `NULL`: the transitions and network of each level; `NA` or `~0`: what all levels share.
#' @param allow.new.levels Whether levels that the fit has not seen get what all share; else they are an error.
#' @param average So many draws of deviations from their distribution, over which probabilities of levels without any
#'   are averaged. The class is then that of the largest of these.
#' @param seed Of these draws.
#' @param type `"class"`: the most probable states of each sequence as a whole (Viterbi's); `"response"` or `"prob"`:
#'   probabilities of each state at each time given the whole sequence. Of residuals: `"response"`, one for the observed
#'   state and zero for the others, less `fitted()`; `"pearson"`, that over `sqrt(p (1 - p))`; or `"deviance"`,
#'   `sqrt(-2 log p)` of the observed state given the states before it and the inputs of the whole sequence, one number
#'   a row, whose squares add up to `deviance()`.
#' @param kind What to draw: `"history"`, as in [plot.merModNN()], or `"transitions"`, heat maps of transition
#'   probabilities (with the further arguments of [compare_transitions()] or [transition_probabilities()]).
#' @param by For `"transitions"`: two sets of groups, as [compare_transitions()] takes them, or what it returned. A
#'   panel each and their difference in percentage points, framed where its limits leave out zero (Woerner et al., 2023,
#'   Figure 6 and Table 5).
#' @param name A name of lme4's [lme4::getME()], several, or `"ALL"`.
#' @param parm Names or numbers of coefficients, as `fixef()` has them; by default all.
#' @param level Of the intervals.
#' @param method `"Wald"`, the only one there is.
#' @param tol A standard deviation of a direction of the deviations below this is singular.
#' @param ... Nothing.
#' @return `transitions()` a matrix, from rows to columns, less its mean; `fixef()` a named vector, coefficients of each
#'   state and then transitions; `ranef()` a list of a data frame, levels by parameters, of which `as.data.frame()`
#'   makes one table; `VarCorr()` a list of covariance matrices, of the network and of transitions, of which
#'   `as.data.frame()` makes a table as lme4's; `predict()` a factor or a matrix, rows by states; `deviance()` -2 times
#'   the log-likelihood of states given the deviations of their levels; `update_random_effects()` the fit, which knows
#'   the new levels.
#' @name sequences
#' @examplesIf pylmernn::python_ready() && reticulate::py_module_available("torch")
#' set.seed(1)
#' d <- data.frame(dyad = rep(sprintf("d%d", 1:12), each = 20), t = rep(1:20, 12), x = rnorm(240))
#' stay <- rep(rnorm(12, 1), each = 20)
#' d$state <- "calm"
#' for (i in which(d$t > 1)) {
#'   score <- stay[i] * (if (d$state[i - 1] == "row") 1 else -1) + 2 * sin(d$x[i])
#'   if (runif(1) < plogis(score)) d$state[i] <- "row"
#' }
#' fit <- glmernn(state ~ nn(x, hidden = 4) + (crf | dyad), d, family = "crf", sequence = "dyad", time = "t",
#'                control = list(epochs = 10), seed = 1)
#' fit
#' transitions(fit, "d3")
#' head(ranef(fit)$dyad, 3)
#' head(predict(fit, type = "prob"), 3)
#' new <- transform(subset(d, dyad == "d3"), dyad = "new")
#' table(predict(update_random_effects(fit, new), new), new$state)
NULL

# Sends a sequence model to Python and makes the fit of the reply; arguments as those of glmernn().
fit_sequences <- function(formula, data, sequence, time, contrasts, nets, settings, call, caller) {
  if (any(c("weights", "offset") %in% names(call))) {
    stop("family \"crf\" takes neither weights nor an offset.", call. = FALSE)
  }
  data <- as_plain_frame(data)
  if (!is.data.frame(data)) {
    stop("data must be a data frame, with the columns of sequence and time.", call. = FALSE)
  }
  if (is.null(sequence)) {
    stop("family \"crf\" needs sequence =, the column that says which sequence a row belongs to.", call. = FALSE)
  }
  check_order_columns(data, sequence, time)
  aside <- setdiff(c(sequence, time), all.vars(formula)) # nn(.) does not mean these
  parsed <- parse_formula(formula, data[setdiff(names(data), aside)], nets, sequences = TRUE)
  frame <- build_frame(parsed, data, call, caller)
  attr(frame, "formula") <- parsed$formula
  frame <- with_classes(frame, "crf")
  model <- model_parts(parsed, frame, contrasts, "crf")
  rows <- match(c(row.names(frame), names(attr(frame, "na.action"))), row.names(data))
  order <- order_of(data, sequence, time, rows)
  sent <- send_design(model)
  meta <- c(sent$meta, settings, list(formula = deparse1(model$formula), sequences = order$meta))
  if (length(settings$control) == 0L) meta$control <- NULL
  reply <- call_python("fit_sequences", meta, c(sent$buffers, order$buffers), own_modules(model$networks))
  used <- seq_len(nrow(frame))
  fit <- new_sequence_fit(model, settings, reply)
  fit$sequences <- list(sequence = sequence, time = time, of = order$names[order$codes[used] + 1L],
                        at = order$ranks[used])
  call$formula <- parsed$formula
  fit$call <- call
  report_fit(fit)
  fit
}

# Makes the fit of a reply. Beside formula, frame, fixed, varying, flist, cnms, kept, dropped and networks, which are as
# in new_varying_fit(), it has, with p linear coefficients, S states, D parameters that vary and q levels:
#
# classes                the states
# beta, transitions      p x S, S x S
# moves, diagonal        whether transitions vary; of network and transitions, whether there are variances only
# layers                 of what varies, D
# effects, variances     q x D; D x D x q
# factor                 L with Sigma = L L', D x D
# fixed_covariance       of fixef()
# log_steps              log-probability of each observed state given those before it, n
# probabilities, states  n x S; codes from 1, n
# sequences              list(sequence, time), names of columns, and of each row the sequence (`of`) and the rank (`at`)
new_sequence_fit <- function(model, settings, reply) {
  arrays <- reply$arrays
  S <- length(model$classes)
  states <- list(model$classes, model$classes)
  labels <- as.character(unlist(reply$labels))
  D <- length(labels)
  group <- unique(vapply(model$varying, `[[`, "", "label_group"))
  levels <- if (length(group)) levels(model$varying_groups[[1L]]) else character(0)
  dropped <- as.integer(unlist(reply$dropped_at)) + 1L
  kept <- setdiff(seq_len(ncol(model$X)), dropped)
  by_row <- function(values, names) matrix(values, length(names[[1L]]), byrow = TRUE, dimnames = names)
  fit <- structure(
    list(
      call = NULL, formula = model$formula, frame = model$frame, fixed = model$fixed, bars = list(),
      varying = model$varying, classes = model$classes, sequences = NULL,
      flist = shared_factors(model$varying_groups, vapply(model$varying, `[[`, "", "label_group")),
      cnms = stats::setNames(rep(list(labels), length(group)), group),
      kept = kept, dropped = stats::setNames(dropped, colnames(model$X)[dropped]),
      REML = FALSE, method = reply$method, settings = settings,
      family = structure(list(family = "crf", link = "softmax"), class = "family"), sigma = 1,
      beta = matrix(arrays$beta, length(kept), S, TRUE, list(colnames(model$X)[kept], model$classes)),
      transitions = by_row(arrays$transitions, states), moves = reply$moves, diagonal = as.logical(reply$diagonal),
      layers = as.character(unlist(reply$layers)),
      effects = matrix(arrays$effects, length(levels), D, TRUE, list(levels, labels)),
      variances = array(arrays$variances, c(D, D, length(levels)), list(labels, labels, levels)),
      factor = by_row(arrays$factor, list(labels, NULL)),
      probabilities = matrix(arrays$probabilities, ncol = S, byrow = TRUE),
      states = as.integer(arrays$states) + 1L, log_steps = arrays$log_steps,
      objective = reply$objective, exact = FALSE, df = reply$df,
      convergence = c(reply$convergence, list(gradient = arrays$gradient)), scales_differ = reply$scales_differ,
      text = reply$text, variances_text = as.character(unlist(reply$variances_text)),
      networks = keep_networks(model$networks, reply, model$frame)
    ),
    class = c("sequenceModNN", "varyingModNN", "merModNN")
  )
  coefficients <- names(fixef(fit))
  fit$fixed_covariance <- by_row(arrays$fixed_covariance, list(coefficients, coefficients))
  fit
}

not_for_sequences <- function(what, why) {
  stop(sprintf("%s is not offered for sequences of states: %s.", what, why), call. = FALSE)
}

need_deviations <- function(object) {
  if (length(object$varying) == 0L) {
    stop("nothing varies by group in this model: add a bar such as (crf | group).", call. = FALSE)
  }
}

#' @rdname sequences
#' @export
transitions <- function(object, group = NULL, ...) UseMethod("transitions")

#' @rdname sequences
#' @export
transitions.merModNN <- function(object, group = NULL, ...) {
  stop("transitions belong to sequences of states: fit them by glmernn() with family = \"crf\".", call. = FALSE)
}

#' @rdname sequences
#' @export
transitions.sequenceModNN <- function(object, group = NULL, ...) {
  found <- object$transitions
  if (!is.null(group)) {
    need_deviations(object)
    at <- match(as.character(group), rownames(object$effects))
    if (length(at) != 1L || is.na(at)) {
      stop(sprintf("'%s' is no level of '%s' that the fit has seen.", format(group)[1L], names(object$flist)),
           call. = FALSE)
    }
    if (object$moves) found <- found + matrix(object$effects[at, of_transitions(object)], nrow(found), byrow = TRUE)
  }
  found - mean(found)
}

# Which of the parameters that vary are transitions.
of_transitions <- function(object) {
  utils::tail(seq_along(object$layers), if (object$moves) length(object$transitions) else 0L)
}

#' @rdname sequences
#' @export
fixef.sequenceModNN <- function(object, ...) {
  scores <- outer(rownames(object$beta), object$classes, paste, sep = ":")
  moves <- outer(object$classes, object$classes, function(a, b) sprintf("transitions[%s,%s]", a, b))
  stats::setNames(c(t(object$beta), t(transitions(object))), c(t(scores), t(moves)))
}

#' @rdname sequences
#' @export
ranef.sequenceModNN <- function(object, condVar = FALSE, whichel = names(object$flist), ...) {
  need_deviations(object)
  ranef.varyingModNN(object, condVar, whichel)
}

#' @rdname sequences
#' @export
coef.sequenceModNN <- function(object, ...) {
  not_for_sequences("coef()", "use transitions(fit, group), and ranef() for deviations of the network")
}

#' @rdname sequences
#' @export
VarCorr.sequenceModNN <- function(x, sigma = 1, ...) {
  need_deviations(x)
  moves <- of_transitions(x)
  parts <- list(setdiff(seq_along(x$layers), moves), moves)
  names(parts) <- paste(names(x$flist), c(x$networks$inputs[[1L]]$name, "crf"), sep = ".")
  terms <- Map(function(at, diagonal) {
    covariance <- tcrossprod(x$factor[at, , drop = FALSE])
    dimnames(covariance) <- list(colnames(x$effects)[at], colnames(x$effects)[at])
    sd <- sqrt(diag(covariance))
    correlation <- covariance / outer(sd, sd)
    diag(correlation) <- 1
    structure(covariance, stddev = sd, correlation = correlation, diagonal = diagonal)
  }, parts, x$diagonal)
  structure(terms[lengths(parts) > 0L], sc = 1, useSc = FALSE, text = x$variances_text,
            class = c("VarCorr.sequenceModNN", "VarCorr.varyingModNN"))
}

#' @rdname sequences
#' @export
as.data.frame.VarCorr.sequenceModNN <- function(x, row.names = NULL, optional = FALSE, ...) {
  rows <- lapply(names(x), function(name) {
    alone <- structure(unclass(x)[name], correlated = !attr(x[[name]], "diagonal"), useSc = FALSE)
    as.data.frame.VarCorr.varyingModNN(alone)
  })
  do.call(rbind, rows)
}

#' @rdname sequences
#' @export
vcov.sequenceModNN <- function(object, ...) object$fixed_covariance

#' @rdname sequences
#' @export
isSingular.sequenceModNN <- function(x, tol = 1e-4, ...) length(x$layers) > 0L && min(svd(x$factor, 0L, 0L)$d) < tol

#' @rdname sequences
#' @export
anova.sequenceModNN <- function(object, ...) not_for_sequences("anova()", again)

#' @rdname sequences
#' @export
drop1.sequenceModNN <- function(object, ...) not_for_sequences("drop1()", again)

#' @rdname sequences
#' @export
extractAIC.sequenceModNN <- function(fit, scale, k = 2, ...) not_for_sequences("extractAIC()", "use AIC()")

#' @rdname sequences
#' @export
confint.sequenceModNN <- function(object, parm = NULL, level = 0.95, method = "Wald", ...) {
  if (!identical(method, "Wald")) {
    stop("confint() of sequences of states has method = \"Wald\" alone.", call. = FALSE)
  }
  estimates <- fixef(object)
  if (is.null(parm)) parm <- names(estimates)
  if (is.numeric(parm)) parm <- names(estimates)[parm]
  if (anyNA(parm) || !all(parm %in% names(estimates))) {
    stop(sprintf("there is no coefficient '%s': there are %s.", setdiff(parm, names(estimates))[1L],
                 abbreviate_list(names(estimates), 10L)), call. = FALSE)
  }
  tails <- c((1 - level) / 2, (1 + level) / 2)
  limits <- estimates + sqrt(diag(vcov(object))) %o% stats::qnorm(tails)
  dimnames(limits) <- list(names(estimates), paste(format(100 * tails, trim = TRUE, digits = 3), "%"))
  limits[parm, , drop = FALSE]
}

#' @rdname sequences
#' @export
refit.sequenceModNN <- function(object, ...) not_for_sequences("refit()", "train again by glmernn() or update()")

#' @rdname sequences
#' @export
simulate.sequenceModNN <- function(object, ...) not_for_sequences("simulate()", "use predict(type = \"prob\")")

#' @rdname sequences
#' @export
importance.sequenceModNN <- function(x, ...) not_for_sequences("importance()", "compare deviances of permuted data")

#' @rdname sequences
#' @export
partial_dependence.sequenceModNN <- function(x, ...) {
  not_for_sequences("partial_dependence()", "use predict(type = \"prob\") at values of the input")
}

#' @rdname sequences
#' @export
plot.sequenceModNN <- function(x, kind = "history", by = NULL, group = NULL, newdata = NULL, ...) {
  if (identical(kind, "transitions")) {
    return(plot_transitions(x, by, group, newdata, ...))
  }
  if (!identical(kind, "history")) {
    not_for_sequences(sprintf("plot(kind = \"%s\")", format(kind)[1L]), "use kind = \"transitions\" or \"history\"")
  }
  plot.merModNN(x, kind = kind, ...)
}

#' @rdname sequences
#' @export
getME.sequenceModNN <- function(object, name, ...) {
  parts <- native_parts()[c("X", "y", "flist", "cnms", "N", "n", "p", "l_i")]
  parts$beta <- function(object) object$beta
  if (identical(name, "ALL")) name <- names(parts)
  unknown <- setdiff(name, names(parts))
  if (length(unknown)) {
    stop(sprintf("getME() of sequences of states has no part '%s': it has %s.", unknown[1L],
                 paste(names(parts), collapse = ", ")), call. = FALSE)
  }
  if (length(name) == 1L) parts[[name]](object) else sapply(name, function(one) parts[[one]](object), simplify = FALSE)
}

#' @rdname sequences
#' @export
summary.sequenceModNN <- function(object, ...) {
  structure(
    list(call = object$call, text = sequence_text(object), coefficients = fixef(object),
         varcor = if (length(object$varying)) VarCorr(object), ngrps = ngrps(object), nobs = nobs(object),
         logLik = logLik(object)),
    class = c("summary.sequenceModNN", "summary.varyingModNN")
  )
}

#' @rdname sequences
#' @export
print.sequenceModNN <- function(x, ...) {
  cat(sequence_text(x), sep = "\n")
  invisible(x)
}

# Python's text, with the levels that update_random_effects() may have added.
sequence_text <- function(object) {
  text <- object$text
  at <- which(startsWith(text, "Number of obs:"))
  if (length(object$varying)) text[at] <- sub("[0-9]+$", ngrps(object), text[at])
  text
}
