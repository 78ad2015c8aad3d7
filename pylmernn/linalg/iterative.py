"""Conjugate gradients for the factors that are left when they are too many for a dense factor.

``M = Lambda' S Lambda + I`` is only multiplied with vectors. Its log-determinant comes from stochastic Lanczos
quadrature (Ubaru, Chen & Saad 2017), whose tridiagonal matrices conjugate gradients produce on the way. Sampling noise
is kept small by four means: the matrix is scaled to unit diagonal, M = D^1/2 (I + E) D^1/2; the first two terms of the
series of log(I + E) are summed exactly from the cells of E; the mean direction of each factor, where the spectrum has
its outliers, is treated exactly; the probing vectors are the same at every theta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.linalg.schur import RestLevels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Krylov:
    """Solutions of ``(I + E) X = B`` and what Lanczos quadrature needs.

    Attributes
    ----------
    X : ndarray, shape (q_r, m)
    alpha, beta : ndarray, shape (steps, m)
        Step lengths and residual ratios of conjugate gradients; nan after a column converged.
    """

    X: FloatArray
    alpha: FloatArray
    beta: FloatArray


def conjugate_gradients(
    multiply: Callable[[FloatArray], FloatArray], B: FloatArray, tolerance: float = 1e-10, max_steps: int = 1000
) -> Krylov:
    """Solve for all columns of B (q_r, m) at once; a column stops at its own relative residual ``tolerance``.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a column has not converged after ``max_steps``.
    """
    X = np.zeros_like(B)
    residual, direction = B.copy(), B.copy()
    norm = np.einsum("am,am->m", residual, residual)
    goal = tolerance**2 * norm
    alphas: list[FloatArray] = []
    betas: list[FloatArray] = []
    active = norm > 0
    for _ in range(max_steps):
        if not active.any():
            return Krylov(X, np.array(alphas).reshape(-1, B.shape[1]), np.array(betas).reshape(-1, B.shape[1]))
        image = multiply(direction)
        curvature = np.einsum("am,am->m", direction, image)
        alpha = np.where(active, norm / np.where(active, curvature, 1.0), 0.0)
        X += alpha * direction
        residual -= alpha * image
        new_norm = np.einsum("am,am->m", residual, residual)
        beta = np.where(active, new_norm / np.where(active, norm, 1.0), 0.0)
        alphas.append(np.where(active, alpha, np.nan))
        betas.append(np.where(active, beta, np.nan))
        active = active & (new_norm > goal)
        direction = residual + beta * direction
        norm = new_norm
    raise np.linalg.LinAlgError(f"conjugate gradients did not converge in {max_steps} steps")


def lanczos_quadrature(function: Callable[[FloatArray], FloatArray], krylov: Krylov, B: FloatArray) -> FloatArray:
    """``b' f(I + E) b`` for each column b of B, by Gauss quadrature on the Lanczos tridiagonal matrix; shape (m,)."""
    out = np.empty(B.shape[1])
    norms = np.einsum("am,am->m", B, B)
    for j in range(B.shape[1]):
        steps = int(np.isfinite(krylov.alpha[:, j]).sum())
        alpha, beta = krylov.alpha[:steps, j], krylov.beta[:steps, j]
        T = np.diag(1.0 / alpha)
        for i in range(1, steps):
            T[i, i] += beta[i - 1] / alpha[i - 1]
            T[i, i - 1] = T[i - 1, i] = np.sqrt(beta[i - 1]) / alpha[i - 1]
        nodes, vectors = np.linalg.eigh(T)
        out[j] = norms[j] * (vectors[0] ** 2 @ function(nodes))
    return out


class Probes:
    """Vectors whose quadratic forms estimate traces: factor means with weight 1, random signs beside them.

    Parameters
    ----------
    levels : RestLevels
    count : int
        Random vectors.
    seed : int
    """

    def __init__(self, levels: RestLevels, count: int, seed: int) -> None:
        self.signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(levels.n_columns, count))
        offsets = levels.offsets
        columns = []
        for k, (d, q) in enumerate(zip(levels.widths, levels.sizes, strict=True)):
            for s in range(d):
                indicator = np.zeros(levels.n_columns)
                indicator[np.arange(offsets[k] + s, offsets[k] + q * d, d)] = 1.0
                columns.append(indicator)
        self.means = np.column_stack(columns)

    def vectors(self, scale: FloatArray) -> tuple[FloatArray, int]:
        """``[W, P z]`` (q_r, m) for the scaled mean directions W, orthonormal, and how many of them are W."""
        W, _ = np.linalg.qr(self.means * scale[:, None])
        return np.concatenate([W, self.signs - W @ (W.T @ self.signs)], axis=1), W.shape[1]


