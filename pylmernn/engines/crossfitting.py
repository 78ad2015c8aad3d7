"""Sets of networks (members) in training side by side, each without one part of the rows, beside a random part.

What all methods that alternate between training f and solving for the random effects have in common: which rows each
member learns from, the epochs, the criterion by which one is kept, and the fitted networks. What a member learns is its
own; see :mod:`pylmernn.engines.alternating`, :mod:`pylmernn.engines.alternating_generalized` and
:mod:`pylmernn.engines.mcem`.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, Networks, build, weights_of
from pylmernn.training.holdout import Split, split
from pylmernn.training.options import DECAY, Training

FloatArray = NDArray[np.float64]
Callback = Callable[[int, float], None]
State = list[dict[str, Any]]

FOLD_EFFECTS = 1500  # random effects factored densely from which on the default is not to cross-fit

#: what the history tells of an epoch
HISTORY = ("epoch", "loss", "validation", "validation_levels", "sigma", "seconds")


@dataclasses.dataclass(frozen=True)
class Best:
    """What training keeps: an epoch (0 for none yet), its criterion, and the weights of each member."""

    epoch: int
    criterion: float
    states: list[State]


class Member(ABC):
    """One set of networks in training, with the random part of the rows that it learns from.

    Attributes
    ----------
    design : Design
        Of all rows.
    trainer : Trainer
        Of the networks.
    rows : ndarray of int
        The rows learnt from.
    scale : float
        What the networks' output is multiplied by.
    history : dict of list
    """

    design: Design
    trainer: Any
    rows: NDArray[np.intp]
    scale: float = 1.0

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}

    @cached_property
    def rest(self) -> NDArray[np.intp]:
        """The rows not learnt from."""
        return np.setdiff1d(np.arange(self.design.n), self.rows)

    def train_networks(self, number: int, *targets: Any) -> tuple[float, FloatArray]:
        """One pass of the trainer over the rows, for what its loss takes: the loss, and the output at all rows.

        At the rows learnt from it is what the networks said on the way; at the others, of the networks at the end.

        Raises
        ------
        FloatingPointError
            Where the loss or a value of the networks is not finite.
        """
        import torch

        loss = float(self.trainer.epoch(*targets))
        f = self.trainer.met.double().cpu().numpy()
        f[self.rest] = self.trainer.values(torch.from_numpy(self.rest).to(self.trainer.device))
        if not (np.isfinite(loss) and np.isfinite(f).all()):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        return loss, f

    def send(self, values: FloatArray) -> Any:
        """An array of rows where the networks are, in float32."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.trainer.device)

    @property
    @abstractmethod
    def sigma(self) -> float:
        """A standard deviation for the history: of the residuals, or of the first random effects."""

    @abstractmethod
    def epoch(self, number: int) -> float:
        """Train once over the rows, then solve for the random part; returns the loss met on the way.

        Raises
        ------
        FloatingPointError
            Where the loss or a value of the networks is not finite.
        """

    @abstractmethod
    def held_out_loss(self, rows: NDArray[np.intp]) -> tuple[float, float]:
        """Sum of the losses at some rows, and the sum of their weights."""

    @staticmethod
    def combine(rows: float, levels: float, held: Split) -> float:
        """One criterion of the mean losses at single rows and at rows of whole levels; nan without either.

        Their mean, weighted by the numbers of rows and of levels held out, as it is right for log-densities.
        """
        parts = parts_held_out(rows, levels, held)
        if not parts:
            return float("nan")
        return float(np.average([value for value, _ in parts], weights=[count for _, count in parts]))


@dataclasses.dataclass(frozen=True)
class Fresh:
    """New networks of one member.

    Attributes
    ----------
    seed : int
    rows : ndarray of int
        Those to learn from.
    modules : list of torch.nn.Module
    features : list of torch.Tensor
        Their inputs at all rows, on their device; the same for every member.
    """

    seed: int
    rows: NDArray[np.intp]
    modules: list[Any]
    features: list[Any]

    @property
    def generator(self) -> Any:
        """Of the shuffling."""
        import torch

        return torch.Generator().manual_seed(self.seed)


