"""The iterative engine against the exact one."""

from __future__ import annotations

import numpy as np
import pytest
from designs import random_design, term

from pylmernn.covariance import diagonal_positions
from pylmernn.engines import iterative, profiled
from pylmernn.engines.control import Control
from pylmernn.engines.methods import choose_method
from pylmernn.engines.variances import conditional_variance, prediction_variance
from pylmernn.formula.design import NewRows, NewTerm, make_design


@pytest.fixture(scope="module")
def crossed():
    rng = np.random.default_rng(4)
    n, sizes = 4000, (400, 200, 60)
    codes = [rng.integers(0, q, n) for q in sizes]
    x, one = rng.normal(size=n), np.ones(n)
    effects = [rng.normal(size=q) * s for q, s in zip(sizes, (1.0, 0.7, 0.5), strict=True)]
    y = 1 + x + sum(e[c] for e, c in zip(effects, codes, strict=True)) + rng.normal(size=n)
    terms = [term(f"g{q}", c, one) for q, c in zip(sizes, codes, strict=True)]
    return make_design(y, np.column_stack([one, x]), ["(Intercept)", "x"], terms)


@pytest.mark.parametrize("REML", [True, False])
def test_it_finds_the_exact_optimum_to_sampling_error(crossed, REML):
    exact, ours = profiled.fit(crossed, REML), iterative.fit(crossed, REML)
    assert ours.method == "iterative"
    assert 0 < ours.objective_error < 0.2
    assert abs(ours.objective - exact.objective) < 5 * ours.objective_error + 0.01
    np.testing.assert_allclose(ours.theta, exact.theta, rtol=5e-3)
    np.testing.assert_allclose(ours.beta, exact.beta, rtol=1e-3)


def test_given_theta_only_the_log_determinant_is_estimated(crossed):
    theta = np.array([0.8, 0.6, 0.4])
    exact, ours = profiled.Problem(crossed, True), iterative.IterativeProblem(crossed, True, Control(probes=30))
    one, two = exact.solution(theta), ours.solution(theta)
    np.testing.assert_allclose(two.beta, one.beta, rtol=1e-7)
    assert two.pwrss == pytest.approx(one.pwrss, rel=1e-9)
    assert two.ldRX2 == pytest.approx(one.ldRX2, rel=1e-7)
    assert two.ldL2 == pytest.approx(one.ldL2, abs=5 * ours.objective_error + 1e-3)


@pytest.mark.parametrize("shape", ["crossed_slopes", "crossed_slopes_weighted"])
def test_vector_terms_and_weights(shape):
    design = random_design(shape, n=3000)
    exact, ours = profiled.Problem(design, True), iterative.IterativeProblem(design, True, Control(probes=400))
    theta = np.where(diagonal_positions(design.random), 0.7, 0.2)
    f, g, _ = exact.search(theta)
    f2, g2, _ = ours.search(theta)
    assert f2 == pytest.approx(f, abs=5 * ours.objective_error + 1e-3)
    np.testing.assert_allclose(g2, g, atol=0.02 * np.abs(g).max())


def test_the_seed_makes_it_repeatable(crossed):
    one, two = (iterative.fit(crossed, control=Control(seed=3)) for _ in range(2))
    assert one.objective == two.objective
    np.testing.assert_array_equal(one.theta, two.theta)


def test_variances_after_an_iterative_fit(crossed):
    fit = iterative.fit(crossed)
    part = slice(0, 20)
    rows = NewRows(
        crossed.X[part], np.zeros(20), tuple(NewTerm(t.codes[part], t.columns[part]) for t in crossed.random)
    )
    exact = profiled.fit(crossed, start=fit.theta)
    np.testing.assert_allclose(
        prediction_variance(crossed, fit, rows), prediction_variance(crossed, exact, rows), rtol=2e-2
    )
    assert conditional_variance(crossed, fit)[2].shape == (60, 1, 1)


def test_one_factor_is_refused():
    with pytest.raises(ValueError, match="crossed factors"):
        iterative.fit(random_design("one"))


def test_auto_is_exact_until_the_crossed_rest_is_too_large(crossed):
    assert choose_method(crossed) == "profiled"
    assert choose_method(crossed, Control(dense_limit=200)) == "iterative"
    nested = random_design("nested")  # its rest falls apart into small pieces
    assert choose_method(nested, Control(dense_limit=10)) == "profiled"
