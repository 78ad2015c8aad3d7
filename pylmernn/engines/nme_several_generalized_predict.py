"""Averages of a fitted generalized model whose network varies by several bars, and what rows of new levels tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_generalized_predict import means
from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates
from pylmernn.engines.nme_several_predict import Fresh, draw_of, values
from pylmernn.engines.nme_working import Rows

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int32]


def averaged_means(
    estimates: SeveralGeneralizedEstimates,
    inputs: FloatArray,
    fixed: FloatArray,
    codes: Sequence[Codes],
    columns: Sequence[FloatArray],
    draws: int,
    seed: int,
) -> FloatArray:
    """Means of the response at rows, averaged over draws of the random effects of levels that are not known.

    Parameters
    ----------
    estimates : SeveralGeneralizedEstimates
    inputs : ndarray, shape (m, k)
    fixed : ndarray, shape (m,)
        What else is in the linear predictors.
    codes : of each bar, those of the network first, ndarray of int, shape (m,)
        Levels, -1 for those that are not known: all of a bar have one draw.
    columns : of each ordinary bar, ndarray, shape (m, d)
    draws, seed : int
    """
    rng, bars = np.random.default_rng(seed), [*estimates.varying, *estimates.random]
    count = len(estimates.varying)
    shown = [np.where(own < 0, len(bar.effects), own).astype(np.int32) for own, bar in zip(codes, bars, strict=True)]
    total: FloatArray = np.zeros(0)
    for draw in range(draws):
        drawn = [dataclasses.replace(bar, effects=np.vstack([bar.effects, draw_of(bar, rng)])) for bar in bars]
        own = dataclasses.replace(estimates, varying=tuple(drawn[:count]), random=tuple(drawn[count:]))
        eta = fixed + values(own, inputs, shown[:count])
        for bar, level, Z in zip(drawn[count:], shown[count:], columns, strict=True):
            eta = eta + (Z * bar.effects[level]).sum(axis=1)
        found = means(estimates, eta)
        total = found if draw == 0 else total + found
    return total / draws


def information_with(
    estimates: SeveralGeneralizedEstimates,
    responses: Responses,
    inputs: FloatArray,
    fresh: Sequence[Fresh],
    found: Sequence[tuple[FloatArray, FloatArray]],
) -> FloatArray:
    """What rows tell of their linear predictors (m,), once effects of new levels are found from them.

    Parameters are as :func:`pylmernn.engines.nme_several_predict.new_effects` takes and returns them.
    """
    bars, count = [*estimates.varying, *estimates.random], len(estimates.varying)
    grown = [np.concatenate([bar.effects, b]) for bar, (b, _) in zip(bars, found, strict=True)]
    now = [dataclasses.replace(bar, effects=b) for bar, b in zip(estimates.varying, grown, strict=False)]
    own = dataclasses.replace(estimates, varying=tuple(now))
    total = values(own, inputs, [each.codes for each in fresh[:count]])
    for each, b in zip(fresh[count:], grown[count:], strict=True):
        assert each.columns is not None
        total = total + (each.columns * b[each.codes]).sum(axis=1)
    return responses.working(total)[1]


class Responses:
    """Responses of new rows under a family, as :func:`pylmernn.engines.nme_several_predict.new_effects` takes them.

    Parameters
    ----------
    estimates : SeveralGeneralizedEstimates
    y, weights : ndarray, shape (m,)
    fixed : ndarray, shape (m,)
        Offset and ``X beta``.
    """

    is_number = False

    def __init__(
        self, estimates: SeveralGeneralizedEstimates, y: FloatArray, weights: FloatArray, fixed: FloatArray
    ) -> None:
        assert estimates.family is not None
        self.rows, self.phi, self.fixed = Rows(estimates.family, y, weights), estimates.phi, fixed

    def working(self, predictor: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Working residuals and weights at values (m,) of network and random effects."""
        root, residual = self.rows.working(self._eta(predictor), self.phi)
        root = root[:, 0, 0]
        return (residual[:, 0] / root).numpy(), (root**2).numpy()

    def misfit(self, predictor: FloatArray) -> float:
        """The deviance, but for a constant."""
        return float(self.rows.deviance(self._eta(predictor), self.phi).sum())

    def _eta(self, predictor: FloatArray) -> torch.Tensor:
        return torch.from_numpy(self.fixed + predictor)[:, None]
