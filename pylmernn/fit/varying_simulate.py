"""New responses from networks that vary by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_working import is_generalized
from pylmernn.fit.simulate import draw_codes
from pylmernn.formula.design import FloatArray, IntArray


def linear_predictors(
    estimates: VaryingEstimates,
    fixed: FloatArray,
    inputs: FloatArray,
    codes: IntArray,
    drawn: bool,
    nsim: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Linear predictors with deviations as they are or drawn, (m, nsim) or (m, C, nsim).

    Parameters
    ----------
    estimates : VaryingEstimates
    fixed : ndarray, shape (m,) or (m, C)
        What else is in the linear predictors.
    inputs : ndarray, shape (m, k)
    codes : ndarray of int, shape (m,)
        Row of ``estimates.effects`` of each row; from their number on, one for each group that is not known.
    drawn : bool
        Whether deviations of all groups are drawn from N(0, Sigma); those of groups that are not known always are.
    nsim : int
    rng : numpy Generator
    """
    network, known = network_of(estimates), len(estimates.effects)
    prepared = network.module.prepare(np.nan_to_num(inputs))
    q = max(known, int(codes.max(initial=-1)) + 1)
    factor, at = estimates.factor, torch.from_numpy(codes.astype(np.int64))
    missing = np.isnan(inputs).any(axis=1)
    out = []
    for _ in range(nsim):
        normal = rng.standard_normal((q, factor.shape[-1]))
        eta = normal * factor if factor.ndim == 1 else normal @ factor.T
        if not drawn:
            eta[:known] = estimates.effects
        f = estimates.networks.scale * network.rows(prepared, torch.from_numpy(eta).float(), at).double().numpy()
        f[missing] = np.nan
        out.append(fixed + f)
    return np.stack(out, axis=-1)


def responses(estimates: Any, eta: FloatArray, weights: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Responses (m, nsim) at linear predictors (m, nsim) or (m, C, nsim); codes of the classes of a categorical one.

    Parameters
    ----------
    estimates : VaryingEstimates or SeveralEstimates
    eta : ndarray
    weights : ndarray, shape (m,)
    rng : numpy Generator
    """
    if not is_generalized(estimates):
        return np.asarray(eta + estimates.sigma / np.sqrt(weights)[:, None] * rng.standard_normal(eta.shape))
    family, phi = estimates.family, estimates.phi
    columns = [np.ascontiguousarray(eta[..., draw]) for draw in range(eta.shape[-1])]
    if family.categorical:
        return np.column_stack([draw_codes(family.probabilities(column, phi), rng) for column in columns])
    return np.column_stack([family.draw(rng, family.link.inverse(column), weights, phi) for column in columns])
