"""Products with Z and the prior of effects, beside dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pylmernn.engines.effects import Effects, Prior
from pylmernn.formula.design import RandomTerm

N, SIZES = 60, (7, 3, 5)
LETTERS = np.array(list("abcdefg"))


def random_terms(rng, kind):
    """Three terms: slopes with repeated values, an intercept, and slopes with a value a row."""
    terms = []
    for k, q in enumerate(SIZES):
        codes = np.sort(np.concatenate([np.arange(q), rng.integers(0, q, N - q)]))
        codes = codes if kind == "aligned" else rng.permutation(codes)
        columns = [np.ones(N)]
        if kind == "slopes" and k != 1:
            columns.append(rng.normal(size=N) if k else rng.integers(0, 3, N).astype(float))
        names = ("(Intercept)", "x")[: len(columns)]
        terms.append(RandomTerm(f"g{k}", codes.astype(np.int32), LETTERS[:q], np.column_stack(columns), names))
    return terms


def dense(terms):
    """Z (n, Q)."""
    Z = [np.zeros((N, t.n_levels, t.width)) for t in terms]
    for block, t in zip(Z, terms, strict=True):
        block[np.arange(N), t.codes] = t.columns
    return np.column_stack([block.reshape(N, -1) for block in Z])


@pytest.mark.parametrize("kind", ["aligned", "crossed", "slopes"])
def test_products(kind):
    rng = np.random.default_rng(1)
    terms = random_terms(rng, kind)
    Z, effects = dense(terms), Effects(terms)
    assert effects.size == Z.shape[1]
    assert (effects.cells < N) == (kind == "aligned")
    b, v = rng.normal(size=(2, effects.size, 4)), rng.normal(size=(2, N, 4))
    w = rng.uniform(size=(2, N, 4))
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(effects.eta(torch.tensor(b)), np.einsum("nq,sqc->snc", Z, b), **close)
    np.testing.assert_allclose(effects.by_effect(torch.tensor(v)), np.einsum("nq,snc->sqc", Z, v), **close)
    diagonal = effects.weighted_diagonal(torch.tensor(w))
    np.testing.assert_allclose(diagonal, np.einsum("nq,snc->sqc", Z * Z, w), **close)
    gram = np.einsum("nq,n,nr->qr", Z, w[0, :, 0], Z)
    for k, (q, d) in enumerate(effects.shapes):
        start = effects.offsets[k]
        blocks = effects.cell_blocks(effects.to_cells(torch.tensor(w[:1, :, 0])), k)[0]
        expected = [gram[s : s + d, s : s + d] for s in range(start, start + q * d, d)]
        np.testing.assert_allclose(blocks, expected, **close)


def test_split_and_join():
    effects = Effects(random_terms(np.random.default_rng(2), "slopes"))
    b = torch.randn(2, effects.size, 3)
    parts = effects.split(b)
    assert [tuple(p.shape) for p in parts] == [(2, q, d, 3) for q, d in effects.shapes]
    assert torch.equal(effects.join(parts), b)
    assert float(parts[2][1, 4, 1, 2]) == float(b[1, effects.offsets[2] + 4 * 2 + 1, 2])


@pytest.mark.parametrize("correlated", [False, True])
def test_prior(correlated):
    effects = Effects(random_terms(np.random.default_rng(3), "slopes"))
    generator = torch.Generator().manual_seed(1)
    precisions = []
    for _, d in effects.shapes:
        root = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
        matrix = root @ root.transpose(1, 2) + torch.eye(d)
        precisions.append(matrix if correlated else matrix.diagonal(dim1=1, dim2=2).diag_embed())
    prior = Prior(effects, precisions)
    sizes = [q for q, _ in effects.shapes]
    whole = [
        torch.block_diag(*[p[c] for p, q in zip(precisions, sizes, strict=True) for _ in range(q)]) for c in range(2)
    ]
    assert prior.is_diagonal is not correlated
    torch.testing.assert_close(prior.diagonal(), torch.stack([m.diagonal() for m in whole], 1))
    b = torch.randn(3, effects.size, 2, generator=generator, dtype=torch.float64)
    expected = torch.stack([b[:, :, c] @ whole[c] for c in range(2)], 2)
    torch.testing.assert_close(prior.apply(b), expected)
    torch.testing.assert_close(prior.only(1).apply(b[:, :, 1:]), expected[:, :, 1:])
    zero = torch.zeros(effects.size, dtype=torch.float64)
    log_density = sum(
        torch.distributions.MultivariateNormal(zero, precision_matrix=whole[c]).log_prob(b[:, :, c]) for c in range(2)
    )
    torch.testing.assert_close(prior.log_density(b), log_density)
    draws = 40_000
    for sample, covariances in ((prior.noise, whole), (prior.draw, [torch.linalg.inv(m) for m in whole])):
        x = sample(draws, generator)
        for c in range(2):
            variances = covariances[c].diagonal()
            error = (torch.outer(variances, variances) * 2.0 / draws).sqrt()  # at least the Monte Carlo error
            assert float(((x[:, :, c].T @ x[:, :, c] / draws - covariances[c]).abs() / error).max()) < 5.0


def test_messages():
    with pytest.raises(ValueError, match="at least one term"):
        Effects([])
    effects = Effects(random_terms(np.random.default_rng(4), "aligned"))
    with pytest.raises(ValueError, match="term 2 is not positive definite"):
        Prior(effects, [torch.ones(1, 1, 1), -torch.ones(1, 1, 1), torch.ones(1, 1, 1)])
