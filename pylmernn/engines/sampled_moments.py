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

from pylmernn.engines.effects import Effects
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


def corrected_means(b: Tensor, centre: Tensor, step: Tensor) -> Tensor:
    """Means of the effects (Q, C) over chains (S, Q, C), less what :func:`corrected_moments` calls their noise."""
    away = b - centre
    share = _share((away * step).sum(), (step * step).sum())
    return (b + share * step).mean(dim=0)


def corrected_moments(effects: Effects, b: Tensor, centre: Tensor, step: Tensor, variances: Tensor) -> list[Tensor]:
    """``sum_j E[b_j b_j']`` of each term and class (d_k, d_k, C) from draws and gradients, averaged over chains.

    A gradient g of a log-density has mean zero, and ``(b - m) g'`` has minus the identity for whatever m (Mira, Solgi &
    Imparato 2013, Stat. Comput. 23:653). So a share may be added, for any constants V, of

        u = m (V g)' + (V g) m' + ((b - m) (V g)' + (V g) (b - m)') / 2 + V

    to ``b b'``. All of it leaves nothing to chance in a normal distribution with mean m and variances V. Where effects
    depend on each other less is better: the share of a term is that with the least noise over its levels.

    Parameters
    ----------
    effects : Effects
    b : Tensor (S, Q, C)
        Draws.
    centre, variances : Tensor (Q, C)
        m and the diagonal of V, which must not depend on the draws.
    step : Tensor (S, Q, C)
        V g.
    """
    out = []
    parts = zip(*(effects.split(v) for v in (b, centre[None], step, variances[None])), strict=True)
    for drawn, middle, moved, spread in parts:
        half = 0.5 * (drawn + middle)
        beyond = (drawn * drawn - middle * middle - spread).sum(dim=2)
        added = (2.0 * half * moved + spread).sum(dim=2)
        share = _share((beyond * added).sum(), (added * added).sum())
        cross = torch.einsum("sqdc,sqec->dec", half, moved)
        extra = (cross + cross.transpose(0, 1)) / len(b) + spread[0].sum(dim=0).T.diag_embed().permute(1, 2, 0)
        out.append(torch.einsum("sqdc,sqec->dec", drawn, drawn) / len(b) + share * extra)
    return out


def _share(product: Tensor, square: Tensor) -> Tensor:
    """Of what has mean zero that takes most noise out, between none and all of it."""
    return (-product / square.clamp_min(1e-300)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Information:
    """Of one class, averaged over chains.

    Attributes
    ----------
    variances : Tensor (m, m)
        Average information in the logarithms of the variances of single columns.
    fixed : Tensor (p, p)
        ``X' V^-1 X``.
    pull : Tensor (Q, p)
        ``M^-1 Z' Omega X``: how the effects go along with the fixed ones.
    """

    variances: Tensor
    fixed: Tensor
    pull: Tensor


def information(
    system: NormalEffects,
    omega: Tensor,
    mean: Tensor,
    X: Tensor,
    columns: Sequence[tuple[int, int]],
    variances: Sequence[float],
) -> Information:
    """Information in the parameters of one class, averaged over chains.

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
    scale = torch.as_tensor(variances, dtype=mean.dtype, device=mean.device).expand(len(mean), -1)
    rows = informations(system, omega, mean, X, columns, scale)
    parts = ([getattr(one, name) for one in rows] for name in ("variances", "fixed", "pull"))
    return Information(*(torch.stack(part).mean(dim=0) for part in parts))


def informations(
    system: NormalEffects,
    omega: Tensor,
    mean: Tensor,
    X: Tensor,
    columns: Sequence[tuple[int, int]],
    variances: Tensor,
) -> list[Information]:
    """The same of each row S of the system on its own, with variances (S, m): of chains, or of classes."""
    effects = system.effects
    directions, pulled = [], []
    for j, (term, column) in enumerate(columns):
        q, d = effects.shapes[term]
        only = torch.zeros_like(mean)
        at = slice(effects.offsets[term] + column, effects.offsets[term] + q * d, d)
        only[:, at] = mean[:, at] / variances[:, j, None]
        cell = effects.cell_eta(only)
        directions.append(cell)
        pulled.append(effects.cell_sums(cell * system.weights))
    H = 0.5 * _quadratic(system, directions, pulled) * variances[:, :, None] * variances[:, None, :]
    S, p = len(mean), X.shape[1]
    fixed, pull = mean.new_empty(S, p, p), mean.new_empty(S, effects.size, p)
    if p:
        pulled = [effects.cell_sums(effects.to_cells(omega * column)) for column in X.T]
        solved = [system.solve(t, system.by_blocks(t))[0] for t in pulled]
        reduced = torch.stack([torch.stack([(t * x).sum(dim=1) for x in solved], dim=1) for t in pulled], dim=1)
        fixed = torch.einsum("sn,ni,nj->sij", omega, X, X) - reduced
        fixed, pull = 0.5 * (fixed + fixed.transpose(1, 2)), torch.stack(solved, dim=2)
    return [Information(H[s], fixed[s], pull[s]) for s in range(S)]


def _quadratic(system: NormalEffects, directions: list[Tensor], pulled: list[Tensor]) -> Tensor:
    """``a_k' V^-1 a_l`` (S, m, m)."""
    m = len(directions)
    H = torch.zeros((len(system.weights), m, m), dtype=system.weights.dtype, device=system.weights.device)
    for k in range(m):
        solved, _ = system.solve(pulled[k], system.by_blocks(pulled[k]))
        for other in range(k + 1):
            direct = (system.weights * directions[k] * directions[other]).sum(dim=1)
            H[:, k, other] = H[:, other, k] = direct - (pulled[other] * solved).sum(dim=1)
    return H
