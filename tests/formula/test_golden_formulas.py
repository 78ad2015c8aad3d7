"""Model matrices, names and random terms are those of R and lme4 (made by golden/make_golden.R)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula import build, parse

GOLDEN = json.loads((Path(__file__).parent / "golden" / "formulas.json").read_text())
LEVELS = ["lo", "mid", "hi", "top"]


def table(columns):
    data = pd.DataFrame({name: [np.nan if v is None else v for v in column] for name, column in columns.items()})
    data["o"] = pd.Categorical(data["o"], categories=LEVELS, ordered=True)
    return data


DATA = table(GOLDEN["data"])
NEW = table(GOLDEN["new"])


def label(model):
    return model["formula"][0] + (f" [{json.dumps(model['contrasts'])}]" if model["contrasts"] else "")


def columns_of(golden):
    return np.array(golden, dtype=float).T.reshape(-1, len(golden))


@pytest.fixture(params=GOLDEN["models"], ids=label)
def model(request):
    return request.param


@pytest.fixture
def built(model):
    contrasts = {name: kind[0] for name, kind in (model["contrasts"] or {}).items()}
    return build(model["formula"][0], DATA, contrasts=contrasts, subset=model["subset"] and model["subset"][0])


def test_fixed_columns_and_their_names(model, built):
    design, frame = built
    names = list(design.fixed_names)
    for at, name in zip(design.dropped_at, design.dropped, strict=True):
        names.insert(at, name)
    assert names == model["fixed"]["names"]
    expected = columns_of(model["fixed"]["columns"])
    kept = np.delete(expected, design.dropped_at, axis=1)
    np.testing.assert_allclose(design.X, kept, rtol=1e-8, atol=1e-9)
    assert list(frame.assign) == model["assign"]


def test_dropped_columns_are_those_that_r_has_too(model, built):
    design, frame = built
    every_column = dataclasses.replace(design, dropped=(), dropped_at=())
    used = frame.frame.index
    again = frame.new_data(DATA.loc[used], every_column).X
    np.testing.assert_allclose(again, columns_of(model["fixed"]["columns"]), rtol=1e-8, atol=1e-9)


def test_response_and_offset(model, built):
    design, _ = built
    np.testing.assert_allclose(design.y, model["response"], rtol=1e-9)
    if model["offset"] is None:
        assert design.offset is None
    else:
        np.testing.assert_allclose(design.offset, model["offset"], rtol=1e-9)


def test_random_terms_are_lme4s(model, built):
    design, _ = built
    assert [term.group for term in design.random] == [golden["group"][0] for golden in model["random"]]
    for term, golden in zip(design.random, model["random"], strict=True):
        assert list(term.column_names) == golden["columns"]
        assert term.levels.tolist() == golden["levels"]
        place = term.codes[:, None] * term.width + np.arange(1, term.width + 1)
        np.testing.assert_allclose((term.columns * place).sum(axis=1), golden["weighted"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", [m for m in GOLDEN["models"] if m["new"]], ids=label, indirect=True)
def test_new_rows_follow_the_state_of_the_fit(model, built):
    design, frame = built
    rows = frame.new_data(NEW, dataclasses.replace(design, dropped=(), dropped_at=()), random=False, na_action="omit")
    np.testing.assert_allclose(rows.X, columns_of(model["new"]["columns"]), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(rows.offset, model["new"]["offset"], rtol=1e-9)


def test_the_fixed_part_as_text(model):
    assert parse(model["formula"][0]).nobars() == model["nobars"][0]


def test_the_model_frame_has_lme4s_columns(model, built):
    _, frame = built
    matrices = ("poly(", "ns(", "bs(")
    expected = [name for name in model["frame"] if not name.startswith(matrices) or name == "poly(z, 1)"]
    found = [name for name in frame.frame.columns if not name.startswith(matrices) or name == "poly(z, 1)"]
    assert found == expected
