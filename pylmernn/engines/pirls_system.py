"""Weighted cross-products whose weights change: where each sum goes is found once, then re-weighting is summing.

Penalized iteratively reweighted least squares solves the equations of a linear mixed model with new weights in every
step (Bates et al. 2015; Pinheiro & Chao 2006 for the elimination). :class:`ReweightedSystem` is the
:class:`pylmernn.engines.pls.System` of such a model: its patterns are fixed, its values are those of the last weights.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from pylmernn.engines.pls import Columns, System
from pylmernn.linalg.crossproducts import CrossProducts, GroupRows
from pylmernn.linalg.denseschur import DenseSchur
from pylmernn.linalg.rest import DenseRest, RestFactor, rest_factor
from pylmernn.linalg.schur import RestLevels, SchurMap, entry_pairs, lay_out
from pylmernn.linalg.smallblocks import multiply_blocks

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DENSE_RATE = 8.0  # products of a dense elimination in the time of one of a sparse one
SMALL_REST = 50  # columns up to which one dense factor is faster than many small ones


class KeptDenseRest(DenseRest):
    """A dense rest whose factor survives the inverse: the gradient of Laplace's approximation solves after it."""

    def inverse_cells(self) -> FloatArray:
        """Cells of ``M^-1``."""
        inverse, _ = lapack.dpotri(self._M, lower=0)
        return np.asarray(inverse.T.ravel()[self._position])


@dataclass(frozen=True)
class _Cells:
    """Pairs of levels (of factor k, of factor m) that rows join: the pair of each row, and the levels of each pair."""

    of_row: NDArray[np.intp]
    k: IntArray
    m: IntArray


def _join(one: GroupRows, two: GroupRows) -> _Cells:
    key = two.codes.astype(np.int64) * one.n_levels + one.codes
    distinct, of_row = np.unique(key, return_inverse=True)
    m, k = np.divmod(distinct, one.n_levels)
    return _Cells(of_row, k, m)


