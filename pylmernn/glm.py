"""``glmernn``: generalized linear mixed models, as lme4's ``glmer``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from pylmernn.api import report_design
from pylmernn.engines import pirls
from pylmernn.engines.control import Control
from pylmernn.families import Family, FamilyError, read_family
from pylmernn.fit.generalized import GeneralizedFit
from pylmernn.fit.state import fit_messages
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError

#: Linear predictors beyond this hold probabilities or means that no data can tell from 0, 1 or infinity.
SEPARATED = 15.0


def glmernn(
    formula: str,
    data: Any,
    family: str | Family = "binomial",
    nAGQ: int = 1,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    control: Control | None = None,
) -> GeneralizedFit:
    """Fit a generalized linear mixed model by maximum likelihood.

    Parameters
    ----------
    formula : str
        lme4's grammar. A binomial response is 0/1, logical, a factor (its first level is failure),
        ``cbind(successes, failures)``, or a proportion with the numbers of trials as weights.
    data : DataFrame
        pandas, polars, a dict of arrays, or anything narwhals reads. Never changed.
    family : str, default "binomial"
        "binomial" (links logit, probit, cloglog, cauchit), "poisson" (log), "Gamma" (inverse, log, identity),
        "inverse.gaussian" (1/mu^2, log, inverse), "negative.binomial" (log), "beta" (logit, probit, cloglog); a link
        other than the first is written "binomial(probit)". Dispersions are estimated with the other parameters: Var(y)
        is ``phi mu^2 / weight`` for Gamma, ``phi mu^3 / weight`` for inverse Gaussian, ``mu + mu^2 / phi`` for negative
        binomial, ``mu (1 - mu) / (1 + phi)`` for beta.
    nAGQ : int, default 1
        1 is Laplace's approximation; more is adaptive Gauss-Hermite quadrature, for one grouping factor with one or
        several columns; 0 is Laplace's approximation with beta found together with the modes, faster and rougher. The
        log-likelihood has all its constants for every value and can be compared; lme4's cannot.
    weights : str or array, optional
        Prior weights; for proportions the numbers of trials.
    offset : str or array, optional
        Known part of the linear predictor.
    subset, na_action, contrasts
        As in :func:`pylmernn.lmernn`.
    control : Control, optional
        Tolerances of the search.

    Returns
    -------
    GeneralizedFit

    Raises
    ------
    DesignError
        For input that makes no mixed model, a response outside the family, or quadrature over several factors.

    Warns
    -----
    UserWarning
        For a singular fit, failed convergence, separation, dropped columns of a rank deficient X, or predictors on
        very different scales.

    Notes
    -----
    The curvature in Laplace's approximation is the expected information for binomial and Poisson models, as in lme4,
    and the observed information for families with a dispersion, as in glmmTMB. They agree for canonical links.

    Examples
    --------
    >>> import pandas as pd
    >>> import pylmernn
    >>> data = pd.DataFrame({"k": [2, 3, 4, 0, 3, 1, 3, 3, 2, 0], "n": [14, 12, 9, 5, 22, 18, 21, 22, 16, 16]})
    >>> data["x"], data["herd"] = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2], list("aaaabbbccc")
    >>> fit = pylmernn.glmernn("cbind(k, n - k) ~ x + (1 | herd)", data)
    >>> round(float(fit.logLik()), 3)
    -17.164
    """
    try:
        chosen = read_family(family)
    except FamilyError as error:
        raise DesignError(str(error)) from None
    if isinstance(nAGQ, bool) or nAGQ != int(nAGQ) or nAGQ < 0:
        raise DesignError(f"nAGQ is {nAGQ}: use a whole number, 0 or more.")
    if control is not None and not isinstance(control, Control):
        raise DesignError(f"control is a {type(control).__name__}: use pylmernn.engines.control.Control(...).")
    design, frame = build(
        formula,
        data,
        weights=weights,
        offset=offset,
        subset=subset,
        na_action=na_action,
        contrasts=contrasts,
        family=chosen.name,
    )
    check_design(design, chosen)
    report_design(design)
    try:
        estimates = pirls.fit(design, chosen, int(nAGQ), control)
    except np.linalg.LinAlgError as error:
        raise DesignError(
            f"the model cannot be fitted: {error}; look at the response, the link and the scales."
        ) from None
    call = {
        "formula": formula, "data": data, "family": str(chosen), "nAGQ": nAGQ, "weights": weights, "offset": offset,
        "subset": subset, "na_action": na_action, "contrasts": contrasts, "control": control,
    }  # fmt: skip
    for message in (*fit_messages(estimates), *separation(design, estimates)):
        warnings.warn(message, UserWarning, stacklevel=2)
    return GeneralizedFit(design, estimates, frame, call)


def check_design(design: Design, family: Family) -> None:
    """Raise DesignError where the terms or the response are not for this family."""
    if design.nets:
        raise DesignError(f"{design.nets[0].label}: glmernn fits no networks yet; use lmernn, or take the term out.")
    for term in design.random:
        if term.covariance not in ("us", "diag"):
            raise DesignError(f"{term.label}: glmernn fits bars such as (x | group) only; use lmernn for {term.label}.")
    weights = np.ones(design.n) if design.weights is None else design.weights
    try:
        family.check(design.y, weights, design.response)
    except FamilyError as error:
        raise DesignError(str(error)) from None


def separation(design: Design, estimates: pirls.GeneralizedEstimates) -> list[str]:
    """A warning where a binomial coefficient has run off: its column separates the successes from the failures."""
    if estimates.family is None or estimates.family.name != "binomial":
        return []
    spread = np.array([float(column.max() - column.min()) or 1.0 for column in design.X.T])
    far = np.abs(estimates.beta) * spread > SEPARATED
    errors = np.sqrt(np.diagonal(estimates.unscaled_vcov)) * spread
    names = [name for name, off in zip(design.fixed_names, far & (errors > SEPARATED), strict=True) if off]
    if not names:
        return []
    return [f"separation: {', '.join(names)} tells successes from failures without error, so its estimate has no limit"]
