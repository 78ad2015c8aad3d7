"""Covariance of the fixed effects, Wald intervals, sequential F table, likelihood ratio tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from pylmernn.engines.estimates import Estimates
from pylmernn.fit import rtext
from pylmernn.fit.likelihood import LogLik
from pylmernn.formula.design import Design, DesignError, FloatArray


class AnovaTable(pd.DataFrame):
    """A DataFrame that prints as R's anova tables do.

    Attributes
    ----------
    heading : tuple of str
        The lines above the table.
    """

    _metadata: ClassVar[list[str]] = ["heading"]

    heading: tuple[str, ...]

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __str__(self) -> str:
        return "\n".join([*self.heading, anova_text(self)])

    __repr__ = __str__


class LimitsTable(pd.DataFrame):
    """A DataFrame of limits that prints what they take as known below it.

    Attributes
    ----------
    note : tuple of str
        The lines below the table.
    """

    _metadata: ClassVar[list[str]] = ["note"]

    note: tuple[str, ...]

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __str__(self) -> str:
        return "\n".join([self.to_string(), *self.note])

    __repr__ = __str__


def limits_table(frame: pd.DataFrame, note: Sequence[str]) -> pd.DataFrame:
    """The table with a note below it; as it is where there is no note."""
    if not note:
        return frame
    table = LimitsTable(frame)
    table.note = tuple(note)
    return table


def anova_table(frame: pd.DataFrame, heading: Sequence[str]) -> AnovaTable:
    """Give a table its heading."""
    table = AnovaTable(frame)
    table.heading = tuple(heading)
    return table


def anova_text(table: pd.DataFrame, digits: int = 5) -> str:
    """The cells of an anova table as R prints them."""
    names = [str(c) for c in table.columns]
    p_values = names[-1].startswith("Pr(")
    body = names[:-1] if p_values else names
    tests = [j for j, c in enumerate(body) if c[1:7] == " value" or c in ("F", "Cp", "Chisq")]
    zap = [j for j, c in enumerate(body) if j not in tests and not c.endswith("Df")]
    cells = rtext.coefficient_cells(
        table.to_numpy(dtype=float), digits, estimates=0, tests=tests, p_values=p_values, zap=zap, na=""
    )
    legend = ""
    if p_values:
        p = table.iloc[:, -1].to_numpy(dtype=float)
        if (p[np.isfinite(p)] < 0.1).any():
            stars = rtext.significance_stars(p)
            width = max(map(len, stars))
            cells = [[*row, star.ljust(width)] for row, star in zip(cells, stars, strict=True)]
            names, legend = [*names, ""], "\n" + rtext.STARS_LEGEND
    return rtext.matrix([str(i) for i in table.index], names, cells, right=True) + legend


def vcov(design: Design, estimates: Estimates) -> pd.DataFrame:
    """Covariance of the fixed effects at the estimated theta."""
    names = list(design.fixed_names)
    return pd.DataFrame(estimates.sigma**2 * estimates.unscaled_vcov, index=names, columns=names)


def percent_labels(level: float) -> list[str]:
    """R's column names of an interval, "2.5 %" and "97.5 %"."""
    a = (1 - level) / 2
    return [f"{rtext.format_numbers([100 * p], 3)[0].strip()} %" for p in (a, 1 - a)]


