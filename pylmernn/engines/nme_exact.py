"""Where only the last layer varies, the model given the layers below it is a linear mixed model: it is solved as one.

Its fixed effects are the columns of X and the weights of the last layer, its random effects the deviations of these
weights, so that estimates and conditional variances are those of method "profiled", by maximum likelihood or REML.

Features that a network has learnt are many and alike. With few rows a group, covariances of all their weights fit
noise: groups that differ in nothing would get deviations, and predictions lose by them. So where there are learnt
features, a plain bar also tries the few directions in which deviations were largest in training, and a constant of
each group alone, and Akaike's criterion chooses; elsewhere deviations are zero. A network without hidden layers stays
the linear mixed model that it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.nme_model import Given, VaryingModel, last_layer
from pylmernn.engines.variances import conditional_variance
from pylmernn.formula.design import Design, RandomTerm, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select

FloatArray = NDArray[np.float64]

NOTHING = 1e-6  # of the largest direction
DEPENDENT = 1e-3  # features of a layer that others make up but for this share are left out


def given_trunk(model: VaryingModel, REML: bool, control: Control) -> Given:
    """Solve for beta, the last layer, its deviations and all variances; the model changes accordingly.

    Parameters
    ----------
    model : VaryingModel
        With its scale absorbed.
    REML : bool
    control : Control
    """
    design, term = model.design, model.term
    whole = select(model.network.module, "last", term.label)
    last = VaryingNetwork(model.network.module, whole)
    zeros = torch.zeros(1, whole.size)
    model.network.module.eval()
    _, features = last.jacobian(model.prepared, zeros, torch.zeros(design.n, dtype=torch.int64))
    columns = features.double().numpy()
    varies = [k for k, label in enumerate(whole.labels) if label.partition("[")[0] in _stems(model)]
    X = np.column_stack([design.X, columns])
    kept = independent_columns(X, DEPENDENT)
    linear = Design(
        y=design.y,
        X=X[:, kept],
        fixed_names=tuple([*design.fixed_names, *whole.labels][j] for j in kept),
        random=(
            RandomTerm(
                term.group,
                term.codes,
                term.levels,
                columns[:, varies],
                model.selected.labels,
                "diag" if model.diagonal else "us",
                term.label,
            ),
        ),
        weights=design.weights,
        offset=design.offset,
        response=design.response,
    )
    hidden = len(model.network.module.mlp.layers) > 1
    best, found = chosen(linear, candidates(model, linear.random[0], hidden), REML, control)
    linear = dataclasses.replace(linear, random=(best.term,))
    beta = np.zeros(X.shape[1])
    beta[kept] = found.beta
    model.beta = torch.tensor(beta[: design.p])
    layer = last_layer(model.network.module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta[design.p : -1])[None])
        layer.bias.copy_(torch.from_numpy(beta[-1:]))
    basis, width = best.basis, best.basis.shape[1]
    effects = found.b[0] @ basis.T
    factor = basis @ (found.sigma * structure(best.term.covariance).Lambda(found.theta, width))
    variances = basis @ conditional_variance(linear, found)[0] @ basis.T
    model.eta = torch.tensor(effects)
    inside = [j for j in range(len(kept)) if kept[j] < design.p]
    return Given(
        sigma=found.sigma,
        effects=effects,
        variances=np.einsum("qdd->qd", variances) if model.diagonal or model.reduced else variances,
        factor=np.abs(np.diagonal(factor)) if model.diagonal else factor,
        fixed_covariance=found.sigma**2 * found.unscaled_vcov[np.ix_(inside, inside)],
        objective=found.objective,
        exact=True,
        converged=found.convergence.converged,
        message="" if found.convergence.converged else found.convergence.message,
    )


@dataclass(frozen=True)
class Candidate:
    """A covariance matrix of the deviations, ``basis S basis'``.

    Attributes
    ----------
    term : RandomTerm
        With S, for the features times the basis.
    basis : ndarray, shape (D, m)
    n_variances : int
        Free parameters, those of the basis among them.
    """

    term: RandomTerm
    basis: FloatArray
    n_variances: int


def candidates(model: VaryingModel, term: RandomTerm, hidden: bool) -> list[Candidate]:
    """From few parameters to many: a constant of each group, directions that varied in training, all there is."""
    D = len(term.column_names)
    whole = Candidate(term, np.eye(D), D if model.diagonal else D * (D + 1) // 2)
    if D == 1 or model.diagonal or not hidden or model.factor is None:
        return [whole]
    factor = model.factor.numpy()
    _, values, directions = np.linalg.svd(term.columns @ factor, full_matrices=False)
    along = []
    for rank in range(1, min(model.rank, D - 1, len(values)) + 1):
        if values[rank - 1] > NOTHING * values[0]:
            basis = factor @ directions[:rank].T
            scale = np.sqrt(((term.columns @ basis) ** 2).mean(axis=0))
            along.append(_along(term, basis / scale, D * rank - rank * (rank - 1) // 2))
    if model.term.covariance == "rr" and along:
        return along[-1:]
    if np.ptp(term.columns[:, -1]) == 0:
        along.insert(0, _along(term, np.eye(D)[:, -1:], 1))
    return along if model.reduced and along else [*along, whole]


def _along(term: RandomTerm, basis: FloatArray, n_variances: int) -> Candidate:
    names = tuple(f"direction {k + 1}" for k in range(basis.shape[1]))
    own = dataclasses.replace(term, columns=term.columns @ basis, column_names=names, covariance="us")
    return Candidate(own, basis, n_variances)


def chosen(linear: Design, candidates: list[Candidate], REML: bool, control: Control) -> tuple[Candidate, Estimates]:
    """The candidate with the least ``objective + 2 * n_variances``, and its fit.

    The last one, which may cost much, is tried only where the one before it is the best until then.
    """
    best: tuple[Candidate, Estimates] | None = None
    least, latest = np.inf, True
    for k, candidate in enumerate(candidates):
        if k == len(candidates) - 1 and not latest:
            break
        found = exact.fit(dataclasses.replace(linear, random=(candidate.term,)), REML, control)
        criterion = found.objective + 2 * candidate.n_variances
        latest = best is None or criterion < least
        if best is None or latest:
            best, least = (candidate, found), criterion
    assert best is not None
    return best


def _stems(model: VaryingModel) -> set[str]:
    """Labels of the parameters that vary, without indices."""
    return {label.partition("[")[0] for label in model.selected.labels}
