"""Penalized iteratively reweighted least squares: the conditional modes of a generalized linear mixed model.

For given relative covariance factors Lambda the modes minimize the penalized deviance
``-2 sum_i log f(y_i | eta_i) + |u|^2`` with ``eta = offset + X beta + Z Lambda u``, in u alone or, for ``nAGQ=0``, in u
and beta together. Each step is a weighted penalized least-squares problem (Bates et al. 2015, section 3), shortened
until it improves the deviance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.pirls_system import ReweightedSystem
from pylmernn.engines.pls import Columns, DirectElimination
from pylmernn.families.family import ByDispersion, Dispersion, Family, Step

FloatArray = NDArray[np.float64]
Parts = list[FloatArray]

MAX_STEPS = 100
NEWTON_DONE = 1e-9  # decrement before the last Newton step, which squares it
NEAR = 0.1  # decrement below which -l'' is tried although it has negative entries
SCORING_DONE = 1e-17  # the same where steps only converge linearly
NO_INFORMATION = 1e-14  # of a direction of beta, as a share of the best known one


@dataclass(frozen=True)
class Observations:
    """Responses under a family.

    Attributes
    ----------
    family : Family
    y, weights : ndarray, shape (n,)
    constant : float
        Of the log-likelihood.
    """

    family: Family
    y: FloatArray
    weights: FloatArray
    constant: float

    @classmethod
    def of(cls, family: Family, y: FloatArray, weights: FloatArray | None) -> Observations:
        """Rows without weights count once."""
        weights = np.ones(len(y)) if weights is None else weights
        return cls(family, y, weights, family.constant(y, weights))

    def step(self, eta: FloatArray, phi: Dispersion) -> Step:
        """See :meth:`Family.step`."""
        return self.family.step(self.y, self.weights, eta, phi)

    def curvature(self, eta: FloatArray, phi: Dispersion) -> tuple[FloatArray, FloatArray]:
        """See :meth:`Family.curvature`."""
        return self.family.curvature(self.y, self.weights, eta, phi)

    def by_dispersion(self, eta: FloatArray, phi: Dispersion) -> ByDispersion:
        """See :meth:`Family.by_dispersion`; (k, n) each, k = 0 for families without."""
        if not self.family.has_dispersion:
            none = np.empty((0, len(self.y)))
            return ByDispersion(none, none, none)
        by = self.family.by_dispersion(self.y, self.weights, eta, phi)
        return ByDispersion(np.atleast_2d(by.loglik), np.atleast_2d(by.score), np.atleast_2d(by.weight))

    def fisher(self, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Expected information (n,), always positive; see :meth:`Family.information`."""
        return self.family.information(self.y, self.weights, eta, phi)


@dataclass(frozen=True)
class Modes:
    """Where the penalized deviance is least.

    Attributes
    ----------
    u, b : list of ndarray, shape (d_k, q_k)
        Spherical modes and ``b = Lambda u`` of each factor, in working columns.
    beta : ndarray, shape (p,)
    eta : ndarray, shape (n,)
    step : Step
        Log-densities and their derivatives there.
    ussq : float
        Sum of squares of u.
    n_steps : int
    """

    u: Parts
    b: Parts
    beta: FloatArray
    eta: FloatArray
    step: Step
    ussq: float
    n_steps: int


def squares(parts: Sequence[FloatArray]) -> float:
    """Sum of squares of all entries."""
    return sum(float(np.vdot(part, part)) for part in parts)


