"""Log-likelihoods and gradients for samplers beside the families and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampled_models import tiny_model

from pylmernn.engines.likelihood import EffectsDensity, Likelihood
from pylmernn.families import read_family


def responses(family, rng, n):
    if family.startswith("binomial"):
        weights = rng.integers(1, 6, n).astype(float)
        return rng.binomial(weights.astype(int), 0.4) / weights, weights
    if family in ("multinomial", "ordinal"):
        return np.append(rng.integers(0, 3, n - 3), [0, 1, 2]).astype(float), rng.uniform(0.5, 2.0, n)
    if family.startswith("poisson"):
        return rng.poisson(2.0, n).astype(float), rng.uniform(0.5, 2.0, n)
    return rng.gamma(2.0, 1.0, n), rng.uniform(0.5, 2.0, n)


@pytest.mark.parametrize("family", ["binomial", "binomial(probit)", "poisson", "Gamma(log)", "multinomial", "ordinal"])
def test_gradient_is_that_of_the_values(family):
    rng, n, chains = np.random.default_rng(1), 7, 2
    y, weights = responses(family, rng, n)
    C = 3 if family == "multinomial" else 1
    phi = {"Gamma(log)": 0.7, "ordinal": np.array([-0.5, 1.0])}.get(family, 1.0)
    likelihood = Likelihood(family, torch.tensor(y), torch.tensor(weights), C, phi)
    eta = torch.tensor(rng.normal(size=(chains, n, C)))
    values, score = likelihood.value_and_score(eta)
    assert values.shape == (chains,)
    assert score.shape == eta.shape
    for i in range(n):
        for c in range(C):
            step = torch.zeros_like(eta)
            step[:, i, c] = 1e-5
            up, down = likelihood.value_and_score(eta + step)[0], likelihood.value_and_score(eta - step)[0]
            torch.testing.assert_close(score[:, i, c], (up - down) / 2e-5, rtol=1e-6, atol=1e-7)
    assert bool((likelihood.information(eta) > 0).all())


@pytest.mark.parametrize("family", ["binomial(logit)", "poisson(log)", "ordinal"])
def test_values_are_those_of_the_family(family):
    rng = np.random.default_rng(2)
    y, weights = responses(family, rng, 9)
    eta = rng.normal(size=(2, 9))
    likelihood = Likelihood(family, torch.tensor(y), torch.tensor(weights))
    phi = 1.0
    if family == "ordinal":
        likelihood.phi = np.array([-2.0, 0.0])
        likelihood.value_and_score(torch.zeros(2, 9, 1, dtype=torch.float64))
        likelihood.phi = phi = np.array([-0.5, 1.0])  # set anew between draws
        eta[0, :3] = 40.0, -40.0, 0.0
    values, score = likelihood.value_and_score(torch.tensor(eta[:, :, None]))
    information = likelihood.information(torch.tensor(eta[:, :, None]))
    for s in range(2):
        step = read_family(family).step(y, weights, eta[s], phi)
        np.testing.assert_allclose(values[s], step.loglik.sum(), rtol=1e-12)
        np.testing.assert_allclose(score[s, :, 0], step.score, rtol=1e-10)
        np.testing.assert_allclose(information[s, :, 0], step.observed, rtol=1e-10)


def test_multinomial_values_in_closed_form():
    eta = np.array([[0.3, -1.0, 2.0], [1e4, 0.0, -1e4]])
    likelihood = Likelihood("multinomial", torch.tensor([1, 0]), torch.tensor([2.0, 1.0]), 3)
    values, score = likelihood.value_and_score(torch.tensor(eta[None]))
    p = np.exp(eta[0]) / np.exp(eta[0]).sum()
    np.testing.assert_allclose(values[0], 2 * np.log(p[1]), rtol=1e-12)
    np.testing.assert_allclose(score[0, 0], 2 * (np.array([0, 1, 0]) - p), rtol=1e-12)
    np.testing.assert_array_equal(score[0, 1], np.zeros(3))


@pytest.mark.parametrize("name", ["slopes", "poisson", "three classes"])
def test_density_of_effects(name):
    model = tiny_model(name)
    effects = model.effects()
    likelihood = Likelihood(model.family, torch.as_tensor(model.y), torch.as_tensor(model.weights), model.n_classes)
    density = EffectsDensity(effects, model.prior(effects), likelihood, torch.as_tensor(model.offset))
    x = torch.randn(2, effects.size * model.n_classes, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, gradient = density(x)
    curvature = torch.zeros_like(x)
    for j in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, j] = 1e-5
        (up, ahead), (down, behind) = density(x + step), density(x - step)
        torch.testing.assert_close(gradient[:, j], (up - down) / 2e-5, rtol=1e-6, atol=1e-7)
        curvature[:, j] = (behind[:, j] - ahead[:, j]) / 2e-5
    # with canonical links the expected information is the curvature
    torch.testing.assert_close(density.inverse_mass(x[:1]), 1 / curvature[0], rtol=1e-5, atol=1e-8)
