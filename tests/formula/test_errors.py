"""Each thing that a formula and its data can have wrong, and the sentence that says so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pylmernn.formula import DesignError, build, parse

N = 24


@pytest.fixture
def data():
    i = np.arange(N)
    return pd.DataFrame(
        {
            "y": np.sin(i),
            "x": i / 10,
            "days": np.cos(i),
            "f": np.array(["a", "b", "c"])[i % 3],
            "g": i % 4,
            "yes": i % 2 == 0,
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(i, unit="D"),
            "one": "same",
            "i": 1j * i,
        }
    )


TEXTS = [
    ("y ~ x + (1 | )", r"the bar in '\(1 \| \)' has no grouping factor: write \(1 \| group\)"),
    ("y ~ x + (1 | 1)", "has no grouping factor"),
    ("y ~ x + ( | g)", "nothing stands left of the bar at position 11"),
    ("y ~ x + (1 | g", r"unbalanced parentheses: '\(' at position 9 of .* is never closed"),
    ("y ~ log(x + (1 | g)", r"unbalanced parentheses: '\(' at position 8 of .* is never closed"),
    ("y ~ x + 1) + (1 | g)", r"unbalanced parentheses: '\)' at position 10 of .* closes nothing"),
    ("y ~ x + (1 | g)]", r"unbalanced parentheses: '\]' at position 16"),
    ("~ x + (1 | g)", "has no response: write response ~ predictors"),
    ("x + (1 | g)", "has no response"),
    ("y ~ x ~ z", "a formula has one '~'"),
    ("", "the formula is empty"),
    ("y ~ x +", "ends too early: something must follow '\\+'"),
    ("y ~ x z", "did not expect 'z' at position 7"),
    ("y ~ x$z", r"cannot read '\$' at position 6"),
    ("y ~ 'x", "a quote or backtick that is not closed at position 5"),
    ("y ~ () + (1 | g)", "the parentheses at position 5 .* hold no expression"),
    ("y ~ x | g", r"put the bar into parentheses: \(x \| g\)"),
    ("y ~ (x | g | h)", "has two bars"),
    ("y ~ x * (1 | g)", r"the random term \(1 \| g\) cannot be combined with other terms except by '\+'"),
    ("y ~ x - (1 | g)", r"the random term \(1 \| g\) cannot be subtracted"),
    ("y ~ ((1 | g) + x | h)", "cannot be part of another random term"),
    ("y ~ (1 | g^2)", r"'g\^2' in \(1 \| g\^2\) is not a grouping factor"),
    ("y ~ cs(x | g)", r"this version does not fit cs\(\) terms yet, only us\(\), diag\(\) and embed\(\)"),
    ("y ~ ar1(0 + f | g)", r"this version does not fit ar1\(\) terms yet"),
    ("y ~ diag(x | g, hom = TRUE)", "this version does not fit hom = TRUE yet"),
    ("y ~ diag(x | g, what = 1)", "unknown option 'what'"),
    ("y ~ us(x || g)", r"write a single bar inside us\(\)"),
]


@pytest.mark.parametrize("text, message", TEXTS)
def test_texts_that_are_no_formula(text, message):
    with pytest.raises(DesignError, match=message):
        parse(text)


FORMULAS = [
    ("y ~ Days + (1 | g)", "data has no column 'Days': did you mean 'days'?"),
    ("y ~ dayz + (1 | g)", "data has no column 'dayz': did you mean 'days'?"),
    ("y ~ zzz + (1 | g)", "data has no column 'zzz': its columns are y, x"),
    ("y ~ x + (1 | G)", "data has no column 'G': did you mean 'g'?"),
    ("f ~ x + (1 | g)", "the response 'f' is a factor or text: a linear mixed model needs numbers"),
    ("yes ~ x + (1 | g)", "the response 'yes' is logical"),
    ("poly(y, 2) ~ x + (1 | g)", "is a matrix: a linear mixed model needs one column"),
    ("cbind(y, x) ~ 1 + (1 | g)", "belongs to a binomial model"),
    ("y ~ y + x + (1 | g)", "the response 'y' is also among the predictors"),
    ("y ~ x + (y | g)", "the response 'y' is also among the predictors"),
    ("y ~ I(1 / x) + (1 | g)", r"the predictor 'I\(1/x\)' has 1 infinite values \(first in row 1 of those used\)"),
    ("log(x) ~ days + (1 | g)", r"the response 'log\(x\)' has 1 infinite values"),
    ("y ~ when + (1 | g)", "column 'when' holds dates or times"),
    ("y ~ i + (1 | g)", "column 'i' holds complex numbers"),
    ("y ~ one + (1 | g)", "the factor 'one' has 1 level in the rows used: it needs at least 2"),
    ("y ~ x + (1 | one)", r"the grouping factor 'one' of \(1 \| one\) has 1 level: it needs at least 2"),
    ("y ~ x + (1 | g:x)", "has 24 levels in 24 rows"),
    ("y ~ x + (0 | g)", r"the random term \(0 \| g\) has no column left of the bar"),
    ("y ~ x + (. | g)", "'.' can stand only among the fixed effects"),
    ("y ~ x + (offset(x) | g)", "an offset cannot stand left of a bar"),
    ("y ~ x + (1 | poly(x, 2))", "cannot be a factor"),
    ("y ~ embed(1 | g, dim = 0)", r"embed\(1 \| g, dim = 0\): dim holds 0"),
    ("y ~ embed(1 | g, hidden = 3)", r"unknown option 'hidden'; embed\(\) takes dim here"),
    ("y ~ embed(x | g)", "takes an intercept only"),
    ("y ~ embed(x, cov = 'exp_quad') + (1 | g)", "unknown option 'cov'"),
    ("y ~ embed(hidden = 3) + (1 | g)", "name the columns of the coordinates"),
    ("y ~ x + (nn.first | g)", "the formula has no network"),
    ("y ~ foo(x) + (1 | g)", r"unknown function 'foo' in 'foo\(x\)': a formula can call C, I, abs"),
    ("y ~ 2 + x + (1 | g)", "the number 2 is not a term"),
    ("y ~ 'x' + (1 | g)", '"x" is not a term of a formula'),
    ("y ~ x^f + (1 | g)", r"the power in '\^f' must be a whole number"),
    ("y ~ I(2) + (1 | g)", r"'I\(2\)' is not a term: it has no value for each row"),
    ("y ~ I(f + 1) + (1 | g)", "'f \\+ 1' mixes a factor with numbers"),
    ("y ~ I(f < 'b') + (1 | g)", "needs an ordered factor and one of its levels"),
    ("y ~ log(f) + (1 | g)", r"'f' is a factor, but 'log\(f\)' needs numbers"),
    ("y ~ I(!f) + (1 | g)", "'f' is a factor, but '!f' needs numbers"),
    ("y ~ I(x:f) + (1 | g)", "needs two factors or two numbers"),
    ("y ~ log() + (1 | g)", r"'log\(\)' needs its first argument, x"),
    ("y ~ scale(x, TRUE, TRUE, 1) + (1 | g)", "has too many arguments"),
    ("y ~ scale(x, centre = 1) + (1 | g)", "unknown option 'centre' in .* it takes x, center, scale"),
    ("y ~ scale(x, 'a') + (1 | g)", "must be a number"),
    ("y ~ poly(x, 30) + (1 | g)", "must be less than the number of distinct values"),
    ("y ~ poly(x, 0) + (1 | g)", "must be at least 1"),
    ("y ~ log(poly(x, 2)) + scale(poly(x, 2)) + (1 | g)", "needs one column of numbers"),
    ("y ~ ns(x, df = 0) + (1 | g)", "df in .* must be at least 1"),
    ("y ~ bs(x, df = 2) + (1 | g)", "df in .* must be at least 3"),
    ("y ~ bs(x, degree = 0) + (1 | g)", "the degree in .* must be at least 1"),
    ("y ~ ns(I(x * 0), df = 3) + (1 | g)", "needs two different boundary knots"),
    ("y ~ factor(f, labels = c('u', 'v')) + (1 | g)", "has 2 labels for 3 levels"),
    ("y ~ relevel(f, ref = 'z') + (1 | g)", "'z' in .* is no level: there are a, b, c"),
    ("y ~ relevel(f) + (1 | g)", "needs ref=, the level to put first"),
    ("y ~ C(f, wild) + (1 | g)", "unknown contrast 'wild'"),
    ("y ~ C(f, 3) + (1 | g)", "'3' in .* is no contrast"),
    ("y ~ C(f, Treatment('z')) + (1 | g)", r"the reference level 'z' is no level of 'C\(f, Treatment\(\"z\"\)\)'"),
    ("y ~ C(f, treatment, base = 7) + (1 | g)", "must be a number from 1 to 3, not 7"),
    ("y ~ cut(x, 1) + (1 | g)", "needs breaks"),
    ("y ~ cut(x, c(0, 1, 2), labels = c('low')) + (1 | g)", "has 1 labels for 2 intervals"),
    ("y ~ offset(f) + (1 | g)", r"'offset\(f\)' is not one column of numbers"),
    ("y ~ I(c(x, 1)) + (1 | g)", "may hold numbers and texts only"),
]


@pytest.mark.parametrize("text, message", FORMULAS)
def test_formulas_that_do_not_fit_the_data(data, text, message):
    with pytest.raises(DesignError, match=message):
        build(text, data)


OPTIONS = [
    ({"na_action": "keep"}, "na_action='keep' is unknown: use one of omit, exclude, fail"),
    ({"weights": np.ones(3)}, "weights has 3 values but data has 24 rows"),
    ({"weights": "f"}, "weights must be one column of numbers"),
    ({"weights": "nothing"}, "data has no column 'nothing'"),
    ({"weights": "x +"}, r"data has no column 'x \+'"),
    ({"weights": -np.ones(N)}, "weights has 24 negative values"),
    ({"offset": np.ones(3)}, "offset has 3 values but data has 24 rows"),
    ({"offset": np.full(N, np.inf)}, "the offset has infinite or missing values"),
    ({"subset": np.ones(3, dtype=bool)}, "subset has 3 values but data has 24 rows"),
    ({"subset": "x"}, "subset 'x' is no condition"),
    ({"subset": np.ones(N)}, "subset must be a condition, booleans"),
    ({"subset": [50]}, "subset has the position 50, but data has 24 rows"),
    ({"subset": "x > 100"}, "no rows are left after subset and missing values"),
    ({"contrasts": {"f": "wild"}}, "unknown contrast 'wild' for 'f': use one of helmert, poly, sum, treatment"),
    ({"contrasts": {"f": np.eye(3)}}, "has 3 columns: 3 levels need 2"),
    ({"contrasts": {"f": np.ones((2, 1))}}, "has 2 rows but the factor has 3 levels"),
    ({"contrasts": {"f": np.ones((3, 2))}}, "is singular beside the intercept"),
    ({"contrasts": {"f": 3}}, "neither a name nor a matrix of numbers"),
]


@pytest.mark.parametrize("options, message", OPTIONS)
def test_options_that_do_not_fit_the_data(data, options, message):
    with pytest.raises(DesignError, match=message):
        build("y ~ x + f + (1 | g)", data, **options)


def test_missing_values_under_fail_are_counted_by_column(data):
    data.loc[[1, 2], "x"] = np.nan
    data.loc[[2, 5, 6], "f"] = None
    with pytest.raises(DesignError, match=r"4 rows have missing values \(2 in 'x', 3 in 'f'\)"):
        build("y ~ x + f + (1 | g)", data, na_action="fail")


def test_a_contrast_for_no_factor_is_warned_about(data):
    with pytest.warns(UserWarning, match="contrasts names 'x', which is no factor of the model"):
        build("y ~ x + f + (1 | g)", data, contrasts={"x": "sum"})


@pytest.mark.parametrize(
    "bad, message",
    [
        (None, "data is missing"),
        (3, "data is a int: give a DataFrame"),
        ({"y": [1, 2], "x": [1, 2, 3]}, "the columns of data differ in length: 'y' 2, 'x' 3"),
    ],
)
def test_data_that_are_no_table(bad, message):
    with pytest.raises(DesignError, match=message):
        build("y ~ x + (1 | g)", bad)


def test_a_column_that_is_there_twice(data):
    twice = pd.concat([data, data[["x"]]], axis=1)
    with pytest.raises(DesignError, match="data has 2 columns named 'x'"):
        build("y ~ x + (1 | g)", twice)


NEW = [
    ("y ~ x + f + (1 | g)", {"f": "z"}, "the new data have level 'z' of the factor 'f', which the fit has not seen"),
    ("y ~ x + f + (1 | g)", {"f": 1.0}, "'f' was a factor in the fit, but is numeric in the new data"),
    ("y ~ x + f + (1 | g)", {"x": "low"}, "'x' was numeric in the fit, but is text or a factor in the new data"),
    ("y ~ x + factor(g) + (1 | f)", {"g": 9}, r"level '9' of the factor 'factor\(g\)'"),
    (
        "y ~ x + factor(f, labels = c('u', 'v', 'w')) + (1 | g)",
        {"f": "z"},
        "has the level 'z', which the fit has not seen",
    ),
]


@pytest.mark.parametrize("text, change, message", NEW)
def test_new_data_that_do_not_fit(data, text, change, message):
    design, frame = build(text, data)
    with pytest.raises(DesignError, match=message):
        frame.new_data(data.assign(**change), design)


def test_new_data_without_a_column(data):
    design, frame = build("y ~ x + (days | g)", data)
    for gone in ("x", "days", "g"):
        with pytest.raises(DesignError, match=f"data has no column '{gone}'"):
            frame.new_data(data.drop(columns=["y", gone]), design)


def test_new_data_for_an_offset_given_as_values(data):
    design, frame = build("y ~ x + (1 | g)", data, offset=np.ones(N))
    with pytest.raises(DesignError, match="the offset of the fit was given as values"):
        frame.new_data(data, design)


def test_new_data_under_fail_and_unknown_na_action(data):
    design, frame = build("y ~ x + (1 | g)", data)
    with pytest.raises(DesignError, match=r"1 rows have missing values \(1 in 'x'\)"):
        frame.new_data(data.assign(x=[np.nan] + [1.0] * (N - 1)), design, na_action="fail")
    with pytest.raises(DesignError, match="na_action='keep' is unknown"):
        frame.new_data(data, design, na_action="keep")


def test_a_loaded_frame_without_its_table(data):
    _, frame = build("y ~ x + (1 | g)", data)
    with pytest.raises(DesignError, match="loaded without its data"):
        type(frame).from_dict(frame.to_dict()).frame  # noqa: B018
