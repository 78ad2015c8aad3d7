"""Columns of a model matrix from terms and the values of their variables, with R's names and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pylmernn.formula.contrasts import Contrast, coding, full_coding
from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.terms import Terms, members
from pylmernn.formula.values import Numeric, Value, logical_factor

_TREATMENT = Contrast("treatment")
_POLY = Contrast("poly")


@dataclass(frozen=True)
class ModelMatrix:
    """A model matrix.

    Attributes
    ----------
    columns : ndarray of float64, shape (n, p), Fortran order
    names : tuple of p str
    assign : tuple of p int
        The term of each column: 0 for the intercept, k for the k-th term (R's ``attr(X, "assign")``).
    """

    columns: FloatArray
    names: tuple[str, ...]
    assign: tuple[int, ...]


def model_matrix(
    terms: Terms, values: Mapping[str, Value], n: int, contrasts: Mapping[str, Contrast] | None = None
) -> ModelMatrix:
    """The model matrix of the terms.

    Parameters
    ----------
    terms : Terms
    values : mapping
        The value of each variable by its name, n rows each.
    n : int
        Number of rows.
    contrasts : mapping, optional
        Contrasts by variable; the default is treatment, and polynomial for ordered factors.
    """
    used = {i for term in terms.terms for i in members(term)}
    is_factor = [i in used and _categorical(values[name]) for i, name in enumerate(terms.names)]
    pieces: dict[tuple[int, bool], _Piece] = {}
    plan: list[list[_Piece]] = []
    for pairs in terms.coding(is_factor):
        for i, full in pairs:
            if (i, full) not in pieces:
                name = terms.names[i]
                pieces[i, full] = _piece(name, values[name], full, (contrasts or {}).get(name))
        plan.append([pieces[pair] for pair in pairs])

    names = ["(Intercept)"] if terms.intercept else []
    assign = [0] * len(names)
    for k, parts in enumerate(plan, start=1):
        product = _product_names(parts)
        names += product
        assign += [k] * len(product)
    columns = np.empty((n, len(names)), order="F")
    at = 0
    if terms.intercept:
        columns[:, 0] = 1.0
        at = 1
    for parts in plan:
        at = _fill(columns, at, parts)
    return ModelMatrix(columns, tuple(names), tuple(assign))


@dataclass(frozen=True)
class _Piece:
    """The columns that one variable contributes to a term."""

    columns: FloatArray
    names: tuple[str, ...]


def _categorical(value: Value) -> bool:
    return not isinstance(value, Numeric) or value.logical


def _piece(name: str, value: Value, full: bool, contrast: Contrast | None) -> _Piece:
    if isinstance(value, Numeric):
        if not value.logical:
            return _numeric_piece(name, value)
        value = logical_factor(value.values)
    levels = value.levels.tolist()
    chosen = contrast or value.contrast or (_POLY if value.ordered else _TREATMENT)
    matrix, suffixes = coding(chosen, levels, name)
    if full:
        matrix, suffixes = full_coding(levels)
    table = np.vstack([matrix, np.full((1, matrix.shape[1]), np.nan)])  # the last row is that of code -1, missing
    return _Piece(table[value.codes], tuple(name + s for s in suffixes))


def _numeric_piece(name: str, value: Numeric) -> _Piece:
    if value.values.ndim == 1:
        return _Piece(value.values[:, None], (name,))
    if value.values.ndim > 2:
        raise DesignError(f"'{name}' holds arrays of shape {value.values.shape[1:]}, which only nn() takes.")
    k = value.values.shape[1]
    if k == 1:
        return _Piece(value.values, (name,))
    return _Piece(value.values, tuple(name + s for s in value.names or [str(i + 1) for i in range(k)]))


def _product_names(parts: Sequence[_Piece]) -> list[str]:
    """Names of all products of one column a variable; the first variable changes fastest."""
    names = list(parts[0].names)
    for part in parts[1:]:
        names = [f"{left}:{right}" for right in part.names for left in names]
    return names


def _fill(columns: FloatArray, at: int, parts: Sequence[_Piece]) -> int:
    """Write the products into the matrix from column ``at`` on; returns the next free column."""
    if len(parts) == 1:
        end = at + len(parts[0].names)
        columns[:, at:end] = parts[0].columns
        return end
    if len(parts) == 2:
        left = parts[0].columns
    else:
        left = np.empty((len(columns), int(np.prod([len(p.names) for p in parts[:-1]]))), order="F")
        _fill(left, 0, parts[:-1])
    for j in range(parts[-1].columns.shape[1]):
        for i in range(left.shape[1]):
            np.multiply(left[:, i], parts[-1].columns[:, j], out=columns[:, at])
            at += 1
    return at
