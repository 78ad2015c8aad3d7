"""The same model on another response, by ML, or with other arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.methods import METHODS, NETWORK_METHODS
from pylmernn.formula.design import Design, DesignError, FloatArray


def estimate(
    design: Design, method: str, REML: bool, control: Control | None = None, start: FloatArray | None = None
) -> Estimates:
    """Estimate a design by a method of the registry; fitted networks are kept, they stand in its offset."""
    method = "profiled" if method in NETWORK_METHODS else method
    return METHODS[method](design, REML=REML, control=control, start=start)


def response_values(newresp: Any, n: int, all_rows: int, omitted: np.ndarray) -> FloatArray:
    """A new response as an array of the rows in use.

    Parameters
    ----------
    newresp : array, Series, or DataFrame with one column
        One value for each row in use, or for each row of the data before missing values were dropped.
    n : int
        Rows in use.
    all_rows : int
        Rows of the data.
    omitted : array of int
        Which of them are not in use.
    """
    if isinstance(newresp, pd.DataFrame):
        if newresp.shape[1] != 1:
            raise DesignError(f"newresp has {newresp.shape[1]} columns: refit takes one response at a time.")
        newresp = newresp.iloc[:, 0]
    y = np.asarray(newresp, dtype=np.float64)
    if y.ndim != 1 or len(y) not in (n, all_rows):
        raise DesignError(f"newresp has {len(y) if y.ndim else 0} values but the model has {n} rows.")
    return np.delete(y, omitted) if len(y) == all_rows and all_rows != n else y


def without_column(design: Design, j: int, value: float) -> Design:
    """The design with the coefficient of column j fixed at a value: the column moves into the offset."""
    offset = value * design.X[:, j] + (0.0 if design.offset is None else design.offset)
    keep = [i for i in range(design.p) if i != j]
    names = tuple(design.fixed_names[i] for i in keep)
    return dataclasses.replace(design, X=np.ascontiguousarray(design.X[:, keep]), fixed_names=names, offset=offset)
