"""Baselines: the network without groups, with one-hot, embedded or target-encoded levels, and LightGBM.

Networks have the layers of ours and are trained as ours by default: AdamW with the same decay of weights, a one-cycle
rate, the same number and size of batches, a tenth of the rows held out, the best epoch kept. ``PAPER`` is the recipe of
the paper's simulations, ``PAPER_REAL`` that of its real data. Everything runs on one thread.

Target encoding makes one column a factor, or one a factor and class, each of shrunken shares, cross-fitted in training.
The published code has one encoder for all classes: its columns at the test rows are those of the last class.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import baselines_deep as deep
import numpy as np
import torch
from baselines import PATIENCE, RATE, TREES, _held_out, _with_categories
from baselines_deep import Recipe, fit_network, standardized, values
from generators import FloatArray
from tasks import Outcome, codes
from torch import nn
from torch.nn import functional

from benchmarks.mcgmenn import ours
from benchmarks.mcgmenn.generators import probabilities
from benchmarks.mcgmenn.tasks import ClassTask, tower

Method = Callable[[ClassTask, int], Outcome]

OURS = Recipe(rate=5e-3, weight_decay=None)
PAPER = Recipe(200, 100, 1e-3, False, 0.0, 0.25, nn.ReLU, False, 5)
PAPER_REAL = Recipe(500, 512, 3e-4, False, 1e-6, 0.1, nn.ReLU, False, 20)
#: what the networks of this file are trained by; see choose()
chosen = OURS
#: columns of one-hot levels at the most, as in the paper
ONE_HOT_LIMIT = 10_000


def choose(recipe: Recipe, epochs: int = 0, **settings: Any) -> None:
    """Train baselines by a recipe, and all networks, ours too, for so many epochs; 0 leaves that to the recipe.

    ``settings`` are of :class:`pylmernn.training.options.Training`, for ours.
    """
    global chosen
    chosen = replace(recipe, epochs=epochs) if epochs else recipe
    ours.settings = settings | ({"epochs": epochs} if epochs else {})


def warm_up() -> None:
    """Train a small network for an epoch, so that what torch does once in a process is not timed."""
    X, levels = torch.zeros(200, 2), torch.zeros(200, 0, dtype=torch.int64)
    y = np.arange(200) % 2.0
    fit_network(tower(2, [], 0, 1, chosen), (X, levels), y, np.ones(200), replace(chosen, epochs=1), 0, cross_entropy)


def ignore(task: ClassTask, seed: int) -> Outcome:
    """The network without the groups."""
    return _network(task, seed, _numeric(task), _no_levels(task), [], 0)


def one_hot(task: ClassTask, seed: int) -> Outcome:
    """One 0/1 input a level."""
    train, test, sizes = codes(task)
    if sum(sizes) > ONE_HOT_LIMIT:
        raise ValueError(f"{sum(sizes)} levels are too many for one-hot inputs.")
    return _network(task, seed, _numeric(task), (train, test), sizes, 0)


def embedding(task: ClassTask, seed: int) -> Outcome:
    """Up to 100 learned numbers a level, ``1.6 q^0.56``, as in AutoGluon; the published code takes at least 100."""
    train, test, sizes = codes(task)
    dims = [int(min(100, max(2, round(1.6 * q**0.56)))) for q in sizes]
    return _network(task, seed, _numeric(task), (train, test), sizes, dims)


def target_encoding(task: ClassTask, seed: int) -> Outcome:
    """Each level replaced by its shrunken share of every class."""
    begun = time.perf_counter()
    both = encoded(task, seed)
    seconds = time.perf_counter() - begun
    found = _network(task, seed, both, _no_levels(task), [], 0)
    return replace(found, seconds=found.seconds + seconds)


def encoded(task: ClassTask, seed: int) -> tuple[FloatArray, FloatArray]:
    """Numeric inputs and target-encoded levels of both sets of rows."""
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import TargetEncoder

    train, test, _ = codes(task)
    encoder = TargetEncoder(
        target_type="binary" if task.outputs == 1 else "multiclass",
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    )
    both = encoder.fit_transform(train, task.codes()), encoder.transform(test)
    return tuple(np.column_stack([x, c]) for x, c in zip(_numeric(task), both, strict=True))  # type: ignore[return-value]


def lightgbm(task: ClassTask, seed: int) -> Outcome:
    """LightGBM with the groups as categories."""
    train, test = _with_categories(task)
    return _boosted(task, seed, train, test, lambda rows: train.iloc[rows])


def lightgbm_encoded(task: ClassTask, seed: int) -> Outcome:
    """LightGBM with target-encoded groups."""
    begun = time.perf_counter()
    train, test = encoded(task, seed)
    seconds = time.perf_counter() - begun
    found = _boosted(task, seed, train, test, lambda rows: train[rows])
    return replace(found, seconds=found.seconds + seconds)


def _boosted(task: ClassTask, seed: int, train: Any, test: Any, taken: Callable[[np.ndarray], Any]) -> Outcome:
    """Trees chosen on a tenth of the rows, then grown on all of them."""
    import lightgbm as lgb

    y = task.codes()
    settings: dict[str, Any] = {"learning_rate": RATE, "num_threads": 1, "seed": seed, "verbosity": -1}
    settings |= {"deterministic": True, "objective": "binary"}
    if task.outputs > 1:
        settings |= {"objective": "multiclass", "num_class": task.outputs}
    begun = time.perf_counter()
    learn, held = _held_out(len(y), seed)
    data = lgb.Dataset(taken(learn), y[learn])
    first = lgb.train(
        settings,
        data,
        TREES,
        valid_sets=[lgb.Dataset(taken(held), y[held], reference=data)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    model = lgb.train(settings, lgb.Dataset(train, y), max(1, first.best_iteration))
    seconds = time.perf_counter() - begun
    p = np.asarray(model.predict(test))
    return Outcome(np.column_stack([1 - p, p]) if p.ndim == 1 else p, seconds, first.best_iteration)


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of every row; one logit or several."""
    if output.ndim == 1:
        return functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return functional.cross_entropy(output, target.long(), reduction="none")


