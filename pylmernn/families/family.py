"""What a family must offer, and what all exponential families have in common.

Rows are independent given the linear predictor eta. For a family with mean mu, variance function V, dispersion phi and
prior weights a, the derivatives of a row's log-density in eta follow from those of ``q(mu) = (y - mu) / V(mu)``
(McCullagh & Nelder 1989, section 2.5): with ``mu', mu'', mu'''`` those of the inverse link,

    l'   = (a / phi) q mu'
    l''  = (a / phi) [q_mu mu'^2 + q mu'']
    l''' = (a / phi) [q_mumu mu'^3 + 3 q_mu mu' mu'' + q mu''']
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pylmernn.families.links import LINKS, Link

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]
#: What a family has besides eta: a number, or an array (k,) where it has several parameters.
Dispersion: TypeAlias = Any


class FamilyError(ValueError):
    """A family, link or response that do not go together; the message says what to do."""


@dataclass(frozen=True)
class Step:
    """Log-densities of the rows and their derivatives in eta, (n,) each: l, l' and -l''."""

    loglik: FloatArray
    score: FloatArray
    observed: FloatArray


@dataclass(frozen=True)
class ByDispersion:
    """Derivatives in the dispersion, (n,) each, or (k, n) of k parameters: of l, of l' and of the curvature weight."""

    loglik: FloatArray
    score: FloatArray
    weight: FloatArray


