"""Tables in the shape of broom.mixed: ``tidy``, ``glance`` and ``augment``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.fit.ranef import Ranef
from pylmernn.fit.varcorr import LSCALE, VarCorr
from pylmernn.formula.design import DesignError

EFFECTS = ("fixed", "ran_pars", "ran_vals", "ran_coefs")


def fixed_rows(coefficients: pd.DataFrame, limits: pd.DataFrame | None) -> pd.DataFrame:
    """Fixed effects: term, estimate, std.error, statistic, p.value where the table has it, and limits where given."""
    frame = pd.DataFrame(
        {
            "effect": "fixed",
            "group": None,
            "term": coefficients.index,
            "estimate": coefficients.iloc[:, 0].to_numpy(),
            "std.error": coefficients.iloc[:, 1].to_numpy(),
            "statistic": coefficients.iloc[:, 2].to_numpy(),
        }
    )
    if coefficients.shape[1] > 3:
        frame["p.value"] = coefficients.iloc[:, 3].to_numpy()
    return frame if limits is None else frame.assign(**_limit_columns(limits))


def variance_rows(varcor: VarCorr, scale: str, limits: pd.DataFrame | None = None) -> pd.DataFrame:
    """Variance parameters: standard deviations and correlations, or variances and covariances."""
    if scale not in ("sdcor", "vcov"):
        raise DesignError(f"scales is '{scale}': use 'sdcor' or 'vcov'.")
    components = varcor.as_frame(order="lower.tri")
    one, two = ("sd", "cor") if scale == "sdcor" else ("var", "cov")
    terms = [
        f"{one}__Observation" if v1 is None else f"{one}__{v1}" if v2 is None else f"{two}__{v1}.{v2}"
        for v1, v2 in zip(components["var1"], components["var2"], strict=True)
    ]
    is_scale = (components["var1"] == LSCALE).to_numpy()  # a length-scale has no square worth showing, nor limits
    terms = [LSCALE if own else term for own, term in zip(is_scale, terms, strict=True)]
    estimate = components[scale].where(~is_scale, components["sdcor"])
    frame = pd.DataFrame({"effect": "ran_pars", "group": components["grp"], "term": terms, "estimate": estimate})
    if limits is None:
        return frame
    spread = np.full((len(frame), 2), np.nan)
    spread[~is_scale] = limits.to_numpy()
    return frame.assign(**_limit_columns(pd.DataFrame(spread)))


def _limit_columns(limits: pd.DataFrame) -> dict[str, Any]:
    return {"conf.low": limits.iloc[:, 0].to_numpy(), "conf.high": limits.iloc[:, 1].to_numpy()}


def mode_rows(effects: Ranef) -> pd.DataFrame:
    """Conditional modes: group, level, term, estimate, std.error."""
    frame = effects.as_frame()
    out = pd.DataFrame(
        {
            "effect": "ran_vals",
            "group": frame["grpvar"],
            "level": frame["grp"],
            "term": frame["term"],
            "estimate": frame["condval"],
        }
    )
    return out.assign(**{"std.error": frame["condsd"]}) if "condsd" in frame else out


def coefficient_rows(coefficients: Ranef) -> pd.DataFrame:
    """Coefficients by level."""
    return mode_rows(coefficients).assign(effect="ran_coefs")


def check_effects(effects: str | Sequence[str]) -> list[str]:
    """The asked kinds as a list; DesignError for an unknown one."""
    asked = [effects] if isinstance(effects, str) else list(effects)
    for name in asked:
        if name not in EFFECTS:
            raise DesignError(f"tidy does not know the effects '{name}': use {', '.join(EFFECTS)}.")
    return asked


def stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The parts below each other, with the columns in one order; columns nobody fills are left out."""
    numbers = ["estimate", "std.error", "statistic", "p.value", "conf.low", "conf.high"]
    order = ["effect", "group", "level", "term", *numbers]
    rows = [row for part in parts for row in part.to_dict("records")]
    present = [c for c in order if any(c in part.columns for part in parts)]
    frame = pd.DataFrame(rows, columns=present)
    for column in numbers:
        if column in frame:
            frame[column] = frame[column].astype(float)
    for column in ("group", "level"):
        if column in frame:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
            if frame[column].isna().all():
                frame = frame.drop(columns=column)
    return frame
