#' Fit a linear mixed model
#'
#' Fits the model that [lme4::lmer()] fits, written in the same formula language, and gives the same numbers. The data
#' are summed once; after that a step costs what the levels cost, not the rows, and the gradient is exact.
#'
#' @param formula A two-sided formula with at least one random term: `y ~ x + (x | g)`. All of lme4's grammar works:
#'   `(x || g)`, `(1 | a/b)`, `(1 | a:b)`, `(0 + x | g)`, `offset(log(e))`; see the section on terms for what lme4 does
#'   not have.
#' @param data A data frame (or tibble) with the variables of the formula.
#' @param REML Whether to maximize the REML criterion (the default) or the likelihood.
#' @param weights,subset,offset As in [lme4::lmer()]: expressions of columns of `data`. The variance of a row is
#'   sigma^2 divided by its weight.
#' @param na.action `"omit"`, `"exclude"` (fitted values and residuals are padded with `NA`) or `"fail"`, or one of R's
#'   functions such as [stats::na.exclude()]. By default `getOption("na.action")`.
#' @param contrasts A named list of contrasts for factors of the fixed effects, as in [stats::model.matrix()].
#' @param nets A named list: options of a network, `list(nn = list(hidden = c(20, 10)))` (options in the formula come
#'   first), or a torch module of your own for `nn(x, net = "tower")`, `list(tower = module)`, made through reticulate.
#'   A module is copied, never changed; its layers start from new weights by `seed`. A class or function of Python that
#'   returns a module is called instead, and its weights are kept. Where every input is a number, the module's
#'   `forward()` gets one tensor with a row for each row of the data; else one tensor for each input, factors as level
#'   codes from 0. It returns one number for each row.
#' @param method `"auto"` chooses among `"profiled"` (exact), `"iterative"` (for crossed factors too large for an exact
#'   factor), `"vecchia"` (for one `gp()` with very many locations) and, for networks, `"alternating"` (trained between
#'   exact steps on all rows). `"lmmnn"` trains networks on the mini-batch likelihood of Simchoni and Rosset (2023),
#'   `"menets"` by the EM algorithm of Xiong et al. (2019), for one grouping factor. `"nme"` lets parameters of a
#'   network vary by group, as Woerner et al. (2023).
#' @param control A named list of settings. Of the optimizer: `tolerance`, `max_evaluations`, `singular_tolerance`,
#'   `dense_limit`, `probes`. Of the training of networks: `epochs`, `batch_size`, `learning_rate`, `weight_decay`,
#'   `schedule` (`"one_cycle"`, `"cosine"`, `"constant"` or `"plateau"`), `validation` (share of the rows held out to
#'   choose the best epoch), `holdout` (`"rows"`, `"levels"` or `"both"`), `patience`, `folds` (so many networks, each
#'   trained without a part of the rows; 0 for one network), `preset` (`"faithful"` trains methods `"lmmnn"` and
#'   `"nme"` as the authors' code does). What is left out is chosen by the size of the data.
#' @param device Where the dense factor of a large crossed model is computed: `"cpu"`, `"cuda"`, or `"auto"`, which is
#'   CUDA where there is one and the factor is large.
#' @param seed A whole number for the random vectors of the iterative method and the training of networks.
#' @param progress Whether to show a progress bar of epochs or evaluations. Ctrl-C (or Esc) during the training of
#'   networks ends it: the fit then has the best networks so far, and a warning says so.
#' @param ... Nothing: an unknown argument is an error.
#'
#' @section Terms beyond lme4:
#' * `diag(x | g)`: uncorrelated columns in one term, also where `x` is a factor.
#' * `gp(lon, lat, cov = "exp_quad")`: a Gaussian process over the distinct locations, also with `"matern32"`,
#'   `"matern52"` or `"exponential"`. [VarCorr()] shows its standard deviation and length-scale, in units of the
#'   coordinates; [predict()] gives its values at new locations.
#' * `nn(x1, x2, hidden = c(100, 50, 25, 12))`: a network of these columns in the mean; `nn(.)` takes every column not
#'   used elsewhere. Options: `hidden`, `activation = "silu"`, `dropout = 0`, `normalization = "none"`, `embedding = 0`,
#'   `standardize = TRUE`, or `net = "name"` for one of `nets`; `hidden = c()` or `NULL`, here or in `nets`, has no
#'   hidden layers. A column may be a matrix, one array for each row. All else is estimated given the networks.
#' * `(nn | g)`: every parameter of the network varies by `g`; `(nn.last | g)` and `(nn.first | g)`: those of a layer;
#'   `(nn["layers.0.weight"] | g)`: one by its name. A network with `net = "tower"` is called `tower`. Their covariance
#'   matrix is full up to 12 parameters and of reduced rank beyond, `rr(nn | g, d = 4)`; `(nn || g)` takes variances
#'   only. Several such bars add up, nested or crossed, `(nn.last | culture / person)`, and ordinary bars may stand
#'   beside them. The fit is of class `varyingModNN`: see [varying].
#' * `embed(1 | g, dim = 100)`, `embed(lon, lat, dim = 100, hidden = c(100, 100))`: random effects on learned features
#'   of the levels or of the coordinates, by method `"lmmnn"` beside a network.
#'
#' @return An object of class `merModNN`: a list of plain R data, which [saveRDS()] keeps whole. It answers lme4's verbs
#'   ([fixef()], [ranef()], [VarCorr()], [predict()], [anova()], ...). [as_merMod()] makes lme4's own object of it.
#' @export
#' @examplesIf pylmernn::python_ready()
#' data("sleepstudy", package = "lme4")
#' fit <- lmernn(Reaction ~ Days + (Days | Subject), sleepstudy)
#' summary(fit)
#' ranef(fit)
lmernn <- function(formula, data = NULL, REML = TRUE, weights, subset, na.action, offset, contrasts = NULL,
                   nets = NULL, method = "auto", control = NULL, device = "auto", seed = NULL, progress = FALSE, ...) {
  refuse_unknown("lmernn", ...)
  if (length(REML) != 1L || is.na(as.logical(REML))) {
    stop("REML must be TRUE or FALSE.", call. = FALSE)
  }
  call <- match.call()
  if (is.character(formula)) formula <- stats::as.formula(formula, env = parent.frame())
  parsed <- parse_formula(formula, data, nets)
  frame <- build_frame(parsed, data, call, parent.frame())
  attr(frame, "formula") <- parsed$formula
  model <- model_parts(parsed, frame, contrasts)
  warn_of_slopes(model)
  call$formula <- parsed$formula
  settings <- list(REML = as.logical(REML), method = method, control = as.list(control), device = device,
                   seed = if (!is.null(seed)) as.integer(seed), progress = isTRUE(progress))
  fit <- estimate(model, settings)
  if (length(parsed$networks) && length(parsed$varying) == 0L) {
    fit$settings$method <- "auto" # from now on the networks stand in the offset
  }
  fit$call <- call
  report_fit(fit)
  fit
}

