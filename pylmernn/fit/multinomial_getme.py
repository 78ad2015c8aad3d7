"""The parts of a multinomial fit by lme4's names, ``getME``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.covariance import structure
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit.getme import PARTS
from pylmernn.formula.design import Design, DesignError, FloatArray

#: parts that are read off the design alone
OF_DESIGN = (
    "X", "Z", "Zt", "Ztlist", "mmList", "y", "Gp", "flist", "n_rtrms", "n_rfacs", "N", "n", "p", "q", "p_i", "l_i",
    "q_i", "k", "cnms", "offset", "weights",
)  # fmt: skip


def lower_factor(covariance: FloatArray) -> FloatArray:
    """The lower triangular L with ``L L' = covariance`` and a diagonal of at least zero, also where it is singular.

    Examples
    --------
    >>> lower_factor(np.array([[4.0, 2.0], [2.0, 2.0]])).round(9).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    values, vectors = np.linalg.eigh(covariance)
    R = np.asarray(np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T, mode="r"))
    return np.asarray((R * np.where(np.diagonal(R) < 0, -1.0, 1.0)[:, None]).T) + 0.0  # no negative zeros


def _theta(design: Design, estimates: MultinomialEstimates) -> pd.Series:
    values: dict[str, float] = {}
    for term, covariances in zip(design.random, estimates.covariances, strict=True):
        names = structure(term.covariance).theta_names(term.group, term.column_names)
        diagonal = term.covariance == "diag"
        at = (np.arange(term.width),) * 2 if diagonal else np.triu_indices(term.width)  # columns of the lower triangle
        for name, covariance in zip(estimates.classes, covariances, strict=True):
            theta = lower_factor(covariance).T[at]
            values |= {f"{label}.{name}": float(v) for label, v in zip(names, theta, strict=True)}
    return pd.Series(values)


def _stacked(design: Design, estimates: MultinomialEstimates) -> FloatArray:
    return np.concatenate([b.reshape(-1, len(estimates.classes)) for b in estimates.b])


def _beta(design: Design, estimates: MultinomialEstimates) -> pd.DataFrame:
    return pd.DataFrame(estimates.beta, index=list(design.fixed_names), columns=list(estimates.classes))


OF_ESTIMATES: dict[str, Callable[[Design, MultinomialEstimates], Any]] = {
    "theta": _theta,
    "par": _theta,
    "b": _stacked,
    "beta": _beta,
    "fixef": _beta,
    "eta": lambda design, estimates: estimates.eta,
    "sigma": lambda design, estimates: 1.0,
}


def get_part(design: Design, estimates: MultinomialEstimates, name: str) -> Any:
    """One part of a fit.

    Parameters
    ----------
    name : str
        A name of lme4's ``getME``, or "ALL" for a dict of all.

    Raises
    ------
    DesignError
        Listing the known names.
    """
    if name == "ALL":
        return {part: get_part(design, estimates, part) for part in (*OF_DESIGN, *OF_ESTIMATES)}
    if name in OF_ESTIMATES:
        return OF_ESTIMATES[name](design, estimates)
    if name in OF_DESIGN:
        unused: Any = estimates
        return PARTS[name](design, unused)
    known = ", ".join((*OF_DESIGN, *OF_ESTIMATES))
    raise DesignError(f"getME of a multinomial model does not know '{name}': use one of {known} or ALL.")
