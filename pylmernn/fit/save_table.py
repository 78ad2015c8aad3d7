"""The table of a model frame in the file of a fit: columns as arrays, texts as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pylmernn.formula.arrays import holds_arrays, stack_arrays

if TYPE_CHECKING:
    from pylmernn.fit.save import Parts


def put_table(parts: Parts, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Keep the columns of the model frame, the index last; returns what they are as JSON-able data."""
    described = [_put_column(parts, f"table.{j}", str(name), table.iloc[:, j]) for j, name in enumerate(table.columns)]
    index = table.index if not isinstance(table.index, pd.MultiIndex) else table.index.map(str)
    return [*described, _put_column(parts, "table.index", str(index.name or ""), pd.Series(index))]


def _put_column(parts: Parts, key: str, name: str, column: pd.Series) -> dict[str, Any]:
    kind: dict[str, Any] = {"key": key, "name": name, "dtype": str(column.dtype)}
    if isinstance(column.dtype, pd.CategoricalDtype):
        parts.put(key, column.cat.codes.to_numpy(dtype=np.int32))
        levels = column.cat.categories
        of = "number" if pd.api.types.is_numeric_dtype(levels) else "text"
        parts.put_json(f"{key}.levels", levels.tolist() if of == "number" else [str(v) for v in levels])
        more = {"kind": "category", "ordered": bool(column.cat.ordered), "levels": str(levels.dtype), "of": of}
        return {**kind, **more}
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        parts.put(key, column.to_numpy())
        return {**kind, "kind": "number"}
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "mM":
        parts.put(key, column.to_numpy().view(np.int64))
        return {**kind, "kind": "time"}
    if pd.api.types.is_numeric_dtype(column.dtype):  # nullable numbers
        parts.put(key, column.to_numpy(dtype=np.float64, na_value=np.nan))
        return {**kind, "kind": "nullable"}
    if holds_arrays(column):
        parts.put(key, stack_arrays(column, name))
        return {**kind, "kind": "arrays"}
    parts.put_json(key, [None if pd.isna(v) else str(v) for v in column])
    return {**kind, "kind": "text"}


def get_table(parts: Parts, described: list[dict[str, Any]]) -> pd.DataFrame:
    """A table that :func:`put_table` kept."""
    *columns, index = described
    values = {c["name"]: _get_column(parts, c) for c in columns}
    labels = pd.Index(_get_column(parts, index), name=index["name"] or None)
    table = pd.DataFrame(values, index=range(len(labels)))
    table.index = labels
    return table


def _get_column(parts: Parts, kind: dict[str, Any]) -> Any:
    key = kind["key"]
    if kind["kind"] == "category":
        levels = pd.Index(parts.get_json(f"{key}.levels"))
        if kind["of"] == "number":
            levels = levels.astype(kind["levels"])
        return pd.Categorical.from_codes(parts.arrays[key], categories=levels, ordered=kind["ordered"])
    if kind["kind"] == "number":
        return parts.arrays[key]
    if kind["kind"] == "arrays":
        return list(parts.arrays[key])
    if kind["kind"] == "time":
        return parts.arrays[key].view(kind["dtype"])
    if kind["kind"] == "nullable":
        return pd.array(parts.arrays[key]).astype(kind["dtype"])
    texts = parts.get_json(key)
    return pd.array(texts, dtype="str") if kind["dtype"] == "str" else np.array(texts, dtype=object)
