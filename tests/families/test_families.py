"""Families: densities beside scipy's, derivatives beside differences, and what lies outside a family."""

from __future__ import annotations

import numpy as np
import pytest
from family_examples import EVERY, NAMES, example
from scipy import stats

from pylmernn.families import FamilyError, read_family
from pylmernn.families.links import LINKS


def difference(function, x, width=1e-5):
    return (function(x + width) - function(x - width)) / (2 * width)


@pytest.mark.parametrize("text", EVERY)
def test_derivatives_in_eta(text):
    family, y, w, eta, phi = example(text)
    step = family.step(y, w, eta, phi)
    weight, slope = family.curvature(y, w, eta, phi)
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(step.score, difference(lambda e: family.step(y, w, e, phi).loglik, eta), **close)
    np.testing.assert_allclose(step.observed, -difference(lambda e: family.step(y, w, e, phi).score, eta), **close)
    np.testing.assert_allclose(slope, difference(lambda e: family.curvature(y, w, e, phi)[0], eta), **close)
    if family.exact:
        np.testing.assert_allclose(weight, step.observed, rtol=1e-12)


@pytest.mark.parametrize("text", [text for text in EVERY if read_family(text).has_dispersion])
def test_derivatives_in_the_dispersion(text):
    family, y, w, eta, phi = example(text)
    by = family.by_dispersion(y, w, eta, phi)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(by.loglik, difference(lambda p: family.step(y, w, eta, p).loglik, phi), **close)
    np.testing.assert_allclose(by.score, difference(lambda p: family.step(y, w, eta, p).score, phi), **close)
    np.testing.assert_allclose(by.weight, difference(lambda p: family.curvature(y, w, eta, p)[0], phi), **close)


def test_log_densities_are_scipys():
    theirs = {
        "binomial": lambda y, w, mu, phi: stats.binom.logpmf(np.rint(w * y), w, mu),
        "poisson": lambda y, w, mu, phi: w * stats.poisson.logpmf(y, mu),
        "negative.binomial": lambda y, w, mu, phi: w * stats.nbinom.logpmf(y, phi, phi / (phi + mu)),
        "Gamma": lambda y, w, mu, phi: stats.gamma.logpdf(y, w / phi, scale=mu * phi / w),
        "beta": lambda y, w, mu, phi: w * stats.beta.logpdf(y, mu * phi, (1 - mu) * phi),
        "inverse.gaussian": lambda y, w, mu, phi: stats.invgauss.logpdf(y, mu * phi / w, scale=w / phi),
    }
    for name, density in theirs.items():
        family, y, w, eta, phi = example(name)
        ours = family.step(y, w, eta, phi).loglik.sum() + family.constant(y, w)
        assert ours == pytest.approx(density(y, w, family.link.inverse(eta), phi).sum(), rel=1e-10), name


@pytest.mark.parametrize("text", EVERY)
def test_unit_deviance_is_twice_what_the_density_lacks(text):
    family, y, _, eta, _ = example(text)
    y = np.clip(y, 0.01, 0.99 if family.name in ("binomial", "beta") else None)
    mu, one = family.link.inverse(eta), np.ones_like(y)
    phi = 0.7 if family.name in ("negative.binomial", "beta") else 1.0
    best = family.step(y, one, family.link.forward(y), phi).loglik
    expected = 2 * (best - family.step(y, one, eta, phi).loglik)
    np.testing.assert_allclose(family.unit_deviance(y, mu, phi), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LINKS)
def test_links_are_undone(name):
    mu = np.array([0.1, 0.4, 0.8])
    np.testing.assert_allclose(LINKS[name].inverse(LINKS[name].forward(mu)), mu, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_mean_and_variance(name):
    family, rng, n = read_family(name), np.random.default_rng(8), 40_000
    mu, weights = np.full(n, 0.4), np.full(n, 3.0)
    y = family.draw(rng, mu, weights, 0.5)
    scale = 0.5 if name in ("Gamma", "inverse.gaussian") else 1.0
    variance = scale * family.variance(mu, 0.5)[0] / (1.0 if name in ("poisson", "negative.binomial", "beta") else 3.0)
    assert y.mean() == pytest.approx(0.4, rel=0.03)
    assert y.var() == pytest.approx(variance, rel=0.06)


@pytest.mark.parametrize(
    "name, y, weights, message",
    [
        ("binomial", [0.0, 2.0], [1.0, 1.0], "is 2 in row 2"),
        ("binomial", [0.5, 1.0], [3.0, 1.0], "no whole number of successes"),
        ("binomial", [0.5, 1.0], [2.5, 1.0], "no whole number of successes"),
        ("poisson", [1.0, 1.5], [1.0, 1.0], "is 1.5 in row 2"),
        ("negative.binomial", [-1.0, 1.0], [1.0, 1.0], "is -1 in row 1"),
        ("beta", [0.5, 1.0], [1.0, 1.0], "lie between 0 and 1"),
        ("Gamma", [1.0, 0.0], [1.0, 1.0], "Gamma responses are positive"),
        ("inverse.gaussian", [1.0, -2.0], [1.0, 1.0], "inverse Gaussian responses are positive"),
    ],
)
def test_responses_outside_the_family(name, y, weights, message):
    with pytest.raises(FamilyError, match=message):
        read_family(name).check(np.array(y), np.array(weights), "y")


def test_names_and_links():
    assert str(read_family('binomial(link = "cloglog")')) == "binomial(cloglog)"
    assert str(read_family("inverse.gaussian(1/mu^2)")) == "inverse.gaussian(1/mu^2)"
    assert read_family("nbinom2") == read_family("negative.binomial")
    with pytest.raises(FamilyError, match="no link 'probit'"):
        read_family("poisson(probit)")
    with pytest.raises(FamilyError, match="use lmernn"):
        read_family("gaussian")
    with pytest.raises(FamilyError, match="not known"):
        read_family("weibull")
