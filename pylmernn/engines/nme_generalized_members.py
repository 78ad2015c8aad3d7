"""Members of :mod:`pylmernn.engines.nme_members` for classes, counts and other families: their losses are deviances.

Deviations move to their modes by penalised Gauss-Newton steps on working responses, variances by the step of EM in
Laplace's approximation, as in :mod:`pylmernn.engines.nme_generalized_model`; each member has a dispersion of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_generalized_model import FIRST_VARIANCE, GeneralizedVaryingModel
from pylmernn.engines.nme_members import EM_STEPS, Members
from pylmernn.engines.nme_model import HALVINGS
from pylmernn.engines.nme_posterior import factor_of, posterior_of_scores
from pylmernn.engines.nme_working import first_fixed, fixed_step, training_loss

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor


class GeneralizedMembers(Members):
    """K members in training.

    Parameters
    ----------
    model : GeneralizedVaryingModel
        With one linear predictor a row.
    generic : bool, default False
    """

    model: GeneralizedVaryingModel

    def __init__(self, model: GeneralizedVaryingModel, generic: bool = False) -> None:
        super().__init__(model, generic)
        self.importance = torch.ones(model.design.n)  # densities know the weights
        self.absorbs_constant = model.family.absorbs_constant
        self.parts = [model.data.take(rows.numpy()) for rows in self.rows]
        begun = [
            first_fixed(part, model.X[r], model.offset[r, None]) for part, r in zip(self.parts, self.rows, strict=True)
        ]
        self.random.beta = torch.stack([beta[:, 0] for beta, _ in begun])
        self.random.phi = tuple(phi for _, phi in begun)

    def constants(self) -> FloatArray:
        """X, with a constant where thresholds stand for one."""
        X = self.model.design.X
        return np.column_stack([np.ones(len(X)), X]) if self.absorbs_constant else X

    def targets(self, rows: Tensor) -> Tensor:
        """Response, weight and what else is in the linear predictors at rows (K, m), (K, m, 3)."""
        model = self.model
        weights = torch.from_numpy(model.data.weights / model.data.weights.mean())
        known = model.offset[rows] + torch.einsum("kmp,kp->km", model.X[rows], self.random.beta)
        return torch.stack([model.y_given[rows], weights[rows], known], dim=2).float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Minus twice the log-densities, (K, m)."""
        family, phis = self.model.family, self.random.phi
        if not family.has_dispersion:
            return training_loss(family, 1, output, target, phis[0])
        found = zip(output, target, phis, strict=True)
        return torch.stack([training_loss(family, 1, out, aim, phi) for out, aim, phi in found])

    def working(self, at: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Roots of the information and working residuals, for linear predictors of each member's rows."""
        found = [
            part.working(own[:, None], phi) for part, own, phi in zip(self.parts, at, self.random.phi, strict=True)
        ]
        return torch.cat([root[:, 0, 0] for root, _ in found]), torch.cat([residual[:, 0] for _, residual in found])

    def deviances(self, at: Tensor) -> Tensor:
        """Of the rows that members learn from, at linear predictors (n_1 + ... + n_K,)."""
        own = zip(self.parts, at.split(self.counts), self.random.phi, strict=True)
        return torch.cat([part.deviance(values[:, None], phi) for part, values, phi in own])

    @property
    def counts(self) -> list[int]:
        """Rows that each member learns from."""
        return [len(rows) for rows in self.rows]

    def solve(self) -> None:
        """EM steps; the mean of the deviations of a member then moves into its network, which changes no value."""
        model, now, member = self.model, self.random, self.member
        self.J = self.columns()
        J, codes, X = self.J[member, self.row], model.codes[self.row], model.X[self.row]
        f = (J * self.nets.weights.detach().double()[member]).sum(1) + model.offset[self.row]
        for _ in range(EM_STEPS):
            fixed = f + (X * now.beta[member]).sum(1)
            own = (J * now.eta[member, codes]).sum(1)
            root, residual = self.working(list((fixed + own).split(self.counts)))
            weighted = root[:, None] * J
            if now.factor is None:
                now.factor = self.first_factor(J, torch.full((self.count,), FIRST_VARIANCE).double())
            A = torch.cat([part @ L for part, L in zip(weighted.split(self.counts), now.factor, strict=True)])
            found = posterior_of_scores(A, residual + root * own, now.factor[0], 1.0, self.groups, variances=True)
            assert found.score_variances is not None
            scores = found.scores.reshape(self.count, -1, self.width)
            spread = found.score_variances.reshape(self.count, -1, self.width, self.width)
            moments = torch.einsum("kqi,kqj->kij", scores, scores) + (spread * self.known[:, :, None, None]).sum(1)
            moments = moments / self.known.sum(1)[:, None, None]
            old, now.eta = now.eta, self.damped(fixed, residual, weighted, scores @ now.factor.transpose(1, 2))
            change = (J * (now.eta - old)[member, codes]).sum(1)
            now.factor = torch.stack([factor_of(L @ M @ L.T) for L, M in zip(now.factor, moments, strict=True)])
            self.step_for_beta(fixed + own + change, X)
        at = f + (X * now.beta[member]).sum(1) + (J * now.eta[member, codes]).sum(1)
        self.update_dispersion(at, A / root[:, None], spread)
        mean = (now.eta * self.known[:, :, None]).sum(1) / self.known.sum(1)[:, None]
        self.nets.move(mean.float())
        now.eta = (now.eta - mean[:, None]) * self.known[:, :, None]

    def damped(self, fixed: Tensor, residual: Tensor, weighted: Tensor, eta: Tensor) -> Tensor:
        """New deviations (K, q, D), nearer to the old ones in groups whose rows they fit far worse than promised.

        Parameters
        ----------
        fixed, residual : Tensor, shape (n_1 + ... + n_K,)
            Linear predictors but for deviations; working residuals at the old ones.
        weighted : Tensor, shape (n_1 + ... + n_K, D)
            Features times the roots of the information.
        eta : Tensor, shape (K, q, D)
        """
        old, codes = self.random.eta, self.model.codes[self.row]
        J = self.J[self.member, self.row]
        place = self.member * eta.shape[1] + codes

        def total(values: Tensor) -> Tensor:
            return values.new_zeros(eta.shape[0] * eta.shape[1]).index_add_(0, place, values)

        before = total(self.deviances(fixed + (J * old[self.member, codes]).sum(1)))
        for _ in range(HALVINGS):
            moved = residual - (weighted * (eta - old)[self.member, codes]).sum(1)
            promised = total(moved**2 - residual**2)
            found = total(self.deviances(fixed + (J * eta[self.member, codes]).sum(1))) - before
            worse = ~(found <= promised + 0.5 * promised.abs() + 2.0)
            if not worse.any():
                break
            eta = torch.where(worse.reshape(eta.shape[:2])[:, :, None], (eta + old) / 2, eta)
        return eta

    def step_for_beta(self, at: Tensor, X: Tensor) -> None:
        """A Gauss-Newton step for the coefficients of each member, from linear predictors of its rows."""
        root, residual = self.working(list(at.split(self.counts)))
        parts = zip(X.split(self.counts), root.split(self.counts), residual.split(self.counts), strict=True)
        steps = [fixed_step(own, r[:, None, None], rest[:, None])[:, 0] for own, r, rest in parts]
        self.random.beta = self.random.beta + torch.stack(steps)

    def update_dispersion(self, at: Tensor, A: Tensor, spread: Tensor) -> None:
        """The dispersion of each member, given linear predictors of its rows.

        Parameters
        ----------
        at : Tensor, shape (n_1 + ... + n_K,)
        A : Tensor, shape (n_1 + ... + n_K, D)
            Their derivatives by the scores.
        spread : Tensor, shape (K, q, D, D)
            Posterior variances of the scores.
        """
        if not self.model.family.has_dispersion:
            return
        codes, phis = self.model.codes, []
        for k, (mean, own) in enumerate(zip(at.split(self.counts), A.split(self.counts), strict=True)):
            variance = torch.einsum("nk,nkl,nl->n", own, spread[k, codes[self.rows[k]]], own).clamp(min=0.0)
            phis.append(self.parts[k].dispersion(mean.numpy(), variance.numpy(), self.random.phi[k]))
        self.random.phi = tuple(phis)

    def held_out_losses(self) -> Tensor:
        """Deviances (n,) at rows, each of the member that has not learnt from it."""
        found, at = self.squares.clone(), self.model.offset + self.out_of_fold()
        for k, phi in enumerate(self.random.phi):
            rows = np.flatnonzero(self.held.member == k)
            found[rows] = self.model.data.take(rows).deviance(at[rows, None], phi)
        return found
