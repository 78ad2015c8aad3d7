"""What an expression evaluates to: numbers or a factor, read from the columns of a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.arrays import holds_arrays, stack_arrays
from pylmernn.formula.contrasts import Contrast
from pylmernn.formula.design import DesignError, FloatArray, IntArray


@dataclass(frozen=True)
class Numeric:
    """Numbers, one a row.

    Attributes
    ----------
    values : ndarray of float64, shape (n,), (n, k) or, for arrays, (n, *shape)
        NaN where missing.
    logical : bool
        TRUE and FALSE as 1 and 0; in a model matrix a factor with the levels FALSE and TRUE.
    names : tuple of k str, optional
        Suffixes of the columns of a matrix.
    array : bool
        A column of the data that holds one array a row; a row with a missing element counts as missing.
    """

    values: FloatArray
    logical: bool = False
    names: tuple[str, ...] | None = None
    array: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def missing(self) -> NDArray[np.bool_] | None:
        """Rows with a missing value, or None where there is none."""
        if np.isfinite(self.values.sum()):  # one pass; the rare overflow only costs a second look
            return None
        mask = np.isnan(self.values.reshape(len(self), -1)).any(axis=1)
        return np.asarray(mask) if mask.any() else None

    def take(self, rows: NDArray[np.intp]) -> Numeric:
        """Some of the rows."""
        return replace(self, values=self.values[rows])


@dataclass(frozen=True)
class Factor:
    """A categorical variable.

    Attributes
    ----------
    codes : ndarray of int, shape (n,)
        -1 where missing.
    levels : ndarray of str, shape (q,)
    ordered : bool
    contrast : Contrast, optional
        What ``C(f, sum)`` asked for.
    """

    codes: IntArray
    levels: NDArray[Any]
    ordered: bool = False
    contrast: Contrast | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def missing(self) -> NDArray[np.bool_] | None:
        """Rows with a missing value, or None where there is none."""
        mask = self.codes < 0
        return mask if mask.any() else None

    def take(self, rows: NDArray[np.intp]) -> Factor:
        """Some of the rows, all of the levels."""
        return replace(self, codes=self.codes[rows])

    def drop_unused(self) -> Factor:
        """Without the levels that no row has."""
        seen = np.zeros(len(self.levels) + 1, dtype=bool)  # the extra place is that of -1
        seen[self.codes] = True
        seen = seen[:-1]
        if seen.all():
            return self
        place = np.append(np.cumsum(seen, dtype=np.int32) - 1, -1).astype(np.int32)
        return replace(self, codes=place[self.codes], levels=self.levels[seen])

    def recoded(self, levels: Sequence[Any] | NDArray[Any]) -> tuple[IntArray, tuple[str, ...]]:
        """Codes in other levels, -1 where unknown or missing, and the names of the unknown levels that occur."""
        known = np.asarray(levels, dtype=object)
        if len(known) == len(self.levels) and (known == self.levels).all():
            return self.codes, ()
        place = pd.Index(known).get_indexer(pd.Index(np.asarray(self.levels, dtype=object))).astype(np.int32)
        codes = np.append(place, np.int32(-1))[self.codes]
        unknown = np.zeros(len(place) + 1, dtype=bool)
        unknown[self.codes] = True
        unseen = self.levels[unknown[:-1] & (place < 0)]
        return codes, tuple(str(level) for level in unseen)


Value = Numeric | Factor


def read_column(series: pd.Series, name: str) -> Value:
    """The values of one column: numbers as float64, booleans as logical, anything else as a factor.

    Strings become a factor with sorted levels. The sort is by code point ("B" before "a"), which does not depend on
    the locale; R sorts by the locale of its session. Categoricals keep the order of their categories. Arrays of one
    shape are stacked.
    """
    kind = series.dtype
    if holds_arrays(series):
        return Numeric(stack_arrays(series, name), array=True)
    if isinstance(kind, pd.CategoricalDtype):
        return _categorical(series)
    if pd.api.types.is_bool_dtype(kind):
        return Numeric(_as_float(series), logical=True)
    if pd.api.types.is_complex_dtype(kind):
        raise DesignError(f"column '{name}' holds complex numbers, which a mixed model cannot take.")
    if pd.api.types.is_numeric_dtype(kind):
        return Numeric(_as_float(series))
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        raise DesignError(f"column '{name}' holds dates or times: turn them into numbers, or into factor({name}).")
    if kind == np.object_:
        inferred = pd.api.types.infer_dtype(series, skipna=True)
        if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
            return Numeric(_as_float(series))
        if inferred == "boolean":
            return Numeric(_as_float(series), logical=True)
        if inferred in ("datetime", "date", "timedelta", "datetime64", "timedelta64", "time"):
            raise DesignError(f"column '{name}' holds dates or times: turn them into numbers, or into factor({name}).")
        if inferred == "empty":
            return Numeric(np.full(len(series), np.nan))
    return _strings(series)


def read_factor(series: pd.Series) -> Factor:
    """A column as a factor, as R's ``factor()`` makes it: levels of numbers in numeric order, unused ones dropped.

    Integers stay exact, and whole floating numbers are named like integers ("2", not "2.0").
    """
    kind = series.dtype
    if holds_arrays(series):
        raise DesignError(f"column '{series.name}' holds arrays: it cannot be a factor.")
    if isinstance(kind, pd.CategoricalDtype):
        return _categorical(series).drop_unused()
    if pd.api.types.is_bool_dtype(kind):
        return logical_factor(_as_float(series)).drop_unused()
    if isinstance(kind, np.dtype) and kind.kind in "iu":
        return _integers(series.to_numpy())
    if pd.api.types.is_integer_dtype(kind):
        present = series.notna().to_numpy()
        codes = np.full(len(series), -1, dtype=np.int32)
        found = _integers(series[present].to_numpy(dtype=np.int64))
        codes[present] = found.codes
        return Factor(codes, found.levels)
    if pd.api.types.is_float_dtype(kind):
        return number_factor(_as_float(series))
    if kind == np.object_ and pd.api.types.infer_dtype(series, skipna=True) in (
        "integer",
        "floating",
        "mixed-integer-float",
    ):
        return number_factor(_as_float(series))
    return _strings(series)


def as_factor(value: Value) -> Factor:
    """Any value as a factor without unused levels."""
    if isinstance(value, Factor):
        return value.drop_unused()
    if value.values.ndim > 1:
        raise DesignError("a matrix, such as that of poly(), cannot be a factor.")
    return logical_factor(value.values).drop_unused() if value.logical else number_factor(value.values)


def number_factor(values: FloatArray) -> Factor:
    """Numbers as a factor, in numeric order."""
    codes, found = pd.factorize(values, sort=True)
    whole = len(found) == 0 or (
        np.isfinite(found).all() and (found == np.round(found)).all() and np.abs(found).max() < 1e15
    )
    levels = found.astype(np.int64).astype(str) if whole else np.array([f"{x:.15g}" for x in found])
    if len(set(levels.tolist())) < len(levels):  # numbers that differ only beyond 15 digits
        levels = np.array([repr(x) for x in found.tolist()])
    return Factor(codes.astype(np.int32), levels)


def logical_factor(values: FloatArray) -> Factor:
    """Zeros and ones as a factor with the levels FALSE and TRUE."""
    codes = np.where(np.isnan(values), -1, values).astype(np.int32)
    return Factor(codes, np.array(["FALSE", "TRUE"]))


def interaction(left: Factor, right: Factor) -> Factor:
    """The factor ``left:right`` with the combinations that occur, ordered by the left factor first."""
    width = len(right.levels)
    pairs = left.codes.astype(np.int64) * width + right.codes
    pairs[(left.codes < 0) | (right.codes < 0)] = -1
    size = len(left.levels) * width
    if size <= 4 * len(pairs) + 1000:
        codes, found = _compact(pairs, size)
    else:
        raw, found = pd.factorize(pairs, use_na_sentinel=False, sort=True)
        codes = raw.astype(np.int32)
        if len(found) and found[0] == -1:
            codes, found = codes - 1, found[1:]
    a, b = left.levels[found // max(width, 1)], right.levels[found % max(width, 1)]
    levels = np.array([f"{i}:{j}" for i, j in zip(a.tolist(), b.tolist(), strict=True)], dtype=str)
    return Factor(codes.astype(np.int32), levels)


def _compact(codes: NDArray[np.int64], size: int) -> tuple[IntArray, NDArray[np.int64]]:
    """Codes renumbered without gaps, and the numbers that occur; -1 stays -1."""
    seen = np.zeros(size + 1, dtype=bool)
    seen[codes] = True
    found = np.flatnonzero(seen[:-1])
    place = np.full(size + 1, -1, dtype=np.int32)
    place[found] = np.arange(len(found), dtype=np.int32)
    return place[codes], found


def _integers(values: NDArray[Any]) -> Factor:
    if len(values) == 0:
        return Factor(np.empty(0, dtype=np.int32), np.empty(0, dtype=str))
    low, high = int(values.min()), int(values.max())
    if high - low <= 4 * len(values) + 1000:
        codes, found = _compact(values.astype(np.int64) - low, high - low + 1)
        found = found + low
    else:
        raw, found = pd.factorize(values, sort=True)
        codes = raw.astype(np.int32)
    return Factor(codes, found.astype(str))


def _categorical(series: pd.Series) -> Factor:
    categories = series.cat.categories
    if pd.api.types.is_float_dtype(categories.dtype):
        levels = number_factor(categories.to_numpy(dtype=np.float64)).levels
    elif pd.api.types.is_bool_dtype(categories.dtype):
        levels = np.where(categories.to_numpy(dtype=bool), "TRUE", "FALSE")
    else:
        levels = np.array([str(c) for c in categories.tolist()], dtype=str)
    return Factor(series.cat.codes.to_numpy().astype(np.int32), levels, ordered=bool(series.cat.ordered))


def _strings(series: pd.Series) -> Factor:
    codes, found = pd.factorize(series)
    names = [str(level) for level in found.tolist()]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.full(len(names) + 1, -1, dtype=np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    levels = np.array([names[i] for i in order], dtype=str)
    return Factor(place[codes], levels)


def _as_float(series: pd.Series) -> FloatArray:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "fiub":
        return series.to_numpy().astype(np.float64, copy=False)
    return series.to_numpy(dtype=np.float64, na_value=np.nan)
