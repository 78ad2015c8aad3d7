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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import (
    Callback,
    Member,
    fitted_networks,
    fresh_networks,
    held_out,
    parts_held_out,
    response,
    settle,
    some_rows,
    train,
    with_networks,
)
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.randompart import DENSE_ENOUGH, RandomPart
from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, specify
from pylmernn.training.holdout import Split
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

RISE = 0.5  # share of the epochs in which b comes in


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
    best, stopped = train(members, held, training, callback)
    networks = fitted_networks(design, specs, members, held, best)
    estimates = exact.fit_by_size(with_networks(design, networks.fitted), REML, control, start, DENSE_ENOUGH)
    if stopped:
        message = f"{stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="alternating", networks=networks)


class LinearMember(Member):
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
        super().__init__()
        self.design, self.random, self.trainer, self.rows = design, random, trainer, rows
        self.y = response(design)
        self.scale = float(np.std(self.y))
        self.f = np.zeros(design.n)
        self.rise = max(1.0, RISE * trainer.training.epochs)
        self._solve()

    def _solve(self) -> None:
        self.random.update((self.y - self.f)[self.rows])
        self.linear = self.random.mean(self.design)

    def _known(self, number: int) -> FloatArray:
        """What an epoch takes off the response: ``X beta`` and more and more of ``Z b``, (n,)."""
        share = min(1.0, (number - 1) / self.rise)
        fixed = self.design.X @ self.random.beta
        return np.asarray(fixed + share * (self.linear - fixed))

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.random.sigma

    def epoch(self, number: int) -> float:
        """See :meth:`Member.epoch`; the loss is the mean squared error."""
        loss, f = self.train_networks(number, self.send((self.y - self._known(number)) / self.scale))
        self.f = self.scale * f
        self._solve()
        return loss * self.scale**2

    def held_out_loss(self, rows: NDArray[np.intp]) -> tuple[float, float]:
        """Weighted squared errors of ``f + X beta + Z b`` at some rows; b is zero for levels not learnt from."""
        squares = (self.y[rows] - self.f[rows] - self.linear[rows]) ** 2
        weights = self.design.weights
        if weights is None:
            return float(squares.sum()), len(rows)
        return float(weights[rows] @ squares), float(weights[rows].sum())

    @staticmethod
    def combine(rows: float, levels: float, held: Split) -> float:
        """The geometric mean, weighted by the numbers of rows and of levels held out: as in a Gaussian log-likelihood.

        Examples
        --------
        >>> import numpy as np
        >>> held = Split(np.zeros(4, dtype=np.intp), np.array([False, False, True, True]), n_levels=2)
        >>> round(LinearMember.combine(1.0, 4.0, held), 6)
        2.0
        """
        parts = parts_held_out(rows, levels, held)
        if not parts:
            return float("nan")
        smallest = float(np.finfo(np.float64).tiny)
        logs = [np.log(max(value, smallest)) for value, _ in parts]
        return float(np.exp(np.average(logs, weights=[count for _, count in parts])))


def new_members(
    design: Design,
    REML: bool,
    control: Control,
    training: Training,
    specs: tuple[NetSpec, ...],
    held: Split,
) -> list[LinearMember]:
    """Fresh networks for every member, with the random part of its rows."""
    import torch

    from pylmernn.training.loop import Trainer, device_for

    weights = None
    if design.weights is not None:
        weights = torch.from_numpy(design.weights.astype(np.float32)).to(device_for(control.device))
    parameters = sum(spec.n_parameters for spec in specs)
    members = []
    for fresh in fresh_networks(design, specs, training, held, control.device):
        random = RandomPart(some_rows(design, fresh.rows), REML, control.device, parameters)
        trainer = Trainer(fresh.modules, fresh.features, fresh.rows, training, fresh.generator, weights)
        members.append(LinearMember(design, random, trainer, fresh.rows))
    return members
