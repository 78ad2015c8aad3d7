"""Contrasts of factors: R's treatment, sum, helmert and polynomial codings, and matrices of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.orthogonal import fit_polynomial, polynomial


@dataclass(frozen=True)
class Contrast:
    """A coding asked for: a name, or a matrix.

    Attributes
    ----------
    kind : str
        ``"treatment"``, ``"sum"``, ``"helmert"``, ``"poly"`` or ``"matrix"``.
    base : int or str, optional
        Reference level of a treatment coding: its name, or its number from 1.
    matrix : tuple of rows, optional
    names : tuple of str, optional
        Suffixes of the columns of the matrix.
    """

    kind: str
    base: int | str | None = None
    matrix: tuple[tuple[float, ...], ...] | None = None
    names: tuple[str, ...] | None = None


def read_contrast(asked: Any, where: str) -> Contrast:
    """The contrast that a user means by a name, a matrix or a DataFrame.

    Parameters
    ----------
    asked : str, array of shape (levels, columns), or DataFrame
        Names in any of R's and patsy's spellings: ``"sum"``, ``"contr.sum"``, ``"Sum"``.
    where : str
        The factor, for messages.
    """
    if isinstance(asked, Contrast):
        return asked
    if isinstance(asked, str):
        kind = asked.removeprefix("contr.").lower()
        kind = "poly" if kind == "polynomial" else kind
        if kind not in CODINGS:
            raise DesignError(
                f"unknown contrast '{asked}' for '{where}': use one of {', '.join(sorted(CODINGS))} or a matrix."
            )
        return Contrast(kind)
    names = tuple(str(c) for c in asked.columns) if hasattr(asked, "columns") else None
    try:
        matrix = np.asarray(asked, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise DesignError(
            f"the contrast of '{where}' is neither a name nor a matrix of numbers with a row for each level."
        )
    return Contrast("matrix", matrix=tuple(tuple(row) for row in matrix.tolist()), names=names)


def coding(contrast: Contrast, levels: Sequence[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    """The contrast matrix (levels, levels - 1) and the suffixes of its columns.

    Raises
    ------
    DesignError
        Where the factor has fewer than two levels or the matrix does not fit it.
    """
    if len(levels) < 2:
        raise DesignError(f"the factor '{where}' has {len(levels)} level in the rows used: it needs at least 2.")
    return CODINGS.get(contrast.kind, _matrix)(contrast, list(levels), where)


def full_coding(levels: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
    """One indicator column a level."""
    return np.eye(len(levels)), tuple(str(level) for level in levels)


def _treatment(contrast: Contrast, levels: list[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    base = contrast.base
    if base is None:
        at = 0
    elif isinstance(base, str):
        if base not in levels:
            raise DesignError(
                f"the reference level '{base}' is no level of '{where}', which has {', '.join(levels[:10])}."
            )
        at = levels.index(base)
    else:
        at = base - 1
        if not 0 <= at < len(levels):
            raise DesignError(f"the reference level of '{where}' must be a number from 1 to {len(levels)}, not {base}.")
    return np.delete(np.eye(len(levels)), at, axis=1), tuple(x for i, x in enumerate(levels) if i != at)


def _sum(contrast: Contrast, levels: list[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    k = len(levels) - 1
    return np.vstack([np.eye(k), -np.ones((1, k))]), _numbers(k)


def _helmert(contrast: Contrast, levels: list[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    k = len(levels) - 1
    matrix = np.triu(-np.ones((k + 1, k)))
    matrix[np.arange(1, k + 1), np.arange(k)] = np.arange(1, k + 1)
    return matrix, _numbers(k)


def _poly(contrast: Contrast, levels: list[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    k = len(levels) - 1
    scores = np.arange(1.0, k + 2)
    names = ("." + c for c in "LQC")
    return polynomial(scores, fit_polynomial(scores, k)), (*names, *(f"^{i}" for i in range(4, k + 1)))[:k]


def _matrix(contrast: Contrast, levels: list[str], where: str) -> tuple[FloatArray, tuple[str, ...]]:
    matrix = np.array(contrast.matrix)
    if matrix.shape[0] != len(levels):
        raise DesignError(
            f"the contrast matrix of '{where}' has {matrix.shape[0]} rows but the factor has {len(levels)} levels."
        )
    if matrix.shape[1] != len(levels) - 1:
        raise DesignError(
            f"the contrast matrix of '{where}' has {matrix.shape[1]} columns: "
            f"{len(levels)} levels need {len(levels) - 1}."
        )
    if np.linalg.matrix_rank(np.column_stack([np.ones(len(levels)), matrix])) < len(levels):
        raise DesignError(f"the contrast matrix of '{where}' is singular beside the intercept.")
    return matrix, contrast.names or _numbers(matrix.shape[1])


def _numbers(k: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(1, k + 1))


CODINGS: dict[str, Callable[[Contrast, list[str], str], tuple[FloatArray, tuple[str, ...]]]] = {
    "treatment": _treatment,
    "sum": _sum,
    "helmert": _helmert,
    "poly": _poly,
}
