"""Columns that hold one array a row: sequences, spectra, images, for networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.formula.design import DesignError, FloatArray


def holds_arrays(series: pd.Series) -> bool:
    """Whether the first value that is there is an array or a list."""
    if isinstance(series.dtype, np.dtype) and series.dtype != np.object_:
        return False
    if isinstance(series.dtype, (pd.CategoricalDtype, pd.StringDtype)):
        return False
    first: Any = next((cell for cell in series if not _is_missing(cell)), None)
    return isinstance(first, (list, tuple)) or (hasattr(first, "__array__") and np.ndim(first) > 0)


def stack_arrays(series: pd.Series, name: str) -> FloatArray:
    """The arrays of a column in one, (n, *shape); NaN where a row has none.

    Raises
    ------
    DesignError
        Where they are of different shapes, empty, or no numbers.
    """
    cells = {i: _numbers(cell, i, name) for i, cell in enumerate(series) if not _is_missing(cell)}
    first, example = next(iter(cells.items()))
    if example.size == 0:
        raise DesignError(f"column '{name}' holds an array without elements in row {first + 1}.")
    out = np.full((len(series), *example.shape), np.nan)
    for i, cell in cells.items():
        if cell.shape != example.shape:
            raise DesignError(
                f"column '{name}' holds arrays of different shapes, {example.shape} in row {first + 1} and "
                f"{cell.shape} in row {i + 1}: pad or cut them to one shape."
            )
        out[i] = cell
    return out


def _numbers(cell: Any, i: int, name: str) -> FloatArray:
    """One cell as an array; nested lists and arrays of arrays (as polars gives them) included."""
    try:
        array = np.asarray(cell)
        if array.dtype.kind not in "biuf":
            array = np.array(list(cell) if np.ndim(cell) > 0 else cell, dtype=np.float64)
    except (TypeError, ValueError):
        raise DesignError(
            f"column '{name}' holds arrays, but row {i + 1} has none of numbers of one length along each axis."
        ) from None
    return np.asarray(array, dtype=np.float64)


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))
