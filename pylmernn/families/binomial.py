"""Binomial: y is the proportion of successes, the weights are the numbers of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln

from pylmernn.families.family import ExponentialFamily, FamilyError, FloatArray, Step
from pylmernn.families.torch_links import log_probabilities

if TYPE_CHECKING:
    import torch


class Binomial(ExponentialFamily):
    """``weight y ~ Binomial(weight, mu)``."""

    name = "binomial"
    links = ("logit", "probit", "cloglog", "cauchit")
    canonical = "logit"
    natural = ("logit",)
    expected = True

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Proportions of whole numbers of trials."""
        outside = np.flatnonzero((y < 0) | (y > 1))
        if len(outside):
            raise FamilyError(
                f"the response '{name}' is {y[outside[0]]:g} in row {outside[0] + 1}: a binomial response is 0 or 1, a "
                "proportion with the numbers of trials as weights, or cbind(successes, failures)."
            )
        inside = (y > 0) & (y < 1)
        successes = weights * y
        broken = np.flatnonzero(inside & (np.abs(successes - np.rint(successes)) > 1e-6 * np.maximum(successes, 1.0)))
        if not len(broken):
            broken = np.flatnonzero(inside & (np.abs(weights - np.rint(weights)) > 1e-6 * weights))
        if len(broken):
            i = broken[0]
            raise FamilyError(
                f"the response '{name}' is {y[i]:g} of {weights[i]:g} trials in row {i + 1}, which is no whole number "
                "of successes: give the numbers of trials as weights."
            )

    def constant(self, y: FloatArray, weights: FloatArray) -> float:
        """Logarithms of the binomial coefficients."""
        inside = (y > 0) & (y < 1)
        m, k = np.rint(weights[inside]), np.rint((weights * y)[inside])
        return float((gammaln(m + 1.0) - gammaln(k + 1.0) - gammaln(m - k + 1.0)).sum())

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """R's ``mustart``."""
        return (weights * y + 0.5) / (weights + 1.0)

    def variances(self, mu: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``mu (1 - mu)``."""
        return mu * (1.0 - mu), 1.0 - 2.0 * mu, np.full_like(mu, -2.0)

    def loglik(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`ExponentialFamily.loglik`."""
        return np.asarray(weights * (y * np.log(mu) + (1.0 - y) * np.log1p(-mu)))

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> Step:
        """In closed form for the logit, with one exponential a row."""
        if self.link.name != "logit":
            return super().step(y, weights, eta, phi)
        small = np.exp(-np.abs(eta))
        total = 1.0 / (1.0 + small)
        slope = small * total * total
        mu = np.where(eta >= 0, total, small * total)
        softplus = np.maximum(eta, 0.0) + np.log1p(small)
        return Step(weights * (y * eta - softplus), weights * (y - mu), weights * slope)

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Any) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch.nn.functional as F

        if self.link.name == "logit":
            return weights * (y * eta - F.softplus(eta))
        success, failure = log_probabilities(self.link.name, eta)
        return weights * (y * success + (1.0 - y) * failure)

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float
    ) -> tuple[FloatArray, FloatArray]:
        """In closed form for the logit."""
        if self.link.name != "logit":
            return super().curvature(y, weights, eta, phi)
        small = np.exp(-np.abs(eta))
        total = 1.0 / (1.0 + small)
        weight = weights * small * total * total
        return weight, weight * np.copysign((small - 1.0) * total, -eta) * np.where(eta == 0, 0.0, 1.0)

    def probabilities(self, eta: FloatArray, phi: float) -> FloatArray:
        """Of failure and success, (n, 2)."""
        mu = self.link.inverse(eta)
        return np.column_stack([1.0 - mu, mu])

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.unit_deviance`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            one = np.where(y > 0, y * np.log(y / mu), 0.0)
            two = np.where(y < 1, (1.0 - y) * np.log((1.0 - y) / (1.0 - mu)), 0.0)
        return np.asarray(2.0 * (one + two))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: float) -> FloatArray:
        """Proportions."""
        trials = np.rint(weights).astype(np.int64)
        return np.asarray(rng.binomial(trials, mu) / trials, dtype=np.float64)
