"""Baselines that are networks: groups ignored, one-hot, embedded, target-encoded, and a recurrent network over time.

All have the layers of ours and are trained as ours is: Adam with a one-cycle rate, the same number and size of batches,
a tenth of the rows held out, the best epoch kept. ``PAPER`` is the paper's recipe instead: ReLU, dropout 0.25 after the
first three layers, batches of 100, rate 1e-3, stopped after ten epochs without improvement, the last weights kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from tasks import FloatArray, Outcome, Task, codes
from torch import nn

from pylmernn.training.loop import batches, count_matrices, parameter_groups
from pylmernn.training.options import Training

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Recipe:
    """How a baseline is trained; a batch or number of epochs of 0 and a decay of None are chosen as for ours."""

    epochs: int = 0
    batch: int = 0
    rate: float = 3e-3
    one_cycle: bool = True
    weight_decay: float | None = 1e-4
    dropout: float = 0.0
    activation: type[nn.Module] = nn.SiLU
    keep_best: bool = True
    patience: int | None = None


OURS = Recipe()
PAPER = Recipe(500, 100, 1e-3, False, 0.0, 0.25, nn.ReLU, False, 10)
#: what the functions of this file use; tables.py --recipe paper changes it
chosen = OURS


class Tower(nn.Module):
    """A perceptron of numeric inputs, with levels one-hot in the first layer (``dim=0``) or embedded.

    A one-hot input times the first layer's weights is a row of a table: that is how it is computed. ``dim`` may hold
    one number a factor. The network has one output, or several.
    """

    def __init__(
        self,
        inputs: int,
        sizes: list[int],
        hidden: tuple[int, ...],
        recipe: Recipe,
        dim: int | list[int] = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        dims = [dim] * len(sizes) if isinstance(dim, int) else dim
        self.one_hot = not any(dims)
        self.tables = nn.ModuleList(nn.Embedding(q + 1, d or hidden[0]) for q, d in zip(sizes, dims, strict=True))
        widths = (inputs + sum(dims), *hidden)
        self.first = nn.Linear(widths[0], hidden[0])
        bound = np.sqrt(6 / (inputs + sum(sizes) + hidden[0])) if self.one_hot else 0.05
        for table in self.tables:
            nn.init.uniform_(table.weight, -bound, bound)
            nn.init.zeros_(table.weight[-1:])  # levels not seen in training
        rest: list[nn.Module] = [recipe.activation()]
        for k in range(1, len(hidden)):
            rest += [nn.Dropout(recipe.dropout), nn.Linear(hidden[k - 1], hidden[k]), recipe.activation()]
        self.rest = nn.Sequential(*rest, nn.Linear(hidden[-1], outputs))

    def forward(self, X: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Values (n,), or (n, outputs), of inputs (n, p) and level numbers (n, K)."""
        rows = [table(levels[:, k]) for k, table in enumerate(self.tables)]
        if self.one_hot:
            return self.rest(self.first(X) + sum(rows)).squeeze(-1)
        return self.rest(self.first(torch.cat([X, *rows], dim=1))).squeeze(-1)


class Recurrent(nn.Module):
    """An LSTM of 5 units over a subject's rows in order of time, beside a perceptron of each row."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], recipe: Recipe) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, 5, batch_first=True)
        self.tower = Tower(inputs + 5, [], hidden, recipe)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Values (units, T) of series (units, T, p)."""
        state, _ = self.lstm(series)
        flat = torch.cat([series, state], dim=2).flatten(0, 1)
        return self.tower(flat, torch.empty(len(flat), 0)).reshape(series.shape[:2])


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of every value."""
    return (output - target) ** 2


def fit_network(
    module: nn.Module,
    inputs: Tensors,
    y: FloatArray,
    weight: FloatArray,
    recipe: Recipe,
    seed: int,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = squared_error,
) -> tuple[nn.Module, int]:
    """Train on a loss; returns the module and the epochs run.

    ``inputs`` have one entry a unit (a row, or a subject); ``y`` and ``weight`` are (units,) or (units, T), weight 0
    where nothing is observed. A tenth of what is observed chooses the epoch. ``loss`` takes what the module gives and
    the responses, and has the shape of the latter.
    """
    rng = np.random.default_rng(seed)
    held = weight * (rng.random(weight.shape) < 0.1)
    learn = weight - held
    target, held_w, learn_w = (torch.from_numpy(a.astype(np.float32)) for a in (y, held, learn))
    units = np.flatnonzero(learn.reshape(len(learn), -1).sum(axis=1))
    check = torch.from_numpy(np.flatnonzero(held.reshape(len(held), -1).sum(axis=1)))
    checked = tuple(x[check] for x in inputs)
    sized = Training(epochs=recipe.epochs or None, batch_size=recipe.batch or None).sized(
        len(units), count_matrices([module])
    )
    batch, epochs = sized.batch_size or 1, sized.epochs or 1
    steps = len(batches(len(units), batch))
    groups = (
        parameter_groups([module], sized.weight_decay or 0.0)
        if recipe.weight_decay is None
        else [{"params": list(module.parameters()), "weight_decay": recipe.weight_decay}]
    )
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps * epochs)
        if recipe.one_cycle
        else None
    )
    best, since, done, state = np.inf, 0, 0, copy.deepcopy(module.state_dict())
    while done < epochs and (recipe.patience is None or since < recipe.patience):
        module.train()
        order = torch.from_numpy(rng.permutation(units))
        for rows in (order[part] for part in batches(len(order), batch)):
            optimizer.zero_grad()
            error = loss(module(*(x[rows] for x in inputs)), target[rows])
            (torch.sum(learn_w[rows] * error) / learn_w[rows].sum()).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
        error = loss(values(module, checked), target[check])
        validation = float(torch.sum(held_w[check] * error) / held_w.sum())
        done, since = done + 1, since + 1
        if validation < best:
            best, since, state = validation, 0, copy.deepcopy(module.state_dict())
    if recipe.keep_best:
        module.load_state_dict(state)
    return module, done


def values(module: nn.Module, inputs: Tensors, at_once: int = 10_000) -> torch.Tensor:
    """What a trained module gives, without gradients."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(*part) for part in zip(*(x.split(at_once) for x in inputs), strict=True)])


