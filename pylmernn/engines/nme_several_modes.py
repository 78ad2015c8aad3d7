"""Modes of all effects where a network bends: penalised least squares, and whether linearisation can be trusted."""

from __future__ import annotations

import numpy as np
import torch

from pylmernn.engines.nme_several_bars import in_full, spherical, theta_of
from pylmernn.engines.nme_several_model import Linearised, SeveralModel
from pylmernn.engines.nme_several_posterior import expected

Tensor = torch.Tensor

BORNE_OUT = 0.02  # of a sum of squares: how much worse than promised effects may fit
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
        design, columns = model.linear_model(at)
        theta = np.concatenate([theta_of(bar, model.sigma2**0.5) for bar in model.bars])
        found = expected(design, theta)
        old = [bar.effects for bar in model.bars]
        new = [
            in_full(bar, own.levels, b, bar.factor) for bar, own, b in zip(model.bars, columns, found.b, strict=True)
        ]
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
    fixed = model.response[at.rows] - model.X[at.rows] @ beta
    for bar, own in zip(model.ordinary, effects[len(model.varying) :], strict=True):
        assert bar.columns is not None
        fixed = fixed - (bar.columns[at.rows] * own[bar.codes[at.rows]]).sum(1)
    linear = at.f + sum(model.promised(at, varying), torch.zeros(()))
    weights, actual = model.weights[at.rows], model.values(at.rows, model.of_cells(varying))
    promised, found = (float((weights * (fixed - f) ** 2).sum()) for f in (linear, actual))
    return found <= (1.0 + BORNE_OUT) * promised


def penalised(model: SeveralModel, rows: Tensor, beta: Tensor, effects: list[Tensor]) -> float:
    """The weighted sum of squares and the penalty ``sigma^2 u'u`` of the effects ``L u`` of all bars."""
    f = model.values(rows, model.of_cells(effects[: len(model.varying)]))
    rest = model.response[rows] - model.X[rows] @ beta - f
    penalty = 0.0
    for bar, own in zip(model.bars, effects, strict=True):
        rest = rest if bar.columns is None else rest - (bar.columns[rows] * own[bar.codes[rows]]).sum(1)
        penalty += float((spherical(bar, own) ** 2).sum())
    return float((model.weights[rows] * rest**2).sum()) + model.sigma2 * penalty


def project(model: SeveralModel) -> None:
    """Put deviations of reduced rank into the span of their directions."""
    for bar in model.bars:
        if bar.reduced and bar.factor is not None:
            bar.effects = spherical(bar, bar.effects) @ bar.factor.T
    model.refresh()
