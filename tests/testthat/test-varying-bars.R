# Networks that vary by several bars, or beside ordinary ones.

lines_of <- function(nested = FALSE) {
  set.seed(3)
  n <- 600
  person <- sample(30, n, TRUE)
  school <- if (nested) person %% 6 else sample(6, n, TRUE)
  d <- data.frame(x = rnorm(n), person = factor(person), school = factor(school), w = runif(n, 0.5, 2))
  a <- matrix(rnorm(12), 6)
  b <- 0.5 * matrix(rnorm(60), 30)
  s <- as.integer(d$school)
  d$y <- 1 + 2 * d$x + a[s, 1] + 0.5 * a[s, 2] * d$x + b[person, 1] + b[person, 2] * d$x + 0.5 * rnorm(n)
  d
}

linear_net <- y ~ nn(x, hidden = c(), standardize = FALSE)
with_bars <- function(bars) as.formula(paste(deparse1(linear_net), "+", bars))

curved <- local({
  fit <- NULL
  function() {
    if (is.null(fit)) {
      d <- lines_of(TRUE)
      fit <<- lmernn(y ~ nn(x, hidden = c(3)) + (nn.last | school / person) + (1 | school), d,
                     control = list(epochs = 4), seed = 1)
    }
    fit
  }
})

test_that("bars of networks expand as lme4's, and ordinary ones stand beside them", {
  parsed <- parse_formula(y ~ nn(x) + rr(nn | a / b, d = 2) + (nn.first || c) + (x || a))
  labels <- c("rr(nn | b:a, d = 2)", "rr(nn | a, d = 2)", "(nn.first || c)")
  expect_equal(vapply(parsed$varying, `[[`, "", "label"), labels)
  expect_equal(vapply(parsed$varying, `[[`, "", "selector"), c("", "", "first"))
  expect_equal(vapply(parsed$bars, function(bar) group_label(bar$group), ""), c("a", "a"))
  expect_error(parse_formula(z ~ nn(x) + (nn | a) + (1 | b), sequences = TRUE), "does not fit columns that vary")
  expect_error(parse_formula(z ~ nn(x) + (nn | a) + (crf | b), sequences = TRUE), "by one factor only")
})

test_that("a linear network with several bars is lme4's model", {
  skip_without_torch()
  cases <- list(
    list("(nn | person) + (1 | school)", y ~ x + (1 + x | person) + (1 | school), FALSE),
    list("(nn | person) + (nn | school)", y ~ x + (1 + x | person) + (1 + x | school), FALSE),
    list("(nn | school/person)", y ~ x + (1 + x | school / person), TRUE)
  )
  for (case in cases) {
    for (REML in c(TRUE, FALSE)) {
      d <- lines_of(case[[3L]])
      ours <- lmernn(with_bars(case[[1L]]), d, weights = w, REML = REML, control = list(epochs = 2), seed = 1)
      theirs <- lme4::lmer(case[[2L]], d, weights = w, REML = REML)
      expect_equal(as.numeric(logLik(ours)), as.numeric(logLik(theirs)), tolerance = 1e-4)
      expect_equal(attr(logLik(ours), "df"), attr(logLik(theirs), "df"))
      expect_equal(unname(fixef(ours)[1:2]), unname(lme4::fixef(theirs)), tolerance = 1e-4)
      expect_equal(sigma(ours), sigma(theirs), tolerance = 1e-4)
      expect_equal(ngrps(ours), lme4::ngrps(theirs))
      expect_equal(unname(fitted(ours)), unname(fitted(theirs)), tolerance = 1e-3)
      for (group in names(lme4::VarCorr(theirs))) {
        wanted <- lme4::VarCorr(theirs)[[group]]
        found <- VarCorr(ours)[[group]]
        if (nrow(found) == 2L) found <- found[2:1, 2:1] # the bias comes last
        expect_equal(as.vector(found), as.vector(wanted), tolerance = 1e-3)
      }
    }
  }
})

