# Random effects of more rows, all parameters as they were estimated.

#' Random effects of more rows and new levels
#'
#' The conditional modes of the random effects (of a multinomial model, their posterior means, sampled anew) given the
#' rows of the fit and new ones. Fixed effects, variances,
#' dispersion and networks stay as they were estimated, so that a level which the fit has not seen gets its effect from
#' a few rows, without fitting again.
#'
#' @param object A fit by [lmernn()] or [glmernn()].
#' @param newdata A data frame with new rows, the response among its columns, of old levels, new ones or both. Rows that
#'   lack a value are left out.
#' @param ... Nothing.
#' @return The fit, of all rows. What was sampled by method `"mcem"` is left behind: its effects become modes.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (1 | Subject), subset(sleepstudy, Subject != "372"))
#' after <- update_random_effects(fit, head(subset(sleepstudy, Subject == "372"), 3))
#' tail(ranef(after)$Subject, 1)
update_random_effects <- function(object, newdata, ...) UseMethod("update_random_effects")

#' @rdname update_random_effects
#' @export
update_random_effects.merModNN <- function(object, newdata, ...) {
  longer <- longer_fit(object, newdata)
  known <- nrow(object$frame)
  model <- model_of(longer)
  model$X <- fixed_matrix(longer) # columns that were dropped stay so
  sent <- send_fit(longer, model = model)
  reply <- call_python("update_random_effects", c(sent$meta, list(known = known)), sent$buffers, sent$modules)
  by_term <- function(letter) {
    lapply(seq_along(longer$bars), function(k) {
      matrix(reply$arrays[[paste0(letter, k - 1L)]], nrow = length(longer$bars[[k]]$names))
    })
  }
  longer$b <- by_term("b")
  longer$u <- by_term("u")
  longer["cond_var"] <- list(if (isGLMM(longer)) variance_arrays(reply$arrays, longer$bars))
  for (name in c("objective", "ldL2", "ldRX2", "pwrss", "wrss", "ussq")) longer[[name]] <- reply[[name]]
  longer["draws"] <- NULL
  if (!is.null(object$networks)) {
    f <- reply$arrays$networks.fitted
    longer$frame[["(offset)"]][-seq_len(known)] <- longer$frame[["(offset)"]][-seq_len(known)] + f[-seq_len(known)]
    longer$networks <- keep_networks(object$networks$inputs, reply, longer$frame)
    longer$networks$inputs <- object$networks$inputs
  }
  longer
}

#' @rdname update_random_effects
#' @export
update_random_effects.multinomialModNN <- function(object, newdata, ...) {
  longer <- longer_fit(object, newdata)
  C <- length(object$classes)
  longer$b <- longer$variances <- lapply(longer$b, function(b) array(0, c(ncol(b), nrow(b), C)))
  longer$eta <- matrix(0, nrow(longer$frame), C)
  model <- model_of(longer)
  model$X <- fixed_matrix(longer)
  sent <- send_fit(longer, model = model)
  settings <- object$settings[c("control", "device", "seed")]
  if (length(settings$control) == 0L) settings$control <- NULL
  if (!is.null(object$fixed_covariance)) settings$fixed_covariance <- unname(object$fixed_covariance)
  meta <- c(sent$meta, settings, list(known = nrow(object$frame)))
  reply <- call_python("update_class_effects", meta, sent$buffers, sent$modules)
  take <- function(letter) {
    Map(function(k, b) row_major(reply$arrays[[paste0(letter, k)]], dim(b)), seq_along(longer$b) - 1L, longer$b)
  }
  longer$b <- take("b")
  longer$variances <- take("v")
  longer$eta <- matrix(reply$arrays$eta, ncol = C, byrow = TRUE, dimnames = list(NULL, object$classes))
  longer$draws <- keep_draws(reply)
  longer$joint <- keep_joint(reply, nrow(object$beta), vapply(longer$b, function(b) dim(b)[2L], 0L), C)
  longer$messages <- sampling_messages(longer$draws)
  if (!is.null(object$networks)) {
    longer$networks <- keep_networks(object$networks$inputs, reply, longer$frame)
    longer$networks$inputs <- object$networks$inputs
  }
  for (text in longer$messages) warning(text, call. = FALSE)
  longer
}

