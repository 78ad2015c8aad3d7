"""The PIRLS engine beside a dense Laplace approximation, differences, and integrals by brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from designs import SHAPES, random_design
from scipy import optimize
from scipy.special import logsumexp

from pylmernn.covariance import split_theta, theta_sizes
from pylmernn.engines import pirls, pirls_system
from pylmernn.engines.control import Control
from pylmernn.engines.generalized_methods import method_for
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.families import read_family
from pylmernn.fit.getme import random_matrix
from pylmernn.formula.design import DesignError
from pylmernn.linalg.quadrature import gauss_hermite


def generalized_design(shape, text, n=240):
    """A design of ``designs.py`` with responses of a family."""
    design, family, rng = random_design(shape, 0, n), read_family(text), np.random.default_rng(1)
    eta = 0.3 * design.X[:, 1] - 0.2
    for term in design.random:
        eta = eta + 0.5 * rng.normal(size=term.n_levels)[term.codes]
    weights = rng.integers(1, 5, n).astype(float) if family.name == "binomial" else design.weights
    if family.name == "binomial":
        y = rng.binomial(weights.astype(int), 1 / (1 + np.exp(-eta))) / weights
    elif family.name in ("poisson", "negative.binomial"):
        y = rng.negative_binomial(3, 3 / (3 + np.exp(eta))).astype(float)
    elif family.name == "beta":
        mu = 1 / (1 + np.exp(-eta))
        y = np.clip(rng.beta(4 * mu, 4 * (1 - mu)), 1e-6, 1 - 1e-6)
    else:
        y = rng.gamma(4, np.exp(0.3 * eta) / 4) + 0.05
    offset = None if design.offset is None else 0.1 * design.offset
    return dataclasses.replace(design, y=y, weights=weights, offset=offset), family


def whole(design):
    """Z (n, q) dense, and a function that gives Lambda (q, q)."""
    Z = random_matrix(design).toarray()

    def factor(theta):
        blocks = [
            np.kron(np.eye(t.n_levels), L)
            for t, L in zip(design.random, split_theta(design.random, theta), strict=True)
        ]
        sizes = np.cumsum([0, *(len(b) for b in blocks)])
        out = np.zeros((sizes[-1], sizes[-1]))
        for start, block in zip(sizes[:-1], blocks, strict=True):
            out[start : start + len(block), start : start + len(block)] = block
        return out

    return Z, factor


def dense_laplace(design, family, theta, beta, phi=1.0):
    """-2 log L by plain Newton steps on dense matrices."""
    weights = np.ones(design.n) if design.weights is None else design.weights
    Z, factor = whole(design)
    ZL = Z @ factor(theta)
    fixed = design.X @ beta + (0.0 if design.offset is None else design.offset)
    u = np.zeros(ZL.shape[1])
    for _ in range(60):
        step = family.step(design.y, weights, fixed + ZL @ u, phi)
        H = ZL.T @ (step.observed[:, None] * ZL) + np.eye(len(u))
        u = u + np.linalg.solve(H, ZL.T @ step.score - u)
    eta = fixed + ZL @ u
    w, _ = family.curvature(design.y, weights, eta, phi)
    loglik = family.step(design.y, weights, eta, phi).loglik.sum() + family.constant(design.y, weights)
    return -2 * loglik + u @ u + np.linalg.slogdet(ZL.T @ (w[:, None] * ZL) + np.eye(len(u)))[1]


def parameters(design):
    """Theta and beta somewhere inside."""
    return np.full(sum(theta_sizes(design.random)), 0.5), np.array([-0.2, 0.3, 0.0])


@pytest.fixture(params=[True, False], ids=["dense", "sparse"])
def rest(request, monkeypatch):
    """Both ways to eliminate the first of several factors."""
    monkeypatch.setattr(pirls_system, "DENSE_RATE", 1e9 if request.param else 0.0)


@pytest.mark.parametrize("text", ["binomial", "poisson", "binomial(probit)", "Gamma(log)", "negative.binomial"])
@pytest.mark.parametrize("shape", ["one", "three_columns", "crossed_weighted_offset", "crossed_slopes", "nested"])
@pytest.mark.usefixtures("rest")
def test_laplace_is_the_dense_one(shape, text):
    design, family = generalized_design(shape, text)
    theta, beta = parameters(design)
    phi = 0.8 if family.has_dispersion else 1.0
    ours = pirls.devfun(design, family)(theta, beta, phi)
    assert ours == pytest.approx(dense_laplace(design, family, theta, beta, phi), rel=1e-10)


@pytest.mark.parametrize("shape", ["one", "crossed_weighted_offset"])
@pytest.mark.usefixtures("rest")
def test_no_fixed_effects(shape):
    design, family = generalized_design(shape, "binomial")
    empty = dataclasses.replace(design, X=np.empty((design.n, 0)), fixed_names=())
    found = pirls.fit(empty, family, 1, Control())
    assert found.objective == pytest.approx(dense_laplace(empty, family, found.theta, np.empty(0)), rel=1e-8)
    assert found.beta.shape == (0,)


def largest_gap(problem, x):
    """Between the gradient and central differences of the objective, relative to the largest entry."""
    gradient = problem.search(x)[1]
    width = 1e-5 * np.eye(len(x))
    found = [(problem.search(x + e)[0] - problem.search(x - e)[0]) / 2e-5 for e in width]
    return np.abs(np.array(found) - gradient).max() / np.abs(gradient).max()


@pytest.mark.parametrize("nAGQ", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("rest")
def test_gradient_by_shape(shape, nAGQ):
    problem = GeneralizedProblem(*generalized_design(shape, "binomial"), nAGQ)
    assert largest_gap(problem, problem.start() + 0.05) < 1e-6


@pytest.mark.parametrize("nAGQ", [0, 1, 4])
@pytest.mark.parametrize(
    "text",
    ["binomial(probit)", "binomial(cauchit)", "poisson", "Gamma(log)", "inverse.gaussian(log)", "nbinom2", "beta"],
)
def test_gradient_by_family(text, nAGQ):
    problem = GeneralizedProblem(*generalized_design("slope", text), nAGQ)
    assert largest_gap(problem, problem.start() + 0.05) < 1e-5


def brute_force(design, family, theta, beta, phi, nodes=401, reach=9.0):
    """-2 log L of one scalar factor, each level's integral over u by the trapezoidal rule."""
    weights = np.ones(design.n) if design.weights is None else design.weights
    fixed = design.X @ beta
    grid = np.linspace(-reach, reach, nodes)
    logs = np.stack([family.step(design.y, weights, fixed + theta[0] * u, phi).loglik for u in grid])
    term = design.random[0]
    by_level = np.stack([np.bincount(term.codes, row, term.n_levels) for row in logs])
    prior = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi) + np.log(grid[1] - grid[0])
    return -2 * (logsumexp(by_level + prior[:, None], axis=0).sum() + family.constant(design.y, weights))


