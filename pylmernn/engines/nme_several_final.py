"""Estimates given theta_bar of a network that varies by several bars, or beside ordinary ones, on all rows.

Where all bars of the network are of its last layer, the model given the layers below is one linear mixed model, solved
exactly, by maximum likelihood or REML. Else the model is linearised at the modes and solved until it settles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import split_theta
from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.nme_exact import DEPENDENT, Candidate, candidates
from pylmernn.engines.nme_model import LAST_CHANGE, LAST_STEPS, last_layer
from pylmernn.engines.nme_several_bars import Bar, BarEstimates, bar_estimates, in_full, theta_of
from pylmernn.engines.nme_several_model import Linearised, SeveralModel
from pylmernn.engines.nme_several_modes import bears_out, to_modes
from pylmernn.engines.nme_several_posterior import expected
from pylmernn.engines.variances import conditional_variance
from pylmernn.formula.design import Design, RandomTerm, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select

FloatArray = NDArray[np.float64]

LEVELS_EACH = 2  # levels for each parameter that varies, from which on all their covariances may be free
SWEEPS = 3  # over the bars whose covariance matrices are chosen
ROUGH = 0.01  # tolerance of the criterion that candidates are chosen by
ROUNDS, EVALUATIONS = 20, 20  # until all settles, and of the likelihood in each
WAIT = 6  # rounds after one that left what is linear
ENOUGH = 0.5  # of the deviance by a round: more than so much is worth a message


@dataclass(frozen=True)
class Settled:
    """What was estimated given theta_bar; see :class:`pylmernn.engines.nme_several.SeveralEstimates`."""

    sigma: float
    varying: tuple[BarEstimates, ...]
    random: tuple[BarEstimates, ...]
    fixed_covariance: FloatArray | None
    objective: float
    exact: bool
    converged: bool
    message: str = ""


def given_trunk(model: SeveralModel, REML: bool, control: Control) -> Settled:
    """Solve for beta, the last layer, all effects and all variances; the model changes accordingly.

    Parameters
    ----------
    model : SeveralModel
        With its scale absorbed.
    REML : bool
    control : Control
    """
    design, module = model.whole, model.network.module
    whole = select(module, "last", design.varying[0].label)
    module.eval()
    _, features = VaryingNetwork(module, whole).jacobian(
        model.prepared, torch.zeros(1, whole.size), torch.zeros(design.n, dtype=torch.int64)
    )
    columns = features.double().numpy()
    X = np.column_stack([design.X, columns])
    kept = independent_columns(X, DEPENDENT)
    inside = np.array(whole.places(model.selected))
    terms = [_term(bar, columns, inside, model) for bar in model.varying]
    linear = Design(
        y=design.y,
        X=X[:, kept],
        fixed_names=tuple([*design.fixed_names, *whole.labels][j] for j in kept),
        random=(*terms, *design.random),
        weights=design.weights,
        offset=design.offset,
        response=design.response,
    )
    hidden = len(module.mlp.layers) > 1
    offered = [_offered(bar, term, hidden) for bar, term in zip(model.varying, terms, strict=True)]
    best, found = chosen(linear, offered, REML, control)
    linear = with_candidates(linear, best)
    beta = np.zeros(X.shape[1])
    beta[kept] = found.beta
    model.beta = torch.from_numpy(beta[: design.p].copy())
    layer = last_layer(module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta[design.p : -1])[None])
        layer.bias.copy_(torch.from_numpy(beta[-1:]))
    parts = _parts(model, linear, found, [*(each.basis for each in best), *[None] * len(model.ordinary)])
    for bar, part in zip(model.bars, parts, strict=True):
        bar.effects = torch.from_numpy(part.effects.copy())
    model.refresh()
    linear_only = [j for j in range(len(kept)) if kept[j] < design.p]
    return Settled(
        sigma=found.sigma,
        varying=parts[: len(terms)],
        random=parts[len(terms) :],
        fixed_covariance=found.sigma**2 * found.unscaled_vcov[np.ix_(linear_only, linear_only)],
        objective=found.objective,
        exact=True,
        converged=found.convergence.converged,
        message="" if found.convergence.converged else found.convergence.message,
    )


def _term(bar: Bar, features: FloatArray, inside: NDArray[np.int64], model: SeveralModel) -> RandomTerm:
    """The term of a bar of the network, for features (n, k) and where among them all that varies stands."""
    assert bar.where is not None
    term, columns = bar.term, features[:, inside[bar.where.numpy()]]
    names = tuple(model.selected.labels[j] for j in bar.where)
    kind = "diag" if bar.diagonal else "us"
    return RandomTerm(term.group, term.codes, term.levels, columns, names, kind, term.label)


def _offered(bar: Bar, term: RandomTerm, hidden: bool) -> list[Candidate]:
    """What may be chosen for a bar; all covariances only where there are levels enough to tell of them."""
    found = candidates(cast("Any", bar), term, hidden)
    few = len(found) > 1 and not bar.reduced and LEVELS_EACH * term.width > term.n_levels
    return found[:-1] if few else found


def with_candidates(linear: Design, taken: list[Candidate]) -> Design:
    """The design with these terms for the bars of the network."""
    return dataclasses.replace(linear, random=(*(each.term for each in taken), *linear.random[len(taken) :]))


def chosen(
    linear: Design, offered: list[list[Candidate]], REML: bool, control: Control
) -> tuple[list[Candidate], Estimates]:
    """A candidate for each bar of the network, by the least ``objective + 2 * n_variances``, and the fit.

    One bar after the other, the others as they are, from the candidates with the fewest parameters on; then only those
    beside the ones taken are tried again. With crossed factors the first one that is worse ends it.
    """
    taken = [each[0] for each in offered]
    rough = control
    if max(map(len, offered)) > 1:
        rough = dataclasses.replace(control, tolerance=ROUGH, max_evaluations=EVALUATIONS)

    def fit(these: list[Candidate]) -> tuple[float, Estimates]:
        found = exact.fit(with_candidates(linear, these), REML, rough)
        return found.objective + 2 * sum(each.n_variances for each in these), found

    levels = np.unique(np.stack([term.codes for term in linear.random]), axis=1).shape[1]
    crossed = levels > max(term.n_levels for term in linear.random)
    least, best = fit(taken)
    for sweep in range(SWEEPS):
        before = list(taken)
        for k, each in enumerate(offered):
            worse = 0
            for candidate in [c for c in each if c is not taken[k] and (sweep == 0 or _near(each, c, taken[k]))]:
                if crossed and worse:  # each fit takes long there
                    break
                trial = [*taken[:k], candidate, *taken[k + 1 :]]
                criterion, found = fit(trial)
                worse = 0 if criterion < least else worse + 1
                if criterion < least:
                    taken, least, best = trial, criterion, found
        if len(taken) == 1 or all(a is b for a, b in zip(before, taken, strict=True)):
            break
    return taken, best if rough is control else exact.fit(with_candidates(linear, taken), REML, control, best.theta)


def _near(offered: list[Candidate], a: Candidate, b: Candidate) -> bool:
    """Whether two candidates stand beside each other."""
    places = {id(each): k for k, each in enumerate(offered)}
    return abs(places[id(a)] - places[id(b)]) == 1


def _parts(
    model: SeveralModel, linear: Design, found: Estimates, bases: Sequence[FloatArray | None]
) -> tuple[BarEstimates, ...]:
    """Estimates of all bars from those of the linear mixed model."""
    variances = conditional_variance(linear, found)
    templates = split_theta(linear.random, found.theta)
    return tuple(
        bar_estimates(bar, b, variance, found.sigma * Lambda, basis)
        for bar, b, variance, Lambda, basis in zip(model.bars, found.b, variances, templates, bases, strict=True)
    )


def settle(model: SeveralModel, control: Control) -> Settled:
    """Estimate all but theta_bar, and directions of deviations of reduced rank, which stay; the model changes.

    Effects move to their modes at the variances at hand; there the model is linearised, and variances are those of
    maximum likelihood, or of EM steps where the modes then would leave what is linear.
    """
    rows = torch.arange(model.whole.n)
    rough = dataclasses.replace(control, tolerance=ROUGH, max_evaluations=EVALUATIONS)
    before, change, wait = np.inf, np.inf, 0
    for _ in range(ROUNDS):
        to_modes(model, rows)
        at = model.linearise(rows)
        deviance = expected(model.linear_model(at)[0], _theta(model)).objective
        before, change = deviance, abs(before - deviance)
        if change < LAST_CHANGE:
            break
        wait = max(0, wait - 1)
        if wait or not _likeliest(model, at, rough):
            wait = wait or WAIT
            for _ in range(LAST_STEPS):
                linear, columns = model.linear_model(at)
                found = expected(linear, _theta(model))
                model.maximise(at, found, columns, turning=False)
                model.beta = torch.from_numpy(np.array(found.beta))
    linear, columns = model.linear_model(at)
    found = expected(linear, _theta(model))
    model.beta, model.sigma2 = torch.from_numpy(np.array(found.beta)), found.sigma**2
    parts = []
    for bar, own, b, variances in zip(model.bars, columns, found.b, found.variances, strict=True):
        factor = bar.factor
        assert factor is not None
        bar.effects = in_full(bar, own.levels, b, factor)
        basis = factor.numpy() if bar.reduced else None
        inside = np.eye(factor.shape[1]) if bar.reduced else factor.numpy()
        parts.append(bar_estimates(bar, b, variances, inside, basis))
    model.recentre()
    for k, bar in enumerate(model.bars):
        parts[k] = dataclasses.replace(parts[k], effects=bar.effects.numpy())
    count = len(model.varying)
    return Settled(
        sigma=model.sigma2**0.5,
        varying=tuple(parts[:count]),
        random=tuple(parts[count:]),
        fixed_covariance=None,
        objective=found.objective,
        exact=False,
        converged=True,
        message=f"EM stopped while the deviance still changed by {change:.1f} a round" if change > ENOUGH else "",
    )


def _theta(model: SeveralModel) -> FloatArray:
    return np.concatenate([theta_of(bar, model.sigma2**0.5) for bar in model.bars])


def _likeliest(model: SeveralModel, at: Linearised, control: Control) -> bool:
    """Take the variances of maximum likelihood in the linearised model, if the network bears their modes out."""
    linear, columns = model.linear_model(at)
    found = exact.fit(linear, False, control, _theta(model))
    effects = [
        in_full(bar, own.levels, b, bar.factor) for bar, own, b in zip(model.bars, columns, found.b, strict=True)
    ]
    if not bears_out(model, at, torch.from_numpy(np.array(found.beta)), effects):
        return False
    for k, (bar, Lambda) in enumerate(zip(model.bars, split_theta(linear.random, found.theta), strict=True)):
        own = torch.from_numpy(found.sigma * (np.diagonal(Lambda).copy() if bar.diagonal else Lambda))
        if bar.reduced:
            assert bar.factor is not None
            bar.factor, at.columns[k] = bar.factor @ own, at.columns[k] @ own
        else:
            bar.factor = own
    model.sigma2, model.beta = found.sigma**2, torch.from_numpy(np.array(found.beta))
    return True
