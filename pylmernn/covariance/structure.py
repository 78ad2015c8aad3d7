"""What a covariance structure must offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Structure(Protocol):
    """A family of relative covariance factors Lambda(theta), shape (d, d), linear in theta.

    Linear means ``Lambda(theta) = sum_a theta_a E[rows_a, columns_a]`` with unit matrices E, which is all the gradient
    code needs to know.
    """

    def n_theta(self, d: int) -> int:
        """Number of parameters for d columns."""
        ...

    def positions(self, d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of Lambda that theta fills, in theta's order."""
        ...

    def Lambda(self, theta: FloatArray, d: int) -> FloatArray:
        """The lower triangular template, shape (d, d)."""
        ...

    def on_diagonal(self, d: int) -> NDArray[np.bool_]:
        """Which parameters are diagonal entries, shape (n_theta,)."""
        ...

    def theta_names(self, group: str, columns: Sequence[str]) -> list[str]:
        """lme4's names of the parameters."""
        ...


class Triangular:
    """Base of the structures whose theta are entries of Lambda."""

    def positions(self, d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of Lambda that theta fills, in theta's order."""
        raise NotImplementedError

    def n_theta(self, d: int) -> int:
        """Number of parameters for d columns."""
        return len(self.positions(d)[0])

    def Lambda(self, theta: FloatArray, d: int) -> FloatArray:
        """The lower triangular template, shape (d, d)."""
        template = np.zeros((d, d))
        template[self.positions(d)] = theta
        return template

    def on_diagonal(self, d: int) -> NDArray[np.bool_]:
        """Which parameters are diagonal entries, shape (n_theta,)."""
        rows, columns = self.positions(d)
        return rows == columns

    def theta_names(self, group: str, columns: Sequence[str]) -> list[str]:
        """lme4's names: ``group.column`` on the diagonal, ``group.row.column`` below it."""
        rows, cols = self.positions(len(columns))
        return [
            f"{group}.{columns[r]}" if r == c else f"{group}.{columns[r]}.{columns[c]}"
            for r, c in zip(rows, cols, strict=True)
        ]
