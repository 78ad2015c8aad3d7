"""The state of a generalized model whose network varies by group, and the steps that change it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.alternating import LinearMember
from pylmernn.engines.control import Control
from pylmernn.engines.nme_model import (
    EM_STEPS,
    HALVINGS,
    LAST_CHANGE,
    LAST_ROUNDS,
    LAST_STEPS,
    Given,
    State,
    VaryingModel,
    constant_column,
    last_layer,
)
from pylmernn.engines.nme_posterior import Groups, Posterior, factor_of, posterior
from pylmernn.engines.nme_reduced import reduced_factor
from pylmernn.engines.nme_working import Rows, first_fixed, fixed_step, training_loss
from pylmernn.families import Family
from pylmernn.families.family import Dispersion
from pylmernn.formula.design import Design
from pylmernn.mean.mlp import TabularNet
from pylmernn.mean.networks import Networks
from pylmernn.mean.varying import CHUNK_NUMBERS, VaryingNetwork
from pylmernn.training.options import GENERALIZED_DECAY

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

FIRST_VARIANCE = 0.5  # of a linear predictor, which deviations stand for at first


@dataclass(frozen=True)
class GeneralizedState(State):
    """What training keeps of an epoch, the dispersion among it."""

    phi: Dispersion = 1.0


class GeneralizedVaryingModel(VaryingModel):
    """Network, deviations, variances and dispersion of one design.

    Parameters
    ----------
    design : Design
    family : Family
    control : Control

    Attributes
    ----------
    outputs : int
        C, linear predictors of a row: one a class in multinomial models, else 1.
    beta : Tensor of float64, shape (p, C)
    phi : float or ndarray
    """

    def __init__(self, design: Design, family: Family, control: Control) -> None:
        self.family = family
        self.outputs = len(design.classes) if family.name == "multinomial" else 1
        super().__init__(design, control, self.outputs, GENERALIZED_DECAY, self._loss)
        self.trainer.weights = torch.ones(design.n)
        self.scale, self.sigma2 = 1.0, 1.0
        prior = np.ones(design.n) if design.weights is None else design.weights
        self.data = Rows(family, design.y, prior, self.outputs)
        self.offset = torch.zeros(design.n).double() if design.offset is None else torch.from_numpy(design.offset)
        self.beta = self.X.new_zeros(design.p, self.outputs)
        self._begin()

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        return training_loss(self.family, self.outputs, output, target, self.phi)

    def _begin(self) -> None:
        """Beta and dispersion of the model without a network, from the rows to learn from."""
        learned = self.data.take(self.rows.numpy())
        self.beta, self.phi = first_fixed(learned, self.X[self.rows], self.offset[self.rows, None])

    # ---- values

    def values(self, rows: Tensor, eta: Tensor) -> Tensor:
        """F at some rows with deviations (q, D), (m, C)."""
        self.network.module.eval()
        found = self.network.rows(self.prepared[rows], eta.float(), self.codes[rows]).double()
        return found.reshape(len(rows), self.outputs)

    def linearised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """F at some rows (m, C) and its derivatives (m, C, D) at the deviations as they are."""
        self.network.module.eval()
        return jacobians(self.network, self.prepared[rows], self.eta.float(), self.codes[rows], self.outputs)

    def predictor(self, rows: Tensor, f: Tensor) -> Tensor:
        """Linear predictors (m, C) for values f of the network."""
        return self.offset[rows, None] + self.X[rows] @ self.beta + f

    # ---- training

    def epoch(self, number: int) -> float:
        """Train theta_bar over the rows once, then solve for all else; returns the mean deviance met.

        Raises
        ------
        FloatingPointError
            Where the loss or a deviation is not finite.
        """
        share = min(1.0, (number - 1) / self.rise)
        weights = torch.from_numpy(self.data.weights / self.data.weights.mean())
        known = self.offset[:, None] + self.X @ self.beta
        target = torch.cat([self.y_given[:, None], weights[:, None], known], 1)
        loss = self.trainer.epoch(target.float(), (share * self.eta).float())
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        self.solve(self.rows, self.groups, EM_STEPS)
        if not torch.isfinite(self.eta).all():
            raise FloatingPointError(f"the deviations are not finite in epoch {number}")
        return loss

    @property
    def y_given(self) -> Tensor:
        """The response as it is, (n,)."""
        return torch.from_numpy(np.ascontiguousarray(self.design.y))

    def solve(self, rows: Tensor, groups: Groups, steps: int, learn: bool = True) -> Posterior:
        """EM steps, each in the model linearised at the deviations; their mean goes to theta_bar in the end.

        The ``deviance`` of what is returned is -2 log-likelihood by Laplace's approximation, but for constants.
        """
        data, codes, X = self.data.take(rows.numpy()), self.codes[rows], self.X[rows]
        repeated = codes.repeat_interleave(self.outputs)
        wide = Groups(repeated.numpy().astype(np.int32), groups.q, self.selected.size)
        f, J = self.linearised(rows)
        for step in range(steps):
            if step and not self.selected.linear:
                f, J = self.linearised(rows)
            at = self.predictor(rows, f)
            root, residual = data.working(at, self.phi)
            weighted = (root @ J).reshape(len(repeated), -1)
            target = residual.reshape(-1) + (weighted * self.eta[repeated]).sum(1)
            if self.factor is None:
                self._begin_variances(J, weighted, target, wide)
            assert self.factor is not None
            found = posterior(weighted, target, self.factor, 1.0, wide, True)
            eta = self._damped(rows, data, at, residual, weighted, found.effects, repeated)
            laplace = self._laplace(found, weighted, target, repeated)
            if not self.reduced:
                self.factor = factor_of(found.second)
            elif learn:
                penalty = self.rank * float((J**2).sum(2).mean())
                self.factor = reduced_factor(weighted, target, repeated, self.factor, found, 1.0, penalty)
            self.eta = eta
            f = self.values(rows, eta)
            at = self.predictor(rows, f)
            root, residual = data.working(at, self.phi)
            self.beta = self.beta + fixed_step(X, root, residual)
        at = self.predictor(rows, f)
        self._update_dispersion(data, at, J, found, codes)
        self._recentre(codes)
        return dataclasses.replace(found, deviance=laplace + float(data.deviance(at, self.phi).sum()))

    def _begin_variances(self, J: Tensor, weighted: Tensor, target: Tensor, groups: Groups) -> None:
        """First variances: deviations stand for a variance of a linear predictor, all parameters alike."""
        size = J.shape[2]
        deviation = (FIRST_VARIANCE / float((J**2).sum(2).mean())) ** 0.5
        ones = J.new_full((size,), deviation)
        self.factor = ones if self.diagonal else torch.diag(ones)
        if self.reduced:
            effects = posterior(weighted, target, ones, 1.0, groups).effects
            _, values, vectors = torch.linalg.svd(effects, full_matrices=False)
            self.factor = vectors[: self.rank].T * values[: self.rank] / len(effects) ** 0.5

    def _damped(
        self, rows: Tensor, data: Rows, at: Tensor, residual: Tensor, J: Tensor, eta: Tensor, repeated: Tensor
    ) -> Tensor:
        """New deviations (q, D), nearer to the old ones in groups whose rows they fit far worse than promised."""
        q, codes = len(eta), self.codes[rows]

        def total(values: Tensor, of: Tensor) -> Tensor:
            return torch.zeros(q, dtype=torch.float64).index_add_(0, of, values)

        fixed = self.predictor(rows, torch.zeros_like(at))
        before, working = total(data.deviance(at, self.phi), codes), residual.reshape(-1)
        for _ in range(HALVINGS):
            moved = working - (J * (eta - self.eta)[repeated]).sum(1)
            promised = total(moved**2 - working**2, repeated)
            found = total(data.deviance(fixed + self.values(rows, eta), self.phi), codes) - before
            worse = ~(found <= promised + 0.5 * promised.abs() + 2.0)
            if not worse.any():
                break
            eta = torch.where(worse[:, None], (eta + self.eta) / 2, eta)
        return eta

    def _laplace(self, found: Posterior, J: Tensor, target: Tensor, repeated: Tensor) -> float:
        """What Laplace's approximation adds to the deviance: ``u'u`` and the log-determinant of ``A'A + I``."""
        rest = target - (J * found.effects[repeated]).sum(1)
        logdet = found.deviance - len(target) * float(np.log(2 * np.pi)) - float((target * rest).sum())
        return logdet + float((found.scores**2).sum())

    def _update_dispersion(self, data: Rows, at: Tensor, J: Tensor, found: Posterior, codes: Tensor) -> None:
        if self.outputs > 1 or not self.family.unconstrained(self.phi).size:
            return
        assert self.factor is not None
        assert found.score_variances is not None
        if self.factor.ndim == 1:
            variance = ((J[:, 0] * self.factor) ** 2 * found.score_variances[codes]).sum(1)
        else:
            A = J[:, 0] @ self.factor
            variance = torch.einsum("nk,nkl,nl->n", A, found.score_variances[codes], A)
        self.phi = data.dispersion(at[:, 0].numpy(), variance.clamp(min=0.0).numpy(), self.phi)

    def _recentre(self, codes: Tensor) -> None:
        """Put the mean of the deviations into theta_bar, which changes no value."""
        seen = torch.bincount(codes, minlength=len(self.eta)) > 0
        mean = self.eta[seen].mean(0)
        self.network.move(mean.float())
        self.eta = torch.where(seen[:, None], self.eta - mean, torch.zeros_like(self.eta))

    def criterion(self) -> tuple[float, float, float]:
        """Held-out mean deviances at rows of known groups and of new ones, and both as one number."""
        held = self.held
        found = []
        for whole in (False, True):
            chosen = np.flatnonzero((held.member == 0) & (held.whole == whole))
            if not len(chosen):
                found.append(float("nan"))
                continue
            rows, data = torch.from_numpy(chosen), self.data.take(chosen)
            deviances = data.deviance(self.predictor(rows, self.values(rows, self.eta)), self.phi)
            found.append(float(deviances.sum() / data.weights.sum()))
        both = LinearMember.combine(found[0], found[1], held) if self.training.validation > 0 else float("nan")
        return found[0], found[1], both

    # ---- what is kept

    def state(self) -> GeneralizedState:
        """A copy of all that changes."""
        base = super().state()
        return GeneralizedState(base.weights, base.beta, base.eta, base.factor, base.sigma2, self.phi)

    def restore(self, state: State) -> None:
        """An earlier :meth:`state`."""
        super().restore(state)
        assert isinstance(state, GeneralizedState)
        self.phi = state.phi

    def absorb_bias(self) -> None:
        """Put the bias of the last layer into the intercept, or the thresholds that stand for it."""
        module, constant = self.network.module, constant_column(self.design.X)
        if not isinstance(module, TabularNet):
            return
        bias = last_layer(module).bias
        if constant is not None:
            self.beta[constant] += bias.detach().double() / self.design.X[0, constant]
        elif self.family.absorbs_constant:
            self.phi = self.family.shifted(self.phi, -float(bias.detach()))
        else:
            return
        torch.nn.init.zeros_(bias)

    def settle(self) -> Given:
        """Deviations, variances and dispersion given theta_bar, on all rows, by EM."""
        rows = torch.arange(self.design.n)
        groups = Groups(self.term.codes, self.term.n_levels, self.selected.size)
        message = "the likelihood was still rising when EM stopped"
        before = np.inf
        for _ in range(LAST_ROUNDS):
            found = self.solve(rows, groups, LAST_STEPS, learn=False)
            if abs(before - found.deviance) < LAST_CHANGE:
                message = ""
                break
            before = found.deviance
        assert self.factor is not None
        variances = found.effect_variances(self.factor, in_full=not self.reduced)
        constant = -2.0 * self.family.constant(self.design.y, self.data.weights)
        return Given(
            sigma=1.0,
            effects=self.eta.numpy(),
            variances=variances.numpy(),
            factor=self.factor.numpy(),
            fixed_covariance=None,
            objective=found.deviance + constant,
            exact=False,
            message=message,
        )

    def mean(self, eta: bool = True) -> FloatArray:
        """Linear predictors at all rows, with or without deviations and offset, (n, C)."""
        rows = torch.arange(self.design.n)
        f = self.values(rows, self.eta if eta else torch.zeros_like(self.eta))
        return np.asarray((self.X @ self.beta + f + (self.offset[:, None] if eta else 0.0)).numpy())

    def networks(self, best_epoch: int, history: dict[str, list[float]]) -> Networks:
        """The network at theta_bar as data."""
        found = super().networks(best_epoch, history)
        fitted = found.fitted[:, 0] if self.outputs == 1 else found.fitted
        return dataclasses.replace(found, fitted=fitted, criterion="mean deviance")


def jacobians(
    network: VaryingNetwork, prepared: Tensor, eta: Tensor, codes: Tensor, outputs: int
) -> tuple[Tensor, Tensor]:
    """Values (m, C) of single rows and their derivatives by the deviations of their groups, (m, C, D), in float64."""
    values, derivatives = [], []
    step = max(1, CHUNK_NUMBERS // max(1, network.selected.size))
    for first in range(0, len(prepared), step):
        part = slice(first, first + step)
        own = eta[codes[part]].detach().requires_grad_(True)
        out = network(prepared[part, None], own)[:, 0].reshape(-1, outputs)
        each = [torch.autograd.grad(out[:, k].sum(), own, retain_graph=k + 1 < outputs)[0] for k in range(outputs)]
        derivatives.append(torch.stack(each, 1).double())
        values.append(out.detach().double())
    return torch.cat(values), torch.cat(derivatives)
