"""Working responses of generalized models: likelihoods of rows as weighted least squares in their linear predictors.

A row has C linear predictors eta (C = 1 but for multinomial models), a score s and an information W = R R'. One
Gauss-Newton step on the log-likelihood is least squares of ``R^-1 s`` on ``R'`` times the derivatives of eta, so that
what solves linear models solves the steps of generalized ones (McCullagh & Nelder, 1989, section 2.5). For a softmax
with probabilities p the information ``diag(p) - pp'`` has the root ``diag(p)^1/2 - p p^1/2'`` and the working residual
``s / p^1/2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from pylmernn.families.family import Dispersion, Family
from pylmernn.linalg.quadrature import gauss_hermite

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

LEAST = 1e-10  # weight or probability
STARTING_STEPS = 8  # of Newton for beta alone
LARGEST = 12.0  # change of a linear predictor that one step for beta may make
NODES = 5  # over the posterior of a row's linear predictor, for the dispersion


def is_generalized(estimates: Any) -> bool:
    """Whether a network that varies has a family other than normal."""
    return getattr(estimates, "family", None) is not None


class Rows:
    """Responses of some rows, with the family that they come from.

    Parameters
    ----------
    family : Family
    y, weights : ndarray, shape (n,)
    n_classes : int
        C of multinomial models; 1 for all other families.
    """

    def __init__(self, family: Family, y: FloatArray, weights: FloatArray, n_classes: int = 1) -> None:
        self.family, self.y, self.weights, self.outputs = family, y, weights, n_classes

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        return Rows(self.family, self.y[rows], self.weights[rows], self.outputs)

    def deviance(self, eta: Tensor, phi: Dispersion) -> Tensor:
        """Minus twice the log-density of each row (n,), but for constants, at linear predictors (n, C)."""
        if self.outputs > 1:
            logs = torch.log_softmax(eta, dim=1).gather(1, torch.from_numpy(self.y).long()[:, None])
            return -2.0 * logs[:, 0]
        return torch.from_numpy(-2.0 * self.family.step(self.y, self.weights, eta[:, 0].numpy(), phi).loglik)

    def working(self, eta: Tensor, phi: Dispersion) -> tuple[Tensor, Tensor]:
        """Roots R' of the information, (n, C, C), and residuals ``R^-1 s`` (n, C), at linear predictors (n, C)."""
        if self.outputs > 1:
            p = eta.softmax(1).clamp(min=LEAST)
            half = p.sqrt()
            score = torch.nn.functional.one_hot(torch.from_numpy(self.y).long(), self.outputs) - p
            return torch.diag_embed(half) - half[:, :, None] * p[:, None, :], score / half
        at = eta[:, 0].numpy()
        step = self.family.step(self.y, self.weights, at, phi)
        weight = self.family.curvature(self.y, self.weights, at, phi)[0]
        bad = ~(weight > 0)
        if bad.any():
            weight = np.where(bad, self.family.information(self.y, self.weights, at, phi), weight)
        root = torch.from_numpy(np.sqrt(np.maximum(weight, LEAST)))[:, None]
        return root[:, :, None], torch.from_numpy(step.score)[:, None] / root

    def dispersion(self, eta: FloatArray, variance: FloatArray, phi: Dispersion) -> Dispersion:
        """The dispersion that fits best, given the linear predictors' means and posterior variances (n,)."""
        if not self.family.unconstrained(phi).size:
            return phi
        rule = gauss_hermite(NODES)
        at = eta[:, None] + np.sqrt(variance)[:, None] * rule.z[:, 0]
        y, weights = (np.repeat(each, NODES) for each in (self.y, self.weights))
        share = np.tile(np.exp(rule.log_weights), len(eta))

        def objective(x: FloatArray) -> float:
            found = self.family.step(y, weights, at.ravel(), self.family.from_unconstrained(x)).loglik
            return -float(share @ found) if np.isfinite(found).all() else np.inf

        found = minimize(objective, self.family.unconstrained(phi), method="Nelder-Mead", options={"maxfev": 60})
        return self.family.from_unconstrained(found.x)

    def start(self) -> tuple[FloatArray, Dispersion]:
        """Linear predictors (n, C) and dispersion to start from."""
        if self.outputs > 1:
            shares = np.bincount(self.y.astype(np.intp), minlength=self.outputs) / len(self.y)
            logs = np.log(np.maximum(shares, 0.5 / len(self.y)))
            return np.tile(logs - logs.mean(), (len(self.y), 1)), 1.0
        eta, phi = self.family.begin(self.y, self.weights)
        return np.asarray(eta)[:, None], phi


def first_fixed(rows: Rows, X: Tensor, offset: Tensor) -> tuple[Tensor, Dispersion]:
    """Beta (p, C) and dispersion of the model without a network, for X (n, p) and an offset (n, 1)."""
    start, phi = rows.start()
    if not X.shape[1]:
        return X.new_zeros(0, rows.outputs), phi
    beta = torch.linalg.lstsq(X, torch.from_numpy(np.ascontiguousarray(start)) - offset).solution
    for _ in range(STARTING_STEPS):
        root, residual = rows.working(offset + X @ beta, phi)
        beta = beta + fixed_step(X, root, residual)
    return beta, phi


def fixed_step(X: Tensor, root: Tensor, residual: Tensor) -> Tensor:
    """A Gauss-Newton step for beta (p, C), all else as it is; see :meth:`Rows.working`."""
    m, C = residual.shape
    if not X.shape[1]:
        return X.new_zeros(0, C)
    columns = torch.einsum("mkc,mp->mkpc", root, X).reshape(m * C, -1)
    step: Tensor = torch.linalg.lstsq(columns, residual.reshape(-1, 1), driver="gelsd").solution.reshape(-1, C)
    largest = float((X @ step).abs().max())
    return step * min(1.0, LARGEST / max(largest, 1e-300))


def training_loss(family: Family, outputs: int, output: Tensor, target: Tensor, phi: Dispersion) -> Tensor:
    """Minus twice the log-density of rows in training, shaped as all but the last axis of the target.

    Parameters
    ----------
    family : Family
    outputs : int
    output : Tensor, shape (...) or (..., C)
        Of the network.
    target : Tensor, shape (..., 2 + C)
        Response, weight, and what else is in the linear predictors.
    phi : float or ndarray
    """
    y, weights, rest = target[..., 0], target[..., 1], target[..., 2:]
    eta = output + (rest if outputs > 1 else rest[..., 0])
    if isinstance(phi, np.ndarray):
        phi = torch.as_tensor(phi, dtype=eta.dtype)
    if outputs == 1:
        shape = eta.shape
        found: Tensor = family.density(y.reshape(-1), weights.reshape(-1), eta.reshape(-1), phi)
        return -2.0 * found.reshape(shape)
    return -2.0 * family.density(y, weights, eta, phi)
