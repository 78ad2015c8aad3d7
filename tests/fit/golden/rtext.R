# How R prints numbers, names and tables: golden answers for tests/fit/test_rtext.py.
# Run: Rscript tests/fit/golden/rtext.R > tests/fit/golden/rtext.json
set.seed(1)
numbers <- function() {
  k <- sample(1:6, 1)
  x <- rnorm(k) * 10^sample(-5:6, k, replace = TRUE)
  if (runif(1) < 0.3) x <- round(x, sample(0:4, 1))
  if (runif(1) < 0.2) x[1] <- NA
  x
}
word <- function() paste(sample(c(letters, "a", "e", "T", ":", "(", ")", "."), sample(3:16, 1), replace = TRUE), collapse = "")
formats <- lapply(1:300, function(i) {
  x <- numbers()
  digits <- sample(3:7, 1)
  list(x = x, digits = digits, text = format(x, digits = digits))
})
zaps <- lapply(1:50, function(i) {
  x <- stats::na.omit(numbers())
  list(x = as.numeric(x), digits = 5, text = zapsmall(as.numeric(x), 5))
})
words <- lapply(1:200, function(i) {
  x <- c("(Intercept)", replicate(6, word()))
  n <- sample(c(3, 6, 11), 1)
  list(x = x, n = n, text = unname(abbreviate(x, n)))
})
coefs <- lapply(1:100, function(i) {
  k <- sample(1:5, 1)
  est <- rnorm(k) * 10^sample(-4:5, k, replace = TRUE)
  se <- abs(rnorm(k)) * 10^sample(-4:4, k, replace = TRUE)
  x <- cbind(Estimate = est, "Std. Error" = se, "t value" = est / se)
  rownames(x) <- paste0("x", seq_len(k))
  list(x = x, text = capture.output(stats::printCoefmat(x, digits = 4)))
})
pvals <- lapply(1:100, function(i) {
  x <- 10^-runif(sample(1:4, 1), 0, 20)
  list(x = x, digits = 3, text = format.pval(x, digits = 3))
})
vectors <- lapply(c(1, 5, 9, 20), function(k) {
  x <- stats::setNames(round(rnorm(k), 3), replicate(k, word()))
  list(names = names(x), x = unname(x), text = capture.output(print(x)))
})
tables <- lapply(c(2, 9, 14), function(k) {
  x <- matrix(replicate(3 * k, word()), 3, dimnames = list(replicate(3, word()), replicate(k, word())))
  list(rows = rownames(x), columns = colnames(x), x = x, left = capture.output(print(x, quote = FALSE)),
       right = capture.output(print(x, quote = FALSE, right = TRUE)))
})
formulas <- lapply(1:40, function(i) {
  text <- paste("yield ~", paste(replicate(sample(3:12, 1), paste0("v", gsub("[^a-z]", "x", word()))),
                                 collapse = sample(c(" + ", " * "), 1)), "+ (1 + time | group)")
  list(text = paste(deparse(stats::as.formula(text), width.cutoff = 500L), collapse = ""),
       lines = deparse(stats::as.formula(text)))
})
fills <- lapply(1:20, function(i) {
  x <- replicate(sample(1:3, 1), paste(replicate(sample(1:6, 1), word()), collapse = ", "))
  list(x = x, text = capture.output(cat(x, fill = TRUE)))
})
cat(jsonlite::toJSON(list(formats = formats, zaps = zaps, words = words, coefs = coefs, pvals = pvals, vectors = vectors,
                          tables = tables, formulas = formulas, fills = fills), digits = NA, na = "string", null = "null"))
