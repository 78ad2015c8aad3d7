"""R's way to print numbers and tables, against what R printed (golden/rtext.R)."""

import json
from pathlib import Path

import numpy as np
import pytest

from pylmernn.fit import rtext

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rtext.json").read_text())


def one(value):
    return value[0] if isinstance(value, list) else value


def number(x):
    return np.array([np.nan if v == "NA" else v for v in x], dtype=float)


@pytest.mark.parametrize("case", GOLDEN["formats"], ids=str)
def test_format(case):
    assert rtext.format_numbers(number(case["x"]), one(case["digits"])) == case["text"]


@pytest.mark.parametrize("case", GOLDEN["zaps"], ids=str)
def test_zapsmall(case):
    np.testing.assert_allclose(rtext.zapsmall(number(case["x"]), 5), case["text"], rtol=1e-14)


@pytest.mark.parametrize("case", GOLDEN["words"], ids=str)
def test_abbreviate(case):
    assert rtext.abbreviate(case["x"], one(case["n"])) == case["text"]


@pytest.mark.parametrize("case", GOLDEN["coefs"], ids=str)
def test_coefficient_table(case):
    x = np.array(case["x"], dtype=float)
    cells = rtext.coefficient_cells(x, 4)
    names = [f"x{i + 1}" for i in range(len(x))]
    text = rtext.matrix(names, ["Estimate", "Std. Error", "t value"], cells, right=True)
    assert text.split("\n") == case["text"]


@pytest.mark.parametrize("case", GOLDEN["pvals"], ids=str)
def test_p_values(case):
    assert rtext.format_p_values(case["x"], 3) == case["text"]


@pytest.mark.parametrize("case", GOLDEN["vectors"], ids=str)
def test_named_vector(case):
    texts = rtext.format_numbers(case["x"], 7)
    assert rtext.named_vector(case["names"], texts).split("\n") == case["text"]


@pytest.mark.parametrize("case", GOLDEN["tables"], ids=str)
def test_matrix(case):
    for side in ("left", "right"):
        text = rtext.matrix(case["rows"], case["columns"], case["x"], right=side == "right")
        assert text.split("\n") == case[side]


@pytest.mark.parametrize("case", GOLDEN["formulas"], ids=str)
def test_deparse(case):
    assert rtext.deparse(one(case["text"])) == case["lines"]


@pytest.mark.parametrize("case", GOLDEN["fills"], ids=str)
def test_cat_fill(case):
    assert rtext.cat_fill(case["x"]).split("\n") == case["text"]
