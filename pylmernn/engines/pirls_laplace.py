"""Laplace's approximation of a generalized linear mixed model, with its exact gradient.

With u the conditional modes (:mod:`pylmernn.engines.pirls_modes`) and W the curvature weights of the family,

    -2 log L ~ -2 sum_i log f(y_i | eta_i) + |u|^2 + log |Lambda' Z' W Z Lambda + I|

The first two terms are stationary in u, the determinant is not: the modes move with the parameters, and the chain
through them is closed by one adjoint solve. With ``h_i`` the diagonal of ``Z Lambda M^-1 Lambda' Z'``,
``c_i = h_i dw_i/deta_i``, V = -l'', ``(Lambda' Z' V Z Lambda + I) a = Lambda' Z' c`` and ``r = Z Lambda a``, the
gradient is ``-2 l' + c - V r`` along the direct change of eta, plus ``2 Z'W Z Lambda M^-1`` and ``Z' l' a'`` in Lambda.
For ``nAGQ=0``, where beta minimizes the penalized deviance with u, the adjoint solve covers beta too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.pirls_modes import Modes, Observations, Parts, solve_fixed, stack
from pylmernn.engines.pirls_system import ReweightedSystem
from pylmernn.engines.pls import Columns, DirectElimination, Parameter
from pylmernn.families.family import Dispersion

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Slopes:
    """Derivatives of the objective.

    Attributes
    ----------
    templates : list of ndarray, shape (d_k, d_k)
        In each entry of each template.
    beta : ndarray, shape (p,)
    phi : ndarray, shape (k,)
        In the dispersion; k is 0 for families without.
    """

    templates: Parts
    beta: FloatArray
    phi: FloatArray


@dataclass(frozen=True)
class Curvature:
    """What the search's Hessian is made of: derivatives of the working linear mixed model in its parameters.

    Attributes
    ----------
    theta : ndarray, shape (m, m)
        Average information.
    beta : ndarray, shape (p, p)
        ``2 X' V^-1 X``.
    mixed : ndarray, shape (p, m)
    phi : ndarray, shape (k, k)
        What the random effects take from the information on the dispersion.
    beta_phi : ndarray, shape (p, k)
    """

    theta: FloatArray
    beta: FloatArray
    mixed: FloatArray
    phi: FloatArray
    beta_phi: FloatArray


def laplace_value(
    system: ReweightedSystem, data: Observations, templates: Sequence[FloatArray], modes: Modes, phi: Dispersion
) -> tuple[float, DirectElimination, FloatArray, FloatArray]:
    """-2 log-likelihood at the modes; also the elimination and the weights (n,) with their derivatives (n,)."""
    weights, slope = data.curvature(modes.eta, phi)
    if not np.isfinite(weights.sum()):
        raise np.linalg.LinAlgError("the curvature of the log-likelihood is not finite")
    system.reweight(weights, with_X=True)
    elimination = DirectElimination(system, templates)
    loglik = float(modes.step.loglik.sum()) + data.constant
    value = -2.0 * loglik + modes.ussq + elimination.log_determinant
    if not np.isfinite(value):
        raise np.linalg.LinAlgError("Laplace's approximation is not finite")
    return value, elimination, weights, slope


def laplace_derivatives(
    system: ReweightedSystem,
    data: Observations,
    elimination: DirectElimination,
    modes: Modes,
    weights: FloatArray,
    slope: FloatArray,
    phi: Dispersion,
    joint: bool,
    parameters: Sequence[Parameter],
) -> tuple[Slopes, Curvature]:
    """Gradient and approximate Hessian after :func:`laplace_value`; ``joint`` as in ``find_modes``."""
    templates, score = elimination.templates, modes.step.score
    several = bool(system.levels.sizes)
    inverse = system.factor.inverse_cells() if several else None
    information = elimination.information() if inverse is None else elimination.information_of(inverse)
    K = None if inverse is None else system.schur.scale(templates[1:], inverse, transpose=False)
    h = system.leverages(elimination.G, K)
    by = data.by_dispersion(modes.eta, phi)
    curvature = working_curvature(system, elimination, modes, information, parameters, by.score)
    c = h * slope
    V = weights
    if not data.family.exact:
        V = modes.step.observed
        system.reweight(V, with_X=joint)
        elimination = DirectElimination(system, templates)
    r = _adjoint(system, elimination, c, joint)
    rest = c - V * r
    a = [L.T @ part for L, part in zip(templates, system.by_level(rest), strict=True)]
    e = rest - 2.0 * score
    slopes = [
        Ze @ u.T + Zs @ part.T + 2.0 * E @ L
        for Ze, u, Zs, part, E, L in zip(
            system.by_level(e), modes.u, system.by_level(score), a, information, templates, strict=True
        )
    ]
    in_phi = -2.0 * by.loglik.sum(axis=1) + by.weight @ h + by.score @ r
    return Slopes(slopes, system.X.T @ e, in_phi), curvature


def _adjoint(system: ReweightedSystem, elimination: DirectElimination, c: FloatArray, joint: bool) -> FloatArray:
    """``r = Z Lambda a`` (n,), and ``+ X alpha`` where beta moves with the modes."""
    T = system.columns(system.by_level(c))
    if not joint:
        return system.rows_of(system.factors(elimination.modes(T)))
    modes = elimination.modes(stack(system.R, T))
    V = np.append(system.products.RR, (system.X.T @ c)[:, None], axis=1) - system.R.dot(modes)
    alpha = solve_fixed(V[:, :-1], V[:, -1])
    found = modes.combine(np.append(-alpha, 1.0)[:, None])
    return system.rows_of(system.factors(found)) + system.X @ alpha


def working_curvature(
    system: ReweightedSystem,
    elimination: DirectElimination,
    modes: Modes,
    information: Sequence[FloatArray],
    parameters: Sequence[Parameter],
    score_by_phi: FloatArray,
) -> Curvature:
    """Average information of the linear mixed model of the last step, with its scale known to be 1.

    ``score_by_phi`` (k, n) is the derivative of the scores in the dispersion.
    """
    scores = system.by_level(modes.step.score)
    m = len(parameters)
    parts = [np.zeros((v.shape[0], m, v.shape[1])) for v in scores]
    templates = elimination.templates
    for i, at in enumerate(parameters):
        v, column = scores[at.block], templates[at.block][:, at.column]
        parts[at.block][at.row, i] += column @ v
        parts[at.block][:, i] += np.outer(column, v[at.row])
    rest = [part.transpose(2, 0, 1).reshape(-1, m) for part in parts[1:]]
    e = Columns(parts[0], np.concatenate(rest) if rest else np.empty((0, m)))
    t = system.multiply(e)
    solved = elimination.modes(stack(system.R, t))
    p = system.p
    of_X = Columns(solved.first[:, :p], solved.rest[:, :p])
    of_t = Columns(solved.first[:, p:], solved.rest[:, p:])
    H = e.dot(t) - t.dot(of_t)
    slopes = [E - v @ v.T for E, v in zip(information, scores, strict=True)]
    for i, one in enumerate(parameters):
        for j, two in enumerate(parameters):
            if one.block == two.block and one.column == two.column:
                H[i, j] += 2.0 * slopes[one.block][one.row, two.row]
    fixed = 2.0 * (system.products.RR - system.R.dot(of_X))
    mixed = 2.0 * (system.R.dot(e) - system.R.dot(of_t))
    in_phi, beta_phi = dispersion_curvature(system, elimination, score_by_phi)
    return Curvature(0.5 * (H + H.T), fixed, mixed, in_phi, beta_phi)


def dispersion_curvature(
    system: ReweightedSystem, elimination: DirectElimination, score_by_phi: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``Curvature.phi`` (k, k) and ``beta_phi`` (p, k) from the derivatives (k, n) of the scores in the dispersion."""
    k = len(score_by_phi)
    if not k:
        return np.zeros((0, 0)), np.zeros((system.p, 0))
    by_level = [system.by_level_of(score_by_phi.T, factor) for factor in range(len(system.groups))]
    rest = [part.transpose(2, 0, 1).reshape(-1, k) for part in by_level[1:]]
    G = Columns(by_level[0], np.concatenate(rest) if rest else np.empty((0, k)))
    of_G = elimination.modes(G)
    return -2.0 * G.dot(of_G), 2.0 * (system.R.dot(of_G) - system.X.T @ score_by_phi.T)
