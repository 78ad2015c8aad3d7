"""Draws of fixed and random effects together of a multinomial model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.chains import Draws
from pylmernn.engines.multinomial import JointDraws

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float64]

JOINT_DRAWS, JOINT_NUMBERS, FEWEST = 200, 2_000_000, 20  # kept; numbers in all of them; and however many these are


def joint_draws(
    draws: Draws, beta: FloatArray, covariance: FloatArray | None, pull: Tensor | None, seed: int
) -> JointDraws:
    """Some draws of the random effects, with the fixed effects drawn around their estimates.

    The sampler takes the fixed effects as they were estimated. Where they are higher by h, the effects of levels that
    were seen are lower by about ``M^-1 Z' W X h``, so that what the data tell of both together is kept.

    Parameters
    ----------
    draws : Draws
    beta : ndarray, shape (p, C)
    covariance : ndarray, shape (p * C, p * C), or None
    pull : Tensor (p * C, Q, C), or None
        Without it beta stays as it is.
    seed : int
    """
    kept = draws.b[0].shape[0] * draws.b[0].shape[1]
    numbers = sum(int(np.prod(b.shape[2:])) for b in draws.b)
    size = min(kept, max(FEWEST, min(JOINT_DRAWS, JOINT_NUMBERS // max(numbers, 1))))
    chosen = np.unique(np.linspace(0, kept - 1, size).round().astype(int))
    b = [part.reshape(kept, *part.shape[2:])[chosen] for part in draws.b]
    if covariance is None or pull is None:
        return JointDraws(np.repeat(beta[None].astype(np.float32), len(chosen), axis=0), tuple(b))
    values, vectors = np.linalg.eigh(covariance)
    z = np.random.default_rng(seed).standard_normal((len(chosen), len(values)))
    away = z @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    along = np.einsum("sj,jqc->sqc", away, pull.cpu().numpy())
    starts = np.cumsum([0, *(part.shape[1] * part.shape[2] for part in b)])
    moved = [
        (part - along[:, begin:end].reshape(part.shape)).astype(np.float32)
        for part, begin, end in zip(b, starts[:-1], starts[1:], strict=True)
    ]
    return JointDraws((beta + away.reshape(-1, *beta.shape)).astype(np.float32), tuple(moved))
