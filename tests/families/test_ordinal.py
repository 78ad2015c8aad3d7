"""Ordered classes: derivatives by differences, the marginal likelihood by brute force, two classes as a logit model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from designs import random_design, term
from scipy.special import expit, logsumexp

from pylmernn.engines import pirls
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.pirls_variances import dispersion_covariance, fixed_covariance
from pylmernn.families import FamilyError, read_family
from pylmernn.formula.design import make_design

ALPHA = np.array([-1.0, 0.2, 1.7])
FAMILY = read_family("ordinal")


def rows(n=60):
    rng = np.random.default_rng(5)
    return rng.integers(0, 4, n).astype(float), rng.integers(1, 4, n).astype(float), rng.normal(0, 2, n)


def difference(function, x, width=1e-5):
    return (function(x + width) - function(x - width)) / (2 * width)


def test_probabilities_are_differences_of_cumulative_ones():
    y, weights, eta = rows()
    cumulative = np.column_stack([np.zeros(60), expit(ALPHA - eta[:, None]), np.ones(60)])
    ours = FAMILY.probabilities(eta, ALPHA)
    np.testing.assert_allclose(ours, np.diff(cumulative), rtol=1e-12)
    loglik = FAMILY.step(y, weights, eta, ALPHA).loglik
    np.testing.assert_allclose(loglik, weights * np.log(ours[np.arange(60), y.astype(int)]), rtol=1e-12)


def test_derivatives():
    y, w, eta = rows()
    close = {"rtol": 1e-6, "atol": 1e-8}
    step, (weight, slope) = FAMILY.step(y, w, eta, ALPHA), FAMILY.curvature(y, w, eta, ALPHA)
    np.testing.assert_allclose(step.score, difference(lambda e: FAMILY.step(y, w, e, ALPHA).loglik, eta), **close)
    np.testing.assert_allclose(weight, -difference(lambda e: FAMILY.step(y, w, e, ALPHA).score, eta), **close)
    np.testing.assert_allclose(slope, difference(lambda e: FAMILY.curvature(y, w, e, ALPHA)[0], eta), **close)
    np.testing.assert_allclose(step.observed, weight, rtol=1e-14)
    by = FAMILY.by_dispersion(y, w, eta, ALPHA)
    np.testing.assert_allclose(FAMILY.dispersion_score(y, w, eta, ALPHA), by.loglik.sum(axis=1), rtol=1e-12)
    for j, unit in enumerate(np.eye(3)):
        of = {
            "loglik": lambda t, u=unit: FAMILY.step(y, w, eta, ALPHA + t * u).loglik,
            "score": lambda t, u=unit: FAMILY.step(y, w, eta, ALPHA + t * u).score,
            "weight": lambda t, u=unit: FAMILY.curvature(y, w, eta, ALPHA + t * u)[0],
        }
        for name, function in of.items():
            np.testing.assert_allclose(getattr(by, name)[j], difference(function, 0.0), **close)


def test_coordinates_of_the_thresholds():
    x = FAMILY.unconstrained(ALPHA)
    np.testing.assert_allclose(FAMILY.from_unconstrained(x), ALPHA, rtol=1e-14)
    numeric = np.column_stack([difference(lambda t, u=u: FAMILY.from_unconstrained(x + t * u), 0.0) for u in np.eye(3)])
    np.testing.assert_allclose(FAMILY.chain(ALPHA), numeric, atol=1e-9)


def test_density_in_torch():
    y, w, eta = rows()
    at, alpha = torch.tensor(eta, requires_grad=True), torch.tensor(ALPHA, requires_grad=True)
    value = FAMILY.density(torch.tensor(y), torch.tensor(w), at, alpha)
    step = FAMILY.step(y, w, eta, ALPHA)
    np.testing.assert_allclose(value.detach(), step.loglik, rtol=1e-10, atol=1e-12)
    score, slopes = torch.autograd.grad(value.sum(), (at, alpha), create_graph=True)
    np.testing.assert_allclose(score.detach(), step.score, rtol=1e-8, atol=1e-10)
    by = FAMILY.by_dispersion(y, w, eta, ALPHA).loglik.sum(axis=1)
    np.testing.assert_allclose(slopes.detach(), by, rtol=1e-8)
    (second,) = torch.autograd.grad(score.sum(), at)
    np.testing.assert_allclose(second, -step.observed, rtol=1e-8, atol=1e-10)
    columns = torch.tensor(eta)[:, None] + torch.tensor([0.0, 1.0], dtype=torch.float64)
    both = FAMILY.density(torch.tensor(y)[:, None], torch.tensor(w)[:, None], columns, ALPHA)
    np.testing.assert_allclose(both[:, 1], FAMILY.step(y, w, eta + 1, ALPHA).loglik, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("eta", [-1e3, -50.0, 50.0, 1e3])
def test_far_away_nothing_breaks(eta):
    y, weights = np.arange(4.0), np.ones(4)
    step = FAMILY.step(y, weights, np.full(4, eta), ALPHA)
    assert np.isfinite(step.loglik).all()
    at = torch.full((4,), eta, dtype=torch.float64, requires_grad=True)
    value = FAMILY.density(torch.tensor(y), torch.tensor(weights), at, ALPHA)
    np.testing.assert_allclose(value.detach(), step.loglik, rtol=1e-10, atol=1e-300)
    value.sum().backward()
    np.testing.assert_allclose(at.grad, step.score, atol=1e-12)


def ordinal_design(shape="one", n=240, classes=4, without_intercept=True):
    """A design of ``designs.py`` whose response is a class; columns of X are far from zero."""
    design, rng = random_design(shape, 0, n), np.random.default_rng(2)
    eta = 0.8 * design.X[:, 1]
    for each in design.random:
        eta = eta + 0.7 * rng.normal(size=each.n_levels)[each.codes]
    alpha = np.linspace(-1, 1.5, classes - 1)
    y = FAMILY.draw(rng, eta, np.ones(n), alpha)
    X, names = (design.X[:, 1:], design.fixed_names[1:]) if without_intercept else (design.X, design.fixed_names)
    weights = None if design.weights is None else np.ceil(design.weights)
    offset = None if design.offset is None else 0.1 * design.offset
    return dataclasses.replace(design, y=y, X=X, fixed_names=names, weights=weights, offset=offset)


@pytest.mark.parametrize("nAGQ", [0, 1, 4])
@pytest.mark.parametrize("shape", ["one", "slope", "crossed_weighted_offset"])
def test_gradient(shape, nAGQ):
    if nAGQ == 4 and "crossed" in shape:
        shape = "double_bar"
    problem = GeneralizedProblem(ordinal_design(shape), FAMILY, nAGQ)
    x = problem.start() + 0.05
    gradient = problem.search(x)[1]
    found = [(problem.search(x + e)[0] - problem.search(x - e)[0]) / 2e-5 for e in 1e-5 * np.eye(len(x))]
    assert np.abs(np.array(found) - gradient).max() / np.abs(gradient).max() < 1e-6


def brute_force(design, theta, beta, alpha, nodes=2001, reach=10.0):
    """-2 log L of one scalar factor: cumulative probabilities written out, each level's integral by a fine grid."""
    grid = np.linspace(-reach, reach, nodes)
    eta = design.X @ beta + (0.0 if design.offset is None else design.offset)
    padded = np.concatenate([[-np.inf], alpha, [np.inf]])
    code = design.y.astype(int)
    at = eta[:, None] + theta * grid
    logs = np.log(expit(padded[code + 1][:, None] - at) - expit(padded[code][:, None] - at))
    logs = logs if design.weights is None else logs * design.weights[:, None]
    each = design.random[0]
    by_level = np.zeros((each.n_levels, nodes))
    np.add.at(by_level, each.codes, logs)
    return -2 * logsumexp(by_level - 0.5 * grid**2 + np.log((grid[1] - grid[0]) / np.sqrt(2 * np.pi)), axis=1).sum()


