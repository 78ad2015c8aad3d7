"""Deviations of reduced rank, ``eta_i = U a_i`` with ``a_i ~ N(0, I)``: the EM step for U.

Given the posterior of the scores a_i, U minimises ``sum_i E|r_i - J_i U a_i|^2 / sigma^2 + penalty |U|^2``, a linear
system in all of U. A few conjugate gradient steps from the U at hand raise the likelihood, which is all that EM needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pylmernn.engines.nme_posterior import Posterior

Tensor = torch.Tensor

STEPS = 4  # of conjugate gradients


def reduced_factor(
    J: Tensor, r: Tensor, codes: Tensor, U: Tensor, found: Posterior, sigma2: float, penalty: float
) -> Tensor:
    """The next U.

    Parameters
    ----------
    J : Tensor, shape (n, D)
    r : Tensor, shape (n,)
    codes : Tensor of int, shape (n,)
    U : Tensor, shape (D, k)
    found : Posterior
        For this U, with variances.
    sigma2, penalty : float

    Returns
    -------
    Tensor, shape (D, k)
    """
    return reduced_step(lambda V: J @ V, lambda W: J.T @ W, r, codes, U, found, sigma2 * penalty)


def reduced_step(
    times: Callable[[Tensor], Tensor],
    transposed: Callable[[Tensor], Tensor],
    r: Tensor,
    codes: Tensor,
    U: Tensor,
    found: Posterior,
    ridge: float,
) -> Tensor:
    """:func:`reduced_factor` for J given by its products with (D, k) and, transposed, with (n, k)."""
    assert found.score_variances is not None
    mean = found.scores[codes]
    second = (found.score_variances + found.scores[:, :, None] * found.scores[:, None, :])[codes]

    def normal(V: Tensor) -> Tensor:
        return transposed(torch.einsum("nk,nkl->nl", times(V), second)) + ridge * V

    residual = transposed(r[:, None] * mean) - normal(U)
    direction, size = residual.clone(), (residual**2).sum()
    for _ in range(STEPS):
        image = normal(direction)
        length = size / (direction * image).sum().clamp(min=1e-300)
        U = U + length * direction
        residual = residual - length * image
        size, before = (residual**2).sum(), size
        direction = residual + (size / before.clamp(min=1e-300)) * direction
    return U
