"""Ordered classes: the cumulative logit model, ``P(y <= k) = logistic(alpha_k - eta)`` (McCullagh 1980).

With u and l the threshold above and below a class, less eta, and F the logistic distribution function, a class has the
probability ``F(u) - F(l) = F(u) F(-l) (1 - exp(l - u))``, which loses no digits anywhere. So the derivatives in eta are

    l' = F(u) + F(l) - 1,    -l'' = f(u) + f(l),    l''' = f'(u) + f'(l)

and the log-density is concave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, log_expit

from pylmernn.families.family import ByDispersion, Family, FloatArray, Step
from pylmernn.families.links import Link
from pylmernn.families.multinomial import check_codes

if TYPE_CHECKING:
    import torch

FAR = 1e30  # stands for an infinite threshold in torch, where infinity times zero would be no number


def _zero(eta: FloatArray) -> FloatArray:
    return np.zeros_like(eta)


class Ordinal(Family):
    """``P(y <= k) = logistic(alpha_k - eta)`` for class codes y = 0, ..., K - 1; a weight a counts a row a times.

    The dispersion ``phi`` is the array (K - 1,) of increasing thresholds alpha. They stand for the intercept, so that a
    larger eta means a higher class and X has no column of ones. For ``nAGQ=0`` only beta is found with the modes, the
    thresholds maximize Laplace's approximation. What the others call the mean is here eta itself.
    """

    name = "ordinal"
    links = ("logit",)
    canonical = "logit"
    has_dispersion = True
    categorical = True
    absorbs_constant = True

    def __init__(self, link: str | None = None) -> None:
        super().__init__(link)
        self.link = Link("logit", lambda eta: (eta, np.ones_like(eta), _zero(eta), _zero(eta)), lambda eta: eta)

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Codes 0, 1, ..., each of them somewhere."""
        check_codes(y, None, name)

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """Zeros."""
        return np.zeros_like(y)

    def begin(self, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Zeros, and the thresholds of a model without predictors."""
        return np.zeros_like(y), self.start_dispersion(y, weights, y)

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> FloatArray:
        """Logits of the shares of rows up to each class."""
        shares = np.cumsum(np.bincount(y.astype(np.intp), weights)) / weights.sum()
        return np.asarray(np.log(shares[:-1] / (1.0 - shares[:-1])))

    # ---- thresholds

    def unconstrained(self, phi: FloatArray) -> FloatArray:
        """The first threshold and the logarithms of the differences."""
        return np.append(phi[:1], np.log(np.diff(phi)))

    def from_unconstrained(self, x: FloatArray) -> FloatArray:
        """See :meth:`Family.from_unconstrained`."""
        return np.cumsum(np.append(x[:1], np.exp(x[1:])))

    def chain(self, phi: FloatArray) -> FloatArray:
        """See :meth:`Family.chain`."""
        return np.tril(np.broadcast_to(np.append(1.0, np.diff(phi)), (len(phi), len(phi))))

    def shifted(self, phi: FloatArray, constant: float) -> FloatArray:
        """See :meth:`Family.shifted`."""
        return phi + constant

    def _cuts(self, y: FloatArray, eta: FloatArray, phi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The thresholds above and below each row's class, less eta, (n,) each."""
        codes = y.astype(np.intp)
        padded = np.concatenate([[-np.inf], phi, [np.inf]])
        return padded[codes + 1] - eta, padded[codes] - eta

    # ---- densities

    def variance(self, mu: FloatArray, phi: FloatArray) -> FloatArray:
        """Variance of the logistic distribution that stands behind the classes, around eta."""
        return np.full_like(mu, np.pi**2 / 3.0)

    def information(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray) -> FloatArray:
        """Minus l'', which is positive."""
        return np.maximum(self.step(y, weights, eta, phi).observed, 1e-300)

    def pearson(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray) -> FloatArray:
        """``(observed - expected)^2 / expected`` summed over the classes, 1 / P - 1, over its mean K - 1."""
        upper, lower = self._cuts(y, eta, phi)
        return np.asarray(weights * np.expm1(-_log_share(upper, lower)) / len(phi))

    def probabilities(self, eta: FloatArray, phi: FloatArray) -> FloatArray:
        """Probabilities of the classes (n, K)."""
        padded = np.concatenate([[-np.inf], phi, [np.inf]])
        cuts = padded - np.asarray(eta)[:, None]
        return np.asarray(np.exp(_log_share(cuts[:, 1:], cuts[:, :-1])))

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray) -> Step:
        """See :meth:`Family.step`."""
        upper, lower = self._cuts(y, eta, phi)
        score = expit(lower) - expit(-upper)
        return Step(weights * _log_share(upper, lower), weights * score, weights * (_slope(upper) + _slope(lower)))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The observed information."""
        upper, lower = self._cuts(y, eta, phi)
        f, g = _slope(upper), _slope(lower)
        return weights * (f + g), -weights * (f * _bend(upper) + g * _bend(lower))

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray) -> ByDispersion:
        """See :meth:`Family.by_dispersion`; (K - 1, n) each."""
        upper, lower = self._cuts(y, eta, phi)
        f, g = _slope(upper), _slope(lower)
        with np.errstate(over="ignore"):
            gap = 1.0 / np.expm1(upper - lower)
        codes, rows = y.astype(np.intp), np.arange(len(y))

        def spread(of_upper: FloatArray, of_lower: FloatArray) -> FloatArray:
            out = np.zeros((len(phi) + 2, len(y)))
            out[codes + 1, rows] = weights * of_upper
            out[codes, rows] += weights * of_lower
            return out[1:-1]

        return ByDispersion(
            spread(expit(-upper) + gap, -expit(lower) - gap), spread(f, g), spread(f * _bend(upper), g * _bend(lower))
        )

    def dispersion_score(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: FloatArray) -> FloatArray:
        """See :meth:`Family.dispersion_score`; without the arrays (K - 1, n)."""
        upper, lower = self._cuts(y, eta, phi)
        with np.errstate(over="ignore"):
            gap = 1.0 / np.expm1(upper - lower)
        codes, size = y.astype(np.intp), len(phi) + 2
        above = np.bincount(codes + 1, weights * (expit(-upper) + gap), size)
        return np.asarray((above - np.bincount(codes, weights * (expit(lower) + gap), size))[1:-1], dtype=np.float64)

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: FloatArray) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        alpha = torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)
        padded = torch.nn.functional.pad(alpha, (1, 0), value=-FAR)
        padded = torch.nn.functional.pad(padded, (0, 1), value=FAR)
        codes = y.long()
        upper, lower = padded[codes + 1], padded[codes]
        inside = torch.log(-torch.expm1(lower - upper))
        log_sigmoid = torch.nn.functional.logsigmoid
        return weights * (log_sigmoid(upper - eta) + log_sigmoid(eta - lower) + inside)

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: FloatArray) -> FloatArray:
        """Minus twice the log-density, where mu is eta."""
        return -2.0 * _log_share(*self._cuts(y, mu, phi))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: FloatArray) -> FloatArray:
        """Class codes, where mu is eta."""
        return np.searchsorted(phi, mu + rng.logistic(size=len(mu))).astype(np.float64)


def _log_share(upper: FloatArray, lower: FloatArray) -> FloatArray:
    """``log(F(upper) - F(lower))``."""
    return np.asarray(log_expit(upper) + log_expit(-lower) + np.log(-np.expm1(lower - upper)))


def _slope(x: FloatArray) -> FloatArray:
    """The logistic density."""
    return np.asarray(expit(x) * expit(-x))


def _bend(x: FloatArray) -> FloatArray:
    """Derivative of the logarithm of the logistic density."""
    return np.asarray(expit(-x) - expit(x))
