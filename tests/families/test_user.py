"""Families written by the user: beside the built-in ones, and beside integrals by brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from designs import random_design, term
from scipy import stats
from scipy.special import logsumexp

import pylmernn
from pylmernn.engines import pirls
from pylmernn.engines.control import Control
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.pirls_variances import fixed_covariance
from pylmernn.families import FamilyError, UserFamily, read_family
from pylmernn.formula.design import DesignError, make_design


def poisson(y, eta, phi):
    return y * eta - torch.exp(eta) - torch.lgamma(y + 1)


def negative_binomial(y, eta, phi):
    over = eta - torch.log(phi[0])
    scale = torch.lgamma(y + phi[0]) - torch.lgamma(phi[0]) - torch.lgamma(y + 1)
    return scale + y * over - (y + phi[0]) * torch.nn.functional.softplus(over)


def student(y, eta, phi):
    """Location eta, scale phi[0], phi[1] degrees of freedom."""
    z, nu = (y - eta) / phi[0], phi[1]
    constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * torch.log(torch.pi * nu) - torch.log(phi[0])
    return constant - 0.5 * (nu + 1) * torch.log1p(z * z / nu)


def zero_inflated(y, eta, phi):
    sure = torch.where(y == 0, torch.log(phi[0]), -torch.inf)
    return torch.logaddexp(sure, poisson(y, eta, phi)) - torch.log1p(phi[0])


POISSON = UserFamily("mine", poisson, "log")
NEGATIVE = UserFamily("mine", negative_binomial, "log", {"size": 1.0})
STUDENT = UserFamily("student", student, parameters=("scale", "df"))
ZIP = UserFamily("zip", zero_inflated, "log", {"odds": 0.5}, mean=lambda mu, phi: mu / (1 + phi[0]))


def counts(shape="slope"):
    design, rng = random_design(shape, 0, 240), np.random.default_rng(1)
    eta = 0.3 * design.X[:, 1] - 0.2 + 0.5 * rng.normal(size=40)[design.random[0].codes]
    return dataclasses.replace(design, y=rng.negative_binomial(3, 3 / (3 + np.exp(eta))).astype(float))


@pytest.mark.parametrize("nAGQ", [0, 1, 7])
@pytest.mark.parametrize("family, name", [(POISSON, "poisson"), (NEGATIVE, "negative.binomial")])
def test_equals_the_built_in(family, name, nAGQ):
    design, control = counts(), Control(tolerance=1e-11)
    ours, theirs = pirls.fit(design, family, nAGQ, control), pirls.fit(design, read_family(name), nAGQ, control)
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-9)
    at = (theirs.theta, theirs.beta, theirs.phi)
    one, two = (pirls.devfun(design, each, nAGQ)(*at) for each in (family, read_family(name)))
    assert one == pytest.approx(two, rel=1e-10)
    np.testing.assert_allclose(ours.beta, theirs.beta, atol=1e-5)
    np.testing.assert_allclose(ours.theta, theirs.theta, atol=1e-5)
    assert ours.phi == pytest.approx(theirs.phi, rel=1e-4)


def test_variances_equal_the_built_in():
    design = counts("one")
    ours, theirs = (pirls.fit(design, each) for each in (NEGATIVE, read_family("negative.binomial")))
    np.testing.assert_allclose(fixed_covariance(design, ours), fixed_covariance(design, theirs), rtol=1e-3)


@pytest.mark.parametrize("family", [STUDENT, ZIP], ids=str)
@pytest.mark.parametrize("nAGQ", [0, 1, 4])
def test_gradient(family, nAGQ):
    problem = GeneralizedProblem(counts("one"), family, nAGQ)
    x = problem.start() + 0.05
    gradient = problem.search(x)[1]
    found = [(problem.search(x + e)[0] - problem.search(x - e)[0]) / 2e-5 for e in 1e-5 * np.eye(len(x))]
    assert np.abs(np.array(found) - gradient).max() / np.abs(gradient).max() < 1e-5


def brute_force(logpdf, design, theta, beta, nodes=1601, reach=9.0):
    """-2 log L of one scalar factor from a log-density in NumPy or SciPy."""
    grid = np.linspace(-reach, reach, nodes)
    logs = logpdf(design.y[:, None], (design.X @ beta)[:, None] + theta * grid)
    each = design.random[0]
    by_level = np.zeros((each.n_levels, nodes))
    np.add.at(by_level, each.codes, logs)
    return -2 * logsumexp(by_level - 0.5 * grid**2 + np.log((grid[1] - grid[0]) / np.sqrt(2 * np.pi)), axis=1).sum()


def zip_logpmf(y, eta):
    zero = 0.25 / 1.25
    with np.errstate(divide="ignore"):
        return np.log(np.where(y == 0, zero, 0.0) + (1 - zero) * stats.poisson.pmf(y, np.exp(eta)))


@pytest.mark.parametrize(
    "family, phi, logpdf",
    [
        (ZIP, 0.25, zip_logpmf),
        (STUDENT, np.array([0.7, 5.0]), lambda y, eta: stats.t.logpdf(y, 5.0, eta, 0.7)),
    ],
    ids=["zip", "student"],
)
def test_many_nodes_are_the_integral(family, phi, logpdf):
    theta, beta, design = np.array([0.6]), np.array([0.5, 0.3, 0.0]), counts("one")
    if family is STUDENT:
        rng = np.random.default_rng(3)
        noise = 0.7 * rng.standard_t(5, design.n)
        design = dataclasses.replace(
            design, y=design.X @ beta + 0.6 * rng.normal(size=40)[design.random[0].codes] + noise
        )
    exact = brute_force(logpdf, design, 0.6, beta)
    assert pirls.devfun(design, family, 25)(theta, beta, phi) == pytest.approx(exact, rel=1e-6)
    assert pirls.devfun(design, family, 1)(theta, beta, phi) == pytest.approx(exact, rel=1e-2)


def test_recovery_of_a_student():
    rng, n, q = np.random.default_rng(0), 4000, 80
    codes, x = rng.integers(0, q, n), rng.normal(size=n)
    y = 2.0 + 0.5 * x + rng.normal(0, 1.5, q)[codes] + 0.7 * rng.standard_t(4, n)
    X = np.column_stack([np.ones(n), x])
    fit = pirls.fit(make_design(y, X, ("(Intercept)", "x"), [term("g", codes, np.ones(n))]), STUDENT)
    assert fit.convergence.converged
    np.testing.assert_allclose(fit.beta, [2.0, 0.5], atol=0.35)
    assert fit.beta[1] == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(fit.phi, [0.7, 4.0], rtol=0.15)
    assert fit.theta[0] == pytest.approx(1.5, rel=0.25)


def test_density_of_nodes():
    y, eta = np.array([0.0, 2.0, 5.0]), np.array([-0.5, 0.2, 1.0])
    columns = torch.tensor(eta)[:, None] + torch.tensor([0.0, 1.0], dtype=torch.float64)
    phi = np.array([0.7, 5.0])
    value = STUDENT.density(torch.tensor(y)[:, None], torch.full((3, 1), 2.0, dtype=torch.float64), columns, phi)
    expected = 2.0 * stats.t.logpdf(y[:, None], 5.0, columns.numpy(), 0.7)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_unit_deviance_is_the_built_ins():
    y, mu = np.array([0.0, 1.0, 7.0, 200.0]), np.array([0.5, 2.0, 6.0, 150.0])
    np.testing.assert_allclose(
        POISSON.unit_deviance(y, mu, 1.0), read_family("poisson").unit_deviance(y, mu, 1.0), atol=1e-9
    )


def test_a_fit_with_all_its_verbs():
    rng, n = np.random.default_rng(0), 400
    data = {"x": rng.normal(size=n), "g": rng.integers(0, 20, n)}
    mu = np.exp(0.5 + 0.4 * data["x"] + 0.4 * rng.normal(size=20)[data["g"]])
    data["y"] = np.where(rng.uniform(size=n) < 0.3, 0, rng.poisson(mu))
    family = UserFamily(
        "zip",
        zero_inflated,
        "log",
        {"odds": 0.5},
        variance=lambda mu, phi: mu / (1 + phi[0]) * (1 + mu * phi[0] / (1 + phi[0])),
        mean=lambda mu, phi: mu / (1 + phi[0]),
        draw=lambda rng, mu, phi: rng.poisson(mu) * (rng.uniform(size=mu.shape) > phi[0] / (1 + phi[0])),
        check=lambda y: (y >= 0) & (y == np.rint(y)),
    )
    fit = pylmernn.glmernn("y ~ x + (1 | g)", data, family=family)
    assert fit.fixef()["x"] == pytest.approx(0.4, abs=0.1)
    assert fit.dispersion() == pytest.approx(0.3 / 0.7, rel=0.3)
    assert "zip" in str(fit.summary())
    assert fit.residuals("pearson").var() == pytest.approx(1.0, abs=0.25)
    assert np.isfinite(fit.residuals()).all()
    assert fit.simulate(2, seed=1).shape == (n, 2)
    again = pylmernn.glmernn("y ~ 1 + (1 | g)", data, family=family)
    assert fit.logLik() > again.logLik()


def test_messages():
    with pytest.raises(FamilyError, match="link 'logg'"):
        UserFamily("f", poisson, "logg")
    with pytest.raises(FamilyError, match="'a' of the family 'f' starts at -1"):
        UserFamily("f", poisson, parameters={"a": -1})
    y = np.array([1.0, -2.0])
    with pytest.raises(FamilyError, match="is -2 in row 2, outside the family 'f'"):
        UserFamily("f", poisson, "log", check=lambda y: y >= 0).check(y, np.ones(2), "y")
    with pytest.raises(FamilyError, match="must return a tensor with a number a row"):
        UserFamily("f", lambda y, eta, phi: (y * eta).sum()).check(y, np.ones(2), "y")
    with pytest.raises(FamilyError, match="draws no responses"):
        POISSON.draw(np.random.default_rng(0), y, y, 1.0)
    data, family = {"y": [-1.0, 1.0, 2.0, 3.0], "g": list("aabb")}, UserFamily("f", poisson, check=lambda y: y >= 0)
    with pytest.raises(DesignError, match="is -1 in row 1, outside the family"):
        pylmernn.glmernn("y ~ 1 + (1 | g)", data, family=family)
