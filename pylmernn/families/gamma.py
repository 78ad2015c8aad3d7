"""Gamma with dispersion phi: Var(y) = phi mu^2 / weight, shape weight / phi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import digamma, gammaln

from pylmernn.families.family import ByDispersion, ExponentialFamily, FamilyError, FloatArray
from pylmernn.families.torch_links import log_mean, reciprocal_mean

if TYPE_CHECKING:
    import torch


def check_positive(y: FloatArray, name: str, family: str) -> None:
    """Raise FamilyError where a response is not positive."""
    bad = np.flatnonzero(y <= 0)
    if len(bad):
        raise FamilyError(
            f"the response '{name}' is {y[bad[0]]:g} in row {bad[0] + 1}: {family} responses are positive."
        )


class Dispersed(ExponentialFamily):
    """Exponential families of positive numbers whose scores and weights are in proportion to 1 / phi."""

    has_dispersion = True
    has_scale = True

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """R's ``mustart``."""
        return y

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> float:
        """Half of the mean deviance; the rest is left to the random effects."""
        return 0.5 * float((weights * self.unit_deviance(y, mu, 1.0)).mean())

    def density_by_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """Derivative of the log-densities in phi (n,)."""
        raise NotImplementedError

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> ByDispersion:
        """See :meth:`Family.by_dispersion`."""
        step = self.step(y, weights, eta, phi)
        weight = self.curvature(y, weights, eta, phi)[0]
        density = self.density_by_dispersion(y, weights, self.link.inverse(eta), phi)
        return ByDispersion(density, -step.score / phi, -weight / phi)


class Gamma(Dispersed):
    """Gamma with mean mu and shape ``weight / phi``."""

    name = "Gamma"
    links = ("inverse", "log", "identity")
    canonical = "inverse"

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Positive numbers."""
        check_positive(y, name, "Gamma")

    def variances(self, mu: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``mu^2``."""
        return mu * mu, 2.0 * mu, np.full_like(mu, 2.0)

    def loglik(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`ExponentialFamily.loglik`."""
        shape = weights / phi
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(shape * (np.log(shape * y / mu) - y / mu) - np.log(y) - gammaln(shape))

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        shape = weights / torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)
        name = self.link.name
        mean = log_mean(name, eta) + y * reciprocal_mean(name, eta)
        return shape * (torch.log(shape * y) - mean) - torch.log(y) - torch.lgamma(shape)

    def density_by_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Dispersed.density_by_dispersion`."""
        shape = weights / phi
        return np.asarray(-shape / phi * (np.log(shape * y / mu) - y / mu + 1.0 - digamma(shape)))

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return np.asarray(2.0 * (y / mu - 1.0 - np.log(y / mu)))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Positive numbers."""
        shape = weights / phi
        return rng.gamma(shape, mu / shape)
