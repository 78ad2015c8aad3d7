"""Method ``"alternating"``: networks in the mean of a linear mixed model.

Between two epochs of ordinary mini-batch training of f on ``y - X beta - Z b``, the linear mixed model of the
residuals ``y - f`` is solved exactly on the rows learnt from: beta, b, and, where it costs little beside an epoch,
theta. The best epoch by held-out rows and levels is kept, and the model given f is estimated exactly on all rows.

In the first half of the epochs b is taken off the response only in part, from nothing to all. A function of inputs
that are constant within levels would else stay in b, which knows the levels before the networks do: given all of b,
an epoch moves only ``sigma^2 / (sigma^2 + n_j sigma_b^2)`` of it into f.

Where rows are few, f is cross-fitted: several sets of networks (members) are trained side by side, each without one
part of the rows. An epoch is chosen by the errors at all rows, each predicted by the member that has not learnt from
it. The variance components rest on these predictions, so that sigma is not understated; the mean of the members
predicts new rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.randompart import DENSE_ENOUGH, RandomPart
from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, Networks, build, specify, weights_of
from pylmernn.training.holdout import Split, split
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]
Callback = Callable[[int, float], None]
State = list[dict[str, Any]]

FOLD_EFFECTS = 1500  # random effects factored densely from which on the default is not to cross-fit
RISE = 0.5  # share of the epochs in which b comes in


@dataclasses.dataclass(frozen=True)
class Best:
    """What training keeps: an epoch (0 for none yet), its criterion, and the weights of each member."""

    epoch: int
    criterion: float
    states: list[State]


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
        train; the callback is told of each epoch and its held-out error. ``control.device`` is where networks are
        trained.

    Returns
    -------
    Estimates
        Of the linear mixed model given the networks, which are in ``networks``.

    Raises
    ------
    ValueError
        For an option of a network that does not exist, or where the loss is not finite in the first epoch.
    KeyboardInterrupt
        Where training is interrupted before its first epoch ends; later, what there is then is returned, marked.
    """
    control = control or Control()
    specs = tuple(specify(net) for net in design.nets)
    training = settle(control.training, design, specs)
    held = held_out(design, training)
    members = new_members(design, REML, control, training, specs, held)
    best, stopped = _train(members, held, training, callback)
    networks = _networks(design, specs, members, held, best)
    estimates = exact.fit_by_size(with_networks(design, networks.fitted), REML, control, start, DENSE_ENOUGH)
    if stopped:
        message = f"{stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="alternating", networks=networks)


def with_networks(design: Design, f: FloatArray) -> Design:
    """The linear design given f (n,): it joins the offset."""
    return dataclasses.replace(design, offset=f if design.offset is None else design.offset + f)


def settle(training: Training, design: Design, specs: Sequence[NetSpec]) -> Training:
    """The settings with every None replaced for a design and its networks."""
    from pylmernn.training.loop import count_matrices

    if training.folds is None and _dense_effects(design) > FOLD_EFFECTS:
        training = dataclasses.replace(training, folds=0)
    return training.sized(design.n, count_matrices([build(spec) for spec in specs]))


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


class Member:
    """One set of networks in training, with the random part of the rows that it learns from.

    Within training, f of these rows is what the networks said of them on the way through an epoch; that of the rows
    held out is of the networks at the end of the epoch.

    Parameters
    ----------
    design : Design
        Of all rows.
    random : RandomPart
        Of the rows learnt from.
    trainer : Trainer
        Of the networks, on the same rows.
    rows : ndarray of int
        These rows.
    """

    def __init__(self, design: Design, random: RandomPart, trainer: Any, rows: NDArray[np.intp]) -> None:
        import torch

        self.design, self.random, self.trainer, self.rows = design, random, trainer, rows
        self.y = response(design)
        self.scale = float(np.std(self.y))
        self.f = np.zeros(design.n)
        self.rest = np.setdiff1d(np.arange(design.n), rows)
        self.rest_on_device = torch.from_numpy(self.rest).to(trainer.device)
        self.rise = max(1.0, RISE * trainer.training.epochs)
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}
        self._solve()

    def _solve(self) -> None:
        self.random.update((self.y - self.f)[self.rows])
        self.linear = self.random.mean(self.design)

    def _known(self, number: int) -> FloatArray:
        """What an epoch takes off the response: ``X beta`` and more and more of ``Z b``, (n,)."""
        share = min(1.0, (number - 1) / self.rise)
        fixed = self.design.X @ self.random.beta
        return np.asarray(fixed + share * (self.linear - fixed))

    def epoch(self, number: int) -> float:
        """Train once over the rows, then solve for the random part; returns the mean squared error met on the way.

        Raises
        ------
        FloatingPointError
            Where the loss or a value of the networks is not finite.
        """
        import torch

        target = torch.from_numpy(((self.y - self._known(number)) / self.scale).astype(np.float32))
        loss = self.trainer.epoch(target.to(self.trainer.device)) * self.scale**2
        f = self.trainer.met.double().cpu().numpy()
        f[self.rest] = self.trainer.values(self.rest_on_device)
        if not (np.isfinite(loss) and np.isfinite(f).all()):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        self.f = self.scale * f
        self._solve()
        return float(loss)

    def errors(self, rows: NDArray[np.intp]) -> FloatArray:
        """Errors of ``f + X beta + Z b`` at some rows; b is zero for levels not learnt from."""
        return np.asarray(self.y[rows] - self.f[rows] - self.linear[rows])


#: what the history tells of an epoch
HISTORY = ("epoch", "loss", "validation", "validation_levels", "sigma", "seconds")


def response(design: Design) -> FloatArray:
    """The response less the offset, (n,)."""
    return design.y if design.offset is None else design.y - design.offset


