# Makes the golden model matrices of the formula door: what R and lme4 make of
# the formulas below on one small table.
#
#   Rscript tests/formula/golden/make_golden.R
#
# Writes tests/formula/golden/formulas.json. Run from the root of the checkout.

suppressMessages({
  library(lme4)
  library(splines)
  library(jsonlite)
})
invisible(Sys.setlocale("LC_COLLATE", "C")) # sort strings as Python does

# ---- one table with every kind of column ------------------------------------

n <- 48
i <- seq_len(n)
table <- data.frame(
  y = round(5 + 2 * sin(i) + i / 10, 3),
  x = round(1 + 10 * abs(sin(3 * i)), 2),
  z = round(cos(5 * i), 3),
  k = (7L * i) %% 5L,
  f = c("b", "a", "c")[1 + i %% 3],
  h = c("u", "v")[1 + (i %/% 3) %% 2],
  b = (i * i) %% 3 == 1,
  g = 10L + (i %/% 6),
  s = paste0("s", i %% 8),
  t = c("p", "q")[1 + (i %/% 2) %% 2],
  w = 1 + (i %% 4) / 2,
  e = round(2 + sin(i)^2, 3),
  m = ifelse(i %% 9 == 0, NA, round(sin(7 * i), 3)),
  stringsAsFactors = FALSE
)
table$`my col` <- round(sin(2 * i), 3)
table$o <- c("lo", "mid", "hi", "top")[1 + (i %/% 5) %% 4]
with_factors <- within(table, {
  o <- factor(o, levels = c("lo", "mid", "hi", "top"), ordered = TRUE)
})

# ---- formulas ---------------------------------------------------------------

plain <- c(
  "y ~ x + (1 | g)",
  "y ~ 1 + (1 | g)",
  "y ~ 0 + x + (1 | g)",
  "y ~ x - 1 + (1 | g)",
  "y ~ f + (1 | g)",
  "y ~ 0 + f + (1 | g)",
  "y ~ x:f + (1 | g)",
  "y ~ x * f + (1 | g)",
  "y ~ f * h * x + (1 | g)",
  "y ~ f:h + (1 | g)",
  "y ~ 0 + f:h + (1 | g)",
  "y ~ h + f:h + f:x + (1 | g)",
  "y ~ 0 + x + x:f + (1 | g)",
  "y ~ h / f + (1 | g)",
  "y ~ (f + h) / x + (1 | g)",
  "y ~ f + x %in% f + (1 | g)",
  "y ~ (x + z + f)^2 - x:z + (1 | g)",
  "y ~ (f + h + x)^3 - f:h:x + (1 | g)",
  "y ~ h:f + f + x + (1 | g)",
  "y ~ b + b:x + (1 | g)",
  "y ~ 0 + b + f + (1 | g)",
  "y ~ o + (1 | g)",
  "y ~ o * x + f:o + (1 | g)",
  "y ~ factor(k) + (1 | g)",
  "y ~ factor(k):z + factor(f, levels = c(\"c\", \"a\", \"b\")) + (1 | g)",
  "y ~ ordered(k) + (1 | g)",
  "y ~ as.factor(k) + relevel(factor(f), ref = \"b\") + (1 | g)",
  "y ~ C(factor(f), contr.sum) + C(factor(h), contr.helmert) + (1 | g)",
  "y ~ I(x^2) + I( x+1/x -2*z**2 ) + I(x*100000) + I(-x) + (1 | g)",
  "log(y) ~ log(x, base=2) + log2(x) + log1p(x) + exp(z) + sqrt(x) + (1 | g)",
  "y ~ abs(z) + sin(z) + cos(x) + expm1(z) + log10(x) + (1 | g)",
  "y ~ poly(x, 2) + (1 | g)",
  "y ~ poly(x, 3, raw=TRUE) + poly(z, 1) + (1 | g)",
  "y ~ poly(x, degree = 4) * h + (1 | g)",
  "y ~ scale(x) + scale(z, center=FALSE) + scale(k, scale=FALSE) + (1 | g)",
  "y ~ ns(x, df=3) + (1 | g)",
  "y ~ ns(x, knots=c(3, 6), Boundary.knots=c(2, 9)) + (1 | g)",
  "y ~ ns(z, 2, intercept=TRUE) + ns(x) + (1 | g)",
  "y ~ bs(x, df=5) + (1 | g)",
  "y ~ bs(x, knots=c(3, 6), degree=2) + bs(z, intercept=TRUE) + (1 | g)",
  "y ~ h:ns(x, df = 2) + h + (1 | g)",
  "y ~ x + offset(log(e)) + (1 | g)",
  "y ~ x + offset(e) + z + offset(log(e)) + (1 | g)",
  "y ~ `my col` * f + (1 | g)",
  "y ~ (x > 3) + I(k == 2) + I(f == \"a\") + I(!b) + (1 | g)",
  "y ~ ifelse(x > 5, x - 5, 0) + pmin(x, 4) + round(x) + (1 | g)",
  "y ~ cut(x, c(0, 2.5, 7, 12)) + cut(z, c(-1, 0, 1), right=FALSE) + (1 | g)",
  "y ~ cut(k, breaks=c(0, 2, 4), include.lowest=TRUE) + (1 | g)",
  "y ~ x + m + (1 | g)",
  "y ~ x - m + (1 | g)",
  "y ~ x + (x | g)",
  "y ~ x + (0 + x | g)",
  "y ~ x + (x || g)",
  "y ~ x * f + (x * f || s)",
  "y ~ f + (0 + f | s)",
  "y ~ f + (f || s)",
  "y ~ x + (1 + log(x) | g)",
  "y ~ x + (z + I(x^2) | g) + (1 | s)",
  "y ~ (1 | g / t)",
  "y ~ x + (x | g / t)",
  "y ~ x + (x || g / t)",
  "y ~ (1 | g / t / h)",
  "y ~ x + (1 | g:t) + (1 | s)",
  "y ~ (1 | s) + (1 | g) + (1 | f) + (0 + x | g)",
  "y ~ x + (1 | b) + (1 | o)",
  "y ~ (1 | g) + x + (0 + poly(x, 2) | s)",
  "y ~ x + (b | s) + (0 + o | f)"
)

