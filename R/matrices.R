# The sparse matrices of lme4, built only when asked for, and getME().

# Z' of term k, (columns x levels) x rows, with zeros dropped as lme4 drops them.
term_matrix_transposed <- function(object, k) {
  z <- term_columns(object, k)
  factor <- term_factors(object)[[k]]
  n <- nrow(z)
  d <- ncol(z)
  first <- (as.integer(factor) - 1L) * d
  result <- methods::new(
    "dgCMatrix",
    i = as.integer(outer(seq_len(d) - 1L, first, `+`)),
    p = as.integer(seq.int(0, by = d, length.out = n + 1L)),
    x = as.vector(t(z)),
    Dim = c(nlevels(factor) * d, n),
    Dimnames = list(rep(levels(factor), each = d), row.names(object$frame))
  )
  Matrix::drop0(result)
}

random_matrix_transposed <- function(object) {
  do.call(rbind, lapply(seq_len(n_terms(object)), function(k) term_matrix_transposed(object, k)))
}

# Positions in theta of the entries of Lambda', column by column of the sparse matrix.
lambda_index <- function(object) {
  before <- 0L
  unlist(lapply(seq_len(n_terms(object)), function(k) {
    bar <- object$bars[[k]]
    at <- theta_positions(bar)
    within <- order(at[, 1L], at[, 2L]) # a column of Lambda' is a row of Lambda
    index <- rep(before + within, nlevels(term_factors(object)[[k]]))
    before <<- before + nrow(at)
    index
  }))
}

lambda_transposed <- function(object) {
  parts <- lapply(seq_len(n_terms(object)), function(k) {
    bar <- object$bars[[k]]
    at <- theta_positions(bar)
    at <- at[order(at[, 1L], at[, 2L]), , drop = FALSE]
    list(rows = at[, 2L] - 1L, counts = tabulate(at[, 1L], length(bar$names)), d = length(bar$names),
         q = nlevels(term_factors(object)[[k]]))
  })
  start <- cumsum(c(0L, vapply(parts, function(part) part$d * part$q, 0L)))
  i <- unlist(lapply(seq_along(parts), function(k) {
    part <- parts[[k]]
    as.vector(outer(part$rows, start[k] + part$d * (seq_len(part$q) - 1L), `+`))
  }))
  counts <- unlist(lapply(parts, function(part) rep(part$counts, part$q)))
  size <- start[length(start)]
  methods::new("dgCMatrix", i = as.integer(i), p = as.integer(c(0L, cumsum(counts))),
               x = object$theta[lambda_index(object)], Dim = c(size, size))
}

theta_labels <- function(object) {
  unlist(Map(function(bar, group) {
    at <- theta_positions(bar)
    row <- bar$names[at[, 1L]]
    column <- bar$names[at[, 2L]]
    c(paste0(group, ".", row, ifelse(at[, 1L] == at[, 2L], "", paste0(".", column))),
      if (bar$covariance == "gp") paste0(group, ".lscale"))
  }, object$bars, names(object$cnms)), use.names = FALSE)
}

lscale_labels <- function(object) paste0(names(object$cnms)[is_field(object)], ".lscale", recycle0 = TRUE)

bar_labels <- function(object) {
  vapply(object$bars, function(bar) {
    deparse1(if (is_located(bar)) bar$group else call("|", bar$columns, bar$group))
  }, "")
}

# Columns of term k as model.matrix() has them, names of rows and `assign` included.
intercept_with_rows <- function(object, k) {
  columns <- term_columns(object, k)
  if (is.null(object$bars[[k]]$part$terms)) {
    dimnames(columns) <- list(row.names(object$frame), "(Intercept)")
    attr(columns, "assign") <- 0L
  }
  columns
}

# lme4 returns b as a matrix of package Matrix.
one_column <- function(x) methods::new("dgeMatrix", x = as.double(x), Dim = c(length(x), 1L))

term_starts <- function(object) c(0L, cumsum(lengths(object$b)))

