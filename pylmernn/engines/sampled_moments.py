r"""What a draw of the effects tells of the parameters: second moments, and the information in the marginal likelihood.

Given omega the effects of a class are normal with mean ``m`` and precision ``M = Z' Omega Z + P``. Their second moments
are then ``m m' + M^-1``, whose sums over levels need no more than the draw itself: with ``delta = M^-1 e`` drawn and
``x = B^-1 e`` for the blocks B of M of each level, ``delta delta' - x x' + B^-1`` has the same mean as the block of
``M^-1``, and little noise where M is nearly block-diagonal.

Integrating b out given omega leaves a weighted linear mixed model, whose average information in the variances (Gilmour,
Thompson & Cullis 1995) and information in the fixed effects,

    AI_kl = 1/2 a_k' V^-1 a_l,  a_k = Z_k m_k / sigma_k^2,   X' V^-1 X,   V^-1 = Omega - Omega Z M^-1 Z' Omega,

turn the score of the complete data into steps of Newton's method for the marginal likelihood; the EM algorithm would
need hundreds where levels have few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pylmernn.engines.gibbs import Conditional, NormalEffects


def second_moments(given: Conditional) -> list[Tensor]:
    """``sum_j E[b_j b_j' | omega]`` of each term (d_k, d_k), averaged over chains."""
    system, effects = given.system, given.system.effects
    rough = system.by_blocks(given.noise)
    out = []
    for k, (mean, deviation, x) in enumerate(
        zip(*(effects.split(v[:, :, None]) for v in (given.mean, given.deviation, rough)), strict=True)
    ):
        total = _outer(mean) + _outer(deviation) - _outer(x)
        out.append((total + system.inverse_blocks(k).sum(dim=1)).mean(dim=0))
    return out


def _outer(b: Tensor) -> Tensor:
    """``sum_j b_j b_j'`` (S, d, d) of effects (S, q, d, 1)."""
    return torch.einsum("sqdc,sqec->sde", b, b)


@dataclass(frozen=True)
class Information:
    """Of one class, averaged over chains.

    Attributes
    ----------
    variances : Tensor (m, m)
        Average information in the logarithms of the variances of single columns.
    fixed : Tensor (p, p)
        ``X' V^-1 X``.
    """

    variances: Tensor
    fixed: Tensor


def information(
    system: NormalEffects,
    omega: Tensor,
    mean: Tensor,
    X: Tensor,
    columns: Sequence[tuple[int, int]],
    variances: Sequence[float],
) -> Information:
    """Information in the parameters of one class.

    Parameters
    ----------
    system : NormalEffects
    omega : Tensor (S, n)
        Weights of the rows.
    mean : Tensor (S, Q)
        Conditional means of the effects.
    X : Tensor (n, p)
    columns : sequence of (term, column)
        Whose effects have a variance of their own.
    variances : sequence of float
        These variances.
    """
    effects = system.effects
    directions, pulled = [], []
    for (term, column), variance in zip(columns, variances, strict=True):
        q, d = effects.shapes[term]
        only = torch.zeros_like(mean)
        at = slice(effects.offsets[term] + column, effects.offsets[term] + q * d, d)
        only[:, at] = mean[:, at] / variance
        cell = effects.cell_eta(only)
        directions.append(cell)
        pulled.append(effects.cell_sums(cell * system.weights))
    H = _quadratic(system, directions, pulled)
    scale = torch.as_tensor(variances, dtype=H.dtype, device=H.device)
    fixed = torch.empty((X.shape[1], X.shape[1]), dtype=H.dtype, device=H.device)
    if X.shape[1]:
        pulled = [effects.cell_sums(effects.to_cells(omega * column)) for column in X.T]
        solved = [system.solve(t, system.by_blocks(t))[0] for t in pulled]
        reduced = torch.stack([torch.stack([(t * x).sum(dim=1) for x in solved], dim=1) for t in pulled], dim=1)
        fixed = (torch.einsum("sn,ni,nj->sij", omega, X, X) - reduced).mean(dim=0)
    return Information(0.5 * H * torch.outer(scale, scale), 0.5 * (fixed + fixed.T))


def _quadratic(system: NormalEffects, directions: list[Tensor], pulled: list[Tensor]) -> Tensor:
    """``a_k' V^-1 a_l`` (m, m), averaged over chains."""
    m = len(directions)
    H = torch.zeros((m, m), dtype=system.weights.dtype, device=system.weights.device)
    for k in range(m):
        solved, _ = system.solve(pulled[k], system.by_blocks(pulled[k]))
        for other in range(k + 1):
            direct = (system.weights * directions[k] * directions[other]).sum(dim=1)
            H[k, other] = H[other, k] = (direct - (pulled[other] * solved).sum(dim=1)).mean()
    return H
