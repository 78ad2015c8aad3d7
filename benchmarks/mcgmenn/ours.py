"""Ours: ``glmernn`` in all its methods, and what it reaches with the true mean or a linear one."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from generators import FloatArray
from tasks import Outcome

import pylmernn
from benchmarks.mcgmenn.tasks import ClassTask
from pylmernn.engines.control import Control
from pylmernn.training.options import Training

#: settings of Training that all fits here take, for trials; see baselines.choose()
settings: dict[str, Any] = {}


def ours(task: ClassTask, seed: int) -> Outcome:
    """The method that is chosen where none is given."""
    return neural(task, seed, "auto")


def alternating(task: ClassTask, seed: int) -> Outcome:
    """Networks on working responses, in turn with Laplace's approximation."""
    return neural(task, seed, "alternating")


def lmmnn(task: ClassTask, seed: int) -> Outcome:
    """One factor integrated out by quadrature in every batch."""
    return neural(task, seed, "lmmnn")


def lmmnn_faithful(task: ClassTask, seed: int) -> Outcome:
    """The same, trained as the authors of LMMNN do, with the batches of their settings for two classes."""
    return neural(task, seed, "lmmnn", Control(training=Training(preset="faithful", batch_size=30)))


def mcem(task: ClassTask, seed: int) -> Outcome:
    """Monte Carlo EM."""
    return neural(task, seed, "mcem")


def mcem_nuts(task: ClassTask, seed: int) -> Outcome:
    """Monte Carlo EM with NUTS instead of Polya-Gamma draws."""
    from pylmernn.engines.sampling_options import Sampling

    return neural(task, seed, "mcem", Control(sampling=Sampling(sampler="nuts")))


def mcem_faithful(task: ClassTask, seed: int) -> Outcome:
    """Monte Carlo EM as in MC-GMENN: its sampler and its rule for the variances, its network and its training.

    Dropout is after the first three hidden layers; theirs is after the fourth, too. The best epoch is kept.
    """
    from pylmernn.engines.sampling_options import Sampling

    training = Training(
        epochs=200, batch_size=100, learning_rate=1e-3, schedule="constant", weight_decay=0.0, holdout="rows",
        patience=5, folds=0,
    )  # fmt: skip
    network = task.mean if task.nets else task.mean[:-1] + ", activation='relu', dropout=0.25)"
    control = Control(training=training, sampling=Sampling(preset="faithful"))
    return neural(replace(task, mean=network), seed, "mcem", control)


def known(task: ClassTask, seed: int) -> Outcome:
    """Variances and effects estimated by Laplace's approximation (quadrature for one factor) where f is known."""
    if task.f is None or task.outputs > 1:
        raise ValueError("method 'known' needs simulated data of two classes.")
    rows = task.train.assign(_f=task.f[0][:, 0])
    begun = time.perf_counter()
    fit = _quiet(
        f"{task.response} ~ 0 + {task.random}", rows, offset="_f", nAGQ=9 if len(task.groups) == 1 else 1, seed=seed
    )
    seconds = time.perf_counter() - begun
    effect = _effects(fit, task)
    return Outcome(_both(1 / (1 + np.exp(-task.f[1][:, 0] - effect))), seconds, estimates=variances(fit, task))


def linear(task: ClassTask, seed: int) -> Outcome:
    """The generalized linear mixed model without a network, as lme4's glmer fits it."""
    if task.outputs > 1:
        raise ValueError("method 'linear' is for two classes.")
    begun = time.perf_counter()
    fit = _quiet(f"{task.response} ~ {task.linear or 1} + {task.random}", task.train, seed=seed)
    seconds = time.perf_counter() - begun
    return Outcome(probability(fit, task), seconds, estimates=variances(fit, task))


def neural(task: ClassTask, seed: int, method: str, control: Control | None = None) -> Outcome:
    """A fit by one of our methods; without inputs of a network by "mcem", which takes many large factors."""
    if task.mean == "1":
        method = "mcem"
    control = control or Control()
    control = replace(control, training=replace(control.training, **settings))
    options: dict[str, Any] = {"nets": task.nets} if task.nets else {}
    begun = time.perf_counter()
    fit = _quiet(
        f"{task.response} ~ {task.mean} + {task.random}",
        task.train,
        family="multinomial" if task.outputs > 1 else "binomial",
        method=method,
        control=control,
        seed=seed,
        **options,
    )
    seconds = time.perf_counter() - begun
    return Outcome(probability(fit, task), seconds, epochs(fit), variances(fit, task))


def _quiet(formula: str, rows: pd.DataFrame, **options: Any) -> Any:
    """A fit without the warnings that many fits in a row would repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pylmernn.glmernn(formula, rows, **options)


def probability(fit: Any, task: ClassTask) -> FloatArray:
    """Of all classes at the test rows, (m, C)."""
    if task.outputs == 1:
        return _both(np.asarray(fit.predict(task.test, type="response", allow_new_levels=True), float))
    found = fit.predict_proba(task.test, allow_new_levels=True)
    found.columns = [str(name) for name in found.columns]
    return found.reindex(columns=list(task.classes), fill_value=0.0).to_numpy(float)


def epochs(fit: Any) -> float:
    """Epochs of a fit with networks."""
    return float("nan") if fit.estimates.networks is None else float(fit.history()["epoch"].max())


def variances(fit: Any, task: ClassTask) -> dict[str, float]:
    """Estimated variances of the random intercepts: "z0", or "z0 class" where there are several classes."""
    if task.outputs == 1:
        frame = fit.VarCorr().as_frame()
        return {str(row.grp): float(row.vcov) for row in frame.itertuples() if row.grp != "Residual"}
    terms = [term.group for term in fit.design.random]
    return {
        f"{term} {label}": float(covariance[c, 0, 0])
        for term, covariance in zip(terms, fit.estimates.covariances, strict=True)
        for c, label in enumerate(fit.estimates.classes)
    }


def _effects(fit: Any, task: ClassTask) -> FloatArray:
    """Sums of the random effects at the test rows; levels not seen count as zero."""
    found = fit.ranef()
    total = np.zeros(len(task.test))
    for name in task.groups:
        modes = found[name].iloc[:, 0]
        modes.index = modes.index.astype(str)
        total += modes.reindex(task.test[name].astype(str)).fillna(0.0).to_numpy()
    return total


def _both(p: FloatArray) -> FloatArray:
    return np.column_stack([1 - p, p])
