"""-2 log-likelihood over (Lambda, sigma), and its minimum with one standard deviation, correlation or sigma held."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pylmernn.covariance import structure
from pylmernn.engines import profiled
from pylmernn.engines.pls import by_factor, solve
from pylmernn.formula.design import Design, FloatArray
from pylmernn.linalg.smallblocks import sum_outer

#: One square root M of the relative covariance of each term (``M M' = Lambda Lambda'``), and sigma.
Point = tuple[list[FloatArray], float]
#: Rows and columns of entries of a matrix.
Entries = tuple[NDArray[np.intp], NDArray[np.intp]]


#: Share of the largest entry that a zero on the diagonal gets at the start of a search.
START_OFF_BOUNDARY = 0.02
TINY = 1e-6


def lower_root(M: FloatArray) -> FloatArray:
    """The lower triangular L with ``L L' = M M'`` and a diagonal that is not negative."""
    R: FloatArray = np.asarray(np.linalg.qr(M.T, mode="r"), dtype=np.float64)
    return (R * np.where(np.diagonal(R) < 0, -1.0, 1.0)[:, None]).T


def _off_boundary(L: FloatArray) -> FloatArray:
    """L with no zero on its diagonal: a column of zeros has a zero gradient, and a search could never leave it."""
    least = START_OFF_BOUNDARY * max(float(np.abs(L).max()), 0.1)
    small = np.abs(np.diagonal(L)) < least
    return L + np.diag(np.where(small, least, 0.0))


class DevianceSurface:
    """-2 log-likelihood as a function of the terms' relative covariances ``M M'`` and of sigma, with its gradient.

    Parameters
    ----------
    design : Design
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.problem = profiled.Problem(design, REML=False)

    def __call__(self, point: Point) -> tuple[float, list[FloatArray], float]:
        """The value, its gradient in each M, and in sigma."""
        roots, sigma = point
        problem, n = self.problem, self.design.n
        theta = np.concatenate([self._theta(t, M) for t, M in enumerate(roots)])
        elimination = problem.eliminate(problem.templates(theta))
        at = solve(problem.system, elimination, REML=False)
        value = at.ldL2 + n * math.log(2 * math.pi * sigma**2) + at.pwrss / sigma**2
        value -= problem.system.products.sum_log_weights
        scores = by_factor(problem.system, at.score)
        slopes = [  # derivatives of log|L|^2 + r^2 / sigma^2 in Lambda Lambda' of the engine's working columns
            E - sum_outer(v, v) / sigma**2 for E, v in zip(elimination.information(), scores, strict=True)
        ]
        gradients = []
        for t, (M, T) in enumerate(zip(roots, problem.transforms, strict=True)):
            own = problem.plan.columns(t)
            gradients.append(2.0 * T.T @ slopes[problem.plan.factor_of(t)][own, own] @ T @ M)
        return value, gradients, 2 * n / sigma - 2 * at.pwrss / sigma**3

    def _theta(self, t: int, M: FloatArray) -> FloatArray:
        """The theta of a term; exact zeros on the diagonal become tiny, because the engine's slopes divide by it."""
        term = self.design.random[t]
        L = lower_root(M)
        tiny = TINY * max(float(np.abs(L).max()), 1.0)
        np.fill_diagonal(L, np.maximum(np.diagonal(L), tiny))
        return L[structure(term.covariance).positions(term.width)]


