"""What every method of these benchmarks is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """Rows to learn from, rows to predict, and how the model is written.

    Attributes
    ----------
    train, test : DataFrame
    response : str
    numeric : tuple of str
        Inputs of the mean; categories of few levels are columns of 0 and 1 already.
    groups : tuple of str
        Columns of levels.
    mean : str
        Our formula's mean, as in ``"nn(x1, x2)"``.
    random : str
        The random part, as in ``"(1 | g)"``.
    linear : str
        lme4's mean, as in ``"x1 + x2"``.
    linear_random : str, optional
        lme4's random part where it has to differ.
    embedded : str
        The random part of the variant with a learned g(Z); empty where there is none.
    time : str, optional
        Column that orders the rows of a level.
    slopes : tuple of str
        Columns with random slopes, for methods without formulas; "t^2" is a square.
    coordinates : tuple of str
        Columns of a place.
    f : (ndarray, ndarray), optional
        The true mean at both sets of rows.
    limits : (float, float), optional
        Predictions are clipped to these.
    hidden : tuple of int
        Layers of every network.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    response: str
    numeric: tuple[str, ...]
    groups: tuple[str, ...]
    mean: str
    random: str
    linear: str
    linear_random: str | None = None
    embedded: str = ""
    time: str | None = None
    slopes: tuple[str, ...] = ()
    coordinates: tuple[str, ...] = ()
    f: tuple[FloatArray, FloatArray] | None = None
    limits: tuple[float, float] | None = None
    hidden: tuple[int, ...] = (100, 50, 25, 12)

    def error(self, predicted: FloatArray) -> float:
        """Mean squared error at the test rows."""
        values = np.clip(predicted, *self.limits) if self.limits else predicted
        return float(np.mean((self.test[self.response].to_numpy(float) - values) ** 2))


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes
    ----------
    predicted : ndarray
        At the test rows.
    seconds : float
        Of the fit, without prediction.
    epochs : float, optional
    estimates : dict
        Variances and correlations by name, as :func:`baselines.components` gives them.
    """

    predicted: FloatArray
    seconds: float
    epochs: float = float("nan")
    estimates: dict[str, float] = field(default_factory=dict)


def codes(task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Level numbers of both sets of rows (n, K) and (m, K), and numbers of levels (K,).

    A level not seen in training has the last number.
    """
    train, test, sizes = [], [], []
    for column in task.groups:
        number, levels = pd.factorize(task.train[column])
        found = pd.Index(levels).get_indexer(task.test[column])
        train.append(number)
        test.append(np.where(found < 0, len(levels), found))
        sizes.append(len(levels))
    return np.column_stack(train).astype(np.int64), np.column_stack(test).astype(np.int64), sizes
