"""Transition probabilities of a fitted sequence model: of one group, of a set of groups, and expected in sequences.

The posterior of a group's deviations is ``u ~ N(u_i, V_i)`` under the prior ``N(0, I)``, ``v = L u``. It draws the
groups of a set towards all groups. The set gets a mean ``m`` of its own in place of 0, where EM would end:
``m = mean(u_i + V_i m)``, that is ``mean(I - V_i) m = mean(u_i)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.engines.nme_crf_model import Batch, SequenceScores
from pylmernn.mean.crf import pair_marginals

FloatArray = NDArray[np.float64]

POSTERIOR_DRAWS = 20  # of each group of a set
RELIABLE = 0.1  # share of a direction's variance that data must tell of, for a set to have a mean of its own there


def shares(scores: FloatArray) -> FloatArray:
    """Transition probabilities, softmax over the last axis, of scores (..., S, S)."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class GroupMoves:
    """The posterior of the transitions of some groups.

    Attributes
    ----------
    shared : ndarray, shape (S, S)
        T_bar.
    u : ndarray, shape (g, D)
        Modes.
    V : ndarray, shape (g, D, D)
        Posterior variances of u.
    L : ndarray, shape (S * S, D)
        Transitions from u.
    noise : ndarray, shape (g, R, S * S)
        Draws of transitions less their modes.
    """

    shared: FloatArray
    u: FloatArray
    V: FloatArray
    L: FloatArray
    noise: FloatArray

    def at(self, which: NDArray[np.intp]) -> FloatArray:
        """Mean probabilities over groups, some of them several times, with a mean of their own, (S, S)."""
        mean = own_mean(self.u[which], self.V[which])
        used, times = np.unique(which, return_counts=True)
        scores = (self.u[used] + self.V[used] @ mean) @ self.L.T
        each = shares(self.shared + (scores[:, None] + self.noise[used]).reshape(len(used), -1, *self.shared.shape))
        return np.asarray(np.average(each.mean(axis=1), axis=0, weights=times))

    def bootstrap(self, draws: int, rng: np.random.Generator) -> FloatArray:
        """:meth:`at` of groups drawn with replacement, (draws, S, S)."""
        g = len(self.u)
        return np.stack([self.at(rng.integers(g, size=g)) for _ in range(draws)])


def group_moves(estimates: SequenceEstimates, which: NDArray[np.intp], seed: int) -> GroupMoves:
    """The transitions of the groups at these positions; draws are repeatable by ``seed``."""
    S, factor = len(estimates.classes), estimates.factor
    back = np.linalg.pinv(factor)
    u = estimates.effects[which] @ back.T
    V = back @ estimates.variances[which] @ back.T
    L = factor[-(S**2) :]
    values, vectors = np.linalg.eigh((V + V.transpose(0, 2, 1)) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
    half = np.random.default_rng(seed).normal(size=(len(which), POSTERIOR_DRAWS // 2, u.shape[1]))
    draws = np.concatenate([half, -half], axis=1)  # so that their mean is exact
    return GroupMoves(estimates.transitions, u, V, L, np.einsum("gij,grj->gri", L @ root, draws))


def own_mean(u: FloatArray, V: FloatArray) -> FloatArray:
    """The mean (D,) of groups with modes (g, D) and variances (g, D, D) under the prior N(0, I)."""
    values, vectors = np.linalg.eigh(np.eye(u.shape[1]) - V.mean(axis=0))
    inside = values > RELIABLE
    found = (vectors[:, inside].T @ u.mean(axis=0)) / values[inside]
    rest = vectors[:, ~inside].T @ u.mean(axis=0)  # hardly known: as all groups have it, drawn to zero
    return np.asarray(vectors[:, inside] @ found + vectors[:, ~inside] @ rest)


def posterior_draws(estimates: SequenceEstimates, group: int, draws: int, seed: int) -> FloatArray:
    """Transition probabilities of one group, (draws, S, S)."""
    size = len(estimates.classes) ** 2
    mode, variance = estimates.effects[group, -size:], estimates.variances[group, -size:, -size:]
    values, vectors = np.linalg.eigh((variance + variance.T) / 2)
    normal = np.random.default_rng(seed).normal(size=(draws, size))
    found = mode + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return shares(estimates.transitions + found.reshape(draws, *estimates.transitions.shape))


def expected_moves(model: SequenceScores, data: Batch, v: FloatArray) -> FloatArray:
    """Shares of moves from each state to each other that a group with deviations (D,) makes in sequences, (S, S)."""
    own = torch.from_numpy(v).expand(len(data.lengths), -1)
    with torch.no_grad():
        counts = pair_marginals(model.batch(data, own)).sum(0).numpy()
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