def _numeric(task: ClassTask) -> tuple[FloatArray, FloatArray]:
    """Numeric inputs of both sets of rows; a column of zeros where there are none."""
    if not task.numeric:
        return np.zeros((len(task.train), 1)), np.zeros((len(task.test), 1))
    return deep._numeric(task)


def _no_levels(task: ClassTask) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((len(task.train), 0), np.int64), np.empty((len(task.test), 0), np.int64)


def _network(
    task: ClassTask,
    seed: int,
    X: tuple[FloatArray, ...],
    levels: tuple[np.ndarray, ...],
    sizes: list[int],
    dims: int | list[int],
) -> Outcome:
    torch.manual_seed(seed)
    recipe = chosen
    train, test = standardized(X[0], X[1])
    y = task.codes().astype(float)
    begun = time.perf_counter()
    module, epochs = fit_network(
        task.network(train.shape[1], sizes, dims, task.outputs, recipe),
        (train, torch.from_numpy(levels[0])),
        y,
        np.ones(len(y)),
        recipe,
        seed,
        cross_entropy,
    )
    seconds = time.perf_counter() - begun
    eta = values(module, (test, torch.from_numpy(levels[1]))).numpy().astype(float)
    return Outcome(probabilities(eta.reshape(len(test), task.outputs)), seconds, epochs)


METHODS: dict[str, Method] = {
    "ours": ours.ours,
    "alternating": ours.alternating,
    "lmmnn": ours.lmmnn,
    "lmmnn_faithful": ours.lmmnn_faithful,
    "mcem": ours.mcem,
    "mcem_nuts": ours.mcem_nuts,
    "mcem_faithful": ours.mcem_faithful,
    "known": ours.known,
    "linear": ours.linear,
    "ignore": ignore,
    "ohe": one_hot,
    "embedding": embedding,
    "te": target_encoding,
    "lightgbm": lightgbm,
    "lightgbm_te": lightgbm_encoded,
}
