"""Transition probabilities of groups and of sets of them, beside brute force and known truth."""

import itertools
from types import SimpleNamespace

import numpy as np
import torch
from sequence_examples import dyads

from pylmernn.engines import nme_crf
from pylmernn.engines import nme_crf_moves as moves
from pylmernn.engines.control import Control
from pylmernn.formula import build
from pylmernn.formula.sequences import read_sequences
from pylmernn.training.options import Training


def spherical(groups, D, mean, rng):
    """Modes and variances of u ~ N(mean, I) seen with errors, under the prior N(0, I); and what was seen."""
    root = rng.normal(size=(groups, D, D)) * rng.uniform(0.3, 2.0, size=(groups, 1, 1))
    H = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(D)
    error = np.linalg.inv(H)
    u = mean + rng.normal(size=(groups, D))
    seen = u + np.stack([rng.multivariate_normal(np.zeros(D), each) for each in error])
    V = np.linalg.inv(H + np.eye(D))
    return np.einsum("gij,gjk,gk->gi", V, H, seen), V, seen, error


def estimates_of(modes, V, L, shared):
    """What the functions read of a fit."""
    return SimpleNamespace(
        classes=tuple("abc"[: len(shared)]), transitions=shared, effects=modes @ L.T, variances=L @ V @ L.T, factor=L
    )


def test_own_mean_is_generalised_least_squares():
    rng = np.random.default_rng(0)
    modes, V, seen, error = spherical(15, 3, np.array([1.0, -1.0, 0.5]), rng)
    W = np.linalg.inv(np.eye(3) + error)
    expected = np.linalg.solve(W.sum(axis=0), np.einsum("gij,gj->i", W, seen))
    np.testing.assert_allclose(moves.own_mean(modes, V), expected, atol=1e-10)
    mean = np.zeros(3)
    for _ in range(500):  # EM: modes under the prior N(mean, I)
        mean = (modes + V @ mean).mean(axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-8)


def test_directions_without_data_stay():
    V = np.stack([np.diag([0.2, 1.0])] * 4)
    modes = np.column_stack([[1.0, 2.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(moves.own_mean(modes, V), [2.0 / 0.8, 0.0], atol=1e-12)


def test_limits_cover_the_difference_of_two_populations():
    rng = np.random.default_rng(1)
    shared, L = rng.normal(size=(2, 2)), 0.7 * np.eye(4) + 0.2 * np.tri(4, k=-1)
    means = [np.array([0.9, -0.9, 0.0, 0.3]), np.array([-0.9, 0.9, 0.2, -0.3])]
    many = [(mean + rng.normal(size=(200_000, 4))) @ L.T for mean in means]
    truth = [moves.shares(shared + v.reshape(-1, 2, 2)).mean(axis=0) for v in many]
    inside, drawn_to_zero = [], []
    for seed in range(30):
        found = []
        for mean in means:
            modes, V, _, _ = spherical(25, 4, mean, rng)
            found.append(moves.group_moves(estimates_of(modes, V, L, shared), np.arange(25), seed))
        draws = [each.bootstrap(150, rng) for each in found]
        low, high = np.quantile(draws[1] - draws[0], [0.025, 0.975], axis=0)
        inside.append((low <= truth[1] - truth[0]) & (truth[1] - truth[0] <= high))
        point = [each.at(np.arange(25)) for each in found]
        naive = [moves.shares(shared + (each.u @ each.L.T).reshape(-1, 2, 2)).mean(axis=0) for each in found]
        drawn_to_zero.append([np.abs(a[1] - a[0])[0, 0] for a in (point, naive)])
    assert 0.86 < np.mean(inside) < 1.0
    ours, modes_alone = np.mean(drawn_to_zero, axis=0)
    wanted = abs(truth[1] - truth[0])[0, 0]
    assert abs(ours - wanted) < 0.03 < wanted - modes_alone


def test_draws_of_one_group():
    rng = np.random.default_rng(2)
    shared, L = rng.normal(size=(2, 2)), np.diag([0.5, 1.0, 0.2, 0.7])
    modes, V, _, _ = spherical(2, 4, 0.0, rng)
    fit = estimates_of(modes, V, L, shared)
    found = moves.posterior_draws(fit, 1, 50_000, 0)
    v = rng.multivariate_normal(L @ modes[1], L @ V[1] @ L.T, size=50_000)
    np.testing.assert_allclose(found.mean(axis=0), moves.shares(shared + v.reshape(-1, 2, 2)).mean(axis=0), atol=5e-3)
    np.testing.assert_allclose(found.sum(axis=2), 1.0)
    of_set = moves.group_moves(fit, np.array([1, 0]), 0)
    np.testing.assert_allclose(of_set.noise.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(of_set.u, modes[[1, 0]], atol=1e-10)


def test_expected_moves_beside_all_paths():
    data = dyads(2, 4, 2).drop(index=[3, 10])
    design, _ = build("state ~ nn(x1, x2, hidden=c(2)) + (crf | dyad)", data, family="crf")
    control = Control(training=Training(epochs=1))
    fit = nme_crf.SequenceTraining(design, read_sequences(data, "sequence", "t"), control)
    fit.model.eval()
    v = np.random.default_rng(0).normal(size=9)
    with torch.no_grad():
        batch = fit.model.batch(fit.data, torch.from_numpy(v).expand(len(fit.data.lengths), -1))
    counts = np.zeros((3, 3))
    for i, T in enumerate(fit.data.lengths.tolist()):
        scores, own = batch.scores[i].numpy(), batch.each_transition[i].numpy()
        paths = list(itertools.product(range(3), repeat=T))
        values = [sum(scores[t, s] for t, s in enumerate(p)) + sum(own[a, b] for a, b in itertools.pairwise(p))
                  for p in paths]  # fmt: skip
        for path, share in zip(paths, np.exp(values - np.logaddexp.reduce(values)), strict=True):
            for a, b in itertools.pairwise(path):
                counts[a, b] += share
    found = moves.expected_moves(fit.model, fit.data, v)
    np.testing.assert_allclose(found, counts / counts.sum(axis=1, keepdims=True), atol=1e-10)