def wald_limits(beta: FloatArray, se: FloatArray, level: float) -> FloatArray:
    """Normal limits, shape (p, 2)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return np.column_stack([beta - z * se, beta + z * se])


def sequential_table(design: Design, estimates: Estimates, assign: Sequence[str]) -> AnovaTable:
    """Sums of squares and F ratios of the terms in order, without denominator degrees of freedom.

    Parameters
    ----------
    design, estimates : the fit
    assign : p labels
        The term that each column of X belongs to; "(Intercept)" is left out of the table.
    """
    RX = np.linalg.cholesky(np.linalg.inv(estimates.unscaled_vcov)).T if design.p else np.empty((0, 0))
    squares = (RX @ estimates.beta) ** 2
    terms = [t for t in dict.fromkeys(assign) if t != "(Intercept)"]
    rows = []
    for term in terms:
        member = np.array([a == term for a in assign])
        npar, ss = int(member.sum()), float(squares[member].sum())
        rows.append((npar, ss, ss / npar, ss / npar / estimates.sigma**2))
    frame = pd.DataFrame(rows, index=terms, columns=["npar", "Sum Sq", "Mean Sq", "F value"])
    return anova_table(frame, ["Analysis of Variance Table"])


def likelihood_ratio_table(
    names: Sequence[str], logliks: Sequence[LogLik], formulas: Sequence[str], data_name: str | None
) -> AnovaTable:
    """Models by increasing number of parameters, each tested against the one before it."""
    order = sorted(range(len(names)), key=lambda i: logliks[i].df)
    rows, before = [], None
    for i in order:
        ll = logliks[i]
        chisq = df = p = math.nan
        if before is not None:
            chisq, df = 2 * max(0.0, float(ll) - float(before)), float(ll.df - before.df)
            p = float(chdtrc(df, chisq)) if df > 0 else math.nan
        rows.append((ll.df, ll.aic, ll.bic, float(ll), -2 * float(ll), chisq, df, p))
        before = ll
    columns = ["npar", "AIC", "BIC", "logLik", "deviance", "Chisq", "Df", "Pr(>Chisq)"]
    frame = pd.DataFrame(rows, index=[names[i] for i in order], columns=columns)
    heading = ([f"Data: {data_name}"] if data_name else []) + ["Models:"]
    heading += [f"{names[i]}: {formulas[i]}" for i in order]
    return anova_table(frame, heading)


def single_deletions(full: LogLik, reduced: dict[str, LogLik], formula: str, test: str | None, k: float) -> AnovaTable:
    """The table of ``drop1`` from the log-likelihoods (ML) of the full and the reduced models."""
    rows = [(math.nan, -2 * float(full) + k * full.df, math.nan, math.nan)]
    for ll in reduced.values():
        df, lrt = full.df - ll.df, 2 * (float(full) - float(ll))
        p = float(chdtrc(df, max(lrt, 0.0))) if df > 0 else math.nan
        rows.append((df, -2 * float(ll) + k * ll.df, lrt, p))
    frame = pd.DataFrame(rows, index=["<none>", *reduced], columns=["npar", "AIC", "LRT", "Pr(Chi)"])
    if test is None:
        frame = frame[["npar", "AIC"]]
    elif test != "Chisq":
        raise DesignError(f"test is '{test}': use None or 'Chisq'.")
    return anova_table(frame, ["Single term deletions", "", "Model:", formula])


def random_effects_pca(templates: Sequence[tuple[str, FloatArray]]) -> dict[str, pd.DataFrame]:
    """Principal components of the relative covariance factors of each grouping factor.

    Parameters
    ----------
    templates : (group, Lambda (d, d)) of each term

    Returns
    -------
    dict of DataFrame
        For each group the standard deviations (relative to sigma), and the share of variance of each component.
    """
    blocks: dict[str, list[FloatArray]] = {}
    for group, L in templates:
        blocks.setdefault(group, []).append(L)
    out = {}
    for group, parts in blocks.items():
        sdev = np.sort(np.concatenate([np.linalg.svd(L, compute_uv=False) for L in parts]))[::-1]
        total = float((sdev**2).sum())
        share = sdev**2 / total if total > 0 else np.full(len(sdev), np.nan)
        out[group] = pd.DataFrame(
            [sdev, share, np.cumsum(share)],
            index=["Standard deviation", "Proportion of Variance", "Cumulative Proportion"],
            columns=[f"PC{i + 1}" for i in range(len(sdev))],
        )
    return out