# new = FALSE: R has no answer for the new rows, because it forgets the limits
# that cut(x, 3) chose, or because they have a level that the subset lacks.
case <- function(text, contrasts = NULL, subset = NULL, new = TRUE) {
  list(formula = text, contrasts = contrasts, subset = subset, new = new)
}
cases <- c(
  lapply(plain, case),
  list(
    case("y ~ f * h + (1 | g)", contrasts = list(f = "contr.sum")),
    case(
      "y ~ f + o + (1 | g)",
      contrasts = list(f = "contr.helmert", o = "contr.treatment")
    ),
    case("y ~ f * x + (f | s)", contrasts = list(f = "contr.poly")),
    case("y ~ cut(x, 3) + (1 | g)", new = FALSE),
    case(
      "y ~ f + poly(x, 2) + (1 | g)",
      subset = "f != \"c\" & x > 2", new = FALSE
    ),
    case("y ~ o + x + (1 | s)", subset = "o != \"mid\"", new = FALSE)
  )
)

# ---- what R makes of them ---------------------------------------------------

control <- lmerControl(
  check.rankX = "ignore", check.nobs.vs.nlev = "ignore",
  check.nobs.vs.nRE = "ignore", check.nlev.gtr.1 = "ignore",
  check.scaleX = "ignore"
)

# new rows: some of the old ones, moved so that splines must extrapolate
new_rows <- with_factors[c(3, 8, 17, 30, 41), ]
new_rows$x <- new_rows$x * 1.3 + 0.2
new_rows$m <- 0.5

matrix_of <- function(x) {
  list(names = colnames(x), columns = unname(split(signif(x, 10), col(x))))
}

new_matrix <- function(case, keep) {
  fixed <- nobars(as.formula(case$formula))
  fixed_fit <- suppressWarnings(eval(bquote(
    lm(.(fixed), with_factors, subset = .(keep), contrasts = .(case$contrasts))
  )))
  tt <- delete.response(terms(fixed_fit))
  frame <- suppressWarnings(
    model.frame(tt, new_rows, xlev = fixed_fit$xlevels)
  )
  x <- model.matrix(tt, frame, contrasts.arg = fixed_fit$contrasts)
  offset <- model.offset(frame)
  list(
    columns = unname(split(signif(x, 10), col(x))),
    offset = if (is.null(offset)) rep(0, nrow(frame)) else offset
  )
}

# One number a row tells levels and columns of a term apart: the sum over the
# rows of Zt, weighted by their position.
term_of <- function(k, trms) {
  zt <- trms$Ztlist[[k]]
  list(
    group = names(trms$cnms)[k],
    columns = trms$cnms[[k]],
    levels = levels(trms$flist[[attr(trms$flist, "assign")[k]]]),
    weighted = signif(as.numeric(seq_len(nrow(zt)) %*% zt), 10)
  )
}

answer <- function(case) {
  keep <- rep(TRUE, n)
  if (!is.null(case$subset)) {
    keep <- eval(parse(text = case$subset), with_factors)
  }
  form <- as.formula(case$formula)
  made <- suppressWarnings(eval(bquote(lFormula(
    .(form), with_factors,
    subset = .(keep), contrasts = .(case$contrasts), control = control
  ))))
  trms <- made$reTrms
  offset <- model.offset(made$fr)
  list(
    formula = case$formula, contrasts = case$contrasts, subset = case$subset,
    nobars = paste(deparse(nobars(form), 500), collapse = " "),
    fixed = matrix_of(made$X),
    assign = attr(made$X, "assign"),
    response = signif(as.numeric(model.response(made$fr)), 10),
    offset = if (is.null(offset)) NULL else signif(as.numeric(offset), 10),
    frame = names(made$fr),
    random = lapply(seq_along(trms$cnms), term_of, trms = trms),
    new = if (case$new) new_matrix(case, keep)
  )
}

write_json(
  list(
    data = as.list(table), new = as.list(within(new_rows, o <- paste(o))),
    models = lapply(cases, answer)
  ),
  "tests/formula/golden/formulas.json",
  auto_unbox = FALSE, digits = NA, null = "null", na = "null"
)
