# The same job from R: sleepstudy and InstEval with lmernn(), each beside lme4's lmer().
# Run by `make demo`; alone: Rscript demo/demo.R, with the package installed.
suppressPackageStartupMessages({
  library(lme4)
  library(pylmernn)
})

rule <- strrep("=", 80)
output <- if (dir.exists("demo")) file.path("demo", "output") else "output"

# The last answer of an expression, and the median of its wall times.
timed <- function(expression, times) {
  taken <- vapply(seq_len(times), function(i) system.time(answer <<- eval(expression, globalenv()))[["elapsed"]], 0)
  list(answer = answer, seconds = stats::median(taken))
}
answer <- NULL

differences <- function(ours, theirs) {
  values <- function(fit) {
    components <- as.data.frame(VarCorr(fit))
    names <- ifelse(is.na(components$var2), components$var1, paste(components$var1, components$var2, sep = ", "))
    label <- trimws(paste(components$grp, ifelse(is.na(names), "", names)))
    c(stats::setNames(components$sdcor, label), fixef(fit), objective = -2 * as.numeric(logLik(fit)))
  }
  ours <- values(ours)
  theirs <- values(theirs)
  data.frame(pylmernn = sprintf("%.9g", ours), lme4 = sprintf("%.9g", theirs),
             difference = sprintf("%.1e", ours - theirs), row.names = names(ours))
}

show <- function(title, formula, data, times) {
  cat("\n", rule, "\n", title, "\n", rule, "\n\n", sep = "")
  ours <- timed(bquote(lmernn(.(formula), .(data))), times[1])
  theirs <- timed(bquote(lmer(.(formula), .(data))), times[2])
  print(summary(ours$answer))
  cat("\nBeside lme4:\n")
  print(differences(ours$answer, theirs$answer))
  cat(sprintf("\nWhole call: pylmernn %.1f ms, lme4 %.1f ms: %.1f times faster\n", 1e3 * ours$seconds,
              1e3 * theirs$seconds, theirs$seconds / ours$seconds))
  invisible(ours$answer)
}

data("sleepstudy", "InstEval", package = "lme4")
sleep <- show("sleepstudy, from R", Reaction ~ Days + (Days | Subject), quote(sleepstudy), c(21, 5))
show("InstEval, from R", y ~ service + (1 | s) + (1 | d) + (1 | dept:service), quote(InstEval), c(3, 1))

dir.create(output, showWarnings = FALSE)
path <- file.path(output, "sleepstudy-from-R.png")
grDevices::png(path, width = 1000, height = 700, res = 130)
print(lattice::dotplot(ranef(sleep, condVar = TRUE), scales = list(x = list(relation = "free")))$Subject)
invisible(grDevices::dev.off())
cat("\nPicture:\n ", normalizePath(path), "\n")
