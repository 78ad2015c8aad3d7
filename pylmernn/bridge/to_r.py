"""pandas to R, column by column through buffers: exact, and milliseconds for a million rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pylmernn.bridge.session import BridgeError, Session, session

_NA_INTEGER = np.int32(-(2**31))
_NA_REAL = np.array([0x7FF00000000007A2], dtype=np.uint64).view(np.float64)[0]  # R's NA is one NaN among many
_EXACT_DOUBLE = 2**53


def to_r(data: pd.DataFrame) -> Any:
    """A DataFrame as an R data.frame.

    Parameters
    ----------
    data : DataFrame
        Categories become factors (ordered ones ordered factors; categories that are no strings are named as R would),
        booleans logical, integers integer (or double, where they need more than 32 bits), strings character,
        ``datetime.date`` Date, times POSIXct with their zone, time spans difftime in seconds. Missing values become
        NA; a NaN of a plain float column stays NaN, which R also counts as missing. The index becomes the row names.

    Returns
    -------
    rpy2 object
        An R data.frame.

    Raises
    ------
    BridgeError
        Naming the column that R cannot hold without loss.

    Examples
    --------
    >>> from_r(to_r(pd.DataFrame({"x": [1, 2], "g": ["a", None]})))  # doctest: +SKIP
       x    g
    0  1    a
    1  2  NaN
    """
    if not isinstance(data, pd.DataFrame):
        raise BridgeError(f"to_r needs a pandas DataFrame, not {type(data).__name__}.")
    if not data.columns.is_unique:
        raise BridgeError(f"the column '{data.columns[data.columns.duplicated()][0]}' occurs twice: rename one.")
    r = session()
    columns = [_column(r, data.iloc[:, j], str(name)) for j, name in enumerate(data.columns)]
    names = r.text(*(str(name) for name in data.columns))
    return r.call("put_frame", r.ri.ListSexpVector(columns), names, _row_names(r, data.index))


def _row_names(r: Session, index: pd.Index) -> Any:
    if index.equals(pd.RangeIndex(len(index))):
        return r.call("default_row_names", r.ri.IntSexpVector([len(index)]))
    if not index.is_unique or index.hasnans or isinstance(index, pd.MultiIndex):
        raise BridgeError("the index has repeated or missing labels, and R's row names must not: use reset_index().")
    if pd.api.types.is_integer_dtype(index.dtype) and index.min() > _NA_INTEGER and index.max() < 2**31:
        return _integers(r, index.to_numpy(dtype=np.int32))
    return _strings(r, [str(label) for label in index], "the index")


def _column(r: Session, x: pd.Series, name: str) -> Any:
    kind = x.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return _factor(r, x, name)
    if isinstance(kind, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(kind):
        return _time(r, x, name)
    if pd.api.types.is_timedelta64_dtype(kind):
        return r.call("put_span", _doubles(r, _seconds(x.to_numpy(dtype="timedelta64[ns]"), name)))
    if pd.api.types.is_bool_dtype(kind):
        return _logical(r, x)
    if pd.api.types.is_integer_dtype(kind):
        return _whole(r, x, name)
    if pd.api.types.is_float_dtype(kind):
        return _float(r, x)
    found = pd.api.types.infer_dtype(x, skipna=True)
    if found in ("string", "empty"):
        return _character(r, x, name)
    if found == "date":
        return r.call("put_date", _doubles(r, _days(x)))
    if found == "boolean":
        return _logical(r, x.astype("boolean"))
    if found == "integer":
        return _whole(r, x.astype("Int64"), name)
    if found in ("floating", "mixed-integer-float"):
        return _float(r, x.astype("Float64"))
    raise BridgeError(f"the column '{name}' holds {found} values ({kind}), which have no counterpart in R: convert it.")


def _logical(r: Session, x: pd.Series) -> Any:
    missing = x.isna().to_numpy()
    values = x.fillna(False).to_numpy(dtype=bool).astype(np.int32)
    values[missing] = _NA_INTEGER
    return r.ri.BoolSexpVector.from_memoryview(values.data)


def _whole(r: Session, x: pd.Series, name: str) -> Any:
    missing = x.isna().to_numpy()
    low, high = (x.min(), x.max()) if not missing.all() else (0, 0)
    if low < -_EXACT_DOUBLE or high > _EXACT_DOUBLE:
        raise BridgeError(
            f"the column '{name}' has integers beyond 2^53, which R's doubles cannot hold: make it strings."
        )
    values = x.to_numpy(dtype=np.int64, na_value=0) if missing.any() else x.to_numpy(dtype=np.int64)
    if low > _NA_INTEGER and high < 2**31:
        short = values.astype(np.int32)
        short[missing] = _NA_INTEGER
        return _integers(r, short)
    return _doubles(r, _with_na(values.astype(np.float64), missing))


def _float(r: Session, x: pd.Series) -> Any:
    if isinstance(x.dtype, np.dtype):
        return _doubles(r, x.to_numpy(dtype=np.float64))  # bit by bit: R's NA that once came from R is NA again
    return _doubles(r, x.to_numpy(dtype=np.float64, na_value=_NA_REAL))


def _factor(r: Session, x: pd.Series, name: str) -> Any:
    codes = x.cat.codes.to_numpy().astype(np.int32) + np.int32(1)
    codes[codes == 0] = _NA_INTEGER
    levels = _strings(r, [_label(level) for level in x.cat.categories], f"a level of '{name}'")
    return r.call("put_factor", _integers(r, codes), levels, r.ri.BoolSexpVector([bool(x.cat.ordered)]))


def _label(level: Any) -> str:
    if isinstance(level, (bool, np.bool_)):
        return "TRUE" if level else "FALSE"
    if isinstance(level, (float, np.floating)):
        return f"{level:.15g}"
    return str(level)


def _character(r: Session, x: pd.Series, name: str) -> Any:
    codes, values = pd.factorize(x)
    codes = codes.astype(np.int32) + np.int32(1)
    codes[codes == 0] = _NA_INTEGER
    return r.call(
        "put_strings",
        _integers(r, codes),
        _strings(r, np.asarray(values, dtype=object).tolist(), f"the column '{name}'"),
    )


def _time(r: Session, x: pd.Series, name: str) -> Any:
    zone = str(x.dt.tz) if x.dt.tz is not None else ""
    instants = (x.dt.tz_convert("UTC").dt.tz_localize(None) if zone else x).to_numpy()
    return r.call("put_time", _doubles(r, _seconds(instants, name)), r.text(zone))


def _days(x: pd.Series) -> np.ndarray:
    """Days since 1970 of ``datetime.date`` objects, NA where missing."""
    codes, values = pd.factorize(x)  # dates repeat, and numpy is slow with objects
    days = np.array(np.asarray(values).tolist(), dtype="datetime64[D]").astype(np.float64)
    return np.append(days, _NA_REAL)[codes]


def _seconds(x: np.ndarray, name: str) -> np.ndarray:
    """Times or spans as seconds, NA where missing; R's doubles are exact to the microsecond, no further."""
    missing = np.isnat(x)
    micro = x.astype(f"{x.dtype.kind}8[us]")
    if (micro[~missing].astype(x.dtype) != x[~missing]).any():
        raise BridgeError(
            f"the column '{name}' has nanoseconds, and R's times hold microseconds: round it, as in .dt.round('us')."
        )
    return _with_na(micro.astype(np.int64) / 1e6, missing)


def _with_na(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    values[missing] = _NA_REAL
    return values


def _strings(r: Session, values: list[str], where: str) -> Any:
    joined = "\0".join([*values, ""])
    if joined.count("\0") != len(values):
        raise BridgeError(f"{where} holds a zero character, which no R string can.")
    packed = bytearray(joined.encode("utf-8"))
    return r.call(
        "unpack_strings", r.ri.ByteSexpVector.from_memoryview(memoryview(packed)), _integers(r, [len(values)])
    )


def _integers(r: Session, values: Any) -> Any:
    return r.ri.IntSexpVector.from_memoryview(np.ascontiguousarray(values, dtype=np.int32).data)


def _doubles(r: Session, values: np.ndarray) -> Any:
    return r.ri.FloatSexpVector.from_memoryview(np.ascontiguousarray(values, dtype=np.float64).data)