refuse_unknown <- function(caller, ...) {
  extra <- ...names_or_numbers(...)
  if (length(extra)) {
    stop(sprintf("%s() has no argument '%s'.", caller, extra[1L]), call. = FALSE)
  }
}

...names_or_numbers <- function(...) {
  names <- names(list(...))
  if (is.null(names)) as.character(seq_len(...length())) else names
}

# Everything about a model but its estimates: what as.merMod, refit and predict need again.
#
# Returns a list: frame, fixed (terms, xlev, contrasts), bars (each with its terms and names), y, weights, X, groups
# (factors) and columns (matrices or NULL), the last two in the order of the formula, and the names of the classes of
# the response (NULL for numbers). `family` is that of a generalized model, as text.
model_parts <- function(parsed, frame, contrasts, family = NULL) {
  fixed <- matrix_part(parsed$fixed, frame, contrasts)
  X <- estimated_columns(fixed, family)
  fixed$matrix <- NULL
  bars <- lapply(parsed$bars, function(bar) c(bar, list(part = bar_part(bar, frame))))
  columns <- lapply(bars, function(bar) bar$part$matrix)
  bars <- lapply(bars, function(bar) {
    bar$names <- bar$part$names
    bar$part$matrix <- NULL
    bar$part$names <- NULL
    bar$label_group <- group_label(bar$group)
    bar
  })
  made <- list()
  groups <- lapply(bars, function(bar) {
    if (is.null(made[[bar$label_group]])) made[[bar$label_group]] <<- levels_of_term(bar, frame)
    made[[bar$label_group]]
  })
  bars <- Map(function(bar, group) {
    bar$locations <- attr(group, "locations")
    bar
  }, bars, groups)
  groups <- lapply(groups, structure, locations = NULL)
  observed <- observed_in(frame, family)
  list(
    formula = parsed$formula, frame = frame, fixed = fixed, bars = bars, y = observed$y, weights = observed$weights,
    X = X, groups = groups, columns = columns, networks = parsed$networks, classes = observed$classes,
    varying = parsed$varying, varying_groups = lapply(parsed$varying, function(bar) group_factor(bar$group, frame))
  )
}

