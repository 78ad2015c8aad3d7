"""Means over normal effects against closed forms and brute-force integration."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit

from pylmernn import DesignError
from pylmernn.families.links import LINKS
from pylmernn.fit import probabilities as p
from pylmernn.formula.design import NewRows, NewTerm

ETA = np.array([-3.0, -0.5, 0.0, 2.0, 4.0])
VARIANCE = np.array([0.01, 1.0, 9.0, 100.0, 0.0])


def brute_force(link, eta, variance):
    if variance == 0:
        return float(link.inverse(np.array([eta]))[0])

    def integrand(t):
        return link.inverse(np.array([eta + np.sqrt(variance) * t]))[0] * np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi)

    return quad(integrand, -9, 9, points=[-eta / np.sqrt(variance)], limit=500, epsabs=1e-12)[0]


@pytest.mark.parametrize("name", ["logit", "probit", "cloglog", "cauchit", "log", "identity"])
def test_marginal_means_are_the_integral(name):
    link = LINKS[name]
    variance = np.minimum(VARIANCE, 4.0) if name == "log" else VARIANCE
    found = p.marginal_mean(link, ETA, variance)
    expected = [brute_force(link, e, v) for e, v in zip(ETA, variance, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_no_mean_where_it_does_not_exist():
    link = LINKS["inverse"]
    np.testing.assert_allclose(p.marginal_mean(link, np.array([2.0]), np.zeros(1)), [0.5])
    with pytest.raises(DesignError, match="does not exist"):
        p.marginal_mean(link, np.array([2.0]), np.ones(1))


def test_missing_rows_stay_missing_and_columns_are_averaged():
    eta, variance = np.array([np.nan, 0.3]), np.array([1.0, 2.0])
    both = p.normal_mean(lambda e: np.column_stack([expit(e), 1 - expit(e)]), eta, variance)
    assert np.isnan(both[0]).all()
    assert both[1].sum() == pytest.approx(1.0, abs=1e-12)
    assert both[1, 0] == pytest.approx(brute_force(LINKS["logit"], 0.3, 2.0), abs=1e-9)


def test_softmax_of_two_classes_is_logistic_and_of_many_agrees_with_draws():
    two = p.marginal_softmax(np.array([[0.2, 1.0]]), np.array([[1.5, 0.5]]))
    assert two[0, 1] == pytest.approx(brute_force(LINKS["logit"], 0.8, 2.0), abs=1e-9)
    eta, variance = np.array([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]]), np.array([[1.0, 4.0, 0.5], [0.0, 0.0, 0.0]])
    found = p.marginal_softmax(eta, variance)
    draws = eta[0] + np.sqrt(variance[0]) * np.random.default_rng(1).normal(size=(400_000, 3))
    np.testing.assert_allclose(found[0], p.softmax(draws).mean(axis=0), atol=2.5e-3)
    np.testing.assert_allclose(found[1], p.softmax(eta[1:])[0])
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_variance_of_unseen_levels():
    term = NewTerm(np.array([0, -1, -1], dtype=np.int32), np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 0.0]]))
    rows = NewRows(np.zeros((3, 1)), np.zeros(3), (term,))
    Sigma = np.array([[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(p.unseen_variance(rows, [Sigma]), [0.0, 2.0 + 3.0 + 9.0, 2.0])
    np.testing.assert_allclose(p.unseen_variance(rows, [Sigma], [np.array([True, False])]), [0.0, 2.0, 2.0])


def test_classes_by_name():
    frame = p.probability_frame(
        np.array([[0.2, 0.8], [0.6, 0.4], [np.nan, np.nan]]), ("no", "yes"), pd.Index([5, 6, 7])
    )
    assert p.most_likely(frame).astype(object).tolist()[:2] == ["yes", "no"]
    assert p.most_likely(frame).isna().tolist() == [False, False, True]
    assert p.class_names((), 3) == ["0", "1", "2"]
