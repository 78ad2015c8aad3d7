"""Linear mixed models with Gaussian processes, exactly: the profiled engine bordered by dense fields.

Write V_0 for the (relative) covariance of y without the fields: residuals and bars, which
:mod:`pylmernn.engines.pls` inverts level by level. With Z_g the indicators of the distinct locations and K their
covariance, ``V = V_0 + Z_g K Z_g'``. Let ``H = Z_g' V_0^-1 Z_g = L L'`` and ``W = I + L' K L``. Then

    log|V| = log|V_0| + log|W|
    (K^-1 + H)^-1 = L^-T (I - W^-1) L^-1 =: G          V^-1 = V_0^-1 - V_0^-1 Z_g G Z_g' V_0^-1
    Z_g' V^-1 Z_g = L W^-1 L'

so that one Cholesky factor of the size of the distinct locations is all that a field costs; K itself, which is close to
singular for smooth kernels, is never factored. Without bars H is the diagonal of the rows (weights) at each location.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from pylmernn.engines.fields import Field, fields_of, fill_covariance, multiply
from pylmernn.engines.pls import Columns, DirectElimination
from pylmernn.engines.profiled import Problem
from pylmernn.engines.working import WorkingColumns, working_columns
from pylmernn.formula.design import Design
from pylmernn.linalg.crossproducts import GroupRows, group_by_group, sum_by_level

FloatArray = NDArray[np.float64]

JITTER = 1e-9  # relative, of H where it is singular
EMPTY = 1e-14  # stands for the zero of a location without rows, relative to the largest of H
BLOCK = 256  # right sides sent through the bars together


@dataclass(frozen=True)
class FieldSolution:
    """The least-squares answers at one point; as :class:`pylmernn.engines.pls.Solution`, with the fields' parts.

    Attributes
    ----------
    objective, ldL2, ldRX2, pwrss : float
    beta : ndarray, shape (p,)
    RX : ndarray, shape (p, p)
    b, score, ZVX : Columns or None
        Of the bars; None where there are none.
    field, field_score : ndarray, shape (m,)
        Conditional modes of the fields, and ``Z_g' V^-1 (y - X beta)``.
    field_ZVX : ndarray, shape (m, p)
    """

    objective: float
    ldL2: float
    ldRX2: float
    pwrss: float
    beta: FloatArray
    RX: FloatArray
    b: Columns | None
    score: Columns | None
    ZVX: Columns | None
    field: FloatArray
    field_score: FloatArray
    field_ZVX: FloatArray


class FieldProducts:
    """Cross-products of the locations of all fields with the rest of the model.

    Parameters
    ----------
    design : Design
    fields : tuple of Field
    R : ndarray, shape (n, p + 1)
        Working columns.
    bars : Problem or None
        The model without its fields.
    """

    def __init__(self, design: Design, fields: tuple[Field, ...], R: FloatArray, bars: Problem | None) -> None:
        weights = design.weights
        self._groups = [GroupRows(design.random[f.term].codes, len(f.locations), (None,)) for f in fields]
        self.m = sum(len(f.locations) for f in fields)
        WR = R if weights is None else R * weights[:, None]
        self.R = np.concatenate([self._sums(WR[:, [j]]) for j in range(R.shape[1])], axis=1)
        if len(fields) == 1:
            self.own: FloatArray | sp.csr_array = sum_by_level(self._groups[0].codes, weights, self.m)
        else:
            grid = [[group_by_group(b, a, weights) for b in self._groups] for a in self._groups]
            self.own = sp.block_array(grid, format="csr")
        self.first, self.rest = sp.csr_array((self.m, 0)), sp.csr_array((0, self.m))
        if bars is not None:
            first, *rest = bars.groups
            self.first = sp.vstack([group_by_group(first, g, weights) for g in self._groups], format="csr")
            if rest:
                blocks = [[group_by_group(g, k, weights) for g in self._groups] for k in rest]
                self.rest = sp.block_array(blocks, format="csr")

    def _sums(self, columns: FloatArray) -> FloatArray:
        return np.concatenate(
            [np.stack([sum_by_level(g.codes, c, g.n_levels) for c in columns.T], axis=1) for g in self._groups]
        )

    def replace_response(self, weighted: FloatArray) -> None:
        """Sum another last column of R, times the weights (n,)."""
        self.R[:, -1] = self._sums(weighted[:, None])[:, 0]

    def with_bars(self, problem: Problem, B: FloatArray) -> Columns:
        """``Z' W Z_g B`` of the bars, for B (m, j)."""
        system = problem.system
        first = np.asarray(self.first.T @ B).reshape(system.d, system.q, -1).transpose(0, 2, 1)
        return Columns(np.ascontiguousarray(first), np.asarray(self.rest @ B))

    def against_bars(self, problem: Problem, columns: Columns) -> FloatArray:
        """``Z_g' W Z`` times columns of the bars, (m, j)."""
        out = self.first @ problem.system.flat(columns.first)
        return np.asarray(out + self.rest.T @ columns.rest)

    def weigh(self, B: FloatArray) -> FloatArray:
        """``Z_g' W Z_g B``."""
        return np.asarray(self.own[:, None] * B if isinstance(self.own, np.ndarray) else self.own @ B)


