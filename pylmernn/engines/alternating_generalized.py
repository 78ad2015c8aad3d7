"""Method ``"alternating"`` for generalized models: networks in the linear predictor, random effects integrated out.

Between two epochs of ordinary mini-batch training, theta, beta, the dispersion and the posterior of b are found on all
rows learnt from, given f (:mod:`pylmernn.engines.generalizedpart`). The loss of the networks is what the EM algorithm
maximizes over f, minus the expected log-density of each row under the posterior of its random part,

    -2 sum_i E[log f(y_i | offset_i + x_i'beta + f(x_i) + z_i'b) | y],

by quadrature over that one-dimensional distribution; at the current f its gradient is that of the marginal likelihood.
The rest is as for linear models (:mod:`pylmernn.engines.alternating`): members are cross-fitted where rows are few, an
epoch is chosen by the predictive density of held-out rows and levels, b comes in over the first half of the epochs, and
in the end the model given f is estimated on all rows by maximum likelihood.

Laplace's approximation understates variances where levels have few binary rows: with two crossed factors of variance 1
and four rows a level by 40%. One factor then has quadrature; several factors of a logistic model are sampled in the
last step, as by method "mcem".
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import pirls
from pylmernn.engines.alternating import RISE
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import (
    Callback,
    Fresh,
    Member,
    fitted_networks,
    fresh_networks,
    held_out,
    settle,
    some_rows,
    train,
    with_networks,
)
from pylmernn.engines.generalizedpart import GeneralizedPart, final_nodes, only_width
from pylmernn.engines.mcem_estimates import estimates_of
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.families import Family
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.networks import NetSpec, specify
from pylmernn.training.holdout import Split
from pylmernn.training.options import GENERALIZED_DECAY, Training

FloatArray = NDArray[np.float64]

CRITERION = "mean deviance"
FEW_TRIALS = 30  # a level, below which Laplace's approximation is not good enough


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callback | None = None,
) -> GeneralizedEstimates:
    """Estimate a generalized linear mixed model with networks in its linear predictor.

    Parameters
    ----------
    design : Design
        With at least one network in ``nets``.
    family : Family
    nAGQ : int, default 1
        Of the last step, where f is known; 1 leaves the choice open: 9, 5 or 3 nodes a dimension for one grouping
        factor of one, two or three columns; else sampling where levels have few binary rows, and Laplace's
        approximation where they have many.
    control : Control, optional
        ``control.training`` says how to train, ``control.device`` where.
    callback : callable, optional
        Told of each epoch and its held-out mean deviance.

    Returns
    -------
    GeneralizedEstimates
        Given the networks, which are in ``networks``.

    Raises
    ------
    ValueError
        For an option of a network that does not exist, or where the loss is not finite in the first epoch.
    """
    control = control or Control()
    specs = tuple(specify(net) for net in design.nets)
    training = settle(control.training, design, specs, GENERALIZED_DECAY)
    held = held_out(design, training)
    members = new_members(design, family, control, training, specs, held)
    best, stopped = train(members, held, training, callback)
    networks = fitted_networks(design, specs, members, held, best, CRITERION, family.absorbs_constant)
    given = dataclasses.replace(with_networks(design, networks.fitted), nets=())
    if nAGQ == 1 and laplace_is_biased(given, family):
        found = estimates_of(design, family, 1, networks, None, nAGQ, sized(control, given, family))
        assert isinstance(found, GeneralizedEstimates)
        estimates = found
    else:
        estimates = pirls.fit(given, family, final_nodes(design, nAGQ), control)
    if stopped:
        message = f"{stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="alternating", networks=networks)


def laplace_is_biased(design: Design, family: Family) -> bool:
    """Whether a logistic model of several factors has a factor with few trials a level."""
    if str(family) != "binomial(logit)" or only_width(design) > 0:
        return False
    weights = np.ones(design.n) if design.weights is None else design.weights
    if (weights != np.rint(weights)).any():
        return False
    return float(weights.sum()) / max(term.n_levels for term in design.random) < FEW_TRIALS


def sized(control: Control, design: Design, family: Family) -> Control:
    """The settings with those of sampling filled in."""
    from pylmernn.engines.sampledpart import sampler_for

    sampler = sampler_for(family, design, control.sampling)
    return dataclasses.replace(control, sampling=control.sampling.sized(design.n, sampler))


class GeneralizedMember(Member):
    """One set of networks in training on the expected log-density, with the random part of its rows.

    Parameters
    ----------
    design : Design
        Of all rows.
    family : Family
    fresh : Fresh
        Networks and the rows to learn from.
    training : Training
        Sized settings.
    part : GeneralizedPart
    """

    def __init__(self, design: Design, family: Family, fresh: Fresh, training: Training, part: GeneralizedPart) -> None:
        from pylmernn.training.loop import Trainer

        super().__init__()
        self.design, self.family, self.rows, self.part = design, family, fresh.rows, part
        self.weights = np.ones(design.n) if design.weights is None else design.weights
        self.trainer = Trainer(fresh.modules, fresh.features, fresh.rows, training, fresh.generator, loss=self.loss)
        assert training.epochs is not None
        self.rise = max(1.0, RISE * training.epochs)
        self._y = self.send(design.y)
        self._w = self.send(self.weights / self.weights.mean())
        self.f = np.zeros(design.n)
        self.part.update(self.f)

    @property
    def sigma(self) -> float:
        """Standard deviation of the first random effects."""
        return self.part.sigma

    def loss(self, output, y, weights, values, shares):  # type: ignore[no-untyped-def]
        """Minus twice the expected log-density of each row (m,); values and shares (m, K) are nodes of its shift."""
        import torch

        phi = self.part.phi
        if isinstance(phi, np.ndarray):
            phi = torch.as_tensor(phi, dtype=output.dtype, device=output.device)
        eta = output[:, None] + values
        return -2.0 * (shares * self.family.density(y[:, None], weights[:, None], eta, phi)).sum(dim=1)

    def epoch(self, number: int) -> float:
        """See :meth:`Member.epoch`; the loss is the mean expected deviance, but for constants."""
        share = min(1.0, (number - 1) / self.rise)
        nodes = self.part.nodes
        values = self.part.fixed[:, None] + share * nodes.values
        loss, self.f = self.train_networks(number, self._y, self._w, self.send(values), self.send(nodes.weights))
        try:
            self.part.update(self.f)
        except np.linalg.LinAlgError as error:
            raise FloatingPointError(f"the random effects could not be found in epoch {number} ({error})") from None
        return loss

    def held_out_loss(self, rows: NDArray[np.intp]) -> tuple[float, float]:
        """Minus twice the log predictive densities of some rows, their random part integrated out."""
        if not len(rows):
            return 0.0, 0.0
        nodes = self.part.nodes
        eta = (self.f + self.part.fixed)[rows, None] + nodes.values[rows]
        logs = np.stack(
            [self.family.step(self.design.y[rows], self.weights[rows], e, self.part.phi).loglik for e in eta.T], axis=1
        )
        top = logs.max(axis=1)
        density = top + np.log((nodes.weights[rows] * np.exp(logs - top[:, None])).sum(axis=1))
        return float(-2.0 * density.sum()), float(self.weights[rows].sum())


def new_members(
    design: Design,
    family: Family,
    control: Control,
    training: Training,
    specs: tuple[NetSpec, ...],
    held: Split,
) -> list[GeneralizedMember]:
    """Fresh networks for every member, with the random part of its rows."""
    parameters = sum(spec.n_parameters for spec in specs)
    members = []
    for fresh in fresh_networks(design, specs, training, held, control.device):
        learned = some_rows(design, fresh.rows)
        _check_learned(learned)
        part = GeneralizedPart(design, fresh.rows, learned, family, control.device, parameters)
        members.append(GeneralizedMember(design, family, fresh, training, part))
    return members


def _check_learned(learned: Design) -> None:
    """Raise DesignError where the rows that a member learns from hold one value of the response only."""
    if learned.y.min() == learned.y.max():
        raise DesignError(
            f"the response '{learned.response}' has one value in the rows that networks learn from: set folds=0 and "
            "validation=0 in Training, or give more rows of the rare class."
        )
