"""``nn(...)`` in formulas: inputs, options, the dot, new data, messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula import build
from pylmernn.formula.design import DesignError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    n = 40
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 2, n),
            "f": np.resize(["a", "b", "c"], n),
            "g": np.arange(n) % 8,
            "t": np.arange(n) % 2,
        }
    )


def test_inputs_are_columns_expressions_and_factors(data):
    design, frame = build("y ~ t + nn(x, log(z), f, hidden = c(5, 3), dropout = 0.1) + (1 | g)", data)
    (net,) = design.nets
    assert net.input_names == ("x", "log(z)", "f")
    assert net.levels == (0, 0, 3)
    assert net.options == {"hidden": (5, 3), "dropout": 0.1}
    np.testing.assert_allclose(net.inputs[:, 1], np.log(data["z"]))
    assert design.fixed_names == ("(Intercept)", "t")
    assert {"x", "f"} <= set(frame.frame.columns)


def test_the_dot_is_every_column_not_used_elsewhere(data):
    design, _ = build("y ~ t + nn(.) + (1 | g)", data)
    assert design.nets[0].input_names == ("x", "z", "f")


def test_options_by_name_and_those_of_the_formula_first(data):
    design, _ = build("y ~ nn(x, hidden = 4) + (1 | g)", data, nets={"nn": {"hidden": (9,), "dropout": 0.5}})
    assert design.nets[0].options == {"hidden": 4, "dropout": 0.5}
    two, _ = build("y ~ nn(x) + nn(z, net = 'tower') + (1 | g)", data, nets={"tower": {"hidden": (7,)}})
    assert [net.name for net in two.nets] == ["nn", "tower"]
    assert two.nets[1].options == {"hidden": (7,)}


def test_new_data_are_treated_like_the_old(data):
    design, frame = build("y ~ nn(x, scale(z), f) + (1 | g)", data)
    rows = frame.new_data(data, design)
    np.testing.assert_allclose(rows.nets[0], design.nets[0].inputs)
    part = frame.new_data(data.iloc[3:5].assign(x=[np.nan, 1.0]), design)
    assert np.isnan(part.nets[0][0, 0])
    np.testing.assert_allclose(part.nets[0][1, 1:], design.nets[0].inputs[4, 1:])


def test_missing_inputs_leave_rows_out(data):
    data.loc[2, "x"] = np.nan
    design, frame = build("y ~ nn(x) + (1 | g)", data)
    assert design.n == 39
    assert frame.omitted.tolist() == [2]


@pytest.mark.parametrize(
    ("formula", "nets", "message"),
    [
        ("y ~ nn() + (1 | g)", None, "name the columns that the network takes"),
        ("y ~ nn(hidden = 3) + (1 | g)", None, "name the columns that the network takes"),
        ("y ~ nn(q) + (1 | g)", None, "data has no column 'q'"),
        ("y ~ nn(x, y) + (1 | g)", None, "the response 'y' cannot be an input"),
        ("y ~ nn(x, g) + (1 | g)", None, "'g' is the grouping factor of a random term too"),
        ("y ~ nn(x, hidden = z) + (1 | g)", None, "the option 'z' must be a plain number"),
        ("y ~ nn(x) + (1 | g)", {"tower": {}}, "nets has 'tower', but no network"),
        ("y ~ nn(x, net = 'tower') + (1 | g)", None, "nets has no 'tower'"),
        ("y ~ nn(x) + (1 | g)", {"nn": 3}, "is of type int: give options such as"),
        ("y ~ x + z + f + t + nn(.) + (1 | g)", None, "no column is left for '.'"),
    ],
)
def test_messages(data, formula, nets, message):
    with pytest.raises(DesignError, match=message):
        build(formula, data, nets=nets)


def with_arrays(data, shape=(4, 2)):
    """The data and a column "s" of arrays, one a row."""
    arrays = np.random.default_rng(1).normal(size=(len(data), *shape))
    return data.assign(s=list(arrays)), arrays


def test_a_column_of_arrays_is_one_input_with_a_shape(data):
    given, arrays = with_arrays(data)
    design, frame = build("y ~ nn(x, s, f) + (1 | g)", given)
    (net,) = design.nets
    assert net.shapes == ((), (4, 2), ())
    assert net.input_names == ("x", *(f"s{j}" for j in range(1, 9)), "f")
    np.testing.assert_array_equal(net.inputs[:, 1:9], arrays.reshape(40, 8))
    np.testing.assert_array_equal(np.stack(frame.frame["s"].to_list()), arrays)
    rows = frame.new_data(given.tail(3), design)
    np.testing.assert_array_equal(rows.nets[0], net.inputs[-3:])


def test_arrays_come_as_lists_numpy_arrays_or_polars_lists(data):
    _, arrays = with_arrays(data)
    plain = {name: data[name].to_numpy() for name in "yg"}
    polars = pytest.importorskip("polars")
    tables = (
        {**plain, "s": arrays},
        {**plain, "s": arrays.tolist()},
        polars.DataFrame({**plain, "s": arrays.tolist()}),
        polars.DataFrame({**plain, "s": arrays}),
    )
    for table in tables:
        (net,) = build("y ~ nn(s) + (1 | g)", table)[0].nets
        np.testing.assert_array_equal(net.inputs, arrays.reshape(40, 8))
    assert build("y ~ nn(x, z) + (1 | g)", data)[0].nets[0].shapes == ()


def test_arrays_that_are_missing_or_hold_nan_leave_rows_out(data):
    given, arrays = with_arrays(data)
    arrays[5, 1, 1] = np.nan
    cells = list(arrays)
    cells[2] = None
    given["s"] = cells
    design, frame = build("y ~ nn(s) + (1 | g)", given)
    assert frame.omitted.tolist() == [2, 5]
    new = frame.new_data(given.head(3), design).nets[0]
    assert np.isnan(new).all(axis=1).tolist() == [False, False, True]
    gone = frame.new_data(given.head(2).assign(s=None), design).nets[0]
    assert np.isnan(gone).all()
    assert gone.shape == (2, 8)
    with pytest.raises(DesignError, match=r"2 rows have missing values \(2 in 's'\)"):
        build("y ~ nn(s) + (1 | g)", given, na_action="fail")


def test_one_dimensional_arrays_are_columns_of_a_linear_term(data):
    given, arrays = with_arrays(data, (3,))
    design, _ = build("y ~ s + (1 | g)", given)
    assert design.fixed_names == ("(Intercept)", "s1", "s2", "s3")
    np.testing.assert_array_equal(design.X[:, 1:], arrays)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ s + (1 | g)", r"'s' holds arrays of shape \(4, 2\), which only nn\(\) takes"),
        ("y ~ nn(log(s)) + (1 | g)", r"'s' is a column of arrays, but 'log\(s\)' needs numbers"),
        ("y ~ nn(x) + (1 | s)", "column 's' holds arrays: it cannot be a factor"),
        ("s ~ nn(x) + (1 | g)", "the response 's' is a matrix"),
    ],
)
def test_arrays_where_no_array_can_stand(data, formula, message):
    with pytest.raises(DesignError, match=message):
        build(formula, with_arrays(data)[0])


def test_arrays_that_do_not_fit_together(data):
    given, arrays = with_arrays(data)
    cells = list(arrays)
    cells[7] = np.zeros((3, 2))
    with pytest.raises(
        DesignError, match=r"'s' holds arrays of different shapes, \(4, 2\) in row 1 and \(3, 2\) in row 8"
    ):
        build("y ~ nn(s) + (1 | g)", given.assign(s=cells))
    cells[7] = ["a", "b"]
    with pytest.raises(DesignError, match="column 's' holds arrays, but row 8 has none of numbers"):
        build("y ~ nn(s) + (1 | g)", given.assign(s=cells))
    cells[7] = [[1.0, 2.0], [3.0]]
    with pytest.raises(DesignError, match="row 8 has none of numbers of one length"):
        build("y ~ nn(s) + (1 | g)", given.assign(s=cells))
    arrays[3, 0, 0] = np.inf
    with pytest.raises(DesignError, match="predictor 's' has 1 infinite"):
        build("y ~ nn(s) + (1 | g)", given.assign(s=list(arrays)))


def test_new_arrays_have_the_shape_of_the_old(data):
    given, _ = with_arrays(data)
    design, frame = build("y ~ nn(x, s) + (1 | g)", given)
    with pytest.raises(
        DesignError, match=r"'s' held arrays of shape \(4, 2\) in the fit, but arrays of shape \(5, 2\)"
    ):
        frame.new_data(with_arrays(data, (5, 2))[0], design)
    with pytest.raises(DesignError, match=r"held arrays of shape \(4, 2\) in the fit, but no arrays"):
        frame.new_data(data.assign(s=1.0), design)
    with pytest.raises(DesignError, match="'x' was numeric in the fit, but holds arrays"):
        frame.new_data(given.assign(x=given["s"]), design)


def test_modules_by_name_are_not_looked_into(data):
    def tower():
        raise AssertionError("the design needs no network")

    design, frame = build("y ~ nn(x, z, net = 'tower') + (1 | g)", data, nets={"tower": tower})
    assert design.nets[0].module is tower
    assert frame.new_data(data, design).nets[0].shape == (40, 2)


def test_infinite_inputs_are_named(data):
    data.loc[0, "x"] = np.inf
    with pytest.raises(DesignError, match="predictor 'x' has 1 infinite"):
        build("y ~ nn(x) + (1 | g)", data)