@pytest.mark.parametrize("text", ["binomial", "binomial(cloglog)", "poisson", "Gamma(log)", "nbinom2", "beta"])
def test_many_nodes_are_the_integral(text):
    design, family = generalized_design("one", text)
    theta, beta, phi = np.array([0.8]), np.array([-0.2, 0.3, 0.0]), 0.8 if read_family(text).has_dispersion else 1.0
    ours = pirls.devfun(design, family, nAGQ=25)(theta, beta, phi)
    assert ours == pytest.approx(brute_force(design, family, theta, beta, phi), rel=1e-8)


def test_inverse_gaussian_integral():
    design, family = generalized_design("one", "inverse.gaussian(log)")
    theta, beta = np.array([0.5]), np.array([-0.2, 0.3, 0.0])
    ours = pirls.devfun(design, family, nAGQ=25)(theta, beta, 0.3)
    assert ours == pytest.approx(brute_force(design, family, theta, beta, 0.3), rel=1e-7)


def test_quadrature_of_vector_terms_converges():
    design, family = generalized_design("slope", "binomial")
    at = (np.array([0.8, 0.2, 0.4]), np.array([-0.2, 0.3, 0.0]))
    one, some, many = (pirls.devfun(design, family, k)(*at) for k in (1, 11, 19))
    assert some == pytest.approx(many, rel=1e-7)
    assert abs(one - many) > 1e-2  # Laplace's approximation is another number


