"""The engine of Gaussian processes against the dense marginal distribution."""

from __future__ import annotations

import numpy as np
import pytest
from designs import field_design
from scipy.linalg import block_diag
from scipy.spatial.distance import cdist

from pylmernn.covariance import split_theta, theta_sizes
from pylmernn.covariance.kernels import KERNELS, correlation, correlation_and_slope
from pylmernn.engines.control import Control
from pylmernn.engines.exact import fit
from pylmernn.engines.spatialfit import SpatialProblem, estimates_at, search, to_search, to_theta
from pylmernn.engines.variances import conditional_variance, prediction_variance
from pylmernn.formula.design import NewRows, NewTerm
from pylmernn.formula.fields import COVARIANCES

CASES = {
    "field": {"bars": ()},
    "field_weighted": {"bars": (), "weighted": True},
    "bar": {"bars": (12,)},
    "crossed_weighted": {"bars": (12, 7), "weighted": True},
    "two_fields": {"bars": (), "fields": 2},
    "two_fields_bars": {"bars": (12, 7), "fields": 2},
}


def prior_blocks(design, theta):
    """Relative covariance of the effects of each term, and its indicator matrix."""
    thetas = np.split(theta, np.cumsum(theta_sizes(design.random))[:-1])
    for term, own, Lambda in zip(design.random, thetas, split_theta(design.random, theta), strict=True):
        Z = np.zeros((design.n, term.n_levels, term.width))
        Z[np.arange(design.n), term.codes] = term.columns
        if term.covariance == "gp":
            K = own[0] ** 2 * correlation(term.options["cov"], cdist(term.locations, term.locations), own[1])
        else:
            K = np.kron(np.eye(term.n_levels), Lambda @ Lambda.T)
        yield K, Z.reshape(design.n, -1)


def dense(design, theta, REML):
    """Objective, beta, and V^-1 (y - X beta), through the n by n matrix V."""
    V = np.diag(np.ones(design.n) if design.weights is None else 1 / design.weights)
    for K, Z in prior_blocks(design, theta):
        V = V + Z @ K @ Z.T
    inverse, X, y = np.linalg.inv(V), design.X, design.y
    A = X.T @ inverse @ X
    beta = np.linalg.solve(A, X.T @ inverse @ y)
    e = inverse @ (y - X @ beta)
    df = design.n - design.p if REML else design.n
    objective = np.linalg.slogdet(V)[1] + df * (1 + np.log(2 * np.pi * (y - X @ beta) @ e / df))
    return objective + (np.linalg.slogdet(A)[1] if REML else 0.0), beta, e, inverse


def some_theta(design, seed=1):
    return 0.3 + 0.5 * np.abs(np.random.default_rng(seed).normal(size=sum(theta_sizes(design.random))))


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_objective_gradient_and_modes(case, REML):
    design = field_design(**CASES[case])
    problem = SpatialProblem(design, REML)
    x = to_search(problem, some_theta(design))
    value, gradient, _ = search(problem, x)
    tolerance = 1e-6 if len(problem.fields) > 1 else 1e-9  # two fields share their sum: H is singular
    objective, beta, e, _ = dense(design, to_theta(problem, x), REML)
    assert value == pytest.approx(objective, abs=tolerance)
    h = 1e-5
    numeric = [(problem.search_value(x + h * d) - problem.search_value(x - h * d)) / (2 * h) for d in np.eye(len(x))]
    np.testing.assert_allclose(gradient, numeric, atol=2e-6)
    estimates = estimates_at(problem, to_theta(problem, x), None, Control())
    np.testing.assert_allclose(estimates.beta, beta, atol=1e-7)
    mean = design.X @ estimates.beta
    for term, b in zip(design.random, estimates.b, strict=True):
        mean = mean + np.einsum("ij,ij->i", term.columns, b[term.codes])
    weights = 1.0 if design.weights is None else design.weights
    np.testing.assert_allclose(weights * (design.y - mean), e, atol=1e-7)  # V^-1 (y - X beta) = W (y - X beta - Z b)


