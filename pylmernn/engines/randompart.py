"""The random part of a model whose mean is being trained: exact beta and b for changing residuals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.newton import minimize
from pylmernn.engines.pls import by_factor, solve
from pylmernn.engines.profiled import Problem
from pylmernn.engines.start import moment_start
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

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
        self.design = design
        self.problem = Problem(design, REML, device)
        self.every = search_every(self.problem.system.levels.n_columns, design.n, weights_trained)
        self._x: FloatArray | None = None
        self._elimination: Any = None
        self._calls = 0
        self.sigma = float("nan")

    def update(self, residual: FloatArray) -> None:
        """Solve for residuals (n,); search theta in every ``every``-th call."""
        self.problem.replace_response(residual)
        if self._calls % self.every == 0:
            system, parameters = self.problem.system, self.problem.plan.parameters
            start = moment_start(system.products, parameters) if self._x is None else self._x
            self._x = minimize(self.problem.search, start, 1e-3, 20 if self._x is None else 3).x
            templates = self.problem.plan.templates(self.design.random, self._x)
            self._elimination = self.problem.eliminate(templates)
        self._calls += 1
        problem = self.problem
        at = solve(problem.system, self._elimination, problem.REML)
        self.beta = problem.working.beta0 + problem.working.transform @ at.beta
        self.sigma = float(np.sqrt(at.pwrss / (self.design.n - (self.design.p if problem.REML else 0))))
        modes = by_factor(problem.system, at.b)
        self.b = [
            np.linalg.solve(problem.transforms[t], modes[problem.plan.factor_of(t)][problem.plan.columns(t), 0]).T
            for t in range(len(self.design.random))
        ]

    def mean(self, design: Design) -> FloatArray:
        """``X beta + Z b`` of the rows of a design with the same terms, (n,)."""
        total = design.X @ self.beta
        for term, b in zip(design.random, self.b, strict=True):
            total = total + np.einsum("ij,ij->i", term.columns, b[term.codes])
        return np.asarray(total)
