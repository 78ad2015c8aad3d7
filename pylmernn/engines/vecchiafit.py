"""Estimates, variances and predictions of one field over many locations, by Vecchia's approximation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance.kernels import correlation
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.fields import nearest
from pylmernn.engines.newton import minimize
from pylmernn.engines.vecchia import CHUNK, VecchiaProblem
from pylmernn.formula.design import Design, NewRows

FloatArray = NDArray[np.float64]


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Estimate a model with one ``gp()`` and no bars; arguments as in :func:`pylmernn.engines.profiled.fit`.

    Raises
    ------
    ValueError
        Where the design has other random terms, or ``start`` is not (tau, length-scale).
    """
    control = control or Control()
    problem = VecchiaProblem(design, REML, seed=control.seed)
    begun = time.perf_counter()
    x = problem.start(control) if start is None else to_search(problem, start)
    found = minimize(problem.search, x, control.tolerance, control.max_evaluations, callback)
    x = np.array([0.0 if abs(found.x[0]) < control.singular_tolerance else abs(found.x[0]), found.x[1]])
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(x == 0.0, 0.0, found.gradient),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    return estimates_at(problem, x, convergence)


def to_search(problem: VecchiaProblem, theta: FloatArray) -> FloatArray:
    """X = (tau, z) from theta = (tau, length-scale)."""
    theta = np.asarray(theta, dtype=np.float64)
    if theta.shape != (2,) or not theta[1] > 0:
        raise ValueError("start of a gp() is its relative standard deviation and its length-scale, which is positive.")
    return np.array([theta[0], problem.field.z(theta[1])])


def estimates_at(problem: VecchiaProblem, x: FloatArray, convergence: Convergence) -> Estimates:
    """The answers at x."""
    design, n = problem.design, problem.design.n
    at = problem.at(x)
    answers = problem.answers(at)
    T = problem.working.transform
    half = np.linalg.solve(answers.RX, T.T)
    ussq = float((answers.field * answers.score).sum())
    lscale = problem.field.lscale(x[1])
    return Estimates(
        method=problem.method,
        REML=problem.REML,
        theta=np.array([x[0], lscale]),
        beta=problem.working.beta0 + T @ answers.beta,
        sigma=float(np.sqrt(answers.pwrss / (n - (design.p if problem.REML else 0)))),
        b=(answers.field,),
        u=(answers.score,),
        unscaled_vcov=half.T @ half,
        objective=problem.search_value(x),
        ldL2=float(np.log(at[1].F).sum() + np.log(problem.D).sum()),
        ldRX2=float(2.0 * np.log(np.diagonal(answers.RX)).sum()) - 2.0 * problem.working.log_determinant,
        pwrss=answers.pwrss,
        wrss=answers.pwrss - ussq,
        ussq=ussq,
        singular=x[0] == 0.0 or problem.field.at_an_end(lscale),
        convergence=convergence,
    )


def conditional_variance(design: Design, estimates: Estimates) -> tuple[FloatArray, ...]:
    """``Var(b | y)`` of each location, (q, 1, 1), given the nearest locations with rows; a little on the high side."""
    problem = VecchiaProblem(design, estimates.REML)
    variance, _ = _local(problem, estimates.theta, problem.field.locations)
    return (np.asarray(estimates.sigma**2 * variance)[:, None, None],)


def prediction_variance(
    design: Design, estimates: Estimates, rows: NewRows, include: Sequence[bool] | None = None
) -> FloatArray:
    """As :func:`pylmernn.engines.variances.prediction_variance`, given the nearest locations with rows."""
    problem = VecchiaProblem(design, estimates.REML)
    x = rows.X @ problem.working.transform
    variance = np.zeros(len(x))
    if include is None or include[0]:
        new = rows.random[0]
        places = problem.field.locations[new.codes] if new.locations is None else new.locations
        variance, kriged = _local(problem, estimates.theta, places)
        x = x - kriged[:, : design.p]
    RX = problem.answers(problem.at(to_search(problem, estimates.theta))).RX
    half = np.linalg.solve(RX, x.T)
    return np.asarray(estimates.sigma**2 * (variance + (half**2).sum(axis=0)))


def _local(problem: VecchiaProblem, theta: FloatArray, places: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Relative variance of the field at places (r, k) given their nearest locations, and the means t kriged there."""
    m = min(problem.neighbours.shape[1] + 1, len(problem.D))
    near = nearest(problem.points, places, m)[1]
    variance, kriged = np.empty(len(places)), np.empty((len(places), problem.t.shape[1]))
    cov, (tau, lscale) = problem.field.cov, theta
    for start in range(0, len(places), CHUNK):
        part = slice(start, start + CHUNK)
        points = problem.points[near[part]]
        gaps = points[:, :, None, :] - points[:, None, :, :]
        S = tau**2 * correlation(cov, np.sqrt(np.einsum("cijk,cijk->cij", gaps, gaps)), lscale)
        np.einsum("cii->ci", S)[...] += 1.0 / problem.D[near[part]]
        away = points - places[part, None, :]
        c = tau**2 * correlation(cov, np.sqrt(np.einsum("cik,cik->ci", away, away)), lscale)
        weights = np.linalg.solve(S, c[:, :, None])[:, :, 0]
        variance[part] = tau**2 - np.einsum("ci,ci->c", c, weights)
        kriged[part] = np.einsum("ci,cij->cj", weights, problem.t[near[part]])
    return variance, kriged
