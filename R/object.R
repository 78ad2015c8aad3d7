# The object: a plain list of R data. What every verb may use is listed in new_fit().

# Makes a fit of a model and Python's reply. Elements, with K random terms in lme4's order:
#
# formula, call, frame   the formula with || written out, the call, the model frame
# fixed, bars            how to make model matrices again; bars has K elements
# flist, cnms            grouping factors (attribute "assign": which one each term has), column names of each term
# contrasts is in fixed; kept, dropped: positions of the columns of X in and out of the fit
# theta, beta, sigma, unscaled_vcov, b, u (K matrices, columns x levels), cond_var (K arrays or NULL)
# the bars of embed() carry learned = TRUE where method "lmmnn" has learned their features
# REML, objective, ldL2, ldRX2, pwrss, wrss, ussq, convergence, settings
# settings$family, family, link, phi, nAGQ, given_vcov, messages, draws, threshold_vcov: of generalized models, see
#                        estimate_generalized()
# networks               NULL, or what keep_networks() makes; their part of the mean is in the offset of the frame
new_fit <- function(model, settings, reply) {
  order <- reply$order + 1L
  first <- is_family(settings$family, "ordinal") # its X comes without the intercept
  dropped <- as.integer(unlist(reply$dropped_at)) + 1L
  bars <- model$bars[order]
  if (reply$method == "lmmnn") {
    bars <- lapply(bars, function(bar) c(bar, if (bar$covariance == "embed") list(learned = TRUE)))
  }
  arrays <- reply$arrays
  kept <- setdiff(seq_len(ncol(model$X)), dropped)
  names <- colnames(model$X)[kept]
  networks <- if (!is.null(reply$networks)) keep_networks(model$networks, reply, model$frame)
  flist <- shared_factors(model$groups[order], vapply(bars, `[[`, "", "label_group"))
  by_term <- function(letter) {
    lapply(seq_along(bars), function(k) matrix(arrays[[paste0(letter, k - 1L)]], nrow = length(bars[[k]]$names)))
  }
  structure(
    list(
      call = NULL,
      formula = model$formula,
      frame = if (is.null(networks)) model$frame else add_to_offset(model$frame, reply$arrays$networks.fitted),
      fixed = model$fixed,
      bars = bars,
      flist = flist,
      cnms = stats::setNames(lapply(bars, `[[`, "names"), names(flist)[attr(flist, "assign")]),
      kept = kept + first,
      dropped = stats::setNames(dropped + first, colnames(model$X)[dropped]),
      REML = settings$REML,
      method = reply$method,
      settings = settings,
      theta = arrays$theta,
      beta = stats::setNames(arrays$beta, names),
      sigma = reply$sigma,
      unscaled_vcov = matrix(arrays$unscaled_vcov, length(kept), length(kept), dimnames = list(names, names)),
      b = by_term("b"),
      u = by_term("u"),
      cond_var = if (is.null(arrays$v0)) NULL else variance_arrays(arrays, bars),
      objective = if (is.null(reply$objective)) NA_real_ else reply$objective,
      objective_error = reply$objective_error,
      ldL2 = reply$ldL2,
      ldRX2 = reply$ldRX2,
      pwrss = reply$pwrss,
      wrss = reply$wrss,
      ussq = reply$ussq,
      convergence = c(reply$convergence, list(gradient = arrays$gradient)),
      scales_differ = reply$scales_differ,
      singular = reply$singular,
      networks = networks
    ),
    class = "merModNN"
  )
}

variance_arrays <- function(arrays, bars) {
  lapply(seq_along(bars), function(k) {
    d <- length(bars[[k]]$names)
    values <- arrays[[paste0("v", k - 1L)]]
    array(values, c(d, d, length(values) / d^2))
  })
}

# Each grouping factor once, in the order of first use; attribute "assign" maps terms to factors, as in lme4's flist.
shared_factors <- function(groups, labels) {
  distinct <- unique(labels)
  structure(
    stats::setNames(groups[match(distinct, labels)], distinct),
    assign = match(labels, distinct)
  )
}

n_terms <- function(object) length(object$bars)

# The factor of each term, in the order of the terms.
term_factors <- function(object) object$flist[attr(object$flist, "assign")]

# Fixed-effect model matrix of the fit, dropped columns left out.
fixed_matrix <- function(object) {
  X <- stats::model.matrix(object$fixed$terms, object$frame, contrasts.arg = object$fixed$contrasts)
  keep_columns(object, X)
}

