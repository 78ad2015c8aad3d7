"""The state of a network that varies by several bars, or beside ordinary ones, while it is fitted.

Between two epochs the model, linearised at the deviations, is one linear mixed model of the working response
(Lindstrom & Bates, 1990): its random terms are the ordinary bars and, for each bar of the network, the derivatives J_t
by its parameters, or ``J_t U_t`` for deviations ``U_t a_t`` of reduced rank. EM steps for all variances take the exact
conditional modes and variances; a step for U_t takes the other terms at their modes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.control import Control
from pylmernn.engines.nme_model import (
    EM_STEPS,
    FIRST_SHARE,
    PORTION,
    PRIOR_SHARE,
    State,
    VaryingModel,
)
from pylmernn.engines.nme_posterior import Posterior
from pylmernn.engines.nme_reduced import reduced_factor
from pylmernn.engines.nme_several_bars import (
    Bar,
    Columns,
    Linearised,
    cells_of,
    check_bars,
    columns_of,
    first_factor,
    in_full,
    refuse_faithful,
    root_of,
    second_moment,
    theta_of,
)
from pylmernn.engines.nme_several_modes import shortened
from pylmernn.engines.nme_several_posterior import Expected, expected
from pylmernn.formula.design import Design
from pylmernn.mean.mlp import TabularNet
from pylmernn.mean.varying import Selected, select, union
from pylmernn.training.loop import squared_error
from pylmernn.training.options import DECAY

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

BORNE_OUT = 0.02  # of a sum of squares: how much worse than promised effects may fit


@dataclass(frozen=True)
class SeveralState(State):
    """What training keeps of an epoch: effects, factor and known levels of each bar among it."""

    bars: tuple[tuple[Tensor, Tensor | None, Tensor], ...] = ()


class SeveralModel(VaryingModel):
    """Network, deviations of all levels, and variances of one design.

    Parameters
    ----------
    design : Design
        With any number of terms in ``varying`` and ``random``, and one network.
    control : Control
    decay, loss
        Of :class:`VaryingModel`.

    Attributes
    ----------
    whole : Design
        The design; ``design`` itself is that of the cells.
    bars : list of Bar
        Those of the network, then the ordinary ones.
    eta : Tensor of float64, shape (c, D)
        Deviations of the cells.
    response : Tensor of float64, shape (n,)
        Less the offset; ``y`` is without the ordinary random effects too.
    """

    def __init__(
        self,
        design: Design,
        control: Control,
        decay: Any = DECAY,
        loss: Callable[[Tensor, Tensor], Tensor] = squared_error,
    ) -> None:
        refuse_faithful(design, control.training.preset)
        self.whole = design
        self.cells = cells_of([term.codes for term in design.varying])
        levels = np.arange(len(self.cells.levels)).astype(str)
        cell = dataclasses.replace(design.varying[0], codes=self.cells.codes, levels=levels, covariance="us", rank=0)
        super().__init__(dataclasses.replace(design, varying=(cell,), random=()), control, 1, decay, loss)
        self.by_layers = False
        self.level_of_cell = torch.from_numpy(self.cells.levels)
        self.response = self.y
        self.varying = [
            Bar(term, self.selected.places(own)) for term, own in zip(design.varying, self.selections, strict=True)
        ]
        self.ordinary = [Bar(term) for term in design.random]

    @property
    def bars(self) -> list[Bar]:
        """All random terms: bars of the network first."""
        return [*self.varying, *self.ordinary]

    def parameters_of(self, module: torch.nn.Module, inputs: Sequence[str]) -> Selected:
        """What varies of the network by any factor."""
        self.selections = [select(module, term.selector, term.label, inputs) for term in self.whole.varying]
        check_bars(self.whole, self.selections)
        return union(module, self.selections, inputs)

    # ---- values

    def of_cells(self, effects: list[Tensor]) -> Tensor:
        """Deviations of the cells (c, D), from those of the levels of each bar of the network."""
        eta = torch.zeros(len(self.level_of_cell), self.selected.size, dtype=torch.float64)
        for k, (bar, own) in enumerate(zip(self.varying, effects, strict=True)):
            assert bar.where is not None
            eta[:, bar.where] += own[self.level_of_cell[:, k]]
        return eta

    def ordinary_part(self) -> Tensor:
        """What the ordinary bars add, (n,)."""
        total = torch.zeros(len(self.response), dtype=torch.float64)
        for bar in self.ordinary:
            assert bar.columns is not None
            total += (bar.columns * bar.effects[bar.codes]).sum(1)
        return total

    def refresh(self) -> None:
        """What follows from the effects of the bars."""
        self.eta = self.of_cells([bar.effects for bar in self.varying])
        self.y = self.response - self.ordinary_part()

    # ---- steps

    def epoch(self, number: int) -> float:
        """As :meth:`VaryingModel.epoch`; ordinary random effects come in as deviations do."""
        share = min(1.0, (number - 1) / self.rise)
        target = (self.response - self.X @ self.beta - share * self.ordinary_part()) / self.scale
        loss = self.trainer.epoch(target.float(), (share * self.eta).float()) * self.scale**2
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        self.improve(self.rows, self.steps_on(self.rows))
        if not torch.isfinite(self.eta).all():
            raise FloatingPointError(f"the deviations are not finite in epoch {number}")
        return loss

    def steps_on(self, rows: Tensor) -> int:
        """EM steps in an epoch."""
        return EM_STEPS if len(rows) * self.selected.size <= PORTION else 1

    def linearise(self, rows: Tensor) -> Linearised:
        """Values and derivatives at the deviations; those of all rows are kept where they fit into memory."""
        most = max(1, PORTION // self.selected.size)
        some = torch.arange(len(rows))
        if len(rows) > most:
            some = torch.from_numpy(np.sort(self.trainer.rng.permutation(len(rows))[:most]))
        f, J = self.linearised(rows[some])
        self.begin(rows[some], f, J)
        if len(some) == len(rows):
            own, columns = self.parts_of(rows, J)
            return Linearised(rows, f, own, columns, some, J)
        parts = []
        for at in rows.split(most):
            values, derivatives = self.linearised(at)
            parts.append((values, *self.parts_of(at, derivatives)))
        f, owns, each = torch.cat([p[0] for p in parts]), [p[1] for p in parts], [p[2] for p in parts]
        own = [torch.cat(own) for own in zip(*owns, strict=True)]
        return Linearised(rows, f, own, [torch.cat(own) for own in zip(*each, strict=True)], some, J)

    def parts_of(self, rows: Tensor, J: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """``own`` and ``columns`` of :class:`Linearised` for derivatives J (m, D)."""
        own = [(J[:, bar.where] * bar.effects[bar.codes[rows]]).sum(1) for bar in self.varying]
        return own, [self.own_columns(bar, J, rows) for bar in self.bars]

    @staticmethod
    def natural_columns(bar: Bar, J: Tensor, rows: Tensor) -> Tensor:
        """Columns of a bar at some rows, for derivatives J (m, D) there: (m, d)."""
        return J[:, bar.where] if bar.columns is None else bar.columns[rows]

    def own_columns(self, bar: Bar, J: Tensor, rows: Tensor) -> Tensor:
        """The same, times the factor of deviations of reduced rank."""
        columns = self.natural_columns(bar, J, rows)
        if not bar.reduced:
            return columns
        assert bar.factor is not None
        return columns @ bar.factor

    def begin(self, rows: Tensor, f: Tensor, J: Tensor) -> None:
        """First variances of bars that have none: together they stand for a share of what beta leaves.

        A factor of reduced rank that stands for nothing, as it may before the network has learnt, has none either.
        """
        rest = self.y[rows] - self.X[rows] @ self.beta - f + (J * self.eta[self.codes[rows]]).sum(1)
        variance = float(rest.var(correction=0))
        if any(bar.factor is None for bar in self.bars):
            self.sigma2 = variance
        for bar in self.bars:
            columns = self.natural_columns(bar, J, rows)
            if bar.factor is None or (bar.reduced and self.stands_for_nothing(columns @ bar.factor, rest)):
                share = FIRST_SHARE * variance / len(self.bars)
                bar.factor = first_factor(bar, bar.codes[rows], columns, share, columns, rest, variance)

    def theta(self) -> FloatArray:
        """Relative covariance parameters of all bars as they are."""
        return np.concatenate([theta_of(bar, self.sigma2**0.5) for bar in self.bars])

    def expected(self, linear: Design) -> Expected:
        """Conditional modes and variances in the linear mixed model at variances as they are."""
        return expected(linear, self.theta())

    def improve(self, rows: Tensor, steps: int) -> None:
        """EM steps in the model linearised at the deviations; effects then move, and means go to theta_bar."""
        at = self.linearise(rows)
        linear, columns = self.linear_model(at)
        for step in range(steps):
            if step and any(bar.reduced for bar in self.bars):
                linear, columns = self.linear_model(at)
            factors = [bar.factor for bar in self.bars]
            found = self.expected(linear)
            self.maximise(at, linear, found, columns)
        effects = self.new_effects(columns, found.b, factors)
        self.take(at, linear, columns, torch.from_numpy(np.array(found.beta)), effects)

    def new_effects(
        self, columns: list[Columns], b: Sequence[FloatArray], factors: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """Effects of all levels of each bar, from the modes b of a solution, by default at the factors as they are."""
        factors = [bar.factor for bar in self.bars] if factors is None else factors
        return [
            in_full(bar, own.levels, new, factor)
            for bar, own, new, factor in zip(self.bars, columns, b, factors, strict=True)
        ]

    def take(self, at: Linearised, linear: Design, columns: list[Columns], beta: Tensor, effects: list[Tensor]) -> None:
        """New beta and effects of all bars."""
        self.beta = beta
        self.move_bars(at, columns, effects)

    def arrive(self, at: Linearised, linear: Design, columns: list[Columns], found: Expected) -> None:
        """Beta, residual variance and effects as they are found, means of deviations too."""
        effects = self.new_effects(columns, found.b)
        self.beta, self.sigma2 = torch.from_numpy(np.array(found.beta)), found.sigma**2
        for bar, own in zip(self.bars, effects, strict=True):
            bar.effects = own

    def settle_variances(self, at: Linearised, steps: int) -> None:
        """EM steps for all variances where the model is linearised."""
        for _ in range(steps):
            linear, columns = self.linear_model(at)
            found = self.expected(linear)
            self.maximise(at, linear, found, columns, turning=False)
            self.beta = torch.from_numpy(np.array(found.beta))

    def linear_model(self, at: Linearised) -> tuple[Design, list[Columns]]:
        """The linear mixed model of the working response."""
        rows = at.rows
        columns = [columns_of(bar, rows, own) for bar, own in zip(self.bars, at.columns, strict=True)]
        y = self.response[rows] - at.f + sum(at.own, torch.zeros(()))
        weights = None if self.whole.weights is None else self.whole.weights[rows.numpy()]
        terms = tuple(own.term for own in columns)
        return Design(y.numpy(), self.X[rows].numpy(), self.whole.fixed_names, terms, weights), columns

    def maximise(
        self, at: Linearised, linear: Design, found: Expected, columns: list[Columns], turning: bool = True
    ) -> None:
        """New variances, and directions of deviations of reduced rank; without ``turning`` these stay in their span."""
        self.sigma2 = max(found.sigma**2, 1e-10 * self.scale**2)
        rest = torch.from_numpy(linear.y - linear.X @ found.beta)
        effects, added = [], []
        for bar, own, made, b in zip(self.bars, at.columns, columns, found.b, strict=True):
            every = torch.zeros(bar.term.n_levels, own.shape[1], dtype=torch.float64)
            every[made.levels] = torch.from_numpy(np.array(b))
            effects.append(every)
            added.append((own * every[bar.codes[at.rows]]).sum(1))
        for k, bar in enumerate(self.bars):
            if not bar.reduced:
                bar.learn(found.b[k], found.variances[k])
                continue
            if not turning:
                own = root_of(second_moment(found.b[k], found.variances[k]))
                assert bar.factor is not None
                bar.factor, at.columns[k] = bar.factor @ own, at.columns[k] @ own
                continue
            left = rest - sum((each for j, each in enumerate(added) if j != k), torch.zeros(()))
            roots = left.new_ones(len(at.some))
            if linear.weights is not None:
                roots = torch.from_numpy(linear.weights)[at.some].sqrt()
            self.turn(bar, at, roots, left[at.some], effects[k], found.variances[k], columns[k].levels)
            if len(at.some) == len(at.rows):
                at.columns[k] = self.own_columns(bar, at.derivatives, at.rows)

    def turn(
        self,
        bar: Bar,
        at: Linearised,
        roots: Tensor,
        rest: Tensor,
        scores: Tensor,
        variances: FloatArray,
        levels: NDArray[np.int64],
    ) -> None:
        """A step for the directions of one bar, all other terms at their modes."""
        assert bar.factor is not None
        rows = at.rows[at.some]
        J = at.derivatives[:, bar.where]
        spread = torch.eye(scores.shape[1], dtype=torch.float64).repeat(len(scores), 1, 1)
        spread[levels] = torch.from_numpy(np.array(variances))
        nothing = scores.new_zeros(0)
        known = Posterior(nothing, nothing, scores, spread, 0.0, 0.0)
        penalty = bar.rank * float((J**2).sum(1).mean()) / (PRIOR_SHARE * self.scale**2)
        penalty = penalty * len(at.some) / len(at.rows)
        bar.factor = reduced_factor(
            roots[:, None] * J, roots * rest, bar.codes[rows], bar.factor, known, self.sigma2, penalty
        )

    # ---- how well effects fit

    def ordinary_of(self, rows: Tensor, effects: list[Tensor]) -> Tensor:
        """What ordinary bars add at some rows (m,) with these effects of all bars."""
        total = torch.zeros(len(rows), dtype=torch.float64)
        for bar, own in zip(self.bars, effects, strict=True):
            if bar.columns is not None:
                total = total + (bar.columns[rows] * own[bar.codes[rows]]).sum(1)
        return total

    def misfit(self, rows: Tensor, beta: Tensor, effects: list[Tensor], f: Tensor) -> float:
        """The weighted sum of squares at some rows with these effects of all bars and values f (m,) of the network."""
        rest = self.response[rows] - self.X[rows] @ beta - self.ordinary_of(rows, effects) - f
        return float((self.weights[rows] * rest**2).sum())

    def is_borne_out(self, promised: float, found: float, m: int) -> bool:
        """Whether the misfit of m rows is about what the linearised model promised."""
        return found <= (1.0 + BORNE_OUT) * promised

    def deviance_at(self, at: Linearised, found: Expected) -> float:
        """-2 log-likelihood of the linearised model, given its solution at variances as they are."""
        return found.objective

    # ---- moves

    def move_bars(self, at: Linearised, columns: list[Columns], effects: list[Tensor]) -> None:
        """New effects of all bars; those of the network shortened where need be, and their means to theta_bar."""
        for bar, own, new in zip(self.bars, columns, effects, strict=True):
            bar.known[own.levels] = True
            if bar.where is None:
                bar.effects = new
        self.refresh()
        varying = effects[: len(self.varying)]
        if not self.selected.linear:
            varying = shortened(self, at, varying)
        for bar, new in zip(self.varying, varying, strict=True):
            bar.effects = new
        self.recentre()

    def recentre(self) -> None:
        """The means of deviations go to theta_bar, which changes no value; levels not known have none."""
        for bar in self.varying:
            mean = bar.effects[bar.known].mean(0)
            step = torch.zeros(self.selected.size)
            step[bar.where] = mean.float()
            self.network.move(step)
            bar.effects = torch.where(bar.known[:, None], bar.effects - mean, torch.zeros_like(bar.effects))
        self.refresh()

    def promised(self, at: Linearised, effects: list[Tensor]) -> list[Tensor]:
        """What new deviations of each bar change in the linearised model, (m,) each."""
        changes = [torch.empty(len(at.rows), dtype=torch.float64) for _ in effects]
        most = max(1, PORTION // self.selected.size)
        for first in range(0, len(at.rows), most):
            part = slice(first, first + most)
            rows = at.rows[part]
            J = at.derivatives[part] if len(at.some) == len(at.rows) else self.linearised(rows)[1]
            for bar, new, change in zip(self.varying, effects, changes, strict=True):
                change[part] = (J[:, bar.where] * (new - bar.effects)[bar.codes[rows]]).sum(1)
        return changes

    # ---- what is kept

    def state(self) -> SeveralState:
        """A copy of all that changes."""
        base = super().state()
        bars = tuple((bar.effects.clone(), bar.factor, bar.known.clone()) for bar in self.bars)
        return SeveralState(base.weights, base.beta, base.eta, base.factor, base.sigma2, bars)

    def restore(self, state: State) -> None:
        """An earlier :meth:`state`."""
        super().restore(state)
        assert isinstance(state, SeveralState)
        for bar, (effects, factor, known) in zip(self.bars, state.bars, strict=True):
            bar.effects, bar.factor, bar.known = effects, factor, known
        self.refresh()

    def absorb_scale(self) -> None:
        """Put the scale into the last layer, where it is known which one that is."""
        tabular = isinstance(self.network.module, TabularNet)
        change = self.change_of_scale() if tabular else torch.ones(self.selected.size, dtype=torch.float64)
        super().absorb_scale()
        for bar in self.varying:
            own = change[bar.where]
            bar.effects = bar.effects * own
            if bar.factor is not None:
                bar.factor = bar.factor * (own if bar.factor.ndim == 1 else own[:, None])
        self.refresh()
