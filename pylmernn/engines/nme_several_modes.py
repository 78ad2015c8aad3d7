"""Modes of all effects where a network bends: penalised least squares, and whether linearisation can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pylmernn.engines.nme_model import HALVINGS
from pylmernn.engines.nme_several_bars import Linearised, spherical

if TYPE_CHECKING:
    from pylmernn.engines.nme_several_model import SeveralModel

Tensor = torch.Tensor

MODE_STEPS, MODE_HALVINGS = 6, 6  # of Gauss-Newton for modes, and of each of its steps
MODE_CHANGE = 1e-3  # of the penalised sum of squares relative to sigma^2, which ends these steps


def to_modes(model: SeveralModel, rows: Tensor) -> None:
    """Gauss-Newton steps of all effects and beta to the penalised least squares, at variances as they are.

    Steps are shortened until they lower the penalised sum of squares (Lindstrom & Bates, 1990, section 4).
    """
    project(model)
    before = penalised(model, rows, model.beta, [bar.effects for bar in model.bars])
    for _ in range(MODE_STEPS):
        at = model.linearise(rows)
        linear, columns = model.linear_model(at)
        found = model.expected(linear)
        old = [bar.effects for bar in model.bars]
        new = model.new_effects(columns, found.b)
        step, length = torch.from_numpy(np.array(found.beta)) - model.beta, 1.0
        for _ in range(MODE_HALVINGS):
            trial = [o + length * (n - o) for o, n in zip(old, new, strict=True)]
            now = penalised(model, rows, model.beta + length * step, trial)
            if now < before:
                break
            length /= 2
        if not now < before:
            break
        model.beta = model.beta + length * step
        for bar, effects in zip(model.bars, trial, strict=True):
            bar.effects = effects
            bar.known[:] = True
        model.refresh()
        change, before = before - now, now
        if change < MODE_CHANGE * model.sigma2:
            break


def bears_out(model: SeveralModel, at: Linearised, beta: Tensor, effects: list[Tensor]) -> bool:
    """Whether the network with new effects fits the rows about as well as the linearised model promises."""
    varying = effects[: len(model.varying)]
    linear = at.f + sum(model.promised(at, varying), torch.zeros(()))
    actual = model.values(at.rows, model.of_cells(varying))
    promised, found = (model.misfit(at.rows, beta, effects, f) for f in (linear, actual))
    return model.is_borne_out(promised, found, len(at.rows))


def penalised(model: SeveralModel, rows: Tensor, beta: Tensor, effects: list[Tensor]) -> float:
    """The misfit and the penalty ``sigma^2 u'u`` of the effects ``L u`` of all bars."""
    f = model.values(rows, model.of_cells(effects[: len(model.varying)]))
    penalty = sum(float((spherical(bar, own) ** 2).sum()) for bar, own in zip(model.bars, effects, strict=True))
    return model.misfit(rows, beta, effects, f) + model.sigma2 * penalty


def project(model: SeveralModel) -> None:
    """Put deviations of reduced rank into the span of their directions."""
    for bar in model.bars:
        if bar.reduced and bar.factor is not None:
            bar.effects = spherical(bar, bar.effects) @ bar.factor.T
    model.refresh()


def shortened(model: SeveralModel, at: Linearised, effects: list[Tensor]) -> list[Tensor]:
    """New deviations, nearer to the old ones at levels whose rows they fit far worse than promised."""
    rows, weights = at.rows, model.weights[at.rows]
    known = model.y[rows] - model.X[rows] @ model.beta
    before = weights * (known - at.f) ** 2
    old = [bar.effects for bar in model.varying]
    lengths = [torch.ones(len(each), dtype=torch.float64) for each in old]
    changes = model.promised(at, effects)
    for _ in range(HALVINGS):
        moved = sum(
            (s[bar.codes[rows]] * c for s, bar, c in zip(lengths, model.varying, changes, strict=True)),
            torch.zeros(()),
        )
        promised = weights * (known - at.f - moved) ** 2
        now = [o + s[:, None] * (e - o) for o, s, e in zip(old, lengths, effects, strict=True)]
        found = weights * (known - model.values(rows, model.of_cells(now))) ** 2
        any_worse = False
        for bar, length in zip(model.varying, lengths, strict=True):
            sums = [
                torch.zeros(len(length), dtype=torch.float64).index_add_(0, bar.codes[rows], each)
                for each in (found, promised, before)
            ]
            worse = sums[0] > sums[1] + 0.5 * (sums[2] - sums[1]).abs() + 2.0 * model.sigma2
            length[worse] /= 2
            any_worse = any_worse or bool(worse.any())
        if not any_worse:
            break
    return [o + s[:, None] * (e - o) for o, s, e in zip(old, lengths, effects, strict=True)]
