"""EM for deviations of reduced rank without the matrix of derivatives: :class:`VaryingModel`'s step for large networks.

With ``eta_i = U a_i`` an E-step needs ``A = J U`` alone, n times the rank. Only the step for U goes through J again, in
products by layers at some of the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pylmernn.engines.nme_posterior import Groups, Posterior, posterior_of_scores
from pylmernn.engines.nme_reduced import reduced_step
from pylmernn.mean.layerwise import LayerDerivatives, MatrixDerivatives, layerwise

if TYPE_CHECKING:
    from pylmernn.engines.nme_model import VaryingModel

Tensor = torch.Tensor
Derivatives = LayerDerivatives | MatrixDerivatives

PART = 0.5  # of such a step that is taken where the rows are few of all
LEARN_ROWS = 10_000  # that a step for U rests on


def derivatives(model: VaryingModel, rows: Tensor) -> Derivatives:
    """Of the network before scaling, at the deviations as they are."""
    model.network.module.eval()
    given = model.network, model.prepared[rows], model.eta.float(), model.codes[rows]
    return layerwise(*given) if model.network.by_layers else MatrixDerivatives(*given, model.factor)


def expected(
    model: VaryingModel, rows: Tensor, groups: Groups, J: Derivatives, steps: int
) -> tuple[Posterior, Tensor, Tensor]:
    """EM steps for scores, sigma and beta in the linearised model, U as it is.

    Returns
    -------
    found : Posterior
    target : Tensor, shape (m,)
        Response less all but the deviations, at the beta of the end.
    A : Tensor, shape (m, k)
    """
    assert model.factor is not None
    X, root = model.X[rows], model.weights[rows].sqrt()
    target = model.y[rows] - X @ model.beta + model.scale * (J.own - J.values)
    A = model.scale * (J @ model.factor)
    weighted, solver = root[:, None] * A, torch.linalg.pinv(root[:, None] * X)
    codes = model.codes[rows]
    share = model.share_of(groups)
    for _ in range(max(1, steps)):
        found = posterior_of_scores(weighted, root * target, model.factor, model.sigma2, groups, variances=True)
        if not steps:
            break
        model.sigma2 += share * (max(found.squares / len(rows), 1e-10 * model.scale**2) - model.sigma2)
        step = solver @ (root * (target - (A * found.scores[codes]).sum(1)))
        model.beta = model.beta + step
        target = target - X @ step
    return found, target, A


def solve(model: VaryingModel, rows: Tensor, groups: Groups, steps: int, learn: bool) -> Posterior:
    """As :meth:`VaryingModel.solve`."""
    J = derivatives(model, rows)
    if model.factor is None or (learn and collapsed(model, rows, J)):
        model.start_on(model.portions(rows, by_matrix=True)[0][0])
        J = derivatives(model, rows)
    found, target, A = expected(model, rows, groups, J, 1 if learn else steps)
    for _ in range(steps - 1 if learn else 0):
        learn_factor(model, rows, J, target, found)
        found, target, A = expected(model, rows, groups, J, 1)
    own, codes = model.scale * J.own, model.codes[rows]
    change = (A * found.scores[codes]).sum(1) - own
    eta = model.shortened(rows, found.effects, target - own, change)
    if learn:
        learn_factor(model, rows, J, target, found)
    model.move(eta, codes)
    return found


def learn_factor(model: VaryingModel, rows: Tensor, J: Derivatives, target: Tensor, found: Posterior) -> None:
    """A step for U at some rows."""
    assert model.factor is not None
    some = torch.from_numpy(model.trainer.rng.permutation(len(rows))[: model.rows_at_a_time(LEARN_ROWS)])
    part, codes, root = J.take(some), model.codes[rows], model.weights[rows[some]].sqrt()
    penalty = model.rank * float(J.squares().mean()) * len(some) / len(rows)
    U = reduced_step(
        lambda V: model.scale * root[:, None] * (part @ V),
        lambda W: model.scale * part.transposed(root[:, None] * W),
        root * target[some],
        codes[some],
        model.factor,
        found,
        model.sigma2 * penalty,
    )
    share = max(PART, len(some) / len(rows))
    model.factor = model.factor + share * (U - model.factor)


def collapsed(model: VaryingModel, rows: Tensor, J: Derivatives) -> bool:
    """As :meth:`VaryingModel.collapsed`, at some rows."""
    assert model.factor is not None
    some = torch.from_numpy(np.arange(0, len(rows), max(1, len(rows) // model.rows_at_a_time(LEARN_ROWS))))
    part = J.take(some)
    rest = model.y[rows[some]] - model.X[rows[some]] @ model.beta + model.scale * (part.own - part.values)
    return model.stands_for_nothing(model.scale * (part @ model.factor), rest)
