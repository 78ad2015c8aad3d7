"""The state of a sequence model while it is fitted, and the posterior of what varies by group.

Scores of the states come from a network, ``s_t = X beta + f(x_t; theta_bar + eta_i)``, transitions are
``T_bar + T_i``. What varies in group i, the deviations of the network and then T_i row by row, is one vector v_i of
length D with the prior ``N(0, Sigma)``, Sigma a block a term. All is float64: curvatures are differences of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_generalized import GROUPS_EACH
from pylmernn.engines.nme_model import FULL
from pylmernn.engines.nme_posterior import factor_of
from pylmernn.formula.design import DesignError
from pylmernn.mean.crf import Chains, chains, log_likelihood
from pylmernn.mean.varying import Selected, VaryingNetwork

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

DIFFERENCE = 1e-4  # of v, for curvatures
HELD_NUMBERS = 4_000_000  # scores of all copies of the sequences held at a time
LEAST_KNOWN = 1e-10  # share of a variance that data tell of
SHARED_STEPS = 60  # of a quasi-Newton search
HALVINGS = 6  # of a step that raises the penalised deviance


@dataclass(frozen=True)
class Batch:
    """Padded sequences.

    Attributes
    ----------
    prepared : Tensor, shape (B, T, k)
        Inputs of the network.
    X : Tensor, shape (B, T, p)
    states : Tensor of int64, shape (B, T)
    lengths : Tensor of int64, shape (B,)
    groups : Tensor of int64, shape (B,)
        -1 for none.
    """

    prepared: Tensor
    X: Tensor
    states: Tensor
    lengths: Tensor
    groups: Tensor

    def take(self, which: Tensor) -> Batch:
        """Some of the sequences, as long as the longest of them."""
        longest = int(self.lengths[which].max())
        return Batch(
            self.prepared[which, :longest],
            self.X[which, :longest],
            self.states[which, :longest],
            self.lengths[which],
            self.groups[which],
        )

    def shortened(self, lengths: Tensor) -> Batch:
        """The beginnings of all sequences."""
        return Batch(self.prepared, self.X, self.states, lengths, self.groups)


class SequenceScores(torch.nn.Module):
    """Network, coefficients and transitions.

    Parameters
    ----------
    network : Module
        In float64, with an output a state.
    selected : Selected or None
        What of it varies.
    moves : bool
        Whether transitions vary.
    p, states : int
    """

    def __init__(self, network: Any, selected: Selected | None, moves: bool, p: int, states: int) -> None:
        super().__init__()
        self.network, self.selected, self.moves, self.states = network, selected, moves, states
        self.beta = torch.nn.Parameter(torch.zeros(p, states, dtype=torch.float64))
        self.transitions = torch.nn.Parameter(torch.zeros(states, states, dtype=torch.float64))

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers that vary: in the network, and transitions."""
        return (0 if self.selected is None else self.selected.size), (self.states**2 if self.moves else 0)

    @property
    def size(self) -> int:
        """D."""
        return sum(self.sizes)

    def batch(self, data: Batch, own: Tensor) -> Chains:
        """Sequences with deviations (B, D) each."""
        of_network, of_moves = own.split(self.sizes, dim=1)
        shape = (*data.prepared.shape[:2], self.states)
        if self.selected is None:
            f = self.network(data.prepared.reshape(-1, data.prepared.shape[2])).reshape(shape)
        else:
            f = VaryingNetwork(self.network, self.selected)(data.prepared, of_network)
        shared: Tensor = self.transitions
        transitions = shared + of_moves.reshape(-1, self.states, self.states) if self.moves else shared
        return chains(data.X @ self.beta + f, transitions, data.lengths)

    def deviances(self, data: Batch, own: Tensor) -> Tensor:
        """Minus twice the log-likelihood of each sequence, (B,)."""
        return -2.0 * log_likelihood(self.batch(data, own), data.states)

    def own(self, v: Tensor, groups: Tensor) -> Tensor:
        """Deviations (B, D) of the groups (B,) from those of all (q, D); none for -1."""
        known = (groups >= 0).to(v.dtype)[:, None]
        return v[groups.clamp(min=0)] * known if len(v) else v.new_zeros(len(groups), self.size)

    def move(self, by: Tensor) -> None:
        """Add (D,) to the parameters that all groups share."""
        of_network, of_moves = by.split(self.sizes)
        with torch.no_grad():
            if self.selected is not None:
                VaryingNetwork(self.network, self.selected).move(of_network)
            if self.moves:
                self.transitions.add_(of_moves.reshape(self.states, self.states))


