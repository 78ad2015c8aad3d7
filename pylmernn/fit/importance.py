"""How much the networks explain, and which of their inputs they need: permutation importance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pylmernn.fit.losses import Loss
from pylmernn.formula.design import Design, FloatArray
from pylmernn.mean.members import has_held_out, held_out, one_network
from pylmernn.mean.networks import NetSpec, Networks

ROWS = 5000  # rows that are permuted, fewer where inputs are many
BUDGET = 250_000  # rows times inputs times repeats, about 0.2 seconds for the default network


@dataclass(frozen=True)
class Importance:
    """What the networks of a fit explain.

    Attributes
    ----------
    explained : tuple of float, one a network
        Rise of the mean loss where a network is replaced by its mean: of the squared error over the variance of the
        response, or of the deviance over that of a constant mean.
    table : DataFrame
        Columns network, input, importance, se: the same where one input is permuted; se over the repeats.
    specs : tuple of NetSpec, one a network
    n_rows : int
        Rows that were used.
    held_out : bool
        Whether the networks had not learnt from those rows.
    unit : str
        "variance" or "deviance".
    """

    explained: tuple[float, ...]
    table: pd.DataFrame
    specs: tuple[NetSpec, ...]
    n_rows: int
    held_out: bool
    unit: str = "variance"


def permutation_importance(
    design: Design, networks: Networks, loss: Loss, n_repeats: int = 5, seed: int = 0, rows: int | None = None
) -> Importance:
    """Importance of each network and of each of its inputs (Breiman, 2001, *Random forests*, section 10).

    Parameters
    ----------
    design : Design
        With the raw inputs of the networks in ``nets``.
    networks : Networks
    loss : Loss
        What rises: :func:`pylmernn.fit.losses.loss_of`.
    n_repeats : int, default 5
        Permutations of each input.
    seed : int, default 0
        Of the permutations and the rows.
    rows : int, optional
        At the most; by default 5,000, less for more than 10 inputs, at least 500. Rows that a member has not learnt
        from, each by such a member, where there are any.

    Returns
    -------
    Importance
        An input that holds arrays, or a matrix such as ``poly(x, 2)`` written as arrays, is permuted as one.
    """
    rng = np.random.default_rng(seed)
    if rows is None:
        rows = int(np.clip(BUDGET // (5 * sum(len(spec.blocks) for spec in networks.specs)), 500, ROWS))
    parts = list(held_out(networks, rows, seed))
    used = np.concatenate([at for _, at in parts])
    inputs = [net.inputs[used] for net in design.nets]
    values = [_by_member(networks, parts, k) for k in range(len(networks.specs))]
    f = [value(columns) for value, columns in zip(values, inputs, strict=True)]
    whole = np.sum(f, axis=0) - np.asarray(networks.shift)
    weights = None if design.weights is None else design.weights[used]
    base = loss.value(whole, used)
    explained = tuple(loss.value(whole - part + np.average(part, axis=0, weights=weights), used) - base for part in f)
    records = []
    for spec, part, columns, value in zip(networks.specs, f, inputs, values, strict=True):
        for block in spec.blocks:
            rises = np.empty(n_repeats)
            for r in range(n_repeats):
                shuffled = columns.copy()
                shuffled[:, block.columns] = shuffled[rng.permutation(len(used)), block.columns]
                rises[r] = loss.value(whole - part + value(shuffled), used) - base
            se = float(rises.std(ddof=1) / np.sqrt(n_repeats)) if n_repeats > 1 else np.nan
            records.append((spec.label, block.name, float(rises.mean()), se))
    table = pd.DataFrame(records, columns=["network", "input", "importance", "se"])
    return Importance(explained, table, networks.specs, len(used), has_held_out(networks), loss.unit)


def _by_member(
    networks: Networks, parts: list[tuple[Networks, np.ndarray]], network: int
) -> Callable[[FloatArray], FloatArray]:
    """A function that gives one network's values of inputs of the rows used, each by the member of that row."""
    ends = np.cumsum([len(at) for _, at in parts])[:-1]
    alone = [one_network(member, network) for member, _ in parts]

    def values(columns: FloatArray) -> FloatArray:
        pieces = zip(alone, np.split(columns, ends), strict=True)
        return np.concatenate([member.values([piece]) for member, piece in pieces])

    return values
