"""Method ``"pirls"``: generalized linear mixed models by maximum likelihood.

The log-likelihood is Laplace's approximation, or adaptive Gauss-Hermite quadrature where there is one grouping factor.
Theta, beta and the dispersion are found together by Newton's method on the exact gradient, with the average
information of the working linear mixed model for curvature; theta is unconstrained while searching, as in
:mod:`pylmernn.engines.profiled`. For ``nAGQ=0`` beta minimizes the penalized deviance instead, as in lme4.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import diagonal_positions, split_theta, theta_sizes
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.newton import minimize
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.working import to_user, to_working
from pylmernn.families.family import Dispersion, Family
from pylmernn.formula.design import Design, DesignError

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class GeneralizedEstimates(Estimates):
    """Estimates of a generalized linear mixed model; ``b = Lambda u`` without a scale, so sigma is 1.

    Attributes
    ----------
    family : Family
    phi : float, or ndarray of shape (k,)
        Dispersion; 1 for families without, the thresholds of an ordinal model.
    nAGQ : int
    eta : ndarray, shape (n,)
        Linear predictors at the modes.
    mode_variances : tuple of ndarray, shape (q_k, d_k, d_k), or None
        Posterior covariances of each level's effects where they were sampled; None where the normal approximation at
        the modes is meant.
    draws : Draws or None
        What was sampled.
    """

    family: Family | None = None
    phi: Dispersion = 1.0
    nAGQ: int = 1
    eta: FloatArray | None = None
    mode_variances: tuple[FloatArray, ...] | None = None
    draws: Draws | None = None


def devfun(design: Design, family: Family, nAGQ: int = 1) -> Callable[..., float]:
    """-2 log-likelihood as a function of theta, beta and the dispersion, as lme4's ``mkGlmerDevfun`` has it.

    Parameters
    ----------
    design : Design
    family : Family
    nAGQ : int, default 1
        For 0 beta is not read.

    Returns
    -------
    callable
        ``(theta (m,), beta (p,), phi=1.0) -> float``. For nAGQ=0 thresholds of an ordinal model are those of centred
        columns.
    """
    problem = GeneralizedProblem(design, family, nAGQ)
    size = sum(theta_sizes(design.random))

    def objective(theta: FloatArray, beta: FloatArray | None = None, phi: Dispersion = 1.0) -> float:
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (size,):
            raise ValueError(f"theta has shape {theta.shape}; the model has {size} variance parameters.")
        given = problem.working_beta(np.zeros(design.p) if beta is None else beta)
        shifted = family.shifted(phi, problem.constant(given))
        return problem.evaluate(problem.user_templates(theta), given, shifted).value

    return objective


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callable[[int, float], None] | None = None,
    begin: tuple[FloatArray, FloatArray, Dispersion] | None = None,
) -> GeneralizedEstimates:
    """Estimate a generalized linear mixed model.

    Parameters
    ----------
    design : Design
    family : Family
    nAGQ : int, default 1
        Nodes of adaptive quadrature in each dimension; 1 is Laplace's approximation, 0 also finds beta with the modes.
    control : Control, optional
    callback : callable, optional
        Called after each evaluation with their number and the objective.
    begin : tuple of theta (m,), beta (p,) and dispersion, optional
        Where the search begins, by default chosen from the data.

    Returns
    -------
    GeneralizedEstimates
    """
    control = control or Control()
    begun = time.perf_counter()
    problem = GeneralizedProblem(design, family, nAGQ, control.device)
    several = problem.system.levels.n_columns > control.dense_limit
    largest = problem.system.largest_component() if several else 0
    if largest > control.dense_limit:
        raise DesignError(
            f"{largest} random effects hang together after the first factor is eliminated, more than the "
            f"{control.dense_limit} of control.dense_limit: leave a term out, or raise the limit if memory allows."
        )
    start = problem.start() if begin is None else problem.point(*begin)
    found = minimize(problem.search, start, control.tolerance, control.max_evaluations, callback, noise=1e-9)
    x = _snap_to_boundary(problem, found.x, found.value, control)
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(x == 0.0, 0.0, found.gradient),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    return estimates_at(problem, x, convergence, control)


def _snap_to_boundary(problem: GeneralizedProblem, x: FloatArray, value: float, control: Control) -> FloatArray:
    """Set to zero the standard deviations that the search brought close to zero, if that costs nothing."""
    m = problem.n_theta
    small = np.zeros(len(x), dtype=bool)
    small[:m] = diagonal_positions(problem.design.random) & (np.abs(x[:m]) < control.singular_tolerance)
    if not small.any():
        return x
    candidate = np.where(small, 0.0, x)
    at = problem.evaluate(problem.templates(candidate), candidate[m : m + problem.design.p], problem.phi(candidate))
    return candidate if at.value <= value + 1e-7 else x


def estimates_at(
    problem: GeneralizedProblem, x: FloatArray, convergence: Convergence, control: Control
) -> GeneralizedEstimates:
    """The answers at a point of the search, in the user's columns and term by term."""
    design, m = problem.design, problem.n_theta
    phi = problem.phi(x)
    at = problem.evaluate(problem.templates(x), x[m : m + design.p], phi)
    modes, system = at.modes, problem.system
    theta = to_user(design.random, problem.transforms, x[:m])
    RX = problem.fixed_factor(at)
    half = np.linalg.solve(RX, problem.working.transform.T)
    scores = system.by_level(modes.step.score)
    b, u = [], []
    for index, Lambda in enumerate(split_theta(design.random, theta)):
        score = problem.transforms[index].T @ scores[problem.plan.factor_of(index)][problem.plan.columns(index)]
        spherical = Lambda.T @ score  # u = Lambda' Z' dl/deta
        u.append(np.ascontiguousarray(spherical.T))
        b.append(np.ascontiguousarray((Lambda @ spherical).T))
    wrss = float(problem.family.pearson(design.y, problem.data.weights, modes.eta, phi).sum())
    constant = problem.constant(modes.beta)
    scaled = to_working(design.random, problem.transforms, theta)
    return GeneralizedEstimates(
        method="pirls",
        REML=False,
        theta=theta,
        beta=problem.working.transform @ modes.beta,
        sigma=1.0,
        b=tuple(b),
        u=tuple(u),
        unscaled_vcov=half.T @ half,
        objective=at.value,
        ldL2=at.elimination.log_determinant,
        ldRX2=float(2.0 * np.log(np.diagonal(RX)).sum() - 2.0 * problem.working.log_determinant),
        pwrss=wrss + modes.ussq,
        wrss=wrss,
        ussq=modes.ussq,
        singular=bool((np.abs(scaled[diagonal_positions(design.random)]) < control.singular_tolerance).any()),
        convergence=convergence,
        family=problem.family,
        phi=problem.family.shifted(phi, -constant),
        nAGQ=problem.nAGQ,
        eta=modes.eta - constant,
    )