test_that("effects of all factors come in tables", {
  skip_without_torch()
  fit <- curved()
  effects <- ranef(fit, condVar = TRUE)
  last <- c(paste0("layers.2.weight[", 1:3, "]"), "layers.2.bias")
  expect_named(effects, c("person:school", "school"))
  expect_named(effects$school, c(last, "(Intercept)"))
  expect_equal(dim(effects[["person:school"]]), c(30L, 4L))
  expect_length(attr(effects$school, "postVar"), 2L)
  long <- as.data.frame(effects)
  expect_equal(nrow(long), 30L * 4L + 6L * 5L)
  expect_true(all(long$condsd >= 0))
  expect_equal(coef(fit)$school[["(Intercept)"]], fixef(fit)[["(Intercept)"]] + effects$school[["(Intercept)"]])
  expect_equal(ngrps(fit), c("person:school" = 30L, school = 6L))
  table <- as.data.frame(VarCorr(fit))
  expect_true("Residual" %in% table$grp)
  expect_equal(table$sdcor[nrow(table)], sigma(fit))
  expect_output(print(fit), "groups: person:school, 30; school, 6")
  expect_output(print(VarCorr(fit)), "school")
  expect_type(isSingular(fit), "logical")
  expect_equal(length(formula(fit, random.only = TRUE)), 3L)
})

test_that("predictions take the bars that are asked for", {
  skip_without_torch()
  fit <- curved()
  d <- lines_of(TRUE)
  expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  generic <- predict(fit, d, re.form = NA)
  expect_equal(generic, predict(fit, re.form = NA), tolerance = 1e-5)
  school <- predict(fit, d, re.form = ~ (1 | school))
  expect_equal(unname(school - generic), ranef(fit)$school[as.character(d$school), "(Intercept)"], tolerance = 1e-4)
  strangers <- transform(d, person = "unknown")
  expect_error(predict(fit, strangers), "grouping factor 'person:school' has levels that the fit has not seen")
  expect_equal(predict(fit, strangers, allow.new.levels = TRUE),
               predict(fit, d, re.form = ~ (nn.last | school) + (1 | school)), tolerance = 1e-6)
  expect_error(predict(fit, re.form = ~ (nn | school)), "the bars of the network are")
  holes <- transform(d[1:3, ], school = replace(school, 2, NA))
  expect_equal(unname(is.na(predict(fit, holes))), c(FALSE, TRUE, FALSE))
  averages <- predict(fit, strangers[1:5, ], allow.new.levels = TRUE, average = 500)
  expect_true(all(is.finite(averages)))
})

test_that("new levels learn from rows, and known ones stay", {
  skip_without_torch()
  fit <- curved()
  d <- lines_of(TRUE)
  again <- transform(d[d$person == "7", ], person = "again")
  updated <- update_random_effects(fit, again)
  found <- ranef(updated)[["person:school"]]
  own <- found[grepl("^again", rownames(found)), ]
  expect_equal(unname(unlist(own)), unname(unlist(ranef(fit)[["person:school"]]["7:1", ])), tolerance = 0.02)
  expect_equal(found[rownames(ranef(fit)[["person:school"]]), ], ranef(fit)[["person:school"]])
  new <- transform(d[d$school == "2", ], person = paste0("p", person), school = "s")
  updated <- update_random_effects(fit, new)
  before <- mean((new$y - predict(fit, new, allow.new.levels = TRUE))^2)
  expect_lt(mean((new$y - predict(updated, new))^2), before)
  expect_equal(ngrps(updated)[["school"]], 7L)
  expect_error(update_random_effects(fit, d), "no level that the fit does not know")
  expect_equal(predict(unserialize(serialize(updated, NULL)), new), predict(updated, new))
})

test_that("both languages fit the same model", {
  skip_without_torch()
  d <- lines_of(TRUE)
  path <- tempfile(fileext = ".csv")
  write.csv(d, path, row.names = FALSE)
  found <- by_python(c(
    "from pylmernn import Control",
    "from pylmernn.training.options import Training",
    "d = pd.read_csv(sys.argv[1])",
    "bars = '(nn.last | school/person) + (1 | school)'",
    "control = Control(training=Training(epochs=4))",
    "fit = pylmernn.lmernn('y ~ nn(x, hidden=c(3)) + ' + bars, d, control=control, seed=1)",
    "print(json.dumps({'objective': fit.estimates.objective, 'sigma': fit.sigma()}))"
  ), path)
  expect_equal(-2 * as.numeric(logLik(curved())), found$objective, tolerance = 1e-4)
  expect_equal(sigma(curved()), found$sigma, tolerance = 1e-4)
})
