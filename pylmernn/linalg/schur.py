"""What remains of the cross-products once the largest factor is eliminated, as a linear map of its blocks.

With ``G_j`` the shrinkage block of level j of the eliminated factor (:mod:`pylmernn.linalg.smallblocks`), the Schur
complement of the rest is ``S = A_rr - sum_j C_j G_j C_j'``. Which cells of S are not zero, and with which products of
entries of C each ``G_j`` enters them, does not change while a model is fitted. :func:`schur_map` lists them once, as a
sparse matrix P with ``S[cells] = a - P g``; the gradient needs the transposed map, ``P' K[cells]``. Levels whose blocks
``A_j`` are equal share one ``g`` and are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MERGED_CLASSES = 512  # above this many different blocks, merging levels saves nothing


@dataclass(frozen=True)
class RestLevels:
    """How the columns of the rest are made of levels.

    Attributes
    ----------
    widths : tuple of int
        Columns d_k of each remaining grouping factor.
    sizes : tuple of int
        Levels q_k of each.
    """

    widths: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def n_columns(self) -> int:
        """Columns of the rest, q_r."""
        return sum(d * q for d, q in zip(self.widths, self.sizes, strict=True))

    @cached_property
    def offsets(self) -> list[int]:
        """First column of each factor, and the number of columns."""
        return [0, *np.cumsum([d * q for d, q in zip(self.widths, self.sizes, strict=True)]).tolist()]

    def level_of_column(self) -> NDArray[np.int64]:
        """Running number of the level that each column belongs to, shape (q_r,)."""
        return np.repeat(np.arange(sum(self.sizes)), np.repeat(self.widths, self.sizes))

    def column_in_level(self) -> NDArray[np.int64]:
        """Place of each column within its level, shape (q_r,)."""
        return np.concatenate([np.tile(np.arange(d), q) for d, q in zip(self.widths, self.sizes, strict=True)])

    def multiply(self, templates: Sequence[FloatArray], B: FloatArray, transpose: bool = False) -> FloatArray:
        """``Lambda B`` (or ``Lambda' B``) for one template (d_k, d_k) a factor and B (q_r, m)."""
        out = np.empty_like(B)
        offsets = self.offsets
        for k, Lambda in enumerate(templates):
            rows = slice(offsets[k], offsets[k + 1])
            if self.widths[k] == 1:
                out[rows] = Lambda[0, 0] * B[rows]
            else:
                left = Lambda.T if transpose else Lambda
                by_level = B[rows].reshape(self.sizes[k], self.widths[k], -1)
                out[rows] = (left @ by_level).reshape(len(by_level) * self.widths[k], -1)
        return out


@dataclass(frozen=True)
class SchurMap:
    """``S[rows, columns] = a - P g`` on the cells of the Schur complement that can differ from zero.

    Cells come as whole pairs of levels, the first level not before the second. Cells of one kind, a pair of factors
    (k, l), are stored together as (d_k, d_l, pairs), so that templates multiply all of them at once.

    Attributes
    ----------
    levels : RestLevels
    rows, columns : ndarray of int, shape (n_cells,)
    a : ndarray, shape (n_cells,)
        Cells of ``A_rr``.
    P : csr_array, shape (n_cells, n_g)
    kinds : tuple of (k, l, start, stop)
        Which cells belong to which pair of factors; empty where every factor has one column.
    first : ndarray of int, shape (n_classes,)
        One level of the eliminated factor for each class of levels with equal blocks.
    d : int
        Columns of the eliminated factor; n_g is n_classes d (d + 1) / 2.
    """

    levels: RestLevels
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    multiplicity: FloatArray
    a: FloatArray
    P: sp.csr_array
    P_transposed: sp.csr_array
    kinds: tuple[tuple[int, int, int, int], ...]
    first: NDArray[np.intp]
    d: int

    def cells(self, G: FloatArray) -> FloatArray:
        """The cells of S for shrinkage blocks G (d, d, q)."""
        if self.d == 1:
            return np.asarray(self.a - self.P @ G[0, 0, self.first])
        upper = np.triu_indices(self.d)
        return np.asarray(self.a - self.P @ G[upper[0], upper[1]][:, self.first].ravel())

    def transposed(self, K: FloatArray) -> FloatArray:
        """``Q_c``, the sum of ``C_j' K C_j`` over the levels j of class c, (d, d, n_classes), from the cells of K."""
        values = (self.P_transposed @ (K * self.multiplicity)).reshape(-1, len(self.first))
        Q = np.empty((self.d, self.d, len(self.first)))
        for value, s, t in zip(values, *np.triu_indices(self.d), strict=True):
            Q[s, t] = Q[t, s] = value if s == t else 0.5 * value
        return Q

    def scale(self, templates: Sequence[FloatArray], cells: FloatArray, transpose: bool) -> FloatArray:
        """Cells of ``Lambda' S Lambda`` (``transpose=True``) or of ``Lambda S Lambda'``."""
        return scale_cells(self, templates, cells, transpose)


class Cells(Protocol):
    """Cells of the Schur complement; see :class:`SchurMap`."""

    @property
    def levels(self) -> RestLevels:
        """The levels that are left."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each cell."""
        ...

    @property
    def columns(self) -> NDArray[np.int64]:
        """Column of each cell."""
        ...

    @property
    def kinds(self) -> tuple[tuple[int, int, int, int], ...]:
        """Which cells belong to which pair of factors."""
        ...


def scale_cells(at: Cells, templates: Sequence[FloatArray], cells: FloatArray, transpose: bool) -> FloatArray:
    """Cells of ``Lambda' S Lambda`` (``transpose=True``) or of ``Lambda S Lambda'``."""
    if not at.kinds:
        relative = np.repeat([Lambda[0, 0] for Lambda in templates], at.levels.sizes)
        return np.asarray(cells * relative[at.rows] * relative[at.columns])
    out = np.empty_like(cells)
    for k, m, start, stop in at.kinds:
        left, right = (templates[k].T, templates[m]) if transpose else (templates[k], templates[m].T)
        block = cells[start:stop].reshape(len(left), len(right), -1)
        block = np.einsum("ab,bcj,cd->adj", left, block, right, optimize=True)
        out[start:stop] = block.ravel()
    return out


def schur_map(A: FloatArray, C: sp.csr_array, A_rr: sp.csr_array, levels: RestLevels) -> SchurMap:
    """List the cells.

    Parameters
    ----------
    A : ndarray, shape (d, d, q)
        Blocks of the eliminated factor.
    C : csr_array, shape (q_r, d q)
        Cross-products of the rest with it; columns are (column, level).
    A_rr : csr_array, shape (q_r, q_r)
        Cross-products of the rest.
    levels : RestLevels
    """
    d, _, q = A.shape
    level = levels.level_of_column()
    classes, first = _classes(A) if d == 1 else (None, np.arange(q))
    if classes is not None and len(first) <= MERGED_CLASSES:
        rows, columns, index, values = _merged_pairs(C, classes, len(first), level)
    else:
        first = np.arange(q)
        pairs = entry_pairs(C, d, q, level)
        rows, columns, index = pairs.rows, pairs.columns, pairs.index
        by_column = C.tocsc()
        values = by_column.data[pairs.first] * by_column.data[pairs.second]
    own = A_rr.tocoo()
    keep = level[own.row] >= level[own.col]
    own_rows, own_columns = own.row[keep].astype(np.int64), own.col[keep].astype(np.int64)
    place = lay_out(levels, rows, columns, own_rows, own_columns)
    layout_rows, layout_columns, kinds = place.rows, place.columns, place.kinds
    position, own_position = place.position, place.own_position
    a = np.zeros(len(layout_rows))
    np.add.at(a, own_position, own.data[keep])
    n_g = len(first) * d * (d + 1) // 2
    P = sp.csr_array((values, (position, index)), shape=(len(layout_rows), n_g))
    return SchurMap(
        levels=levels,
        rows=layout_rows,
        columns=layout_columns,
        multiplicity=np.where(level[layout_rows] == level[layout_columns], 1.0, 2.0),
        a=a,
        P=P,
        P_transposed=P.T.tocsr(),
        kinds=kinds,
        first=first,
        d=d,
    )


@dataclass(frozen=True)
class CellLayout:
    """Cells of the Schur complement, and which of them given pairs of columns are.

    Attributes
    ----------
    rows, columns : ndarray of int, shape (n_cells,)
    kinds : tuple of (k, l, start, stop)
        See :class:`SchurMap`.
    position, own_position : ndarray of int
        The cell of each pair from the eliminated factor, and of each entry of ``A_rr``.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    kinds: tuple[tuple[int, int, int, int], ...]
    position: NDArray[np.int64]
    own_position: NDArray[np.int64]


def lay_out(
    levels: RestLevels,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    own_rows: NDArray[np.int64],
    own_columns: NDArray[np.int64],
) -> CellLayout:
    """The distinct cells among pairs of columns of the rest; ``own_*`` are those that ``A_rr`` has."""
    q_r = levels.n_columns
    if max(levels.widths) == 1:
        cells = _sorted_unique(rows * q_r + columns, own_rows * q_r + own_columns)
        cell_rows, cell_columns = np.divmod(cells, q_r)
        position = np.searchsorted(cells, rows * q_r + columns)
        own_position = np.searchsorted(cells, own_rows * q_r + own_columns)
        return CellLayout(cell_rows, cell_columns, (), position, own_position)
    place = _LevelPairs(levels, np.concatenate([rows, own_rows]), np.concatenate([columns, own_columns]))
    return CellLayout(place.rows, place.columns, place.kinds, place.position[: len(rows)], place.position[len(rows) :])


class _LevelPairs:
    """Cells grouped as whole pairs of levels, sorted by the pair of factors: see SchurMap."""

    def __init__(self, levels: RestLevels, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        level, inner = levels.level_of_column(), levels.column_in_level()
        n_levels = sum(levels.sizes)
        factor = np.repeat(np.arange(len(levels.sizes)), levels.sizes)
        start_of_level = np.flatnonzero(np.diff(level, prepend=-1))
        pairs, pair = np.unique(level[rows] * n_levels + level[columns], return_inverse=True)
        one, two = np.divmod(pairs, n_levels)
        kind = factor[one] * len(levels.sizes) + factor[two]
        self.position = np.empty(len(rows), dtype=np.int64)
        all_rows, all_columns, kinds, start = [], [], [], 0
        for value in np.unique(kind):
            k, m = divmod(int(value), len(levels.sizes))
            d_k, d_m = levels.widths[k], levels.widths[m]
            members = np.flatnonzero(kind == value)
            rank = np.full(len(pairs), -1)
            rank[members] = np.arange(len(members))
            mine = rank[pair] >= 0
            inside = inner[rows[mine]] * d_m + inner[columns[mine]]
            self.position[mine] = start + inside * len(members) + rank[pair[mine]]
            s, t = np.divmod(np.repeat(np.arange(d_k * d_m), len(members)), d_m)
            all_rows.append(np.tile(start_of_level[one[members]], d_k * d_m) + s)
            all_columns.append(np.tile(start_of_level[two[members]], d_k * d_m) + t)
            stop = start + d_k * d_m * len(members)
            kinds.append((k, m, start, stop))
            start = stop
        self.rows, self.columns = np.concatenate(all_rows), np.concatenate(all_columns)
        self.kinds = tuple(kinds)


def _sorted_unique(key: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(key) and (np.diff(key) >= 0).all():  # merged pairs come sorted: no sort of millions
        key = key[np.flatnonzero(np.diff(key, prepend=-1))]
        place = np.minimum(np.searchsorted(key, own), len(key) - 1)
        return np.sort(np.concatenate([key, own[key[place] != own]]), kind="stable")
    return np.unique(np.concatenate([key, own]))


def _classes(A: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Class of each level and one level of each class, by equal scalar blocks."""
    _, first, classes = np.unique(A[0, 0], return_index=True, return_inverse=True)
    return classes, first


def _merged_pairs(
    C: sp.csr_array, classes: NDArray[np.intp], n_classes: int, level: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Sums of ``C_aj C_bj`` over the levels j of a class: one sparse product with columns (b, class)."""
    q_r, q = C.shape
    by_level = C.tocsc()
    eliminated = np.repeat(np.arange(q), np.diff(by_level.indptr))
    wide = by_level.indices.astype(np.int64) * n_classes + classes[eliminated]
    spread = sp.csr_array((by_level.data, wide, by_level.indptr.astype(np.int64)), shape=(q, q_r * n_classes))
    product = (C @ spread).tocsc().tocsr()  # there and back sorts in linear time
    rows = np.repeat(np.arange(q_r, dtype=np.int64), np.diff(product.indptr))
    columns, index = np.divmod(product.indices.astype(np.int64), n_classes)
    keep = level[columns] <= level[rows]
    return rows[keep], columns[keep], index[keep], product.data[keep]


@dataclass(frozen=True)
class EntryPairs:
    """Pairs of entries of C in one level of the eliminated factor.

    Attributes
    ----------
    rows, columns : ndarray of int
        Rows of C of the two entries: the cell of S that their product enters.
    index : ndarray of int
        Position of ``G_j[s, t]`` among the g.
    first, second : ndarray of int
        The entries, in the order of C by columns.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    index: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def entry_pairs(C: sp.csr_array, d: int, q: int, level_of: NDArray[np.int64]) -> EntryPairs:
    """All pairs of entries ``C_a,js`` and ``C_b,jt`` whose rows are of levels in falling order."""
    by_column = C.tocsc()
    count = np.diff(by_column.indptr).astype(np.int64)
    start = by_column.indptr[:-1].astype(np.int64)
    place = {(int(s), int(t)): i for i, (s, t) in enumerate(zip(*np.triu_indices(d), strict=True))}
    parts = []
    for s in range(d):
        for t in range(d):
            left, right = count[s * q : (s + 1) * q], count[t * q : (t + 1) * q]
            level = np.repeat(np.arange(q), left)  # one entry of column (s, j) ...
            entry = start[s * q] + np.arange(int(left.sum()))
            times = right[level]  # ... meets every entry of column (t, j)
            first = np.repeat(entry, times)
            ends = np.cumsum(times)
            second = np.arange(int(times.sum())) - np.repeat(ends - times, times)
            second += np.repeat(start[t * q + level], times)
            a, b = by_column.indices[first], by_column.indices[second]
            keep = level_of[a] >= level_of[b]
            position = place[min(s, t), max(s, t)] * q + np.repeat(level, times)
            parts.append(
                (a[keep].astype(np.int64), b[keep].astype(np.int64), position[keep], first[keep], second[keep])
            )
    return EntryPairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
