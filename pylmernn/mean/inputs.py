"""The inputs of a network: which columns belong together, and by what they are standardised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One input of the formula among the columns of a network.

    Attributes
    ----------
    name : str
        The input as written; ``"s"`` for a column of arrays whose elements are called s1, s2, ...
    columns : slice
    shape : tuple of int
        Of its arrays; ``()`` for a number or factor.
    levels : int
        Of a factor, else 0.
    """

    name: str
    columns: slice
    shape: Shape
    levels: int

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.columns.stop - self.columns.start


def blocks_of(names: Sequence[str], levels: Sequence[int], shapes: Sequence[Shape] = ()) -> tuple[Block, ...]:
    """One block an input.

    Parameters
    ----------
    names, levels : sequence, length k
        One a column.
    shapes : sequence of tuple of int
        One an input; empty where every column is an input.

    Examples
    --------
    >>> [(block.name, block.size) for block in blocks_of(["x", "s1", "s2"], [0, 0, 0], [(), (2,)])]
    [('x', 1), ('s', 2)]
    """
    out: list[Block] = []
    start = 0
    for shape in shapes or [()] * len(levels):
        end = start + math.prod(shape)
        name = names[start].removesuffix("1") if end > start + 1 else names[start]
        out.append(Block(name, slice(start, end), tuple(shape), levels[start]))
        start = end
    return tuple(out)


def moments(inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column of inputs (n, k), both (k,); 1 for that of a constant."""
    scale = inputs.std(axis=0)
    return inputs.mean(axis=0), np.where(scale > 0, scale, 1.0)


def block_moments(inputs: FloatArray, blocks: Sequence[Block]) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations as :func:`moments`, in common for the elements of an array.

    Arrays with two axes or more have one mean and one standard deviation for each entry of the last axis. Those of
    factors are 0 and 1.
    """
    centre, scale = np.zeros(inputs.shape[1]), np.ones(inputs.shape[1])
    for block in blocks:
        if block.levels:
            continue
        channels = block.shape[-1] if len(block.shape) > 1 else 1
        middle, spread = moments(inputs[:, block.columns].reshape(-1, channels))
        centre[block.columns] = np.tile(middle, block.size // channels)
        scale[block.columns] = np.tile(spread, block.size // channels)
    return centre, scale
