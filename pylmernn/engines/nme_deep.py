"""Where all of a network varies and rows are few: only its last layer, cross-fitted, unless held-out rows want more.

Many deviations are estimated from few rows, and what groups do not share is fitted to noise. So beside the network
that has learnt with all its parameters varying there is that of :mod:`pylmernn.engines.nme_crossfit`, of which the last
layer alone varies. Rows of known groups that neither has learnt from decide: the second one is kept unless the first is
better beyond noise. They also say how much too small variances are that were estimated on rows learnt from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch

from pylmernn.engines.nme_crossfit import Solver, finish, offered
from pylmernn.engines.nme_members import Members
from pylmernn.engines.nme_model import PORTION, Given, HeldOut, State, VaryingModel
from pylmernn.engines.nme_posterior import Groups, posterior
from pylmernn.engines.nme_settle import given, settle
from pylmernn.formula.design import Design

Tensor = torch.Tensor
Model = TypeVar("Model", bound=VaryingModel)

FEWEST = 20  # held-out rows for a decision


def last_model(model: VaryingModel, make: Callable[[Design], Model]) -> Model | None:
    """The model in which the last layer alone varies, where :func:`nme_crossfit.offered` takes it; else None."""
    small = model.design.n * model.selected.size <= PORTION
    if model.selected.linear or model.term.selector or model.diagonal or not small:
        return None
    term = dataclasses.replace(model.term, selector="last")
    own = make(dataclasses.replace(model.design, varying=(term,)))
    return own if offered(own) else None


def finish_deep(model: VaryingModel, members: Members, solver: Solver, again: bool = True) -> tuple[Given, bool]:
    """What held-out rows prefer, and whether that is the model as it was trained; it changes accordingly.

    Parameters
    ----------
    model : VaryingModel
        Trained, in its best epoch, its scale not absorbed.
    members : Members
        Trained, of :func:`last_model`.
    solver, again
        For :func:`nme_crossfit.finish`.
    """
    found = finish(members, solver, again)
    held = neither_learnt(model, members)
    said, inflation = judged(model, members, held)
    if said.kept == "all":
        model.absorb_scale()
        settled = settle(model)
        root = inflation**0.5  # deviations stay as they are
        variances, factor = inflation * settled.variances, root * settled.factor
        changed = {"sigma": root * settled.sigma, "variances": variances, "factor": factor}
        return dataclasses.replace(settled, **changed, held_out=said), True
    embed(model, members.model, found)
    every = torch.arange(model.design.n)
    groups = Groups(model.term.codes, model.term.n_levels, model.selected.size)
    return dataclasses.replace(given(model, [(every, groups)], found.message), held_out=said), False


def neither_learnt(model: VaryingModel, members: Members) -> Tensor:
    """Rows of known groups from which neither the model nor one of the members has learnt."""
    held = torch.from_numpy(model.held.member == 0) & ~torch.from_numpy(model.held.whole | members.held.whole)
    return held.nonzero()[:, 0]


def judged(model: VaryingModel, members: Members, held: Tensor) -> tuple[HeldOut, float]:
    """What rows (m,) say of model and members, and by what the model's variances are too small for them (or 1)."""
    if len(held) < FEWEST or model.factor is None:
        return HeldOut(len(held), None, None, None, "last"), 1.0
    squares = model.weights[held] * (model.y[held] - model.X[held] @ model.beta - model.values(held, model.eta)) ** 2
    codes, root = model.codes[model.rows], model.weights[model.rows].sqrt()
    f, J = model.linearised(model.rows)
    rest = model.y[model.rows] - model.X[model.rows] @ model.beta - f + (J * model.eta[codes]).sum(1)
    found = posterior(root[:, None] * J, root * rest, model.factor, model.sigma2, model.groups, variances=True)
    assert found.score_variances is not None
    A = model.linearised(held)[1] @ model.factor
    spread = torch.einsum("nk,nkl,nl->n", A, found.score_variances[model.codes[held]], A)
    promised = model.sigma2 + model.weights[held] * spread
    return compared(members.settled_squares[held], squares), max(1.0, float((squares / promised).mean()))


def compared(last: Tensor, every: Tensor) -> HeldOut:
    """Losses (m,) of the same rows, where the last layer varies and where all do."""
    gain = last - every
    noise = float(gain.std(correction=0)) / len(gain) ** 0.5
    kept = "all" if float(gain.mean()) > noise else "last"
    return HeldOut(len(gain), float(last.mean()), float(every.mean()), noise, kept)


def embed(model: VaryingModel, last: VaryingModel, found: Given) -> None:
    """Make a model that of which the last layer alone varies, both with their scale absorbed."""
    size, at = model.selected.size, model.selected.size - last.selected.size
    eta = torch.zeros_like(model.eta)
    eta[:, at:] = torch.from_numpy(found.effects)
    factor = eta.new_zeros(size, model.rank if model.reduced else size)
    factor[at:, : found.factor.shape[1]] = torch.from_numpy(found.factor)
    model.restore(State(last.network.module.state_dict(), last.beta, eta, factor, found.sigma**2))
    model.scale = 1.0