class ReweightedSystem(System):
    """The linear mixed model of a PIRLS step.

    Parameters
    ----------
    X : ndarray, shape (n, p)
        Fixed-effect columns.
    groups : sequence of GroupRows
        The factors; the first is eliminated.
    device : str, default "cpu"
        Where a large dense rest is factored.
    """

    schur: Any  # SchurMap, or DenseSchur where few levels are left

    def __init__(self, X: FloatArray, groups: Sequence[GroupRows], device: str = "cpu") -> None:
        self.X, self.groups, self.device = X, list(groups), device
        self.n, self.p = X.shape
        self.d, self.q = groups[0].width, groups[0].n_levels
        self.levels = RestLevels(tuple(g.width for g in groups[1:]), tuple(g.n_levels for g in groups[1:]))
        self.C: Any = sp.csr_array((0, self.d * self.q))
        if len(groups) > 1:
            self._arrange()

    # ---- where everything goes

    def _arrange(self) -> None:
        rest = range(1, len(self.groups))
        self._with_first = [_join(self.groups[0], self.groups[k]) for k in rest]
        self._among = {(k, m): _join(self.groups[k], self.groups[m]) for k in rest for m in rest if k < m}
        rows, columns = self._places_of_C()
        self._C_places = (rows, columns)
        own_rows, own_columns, mirrored = self._places_of_rest()
        self._dense = self._dense_pays(len(rows))
        if self._dense:
            self.schur = DenseSchur(self.levels, self.d, self.q)
            self.C, self.A_rr = self.schur.C.reshape(self.levels.n_columns, -1), self.schur.A_rr
            self._rr_places = (own_rows, own_columns)
            return
        shape = (self.levels.n_columns, self.d * self.q)
        numbered = sp.coo_array((np.arange(len(rows), dtype=np.float64), (rows, columns)), shape=shape)
        self._C_sparse = numbered.tocsr()
        self._C_mirrored = self._C_sparse.T  # made once: for small data that takes as long as a product with it
        self._C_source = self._C_sparse.data.astype(np.int64)
        self._arrange_rest(own_rows, own_columns, mirrored)
        self._arrange_schur(numbered.tocsr(), own_rows, own_columns)

    def _places_of_C(self) -> tuple[IntArray, IntArray]:
        """Row and column in C of each sum: by factor k, its column t, the eliminated column s, the pair of levels."""
        rows, columns = [], []
        for k, cells in enumerate(self._with_first):
            d_k = self.levels.widths[k]
            for t in range(d_k):
                for s in range(self.d):
                    rows.append(self.levels.offsets[k] + cells.m * d_k + t)
                    columns.append(s * self.q + cells.k)
        return np.concatenate(rows), np.concatenate(columns)

    def _places_of_rest(self) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
        """Row and column in ``A_rr`` of each sum, and which of them have a mirror image."""
        rows, columns, mirrored = [], [], []
        offsets = self.levels.offsets
        for k, (d, q) in enumerate(zip(self.levels.widths, self.levels.sizes, strict=True)):
            level = np.arange(q)
            for s in range(d):
                for t in range(d):
                    rows.append(offsets[k] + level * d + s)
                    columns.append(offsets[k] + level * d + t)
                    mirrored.append(np.zeros(q, dtype=bool))
        for (k, m), cells in self._among.items():
            d_k, d_m = self.groups[k].width, self.groups[m].width
            for t in range(d_m):
                for s in range(d_k):
                    rows.append(offsets[m - 1] + cells.m * d_m + t)
                    columns.append(offsets[k - 1] + cells.k * d_k + s)
                    mirrored.append(np.ones(len(cells.k), dtype=bool))
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(mirrored)

    def _arrange_rest(self, rows: IntArray, columns: IntArray, mirrored: NDArray[np.bool_]) -> None:
        number = np.arange(len(rows), dtype=np.float64)
        both = (np.concatenate([rows, columns[mirrored]]), np.concatenate([columns, rows[mirrored]]))
        q_r = self.levels.n_columns
        self.A_rr = sp.coo_array((np.concatenate([number, number[mirrored]]), both), shape=(q_r, q_r)).tocsr()
        self._rr_source = self.A_rr.data.astype(np.int64)

    def _arrange_schur(self, numbered: sp.csr_array, own_rows: IntArray, own_columns: IntArray) -> None:
        level = self.levels.level_of_column()
        pairs = entry_pairs(numbered, self.d, self.q, level)
        layout = lay_out(self.levels, pairs.rows, pairs.columns, own_rows, own_columns)
        self._own_position = layout.own_position
        source = numbered.tocsc().data.astype(np.int64)
        n_g = self.q * self.d * (self.d + 1) // 2
        key = layout.position * n_g + pairs.index
        order = np.argsort(key, kind="stable")
        key = key[order]
        self._starts = np.flatnonzero(np.diff(key, prepend=-1))
        self._first, self._second = source[pairs.first][order], source[pairs.second][order]
        cell, index = np.divmod(key[self._starts], n_g)
        P = sp.csr_array(
            (np.arange(len(cell), dtype=np.float64), index, np.searchsorted(cell, np.arange(len(layout.rows) + 1))),
            shape=(len(layout.rows), n_g),
        )
        transposed = P.T.tocsr()
        self._transposed_source = transposed.data.astype(np.int64)
        column = self._C_places[1] // self.q
        self._alike = np.flatnonzero(column[self._first] == column[self._second])
        self._cell_of_pair = layout.position[order][self._alike]
        same = level[self._C_places[0][self._first]] == level[self._C_places[0][self._second]]
        self._apart = ~same[self._alike]
        self.schur = SchurMap(
            levels=self.levels,
            rows=layout.rows,
            columns=layout.columns,
            multiplicity=np.where(level[layout.rows] == level[layout.columns], 1.0, 2.0),
            a=np.zeros(len(layout.rows)),
            P=P,
            P_transposed=transposed,
            kinds=layout.kinds,
            first=np.arange(self.q),
            d=self.d,
        )

    def _dense_pays(self, n_entries: int) -> bool:
        """Whether a dense C costs less than the pairs of its entries."""
        size, per_level = self.levels.n_columns, n_entries / self.q
        return size**2 * self.d * self.q <= DENSE_RATE * per_level**2 * self.q

    @property
    def C_transposed(self) -> Any:
        """``C'``."""
        return self.C.T if self._dense else self._C_mirrored

    def largest_component(self) -> int:
        """Columns of the rest in the largest set that rows tie together: the order of the largest dense factor."""
        size = self.levels.n_columns
        if size == 0:
            return 0
        places = (self.schur.rows, self.schur.columns)
        graph = sp.coo_array((np.ones(len(places[0]), dtype=np.int8), places), shape=(size, size))
        _, labels = sp.csgraph.connected_components(graph, directed=False)
        return int(np.bincount(labels).max())

    @functools.cached_property
    def factor(self) -> RestFactor:
        """The exact factor of the rest."""
        if self.levels.n_columns <= SMALL_REST:
            return KeptDenseRest(self.schur)
        chosen = rest_factor(self.schur, self.device)
        return KeptDenseRest(self.schur) if type(chosen) is DenseRest else chosen

    # ---- sums of rows

    def rows_of(self, b: Sequence[FloatArray]) -> FloatArray:
        """``Z b`` (n,) for b (d_k, q_k) of each factor."""
        total = None
        for group, effects in zip(self.groups, b, strict=True):
            for z, effect in zip(group.columns, effects, strict=True):
                part = effect[group.codes]
                if z is not None:
                    part *= z
                total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total

    def by_level(self, v: FloatArray) -> list[FloatArray]:
        """``Z' v`` for v (n,): (d_k, q_k) of each factor."""
        out = [np.empty((g.width, g.n_levels)) for g in self.groups]
        for group, sums in zip(self.groups, out, strict=True):
            for row, z in zip(sums, group.columns, strict=True):
                row[:] = np.bincount(group.codes, v if z is None else v * z, group.n_levels)
        return out

    def columns(self, parts: Sequence[FloatArray]) -> Columns:
        """One column from (d_k, q_k) of each factor."""
        rest = [part.T.ravel() for part in parts[1:]]
        return Columns(parts[0][:, None, :], np.concatenate(rest)[:, None] if rest else np.empty((0, 1)))

    def factors(self, columns: Columns) -> list[FloatArray]:
        """(d_k, q_k) of each factor from one column."""
        out = [columns.first[:, 0]]
        offsets = self.levels.offsets
        for k, (d, q) in enumerate(zip(self.levels.widths, self.levels.sizes, strict=True)):
            out.append(columns.rest[offsets[k] : offsets[k + 1], 0].reshape(q, d).T)
        return out

    def own_products(self, group: GroupRows, weights: FloatArray) -> FloatArray:
        """``Z_k' W Z_k``, (d, d, q)."""
        d = group.width
        out = np.empty((d, d, group.n_levels))
        for s in range(d):
            for t in range(s, d):
                values = _times(weights, group.columns[s], group.columns[t])
                out[s, t] = out[t, s] = np.bincount(group.codes, values, group.n_levels)
        return out

    def reweight(self, weights: FloatArray, with_X: bool = False) -> None:
        """Sum again with weights (n,); ``with_X`` also the products with the fixed effects."""
        self.A = self.own_products(self.groups[0], weights)
        if self.levels.sizes:
            self._reweight_rest(weights)
        if with_X:
            WX = self.X * weights[:, None]
            parts = [self.by_level_of(WX, k) for k in range(len(self.groups))]
            rest = [part.transpose(2, 0, 1).reshape(part.shape[0] * part.shape[2], self.p) for part in parts[1:]]
            self.R = Columns(parts[0], np.concatenate(rest) if rest else np.empty((0, self.p)))
            self.products = CrossProducts(self.n, 0.0, self.X.T @ WX, tuple(parts), (), {})

    def by_level_of(self, V: FloatArray, k: int) -> FloatArray:
        """``Z_k' V`` for V (n, m): (d_k, m, q_k)."""
        group = self.groups[k]
        out = np.empty((group.width, V.shape[1], group.n_levels))
        for s, z in enumerate(group.columns):
            for j in range(V.shape[1]):
                out[s, j] = np.bincount(group.codes, V[:, j] if z is None else V[:, j] * z, group.n_levels)
        return out

    def _reweight_rest(self, weights: FloatArray) -> None:
        first = self.groups[0]
        sums: list[FloatArray] = []
        for group, cells in zip(self.groups[1:], self._with_first, strict=True):
            for z in group.columns:
                for z_first in first.columns:
                    sums.append(_sum(cells.of_row, _times(weights, z, z_first), len(cells.k)))
        self._C_flat = np.concatenate(sums)
        own: list[FloatArray] = [self.own_products(group, weights).ravel() for group in self.groups[1:]]
        for (k, m), cells in self._among.items():
            for z in self.groups[m].columns:
                for z_k in self.groups[k].columns:
                    own.append(_sum(cells.of_row, _times(weights, z, z_k), len(cells.k)))
        flat = np.concatenate(own)
        if isinstance(self.schur, DenseSchur):
            rows, columns = self._rr_places
            self.A_rr[rows, columns] = self.A_rr[columns, rows] = flat
            self.C[self._C_places] = self._C_flat
            return
        self._C_sparse.data = self._C_flat[self._C_source]
        self.C = self._C_sparse
        self._C_mirrored.data = self._C_sparse.data
        self.A_rr.data = flat[self._rr_source]
        self.schur.a[self._own_position] = flat
        products = self._C_flat[self._first] * self._C_flat[self._second]
        if len(self._starts) < len(products):
            products = np.add.reduceat(products, self._starts)
        self.schur.P.data = products
        self.schur.P_transposed.data = products[self._transposed_source]

    # ---- diagonal of Z B Z'

    def leverages(self, G: FloatArray, K: FloatArray | None) -> FloatArray:
        """The diagonal (n,) of ``Z Lambda (Lambda'Z'WZ Lambda + I)^-1 Lambda' Z'``.

        Parameters
        ----------
        G : ndarray, shape (d, d, q)
            Shrinkage blocks of the first factor.
        K : ndarray, shape (n_cells,), or None
            Cells of ``Lambda_r M^-1 Lambda_r'``; None for a single factor.
        """
        first = self.groups[0]
        if K is None:
            return self.quadratic_rows(first, G)
        Q, mixed = self._mixed_leverages(G, self._products_with(K))
        own = G + multiply_blocks(multiply_blocks(G, Q), G)
        return mixed + self._rest_leverages(K) + self.quadratic_rows(first, own)

    def _mixed_leverages(self, G: FloatArray, KC: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``C_j' K C_j`` (d, d, q), and what the blocks of the inverse between first factor and rest add (n,)."""
        first, Q, total, at = self.groups[0], np.zeros_like(G), np.zeros(self.n), 0
        for group, cells in zip(self.groups[1:], self._with_first, strict=True):
            shape = (group.width, self.d, len(cells.k))
            block = slice(at, at + group.width * self.d * len(cells.k))
            C, product = self._C_flat[block].reshape(shape), KC[block].reshape(shape)
            at = block.stop
            for s in range(self.d):
                for t in range(self.d):
                    Q[s, t] += np.bincount(cells.k, (C[:, s] * product[:, t]).sum(axis=0), self.q)
            between = -multiply_blocks(product, G[:, :, cells.k])
            for t, z in enumerate(group.columns):
                for s, z_first in enumerate(first.columns):
                    total += 2.0 * _times(between[t, s][cells.of_row], z, z_first)
        return Q, total

    def _rest_leverages(self, K: FloatArray) -> FloatArray:
        """What the blocks of the inverse within the rest add (n,)."""
        own = K[self._own_position] if isinstance(self.schur, SchurMap) else self.schur.values(K)[self._rr_places]
        total, at = np.zeros(self.n), 0
        for group in self.groups[1:]:
            B = own[at : at + group.width**2 * group.n_levels].reshape(group.width, group.width, -1)
            total += self.quadratic_rows(group, B)
            at += B.size
        for (k, m), cells in self._among.items():
            for z in self.groups[m].columns:
                for z_k in self.groups[k].columns:
                    total += 2.0 * _times(own[at : at + len(cells.k)][cells.of_row], z, z_k)
                    at += len(cells.k)
        return total

    def quadratic_rows(self, group: GroupRows, B: FloatArray) -> FloatArray:
        """``z_i' B_j(i) z_i`` (n,) for blocks B (d, d, q) of one factor."""
        total = np.zeros(self.n)
        for s, z in enumerate(group.columns):
            for t, other in enumerate(group.columns):
                total += _times(B[s, t][group.codes], z, other)
        return total

    def _products_with(self, K: FloatArray) -> FloatArray:
        """``K C_j`` at the entries of C, in the order of ``_C_flat``."""
        if isinstance(self.schur, DenseSchur):
            return np.asarray(self.schur.products(K).reshape(len(self.C), -1)[self._C_places])
        first, second = self._first[self._alike], self._second[self._alike]
        values, size = K[self._cell_of_pair], len(self._C_flat)
        out = _sum(first, values * self._C_flat[second], size)
        apart = self._apart
        return out + _sum(second[apart], values[apart] * self._C_flat[first[apart]], size)


def _sum(index: NDArray[np.intp], values: FloatArray, size: int) -> FloatArray:
    """Sums of values by index."""
    return np.bincount(index, values, size).astype(np.float64, copy=False)


def _times(values: FloatArray, *columns: FloatArray | None) -> FloatArray:
    """Elementwise product, where None stands for ones."""
    for column in columns:
        if column is not None:
            values = values * column
    return values
