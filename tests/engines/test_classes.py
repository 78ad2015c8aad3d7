"""Many classes: density beside that of a few, moments by gradients, and the information of all classes together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import dense_Z
from sampled_models import random_term
from scipy.linalg import block_diag
from scipy.special import softmax

from pylmernn.engines import classdensity, gibbs
from pylmernn.engines.classdensity import ClassDensity, ClassRows
from pylmernn.engines.classinformation import class_information
from pylmernn.engines.effects import Effects, Prior
from pylmernn.engines.likelihood import EffectsDensity, Likelihood
from pylmernn.engines.sampled_moments import corrected_moments

N, C = 60, 4


def model(case):
    """Terms and their prior covariances (C, d, d); several rows share a cell of Z, or none do."""
    rng = np.random.default_rng(3)
    one, x = np.ones(N), rng.normal(size=N)
    g, h = np.sort(rng.integers(0, 6, N)), rng.integers(0, 3, N)
    intercepts = rng.uniform(0.3, 1.5, (C, 1, 1))
    slopes = np.array([[[1.0, 0.4], [0.4, 0.6]]]) * rng.uniform(0.5, 1.5, (C, 1, 1))
    return {
        "nested": ([random_term(g), random_term(g // 2)], [intercepts, 0.5 * intercepts]),
        "crossed": ([random_term(g), random_term(h)], [intercepts, 0.5 * intercepts]),
        "slopes": ([random_term(g, np.column_stack([one, x])), random_term(h, x[:, None])], [slopes, intercepts]),
    }[case]


def parts(case):
    terms, covariances = model(case)
    effects, rng = Effects(terms), np.random.default_rng(4)
    prior = Prior(effects, [torch.as_tensor(np.linalg.inv(S)) for S in covariances])
    y, weights = torch.as_tensor(rng.integers(0, C, N)), torch.as_tensor(rng.uniform(0.5, 2.0, N))
    return effects, prior, y, weights, torch.as_tensor(rng.normal(size=(N, C)))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("case", ["nested", "crossed", "slopes"])
def test_density_of_many_classes_is_that_of_few(case, single, monkeypatch):
    monkeypatch.setattr(classdensity, "SINGLE", 1 if single else 10**9)
    effects, prior, y, weights, offset = parts(case)
    many = ClassDensity(ClassRows(effects, y, weights, C), prior, offset)
    few = EffectsDensity(effects, prior, Likelihood("multinomial", y, weights, C), offset)
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(2, effects.size, C, generator=generator, dtype=torch.float64)
    x, close = b.reshape(2, -1), {"rtol": 1e-4, "atol": 1e-4} if single else {"rtol": 1e-10, "atol": 1e-10}
    for found, wanted in zip(many(x), few(x), strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, wanted, **close)
    X = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(many.fixed_score(b, X), few.fixed_score(b, X), **close)
    torch.testing.assert_close(many.omega(b), few.omega(b), **close)
    torch.testing.assert_close(many.inverse_mass(x), few.inverse_mass(x), **close)


def test_moments_by_gradients_have_the_mean_of_draws_and_little_noise():
    """Of a normal distribution, also one with strong correlations that is not centred where it is taken to be."""
    effects = Effects(model("slopes")[0])
    rng = np.random.default_rng(5)
    Q = effects.size
    for correlated in (False, True):
        root = np.eye(Q) + (0.2 * rng.normal(size=(Q, Q)) if correlated else 0.0)
        covariance, mean = root @ root.T, rng.normal(size=Q)
        deviation = rng.normal(size=(4000, Q)) @ root.T
        gradient = -np.linalg.solve(covariance, deviation.T).T
        b, g = (torch.as_tensor(v)[:, :, None] for v in (mean + deviation, gradient))
        V = torch.as_tensor(np.diagonal(covariance).copy())[:, None]
        centre = torch.as_tensor(mean + 0.3 * correlated)[:, None]
        for k, (q, d) in enumerate(effects.shapes):
            start = effects.offsets[k]
            exact = np.zeros((d, d))
            for s in range(start, start + q * d, d):
                exact += np.outer(mean[s : s + d], mean[s : s + d]) + covariance[s : s + d, s : s + d]
            each = np.stack(
                [
                    corrected_moments(effects, b[i : i + 8], centre, V * g[i : i + 8], V)[k][:, :, 0]
                    for i in range(0, 4000, 8)
                ]
            )
            plain = np.stack([v.T @ v for v in b[:, start : start + q * d, 0].numpy().reshape(500, 8 * q, d)]) / 8
            assert (np.abs(each.mean(axis=0) - exact) <= 4.5 * each.std(axis=0) / np.sqrt(500) + 1e-9).all()
            spread = np.trace(each, axis1=1, axis2=2).std()
            assert spread < (1.05 if correlated else 1e-9) * np.trace(plain, axis1=1, axis2=2).std()


@pytest.mark.parametrize("case", ["nested", "crossed", "slopes"])
def test_information_of_all_classes_is_that_of_dense_algebra(case, monkeypatch):
    monkeypatch.setattr(gibbs, "TOLERANCE", 1e-13)
    terms, covariances = model(case)
    effects, prior, _, weights, offset = parts(case)
    rng = np.random.default_rng(6)
    X, mean = rng.normal(size=(N, 2)), rng.normal(size=(effects.size, C))
    columns = [(k, 0) for k, t in enumerate(terms) if t.width == 1]
    variances = np.array([covariances[k][:, 0, 0] for k, _ in columns])
    p = softmax(offset.numpy(), axis=1)
    found = class_information(
        effects, prior, torch.as_tensor(p), weights, torch.as_tensor(X), torch.as_tensor(mean), columns,
        torch.as_tensor(variances),
    )  # fmt: skip
    W = block_diag(*[w * (np.diag(row) - np.outer(row, row)) for w, row in zip(weights.numpy(), p, strict=True)])
    Z = np.kron(dense_Z(terms), np.eye(C))  # rows and effects with their classes side by side
    P = np.zeros((effects.size, C, effects.size, C))
    for c in range(C):
        P[:, c, :, c] = block_diag(
            *[np.kron(np.eye(t.n_levels), np.linalg.inv(S[c])) for t, S in zip(terms, covariances, strict=True)]
        )
    P = P.reshape(effects.size * C, -1)
    inner = W - W @ Z @ np.linalg.solve(Z.T @ W @ Z + P, Z.T @ W)
    A = np.kron(X, np.eye(C))
    np.testing.assert_allclose(found.fixed, A.T @ inner @ A, atol=1e-8)
    directions = []
    for (k, s), own in zip(columns, variances, strict=True):
        for c in range(C):
            only = np.zeros((effects.size, C))
            at = slice(effects.offsets[k] + s, effects.offsets[k] + terms[k].n_levels * terms[k].width, terms[k].width)
            only[at, c] = mean[at, c] / own[c]
            directions.append(Z @ only.reshape(-1) * own[c])
    D = np.column_stack(directions)
    np.testing.assert_allclose(found.variances, 0.5 * D.T @ inner @ D, atol=1e-8)
    assert np.linalg.matrix_rank(found.fixed.numpy(), tol=1e-8) == 2 * (C - 1)
