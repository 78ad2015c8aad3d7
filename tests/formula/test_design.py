"""What make_design accepts, orders, drops and refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pylmernn.formula.design import DesignError, RandomTerm, independent_columns, make_design


def group(codes, name="g", columns=None, levels=None):
    codes = np.asarray(codes, dtype=np.int32)
    columns = np.ones((len(codes), 1)) if columns is None else columns
    levels = np.arange(codes.max() + 1).astype(str) if levels is None else levels
    return RandomTerm(name, codes, levels, columns, ("(Intercept)",) * columns.shape[1], label=f"(1 | {name})")


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return {
        "y": rng.normal(size=12),
        "X": np.column_stack([np.ones(12), rng.normal(size=12)]),
        "random": [group(np.arange(12) % 4)],
    }


def build(parts, **changes):
    return make_design(**{"fixed_names": ["(Intercept)", "x"], **parts, **changes})


def test_terms_are_sorted_by_levels_and_ties_reversed_as_in_lme4(parts):
    two, three, also_three = (
        group(np.arange(12) % 2, "two"),
        group(np.arange(12) % 3, "three"),
        group(np.arange(12) // 4, "also"),
    )
    names = [t.group for t in build(parts, random=[two, three, also_three]).random]
    assert names == ["also", "three", "two"]
    assert [t.group for t in build(parts, random=[three, also_three, two]).random] == ["three", "also", "two"]


def test_dependent_columns_are_dropped_and_named(parts):
    X = np.column_stack([parts["X"], 2 * parts["X"][:, 1] - 1, np.arange(12.0)])
    design = build(parts, X=X, fixed_names=["(Intercept)", "x", "twice", "t"])
    assert design.fixed_names == ("(Intercept)", "x", "t")
    assert (design.dropped, design.dropped_at) == (("twice",), (2,))


def test_nearly_dependent_columns_are_judged_as_qr_judges_them():
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(50), rng.normal(size=50)])
    noise = rng.normal(size=50)
    assert independent_columns(np.column_stack([X, X[:, 1] + 1e-5 * noise])) == [0, 1, 2]
    assert independent_columns(np.column_stack([X, X[:, 1] + 1e-9 * noise])) == [0, 1]
    assert independent_columns(np.column_stack([np.zeros(50), X])) == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.ones(12)}, "'y' is constant"),
        ({"y": np.r_[np.inf, np.arange(11.0)]}, "infinite or missing values .first in row 1"),
        ({"weights": np.ones(3)}, "weights has 3 values but the model has 12 rows"),
        ({"weights": np.r_[-1.0, np.ones(11)]}, "weights has 1 negative values"),
        ({"weights": np.r_[np.nan, np.ones(11)]}, "weights has 1 missing values"),
        ({"weights": np.r_[0.0, np.ones(11)]}, "weights has 1 zeros"),
        ({"weights": np.r_[np.inf, np.ones(11)]}, "weights has infinite values"),
        ({"offset": np.full(12, np.nan)}, "the offset has infinite or missing"),
        ({"X": np.column_stack([np.ones(12), np.r_[np.inf, np.ones(11)]])}, "fixed effect 'x' has 1 infinite values"),
        ({"random": [group(np.zeros(12))]}, r"'g' of \(1 \| g\) has 1 level"),
        ({"random": [group(np.arange(12))]}, "has 12 levels in 12 rows"),
        ({"random": [group(np.arange(12) % 6, columns=np.ones((12, 2)))]}, "12 random effects .* in 12 rows"),
        ({"y": np.empty(0)}, "no rows are left"),
        ({"random": []}, "no random effects"),
    ],
)
def test_bad_input_is_named(parts, changes, message):
    with pytest.raises(DesignError, match=message):
        build(parts, **changes)


def test_another_response(parts):
    design = build(parts)
    assert design.with_response(np.arange(12.0)).y[3] == 3.0
    with pytest.raises(DesignError, match="the new response has 3 values but the model has 12 rows"):
        design.with_response(np.arange(3.0))
    assert dataclasses.replace(design).n == 12