def standardized(train: FloatArray, test: FloatArray) -> Tensors:
    """Inputs of both sets with mean 0 and variance 1 in training."""
    center, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return tuple(torch.from_numpy(((x - center) / scale).astype(np.float32)) for x in (train, test))


def scaled_response(task: Task) -> tuple[FloatArray, float, float]:
    """The response with mean 0 and variance 1, and what undoes that."""
    y = task.train[task.response].to_numpy(float)
    return (y - y.mean()) / y.std(), float(y.mean()), float(y.std())


def ignore(task: Task, seed: int) -> Outcome:
    """The network without the groups."""
    none = np.empty((len(task.train), 0), np.int64), np.empty((len(task.test), 0), np.int64)
    return _tower(task, seed, _numeric(task), none, [], 0)


def one_hot(task: Task, seed: int) -> Outcome:
    """One 0/1 input a level."""
    train, test, sizes = codes(task)
    return _tower(task, seed, _numeric(task), (train, test), sizes, 0)


def embedding(task: Task, seed: int) -> Outcome:
    """Ten learned numbers a level, as inputs."""
    train, test, sizes = codes(task)
    return _tower(task, seed, _numeric(task), (train, test), sizes, 10)


def target_encoding(task: Task, seed: int) -> Outcome:
    """Each level replaced by its shrunken mean response, cross-fitted in training."""
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import TargetEncoder

    train, test, _ = codes(task)
    encoder = TargetEncoder(target_type="continuous", cv=KFold(5, shuffle=True, random_state=seed))
    begun = time.perf_counter()
    coded = encoder.fit_transform(train, task.train[task.response].to_numpy(float)), encoder.transform(test)
    seconds = time.perf_counter() - begun
    none = np.empty((len(train), 0), np.int64), np.empty((len(test), 0), np.int64)
    both = tuple(np.column_stack([x, c]) for x, c in zip(_numeric(task), coded, strict=True))
    found = _tower(task, seed, both, none, [], 0)
    return replace(found, seconds=found.seconds + seconds)


def _numeric(task: Task) -> tuple[FloatArray, FloatArray]:
    columns = [*task.numeric, *task.coordinates]
    return task.train[columns].to_numpy(float), task.test[columns].to_numpy(float)


def _tower(
    task: Task, seed: int, X: tuple[FloatArray, ...], levels: tuple[np.ndarray, ...], sizes: list[int], dim: int
) -> Outcome:
    torch.manual_seed(seed)
    recipe = chosen
    train, test = standardized(X[0], X[1])
    y, center, scale = scaled_response(task)
    begun = time.perf_counter()
    module, epochs = fit_network(
        Tower(train.shape[1], sizes, task.hidden, recipe, dim),
        (train, torch.from_numpy(levels[0])),
        y,
        np.ones(len(y)),
        recipe,
        seed,
    )
    seconds = time.perf_counter() - begun
    predicted = values(module, (test, torch.from_numpy(levels[1]))).numpy()
    return Outcome(center + scale * predicted.astype(float), seconds, epochs)


def lstm(task: Task, seed: int) -> Outcome:
    """A recurrent network over each subject's rows.

    Each step also holds the subject's last training response before it and whether there is one: without it, such a
    network cannot tell subjects apart (the paper's gains next to nothing).
    """
    torch.manual_seed(seed)
    recipe = chosen
    y, center, scale = scaled_response(task)
    series, where, target, weight = _series(task, y)
    begun = time.perf_counter()
    module, epochs = fit_network(
        Recurrent(series.shape[2], task.hidden, recipe), (torch.from_numpy(series),), target, weight, recipe, seed
    )
    seconds = time.perf_counter() - begun
    predicted = values(module, (torch.from_numpy(series),), 500).numpy()[where]
    return Outcome(center + scale * predicted.astype(float), seconds, epochs)


def _series(task: Task, y: FloatArray) -> tuple[np.ndarray, tuple[np.ndarray, ...], FloatArray, FloatArray]:
    """Padded series (subjects, T, p + 2), the place (subject, step) of each test row, responses and weights."""
    assert task.time is not None
    X = torch.cat(standardized(*_numeric(task))).numpy()
    unit = np.concatenate([task.train[task.groups[-1]], task.test[task.groups[-1]]])
    when = np.concatenate([task.train[task.time], task.test[task.time]]).astype(float)
    known = np.arange(len(X)) < len(y)
    _, subject = np.unique(unit, return_inverse=True)
    order = np.lexsort((when, subject))
    count = np.bincount(subject)
    step = np.empty(len(X), np.intp)
    step[order] = np.arange(len(X)) - np.repeat(np.cumsum(count) - count, count)
    series = np.zeros((len(count), count.max(), X.shape[1] + 2), np.float32)
    target, weight = np.zeros(series.shape[:2]), np.zeros(series.shape[:2])
    series[subject, step, :-2] = X
    target[subject[known], step[known]] = y
    weight[subject[known], step[known]] = 1.0
    for k in range(1, series.shape[1]):
        seen = weight[:, k - 1] > 0
        series[:, k, -2] = np.where(seen, target[:, k - 1], series[:, k - 1, -2])
        series[:, k, -1] = np.where(seen, 1.0, series[:, k - 1, -1])
    return series, (subject[~known], step[~known]), target, weight
