"""New responses from networks that vary by several bars, or beside ordinary ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_several_bars import BarEstimates, cells_of
from pylmernn.engines.nme_several_predict import deviations
from pylmernn.formula.design import FloatArray, IntArray


def linear_predictors(
    estimates: Any,
    fixed: FloatArray,
    inputs: FloatArray,
    codes: Sequence[IntArray],
    columns: Sequence[FloatArray],
    kept: Sequence[NDArray[np.bool_]],
    nsim: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Linear predictors with random effects as they are or drawn, (m, nsim).

    Parameters
    ----------
    estimates : SeveralEstimates
    fixed : ndarray, shape (m,)
        What else is in the linear predictors.
    inputs : ndarray, shape (m, k)
    codes : of each bar, those of the network first, ndarray of int, shape (m,)
        Levels; from the number of known ones on, one for each level that is not known.
    columns : of each ordinary bar, ndarray, shape (m, d)
    kept : of each bar, bool ndarray, shape (d,)
        Which effects of known levels stay as they were estimated. All others are drawn from N(0, Sigma).
    nsim : int
    rng : numpy Generator
    """
    bars, count = [*estimates.varying, *estimates.random], len(estimates.varying)
    cells, network = cells_of(codes[:count]), network_of(estimates)
    prepared, at = network.module.prepare(np.nan_to_num(inputs)), torch.from_numpy(cells.codes.astype(np.int64))
    missing = np.isnan(inputs).any(axis=1)
    out = np.empty((len(fixed), nsim))
    for draw in range(nsim):
        effects = [drawn(bar, own, keep, rng) for bar, own, keep in zip(bars, codes, kept, strict=True)]
        eta = deviations(estimates.varying, effects[:count], cells.levels, estimates.selected.size)
        f = estimates.networks.scale * network.rows(prepared, torch.from_numpy(eta).float(), at).double().numpy()
        total = np.where(missing, np.nan, fixed + f)
        for own, Z, b in zip(codes[count:], columns, effects[count:], strict=True):
            total = total + (Z * b[own]).sum(axis=1)
        out[:, draw] = total
    return out


def drawn(bar: BarEstimates, codes: IntArray, kept: NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
    """Effects of all levels of a bar, (q', d), known ones as they are where ``kept`` (d,) says so."""
    known = len(bar.effects)
    q = max(known, int(codes.max(initial=-1)) + 1)
    if kept.all() and q == known:
        return bar.effects
    normal = rng.standard_normal((q, bar.factor.shape[-1]))
    b = normal * bar.factor if bar.factor.ndim == 1 else normal @ bar.factor.T
    b[:known, kept] = bar.effects[:, kept]
    return np.asarray(b)
