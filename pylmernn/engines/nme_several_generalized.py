"""Method ``"nme"`` with several bars for generalized models: ``eta = offset + X beta + f(x; theta_t) + Z b``.

``theta_t`` is ``theta_bar + sum_t eta^t``, the sum over all bars of the network. As
:mod:`pylmernn.engines.nme_several`, on the scale of the link and by Laplace's approximation: see
:mod:`pylmernn.engines.nme_several_generalized_model` for what happens between epochs. In the end, where all bars of the
network are of its last layer, the model given the layers below is a generalized linear mixed model, which method
"pirls" estimates; else it is linearised at the modes, and the generalized linear mixed model that it then is gives the
variances, until all settles.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines import pirls, pirls_variances
from pylmernn.engines.control import Control
from pylmernn.engines.exact import factored_together
from pylmernn.engines.nme import train
from pylmernn.engines.nme_several import SeveralEstimates, collected
from pylmernn.engines.nme_several_bars import Linearised
from pylmernn.engines.nme_several_final import (
    Settled,
    chosen,
    known_model,
    put_back,
    settle,
    take_factors,
    with_candidates,
)
from pylmernn.engines.nme_several_generalized_model import SeveralGeneralizedModel
from pylmernn.engines.nme_several_model import SeveralModel
from pylmernn.engines.nme_several_modes import bears_out
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.families import Family
from pylmernn.families.family import Dispersion
from pylmernn.formula.design import Design, DesignError, RandomTerm

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SeveralGeneralizedEstimates(SeveralEstimates):
    """A fitted generalized model with a network that varies by several bars, or beside ordinary ones.

    ``sigma`` is 1, ``fitted`` are linear predictors, and the objective is -2 log-likelihood by Laplace's approximation.

    Attributes
    ----------
    family : Family
    phi : float or ndarray
        Dispersion.
    classes : tuple of str
        Of a categorical response.
    """

    family: Family | None = None
    phi: Dispersion = 1.0
    classes: tuple[str, ...] = ()


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> SeveralGeneralizedEstimates:
    """Estimate a generalized model with a network that varies by several bars, or beside ordinary ones.

    Parameters
    ----------
    design : Design
        With terms in ``varying``, one network, and any bars in ``random``.
    family : Family
        Of one linear predictor a row.
    nAGQ : int, default 1
        1, or 0 as method "pirls" takes it.
    control, callback
        As in :func:`pylmernn.engines.nme_generalized.fit`.

    Raises
    ------
    DesignError
        For several classes, quadrature, terms that cannot stand beside each other, a parameter that the network has
        not, or crossed factors too large to be factored together.
    ValueError
        Where the loss is not finite in the first epoch.
    """
    control = control or Control()
    check(design, family, nAGQ, control)
    begun = time.perf_counter()
    model = SeveralGeneralizedModel(design, family, control)
    best, history, stopped = train(model, callback)
    model.restore(best.state)
    found = given_trunk(model, nAGQ, control) if model.selected.linear else settle(model, control, likeliest)
    base = collected(model, found, False, best.epoch, history, stopped, begun)
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return SeveralGeneralizedEstimates(**fields, family=family, phi=model.phi, classes=design.classes)


def check(design: Design, family: Family, nAGQ: int, control: Control) -> None:
    """Raise DesignError for what this method has not."""
    labels = [*(term.label for term in design.varying), *(term.label for term in design.random)]
    if family.name == "multinomial":
        raise DesignError(
            f"{labels[1]}: a multinomial network varies by one bar alone; take the others out, or fit each class "
            "against the others with family 'binomial'."
        )
    if nAGQ > 1:
        raise DesignError(f"nAGQ is {nAGQ}: several bars take Laplace's approximation only; use nAGQ=1.")
    together = factored_together(_levels(design), control.dense_limit)
    if together > control.dense_limit:
        raise DesignError(
            f"{together:,} random effects of {' and '.join(labels)} hang together, more than the "
            f"{control.dense_limit:,} of control.dense_limit: leave a bar out, or raise the limit if memory allows."
        )


def _levels(design: Design) -> Design:
    """The design with a constant for each bar of the network: at least so many effects hang together."""
    ones = np.ones((design.n, 1))
    terms = [RandomTerm(t.group, t.codes, t.levels, ones, ("1",), "us", t.label) for t in design.varying]
    return dataclasses.replace(design, random=(*terms, *design.random))


def given_trunk(model: SeveralGeneralizedModel, nAGQ: int, control: Control) -> Settled:
    """Solve for beta, the last layer, all effects, variances and the dispersion; the model changes accordingly.

    Where features tell classes apart, so that nothing can be solved, estimates are those of :func:`settle`.
    """
    known = known_model(model, not model.family.absorbs_constant)

    def fit(linear: Design, settings: Control, before: GeneralizedEstimates | None) -> GeneralizedEstimates:
        begin = None if before is None else (before.theta, before.beta, before.phi)
        return pirls.fit(linear, model.family, nAGQ, settings, begin=begin)

    try:
        best, found = chosen(known.linear, known.offered, fit, control)
    except np.linalg.LinAlgError:
        return settle(model, control, likeliest)
    model.phi = found.phi
    variances = pirls_variances.mode_variance(with_candidates(known.linear, best), found)
    return put_back(model, known, best, found, variances)


def likeliest(model: SeveralModel, at: Linearised, control: Control) -> bool:
    """Take variances and dispersion of maximum likelihood in the linearised model, if the network bears its modes out.

    It is a generalized linear mixed model, with what linearisation leaves of the network in its offset.
    """
    model = cast("SeveralGeneralizedModel", model)
    before = model.phi
    linear, columns = model.linear_model(at)
    linear = model.generalized(at, linear)
    try:
        found = pirls.fit(linear, model.family, 1, control, begin=(model.theta(), model.beta.numpy(), before))
    except np.linalg.LinAlgError:
        return False
    model.phi, beta = found.phi, torch.from_numpy(np.array(found.beta))
    if not bears_out(model, at, beta, model.new_effects(columns, found.b)):
        model.phi = before
        return False
    take_factors(model, at, linear, found)
    model.beta = beta
    return True
