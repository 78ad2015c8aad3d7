"""A linear-chain conditional random field (Lafferty, McCallum & Pereira, 2001), by itself or on top of a network.

A sequence of states ``s_1 ... s_T`` has the score ``start[s_1] + sum_t scores[t, s_t] + sum_t T[s_{t-1}, s_t] +
end[s_T]`` and the probability ``exp(score) / Z``. All recursions run in log-space over whole batches; sequences of
different lengths stand side by side, and what follows the end of one is never read.

``log Z`` is one node of the graph: its gradient is written out from the forward and the backward recursion, which run
in the same loop over time, one on the sequences as they are and one on the sequences turned around. See
:mod:`pylmernn.linalg.pathsums`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pylmernn.linalg.pathsums import path_sums, spans_little

Tensor = torch.Tensor

PAIR_NUMBERS = 4_000_000  # probabilities of pairs of states held at a time


@dataclass(frozen=True)
class Chains:
    """A checked batch of sequences with its parameters.

    Attributes
    ----------
    scores : Tensor, shape (B, T, S)
        Of each state at each time, zero beyond the end.
    transitions : Tensor, shape (S, S) or (B, S, S)
        From row to column.
    start, end : Tensor, shape (B, S)
    lengths : Tensor of int64, shape (B,)
    """

    scores: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor
    lengths: Tensor

    @property
    def inside(self) -> Tensor:
        """Which times are within a sequence, (B, T)."""
        return torch.arange(self.scores.shape[1], device=self.scores.device) < self.lengths[:, None]

    @property
    def each_transition(self) -> Tensor:
        """Transitions of each sequence, (B, S, S)."""
        size, _, states = self.scores.shape
        return self.transitions.expand(size, states, states)

    @property
    def turned(self) -> Tensor:
        """Where each time stands in the sequence turned around, (B, T); beyond the end times stay."""
        times = torch.arange(self.scores.shape[1], device=self.scores.device).expand(self.scores.shape[:2])
        return torch.where(self.inside, self.lengths[:, None] - 1 - times, times)


def chains(
    scores: Tensor,
    transitions: Tensor,
    lengths: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Chains:
    """Check a batch and fill in what was left out.

    Parameters
    ----------
    scores : Tensor, shape (B, T, S)
    transitions : Tensor, shape (S, S) or (B, S, S)
        Shared, or one matrix a sequence (``T_bar + T_i`` of the group that it belongs to).
    lengths : Tensor of int, shape (B,), optional
        Times of each sequence, 1 to T; by default all T.
    start, end : Tensor, shape (S,) or (B, S), optional
        Scores of the first and of the last state; by default zero.

    Raises
    ------
    ValueError
        For shapes that do not fit together, or a length out of its range.
    """
    if scores.ndim != 3 or 0 in scores.shape:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: it must be (sequences, times, states).")
    size, times, states = scores.shape
    if transitions.shape not in ((states, states), (size, states, states)):
        raise ValueError(
            f"transitions has shape {tuple(transitions.shape)}: it must be {(states, states)}, or one such matrix for "
            f"each of the {size} sequences."
        )
    ends = []
    for name, given in (("start", start), ("end", end)):
        given = scores.new_zeros(states) if given is None else given
        if given.shape not in ((states,), (size, states)):
            raise ValueError(f"{name} has shape {tuple(given.shape)}: it must be {(states,)} or {(size, states)}.")
        ends.append(given.expand(size, states))
    if lengths is None:
        lengths = torch.full((size,), times, device=scores.device)
    if lengths.shape != (size,) or int(lengths.min()) < 1 or int(lengths.max()) > times:
        raise ValueError(f"lengths must be {size} whole numbers from 1 to {times}.")
    lengths = lengths.to(scores.device, torch.int64)
    inside = torch.arange(times, device=scores.device) < lengths[:, None]
    scores = torch.where(inside[:, :, None], scores, torch.zeros_like(scores))  # padding may hold anything, NaN too
    return Chains(scores, transitions, ends[0], ends[1], lengths)


def log_partition(batch: Chains) -> Tensor:
    """``log Z`` of each sequence, (B,); differentiable once in scores, transitions, start and end."""
    value: Tensor = _LogPartition.apply(  # type: ignore[no-untyped-call]
        batch.scores, batch.transitions, batch.start, batch.end, batch.lengths
    )
    return value


def path_score(batch: Chains, states: Tensor) -> Tensor:
    """Score of given states (B, T) of each sequence, (B,); states beyond the end are not read.

    Raises
    ------
    ValueError
        For a state that the model has not.
    """
    inside, count = batch.inside, batch.scores.shape[2]
    if states.shape != inside.shape:
        raise ValueError(f"states has shape {tuple(states.shape)}: it must be {tuple(inside.shape)}.")
    if bool(((states < 0) | (states >= count))[inside].any()):
        raise ValueError(f"states must be whole numbers from 0 to {count - 1}.")
    states = torch.where(inside, states, torch.zeros_like(states)).long()
    rows = torch.arange(len(states), device=states.device)
    emitted = batch.scores.gather(2, states[:, :, None])[:, :, 0]
    moves = batch.each_transition[rows[:, None], states[:, :-1], states[:, 1:]]
    last = states[rows, batch.lengths - 1]
    return (
        batch.start[rows, states[:, 0]]
        + (emitted * inside).sum(1)
        + torch.where(inside[:, 1:], moves, torch.zeros_like(moves)).sum(1)
        + batch.end[rows, last]
    )


def log_likelihood(batch: Chains, states: Tensor) -> Tensor:
    """Log-probability of given states (B, T) of each sequence, (B,)."""
    return path_score(batch, states) - log_partition(batch)


def marginals(batch: Chains) -> Tensor:
    """Probability of each state at each time given the whole sequence, (B, T, S); zero beyond the end."""
    with torch.no_grad():
        alpha, beta, _ = _both_ways(batch)
        return (alpha + beta).softmax(2) * batch.inside[:, :, None]


def pair_marginals(batch: Chains) -> Tensor:
    """Expected number of moves from each state to each other, by sequence, (B, S, S)."""
    with torch.no_grad():
        each = Chains(batch.scores, batch.each_transition, batch.start, batch.end, batch.lengths)
        alpha, beta, log_z = _both_ways(each)
        return _pairs(each, alpha, beta, torch.ones_like(log_z))


def viterbi(batch: Chains) -> tuple[Tensor, Tensor]:
    """The most probable states of each sequence.

    Returns
    -------
    states : Tensor of int64, shape (B, T)
        -1 beyond the end.
    score : Tensor, shape (B,)
        Of these states, as :func:`path_score` has it.
    """
    with torch.no_grad():
        size, times, count = batch.scores.shape
        best, transitions = batch.start + batch.scores[:, 0], batch.each_transition
        reached = torch.empty_like(batch.scores)
        reached[:, 0] = best
        came_from = torch.empty((times, size, count), dtype=torch.int64, device=best.device)
        for t in range(1, times):
            best, came_from[t] = (best[:, :, None] + transitions).max(1)
            best = best + batch.scores[:, t]
            reached[:, t] = best
        rows = torch.arange(size, device=best.device)
        score, last = (reached[rows, batch.lengths - 1] + batch.end).max(1)
        states = torch.full((size, times), -1, dtype=torch.int64, device=best.device)
        state = last
        for t in range(times - 1, -1, -1):
            if t < times - 1:
                state = torch.where(batch.lengths - 1 > t, came_from[t + 1].gather(1, state[:, None])[:, 0], last)
            states[:, t] = state
        return states.masked_fill(~batch.inside, -1), score


class CRF(nn.Module):
    """A linear-chain CRF whose transitions are shared, or vary around a common matrix by group.

    Parameters
    ----------
    states : int
    groups : int, default 0
        Groups with transitions of their own, ``T_bar + T_i``; 0 for shared ones.
    ends : bool, default False
        Whether the first and the last state have scores too.

    Attributes
    ----------
    transitions : Parameter, shape (S, S)
        From row to column; zero at first, which is every transition alike.
    deviations : Parameter, shape (groups, S, S)
        What each group adds.

    Examples
    --------
    >>> crf = CRF(states=3)
    >>> scores, states = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)
    >>> [round(value, 4) for value in crf(scores, states, lengths=torch.tensor([4, 1])).tolist()]
    [-4.3944, -1.0986]
    """

    deviations: Tensor | None
    start: Tensor | None
    end: Tensor | None

    def __init__(self, states: int, groups: int = 0, ends: bool = False) -> None:
        super().__init__()
        if states < 2:
            raise ValueError(f"states is {states}: a sequence model needs at least 2.")
        self.transitions = nn.Parameter(torch.zeros(states, states))
        self.deviations = nn.Parameter(torch.zeros(groups, states, states)) if groups else None
        self.start = nn.Parameter(torch.zeros(states)) if ends else None
        self.end = nn.Parameter(torch.zeros(states)) if ends else None

    def batch(self, scores: Tensor, lengths: Tensor | None = None, groups: Tensor | None = None) -> Chains:
        """Sequences under the parameters of this CRF.

        Parameters
        ----------
        scores : Tensor, shape (B, T, S)
        lengths : Tensor of int, shape (B,), optional
        groups : Tensor of int, shape (B,), optional
            The group of each sequence; -1, or None, for the common transitions.
        """
        transitions = self.transitions.to(scores.dtype)
        if groups is not None and self.deviations is not None:
            known = (groups >= 0).to(scores.dtype)[:, None, None]
            transitions = transitions + known * self.deviations.to(scores.dtype)[groups.clamp(min=0)]
        ends = [None if each is None else each.to(scores.dtype) for each in (self.start, self.end)]
        return chains(scores, transitions, lengths, *ends)

    def forward(
        self, scores: Tensor, states: Tensor, lengths: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Log-likelihood of each sequence, (B,)."""
        return log_likelihood(self.batch(scores, lengths, groups), states)


