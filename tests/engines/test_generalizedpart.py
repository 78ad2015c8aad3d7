"""Where b lies for every row: one factor beside integrals by brute force, several beside dense algebra."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from designs import term
from oracle import dense_Lambda, dense_Z
from scipy.special import expit

from pylmernn.engines import generalizedpart, pirls
from pylmernn.engines.crossfitting import some_rows
from pylmernn.engines.generalizedpart import GeneralizedPart, final_nodes, only_width
from pylmernn.engines.working import to_user
from pylmernn.families import read_family
from pylmernn.formula.design import make_design

N, BINOMIAL = 240, read_family("binomial")
X = np.random.default_rng(1).normal(size=N)
F = np.sin(2 * X)
ROWS = np.flatnonzero((np.arange(N) % 7 > 0) & (np.arange(N) % 12 > 0))  # nothing of level 0 of the first factor


def model(terms="one", family="binomial"):
    """Counts of trials, or of events, with an offset; levels 0 to 11 of g, and 0 to 4 of h."""
    rng = np.random.default_rng(3)
    one, g, h = np.ones(N), np.arange(N) % 12, rng.integers(0, 5, N)
    random = {
        "one": [term("g", g, one)],
        "slope": [term("g", g, one, X + 0.5)],
        "two bars": [term("g", g, one), term("g", g, X)],
        "crossed": [term("g", g, one), term("h", h, one, X)],
    }[terms]
    offset = 0.3 * rng.normal(size=N)
    eta = 0.4 + offset + F + 0.9 * rng.normal(size=12)[g] + 0.7 * rng.normal(size=5)[h]
    if terms != "one":
        eta += 0.6 * rng.normal(size=12)[g] * X
    trials = rng.integers(1, 5, N).astype(float)
    y, weights = rng.binomial(trials.astype(int), expit(eta)) / trials, trials
    if family == "poisson":
        y, weights = rng.poisson(np.exp(0.4 * eta)).astype(float), None
    return make_design(y, np.column_stack([one, X]), ["(Intercept)", "x"], random, weights, offset, generalized=True)


def part_of(design, family=BINOMIAL, rows=ROWS):
    return GeneralizedPart(design, rows, some_rows(design, rows), family, "cpu", 100)


def theta_of(part):
    """The user's theta that the part has found."""
    return to_user(part.design.random, part.problem.transforms, part._x[: part.problem.n_theta])


def moments(part):
    """Mean and variance of the random part of every row."""
    values, weights = part.nodes.values, part.nodes.weights
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    mean = (weights * values).sum(axis=1)
    return mean, (weights * (values - mean[:, None]) ** 2).sum(axis=1)


def loglik(design, rows, eta, family):
    """Log-densities of rows but for constants; eta may have an axis of nodes in front."""
    w = np.ones(design.n) if design.weights is None else design.weights
    y, w = design.y[rows], w[rows]
    return y * eta - np.exp(eta) if family.name == "poisson" else w * (y * eta - np.logaddexp(0, eta))


def integrated(part, f, family):
    """Mean and variance of ``z_i' b`` of each row by the trapezoidal rule on a wide grid of u, level by level."""
    design, first = part.design, part.design.random[0]
    Z = np.column_stack([t.columns for t in design.random])
    d, L = (
        Z.shape[1],
        dense_Lambda([dataclasses.replace(t, levels=t.levels[:1]) for t in design.random], theta_of(part)),
    )
    x = np.linspace(-9, 9, 3001 if d == 1 else 181)
    u = np.stack([axis.ravel() for axis in np.meshgrid(*[x] * d)])
    b = L @ u
    learned, fixed = np.isin(np.arange(N), part.rows), part.fixed + f
    mean, variance = np.empty(N), np.empty(N)
    for level in range(first.n_levels):
        mine = first.codes == level
        rows = np.flatnonzero(mine & learned)
        log_p = loglik(design, rows, fixed[rows] + b.T @ Z[rows].T, family).sum(axis=1) - 0.5 * (u**2).sum(axis=0)
        p = np.exp(log_p - log_p.max())
        values = Z[mine] @ b
        mean[mine] = values @ p / p.sum()
        variance[mine] = (values - mean[mine, None]) ** 2 @ p / p.sum()
    return mean, variance


@pytest.mark.parametrize(
    ("terms", "family", "nodes", "error"),
    [
        ("one", "binomial", 41, 1e-7),
        ("one", "binomial", None, 1e-3),
        ("one", "poisson", 41, 1e-7),
        ("slope", "binomial", 21, 1e-6),
        ("two bars", "binomial", 21, 1e-6),
        ("slope", "binomial", None, 0.025),
    ],
)
def test_nodes_of_one_factor_have_the_moments_of_the_posterior(terms, family, nodes, error, monkeypatch):
    """With the nodes of training, None, the error is that of quadrature; levels and rows left out are there too."""
    if nodes is not None:
        monkeypatch.setattr(generalizedpart, "TRAINING_NODES", {1: nodes, 2: nodes})
    family = read_family(family)
    part = part_of(model(terms, family.name), family)
    part.update(F)
    for ours, truth in zip(moments(part), integrated(part, F, family), strict=True):
        np.testing.assert_allclose(ours, truth, atol=error * np.abs(truth).max())


