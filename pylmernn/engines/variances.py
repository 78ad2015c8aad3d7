"""Variances of conditional modes and of predictions, at given theta (Bates et al. 2015, eq. 58 and its neighbours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines import barvariances, spatialvariances, vecchiafit
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.exact import check_features, has_fields, wants_vecchia
from pylmernn.formula.design import Design, NewRows

FloatArray = NDArray[np.float64]


def conditional_variance(design: Design, estimates: Estimates) -> tuple[FloatArray, ...]:
    """``Var(b | y)`` of every level, as lme4's ``ranef(condVar=TRUE)`` has it: theta, sigma and beta taken as known.

    Parameters
    ----------
    design : Design
    estimates : Estimates
        Theta and sigma are read.

    Returns
    -------
    tuple of ndarray, shape (q_k, d_k, d_k)
        One for each random term, in the units of y squared.
    """
    check_features(design)
    if _is_vecchia(design, estimates):
        return vecchiafit.conditional_variance(design, estimates)
    of = spatialvariances if has_fields(design) else barvariances
    return of.conditional_variance(design, estimates)


def prediction_variance(
    design: Design, estimates: Estimates, rows: NewRows, include: Sequence[bool] | None = None
) -> FloatArray:
    """``Var(x' beta_hat + z' (b_hat - b))`` for new rows: fixed and random effects together, theta and sigma known.

    Parameters
    ----------
    design : Design
        The data of the fit.
    estimates : Estimates
    rows : NewRows
        m rows.
    include : sequence of bool, optional
        Which random terms belong to the prediction; by default all.

    Returns
    -------
    ndarray, shape (m,)
        In the units of y squared. A level that the fit has not seen adds its whole prior variance; a field at a new
        location adds what its neighbours leave open.
    """
    check_features(design)
    if _is_vecchia(design, estimates):
        return vecchiafit.prediction_variance(design, estimates, rows, include)
    of = spatialvariances if has_fields(design) else barvariances
    return of.prediction_variance(design, estimates, rows, include)


def _is_vecchia(design: Design, estimates: Estimates) -> bool:
    return estimates.method == "vecchia" or (has_fields(design) and wants_vecchia(design, Control()))
