"""The exact engine whatever the random terms are: bars alone, or with Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import profiled, spatialfit
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.profiled import Problem
from pylmernn.engines.spatialfit import SpatialProblem
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]


def has_fields(design: Design) -> bool:
    """Whether a random term is a Gaussian process."""
    return any(term.covariance == "gp" for term in design.random)


def problem_for(design: Design, REML: bool, device: str = "cpu") -> Problem | SpatialProblem:
    """The design ready to be evaluated; both kinds offer start, search, at and modes."""
    return (SpatialProblem if has_fields(design) else Problem)(design, REML, device)


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Estimate a linear mixed model; arguments as in :func:`pylmernn.engines.profiled.fit`.

    Raises
    ------
    ValueError
        If ``start`` has the wrong length.
    """
    control = control or Control()
    problem = problem_for(design, REML, control.device)
    if isinstance(problem, SpatialProblem):
        return spatialfit.fit(problem, control, start, callback)
    return profiled.estimate(problem, control, start, callback)


def devfun(design: Design, REML: bool = True) -> Callable[[FloatArray], float]:
    """The profiled objective as a function of theta (m,); as :func:`pylmernn.engines.profiled.devfun`."""
    if not has_fields(design):
        return profiled.devfun(design, REML)
    problem = SpatialProblem(design, REML)
    return lambda theta: problem.search_value(spatialfit.to_search(problem, np.asarray(theta, dtype=np.float64)))
