"""Gibbs sampling beside integrals by brute force, dense algebra, and the no-U-turn sampler."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sampled_models import moment_errors, random_term, tiny_model

from pylmernn.engines.effects import Effects, Prior
from pylmernn.engines.gibbs import NormalEffects, PolyaGammaGibbs, draw_shift, invert_blocks
from pylmernn.engines.likelihood import EffectsDensity, Likelihood
from pylmernn.engines.nuts import Nuts


def staircase(rng, sizes, n, aligned, slopes=False):
    """Terms of many levels; the same rows in order for every factor, or crossed."""
    terms = []
    for q in sizes:
        codes = np.repeat(np.arange(q), rng.multinomial(n - q, np.full(q, 1 / q)) + 1)
        columns = np.column_stack([np.ones(n), rng.normal(size=n)]) if slopes else None
        terms.append(random_term(codes if aligned else rng.permutation(codes), columns))
    return terms


def gibbs_draws(model, chains, warmup, draws, seed=1):
    """Effects (chains, draws, D)."""
    effects, generator = model.effects(), torch.Generator().manual_seed(seed)
    prior, offset = model.prior(effects), torch.as_tensor(model.offset)
    sampler = PolyaGammaGibbs(
        effects, torch.as_tensor(model.y), torch.as_tensor(model.weights), model.n_classes, generator
    )
    b, kept = prior.draw(chains, generator), []
    for t in range(warmup + draws):
        b = sampler.sweep(b, offset, prior)
        if t >= warmup:
            kept.append(b.reshape(chains, -1))
    return torch.stack(kept, dim=1).numpy()


@pytest.mark.parametrize("name", ["one level", "crossed", "slopes", "counts of trials", "three classes"])
def test_posterior_moments(name):
    """Means and second moments within 4.5 Monte Carlo standard errors, which are below 0.02 posterior deviations."""
    model = tiny_model(name)
    sample = gibbs_draws(model, 1000, 20, 25)
    errors = moment_errors(sample, model)
    assert np.abs(errors).max() < 4.5, errors
    of_chains = sample.mean(axis=1)
    assert (of_chains.std(axis=0) / np.sqrt(len(sample)) / sample.std(axis=(0, 1))).max() < 0.02


def test_counts_of_trials_above_the_largest_sum():
    """60 trials a row: the normal approximation of Pólya-Gamma draws does not move the posterior."""
    model = tiny_model("one level")
    trials = np.full(12, 60.0)
    model = dataclasses.replace(model, weights=trials, y=np.random.default_rng(2).binomial(60, 0.4, 12) / 60)
    errors = moment_errors(gibbs_draws(model, 1000, 20, 20), model)
    assert np.abs(errors).max() < 4.5, errors


def test_contrasts_of_classes_agree_with_nuts():
    """Crossed factors and four classes: means and variances of contrasts, 4.5 standard errors from each other."""
    rng = np.random.default_rng(3)
    terms = staircase(rng, (6, 3), 90, aligned=False)
    effects, C, chains = Effects(terms), 4, 40
    generator = torch.Generator().manual_seed(4)
    prior = Prior(effects, [torch.tensor([1.0, 0.5, 2.0, 4.0]).reshape(C, 1, 1), torch.full((C, 1, 1), 1.0)])
    offset = torch.tensor(0.5 * rng.normal(size=(90, C)))
    y = torch.distributions.Categorical(logits=effects.eta(prior.draw(1, generator))[0] + offset).sample()
    gibbs = PolyaGammaGibbs(effects, y, None, C, generator)
    density = EffectsDensity(effects, prior, Likelihood("multinomial", y, torch.ones(90), C), offset)
    nuts = Nuts(density, 0.35, None, generator=generator)
    b = prior.draw(chains, generator)
    x, one, two = b.reshape(chains, -1), [], []
    for t in range(40):
        b, x = gibbs.sweep(b, offset, prior), nuts.transition(x).x
        if t >= 15:
            one.append(b - b.mean(dim=2, keepdim=True))
            other = density.unflatten(x)
            two.append(other - other.mean(dim=2, keepdim=True))
    means, errors = [], []
    for kept in (torch.stack(one), torch.stack(two)):
        moments = torch.cat([kept.mean(dim=0), (kept**2).mean(dim=0)], dim=1)
        means.append(moments.mean(dim=0))
        errors.append(moments.std(dim=0) / chains**0.5)
    z = (means[0] - means[1]) / (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert float(z.abs().max()) < 4.5


def test_some_classes_only():
    model = tiny_model("three classes")
    effects = model.effects()
    prior = model.prior(effects)
    sampler = PolyaGammaGibbs(effects, torch.as_tensor(model.y), None, 3, torch.Generator().manual_seed(5))
    b = torch.ones(2, 1, 3, dtype=torch.float64)
    new = sampler.sweep(b, torch.as_tensor(model.offset), prior, classes=[1])
    assert torch.equal(new[:, :, [0, 2]], b[:, :, [0, 2]])
    assert bool((new[:, :, 1] != b[:, :, 1]).all())
    assert bool((b == 1).all())  # what was given is left as it is


@pytest.mark.parametrize("aligned, slopes", [(True, False), (False, False), (False, True)])
def test_system_beside_dense_algebra(aligned, slopes):
    rng = np.random.default_rng(6)
    effects = Effects(staircase(rng, (12, 4, 9), 200, aligned, slopes))
    generator = torch.Generator().manual_seed(6)
    precisions = [torch.eye(d, dtype=torch.float64)[None] * 0.7 + 0.3 for _, d in effects.shapes]
    prior = Prior(effects, precisions)
    omega = torch.rand(2, 200, generator=generator, dtype=torch.float64)
    system = NormalEffects(effects, effects.to_cells(omega), prior)
    unit = torch.eye(effects.size, dtype=torch.float64)
    Z = effects.eta(unit[:, :, None])[:, :, 0].T
    P = prior.apply(unit[:, :, None])[:, :, 0]
    dense = torch.stack([Z.T @ (w[:, None] * Z) + P for w in omega])
    b = torch.randn(2, effects.size, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(system.apply(b), (dense @ b[:, :, None])[:, :, 0])
    right = torch.randn(2, effects.size, generator=generator, dtype=torch.float64)
    solved, iterations = system.solve(right, b)
    exact = torch.linalg.solve(dense, right)
    deviations = torch.linalg.inv(dense).diagonal(dim1=1, dim2=2).sqrt()
    assert float(((solved - exact).abs() / deviations).max()) < 2e-4  # of the posterior that is drawn from
    assert 0 < iterations < 40
    many = NormalEffects(effects, effects.to_cells(omega[:1].expand(20_000, -1)), prior).noise(generator)
    error = (torch.outer(dense[0].diagonal(), dense[0].diagonal()) * 2 / len(many)).sqrt()
    assert float(((many.T @ many / len(many) - dense[0]).abs() / error).max()) < 5


@pytest.mark.parametrize(
    "sizes, aligned, most", [((300,), False, 0), ((200, 10, 200), True, 60), ((200, 10, 200), False, 20)]
)
def test_iterations(sizes, aligned, most):
    rng = np.random.default_rng(8)
    effects = Effects(staircase(rng, sizes, 4000, aligned))
    prior = Prior(effects, [torch.ones(1, 1, 1)] * len(sizes))
    sampler = PolyaGammaGibbs(
        effects, torch.tensor(rng.integers(0, 2, 4000)), None, 1, torch.Generator().manual_seed(8)
    )
    sampler.sweep(torch.zeros(2, effects.size, 1, dtype=torch.float64), torch.zeros(4000, 1), prior)
    assert sampler.iterations <= most


@pytest.mark.parametrize("d", [1, 2, 3])
def test_invert_blocks(d):
    root = torch.randn(5, d, d, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    blocks = root @ root.transpose(1, 2) + torch.eye(d)
    torch.testing.assert_close(invert_blocks(blocks) @ blocks, torch.eye(d, dtype=torch.float64).expand(5, d, d))


@pytest.mark.parametrize("d", [1, 2])
def test_shift_keeps_contrasts_and_has_its_conditional_moments(d):
    generator = torch.Generator().manual_seed(10)
    effects = Effects([random_term([0, 1], np.ones((2, d)))])
    root = torch.randn(3, d, d, generator=generator, dtype=torch.float64)
    precision = root @ root.transpose(1, 2) + torch.eye(d)
    prior = Prior(effects, [precision])
    b = torch.randn(1, 2 * d, 3, generator=generator, dtype=torch.float64).expand(20_000, -1, -1)
    new = draw_shift(b, prior, generator)
    shift = new - b
    torch.testing.assert_close(shift[:, :, 0], shift[:, :, 2])
    covariance = torch.linalg.inv(precision.sum(dim=0))
    level = b[0, d:]  # of the second level, (d, C)
    mean = -covariance @ sum(precision[c] @ level[:, c] for c in range(3))
    s = shift[:, d:, 0]
    assert float(((s.mean(dim=0) - mean).abs() / (covariance.diagonal() / len(s)).sqrt()).max()) < 4.5
    error = (torch.outer(covariance.diagonal(), covariance.diagonal()) * 2 / len(s)).sqrt()
    assert float(((torch.cov(s.T).reshape(d, d) - covariance).abs() / error).max()) < 4.5


def test_large_linear_predictors_stay_finite():
    effects = Effects([random_term([0, 1, 2])])
    prior = Prior(effects, [torch.full((3, 1, 1), 1e-6)])
    sampler = PolyaGammaGibbs(effects, torch.tensor([0, 1, 2]), None, 3, torch.Generator().manual_seed(11))
    b = torch.tensor([[[2000.0, 0, -2000]] * 3], dtype=torch.float64)
    for _ in range(5):
        b = sampler.sweep(b, torch.zeros(3, 3), prior)
        assert bool(torch.isfinite(b).all())


def test_seed_and_messages():
    model = tiny_model("crossed")
    one, two = gibbs_draws(model, 3, 1, 4, seed=3), gibbs_draws(model, 3, 1, 4, seed=3)
    np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="whole weights"):
        PolyaGammaGibbs(model.effects(), torch.as_tensor(model.y), torch.full((12,), 0.5), 1)
