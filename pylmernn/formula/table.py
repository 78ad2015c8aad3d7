"""The model frame as a table, as lme4's ``model.frame`` would show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.formula import Formula
from pylmernn.formula.nodes import Name
from pylmernn.formula.terms import variables_of
from pylmernn.formula.values import Numeric, Value


def protected(columns: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """The columns, safe from what the user does to the table later: pandas 3 copies on write, pandas 2 needs a copy."""
    return columns if int(pd.__version__.split(".")[0]) >= 3 else {name: c.copy() for name, c in columns.items()}


def model_frame_table(
    formula: Formula,
    dot: Sequence[str] | None,
    columns: dict[str, pd.Series],
    values: dict[str, Value],
    rows: NDArray[np.intp] | None,
    index: pd.Index | None,
) -> pd.DataFrame:
    """One column a variable in order of appearance; matrices such as ``poly(x, 2)`` take several.

    Parameters
    ----------
    formula : Formula
    dot : the columns that ``.`` stands for
    columns : the columns of the data that were read, all rows
    values : the variables that were computed, rows used
    rows : positions used, None for all
    index : labels of the rows used
    """
    out: dict[str, object] = {}
    nodes = {formula.response: formula.response_node, **variables_of(formula.subbars, dot)}
    for name, node in nodes.items():
        if isinstance(node, Name) and node.id in columns:
            series = columns[node.id] if rows is None else columns[node.id].iloc[rows]
            if isinstance(series.dtype, pd.CategoricalDtype):
                series = series.cat.remove_unused_categories()
            out[node.id] = series.array
        elif name in values:
            out.update(_shown(name, values[name]))
    for call in formula.specials:
        for argument in call.arguments:
            node = argument.value
            if argument.name is None and isinstance(node, Name) and node.id in columns and node.id not in out:
                out[node.id] = (columns[node.id] if rows is None else columns[node.id].iloc[rows]).array
    for name in ("(weights)", "(offset)"):
        if name in values:
            out.update(_shown(name, values[name]))
    return pd.DataFrame(out, index=index)


def _shown(name: str, value: Value) -> dict[str, object]:
    if not isinstance(value, Numeric):
        return {name: pd.Categorical.from_codes(value.codes, categories=value.levels.tolist(), ordered=value.ordered)}
    if value.values.ndim == 2:
        k = value.values.shape[1]
        suffixes = value.names or tuple(str(i + 1) for i in range(k))
        return {name + suffix: value.values[:, j] for j, suffix in enumerate(suffixes if k > 1 else ("",))}
    return {name: value.values.astype(bool) if value.logical else value.values}