def test_levels_without_rows_have_the_prior():
    for terms in ("one", "slope", "crossed"):
        part = part_of(model(terms))
        part.update(F)
        at = part.design.random[0].codes == 0
        L = dense_Lambda([dataclasses.replace(t, levels=t.levels[:1]) for t in part.design.random], theta_of(part))
        prior = ((part.design.random[0].columns[at] @ L[: part.design.random[0].width]) ** 2).sum(axis=1)
        mean, variance = moments(part)
        if terms == "crossed":  # the other factor's effects add to it
            assert (variance[at] > prior).all()
        else:
            np.testing.assert_allclose(mean[at], 0.0, atol=1e-12)
            np.testing.assert_allclose(variance[at], prior, rtol=1e-10)
        assert prior.min() > 1e-3


def dense(part, f):
    """Modes b, where the score says they are, and their covariance ``(Z' W Z + D^-1)^-1`` of the rows learnt from."""
    design = part.design
    Z, L = dense_Z(design.random), dense_Lambda(design.random, theta_of(part))
    trials, fixed, b = design.weights, part.fixed + f, np.zeros(Z.shape[1])
    rows, D = part.rows, L @ L.T
    for _ in range(100):
        mu = expit(fixed + Z @ b)
        W = trials * mu * (1 - mu)
        ZWZ = Z[rows].T @ (W[rows, None] * Z[rows])
        right = Z[rows].T @ (trials * (design.y - mu))[rows] + ZWZ @ b
        b = np.linalg.solve(np.eye(len(b)) + D @ ZWZ, D @ right)
    covariance = np.linalg.solve(np.eye(len(b)) + D @ ZWZ, D)
    return Z, b, covariance


def test_several_factors_are_normal_about_the_modes():
    part = part_of(model("crossed"))
    part.update(F)
    Z, b, covariance = dense(part, F)
    mean, variance = moments(part)
    np.testing.assert_allclose(mean, Z @ b, atol=1e-7)
    exact = np.einsum("iq,qr,ir->i", Z, covariance, Z)
    np.testing.assert_allclose(variance[ROWS], exact[ROWS], rtol=1e-6)
    rest = np.setdiff1d(np.arange(N), ROWS)
    blocks, start = np.zeros_like(covariance), 0
    for t in part.design.random:
        for level in range(t.n_levels):
            at = slice(start + level * t.width, start + (level + 1) * t.width)
            blocks[at, at] = covariance[at, at]
        start += t.n_levels * t.width
    np.testing.assert_allclose(variance[rest], np.einsum("iq,qr,ir->i", Z, blocks, Z)[rest], rtol=1e-6)


def test_modes_follow_the_network_between_searches():
    part = part_of(model("crossed"))
    part.update(F)
    theta, deviations = theta_of(part), np.sqrt(moments(part)[1])
    part.update(-F)
    np.testing.assert_array_equal(theta_of(part), theta)
    Z, b, _ = dense(part, -F)
    mean, variance = moments(part)
    np.testing.assert_allclose(mean, Z @ b, atol=1e-7)
    np.testing.assert_allclose(np.sqrt(variance), deviations, rtol=1e-9)


def test_parameters_go_to_the_maximum_of_the_likelihood():
    """Searches of a few evaluations now and then end where one search does, f and the offset being known."""
    design = model("one")
    part = part_of(design, rows=np.arange(N))
    for _ in range(3 * part.every):
        part.update(F)
    known = dataclasses.replace(design, offset=design.offset + F)
    found = pirls.fit(known, BINOMIAL, generalizedpart.TRAINING_NODES[1])
    assert part.sigma == pytest.approx(float(found.theta[0]), abs=1e-3)
    np.testing.assert_allclose(part.beta, found.beta, atol=1e-3)
    np.testing.assert_allclose(part.fixed, design.offset + design.X @ part.beta, rtol=1e-12)


def test_thresholds_are_those_of_the_user_s_columns():
    rng = np.random.default_rng(5)
    g, x = np.arange(N) % 12, X + 3.0
    latent = 0.5 * x + F + 0.8 * rng.normal(size=12)[g] + rng.logistic(size=N)
    y = np.digitize(latent, [0.5, 2.5]).astype(float)
    design = make_design(y, x[:, None], ["x"], [term("g", g, np.ones(N))], generalized=True, classes=("a", "b", "c"))
    family = read_family("ordinal")
    part = part_of(design, family, np.arange(N))
    for _ in range(3 * part.every):
        part.update(F)
    found = pirls.fit(dataclasses.replace(design, offset=F), family, generalizedpart.TRAINING_NODES[1])
    np.testing.assert_allclose(part.phi, found.phi, atol=0.02)  # x has mean 3: thresholds of centred columns are far
    here = pirls.devfun(dataclasses.replace(design, offset=F), family, generalizedpart.TRAINING_NODES[1])
    assert 0 <= here(theta_of(part), part.beta, part.phi) - found.objective < 0.01


def test_quadrature_wherever_it_is_offered():
    assert [only_width(model(terms)) for terms in ("one", "slope", "two bars", "crossed")] == [1, 2, 2, 0]
    assert [final_nodes(model(terms), 1) for terms in ("one", "slope", "crossed")] == [9, 5, 1]
    assert final_nodes(model("one"), 25) == 25
    assert final_nodes(model("one"), 0) == 0
