"""A checked batch of sequences with the scores of their states and transitions, for :mod:`pylmernn.mean.crf`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


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
    if int(lengths.min()) < times:  # padding may hold anything, NaN too
        outside = torch.arange(times, device=scores.device) >= lengths[:, None]
        scores = scores.masked_fill(outside[:, :, None], 0.0)
    return Chains(scores, transitions, ends[0], ends[1], lengths)
