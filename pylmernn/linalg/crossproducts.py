"""The data of a linear mixed model as cross-products: after them, nothing costs what the rows cost.

``A = [Z X y]' W [Z X y]`` is all that penalized least squares needs (Bates et al. 2015, eq. 16 to 18). Cross-products
of two sets of rows add, so they can be built by chunks or by processes and summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class GroupRows:
    """Rows of one grouping factor: ``codes`` (n,), ``n_levels`` q, and ``columns``, d arrays (n,) or None for ones."""

    codes: IntArray
    n_levels: int
    columns: tuple[FloatArray | None, ...]

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return len(self.columns)


@dataclass(frozen=True)
class CrossProducts:
    """Weighted cross-products of one model.

    Levels are the last axis of the dense arrays, so that work over levels is work on long vectors.

    Attributes
    ----------
    n : int
        Rows summed.
    sum_log_weights : float
    RR : ndarray, shape (p + 1, p + 1)
        Of ``R = [X y]``.
    ZR : tuple of ndarray, shape (d_k, p + 1, q_k)
        ``Z_k' R`` of each grouping factor.
    ZZ : tuple of ndarray, shape (d_k, d_k, q_k)
        The diagonal blocks of ``Z_k' Z_k``.
    cross : dict of csr_array
        ``cross[k, l]``, k < l, is ``Z_l' Z_k``, shape (q_l d_l, d_k q_k). Rows are level-major (level, column), columns
        are column-major (column, level).
    """

    n: int
    sum_log_weights: float
    RR: FloatArray
    ZR: tuple[FloatArray, ...]
    ZZ: tuple[FloatArray, ...]
    cross: dict[tuple[int, int], sp.csr_array]

    def __add__(self, other: CrossProducts) -> CrossProducts:
        """Cross-products of the rows of both."""
        return CrossProducts(
            n=self.n + other.n,
            sum_log_weights=self.sum_log_weights + other.sum_log_weights,
            RR=self.RR + other.RR,
            ZR=tuple(a + b for a, b in zip(self.ZR, other.ZR, strict=True)),
            ZZ=tuple(a + b for a, b in zip(self.ZZ, other.ZZ, strict=True)),
            cross={key: self.cross[key] + other.cross[key] for key in self.cross},
        )


def cross_products(R: FloatArray, groups: Sequence[GroupRows], weights: FloatArray | None = None) -> CrossProducts:
    """Sum the rows.

    Parameters
    ----------
    R : ndarray, shape (n, p + 1)
        Fixed-effect columns, then the response. Fortran order is fastest.
    groups : sequence of GroupRows
    weights : ndarray, shape (n,), optional

    Returns
    -------
    CrossProducts
    """
    WR = R if weights is None else R * weights[:, None]
    pairs = [(k, m) for k in range(len(groups)) for m in range(k + 1, len(groups))]
    return CrossProducts(
        n=len(R),
        sum_log_weights=0.0 if weights is None else float(np.log(weights).sum()),
        RR=R.T @ WR,
        ZR=tuple(_group_by_columns(group, WR) for group in groups),
        ZZ=tuple(_group_by_itself(group, weights) for group in groups),
        cross={(k, m): group_by_group(groups[k], groups[m], weights) for k, m in pairs},
    )


def response_products(
    R: FloatArray, weighted: FloatArray, groups: Sequence[GroupRows]
) -> tuple[FloatArray, list[FloatArray]]:
    """The cross-products of the last column of R alone: ``R' W y`` (p + 1,) and ``Z_k' W y``, (d_k, q_k) each.

    Parameters
    ----------
    R : ndarray, shape (n, p + 1)
    weighted : ndarray, shape (n,)
        The last column times the weights.
    groups : sequence of GroupRows
    """
    sums = [np.stack([sum_by_level(g.codes, _product(z, weighted), g.n_levels) for z in g.columns]) for g in groups]
    return R.T @ weighted, sums


def _product(*factors: FloatArray | None) -> FloatArray | None:
    """Elementwise product, where None stands for ones."""
    given = [factor for factor in factors if factor is not None]
    if not given:
        return None
    product = given[0]
    for factor in given[1:]:
        product = product * factor
    return product


def sum_by_level(codes: IntArray, values: FloatArray | None, q: int) -> FloatArray:
    """Sums (q,) of the values (n,) of each level; counts where there are no values."""
    return np.bincount(codes, weights=values, minlength=q).astype(np.float64, copy=False)


def _group_by_columns(group: GroupRows, WR: FloatArray) -> FloatArray:
    out = np.empty((group.width, WR.shape[1], group.n_levels))
    for s, z in enumerate(group.columns):
        for j in range(WR.shape[1]):
            out[s, j] = sum_by_level(group.codes, _product(z, WR[:, j]), group.n_levels)
    return out


def _group_by_itself(group: GroupRows, weights: FloatArray | None) -> FloatArray:
    d, q = group.width, group.n_levels
    out = np.empty((d, d, q))
    for s in range(d):
        for t in range(s, d):
            product = _product(group.columns[s], group.columns[t], weights)
            out[s, t] = out[t, s] = sum_by_level(group.codes, product, q)
    return out


def group_by_group(first: GroupRows, second: GroupRows, weights: FloatArray | None) -> sp.csr_array:
    """``Z_second' Z_first`` as CSR; explicit zeros are kept, so the pattern depends on the codes alone."""
    n = len(first.codes)
    shape = (second.n_levels * second.width, first.n_levels * first.width)
    rows, columns, values = [], [], []
    for t, z_second in enumerate(second.columns):
        for s, z_first in enumerate(first.columns):
            product = _product(z_second, z_first, weights)
            rows.append(second.codes * np.int32(second.width) + np.int32(t))
            columns.append(first.codes + np.int32(s * first.n_levels))
            values.append(np.ones(n) if product is None else product)
    table = sp.coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape).tocsr()
    table.sum_duplicates()
    return table
