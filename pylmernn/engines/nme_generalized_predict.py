"""Values of a fitted generalized model whose network varies by group, and deviations of new groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.engines.nme_generalized_model import jacobians
from pylmernn.engines.nme_posterior import Groups, posterior
from pylmernn.engines.nme_predict import ENOUGH, network_of
from pylmernn.engines.nme_working import Rows

if TYPE_CHECKING:
    from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates

FloatArray = NDArray[np.float64]

STEPS, HALVINGS = 30, 8  # of Gauss-Newton, and of a step that raises the penalised deviance


def means(estimates: GeneralizedVaryingEstimates | SeveralGeneralizedEstimates, eta: FloatArray) -> FloatArray:
    """Means (m,) of the response at linear predictors (m,) or (m, C); probabilities (m, C) where it is a class."""
    family = estimates.family
    assert family is not None
    if family.categorical:
        return family.probabilities(eta, estimates.phi)
    return family.mean(eta, estimates.phi)


def averaged_means(
    estimates: GeneralizedVaryingEstimates, inputs: FloatArray, fixed: FloatArray, draws: int, seed: int
) -> FloatArray:
    """Means of the response at rows (m, k), averaged over draws of deviations from N(0, Sigma).

    Parameters
    ----------
    estimates : GeneralizedVaryingEstimates
    inputs : ndarray, shape (m, k)
    fixed : ndarray, shape (m,) or (m, C)
        What else is in the linear predictors.
    draws, seed : int
    """
    network = network_of(estimates)
    prepared = network.module.prepare(np.nan_to_num(inputs))
    factor = torch.from_numpy(estimates.factor)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(len(inputs), dtype=torch.int64)
    total: FloatArray = np.zeros(0)
    for draw in range(draws):
        normal = torch.randn(factor.shape[-1], generator=generator, dtype=torch.float64)
        eta = (factor * normal if factor.ndim == 1 else factor @ normal)[None].float()
        found = means(estimates, fixed + network.rows(prepared, eta, codes).double().numpy())
        total = found if draw == 0 else total + found
    total = total / draws
    total[np.isnan(inputs).any(axis=1)] = np.nan
    return total


def new_effects(
    estimates: GeneralizedVaryingEstimates,
    inputs: FloatArray,
    fixed: FloatArray,
    data: Rows,
    codes: NDArray[np.int32],
    q: int,
) -> tuple[FloatArray, FloatArray]:
    """Deviations of groups from rows of theirs, all else known.

    Parameters
    ----------
    estimates : GeneralizedVaryingEstimates
    inputs : ndarray, shape (m, k)
    fixed : ndarray, shape (m, C)
        Linear predictors but for the network.
    data : Rows
        Responses of these rows.
    codes : ndarray of int, shape (m,)
        Group of each row, 0 to q - 1.
    q : int

    Returns
    -------
    effects : ndarray, shape (q, D)
        Posterior modes.
    variances : ndarray, shape (q, D, D) or (q, D)
    """
    network, C = network_of(estimates), data.outputs
    prepared, at = network.module.prepare(inputs), torch.from_numpy(codes.astype(np.int64))
    factor, known = torch.from_numpy(estimates.factor), torch.from_numpy(fixed)
    repeated = at.repeat_interleave(C)
    groups = Groups(repeated.numpy().astype(np.int32), q, estimates.selected.size)

    def penalised(deviations: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        f = network.rows(prepared, deviations.float(), at).double().reshape(-1, C)
        rows = data.deviance(known + f, estimates.phi)
        return (scores**2).sum(1).index_add_(0, at, rows)

    u = torch.zeros(q, factor.shape[-1], dtype=torch.float64)
    for _ in range(STEPS):
        eta = u * factor if factor.ndim == 1 else u @ factor.T
        f, J = jacobians(network, prepared, eta.float(), at, C)
        root, residual = data.working(known + f, estimates.phi)
        weighted = (root @ J).reshape(len(repeated), -1)
        target = residual.reshape(-1) + (weighted * eta[repeated]).sum(1)
        found = posterior(weighted, target, factor, 1.0, groups, variances=True)
        before, step = penalised(eta, u), found.scores - u
        for _ in range(HALVINGS):
            moved = u + step
            after = penalised(moved * factor if factor.ndim == 1 else moved @ factor.T, moved)
            worse = ~(after <= before + 1e-4)
            if not worse.any():
                break
            step = torch.where(worse[:, None], step / 2, step)
        u = u + step
        if step.abs().max() <= ENOUGH * max(1.0, float(u.abs().max())):
            break
    effects = u * factor if factor.ndim == 1 else u @ factor.T
    return effects.numpy(), found.effect_variances(factor, in_full=estimates.variances.ndim == 3).numpy()
