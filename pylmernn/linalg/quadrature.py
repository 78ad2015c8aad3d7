"""Gauss-Hermite quadrature against the standard normal density, in one and more dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Nodes:
    """``E f(z) = sum_k exp(log_weights_k) f(z_k)`` for z standard normal.

    Attributes
    ----------
    z : ndarray, shape (K, d)
    log_weights : ndarray, shape (K,)
    """

    z: FloatArray
    log_weights: FloatArray


def gauss_hermite(k: int, d: int = 1) -> Nodes:
    """The product rule with k nodes in each of d dimensions, exact for polynomials of degree 2 k - 1 in each.

    Parameters
    ----------
    k : int
    d : int, default 1

    Examples
    --------
    >>> nodes = gauss_hermite(3)
    >>> round(float(np.exp(nodes.log_weights) @ nodes.z[:, 0] ** 4), 12)  # the fourth moment
    3.0
    """
    z, weights = np.polynomial.hermite_e.hermegauss(k)
    log_weights = np.log(weights / np.sqrt(2.0 * np.pi))
    grid = np.meshgrid(*[np.arange(k)] * d, indexing="ij")
    index = np.stack([axis.ravel() for axis in grid], axis=1)
    return Nodes(z[index], log_weights[index].sum(axis=1))
