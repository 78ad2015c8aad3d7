"""Coordinates in which the numbers are well behaved: columns centred and scaled before their cross-products are taken.

Cross-products square condition numbers, and a search does badly where one parameter is a million times another. So
the columns of X and those left of each bar are replaced by combinations of themselves, ``X_w = X S`` and
``Z_j = W_j T``; the model is the same, its random effects are ``b_w = T b``, and all is translated back at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import structure, theta_sizes
from pylmernn.formula.design import Design, RandomTerm

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class WorkingColumns:
    """Fixed effects as the engine sees them: ``X_working = X transform``, and y less its OLS fit.

    Attributes
    ----------
    transform : ndarray, shape (p, p)
    beta0 : ndarray, shape (p,)
        OLS coefficients of X.
    """

    transform: FloatArray
    beta0: FloatArray

    @property
    def log_determinant(self) -> float:
        """Log |det transform|."""
        return float(np.linalg.slogdet(self.transform)[1])


def working_columns(design: Design) -> tuple[FloatArray, WorkingColumns]:
    """``[X y]`` of the design, centred, scaled and residualized, (n, p + 1) in Fortran order."""
    X, p = design.X, design.p
    R = np.empty((design.n, p + 1), order="F")
    transform = np.eye(p)
    constant = next((j for j in range(p) if X[0, j] != 0 and _is_constant(X[:, j])), None)
    for j in range(p):
        column = X[:, j]
        if constant is not None and j != constant:
            shift = float(column.mean())
            transform[constant, j] = -shift / X[0, constant]
            column = column - shift
        scale = float(np.sqrt(np.mean(column * column)))
        R[:, j] = column / scale
        transform[:, j] /= scale
    y = design.y if design.offset is None else design.y - design.offset
    W = R[:, :p] if design.weights is None else R[:, :p] * design.weights[:, None]
    gamma = np.linalg.lstsq(W.T @ R[:, :p], W.T @ y, rcond=None)[0] if p else np.empty(0)
    R[:, p] = y - R[:, :p] @ gamma
    return R, WorkingColumns(transform, transform @ gamma)


def _is_constant(column: FloatArray) -> bool:
    return bool(column[0] == column[-1] and (column == column[0]).all())


@dataclass(frozen=True)
class WorkingTerm:
    """One random term as the engine sees it: ``columns = W T``.

    Attributes
    ----------
    columns : tuple of ndarray, shape (n,), or None for a column of ones
        The columns of W.
    T : ndarray, shape (d, d), upper triangular
    """

    columns: tuple[FloatArray | None, ...]
    T: FloatArray


def working_term(term: RandomTerm) -> WorkingTerm:
    """Columns of mean square one; centred too where an unstructured covariance and an intercept make that harmless."""
    d = term.width
    T = np.eye(d)
    centre = term.covariance == "us" and d > 1 and bool(term.columns[0, 0] == 1.0) and _is_constant(term.columns[:, 0])
    columns: list[FloatArray | None] = []
    for j in range(d):
        column = term.columns[:, j]
        if column[0] == 1.0 and _is_constant(column):
            columns.append(None)
            continue
        if centre:
            T[0, j] = float(column.mean())
            column = column - T[0, j]
        scale = float(np.sqrt(np.mean(column * column)))
        T[j, j] = scale if scale > 0 else 1.0
        columns.append(column / T[j, j])
    return WorkingTerm(tuple(columns), T)


def to_user(random: Sequence[RandomTerm], transforms: Sequence[FloatArray], x: FloatArray) -> FloatArray:
    """Theta (m,) of the user's columns, diagonal entries not negative, from that of the working columns."""
    return _translate(random, [np.asarray(np.linalg.inv(T), dtype=np.float64) for T in transforms], x)


def to_working(random: Sequence[RandomTerm], transforms: Sequence[FloatArray], theta: FloatArray) -> FloatArray:
    """Theta (m,) of the working columns from that of the user's columns."""
    return _translate(random, transforms, theta)


def _translate(random: Sequence[RandomTerm], maps: Sequence[FloatArray], theta: FloatArray) -> FloatArray:
    """Parameters of ``map Lambda Lambda' map'`` for each term."""
    parts = np.split(theta, np.cumsum(theta_sizes(random))[:-1])
    out = []
    for term, matrix, part in zip(random, maps, parts, strict=True):
        kind = structure(term.covariance)
        Lambda = matrix @ kind.Lambda(part, term.width)
        if np.triu(Lambda, 1).any():
            Lambda = np.linalg.qr(Lambda.T)[1].T
            pivots = np.einsum("ss->s", Lambda)
            pivots[np.abs(pivots) < 1e-9 * np.abs(Lambda).max()] = 0.0  # an exact zero, up to rounding
        Lambda = Lambda * np.where(np.diagonal(Lambda) < 0, -1.0, 1.0) + 0.0  # no negative zeros
        out.append(np.asarray(Lambda[kind.positions(term.width)], dtype=np.float64))
    return np.concatenate(out)
