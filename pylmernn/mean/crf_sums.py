"""Forward and backward sums over the paths of a batch of sequences, and what follows from them.

Both recursions run in one loop over time, forwards and backwards: on exponentials where these fit
(:class:`ScaledSums`), else on logarithms (:class:`LogSums`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylmernn.linalg.pathsums import Restarts, path_sums, scaled_path_sums, steps_between_scalings
from pylmernn.mean.chains import Chains

Tensor = torch.Tensor

PAIR_NUMBERS = 4_000_000  # probabilities of pairs of states held at a time


def both_ways(batch: Chains) -> ScaledSums | LogSums:
    """Forward and backward sums of a batch."""
    every = _steps(batch)
    return _both_scaled(batch, every) if every else _both_logs(batch)


def log_partition_alone(batch: Chains) -> Tensor:
    """``log Z`` (B,), from the forward sums alone."""
    every = _steps(batch)
    if every:
        scores, top, transitions, largest = _exponentials(batch)
        first = _starts(batch.start, scores[0])
        sums, _, level = scaled_path_sums(scores.sub(top).exp_(), transitions, *first, every, {})
        return _log_z(batch, sums[:, 0], level[:, 0], top[:, 0, 0], largest)
    alpha, _, level = path_sums(*_log_inputs(batch))
    return _last(batch, alpha[:, 0].permute(2, 0, 1), level[:, 0])


def restored(batch: Chains, kept: Sequence[Tensor]) -> ScaledSums | LogSums:
    """The sums of :func:`both_ways` from what their ``kept()`` returned."""
    return ScaledSums(batch, *kept) if len(kept) == 4 else LogSums(batch, *kept)


@dataclass(frozen=True)
class ScaledSums:
    """Exponentials, each time's but for a factor of its own.

    Attributes
    ----------
    batch : Chains
    alpha : Tensor, shape (T, S, B)
        Sums over all that comes before a state, its own weight included.
    beta : Tensor, shape (T, S, B)
        Over all that comes after, its own weight excluded: ``beta[t - 1]`` is ``exp(T) after[t]``.
    after : Tensor, shape (T, S, B)
        Its own weight included.
    log_z : Tensor, shape (B,)
    """

    batch: Chains
    alpha: Tensor
    beta: Tensor
    after: Tensor
    log_z: Tensor

    def kept(self) -> tuple[Tensor, ...]:
        """What to restore from."""
        return self.alpha, self.beta, self.after, self.log_z

    def marginals(self) -> Tensor:
        """Probability of each state at each time, (B, T, S); anything beyond the ends."""
        at = self.alpha * self.beta
        at /= at.sum(1, keepdim=True)
        return at.permute(2, 0, 1)

    def pairs(self, weight: Tensor) -> Tensor:
        """Sums over times of the probabilities of neighbouring states, weighted by sequence (B,), like transitions.

        Those of shared transitions are summed over the sequences too.
        """
        moves, alpha, after = self.batch.transitions, self.alpha[:-1], self.after[1:]
        total = (alpha * self.beta[:-1]).sum(1)
        share = (self.batch.inside[:, 1:].t() * weight).div_(total)
        before, kernel = alpha * share.unsqueeze(1), (moves - moves.max()).exp_()
        if moves.ndim == 2:
            return kernel.mul_(torch.bmm(before, after.transpose(1, 2)).sum(0))
        found = torch.stack([(before[:, i, None] * after).sum(0) for i in range(before.shape[1])])
        return kernel.mul_(found.permute(2, 0, 1))


@dataclass(frozen=True)
class LogSums:
    """Logarithms, but for a number a time.

    Attributes
    ----------
    batch : Chains
    alpha : Tensor, shape (B, T, S)
        Log of the sum over all that comes before a state, its own score included.
    beta : Tensor, shape (B, T, S)
        Over all that comes after, its own score excluded.
    log_z : Tensor, shape (B,)
    """

    batch: Chains
    alpha: Tensor
    beta: Tensor
    log_z: Tensor

    def kept(self) -> tuple[Tensor, ...]:
        """What to restore from."""
        return self.alpha, self.beta, self.log_z

    def marginals(self) -> Tensor:
        """As :meth:`ScaledSums.marginals`."""
        return (self.alpha + self.beta).softmax(2)

    def pairs(self, weight: Tensor) -> Tensor:
        """As :meth:`ScaledSums.pairs`."""
        batch = self.batch
        size, _, count = self.alpha.shape
        alpha, after = self.alpha[:, :-1], (batch.scores + self.beta)[:, 1:]
        inside = batch.inside[:, 1:] * weight[:, None]
        pairs = torch.zeros_like(batch.each_transition)
        step = max(1, PAIR_NUMBERS // (size * count * count))
        for first in range(0, alpha.shape[1], step):
            part = slice(first, first + step)
            terms = alpha[:, part, :, None] + after[:, part, None, :] + batch.each_transition[:, None]
            shares = terms.flatten(2).softmax(2).view_as(terms)
            pairs += (shares * inside[:, part, None, None]).sum(1)
        return pairs.sum(0) if batch.transitions.ndim == 2 else pairs


def _steps(batch: Chains) -> int:
    """Steps that exponentials last; 0 where logarithms are needed."""
    T, end = batch.transitions, batch.end
    span = torch.maximum(T.max() - T.min(), (end.amax(1) - end.amin(1)).max())
    return steps_between_scalings(float(span), batch.scores.shape[2], batch.scores.dtype)


def _exponentials(batch: Chains) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores (T, 1, S, B), the largest of each time (T, 1, 1, B), exp of transitions less the largest, and that."""
    scores = batch.scores.permute(1, 2, 0).unsqueeze(1).contiguous()
    largest = batch.transitions.max()
    return scores, scores.amax(2, keepdim=True), (_states_first(batch.transitions) - largest).exp_(), largest


