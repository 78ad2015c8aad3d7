"""Linear algebra of many small symmetric blocks at once, levels last: arrays (d, d, q) for q blocks d by d."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def shrinkage_blocks(A: FloatArray, Lambda: FloatArray) -> tuple[FloatArray, float]:
    """``G_j = Lambda (Lambda' A_j Lambda + I)^-1 Lambda'`` for every level and the sum of the log-determinants.

    Parameters
    ----------
    A : ndarray, shape (d, d, q)
        Symmetric blocks.
    Lambda : ndarray, shape (d, d)
        Common lower triangular template; it may be singular.

    Returns
    -------
    G : ndarray, shape (d, d, q)
    log_determinant : float
        Of all blocks ``Lambda' A_j Lambda + I`` together.
    """
    d, _, q = A.shape
    if d == 1:
        variance = Lambda[0, 0] ** 2
        scaled = variance * A[0, 0]
        return (variance / (1.0 + scaled))[None, None], float(np.log1p(scaled).sum())
    M = np.tensordot(Lambda, (Lambda.T @ A.reshape(d, d * q)).reshape(d, d, q), axes=(0, 1)).transpose(1, 0, 2)
    M = np.ascontiguousarray(M)
    for s in range(d):
        M[s, s] += 1.0
    L = cholesky_blocks(M)
    half = forward_solve_blocks(L, np.broadcast_to(Lambda.T[:, :, None], (d, d, q)))
    log_determinant = 2.0 * sum(float(np.log(L[s, s]).sum()) for s in range(d))
    return multiply_blocks(half.transpose(1, 0, 2), half), log_determinant


def cholesky_blocks(M: FloatArray) -> FloatArray:
    """Lower Cholesky factors of positive definite blocks, shape (d, d, q); the upper triangle is not set."""
    d = M.shape[0]
    L = np.empty_like(M)
    for t in range(d):
        pivot = M[t, t].copy()
        for r in range(t):
            pivot -= L[t, r] ** 2
        L[t, t] = np.sqrt(pivot)
        for s in range(t + 1, d):
            entry = M[s, t].copy()
            for r in range(t):
                entry -= L[s, r] * L[t, r]
            L[s, t] = entry / L[t, t]
    return L


def forward_solve_blocks(L: FloatArray, B: FloatArray) -> FloatArray:
    """``L_j^-1 B_j`` for lower triangular blocks (d, d, q) and right sides (d, m, q)."""
    out = np.empty(B.shape)
    for s in range(L.shape[0]):
        row = B[s].copy()
        for r in range(s):
            row -= L[s, r] * out[r]
        out[s] = row / L[s, s]
    return out


def multiply_blocks(A: FloatArray, B: FloatArray) -> FloatArray:
    """``A_j B_j`` for blocks (d, e, q) and (e, m, q); shape (d, m, q)."""
    d, e = A.shape[:2]
    if d == 1 and e == 1:
        return A[0, 0] * B
    out = np.empty((d, B.shape[1], B.shape[2]))
    for s in range(d):
        row = A[s, 0] * B[0]
        for r in range(1, e):
            row += A[s, r] * B[r]
        out[s] = row
    return out


def sum_outer(A: FloatArray, B: FloatArray) -> FloatArray:
    """``sum_j A_j B_j'`` of columns (d, m, q) and (e, m, q), summed over m too; shape (d, e)."""
    return np.asarray(A.reshape(A.shape[0], -1) @ B.reshape(B.shape[0], -1).T)
