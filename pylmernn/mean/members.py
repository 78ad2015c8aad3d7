"""Parts of fitted networks: single members, single networks, and the rows that a member has not learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pylmernn.mean.networks import Networks

FloatArray = NDArray[np.float64]
RowArray = NDArray[np.intp]


def one_member(networks: Networks, member: int) -> Networks:
    """The networks of one member alone; ``fitted`` still is that of all."""
    return replace(networks, members=(networks.members[member],))


def one_network(networks: Networks, network: int) -> Networks:
    """One network of the formula alone, in every member; its values are not centred."""
    members = tuple((member[network],) for member in networks.members)
    return replace(networks, specs=(networks.specs[network],), members=members, shift=0.0)


def member_values(networks: Networks, inputs: Sequence[FloatArray]) -> FloatArray:
    """Values of each member at m rows, (members, m), from raw inputs (m, k) of each network."""
    return np.array([one_member(networks, i).values(inputs) for i in range(len(networks.members))])


def held_out(networks: Networks, limit: int, seed: int) -> Iterator[tuple[Networks, RowArray]]:
    """Rows of the fit, each with networks that have not learnt from it.

    Parameters
    ----------
    networks : Networks
    limit : int
        Rows in all at the most, drawn at random.
    seed : int

    Yields
    ------
    networks, rows
        One member and rows that it has not learnt from; every row comes once. Where each row was learnt from by every
        member, the networks as they are and rows of the fit.
    """
    rng = np.random.default_rng(seed)
    n = len(networks.fitted)
    unseen = np.zeros((1, n), dtype=bool) if networks.learned is None else ~networks.learned
    rows = np.flatnonzero(unseen.any(axis=0))
    if not len(rows):
        yield networks, np.sort(rng.permutation(n)[:limit])
        return
    rows = np.sort(rng.permutation(rows)[:limit])
    member = np.argmax(unseen[:, rows], axis=0)
    for i in np.unique(member):
        yield one_member(networks, int(i)), rows[member == i]


def has_held_out(networks: Networks) -> bool:
    """Whether some member has not learnt from some row."""
    return networks.learned is not None and not bool(networks.learned.all())
