"""``us(x | g)``, the covariance of a plain bar: any positive semidefinite matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance.structure import Triangular


class Unstructured(Triangular):
    """theta is the lower triangle of Lambda, column by column (Bates et al. 2015, eq. 4 and section 2.2)."""

    def positions(self, d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of Lambda that theta fills, in theta's order."""
        columns, rows = np.triu_indices(d)
        return rows, columns
