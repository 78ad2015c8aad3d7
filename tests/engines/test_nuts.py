"""The no-U-turn sampler beside normal distributions and posteriors integrated by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampled_models import moment_errors, tiny_model

from pylmernn.engines.likelihood import EffectsDensity, Likelihood
from pylmernn.engines.nuts import Nuts

COVARIANCE = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 4.0]], dtype=torch.float64)


def normal(covariance):
    precision = torch.linalg.inv(covariance)

    def log_density(x):
        gradient = -(x @ precision)
        return 0.5 * (x * gradient).sum(dim=1), gradient

    return log_density


def draw(sampler, x, warmup, draws, adapt=False):
    """Draws (chains, draws, D) and their transitions."""
    kept, transitions = [], []
    for t in range(warmup + draws):
        transition = sampler.transition(x)
        x = transition.x
        if adapt and t < warmup:
            sampler.adapt(transition.accept)
        if adapt and t == warmup - 1:
            sampler.settle()
        if t >= warmup:
            kept.append(x)
            transitions.append(transition)
    return torch.stack(kept, dim=1), transitions


@pytest.mark.parametrize("step, mass", [(0.15, None), (0.35, None), (0.3, COVARIANCE.diagonal())])
def test_moments_of_a_correlated_normal(step, mass):
    """Chains start in the target, so that any error of the transition shows; 4.5 standard errors, about 0.03 each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    kept, _ = draw(Nuts(normal(COVARIANCE), step, mass, generator=generator), x, 0, 20)
    of_chains = torch.cat([kept.mean(dim=1), torch.einsum("sti,stj->sij", kept, kept).flatten(1) / 20], dim=1)
    truth = torch.cat([torch.zeros(3), COVARIANCE.flatten()])
    errors = of_chains.std(dim=0) / math.sqrt(400)
    assert float(((of_chains.mean(dim=0) - truth) / errors).abs().max()) < 4.5
    assert float(errors.max()) < 0.15


@pytest.mark.parametrize("name", ["one level", "crossed", "slopes", "counts of trials", "poisson", "three classes"])
def test_posterior_moments(name):
    """Means and second moments within 4.5 Monte Carlo standard errors, below 0.03 posterior deviations each."""
    model = tiny_model(name)
    effects, generator = model.effects(), torch.Generator().manual_seed(2)
    prior = model.prior(effects)
    likelihood = Likelihood(model.family, torch.as_tensor(model.y), torch.as_tensor(model.weights), model.n_classes)
    density = EffectsDensity(effects, prior, likelihood, torch.as_tensor(model.offset))
    x = 0.2 * prior.draw(200, generator).reshape(200, -1)  # counts have tails too steep for these steps
    sampler = Nuts(density, 0.5, density.inverse_mass(torch.zeros_like(x)), generator=generator)
    kept, transitions = draw(sampler, x, 12, 25)
    sample = kept.numpy()
    errors = moment_errors(sample, model)
    assert np.abs(errors).max() < 4.5, errors
    assert (sample.mean(axis=1).std(axis=0) / math.sqrt(200) / sample.std(axis=(0, 1))).max() < 0.03
    assert not any(bool(t.divergent.any()) for t in transitions)


@pytest.mark.parametrize("start", [1e-3, 5.0])
def test_adaptation_reaches_the_target(start):
    generator = torch.Generator().manual_seed(3)
    covariance = torch.diag(torch.linspace(0.2, 3.0, 20, dtype=torch.float64))
    sampler = Nuts(normal(covariance), start, None, max_depth=6, generator=generator)
    x = torch.randn(4, 20, generator=generator, dtype=torch.float64) @ covariance.sqrt()
    _, transitions = draw(sampler, x, 80, 40, adapt=True)
    accept = torch.stack([t.accept for t in transitions]).mean()
    assert abs(float(accept) - 0.8) < 0.07
    assert 0.2 < sampler.step_size < 1.0


def test_mass_makes_scales_equal():
    """With the right masses the trajectories are as short as those of a standard normal."""
    covariance = torch.diag(torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64) @ covariance.sqrt()
    _, scaled = draw(Nuts(normal(covariance), 0.5, covariance.diagonal(), generator=generator), x, 0, 5)
    assert max(int(t.depth.max()) for t in scaled) <= 4
    _, plain = draw(Nuts(normal(covariance), 0.015, None, max_depth=7, generator=generator), x, 0, 2)
    gradients = [torch.stack([t.n_gradients for t in runs]).double().mean() for runs in (scaled, plain)]
    assert gradients[1] > 5 * gradients[0]


def test_gradients_are_counted():
    """One at the start and one a step: a full trajectory of depth d has ``2^d - 1`` steps."""
    calls = []

    def counted(x):
        calls.append(len(x))
        return normal(torch.eye(2, dtype=torch.float64))(x)

    transition = Nuts(counted, 1e-3, max_depth=4, generator=torch.Generator().manual_seed(5)).transition(
        torch.ones(3, 2, dtype=torch.float64)
    )
    assert transition.n_gradients.tolist() == [16, 16, 16]
    assert transition.depth.tolist() == [4, 4, 4]
    assert len(calls) == 16


def test_chains_do_not_depend_on_each_other():
    """A chain far in the tail needs many steps; the trajectories of the others end as they would."""
    generator = torch.Generator().manual_seed(6)
    x = torch.tensor([[0.1, 0.2], [300.0, 300.0]], dtype=torch.float64)
    transition = Nuts(normal(torch.eye(2, dtype=torch.float64)), 0.1, generator=generator).transition(x)
    assert int(transition.n_gradients[0]) < 130
    assert float(transition.x[0].abs().max()) < 10
    assert float(transition.x[1].norm()) <= x[1].norm() + 10


def test_divergence():
    """Steps far beyond the stable size end at once, and the chain stays where it was."""
    x = torch.ones(2, 3, dtype=torch.float64)
    tight = normal(1e-8 * torch.eye(3, dtype=torch.float64))
    transition = Nuts(tight, 1.0, generator=torch.Generator().manual_seed(7)).transition(x)
    assert transition.divergent.tolist() == [True, True]
    assert torch.equal(transition.x, x)
    assert float(transition.accept.max()) < 1e-6
    assert transition.n_gradients.tolist() == [2, 2]
    nowhere = Nuts(lambda x: (x.sum(dim=1) * math.nan, x * math.nan), 0.1, generator=torch.Generator())
    assert torch.equal(nowhere.transition(x).x, x)


def test_seed_and_messages():
    x = torch.zeros(2, 3, dtype=torch.float64)
    one, two = (
        Nuts(normal(COVARIANCE), 0.3, generator=torch.Generator().manual_seed(8)).transition(x).x for _ in range(2)
    )
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="must be positive"):
        Nuts(normal(COVARIANCE), 0.0)
