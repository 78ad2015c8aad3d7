# print() and summary() of multinomial models, in lme4's layout with a row or a block for each class.

#' @rdname multinomial
#' @export
summary.multinomialModNN <- function(object, ...) {
  estimate <- as.vector(object$beta)
  se <- as.vector(fixed_errors(object))
  z <- estimate / se
  table <- cbind(Estimate = estimate, "Std. Error" = se, "z value" = z, "Pr(>|z|)" = 2 * stats::pnorm(-abs(z)))
  names <- rep(rownames(object$beta), length(object$classes))
  classes <- rep(object$classes, each = nrow(object$beta))
  rownames(table) <- paste0(names, ":", classes, recycle0 = TRUE)
  structure(
    list(
      call = object$call, formula = object$formula, classes = table(object$frame[[1L]]), draws = object$draws,
      deviance = deviance(object), varcor = VarCorr(object), ngrps = ngrps(object), nobs = nobs(object),
      coefficients = table, columns = names, of_class = classes,
      vcov = if (!is.null(object$fixed_covariance)) vcov(object), messages = class_messages(object),
      networks = network_lines(object)
    ),
    class = "summary.multinomialModNN"
  )
}

class_messages <- function(object) {
  c(if (!object$convergence$converged) paste("Model failed to converge:", object$convergence$message), object$messages,
    object$networks$messages)
}

# Title, family, formula and classes with their numbers of rows.
print_class_header <- function(call, classes, draws, deviance, blank) {
  cat("Generalized linear mixed model fit by Monte Carlo EM [multinomialModNN]\n")
  cat(sampling_lines(draws), sep = "\n")
  cat(" Family: multinomial  ( softmax )\n")
  lme4::.prt.call(call)
  counts <- paste0("Classes: ", paste0(names(classes), " (", classes, ")", collapse = ", "))
  cat(strwrap(counts, 80, indent = 1L, exdent = 3L), sep = "\n")
  if (blank) cat("\n")
  cat(sprintf("Deviance: %s at the posterior means of the random effects\n", format(round(deviance, 1L))))
  if (blank) cat("\n")
}

#' @rdname multinomial
#' @export
print.multinomialModNN <- function(x, digits = max(3, getOption("digits") - 3), ...) {
  print_class_header(x$call, table(x$frame[[1L]]), x$draws, deviance(x), FALSE)
  cat("Random effects:\n")
  print(class_components(VarCorr(x), digits, FALSE), quote = FALSE)
  lme4::.prt.grps(ngrps(x), nobs = nobs(x))
  if (nrow(x$beta)) {
    cat("Fixed Effects (sum to zero over classes):\n")
    cells <- matrix(format(x$beta, digits = digits), nrow(x$beta), dimnames = dimnames(x$beta))
    print(cells, quote = FALSE, right = TRUE)
  } else {
    cat("No fixed effect coefficients\n")
  }
  print_messages(class_messages(x))
  print_networks(x$networks$short_lines)
  invisible(x)
}

#' @rdname multinomial
#' @export
print.summary.multinomialModNN <- function(x, digits = max(3, getOption("digits") - 3), ...) {
  print_class_header(x$call, x$classes, x$draws, x$deviance, TRUE)
  cat("Random effects:\n")
  print(class_components(x$varcor, digits, TRUE), quote = FALSE)
  lme4::.prt.grps(x$ngrps, nobs = x$nobs)
  if (nrow(x$coefficients)) {
    cat("\nFixed effects (sum to zero over classes):\n")
    print_class_coefficients(x, digits)
  }
  print_networks(x$networks)
  print_messages(x$messages, "\n")
  invisible(x)
}

print_messages <- function(messages, before = "") {
  for (text in messages) cat(before, paste0(strwrap(text, 81), "\n"), sep = "")
}

# R's table of coefficients with a line above those of each class.
print_class_coefficients <- function(x, digits) {
  table <- x$coefficients
  labels <- paste0(" ", x$columns)
  heads <- paste0("class ", unique(x$of_class), ":")
  rownames(table) <- formatC(labels, width = -max(nchar(c(labels, heads))))
  lines <- utils::capture.output(stats::printCoefmat(table, digits = digits))
  cat(lines[1L], sep = "\n")
  for (class in unique(x$of_class)) {
    cat(paste0("class ", class, ":"), lines[1L + which(x$of_class == class)], sep = "\n")
  }
  legend <- lines[-seq_len(1L + nrow(table))]
  if (length(legend)) cat(legend, sep = "\n")
}

#' @rdname multinomial
#' @export
vcov.summary.multinomialModNN <- function(object, ...) object$vcov

#' @rdname multinomial
#' @export
print.VarCorr.multinomialModNN <- function(x, digits = max(3, getOption("digits") - 2), ...) {
  print(class_components(x, digits, TRUE), quote = FALSE)
  invisible(x)
}

# lme4's table of variances as text, with a row for each class and 95% limits of the variances.
class_components <- function(varcor, digits, limits) {
  shown <- as.data.frame(varcor)
  first <- !duplicated(shown[c("grp", "var1")])
  columns <- list(Groups = ifelse(duplicated(shown$grp), "", shown$grp), Name = ifelse(first, shown$var1, ""),
                  Class = shown$class, Variance = format(shown$vcov, digits = digits))
  if (limits) {
    bounds <- format(c(shown$lower, shown$upper), digits = min(digits, 3))
    columns[["2.5 %"]] <- bounds[seq_len(nrow(shown))]
    columns[["97.5 %"]] <- bounds[nrow(shown) + seq_len(nrow(shown))]
  }
  columns[["Std.Dev."]] <- format(shown$sdcor, digits = digits)
  cells <- do.call(cbind, columns)
  correlated <- vapply(varcor, function(term) isTRUE(attr(term, "correlated")), NA)
  widest <- max(vapply(varcor, function(term) nrow(term[[1L]]), 0L)[correlated], 1L)
  if (widest > 1L) {
    lines <- unlist(lapply(varcor, correlation_lines, widest, max(2L, digits - 2L)), recursive = FALSE)
    cells <- cbind(cells, do.call(rbind, lines))
    colnames(cells)[seq(to = ncol(cells), length.out = widest - 1L)] <- c("Corr", rep("", widest - 2L))
  }
  rownames(cells) <- rep("", nrow(cells))
  cells
}

# Correlations with the columns above, one line for each column and class of a term.
correlation_lines <- function(term, widest, digits) {
  d <- nrow(term[[1L]])
  lines <- lapply(seq_len(d), function(j) {
    lapply(term, function(part) {
      values <- if (isTRUE(attr(term, "correlated"))) attr(part, "correlation")[j, seq_len(j - 1L)]
      c(if (length(values)) format(round(values, digits), nsmall = digits), rep("", widest - 1L - length(values)))
    })
  })
  unname(unlist(lines, recursive = FALSE))
}
