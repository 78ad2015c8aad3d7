"""Negative binomial counts with size phi: Var(y) = mu + mu^2 / phi (glmmTMB's ``nbinom2``, theta of ``glmer.nb``)."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln, xlogy

from pylmernn.families.family import ByDispersion, Family, FloatArray, Step
from pylmernn.families.poisson import check_counts


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
        mu = self.link.inverse(eta)
        total = phi + mu
        loglik = gammaln(y + phi) - gammaln(phi) - xlogy(phi, 1.0 + mu / phi) + y * (eta - np.log(total))
        score = y - (y + phi) * (mu / total)
        return Step(weights * loglik, weights * score, weights * (y + phi) * (phi / total) * (mu / total))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float
    ) -> tuple[FloatArray, FloatArray]:
        """The observed information."""
        mu = self.link.inverse(eta)
        total = phi + mu
        weight = weights * (y + phi) * (phi / total) * (mu / total)
        return weight, weight * (phi - mu) / total

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> ByDispersion:
        """See :meth:`Family.by_dispersion`."""
        mu = self.link.inverse(eta)
        total = phi + mu
        density = digamma(y + phi) - digamma(phi) - np.log1p(mu / phi) + (mu - y) / total
        weight = self.curvature(y, weights, eta, phi)[0]
        return ByDispersion(
            weights * density,
            weights * (mu / total) * (y - mu) / total,
            weight * (1.0 / (y + phi) + 1.0 / phi - 2.0 / total),
        )

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        return np.asarray(2.0 * (xlogy(y, y / mu) - (y + phi) * np.log((y + phi) / (mu + phi))))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Counts."""
        return np.asarray(rng.poisson(rng.gamma(phi, mu / phi)), dtype=np.float64)
