"""Correlation functions of random fields, by distance and length-scale (Rasmussen & Williams 2006, chapter 4).

With d the Euclidean distance and l the length-scale,

=============  ==========================================
exp_quad       ``exp(-d^2 / (2 l^2))``
matern52       ``(1 + a + a^2/3) exp(-a)``, a = sqrt(5) d / l
matern32       ``(1 + a) exp(-a)``, a = sqrt(3) d / l
exponential    ``exp(-d / l)``
=============  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Pair = tuple[FloatArray, FloatArray]


def _exp_quad(distance: FloatArray) -> Pair:
    square = distance * distance
    value = np.exp(-0.5 * square)
    return value, square * value


def _matern52(distance: FloatArray) -> Pair:
    a = np.sqrt(5.0) * distance
    decay, square = np.exp(-a), a * a / 3.0
    return (1.0 + a + square) * decay, square * (1.0 + a) * decay


def _matern32(distance: FloatArray) -> Pair:
    a = np.sqrt(3.0) * distance
    decay = np.exp(-a)
    return (1.0 + a) * decay, a * a * decay


def _exponential(distance: FloatArray) -> Pair:
    decay = np.exp(-distance)
    return decay, distance * decay


#: correlation and its derivative in log(length-scale), of distances in units of the length-scale
KERNELS: dict[str, Callable[[FloatArray], Pair]] = {
    "exp_quad": _exp_quad,
    "matern32": _matern32,
    "matern52": _matern52,
    "exponential": _exponential,
}


def correlation(cov: str, distance: FloatArray, lscale: float) -> FloatArray:
    """Correlations at given distances.

    Parameters
    ----------
    cov : {"exp_quad", "matern32", "matern52", "exponential"}
    distance : ndarray
        Euclidean distances, any shape.
    lscale : float
        Length-scale, in the units of the distances.

    Examples
    --------
    >>> import numpy as np
    >>> correlation("exponential", np.array([0.0, 2.0]), 2.0).round(3).tolist()
    [1.0, 0.368]
    """
    return KERNELS[cov](distance / lscale)[0]


def correlation_and_slope(cov: str, distance: FloatArray, lscale: float) -> Pair:
    """Correlations and their derivatives in ``log(lscale)``; both of the shape of ``distance``."""
    return KERNELS[cov](distance / lscale)
