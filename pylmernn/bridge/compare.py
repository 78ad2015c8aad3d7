"""Our fit beside lme4's, in one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pylmernn.bridge.lme4 import Lme4Fit
from pylmernn.fit.varcorr import VarCorr


def compare(fit: Any, lme4_fit: Lme4Fit) -> pd.DataFrame:
    """Estimates, standard errors, objective and time of a fit and of lme4's fit of the same model.

    Parameters
    ----------
    fit : MixedFit
    lme4_fit : Lme4Fit
        As :func:`pylmernn.bridge.lmer` returns it.

    Returns
    -------
    DataFrame
        One row for each fixed effect, standard deviation and correlation of the random effects, sigma, the objective
        (lower is better) and the seconds of the fit. Columns ``pylmernn``, ``lme4``, ``difference`` (ours less lme4's),
        and ``se_pylmernn``, ``se_lme4``, ``se_difference`` for the fixed effects, NaN elsewhere. The first level of the
        index, ``part``, is "fixed", "sd", "cor", "sigma", "objective" or "seconds".

    Examples
    --------
    >>> import pylmernn
    >>> data = pylmernn.datasets.load("sleepstudy")
    >>> ours = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", data)
    >>> theirs = lmer("Reaction ~ Days + (Days | Subject)", data)  # doctest: +SKIP
    >>> compare(ours, theirs).loc["objective"]["difference"].abs().item() < 1e-4  # doctest: +SKIP
    True
    """
    sides = {
        "pylmernn": _rows(fit, _seconds_and_objective(fit)),
        "lme4": _rows(lme4_fit, _seconds_and_objective(lme4_fit)),
    }
    table = pd.DataFrame({name: rows["value"] for name, rows in sides.items()}).reindex(sides["pylmernn"].index)
    table["difference"] = table["pylmernn"] - table["lme4"]
    for name, rows in sides.items():
        table[f"se_{name}"] = rows["se"]
    table["se_difference"] = table["se_pylmernn"] - table["se_lme4"]
    return table


def _seconds_and_objective(fit: Any) -> tuple[float, float]:
    if isinstance(fit, Lme4Fit):
        return fit.seconds, fit.objective
    return fit.estimates.convergence.seconds, fit.estimates.objective


def _rows(fit: Any, seconds_and_objective: tuple[float, float]) -> pd.DataFrame:
    fixed = fit.fixef()
    errors = np.sqrt(np.diag(fit.vcov().to_numpy()))
    rows: list[tuple[str, str, float, float]] = [
        ("fixed", str(name), value, error) for name, value, error in zip(fixed.index, fixed, errors, strict=True)
    ]
    rows += [(part, name, value, np.nan) for part, name, value in _components(fit.VarCorr())]
    seconds, objective = seconds_and_objective
    rows += [("sigma", "sigma", fit.sigma(), np.nan), ("objective", "objective", objective, np.nan)]
    rows.append(("seconds", "seconds", seconds, np.nan))
    frame = pd.DataFrame(rows, columns=["part", "name", "value", "se"])
    return frame.set_index(["part", "name"])


def _components(components: VarCorr) -> list[tuple[str, str, float]]:
    rows = []
    for term in components.terms:
        for i, name in enumerate(term.columns):
            rows.append(("sd", f"{term.name} {name}", float(term.sd[i])))
        for j, first in enumerate(term.columns):
            for i in range(j + 1, len(term.columns)):
                label = f"{term.name} {first}, {term.columns[i]}"
                rows.append(("cor", label, float(term.correlation[i, j])))
    return rows
