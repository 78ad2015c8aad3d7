"""Tables of a multinomial fit in the shape of broom.mixed, with a column for the class."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from pylmernn.fit.multinomial_ranef import ClassRanef
from pylmernn.fit.multinomial_varcorr import ClassCovariance, ClassVarCorr
from pylmernn.fit.tidy import EFFECTS, check_effects
from pylmernn.formula.design import DesignError

TEXTS = ["effect", "group", "level", "class", "term"]
NUMBERS = ["estimate", "std.error", "statistic", "p.value", "conf.low", "conf.high"]


def tidy(
    effects: str | Sequence[str],
    scales: str,
    coefficients: pd.DataFrame,
    varcor: ClassVarCorr,
    ranef: ClassRanef,
    coef: ClassRanef,
    level: float | None = None,
) -> pd.DataFrame:
    """Estimates as rows.

    Parameters
    ----------
    effects : str or sequence of str
        Kinds of rows, of :data:`pylmernn.fit.tidy.EFFECTS`.
    scales : {"sdcor", "vcov"}
    coefficients : DataFrame
        The fixed effects as the summary has them.
    varcor : ClassVarCorr
    ranef : ClassRanef
        With variances.
    coef : ClassRanef
    level : float, optional
        Of confidence limits; without it there are none.
    """
    asked = check_effects(effects)
    if scales not in ("sdcor", "vcov"):
        raise DesignError(f"scales is '{scales}': use 'sdcor' or 'vcov'.")
    if level is not None and not 0 < level < 1:
        raise DesignError(f"conf_level is {level}: use a number between 0 and 1.")
    made = {
        "fixed": lambda: fixed_rows(coefficients, level),
        "ran_pars": lambda: variance_rows(varcor, scales, level),
        "ran_vals": lambda: effect_rows(ranef, "ran_vals"),
        "ran_coefs": lambda: effect_rows(coef, "ran_coefs"),
    }
    table = pd.concat([made[effect]() for effect in EFFECTS if effect in asked], ignore_index=True)
    present = [name for name in (*TEXTS, *NUMBERS) if name in table]
    texts = {name: table[name].astype(object).where(table[name].notna(), None) for name in TEXTS if name in table}
    return table[present].assign(**texts)


def fixed_rows(coefficients: pd.DataFrame, level: float | None) -> pd.DataFrame:
    """Fixed effects, from a table with rows (class, column)."""
    frame = pd.DataFrame(
        {
            "effect": "fixed",
            "class": coefficients.index.get_level_values("class"),
            "term": coefficients.index.get_level_values("column"),
            "estimate": coefficients["Estimate"].to_numpy(),
            "std.error": coefficients["Std. Error"].to_numpy(),
            "statistic": coefficients["z value"].to_numpy(),
            "p.value": coefficients["Pr(>|z|)"].to_numpy(),
        }
    )
    if level is None:
        return frame
    half = NormalDist().inv_cdf(0.5 + level / 2) * frame["std.error"]
    return frame.assign(**{"conf.low": frame["estimate"] - half, "conf.high": frame["estimate"] + half})


def variance_rows(varcor: ClassVarCorr, scales: str, level: float | None) -> pd.DataFrame:
    """Variance parameters by term and class, variances before correlations; those have no limits."""
    rows = []
    for term in varcor.terms:
        low, high = term.limits(0.95 if level is None else level)
        for c, name in enumerate(term.classes):
            for j, column in enumerate(term.columns):
                values = np.array([term.variances[c, j], low[c, j], high[c, j]])
                values = np.sqrt(values) if scales == "sdcor" else values
                label = f"{'sd' if scales == 'sdcor' else 'var'}__{column}"
                rows.append(("ran_pars", term.name, name, label, *values))
            rows += [("ran_pars", term.name, name, *pair, np.nan, np.nan) for pair in _pairs(term, c, scales)]
    names = ["effect", "group", "class", "term", "estimate", "conf.low", "conf.high"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.drop(columns=["conf.low", "conf.high"]) if level is None else frame


def _pairs(term: ClassCovariance, c: int, scales: str) -> list[tuple[str, float]]:
    """Correlations or covariances of one class."""
    if not term.correlated:
        return []
    values, kind = (term.correlation[c], "cor") if scales == "sdcor" else (term.vcov[c], "cov")
    d = len(term.columns)
    return [
        (f"{kind}__{term.columns[j]}.{term.columns[i]}", float(values[i, j])) for j in range(d) for i in range(j + 1, d)
    ]


def effect_rows(effects: ClassRanef, kind: str) -> pd.DataFrame:
    """Random effects or coefficients by level."""
    frame = effects.as_frame().rename(
        columns={"grpvar": "group", "grp": "level", "condval": "estimate", "condsd": "std.error"}
    )
    return frame.assign(effect=kind)
