"""Rows of a table as sequences: which belong together, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.data import as_pandas, column
from pylmernn.formula.design import DesignError


@dataclass(frozen=True)
class Sequences:
    """Sequences of rows, ordered by time and padded to the longest.

    Attributes
    ----------
    names : ndarray of str, shape (B,)
    rows : ndarray of int64, shape (B, T)
        Positions of the rows; -1 beyond the end.
    lengths : ndarray of int64, shape (B,)
    """

    names: NDArray[Any]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """The first row of each sequence, (B,)."""
        return self.rows[:, 0]

    def constant(self, codes: NDArray[np.int32], group: str) -> NDArray[np.int32]:
        """The group of each sequence (B,) from those of the rows (n,).

        Raises
        ------
        DesignError
            Where the rows of a sequence belong to several groups.
        """
        own = codes[self.first]
        differs = (codes[np.maximum(self.rows, 0)] != own[:, None]) & (self.rows >= 0)
        if differs.any():
            name = self.names[int(np.argmax(differs.any(axis=1)))]
            raise DesignError(
                f"the sequence '{name}' has rows of several levels of '{group}': what varies by it must be the same "
                "all along a sequence."
            )
        return own

    def spread(self, values: NDArray[Any], n: int) -> NDArray[Any]:
        """Values (B, T, ...) of the times of each sequence as values (n, ...) of the rows."""
        inside = self.rows >= 0
        out = np.empty((n, *values.shape[2:]), dtype=values.dtype)
        out[self.rows[inside]] = values[inside]
        return out


def read_sequences(
    data: Any,
    sequence: str,
    time: str | None,
    used: NDArray[np.intp] | None = None,
    omitted: NDArray[np.intp] | None = None,
) -> Sequences:
    """Sort the rows of a table into sequences.

    Parameters
    ----------
    data : DataFrame or anything that :func:`as_pandas` takes
    sequence : str
        The column that says which sequence a row belongs to.
    time : str, optional
        The column to order the rows of a sequence by; by default they are in order.
    used : ndarray of int, optional
        Positions of the rows to take, which are then counted from 0; by default all.
    omitted : ndarray of int, optional
        Positions of rows that were left out for missing values.

    Raises
    ------
    DesignError
        For a missing sequence or time, times that are text, a time that a sequence has twice, or a row left out amid a
        sequence.

    Examples
    --------
    >>> data = {"dyad": ["b", "a", "a", "b", "a"], "t": [2, 3, 1, 1, 2]}
    >>> found = read_sequences(data, "dyad", "t")
    >>> found.names.tolist(), found.rows.tolist()
    (['b', 'a'], [[3, 0, -1], [2, 4, 1]])
    """
    table = as_pandas(data)
    labels = column(table, sequence)
    times = pd.Series(np.arange(len(table))) if time is None else column(table, time)
    kept = np.arange(len(table)) if used is None else np.asarray(used)
    left_out = np.zeros(0, dtype=np.intp) if omitted is None else np.asarray(omitted)
    every = np.concatenate([kept, left_out])
    for name, values in ((sequence, labels), (time or "", times)):
        missing = values.isna().to_numpy()[every]
        if missing.any():
            row = int(every[int(np.argmax(missing))]) + 1
            raise DesignError(f"'{name}' is missing in row {row}: every row needs its sequence and its time.")
    if any(isinstance(value, str) for value in np.asarray(times.iloc[every], dtype=object)) and not isinstance(
        times.dtype, pd.CategoricalDtype
    ):
        raise DesignError(f"'{time}' is text, which has no order of time: make it a number, a date or a categorical.")
    codes, names = pd.factorize(labels.astype(object).iloc[every])
    ranks = pd.factorize(times.iloc[every], sort=True)[0]
    order = np.lexsort((ranks, codes))
    code, rank = codes[order], ranks[order]
    same = np.flatnonzero((code[1:] == code[:-1]) & (rank[1:] == rank[:-1]))
    if len(same):
        at = order[same[0]]
        raise DesignError(
            f"the sequence '{names[codes[at]]}' has the time {times.iloc[every[at]]} twice in '{time}': every row of a "
            "sequence needs a time of its own, and every sequence a name of its own."
        )
    _refuse_gaps(order, code, names, len(kept))
    order = order[order < len(kept)]
    code = codes[order]
    present, number = np.unique(code, return_inverse=True)
    lengths = np.bincount(number)
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.full((len(present), int(lengths.max(initial=1))), -1, dtype=np.int64)
    rows[number, np.arange(len(order)) - start[number]] = order
    return Sequences(np.array([str(names[c]) for c in present]), rows, lengths.astype(np.int64))


def _refuse_gaps(order: NDArray[np.intp], code: NDArray[np.intp], names: Any, kept: int) -> None:
    """Raise DesignError where a row that was left out stands between rows of its sequence: they are no neighbours."""
    out = order >= kept
    for at in np.flatnonzero(out):
        own = code == code[at]
        before, after = own & ~out, own & ~out
        before[at:], after[:at] = False, False
        if before.any() and after.any():
            raise DesignError(
                f"the sequence '{names[code[at]]}' has a row with missing values amid others: fill it in, or leave the "
                "sequence out by subset."
            )
