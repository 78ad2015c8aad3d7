"""Link functions: the mean as a function of the linear predictor, with three derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

FloatArray = NDArray[np.float64]
Derivatives = tuple[FloatArray, FloatArray, FloatArray, FloatArray]

EPSILON = float(np.finfo(np.float64).eps)
PROBIT_LIMIT = -float(ndtri(EPSILON))
CLOGLOG_LIMITS = (-36.0, float(np.log(-np.log(EPSILON))))
CAUCHIT_LIMIT = float(np.tan(np.pi * (0.5 - EPSILON)))


@dataclass(frozen=True)
class Link:
    """A link ``eta = link(mu)``.

    Attributes
    ----------
    name : str
        R's name.
    derivatives : callable
        From eta (n,) to mu and its first three derivatives in eta, (n,) each. Means of the binomial stay a rounding
        error away from 0 and 1, as in R.
    forward : callable
        From mu (n,) to eta (n,).
    """

    name: str
    derivatives: Callable[[FloatArray], Derivatives]
    forward: Callable[[FloatArray], FloatArray]

    def inverse(self, eta: FloatArray) -> FloatArray:
        """The mean (n,) of a linear predictor (n,)."""
        return self.derivatives(eta)[0]


def _identity(eta: FloatArray) -> Derivatives:
    zero = np.zeros_like(eta)
    return eta, np.ones_like(eta), zero, zero


def _log(eta: FloatArray) -> Derivatives:
    with np.errstate(over="ignore"):
        mu = np.exp(eta)
    return mu, mu, mu, mu


def _inverse(eta: FloatArray) -> Derivatives:
    mu = 1.0 / eta
    return mu, -(mu**2), 2.0 * mu**3, -6.0 * mu**4


def _inverse_square(eta: FloatArray) -> Derivatives:
    with np.errstate(invalid="ignore"):
        mu = 1.0 / np.sqrt(eta)
    return mu, -0.5 * mu**3, 0.75 * mu**5, -1.875 * mu**7


def _logit(eta: FloatArray) -> Derivatives:
    small = np.exp(-np.abs(eta))
    total = 1.0 / (1.0 + small)
    mu = np.where(eta >= 0, total, small * total)
    slope = small * total * total
    bend = 1.0 - 2.0 * mu
    return np.clip(mu, EPSILON, 1.0 - EPSILON), slope, slope * bend, slope * (bend * bend - 2.0 * slope)


def _probit(eta: FloatArray) -> Derivatives:
    eta = np.clip(eta, -PROBIT_LIMIT, PROBIT_LIMIT)
    slope = np.exp(-0.5 * eta * eta) / np.sqrt(2.0 * np.pi)
    return ndtr(eta), slope, -eta * slope, (eta * eta - 1.0) * slope


def _cloglog(eta: FloatArray) -> Derivatives:
    rate = np.exp(np.clip(eta, *CLOGLOG_LIMITS))
    slope = rate * np.exp(-rate)
    bend = 1.0 - rate
    return -np.expm1(-rate), slope, slope * bend, slope * (bend * bend - rate)


def _cauchit(eta: FloatArray) -> Derivatives:
    eta = np.clip(eta, -CAUCHIT_LIMIT, CAUCHIT_LIMIT)
    square = 1.0 + eta * eta
    slope = 1.0 / (np.pi * square)
    return (
        0.5 + np.arctan(eta) / np.pi,
        slope,
        -2.0 * eta * slope / square,
        slope * (6.0 * eta * eta - 2.0) / square**2,
    )


LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Link("identity", _identity, lambda mu: mu),
        Link("log", _log, np.log),
        Link("inverse", _inverse, lambda mu: 1.0 / mu),
        Link("1/mu^2", _inverse_square, lambda mu: 1.0 / mu**2),
        Link("logit", _logit, lambda mu: np.log(mu / (1.0 - mu))),
        Link("probit", _probit, ndtri),
        Link("cloglog", _cloglog, lambda mu: np.log(-np.log1p(-mu))),
        Link("cauchit", _cauchit, lambda mu: np.tan(np.pi * (mu - 0.5))),
    )
}
