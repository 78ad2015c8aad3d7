"""The Schur complement of :mod:`pylmernn.linalg.schur` where few levels are left and most of them meet: dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pylmernn.linalg.schur import RestLevels, lay_out, scale_cells

FloatArray = NDArray[np.float64]


class DenseSchur:
    """The answers of :class:`pylmernn.linalg.schur.SchurMap` from a dense C; the values may change, the shapes not.

    Parameters
    ----------
    levels : RestLevels
    d, q : int
        Columns and levels of the eliminated factor.

    Attributes
    ----------
    C : ndarray, shape (q_r, d, q)
    A_rr : ndarray, shape (q_r, q_r)
    """

    def __init__(self, levels: RestLevels, d: int, q: int) -> None:
        self.levels, self.d, self.q = levels, d, q
        level = levels.level_of_column()
        rows, columns = (index.astype(np.int64) for index in np.nonzero(level[:, None] >= level[None, :]))
        layout = lay_out(levels, rows, columns, rows, columns)
        self.rows, self.columns, self.kinds = layout.rows, layout.columns, layout.kinds
        same = level[self.rows] == level[self.columns]
        self.multiplicity = np.where(same, 1.0, 2.0)
        self.first = np.arange(q)
        self.C = np.zeros((levels.n_columns, d, q))
        self.A_rr = np.zeros((levels.n_columns, levels.n_columns))

    def cells(self, G: FloatArray) -> FloatArray:
        """The cells of S for shrinkage blocks G (d, d, q)."""
        flat = self.C.reshape(len(self.C), -1)
        CG = self.C * G[0, 0] if self.d == 1 else np.einsum("asj,stj->atj", self.C, G, optimize=True)
        S = self.A_rr - CG.reshape(len(self.C), -1) @ flat.T
        return np.asarray(S[self.rows, self.columns])

    def values(self, K: FloatArray) -> FloatArray:
        """The symmetric matrix (q_r, q_r) of the cells of K."""
        dense = np.zeros_like(self.A_rr)
        dense[self.rows, self.columns] = K
        dense[self.columns, self.rows] = K
        return dense

    def products(self, K: FloatArray) -> FloatArray:
        """``K C_j`` for the cells of K, (q_r, d, q)."""
        return (self.values(K) @ self.C.reshape(len(self.C), -1)).reshape(self.C.shape)

    def transposed(self, K: FloatArray) -> FloatArray:
        """``C_j' K C_j`` of every level, (d, d, q), from the cells of K."""
        return np.asarray(np.einsum("asj,atj->stj", self.C, self.products(K), optimize=True))

    def scale(self, templates: Sequence[FloatArray], cells: FloatArray, transpose: bool) -> FloatArray:
        """Cells of ``Lambda' S Lambda`` (``transpose=True``) or of ``Lambda S Lambda'``."""
        return scale_cells(self, templates, cells, transpose)
