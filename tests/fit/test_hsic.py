"""The test of independence by HSIC: explicit sums, size, power and bad input."""

import itertools

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.fit.hsic import hsic_test
from pylmernn.formula.design import DesignError


def explicit(K, L):
    """n times the biased estimate of HSIC (Gretton et al., 2008, eq. 3), as sums over two, three and four rows."""
    n = range(len(K))
    two = sum(K[i, j] * L[i, j] for i, j in itertools.product(n, n)) / len(K) ** 2
    three = sum(K[i, j] * L[i, q] for i, j, q in itertools.product(n, n, n)) / len(K) ** 3
    four = sum(K[i, j] * L[q, r] for i, j, q, r in itertools.product(n, n, n, n)) / len(K) ** 4
    return len(K) * (two + four - 2 * three)


def gaussian(x):
    """Kernel matrix with the median distance, pair by pair."""
    distance = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    apart = [distance[i, j] for i, j in itertools.combinations(range(len(x)), 2) if distance[i, j] > 0]
    return np.exp(-(distance**2) / (2 * np.median(apart) ** 2))


def test_statistic_beside_explicit_sums():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7) ** 2
    y[3] = y[5]
    K, L = gaussian(x), gaussian(y[:, None])
    assert hsic_test(x, y, permutations=9).statistic == pytest.approx(explicit(K, L), rel=1e-12)
    groups = np.array(["a", "b", "a", "a", "c", "b", "a"])
    same = (groups[:, None] == groups).astype(float)
    assert hsic_test(x, groups, permutations=9).statistic == pytest.approx(explicit(K, same), rel=1e-12)
    assert hsic_test(groups, x, permutations=9).statistic == pytest.approx(explicit(K, same), rel=1e-12)


def test_p_value_beside_all_permutations():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=6), rng.normal(size=6)
    K, L = gaussian(x[:, None]), gaussian(y[:, None])
    observed = explicit(K, L)
    every = [explicit(K, L[np.ix_(p, p)]) for p in itertools.permutations(range(6))]
    expected = np.mean(np.array(every) >= observed - 1e-12)
    found = hsic_test(x, y, permutations=4000).p_value
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))


def test_size_and_power():
    rng = np.random.default_rng(1)
    null, linear, spread = [], [], []
    for seed in range(200):
        x, group = rng.normal(size=(30, 4)), rng.random(30) < 0.5
        null.append(hsic_test(x, group, 99, seed).p_value)
        linear.append(hsic_test(x + 0.8 * group[:, None], group, 99, seed).p_value)
        z = rng.uniform(-1, 1, size=30)
        spread.append(hsic_test(z, z**2 + 0.1 * rng.normal(size=30), 99, seed).p_value)
    assert abs(np.mean(np.array(null) <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 200)
    assert abs(np.mean(null) - 0.5) < 3 / np.sqrt(12 * 200)
    assert np.mean(np.array(linear) <= 0.05) > 0.8
    assert np.mean(np.array(spread) <= 0.05) > 0.8  # no correlation, and yet they depend


def test_bandwidth_and_units():
    x = np.array([0.0, 1.0, 3.0, 7.0, 8.0])
    found = hsic_test(x, 100 * x, permutations=9)
    assert found.bandwidths == pytest.approx((4.5, 450.0))
    table = np.column_stack([x, [1.0, -1.0, 2.0, 0.0, 1.0]])
    one, other = (hsic_test(table * [1.0, unit], x, 9, scale=True) for unit in (1.0, 1e6))
    assert one.statistic == pytest.approx(other.statistic)
    assert hsic_test(table, x, 9).statistic != pytest.approx(one.statistic)


def test_rows_are_matched_by_name():
    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(12, 2)), index=[f"d{i}" for i in range(12)])
    outer = pd.Series(rng.normal(size=12), index=table.index)
    expected = hsic_test(table, outer.to_numpy(), 99)
    assert hsic_test(table, outer.sample(frac=1.0, random_state=0), 99) == expected
    assert hsic_test(table, pd.concat([outer, pd.Series({"other": 1.0})]), 99) == expected
    assert "p = " in str(expected)
    assert expected.n == 12
    with pytest.raises(DesignError, match="y has no row 'd3'"):
        hsic_test(table, outer.drop("d3"))
    with pytest.raises(DesignError, match="name rows twice"):
        hsic_test(table, pd.concat([outer, outer]))


def test_effects_of_a_linear_mixed_model():
    rng = np.random.default_rng(3)
    school = np.repeat(np.arange(30), 10)
    large = rng.random(30) < 0.5
    x = rng.normal(size=300)
    y = x * (1 + 1.5 * large[school]) + rng.normal(size=30)[school] + rng.normal(size=300)
    fit = pylmernn.lmernn("y ~ x + (x | school)", pd.DataFrame({"y": y, "x": x, "school": school}))
    assert pylmernn.hsic_test(fit.ranef()["school"], pd.Series(large), 199).p_value == 0.005
    assert pylmernn.hsic_test(fit.ranef()["school"][["(Intercept)"]], large, 199).p_value > 0.01


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.arange(6.0), np.arange(5.0), "x has 6 rows and y has 5"),
        (np.arange(4.0), np.arange(4.0), "at least 5"),
        (np.arange(6.0), np.ones(6), "y does not vary"),
        (np.array([1.0, np.nan, 2, 3, 4, 5]), np.arange(6.0), "x has missing values"),
        (np.full((6, 2), np.inf), np.arange(6.0), "missing or infinite"),
        (np.arange(6.0), np.array(["a", None, "b", "a", "b", "b"], dtype=object), "y has missing values"),
        (np.array([["a", "b"]] * 6), np.arange(6.0), "give one column of texts"),
        (np.zeros((2, 2, 2)), np.arange(6.0), "it must be"),
    ],
)
def test_bad_input(x, y, message):
    with pytest.raises(DesignError, match=message):
        hsic_test(x, y)
    with pytest.raises(DesignError, match="permutations is 0"):
        hsic_test(np.arange(6.0), np.arange(6.0), 0)
