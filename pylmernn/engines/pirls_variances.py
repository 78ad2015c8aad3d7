"""Variances of the estimates of a generalized linear mixed model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.barvariances import mode_variances
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.working import to_working
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

STEP = 1e-4  # of the differences of gradients, in working columns


def problem_at(design: Design, estimates: GeneralizedEstimates) -> tuple[GeneralizedProblem, FloatArray]:
    """The problem of a fit and the point of its search, modes warm."""
    assert estimates.family is not None
    problem = GeneralizedProblem(design, estimates.family, estimates.nAGQ)
    parts = [to_working(design.random, problem.transforms, estimates.theta)]
    beta = problem.working_beta(estimates.beta)
    if not problem.joint:
        parts.append(beta)
    parts.append(estimates.family.unconstrained(estimates.phi))
    problem.begin_at(beta)
    return problem, np.concatenate(parts)


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
    free = np.flatnonzero(np.append(np.abs(x[:m]) > 1e-8, np.ones(len(x) - m, dtype=bool)))
    H = np.empty((len(free), len(free)))
    for row, j in enumerate(free):
        step = np.zeros(len(x))
        step[j] = STEP * max(1.0, abs(x[j])) if j < m else STEP
        above, below = (problem.search(x + sign * step)[1][free] for sign in (1.0, -1.0))
        H[row] = (above - below) / (2.0 * step[j])
    try:
        half = np.linalg.inv(np.linalg.cholesky(0.25 * (H + H.T)))
    except np.linalg.LinAlgError:
        return estimates.unscaled_vcov
    of_beta = np.flatnonzero((free >= m) & (free < m + p))
    covariance = (half.T @ half)[np.ix_(of_beta, of_beta)]
    T = problem.working.transform
    return np.asarray(T @ covariance @ T.T)


def mode_variance(design: Design, estimates: GeneralizedEstimates) -> tuple[FloatArray, ...]:
    """Variances (q_k, d_k, d_k) of the normal approximation of each level's random effects, parameters known.

    Parameters
    ----------
    design : Design
    estimates : GeneralizedEstimates
    """
    problem, x = problem_at(design, estimates)
    m = problem.n_theta
    at = problem.evaluate(problem.templates(x), x[m : m + design.p], estimates.phi)
    by_factor = mode_variances(problem.system, at.elimination)
    out = []
    for index in range(len(design.random)):
        columns = problem.plan.columns(index)
        block = by_factor[problem.plan.factor_of(index)][columns, columns].transpose(2, 0, 1)
        back = np.linalg.inv(problem.transforms[index])  # b = T^-1 b_working
        out.append(np.ascontiguousarray(back @ block @ back.T))
    return tuple(out)