class IterativeRest:
    """M by products with vectors: the answers of :class:`pylmernn.linalg.rest.DenseRest`, traces by estimate.

    Parameters
    ----------
    rows, columns : ndarray of int, shape (n_cells,)
        Cells of M, each pair of levels once.
    multiplicity : ndarray, shape (n_cells,)
        2 for cells that stand for their mirror image too.
    probes : Probes
    """

    def __init__(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], multiplicity: FloatArray, probes: Probes
    ) -> None:
        self._rows, self._columns, self._multiplicity, self._probes = rows, columns, multiplicity, probes
        self._diagonal = np.flatnonzero(rows == columns)
        self._order = rows[self._diagonal]
        self.error = 0.0

    def factor(self, cells: FloatArray, multiply: Callable[[FloatArray], FloatArray]) -> float:
        """Estimate ``log |M|`` from the cells of ``M - I`` and the product with M; ``error`` is its standard error."""
        D = np.empty(len(self._order))
        D[self._order] = 1.0 + cells[self._diagonal]
        self.D, self._half = D, 1.0 / np.sqrt(D)
        E = cells * self._half[self._rows] * self._half[self._columns]
        E[self._diagonal] = 0.0
        self.E = E
        self._multiply = lambda v: self._half[:, None] * multiply(self._half[:, None] * v)
        self.Z, self.n_exact = self._probes.vectors(np.sqrt(D))
        self.krylov = conjugate_gradients(self._multiply, self.Z, tolerance=1e-7)
        forms = lanczos_quadrature(lambda x: np.log(x) - (x - 1.0) + 0.5 * (x - 1.0) ** 2, self.krylov, self.Z)
        sampled = forms[self.n_exact :]
        self.error = float(sampled.std(ddof=1) / np.sqrt(len(sampled)))
        squares = float((E**2 * self._multiplicity).sum())
        return float(np.log(D).sum() - 0.5 * squares + forms[: self.n_exact].sum() + sampled.mean())

    def solve(self, B: FloatArray) -> FloatArray:
        """``M^-1 B`` for B (q_r, m)."""
        half = self._half[:, None]
        return np.asarray(half * conjugate_gradients(self._multiply, half * B).X)

    def first_order_inverse(self) -> FloatArray:
        """Cells of ``D^-1/2 (I - E) D^-1/2``, the exact part of ``M^-1``."""
        out = -self.E * self._half[self._rows] * self._half[self._columns]
        out[self._diagonal] = self._half[self._order] ** 2
        return np.asarray(out)

    def remainder(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Probes z, images ``y = E (I + E)^-1 E z``, both times D^-1/2, and the weights of their products.

        ``sum_i weight_i (z_i' B y_i)`` estimates the trace of B times what :meth:`first_order_inverse` leaves out.
        """
        gap = self.Z - self.krylov.X
        y = self._multiply(gap) - gap
        weights = np.ones(self.Z.shape[1])
        weights[self.n_exact :] = 1.0 / (self.Z.shape[1] - self.n_exact)
        return self._half[:, None] * self.Z, self._half[:, None] * y, weights


def level_sums(levels: RestLevels, left: FloatArray, right: FloatArray, weights: FloatArray) -> list[FloatArray]:
    """``sum_i weight_i sum_j left_ji right_ji'`` over the levels j of each factor: (d_k, d_k) each."""
    out = []
    offsets = levels.offsets
    for k, (d, q) in enumerate(zip(levels.widths, levels.sizes, strict=True)):
        rows = slice(offsets[k], offsets[k + 1])
        one, two = (v[rows].reshape(q, d, -1) for v in (left, right))
        block = np.einsum("jsm,jtm,m->st", one, two, weights, optimize=True)
        out.append(0.5 * (block + block.T))
    return out
