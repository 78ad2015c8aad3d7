"""Exact answers at variance parameters that something else has estimated."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import profiled, spatialfit
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.exact import problem_for
from pylmernn.engines.spatialfit import SpatialProblem
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]


def estimates_at_fixed(
    design: Design, theta: FloatArray, sigma: float, REML: bool, control: Control | None = None
) -> Estimates:
    """Beta, b and the objective on all rows, given theta and sigma.

    Parameters
    ----------
    design : Design
        With f among the offset.
    theta : ndarray, shape (m,)
        Relative to ``sigma``.
    sigma : float
        Residual standard deviation; it is kept, not profiled out.
    REML : bool
        Which objective is reported.
    control : Control, optional

    Returns
    -------
    Estimates
        ``objective`` is the criterion at theta *and* sigma.
    """
    control = control or Control()
    problem = problem_for(design, REML, control.device)
    convergence = fixed_convergence(len(theta))
    if isinstance(problem, SpatialProblem):
        found = spatialfit.estimates_at(problem, theta, convergence, control)
    else:
        found = profiled.estimates_at(problem, theta, problem.solution(theta), convergence, control)
    return at_sigma(found, sigma, design)


def at_sigma(found: Estimates, sigma: float, design: Design) -> Estimates:
    """The same answers with another sigma, and the objective there."""
    df = design.n - design.p if found.REML else design.n
    objective = df * math.log(2.0 * math.pi * sigma**2) + found.ldL2 + found.pwrss / sigma**2
    objective += found.ldRX2 if found.REML else 0.0
    if design.weights is not None:
        objective -= float(np.log(design.weights).sum())
    return dataclasses.replace(found, sigma=sigma, objective=objective)


def fixed_convergence(m: int) -> Convergence:
    """What is said of a search that did not take place."""
    return Convergence(True, np.zeros(m), 0, "", 0.0)
