"""Penalized least squares: the profiled objective of a linear mixed model, its exact gradient and its curvature.

The notation is that of Bates et al. (2015), section 3: for relative covariance factors Lambda,

    -2 log L  = log|L|^2 + n [1 + log(2 pi r^2 / n)]
    REML      = log|L|^2 + log|R_X|^2 + (n - p) [1 + log(2 pi r^2 / (n - p))]

with ``L L' = Lambda' Z' W Z Lambda + I`` and r^2 the penalized weighted residual sum of squares. Everything is computed
from cross-products (:mod:`pylmernn.linalg.crossproducts`): the largest factor is eliminated level by level, what is
left is factored by :mod:`pylmernn.linalg.rest`.

The gradient in a template Lambda_k is ``2 (E_k - c w_k / r^2) Lambda_k`` with ``E_k`` the sum over levels of diagonal
blocks of ``Z' P Z`` (``V^-1`` for P under ML), ``w_k`` that of ``(Z' P y)(Z' P y)'`` and c = n - p (n). Its curvature
is approximated by average information (Gilmour, Thompson & Cullis 1995), profiled over sigma^2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pylmernn.linalg.crossproducts import CrossProducts
from pylmernn.linalg.rest import RestFactor, rest_factor
from pylmernn.linalg.schur import RestLevels, SchurMap, schur_map
from pylmernn.linalg.smallblocks import multiply_blocks, shrinkage_blocks, sum_outer

FloatArray = NDArray[np.float64]

SMALL = 20_000  # entries below which a dense matrix is faster than a sparse one


@dataclass(frozen=True)
class Parameter:
    """One entry of theta: it stands in ``templates[block][row, column]``."""

    block: int
    row: int
    column: int


@dataclass(frozen=True)
class Columns:
    """m columns with one entry for each random effect: the eliminated factor (d, m, q) and the rest (q_r, m)."""

    first: FloatArray
    rest: FloatArray

    @property
    def m(self) -> int:
        """Number of columns."""
        return self.first.shape[1]

    def __sub__(self, other: Columns) -> Columns:
        return Columns(self.first - other.first, self.rest - other.rest)

    def combine(self, W: FloatArray) -> Columns:
        """The columns times W (m, j)."""
        return Columns(np.ascontiguousarray(W.T @ self.first), self.rest @ W)

    def dot(self, other: Columns) -> FloatArray:
        """Inner products (m, m') of the columns of both."""
        out = self.rest.T @ other.rest
        for one, two in zip(self.first, other.first, strict=True):
            out += one @ two.T
        return np.asarray(out)


class System:
    """The cross-products of one model arranged for elimination; built once, evaluated at many theta.

    Parameters
    ----------
    products : CrossProducts
        Of grouping factors in the order in which ``templates`` will come; the first is eliminated.
    device : str, default "cpu"
        Where a large dense rest is factored: "cpu", "cuda", or "auto".
    """

    def __init__(self, products: CrossProducts, device: str = "cpu") -> None:
        self.products, self.device = products, device
        self.A = products.ZZ[0]
        self.d, _, self.q = self.A.shape
        self.n, self.p = products.n, len(products.RR) - 1
        rest = range(1, len(products.ZZ))
        self.levels = RestLevels(
            widths=tuple(products.ZZ[k].shape[0] for k in rest), sizes=tuple(products.ZZ[k].shape[2] for k in rest)
        )
        self.R = Columns(products.ZR[0], _stack_level_major([products.ZR[k] for k in rest], self.p + 1))
        self.C: Any = sp.csr_array((0, self.d * self.q))
        if len(rest):
            self.C = sp.vstack([products.cross[0, k] for k in rest], format="csr")
            self.A_rr: Any = _rest_products(products)
            self.schur: SchurMap = schur_map(self.A, self.C, self.A_rr, self.levels)
            if self.C.shape[0] * self.C.shape[1] <= SMALL:
                self.C, self.A_rr = self.C.toarray(), self.A_rr.toarray()

    @functools.cached_property
    def factor(self) -> RestFactor:
        """The exact factor of the rest; its memory is taken when it is first asked for."""
        return rest_factor(self.schur, self.device)

    def replace_response(self, products: tuple[FloatArray, list[FloatArray]]) -> None:
        """Put the cross-products of another response in place; see ``response_products``."""
        RR, sums = products
        self.products.RR[-1] = self.products.RR[:, -1] = RR
        for ZR, values in zip(self.products.ZR, sums, strict=True):
            ZR[:, -1] = values
        self.R = Columns(self.products.ZR[0], _stack_level_major(self.products.ZR[1:], self.p + 1))

    def multiply(self, B: Columns) -> Columns:
        """``Z' W Z B``."""
        first = multiply_blocks(self.A, B.first)
        if not self.levels.sizes:
            return Columns(first, B.rest)
        C_transposed_rest = (self.C_transposed @ B.rest).reshape(self.d, self.q, -1).transpose(0, 2, 1)
        return Columns(first + C_transposed_rest, self.C @ self.flat(B.first) + self.A_rr @ B.rest)

    @property
    def C_transposed(self) -> Any:
        """``C'``."""
        return self.C.T

    def flat(self, first: FloatArray) -> FloatArray:
        """(d, m, q) columns as (d q, m), the order of the columns of C."""
        return first.transpose(0, 2, 1).reshape(self.d * self.q, -1)


class DirectElimination:
    """Exact factorization of the random effects at templates Lambda.

    Parameters
    ----------
    system : System
    templates : sequence of ndarray, shape (d_k, d_k)
    """

    def __init__(self, system: System, templates: Sequence[FloatArray]) -> None:
        self.system, self.templates = system, templates
        self.G, self.log_determinant = shrinkage_blocks(system.A, templates[0])
        if system.levels.sizes:
            cells = system.schur.scale(templates[1:], system.schur.cells(self.G), transpose=True)
            self.log_determinant += system.factor.factor(cells)

    def modes(self, T: Columns) -> Columns:
        """``Omega (Z'WZ Omega + I)^-1 T``, Omega = Lambda Lambda': conditional modes for ``T = Z'W(y - X beta)``."""
        s = multiply_blocks(self.G, T.first)
        system = self.system
        if not system.levels.sizes:
            return Columns(s, T.rest)
        levels = system.levels
        right = T.rest - system.C @ system.flat(s)
        half = self.solve_rest(levels.multiply(self.templates[1:], right, transpose=True))
        rest = levels.multiply(self.templates[1:], half)
        back = (system.C_transposed @ rest).reshape(system.d, system.q, -1).transpose(0, 2, 1)
        return Columns(s - multiply_blocks(self.G, back), rest)

    def solve_rest(self, B: FloatArray) -> FloatArray:
        """``M^-1 B`` for the factors after the first, B (q_r, m)."""
        return self.system.factor.solve(B)

    def information(self) -> list[FloatArray]:
        """``sum_j [Z' V^-1 Z]_jj`` of each factor, (d_k, d_k). The factor is spent afterwards."""
        if not self.system.levels.sizes:
            return [multiply_blocks(self.residual_blocks(), self.system.A).sum(axis=2)]
        return self.information_of(self.system.factor.inverse_cells())

    def residual_blocks(self) -> FloatArray:
        """``D_j = I - A_j G_j``, (d, d, q), with which ``Z_0' V_0^-1 Z_0 = D A``."""
        D = -multiply_blocks(self.system.A, self.G)
        for s in range(self.system.d):
            D[s, s] += 1.0
        return D

    def information_of(self, inverse: FloatArray, extra: Sequence[FloatArray] | None = None) -> list[FloatArray]:
        """:meth:`information` for given cells of ``M^-1``; ``extra`` adds to the sums of its diagonal blocks."""
        system, schur = self.system, self.system.schur
        Q = schur.transposed(schur.scale(self.templates[1:], inverse, transpose=False))
        D = self.residual_blocks()
        D_class = D[:, :, schur.first]
        out = [multiply_blocks(D, system.A).sum(axis=2) - sum_outer(multiply_blocks(D_class, Q), D_class)]
        for k, (total, q_k) in enumerate(zip(self._inverse_blocks(inverse), system.levels.sizes, strict=True)):
            total = total if extra is None else total + extra[k]
            Lambda = self.templates[k + 1]
            left = np.linalg.solve(Lambda.T, q_k * np.eye(len(Lambda)) - total)
            out.append(np.linalg.solve(Lambda.T, left.T))
        return out

    def _inverse_blocks(self, inverse: FloatArray) -> list[FloatArray]:
        """Sums over levels of the diagonal blocks of ``M^-1``, one (d_k, d_k) a factor."""
        schur = self.system.schur
        own = schur.multiplicity == 1.0
        inner = schur.levels.column_in_level()
        rows, columns = schur.rows[own], schur.columns[own]
        factor = np.searchsorted(schur.levels.offsets, rows, side="right") - 1
        out: list[FloatArray] = []
        for k, d in enumerate(schur.levels.widths):
            mine = factor == k
            cell = inner[rows[mine]] * d + inner[columns[mine]]
            total: FloatArray = np.bincount(cell, weights=inverse[own][mine], minlength=d * d).astype(np.float64)
            out.append(total.reshape(d, d))
        return out


@dataclass(frozen=True)
class Solution:
    """The least-squares answers at one theta.

    Attributes
    ----------
    objective, ldL2, ldRX2, pwrss : float
    beta : ndarray, shape (p,)
    RX : ndarray, shape (p, p), lower triangular with ``RX RX' = X' V^-1 X``
    b : Columns of one column, the conditional modes
    score : Columns of one column, ``Z' V^-1 (y - X beta)``
    ZVX : Columns of p columns, ``Z' V^-1 X``
    """

    objective: float
    ldL2: float
    ldRX2: float
    pwrss: float
    beta: FloatArray
    RX: FloatArray
    b: Columns
    score: Columns
    ZVX: Columns


def solve(system: System, elimination: DirectElimination, REML: bool, with_score: bool = True) -> Solution:
    """Fixed effects, conditional modes and the objective (Bates et al. 2015, eq. 33 to 41)."""
    n, p = system.n, system.p
    modes = elimination.modes(system.R)
    V = system.products.RR - system.R.dot(modes)
    RX: FloatArray = np.asarray(np.linalg.cholesky(V[:p, :p]), dtype=np.float64)
    beta = np.linalg.solve(RX.T, np.linalg.solve(RX, V[:p, p]))
    pwrss = float(V[p, p] - V[:p, p] @ beta)
    if not pwrss > 0:
        raise np.linalg.LinAlgError("the residual sum of squares is not positive")
    ldRX2 = float(2.0 * np.log(np.diagonal(RX)).sum())
    df = n - p if REML else n
    objective = elimination.log_determinant + df * (1.0 + np.log(2.0 * np.pi * pwrss / df))
    objective += (ldRX2 if REML else 0.0) - system.products.sum_log_weights
    residual = np.append(-beta, 1.0)[:, None]
    b = modes.combine(residual)
    if with_score:
        projected = system.R - system.multiply(modes)
        score, ZVX = projected.combine(residual), projected.combine(np.eye(p + 1)[:, :p])
    else:
        score, ZVX = b, b
    return Solution(float(objective), elimination.log_determinant, ldRX2, pwrss, beta, RX, b, score, ZVX)


def derivatives(
    system: System, elimination: DirectElimination, at: Solution, parameters: Sequence[Parameter], REML: bool
) -> tuple[FloatArray, FloatArray]:
    """Gradient (m,) and average-information Hessian (m, m) of the objective in theta."""
    df = system.n - system.p if REML else system.n
    templates = elimination.templates
    directions = score_directions(system, at.score, templates, parameters)
    H = _average_information(system, elimination, at, directions, df, REML)
    scores = by_factor(system, at.score)
    information = elimination.information()
    slopes = []
    for k, (E, v) in enumerate(zip(information, scores, strict=True)):
        if REML:
            W = np.asarray(np.linalg.solve(at.RX, by_factor(system, at.ZVX)[k]), dtype=np.float64)  # (d, p, q)
            E = np.asarray(E - sum_outer(W, W))
        slopes.append(E - df / at.pwrss * sum_outer(v, v))
    gradient = np.array([2.0 * slopes[a.block][a.row] @ templates[a.block][:, a.column] for a in parameters])
    for i, a in enumerate(parameters):
        for j, c in enumerate(parameters):
            if a.block == c.block and a.column == c.column:
                H[i, j] += 2.0 * slopes[a.block][a.row, c.row]
    return gradient, H


def score_directions(
    system: System, score: Columns, templates: Sequence[FloatArray], parameters: Sequence[Parameter]
) -> Columns:
    """``(d Omega / d theta_a) score`` for every parameter, as m columns."""
    factors = by_factor(system, score)
    out = [np.zeros((v.shape[0], len(parameters), v.shape[2])) for v in factors]
    for i, a in enumerate(parameters):
        v, column = factors[a.block][:, 0], templates[a.block][:, a.column]
        out[a.block][a.row, i] += column @ v
        out[a.block][:, i] += np.outer(column, v[a.row])
    return Columns(out[0], _stack_level_major(out[1:], len(parameters)))


def _average_information(
    system: System, elimination: DirectElimination, at: Solution, e: Columns, df: int, REML: bool
) -> FloatArray:
    """``(df / r^2) (e' Z'PZ e - q q' / r^2)`` with ``q_a = score' e_a``: see the module's notes."""
    t = system.multiply(e)
    information = e.dot(t) - t.dot(elimination.modes(t))
    if REML:
        W = np.linalg.solve(at.RX, at.ZVX.dot(e))
        information = information - W.T @ W
    q = at.score.dot(e)[0]
    H = df / at.pwrss * (information - np.outer(q, q) / at.pwrss)
    return np.asarray(0.5 * (H + H.T))


def by_factor(system: System, columns: Columns) -> list[FloatArray]:
    """The columns factor by factor, each (d_k, m, q_k)."""
    out = [columns.first]
    offsets = system.levels.offsets
    for k, (d, q) in enumerate(zip(system.levels.widths, system.levels.sizes, strict=True)):
        part = columns.rest[offsets[k] : offsets[k + 1]].reshape(q, d, -1)
        out.append(np.ascontiguousarray(part.transpose(1, 2, 0)))
    return out


def _stack_level_major(parts: Sequence[FloatArray], m: int) -> FloatArray:
    """(d_k, m, q_k) arrays as one (sum q_k d_k, m), level by level."""
    if not parts:
        return np.empty((0, m))
    return np.concatenate([part.transpose(2, 0, 1).reshape(-1, m) for part in parts])


def _rest_products(products: CrossProducts) -> sp.csr_array:
    """``Z_r' Z_r`` of the factors after the first, (q_r, q_r), level-major."""
    rest = list(range(1, len(products.ZZ)))
    grid: list[list[sp.sparray | None]] = [[None] * len(rest) for _ in rest]
    for i, k in enumerate(rest):
        grid[i][i] = _block_diagonal(products.ZZ[k])
        for j, m in enumerate(rest[i + 1 :], start=i + 1):
            d, q = products.ZZ[k].shape[1:]
            table = products.cross[k, m].tocoo()  # its columns are (column, level): make them (level, column)
            column = (table.col % q) * d + table.col // q
            level_major = sp.coo_array((table.data, (table.row, column)), shape=table.shape).tocsr()
            grid[j][i], grid[i][j] = level_major, level_major.T
    return sp.block_array(grid, format="csr")


def _block_diagonal(blocks: FloatArray) -> sp.csr_array:
    """(d, d, q) blocks as one sparse matrix, zeros inside the blocks kept."""
    d, _, q = blocks.shape
    columns = np.arange(q * d).reshape(q, 1, d).repeat(d, axis=1)
    return sp.csr_array(
        (np.ascontiguousarray(blocks.transpose(2, 0, 1)).ravel(), columns.ravel(), np.arange(0, q * d * d + 1, d)),
        shape=(q * d, q * d),
    )