class Held:
    """One variance parameter held at a value; the coordinates z of all others are unconstrained.

    Parameters
    ----------
    design : Design
    term : int or None
        None holds sigma.
    row, column : int
        row == column holds the standard deviation of that row, else their correlation.
    """

    def __init__(self, design: Design, term: int | None, row: int = 0, column: int = 0) -> None:
        self.design, self.term, self.row, self.column = design, term, row, column
        self.kind = "sigma" if term is None else "sd" if row == column else "cor"

    def minimum(self, surface: DevianceSurface, value: float, start: Point) -> tuple[float, Point]:
        """The least deviance with the parameter at ``value``, and where it is; the search begins near ``start``."""
        free = [self._free(t) for t in range(len(self.design.random))]

        def objective(z: FloatArray) -> tuple[float, FloatArray]:
            point = self._point(z, value, free)
            deviance, gradients, in_sigma = surface(point)
            return deviance, self._gradient(value, free, point, gradients, in_sigma)

        z = self._coordinates(start, free)
        found = minimize(objective, z, jac=True, method="BFGS", options={"gtol": 1e-5, "maxiter": 200})
        return float(found.fun), self._point(found.x, value, free)

    def _order(self, t: int) -> list[int]:
        """Rows of term t in the order in which its M is triangular: those of the held parameter first."""
        first = {"cor": [self.column, self.row], "sd": [self.row]}.get(self.kind, []) if t == self.term else []
        return first + [i for i in range(self.design.random[t].width) if i not in first]

    def _free(self, t: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the free entries of M of term t."""
        term, order = self.design.random[t], np.array(self._order(t))
        rows, columns = structure(term.covariance).positions(term.width)
        if term.covariance != "us":  # diagonal: no order matters
            mine = rows[rows != self.row] if t == self.term else rows
            return mine, mine
        keep = np.ones(len(rows), dtype=bool)
        if t == self.term and self.kind == "sd":  # this row is (value / sigma, 0, ...)
            keep = (rows != 0) | (columns != 0)
        if t == self.term and self.kind == "cor":  # this row is (rho s, sqrt(1 - rho^2) s, 0, ...): s is a coordinate
            keep = (rows != 1) | (columns != 0)
        return order[rows[keep]], columns[keep]

    def _corner(self) -> tuple[int, int]:
        """Where value / sigma stands when a standard deviation is held."""
        assert self.term is not None
        return self.row, 0 if self.design.random[self.term].covariance == "us" else self.row

    def _coordinates(self, point: Point, free: list[Entries]) -> FloatArray:
        roots, sigma = point
        parts = []
        for t, M in enumerate(roots):
            if self.design.random[t].covariance == "us":
                order, triangular = self._order(t), np.zeros_like(M)
                triangular[order] = _off_boundary(lower_root(M[order]))
                if t == self.term and self.kind == "cor":
                    triangular[self.row, 1] = np.linalg.norm(M[self.row])
                M = triangular
            else:
                M = _off_boundary(M)
            parts.append(M[free[t]])
        return np.concatenate([*parts, [] if self.kind == "sigma" else [math.log(sigma)]])

    def _point(self, z: FloatArray, value: float, free: list[Entries]) -> Point:
        sigma = value if self.kind == "sigma" else math.exp(min(z[-1], 300.0))
        roots, at = [], 0
        for t, term in enumerate(self.design.random):
            M = np.zeros((term.width, term.width))
            M[free[t]] = z[at : at + len(free[t][0])]
            at += len(free[t][0])
            if t == self.term and self.kind == "sd":
                M[self._corner()] = value / sigma
            if t == self.term and self.kind == "cor":
                s = M[self.row, 1]
                M[self.row, :2] = value * s, math.sqrt(max(1 - value**2, 0.0)) * s
            roots.append(M)
        return roots, sigma

    def _gradient(
        self, value: float, free: list[Entries], point: Point, gradients: list[FloatArray], in_sigma: float
    ) -> FloatArray:
        sigma = point[1]
        in_log_sigma = in_sigma * sigma
        if self.term is not None:
            G = gradients[self.term]
            if self.kind == "sd":
                in_log_sigma -= G[self._corner()] * value / sigma
            else:
                G[self.row, 1] = value * G[self.row, 0] + math.sqrt(max(1 - value**2, 0.0)) * G[self.row, 1]
        parts = [G[f] for G, f in zip(gradients, free, strict=True)]
        return np.concatenate([*parts, [] if self.kind == "sigma" else [in_log_sigma]])
