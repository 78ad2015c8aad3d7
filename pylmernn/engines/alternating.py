"""Method ``"alternating"``: networks in the mean of a linear mixed model.

Between two epochs of ordinary mini-batch training of f on ``y - X beta - Z b``, the linear mixed model of the
residuals ``y - f`` is solved exactly on all rows: beta, b, and, where it costs little beside an epoch, theta. The best
epoch by held out rows is kept. Where rows are few, f is cross-fitted: the variance components then rest on predictions
of rows that the networks have not seen, so that sigma is not understated; the mean of the folds' networks predicts new
rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.randompart import RandomPart
from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, Networks, build, specify, weights_of
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]
Callback = Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """One set of networks: f (n,) at all rows before centring, the rows it learnt from, weights, history.

    ``stopped`` says why training ended before its time; empty where it did not.
    """

    f: FloatArray
    learned: NDArray[np.bool_]
    weights: tuple[dict[str, NDArray[Any]], ...]
    history: dict[str, list[float]]
    best_epoch: int
    stopped: str


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callback | None = None,
) -> Estimates:
    """Estimate a linear mixed model with networks in its mean.

    Parameters
    ----------
    design : Design
        With at least one network in ``nets``.
    REML, control, start, callback
        As in :func:`pylmernn.engines.profiled.fit`; they concern the last, exact step. ``control.training`` says how to
        train; the callback is told of each epoch and its held-out error.

    Returns
    -------
    Estimates
        Of the linear mixed model given the networks, which are in ``networks``.

    Raises
    ------
    ValueError
        For an option of a network that does not exist, or where the loss is not finite in the first epoch.
    """
    from pylmernn.mean.mlp import check_options

    control = control or Control()
    training = control.training.sized(design.n)
    specs = tuple(specify(net, check_options(net.options, net.label)) for net in design.nets)
    y = design.y if design.offset is None else design.y - design.offset
    scale = float(np.std(y))
    rng = np.random.default_rng(training.seed)
    folds = max(training.folds or 0, 1)
    fold_of = rng.permutation(design.n) % folds
    members: list[Member] = []
    f = np.empty(design.n)
    for k in range(folds):
        learn = np.flatnonzero(fold_of != k) if folds > 1 else np.arange(design.n)
        member = _train_member(design, y, scale, specs, learn, REML, control, training, training.seed + k, callback)
        members.append(member)
        f[fold_of == k] = member.f[fold_of == k]
        if member.stopped:
            break
    if folds > 1 and len(members) == folds:
        f -= _fold_trends(design.X, members, fold_of)
    if len(members) < folds:  # interrupted: what is there, in sample
        f = np.mean([m.f for m in members], axis=0)
    has_constant = any(np.ptp(design.X[:, j]) == 0 and design.X[0, j] != 0 for j in range(design.p))
    shift = float(f.mean()) if has_constant else 0.0
    networks = Networks(
        specs=specs,
        members=tuple(m.weights for m in members),
        scale=scale,
        shift=shift,
        fitted=f - shift,
        history=_joined([m.history for m in members]),
        best_epoch=tuple(m.best_epoch for m in members),
        out_of_fold=folds > 1 and len(members) == folds,
        learned=np.array([m.learned for m in members]),
    )
    estimates = exact.fit(with_networks(design, networks.fitted), REML, control, start)
    if members[-1].stopped:
        convergence = dataclasses.replace(
            estimates.convergence,
            converged=False,
            message=f"{members[-1].stopped}; these are the best networks so far",
        )
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="alternating", networks=networks)


def _fold_trends(X: FloatArray, members: list[Member], fold_of: NDArray[np.intp]) -> FloatArray:
    """What f of each row's fold holds of the columns of X (n, p) beyond the mean of the folds, (n,).

    A fold knows only f + X beta: it may put a trend in either. Side by side, different trends would pass for noise.
    """
    trends = np.array([np.linalg.lstsq(X, member.f, rcond=None)[0] for member in members])
    return np.asarray(np.einsum("ij,ij->i", X, (trends - trends.mean(axis=0))[fold_of]))


def with_networks(design: Design, f: FloatArray) -> Design:
    """The linear design given f (n,): it joins the offset."""
    return dataclasses.replace(design, offset=f if design.offset is None else design.offset + f)


def _train_member(
    design: Design,
    y: FloatArray,
    scale: float,
    specs: tuple[NetSpec, ...],
    learn: NDArray[np.intp],
    REML: bool,
    control: Control,
    training: Training,
    seed: int,
    callback: Callback | None,
) -> Member:
    import torch

    from pylmernn.training.loop import Trainer

    assert training.epochs is not None
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    modules = [build(spec) for spec in specs]
    features = [module.prepare(net.inputs) for module, net in zip(modules, design.nets, strict=True)]
    held = np.random.default_rng(seed + 1).permutation(len(learn))[: round(training.validation * len(learn))]
    check, rows = learn[held], np.delete(learn, held)
    size = sum(p.numel() for module in modules for p in module.parameters())
    random = RandomPart(_some_rows(design, rows), REML, control.device, size)
    weights = None if design.weights is None else torch.from_numpy(design.weights.astype(np.float32))
    trainer = Trainer(modules, features, rows, training, generator, weights)
    random.update(y[rows])
    f = np.zeros(design.n)
    best = (np.inf, 0, trainer.state(), f)
    history: dict[str, list[float]] = {"epoch": [], "loss": [], "validation": [], "sigma": [], "seconds": []}
    stopped = ""
    try:
        for epoch in range(1, training.epochs + 1):
            begun = time.perf_counter()
            target = torch.from_numpy(((y - random.mean(design)) / scale).astype(np.float32))
            loss = trainer.epoch(target) * scale**2
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
            f = scale * trainer.values()
            random.update(y[rows] - f[rows])
            error = y[check] - f[check] - random.mean(_some_rows(design, check)) if len(check) else np.zeros(0)
            validation = _mean_square(error, None if design.weights is None else design.weights[check])
            for name, value in zip(
                history, (epoch, loss, validation, random.sigma, time.perf_counter() - begun), strict=True
            ):
                history[name].append(float(value))
            if validation < best[0] or not len(check):
                best = (validation, epoch, trainer.state(), f)
            if callback is not None:
                callback(epoch, validation)
            if training.patience is not None and epoch - best[1] >= training.patience:
                break
    except KeyboardInterrupt:
        stopped = "training was interrupted"
    except FloatingPointError as error_:
        if best[1] == 0:
            raise ValueError(f"{error_}: scale the inputs, or lower the learning rate.") from None
        stopped = str(error_)
    trainer.restore(best[2])
    learned = np.zeros(design.n, dtype=bool)
    learned[rows] = True
    return Member(best[3], learned, tuple(weights_of(m) for m in modules), history, best[1], stopped)


def _mean_square(error: FloatArray, weights: FloatArray | None) -> float:
    """Weighted mean square of held-out errors; nan where no row is held out."""
    return float(np.average(error**2, weights=weights)) if len(error) else float("nan")


def _some_rows(design: Design, rows: NDArray[np.intp]) -> Design:
    """The design of some rows; levels keep their codes, also where none of their rows is left."""
    return dataclasses.replace(
        design,
        y=design.y[rows],
        X=design.X[rows],
        random=tuple(dataclasses.replace(t, codes=t.codes[rows], columns=t.columns[rows]) for t in design.random),
        weights=None if design.weights is None else design.weights[rows],
        offset=None,
        nets=(),
    )


def _joined(histories: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {"member": [float(i) for i, h in enumerate(histories) for _ in h["epoch"]]}
    for name in histories[0]:
        out[name] = [value for history in histories for value in history[name]]
    return out