def fresh_networks(
    design: Design, specs: Sequence[NetSpec], training: Training, held: Split, device: str
) -> Iterator[Fresh]:
    """New networks for every member, in turn; their inputs go to the device once."""
    import torch

    from pylmernn.training.loop import device_for

    place = device_for(device)
    features = [build(spec).prepare(net.inputs).to(place) for spec, net in zip(specs, design.nets, strict=True)]
    for k in range(max(training.folds or 0, 1)):
        seed = training.seed + k
        torch.manual_seed(seed)
        yield Fresh(seed, held.learned(k), [build(spec).to(place) for spec in specs], features)


def with_networks(design: Design, f: FloatArray) -> Design:
    """The design without networks given f (n,): it joins the offset."""
    return dataclasses.replace(design, offset=f if design.offset is None else design.offset + f)


def response(design: Design) -> FloatArray:
    """The response less the offset, (n,)."""
    return design.y if design.offset is None else design.y - design.offset


def settle(
    training: Training, design: Design, specs: Sequence[NetSpec], decay: tuple[float, float] = DECAY
) -> Training:
    """The settings with every None replaced for a design and its networks."""
    from pylmernn.training.loop import count_matrices

    if training.folds is None and _dense_effects(design) > FOLD_EFFECTS:
        training = dataclasses.replace(training, folds=0)
    return training.sized(design.n, count_matrices([build(spec) for spec in specs]), decay)


def held_out(design: Design, training: Training) -> Split:
    """Which rows are held out from which member; whole levels are those of the term with most levels."""
    members = max(training.folds or 0, 1)
    largest = max(design.random, key=lambda term: term.n_levels, default=None)
    codes = None if largest is None else largest.codes
    return split(design.n, members, training.validation, training.holdout, codes, training.seed)


def _dense_effects(design: Design) -> int:
    """Random effects that an exact solution factors together: all but those of the largest factor."""
    sizes: dict[str, int] = {}
    for term in design.random:
        if term.covariance != "gp":
            sizes[term.group] = sizes.get(term.group, 0) + term.n_levels * term.width
    fields = sum(term.n_levels for term in design.random if term.covariance == "gp")
    return fields + sum(sizes.values()) - max(sizes.values(), default=0)


def train(members: Sequence[Member], held: Split, training: Training, callback: Callback | None) -> tuple[Best, str]:
    """Epochs of all members side by side until the schedule or patience ends, or the user.

    Returns
    -------
    best : Best
        The epoch with the smallest held-out loss; the last one where nothing is held out.
    stopped : str
        Why training ended before its time; empty where it did not.
    """
    assert training.epochs is not None
    best = Best(0, np.inf, [])
    try:
        for epoch in range(1, training.epochs + 1):
            criterion = train_epoch(members, held, training.validation > 0, epoch)
            if criterion < best.criterion or not np.isfinite(criterion):
                best = Best(epoch, criterion, [member.trainer.state() for member in members])
            if callback is not None:
                callback(epoch, criterion)
            if training.patience is not None and epoch - best.epoch >= training.patience:
                break
    except KeyboardInterrupt:
        if best.epoch == 0:
            raise
        return best, "training was interrupted"
    except FloatingPointError as error:
        if best.epoch == 0:
            raise ValueError(f"{error}: scale the inputs, or lower the learning rate.") from None
        return best, str(error)
    return best, ""


