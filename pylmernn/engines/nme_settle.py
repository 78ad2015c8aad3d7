"""Deviations and variances given theta_bar, on all rows, by EM in the model linearised at the modes."""

from __future__ import annotations

import numpy as np
import torch

from pylmernn.engines import nme_layers
from pylmernn.engines.nme_model import LAST_CHANGE, LAST_ROUNDS, LAST_STEPS, Given, VaryingModel
from pylmernn.engines.nme_posterior import Groups, factor_of, posterior

Tensor = torch.Tensor

SWEEPS, INNER = 20, 10  # over all parts; EM steps of one part
ENOUGH = 0.5  # of the deviance by a round: more than so much is worth a message


def settle(model: VaryingModel) -> Given:
    """Estimate all but theta_bar and, where deviations are of reduced rank, their directions; the model changes."""
    parts = model.portions(torch.arange(model.design.n))
    together = len(parts) == 1
    sums = None if together else Sums(model, parts)
    before, change = np.inf, np.inf
    for _ in range(LAST_ROUNDS if together else SWEEPS):
        if sums is None:
            deviance = model.solve(*parts[0], LAST_STEPS, learn=False).deviance
        else:
            deviance = sums.sweep(model, parts)
        before, change = deviance, abs(before - deviance)
        if change < (LAST_CHANGE if together else LAST_CHANGE / 4):
            break
    message = f"EM stopped while the deviance still changed by {change:.1f} a round" if change > ENOUGH else ""
    return given(model, parts, message)


class Sums:
    """What EM adds up over groups, part by part: a new part replaces its old sums (Neal & Hinton, 1998).

    Variances so move with every part as they would with all groups, and settle where EM on all of them does.

    Parameters
    ----------
    model : VaryingModel
    parts : list
        Of :meth:`VaryingModel.portions`.
    """

    def __init__(self, model: VaryingModel, parts: list[tuple[Tensor, Groups]]) -> None:
        assert model.factor is not None
        now = model.factor**2 if model.diagonal else model.factor @ model.factor.T
        self.seconds = [now * groups.present for _, groups in parts]
        self.squares = [model.sigma2 * len(rows) for rows, _ in parts]

    def sweep(self, model: VaryingModel, parts: list[tuple[Tensor, Groups]]) -> float:
        """Update all parts; returns the deviance that each met."""
        assert model.factor is not None
        deviance = 0.0
        for k, (rows, groups) in enumerate(parts):
            codes, root, X = model.codes[rows], model.weights[rows].sqrt(), model.X[rows]
            f, J = model.linearised(rows)
            rest = model.y[rows] - X @ model.beta - f
            own = (J * model.eta[codes]).sum(1)
            weighted = root[:, None] * J
            for inner in range(INNER):
                found = posterior(weighted, root * (rest + own), model.factor, model.sigma2, groups)
                deviance += found.deviance if inner == 0 else 0.0
                self.squares[k] = found.squares
                model.sigma2 = sum(self.squares) / model.design.n
                if not model.reduced:
                    self.seconds[k] = found.second * groups.present
                    model.factor = factor_of(torch.stack(self.seconds).sum(0) / model.term.n_levels)
            change = (J * found.effects[codes]).sum(1) - own
            inside = codes.unique()
            model.eta[inside] = model.shortened(rows, found.effects, rest, change)[inside]
        solver = torch.linalg.pinv(model.weights.sqrt()[:, None] * model.X)
        every = torch.arange(model.design.n)
        errors = model.y - model.X @ model.beta - model.values(every, model.eta)
        model.beta = model.beta + solver @ (model.weights.sqrt() * errors)
        model.move(model.eta.clone(), model.codes)
        return deviance


def given(model: VaryingModel, parts: list[tuple[Tensor, Groups]], message: str = "") -> Given:
    """What there is, with posterior variances and the deviance of the linearised model."""
    assert model.factor is not None
    deviance, variances = 0.0, torch.zeros(0)
    for rows, groups in parts:
        root = model.weights[rows].sqrt()
        if model.by_layers:
            found, _, _ = nme_layers.expected(model, rows, groups, nme_layers.derivatives(model, rows), 0)
        else:
            f, J = model.linearised(rows)
            rest = model.y[rows] - model.X[rows] @ model.beta - f + (J * model.eta[model.codes[rows]]).sum(1)
            found = posterior(root[:, None] * J, root * rest, model.factor, model.sigma2, groups, variances=True)
        own = found.effect_variances(model.factor, in_full=not model.reduced)
        variances = variances if len(variances) else own
        inside = model.codes[rows].unique()
        variances[inside] = own[inside]
        deviance += found.deviance
    return Given(
        sigma=model.sigma2**0.5,
        effects=model.eta.numpy(),
        variances=variances.numpy(),
        factor=model.factor.numpy(),
        fixed_covariance=None,
        objective=deviance - float(model.weights.log().sum()),
        exact=False,
        converged=True,
        message=message,
    )
