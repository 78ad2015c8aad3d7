"""R to pandas, column by column through buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.bridge.session import BridgeError, session

_NA_INTEGER = -(2**31)


def from_r(frame: Any) -> pd.DataFrame:
    """An R data.frame as a DataFrame.

    Parameters
    ----------
    frame : rpy2 object
        An R data.frame or what ``as.data.frame`` takes.

    Returns
    -------
    DataFrame
        Factors are categorical, ordered ones ordered. Integer columns are int64, logical ones bool; with missing
        values they are the nullable Int64 and boolean. Doubles keep every bit, so that R's NA and NaN stay apart on the
        way back. Dates are ``datetime.date`` objects, POSIXct is datetime64 to the microsecond in its zone (R's current
        zone where it names none), difftime is timedelta64. Row names other than 1, 2, ... become the index.

    Raises
    ------
    BridgeError
        Naming a column that is no vector: a list, a matrix, complex numbers, a factor with NA among its levels.
    """
    r = session()
    names, row_names, n_rows, columns = r.call("take_frame", frame)
    index: Any = pd.RangeIndex(int(n_rows[0]))
    if row_names != r.ri.NULL:
        index = pd.Index(list(row_names))
    out = {j: _column(str(name), column, index) for j, (name, column) in enumerate(zip(names, columns, strict=True))}
    table = pd.DataFrame(out, index=index)
    table.columns = pd.Index([str(name) for name in names])
    return table


def _column(name: str, column: Any, index: pd.Index) -> pd.Series:
    kind = column[0][0]
    if kind not in _READERS:
        raise BridgeError(f"the column '{name}' of the R data frame is a {column[1][0]}, which pandas cannot hold.")
    return pd.Series(_READERS[kind](column), index=index)


def _array(vector: Any) -> np.ndarray:
    """A copy of an R vector's memory; the copy outlives R's garbage collection."""
    return np.array(vector.memoryview()) if len(vector) else np.empty(0, dtype=np.int32)


def _doubles(vector: Any) -> np.ndarray:
    return _array(vector).astype(np.float64, copy=False)


def _integer(column: Any) -> Any:
    values = _array(column[1])
    missing = values == _NA_INTEGER
    wide = values.astype(np.int64)
    return pd.arrays.IntegerArray(wide, missing) if missing.any() else wide


def _integer64(column: Any) -> Any:
    values = _doubles(column[1]).view(np.int64)
    missing = values == np.iinfo(np.int64).min
    return pd.arrays.IntegerArray(values, missing) if missing.any() else values


def _logical(column: Any) -> Any:
    values = _array(column[1])
    missing = values == _NA_INTEGER
    flags = values == 1
    return pd.arrays.BooleanArray(flags, missing) if missing.any() else flags


def _double(column: Any) -> Any:
    return _doubles(column[1])


def _character(column: Any) -> Any:
    strings = _strings(column[2], column[3])
    values = pd.Series(strings, dtype=None if strings else object)
    return values.array.take(_codes(column[1]), allow_fill=True)


def _factor(column: Any) -> Any:
    strings = _strings(column[2], column[3])
    levels = pd.Index(strings, dtype=None if strings else object)
    return pd.Categorical.from_codes(_codes(column[1]), levels, ordered=bool(column[4][0]))


def _date(column: Any) -> Any:
    days = _doubles(column[1])
    stamps = np.full(len(days), "NaT", dtype="datetime64[D]")
    known = np.isfinite(days)
    stamps[known] = np.floor(days[known]).astype(np.int64).astype("datetime64[D]")
    out = stamps.astype(object)
    out[~known] = None
    return pd.Series(out, dtype=object).array


def _time(column: Any) -> Any:
    zone = column[2][0]
    stamps = pd.Series(_microseconds(column[1]).view("datetime64[us]"))
    return (stamps if zone == "none" else stamps.dt.tz_localize("UTC").dt.tz_convert(zone)).array


def _span(column: Any) -> Any:
    return _microseconds(column[1]).view("timedelta64[us]")


def _microseconds(vector: Any) -> np.ndarray:
    seconds = _doubles(vector)
    out = np.full(len(seconds), np.iinfo(np.int64).min)  # NaT
    known = np.isfinite(seconds)
    out[known] = np.rint(seconds[known] * 1e6).astype(np.int64)
    return out


def _codes(vector: Any) -> np.ndarray:
    codes = _array(vector)
    return np.where(codes == _NA_INTEGER, -1, codes - 1)


def _strings(packed: Any, how_many: Any) -> list[str]:
    """Strings from their UTF-8 bytes, a zero byte after each, padded to whole integers."""
    return _array(packed).tobytes().decode("utf-8").split("\0")[: how_many[0]]


_READERS: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "integer64": _integer64,
    "logical": _logical,
    "double": _double,
    "character": _character,
    "factor": _factor,
    "date": _date,
    "time": _time,
    "span": _span,
}
