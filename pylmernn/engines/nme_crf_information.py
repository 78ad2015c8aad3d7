"""Covariance of the coefficients and shared transitions of a sequence model, network and variances as they are.

With psi the coefficients and transitions that all share, and ``v_i = L u_i`` what varies, minus the Hessian of
``sum_i log p(y_i; psi, v_i) - u_i'u_i / 2`` at the modes has blocks A (psi), B_i (psi and u_i) and C_i (u_i). The
information of psi in the likelihood that is maximised over all u_i is ``A - sum_i B_i C_i^-1 B_i'``, as lme4 has it
with ``use.hessian = FALSE``. Known of psi are scores less their mean over the states and transitions less their mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_crf_model import DIFFERENCE, HELD_NUMBERS, Batch, SequenceScores
from pylmernn.mean.crf import chains, log_likelihood

if TYPE_CHECKING:
    from pylmernn.engines.nme_crf import SequenceTraining

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

FLAT = 1e-7  # of the largest curvature: directions of which data tell less than that


def fixed_covariance(training: SequenceTraining) -> FloatArray:
    """Covariance (P, P) of coefficients (p, S) and transitions (S, S), row by row, centred as ``fixef()`` has them.

    Directions of which the data tell nothing, such as a state that never follows another, have huge variances.
    """
    model = training.model
    model.eval()
    centre = centring(model)
    information = centre @ information_of(model, training.data, training.posterior.u, training.factor) @ centre
    values, vectors = torch.linalg.eigh(information)
    null = len(centre) - round(float(torch.trace(centre)))
    known = torch.argsort(values.abs())[null:]  # the null space comes first
    floored = values[known].clamp(min=FLAT * float(values.max()))
    return np.asarray(((vectors[:, known] / floored) @ vectors[:, known].T).numpy())


def centring(model: SequenceScores) -> Tensor:
    """The projection (P, P) that takes from the coefficients of a column, and from transitions, their means."""
    p, S = model.beta.shape
    blocks = [S] * p + [S * S]
    return torch.block_diag(*(torch.eye(size).double() - 1.0 / size for size in blocks))


def information_of(model: SequenceScores, data: Batch, u: Tensor, L: Tensor) -> Tensor:
    """Of psi (P, P), at spherical deviations (q, D) with ``v = u L'``; without any, of all sequences together."""
    P = model.beta.numel() + model.transitions.numel()
    if not len(u):
        data, u = Batch(**{**vars(data), "groups": torch.zeros_like(data.groups)}), u.new_zeros(1, 0)
    some = torch.cat([torch.ones(P, dtype=torch.bool), (L != 0).any(1)])
    H = joint_curvature(model, data, u @ L.T, some)
    L = L[some[P:]]
    A, B = H[:, :P, :P].sum(0), H[:, :P, P:] @ L
    C = L.T @ H[:, P:, P:] @ L + torch.eye(L.shape[1], dtype=L.dtype)
    found: Tensor = A - (B @ torch.linalg.solve(C, B.transpose(1, 2))).sum(0)
    return (found + found.T) / 2


def joint_curvature(model: SequenceScores, data: Batch, v: Tensor, some: Tensor) -> Tensor:
    """Minus the Hessian of each group's log-likelihood in psi and some of its deviations, (q, K, K)."""
    P = len(some) - v.shape[1]
    w = torch.cat([v.new_zeros(len(v), P), v], dim=1)
    at = torch.nonzero(some)[:, 0]
    copies = torch.cat([w[None], w + DIFFERENCE * torch.eye(len(some), dtype=v.dtype)[at][:, None]])
    found = joint_gradients(model, data, copies)[:, :, at]
    H = -(found[1:] - found[0]).permute(1, 2, 0) / DIFFERENCE
    return (H + H.transpose(1, 2)) / 2


def joint_gradients(model: SequenceScores, data: Batch, w: Tensor) -> Tensor:
    """Derivatives of each group's log-likelihood, for c copies of what is added to psi, and of v: (c, q, P + D)."""
    B, T, _ = data.prepared.shape
    p, S = model.beta.shape
    step, found = max(1, HELD_NUMBERS // max(1, B * T * max(S, p))), []
    for first in range(0, len(w), step):
        part = w[first : first + step].detach().requires_grad_(True)
        c = len(part)
        several = Batch(*(each.repeat(c, *[1] * (each.ndim - 1)) for each in vars(data).values()))
        own = part[:, data.groups].reshape(c * B, -1)
        beta, moves, v = own.split([p * S, S * S, own.shape[1] - p * S - S * S], dim=1)
        plain = model.batch(several, v)
        scores = plain.scores + several.X @ beta.reshape(c * B, p, S)
        moved = chains(scores, plain.transitions + moves.reshape(c * B, S, S), several.lengths)
        found.append(torch.autograd.grad(log_likelihood(moved, several.states).sum(), part)[0])
    return torch.cat(found)
