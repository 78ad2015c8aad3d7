"""``gp(lon, lat)``: a Gaussian process over locations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Process:
    """theta holds the relative standard deviation and the length-scale in units of the coordinates.

    What is correlated here are the levels, not the columns of a level: the template of the one column is the
    standard deviation, and the kernel is known to the engine alone (:mod:`pylmernn.engines.spatial`).
    """

    def n_theta(self, d: int) -> int:
        """Two: standard deviation and length-scale."""
        return 2

    def positions(self, d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the standard deviation stands in the template."""
        return np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)

    def Lambda(self, theta: FloatArray, d: int) -> FloatArray:
        """The relative standard deviation, shape (1, 1)."""
        return np.array([[theta[0]]])

    def on_diagonal(self, d: int) -> NDArray[np.bool_]:
        """The standard deviation has the lower bound 0; the length-scale is no entry of the template."""
        return np.array([True, False])

    def theta_names(self, group: str, columns: Sequence[str]) -> list[str]:
        """``"gp(lon, lat).exp_quad"`` and ``"gp(lon, lat).lscale"``."""
        return [f"{group}.{columns[0]}", f"{group}.lscale"]
