"""Linear predictors and predictions, of the rows of a fit and of new rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.covariance import theta_sizes
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.fields import field_between, fields_of
from pylmernn.formula.design import Design, DesignError, FloatArray, IntArray, NewRows, NewTerm, RandomTerm
from pylmernn.mean.embedding import Embedding

#: For each random term, which of its columns take part.
Selection = Sequence[np.ndarray]


def fixed_part(design: Design, estimates: Estimates) -> FloatArray:
    """``offset + X beta`` of the rows of a fit, shape (n,)."""
    eta = design.X @ estimates.beta
    return eta if design.offset is None else eta + design.offset


def term_part(codes: IntArray, columns: FloatArray, b: FloatArray) -> FloatArray:
    """``Z b`` of one random term: rows with code -1 get 0.

    Parameters
    ----------
    codes : array, shape (m,)
    columns : array, shape (m, d)
    b : array, shape (q, d)
    """
    if columns.shape[1] == 1:
        values = b[codes, 0] * columns[:, 0]
    else:
        values = np.einsum("ij,ij->i", b[codes], columns)
    if (codes < 0).any():
        values[codes < 0] = np.where(np.isnan(columns[codes < 0]).any(axis=1), np.nan, 0.0)
    return values


def field_part(term: RandomTerm, new: NewTerm, theta: FloatArray, scores: FloatArray, b: FloatArray) -> FloatArray:
    """Values of a Gaussian process at new rows, (m,): conditional modes where the fit was, kriged from them elsewhere.

    Parameters
    ----------
    term : RandomTerm
    new : NewTerm
        With locations.
    theta : array, shape (2,)
        Relative standard deviation and length-scale.
    scores : array, shape (q, 1)
        ``Z' V^-1 (y - X beta)``, which a fit keeps as ``u`` of the term.
    b : array, shape (q, 1)
    """
    assert new.locations is not None
    values = term_part(new.codes, new.columns, b)
    elsewhere = np.flatnonzero((new.codes < 0) & np.isfinite(new.locations).all(axis=1))
    if len(elsewhere):
        field = fields_of([term])[0]
        values[elsewhere] = field_between(field, theta[0], theta[1], new.locations[elsewhere], scores)[:, 0]
    values[~np.isfinite(new.locations).all(axis=1)] = np.nan
    return values


def random_part(design: Design, estimates: Estimates, selection: Selection | None = None) -> FloatArray:
    """``Z b`` of the rows of a fit over the selected columns, shape (n,)."""
    total = np.zeros(design.n)
    for k, term in enumerate(design.random):
        b = estimates.b[k] if selection is None else estimates.b[k] * selection[k]
        if selection is None or selection[k].any():
            total += term_part(term.codes, term.columns, b)
    return total


def rows_of_fit(design: Design) -> NewRows:
    """The rows of the fit itself, in the shape of new rows."""
    return NewRows(
        X=design.X,
        offset=np.zeros(design.n) if design.offset is None else design.offset,
        random=tuple(NewTerm(term.codes, term.columns) for term in design.random),
        nets=tuple(net.inputs for net in design.nets),
    )


def select(rows: NewRows, selection: Selection) -> NewRows:
    """The same rows with the columns that take no part set to zero."""
    random = tuple(
        term if keep.all() else dataclasses.replace(term, columns=np.where(keep, term.columns, 0.0))
        for term, keep in zip(rows.random, selection, strict=True)
    )
    return dataclasses.replace(rows, random=random)


def check_levels(
    design: Design, rows: NewRows, selection: Selection, answer: str = "give them the effect zero"
) -> None:
    """Raise DesignError where a random term that takes part has levels which the fit has not seen."""
    for term, new, keep in zip(design.random, rows.random, selection, strict=True):
        if keep.any() and new.locations is None and (new.codes < 0).any():
            names = ", ".join(f"'{name}'" for name in new.unseen[:5]) or "missing values"
            more = ", ..." if len(new.unseen) > 5 else ""
            raise DesignError(
                f"new levels in the grouping factor '{term.group}': {names}{more}; set allow_new_levels=True to "
                f"{answer}, or leave the term out with re_form."
            )


def _embedding(estimates: Estimates, k: int) -> Embedding | None:
    """The learned function of coordinates of random term k, where it has one."""
    found = () if estimates.networks is None else estimates.networks.embeddings
    return found[k] if found else None


def mean(
    design: Design, estimates: Estimates, rows: NewRows, selection: Selection, random_only: bool = False
) -> FloatArray:
    """``offset + X beta + Z b`` of new rows over the selected columns, shape (m,)."""
    total = np.zeros(len(rows.X))
    thetas = np.split(estimates.theta, np.cumsum(theta_sizes(design.random))[:-1])
    for k, (new, keep) in enumerate(zip(rows.random, selection, strict=True)):
        embedding = _embedding(estimates, k)
        if keep.any() and new.locations is not None and embedding is not None:
            total += embedding.values(new.locations)
        elif keep.any() and new.locations is not None:
            total += field_part(design.random[k], new, thetas[k], estimates.u[k], estimates.b[k])
        elif keep.any():
            total += term_part(new.codes, new.columns, estimates.b[k] * keep)
    return total if random_only else rows.X @ estimates.beta + rows.offset + total


def interval_frame(
    fit: FloatArray,
    variance: FloatArray,
    noise: FloatArray | float,
    interval: str | None,
    level: float,
    index: pd.Index,
) -> pd.DataFrame:
    """Predictions with standard errors and normal limits.

    Parameters
    ----------
    fit : array, shape (m,)
    variance : array, shape (m,)
        Of the estimated mean.
    noise : array or float
        Residual variance of a new observation.
    interval : {None, "confidence", "prediction"}
    level : float
        Coverage.
    index : row labels

    Returns
    -------
    DataFrame
        Columns fit, se, and lwr, upr where an interval is asked for.
    """
    if interval not in (None, "confidence", "prediction"):
        raise DesignError(f"interval is '{interval}': use None, 'confidence' or 'prediction'.")
    if not 0 < level < 1:
        raise DesignError(f"level is {level}: use a number between 0 and 1.")
    se = np.sqrt(np.maximum(variance, 0.0))
    frame = pd.DataFrame({"fit": fit, "se": se}, index=index)
    if interval is not None:
        z = NormalDist().inv_cdf(0.5 + level / 2)
        half = z * (se if interval == "confidence" else np.sqrt(np.maximum(variance, 0.0) + noise))
        frame["lwr"], frame["upr"] = fit - half, fit + half
    return frame


def take_rows(rows: NewRows, at: NDArray[np.intp]) -> NewRows:
    """Some of the rows."""
    random = tuple(
        NewTerm(t.codes[at], t.columns[at], t.unseen, None if t.locations is None else t.locations[at])
        for t in rows.random
    )
    names = None if rows.row_names is None else rows.row_names[at]
    return NewRows(rows.X[at], rows.offset[at], random, names, tuple(inputs[at] for inputs in rows.nets))
