"""What the mini-batch likelihoods share: presets, runs that are cut off or cross-fitted, the networks they leave.

The trainers are in :mod:`pylmernn.engines.minibatch`; methods "lmmnn" for linear and for generalized models use both.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.batchorders import Order, Orders
from pylmernn.engines.crossfitting import Callback, fold_trends
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.minibatch import BatchTrainer
from pylmernn.formula.design import Design, NetTerm
from pylmernn.mean.networks import NetSpec, Networks, Weights
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

INTERRUPTED = "training was interrupted"
VARIANCE_RATE = 2e-2  # learning rate of variance parameters, on log scale

#: what the preset "faithful" fixes
FAITHFUL_NET = {"activation": "relu", "dropout": 0.25, "standardize": False}
FAITHFUL_BATCH, FAITHFUL_EPOCHS, FAITHFUL_PATIENCE = 100, 500, 10
FAITHFUL_RATE, FAITHFUL_EPSILON, FAITHFUL_SPREAD = 1e-3, 1e-7, 0.05


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes
    ----------
    f : ndarray, shape (n,)
    learned : ndarray of bool, shape (n,)
        The rows learnt from.
    weights : tuple of dict
        Of the networks of the mean.
    theta : ndarray, shape (m,)
    history, best_epoch, stopped
        ``stopped`` says why training ended before its time; empty where it did not.
    """

    f: FloatArray
    learned: NDArray[np.bool_]
    weights: tuple[Weights, ...]
    theta: FloatArray
    history: dict[str, list[float]]
    best_epoch: int
    stopped: str


OneRun = TypeVar("OneRun", bound=Run)
AnyEstimates = TypeVar("AnyEstimates", bound=Estimates)


def faithful_training(training: Training) -> Training:
    """The settings of the authors' code; epochs, batch size and patience are the user's where given."""
    return dataclasses.replace(
        training,
        epochs=training.epochs or FAITHFUL_EPOCHS,
        batch_size=training.batch_size or FAITHFUL_BATCH,
        patience=training.patience or FAITHFUL_PATIENCE,
        learning_rate=FAITHFUL_RATE,
        schedule="constant",
        weight_decay=0.0,
        validation=0.1,
        folds=0,
    )


def preset_net(net: NetTerm) -> NetTerm:
    """The network of the paper where the formula does not say otherwise; a user's own module stays as it is."""
    return net if net.module is not None else dataclasses.replace(net, options={**FAITHFUL_NET, **net.options})


def glorot(networks: Sequence[torch.nn.Module]) -> None:
    """Weights uniform as Glorot & Bengio (2010) have it, biases zero: the initial state of Keras' layers."""
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
            elif isinstance(layer, torch.nn.Embedding):
                torch.nn.init.uniform_(layer.weight, -FAITHFUL_SPREAD, FAITHFUL_SPREAD)


def linear_columns(X: FloatArray) -> FloatArray:
    """The columns that are not constant, standardised: they are trained beside the networks."""
    spread = X.std(axis=0)
    moving = spread > 1e-12 * np.maximum(1.0, np.abs(X).max(axis=0, initial=0.0))
    return np.asarray((X[:, moving] - X[:, moving].mean(axis=0)) / spread[moving])


def has_constant(X: FloatArray) -> bool:
    """Whether X has an intercept, which the mean of the networks can be taken off for."""
    return any(np.ptp(column) == 0 and column[0] != 0 for column in X.T)


