"""The profiled engine against the dense oracle and against itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest
from designs import SHAPES, random_design, term

from pylmernn.covariance import diagonal_positions, theta_sizes
from pylmernn.engines import profiled
from pylmernn.engines.control import Control
from pylmernn.engines.variances import conditional_variance, prediction_variance
from pylmernn.formula.design import NewRows, NewTerm, make_design
from pylmernn.linalg.rest import ComponentRest


def random_theta(design, rng):
    size = sum(theta_sizes(design.random))
    return np.where(diagonal_positions(design.random), rng.uniform(0.1, 1.5, size), rng.normal(size=size))


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_objective_is_the_oracles_at_random_theta(shape, REML):
    design, rng = random_design(shape), np.random.default_rng(5)
    devfun = profiled.devfun(design, REML)
    for _ in range(3):
        theta = random_theta(design, rng)
        assert devfun(theta) == pytest.approx(oracle.solve(design, theta, REML).objective, rel=1e-10)


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_objectives(shape, REML):
    design = random_design(shape)
    problem, theta = profiled.Problem(design, REML), random_theta(design, np.random.default_rng(6))
    value, gradient, hessian = problem.search(theta)
    step = 1e-5 * np.eye(len(theta))
    numeric = np.array([(problem.search_value(theta + h) - problem.search_value(theta - h)) / 2e-5 for h in step])
    assert value == pytest.approx(problem.search_value(theta), rel=1e-12)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9 * np.abs(hessian).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_no_theta_nearby_or_far_is_better(shape):
    design, rng = random_design(shape, n=120), np.random.default_rng(1)
    found = profiled.fit(design)
    assert found.convergence.converged
    assert found.convergence.n_evaluations <= 40
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(6):
            theta = found.theta + scale * rng.normal(size=len(found.theta))
            assert oracle.solve(design, theta).objective >= found.objective - 1e-7


def test_optimum_is_the_oracles():
    design = random_design("one", n=90)
    assert profiled.fit(design).theta == pytest.approx(oracle.optimum(design), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_estimates_follow_from_theta(shape):
    design = random_design(shape, seed=2)
    fit = profiled.fit(design)
    expected = oracle.solve(design, fit.theta)
    np.testing.assert_allclose(fit.beta, expected.beta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.unscaled_vcov, expected.unscaled_vcov, rtol=1e-6)
    assert fit.objective == pytest.approx(expected.objective, rel=1e-10)
    assert fit.sigma == pytest.approx(expected.sigma, rel=1e-9)
    assert fit.ldL2 == pytest.approx(expected.ldL2, rel=1e-8)
    assert fit.ldRX2 == pytest.approx(expected.ldRX2, rel=1e-8)
    assert fit.pwrss == pytest.approx(fit.wrss + fit.ussq, rel=1e-12)
    for b, u, b_expected, Lambda in zip(
        fit.b, fit.u, expected.b, oracle.split_theta(design.random, fit.theta), strict=True
    ):
        np.testing.assert_allclose(b, b_expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(b, u @ Lambda.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_variances_are_the_oracles(shape):
    design = random_design(shape, seed=3)
    fit = profiled.fit(design)
    s = oracle.solve(design, fit.theta)
    for ours, dense in zip(conditional_variance(design, fit), oracle.conditional_variance(design, s), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-6, atol=1e-10)
    terms = tuple(NewTerm(t.codes, t.columns) for t in design.random)
    rows = NewRows(design.X, np.zeros(design.n), terms)
    np.testing.assert_allclose(
        prediction_variance(design, fit, rows), oracle.prediction_variance(design, s, design.X, s.Z), rtol=1e-6
    )
    none = [False] * len(terms)
    np.testing.assert_allclose(
        prediction_variance(design, fit, rows, none),
        oracle.prediction_variance(design, s, design.X, 0 * s.Z),
        rtol=1e-6,
    )


def test_an_unseen_level_adds_its_prior_variance():
    design = random_design("slope")
    fit = profiled.fit(design)
    known = NewTerm(np.zeros(1, dtype=np.int32), np.zeros((1, 2)))
    unseen = NewTerm(np.array([-1], dtype=np.int32), np.array([[1.0, 2.0]]))
    X, Lambda = design.X[:1], oracle.split_theta(design.random, fit.theta)[0]
    fixed = prediction_variance(design, fit, NewRows(X, np.zeros(1), (known,)))[0]
    both = prediction_variance(design, fit, NewRows(X, np.zeros(1), (unseen,)))[0]
    assert both - fixed == pytest.approx(fit.sigma**2 * float(((np.array([1.0, 2.0]) @ Lambda) ** 2).sum()), rel=1e-9)


def test_nested_factors_take_the_component_path_and_agree_with_the_dense_one():
    design = random_design("nested")
    problem = profiled.Problem(design, True)
    assert isinstance(problem.system.factor, ComponentRest)
    theta = random_theta(design, np.random.default_rng(1))
    assert problem.value(theta) == pytest.approx(oracle.solve(design, theta).objective, rel=1e-10)


def test_zero_variance_is_found_and_called_singular():
    rng = np.random.default_rng(3)
    n = 240
    a, b = np.arange(n) % 12, np.arange(n) // 20
    y = rng.normal(size=n)
    y -= np.bincount(a, y)[a] / 20  # no variance between the levels of a, less than chance
    y += rng.normal(size=12)[b]
    one = np.ones(n)
    fit = profiled.fit(make_design(y, one[:, None], ["(Intercept)"], [term("a", a, one), term("b", b, one)]))
    assert fit.singular
    assert fit.convergence.converged
    assert fit.theta[1] == 0.0 or fit.theta[0] == 0.0
    assert max(fit.theta) > 0.3


def test_a_perfect_correlation_is_found():
    rng = np.random.default_rng(8)
    n, one = 160, np.ones(160)
    g, x = np.arange(n) % 20, rng.normal(size=n)
    y = rng.normal(size=20)[g] * (1 + x) + rng.normal(size=n)
    design = make_design(y, np.column_stack([one, x]), ["(Intercept)", "x"], [term("g", g, one, x)])
    fit = profiled.fit(design)
    boundary = [oracle.solve(design, [fit.theta[0], t, 0.0]).objective for t in np.linspace(0, 2, 41)]
    assert fit.objective <= min(boundary) + 1e-6
    assert fit.theta[0] > 0
    assert fit.theta[2] == pytest.approx(0.0, abs=0.1)


def test_the_start_does_not_matter_and_is_checked():
    design = random_design("crossed_slopes")
    fit = profiled.fit(design)
    for start in (np.ones_like(fit.theta), np.full_like(fit.theta, 0.05), -fit.theta):
        again = profiled.fit(design, start=start)
        assert again.objective == pytest.approx(fit.objective, abs=1e-6)
        np.testing.assert_allclose(again.theta, fit.theta, atol=1e-3)
    with pytest.raises(ValueError, match="start has shape"):
        profiled.fit(design, start=np.ones(2))
    with pytest.raises(ValueError, match="variance parameters"):
        profiled.devfun(design)(np.ones(2))


def test_stopping_early_says_so_and_keeps_the_best_state():
    design = random_design("crossed_slopes")
    fit = profiled.fit(design, control=Control(max_evaluations=2))
    assert not fit.convergence.converged
    assert "2 evaluations" in fit.convergence.message
    assert np.isfinite(fit.objective)


def test_large_offsets_of_columns_cost_no_digits():
    design = random_design("slope")
    moved = dataclasses.replace(design, X=design.X + np.array([0.0, 1e6, 0.0]), y=design.y + 1e6)
    assert profiled.fit(moved).objective == pytest.approx(profiled.fit(design).objective, rel=1e-8)


def test_cross_products_of_chunks_add_up():
    from pylmernn.linalg.crossproducts import GroupRows, cross_products

    rng = np.random.default_rng(0)
    R, codes = rng.normal(size=(100, 3)), [rng.integers(0, 9, 100).astype(np.int32), np.arange(100, dtype=np.int32) % 4]
    weights, x = rng.uniform(1, 2, 100), rng.normal(size=100)

    def of(rows):
        groups = [GroupRows(codes[0][rows], 9, (None, x[rows])), GroupRows(codes[1][rows], 4, (None,))]
        return cross_products(R[rows], groups, weights[rows])

    whole, sum_of_parts = of(slice(None)), of(slice(0, 37)) + of(slice(37, 100))
    np.testing.assert_allclose(whole.RR, sum_of_parts.RR)
    np.testing.assert_allclose(whole.ZZ[0], sum_of_parts.ZZ[0])
    np.testing.assert_allclose(whole.ZR[1], sum_of_parts.ZR[1])
    np.testing.assert_allclose(whole.cross[0, 1].toarray(), sum_of_parts.cross[0, 1].toarray())
    assert whole.n == sum_of_parts.n
    assert whole.sum_log_weights == pytest.approx(sum_of_parts.sum_log_weights)


def test_an_interrupted_search_keeps_its_best_state():
    from pylmernn.engines.newton import minimize

    calls = []

    def objective(x):
        calls.append(x)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float((x**4).sum()), 4 * x**3, np.diag(12 * x**2)

    found = minimize(objective, np.array([3.0, 2.0]))
    assert "interrupted after 3 evaluations" in found.message
    assert found.value < 3.0**4 + 2.0**4
    np.testing.assert_array_equal(found.x, calls[2])


@pytest.mark.parametrize("shape", ["crossed", "crossed_slopes_weighted"])
def test_the_torch_factor_gives_the_same_numbers(shape):
    from pylmernn.linalg.rest import TorchRest

    design = random_design(shape)
    theta = random_theta(design, np.random.default_rng(2))
    ours, torch = profiled.Problem(design, True), profiled.Problem(design, True)
    torch.system.factor = TorchRest(torch.system.schur, "cpu")
    for one, two in zip(ours.search(theta), torch.search(theta), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-8)


def test_units_and_origin_of_a_slope_do_not_matter():
    design = random_design("slope")
    fit = profiled.fit(design)
    (old,) = design.random
    shift, scale = 2000.0, 1e5
    moved = dataclasses.replace(old, columns=np.column_stack([old.columns[:, 0], shift + scale * old.columns[:, 1]]))
    again = profiled.fit(dataclasses.replace(design, random=(moved,)))
    assert again.objective == pytest.approx(fit.objective, abs=1e-6)
    assert again.singular == fit.singular
    T = np.array([[1.0, shift], [0.0, scale]])
    Lambda, Lambda2 = (oracle.split_theta(design.random, f.theta)[0] for f in (fit, again))
    np.testing.assert_allclose(T @ Lambda2 @ Lambda2.T @ T.T, Lambda @ Lambda.T, rtol=1e-4)