class _LogPartition(torch.autograd.Function):
    """``log Z`` with the gradient that the marginals are."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
        batch = Chains(scores, transitions, start, end, lengths)
        if not any(ctx.needs_input_grad):
            alpha, _, level = path_sums(*_forward_inputs(batch), spans_little(batch.transitions))
            return _last(batch, alpha[:, 0].permute(2, 0, 1), level[:, 0])
        alpha, beta, log_z = _both_ways(batch)
        ctx.save_for_backward(scores, transitions, start, end, lengths, alpha, beta)
        return log_z

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        scores, transitions, start, end, lengths, alpha, beta = ctx.saved_tensors
        batch = Chains(scores, transitions, start, end, lengths)
        at = (alpha + beta).softmax(2).mul_(weight[:, None, None] * batch.inside[:, :, None])
        rows = torch.arange(len(at), device=at.device)
        of_pairs = _pairs(batch, alpha, beta, weight) if ctx.needs_input_grad[1] else None
        return at, of_pairs, at[:, 0], at[rows, lengths - 1], None


def _forward_inputs(batch: Chains) -> tuple[Tensor, Tensor, Tensor]:
    """One way, as :func:`path_sums` takes it: scores (T, 1, S, B), transitions (1, S, S, B or 1), start (1, S, B)."""
    return (
        batch.scores.permute(1, 2, 0).unsqueeze(1).contiguous(),
        (batch.transitions.unsqueeze(2) if batch.transitions.ndim == 2 else batch.transitions.permute(1, 2, 0))[None],
        batch.start.t()[None],
    )


def _both_ways(batch: Chains) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and backward recursion in one loop.

    Returns
    -------
    alpha : Tensor, shape (B, T, S)
        Log of the sum over all that comes before a state, its own score included, but for a number a time.
    beta : Tensor, shape (B, T, S)
        Over all that comes after, its own score excluded, but for a number a time.
    log_z : Tensor, shape (B,)
    """
    turned = batch.turned[:, :, None].expand_as(batch.scores)
    scores, transitions, start = _forward_inputs(batch)
    backwards = batch.scores.gather(1, turned).permute(1, 2, 0).unsqueeze(1)
    alpha, before, level = path_sums(
        torch.cat([scores, backwards], 1),
        torch.cat([transitions, transitions.transpose(1, 2)]),
        torch.cat([start, batch.end.t()[None]]),
        spans_little(batch.transitions),
    )
    forwards = alpha[:, 0].permute(2, 0, 1)
    beta = before[:, 1].permute(2, 0, 1).gather(1, turned)
    return forwards, beta, _last(batch, forwards, level[:, 0])


