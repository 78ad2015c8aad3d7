"""Values of a fitted network that varies by group: of known groups, averaged over new ones, learnt from few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_posterior import Groups, posterior
from pylmernn.mean.networks import build
from pylmernn.mean.varying import VaryingNetwork

if TYPE_CHECKING:
    from pylmernn.engines.nme_several import SeveralEstimates

FloatArray = NDArray[np.float64]

STEPS = 10  # of Gauss-Newton, halved where a step overshoots
ENOUGH = 1e-6  # of the largest deviation's change, relative


def network_of(estimates: VaryingEstimates | SeveralEstimates) -> VaryingNetwork:
    """The network at theta_bar, in evaluation mode."""
    module = build(estimates.networks.specs[0], estimates.networks.members[0][0])
    module.eval()
    return VaryingNetwork(module, estimates.selected)


def values(estimates: VaryingEstimates, inputs: FloatArray, codes: NDArray[np.int32]) -> FloatArray:
    """F of rows (m, k) of known groups, generic where the code is -1; NaN where an input is missing."""
    network = network_of(estimates)
    prepared = network.module.prepare(np.nan_to_num(inputs))
    eta = torch.from_numpy(estimates.effects).float()
    found = network.rows(prepared, eta, torch.from_numpy(codes.astype(np.int64))).double().numpy()
    found = estimates.networks.scale * found
    found[np.isnan(inputs).any(axis=1)] = np.nan
    return np.asarray(found)


def averaged(estimates: VaryingEstimates, inputs: FloatArray, draws: int, seed: int) -> FloatArray:
    """F of rows (m, k), the mean over draws of deviations from N(0, Sigma)."""
    network = network_of(estimates)
    prepared = network.module.prepare(np.nan_to_num(inputs))
    factor = torch.from_numpy(estimates.factor)
    generator = torch.Generator().manual_seed(seed)
    total = np.zeros(len(inputs))
    for _ in range(draws):
        normal = torch.randn(factor.shape[-1], generator=generator, dtype=torch.float64)
        eta = (factor * normal if factor.ndim == 1 else factor @ normal)[None].float()
        total += network.rows(prepared, eta, torch.zeros(len(inputs), dtype=torch.int64)).double().numpy()
    total[np.isnan(inputs).any(axis=1)] = np.nan
    return np.asarray(estimates.networks.scale * total / draws)


def new_effects(
    estimates: VaryingEstimates, inputs: FloatArray, rest: FloatArray, codes: NDArray[np.int32], q: int
) -> tuple[FloatArray, FloatArray]:
    """Deviations of groups from rows of theirs, all else known.

    Parameters
    ----------
    estimates : VaryingEstimates
    inputs : ndarray, shape (m, k)
    rest : ndarray, shape (m,)
        Response less offset and ``X beta``.
    codes : ndarray of int, shape (m,)
        Group of each row, 0 to q - 1.
    q : int

    Returns
    -------
    effects : ndarray, shape (q, D)
        Posterior modes.
    variances : ndarray, shape (q, D, D) or (q, D)
    """
    network, scale = network_of(estimates), estimates.networks.scale
    prepared, at = network.module.prepare(inputs), torch.from_numpy(codes.astype(np.int64))
    factor = torch.from_numpy(estimates.factor)
    groups = Groups(codes, q, estimates.selected.size)
    eta = torch.zeros(q, estimates.selected.size, dtype=torch.float64)
    y, sigma2 = torch.from_numpy(rest), estimates.sigma**2

    def squares(deviations: torch.Tensor) -> torch.Tensor:
        errors = y - scale * network.rows(prepared, deviations.float(), at).double()
        return torch.zeros(q, dtype=torch.float64).index_add_(0, at, errors**2)

    for _ in range(STEPS):
        f, J = (scale * each.double() for each in network.jacobian(prepared, eta.float(), at))
        found = posterior(J, y - f + (J * eta[at]).sum(1), factor, sigma2, groups, variances=True)
        step = found.effects - eta
        if not estimates.selected.linear:
            before = squares(eta)
            worse = squares(eta + step) > before + 2 * sigma2
            step = torch.where(worse[:, None], step / 2, step)
        eta = eta + step
        if step.abs().max() <= ENOUGH * eta.abs().max():
            break
    return eta.numpy(), found.effect_variances(factor, in_full=estimates.variances.ndim == 3).numpy()
