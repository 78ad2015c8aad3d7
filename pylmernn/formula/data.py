"""Any table a user brings, as a pandas DataFrame of the columns that are needed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.formula.design import DesignError


def as_pandas(data: Any, wanted: Collection[str] | None = None) -> pd.DataFrame:
    """A pandas DataFrame of the same columns; nothing is copied where that can be helped.

    Parameters
    ----------
    data : DataFrame, mapping of names to arrays, or any table narwhals reads (polars, pyarrow, modin, ...)
    wanted : collection of str, optional
        The columns needed, so that only these are converted; pandas tables pass as they are.

    Raises
    ------
    DesignError
        Where it is no table.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if data is None:
        raise DesignError("data is missing: give a DataFrame with the columns of the formula.")
    if isinstance(data, Mapping):
        return _from_mapping(data)
    import narwhals as nw

    try:
        table = nw.from_native(data)
    except TypeError as error:
        raise DesignError(
            f"data is a {type(data).__name__}: give a DataFrame (pandas, polars, ...) or a dict of arrays."
        ) from error
    if isinstance(table, nw.LazyFrame):
        table = table.collect()
    if wanted is not None and set(wanted) <= set(table.columns):
        table = table.select([name for name in table.columns if name in wanted])
    return table.to_pandas()


def _from_mapping(data: Mapping[Any, Any]) -> pd.DataFrame:
    lengths = {
        name: len(column) for name, column in data.items() if hasattr(column, "__len__") and not isinstance(column, str)
    }
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{name}' {length}" for name, length in list(lengths.items())[:5])
        raise DesignError(f"the columns of data differ in length: {shown}.")
    return pd.DataFrame({name: _rows(column) for name, column in data.items()})


def _rows(column: Any) -> Any:
    """An array with two or more axes as a list of the arrays of each row."""
    return list(np.asarray(column)) if getattr(column, "ndim", 1) > 1 else column


def column(data: pd.DataFrame, name: str) -> pd.Series:
    """One column; DesignError with close names where there is none."""
    try:
        found = data[name]
    except KeyError:
        raise unknown_column(data, name) from None
    if isinstance(found, pd.DataFrame):
        raise DesignError(f"data has {found.shape[1]} columns named '{name}': rename them.")
    return found


def unknown_column(data: pd.DataFrame, name: str) -> DesignError:
    """The error for a column that is not there."""
    names = [str(c) for c in data.columns]
    close = difflib.get_close_matches(name, names, n=3)
    lower = [c for c in names if c.lower() == name.lower() and c not in close]
    if close or lower:
        return DesignError(f"data has no column '{name}': did you mean {' or '.join(repr(c) for c in lower + close)}?")
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return DesignError(f"data has no column '{name}': its columns are {shown}.")
