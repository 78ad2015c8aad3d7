"""Inverse Gaussian with dispersion phi: Var(y) = phi mu^3 / weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.families.family import FloatArray
from pylmernn.families.gamma import Dispersed, check_positive
from pylmernn.families.torch_links import reciprocal_mean

if TYPE_CHECKING:
    import torch


class InverseGaussian(Dispersed):
    """Inverse Gaussian with mean mu and ``lambda = weight / phi``."""

    name = "inverse.gaussian"
    links = ("1/mu^2", "log", "inverse")
    canonical = "1/mu^2"

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Positive numbers."""
        check_positive(y, name, "inverse Gaussian")

    def variances(self, mu: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``mu^3``."""
        return mu**3, 3.0 * mu * mu, 6.0 * mu

    def loglik(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`ExponentialFamily.loglik`."""
        rate = weights / phi
        return np.asarray(0.5 * (np.log(rate / (2.0 * np.pi * y**3)) - rate * self.unit_deviance(y, mu, phi)))

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        rate = weights / torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)
        deviance = (y * reciprocal_mean(self.link.name, eta) - 1.0) ** 2 / y
        return 0.5 * (torch.log(rate / (2.0 * torch.pi * y**3)) - rate * deviance)

    def density_by_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Dispersed.density_by_dispersion`."""
        return np.asarray(0.5 / phi * (weights / phi * self.unit_deviance(y, mu, phi) - 1.0))

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return np.asarray((y - mu) ** 2 / (mu * mu * y))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Positive numbers."""
        return rng.wald(mu, weights / phi)