def new_members(
    design: Design,
    REML: bool,
    control: Control,
    training: Training,
    specs: tuple[NetSpec, ...],
    held: Split,
) -> list[Member]:
    """Fresh networks for every member; their inputs go to the device once."""
    import torch

    from pylmernn.training.loop import Trainer, device_for

    device = device_for(control.device)
    features = [build(spec).prepare(net.inputs).to(device) for spec, net in zip(specs, design.nets, strict=True)]
    weights = None
    if design.weights is not None:
        weights = torch.from_numpy(design.weights.astype(np.float32)).to(device)
    parameters = sum(spec.n_parameters for spec in specs)
    members = []
    for k in range(max(training.folds or 0, 1)):
        torch.manual_seed(training.seed + k)
        modules = [build(spec).to(device) for spec in specs]
        generator = torch.Generator().manual_seed(training.seed + k)
        rows = held.learned(k)
        random = RandomPart(some_rows(design, rows), REML, control.device, parameters)
        members.append(Member(design, random, Trainer(modules, features, rows, training, generator, weights), rows))
    return members


def _train(members: Sequence[Member], held: Split, training: Training, callback: Callback | None) -> tuple[Best, str]:
    """Epochs of all members side by side until the schedule or patience ends, or the user.

    Returns
    -------
    best : Best
        The epoch with the smallest held-out error; the last one where nothing is held out.
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
    weights = members[0].design.weights
    rows: list[tuple[float, float]] = []
    levels: list[tuple[float, float]] = []
    entries = []
    for k, member in enumerate(members):
        begun = time.perf_counter()
        loss = member.epoch(epoch)
        for pool, whole in ((rows, False), (levels, True)):
            pool.append(_squares(member, np.flatnonzero((held.member == k) & (held.whole == whole)), weights))
        mean_squares = (_ratio(rows[-1:]), _ratio(levels[-1:]))
        entries.append((epoch, loss, *mean_squares, member.random.sigma, time.perf_counter() - begun))
    for member, entry in zip(members, entries, strict=True):  # all or none, also where interrupted
        for name, value in zip(HISTORY, entry, strict=True):
            member.history[name].append(float(value))
    criterion = combine(_ratio(rows), _ratio(levels), held) if validate else float("nan")
    for member in members:
        member.trainer.end_epoch(criterion)
    return criterion


def combine(rows: float, levels: float, held: Split) -> float:
    """One criterion of the mean squared errors at single rows and at rows of whole levels.

    Their geometric mean, weighted by the numbers of rows and of levels held out, as in a Gaussian log-likelihood in
    which every row, and every new level, counts once. A part of which nothing is held out is left out.

    Examples
    --------
    >>> import numpy as np
    >>> held = Split(np.zeros(4, dtype=np.intp), np.array([False, False, True, True]), n_levels=2)
    >>> round(combine(1.0, 4.0, held), 6)
    2.0
    """
    parts = [(rows, int(np.sum((held.member >= 0) & ~held.whole))), (levels, held.n_levels)]
    parts = [(value, count) for value, count in parts if count > 0 and np.isfinite(value)]
    if not parts:
        return float("nan")
    smallest = float(np.finfo(np.float64).tiny)
    logs = [np.log(max(value, smallest)) for value, _ in parts]
    return float(np.exp(np.average(logs, weights=[count for _, count in parts])))


def _squares(member: Member, rows: NDArray[np.intp], weights: FloatArray | None) -> tuple[float, float]:
    """Weighted sum of squared errors at some rows, and the sum of weights."""
    squares = member.errors(rows) ** 2
    if weights is None:
        return float(squares.sum()), len(rows)
    return float(weights[rows] @ squares), float(weights[rows].sum())


def _ratio(sums: Sequence[tuple[float, float]]) -> float:
    """Mean square of pooled sums; nan without rows."""
    total, count = np.sum(sums, axis=0)
    return float(total / count) if count > 0 else float("nan")


def _networks(
    design: Design, specs: tuple[NetSpec, ...], members: Sequence[Member], held: Split, best: Best
) -> Networks:
    """The members as they were in the best epoch; f out of fold where every row is held out from one of them."""
    for member, state in zip(members, best.states, strict=True):
        member.trainer.restore(state)
    values = [member.scale * member.trainer.values() for member in members]
    f = values[0]
    if len(members) > 1:
        f = np.array(values)[held.member, np.arange(design.n)] - fold_trends(design.X, values, held.member)
    has_constant = any(np.ptp(design.X[:, j]) == 0 and design.X[0, j] != 0 for j in range(design.p))
    shift = float(f.mean()) if has_constant else 0.0
    history = {"member": [float(k) for k, m in enumerate(members) for _ in m.history["epoch"]]}
    for name in HISTORY:
        history[name] = [value for member in members for value in member.history[name]]
    return Networks(
        specs=specs,
        members=tuple(tuple(weights_of(module) for module in member.trainer.modules) for member in members),
        scale=members[0].scale,
        shift=shift,
        fitted=f - shift,
        history=history,
        best_epoch=(best.epoch,) * len(members),
        out_of_fold=len(members) > 1,
        learned=np.array([held.member != k for k in range(len(members))]),
    )


def fold_trends(X: FloatArray, values: Sequence[FloatArray], fold_of: NDArray[np.intp]) -> FloatArray:
    """What f of each row's fold holds of the columns of X (n, p) beyond the mean of the folds, (n,).

    A fold knows only f + X beta: it may put a trend in either. Side by side, different trends would pass for noise.
    """
    trends = np.array([np.linalg.lstsq(X, f, rcond=None)[0] for f in values])
    return np.asarray(np.einsum("ij,ij->i", X, (trends - trends.mean(axis=0))[fold_of]))


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