@pytest.mark.parametrize("case", ["field", "crossed_weighted"])
def test_variances(case):
    design = field_design(**CASES[case])
    theta = some_theta(design)
    estimates = estimates_at(SpatialProblem(design, True), theta, None, Control())
    *_, inverse = dense(design, theta, True)
    blocks = list(prior_blocks(design, theta))
    for (K, Z), term, found in zip(blocks, design.random, conditional_variance(design, estimates), strict=True):
        whole = estimates.sigma**2 * (K - K @ Z.T @ inverse @ Z @ K)
        d = term.width
        expected = [whole[j * d : (j + 1) * d, j * d : (j + 1) * d] for j in range(term.n_levels)]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    rows, prior, covariance = new_rows(design, theta, blocks)
    X = design.X
    A = np.linalg.inv(X.T @ inverse @ X)
    left = rows.X.T - X.T @ inverse @ covariance
    expected = prior - np.einsum("ij,ij->j", covariance, inverse @ covariance) + np.einsum("ij,ij->j", left, A @ left)
    np.testing.assert_allclose(prediction_variance(design, estimates, rows), estimates.sigma**2 * expected, atol=1e-9)


def new_rows(design, theta, blocks, m=12):
    """Rows at known and new locations and levels; their prior variance, and covariance with the data."""
    rng = np.random.default_rng(5)
    thetas = np.split(theta, np.cumsum(theta_sizes(design.random))[:-1])
    terms, prior, covariance = [], np.zeros(m), np.zeros((design.n, m))
    for term, own, Lambda, (K, Z) in zip(design.random, thetas, split_theta(design.random, theta), blocks, strict=True):
        codes = np.r_[np.arange(m // 2), np.full(m // 2, -1)].astype(np.int32)
        columns = np.ones((m, 1)) if term.covariance == "gp" else rng.normal(size=(m, term.width))
        places = None
        if term.covariance == "gp":
            places = np.r_[term.locations[: m // 2], rng.uniform(-2, 2, (m // 2, 2))]
            k = own[0] ** 2 * correlation(term.options["cov"], cdist(term.locations, places), own[1])
            covariance += Z @ k
            prior += own[0] ** 2
        else:
            z = block_diag(*columns[: m // 2])
            z = np.pad(z, ((0, m // 2), (0, K.shape[0] - z.shape[1])))
            covariance += Z @ K @ z.T
            prior += ((columns @ Lambda) ** 2).sum(axis=1)
        terms.append(NewTerm(codes, columns, (), places))
    return NewRows(rng.normal(size=(m, 2)), np.zeros(m), tuple(terms)), prior, covariance


def test_the_search_ends_where_no_neighbour_is_lower():
    design = field_design(n=600, q=60)
    estimates = fit(design, REML=False)
    assert estimates.convergence.converged
    problem = SpatialProblem(design, False)
    x = to_search(problem, estimates.theta)
    for step in 0.02 * np.vstack([np.eye(len(x)), -np.eye(len(x))]):
        assert problem.search_value(x + step) >= estimates.objective - 1e-6


def test_locations_without_rows_follow_from_the_others():
    """While a network is trained on some of the rows, locations of the others stay in the design."""
    design = field_design(bars=(), n=300, q=40)
    term = design.random[0]
    rows = np.flatnonzero(term.codes > 0)
    some = type(design)(
        design.y[rows],
        design.X[rows],
        design.fixed_names,
        (type(term)(**{**term.__dict__, "codes": term.codes[rows], "columns": term.columns[rows]}),),
    )
    theta = np.array([1.0, 0.8])
    estimates = estimates_at(SpatialProblem(some, True), theta, None, Control())
    *_, e, _ = dense(some, theta, True)
    k = correlation("matern32", cdist(term.locations[:1], term.locations), 0.8)
    expected = k[:, term.codes[rows]] @ e
    assert estimates.b[0][0, 0] == pytest.approx(float(expected[0]), abs=1e-8)


def test_the_formula_knows_every_kernel():
    """The formula stands below the kernels and cannot import their names."""
    assert set(COVARIANCES) == set(KERNELS)


@pytest.mark.parametrize("cov", KERNELS)
def test_kernels(cov):
    distance = np.linspace(0, 3, 7)
    value, slope = correlation_and_slope(cov, distance, 1.3)
    np.testing.assert_array_equal(value, correlation(cov, distance, 1.3))
    assert value[0] == 1.0
    h = 1e-5
    numeric = (correlation(cov, distance, 1.3 * np.exp(h)) - correlation(cov, distance, 1.3 * np.exp(-h))) / (2 * h)
    np.testing.assert_allclose(slope, numeric, atol=1e-9)
    points = np.random.default_rng(0).normal(size=(15, 2))
    assert np.linalg.eigvalsh(correlation(cov, cdist(points, points), 0.5)).min() > 0
