"""Variances of the estimates of a generalized linear mixed model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.barvariances import mode_variances
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

STEP = 1e-4  # of the differences of gradients, in working columns


def problem_at(design: Design, estimates: GeneralizedEstimates) -> tuple[GeneralizedProblem, FloatArray]:
    """The problem of a fit and the point of its search, modes warm."""
    assert estimates.family is not None
    problem = GeneralizedProblem(design, estimates.family, estimates.nAGQ)
    return problem, problem.point(estimates.theta, estimates.beta, estimates.phi)


def fixed_covariance(design: Design, estimates: GeneralizedEstimates) -> FloatArray:
    """Covariance (p, p) of beta: the inverse of half the Hessian of -2 log L in all parameters, as glmer's.

    Parameters on the boundary are left out of the Hessian. Where it is not positive definite, the variances are taken
    as known instead.

    Parameters
    ----------
    design : Design
    estimates : GeneralizedEstimates
    """
    problem, x = problem_at(design, estimates)
    m, p = problem.n_theta, design.p
    covariance = _search_covariance(problem, x)
    if covariance is None:
        return estimates.unscaled_vcov
    T = problem.working.transform
    return np.asarray(T @ covariance[m : m + p, m : m + p] @ T.T)


def dispersion_covariance(design: Design, estimates: GeneralizedEstimates) -> FloatArray:
    """Covariance (k, k) of the dispersion, or of the thresholds of an ordinal model, as in :func:`fixed_covariance`.

    All NaN where the Hessian is not positive definite.

    Parameters
    ----------
    design : Design
    estimates : GeneralizedEstimates
    """
    problem, x = problem_at(design, estimates)
    m, p = problem.n_theta, 0 if problem.joint else design.p
    phi = problem.phi(x)
    chain = problem.family.chain(phi)
    covariance = _search_covariance(problem, x)
    if covariance is None:
        return np.full(chain.shape, np.nan)
    jacobian = np.zeros((len(chain), len(x)))
    jacobian[:, m + p :] = chain
    base = problem.constant(np.zeros(design.p))
    for j, unit in enumerate(np.eye(design.p)[:p]):
        one = problem.constant(unit) - base
        jacobian[:, m + j] = problem.family.shifted(np.zeros(len(chain)), -one)
    return np.asarray(jacobian @ covariance @ jacobian.T)


def _search_covariance(problem: GeneralizedProblem, x: FloatArray) -> FloatArray | None:
    """Inverse of half the Hessian at a point of the search, zero for parameters on the boundary; None without one."""
    m = problem.n_theta
    free = np.flatnonzero(np.append(np.abs(x[:m]) > 1e-8, np.ones(len(x) - m, dtype=bool)))
    H = np.empty((len(free), len(free)))
    try:
        for row, j in enumerate(free):
            step = np.zeros(len(x))
            step[j] = STEP * max(1.0, abs(x[j])) if j < m else STEP
            above, below = (problem.search(x + sign * step)[1][free] for sign in (1.0, -1.0))
            H[row] = (above - below) / (2.0 * step[j])
        half = np.linalg.inv(np.linalg.cholesky(0.25 * (H + H.T)))
    except np.linalg.LinAlgError:
        return None
    covariance = np.zeros((len(x), len(x)))
    covariance[np.ix_(free, free)] = half.T @ half
    return covariance


def mode_variance(design: Design, estimates: GeneralizedEstimates) -> tuple[FloatArray, ...]:
    """Variances (q_k, d_k, d_k) of the normal approximation of each level's random effects, parameters known.

    Parameters
    ----------
    design : Design
    estimates : GeneralizedEstimates
    """
    problem, x = problem_at(design, estimates)
    m = problem.n_theta
    at = problem.evaluate(problem.templates(x), x[m : m + design.p], problem.phi(x))
    by_factor = mode_variances(problem.system, at.elimination)
    out = []
    for index in range(len(design.random)):
        columns = problem.plan.columns(index)
        block = by_factor[problem.plan.factor_of(index)][columns, columns].transpose(2, 0, 1)
        back = np.linalg.inv(problem.transforms[index])  # b = T^-1 b_working
        out.append(np.ascontiguousarray(back @ block @ back.T))
    return tuple(out)
