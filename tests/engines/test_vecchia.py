"""Vecchia's approximation: exact with all neighbours, close with thirty."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from designs import field_design
from scipy.spatial.distance import cdist

from pylmernn.covariance.kernels import correlation
from pylmernn.engines.control import Control
from pylmernn.engines.exact import fit
from pylmernn.engines.methods import choose_method
from pylmernn.engines.spatialfit import SpatialProblem, search
from pylmernn.engines.variances import conditional_variance, prediction_variance
from pylmernn.engines.vecchia import VecchiaProblem, earlier_neighbours
from pylmernn.formula.design import NewRows, NewTerm

SMALL = Control(dense_limit=50)
X = np.array([1.3, -0.2])


def field(q=200, n=1200, **more):
    return field_design(bars=(), q=q, n=n, **more)


def with_field(design, lscale=0.6):
    """The design with a response that has a field of variance 1 in it, and residuals of variance 1."""
    rng, term = np.random.default_rng(8), design.random[0]
    K = correlation("matern52", cdist(term.locations, term.locations), lscale)
    drawn = np.linalg.cholesky(K + 1e-9 * np.eye(len(K))) @ rng.normal(size=len(K))
    return design.with_response(drawn[term.codes] + rng.normal(size=design.n))


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_with_all_neighbours_it_is_exact(REML, weighted):
    design = field(q=40, n=300, weighted=weighted)
    near, whole = VecchiaProblem(design, REML, neighbours=40), SpatialProblem(design, REML)
    value, gradient, _ = near.search(X)
    expected, slopes, _ = search(whole, X)
    assert value == pytest.approx(expected, abs=1e-8)
    assert near.search_value(X) == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(gradient, slopes, atol=1e-7)
    ours, theirs = near.modes(near.at(X)), whole.modes(whole.at(X))
    np.testing.assert_allclose(ours.beta, theirs.beta, atol=1e-9)
    np.testing.assert_allclose(ours.b[0], theirs.b[0], atol=1e-9)
    assert ours.pwrss == pytest.approx(theirs.pwrss)


def test_the_gradient_is_that_of_the_value():
    problem = VecchiaProblem(field(), True, neighbours=8)
    h = 1e-5
    numeric = [(problem.search_value(X + h * d) - problem.search_value(X - h * d)) / (2 * h) for d in np.eye(2)]
    np.testing.assert_allclose(problem.search(X)[1], numeric, atol=1e-5)


def test_neighbours_come_earlier_and_are_near():
    points = np.random.default_rng(0).uniform(size=(500, 2))
    found = earlier_neighbours(points, 10)
    assert (found < np.arange(500)[:, None]).all()
    assert (found[:5] < 0).any()
    distance = np.linalg.norm(points[found[400:]] - points[400:, None], axis=2)
    best = np.sort(np.linalg.norm(points[:400][None] - points[400:, None], axis=2), axis=1)[:, :10]
    assert distance.mean() == pytest.approx(best.mean(), rel=0.05)


def test_many_locations_take_it_and_come_close_to_the_exact_answers():
    design = with_field(field(cov="matern52"))
    assert choose_method(design, SMALL) == "vecchia"
    near, whole = fit(design, True, SMALL), fit(design, True)
    assert (near.method, whole.method) == ("vecchia", "profiled")
    np.testing.assert_allclose(near.theta, whole.theta, rtol=0.05)
    assert np.sqrt(np.mean((near.b[0] - whole.b[0]) ** 2)) < 0.05 * whole.b[0].std()
    assert near.sigma == pytest.approx(whole.sigma, rel=0.005)
    exact, approximate = conditional_variance(design, whole)[0], conditional_variance(design, near)[0]
    np.testing.assert_allclose(approximate, exact, rtol=0.25)
    places = np.random.default_rng(2).uniform(-2, 2, (20, 2))
    rows = NewRows(np.ones((20, 2)), np.zeros(20), (NewTerm(np.full(20, -1), np.ones((20, 1)), (), places),))
    exact, approximate = prediction_variance(design, whole, rows), prediction_variance(design, near, rows)
    np.testing.assert_allclose(approximate, exact, rtol=0.25)


def test_many_locations_beside_bars_are_refused():
    with pytest.raises(ValueError, match="40 locations beside other random terms, more than the 10"):
        fit(field_design(), True, dataclasses.replace(SMALL, dense_limit=10))
    with pytest.raises(ValueError, match="one gp"):
        VecchiaProblem(field_design(), True)
