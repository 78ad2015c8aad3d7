"""Poisson counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln, xlogy

from pylmernn.families.family import ExponentialFamily, FamilyError, FloatArray

if TYPE_CHECKING:
    import torch


def check_counts(y: FloatArray, name: str, family: str) -> None:
    """Raise FamilyError where a response is not a count."""
    bad = np.flatnonzero((y < 0) | (y != np.rint(y)))
    if len(bad):
        raise FamilyError(
            f"the response '{name}' is {y[bad[0]]:g} in row {bad[0] + 1}: a {family} response is a whole number, 0 or "
            "more."
        )


class Poisson(ExponentialFamily):
    """``y ~ Poisson(mu)``; a weight a counts a row a times."""

    name = "poisson"
    links = ("log",)
    canonical = "log"
    natural = ("log",)
    expected = True

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Counts."""
        check_counts(y, name, "Poisson")

    def constant(self, y: FloatArray, weights: FloatArray) -> float:
        """Minus the logarithms of the factorials."""
        return -float((weights * gammaln(y + 1.0)).sum())

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """R's ``mustart``."""
        return y + 0.1

    def variances(self, mu: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``mu``."""
        return mu, np.ones_like(mu), np.zeros_like(mu)

    def loglik(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`ExponentialFamily.loglik`."""
        return np.asarray(weights * (xlogy(y, mu) - mu))

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        return weights * (y * eta - eta.exp())

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return np.asarray(2.0 * (xlogy(y, y / mu) - (y - mu)))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Counts."""
        return np.asarray(rng.poisson(mu), dtype=np.float64)
