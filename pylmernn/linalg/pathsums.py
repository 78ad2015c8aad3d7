"""Log of sums over all paths of a chain of states, time by time: the loop of the forward algorithm.

Where transition scores span less than ``SPAN``, a step is a matrix product of exponentials around the largest term;
what underflows there is below exp(-47) of the sum that it belongs to. Elsewhere (forbidden transitions) every pair of
states has an exponential of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor
Step = Callable[[Tensor, Tensor], None]

SPAN = {torch.float32: 40.0, torch.float64: 600.0}  # of the exponents, -87 and -745, that do not underflow


def spans_little(transitions: Tensor) -> bool:
    """Whether no transition is so improbable beside others that its exponential could underflow."""
    return bool(transitions.max() - transitions.min() < SPAN.get(transitions.dtype, 0.0))


def path_sums(scores: Tensor, transitions: Tensor, start: Tensor, products: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The forward recursion of all sequences, beyond their ends too, in W ways side by side.

    The batch stands last, where memory is contiguous. Values are kept relative to the largest of the time before, so
    that they lose no digits in long sequences.

    Parameters
    ----------
    scores : Tensor, shape (T, W, S, B)
    transitions : Tensor, shape (W, S, S, B), or (W, S, S, 1) for shared ones
    start : Tensor, shape (W, S, B)
    products : bool
        Whether exponentials of transitions do not underflow.

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
    step = _products(transitions) if products else _pairs(transitions, scores)
    for now, earlier, reached, score, largest in zip(
        alpha[1:], alpha[:-1], before[1:], scores[1:], steps[1:], strict=True
    ):
        torch.amax(earlier, 1, keepdim=True, out=largest)
        step(earlier - largest, reached)
        torch.add(reached, score, out=now)
    return alpha, before, steps[:, :, 0].double().cumsum(0)


def _products(transitions: Tensor) -> Step:
    """``log(exp(T)' exp(alpha))``."""
    top = transitions.max()
    weights = (transitions - top).exp_()
    shared = weights.shape[3] == 1
    across = weights[..., 0].transpose(1, 2).contiguous() if shared else weights.contiguous()

    def step(alpha: Tensor, reached: Tensor) -> None:
        if shared:
            torch.bmm(across, alpha.exp_(), out=reached)
        else:
            torch.sum(across * alpha.exp_().unsqueeze(2), 1, out=reached)
        reached.log_().add_(top)

    return step


def _pairs(transitions: Tensor, scores: Tensor) -> Step:
    """The log of the sum of the exponentials of all pairs, whatever their size."""
    transitions = transitions.expand(*transitions.shape[:3], scores.shape[3])
    lowest = torch.finfo(scores.dtype).min

    def step(alpha: Tensor, reached: Tensor) -> None:
        terms = alpha.unsqueeze(2) + transitions
        largest = terms.amax(1).clamp_(min=lowest)  # a state that nothing reaches stays at -inf instead of NaN
        torch.sum(terms.sub_(largest.unsqueeze(1)).exp_(), 1, out=reached)
        reached.log_().add_(largest)

    return step
