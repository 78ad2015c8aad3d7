# The user's own torch modules, and columns that hold arrays.

quick <- list(epochs = 4, folds = 0)

own_modules_of_python <- function() {
  reticulate::py_run_string("
import torch

class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)
    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))[:, 0]

class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.last = torch.nn.GRU(1, 6, batch_first=True), torch.nn.Linear(7, 1)
    def forward(self, x, s):
        h = self.rnn(s[:, :, None])[0][:, -1]
        return self.last(torch.cat([h, x[:, None]], 1))

tower, reader = Tower(), Reader()
", convert = FALSE)
}

test_that("a module of one's own is trained, lost by saveRDS() and put back", {
  skip_without_torch()
  invisible(python_ready())
  python <- own_modules_of_python()
  d <- simulated(400)
  fit <- lmernn(y ~ treat + nn(x, z, net = "tower") + (1 | g), d, nets = list(tower = python$tower), control = quick,
                seed = 1)
  expect_match(fit$networks$lines, "module Tower", all = FALSE)
  values <- predict(fit, d[1:5, ])
  expect_equal(values, fitted(fit)[1:5], tolerance = 1e-5)
  file <- tempfile(fileext = ".rds")
  saveRDS(fit, file)
  again <- readRDS(file)
  expect_error(predict(again, d[1:5, ]), "put it back, fit <- with_nets(fit, list(tower = module))", fixed = TRUE)
  expect_equal(fitted(again), fitted(fit))
  expect_output(print(summary(again)), "module Tower")
  expect_error(with_nets(again, list(spire = python$tower)), "no module of that name")
  expect_identical(predict(with_nets(again, list(tower = python$tower)), d[1:5, ]), values)
  expect_error(lmernn(y ~ nn(x, net = "tower") + (1 | g), d, nets = list(tower = 3)), "is of class 'numeric'")
})

test_that("a matrix in the data reaches a module as one array", {
  skip_without_torch()
  invisible(python_ready())
  python <- own_modules_of_python()
  d <- simulated(400)
  d$s <- matrix(rnorm(2000), 400)
  d$y <- d$y + rowSums(d$s)
  fit <- lmernn(y ~ nn(x, s, net = "reader") + (1 | g), d, nets = list(reader = python$reader), control = quick,
                seed = 1)
  expect_equal(predict(fit, d), fitted(fit), tolerance = 1e-5)
  expect_setequal(importance(fit)$input, c("x", "s"))
  expect_error(partial_dependence(fit, "s"), "holds arrays")
  d$cube <- array(0, c(400, 2, 2))
  expect_error(lmernn(y ~ nn(cube) + (1 | g), d), "the column 'cube' has 3 dimensions")
})
