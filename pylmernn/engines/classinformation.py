r"""Information in the parameters of a multinomial model, with all classes together.

Given effects b the rows' information in their C linear predictors is ``W_i = w_i (diag(p_i) - p_i p_i')``. With the
effects integrated out to first order, as in a weighted linear mixed model, a direction a in the linear predictors has

    a' V^-1 a = a' W a - a' W Z M^-1 Z' W a,    M = Z' W Z + P,

where Z and P are those of all classes side by side. That takes classes neither as known to each other nor as apart:
what is common to all classes has no information. For variances this is the average information of Gilmour, Thompson &
Cullis (1995) again, with ``a = Z_k m_k / sigma_k^2`` in one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pylmernn.engines.effects import Effects, Prior
from pylmernn.engines.gibbs import NormalEffects, conjugate_gradients

#: Directions times rows times classes up to which all classes are taken together, and over how many draws.
WITHIN_REACH, OF_DRAWS = 200_000_000, 20_000_000


@dataclass(frozen=True)
class ClassInformation:
    """Of all classes together.

    Attributes
    ----------
    fixed : Tensor (p * C, p * C)
        In the fixed effects, the classes of a column side by side; of rank p (C - 1).
    variances : Tensor (m * C, m * C)
        In the logarithms of the variances of single columns, the classes of a column side by side.
    pull : Tensor (p * C, Q, C)
        ``M^-1 Z' W X``: how far the effects go down where a fixed effect goes up.
    """

    fixed: Tensor
    variances: Tensor
    pull: Tensor


def draws_within_reach(n: int, n_classes: int, p: int, m: int) -> int:
    """Over how many draws the information takes a time worth it; 0 for none.

    It takes one solution a class of every column and variance. The more rows there are, the less draws differ.
    """
    numbers = (p + m) * n_classes * n * n_classes
    return 0 if numbers > WITHIN_REACH else max(1, OF_DRAWS // max(numbers, 1))


def class_information(
    effects: Effects,
    prior: Prior,
    probabilities: Tensor,
    weights: Tensor,
    X: Tensor,
    mean: Tensor,
    columns: Sequence[tuple[int, int]],
    variances: Tensor,
) -> ClassInformation:
    """Information in all parameters.

    Parameters
    ----------
    effects : Effects
    prior : Prior
    probabilities : Tensor (n, C)
    weights : Tensor (n,)
    X : Tensor (n, p)
    mean : Tensor (Q, C)
        Posterior means of the effects.
    columns : sequence of (term, column)
        Whose effects have a variance of their own.
    variances : Tensor (m, C)
        These variances.
    """
    rows = _JointRows(effects, prior, probabilities, weights)
    C = probabilities.shape[1]
    nothing = torch.zeros_like(probabilities)
    fixed = []
    for column in X.T:
        for c in range(C):
            fixed.append(nothing.clone())
            fixed[-1][:, c] = column
    of_variances = []
    for (term, column), own in zip(columns, variances, strict=True):
        q, d = effects.shapes[term]
        only = torch.zeros_like(mean)
        at = slice(effects.offsets[term] + column, effects.offsets[term] + q * d, d)
        only[at] = mean[at]
        eta = effects.eta(only[None])[0]
        for c in range(C):
            of_variances.append(nothing.clone())
            of_variances[-1][:, c] = eta[:, c] / own[c]
    scale = variances.reshape(-1)
    in_fixed, solved = rows.information(fixed)
    in_variances, _ = rows.information(of_variances)
    pull = solved.reshape(len(fixed), C, effects.size).transpose(1, 2)
    return ClassInformation(in_fixed, 0.5 * in_variances * torch.outer(scale, scale), pull)


class _JointRows:
    """W, Z and P of all classes together."""

    def __init__(self, effects: Effects, prior: Prior, probabilities: Tensor, weights: Tensor) -> None:
        self.effects, self.prior = effects, prior
        self.p = probabilities
        self.wp = probabilities * weights[:, None]
        own = (self.wp * (1.0 - probabilities)).T.contiguous()
        self.blocks = NormalEffects(effects, effects.to_cells(own), prior)

    def weigh(self, eta: Tensor) -> Tensor:
        """``W eta`` of linear predictors (n, C)."""
        return self.wp * (eta - (self.p * eta).sum(dim=1, keepdim=True))

    def pulled(self, v: Tensor) -> Tensor:
        """``Z' v`` (1, C * Q) of v (n, C)."""
        return self.effects.by_effect(v[None])[0].T.reshape(1, -1)

    def _apply(self, x: Tensor) -> Tensor:
        b = x.reshape(-1, self.effects.size)
        eta = self.effects.eta(b.T[None])[0]
        return self.pulled(self.weigh(eta)) + self.prior.apply_rows(b).reshape(1, -1)

    def _precondition(self, x: Tensor) -> Tensor:
        return self.blocks.by_blocks(x.reshape(-1, self.effects.size)).reshape(1, -1)

    def information(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``a' V^-1 a`` of directions (n, C) each, and ``M^-1 Z' W a`` (directions, C * Q)."""
        size = len(directions)
        out = torch.zeros((size, size), dtype=torch.float64, device=self.p.device)
        weighed = [self.weigh(direction) for direction in directions]
        pulled = [self.pulled(v) for v in weighed]
        solved: list[Tensor] = []
        for k in range(size):
            start = self._precondition(pulled[k])
            solved.append(conjugate_gradients(self._apply, self._precondition, pulled[k], start)[0])
            for other in range(k + 1):
                value = (weighed[k] * directions[other]).sum() - (pulled[other] * solved[k]).sum()
                out[k, other] = out[other, k] = value
        return out, torch.cat(solved) if solved else out.new_empty(0, self.effects.size * self.p.shape[1])
