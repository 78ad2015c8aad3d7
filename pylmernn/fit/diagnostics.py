"""Residuals, leverages and influence."""

from __future__ import annotations

import numpy as np

from pylmernn.engines.estimates import Estimates
from pylmernn.engines.variances import prediction_variance
from pylmernn.fit.predict import rows_of_fit
from pylmernn.formula.design import Design, DesignError, FloatArray

RESIDUAL_TYPES = ("response", "working", "pearson", "deviance", "scaled")


def residuals(design: Design, mu: FloatArray, sigma: float, type: str = "response", scaled: bool = False) -> FloatArray:
    """Residuals of a linear mixed model, shape (n,).

    Parameters
    ----------
    design : Design
    mu : array, shape (n,)
        Fitted values.
    sigma : float
    type : str
        "response" and "working" are ``y - mu``; "pearson" and "deviance" multiply by the root of the weight; "scaled"
        is "pearson" over sigma.
    scaled : bool
        Divide by sigma, whatever the type.
    """
    if type not in RESIDUAL_TYPES:
        raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
    values = design.y - mu
    if type in ("pearson", "deviance", "scaled") and design.weights is not None:
        values = values * np.sqrt(design.weights)
    return values / sigma if scaled or type == "scaled" else values


def hat_values(design: Design, estimates: Estimates) -> FloatArray:
    """Leverages, the derivatives of the fitted values by their responses at fixed theta, shape (n,).

    The fitted values are linear in y with ``H = [X Z] C^-1 [X Z]' W``, C the matrix of the mixed-model equations, so
    a leverage is the row's prediction variance in units of its residual variance.
    """
    variance = prediction_variance(design, estimates, rows_of_fit(design), (True,) * len(design.random))
    hat = variance / estimates.sigma**2
    return hat if design.weights is None else hat * design.weights


def cooks_distance(hat: FloatArray, pearson: FloatArray, sigma: float, rank: int) -> FloatArray:
    """Cook's distances as lme4 has them, shape (n,); NaN where the leverage is one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (pearson / (1 - hat)) ** 2 * hat / (sigma**2 * rank)
    values[np.isinf(values)] = np.nan
    return values


def studentized(hat: FloatArray, pearson: FloatArray, sigma: float) -> FloatArray:
    """Studentized residuals as lme4's ``rstudent``, shape (n,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.sign(pearson) * np.sqrt(pearson**2 + hat * pearson**2 / (1 - hat)) / sigma
    values[np.isinf(values)] = np.nan
    return values
