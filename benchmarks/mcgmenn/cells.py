"""The simulated settings: Table 1 of MC-GMENN (also LMMNN's Tables 12, 19, 25), and Tables 2 and 3."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from generators import FloatArray

from benchmarks.mcgmenn.generators import Simulation, binary, classes

ROWS = 100_000


@dataclass(frozen=True)
class Cell:
    """One setting.

    Attributes
    ----------
    name : str
        As in paper.csv: "variance,levels" for two classes.
    sizes : tuple of int
        Levels of each factor.
    variances : ndarray, shape (L, K)
        K is 1 for two classes, else the number of classes.
    rows : int
    n_predictors : int
    first_seed : int
        As in the authors' code.
    """

    name: str
    sizes: tuple[int, ...]
    variances: FloatArray
    rows: int = ROWS
    n_predictors: int = 10
    first_seed: int = 1

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.variances.shape[1] == 1

    def simulate(self, repeat: int, scale: float = 1.0, crossed: bool = False, shrink: bool = False) -> Simulation:
        """Data of one repeat, counted from 0, with a share of the rows; ``shrink`` takes that share of the levels."""
        n, seed = int(self.rows * scale), self.first_seed + repeat
        sizes = tuple(max(10, round(q * scale)) for q in self.sizes) if shrink else self.sizes
        if self.is_binary:
            return binary(sizes, tuple(self.variances[:, 0]), seed, n, not crossed)
        return classes(sizes, self.variances, seed, n, not crossed, self.n_predictors)


def binary_cells(crossed: bool = False) -> Iterator[Cell]:
    """The nine cells with one factor; ``crossed`` are three cells with three factors, which the papers do not have."""
    if not crossed:
        for variance, q in itertools.product((0.1, 1.0, 10.0), (100, 1000, 10_000)):
            yield Cell(f"{variance:g},{q}", (q,), np.array([[variance]]))
        return
    for variances, sizes in (
        ((0.3, 0.3, 0.3), (1000, 2000, 3000)),
        ((3.0, 3.0, 3.0), (1000, 2000, 3000)),
        ((0.0001, 0.5, 0.5), (1000, 10, 1000)),
    ):
        yield Cell(",".join(f"{v:g}" for v in variances), sizes, np.array(variances)[:, None])


def class_cells() -> Iterator[Cell]:
    """The nine settings of several classes, in the paper's order."""
    sizes, base = (1000, 10, 1000), (0.0001, 0.5, 0.5)
    yield _several("base", sizes, base)
    yield _several("1m", sizes, base, rows=1_000_000)
    yield _several("d1000", sizes, base, n_predictors=1000)
    yield _several("classes100", sizes, base, n_classes=100)
    yield _several("levels20000", (20_000,) * 3, base)
    yield _several("dominant", sizes, (5.0, 0.5, 0.5))
    yield _several("irrelevant", sizes, (0.0001,) * 3)
    by_class = np.array([[0.0001] * 5, [0.0001, 0.25, 0.5, 0.75, 0.5], [0.0001, 0.5, 0.25, 0.5, 0.75]])
    yield Cell("per_class", sizes, by_class, first_seed=555)
    yield _several("factors10", (1000,) * 10, tuple(np.arange(1, 11) / 10))


def _several(
    name: str,
    sizes: tuple[int, ...],
    variances: tuple[float, ...],
    n_classes: int = 5,
    rows: int = ROWS,
    n_predictors: int = 10,
) -> Cell:
    """A setting whose variances are the same in all classes."""
    return Cell(name, sizes, np.repeat(np.array(variances)[:, None], n_classes, axis=1), rows, n_predictors, 555)
