"""The positive definite matrix ``M = Lambda' S Lambda + I`` of the factors that are left after the first elimination.

Dense where its levels hang together, one small dense block for each component where they do not (nested factors,
schools that share no teacher). Both answer the same four questions: log-determinant, solve, and for the gradient the
cells of the inverse and the sums of its diagonal blocks.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from pylmernn.linalg.schur import SchurMap

FloatArray = NDArray[np.float64]

CALL = 50_000  # operations on small blocks that take as long as one more call
WORTH_A_GPU = 2000  # columns from which sending the cells to a GPU pays


class RestFactor(Protocol):
    """A factored M; see :class:`DenseRest`."""

    def factor(self, cells: FloatArray) -> float:
        """Factor ``I +`` the cells; returns the log-determinant."""
        ...

    def solve(self, B: FloatArray) -> FloatArray:
        """``M^-1 B``."""
        ...

    def inverse_cells(self) -> FloatArray:
        """Cells of ``M^-1``; the factor is spent."""
        ...


class DenseRest:
    """M as one dense matrix, factored and inverted in place.

    Parameters
    ----------
    schur : SchurMap
        Where the cells of M go.
    """

    def __init__(self, schur: SchurMap) -> None:
        q = schur.levels.n_columns
        self._q = q
        high, low = np.maximum(schur.rows, schur.columns), np.minimum(schur.rows, schur.columns)
        self._position = high * q + low  # the upper triangle of a Fortran matrix
        self._buffer = np.empty(q * q)
        self._M = self._buffer.reshape(q, q).T

    def factor(self, cells: FloatArray) -> float:
        """Cholesky factor of ``I +`` the cells; returns the log-determinant."""
        self._buffer.fill(0.0)
        self._buffer[self._position] = cells
        self._buffer[:: self._q + 1] += 1.0
        self._M, info = lapack.dpotrf(self._M, lower=0, clean=0, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError("the penalized cross-products are not positive definite")
        return float(2.0 * np.log(np.diagonal(self._M)).sum())

    def solve(self, B: FloatArray) -> FloatArray:
        """``M^-1 B`` for B (q_r, m)."""
        return np.asarray(lapack.dpotrs(self._M, B, lower=0)[0])

    def inverse_cells(self) -> FloatArray:
        """Cells of ``M^-1``; the factor is overwritten by the inverse, so this comes last."""
        self._M, _ = lapack.dpotri(self._M, lower=0, overwrite_c=1)
        return self._buffer[self._position]


class TorchRest:
    """M as one dense matrix on a torch device, for a GPU; the answers of :class:`DenseRest`.

    Parameters
    ----------
    schur : SchurMap
    device : str
        ``"cuda"``, ``"cuda:1"``, or ``"cpu"``, which is for tests: OpenBLAS is faster there.
    """

    def __init__(self, schur: SchurMap, device: str) -> None:
        import torch

        self._torch, self._q = torch, schur.levels.n_columns
        high, low = np.maximum(schur.rows, schur.columns), np.minimum(schur.rows, schur.columns)
        self._position = torch.from_numpy(high * self._q + low).to(device)  # the lower triangle
        self._device = device

    def _to(self, values: FloatArray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def factor(self, cells: FloatArray) -> float:
        """Cholesky factor of ``I +`` the cells; returns the log-determinant."""
        torch = self._torch
        M = torch.zeros((self._q, self._q), dtype=torch.float64, device=self._device)
        M.view(-1)[self._position] = self._to(cells)
        M.diagonal().add_(1.0)
        self._L, info = torch.linalg.cholesky_ex(M)
        if int(info):
            raise np.linalg.LinAlgError("the penalized cross-products are not positive definite")
        return float(2.0 * self._L.diagonal().log().sum())

    def solve(self, B: FloatArray) -> FloatArray:
        """``M^-1 B`` for B (q_r, m)."""
        return np.asarray(self._torch.cholesky_solve(self._to(B), self._L).cpu().numpy())

    def inverse_cells(self) -> FloatArray:
        """Cells of ``M^-1``."""
        inverse = self._torch.cholesky_inverse(self._L)
        return np.asarray(inverse.reshape(-1)[self._position].cpu().numpy())


class ComponentRest:
    """M as the dense blocks of its connected components, those of like size factored together.

    Parameters
    ----------
    schur : SchurMap
    labels : ndarray of int, shape (q_r,)
        Component of each column.
    """

    def __init__(self, schur: SchurMap, labels: NDArray[np.int32]) -> None:
        self._q = schur.levels.n_columns
        size = np.bincount(labels)
        padded = np.unique(size)[np.searchsorted(np.unique(size), size)]
        if len(np.unique(size)) > 40:  # few different shapes: pad to the next of a geometric grid
            grid = np.unique(np.ceil(1.25 ** np.arange(1, 60)).astype(int))
            padded = grid[np.searchsorted(grid, size)]
        if len(size) * int(size.max()) ** 3 <= CALL * len(np.unique(padded)):
            padded = np.full(len(size), size.max())
        order = np.argsort(labels, kind="stable")
        within = np.empty(self._q, dtype=np.int64)
        within[order] = np.arange(self._q) - np.repeat(np.cumsum(size) - size, size)
        offset = np.empty(len(size), dtype=np.int64)
        self._buckets: list[tuple[int, int, int]] = []  # start, number of blocks, their size
        self._row = np.empty(self._q, dtype=np.int64)  # place of each column in the stacked right sides
        start = rows = 0
        for m in np.unique(padded):
            members = np.flatnonzero(padded == m)
            rank = np.full(len(size), -1)
            rank[members] = np.arange(len(members))
            offset[members] = start + rank[members] * m * m
            mine = rank[labels] >= 0
            self._row[mine] = rows + rank[labels[mine]] * m + within[mine]
            self._buckets.append((start, len(members), int(m)))
            start += len(members) * m * m
            rows += len(members) * m
        self._n_rows = int(rows)
        self._values = np.empty(int(start))
        edge = padded[labels[schur.rows]]
        self._position = offset[labels[schur.rows]] + within[schur.rows] * edge + within[schur.columns]
        self._mirror = offset[labels[schur.rows]] + within[schur.columns] * edge + within[schur.rows]
        self._L: list[FloatArray] = []
        self._halves: list[FloatArray] | None = None

    def _inverse_factors(self) -> list[FloatArray]:
        """``L^-1`` of each block, found once: small blocks are solved many times, and products are cheaper."""
        if self._halves is None:
            self._halves = [np.asarray(np.linalg.inv(L), dtype=np.float64) for L in self._L]
        return self._halves

    def _blocks(self) -> list[FloatArray]:
        return [self._values[start : start + k * m * m].reshape(k, m, m) for start, k, m in self._buckets]

    def factor(self, cells: FloatArray) -> float:
        """Cholesky factors of ``I +`` the cells; returns the log-determinant."""
        self._values.fill(0.0)
        self._values[self._position] = cells
        self._values[self._mirror] = cells
        log_determinant = 0.0
        self._L, self._halves = [], None
        for block in self._blocks():
            np.einsum("jss->js", block)[...] += 1.0
            L = np.asarray(np.linalg.cholesky(block), dtype=np.float64)
            log_determinant += 2.0 * float(np.log(np.einsum("jss->js", L)).sum())
            self._L.append(L)
        return log_determinant

    def solve(self, B: FloatArray) -> FloatArray:
        """``M^-1 B`` for B (q_r, m)."""
        stacked = np.zeros((self._n_rows, B.shape[1]))
        stacked[self._row] = B
        start = 0
        for half, (_, k, m) in zip(self._inverse_factors(), self._buckets, strict=True):
            part = stacked[start : start + k * m].reshape(k, m, -1)
            stacked[start : start + k * m] = (half.transpose(0, 2, 1) @ (half @ part)).reshape(k * m, -1)
            start += k * m
        return stacked[self._row]

    def inverse_cells(self) -> FloatArray:
        """Cells of ``M^-1``."""
        for half, block in zip(self._inverse_factors(), self._blocks(), strict=True):
            block[...] = half.transpose(0, 2, 1) @ half
        return self._values[self._position]


def rest_factor(schur: SchurMap, device: str = "cpu") -> DenseRest | TorchRest | ComponentRest:
    """The form that suits the pattern of M: components where the largest is at most half of it, else dense.

    ``device`` is where a dense one is factored; ``"auto"`` is CUDA where there is one and M is large enough to gain.
    """
    q = schur.levels.n_columns
    graph = sp.coo_array((np.ones(len(schur.rows), dtype=np.int8), (schur.rows, schur.columns)), shape=(q, q))
    count, labels = sp.csgraph.connected_components(graph, directed=False)
    if count > 1 and np.bincount(labels).max() <= q / 2:
        return ComponentRest(schur, labels)
    if device == "auto":
        device = "cuda" if q >= WORTH_A_GPU and _cuda_available() else "cpu"
    return DenseRest(schur) if device == "cpu" else TorchRest(schur, device)


def _cuda_available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
