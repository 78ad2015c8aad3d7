"""Steps in the variances, fixed effects and dispersion that draws of the random effects call for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pylmernn.engines.effects import Effects
from pylmernn.engines.gibbs import NormalEffects
from pylmernn.engines.likelihood import Likelihood
from pylmernn.engines.sampled_moments import Information, information
from pylmernn.families import Family
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

SMALLEST_VARIANCE = 1e-8
LONGEST_STEP = 1.0  # of a log-variance
LARGEST_ERROR = 5.0  # of a log-variance: beyond, the data tell nothing of it
RIDGE, RIDGE_OF_TRAJECTORIES = 0.03, 0.3  # shares of the complete information that are added to the likelihood's


class ParameterSteps:
    """The half of :class:`pylmernn.engines.sampledpart.SampledPart` that moves parameters; the other half draws.

    Attributes
    ----------
    by_gibbs : bool
        Whether moments are conditional on omega, and not those of single draws.
    moments : list of list of list of Tensor (d_k, d_k)
        Of each class and draw, for every term: sums over levels of ``b b'``.
    scores : list of list of Tensor (p,)
        Of each class and draw.
    last : dict of (NormalEffects, Tensor (S, n), Tensor (S, Q))
        By class, the precision of the effects, omega and the conditional mean at the last draw.
    """

    design: Design
    family: Family
    n_classes: int
    by_gibbs: bool
    effects: Effects
    likelihood: Likelihood
    X: Tensor
    weights: Tensor
    offset: Tensor
    b: Tensor
    beta: FloatArray
    covariances: list[FloatArray]
    phi: float | FloatArray
    moments: list[list[list[Tensor]]]
    scores: list[list[Tensor]]
    last: dict[int, tuple[NormalEffects, Tensor, Tensor]]
    informations: dict[int, Information]

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Term and column of the variances that move on their own: those without covariances."""
        return [
            (k, s)
            for k, term in enumerate(self.design.random)
            if term.width == 1 or term.covariance == "diag"
            for s in range(term.width)
        ]

    def inform(self, c: int) -> Information:
        """What the last draw tells of the information in the parameters of class c."""
        system, omega, mean = self.last[c]
        variances = [float(self.covariances[k][c, s, s]) for k, s in self.columns]
        return information(system, omega, mean, self.X, self.columns, variances)

    def _second_moments(self, c: int) -> list[FloatArray]:
        """Mean over levels of ``E[b b']`` of each term (d_k, d_k)."""
        drawn = self.moments[c]
        return [
            torch.stack([one[k] for one in drawn]).mean(dim=0).cpu().numpy() / term.n_levels
            for k, term in enumerate(self.design.random)
        ]

    def last_variances(self, c: int) -> None:
        """Variances over the levels of the present draw, as the authors' code has them."""
        for k, part in enumerate(self.effects.split(self.b)):
            drawn = part[0, :, :, c].cpu().numpy()
            moment = np.cov(drawn.T, bias=True).reshape(drawn.shape[1], -1)
            kept = np.diag(np.diagonal(moment)) if self.design.random[k].covariance == "diag" else moment
            self.covariances[k][c] = kept + SMALLEST_VARIANCE * np.eye(len(kept))

    def step_variances(self, c: int, gain: float) -> None:
        """A Newton step for logarithms of single variances, a step of EM for whole covariance matrices."""
        moments = self._second_moments(c)
        columns = self.columns
        if columns:
            now = np.array([self.covariances[k][c, s, s] for k, s in columns])
            complete = 0.5 * np.array([self.design.random[k].n_levels for k, _ in columns])
            score = complete * (np.array([moments[k][s, s] for k, s in columns]) / now - 1.0)
            ridge = RIDGE if self.by_gibbs else RIDGE_OF_TRAJECTORIES
            H = self.informations[c].variances.cpu().numpy() + np.diag(ridge * complete)
            move = np.clip(np.linalg.solve(H, score), -LONGEST_STEP, LONGEST_STEP)
            for (k, s), value in zip(columns, now * np.exp(gain * move), strict=True):
                self.covariances[k][c, s, s] = max(float(value), SMALLEST_VARIANCE)
        single = {k for k, _ in columns}
        for k, moment in enumerate(moments):
            if k not in single:
                mixed = (1.0 - gain) * self.covariances[k][c] + gain * 0.5 * (moment + moment.T)
                self.covariances[k][c] = mixed + SMALLEST_VARIANCE * np.eye(len(mixed))

    def step_fixed(self, gain: float) -> None:
        """A Newton step for beta; classes move together, which calls for shorter steps the fewer they are."""
        share = 1.0 if self.n_classes == 1 else (self.n_classes - 1) / self.n_classes
        for c in self.last:
            score = torch.stack(self.scores[c]).mean(dim=0).cpu().numpy()
            H = self.informations[c].fixed.cpu().numpy()
            if not self.by_gibbs:  # as in EM: a single draw's score is too noisy for the likelihood's own curvature
                H = torch.einsum("sn,ni,nj->ij", self.last[c][1], self.X, self.X).cpu().numpy() / len(self.b)
            self.beta[:, c] += gain * share * np.linalg.lstsq(H, score, rcond=None)[0]
        if self.n_classes > 1:
            self.beta -= self.beta.mean(axis=1, keepdims=True)

    def step_dispersion(self, gain: float) -> None:
        """A step towards the dispersion that the present draws make most likely."""
        from scipy.optimize import minimize

        eta = (self.effects.eta(self.b) + self.offset)[:, :, 0].cpu().numpy()
        y, weights = self.design.y, self.weights.cpu().numpy()

        def objective(x: FloatArray) -> tuple[float, FloatArray]:
            phi = self.family.from_unconstrained(x)
            value, slope = 0.0, np.zeros(len(x))
            for row in eta:
                value -= float(self.family.step(y, weights, row, phi).loglik.sum())
                by_phi = self.family.by_dispersion(y, weights, row, phi).loglik
                slope -= self.family.chain(phi).T @ np.atleast_2d(by_phi).sum(axis=1)
            return value, slope

        x = self.family.unconstrained(self.phi)
        found = minimize(objective, x, jac=True, method="L-BFGS-B", options={"maxiter": 20}).x
        self.phi = self.likelihood.phi = self.family.from_unconstrained(x + gain * np.clip(found - x, -1.0, 1.0))

    # ---- what it knows

    def variance_errors(self) -> list[FloatArray]:
        """Standard errors (C, d_k) of the logarithms of the variances; without information, of complete data."""
        out = [np.full((self.n_classes, t.width), np.sqrt(2.0 / t.n_levels)) for t in self.design.random]
        for c, known in self.informations.items():
            H = known.variances.cpu().numpy()
            if len(H):
                errors = np.sqrt(np.maximum(np.diagonal(np.linalg.pinv(H)), 0.0))
                for (k, s), error in zip(self.columns, errors, strict=True):
                    out[k][c, s] = min(float(error), LARGEST_ERROR)
        return out

    def fixed_information(self, c: int) -> FloatArray:
        """``X' V^-1 X`` (p, p) of class c."""
        return np.asarray(self.informations[c].fixed.cpu().numpy())
