"""Negative binomial counts with size phi: Var(y) = mu + mu^2 / phi (glmmTMB's ``nbinom2``, theta of ``glmer.nb``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import digamma, expit, gammaln, xlogy

from pylmernn.families.family import ByDispersion, Family, FloatArray, Step
from pylmernn.families.poisson import check_counts

if TYPE_CHECKING:
    import torch


class NegativeBinomial(Family):
    """Negative binomial with mean mu and size phi; a weight a counts a row a times."""

    name = "negative.binomial"
    links = ("log",)
    has_dispersion = True

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Counts."""
        check_counts(y, name, "negative binomial")

    def constant(self, y: FloatArray, weights: FloatArray) -> float:
        """Minus the logarithms of the factorials."""
        return -float((weights * gammaln(y + 1.0)).sum())

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """A little more than y."""
        return y + np.where(y == 0, 1.0 / 6.0, 0.0)

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> float:
        """From moments: half of the variance beyond Poisson is left to the random effects."""
        excess = 0.5 * float((weights * ((y - mu) ** 2 - mu)).sum()) / float((weights * mu * mu).sum())
        return float(min(max(1.0 / max(excess, 1e-3), 0.1), 100.0))

    def variance(self, mu: FloatArray, phi: float) -> FloatArray:
        """``mu + mu^2 / phi``."""
        return mu + mu * mu / phi

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> Step:
        """See :meth:`Family.step`."""
        over = eta - np.log(phi)
        share, rest = expit(over), expit(-over)
        loglik = gammaln(y + phi) - gammaln(phi) + y * over - (y + phi) * np.logaddexp(0.0, over)
        return Step(weights * loglik, weights * (y - (y + phi) * share), weights * (y + phi) * rest * share)

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        phi = torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)
        over = eta - torch.log(phi)
        scale = torch.lgamma(y + phi) - torch.lgamma(phi)
        return weights * (scale + y * over - (y + phi) * torch.nn.functional.softplus(over))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float
    ) -> tuple[FloatArray, FloatArray]:
        """The observed information."""
        over = eta - np.log(phi)
        share, rest = expit(over), expit(-over)
        weight = weights * (y + phi) * rest * share
        return weight, weight * (rest - share)

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> ByDispersion:
        """See :meth:`Family.by_dispersion`."""
        over = eta - np.log(phi)
        share, rest = expit(over), expit(-over)
        density = digamma(y + phi) - digamma(phi) - np.logaddexp(0.0, over) + share - y * rest / phi
        weight = self.curvature(y, weights, eta, phi)[0]
        return ByDispersion(
            weights * density,
            weights * share * (y * rest / phi - share),
            weight * (1.0 / (y + phi) + (1.0 - 2.0 * rest) / phi),
        )

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return np.asarray(2.0 * (xlogy(y, y / mu) - (y + phi) * np.log((y + phi) / (mu + phi))))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Counts."""
        return np.asarray(rng.poisson(rng.gamma(phi, mu / phi)), dtype=np.float64)
