"""The linear mixed model that a generalized one is at its modes, for variances of predictions.

At the conditional modes the log-density of every row is a parabola in eta, with the score as slope and a weight w as
curvature. That of ``z = eta + score / w``, normal with variance ``1 / w``, has the same (Breslow & Clayton 1993,
section 2.2), so all variances of a linear mixed model with response z, weights w and residual variance 1 hold for
this one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.exact import factored_together
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_modes import Observations
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

FLATTEST = 1e-10  # weight of a row that says nothing


def working_model(design: Design, estimates: GeneralizedEstimates) -> tuple[Design, Estimates]:
    """Design and estimates of the working linear mixed model, all variance parameters kept.

    Parameters
    ----------
    design : Design
        Of the fit; with networks f is part of the offset.
    estimates : GeneralizedEstimates
        Theta, beta, b, phi and networks are read.

    Returns
    -------
    Design, Estimates
        With ``sigma`` 1: :func:`pylmernn.engines.variances.prediction_variance` of them is that of the linear
        predictor, theta and phi taken as known.
    """
    assert estimates.family is not None
    eta = linear_predictor(design, estimates)
    data = Observations.of(estimates.family, design.y, design.weights)
    with np.errstate(all="ignore"):
        score = data.step(eta, estimates.phi).score
        weights = data.curvature(eta, estimates.phi)[0]
        if not (weights > 0).all():
            expected = data.fisher(eta, estimates.phi) if weights.min() < 0 else weights
            weights = np.maximum(np.nan_to_num(expected), FLATTEST)
    working = dataclasses.replace(design, y=eta + score / weights, weights=weights)
    limit = Control().dense_limit
    method = "iterative" if factored_together(design, limit) > limit else "profiled"
    return working, dataclasses.replace(estimates, method=method, REML=False, sigma=1.0)


def linear_predictor(design: Design, estimates: Estimates) -> FloatArray:
    """``offset + X beta + Z b`` of the rows of a fit, (n,)."""
    eta = design.X @ estimates.beta
    if design.offset is not None:
        eta = eta + design.offset
    for term, b in zip(design.random, estimates.b, strict=True):
        eta = eta + np.einsum("ij,ij->i", term.columns, b[term.codes])
    return np.asarray(eta)
