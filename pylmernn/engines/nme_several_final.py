"""Estimates given theta_bar of a network that varies by several bars, or beside ordinary ones, on all rows.

Where all bars of the network are of its last layer, the model given the layers below is one linear mixed model, solved
exactly, by maximum likelihood or REML. Else the model is linearised at the modes and solved until it settles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
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
from pylmernn.engines.nme_several_bars import Bar, BarEstimates, Linearised, bar_estimates
from pylmernn.engines.nme_several_model import SeveralModel
from pylmernn.engines.nme_several_modes import bears_out, to_modes
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


@dataclass(frozen=True)
class Known:
    """The mixed model given the layers below.

    Attributes
    ----------
    linear : Design
        With the columns of X and of the last layer's features that no others make up.
    kept : list of int
        Which ones these are.
    width : int
        Of X and all parameters of the last layer.
    offered : list of list of Candidate
        For each bar of the network.
    """

    linear: Design
    kept: list[int]
    width: int
    offered: list[list[Candidate]]


def given_trunk(model: SeveralModel, REML: bool, control: Control) -> Settled:
    """Solve for beta, the last layer, all effects and all variances; the model changes accordingly.

    Parameters
    ----------
    model : SeveralModel
        With its scale absorbed.
    REML : bool
    control : Control
    """
    known = known_model(model)

    def fit(linear: Design, settings: Control, before: Estimates | None) -> Estimates:
        return exact.fit(linear, REML, settings, None if before is None else before.theta)

    best, found = chosen(known.linear, known.offered, fit, control)
    linear = with_candidates(known.linear, best)
    return put_back(model, known, best, found, conditional_variance(linear, found))


def known_model(model: SeveralModel, constant: bool = True) -> Known:
    """The model given the layers below; without ``constant`` the bias of the last layer has no column in X."""
    design, module = model.whole, model.network.module
    whole = select(module, "last", design.varying[0].label)
    module.eval()
    _, features = VaryingNetwork(module, whole).jacobian(
        model.prepared, torch.zeros(1, whole.size), torch.zeros(design.n, dtype=torch.int64)
    )
    columns = features.double().numpy()
    X = np.column_stack([design.X, columns if constant else columns[:, :-1]])
    kept = independent_columns(X, DEPENDENT)
    inside = np.array(whole.places(model.selected))
    terms = [_term(bar, columns, inside, model) for bar in model.varying]
    linear = dataclasses.replace(
        design,
        X=X[:, kept],
        fixed_names=tuple([*design.fixed_names, *whole.labels][j] for j in kept),
        random=(*terms, *design.random),
        nets=(),
        varying=(),
    )
    hidden = len(module.mlp.layers) > 1
    offered = [_offered(bar, term, hidden) for bar, term in zip(model.varying, terms, strict=True)]
    return Known(linear, list(kept), design.p + whole.size, offered)


def put_back(
    model: SeveralModel, known: Known, best: list[Candidate], found: Estimates, variances: Sequence[FloatArray]
) -> Settled:
    """Estimates of the mixed model with these candidates as those of the network, which takes them up."""
    p, linear = model.whole.p, with_candidates(known.linear, best)
    beta = np.zeros(known.width)
    beta[known.kept] = found.beta
    model.beta = torch.from_numpy(beta[:p].copy())
    layer = last_layer(cast("Any", model.network.module))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta[p:-1])[None])
        layer.bias.copy_(torch.from_numpy(beta[-1:]))
    bases = [*(each.basis for each in best), *[None] * len(model.ordinary)]
    templates = split_theta(linear.random, found.theta)
    parts = tuple(
        bar_estimates(bar, b, variance, found.sigma * Lambda, basis)
        for bar, b, variance, Lambda, basis in zip(model.bars, found.b, variances, templates, bases, strict=True)
    )
    for bar, part in zip(model.bars, parts, strict=True):
        bar.effects = torch.from_numpy(part.effects.copy())
    model.refresh()
    linear_only = [j for j in range(len(known.kept)) if known.kept[j] < p]
    return Settled(
        sigma=found.sigma,
        varying=parts[: len(best)],
        random=parts[len(best) :],
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
    linear: Design,
    offered: list[list[Candidate]],
    fit: Callable[[Design, Control, Any], Any],
    control: Control,
) -> tuple[list[Candidate], Any]:
    """A candidate for each bar of the network, by the least ``objective + 2 * n_variances``, and what ``fit`` finds.

    One bar after the other, the others as they are, from the candidates with the fewest parameters on; then only those
    beside the ones taken are tried again. With crossed factors two in turn that are worse end it: one alone says
    little, as a constant of each level is hard to beat by a single direction. ``fit`` takes a design, settings, and an
    earlier fit to begin from or None.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where none can be fitted.
    """
    taken = [each[0] for each in offered]
    rough = control
    if max(map(len, offered)) > 1:
        rough = dataclasses.replace(control, tolerance=ROUGH, max_evaluations=EVALUATIONS)

    def tried(these: list[Candidate]) -> tuple[float, Any]:
        try:
            found = fit(with_candidates(linear, these), rough, None)
        except np.linalg.LinAlgError:
            return np.inf, None
        return found.objective + 2 * sum(each.n_variances for each in these), found

    levels = np.unique(np.stack([term.codes for term in linear.random]), axis=1).shape[1]
    crossed = levels > max(term.n_levels for term in linear.random)
    least, best = tried(taken)
    for sweep in range(SWEEPS):
        before = list(taken)
        for k, each in enumerate(offered):
            worse = 0
            for candidate in [c for c in each if c is not taken[k] and (sweep == 0 or _near(each, c, taken[k]))]:
                if crossed and worse > 1:  # each fit takes long there
                    break
                trial = [*taken[:k], candidate, *taken[k + 1 :]]
                criterion, found = tried(trial)
                worse = 0 if criterion < least else worse + 1
                if criterion < least:
                    taken, least, best = trial, criterion, found
        if len(taken) == 1 or all(a is b for a, b in zip(before, taken, strict=True)):
            break
    if best is None:
        raise np.linalg.LinAlgError("no covariance matrix of the deviations can be fitted")
    return taken, best if rough is control else fit(with_candidates(linear, taken), control, best)


def _near(offered: list[Candidate], a: Candidate, b: Candidate) -> bool:
    """Whether two candidates stand beside each other."""
    places = {id(each): k for k, each in enumerate(offered)}
    return abs(places[id(a)] - places[id(b)]) == 1


def settle(
    model: SeveralModel,
    control: Control,
    likeliest: Callable[[SeveralModel, Linearised, Control], bool] | None = None,
) -> Settled:
    """Estimate all but theta_bar, and directions of deviations of reduced rank, which stay; the model changes.

    Effects move to their modes at the variances at hand; there the model is linearised, and variances are those of
    maximum likelihood, or of EM steps where the modes then would leave what is linear.

    Parameters
    ----------
    model : SeveralModel
    control : Control
    likeliest : callable, optional
        Takes the variances of maximum likelihood in the linearised model and says whether they hold; by default those
        of the linear mixed model.
    """
    rows = torch.arange(model.whole.n)
    rough = dataclasses.replace(control, tolerance=ROUGH, max_evaluations=EVALUATIONS)
    before, change, wait = np.inf, np.inf, 0
    for _ in range(ROUNDS):
        to_modes(model, rows)
        at = model.linearise(rows)
        deviance = model.deviance_at(at, model.expected(model.linear_model(at)[0]))
        before, change = deviance, abs(before - deviance)
        if change < LAST_CHANGE:
            break
        wait = max(0, wait - 1)
        if wait or not (likeliest or _likeliest)(model, at, rough):
            wait = wait or WAIT
            model.settle_variances(at, LAST_STEPS)
    linear, columns = model.linear_model(at)
    found = model.expected(linear)
    objective = model.deviance_at(at, found)
    model.arrive(at, linear, columns, found)
    parts = []
    for bar, b, variances in zip(model.bars, found.b, found.variances, strict=True):
        factor = bar.factor
        assert factor is not None
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
        objective=objective,
        exact=False,
        converged=True,
        message=f"EM stopped while the deviance still changed by {change:.1f} a round" if change > ENOUGH else "",
    )


def _likeliest(model: SeveralModel, at: Linearised, control: Control) -> bool:
    """Take the variances of maximum likelihood in the linearised model, if the network bears their modes out."""
    linear, columns = model.linear_model(at)
    found = exact.fit(linear, False, control, model.theta())
    if not bears_out(model, at, torch.from_numpy(np.array(found.beta)), model.new_effects(columns, found.b)):
        return False
    take_factors(model, at, linear, found)
    model.sigma2, model.beta = found.sigma**2, torch.from_numpy(np.array(found.beta))
    return True


def take_factors(model: SeveralModel, at: Linearised, linear: Design, found: Estimates) -> None:
    """Variances of all bars as they were found in the linearised model, whose columns change accordingly."""
    for k, (bar, Lambda) in enumerate(zip(model.bars, split_theta(linear.random, found.theta), strict=True)):
        own = torch.from_numpy(found.sigma * (np.diagonal(Lambda).copy() if bar.diagonal else Lambda))
        if bar.reduced:
            assert bar.factor is not None
            bar.factor, at.columns[k] = bar.factor @ own, at.columns[k] @ own
        else:
            bar.factor = own