def run_epochs(
    trainer: BatchTrainer, orders: Orders, training: Training, scale: float, callback: Callback | None
) -> tuple[dict[str, list[float]], int, str]:
    """Epochs until the schedule or patience ends, or the user; history, best epoch, why it stopped early."""
    assert training.epochs is not None
    history: dict[str, list[float]] = {"epoch": [], "loss": [], "validation": [], "sigma": [], "seconds": []}
    best = (np.inf, 0, trainer.state())
    stopped = ""
    restore = training.preset != "faithful"
    try:
        for epoch in range(1, training.epochs + 1):
            begun = time.perf_counter()
            loss = trainer.epoch(orders.epoch(epoch)) + np.log(scale)
            value = trainer.evaluate(orders.check) + np.log(scale) if len(orders.check) else float("nan")
            entries = (epoch, loss, value, scale * trainer.sigma, time.perf_counter() - begun)
            for name, entry in zip(history, entries, strict=True):
                history[name].append(float(entry))
            if value < best[0] or not len(orders.check):
                best = (value, epoch, trainer.state() if restore else best[2])
            trainer.end_epoch(value)
            if callback is not None:
                callback(epoch, value)
            if training.patience is not None and epoch - best[1] >= training.patience:
                break
    except KeyboardInterrupt:
        if not history["epoch"]:
            raise
        stopped = INTERRUPTED
    except FloatingPointError as error:
        epoch = len(history["epoch"]) + 1
        if epoch == 1:
            raise ValueError(f"{error} in epoch 1: scale the inputs, or lower the learning rate.") from None
        stopped = f"{error} in epoch {epoch}"
    if restore:
        trainer.restore(best[2])
    return history, best[1], stopped


def run_folds(
    design: Design, training: Training, train: Callable[[Order, int], OneRun]
) -> tuple[list[OneRun], FloatArray]:
    """One run on all rows, or one for each fold on the rows of the others.

    Parameters
    ----------
    design : Design
    training : Training
        Sized settings.
    train : callable
        A run on some rows, with a seed.

    Returns
    -------
    runs : list of Run
        Fewer than there are folds where one was stopped.
    f : ndarray, shape (n,)
        Out of fold where there are several.
    """
    folds = max(training.folds or 0, 1)
    fold_of = np.random.default_rng(training.seed).permutation(design.n) % folds
    runs: list[OneRun] = []
    f = np.empty(design.n)
    for k in range(folds):
        rows = np.flatnonzero(fold_of != k) if folds > 1 else np.arange(design.n)
        try:
            runs.append(train(rows, training.seed + k))
        except KeyboardInterrupt:  # before an epoch of this fold was over
            if not runs:
                raise
            runs[-1] = dataclasses.replace(runs[-1], stopped=INTERRUPTED)
            break
        f[fold_of == k] = runs[-1].f[fold_of == k]
        if runs[-1].stopped:
            break
    if len(runs) < folds:
        f = np.mean([run.f for run in runs], axis=0)
    elif folds > 1:
        f -= fold_trends(design.X, [run.f for run in runs], fold_of)
    return runs, f


def networks_of(
    design: Design,
    specs: tuple[NetSpec, ...],
    scale: float,
    runs: Sequence[Run],
    f: FloatArray,
    criterion: str,
    centred: bool = False,
) -> Networks:
    """The networks of all runs; f (n,) is centred where an intercept, or something like it, can take its mean."""
    shift = float(f.mean()) if centred or has_constant(design.X) else 0.0
    history: dict[str, list[float]] = {"member": [float(i) for i, run in enumerate(runs) for _ in run.history["epoch"]]}
    for name in runs[0].history:
        history[name] = [value for run in runs for value in run.history[name]]
    return Networks(
        specs=specs,
        members=tuple(run.weights for run in runs),
        scale=scale,
        shift=shift,
        fitted=f - shift,
        history=history,
        best_epoch=tuple(run.best_epoch for run in runs),
        out_of_fold=len(runs) > 1,
        learned=np.array([run.learned for run in runs]),
        criterion=criterion,
    )


def marked(estimates: AnyEstimates, stopped: str) -> AnyEstimates:
    """Estimates that say why training ended before its time, if it did."""
    if not stopped:
        return estimates
    message = f"{stopped}; these are the best networks so far"
    convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
    return dataclasses.replace(estimates, convergence=convergence)
