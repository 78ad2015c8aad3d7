"""Unordered classes: ``P(y = c) = softmax(eta)_c``, one linear predictor a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
from scipy.special import softmax

from pylmernn.families.family import Dispersion, Family, FamilyError, FloatArray, Step
from pylmernn.families.links import Link

if TYPE_CHECKING:
    import torch


class Multinomial(Family):
    """Class codes y = 0, ..., C - 1 given a row of C linear predictors.

    What families of one linear predictor offer, scores and curvatures of each row, is refused: such models are fitted
    by sampling. Here stand the checks of the response, probabilities and the density to train networks on.
    """

    name = "multinomial"
    links = ("softmax",)
    canonical = "softmax"
    categorical = True

    def __init__(self, link: str | None = None) -> None:
        chosen = link or "softmax"
        if chosen not in self.links:
            raise FamilyError(f"the multinomial family has no link '{chosen}': use softmax.")
        self.link = Link("softmax", lambda eta: self._refuse(), lambda mu: self._refuse())

    def check(self, y: FloatArray, weights: FloatArray, name: str) -> None:
        """Codes 0, 1, ..., each of them somewhere; a weight a counts a row a times."""
        check_codes(y, None, name)

    def probabilities(self, eta: FloatArray, phi: Dispersion = 1.0) -> FloatArray:
        """Probabilities (n, C) from linear predictors (n, C)."""
        return np.asarray(softmax(eta, axis=-1))

    def density(self, y: torch.Tensor, weights: torch.Tensor, eta: torch.Tensor, phi: Dispersion) -> torch.Tensor:
        """Log-densities (...) from linear predictors (..., C); y and weights broadcast against (...)."""
        import torch

        codes = y.long().expand(eta.shape[:-1])
        return weights * torch.log_softmax(eta, dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def _refuse(self) -> NoReturn:
        raise FamilyError("a multinomial model has a linear predictor a class: use method='mcem'.")

    def start(self, y: FloatArray, weights: FloatArray) -> FloatArray:
        """Refused."""
        self._refuse()

    def variance(self, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """``mu (1 - mu)`` of the probability mu of each class."""
        return mu * (1.0 - mu)

    def step(self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion) -> Step:
        """Refused."""
        self._refuse()

    def curvature(
        self, y: FloatArray, weights: FloatArray, eta: FloatArray, phi: Dispersion
    ) -> tuple[FloatArray, FloatArray]:
        """Refused."""
        self._refuse()

    def unit_deviance(self, y: FloatArray, mu: FloatArray, phi: Dispersion) -> FloatArray:
        """Minus twice the log of the probability of the class, for probabilities mu (n, C)."""
        return np.asarray(-2.0 * np.log(mu[np.arange(len(y)), y.astype(np.intp)]))

    def draw(self, rng: np.random.Generator, mu: FloatArray, weights: FloatArray, phi: Dispersion) -> FloatArray:
        """Class codes (n,) from probabilities mu (n, C)."""
        return (np.cumsum(mu[:, :-1], axis=1) < rng.uniform(size=(len(mu), 1))).sum(axis=1).astype(np.float64)


def check_codes(codes: FloatArray, n_classes: int | None, name: str) -> None:
    """Raise FamilyError where a response is not codes 0 to ``n_classes`` - 1, each of them somewhere.

    Parameters
    ----------
    codes : ndarray, shape (n,)
    n_classes : int or None
        None for one more than the largest code.
    name : str
        How the response is called.
    """
    bad = np.flatnonzero((codes < 0) | (codes != np.rint(codes)))
    if len(bad):
        raise FamilyError(
            f"the response '{name}' is {codes[bad[0]]:g} in row {bad[0] + 1}: a response of classes is a factor, text "
            "or whole numbers."
        )
    counts = np.bincount(codes.astype(np.intp), minlength=n_classes or 0)
    if n_classes is not None and len(counts) > n_classes:
        raise FamilyError(f"the response '{name}' has the class code {len(counts) - 1}, but {n_classes} classes.")
    if (counts > 0).sum() < 2:
        raise FamilyError(f"the response '{name}' has one class only: give rows of two or more classes.")
    if (counts == 0).any():
        raise FamilyError(f"the response '{name}' has no row of class {int(np.argmin(counts > 0)) + 1}: leave it out.")
