"""Method ``"nme"``: parameters of a network that vary by group, ``y = offset + X beta + f(x; theta_bar + eta_i) + e``.

Woerner et al. (2023, eq. 1 and 2) with everything on the scale of -2 log-likelihood and with the posterior variance in
the step for Sigma, so that it neither collapses nor needs annealing. Between two epochs of Adam on theta_bar given
eta, f is linearised in eta at the modes, with derivatives J:

- eta_i moves to the mode of the linear mixed model of the working response (Gauss-Newton; Lindstrom & Bates 1990),
- ``Sigma := mean(eta_i eta_i' + H_i^-1)``, ``H_i = J_i'J_i / sigma^2 + Sigma^-1``, and sigma^2 alike (EM),
- the mean of eta over the groups moves into theta_bar, which changes no value (parameter expansion),
- beta solves least squares.

As in method "alternating", deviations come into the training of theta_bar from nothing to all in the first half of the
epochs, and the best epoch by held-out rows and groups is kept. The variances given theta_bar are estimated on all rows:
exactly, by the linear mixed model on the features of the last layer, where only that one varies; else by EM.

Up to 20,000 rows (``Training(folds=)``) networks of ``nn()`` with hidden layers are cross-fitted instead where the
last layer varies, :mod:`pylmernn.engines.nme_crossfit`, and where all of them vary that fit competes with the one
above, :mod:`pylmernn.engines.nme_deep`. Not so with diagonal covariances, other layers, or several bars. With
``Training(preset="faithful")`` the paper's own objective and annealing: :mod:`pylmernn.engines.nme_faithful`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines import nme_crossfit, nme_deep, nme_faithful
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme_exact import given_trunk
from pylmernn.engines.nme_loop import Callback as Callback
from pylmernn.engines.nme_loop import train as train
from pylmernn.engines.nme_members import Members
from pylmernn.engines.nme_model import Given, HeldOut, VaryingModel
from pylmernn.engines.nme_settle import given, settle
from pylmernn.formula.design import Design
from pylmernn.mean.networks import Networks
from pylmernn.mean.varying import Selected

if TYPE_CHECKING:
    from pylmernn.engines.nme_several import SeveralEstimates

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class VaryingEstimates:
    """A fitted network with parameters that vary by group.

    Attributes
    ----------
    method : str
    REML : bool
        Whether the variances are those of REML; never so where more than the last layer varies.
    beta : ndarray, shape (p,)
    fixed_covariance : ndarray, shape (p, p), or None
        Of beta, where it is known.
    sigma : float
    networks : Networks
        With theta_bar: one member; ``fitted`` is f at ``eta = 0``.
    selected : Selected
    effects : ndarray, shape (q, D)
        Posterior modes of eta.
    variances : ndarray, shape (q, D, D), or (q, D) where Sigma is diagonal or of reduced rank
        Posterior variances.
    factor : ndarray, shape (D, k) or (D,)
        L with ``Sigma = L L'``; k < D for reduced rank, a vector of standard deviations for a diagonal Sigma.
    fitted : ndarray, shape (n,)
        ``offset + X beta + f(x; theta_bar + eta_i)``.
    objective : float
        -2 log-likelihood or REML criterion given the network below what varies; of the linearised model where
        ``exact`` is False.
    exact : bool
    convergence : Convergence
    held_out : HeldOut, or None
        Which layers vary, where held-out rows have chosen.
    """

    method: str
    REML: bool
    beta: FloatArray
    fixed_covariance: FloatArray | None
    sigma: float
    networks: Networks
    selected: Selected
    effects: FloatArray
    variances: FloatArray
    factor: FloatArray
    fitted: FloatArray
    objective: float
    exact: bool
    convergence: Convergence
    held_out: HeldOut | None = None

    @property
    def prior_variances(self) -> FloatArray:
        """The diagonal of Sigma, (D,)."""
        return self.factor**2 if self.factor.ndim == 1 else np.asarray((self.factor**2).sum(axis=1))

    @property
    def n_variances(self) -> int:
        """Free parameters of Sigma."""
        if self.factor.ndim == 1:
            return len(self.factor)
        size, rank = int(self.factor.any(axis=1).sum()), self.factor.shape[1]
        rank = min(size, rank)
        return size * rank - rank * (rank - 1) // 2


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callback | None = None,
) -> VaryingEstimates | SeveralEstimates:
    """Estimate a model with a network that varies by group.

    Parameters
    ----------
    design : Design
        With one network, terms in ``varying``, and other bars or none: see :mod:`pylmernn.engines.nme_several`.
    REML, control, callback
        As in :func:`pylmernn.engines.alternating.fit`.
    start
        Not used.

    Raises
    ------
    DesignError
        For a design with other networks or random terms, or a parameter that the network has not.
    ValueError
        Where the loss is not finite in the first epoch.
    """
    if design.random or len(design.varying) > 1:
        from pylmernn.engines import nme_several  # it trains by this file

        return nme_several.fit(design, REML, control, start, callback)
    control = control or Control()
    begun = time.perf_counter()
    model = VaryingModel(design, control)
    if control.training.preset == "faithful":
        history, stopped = nme_faithful.train(model, control.training.epochs), ""
        chosen = 1 + int(np.argmin(history["loss"]))
        model.absorb_scale()
        found = given(model, model.portions(torch.arange(design.n)))
    else:
        found, chosen, history, stopped = estimated(model, REML, control, callback)
    model.absorb_bias()
    offset = 0.0 if design.offset is None else design.offset
    message = "; ".join(text for text in (stopped, found.message) if text)
    seconds = time.perf_counter() - begun
    return VaryingEstimates(
        method="nme",
        REML=REML and found.exact,
        beta=model.beta.numpy(),
        fixed_covariance=found.fixed_covariance,
        sigma=found.sigma,
        networks=model.networks(chosen, history),
        selected=model.selected,
        effects=found.effects,
        variances=found.variances,
        factor=found.factor,
        fitted=model.mean() + offset,
        objective=found.objective,
        exact=found.exact,
        convergence=Convergence(found.converged and not stopped, np.zeros(0), len(history["epoch"]), message, seconds),
        held_out=found.held_out,
    )


def estimated(
    model: VaryingModel, REML: bool, control: Control, callback: Callback | None
) -> tuple[Given, int, dict[str, list[float]], str]:
    """Train and settle a model; returns what is estimated, the epoch, the history and why training stopped early."""
    last = model if nme_crossfit.offered(model) else nme_deep.last_model(model, lambda own: VaryingModel(own, control))
    if last is None:
        best, history, stopped = train(model, callback)
        model.restore(best.state)
        model.absorb_scale()
        found = given_trunk(model, REML, control) if model.selected.linear else settle(model)
        return found, best.epoch, history, stopped
    members = Members(last)
    best, history, stopped = train(members, callback)
    chosen = best.epoch if members.restore(best.state, not stopped) else len(history["epoch"])
    solver = nme_crossfit.LinearSolver(REML, control)
    if last is model:
        model.held = nme_crossfit.nothing_held(model)
        return nme_crossfit.finish(members, solver, not stopped), chosen, history, stopped
    deep, deep_history, deep_stopped = train(model, callback)
    model.restore(deep.state)
    found, is_deep = nme_deep.finish_deep(model, members, solver, not stopped)
    model.held = model.held if is_deep else nme_crossfit.nothing_held(model)
    both = "; ".join(text for text in (stopped, deep_stopped) if text)
    return (found, deep.epoch, deep_history, both) if is_deep else (found, chosen, history, both)
