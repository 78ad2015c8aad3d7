"""The random part of a generalized model whose linear predictor is being trained: where b lies, for every row.

With one grouping factor of one or two columns the posterior of each level's effects is a discrete one, on the nodes of
adaptive Gauss-Hermite quadrature. With several factors it is Laplace's: the random part of row i is normal about the
conditional mode, with the variance ``z_i' Var(b | y) z_i``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.barvariances import mode_variances
from pylmernn.engines.newton import minimize
from pylmernn.engines.pirls_problem import Evaluation, GeneralizedProblem
from pylmernn.engines.profiled import layout
from pylmernn.engines.randompart import search_every
from pylmernn.families import Family
from pylmernn.formula.design import Design
from pylmernn.linalg.quadrature import gauss_hermite

FloatArray = NDArray[np.float64]

#: nodes in each dimension by the number of columns of the only factor, while training and in the end
TRAINING_NODES = {1: 7, 2: 3}
FINAL_NODES = {1: 9, 2: 5, 3: 3}
NORMAL_NODES = 5  # for the normal random part of a row of several factors
FIRST_SEARCH, LATER_SEARCH = 20, 2  # evaluations
EVERY = 3  # epochs between two searches of theta, at least


def only_width(design: Design) -> int:
    """Columns left of the bars of the only grouping factor; 0 where there are several factors."""
    plan = layout(design.random)
    return sum(design.random[t].width for t in plan.factors[0]) if len(plan.factors) == 1 else 0


def final_nodes(design: Design, nAGQ: int) -> int:
    """Nodes of the last step: as asked for, else quadrature wherever it is offered."""
    return nAGQ if nAGQ != 1 else FINAL_NODES.get(only_width(design), 1)


@dataclasses.dataclass(frozen=True)
class RowNodes:
    """The random part of every row as a distribution on K values.

    Attributes
    ----------
    values : ndarray, shape (n, K)
        Values of ``z_i' b``.
    weights : ndarray, shape (n, K)
        Their probabilities.
    """

    values: FloatArray
    weights: FloatArray


class GeneralizedPart:
    """Theta, beta, the dispersion and the posterior of b, for a network f that changes.

    Parameters
    ----------
    design : Design
        Of all rows.
    rows : ndarray of int
        Those to learn from.
    learned : Design
        Of these rows.
    family : Family
    device : str
    weights_trained : int
        Weights of the networks, from which the cost of an epoch is guessed.
    """

    def __init__(
        self,
        design: Design,
        rows: NDArray[np.intp],
        learned: Design,
        family: Family,
        device: str,
        weights_trained: int,
    ) -> None:
        self.design, self.rows = design, rows
        self.offset = np.zeros(design.n) if design.offset is None else design.offset
        self.problem = GeneralizedProblem(learned, family, TRAINING_NODES.get(only_width(design), 1), device)
        q_r = self.problem.system.levels.n_columns
        self.every = max(EVERY, search_every(q_r, learned.n, weights_trained))
        self._x: FloatArray | None = None
        self._calls = 0
        self.phi: Any = 1.0
        self.normal = gauss_hermite(NORMAL_NODES)

    def update(self, f: FloatArray) -> None:
        """Solve for f (n,) of all rows; search the parameters in every ``every``-th call."""
        problem = self.problem
        problem.replace_offset((self.offset + f)[self.rows])
        search = self._calls % self.every == 0
        if search:
            start = problem.start() if self._x is None else self._x
            evaluations = FIRST_SEARCH if self._x is None else LATER_SEARCH
            self._x = minimize(problem.search, start, 1e-2, evaluations, noise=1e-9).x
        assert self._x is not None
        self._calls += 1
        m = problem.n_theta
        phi = problem.phi(self._x)
        at = problem.evaluate(problem.templates(self._x), self._x[m : m + self.design.p], phi)
        self.phi = problem.family.shifted(phi, -problem.constant(at.modes.beta))
        self.beta = problem.working.transform @ at.modes.beta
        self.fixed = self.offset + self.design.X @ self.beta
        self.nodes = self._discrete(at) if at.quadrature is not None else self._normal(at, search)

    @property
    def sigma(self) -> float:
        """Standard deviation of the first random effects."""
        assert self._x is not None
        return float(abs(self.problem.templates(self._x)[0][0, 0]))

    def _by_term(self, by_factor: list[FloatArray]) -> list[FloatArray]:
        """Effects (q_k, d_k) of each term in the user's columns, from (d, q) of each factor in working ones."""
        plan, transforms = self.problem.plan, self.problem.transforms
        return [
            np.asarray(
                np.linalg.solve(transforms[k], by_factor[plan.factor_of(k)][plan.columns(k)]).T, dtype=np.float64
            )
            for k in range(len(self.design.random))
        ]

    def _of_rows(self, b: list[FloatArray]) -> FloatArray:
        """``Z b`` of all rows (n,)."""
        total = np.zeros(self.design.n)
        for term, effects in zip(self.design.random, b, strict=True):
            total += np.einsum("ij,ij->i", term.columns, effects[term.codes])
        return total

    def _discrete(self, at: Evaluation) -> RowNodes:
        """The nodes of each level's effects with their posterior probabilities."""
        assert at.quadrature is not None
        Lambda, codes = at.quadrature.Lambda, self.design.random[0].codes
        values = [self._of_rows(self._by_term([Lambda @ u])) for u in at.quadrature.u]
        return RowNodes(np.stack(values, axis=1), at.quadrature.shares.T[codes])

    def _normal(self, at: Evaluation, search: bool) -> RowNodes:
        """A normal distribution about the modes; variances are found again with theta only."""
        if search:
            self._deviations = np.sqrt(np.maximum(self._variances(at), 0.0))
        mean = self._of_rows(self._by_term(at.modes.b))
        values = mean[:, None] + self._deviations[:, None] * self.normal.z[:, 0]
        return RowNodes(values, np.broadcast_to(np.exp(self.normal.log_weights), values.shape))

    def _variances(self, at: Evaluation) -> FloatArray:
        """``Var(z_i' b | y)`` (n,): exact at the rows learnt from; elsewhere without covariances between factors."""
        system, elimination = self.problem.system, at.elimination
        by_factor = mode_variances(system, elimination)
        plan = self.problem.plan
        total = np.zeros(self.design.n)
        for k, term in enumerate(self.design.random):
            columns = plan.columns(k)
            back = np.linalg.inv(self.problem.transforms[k])
            block = back @ by_factor[plan.factor_of(k)][columns, columns].transpose(2, 0, 1) @ back.T
            total += np.einsum("is,ist,it->i", term.columns, block[term.codes], term.columns)
        K = None
        if system.levels.sizes:
            inverse = system.factor.inverse_cells()
            K = system.schur.scale(elimination.templates[1:], inverse, transpose=False)
        total[self.rows] = system.leverages(elimination.G, K)
        return total