class Family(ABC):
    """A distribution of y given eta.

    Parameters
    ----------
    link : str, optional
        By default the first of ``links``.

    Attributes
    ----------
    name : str
    links : tuple of str
    has_dispersion : bool
        Whether a dispersion parameter, or several, are estimated.
    has_scale : bool
        Whether the dispersion multiplies the variance, as a residual variance does.
    expected : bool
        Whether the curvature of Laplace's approximation is the expected information (as in lme4) or the observed one
        (as in glmmTMB). They agree where the link is canonical.
    categorical : bool
        Whether the response is a class, so that :meth:`probabilities` stands for the mean.
    absorbs_constant : bool
        Whether the parameters stand for the intercept, so that X has none.
    """

    name: str
    links: tuple[str, ...]
    canonical: str = ""
    has_dispersion: bool = False
    has_scale: bool = False
    expected: bool = False
    categorical: bool = False
    absorbs_constant: bool = False

    def __init__(self, link: str | None = None) -> None:
        chosen = link or self.links[0]
        if chosen not in self.links:
            raise FamilyError(f"the {self.name} family has no link '{chosen}': use one of {', '.join(self.links)}.")
        self.link: Link = LINKS[chosen]

    def __str__(self) -> str:
        return f"{self.name}({self.link.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def exact(self) -> bool:
        """Whether the curvature weight is -l'' itself."""
        return not self.expected or self.link.name == self.canonical

    @abstractmethod
    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Raise FamilyError where a response (n,) lies outside the family."""

    @abstractmethod
    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """Means (n,) to start from."""

    def begin(self, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, Dispersion]:
        """Linear predictors (n,) to start from, and the dispersion that holds with them."""
        return self.link.forward(self.start(y, weights)), 1.0

    @abstractmethod
    def variance(self, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """Variance of a row of weight 1 (n,); where ``has_scale``, over phi."""

    @abstractmethod
    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> Step:
        """Log-densities without their constant, scores and observed information."""

    @abstractmethod
    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion
    ) -> tuple[FloatArray, FloatArray]:
        """The weight of Laplace's approximation and its derivative in eta, (n,) each."""

    def information(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Expected information in eta (n,), or what else is positive and near it, for steps where -l'' is not."""
        mu, slope, _, _ = self.link.derivatives(eta)
        return weights * slope * slope / (self.variance(mu, phi) * (phi if self.has_scale else 1.0))

    def pearson(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Squares of the Pearson residuals (n,); where ``has_scale``, times phi."""
        mu = self.link.inverse(eta)
        return np.asarray(weights * (y - mu) ** 2 / self.variance(mu, phi))

    def mean(self, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Means (n,) of the responses."""
        return self.link.inverse(eta)

    def probabilities(self, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Probabilities of the classes (n, C), for responses that are classes."""
        raise FamilyError(f"the {self.name} family has no classes: look at the means instead.")

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Dispersion) -> torch.Tensor:
        """Log-densities as ``step`` has them, differentiable; all broadcast against eta, (m,) or (m, K)."""
        raise NotImplementedError

    def constant(self, y: FloatArray, weights: FloatArray) -> float:
        """What ``step`` leaves out of the sum of the log-densities; free of all parameters."""
        return 0.0

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> ByDispersion:
        """Derivatives in phi, for families that have it."""
        raise NotImplementedError

    def dispersion_score(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Derivative (k,) of the log-likelihood in phi."""
        return np.atleast_2d(self.by_dispersion(y, weights, eta, phi).loglik).sum(axis=1)

    def unconstrained(self, phi: Dispersion) -> FloatArray:
        """The dispersion in coordinates (k,) without bounds, for a search: its logarithm."""
        return np.log([phi]) if self.has_dispersion else np.empty(0)

    def from_unconstrained(self, x: FloatArray) -> Dispersion:
        """The dispersion at coordinates (k,); 1 for families without."""
        return float(np.exp(x[0])) if self.has_dispersion else 1.0

    def chain(self, phi: Dispersion) -> FloatArray:
        """Derivatives (k, k) of the dispersion in its coordinates, a row a parameter."""
        return np.array([[phi]]) if self.has_dispersion else np.empty((0, 0))

    def shifted(self, phi: Dispersion, constant: float) -> Dispersion:
        """The dispersion that makes up for a constant added to eta, where ``absorbs_constant``."""
        return phi

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> Dispersion:
        """The dispersion to start from."""
        return 1.0

    @abstractmethod
    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """Twice the log-density at mu = y less that at mu, for weight and dispersion 1 (n,)."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: Dispersion) -> FloatArray:
        """Random responses with means mu."""


class ExponentialFamily(Family):
    """A family given by its variance function; see the module's notes.

    Attributes
    ----------
    natural : tuple of str
        Links for which the derivative of the mean is the variance function.
    """

    natural: tuple[str, ...] = ()

    @abstractmethod
    def variances(self, mu: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """V and its first two derivatives in mu, (n,) each."""

    @abstractmethod
    def loglik(self, y: FloatArray, weights: FloatArray, mu: FloatArray, phi: float) -> FloatArray:
        """Log-densities (n,), without what ``constant`` holds."""

    def variance(self, mu: FloatArray, phi: float) -> FloatArray:
        """See :meth:`Family.variance`."""
        return self.variances(mu)[0]

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float) -> Step:
        """See :meth:`Family.step`."""
        mu, d1, d2, _ = self.link.derivatives(eta)
        scale = weights / phi
        if self.link.name in self.natural:
            return Step(self.loglik(y, weights, mu, phi), scale * (y - mu), scale * d1)
        V, V1, _ = self.variances(mu)
        q = (y - mu) / V
        q1 = -(1.0 + q * V1) / V
        return Step(self.loglik(y, weights, mu, phi), scale * q * d1, -scale * (q1 * d1 * d1 + q * d2))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: float
    ) -> tuple[FloatArray, FloatArray]:
        """See :meth:`Family.curvature`."""
        mu, d1, d2, d3 = self.link.derivatives(eta)
        V, V1, V2 = self.variances(mu)
        scale = weights / phi
        if self.expected:
            return scale * d1 * d1 / V, scale * d1 * (2.0 * d2 - d1 * d1 * V1 / V) / V
        q = (y - mu) / V
        q1 = -(1.0 + q * V1) / V
        q2 = (2.0 * V1 / V - q * (V2 - 2.0 * V1 * V1 / V)) / V
        observed = -scale * (q1 * d1 * d1 + q * d2)
        return observed, -scale * (q2 * d1**3 + 3.0 * q1 * d1 * d2 + q * d3)