def test_quadrature_is_the_integral():
    design = dataclasses.replace(ordinal_design(), offset=np.linspace(-3, 5, 240))
    theta, beta = np.array([0.9]), np.array([0.7, 0.01])
    alpha = np.array([9.0, 10.2, 11.7])
    exact = brute_force(design, 0.9, beta, alpha)
    assert pirls.devfun(design, FAMILY, 15)(theta, beta, alpha) == pytest.approx(exact, rel=1e-7)
    laplace = pirls.devfun(design, FAMILY, 1)(theta, beta, alpha)
    assert laplace == pytest.approx(exact, rel=1e-2)
    assert laplace != pytest.approx(exact, rel=1e-7)


def test_laplace_is_close_where_levels_are_large():
    design = ordinal_design(n=4000)
    theta, beta, alpha = np.array([0.7]), np.array([0.8, 0.0]), np.array([-1.0, 0.25, 1.5])
    exact = brute_force(design, 0.7, beta, alpha)
    assert pirls.devfun(design, FAMILY, 1)(theta, beta, alpha) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("nAGQ", [1, 9])
def test_two_classes_are_the_binomial(nAGQ):
    given = ordinal_design("slope", classes=2, without_intercept=False)
    one = pirls.fit(dataclasses.replace(given, X=given.X[:, 1:], fixed_names=given.fixed_names[1:]), FAMILY, nAGQ)
    two = pirls.fit(given, read_family("binomial"), nAGQ)
    assert one.objective == pytest.approx(two.objective, abs=1e-6)
    np.testing.assert_allclose(one.phi, -two.beta[:1], rtol=1e-4)
    np.testing.assert_allclose(one.beta, two.beta[1:], atol=2e-5)
    np.testing.assert_allclose(one.theta, two.theta, atol=2e-4)
    probabilities = FAMILY.probabilities(one.eta, one.phi)
    np.testing.assert_allclose(probabilities[:, 1], read_family("binomial").link.inverse(two.eta), atol=1e-4)