def test_one_node_is_laplace():
    nodes = gauss_hermite(1, 3)
    assert nodes.z.tolist() == [[0.0, 0.0, 0.0]]
    assert nodes.log_weights.tolist() == pytest.approx([0.0])


@pytest.mark.parametrize("text", ["binomial", "poisson", "nbinom2"])
def test_optimum_is_that_of_another_optimizer(text):
    design, family = generalized_design("slope", text)
    problem = GeneralizedProblem(design, family)
    ours = pirls.fit(design, family)
    start = problem.start()
    other = optimize.minimize(lambda x: problem.search(x)[0], start, method="Nelder-Mead", options={"maxfev": 1500})
    assert ours.convergence.converged
    assert ours.objective <= other.fun + 1e-6
    assert ours.objective == pytest.approx(other.fun, abs=0.05)


def test_modes_are_stationary():
    design, family = generalized_design("crossed_slopes", "binomial")
    fit = pirls.fit(design, family)
    mu = family.link.inverse(fit.eta)
    score = design.weights * (design.y - mu)
    Z, factor = whole(design)
    u = np.concatenate([part.ravel() for part in fit.u])
    np.testing.assert_allclose(factor(fit.theta).T @ (Z.T @ score), u, atol=1e-6)
    b = np.concatenate([part.ravel() for part in fit.b])
    np.testing.assert_allclose(design.X @ fit.beta + Z @ b, fit.eta, atol=1e-6)


def test_singular_fit_is_found():
    rng = np.random.default_rng(4)
    design, family = generalized_design("one", "poisson")
    design = dataclasses.replace(design, y=rng.poisson(2.0, design.n).astype(float))
    codes = np.argsort(np.argsort(design.y, kind="stable")) % 40  # every level has the same distribution of y
    term = dataclasses.replace(design.random[0], codes=codes.astype(np.int32))
    fit = pirls.fit(dataclasses.replace(design, random=(term,)), family)
    assert fit.singular
    assert fit.theta[0] == 0.0
    assert np.isfinite(fit.objective)


def test_levels_of_zeros_and_of_ones():
    design, family = generalized_design("one", "binomial")
    y = design.y.copy()
    y[design.random[0].codes == 0], y[design.random[0].codes == 1] = 0.0, 1.0
    fit = pirls.fit(dataclasses.replace(design, y=y), family)
    assert np.isfinite(fit.b[0]).all()
    assert fit.b[0][0, 0] < 0 < fit.b[0][1, 0]


def test_too_many_levels_for_a_dense_factor():
    design, family = generalized_design("crossed", "binomial")
    with pytest.raises(DesignError, match="12 random effects hang together"):
        pirls.fit(design, family, control=Control(dense_limit=11))


def test_quadrature_is_for_one_factor():
    with pytest.raises(DesignError, match="one grouping factor"):
        GeneralizedProblem(*generalized_design("crossed", "binomial"), 5)


def test_large_crossed_factors_are_not_factored_together():
    design, family = generalized_design("crossed", "poisson")
    together = min(term.n_levels for term in design.random)
    assert method_for(design, family, "auto", together) == "pirls"
    assert method_for(design, family, "auto", together - 1) == "mcem"
    with pytest.raises(DesignError, match=f"factor {together} random effects .*use method='mcem'"):
        method_for(design, family, "pirls", together - 1)
