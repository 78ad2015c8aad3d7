"""The state of a generalized model whose network varies by several bars, or beside ordinary ones, while it is fitted.

As :mod:`pylmernn.engines.nme_several_model`, with the deviance for the loss of the network. Between two epochs the
model linearised at the deviations is a generalized linear mixed model. A step of penalised iteratively reweighted least
squares for it is a linear mixed model of working responses, with weights and a residual variance of 1; EM steps take
the modes and their variances from it (Laplace's approximation).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.alternating import LinearMember
from pylmernn.engines.control import Control
from pylmernn.engines.nme_generalized_model import FIRST_VARIANCE
from pylmernn.engines.nme_model import COLLAPSED, State, constant_column, last_layer
from pylmernn.engines.nme_several_bars import Columns, Linearised, first_factor, spherical
from pylmernn.engines.nme_several_model import BORNE_OUT, SeveralModel, SeveralState
from pylmernn.engines.nme_several_posterior import Expected
from pylmernn.engines.nme_working import Rows, first_fixed, training_loss
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.pls import DirectElimination
from pylmernn.families import Family
from pylmernn.families.family import Dispersion
from pylmernn.formula.design import Design
from pylmernn.mean.mlp import TabularNet
from pylmernn.mean.networks import Networks
from pylmernn.training.options import GENERALIZED_DECAY

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

HALVINGS = 6  # of a step that linearisation promised too much of
SLACK = 2.0  # of a deviance: how much worse than promised the rows of a level may fit


@dataclass(frozen=True)
class SeveralGeneralizedState(SeveralState):
    """What training keeps of an epoch, the dispersion among it."""

    phi: Dispersion = 1.0


class SeveralGeneralizedModel(SeveralModel):
    """Network, effects of all bars, variances and dispersion of one design.

    Parameters
    ----------
    design : Design
        As of :class:`SeveralModel`; the family has one linear predictor a row.
    family : Family
    control : Control

    Attributes
    ----------
    data : Rows
        Responses.
    offset : Tensor, shape (n,)
    phi : float or ndarray
        Dispersion.
    """

    def __init__(self, design: Design, family: Family, control: Control) -> None:
        self.family = family
        super().__init__(design, control, GENERALIZED_DECAY, self._loss)
        self.trainer.weights = torch.ones(design.n)
        self.scale, self.sigma2 = 1.0, 1.0
        prior = np.ones(design.n) if design.weights is None else design.weights
        self.data = Rows(family, design.y, prior)
        self.y_given = torch.from_numpy(np.ascontiguousarray(design.y))
        self.offset = torch.zeros(design.n).double() if design.offset is None else torch.from_numpy(design.offset)
        learned = self.data.take(self.rows.numpy())
        beta, self.phi = first_fixed(learned, self.X[self.rows], self.offset[self.rows, None])
        self.beta = beta[:, 0]

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        return training_loss(self.family, 1, output, target, self.phi)

    # ---- values

    def predictor(self, rows: Tensor, beta: Tensor, effects: list[Tensor], f: Tensor) -> Tensor:
        """Linear predictors (m,) with these effects of all bars and values f of the network."""
        return self.offset[rows] + self.X[rows] @ beta + self.ordinary_of(rows, effects) + f

    def deviances(self, rows: Tensor, predictor: Tensor) -> Tensor:
        """Minus twice the log-densities of rows (m,), but for constants."""
        return self.data.take(rows.numpy()).deviance(predictor[:, None], self.phi)

    def misfit(self, rows: Tensor, beta: Tensor, effects: list[Tensor], f: Tensor) -> float:
        """The deviance of some rows with these effects of all bars and values f (m,) of the network."""
        return float(self.deviances(rows, self.predictor(rows, beta, effects, f)).sum())

    def is_borne_out(self, promised: float, found: float, m: int) -> bool:
        """Whether the deviance of m rows is about what the linearised model promised."""
        return found <= promised + BORNE_OUT * m

    @property
    def effects(self) -> list[Tensor]:
        """Of all bars as they are."""
        return [bar.effects for bar in self.bars]

    # ---- training

    def epoch(self, number: int) -> float:
        """As :meth:`SeveralModel.epoch`; returns the mean deviance met.

        Raises
        ------
        FloatingPointError
            Where the loss or an effect is not finite.
        """
        share = min(1.0, (number - 1) / self.rise)
        weights = torch.from_numpy(self.data.weights / self.data.weights.mean())
        known = self.offset + self.X @ self.beta + share * self.ordinary_part()
        target = torch.stack([self.y_given, weights, known], 1)
        loss = self.trainer.epoch(target.float(), (share * self.eta).float())
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        self.improve(self.rows, self.steps_on(self.rows))
        if not all(bool(torch.isfinite(own).all()) for own in self.effects):
            raise FloatingPointError(f"the deviations are not finite in epoch {number}")
        return loss

    def improve(self, rows: Tensor, steps: int) -> None:
        """EM steps, each in the model linearised where the one before it has come; then the dispersion."""
        for _ in range(steps):
            super().improve(rows, 1)
        self.learn_dispersion(rows)

    def begin(self, rows: Tensor, f: Tensor, J: Tensor) -> None:
        """First variances: bars together stand for a variance of the linear predictor.

        As in the linear model a factor of reduced rank that stands for nothing begins anew.
        """
        root, residual = self.working(rows, self.predictor(rows, self.beta, self.effects, f))
        rest = residual + root * (J * self.eta[self.codes[rows]]).sum(1)
        for bar in self.bars:
            columns = self.natural_columns(bar, J, rows)
            if bar.factor is not None:
                nothing = bar.reduced and ((columns @ bar.factor) ** 2).sum(1).mean() < COLLAPSED * FIRST_VARIANCE
                if not nothing:
                    continue
            share = FIRST_VARIANCE / len(self.bars)
            bar.factor = first_factor(bar, bar.codes[rows], columns, share, root[:, None] * columns, rest, 1.0)

    def working(self, rows: Tensor, predictor: Tensor) -> tuple[Tensor, Tensor]:
        """Roots of the information (m,) and residuals over them (m,); see :meth:`Rows.working`."""
        root, residual = self.data.take(rows.numpy()).working(predictor[:, None], self.phi)
        return root[:, 0, 0], residual[:, 0]

    def linear_model(self, at: Linearised) -> tuple[Design, list[Columns]]:
        """The linear mixed model of a step, with working response and weights."""
        rows, effects = at.rows, self.effects
        root, residual = self.working(rows, self.predictor(rows, self.beta, effects, at.f))
        linear, columns = super().linear_model(at)
        y = residual / root + self.X[rows] @ self.beta + self.ordinary_of(rows, effects) + sum(at.own, torch.zeros(()))
        return dataclasses.replace(linear, y=y.numpy(), weights=(root**2).numpy()), columns

    def expected(self, linear: Design) -> Expected:
        """Conditional modes and variances at variances as they are, with a residual variance of 1."""
        found = super().expected(linear)
        return found._replace(sigma=1.0, variances=[own / found.sigma**2 for own in found.variances])

    def deviance_at(self, at: Linearised, found: Expected) -> float:
        """-2 log-likelihood by Laplace's approximation where the effects are their modes."""
        penalty = sum(float((spherical(bar, bar.effects) ** 2).sum()) for bar in self.bars)
        constant = -2.0 * self.family.constant(self.whole.y, self.data.weights)
        return self.misfit(at.rows, self.beta, self.effects, at.f) + penalty + found.log_determinant + constant

    def generalized(self, at: Linearised, linear: Design) -> Design:
        """The generalized linear mixed model that a step is of, with what linearisation leaves of f in its offset."""
        rows = at.rows.numpy()
        offset = self.offset[at.rows] + at.f - sum(at.own, torch.zeros(()))
        weights = None if self.whole.weights is None else self.whole.weights[rows]
        return dataclasses.replace(linear, y=self.whole.y[rows], weights=weights, offset=offset.numpy())

    def learn_dispersion(self, rows: Tensor) -> None:
        """The dispersion that fits best, given means and posterior variances of the linear predictors."""
        if not self.family.unconstrained(self.phi).size:
            return
        at = self.linearise(rows)
        linear = self.linear_model(at)[0]
        assert linear.weights is not None
        spread = predictor_variances(self.generalized(at, linear), self.family, linear.weights, self.theta())
        predictor = self.predictor(rows, self.beta, self.effects, at.f)
        self.phi = self.data.take(rows.numpy()).dispersion(predictor.numpy(), np.maximum(spread, 0.0), self.phi)

    # ---- moves

    def take(self, at: Linearised, linear: Design, columns: list[Columns], beta: Tensor, effects: list[Tensor]) -> None:
        """New beta and effects of all bars, nearer to the old ones where rows fit far worse than promised."""
        beta, effects = self.damped(at, linear, beta, effects)
        for bar, own, new in zip(self.bars, columns, effects, strict=True):
            bar.known[own.levels] = True
            bar.effects = new
        self.beta = beta
        self.recentre()

    def damped(
        self, at: Linearised, linear: Design, beta: Tensor, effects: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Steps halved at levels, and for beta, whose rows fit far worse than the linear model promises."""
        rows, old = at.rows, self.effects
        before = self.deviances(rows, self.predictor(rows, self.beta, old, at.f))
        assert linear.weights is not None
        root = torch.from_numpy(linear.weights).sqrt()
        fixed = self.X[rows] @ (beta - self.beta)
        changes = [fixed, *self.changes(at, effects)]
        residual = self._residual(at, linear, root)
        codes = [torch.zeros_like(rows), *(bar.codes[rows] for bar in self.bars)]
        lengths = [torch.ones(1, dtype=torch.float64), *(torch.ones(len(own), dtype=torch.float64) for own in old)]
        for _ in range(HALVINGS + 1):
            each = [length[k] * change for length, k, change in zip(lengths, codes, changes, strict=True)]
            moved = sum(each, torch.zeros(()))
            promised = (residual - root * moved) ** 2 - residual**2
            now = [o + s[:, None] * (e - o) for s, o, e in zip(lengths[1:], old, effects, strict=True)]
            at_beta = self.beta + lengths[0] * (beta - self.beta)
            varying = now[: len(self.varying)]
            f = at.f + sum(each[1 : 1 + len(varying)], torch.zeros(()))
            if not self.selected.linear:
                f = self.values(rows, self.of_cells(varying))
            found = self.deviances(rows, self.predictor(rows, at_beta, now, f)) - before
            worse = [self._shorten(own, k, promised, found) for own, k in zip(lengths, codes, strict=True)]
            if not any(worse):
                return at_beta, now
        return (at_beta, now) if float(found.sum()) <= 0.0 else (self.beta, old)

    def arrive(self, at: Linearised, linear: Design, columns: list[Columns], found: Expected) -> None:
        """A last step of beta and all effects, means of deviations as they are."""
        effects = self.new_effects(columns, found.b)
        self.beta, effects = self.damped(at, linear, torch.from_numpy(np.array(found.beta)), effects)
        for bar, own in zip(self.bars, effects, strict=True):
            bar.effects = own

    def settle_variances(self, at: Linearised, steps: int) -> None:
        """EM steps for variances where the model is linearised, and one for the dispersion."""
        for _ in range(steps):
            linear, columns = self.linear_model(at)
            self.maximise(at, linear, self.expected(linear), columns, turning=False)
        self.learn_dispersion(at.rows)

    def changes(self, at: Linearised, effects: list[Tensor]) -> list[Tensor]:
        """What new effects of each bar change in the linearised model, (m,) each."""
        found = self.promised(at, effects[: len(self.varying)])
        for bar, own in zip(self.ordinary, effects[len(self.varying) :], strict=True):
            assert bar.columns is not None
            found.append((bar.columns[at.rows] * (own - bar.effects)[bar.codes[at.rows]]).sum(1))
        return found

    def _residual(self, at: Linearised, linear: Design, root: Tensor) -> Tensor:
        """Working residuals (m,) before the step, times the roots of the weights."""
        known = self.X[at.rows] @ self.beta + self.ordinary_of(at.rows, self.effects) + sum(at.own, torch.zeros(()))
        return root * (torch.from_numpy(linear.y) - known)

    @staticmethod
    def _shorten(lengths: Tensor, codes: Tensor, promised: Tensor, found: Tensor) -> bool:
        """Halve the lengths (q,) of levels that fit far worse than promised; returns whether there were any."""
        sums = [torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, codes, own) for own in (promised, found)]
        worse = ~(sums[1] <= sums[0] + 0.5 * sums[0].abs() + SLACK)
        lengths[worse] /= 2
        return bool(worse.any())

    # ---- what is kept

    def criterion(self) -> tuple[float, float, float]:
        """Held-out mean deviances at rows of known cells and of new ones, and both as one number."""
        held = self.held
        found = []
        for whole in (False, True):
            rows = torch.from_numpy(np.flatnonzero((held.member == 0) & (held.whole == whole)))
            if not len(rows):
                found.append(float("nan"))
                continue
            predictor = self.predictor(rows, self.beta, self.effects, self.values(rows, self.eta))
            found.append(float(self.deviances(rows, predictor).sum() / self.data.weights[rows.numpy()].sum()))
        both = LinearMember.combine(found[0], found[1], held) if self.training.validation > 0 else float("nan")
        return found[0], found[1], both

    def state(self) -> SeveralGeneralizedState:
        """A copy of all that changes."""
        base = super().state()
        own = (base.weights, base.beta, base.eta, base.factor, base.sigma2, base.bars)
        return SeveralGeneralizedState(*own, phi=self.phi)

    def restore(self, state: State) -> None:
        """An earlier :meth:`state`."""
        super().restore(state)
        assert isinstance(state, SeveralGeneralizedState)
        self.phi = state.phi

    def absorb_bias(self) -> None:
        """Put the bias of the last layer into the intercept, or the thresholds that stand for it."""
        super().absorb_bias()
        module = self.network.module
        if isinstance(module, TabularNet) and constant_column(self.design.X) is None and self.family.absorbs_constant:
            bias = last_layer(module).bias
            self.phi = self.family.shifted(self.phi, -float(bias.detach()))
            torch.nn.init.zeros_(bias)

    def networks(self, best_epoch: int, history: dict[str, list[float]]) -> Networks:
        """The network at theta_bar as data."""
        return dataclasses.replace(super().networks(best_epoch, history), criterion="mean deviance")


def predictor_variances(design: Design, family: Family, weights: FloatArray, theta: FloatArray) -> FloatArray:
    """Posterior variances (n,) of linear predictors for information ``weights`` (n,), beta and theta (m,) known."""
    problem = GeneralizedProblem(design, family)
    system = problem.system
    system.reweight(weights)
    elimination = DirectElimination(system, problem.user_templates(theta))
    K = None
    if system.levels.sizes:
        K = system.schur.scale(elimination.templates[1:], system.factor.inverse_cells(), transpose=False)
    return system.leverages(elimination.G, K)
