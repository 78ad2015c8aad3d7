"""Which rows form the batches of the marginal likelihood: what a batch tells depends on who shares it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.learned import is_learned
from pylmernn.formula.design import Design
from pylmernn.training.holdout import split
from pylmernn.training.loop import batches
from pylmernn.training.options import Training

Order = NDArray[np.intp]

CHUNK = 8  # rows of one level that stay together when rows are shuffled
PARTS = 4  # a batch has of different levels, at the least


class Orders:
    """Which rows come when: rows to learn from for every epoch, and the rows held out.

    Faithful: sorted by the levels of the factors, those with most levels first, and locations in random order; the last
    tenth held out, the same every epoch; rows as they come where g(Z) is learned. Otherwise: a random share held out;
    rows shuffled in chunks of a level, by each factor in turn.
    """

    chunk = CHUNK

    def __init__(self, design: Design, rows: Order, training: Training, seed: int) -> None:
        self.codes = [term.codes for term in design.random if not is_learned(term)]
        self.rng = np.random.default_rng(seed + 1)
        self.fixed = training.preset == "faithful"
        if self.fixed:
            keys = self._sort_keys(design, rows)
            order = rows[np.lexsort(keys)] if keys else rows
            split = int(len(order) * (1.0 - training.validation))
            self.learn, self.check = order[:split], order[split:]
            return
        held = self._held_out(rows, training)
        check = np.sort(rows[held])
        self.check = check[np.argsort(self.codes[0][check], kind="stable")] if self.codes else check
        self.learn = np.delete(rows, held)

    def _held_out(self, rows: Order, training: Training) -> Order:
        """Positions among the rows."""
        return self.rng.permutation(len(rows))[: round(training.validation * len(rows))]

    def _sort_keys(self, design: Design, rows: Order) -> list[NDArray[Any]]:
        """For lexsort, the first to sort by at the end; none where a term is learned."""
        if any(is_learned(term) for term in design.random):
            return []
        bars = [term.codes[rows] for term in design.random if term.locations is None]
        fields = [term for term in design.random if term.locations is not None]
        mixed = [self.rng.permutation(term.n_levels)[term.codes[rows]] for term in fields]
        return [*mixed, *bars[::-1]]

    def epoch(self, number: int) -> Order:
        """Rows of an epoch, counted from 1."""
        if self.fixed:
            return self.learn
        if not self.codes:
            return self.rng.permutation(self.learn)
        return level_chunks(self.codes[number % len(self.codes)], self.learn, self.chunk, self.rng)


class LevelOrders(Orders):
    """Rows of one grouping factor, for likelihoods that take a level at a time.

    Whole levels are held out too, as ``training.holdout`` says. Rows come in random order, but level by level; levels
    of more than a quarter of a batch come in parts, so that a batch is never of a few levels only.
    """

    def __init__(self, design: Design, rows: Order, training: Training, seed: int) -> None:
        assert training.batch_size is not None
        super().__init__(design, rows, training, seed)
        self.chunk = largest_part(training.batch_size)

    def _held_out(self, rows: Order, training: Training) -> Order:
        seed = int(self.rng.integers(2**31))
        held = split(len(rows), 1, training.validation, training.holdout, self.codes[0][rows], seed)
        return np.flatnonzero(held.member == 0)


def largest_part(batch_size: int) -> int:
    """Rows of one level that stay together in likelihoods that take a level at a time."""
    return max(CHUNK, batch_size // PARTS)


def level_batches(codes: NDArray[Any], size: int, longest: int) -> list[slice]:
    """Consecutive batches of about ``size`` rows that do not cut a run of rows of one level.

    Parameters
    ----------
    codes : ndarray, shape (n,)
        Level of each row, in the order in which they come.
    size : int
    longest : int
        Longer runs may be cut after so many rows.

    Returns
    -------
    list of slice
        No more than batches of exactly ``size`` rows would be.

    Examples
    --------
    >>> import numpy as np
    >>> level_batches(np.array([0, 0, 0, 1, 1, 2, 2, 2]), 4, 3)
    [slice(0, 5, None), slice(5, 8, None)]
    """
    n = len(codes)
    ends = np.append(np.flatnonzero(_run_starts(codes, longest))[1:], n)
    wanted = np.array([part.start for part in batches(n, size)], dtype=np.intp)
    starts = np.unique(ends[np.searchsorted(ends, wanted[1:])])
    starts = np.concatenate([[0], starts[starts < n - 1]])  # a single row would be too few for batch norms
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], n], strict=True)]


def _run_starts(level: NDArray[Any], longest: int) -> NDArray[np.bool_]:
    """Where a run of one level starts (n,), or goes on after ``longest`` rows."""
    first = np.concatenate([[True], level[1:] != level[:-1]])
    place = np.arange(len(level)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return np.asarray(place % longest == 0)


def level_chunks(codes: NDArray[np.int32], rows: Order, size: int, rng: np.random.Generator) -> Order:
    """Rows in random order, but up to ``size`` rows of one level together.

    Rows that share a level tell of its variance only within a batch; batches of few levels tell little of the rest.

    Parameters
    ----------
    codes : ndarray, shape (n,)
        Level of each row.
    rows : ndarray of int
    size : int
    rng : numpy Generator

    Returns
    -------
    ndarray
        A permutation of ``rows``.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0, 1, 0, 1, 0, 1], dtype=np.int32)
    >>> order = level_chunks(codes, np.arange(6), 3, np.random.default_rng(0))
    >>> len(set(codes[order[:3]]))
    1
    """
    mixed = rng.permutation(rows)
    mixed = mixed[np.argsort(codes[mixed], kind="stable")]
    chunk = np.cumsum(_run_starts(codes[mixed], size)) - 1
    return mixed[np.argsort(rng.permutation(chunk[-1] + 1)[chunk], kind="stable")]
