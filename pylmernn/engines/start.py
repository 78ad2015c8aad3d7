"""Where the search for theta starts: variance components from moments, all factors at once.

Quadratic forms as in an analysis of variance, ``r' Z_c D_c^-1 Z_c' r`` with r the OLS residuals and ``D_c`` the
diagonal of ``Z_c' Z_c``, are set equal to their expectations under independent columns (in the spirit of Henderson's
methods; Searle, Casella & McCulloch 1992, chapter 5). From cross-products alone this costs less than one evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.pls import Parameter
from pylmernn.linalg.crossproducts import CrossProducts

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _Component:
    """One column of one grouping factor: sizes ``Z'Z`` (q,), sums ``Z'r`` (q,) and ``H = Z'X (X'X)^-1/2`` (p, q)."""

    factor: int
    column: int
    size: FloatArray
    sums: FloatArray
    H: FloatArray


def moment_start(products: CrossProducts, parameters: Sequence[Parameter]) -> FloatArray:
    """A start for theta (m,): Cholesky factors of relative covariances estimated from moments.

    Parameters
    ----------
    products : CrossProducts
        Of working columns, whose response is the OLS residual.
    parameters : sequence of Parameter, length m
    """
    p = len(products.RR) - 1
    half = np.linalg.cholesky(products.RR[:p, :p])
    components = [
        _Component(f, s, ZZ[s, s], ZR[s, p], np.asarray(np.linalg.solve(half, ZR[s, :p]), dtype=np.float64))
        for f, (ZZ, ZR) in enumerate(zip(products.ZZ, products.ZR, strict=True))
        for s in range(len(ZZ))
    ]
    m = len(components)
    left, right = np.empty((m + 1, m + 1)), np.empty(m + 1)
    for i, c in enumerate(components):
        weight = 1.0 / np.where(c.size > 0, c.size, np.inf)
        right[i] = (c.sums**2 * weight).sum()
        own = np.maximum(c.size - (c.H**2).sum(axis=0), 0.0)
        left[i, m] = (own * weight).sum()
        left[m, i] = own.sum()
        for j, other in enumerate(components):
            left[i, j] = _squares(products, c, other, weight)
    left[m, m], right[m] = products.n - p, products.RR[p, p]
    variances = np.linalg.lstsq(left, right, rcond=1e-10)[0]
    total = float(right[m]) / products.n
    residual = max(float(variances[m]), 0.05 * total)
    least = [0.01 * total / max(float(c.size.sum()) / products.n, 1e-12) for c in components]
    Omega = [np.zeros((len(ZZ), len(ZZ))) for ZZ in products.ZZ]
    for c, variance, smallest in zip(components, variances[:m], least, strict=True):
        Omega[c.factor][c.column, c.column] = max(float(variance), smallest) / residual
    for a in parameters:
        if a.row != a.column:
            covariance = _covariance(products, a, Omega[a.block], residual)
            Omega[a.block][a.row, a.column] = Omega[a.block][a.column, a.row] = covariance
    Lambda = [_factor(matrix) for matrix in Omega]
    return np.array([Lambda[a.block][a.row, a.column] for a in parameters])


def _covariance(products: CrossProducts, a: Parameter, Omega: FloatArray, residual: float) -> float:
    """Relative covariance of two columns from their products of sums, given the variances; correlation at most 0.9."""
    s, t = a.row, a.column
    ZZ, sums = products.ZZ[a.block], products.ZR[a.block][:, -1]
    both, mixed = ZZ[s, s] * ZZ[t, t], ZZ[s, t]
    weight = np.sqrt(np.divide(1.0, both, out=np.zeros_like(both), where=both > 0))
    known = mixed * (ZZ[s, s] * Omega[s, s] + ZZ[t, t] * Omega[t, t] + 1.0)
    size = float((weight * (both + mixed**2)).sum())
    covariance = float((weight * (sums[s] * sums[t] / residual - known)).sum()) / size if size > 0 else 0.0
    bound = 0.9 * float(np.sqrt(Omega[s, s] * Omega[t, t]))
    return min(max(covariance, -bound), bound)


def _factor(Omega: FloatArray) -> FloatArray:
    """Lower Cholesky factor; covariances are halved until the matrix is positive definite."""
    diagonal = np.diag(np.diagonal(Omega))
    while True:
        try:
            return np.asarray(np.linalg.cholesky(Omega), dtype=np.float64)
        except np.linalg.LinAlgError:
            Omega = 0.5 * (Omega + diagonal)


def _squares(products: CrossProducts, c: _Component, other: _Component, weight: FloatArray) -> float:
    """``sum_jk (Z_c' M Z_other)_jk^2 weight_j`` with M the projection off X."""
    spread = float(np.sum(((c.H * weight) @ c.H.T) * (other.H @ other.H.T)))
    if c.factor == other.factor:
        A = products.ZZ[c.factor][c.column, other.column]
        return float((A**2 * weight).sum() - 2.0 * (A * weight * (c.H * other.H).sum(axis=0)).sum()) + spread
    first, second = (c, other) if c.factor < other.factor else (other, c)
    q, d = len(first.size), products.ZZ[second.factor].shape[0]
    rows = slice(second.column, None, d)
    table = products.cross[first.factor, second.factor][rows, first.column * q : (first.column + 1) * q].tocoo()
    level, eliminated = table.row, table.col
    at, at_other = (eliminated, level) if c is first else (level, eliminated)
    inner = np.einsum("pi,pi->i", c.H[:, at], other.H[:, at_other])
    return float(np.sum(weight[at] * table.data * (table.data - 2.0 * inner))) + spread