def test_variances_of_two_classes_are_the_binomials():
    given = ordinal_design("one", classes=2, without_intercept=False)
    less = dataclasses.replace(given, X=given.X[:, 1:], fixed_names=given.fixed_names[1:])
    one, two = pirls.fit(less, FAMILY), pirls.fit(given, read_family("binomial"))
    whole = fixed_covariance(given, two)
    np.testing.assert_allclose(fixed_covariance(less, one), whole[1:, 1:], rtol=1e-3)
    np.testing.assert_allclose(dispersion_covariance(less, one), whole[:1, :1], rtol=1e-3)
    np.testing.assert_allclose(one.unscaled_vcov, two.unscaled_vcov[1:, 1:], rtol=1e-3)


@pytest.mark.parametrize("shape", ["one", "crossed_slopes", "nested"])
def test_optimum_has_no_slope(shape):
    design = ordinal_design(shape, n=400)
    fit = pirls.fit(design, FAMILY)
    assert fit.convergence.converged
    assert fit.convergence.n_evaluations < 30
    assert np.abs(fit.convergence.gradient).max() < 1e-3
    assert (np.diff(fit.phi) > 0).all()


def test_recovery():
    rng, n, q = np.random.default_rng(0), 6000, 200
    codes, x = rng.integers(0, q, n), rng.normal(3.0, 1.0, n)
    eta = 0.8 * x + rng.normal(0, 1.0, q)[codes]
    alpha = np.array([1.0, 2.0, 3.0, 4.5])
    y = FAMILY.draw(rng, eta, np.ones(n), alpha)
    design = make_design(y, x[:, None], ("x",), [term("g", codes, np.ones(n))], generalized=True)
    fit = pirls.fit(design, FAMILY, 5)
    errors = np.sqrt(np.diagonal(dispersion_covariance(design, fit)))
    assert np.abs((fit.phi - alpha) / errors).max() < 3.0
    assert abs(fit.beta[0] - 0.8) < 3.0 * np.sqrt(fixed_covariance(design, fit)[0, 0])
    assert fit.theta[0] == pytest.approx(1.0, abs=0.15)
    shares = np.bincount(y.astype(int)) / n
    np.testing.assert_allclose(FAMILY.probabilities(fit.eta, fit.phi).mean(axis=0), shares, atol=0.005)


def test_without_columns():
    design = ordinal_design()
    fit = pirls.fit(dataclasses.replace(design, X=np.empty((design.n, 0)), fixed_names=()), FAMILY)
    assert fit.convergence.converged
    assert fit.beta.shape == (0,)


def test_pearson_residuals_have_mean_square_one():
    eta = np.random.default_rng(3).normal(size=40_000)
    y = FAMILY.draw(np.random.default_rng(1), eta, np.ones(len(eta)), ALPHA)
    assert FAMILY.pearson(y, np.ones(len(y)), eta, ALPHA).mean() == pytest.approx(1.0, abs=0.05)
    two, logit = (y > 1).astype(float), read_family("binomial")
    ours, theirs = FAMILY.pearson(two, np.ones(len(y)), eta, np.zeros(1)), logit.pearson(two, np.ones(len(y)), eta, 1.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_draws_follow_the_probabilities():
    eta = np.full(40_000, 0.4)
    y = FAMILY.draw(np.random.default_rng(1), eta, np.ones(len(eta)), ALPHA)
    shares = np.bincount(y.astype(int), minlength=4) / len(y)
    np.testing.assert_allclose(shares, FAMILY.probabilities(eta[:1], ALPHA)[0], atol=0.01)


@pytest.mark.parametrize(
    "y, message",
    [([0.0, 1.5], "is 1.5 in row 2"), ([0.0, 0.0], "one class only"), ([0.0, 2.0], "no row of class 2")],
)
def test_other_responses(y, message):
    with pytest.raises(FamilyError, match=message):
        FAMILY.check(np.array(y), np.ones(2), "y")
