"""Which rows of the data a model uses: weights and offsets as columns, subset, missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.data import unknown_column
from pylmernn.formula.design import DesignError
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.nodes import Node
from pylmernn.formula.parser import parse_expression
from pylmernn.formula.values import Numeric, Value, read_column


@dataclass(frozen=True)
class Rows:
    """The rows of a model.

    Attributes
    ----------
    used : ndarray of positions in the data, or None for all of them
    n : int
        How many are used.
    total : int
        How many there were after ``subset``, before missing values were left out.
    omitted : ndarray of int
        Which of those were left out.
    names : Index
        Labels of the rows after ``subset``.
    """

    used: NDArray[np.intp] | None
    n: int
    total: int
    omitted: NDArray[np.intp]
    names: pd.Index


def choose_rows(env: Evaluator, variables: Mapping[str, Value], subset: Any, na_action: str) -> Rows:
    """The rows left by ``subset`` and by missing values in any of the variables."""
    chosen = subset_rows(env, subset)
    names = env.data.index if chosen is None else env.data.index[chosen]
    drop = missing_rows(variables, chosen, na_action)
    used = chosen
    if drop is not None:
        used = (np.arange(len(names)) if chosen is None else chosen)[~drop]
    n = len(names) if used is None else len(used)
    if n == 0:
        raise DesignError("no rows are left after subset and missing values: look at the data.")
    return Rows(used, n, len(names), np.empty(0, dtype=np.intp) if drop is None else np.flatnonzero(drop), names)


def extra_variable(env: Evaluator, given: Any, what: str) -> Numeric | None:
    """The ``weights`` or ``offset`` argument: a column, an expression of columns, or one number a row.

    Raises
    ------
    DesignError
        Where it is not numeric or has not one value a row.
    """
    if given is None:
        return None
    value: Value
    if isinstance(given, str):
        value = env.read(given) if env.has_column(given) else env.variable(_expression(env, given))
    else:
        series = given if isinstance(given, pd.Series) else pd.Series(np.asarray(given).reshape(-1))
        if len(series) != len(env.data):
            raise DesignError(f"{what} has {len(series)} values but data has {len(env.data)} rows.")
        value = read_column(series, what)
    if not isinstance(value, Numeric) or value.values.ndim != 1:
        raise DesignError(f"{what} must be one column of numbers.")
    return value


def _expression(env: Evaluator, text: str) -> Node:
    try:
        return parse_expression(text, query=True)
    except DesignError:
        raise unknown_column(env.data, text) from None


def subset_rows(env: Evaluator, subset: Any) -> NDArray[np.intp] | None:
    """Positions of the rows asked for, or None for all of them.

    Raises
    ------
    DesignError
        Where it is neither a condition, nor booleans, nor positions.
    """
    if subset is None:
        return None
    n = len(env.data)
    if isinstance(subset, str):
        value = env.read(subset) if env.has_column(subset) else env.variable(parse_expression(subset, query=True))
        if not isinstance(value, Numeric) or not value.logical:
            raise DesignError(f"subset '{subset}' is no condition: write one such as \"x > 3\".")
        return np.flatnonzero(value.values == 1)  # missing counts as no
    series = subset if isinstance(subset, pd.Series) else pd.Series(np.asarray(subset).reshape(-1))
    if pd.api.types.is_bool_dtype(series.dtype) or series.dtype == object:
        if len(series) != n:
            raise DesignError(f"subset has {len(series)} values but data has {n} rows.")
        mask = read_column(series, "subset")
        if isinstance(mask, Numeric) and mask.logical:
            return np.flatnonzero(mask.values == 1)
    elif pd.api.types.is_integer_dtype(series.dtype):
        rows = series.to_numpy(dtype=np.intp)
        if len(rows) and (rows.min() < -n or rows.max() >= n):
            raise DesignError(f"subset has the position {int(rows.max())}, but data has {n} rows (counted from 0).")
        return np.arange(n)[rows]
    raise DesignError("subset must be a condition, booleans with one value a row, or row positions.")


def missing_rows(
    variables: Mapping[str, Value], rows: NDArray[np.intp] | None, na_action: str
) -> NDArray[np.bool_] | None:
    """Which of the rows lack a value in some variable, or None where none does.

    Raises
    ------
    DesignError
        Under ``na_action="fail"``, with the counts by variable.
    """
    total: NDArray[np.bool_] | None = None
    counts: dict[str, int] = {}
    for name, value in variables.items():
        mask = value.missing()
        if mask is not None and rows is not None:
            mask = mask[rows]
        if mask is None or not mask.any():
            continue
        counts[name] = int(mask.sum())
        total = mask if total is None else total | mask
    if total is not None and na_action == "fail":
        shown = ", ".join(f"{count} in '{name}'" for name, count in counts.items())
        raise DesignError(
            f'{int(total.sum())} rows have missing values ({shown}): remove them, or use na_action="omit".'
        )
    return total