def find_modes(
    system: ReweightedSystem,
    data: Observations,
    templates: Sequence[FloatArray],
    offset: FloatArray,
    beta: FloatArray,
    u: Sequence[FloatArray],
    phi: Dispersion,
    joint: bool,
) -> Modes:
    """Minimize the penalized deviance.

    Parameters
    ----------
    system : ReweightedSystem
    data : Observations
    templates : sequence of ndarray, shape (d_k, d_k)
    offset : ndarray, shape (n,)
    beta : ndarray, shape (p,)
        Fixed, or where to start if ``joint``.
    u : sequence of ndarray, shape (d_k, q_k)
        Where to start.
    phi : float, or ndarray of shape (k,)
    joint : bool
        Minimize in beta too.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where the deviance is not finite or the steps do not converge.
    """
    fixed = offset + system.X @ beta
    u = list(u)
    b = [L @ part for L, part in zip(templates, u, strict=True)]
    eta = fixed + system.rows_of(b)
    step = data.step(eta, phi)
    ussq = squares(u)
    value, decrement = -2.0 * float(step.loglik.sum()) + ussq, np.inf
    if not np.isfinite(value) and ussq > 0:
        return find_modes(system, data, templates, offset, beta, [np.zeros_like(part) for part in u], phi, joint)
    for number in range(1, MAX_STEPS + 1):
        if not np.isfinite(value):
            raise np.linalg.LinAlgError("the log-likelihood is not finite")
        here = (eta - offset, beta, u, b)
        move = _newton_move(system, templates, step, here, joint) if _is_concave(step) or decrement < NEAR else None
        newton = move is not None
        if move is None:
            weights = np.where(step.observed > 0, step.observed, data.fisher(eta, phi))
            move = _direction(system, templates, weights, step.score, *here, joint)
        decrement = _decrement(step, move, u)
        length = 1.0
        while True:
            new_u = [part + length * d for part, d in zip(u, move.u, strict=True)]
            new_eta = eta + length * move.eta
            new_step, new_ussq = data.step(new_eta, phi), squares(new_u)
            new_value = -2.0 * float(new_step.loglik.sum()) + new_ussq
            if new_value <= value + 1e-10 * abs(value) + 1e-12:
                break
            length *= 0.5
            if length < 1e-10:
                raise np.linalg.LinAlgError("penalized iteratively reweighted least squares did not improve")
        u, b = new_u, [part + length * d for part, d in zip(b, move.b, strict=True)]
        beta = beta + length * move.beta
        eta, step, value, ussq = new_eta, new_step, new_value, new_ussq
        if length == 1.0 and decrement < (NEWTON_DONE if newton else SCORING_DONE):
            return Modes(u, b, beta, eta, step, ussq, number)
    raise np.linalg.LinAlgError(f"penalized iteratively reweighted least squares took more than {MAX_STEPS} steps")


def _is_concave(step: Step) -> bool:
    return bool((step.observed >= 0).all())


def _decrement(step: Step, move: _Move, u: Parts) -> float:
    """What a step of full length promises, but for curvature: twice the decrease of the penalized deviance."""
    return float(step.score @ move.eta) - sum(float(np.vdot(a, c)) for a, c in zip(move.u, u, strict=True))


def _newton_move(
    system: ReweightedSystem,
    templates: Sequence[FloatArray],
    step: Step,
    here: tuple[FloatArray, FloatArray, Parts, Parts],
    joint: bool,
) -> _Move | None:
    """The step by -l'' itself; None where that has negative entries and the step is not one of descent."""
    try:
        move = _direction(system, templates, step.observed, step.score, *here, joint)
    except np.linalg.LinAlgError:
        if _is_concave(step):
            raise
        return None
    return move if _is_concave(step) or _decrement(step, move, here[2]) >= 0 else None


@dataclass(frozen=True)
class _Move:
    """A step: beta (p,), u and b (d_k, q_k) each, eta (n,)."""

    beta: FloatArray
    u: Parts
    b: Parts
    eta: FloatArray


def _direction(
    system: ReweightedSystem,
    templates: Sequence[FloatArray],
    weights: FloatArray,
    score: FloatArray,
    linear: FloatArray,
    beta: FloatArray,
    u: Parts,
    b: Parts,
    joint: bool,
) -> _Move:
    """Steps in beta, u, b and eta; ``linear`` (n,) is eta without its offset."""
    system.reweight(weights, with_X=joint)
    elimination = DirectElimination(system, templates)
    random = linear if joint else linear - system.X @ beta
    work = score + weights * random
    T = system.columns(system.by_level(work))
    new_beta = beta
    if joint:
        columns = stack(system.R, T)
        modes = elimination.modes(columns)
        right = np.append(system.products.RR, (system.X.T @ work)[:, None], axis=1)
        V = right - system.R.dot(modes)
        new_beta = beta + solve_fixed(V[:, :-1], V[:, -1] - V[:, :-1] @ beta)
        found = modes.combine(np.append(-new_beta, 1.0)[:, None])
    else:
        found = elimination.modes(T)
    new_b = system.factors(found)
    d_b = [new - old for new, old in zip(new_b, b, strict=True)]
    d_beta = new_beta - beta
    d_eta = system.rows_of(d_b)
    if joint:
        d_eta = d_eta + system.X @ d_beta
    left = system.by_level(score - weights * d_eta)
    d_u = [L.T @ part - old for L, part, old in zip(templates, left, u, strict=True)]
    return _Move(d_beta, d_u, d_b, d_eta)


def solve_fixed(V: FloatArray, B: FloatArray) -> FloatArray:
    """``V^-1 B`` for V = ``X' V^-1 X``, zero where rows carry no information any more, as after separation."""
    return np.asarray(np.linalg.lstsq(V, B, rcond=NO_INFORMATION)[0], dtype=np.float64)


def stack(one: Columns, two: Columns) -> Columns:
    """Columns side by side."""
    return Columns(np.concatenate([one.first, two.first], axis=1), np.concatenate([one.rest, two.rest], axis=1))
