"""How certain predictions are: variances of means and of new responses, with or without networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pylmernn.engines import network_variance
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.network_variance import Calibration
from pylmernn.engines.variances import prediction_variance
from pylmernn.fit.predict import Selection, select, take_rows
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows


def interval_name(interval: str | bool | None) -> str | None:
    """The kind of limits asked for: True is "prediction", False is None.

    Raises
    ------
    DesignError
        For any other text.
    """
    if interval is True:
        return "prediction"
    if interval is False or interval is None:
        return None
    if interval not in ("confidence", "prediction"):
        raise DesignError(f"interval is '{interval}': use None, 'confidence' or 'prediction'.")
    return interval


def calibration_of(design: Design, estimates: Estimates) -> Calibration:
    """The size of errors: from held-out rows beside a network, else sigma squared alone.

    Parameters
    ----------
    design, estimates : the fit; f is part of ``design.offset``
    """
    if estimates.networks is None:
        return Calibration(1.0, estimates.sigma**2)
    return network_variance.calibrate(design, estimates, estimates.networks)


def working_calibration(design: Design, estimates: Estimates) -> Calibration:
    """The same of the working model of a generalized one, whose noise is 1.

    Parameters
    ----------
    design, estimates : :func:`pylmernn.engines.working_model.working_model`
    """
    if estimates.networks is None:
        return Calibration(1.0, 1.0)
    return network_variance.calibrate_working(design, estimates, estimates.networks)


def mean_variance(
    design: Design, estimates: Estimates, calibration: Calibration, rows: NewRows, chosen: Selection
) -> FloatArray:
    """Variance of predicted means: fixed effects, conditional modes and networks, theta and sigma taken as known.

    Parameters
    ----------
    design, estimates, calibration : the fit
    rows : NewRows, m of them
    chosen : for each random term, which of its columns take part

    Returns
    -------
    ndarray, shape (m,)
        NaN where a value that the prediction needs is missing.
    """
    include = tuple(bool(keep.any()) for keep in chosen)
    used = select(rows, chosen)
    whole = _complete(used, include)
    variance = np.full(len(whole), np.nan)
    if not whole.any():
        return variance
    part = take_rows(used, np.flatnonzero(whole))
    if estimates.networks is None:
        variance[whole] = prediction_variance(design, estimates, part, include)
    else:
        variance[whole] = network_variance.prediction_variance(
            design, estimates, estimates.networks, part, include, calibration
        )
    return variance


def _complete(rows: NewRows, include: Sequence[bool]) -> np.ndarray:
    """Rows without a missing value in X, in the random terms that take part, and in the inputs of networks."""
    whole: np.ndarray = np.asarray(np.isfinite(rows.X).all(axis=1))
    for term, on in zip(rows.random, include, strict=True):
        if on:
            whole &= np.isfinite(term.columns).all(axis=1)
    for inputs in rows.nets:
        whole &= np.isfinite(inputs).all(axis=1)
    return whole