# The fit with the rows of new data after its own, and effects of zero for all levels.
longer_fit <- function(object, newdata) {
  if (!is.data.frame(newdata)) {
    stop("newdata must be a data frame.", call. = FALSE)
  }
  newdata <- as_plain_frame(newdata)
  added <- new_frame(object, newdata)
  frame <- object$frame
  object$frame <- stack_frames(frame, added)
  groups <- lapply(object$bars, levels_of_term, object$frame)
  labels <- vapply(object$bars, `[[`, "", "label_group")
  object$flist <- shared_factors(lapply(groups, structure, locations = NULL), labels)
  object$b <- Map(function(bar, group) matrix(0, length(bar$names), nlevels(group)), object$bars, groups)
  object
}

# The model frame of new data, with the weights and offset of the call; no rows with missing values.
new_frame <- function(object, newdata) {
  old <- object$frame
  whole <- attr(old, "terms")
  check_variables(stats::formula(whole), newdata, environment(object$formula))
  groups <- unlist(lapply(c(object$bars, object$varying), function(bar) vapply(group_parts(bar$group), deparse1, "")))
  xlev <- stats::.getXlevels(whole, old)
  frame <- one_sentence(stats::model.frame(whole, newdata, na.action = stats::na.pass,
                                           xlev = xlev[setdiff(names(xlev), groups)]))
  classes <- attr(whole, "dataClasses")
  one_sentence(stats::.checkMFClasses(classes[setdiff(names(classes), c(groups, names(old)[1L]))], frame))
  family <- object$settings$family
  if (is_categorical(family) || is.factor(old[[1L]])) {
    y <- frame[[1L]]
    frame[[1L]] <- factor(as.character(y), levels(old[[1L]]), ordered = is.ordered(old[[1L]]))
    strange <- which(is.na(frame[[1L]]) & !is.na(y))
    if (length(strange)) {
      stop(sprintf("the response '%s' is '%s' in row %d of newdata: the model has no such class.", names(frame)[1L],
                   as.character(y)[strange[1L]], strange[1L]), call. = FALSE)
    }
  }
  for (name in c("weights", "offset")) {
    if (is.null(object$call[[name]])) next
    values <- evaluate_extra(object$call[[name]], newdata, environment(object$formula), parent.frame())
    if (length(values) != nrow(newdata)) {
      stop(sprintf("%s has %d values but newdata has %d rows: make it a column of the data.", name, length(values),
                   nrow(newdata)), call. = FALSE)
    }
    frame[[paste0("(", name, ")")]] <- values
  }
  if (is.null(frame[["(offset)"]]) && !is.null(old[["(offset)"]])) frame[["(offset)"]] <- 0 # networks alone
  complete <- stats::complete.cases(frame)
  if (!any(complete)) {
    stop("no rows are left: every row of newdata has a missing value.", call. = FALSE)
  }
  frame[complete, , drop = FALSE]
}

# One frame after the other; factors get the levels of both.
stack_frames <- function(first, second) {
  columns <- Map(function(a, b) {
    if (is.factor(a)) {
      levels <- union(levels(a), as.character(b[!is.na(b)]))
      return(factor(c(as.character(a), as.character(b)), levels, ordered = is.ordered(a)))
    }
    if (is.matrix(a)) rbind(a, b) else if (is.factor(b)) c(as.character(a), as.character(b)) else c(a, b)
  }, unclass(first), unclass(second)[names(first)])
  frame <- structure(columns, names = names(first), class = "data.frame",
                     row.names = make.unique(c(row.names(first), row.names(second))))
  for (name in c("terms", "formula", "na.action")) attr(frame, name) <- attr(first, name)
  frame
}
