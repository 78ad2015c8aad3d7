"""A linear-chain conditional random field (Lafferty, McCallum & Pereira, 2001), by itself or on top of a network.

A sequence of states ``s_1 ... s_T`` has the score ``start[s_1] + sum_t scores[t, s_t] + sum_t T[s_{t-1}, s_t] +
end[s_T]`` and the probability ``exp(score) / Z``. All recursions run over whole batches; sequences of different
lengths stand side by side, and what follows the end of one is never read.

``log Z`` is one node of the graph: its gradient is written out from the forward and the backward recursion, which run
in the same loop over time; see :mod:`pylmernn.mean.crf_sums`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pylmernn.mean.chains import Chains, chains
from pylmernn.mean.crf_sums import both_ways, log_partition_alone, restored

Tensor = torch.Tensor

__all__ = ["CRF", "Chains", "chains", "log_likelihood", "log_partition", "log_steps", "marginals", "pair_marginals",
           "path_score", "viterbi"]  # fmt: skip


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


def log_steps(batch: Chains, states: Tensor) -> Tensor:
    """Log-probability of each state given those before it, (B, T); zero beyond the end, and their sum that of all."""
    with torch.no_grad():
        size, times, _ = batch.scores.shape
        rows, transitions = torch.arange(size, device=states.device), batch.each_transition
        states = torch.where(batch.inside, states, torch.zeros_like(states)).long()
        found, after = torch.zeros_like(batch.scores[:, :, 0]), batch.end
        for t in range(times - 1, -1, -1):
            ahead = batch.scores[:, t] + after  # of all from here on, by the state at t
            given = ahead + (transitions[rows, states[:, t - 1]] if t else batch.start)
            found[:, t] = given.log_softmax(1)[rows, states[:, t]]
            before = (transitions + ahead[:, None, :]).logsumexp(2)
            after = torch.where((t < batch.lengths)[:, None], before, batch.end)
        return found * batch.inside


def marginals(batch: Chains) -> Tensor:
    """Probability of each state at each time given the whole sequence, (B, T, S); zero beyond the end."""
    with torch.no_grad():
        return both_ways(batch).marginals() * batch.inside[:, :, None]


def pair_marginals(batch: Chains) -> Tensor:
    """Expected number of moves from each state to each other, by sequence, (B, S, S)."""
    with torch.no_grad():
        each = Chains(batch.scores, batch.each_transition, batch.start, batch.end, batch.lengths)
        found = both_ways(each)
        return found.pairs(torch.ones_like(found.log_z))


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
            return log_partition_alone(batch)
        found = both_ways(batch)
        ctx.save_for_backward(scores, transitions, start, end, lengths, *found.kept())
        return found.log_z

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        batch = Chains(*ctx.saved_tensors[:5])
        found = restored(batch, ctx.saved_tensors[5:])
        at = found.marginals().mul_(weight[:, None, None] * batch.inside[:, :, None])
        rows = torch.arange(len(at), device=at.device)
        of_pairs = found.pairs(weight) if ctx.needs_input_grad[1] else None
        return at, of_pairs, at[:, 0], at[rows, batch.lengths - 1], None