class FieldElimination:
    """Everything at one point x that does not depend on the response.

    Parameters
    ----------
    problem : SpatialModel
    x : ndarray
        Parameters of the bars in working columns, then tau and z of each field.
    keep : bool
        Keep ``Z' V_0^-1 Z_g`` of the bars, which the gradient needs.
    """

    def __init__(self, problem: SpatialModel, x: FloatArray, keep: bool = False) -> None:
        self.problem = problem
        self.bars: DirectElimination | None = None
        self.log_determinant = 0.0
        if problem.bars is not None:
            templates = problem.bars.plan.templates(problem.bars.design.random, x[: problem.n_bars])
            self.bars = problem.bars.eliminate(templates)
            self.log_determinant += self.bars.log_determinant
        self.points = problem.points(x)
        self.U: Columns | None = None
        self.root = self._root(keep)
        m = problem.products.m
        W = np.zeros((m, m), order="F")
        for field, (tau, lscale) in zip(problem.fields, self.points, strict=True):
            fill_covariance(field, tau, lscale, W.T[field.at, field.at])  # symmetric: rows or columns, no matter
        if self.root.ndim == 1:
            W *= self.root
            W *= self.root[:, None]
        else:
            W = np.asfortranarray(self.root.T @ (W @ self.root))
        W.reshape(-1, order="A")[:: m + 1] += 1.0
        self.W, info = lapack.dpotrf(W, lower=1, clean=0, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError("the covariance of the fields is not positive definite")
        self.log_determinant += 2.0 * float(np.log(np.diagonal(self.W)).sum())

    def _root(self, keep: bool) -> FloatArray:
        """L with ``H = L L'``: its diagonal (m,) without bars, else lower triangular (m, m)."""
        products = self.problem.products
        if self.bars is None and isinstance(products.own, np.ndarray):
            return np.sqrt(np.maximum(products.own, EMPTY * products.own.max()))
        H = np.diag(products.own) if isinstance(products.own, np.ndarray) else products.own.toarray()
        if self.bars is not None:
            self._subtract_bars(H, keep)
        if len(self.problem.fields) > 1:  # the indicators of two fields have the same sum: H is singular
            np.einsum("ii->i", H)[...] *= 1.0 + JITTER
        diagonal = np.einsum("ii->i", H)
        diagonal[...] = np.maximum(diagonal, EMPTY * diagonal.max())
        return np.asarray(np.linalg.cholesky(H), dtype=np.float64)

    def _subtract_bars(self, H: FloatArray, keep: bool) -> None:
        problem, products, m = self.problem.bars, self.problem.products, self.problem.products.m
        assert problem is not None
        assert self.bars is not None
        parts = []
        for start in range(0, m, BLOCK):
            block = slice(start, min(start + BLOCK, m))
            unit = np.zeros((m, block.stop - start))
            unit[np.arange(start, block.stop), np.arange(block.stop - start)] = 1.0
            T = products.with_bars(problem, unit)
            modes = self.bars.modes(T)
            H[:, block] -= products.against_bars(problem, modes)
            if keep:
                parts.append(T - problem.system.multiply(modes))
        if keep:
            first = np.concatenate([part.first for part in parts], axis=1)
            self.U = Columns(first, np.concatenate([part.rest for part in parts], axis=1))

    def half(self, B: FloatArray, transpose: bool = False) -> FloatArray:
        """``L^-1 B``, or ``L^-T B``."""
        if self.root.ndim == 1:
            return B / self.root[:, None]
        return np.asarray(solve_triangular(self.root, B, lower=True, trans="T" if transpose else "N"))

    def whole(self, B: FloatArray) -> FloatArray:
        """``L B``."""
        return self.root[:, None] * B if self.root.ndim == 1 else self.root @ B

    def solve_W(self, B: FloatArray) -> FloatArray:
        """``W^-1 B`` for B (m, j)."""
        return np.asarray(lapack.dpotrs(self.W, B, lower=1)[0])

    def posterior(self, B: FloatArray) -> FloatArray:
        """``G B = (K^-1 + H)^-1 B``: covariance of the fields given y, relative to sigma^2, times B (m, j)."""
        t = self.half(B)
        return self.half(t - self.solve_W(t), transpose=True)

    def without_bars(self, B: Columns | None, own: FloatArray) -> tuple[Columns | None, FloatArray]:
        """Modes of the bars for ``Z' W v`` (B), and ``Z_g' V_0^-1 v`` from ``Z_g' W v`` (own)."""
        if self.bars is None or B is None:
            return None, own
        assert self.problem.bars is not None
        modes = self.bars.modes(B)
        return modes, own - self.problem.products.against_bars(self.problem.bars, modes)

    def prior(self, B: FloatArray) -> FloatArray:
        """``K B`` for B (m, j)."""
        out = np.empty_like(B)
        for field, (tau, lscale) in zip(self.problem.fields, self.points, strict=True):
            out[field.at] = multiply(field, tau, lscale, B[field.at])
        return out

    def solve(self) -> FieldSolution:
        """Fixed effects, conditional modes and the objective for the present response."""
        problem = self.problem
        n, p = problem.design.n, problem.design.p
        R = None if problem.bars is None else problem.bars.system.R
        modes, T = self.without_bars(R, problem.products.R)
        V = problem.RR.copy()
        if R is not None and modes is not None:
            V -= R.dot(modes)
        t = self.half(T)
        Wt = self.solve_W(t)
        V -= t.T @ (t - Wt)
        RX: FloatArray = np.asarray(np.linalg.cholesky(V[:p, :p]), dtype=np.float64)
        beta = np.linalg.solve(RX.T, np.linalg.solve(RX, V[:p, p]))
        pwrss = float(V[p, p] - V[:p, p] @ beta)
        if not pwrss > 0:
            raise np.linalg.LinAlgError("the residual sum of squares is not positive")
        ldRX2 = float(2.0 * np.log(np.diagonal(RX)).sum())
        df = n - p if problem.REML else n
        objective = self.log_determinant + df * (1.0 + math.log(2.0 * math.pi * pwrss / df))
        objective += (ldRX2 if problem.REML else 0.0) - problem.sum_log_weights
        residual = np.append(-beta, 1.0)[:, None]
        scores = self.whole(Wt)
        b, score, ZVX = None, None, None
        if problem.bars is not None and R is not None and modes is not None:
            inside = problem.products.with_bars(problem.bars, self.half(t - Wt, transpose=True))
            assert self.bars is not None
            modes = modes - self.bars.modes(inside)
            projected = R - problem.bars.system.multiply(modes) - inside
            b, score = modes.combine(residual), projected.combine(residual)
            ZVX = projected.combine(np.eye(p + 1)[:, :p])
        field_score = scores @ residual
        return FieldSolution(
            objective=float(objective), ldL2=self.log_determinant, ldRX2=ldRX2, pwrss=pwrss, beta=beta, RX=RX,
            b=b, score=score, ZVX=ZVX,
            field=self.prior(field_score)[:, 0], field_score=field_score[:, 0], field_ZVX=scores[:, :p],
        )  # fmt: skip


class SpatialModel:
    """One design with fields ready to be evaluated at any point.

    Coordinates x of the search: the parameters of the bars in working columns, then for each field tau and z, which
    stands for its length-scale (:class:`pylmernn.engines.fields.Field`).

    Parameters
    ----------
    design : Design
    REML : bool
    device : str
        Where a large dense factor of the bars is computed.
    """

    method = "profiled"
    noise = 0.0
    objective_error = 0.0

    def __init__(self, design: Design, REML: bool, device: str = "cpu") -> None:
        self.design, self.REML = design, REML
        self.fields = fields_of(design.random)
        bars = tuple(term for term in design.random if term.covariance != "gp")
        self.bars = Problem(dataclasses.replace(design, random=bars), REML, device) if bars else None
        self.working: WorkingColumns
        if self.bars is None:
            self.R, self.working = working_columns(design)
            self.RR = self.R.T @ (self.R if design.weights is None else self.R * design.weights[:, None])
        else:
            self.R, self.working, self.RR = self.bars.R, self.bars.working, self.bars.system.products.RR
        self.n_bars = 0 if self.bars is None else len(self.bars.plan.parameters)
        self.sum_log_weights = 0.0 if design.weights is None else float(np.log(design.weights).sum())
        self.products = FieldProducts(design, self.fields, self.R, self.bars)
        self.constant = -2.0 * self.working.log_determinant if REML else 0.0

    def replace_response(self, y: FloatArray) -> None:
        """Go on with another response (n,), offset taken off."""
        p, weights = self.design.p, self.design.weights
        if self.bars is not None:
            self.bars.replace_response(y)
            self.working = self.bars.working
        else:
            weighted = y if weights is None else y * weights
            gamma = np.linalg.lstsq(self.RR[:p, :p], self.R[:, :p].T @ weighted, rcond=None)[0] if p else np.empty(0)
            self.R[:, p] = y - self.R[:, :p] @ gamma
            self.working = dataclasses.replace(self.working, beta0=self.working.transform @ gamma)
        column = self.R[:, p] if weights is None else self.R[:, p] * weights
        if self.bars is None:
            self.RR[-1] = self.RR[:, -1] = self.R.T @ column
        self.products.replace_response(column)

    def points(self, x: FloatArray) -> list[tuple[float, float]]:
        """(tau, length-scale) of each field."""
        own = x[self.n_bars :].reshape(-1, 2)
        return [(float(tau), field.lscale(z)) for field, (tau, z) in zip(self.fields, own, strict=True)]

    def eliminate(self, x: FloatArray, keep: bool = False) -> FieldElimination:
        """The factored random effects at x."""
        return FieldElimination(self, x, keep)

    def search_value(self, x: FloatArray) -> float:
        """The objective at x."""
        return self.eliminate(x).solve().objective + self.constant
