# Transition probabilities, beside their formulas and beside Python.

two_kinds <- function() {
  set.seed(5)
  d <- data.frame(dyad = rep(sprintf("%s%d", rep(c("a", "b"), each = 8), 1:8), each = 30), t = rep(1:30, 16),
                  x = rnorm(480))
  states <- c("calm", "joy", "row")
  d$state <- sample(states, 480, TRUE)
  for (i in which(d$t > 1)) {
    shift <- if (startsWith(d$dyad[i], "b") && d$state[i - 1] == "row") c(0, 4, 0) else c(0, 0, 0)
    d$state[i] <- sample(states, 1, prob = exp(shift + c(0, d$x[i], 0)))
  }
  d
}

fit_kinds <- function(formula = state ~ nn(x, hidden = 2) + (crf | dyad)) {
  glmernn(formula, two_kinds(), "crf", sequence = "dyad", time = "t", control = list(epochs = 5), seed = 1)
}

softmax_rows <- function(scores) exp(scores) / rowSums(exp(scores))

test_that("probabilities and limits", {
  skip_without_torch()
  fit <- fit_kinds()
  expect_equal(transition_probabilities(fit), softmax_rows(transitions(fit)))
  expect_equal(transition_probabilities(fit, "b3"), softmax_rows(transitions(fit, "b3")))
  for (group in list(NULL, "b3", paste0("b", 1:8))) {
    table <- transition_probabilities(fit, group, interval = TRUE, draws = 100)
    expect_named(table, c("from", "to", "fit", "lwr", "upr"))
    expect_true(all(table$lwr < table$fit & table$fit < table$upr))
    matrix <- transition_probabilities(fit, group)
    expect_equal(table$fit, matrix[cbind(table$from, table$to)])
  }
  d <- two_kinds()
  expected <- transition_probabilities(fit, newdata = d[c("dyad", "t", "x")])
  own <- transition_probabilities(fit, c("a1", "b3"), newdata = d[1:60, ])
  one <- lapply(c("a1", "b3"), function(group) transition_probabilities(fit, group, newdata = d[1:60, ]))
  expect_equal(own, (one[[1]] + one[[2]]) / 2)
  expect_equal(unname(rowSums(expected)), c(1, 1, 1))
  happened <- table(d$state[d$t < 30], d$state[d$t > 1])
  expect_lt(max(abs(expected - happened / rowSums(happened))), 0.1)
})

test_that("two sets of groups are compared, as in Python", {
  skip_without_torch()
  fit <- fit_kinds()
  groups <- rownames(ranef(fit)$dyad)
  by <- stats::setNames(substr(groups, 1, 1), groups)
  found <- compare_transitions(fit, by, draws = 200, permutations = 99)
  expect_identical(found$names, c("a", "b"))
  expect_identical(found$groups, c(8L, 8L))
  expect_equal(found$difference, found$second - found$first)
  expect_equal(found$second, transition_probabilities(fit, groups[by == "b"]))
  expect_gt(found$difference["row", "joy"], 0.1)
  expect_true(all(found$lower < found$upper))
  expect_s3_class(found$independence, "htest")
  expect_output(print(found), "Transition probabilities of 'b' (8 groups)", fixed = TRUE)
  turned <- compare_transitions(fit, stats::setNames(factor(by, c("b", "a")), groups), draws = 2, permutations = 9)
  expect_equal(turned$difference, -found$difference)
  expect_identical(sum(compare_transitions(fit, replace(by, 1:2, NA), draws = 2, permutations = 9)$groups), 14L)
  pandas <- reticulate::import("pandas", convert = FALSE)
  python <- reticulate::import("pylmernn", convert = FALSE)
  options <- reticulate::import("pylmernn.training.options", convert = FALSE)
  control <- python$Control(training = options$Training(epochs = 5L))
  theirs <- python$glmernn("state ~ nn(x, hidden=c(2)) + (crf | dyad)", pandas$DataFrame(as.list(two_kinds())),
                           family = "crf", sequence = "dyad", time = "t", control = control, seed = 1L)
  compared <- theirs$compare_transitions(as.list(by), draws = 200L, permutations = 9L)
  matrix_of <- function(table) do.call(rbind, reticulate::py_to_r(table$to_numpy()$tolist()))
  expect_equal(unname(found$lower), matrix_of(compared$lower), tolerance = 1e-4)
  expect_equal(unname(found$second), matrix_of(compared$second), tolerance = 1e-4)
})

test_that("pictures", {
  skip_without_torch()
  fit <- fit_kinds()
  groups <- rownames(ranef(fit)$dyad)
  by <- stats::setNames(substr(groups, 1, 1), groups)
  drawn <- plot(fit, "transitions", by = by, draws = 20, permutations = 9)
  expect_s3_class(drawn, "trellis")
  expect_identical(drawn$condlevels$panel, c("a (8 groups)", "b (8 groups)", "b less a"))
  expect_s3_class(plot(fit, "transitions", by = compare_transitions(fit, by, draws = 9, permutations = 9)), "trellis")
  expect_s3_class(plot(fit, "transitions", group = "b3"), "trellis")
  file <- tempfile(fileext = ".pdf")
  before <- lattice::lattice.options(panel.error = "stop") # else errors are written into the picture
  on.exit(lattice::lattice.options(before))
  grDevices::pdf(file)
  print(drawn)
  print(plot(fit, "transitions", group = "b3"))
  grDevices::dev.off()
  expect_gt(file.size(file), 2000)
  expect_error(plot(fit, "transitions", by = by, group = "a1"), "two sets by `by`")
  expect_error(plot(fit, "transitions", interval = TRUE, draws = 5), "leave out interval")
  expect_error(plot(fit, "roc"), "use kind = \"transitions\"")
})

test_that("bad arguments are named", {
  skip_without_torch()
  fit <- fit_kinds()
  groups <- rownames(ranef(fit)$dyad)
  by <- stats::setNames(substr(groups, 1, 1), groups)
  expect_error(transition_probabilities(fit, "zz"), "'zz' is no group")
  expect_error(transition_probabilities(fit, "zz", newdata = two_kinds()), "'zz' is no group")
  expect_error(transition_probabilities(fit, c("a1", "a2"), interval = TRUE), "at least 3")
  expect_error(transition_probabilities(fit, newdata = two_kinds(), interval = TRUE), "leave out newdata")
  expect_error(compare_transitions(fit, unname(by)), "by has no names")
  expect_error(compare_transitions(fit, c(by, zz = "a")), "'zz' is no group")
  expect_error(compare_transitions(fit, stats::setNames(groups, groups)), "16 labels")
  expect_error(compare_transitions(fit, by[1:10]), "'b' has 2 groups")
  expect_error(compare_transitions(fit, by, level = 95), "level is")
  expect_error(compare_transitions(fit, by, draws = 0), "draws is")
  expect_error(compare_transitions(lme4::lmer(Yield ~ 1 + (1 | Batch), Dyestuff), by), "sequences of states")
  plain <- fit_kinds(state ~ nn(x, hidden = 2))
  expect_equal(transition_probabilities(plain), softmax_rows(transitions(plain)))
  expect_error(compare_transitions(plain, by), "do not vary")
})