# What getME() computes itself: a function of the fit for each name.
native_parts <- function() {
  list(
    X = fixed_matrix,
    y = response_values,
    mu = function(object) unname(fitted_rows(object)),
    offset = function(object) {
      offset <- stats::model.offset(object$frame)
      if (is.null(offset)) numeric(nrow(object$frame)) else as.double(offset)
    },
    Z = function(object) Matrix::t(random_matrix_transposed(object)),
    Zt = random_matrix_transposed,
    mmList = function(object) {
      stats::setNames(lapply(seq_len(n_terms(object)), function(k) intercept_with_rows(object, k)), bar_labels(object))
    },
    b = function(object) one_column(unlist(lapply(object$b, as.vector))),
    u = function(object) unlist(lapply(object$u, as.vector)),
    Gp = term_starts,
    Tp = function(object) {
      c(beg__ = 0L, stats::setNames(cumsum(vapply(object$bars, n_theta, 0L)), names(object$cnms)))
    },
    Lambda = function(object) Matrix::t(lambda_transposed(object)),
    Lambdat = lambda_transposed,
    Lind = lambda_index,
    Tlist = function(object) stats::setNames(templates(object), names(object$cnms)),
    RX = function(object) {
      chol(solve(if (isGLMM(object)) object$given_vcov else object$unscaled_vcov))
    },
    sigma = function(object) sigma(object),
    flist = function(object) object$flist,
    fixef = function(object) object$beta,
    beta = function(object) unname(object$beta),
    theta = function(object) stats::setNames(object$theta, theta_labels(object)),
    par = function(object) stats::setNames(object$theta, theta_labels(object)),
    lower = function(object) {
      labels <- theta_labels(object)
      stats::setNames(ifelse(theta_on_diagonal(object) | labels %in% lscale_labels(object), 0, -Inf), labels)
    },
    cnms = function(object) object$cnms,
    REML = function(object) if (object$REML) length(object$beta) else 0L,
    is_REML = function(object) object$REML,
    devcomp = deviance_components,
    n_rtrms = n_terms,
    n_rfacs = function(object) length(object$flist),
    N = function(object) nrow(object$frame),
    n = function(object) nrow(object$frame),
    p = function(object) length(object$beta),
    q = function(object) sum(lengths(object$b)),
    p_i = function(object) stats::setNames(lengths(object$cnms), bar_labels(object)),
    l_i = function(object) vapply(object$flist, nlevels, 0L),
    q_i = function(object) stats::setNames(lengths(object$b), bar_labels(object)),
    k = n_terms,
    m_i = function(object) stats::setNames(vapply(object$bars, n_theta, 0L), bar_labels(object)),
    m = function(object) length(object$theta)
  )
}

getME_from_lme4 <- c("Ztlist", "L", "A", "RZX", "ST", "devfun")
# Parts that gp() does not have: its covariance has no template that is repeated level by level.
getME_of_bars <- c("u", "Lambda", "Lambdat", "Lind", "Tlist")

#' Parts of a fit by lme4's names
#'
#' All names that [lme4::getME()] knows for a linear model. `"Ztlist"`, `"L"`, `"A"`, `"RZX"`, `"ST"` and `"devfun"`
#' come from [as_merMod()], hence take its time.
#'
#' @param object A fit by [lmernn()].
#' @param name A name, several names, or `"ALL"`.
#' @param ... Ignored.
#' @return The part; a named list for several names.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' getME(fit, "theta")
getME.merModNN <- function(object, name, ...) {
  native <- native_parts()
  known <- c(names(native), getME_from_lme4)
  fields <- which(is_field(object))
  if (identical(name, "ALL")) {
    plain <- is.null(object$networks) && length(fields) == 0L && !isTRUE(object$has_dispersion)
    name <- setdiff(known, c(if (!plain) getME_from_lme4, if (length(fields)) getME_of_bars))
  }
  if (length(name) > 1L) {
    return(sapply(name, function(one) getME(object, one), simplify = FALSE))
  }
  if (!name %in% known) {
    stop(sprintf("getME() has no part '%s': it has %s.", name, paste(known, collapse = ", ")), call. = FALSE)
  }
  if (length(fields) && name %in% getME_of_bars) {
    stop(sprintf("getME(\"%s\") is for bars: %s has no factor of its own for each level.", name,
                 object$bars[[fields[1L]]]$label), call. = FALSE)
  }
  if (name %in% getME_from_lme4) lme4::getME(as_merMod(object), name) else native[[name]](object)
}