# The columns of a fixed-effect model matrix that have coefficients: all, but that thresholds stand for the intercept.
estimated_columns <- function(fixed, family) {
  if (!is_family(family, "ordinal")) {
    return(fixed$matrix)
  }
  if (attr(fixed$terms, "intercept") == 0L) {
    stop("the thresholds of an ordinal model stand for its intercept: leave 0 + or - 1 out of the formula.",
         call. = FALSE)
  }
  fixed$matrix[, -1L, drop = FALSE]
}

# The design as rdoor.py reads it: list(meta, buffers).
send_design <- function(model) {
  weights <- model$weights
  offset <- stats::model.offset(model$frame)
  terms <- lapply(seq_along(model$bars), function(k) {
    bar <- model$bars[[k]]
    options <- bar$options
    if (isTRUE(bar$learned)) options$learned <- TRUE
    list(group = bar$label_group, n_levels = nlevels(model$groups[[k]]), names = as_array(bar$names),
         covariance = bar$covariance, label = bar$label, constant = is.null(model$columns[[k]]),
         options = named_list(options), locations = if (is_located(bar)) ncol(bar$locations) else 0L)
  })
  meta <- list(
    n = length(model$y), response = names(model$frame)[1L], fixed_names = as_array(as.character(colnames(model$X))),
    weights = !is.null(weights), offset = !is.null(offset), terms = terms,
    classes = if (!is.null(model$classes)) as_array(model$classes)
  )
  of_terms <- lapply(seq_along(model$bars), function(k) {
    c(
      as_buffers(as.integer(model$groups[[k]]) - 1L),
      if (!is.null(model$columns[[k]])) as_buffers(model$columns[[k]]),
      if (is_located(model$bars[[k]])) as_buffers(model$bars[[k]]$locations)
    )
  })
  varying <- send_varying(model)
  networks <- send_networks(model$networks, model$frame)
  meta$nets <- networks$meta
  meta$varying <- varying$meta
  buffers <- c(
    as_buffers(model$y), if (ncol(model$X)) as_buffers(model$X),
    if (!is.null(weights)) as_buffers(as.double(weights)), if (!is.null(offset)) as_buffers(as.double(offset)),
    unlist(of_terms, recursive = FALSE), varying$buffers, networks$buffers
  )
  list(meta = meta, buffers = buffers)
}

rows_for_stored_variances <- 20000L # below this ranef(condVar = TRUE) finds its numbers stored in the fit

# Sends a model to Python and makes the fit of the reply.
estimate <- function(model, settings) {
  if (!is.null(settings$family)) {
    return(estimate_generalized(model, settings))
  }
  if (length(model$varying)) {
    return(estimate_varying(model, settings))
  }
  sent <- send_design(model)
  meta <- c(sent$meta, settings, list(condVar = length(model$y) <= rows_for_stored_variances))
  if (length(settings$control) == 0L) meta$control <- NULL
  new_fit(model, settings, call_python("fit", meta, sent$buffers, own_modules(model$networks)))
}

report_fit <- function(fit) {
  dropped <- length(fit$dropped)
  if (dropped) {
    message("fixed-effect model matrix is rank deficient so dropping ", dropped,
            ngettext(dropped, " column / coefficient", " columns / coefficients"))
  }
  if (!inherits(fit, "varyingModNN") && isSingular(fit)) {
    message("boundary (singular) fit: see help('isSingular')")
  }
  if (grepl("best networks so far", fit$convergence$message, fixed = TRUE)) {
    warning(fit$convergence$message, ".", call. = FALSE)
  } else if (!fit$convergence$converged && length(fit$convergence$gradient) == 0L) {
    warning("the fit has not converged: ", fit$convergence$message, ".", call. = FALSE)
  } else if (!fit$convergence$converged) {
    warning(sprintf("the fit has not converged (%s): the largest gradient is %.2g after %d evaluations.",
                    fit$convergence$message, max(0, abs(fit$convergence$gradient)), fit$convergence$n_evaluations),
            call. = FALSE)
  }
  if (fit$scales_differ) {
    warning("Some predictor variables are on very different scales: consider rescaling", call. = FALSE)
  }
  for (text in c(fit$networks$messages, fit$messages)) warning(text, call. = FALSE)
}
