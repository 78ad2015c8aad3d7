"""Standard errors and intervals of networks that vary by group, for data frames of rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import torch

from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.engines.nme_generalized_predict import means
from pylmernn.engines.nme_variance import Errors, GroupRows
from pylmernn.engines.nme_working import Rows
from pylmernn.fit.predict import interval_frame
from pylmernn.fit.predict_generalized import SLOPE_STEP, response_limits
from pylmernn.formula.design import Design, DesignError, FloatArray, IntArray, NewRows


def group_rows(rows: NewRows, codes: IntArray, weights: FloatArray | None = None) -> GroupRows:
    """Rows of a prediction as the engine takes them; missing values stay."""
    return GroupRows(rows.X, rows.nets[0], codes, np.ones(len(rows.X)) if weights is None else weights)


def variances(errors: Errors, rows: GroupRows, deviations: bool) -> FloatArray:
    """Variances of means (m,), NaN where a value is missing."""
    whole = np.flatnonzero(np.isfinite(rows.X).all(axis=1) & np.isfinite(rows.inputs).all(axis=1))
    found = np.full(len(rows), np.nan)
    if len(whole):
        found[whole] = errors.variance(rows.take(whole), deviations)
    return found


def error_frame(
    errors: Errors,
    mean: FloatArray,
    rows: GroupRows,
    deviations: bool,
    interval: str | None,
    level: float,
    index: pd.Index,
) -> pd.DataFrame:
    """Columns fit and se, and lwr and upr where limits are asked for, of a linear model.

    Parameters
    ----------
    errors : Errors
    mean : ndarray, shape (m,)
    rows : GroupRows
    deviations : bool
        Whether those of the groups belong to the prediction.
    interval : {None, "confidence", "prediction"}
    level : float
    index : names of the rows
    """
    noise = errors.calibration.noise / rows.weights
    return interval_frame(mean, variances(errors, rows, deviations), noise, interval, level, index)


def generalized_frame(
    errors: Errors,
    eta: FloatArray,
    rows: GroupRows,
    deviations: bool,
    type: str,
    interval: str | None,
    level: float,
    seed: int,
    index: pd.Index,
) -> pd.DataFrame:
    """The same of a generalized model, of linear predictors or means; ``eta`` (m,) are linear predictors."""
    found = variances(errors, rows, deviations)
    return generalized_limits(errors.model.estimates, eta, found, rows.weights, type, interval, level, seed, index)


def generalized_limits(
    estimates: Any,
    eta: FloatArray,
    variance: FloatArray,
    weights: FloatArray,
    type: str,
    interval: str | None,
    level: float,
    seed: int,
    index: pd.Index,
) -> pd.DataFrame:
    """:func:`generalized_frame` for variances (m,) of the linear predictors, and weights (m,) of new responses.

    Raises
    ------
    DesignError
        For means of classes, or limits of a new response that has none.
    """
    limits = None if interval is None else "confidence"
    frame = interval_frame(eta, variance, 0.0, limits, level, index)
    if interval == "prediction" and type != "response":
        raise DesignError("a new response is on its own scale: use type='response' with interval='prediction'.")
    if type == "link":
        return frame
    if estimates.family.categorical:
        raise DesignError("standard errors of an ordinal model are of the linear predictor: use type='link'.")
    slope = np.abs(means(estimates, eta + SLOPE_STEP) - means(estimates, eta - SLOPE_STEP)) / (2.0 * SLOPE_STEP)
    out = pd.DataFrame({"fit": means(estimates, eta), "se": frame["se"].to_numpy() * slope}, index=index)
    if interval == "confidence":
        out["lwr"], out["upr"] = np.sort([means(estimates, frame[end].to_numpy()) for end in ("lwr", "upr")], axis=0)
    elif interval == "prediction":
        se = np.sqrt(np.maximum(variance, 0.0))
        limits_of_new = response_limits(estimates.family, estimates.phi, eta, se, weights, level, seed)
        out["lwr"], out["upr"] = limits_of_new
    return out


def informed(estimates: GeneralizedVaryingEstimates, rows: GroupRows, y: FloatArray, eta: FloatArray) -> GroupRows:
    """Rows whose weights are what they tell of their linear predictors, for responses y and those (m,) each."""
    assert estimates.family is not None
    root, _ = Rows(estimates.family, y, rows.weights).working(torch.from_numpy(eta)[:, None], estimates.phi)
    return dataclasses.replace(rows, weights=root[:, 0, 0].numpy() ** 2)


def without_old(added: GroupRows | None, codes: IntArray) -> GroupRows | None:
    """Rows learnt from after the fit, but those of groups that are learnt anew."""
    if added is None:
        return None
    kept = np.flatnonzero(~np.isin(added.codes, codes))
    return added.take(kept) if len(kept) else None


def with_more(added: GroupRows | None, more: GroupRows) -> GroupRows:
    """Those with more rows; of a group in both, the new ones alone."""
    old = without_old(added, more.codes)
    if old is None:
        return more
    names = [field.name for field in dataclasses.fields(GroupRows)]
    return GroupRows(*(np.concatenate([getattr(old, name), getattr(more, name)]) for name in names))


def fit_rows(design: Design) -> NewRows:
    """The rows of a fit in the shape of new rows."""
    offset = np.zeros(design.n) if design.offset is None else design.offset
    return NewRows(design.X, offset, (), None, (design.nets[0].inputs,))
