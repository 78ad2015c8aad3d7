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
        ("y ~ nn(x) + (1 | g)", {"nn": 3}, "takes options such as"),
        ("y ~ x + z + f + t + nn(.) + (1 | g)", None, "no column is left for '.'"),
    ],
)
def test_messages(data, formula, nets, message):
    with pytest.raises(DesignError, match=message):
        build(formula, data, nets=nets)


def test_infinite_inputs_are_named(data):
    data.loc[0, "x"] = np.inf
    with pytest.raises(DesignError, match="predictor 'x' has 1 infinite"):
        build("y ~ nn(x) + (1 | g)", data)
