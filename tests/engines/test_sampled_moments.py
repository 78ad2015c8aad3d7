"""Second moments and information of sampled effects beside dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import dense_Z
from sampled_models import random_term
from scipy.linalg import block_diag

from pylmernn.engines import gibbs
from pylmernn.engines.effects import Effects, Prior
from pylmernn.engines.gibbs import Conditional, NormalEffects
from pylmernn.engines.sampled_moments import information, second_moments

N = 60
CASES = ["one", "slopes", "crossed", "crossed slopes"]


@pytest.fixture(autouse=True)
def solve_exactly(monkeypatch):
    monkeypatch.setattr(gibbs, "TOLERANCE", 1e-13)


def model(case):
    """Terms, their prior covariances (d, d), fixed columns, and the dense Z."""
    rng = np.random.default_rng(3)
    one, x = np.ones(N), rng.normal(size=N)
    g, h, k = rng.permutation(np.arange(N) % 8), rng.integers(0, 5, N), rng.integers(0, 3, N)
    slopes, S = np.column_stack([one, x]), np.array([[1.0, 0.4], [0.4, 0.6]])
    terms, covariances = {
        "one": ([random_term(g)], [[[1.3]]]),
        "slopes": ([random_term(g, slopes)], [S]),
        "crossed": ([random_term(g), random_term(h), random_term(k)], [[[1.3]], [[0.7]], [[0.2]]]),
        "crossed slopes": ([random_term(g), random_term(h, slopes), random_term(k, x[:, None])], [[[1.3]], S, [[0.5]]]),
    }[case]
    return terms, [np.array(c) for c in covariances], np.column_stack([one, x]), dense_Z(terms)


def system_of(terms, covariances, omega):
    effects = Effects(terms)
    prior = Prior(effects, [torch.as_tensor(np.linalg.inv(c))[None] for c in covariances])
    return NormalEffects(effects, effects.to_cells(torch.as_tensor(omega)), prior)


def dense_precision(terms, covariances, Z, omega):
    P = block_diag(*[np.kron(np.eye(t.n_levels), np.linalg.inv(c)) for t, c in zip(terms, covariances, strict=True)])
    return Z.T @ (omega[:, None] * Z) + P


def level_sums(terms, matrix):
    """Of each term, the sum over levels of their diagonal blocks (d, d)."""
    out, start = [], 0
    for t in terms:
        d, blocks = t.width, np.zeros((t.width, t.width))
        for _ in range(t.n_levels):
            blocks += matrix[start : start + d, start : start + d]
            start += d
        out.append(blocks)
    return out


@pytest.mark.parametrize("case", CASES)
def test_second_moments_have_the_mean_of_dense_algebra_and_little_noise(case):
    """Over 4,000 draws within 4.5 standard errors, of a variance no larger than that of the plain ``b b'``."""
    terms, covariances, _, Z = model(case)
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(6)
    omega = rng.uniform(0.05, 0.4, N)
    mean = rng.normal(size=Z.shape[1])
    exact = level_sums(terms, np.outer(mean, mean) + np.linalg.inv(dense_precision(terms, covariances, Z, omega)))
    chains = 40
    system = system_of(terms, covariances, np.tile(omega, (chains, 1)))
    m = torch.as_tensor(np.tile(mean, (chains, 1)))
    ours, plain = [[] for _ in terms], [[] for _ in terms]
    for _ in range(100):
        noise = system.noise(generator)
        deviation, _ = system.solve(noise, system.by_blocks(noise))
        for k, moment in enumerate(second_moments(Conditional(0, system, None, m, deviation, noise, None))):
            ours[k].append(moment.numpy())
        b = (m + deviation).numpy()
        for k, moment in enumerate(level_sums(terms, b.T @ b / chains)):
            plain[k].append(moment)
    for values, rough, truth in zip(ours, plain, exact, strict=True):
        spread = np.std(values, axis=0)
        assert (np.abs(np.mean(values, axis=0) - truth) <= 4.5 * spread / 10 + 1e-9).all()
        assert (spread <= np.std(rough, axis=0)).all()
    if len(terms) == 1:  # M is block-diagonal: nothing is left to chance
        assert np.std(ours[0], axis=0).max() < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_information_is_that_of_the_marginal_model(case):
    """``1/2 a_k' V^-1 a_l`` and ``X' V^-1 X`` through the dense V, averaged over chains of different omega and mean."""
    terms, covariances, X, Z = model(case)
    rng = np.random.default_rng(7)
    omega, mean = rng.uniform(0.05, 0.4, (3, N)), rng.normal(size=(3, Z.shape[1]))
    columns = [(k, 0) for k, t in enumerate(terms) if t.width == 1]
    variances = [float(covariances[k][0, 0]) for k, _ in columns]
    system = system_of(terms, covariances, omega)
    found = information(system, torch.as_tensor(omega), torch.as_tensor(mean), torch.as_tensor(X), columns, variances)
    D = block_diag(*[np.kron(np.eye(t.n_levels), c) for t, c in zip(terms, covariances, strict=True)])
    starts = np.cumsum([0, *(t.n_levels * t.width for t in terms)])
    AI, fixed = [], []
    for w, m in zip(omega, mean, strict=True):
        V = np.diag(1 / w) + Z @ D @ Z.T
        a = [Z[:, starts[k] : starts[k + 1]] @ m[starts[k] : starts[k + 1]] for k, _ in columns]
        AI.append([[0.5 * one @ np.linalg.solve(V, other) for other in a] for one in a])
        fixed.append(X.T @ np.linalg.solve(V, X))
    # in log(sigma_k^2): the variance cancels with that of a_k = Z_k m_k / sigma_k^2
    np.testing.assert_allclose(found.variances, np.mean(AI, axis=0).reshape(len(columns), len(columns)), rtol=1e-8)
    np.testing.assert_allclose(found.fixed, np.mean(fixed, axis=0), rtol=1e-8)


def test_columns_of_a_diagonal_term_have_information_of_their_own():
    terms, _, X, Z = model("slopes")
    rng = np.random.default_rng(8)
    omega, mean, variances = rng.uniform(0.1, 0.4, N), rng.normal(size=Z.shape[1]), [1.5, 0.4]
    system = system_of(terms, [np.diag(variances)], omega[None])
    X = torch.as_tensor(X[:, :0])
    found = information(
        system, torch.as_tensor(omega)[None], torch.as_tensor(mean)[None], X, [(0, 0), (0, 1)], variances
    )
    V = np.diag(1 / omega) + Z @ np.diag(np.tile(variances, terms[0].n_levels)) @ Z.T
    a = np.column_stack([Z[:, s::2] @ mean[s::2] for s in range(2)])
    np.testing.assert_allclose(found.variances, 0.5 * a.T @ np.linalg.solve(V, a), rtol=1e-8)
    assert found.fixed.shape == (0, 0)