def gradients(model: SequenceScores, data: Batch, v: Tensor) -> Tensor:
    """Derivatives of the log-likelihood of each group, for c copies of its deviations: (c, q, D) from (c, q, D)."""
    B, T, _ = data.prepared.shape
    step = max(1, HELD_NUMBERS // max(1, B * T * model.states))
    found = []
    for first in range(0, len(v), step):
        part = v[first : first + step].detach().requires_grad_(True)
        c = len(part)
        several = Batch(*(each.repeat(c, *[1] * (each.ndim - 1)) for each in vars(data).values()))
        own = part[:, data.groups].reshape(c * B, -1)
        total = -0.5 * model.deviances(several, own).sum()
        found.append(torch.autograd.grad(total, part)[0])
    return torch.cat(found)


def curvatures(model: SequenceScores, data: Batch, v: Tensor, some: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradients (q, D) of the log-likelihood of each group and minus its Hessian (q, D, D), at deviations (q, D).

    Groups do not touch each other, so one difference of gradients gives a column of every group's Hessian. Directions
    in which the likelihood is not concave count as flat. Where ``some`` (D,) of the numbers alone are wanted, the rows
    and columns of the others are zero.
    """
    D = v.shape[1]
    at = torch.arange(D) if some is None else torch.nonzero(some)[:, 0]
    copies = torch.cat([v[None], v + DIFFERENCE * torch.eye(D, dtype=v.dtype)[at][:, None]])
    found = gradients(model, data, copies)
    H = -(found[1:, :, at] - found[0, :, at]).permute(1, 2, 0) / DIFFERENCE
    values, vectors = torch.linalg.eigh((H + H.transpose(1, 2)) / 2)
    whole = v.new_zeros(len(v), D, D)
    whole[:, at[:, None], at] = (vectors * values.clamp(min=0.0)[:, None]) @ vectors.transpose(1, 2)
    return found[0], whole


@dataclass(frozen=True)
class GroupPosterior:
    """Laplace's approximation to the posterior of ``u``, ``v = L u``.

    Attributes
    ----------
    u : Tensor, shape (q, D)
    variances : Tensor, shape (q, D, D)
        Of u.
    deviance : float
        ``u'u`` and the log-determinants, to add to the deviance of the sequences.
    """

    u: Tensor
    variances: Tensor
    deviance: float


def newton_step(model: SequenceScores, data: Batch, u: Tensor, L: Tensor) -> GroupPosterior:
    """One step of every group towards the mode of its posterior, halved where it would lower it."""
    gradient, H = curvatures(model, data, u @ L.T, (L != 0).any(1))
    M = L.T @ H @ L + torch.eye(L.shape[1], dtype=L.dtype)
    factor = torch.linalg.cholesky(M)
    step = torch.cholesky_solve((gradient @ L - u)[:, :, None], factor)[:, :, 0]

    def penalised(at: Tensor) -> Tensor:
        with torch.no_grad():
            rows = model.deviances(data, model.own(at @ L.T, data.groups))
            return (at**2).sum(1).index_add(0, data.groups, rows)

    before = penalised(u)
    for _ in range(HALVINGS):
        worse = ~(penalised(u + step) <= before + 1e-8)
        if not worse.any():
            break
        step = torch.where(worse[:, None], step / 2, step)
    moved = u + step
    logdet = 2.0 * torch.diagonal(factor, dim1=1, dim2=2).log().sum()
    return GroupPosterior(moved, torch.cholesky_inverse(factor), float((moved**2).sum() + logdet))


def maximise_shared(model: SequenceScores, data: Batch, own: Tensor) -> None:
    """Coefficients and shared transitions to their maximum, all else as it is: Adam's steps are slow there."""
    parameters = [model.beta, model.transitions]
    optimizer = torch.optim.LBFGS(parameters, max_iter=SHARED_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        value = model.deviances(data, own).sum() / data.lengths.sum()
        for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.grad = gradient
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]


def next_factor(
    found: GroupPosterior, L: Tensor, sizes: Sequence[int], kinds: Sequence[Tensor | None], leap: bool = False
) -> Tensor:
    """L of the next Sigma, a block a term: full where ``kinds`` is None, else diagonal with a variance a kind (size,).

    ``Sigma := mean(v v' + variance)``, the EM step; a ``leap`` is MacKay's (1992) step, ``sum v^2 / sum(1 - V)`` for a
    variance, V being the posterior variance of u. Both rest at the same Sigma, but EM creeps where a variance is zero.
    """
    of_modes = (found.u[:, :, None] * found.u[:, None, :]).mean(0)
    blocks, at = [], 0
    for size, kind in zip(sizes, kinds, strict=True):
        inside = (slice(at, at + size), slice(at, at + size))
        own, variance, S = L[inside], found.variances.mean(0)[inside], of_modes[inside]
        if kind is None:
            second = _leap(S, variance) if leap else S + variance
            blocks.append(factor_of(own @ second @ own.T))
        else:
            known = 1.0 - torch.diagonal(variance) if leap else torch.ones(size, dtype=S.dtype)
            moments = torch.diagonal(S) if leap else torch.diagonal(S + variance)
            ratio = by_kind(moments, kind) / by_kind(known, kind).clamp(min=LEAST_KNOWN)
            blocks.append(torch.diag(factor_of(torch.diagonal(own) ** 2 * ratio)))
        at += size
    return torch.block_diag(*blocks)


def by_kind(values: Tensor, kinds: Tensor) -> Tensor:
    """The mean of each kind in place of the values (k,)."""
    sums, counts = (
        values.new_zeros(len(values)).index_add(0, kinds, each) for each in (values, torch.ones_like(values))
    )
    return (sums / counts.clamp(min=1.0))[kinds]


def _leap(of_modes: Tensor, variance: Tensor) -> Tensor:
    """``M^-1/2 S M^-1/2`` with ``M = I - V``, which is I where ``S + V`` is."""
    known = torch.eye(len(variance), dtype=variance.dtype) - variance
    values, vectors = torch.linalg.eigh(known)
    root = (vectors / values.clamp(min=LEAST_KNOWN).sqrt()) @ vectors.T
    return root @ of_modes @ root


def is_diagonal(covariance: str, size: int, groups: int, label: str) -> bool:
    """Whether a term has variances only: asked for, too many for a full matrix, or too many for so few groups."""
    if covariance == "rr":
        raise DesignError(f"{label}: sequence models take no rr(): write diag() or a plain bar.")
    return covariance == "diag" or size > FULL or groups < GROUPS_EACH * size * (size + 1) // 2


def tails(lengths: Tensor, share: float) -> Tensor:
    """Lengths without the last times of each sequence, a share of them; short sequences stay whole."""
    cut = torch.tensor([math.ceil(share * n) if n >= 5 else 0 for n in lengths.tolist()])
    return lengths - cut