def _last(batch: Chains, alpha: Tensor, level: Tensor) -> Tensor:
    """``log Z`` of alpha (B, T, S) and what is to be added to it (T, B), (B,)."""
    rows, last = torch.arange(len(alpha), device=alpha.device), batch.lengths - 1
    return ((alpha[rows, last] + batch.end).logsumexp(1) + level[last, rows]).to(alpha.dtype)


def _pairs(batch: Chains, alpha: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums over times of the probabilities of neighbouring states, shaped as the transitions.

    Those of shared transitions are summed over the sequences (B,) too.
    """
    size, _, count = alpha.shape
    alpha, after = alpha[:, :-1], (batch.scores + beta)[:, 1:]
    inside = batch.inside[:, 1:] * weight[:, None]
    if spans_little(batch.transitions):
        kernel = (batch.transitions - batch.transitions.max()).exp_()
        before = (alpha - alpha.amax(2, keepdim=True)).exp_()
        beyond = (after - after.amax(2, keepdim=True)).exp_()
        total = ((before @ kernel) * beyond).sum(2)
        before *= (inside / total)[:, :, None]
        if batch.transitions.ndim == 2:
            return kernel.mul_(before.reshape(-1, count).t() @ beyond.reshape(-1, count))
        return kernel.mul_(before.transpose(1, 2) @ beyond)
    pairs = torch.zeros_like(batch.each_transition)
    step = max(1, PAIR_NUMBERS // (size * count * count))
    for first in range(0, alpha.shape[1], step):
        part = slice(first, first + step)
        terms = alpha[:, part, :, None] + after[:, part, None, :] + batch.each_transition[:, None]
        shares = terms.flatten(2).softmax(2).view_as(terms)
        pairs += (shares * inside[:, part, None, None]).sum(1)
    return pairs.sum(0) if batch.transitions.ndim == 2 else pairs