def train_epoch(members: Sequence[Member], held: Split, validate: bool, epoch: int) -> float:
    """One epoch of all members; returns the criterion, nan where nothing is held out to choose an epoch by."""
    rows: list[tuple[float, float]] = []
    levels: list[tuple[float, float]] = []
    entries = []
    for k, member in enumerate(members):
        begun = time.perf_counter()
        loss = member.epoch(epoch)
        for pool, whole in ((rows, False), (levels, True)):
            pool.append(member.held_out_loss(np.flatnonzero((held.member == k) & (held.whole == whole))))
        means = (_ratio(rows[-1:]), _ratio(levels[-1:]))
        entries.append((epoch, loss, *means, member.sigma, time.perf_counter() - begun))
    for member, entry in zip(members, entries, strict=True):  # all or none, also where interrupted
        for name, value in zip(HISTORY, entry, strict=True):
            member.history[name].append(float(value))
    criterion = members[0].combine(_ratio(rows), _ratio(levels), held) if validate else float("nan")
    for member in members:
        member.trainer.end_epoch(criterion)
    return criterion


def parts_held_out(rows: float, levels: float, held: Split) -> list[tuple[float, int]]:
    """The mean losses at single rows and at whole levels, and what each counts: the rows, and the levels.

    As in a log-likelihood, in which every row, and every new level, counts once. A part of which nothing is held out
    is left out.
    """
    parts = [(rows, int(np.sum((held.member >= 0) & ~held.whole))), (levels, held.n_levels)]
    return [(value, count) for value, count in parts if count > 0 and np.isfinite(value)]


def _ratio(sums: Sequence[tuple[float, float]]) -> float:
    """Mean of pooled sums; nan without rows."""
    total, count = np.sum(sums, axis=0)
    return float(total / count) if count > 0 else float("nan")


def fitted_networks(
    design: Design,
    specs: tuple[NetSpec, ...],
    members: Sequence[Member],
    held: Split,
    best: Best,
    criterion: str = "mean squared error",
    centred: bool = False,
) -> Networks:
    """The members as they were in the best epoch; f out of fold where every row is held out from one of them.

    f is centred where X holds a constant, or where it is ``centred`` because something else makes up for one.
    """
    for member, state in zip(members, best.states, strict=True):
        member.trainer.restore(state)
    values = [member.scale * member.trainer.values() for member in members]
    f = values[0]
    if len(members) > 1:
        X = np.column_stack([np.ones(design.n), design.X]) if centred else design.X
        f = np.array(values)[held.member, np.arange(design.n)] - fold_trends(X, values, held.member)
    has_constant = centred or any(np.ptp(design.X[:, j]) == 0 and design.X[0, j] != 0 for j in range(design.p))
    shift = f.mean(axis=0) if has_constant else np.zeros(f.shape[1:])
    history = {"member": [float(k) for k, m in enumerate(members) for _ in m.history["epoch"]]}
    for name in HISTORY:
        history[name] = [value for member in members for value in member.history[name]]
    return Networks(
        specs=specs,
        members=tuple(tuple(weights_of(module) for module in member.trainer.modules) for member in members),
        scale=members[0].scale,
        shift=float(shift) if shift.ndim == 0 else tuple(shift.tolist()),
        fitted=f - shift,
        history=history,
        best_epoch=(best.epoch,) * len(members),
        out_of_fold=len(members) > 1,
        learned=np.array([held.member != k for k in range(len(members))]),
        criterion=criterion,
    )


def fold_trends(X: FloatArray, values: Sequence[FloatArray], fold_of: NDArray[np.intp]) -> FloatArray:
    """What f of each row's fold holds of the columns of X (n, p) beyond the mean of the folds, as f: (n,) or (n, C).

    A fold knows only f + X beta: it may put a trend in either. Side by side, different trends would pass for noise.
    """
    trends = np.array([np.linalg.lstsq(X, f, rcond=None)[0] for f in values])
    return np.asarray(np.einsum("ij,ij...->i...", X, (trends - trends.mean(axis=0))[fold_of]))


def some_rows(design: Design, rows: NDArray[np.intp]) -> Design:
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
