"""Where only the last layer varies, the model given the layers below it is a linear mixed model: it is solved as one.

Its fixed effects are the columns of X and the weights of the last layer, its random effects the deviations of these
weights, so that estimates and conditional variances are those of method "profiled", by maximum likelihood or REML.
"""

from __future__ import annotations

import numpy as np
import torch

from pylmernn.covariance import structure
from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.nme_model import Given, VaryingModel, last_layer
from pylmernn.engines.variances import conditional_variance
from pylmernn.formula.design import Design, RandomTerm, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select

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
    found = exact.fit(linear, REML, control)
    beta = np.zeros(X.shape[1])
    beta[kept] = found.beta
    model.beta = torch.from_numpy(beta[: design.p].copy())
    layer = last_layer(model.network.module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta[design.p : -1])[None])
        layer.bias.copy_(torch.from_numpy(beta[-1:]))
    model.eta = torch.from_numpy(np.array(found.b[0]))
    factor = structure(linear.random[0].covariance).Lambda(found.theta, len(varies))
    variances = conditional_variance(linear, found)[0]
    inside = [j for j in range(len(kept)) if kept[j] < design.p]
    return Given(
        sigma=found.sigma,
        effects=found.b[0],
        variances=np.einsum("qdd->qd", variances) if model.diagonal else variances,
        factor=found.sigma * (np.abs(np.diagonal(factor)) if model.diagonal else factor),
        fixed_covariance=found.sigma**2 * found.unscaled_vcov[np.ix_(inside, inside)],
        objective=found.objective,
        exact=True,
        converged=found.convergence.converged,
        message="" if found.convergence.converged else found.convergence.message,
    )


def _stems(model: VaryingModel) -> set[str]:
    """Labels of the parameters that vary, without indices."""
    return {label.partition("[")[0] for label in model.selected.labels}
