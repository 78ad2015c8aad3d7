"""Which rows are held out from which networks: single rows, and whole levels of a grouping factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_LEVELS = 20  # with fewer, no level is held out whole
LARGEST_LEVEL = 0.25  # of what one set of networks leaves out: larger levels are never held out whole


@dataclass(frozen=True)
class Split:
    """What each of some sets of networks (members) does not learn from.

    Attributes
    ----------
    member : ndarray of int, shape (n,)
        The member that a row is held out from; -1 for none.
    whole : ndarray of bool, shape (n,)
        Held out together with all other rows of its level.
    n_levels : int
        Levels held out whole.
    """

    member: NDArray[np.intp]
    whole: NDArray[np.bool_]
    n_levels: int

    def learned(self, member: int) -> NDArray[np.intp]:
        """The rows that a member learns from, in order."""
        return np.flatnonzero(self.member != member)


def split(
    n: int,
    members: int,
    share: float,
    holdout: str,
    codes: NDArray[np.int32] | None,
    seed: int,
) -> Split:
    """Draw what is held out.

    Parameters
    ----------
    n : int
        Rows.
    members : int
        One: a share of the rows is held out. More: cross-fitting, every row is held out from one member.
    share : float
        Of the rows, where there is one member.
    holdout : {"rows", "levels", "both"}
        "both" takes half of the levels whole (of the share, where there is one member), and single rows of the others.
    codes : ndarray of int, shape (n,), or None
        Level of each row in the factor whose levels are held out whole.
    seed : int

    Returns
    -------
    Split

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.repeat(np.arange(50, dtype=np.int32), 4)
    >>> held = split(200, 5, 0.1, "levels", codes, seed=0)
    >>> all(len(set(held.member[codes == j])) == 1 for j in range(50))
    True
    """
    rng = np.random.default_rng(seed)
    fraction = 1 / members if members > 1 else share
    member, n_levels = np.full(n, -1, dtype=np.intp), 0
    if holdout != "rows" and codes is not None and fraction > 0:
        of_level = _levels_held_out(codes, members, fraction, holdout == "both", rng)
        member, n_levels = of_level[codes], int(np.sum(of_level >= 0))
    whole = member >= 0
    if holdout == "levels" and n_levels and members == 1:
        return Split(member, whole, n_levels)
    rest = rng.permutation(np.flatnonzero(~whole))
    if members > 1:
        member[rest] = np.arange(len(rest)) % members
    else:
        member[rest[: max(0, round(share * n) - int(whole.sum()))]] = 0
    return Split(member, whole, n_levels)


def _levels_held_out(
    codes: NDArray[np.int32], members: int, fraction: float, half: bool, rng: np.random.Generator
) -> NDArray[np.intp]:
    """The member that each level is held out from whole, -1 for none, (levels,)."""
    n = len(codes)
    sizes = np.bincount(codes)
    levels = rng.permutation(np.flatnonzero((sizes > 0) & (sizes <= LARGEST_LEVEL * fraction * n)))
    of_level = np.full(len(sizes), -1, dtype=np.intp)
    if np.count_nonzero(sizes) < FEWEST_LEVELS or not len(levels):
        return of_level
    if members > 1:
        levels = levels[: len(levels) // 2] if half else levels
        of_level[levels] = np.arange(len(levels)) % members
    else:
        wanted = fraction * n * (0.5 if half else 1.0)
        of_level[levels[np.cumsum(sizes[levels]) <= wanted]] = 0
    return of_level
