"""Sums over all paths of a chain of states, time by time: the loop of the forward algorithm.

Where transition scores span little, :func:`scaled_path_sums` works on exponentials: a step is one matrix product, and
sums are divided by the largest of them only as often as their range needs. Elsewhere (forbidden transitions)
:func:`path_sums` works on logarithms, and every pair of states has an exponential of its own.
"""

from __future__ import annotations

import math

import torch

Tensor = torch.Tensor
Restarts = dict[int, Tensor]

ROOM = {torch.float32: 87.0, torch.float64: 708.0}  # exponents down to minus this keep their digits
DIGITS = {torch.float32: 20.0, torch.float64: 48.0}  # what is smaller than a sum by such an exponent is nothing


def steps_between_scalings(span: float, states: int, dtype: torch.dtype) -> int:
    """How many steps exponentials last until they must be scaled; 0 where they cannot hold a single one.

    In a step with weights of at most 1 the largest sum falls by ``span`` at most and rises by ``log(states)`` at most,
    and so it does in one way and in the other, whose product must not underflow. What is smaller than a sum by
    ``span`` and by all digits is without effect, as later sums even out by ``span`` at most.

    Parameters
    ----------
    span : float
        The largest transition score less the smallest.
    states : int
    dtype : torch.dtype
    """
    room = ROOM.get(dtype, 0.0) - DIGITS.get(dtype, 0.0)
    if not span < room:  # NaN has no room either
        return 0
    return max(0, int(room / (2.0 * (span + math.log(states)))) - 1)


def scaled_path_sums(
    weights: Tensor, transitions: Tensor, first: Tensor, before: Tensor, every: int, restarts: Restarts
) -> tuple[Tensor, Tensor, Tensor]:
    """The forward recursion of exponentials of all sequences, beyond their ends too, in W ways side by side.

    The batch stands last, where memory is contiguous.

    Parameters
    ----------
    weights : Tensor, shape (T, W, S, B)
        Exponentials of the scores, 1 for the best state of a time.
    transitions : Tensor, shape (W, S, S, B), or (W, S, S, 1) for shared ones
        Exponentials, from the first to the second axis, at most 1.
    first, before : Tensor, shape (W, S, B)
        The sums at the first time, with and without its weight.
    every : int
        Steps between two scalings.
    restarts : dict from int to Tensor of int64
        Times at which some sequences begin anew with ``before`` in the last way.

    Returns
    -------
    sums, before : Tensor, shape (T, W, S, B)
        With and without the weight at the time itself: ``before[t] = transitions' sums[t - 1]`` exactly, as scalings
        change only sums.
    level : Tensor of float64, shape (T, W, B)
        The log of what sums are to be multiplied by.
    """
    sums, all_before = torch.empty_like(weights), torch.empty_like(weights)
    sums[0], all_before[0] = first, before
    largest = weights.new_ones((len(weights), *first.shape[:1], 1, first.shape[2]))
    times = zip(sums.unbind()[1:], all_before.unbind()[1:], weights.unbind()[1:], strict=True)
    shared = transitions.shape[3] == 1
    across = transitions[..., 0].transpose(1, 2).contiguous() if shared else transitions.contiguous()
    now = sums[0]
    for t, (following, reached, weight) in enumerate(times):
        if t % every == 0:
            torch.amax(now, 1, keepdim=True, out=largest[t])
            now /= largest[t]
        if shared:
            torch.bmm(across, now, out=reached)
        else:
            torch.sum(across * now.unsqueeze(2), 1, out=reached)
        if t + 1 in restarts:
            which = restarts[t + 1]
            reached[-1, :, which] = before[-1, :, which]
        torch.mul(reached, weight, out=following)
        now = following
    return sums, all_before, largest[:, :, 0].double().log_().cumsum(0)


def path_sums(scores: Tensor, transitions: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The forward recursion of logarithms, whatever their size.

    Values are kept relative to the largest of the time before, so that they lose no digits in long sequences.

    Parameters
    ----------
    scores : Tensor, shape (T, W, S, B)
    transitions : Tensor, shape (W, S, S, B), or (W, S, S, 1) for shared ones
    start : Tensor, shape (W, S, B)

    Returns
    -------
    alpha, before : Tensor, shape (T, W, S, B)
        With and without the score at the time itself.
    level : Tensor of float64, shape (T, W, B)
        What is to be added to both.
    """
    alpha, before = torch.empty_like(scores), torch.empty_like(scores)
    before[0] = start
    torch.add(before[0], scores[0], out=alpha[0])
    steps = scores.new_zeros((len(scores), len(start), 1, scores.shape[3]))
    lowest = torch.finfo(scores.dtype).min
    for now, earlier, reached, score, largest in zip(
        alpha[1:], alpha[:-1], before[1:], scores[1:], steps[1:], strict=True
    ):
        torch.amax(earlier, 1, keepdim=True, out=largest)
        terms = (earlier - largest).unsqueeze(2) + transitions
        greatest = terms.amax(1).clamp_(min=lowest)  # a state that nothing reaches stays at -inf instead of NaN
        torch.sum(terms.sub_(greatest.unsqueeze(1)).exp_(), 1, out=reached)
        reached.log_().add_(greatest)
        torch.add(reached, score, out=now)
    return alpha, before, steps[:, :, 0].double().cumsum(0)
