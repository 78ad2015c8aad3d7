"""``diag(x | g)``: uncorrelated columns, each with its own variance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance.structure import Triangular


class Diagonal(Triangular):
    """theta is the diagonal of Lambda: d relative standard deviations."""

    def positions(self, d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of Lambda that theta fills, in theta's order."""
        index = np.arange(d)
        return index, index
