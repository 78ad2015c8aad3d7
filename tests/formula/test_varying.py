"""Bars with a network left of them."""

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula import build, parse
from pylmernn.formula.design import DesignError

DATA = pd.DataFrame({"y": np.sin(np.arange(12.0)), "x": np.arange(12.0), "g": list("aabbcc") * 2, "h": list("uv") * 6})


@pytest.mark.parametrize(
    "bar, net, selector, covariance",
    [
        ("(nn | g)", "nn", "", "us"),
        ("(nn.last | g)", "nn", "last", "us"),
        ("(nn.first || g)", "nn", "first", "diag"),
        ("diag(nn.last | g)", "nn", "last", "diag"),
        ('(nn["layers.0.weight"] | g)', "nn", "layers.0.weight", "us"),
    ],
)
def test_bars_of_networks(bar, net, selector, covariance):
    design, frame = build(f"y ~ nn(x, hidden=c(3)) + {bar}", DATA)
    (term,) = design.varying
    assert (term.net, term.selector, term.covariance, term.group) == (net, selector, covariance, "g")
    assert design.random == ()
    assert term.levels.tolist() == ["a", "b", "c"]
    rows = frame.new_data({"x": [1.0, 2.0], "g": ["c", "z"]}, design, varying=True)
    assert rows.varying[0].tolist() == ["c", "z"]
    assert frame.new_data({"x": [1.0]}, design).varying == ()


def test_the_network_is_found_by_its_name():
    design, _ = build("y ~ nn(x, net='tower') + (tower.last | g)", DATA, nets={"tower": {"hidden": (2,)}})
    assert (design.varying[0].net, design.varying[0].selector) == ("tower", "last")


def test_a_column_of_that_name_comes_first():
    design, _ = build("y ~ x + (0 + nn | g)", DATA.assign(nn=np.cos(DATA["x"])))
    assert design.varying == ()
    assert design.random[0].column_names == ("nn",)


def test_brackets_are_written_back():
    text = 'y ~ nn(x) + (nn["layers.0.weight"] | g)'
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "formula, message",
    [
        ("y ~ x + (nn | g)", "the formula has no network 'nn'"),
        ("y ~ nn(x) + (nn + x | g)", r"stand alone left of a bar: write \(nn | g\)"),
        ("y ~ nn(x) + (nn[1] | g)", "name one parameter in quotes"),
        ("y ~ x + (crf | g)", "transitions belong to sequences"),
        ("y ~ nn(g) + (nn | g)", "'g' is the grouping factor"),
        ("y ~ nn(x) + (nn.last | k)", "the grouping factor 'k' .* has 1 level"),
    ],
)
def test_bad_bars(formula, message):
    with pytest.raises(DesignError, match=message):
        build(formula, DATA.assign(k="one"))


@pytest.mark.parametrize(
    "bars, varying, random",
    [
        ("(nn.last | g) + (1 | h)", [("g", "last")], [("h", ("(Intercept)",))]),
        ("(x || h) + (nn || g)", [("g", "")], [("h", ("(Intercept)",)), ("h", ("x",))]),
        ("(nn.last | g) + (nn.first | h)", [("g", "last"), ("h", "first")], []),
        ("(nn | h/g) + (1 | g)", [("g:h", ""), ("h", "")], [("g", ("(Intercept)",))]),
        ("diag(nn | g:h)", [("g:h", "")], []),
    ],
)
def test_several_bars(bars, varying, random):
    data = pd.concat([DATA, DATA.assign(y=DATA["y"] + np.cos(DATA["x"]))])
    design, frame = build(f"y ~ nn(x) + {bars}", data)
    assert [(term.group, term.selector) for term in design.varying] == varying
    found = sorted((term.group, term.column_names) for term in design.random)
    assert found == sorted(random)
    rows = frame.new_data({"x": [1.0], "g": ["c"], "h": ["w"]}, design, varying=True)
    names = {"g": "c", "h": "w", "g:h": "c:w"}
    assert [own[0] for own in rows.varying] == [names[group] for group, _ in varying]


def test_sequences_vary_by_one_factor():
    data = DATA.assign(z=np.array(list("uvw"))[np.arange(12) % 3])
    for bars in ("(nn | g) + (crf | h)", "(nn | g) + (nn | h)", "(crf | g/h)"):
        with pytest.raises(DesignError, match="lets sequences vary by one factor"):
            build(f"z ~ nn(x) + {bars}", data, family="crf")
    with pytest.raises(DesignError, match="does not fit columns that vary by group beside"):
        build("z ~ nn(x) + (crf | g) + (1 | h)", data, family="crf")


def test_of_a_generalized_model():
    design, _ = build("z ~ nn(x) + (nn | g)", DATA.assign(z=np.arange(12) % 2), family="binomial")
    assert design.varying[0].group == "g"
