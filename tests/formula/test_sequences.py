"""Rows as sequences."""

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula.design import DesignError
from pylmernn.formula.sequences import read_sequences

DATA = pd.DataFrame({"d": ["b", "a", "a", "b", "a", "c"], "t": [2.0, 3, 1, 1, 2, 7]})


def test_rows_are_sorted_by_time():
    found = read_sequences(DATA, "d", "t")
    assert found.names.tolist() == ["b", "a", "c"]
    assert found.rows.tolist() == [[3, 0, -1], [2, 4, 1], [5, -1, -1]]
    assert found.lengths.tolist() == [2, 3, 1]
    back = found.spread(DATA.t.to_numpy()[np.maximum(found.rows, 0)], 6)
    np.testing.assert_array_equal(back, DATA.t)


def test_without_time_rows_are_in_order():
    assert read_sequences(DATA, "d", None).rows.tolist() == [[0, 3, -1], [1, 2, 4], [5, -1, -1]]


def test_rows_left_out_at_an_end():
    found = read_sequences(DATA, "d", "t", used=np.array([0, 2, 3, 4]), omitted=np.array([1, 5]))
    assert found.names.tolist() == ["b", "a"]
    assert found.rows.tolist() == [[2, 0], [1, 3]]


def test_groups_of_sequences():
    found = read_sequences(DATA, "d", "t")
    assert found.constant(np.array([1, 0, 0, 1, 0, 1], dtype=np.int32), "g").tolist() == [1, 0, 1]
    with pytest.raises(DesignError, match="'a' has rows of several levels of 'g'"):
        found.constant(np.array([1, 0, 1, 1, 0, 1], dtype=np.int32), "g")


@pytest.mark.parametrize(
    "data, message",
    [
        (DATA.assign(t=[1.0, 3, 1, 1, 2, 7]), "'b' has the time 1.0 twice in 't'"),
        (DATA.assign(t=[np.nan, 3, 1, 1, 2, 7]), "'t' is missing in row 1"),
        (DATA.assign(d=["b", "a", None, "b", "a", "c"]), "'d' is missing in row 3"),
        (DATA.assign(t=list("312125")), "'t' is text, which has no order of time"),
        (DATA.drop(columns="t"), "no column 't'"),
    ],
)
def test_bad_sequences(data, message):
    with pytest.raises(DesignError, match=message):
        read_sequences(data, "d", "t")


def test_a_row_left_out_amid_a_sequence():
    with pytest.raises(DesignError, match="'a' has a row with missing values amid others"):
        read_sequences(DATA, "d", "t", used=np.array([0, 1, 2, 3, 5]), omitted=np.array([4]))
