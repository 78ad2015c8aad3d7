"""What a network that varies by group has found: importance of inputs, curves of the generic network and of groups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_predict import network_of, values
from pylmernn.engines.nme_working import is_generalized
from pylmernn.fit.importance import BUDGET, ROWS
from pylmernn.fit.losses import Loss, class_deviance, mean_deviance, squared_error
from pylmernn.formula.design import Design, FloatArray, IntArray
from pylmernn.mean.members import held_out
from pylmernn.mean.networks import Networks, weights_of


def networks_of(estimates: VaryingEstimates, group: int | None = None) -> Networks:
    """The network of one group (a row of ``estimates.effects``), or the generic one; ``fitted`` stays the latter's."""
    if group is None:
        return estimates.networks
    network = network_of(estimates)
    network.move(torch.from_numpy(estimates.effects[group]).float())
    return dataclasses.replace(estimates.networks, members=((weights_of(network.module),),))


def loss_of(design: Design, estimates: VaryingEstimates, f: FloatArray) -> Loss:
    """Squared error of a linear model, deviance of a generalized one; ``f`` are the networks' values at all rows."""
    rest = estimates.fitted - f
    if not is_generalized(estimates):
        return squared_error(design, design.y - rest)
    if estimates.beta.ndim == 2:
        return class_deviance(design, rest)
    return mean_deviance(design, estimates, rest)  # type: ignore[arg-type]  # family and phi are read


def importance(
    design: Design, estimates: VaryingEstimates, codes: IntArray, n_repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Permutation importance of each input: columns network, input, importance, se.

    Parameters
    ----------
    design : Design
        With the raw inputs of the network.
    estimates : VaryingEstimates
    codes : ndarray of int, shape (n,)
        Group of each row; its network has the deviations of that group, whatever the inputs.
    n_repeats, seed : int
    """
    networks, spec = estimates.networks, estimates.networks.specs[0]
    rng = np.random.default_rng(seed)
    limit = int(np.clip(BUDGET // (5 * len(spec.blocks)), 500, ROWS))
    used = np.sort(np.concatenate([rows for _, rows in held_out(networks, limit, seed)]))
    inputs, own = design.nets[0].inputs[used], codes[used]
    loss = loss_of(design, estimates, values(estimates, design.nets[0].inputs, codes))
    base = loss.value(values(estimates, inputs, own), used)
    records = []
    for block in spec.blocks:
        rises = np.empty(n_repeats)
        for r in range(n_repeats):
            shuffled = inputs.copy()
            shuffled[:, block.columns] = shuffled[rng.permutation(len(used)), block.columns]
            rises[r] = loss.value(values(estimates, shuffled, own), used) - base
        se = float(rises.std(ddof=1) / np.sqrt(n_repeats)) if n_repeats > 1 else np.nan
        records.append((spec.label, block.name, float(rises.mean()), se))
    return pd.DataFrame(records, columns=["network", "input", "importance", "se"])
