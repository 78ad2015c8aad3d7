"""Data frames to R and back, without loss, in both directions."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylmernn.bridge import BridgeError, from_r, session, to_r

pytestmark = pytest.mark.r

FRAMES = {
    "float": pd.Series([1.5, np.nan, -np.inf, 5e-324]),
    "Float": pd.array([1.5, None, np.inf], dtype="Float64"),
    "integer": [1, 2**31 - 1, -(2**31) + 1],
    "Integer": pd.array([1, None, -3], dtype="Int64"),
    "bool": [True, False],
    "boolean": pd.array([True, None, False], dtype="boolean"),
    "string": ["a", "", "NA", 'é\n"quoted"', None, "𝔘", "a"],
    "factor": pd.Categorical(["b", None, "a"], categories=["b", "unused", "a"]),
    "ordered": pd.Categorical(["lo", "hi", None], categories=["lo", "mid", "hi"], ordered=True),
    "date": pd.Series([dt.date(2024, 2, 29), None, dt.date(1800, 1, 1)], dtype=object),
    "naive time": pd.Series([pd.Timestamp("2024-02-29 12:34:56.789012"), pd.NaT, pd.Timestamp("1950-01-01")]),
    "time": pd.Series([pd.Timestamp("2024-07-01 01:02:03.000001"), pd.NaT]).dt.tz_localize("Europe/Zurich"),
    "utc time": pd.Series([pd.Timestamp("2024-07-01 01:02:03"), pd.NaT]).dt.tz_localize("UTC"),
    "span": pd.Series(pd.to_timedelta([1.5, None, -86400.0], unit="s")),
    "no rows": pd.Series([], dtype=float),
    "no strings": pd.Series([], dtype=object),
}


def in_r(frame, code):
    """The value of R code in which ``x`` is the frame."""
    place = session().place()
    place["x"] = frame
    return session().run(code, place).value


@pytest.mark.parametrize("name", FRAMES)
def test_pandas_to_r_and_back(name):
    frame = pd.DataFrame({"before": pd.Series(FRAMES[name])})
    if name in ("naive time", "time", "utc time", "span"):  # R's own resolution
        frame["before"] = frame["before"].dt.as_unit("us")
    if name == "Float":  # the values and what is missing; a plain float column holds both
        back = from_r(to_r(frame))
        pd.testing.assert_frame_equal(back, frame.astype("float64"))
    else:
        pd.testing.assert_frame_equal(from_r(to_r(frame)), frame)


R_COLUMNS = {
    "double": "c(1.5, NA, NaN, Inf, -0.0, .Machine$double.xmin)",
    "integer": "c(1L, NA, -.Machine$integer.max)",
    "whole": "1:3",
    "logical": "c(TRUE, NA, FALSE)",
    "character": "c('a', NA, 'NA', '', '\\u00e9\\U1D518')",
    "latin1": "local({s <- 'fa\\xE7ile'; Encoding(s) <- 'latin1'; c(s, 'b')})",
    "factor": "factor(c('b', NA, 'a'), levels = c('b', 'unused', 'a'))",
    "ordered": "factor(c('2', '10', NA), levels = c('2', '10'), ordered = TRUE)",
    "no levels": "factor(c(NA, NA))",
    "date": "as.Date(c('2024-02-29', NA, '1066-10-14'))",
    "time": "as.POSIXct(c('2024-02-29 12:34:56.25', NA), tz = 'America/New_York')",
    "utc": "as.POSIXct(c('2024-02-29 12:34:56', NA), tz = 'UTC')",
    "span": "as.difftime(c(1.5, NA, -3), units = 'secs')",
}


@pytest.mark.parametrize("name", R_COLUMNS)
def test_r_to_pandas_and_back(name):
    frame = session().run(f"data.frame(x = {R_COLUMNS[name]})", session().place()).value
    place = session().place()
    place["before"], place["after"] = frame, to_r(from_r(frame))
    assert session().run("identical(before, after)", place).value[0]


def test_na_and_nan_stay_apart():
    frame = session().run("data.frame(x = c(NA, NaN))", session().place()).value
    assert list(in_r(to_r(from_r(frame)), "is.nan(x$x)")) == [False, True]
    plain = to_r(pd.DataFrame({"x": pd.array([None, 1.0], dtype="Float64")}))
    assert list(in_r(plain, "is.na(x$x) & !is.nan(x$x)")) == [True, False]


def test_r_sees_the_right_classes():
    frame = pd.DataFrame(
        {
            "f": pd.Categorical([3, 1, 2], categories=[3, 1, 2]),
            "o": pd.Categorical([0.5, 1.0, 0.5], ordered=True),
            "b": pd.Categorical([True, False, True]),
            "big": [2**40, 1, 2],
            "small": np.array([1, 2, 3], dtype="int8"),
            "mixed": pd.Series([1, None, 2.5], dtype=object),
        }
    )
    r = to_r(frame)
    assert list(in_r(r, "levels(x$f)")) == ["3", "1", "2"]
    assert list(in_r(r, "class(x$o)")) == ["ordered", "factor"]
    assert list(in_r(r, "levels(x$o)")) == ["0.5", "1"]
    assert list(in_r(r, "levels(x$b)")) == ["FALSE", "TRUE"]
    assert in_r(r, "x$big[1] == 2^40 && is.double(x$big) && is.integer(x$small)")[0]
    assert in_r(r, "identical(x$mixed, c(1, NA, 2.5))")[0]


def test_times_show_the_same_clock_in_r():
    stamp = pd.Timestamp("2024-07-01 10:30:00")
    frame = pd.DataFrame({"naive": [stamp], "zoned": [stamp.tz_localize("Europe/Zurich")]})
    shown = in_r(to_r(frame), "c(format(x$naive), format(x$zoned), attr(x$zoned, 'tzone'))")
    assert list(shown) == ["2024-07-01 10:30:00", "2024-07-01 10:30:00", "Europe/Zurich"]


def test_row_names():
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=["first", "second"])
    pd.testing.assert_frame_equal(from_r(to_r(frame)), frame)
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=[7, 3])
    pd.testing.assert_frame_equal(from_r(to_r(frame)), frame)
    assert list(in_r(to_r(frame), "row.names(x)")) == ["7", "3"]
    frame = pd.DataFrame({"a b": [1.0], "1": [2.0]})
    assert list(from_r(to_r(frame)).columns) == ["a b", "1"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", codec="utf-8"))), max_size=20))
def test_any_text_comes_back(texts):
    frame = pd.DataFrame({"x": pd.Series(texts, dtype="str" if any(t is not None for t in texts) else object)})
    back = from_r(to_r(frame))["x"]
    assert [None if pd.isna(v) else v for v in back] == texts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**53), 2**53)), min_size=1, max_size=20))
def test_any_integer_comes_back(values):
    back = from_r(to_r(pd.DataFrame({"x": pd.array(values, dtype="Int64")})))["x"]
    assert [None if pd.isna(v) else int(v) for v in back] == values


def test_input_is_not_changed():
    frame = pd.DataFrame({name: pd.Series(column) for name, column in FRAMES.items() if name != "no rows"})
    before = frame.copy(deep=True)
    to_r(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_answers_do_not_share_rs_memory():
    frame = session().run("data.frame(x = c(1, 2, 3), i = 1:3)", session().place()).value
    back = from_r(frame)
    back.loc[0, "x"] = 99.0
    assert in_r(frame, "x$x[1]")[0] == 1.0


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([2**60], r"'x' has integers beyond 2\^53"),
        (["a\0b"], "'x' holds a zero character"),
        ([object()], "'x' holds mixed values .* no counterpart in R"),
        ([1j], "'x' holds complex values"),
        (pd.to_datetime(["2024-01-01 00:00:00.123456789"]), "'x' has nanoseconds"),
    ],
)
def test_what_r_cannot_hold_is_refused(column, message):
    with pytest.raises(BridgeError, match=message):
        to_r(pd.DataFrame({"x": pd.Series(column)}))


def test_frames_r_cannot_hold_are_refused():
    with pytest.raises(BridgeError, match="repeated or missing labels"):
        to_r(pd.DataFrame({"x": [1, 2]}, index=["a", "a"]))
    with pytest.raises(BridgeError, match="'x' occurs twice"):
        to_r(pd.DataFrame([[1, 2]], columns=["x", "x"]))
    with pytest.raises(BridgeError, match="not ndarray"):
        to_r(np.zeros((2, 2)))


@pytest.mark.parametrize("code", ["I(list(1, 2))", "I(matrix(1:4, 2))", "1i * 1:2", "addNA(factor(c('a', NA)))"])
def test_what_pandas_cannot_hold_is_refused(code):
    frame = session().run(f"data.frame(ok = 1:2, x = {code})", session().place()).value
    with pytest.raises(BridgeError, match="'x' of the R data frame is a "):
        from_r(frame)


def test_a_million_rows_are_not_copied_one_by_one():
    """Element by element takes seconds a column; the bound is twenty times what buffers take."""
    n = 1_000_000
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 1000, n)
    names = [f"level {i}" for i in range(1000)]
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "i": codes, "f": pd.Categorical.from_codes(codes, names), "b": codes > 500}
    )
    to_r(frame.head())
    start = time.perf_counter()
    back = from_r(to_r(frame))
    assert time.perf_counter() - start < 1.5
    pd.testing.assert_frame_equal(back, frame)
