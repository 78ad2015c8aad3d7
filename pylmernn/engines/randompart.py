"""The random part of a model whose mean is being trained: exact beta and b for changing residuals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.control import Control
from pylmernn.engines.exact import factored_together, has_fields, problem_for
from pylmernn.engines.iterative import IterativeProblem
from pylmernn.engines.newton import minimize
from pylmernn.engines.profiled import Problem
from pylmernn.engines.spatialfit import SpatialProblem
from pylmernn.engines.vecchia import VecchiaProblem, offered
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

NEAR_ENOUGH = 1000  # locations of a field alone beyond which neighbours stand for all of them during training
DENSE_ENOUGH = 4000  # effects of bars in a dense factor beyond which training and what follows it go without one
PROBES = 20  # of the iterative engine during training
FIRST_SEARCH = 20  # evaluations
STEP_SHARE = 0.1  # of the training time that may go into searching theta
DENSE_RATE, TRAINING_RATE = 3e10, 1e10  # operations a second, to guess costs by: a clock would not be repeatable


def search_every(q_r: int, n: int, weights: int) -> int:
    """Epochs between two searches of theta, so that they take about ``STEP_SHARE`` of the time of training.

    Parameters
    ----------
    q_r : int
        Random effects in the dense factor.
    n : int
        Rows of an epoch.
    weights : int
        Of the networks.
    """
    search = 4.0 * q_r**3 / DENSE_RATE
    epoch = 6.0 * n * weights / TRAINING_RATE
    return max(1, math.ceil(search / (STEP_SHARE * epoch)))


def _problem(design: Design, REML: bool, device: str) -> Problem | SpatialProblem | VecchiaProblem:
    """The engine that is quick enough to be asked again and again."""
    if offered(design) and design.random[0].n_levels > NEAR_ENOUGH:
        return VecchiaProblem(design, REML)
    if not has_fields(design) and factored_together(design, DENSE_ENOUGH) > DENSE_ENOUGH:
        return IterativeProblem(design, REML, Control(probes=PROBES))
    return problem_for(design, REML, device)


def _dense_columns(problem: Problem | SpatialProblem | VecchiaProblem) -> int:
    """Random effects that an evaluation factors densely, or as many as take that long."""
    if isinstance(problem, IterativeProblem):
        return DENSE_ENOUGH // 2
    if isinstance(problem, VecchiaProblem):
        q, m = problem.neighbours.shape
        return math.ceil((2.0 * q * m**3) ** (1.0 / 3.0))
    if isinstance(problem, SpatialProblem):
        return problem.products.m + (0 if problem.bars is None else problem.bars.system.levels.n_columns)
    return problem.system.levels.n_columns


class RandomPart:
    """The linear mixed model of the residuals while f changes: exact beta and b, theta now and then.

    Parameters
    ----------
    design : Design
        Of the rows to learn from.
    REML : bool
    device : str
    weights_trained : int
        Weights of the networks, from which the cost of an epoch is guessed.
    """

    def __init__(self, design: Design, REML: bool, device: str, weights_trained: int) -> None:
        self.design, self.control = design, Control()
        self.problem = _problem(design, REML, device)
        self.every = search_every(_dense_columns(self.problem), design.n, weights_trained)
        self._x: FloatArray | None = None
        self._elimination: Any = None
        self._calls = 0
        self.sigma = float("nan")

    def update(self, residual: FloatArray) -> None:
        """Solve for residuals (n,); search theta in every ``every``-th call."""
        problem: Any = self.problem
        problem.replace_response(residual)
        if self._calls % self.every == 0:
            start = problem.start(self.control) if self._x is None else self._x
            evaluations = FIRST_SEARCH if self._x is None else 3
            self._x = minimize(problem.search, start, 1e-3, evaluations, noise=problem.noise).x
            self._elimination = problem.at(self._x)
        self._calls += 1
        modes = problem.modes(self._elimination)
        self.beta, self.b = modes.beta, modes.b
        self.sigma = float(np.sqrt(modes.pwrss / (self.design.n - (self.design.p if problem.REML else 0))))

    def mean(self, design: Design) -> FloatArray:
        """``X beta + Z b`` of the rows of a design with the same terms, (n,)."""
        total = design.X @ self.beta
        for term, b in zip(design.random, self.b, strict=True):
            total = total + np.einsum("ij,ij->i", term.columns, b[term.codes])
        return np.asarray(total)