keep_columns <- function(object, X) {
  if (length(object$kept) == ncol(X)) {
    return(X)
  }
  assign <- attr(X, "assign")
  contrasts <- attr(X, "contrasts")
  X <- X[, object$kept, drop = FALSE]
  attr(X, "assign") <- assign[object$kept]
  attr(X, "contrasts") <- contrasts
  attr(X, "col.dropped") <- object$dropped
  X
}

# Columns of term k, rows x columns; a plain intercept is a column of ones.
term_columns <- function(object, k, frame = object$frame) {
  part <- object$bars[[k]]$part
  if (is.null(part$terms)) {
    return(matrix(1, nrow(frame), 1L, dimnames = list(NULL, object$bars[[k]]$names)))
  }
  stats::model.matrix(part$terms, frame, contrasts.arg = part$contrasts)
}

# A fit as rdoor.py reads it: list(meta, buffers, modules), with its networks where they are wanted.
send_fit <- function(object, networks = !is.null(object$networks), model = model_of(object)) {
  if (networks) model$networks <- object$networks$inputs
  sent <- send_design(model)
  kept <- if (networks) send_kept_networks(object)
  list(
    meta = c(sent$meta, list(method = object$method, REML = object$REML, sigma = object$sigma, networks = kept$meta),
             if (isGLMM(object)) list(family = object$settings$family, nAGQ = object$nAGQ, generalized = TRUE)),
    buffers = c(sent$buffers, if (is.null(object$classes)) send_estimates(object) else send_class_estimates(object),
                kept$buffers),
    modules = if (networks) own_modules(object$networks$inputs)
  )
}

send_estimates <- function(object) {
  c(as_buffers(object$theta), if (length(object$beta)) as_buffers(unname(object$beta)),
    unlist(lapply(object$b, as_buffers), recursive = FALSE), if (isGLMM(object)) as_buffers(object$phi))
}

send_class_estimates <- function(object) {
  of_terms <- Map(function(...) lapply(list(...), as_buffers), object$b, object$variances, object$covariances,
                  object$covariance_errors)
  c(if (length(object$beta)) as_buffers(object$beta), as_buffers(object$eta),
    unlist(unname(of_terms), recursive = FALSE) |> unlist(recursive = FALSE))
}

# The arrays of the model again, for another trip to Python. The terms are in lme4's order already.
model_of <- function(object, y = NULL) {
  frame <- object$frame
  if (!is.null(y)) frame[[1L]] <- y
  whole <- stats::model.matrix(object$fixed$terms, frame, contrasts.arg = object$fixed$contrasts)
  dimnames(whole) <- list(NULL, colnames(whole))
  family <- object$settings$family
  observed <- observed_in(frame, family)
  list(
    formula = object$formula, frame = frame, fixed = object$fixed, bars = object$bars, y = observed$y,
    weights = observed$weights, X = estimated_columns(list(terms = object$fixed$terms, matrix = whole), family),
    classes = observed$classes, groups = term_factors(object),
    columns = lapply(seq_len(n_terms(object)), function(k) {
      if (is.null(object$bars[[k]]$part$terms)) NULL else term_columns(object, k, frame)
    })
  )
}

# Lambda of each term, d x d lower triangular: theta fills it column by column, or its diagonal for diag(). For gp() it
# is the relative standard deviation.
templates <- function(object) {
  lapply(seq_len(n_terms(object)), function(k) {
    bar <- object$bars[[k]]
    d <- length(bar$names)
    at <- theta_positions(bar)
    Lambda <- matrix(0, d, d)
    Lambda[at] <- theta_of(object, k)[seq_len(nrow(at))]
    Lambda
  })
}

# How many theta a term has: gp() has a length-scale after its relative standard deviation.
n_theta <- function(bar) nrow(theta_positions(bar)) + (bar$covariance == "gp")

# Theta of term k.
theta_of <- function(object, k) {
  ends <- cumsum(vapply(object$bars, n_theta, 0L))
  object$theta[seq.int(to = ends[k], length.out = n_theta(object$bars[[k]]))]
}

# Rows and columns of Lambda that theta fills.
theta_positions <- function(bar) {
  d <- length(bar$names)
  if (bar$covariance == "diag") {
    return(cbind(seq_len(d), seq_len(d)))
  }
  which(lower.tri(diag(d), diag = TRUE), arr.ind = TRUE, useNames = FALSE)
}

# Which theta are on a diagonal of Lambda, hence bounded below by zero.
theta_on_diagonal <- function(object) {
  unlist(lapply(object$bars, function(bar) {
    at <- theta_positions(bar)
    c(at[, 1L] == at[, 2L], if (bar$covariance == "gp") FALSE)
  }))
}
