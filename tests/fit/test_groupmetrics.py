"""Metrics of each group and the bootstrap over groups, against plain sums and closed forms."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import pylmernn
from pylmernn.formula.design import DesignError


def rows(q=12, seed=3):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 15, size=q)
    group = np.repeat([f"p{k}" for k in range(q)], sizes)
    order = rng.permutation(len(group))
    y = rng.normal(size=len(group)) + 2 * (group == "p1")
    return y, y + rng.normal(size=len(group)), y + 0.5 * rng.normal(size=len(group)), group[order]


@pytest.mark.parametrize(
    "metric, by_hand",
    [
        ("rmse", lambda y, f, every: np.sqrt(((y - f) ** 2).sum() / len(y))),
        ("mae", lambda y, f, every: abs(y - f).sum() / len(y)),
        ("nrmse", lambda y, f, every: np.sqrt(((y - f) ** 2).sum() / len(y) / every.var())),
        ("r", lambda y, f, every: stats.pearsonr(y, f).statistic),
        (
            "ccc",
            lambda y, f, every: (
                1 - ((y - f) ** 2).mean() / (y.var() + f.var() + (y.mean() - f.mean()) ** 2)
            ),  # Lin's other form
        ),
        (lambda y, f: np.median(abs(y - f)), lambda y, f, every: np.median(abs(y - f))),
    ],
)
def test_each_group_has_its_own(metric, by_hand):
    y, f, _, group = rows()
    table = pylmernn.group_metrics(y, f, group, metric)
    assert list(table.index) == sorted(set(group))
    for level in table.index:
        own = group == level
        assert table.loc[level, "rows"] == own.sum()
        assert table.iloc[:, 1][level] == pytest.approx(by_hand(y[own], f[own], y), rel=1e-12)


def test_a_constant_group_has_no_correlation():
    table = pylmernn.group_metrics([1, 1, 2, 3], [0, 1, 2, 4], pd.Categorical(["a", "a", "b", "b"]), "r")
    assert np.isnan(table.loc["a", "r"])
    assert table["r"].mean() == pytest.approx(1.0)


def test_the_bootstrap_has_the_limits_of_the_normal_law():
    """Means of many differences are nearly normal, so percentiles, p value and standard error are known."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(400), 5)
    y = rng.normal(size=2000)
    a, b = y + 0.52 * rng.normal(size=2000), y + 0.5 * rng.normal(size=2000)
    found = pylmernn.paired_bootstrap(y, a, b, group, "mae", n=40_000, seed=1, level=0.9)
    own = pylmernn.group_metrics(y, a, group, "mae")["mae"] - pylmernn.group_metrics(y, b, group, "mae")["mae"]
    se = own.std(ddof=0) / 20
    assert found.difference == pytest.approx(own.mean(), rel=1e-12)
    half = stats.norm.ppf(0.95) * se
    np.testing.assert_allclose([found.lower, found.upper], [own.mean() - half, own.mean() + half], atol=0.03 * half)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(own.mean()) / se), rel=0.1)


def test_few_groups_are_counted_in_full():
    """With two groups there are four resamples: both, each twice."""
    y, a, b = np.zeros(2), np.array([3.0, 1.0]), np.array([1.0, 2.0])  # differences 2 and -1
    found = pylmernn.paired_bootstrap(y, a, b, ["u", "v"], "mae", n=20_000)
    assert (found.mean_a, found.mean_b, found.groups, found.left_out) == (2.0, 1.5, 2, 0)
    assert (found.lower, found.upper) == (-1.0, 2.0)
    assert found.p_value == pytest.approx(0.5, abs=0.02)  # -1 in a quarter of the resamples


def test_groups_without_a_value_are_left_out_of_both():
    y, a, b, group = rows()
    y = np.where(group == "p2", 1.0, y)
    found = pylmernn.paired_bootstrap(y, a, b, group, "r", n=100)
    assert (found.groups, found.left_out) == (11, 1)
    kept = group != "p2"
    assert found.mean_a == pytest.approx(pylmernn.group_metrics(y[kept], a[kept], group[kept], "r")["r"].mean())
    assert "11 groups, 1 without a value left out" in str(found)


def test_seeds_repeat():
    y, a, b, group = rows()
    one, two, three = (pylmernn.paired_bootstrap(y, a, b, group, n=200, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one.lower != three.lower


@pytest.mark.parametrize(
    "change, message",
    [
        ({"metric": "rmsse"}, "metric is 'rmsse': use one of rmse, mae, nrmse, r, ccc"),
        ({"predicted_a": [1.0, 2.0]}, "predicted_a has 2 values and y 4"),
        ({"y": [1.0, np.nan, 2.0, 3.0]}, "y is missing or infinite in 1 rows"),
        ({"y": ["u", "v", "w", "x"]}, "y is not numeric"),
        ({"group": ["a", "a", None, "b"]}, "group is missing in 1 rows"),
        ({"group": ["a", "a", "a", "a"]}, "1 groups have a value of the metric"),
        ({"n": 0}, "n is 0"),
        ({"level": 1.5}, "level is 1.5"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"y": [1.0, 2, 3, 4], "predicted_a": [1.0, 2, 3, 5], "predicted_b": [1.0, 1, 1, 1], "group": list("aabb")}
    with pytest.raises(DesignError, match=message):
        pylmernn.paired_bootstrap(**{**good, **change})
