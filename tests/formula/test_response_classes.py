"""Responses that are classes: codes, names and their order, and what is no class."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula import build
from pylmernn.formula.design import DesignError


def table(y, **columns):
    rng, n = np.random.default_rng(0), len(y)
    return pd.DataFrame({"y": y, "x": rng.normal(size=n), "g": np.resize(list("aabbcc"), n), **columns})


def response(y, family, formula="y ~ x + (1 | g)"):
    design, _ = build(formula, table(y), family=family)
    return design.classes, design.y.tolist()


TEXT = ["dog", "cat", "eel", "cat", "dog", "eel"]
CODES = [1.0, 0.0, 2.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("family", ["multinomial", "ordinal"])
@pytest.mark.filterwarnings("ignore:the classes of")
def test_classes_and_codes(family):
    assert response(TEXT, family) == (("cat", "dog", "eel"), CODES)
    assert response([1, 0, 2, 0, 1, 2], family) == (("0", "1", "2"), CODES)
    assert response([5.0, -1.0, 10.0, -1.0, 5.0, 10.0], family) == (("-1", "5", "10"), CODES)
    assert response([True, False, True, False, True, True], family)[0] == ("FALSE", "TRUE")
    ordered = pd.Categorical(TEXT, ["eel", "dog", "cat", "fox"], ordered=True)
    assert response(ordered, family) == (("eel", "dog", "cat"), [1.0, 2.0, 0.0, 2.0, 1.0, 0.0])


def test_classes_of_rows_used():
    data = table(TEXT)
    data.loc[[2, 5], "x"] = np.nan
    assert build("y ~ x + (1 | g)", data, family="multinomial")[0].classes == ("cat", "dog")


def test_classes_of_a_binomial():
    assert response(["no", "yes"] * 3, "binomial") == (("no", "yes"), [0.0, 1.0] * 3)
    assert response([False, True] * 3, "binomial") == (("FALSE", "TRUE"), [0.0, 1.0] * 3)
    assert response(TEXT, "binomial") == (("cat", "not cat"), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert response([0, 1] * 3, "binomial") == ((), [0.0, 1.0] * 3)
    assert response([0, 3] * 3, "poisson")[0] == ()


def test_text_of_an_ordinal_model_is_told():
    with pytest.warns(UserWarning, match="the order cat < dog < eel"):
        response(TEXT, "ordinal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response(["1", "2", "3", "1", "2", "3"], "ordinal")
        response(pd.Categorical(TEXT, ["eel", "dog", "cat"]), "ordinal")


@pytest.mark.parametrize(
    "y, family, message",
    [
        (["a"] * 6, "multinomial", "one class only, 'a'"),
        (["a"] * 6, "binomial", "one class only, 'a'"),
        ([1] * 6, "binomial", "one class only, 1: it needs two"),
        ([3] * 6, "ordinal", "one class only, '3'"),
        ([1, 2, 2.5, 1, 1, 2], "multinomial", r"has the value 2.5: the multinomial family needs classes"),
        ([1, 2, 2.5, 1, 1, 2], "ordinal", r"has the value 2.5"),
        (np.arange(1001), "multinomial", "1001 classes, more than 1000: did you mean a number"),
        (TEXT, "poisson", "is a factor or text: the poisson family needs numbers"),
    ],
)
def test_no_classes(y, family, message):
    with pytest.raises(DesignError, match=message):
        response(y, family)


def test_no_classes_from_counts():
    with pytest.raises(DesignError, match="belongs to a binomial model"):
        response([1, 0, 2, 0, 1, 2], "multinomial", "cbind(y, x) ~ 1 + (1 | g)")
    with pytest.raises(DesignError, match=r"is 1 and 0\.5 in row 1: counts are whole numbers"):
        build("cbind(y, z) ~ 1 + (1 | g)", table([1] * 6, z=0.5), family="binomial")


def test_ordinal_has_no_intercept():
    data = table([0, 1, 2, 1, 0, 2], z=1.0, f=list("ppqqrr"))
    design, frame = build("y ~ z + x + f + (1 | g)", data, family="ordinal")
    assert design.fixed_names == ("x", "fq", "fr")
    assert design.dropped == ("z",)
    np.testing.assert_array_equal(design.X[:, 0], data["x"])
    new = frame.new_data(data.iloc[[4, 1]], design)
    np.testing.assert_array_equal(new.X, design.X[[4, 1]])
    design, frame = build("y ~ 1 + (1 | g)", data, family="ordinal")
    assert frame.new_data(data, design).X.shape == (6, 0)
    with pytest.raises(DesignError, match="take '0 \\+' or '- 1' out"):
        build("y ~ 0 + x + (1 | g)", data, family="ordinal")
