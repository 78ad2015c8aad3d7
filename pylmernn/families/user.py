"""Families that the user writes: a log-density in torch; all derivatives that a fit needs come from autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize

from pylmernn.families.family import ByDispersion, Dispersion, Family, FamilyError, FloatArray, Step
from pylmernn.families.links import LINKS

if TYPE_CHECKING:
    import torch

LEAST_INFORMATION = 1e-8
REACH = 40.0  # how far from the response and from zero the best linear predictor of a row is looked for


class UserFamily(Family):
    """A distribution given by its log-density.

    Parameters
    ----------
    name : str
        For summaries and messages.
    log_density : callable
        ``log_density(y, eta, phi) -> (n,)``, in torch, elementwise: y and eta are tensors (n,) and ``phi[j]`` is the
        j-th parameter, which broadcasts with them. All that depends on eta or phi must be there; constants enter the
        log-likelihood as written. It must have three derivatives in eta.
    link : str, default "identity"
        What the inverse of it makes of eta is called mu below: "identity", "log", "logit", "probit", "cloglog",
        "cauchit", "inverse" or "1/mu^2". ``log_density`` gets eta itself.
    parameters : int, sequence of str, or dict of str to float, default 0
        Parameters besides eta, estimated with the others: their number, names, or names with values to start from. They
        are positive; for a probability take ``phi / (1 + phi)``, for any number its logarithm.
    mean, variance : callable, optional
        ``(mu, phi) -> (n,)`` in NumPy: mean (by default mu) and variance of y. Without a variance, scores over their
        root mean square stand for Pearson residuals.
    draw : callable, optional
        ``draw(rng, mu, phi) -> (n,)``: random responses; ``simulate()`` and the bootstrap need it.
    check : callable, optional
        ``check(y) -> (n,)`` of bool: whether each response belongs to the family.

    Raises
    ------
    FamilyError
        For an unknown link, or parameters that do not start from positive numbers.

    Notes
    -----
    The curvature of Laplace's approximation is the observed information. Weights multiply the log-density of a row.

    Examples
    --------
    >>> import torch
    >>> def log_density(y, eta, phi):  # zero-inflated Poisson; phi[0] are the odds of a sure zero
    ...     sure = torch.where(y == 0, phi[0].log(), -torch.inf)
    ...     return torch.logaddexp(sure, y * eta - eta.exp() - torch.lgamma(y + 1)) - torch.log1p(phi[0])
    >>> family = UserFamily("zip", log_density, "log", {"odds": 0.5}, mean=lambda mu, phi: mu / (1 + phi[0]))
    >>> str(family)
    'zip(log)'
    """

    def __init__(
        self,
        name: str,
        log_density: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
        link: str = "identity",
        parameters: int | Sequence[str] | Mapping[str, float] = 0,
        mean: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
        variance: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
        draw: Callable[[np.random.Generator, FloatArray, FloatArray], FloatArray] | None = None,
        check: Callable[[FloatArray], Any] | None = None,
    ) -> None:
        if link not in LINKS:
            raise FamilyError(f"the family '{name}' has the link '{link}': use one of {', '.join(LINKS)}.")
        if not callable(log_density):
            raise FamilyError(f"the family '{name}': log_density is no function of y, eta and phi.")
        self.name, self.link, self.links = name, LINKS[link], (link,)
        self.log_density, self._mean, self._variance, self._draw, self._check = log_density, mean, variance, draw, check
        self.starts = _read_parameters(name, parameters)
        self.has_dispersion = bool(self.starts)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # ---- derivatives

    def _parameters(self, phi: Dispersion) -> FloatArray:
        """Phi as an array (k,)."""
        return np.atleast_1d(np.asarray(phi, dtype=np.float64))[: len(self.starts)]

    def _evaluate(
        self, y: FloatArray, eta: FloatArray, phi: Dispersion
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-densities (n,), with the eta (n,) and phi (k, n), one a row, to differentiate by."""
        import torch

        at = torch.tensor(np.asarray(eta), dtype=torch.float64, requires_grad=True)
        given = torch.tensor(self._parameters(phi))[:, None].repeat(1, len(y)).requires_grad_()
        with torch.enable_grad():
            return self.log_density(torch.tensor(y), at, given), at, given

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> Step:
        """See :meth:`Family.step`."""
        value, at, _ = self._evaluate(y, eta, phi)
        first = _derivative(value, at)
        second = _derivative(first, at)
        return Step(weights * _array(value), weights * _array(first), -weights * _array(second))

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion
    ) -> tuple[FloatArray, FloatArray]:
        """The observed information."""
        value, at, _ = self._evaluate(y, eta, phi)
        second = _derivative(_derivative(value, at), at)
        return -weights * _array(second), -weights * _array(_derivative(second, at))

    def by_dispersion(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> ByDispersion:
        """See :meth:`Family.by_dispersion`; (k, n) each."""
        value, at, given = self._evaluate(y, eta, phi)
        first = _derivative(value, at)
        second = _derivative(first, at)
        of_value, of_first, of_second = (_array(_derivative(each, given)) for each in (value, first, second))
        return ByDispersion(weights * of_value, weights * of_first, -weights * of_second)

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Dispersion) -> torch.Tensor:
        """See :meth:`Family.density`."""
        import torch

        given = torch.as_tensor(phi, dtype=eta.dtype, device=eta.device).reshape(-1)[: len(self.starts)]
        return weights * self.log_density(y, eta, given.reshape(-1, *[1] * eta.ndim))

    # ---- parameters

    def unconstrained(self, phi: Dispersion) -> FloatArray:
        """The logarithms."""
        return np.log(self._parameters(phi))

    def from_unconstrained(self, x: FloatArray) -> Dispersion:
        """A number for one parameter, else an array (k,)."""
        return np.exp(x) if len(x) > 1 else float(np.exp(x[0])) if len(x) else 1.0

    def chain(self, phi: Dispersion) -> FloatArray:
        """See :meth:`Family.chain`."""
        return np.diag(self._parameters(phi))

    # ---- start

    def begin(self, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, Dispersion]:
        """The constant and the parameters that maximize the likelihood without predictors and random effects."""
        starts = np.log(np.array(list(self.starts.values()), dtype=np.float64))
        with np.errstate(all="ignore"):
            tries = [float(self.link.forward(np.array([y.mean()]))[0]), 0.0, 0.5, 1.0]

        def negative(x: FloatArray) -> tuple[float, FloatArray]:
            value, at, given = self._evaluate(y, np.full(len(y), x[0]), np.exp(x[1:]))
            in_phi = (_array(_derivative(value, given)) * weights).sum(axis=1) * np.exp(x[1:])
            in_eta = float((_array(_derivative(value, at)) * weights).sum())
            return -float((_array(value) * weights).sum()), -np.append(in_eta, in_phi)

        with np.errstate(all="ignore"):
            values = [negative(np.append(c, starts))[0] if np.isfinite(c) else np.inf for c in tries]
            if not np.isfinite(values).any():
                raise FamilyError(f"the log-density of the family '{self.name}' is not finite where the search begins.")
            best = np.append(tries[int(np.nanargmin(values))], starts)
            found = optimize.minimize(negative, best, jac=True, method="BFGS", options={"maxiter": 50})
        x = found.x if np.isfinite(found.fun) and np.abs(found.x[1:]).max(initial=0.0) < 20.0 else best
        return np.full(len(y), x[0]), self.from_unconstrained(x[1:])

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """See :meth:`begin`."""
        return self.link.inverse(self.begin(y, weights)[0])

    def start_dispersion(self, y: FloatArray, weights: FloatArray, mu: FloatArray) -> Dispersion:
        """See :meth:`begin`."""
        return self.begin(y, weights)[1]

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """The user's check, and whether the log-density can be used."""
        import torch

        if self._check is not None:
            bad = np.flatnonzero(~np.broadcast_to(np.asarray(self._check(y), dtype=bool), y.shape))
            if len(bad):
                raise FamilyError(
                    f"the response '{name}' is {y[bad[0]]:g} in row {bad[0] + 1}, outside the family '{self.name}'."
                )
        eta = self.begin(y, weights)[0]
        value, _, _ = self._evaluate(y, eta, list(self.starts.values()))
        if not isinstance(value, torch.Tensor) or value.shape != y.shape:
            raise FamilyError(f"log_density of the family '{self.name}' must return a tensor with a number a row.")
        bad = np.flatnonzero(~np.isfinite(_array(value)))
        if len(bad):
            raise FamilyError(
                f"log_density of the family '{self.name}' is {float(value[bad[0]]):g} for '{name}' = {y[bad[0]]:g} in "
                f"row {bad[0] + 1}: is that a response of this family?"
            )

    # ---- what the user may add

    def variance(self, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """The user's."""
        if self._variance is None:
            raise FamilyError(f"the family '{self.name}' has no variance: give UserFamily(..., variance=).")
        return np.asarray(self._variance(mu, self._parameters(phi)), dtype=np.float64)

    def mean(self, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """See :meth:`Family.mean`."""
        mu = self.link.inverse(eta)
        return mu if self._mean is None else np.asarray(self._mean(mu, self._parameters(phi)), dtype=np.float64)

    def information(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """-l'' where that is positive, else the larger of its size and the squared score."""
        step = self.step(y, weights, eta, phi)
        other = np.maximum(np.abs(step.observed), step.score**2 / weights)
        return np.maximum(np.where(step.observed > 0, step.observed, other), LEAST_INFORMATION * weights)

    def pearson(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> FloatArray:
        """Where there is no variance, squares of the scores over their mean."""
        if self._variance is None:
            squares = self.step(y, weights, eta, phi).score ** 2 / weights
            return np.asarray(squares / squares.mean())
        raw = y - self.mean(eta, phi)
        return np.asarray(weights * raw**2 / self.variance(self.link.inverse(eta), phi))

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """Twice what the log-density lacks to its maximum over eta, which a golden section finds."""
        one = np.ones_like(y)
        low, high = np.minimum(y, 0.0) - REACH, np.maximum(y, 0.0) + REACH
        ratio = 0.5 * (np.sqrt(5.0) - 1.0)

        def at(eta: FloatArray) -> FloatArray:
            value = self.step(y, one, eta, phi).loglik
            return np.where(np.isnan(value), -np.inf, value)

        for _ in range(90):
            left, right = high - ratio * (high - low), low + ratio * (high - low)
            smaller = at(left) > at(right)
            low, high = np.where(smaller, low, left), np.where(smaller, right, high)
        best = at(0.5 * (low + high))
        return np.maximum(2.0 * (best - at(self.link.forward(mu))), 0.0)

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: Dispersion) -> FloatArray:
        """The user's."""
        if self._draw is None:
            raise FamilyError(f"the family '{self.name}' draws no responses: give UserFamily(..., draw=).")
        return np.asarray(self._draw(rng, mu, self._parameters(phi)), dtype=np.float64)


def _read_parameters(name: str, parameters: int | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Names and starts."""
    if isinstance(parameters, int):
        parameters = [f"phi{j + 1}" for j in range(parameters)]
    if isinstance(parameters, str):
        parameters = [parameters]
    given = parameters if isinstance(parameters, Mapping) else dict.fromkeys(parameters, 1.0)
    starts = {str(each): float(start) for each, start in given.items()}
    for each, start in starts.items():
        if not (np.isfinite(start) and start > 0):
            raise FamilyError(
                f"the parameter '{each}' of the family '{name}' starts at {start:g}: give a positive number."
            )
    return starts


def _derivative(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Derivatives of values (n,), each in its own column of at; zeros where they do not depend on it."""
    import torch

    if not values.requires_grad or not at.numel():
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(values.sum(), at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


def _array(values: torch.Tensor) -> FloatArray:
    return np.asarray(values.detach().numpy(), dtype=np.float64)
