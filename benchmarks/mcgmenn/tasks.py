"""What every method of these benchmarks is given: a task of benchmarks/lmmnn, with classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from baselines_deep import Recipe, Tower
from tasks import Task
from torch import nn

from benchmarks.mcgmenn.generators import Simulation

#: ``network(inputs, sizes, dims, outputs, recipe)``: a module of (n, p) numbers and (n, K) levels; dims as for Tower
MakeNetwork = Callable[[int, list[int], int | list[int], int, Recipe], nn.Module]


def tower(inputs: int, sizes: list[int], dims: int | list[int], outputs: int, recipe: Recipe) -> nn.Module:
    """The network of the simulations."""
    return Tower(inputs, sizes, (100, 50, 25, 12), recipe, dims, outputs)


@dataclass(frozen=True)
class ClassTask(Task):
    """A task whose response is one of several classes.

    Attributes
    ----------
    classes : tuple of str
        Two or more. Of two, the response holds 0 and 1; else it is a categorical.
    network : callable
        Makes the network of the baselines.
    nets : dict, optional
        Our formula's networks where they are modules.
    """

    classes: tuple[str, ...] = ()
    network: MakeNetwork = tower
    nets: dict[str, Any] | None = None

    @property
    def outputs(self) -> int:
        """Logits: one for two classes, else one a class."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def codes(self, test: bool = False) -> np.ndarray:
        """Number of each row's class, (n,)."""
        y = (self.test if test else self.train)[self.response]
        return np.asarray(y.cat.codes if isinstance(y.dtype, pd.CategoricalDtype) else y, dtype=np.int64)


def simulated(simulation: Simulation) -> ClassTask:
    """The task of a simulation."""
    inputs = simulation.predictors
    return ClassTask(
        train=simulation.train,
        test=simulation.test,
        response="y",
        numeric=inputs,
        groups=simulation.factors,
        mean=f"nn({', '.join(inputs)})",
        random=bars(simulation.factors),
        linear=" + ".join(inputs),
        classes=simulation.classes,
        f=(simulation.f_train, simulation.f_test),
    )


def bars(groups: Sequence[str]) -> str:
    """Random intercepts of all factors."""
    return " + ".join(f"(1 | {name})" for name in groups)
