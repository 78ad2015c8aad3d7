"""Densities in torch beside those in NumPy, near zero and far away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_examples import EVERY, example

from pylmernn.families import read_family


def gradients(family, y, weights, eta, phi):
    """Values, first and second derivatives in eta of the torch densities, as arrays."""
    at = torch.tensor(eta, requires_grad=True)
    value = family.density(torch.tensor(y), torch.tensor(weights), at, phi)
    (first,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at)
    return value.detach().numpy(), first.detach().numpy(), second.numpy()


@pytest.mark.parametrize("text", EVERY)
def test_density_is_that_of_the_steps(text):
    family, y, weights, eta, phi = example(text)
    value, first, second = gradients(family, y, weights, eta, phi)
    step = family.step(y, weights, eta, phi)
    np.testing.assert_allclose(value, step.loglik, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(first, step.score, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(second, -step.observed, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("text", EVERY)
def test_density_of_nodes_and_with_a_tensor_for_phi(text):
    family, y, weights, eta, phi = example(text)
    columns = torch.tensor(eta)[:, None] + torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    tensor = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
    value = family.density(torch.tensor(y)[:, None], torch.tensor(weights)[:, None], columns, tensor)
    for k, shift in enumerate((0.0, 0.1, 0.4)):
        expected = family.step(y, weights, eta + shift, phi).loglik
        np.testing.assert_allclose(value[:, k].detach(), expected, rtol=1e-10, atol=1e-10)
    if family.has_dispersion:
        (slope,) = torch.autograd.grad(value[:, 0].sum(), tensor)
        expected = family.by_dispersion(y, weights, eta, phi).loglik.sum()
        assert float(slope) == pytest.approx(expected, rel=1e-8)


FAR = [text for text in EVERY if text.split("(")[1] in ("logit)", "log)", "probit)", "cloglog)", "cauchit)")]


@pytest.mark.parametrize("text", FAR)
def test_far_predictors_give_no_nan(text):
    family, y, weights, _, phi = example(text)
    y = np.where(np.arange(len(y)) % 2 == 0, np.round(y), y) if family.name == "binomial" else y
    for eta in (-1e3, -80.0, -20.0, 20.0, 80.0, 1e3):
        value, first, _ = gradients(family, y, weights, np.full(len(y), eta), phi)
        assert not np.isnan(value).any()
        assert not np.isnan(first).any()


@pytest.mark.parametrize("text", ["binomial", "binomial(probit)", "binomial(cloglog)", "binomial(cauchit)"])
def test_far_probabilities_call_back(text):
    family = read_family(text)
    y, weights = np.array([1.0, 0.0]), np.ones(2)
    value, first, _ = gradients(family, y, weights, np.array([-500.0, 500.0]), 1.0)
    assert np.isfinite(value).all()
    assert first[0] > 0 > first[1]


def test_negative_binomial_steps_are_finite_far_away():
    family, y, weights, _, phi = example("negative.binomial")
    for eta in (-1e3, 1e3):
        step = family.step(y, weights, np.full(len(y), eta), phi)
        assert np.isfinite(step.loglik).all()
        assert np.isfinite(step.score).all()
