"""Method ``"nme"`` for generalized models: ``eta_ij = offset + X beta + f(x; theta_bar + eta_i)`` on the link scale.

As :mod:`pylmernn.engines.nme`, with the deviance for the loss of the network, and Laplace's approximation for EM: the
deviations move to their modes by penalised Gauss-Newton steps on working responses
(:mod:`pylmernn.engines.nme_working`), and ``Sigma := mean(eta_i eta_i' + H_i^-1)`` with
``H_i = J_i'W_i J_i + Sigma^-1``, J the derivatives of the linear predictors and W the information of the rows. A
multinomial network has one output a class, and all classes' parameters vary together.

Where only the last layer varies and the linear predictor is one number, the model given the layers below is a
generalized linear mixed model with random slopes of the features. Up to 20,000 rows it is cross-fitted, as that of
:mod:`pylmernn.engines.nme` (:mod:`pylmernn.engines.nme_generalized_crossfit`); elsewhere method "pirls" estimates it in
the end, if there are groups enough for its variances.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines import nme_crossfit, pirls, pirls_variances
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme import Callback, VaryingEstimates, train
from pylmernn.engines.nme_exact import DEPENDENT
from pylmernn.engines.nme_generalized_crossfit import GeneralizedSolver
from pylmernn.engines.nme_generalized_members import GeneralizedMembers
from pylmernn.engines.nme_generalized_model import GeneralizedVaryingModel
from pylmernn.engines.nme_model import Given, last_layer
from pylmernn.families import Family
from pylmernn.families.family import Dispersion
from pylmernn.formula.design import Design, DesignError, RandomTerm, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select

if TYPE_CHECKING:
    from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates

FloatArray = NDArray[np.float64]

MOST_DERIVATIVES = 400_000_000  # of linear predictors, in float64
GROUPS_EACH = 4  # for each variance and covariance, from which on "pirls" estimates them


@dataclass(frozen=True)
class GeneralizedVaryingEstimates(VaryingEstimates):
    """A fitted generalized model with a network that varies by group; ``fitted`` are its linear predictors.

    Attributes
    ----------
    family : Family
    phi : float or ndarray
        Dispersion.
    classes : tuple of str
        Of a categorical response.
    beta : ndarray, shape (p,), or (p, C) of multinomial models
    fitted : ndarray, shape (n,) or (n, C)
    """

    family: Family | None = None
    phi: Dispersion = 1.0
    classes: tuple[str, ...] = ()


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callback | None = None,
) -> GeneralizedVaryingEstimates | SeveralGeneralizedEstimates:
    """Estimate a generalized model with a network that varies by group.

    Parameters
    ----------
    design : Design
        With one network, terms in ``varying``, and other bars or none: see
        :mod:`pylmernn.engines.nme_several_generalized`.
    family : Family
    nAGQ : int, default 1
        Nodes a dimension of the last step, which "pirls" takes for any other number than 1, however few groups.
    control, callback
        As in :func:`pylmernn.engines.alternating_generalized.fit`.

    Raises
    ------
    DesignError
        For a design with other networks, a parameter that the network has not, more derivatives than memory holds, or
        quadrature where more than the last layer varies.
    ValueError
        Where the loss is not finite in the first epoch.
    """
    control = control or Control()
    refuse_faithful(design, control)
    if design.random or len(design.varying) > 1:
        from pylmernn.engines import nme_several_generalized  # it trains by what this file does

        return nme_several_generalized.fit(design, family, nAGQ, control, callback)
    begun = time.perf_counter()
    model = GeneralizedVaryingModel(design, family, control)
    check_size(model, nAGQ)
    found, epoch, history, stopped = estimated(model, nAGQ, control, callback)
    model.absorb_bias()
    message = "; ".join(text for text in (stopped, found.message) if text)
    convergence = Convergence(
        found.converged and not stopped, np.zeros(0), len(history["epoch"]), message, time.perf_counter() - begun
    )
    beta, fitted = model.beta.numpy(), model.mean()
    return GeneralizedVaryingEstimates(
        method="nme",
        REML=False,
        beta=beta if model.outputs > 1 else beta[:, 0],
        fixed_covariance=found.fixed_covariance,
        sigma=1.0,
        networks=model.networks(epoch, history),
        selected=model.selected,
        effects=found.effects,
        variances=found.variances,
        factor=found.factor,
        fitted=fitted if model.outputs > 1 else fitted[:, 0],
        objective=found.objective,
        exact=found.exact,
        convergence=convergence,
        family=family,
        phi=model.phi,
        classes=design.classes,
    )


def estimated(
    model: GeneralizedVaryingModel, nAGQ: int, control: Control, callback: Callback | None
) -> tuple[Given, int, dict[str, list[float]], str]:
    """Train and settle a model; returns what is estimated, the epoch, the history and why training stopped early."""
    if nAGQ == 1 and model.outputs == 1 and nme_crossfit.offered(model):
        try:
            return cross_fitted(model, control, callback)
        except (np.linalg.LinAlgError, DesignError):  # columns that tell classes apart
            pass
    best, history, stopped = train(model, callback)
    model.restore(best.state)
    enough = nAGQ != 1 or has_groups(model)
    found = given_trunk(model, nAGQ, control) if is_known_model(model) and enough else model.settle()
    return found, best.epoch, history, stopped


def cross_fitted(
    model: GeneralizedVaryingModel, control: Control, callback: Callback | None
) -> tuple[Given, int, dict[str, list[float]], str]:
    """:func:`estimated` by members that each learn from a part of the rows.

    Raises
    ------
    numpy.linalg.LinAlgError, DesignError
        Where the mixed model given the members has no estimates.
    """
    members = GeneralizedMembers(model)
    best, history, stopped = train(members, callback)
    chosen = best.epoch if members.restore(best.state, not stopped) else len(history["epoch"])
    found = nme_crossfit.finish(members, GeneralizedSolver(model.family, control), not stopped)
    model.held = nme_crossfit.nothing_held(model)
    return found, chosen, history, stopped


def refuse_faithful(design: Design, control: Control) -> None:
    """Raise DesignError for the preset that method "nme" has for numbers only."""
    if control.training.preset == "faithful":
        raise DesignError(
            f"the response '{design.response}': preset 'faithful' of method 'nme' is for lmernn(); use 'default'."
        )


def is_known_model(model: GeneralizedVaryingModel) -> bool:
    """Whether the model given the layers below is a generalized linear mixed model."""
    return model.selected.linear and model.outputs == 1 and not model.reduced


def has_groups(model: GeneralizedVaryingModel) -> bool:
    """Whether groups suffice for maximum likelihood of all variances.

    Of many variances and few groups it predicts worse than EM, which stays near the best epoch.
    """
    size = model.selected.size
    return model.term.n_levels >= GROUPS_EACH * (size if model.diagonal else size * (size + 1) // 2)


def check_size(model: GeneralizedVaryingModel, nAGQ: int) -> None:
    """Raise DesignError for derivatives that no memory holds, or nodes where there is no quadrature."""
    size, label = model.selected.size, model.term.label
    if model.design.n * model.outputs * size > MOST_DERIVATIVES:
        raise DesignError(
            f"{label}: {size} parameters that vary are too many for {model.design.n} rows: let fewer vary, such as "
            f"(nn.last | {model.term.group}), or take fewer hidden units."
        )
    if nAGQ > 1 and not is_known_model(model):
        raise DesignError(f"nAGQ is {nAGQ}: {label} takes Laplace's approximation only; use nAGQ=1.")


def given_trunk(model: GeneralizedVaryingModel, nAGQ: int, control: Control) -> Given:
    """Solve for beta, the last layer, its deviations, all variances and the dispersion; the model changes accordingly.

    Parameters
    ----------
    model : GeneralizedVaryingModel
    nAGQ : int
    control : Control
    """
    design, term, module = model.design, model.term, model.network.module
    whole = select(module, "last", term.label)
    module.eval()
    _, features = VaryingNetwork(module, whole).jacobian(
        model.prepared, torch.zeros(1, whole.size), torch.zeros(design.n, dtype=torch.int64)
    )
    columns = features.double().numpy()
    stems = {label.partition("[")[0] for label in model.selected.labels}
    varies = [k for k, label in enumerate(whole.labels) if label.partition("[")[0] in stems]
    fixed = columns[:, :-1] if model.family.absorbs_constant else columns  # thresholds stand for the bias
    X = np.column_stack([design.X, fixed])
    kept = independent_columns(X, DEPENDENT)
    random = RandomTerm(
        term.group,
        term.codes,
        term.levels,
        columns[:, varies],
        model.selected.labels,
        "diag" if model.diagonal else "us",
        term.label,
    )
    linear = dataclasses.replace(
        design,
        X=X[:, kept],
        fixed_names=tuple([*design.fixed_names, *whole.labels][j] for j in kept),
        random=(random,),
        nets=(),
        varying=(),
    )
    try:
        found = pirls.fit(linear, model.family, nAGQ, control)
    except (np.linalg.LinAlgError, DesignError):  # columns that tell classes apart, or too many nodes
        if nAGQ > 1:
            raise
        return model.settle()
    beta = np.zeros(design.p + whole.size)
    beta[kept] = found.beta
    model.beta = torch.from_numpy(beta[: design.p, None].copy())
    model.phi = found.phi
    layer = last_layer(module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(beta[design.p : -1])[None])
        layer.bias.copy_(torch.from_numpy(beta[-1:]))
    model.eta = torch.from_numpy(np.array(found.b[0]))
    factor = structure(random.covariance).Lambda(found.theta, len(varies))
    variances = pirls_variances.mode_variance(linear, found)[0]
    inside = [j for j in range(len(kept)) if kept[j] < design.p]
    return Given(
        sigma=1.0,
        effects=found.b[0],
        variances=np.einsum("qdd->qd", variances) if model.diagonal else variances,
        factor=np.abs(np.diagonal(factor)) if model.diagonal else factor,
        fixed_covariance=found.unscaled_vcov[np.ix_(inside, inside)],
        objective=found.objective,
        exact=True,
        converged=found.convergence.converged,
        message="" if found.convergence.converged else found.convergence.message,
    )
