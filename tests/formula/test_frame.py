"""Every kind of table and column, rows chosen and left out, the model frame, and new data in line with the fit."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylmernn.formula import DesignError, ModelFrame, build

N = 40


def make_data():
    i = np.arange(N)
    return pd.DataFrame(
        {
            "y": np.sin(i) + i / 10,
            "x": 1 + np.abs(np.cos(3 * i)) * 9,
            "z": np.sin(5 * i),
            "k": (i * 7) % 5,
            "f": np.array(["b", "a", "c"])[i % 3],
            "b": (i * i) % 7 == 1,
            "g": 10 + i // 5,
            "s": np.array(["s1", "s2", "s3", "s4"])[i % 4],
            "o": pd.Categorical(np.array(["lo", "mid", "hi"])[(i // 4) % 3], ["lo", "mid", "hi"], ordered=True),
            "w": 1 + i % 4,
        }
    )


@pytest.fixture
def data():
    return make_data()


def same(a, b):
    assert a.fixed_names == b.fixed_names
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_allclose(a.X, b.X, rtol=1e-15)
    for one, other in zip(a.random, b.random, strict=True):
        assert one.group == other.group
        assert one.column_names == other.column_names
        assert one.levels.tolist() == other.levels.tolist()
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_allclose(one.columns, other.columns, rtol=1e-15)


FULL = "y ~ x * f + b + o + (x | g) + (1 | s)"


@pytest.mark.parametrize(
    "convert",
    [
        lambda d: d.convert_dtypes(),
        lambda d: d.assign(f=d["f"].astype(object), s=d["s"].astype("string"), b=d["b"].astype(object)),
        lambda d: d.assign(f=pd.Categorical(d["f"]), s=d["s"].astype("category"), g=d["g"].astype("category")),
        lambda d: d.assign(g=d["g"].astype(float), x=d["x"].astype("Float64")),
        lambda d: {name: d[name].array if name == "o" else d[name].to_numpy() for name in d},
        lambda d: {name: d[name].array if name == "o" else d[name].tolist() for name in d},
        lambda d: pa.Table.from_pandas(d),
        lambda d: d.set_index(pd.Index([f"row{i}" for i in range(N)])),
    ],
    ids=["nullable", "object", "category", "float", "arrays", "lists", "arrow", "index"],
)
def test_the_same_design_from_every_kind_of_table(data, convert):
    same(build(FULL, convert(data))[0], build(FULL, data)[0])


def test_polars_tables(data):
    table = pl.from_pandas(data.drop(columns="o"))
    formula = "y ~ x * f + b + (x | g) + (1 | s)"
    expected = build(formula, data)[0]
    same(build(formula, table)[0], expected)
    same(build(formula, table.lazy())[0], expected)
    design, frame = build("y ~ . - w - k - z + (1 | g)", table)
    assert design.fixed_names == ("(Intercept)", "x", "fb", "fc", "bTRUE", "ss2", "ss3", "ss4")
    np.testing.assert_allclose(frame.new_data(table, design).X, design.X)


def test_missing_values_of_nullable_types(data):
    gaps = data.convert_dtypes()
    gaps.loc[1, "x"] = pd.NA
    gaps.loc[2, "b"] = pd.NA
    gaps.loc[3, "f"] = pd.NA
    gaps.loc[4, "g"] = pd.NA
    gaps.loc[5, "y"] = pd.NA
    gaps.loc[6, "o"] = None
    design, frame = build(FULL, gaps)
    assert frame.omitted.tolist() == [1, 2, 3, 4, 5, 6]
    same(design, build(FULL, data.drop(index=[1, 2, 3, 4, 5, 6]))[0])


def test_levels_are_in_rs_order(data):
    data["g"] = np.where(data["g"] == 10, 100, data["g"])
    data["h"] = np.where(np.arange(N) % 2, 1.5, -2.0)
    data["c"] = pd.Categorical(data["s"], categories=["s4", "s9", "s1", "s3", "s2"])
    design, _ = build("y ~ (1 | g) + (1 | h) + (1 | c) + (1 | c:h) + (1 | b)", data)
    levels = {term.group: term.levels.tolist() for term in design.random}
    assert levels["g"] == ["11", "12", "13", "14", "15", "16", "17", "100"]
    assert levels["h"] == ["-2", "1.5"]
    assert levels["c"] == ["s4", "s1", "s3", "s2"]
    assert levels["c:h"] == ["s4:1.5", "s1:-2", "s3:-2", "s2:1.5"]
    assert levels["b"] == ["FALSE", "TRUE"]


@pytest.mark.parametrize("far", [1, 10**12])
def test_integer_groups_keep_every_digit(far):
    ids = np.repeat([2**53 + 1, 2**53 + 3, 2**53 + 1 + 2 * far], 4)
    design, _ = build("y ~ 1 + (1 | id)", {"y": np.arange(12.0), "id": ids})
    assert design.random[0].levels.tolist() == [str(i) for i in np.unique(ids)]
    assert design.random[0].codes.tolist() == np.unique(ids, return_inverse=True)[1].tolist()


def test_interaction_of_many_levels_keeps_what_occurs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 300, 800), rng.integers(0, 200, 800)
    design, _ = build("y ~ 1 + (1 | a:b) + (1 | a)", {"y": rng.normal(size=800), "a": a, "b": b})
    pairs = np.unique(np.column_stack([a, b]), axis=0)
    term = next(term for term in design.random if term.group == "a:b")
    assert term.levels.tolist() == [f"{i}:{j}" for i, j in pairs]
    np.testing.assert_array_equal(pairs[term.codes], np.column_stack([a, b]))


def test_dot_is_every_column_not_used_otherwise(data):
    design, _ = build("y ~ . + (x | g) + offset(z)", data.drop(columns=["o", "s"]), weights="w")
    assert design.fixed_names == ("(Intercept)", "x", "k", "fb", "fc", "bTRUE")
    squared, _ = build("log(y + 5) ~ .^2 + (1 | g)", data[["y", "x", "f", "g"]])
    assert squared.fixed_names == ("(Intercept)", "x", "fb", "fc", "x:fb", "x:fc")


def test_subset_in_every_spelling(data):
    mask = (data["x"] > 3) & (data["f"] != "c")
    expected, frame = build("y ~ x + (1 | s)", data[mask])
    spellings = [
        "x > 3 & f != 'c'",
        "x > 3 and not f == 'c'",
        "x > 3 & f %in% c('a', 'b')",
        mask,
        mask.to_numpy(),
        mask.astype("boolean"),
        np.flatnonzero(mask),
    ]
    for subset in spellings:
        design, found = build("y ~ x + (1 | s)", data, subset=subset)
        same(design, expected)
        assert found.row_names.equals(frame.row_names)
        assert found.all_rows == mask.sum()
    data["keep"] = mask.astype("boolean").mask(np.arange(N) < 2)
    assert build("y ~ x + (1 | s)", data, subset="keep")[0].n == mask[2:].sum()


def test_omitted_rows_and_padding(data):
    data.loc[[4, 7], "x"] = np.nan
    design, frame = build("y ~ x + (1 | g)", data, subset="k != 0", na_action="exclude")
    rows = np.flatnonzero(data["k"] != 0)
    assert frame.all_rows == len(rows)
    assert rows[frame.omitted].tolist() == [4, 7]
    assert frame.omitted_names.tolist() == [4, 7]
    assert frame.row_names.tolist() == [i for i in rows if i not in (4, 7)]
    padded = frame.pad(design.y)
    assert np.flatnonzero(np.isnan(padded)).tolist() == frame.omitted.tolist()
    np.testing.assert_array_equal(padded[~np.isnan(padded)], design.y)


def test_weights_and_offset_as_column_expression_and_values(data):
    by_name = build("y ~ x + offset(z) + (1 | g)", data, weights="w", offset="x")[0]
    np.testing.assert_array_equal(by_name.weights, data["w"])
    np.testing.assert_allclose(by_name.offset, data["x"] + data["z"])
    by_value = build("y ~ x + offset(z) + (1 | g)", data, weights=data["w"], offset=data["x"].tolist())[0]
    np.testing.assert_array_equal(by_value.weights, by_name.weights)
    np.testing.assert_array_equal(by_value.offset, by_name.offset)
    design, frame = build("y ~ x + (1 | g)", data, weights="1 / w", offset="log(x)")
    np.testing.assert_allclose(design.weights, 1 / data["w"])
    np.testing.assert_allclose(frame.new_data(data.head(3), design).offset, np.log(data["x"].head(3)))
    data["w"] = data["w"].astype(float)
    data.loc[0, "w"] = np.nan
    assert build("y ~ x + (1 | g)", data, weights="w")[1].omitted.tolist() == [0]


def test_contrasts_as_names_matrices_and_tables(data):
    by_name = build("y ~ f + (1 | g)", data, contrasts={"f": "sum"})[0]
    matrix = np.array([[1.0, 0], [0, 1], [-1, -1]])
    np.testing.assert_array_equal(build("y ~ f + (1 | g)", data, contrasts={"f": matrix})[0].X, by_name.X)
    assert by_name.fixed_names == ("(Intercept)", "f1", "f2")
    named = build("y ~ f + (f | s)", data, contrasts={"f": pd.DataFrame(matrix, columns=["one", "two"])})[0]
    assert named.fixed_names == ("(Intercept)", "fone", "ftwo")
    assert named.random[0].column_names == ("(Intercept)", "fb", "fc")  # as in lme4, defaults left of a bar
    assert build("y ~ C(f, Treatment('b')) + (1 | g)", data)[0].fixed_names[1:] == (
        'C(f, Treatment("b"))a',
        'C(f, Treatment("b"))c',
    )


def test_the_model_frame_is_a_table_of_the_rows_used(data):
    data.loc[3, "x"] = np.nan
    _, frame = build("y ~ log(x) + poly(z, 2) + I(k > 2) + factor(k) + (1 | f/s)", data, weights="w", offset="z")
    table = frame.frame
    assert list(table.columns) == [
        "y", "log(x)", "poly(z, 2)1", "poly(z, 2)2", "I(k > 2)", "factor(k)", "f", "s", "(weights)", "(offset)",
    ]  # fmt: skip
    assert table.index.tolist() == [i for i in range(N) if i != 3]
    np.testing.assert_allclose(table["log(x)"], np.log(data["x"].drop(3)))
    assert table["I(k > 2)"].dtype == bool
    assert table["factor(k)"].cat.categories.tolist() == ["0", "1", "2", "3", "4"]


def test_input_is_not_changed_and_later_changes_do_not_matter(data):
    before = data.copy(deep=True)
    design, frame = build(FULL, data, weights="w", subset="x > 2")
    frame.new_data(data, design)
    pd.testing.assert_frame_equal(data, before)
    y, x = design.y.copy(), design.X.copy()
    data.loc[:, "y"] = 0.0
    data.loc[:, "x"] = 0.0
    np.testing.assert_array_equal(design.y, y)
    np.testing.assert_array_equal(design.X, x)
    np.testing.assert_array_equal(frame.frame["x"], before.loc[frame.row_names, "x"])


def test_new_levels_of_a_group_get_no_code(data):
    design, frame = build("y ~ x + (x | g) + (1 | s:f)", data)
    new = data.head(6).copy()
    new["g"] = new["g"].astype("Int64")
    new.loc[0, "g"] = 77
    new.loc[1, "g"] = pd.NA
    new.loc[2, "s"] = "s9"
    rows = frame.new_data(new, design)
    by_group = {term.group: new_term for term, new_term in zip(design.random, rows.random, strict=True)}
    assert by_group["g"].codes.tolist() == [-1, -1, 0, 0, 0, 1]
    assert by_group["g"].unseen == ("NA", "77")
    assert by_group["s:f"].codes[2] == -1
    assert by_group["s:f"].unseen == ("s9:c",)
    assert rows.row_names.tolist() == list(range(6))


def test_missing_values_in_new_data(data):
    design, frame = build("y ~ x * f + (z | g)", data)
    new = data.head(5).copy()
    new.loc[1, "x"] = np.nan
    new.loc[2, "f"] = None
    new.loc[3, "z"] = np.nan
    rows = frame.new_data(new, design)
    assert np.isnan(rows.X).any(axis=1).tolist() == [False, True, True, False, False]
    assert np.isnan(rows.random[0].columns).any(axis=1).tolist() == [False, False, False, True, False]
    assert frame.new_data(new, design, na_action="omit").row_names.tolist() == [0, 4]
    whole = frame.new_data(new.assign(f=None), design)
    assert np.isnan(whole.X).any(axis=1).all()


def test_some_random_terms_only(data):
    design, frame = build("y ~ x + (x | g) + (1 | s)", data)
    names = [term.group for term in design.random]
    rows = frame.new_data(data.drop(columns=["y", "s"]), design, random=[name == "g" for name in names])
    g, s = rows.random[names.index("g")], rows.random[names.index("s")]
    np.testing.assert_array_equal(g.codes, design.random[names.index("g")].codes)
    assert (s.codes == -1).all()
    assert not s.columns.any()
    assert s.columns.shape == (N, 1)
    fixed = frame.new_data(data[["x"]], design, random=False)
    assert all((term.codes == -1).all() for term in fixed.random)


def test_a_transform_learns_from_the_fit_only(data):
    design, frame = build("y ~ I(x - mean(x)) + scale(z) + center(k) + pmin(x, median(x)) + (1 | g)", data)
    one = frame.new_data(data.iloc[[7]], design)
    np.testing.assert_allclose(one.X, design.X[[7]])


POOL = [
    "x", "z", "f", "b", "o", "factor(k)", "poly(x, 2)", "scale(z)", "ns(x, df = 3)", "bs(z, df = 4)", "log(x)",
    "I(x^2)", "(x > 4)", "ordered(k)", "cut(z, 3)", "C(f, sum)", "relevel(f, ref = \"c\")",
]  # fmt: skip
BARS = [
    "(1 | g)", "(x | g)", "(z || s)", "(1 | f/s)", "(0 + f | s)", "diag(z | g)", "(1 | s:b)", "(scale(x) | g)",
    "(1 | factor(k))",
]  # fmt: skip


@st.composite
def formulas(draw):
    terms = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=4))
    joined = terms[0]
    for term in terms[1:]:
        joined += f" {draw(st.sampled_from(['+', '+', ':', '*']))} {term}"
    bars = draw(st.lists(st.sampled_from(BARS), min_size=1, max_size=3, unique=True))
    start = draw(st.sampled_from(["", "0 + "]))
    return f"y ~ {start}{joined} + {' + '.join(bars)}"


@settings(deadline=None, max_examples=150)
@given(formulas(), st.lists(st.integers(0, N - 1), max_size=3), st.sampled_from(["x", "z", "f", "g"]))
def test_new_data_of_the_fit_give_the_design_again(formula, gaps, column):
    data = make_data()
    data[column] = data[column].where(~data.index.isin(gaps))
    design, frame = build(formula, data)
    stored = ModelFrame.from_dict(json.loads(json.dumps(frame.to_dict())), frame.frame)
    assert stored.row_names.equals(frame.row_names)
    shuffled = data.loc[frame.row_names].sample(frac=1, random_state=1)
    place = np.argsort(shuffled.index.to_numpy(), kind="stable")
    for kept in (frame, stored):
        rows = kept.new_data(shuffled.drop(columns="y"), design)
        np.testing.assert_allclose(rows.X[place], design.X, rtol=1e-10, atol=1e-12)
        for term, new in zip(design.random, rows.random, strict=True):
            np.testing.assert_array_equal(new.codes[place], term.codes)
            np.testing.assert_allclose(new.columns[place], term.columns, rtol=1e-10, atol=1e-12)
            assert new.unseen == ()


def test_what_is_stored_of_a_frame(data):
    data.loc[[4, 7], "x"] = np.nan
    data.index = [f"row{i}" for i in range(N)]
    _, frame = build("y ~ . - w + (1 | g)", data, contrasts={"f": np.array([[1.0, 0], [0, 1], [-1, -1]])})
    stored = ModelFrame.from_dict(json.loads(json.dumps(frame.to_dict())))
    assert str(stored.formula) == str(frame.formula)
    assert stored.omitted.tolist() == [4, 7]
    assert stored.omitted_names.tolist() == ["row4", "row7"]
    assert (stored.dot, stored.contrasts, stored.assign) == (frame.dot, frame.contrasts, frame.assign)
    assert stored.fixed_terms.labels == frame.fixed_terms.labels
    assert stored.row_names is None


def test_a_group_with_as_many_levels_as_rows_is_refused(data):
    with pytest.raises(DesignError, match="has 40 levels in 40 rows"):
        build("y ~ 1 + (1 | id)", data.assign(id=np.arange(N)))
