"""Spatial baselines of Simchoni & Rosset (2023), section 4.3: a CNN of the place as an image, and SVDKL."""

from __future__ import annotations

import time

import baselines_deep as deep
import numpy as np
import torch
from tasks import Outcome, Task
from torch import nn

#: pixels along each side of the image that holds a place
SIDE = 100
INDUCING = 500


class Pictured(nn.Module):
    """Four convolutions of an image that is 1 at the place, ten numbers of it beside the inputs of a perceptron."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], recipe: deep.Recipe) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for filters in (32, 64, 32, 16):
            layers += [nn.Conv2d(before, filters, 2, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
            before = filters
        self.seen = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (SIDE // 16) ** 2, 10), nn.ReLU())
        self.tower = deep.Tower(inputs + 10, [], hidden, recipe)

    def forward(self, X: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """Values (n,) of inputs (n, p) and pixel numbers (n,); each place of a batch is seen once."""
        places, row = torch.unique(pixel, return_inverse=True)
        image = torch.zeros(len(places), SIDE * SIDE)
        image[torch.arange(len(places)), places] = 1.0
        seen = self.seen(image.reshape(-1, 1, SIDE, SIDE))
        return self.tower(torch.cat([X, seen[row]], dim=1), torch.empty(len(X), 0))


def cnn(task: Task, seed: int) -> Outcome:
    """The place as an image of 100 by 100 pixels. Costly: about a thousand times the plain network on a CPU."""
    torch.manual_seed(seed)
    train, test = deep.standardized(
        task.train[list(task.numeric)].to_numpy(float), task.test[list(task.numeric)].to_numpy(float)
    )
    y, center, scale = deep.scaled_response(task)
    recipe = deep.chosen
    begun = time.perf_counter()
    module, epochs = deep.fit_network(
        Pictured(train.shape[1], task.hidden, recipe), (train, _pixels(task, 0)), y, np.ones(len(y)), recipe, seed
    )
    seconds = time.perf_counter() - begun
    predicted = deep.values(module, (test, _pixels(task, 1)), 1000).numpy()
    return Outcome(center + scale * predicted.astype(float), seconds, epochs)


def _pixels(task: Task, which: int) -> torch.Tensor:
    """Pixel number of each row's place (n,) in an image of the training rows' extent."""
    rows = (task.train, task.test)[which]
    number = np.zeros(len(rows), np.int64)
    for column in task.coordinates:
        low, high = task.train[column].min(), task.train[column].max()
        along = np.clip((rows[column].to_numpy() - low) / (high - low) * SIDE, 0, SIDE - 1).astype(np.int64)
        number = number * SIDE + along
    return torch.from_numpy(number)


def svdkl(task: Task, seed: int) -> Outcome:
    """Stochastic variational deep kernel learning (Wilson et al. 2016): a network's mean plus a field.

    The field has 500 inducing places and an exponential-quadratic kernel, by GPyTorch. Unlike in the paper's runs, the
    noise variance is trained with the rest; the inducing places start at random places of the data and are learned.
    """
    import gpytorch

    torch.manual_seed(seed)
    recipe = deep.chosen
    X, X_test = deep.standardized(
        task.train[list(task.numeric)].to_numpy(float), task.test[list(task.numeric)].to_numpy(float)
    )
    places, places_test = (
        torch.tensor(rows[list(task.coordinates)].to_numpy(), dtype=torch.float32) for rows in (task.train, task.test)
    )
    y, center, scale = deep.scaled_response(task)
    tower = deep.Tower(X.shape[1], [], task.hidden, recipe)
    field = _field(gpytorch, places, seed)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    begun = time.perf_counter()
    epochs = _train_svdkl(gpytorch, tower, field, likelihood, X, places, y, seed)
    seconds = time.perf_counter() - begun
    none = torch.empty(len(X_test), 0)
    with torch.no_grad():
        field.eval()
        effect = torch.cat([field(part).mean for part in places_test.split(2000)])
    predicted = (deep.values(tower, (X_test, none)) + effect).numpy()
    kernel = field.covar_module
    estimates = {
        "sigma2": float(likelihood.noise) * scale**2,
        "gp variance": float(kernel.outputscale) * scale**2,
        "gp length-scale squared": float(kernel.base_kernel.lengthscale) ** 2,
    }
    return Outcome(center + scale * predicted.astype(float), seconds, epochs, estimates)


def _field(gpytorch, places: torch.Tensor, seed: int):
    """A variational Gaussian process over the places."""

    class Field(gpytorch.models.ApproximateGP):
        def __init__(self, inducing: torch.Tensor) -> None:
            distribution = gpytorch.variational.CholeskyVariationalDistribution(len(inducing))
            super().__init__(gpytorch.variational.VariationalStrategy(self, inducing, distribution))
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> object:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    distinct = torch.unique(places, dim=0)
    pick = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:INDUCING]
    return Field(distinct[pick])


def _train_svdkl(gpytorch, tower, field, likelihood, X, places, y, seed: int) -> int:
    """Maximize the evidence bound over batches of 500; the network's mean is taken off the response."""
    target = torch.from_numpy(y.astype(np.float32))
    bound = gpytorch.mlls.VariationalELBO(likelihood, field, num_data=len(y))
    groups = [
        {"params": tower.parameters(), "lr": 3e-3},
        {"params": [*field.parameters(), *likelihood.parameters()], "lr": 1e-2},
    ]
    optimizer = torch.optim.Adam(groups)
    epochs, batch = 30, min(500, max(16, len(y) // 160))
    steps = -(-len(y) // batch) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [3e-3, 1e-2], total_steps=steps)
    rng = np.random.default_rng(seed)
    none = torch.empty(batch, 0)
    for module in (tower, field, likelihood):
        module.train()
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(y))).split(batch):
            optimizer.zero_grad()
            mean = tower(X[rows], none[: len(rows)])
            loss = -bound(field(places[rows]), target[rows] - mean)
            loss.backward()
            optimizer.step()
            schedule.step()
    return epochs
