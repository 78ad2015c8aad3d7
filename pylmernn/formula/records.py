"""What a fit records about each variable, and new data made to match it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.terms import Terms
from pylmernn.formula.values import Factor, Numeric, Value


def sum_offsets(terms: Terms, values: Mapping[str, Value], extra: Numeric | None) -> FloatArray | None:
    """The offset() terms and the offset argument in one array, or None where there is neither."""
    parts = [_offset_values(terms.names[i], values[terms.names[i]]) for i in terms.offsets]
    if extra is not None:
        parts.append(extra.values)
    return sum(parts[1:], start=np.array(parts[0])) if parts else None


def _offset_values(name: str, value: Value) -> FloatArray:
    if not isinstance(value, Numeric) or value.values.ndim != 1:
        raise DesignError(f"'{name}' is not one column of numbers.")
    return value.values


def record(value: Value) -> dict[str, Any]:
    """What new data must look like, as JSON-able data."""
    if isinstance(value, Factor):
        return {"kind": "factor", "levels": [str(level) for level in value.levels], "ordered": value.ordered}
    if value.array:
        return {"kind": "array", "shape": list(value.values.shape[1:])}
    return {"kind": "logical" if value.logical else "numeric"}


def like_fit(name: str, value: Value, record: Mapping[str, Any]) -> Value:
    """A variable of new data with the kind and levels of the fit."""
    if record["kind"] == "factor":
        if isinstance(value, Numeric):
            if np.isnan(value.values).all():
                return Factor(np.full(len(value), -1, dtype=np.int32), np.array(record["levels"], dtype=str))
            raise DesignError(
                f"'{name}' was a factor in the fit, but is numeric in the new data: give it the levels of the fit."
            )
        codes, unseen = value.recoded(record["levels"])
        if unseen:
            raise DesignError(
                f"the new data have level '{unseen[0]}' of the factor '{name}', which the fit has not seen: "
                f"its levels are {', '.join(record['levels'][:10])}."
            )
        return replace(value, codes=codes, levels=np.array(record["levels"], dtype=str), ordered=record["ordered"])
    if record["kind"] == "array":
        return _like_arrays(name, value, record["shape"])
    if isinstance(value, Factor):
        if not (value.codes >= 0).any():
            return Numeric(np.full(len(value), np.nan), logical=record["kind"] == "logical")
        raise DesignError(f"'{name}' was numeric in the fit, but is text or a factor in the new data.")
    if value.array:
        raise DesignError(f"'{name}' was numeric in the fit, but holds arrays in the new data.")
    return replace(value, logical=record["kind"] == "logical")


def _like_arrays(name: str, value: Value, shape: Sequence[int]) -> Numeric:
    """Arrays of the shape of the fit; rows without any are missing."""
    if isinstance(value, Numeric) and value.array and value.values.shape[1:] == tuple(shape):
        return value
    missing = value.missing()
    if missing is not None and missing.all():
        return Numeric(np.full((len(value), *shape), np.nan), array=True)
    arrays = isinstance(value, Numeric) and value.array
    found = f"arrays of shape {value.values.shape[1:]}" if isinstance(value, Numeric) and arrays else "no arrays"
    raise DesignError(f"'{name}' held arrays of shape {tuple(shape)} in the fit, but {found} in the new data.")
