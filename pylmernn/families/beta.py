"""Beta with mean mu and precision phi: Var(y) = mu (1 - mu) / (1 + phi) (Ferrari & Cribari-Neto 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from pylmernn.families.family import ByDispersion, Family, FamilyError, FloatArray, Step
from pylmernn.families.torch_links import probability

if TYPE_CHECKING:
    import torch


class Beta(Family):
    """``y ~ Beta(mu phi, (1 - mu) phi)``; a weight a counts a row a times."""

    name = "beta"
    links = ("logit", "probit", "cloglog")
    has_dispersion = True

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Numbers between 0 and 1."""
        bad = np.flatnonzero((y <= 0) | (y >= 1))
        if len(bad):
            raise FamilyError(
                f"the response '{name}' is {y[bad[0]]:g} in row {bad[0] + 1}: beta responses lie between 0 and 1."
            )

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """The responses."""
        return y

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> float:
        """From moments: half of the variance is left to the random effects."""
        share = 0.5 * float(((y - mu) ** 2).mean() / (mu * (1.0 - mu)).mean())
        return max(1.0 / max(share, 1e-6) - 1.0, 0.1)

    def variance(self, mu: FloatArray, phi: float) -> FloatArray:
        """``mu (1 - mu) / (1 + phi)``."""
        return mu * (1.0 - mu) / (1.0 + phi)

    def loglik(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """Log-densities (n,)."""
        a, b = mu * phi, (1.0 - mu) * phi
        return np.asarray(gammaln(phi) - gammaln(a) - gammaln(b) + (a - 1.0) * np.log(y) + (b - 1.0) * np.log1p(-y))

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> Step:
        """See :meth:`Family.step`."""
        mu, d1, d2, _ = self.link.derivatives(eta)
        a, b = mu * phi, (1.0 - mu) * phi
        q = phi * (np.log(y) - np.log1p(-y) - digamma(a) + digamma(b))
        q1 = -phi * phi * (polygamma(1, a) + polygamma(1, b))
        return Step(weights * self.loglik(y, mu, phi), weights * q * d1, -weights * (q1 * d1 * d1 + q * d2))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float
    ) -> tuple[FloatArray, FloatArray]:
        """The observed information."""
        mu, d1, d2, d3 = self.link.derivatives(eta)
        a, b = mu * phi, (1.0 - mu) * phi
        q = phi * (np.log(y) - np.log1p(-y) - digamma(a) + digamma(b))
        q1 = -phi * phi * (polygamma(1, a) + polygamma(1, b))
        q2 = -(phi**3) * (polygamma(2, a) - polygamma(2, b))
        return -weights * (q1 * d1 * d1 + q * d2), -weights * (q2 * d1**3 + 3.0 * q1 * d1 * d2 + q * d3)

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        phi = torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)
        mu = probability(self.link.name, eta)
        a, b = mu * phi, (1.0 - mu) * phi
        scale = torch.lgamma(phi) - torch.lgamma(a) - torch.lgamma(b)
        return weights * (scale + (a - 1.0) * torch.log(y) + (b - 1.0) * torch.log1p(-y))

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> ByDispersion:
        """See :meth:`Family.by_dispersion`."""
        mu, d1, d2, _ = self.link.derivatives(eta)
        a, b = mu * phi, (1.0 - mu) * phi
        density = digamma(phi) - mu * digamma(a) - (1.0 - mu) * digamma(b) + mu * np.log(y) + (1.0 - mu) * np.log1p(-y)
        one, two = polygamma(1, a), polygamma(1, b)
        q = np.log(y) - np.log1p(-y) - digamma(a) + digamma(b) - phi * (mu * one - (1.0 - mu) * two)
        q1 = -2.0 * phi * (one + two) - phi * phi * (mu * polygamma(2, a) + (1.0 - mu) * polygamma(2, b))
        return ByDispersion(weights * density, weights * q * d1, -weights * (q1 * d1 * d1 + q * d2))

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return 2.0 * (self.loglik(y, y, phi) - self.loglik(y, mu, phi))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Numbers between 0 and 1."""
        return rng.beta(mu * phi, (1.0 - mu) * phi)
