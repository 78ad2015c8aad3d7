"""Unordered classes: probabilities, the density in torch, checks of codes, and names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pylmernn.families import FamilyError, read_family
from pylmernn.families.multinomial import check_codes

FAMILY = read_family("multinomial")


def test_density_is_the_log_of_the_probability():
    rng = np.random.default_rng(0)
    eta, y, weights = rng.normal(0, 3, (20, 4)), rng.integers(0, 4, 20), rng.integers(1, 4, 20).astype(float)
    P = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(FAMILY.probabilities(eta), P, rtol=1e-12)
    value = FAMILY.density(torch.tensor(y), torch.tensor(weights), torch.tensor(eta), 1.0)
    np.testing.assert_allclose(value, weights * np.log(P[np.arange(20), y]), rtol=1e-10)
    np.testing.assert_allclose(FAMILY.unit_deviance(y.astype(float), P, 1.0), -2 * np.log(P[np.arange(20), y]))
    nodes = torch.tensor(np.stack([eta, eta + rng.normal(size=(20, 4))], axis=1))
    both = FAMILY.density(torch.tensor(y)[:, None], torch.ones(20, 1, dtype=torch.float64), nodes, 1.0)
    assert both.shape == (20, 2)
    np.testing.assert_allclose(both[:, 0] * torch.tensor(weights), value, rtol=1e-12)


def test_far_predictors_are_finite():
    eta = torch.tensor([[1e3, -1e3, 0.0]], dtype=torch.float64, requires_grad=True)
    value = FAMILY.density(torch.tensor([1.0]), torch.ones(1), eta, 1.0)
    value.sum().backward()
    assert float(value.detach()) == -2000.0
    np.testing.assert_allclose(eta.grad, [[-1.0, 1.0, 0.0]], atol=1e-300)


def test_draws_follow_the_probabilities():
    P = np.tile([0.2, 0.5, 0.3], (40_000, 1))
    y = FAMILY.draw(np.random.default_rng(0), P, np.ones(len(P)), 1.0)
    np.testing.assert_allclose(np.bincount(y.astype(int)) / len(P), P[0], atol=0.01)


def test_one_predictor_is_refused():
    y = np.array([0.0, 1.0, 2.0])
    with pytest.raises(FamilyError, match="method='mcem'"):
        FAMILY.step(y, np.ones(3), y, 1.0)
    with pytest.raises(FamilyError, match="method='mcem'"):
        FAMILY.link.inverse(y)
    with pytest.raises(FamilyError, match="has no classes"):
        read_family("poisson").probabilities(y, 1.0)


@pytest.mark.parametrize(
    "codes, n_classes, message",
    [
        ([0, 1.5], None, r"is 1\.5 in row 2"),
        ([0, -1], None, "is -1 in row 2"),
        ([1, 1], None, "one class only"),
        ([0, 1, 3], None, "no row of class 3"),
        ([0, 1], 3, "no row of class 3"),
        ([0, 1, 2], 2, "has the class code 2, but 2 classes"),
    ],
)
def test_codes(codes, n_classes, message):
    with pytest.raises(FamilyError, match=message):
        check_codes(np.array(codes, dtype=float), n_classes, "y")


def test_names():
    assert str(FAMILY) == "multinomial(softmax)"
    assert str(read_family("cumulative")) == str(read_family("cumulative(logit)")) == "ordinal(logit)"
    with pytest.raises(FamilyError, match="no link 'probit'"):
        read_family("ordinal(probit)")
    with pytest.raises(FamilyError, match="no link 'logit': use softmax"):
        read_family("multinomial(logit)")
