"""Steps in the variances, fixed effects and dispersion that draws of the random effects call for."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pylmernn.engines.classdensity import ClassDensity
from pylmernn.engines.classinformation import ClassInformation
from pylmernn.engines.effects import Effects
from pylmernn.engines.gibbs import NormalEffects
from pylmernn.engines.likelihood import EffectsDensity, Likelihood
from pylmernn.engines.sampled_moments import Information, information, informations
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
    by_gibbs, by_gradients : bool
        Whether moments are conditional on omega, or corrected by gradients; else they are those of single draws.
    moments : list of list of list of Tensor (d_k, d_k)
        Of each class and draw, for every term: sums over levels of ``b b'``.
    scores : list of list of Tensor (p,)
        Of each class and draw.
    gradients : list of Tensor (Q, C)
        Of the log-density of the effects at each draw of the No-U-Turn sampler.
    last : dict of (NormalEffects, Tensor (S, n), Tensor (S, Q))
        By class, the precision of the effects, omega and the conditional mean at the last draw of the Gibbs sampler.
    """

    design: Design
    family: Family
    n_classes: int
    by_gibbs: bool
    by_gradients: bool
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
    gradients: list[Tensor]
    last: dict[int, tuple[NormalEffects, Tensor, Tensor]]
    informations: dict[int, Information]
    joint: ClassInformation | None
    mean: Tensor
    _last_density: EffectsDensity | ClassDensity

    @property
    def moved_classes(self) -> list[int]:
        """Classes whose effects were drawn since the parameters last moved."""
        return [c for c, drawn in enumerate(self.moments) if drawn]

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

    def inform_all(self) -> None:
        """The same of all classes at once, from the expected information at the draws of the No-U-Turn sampler."""
        omega = self._last_density.omega(self.b)
        system = NormalEffects(self.effects, self.effects.to_cells(omega), self._last_density.prior)
        variances = np.array([self.covariances[k][:, s, s] for k, s in self.columns])
        variances = variances.reshape(len(self.columns), self.n_classes).T
        own = torch.from_numpy(np.ascontiguousarray(variances)).to(omega.device)
        found = informations(system, omega, self.mean.T.contiguous(), self.X, self.columns, own)
        # before the chains have reached the data their means are too small, and so is the average information
        known = [1.0 - system.inverse_blocks(k)[:, :, s, s] / own[:, j, None] for j, (k, s) in enumerate(self.columns)]
        least = torch.stack([0.5 * (part**2).sum(dim=1) for part in known], dim=1) if known else own
        for c, one in enumerate(found):
            lacking = (least[c] - one.variances.diagonal()).clamp_min(0.0)
            self.informations[c] = dataclasses.replace(one, variances=one.variances + lacking.diag_embed())

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
            ridge = RIDGE if self.by_gibbs or self.by_gradients else RIDGE_OF_TRAJECTORIES
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
        for c in self.moved_classes:
            drawn = torch.stack(self.scores[c]).mean(dim=0)
            if self.gradients:  # whose mean is zero: takes out what the score owes to the draw of the effects
                drawn = drawn - self.informations[c].pull.T @ torch.stack([g[:, c] for g in self.gradients]).mean(dim=0)
            score = drawn.cpu().numpy()
            H = self.informations[c].fixed.cpu().numpy()
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
        if self.joint is not None:
            errors = _errors(self.joint.variances.cpu().numpy()).reshape(-1, self.n_classes)
            for (k, s), of_classes in zip(self.columns, errors, strict=True):
                out[k][:, s] = of_classes
            return out
        for c, known in self.informations.items():
            H = known.variances.cpu().numpy()
            if len(H):
                for (k, s), error in zip(self.columns, _errors(H), strict=True):
                    out[k][c, s] = error
        return out

    def fixed_information(self, c: int) -> FloatArray:
        """``X' V^-1 X`` (p, p) of class c."""
        return np.asarray(self.informations[c].fixed.cpu().numpy())

    def class_covariance(self) -> FloatArray:
        """Covariance (p C, p C) of fixed effects that sum to zero over classes, which stand side by side."""
        C, p = self.n_classes, self.design.p
        contrast = np.eye(C) - 1.0 / C
        if self.joint is not None:
            basis = np.kron(np.eye(p), np.linalg.svd(contrast)[0][:, : C - 1])
            inner = basis.T @ self.joint.fixed.cpu().numpy() @ basis
            return np.asarray(basis @ np.linalg.pinv(inner, hermitian=True) @ basis.T)
        inverse = np.stack([np.linalg.pinv(self.fixed_information(c)) for c in range(C)])
        return np.asarray(np.einsum("ac,cij,bc->iajb", contrast, inverse, contrast).reshape(p * C, p * C))


def _errors(H: FloatArray) -> FloatArray:
    """Standard errors (m,) of logarithms of variances with an information (m, m)."""
    errors = np.sqrt(np.maximum(np.diagonal(np.linalg.pinv(H)), 0.0))
    return np.asarray(np.minimum(errors, LARGEST_ERROR))