def _states_first(transitions: Tensor) -> Tensor:
    """Transitions as the loops take them, (1, S, S, B or 1)."""
    return (transitions.unsqueeze(2) if transitions.ndim == 2 else transitions.permute(1, 2, 0))[None]


def _starts(given: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials of the scores of ends (B, S) with and without those (1, S, B) of the states, the largest 1."""
    alone = given.t()[None]
    both = alone + scores
    return tuple((each - each.amax(1, keepdim=True)).exp_() for each in (both, alone))  # type: ignore[return-value]


def _both_scaled(batch: Chains, every: int) -> ScaledSums:
    scores, top, transitions, largest = _exponentials(batch)
    size, times, states = batch.scores.shape
    back = torch.arange(times - 1, -1, -1, device=scores.device)
    weights = scores.new_empty(times, 2, states, size)
    torch.sub(scores, top, out=weights[:, :1]).exp_()
    weights[:, 1] = weights[:, 0].index_select(0, back)
    first, without = _starts(batch.start, scores[0])
    end = (batch.end - batch.end.amax(1, keepdim=True)).exp_().t()[None]
    sums, before, level = scaled_path_sums(
        weights,
        torch.cat([transitions, transitions.transpose(1, 2)]),
        torch.cat([first, end * weights[0, 1:]]),
        torch.cat([without, end]),
        every,
        _restarts(batch),
    )
    alpha, log_z = sums[:, 0], _log_z(batch, sums[:, 0], level[:, 0], top[:, 0, 0], largest)
    beta, after = (each[:, 1].index_select(0, back) for each in (before, sums))
    return ScaledSums(batch, alpha, beta, after, log_z)


def _restarts(batch: Chains) -> Restarts:
    """The sequences that end at each time but the last one, by times that are counted backwards."""
    times = batch.scores.shape[1] - batch.lengths
    order = torch.argsort(times)
    found, count = times[order].unique_consecutive(return_counts=True)
    return {t: which for t, which in zip(found.tolist(), order.split(count.tolist()), strict=True) if t > 0}


def _log_z(batch: Chains, alpha: Tensor, level: Tensor, top: Tensor, largest: Tensor) -> Tensor:
    """``log Z`` (B,) of scaled alpha (T, S, B) and of what was taken from it, the largest start included."""
    rows, last = torch.arange(len(batch.lengths), device=alpha.device), batch.lengths - 1
    end = batch.end - batch.end.amax(1, keepdim=True)
    at_end = (alpha[last, :, rows] * end.exp()).sum(1).log() + batch.end.amax(1)
    taken = top.double()
    taken[0] = (batch.start.t() + batch.scores[:, 0].t()).amax(0)
    taken[1:] += largest
    return (at_end + level[last, rows] + taken.cumsum(0)[last, rows]).to(alpha.dtype)


def _log_inputs(batch: Chains) -> tuple[Tensor, Tensor, Tensor]:
    """One way, as :func:`path_sums` takes it: scores (T, 1, S, B), transitions (1, S, S, B or 1), start (1, S, B)."""
    scores = batch.scores.permute(1, 2, 0).unsqueeze(1).contiguous()
    return scores, _states_first(batch.transitions), batch.start.t()[None]


def _both_logs(batch: Chains) -> LogSums:
    turned = batch.turned[:, :, None].expand_as(batch.scores)
    scores, transitions, start = _log_inputs(batch)
    backwards = batch.scores.gather(1, turned).permute(1, 2, 0).unsqueeze(1)
    alpha, before, level = path_sums(
        torch.cat([scores, backwards], 1),
        torch.cat([transitions, transitions.transpose(1, 2)]),
        torch.cat([start, batch.end.t()[None]]),
    )
    forwards = alpha[:, 0].permute(2, 0, 1)
    beta = before[:, 1].permute(2, 0, 1).gather(1, turned)
    return LogSums(batch, forwards, beta, _last(batch, forwards, level[:, 0]))


def _last(batch: Chains, alpha: Tensor, level: Tensor) -> Tensor:
    """``log Z`` of alpha (B, T, S) and what is to be added to it (T, B), (B,)."""
    rows, last = torch.arange(len(alpha), device=alpha.device), batch.lengths - 1
    return ((alpha[rows, last] + batch.end).logsumexp(1) + level[last, rows]).to(alpha.dtype)
