"""Variances and correlations of the random effects, ``VarCorr``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pylmernn.covariance import split_theta, theta_sizes
from pylmernn.engines.estimates import Estimates
from pylmernn.fit import rtext
from pylmernn.formula.design import Design, FloatArray

LSCALE = "lscale"  #: name of the row of a length-scale, as brms calls it


@dataclass(frozen=True)
class TermCovariance:
    """Covariance of one random term.

    Attributes
    ----------
    name : str
        The grouping factor, with ".1", ".2" added where it has several terms.
    columns : tuple of str, length d
    vcov : ndarray, shape (d, d)
    correlated : bool
        Whether the covariances are parameters (not so for ``diag``).
    lscale : float or None
        The length-scale of a Gaussian process, in units of its coordinates.
    """

    name: str
    columns: tuple[str, ...]
    vcov: FloatArray
    correlated: bool = True
    lscale: float | None = None

    @property
    def sd(self) -> FloatArray:
        """Standard deviations, shape (d,)."""
        return np.sqrt(np.diagonal(self.vcov))

    @property
    def correlation(self) -> FloatArray:
        """Correlations, shape (d, d); NaN where a standard deviation is zero."""
        sd = self.sd
        with np.errstate(invalid="ignore", divide="ignore"):
            corr = self.vcov / np.outer(sd, sd)
        np.fill_diagonal(corr, 1.0)
        return corr


class VarCorr(Mapping[str, pd.DataFrame]):
    """Variance components: a mapping from term name to covariance matrix, which prints as lme4's.

    Attributes
    ----------
    terms : tuple of TermCovariance
    sigma : float
        Residual standard deviation.
    residual : bool
        Whether the residual is shown as a component; not so for families without a scale.
    """

    def __init__(self, terms: Sequence[TermCovariance], sigma: float, residual: bool = True) -> None:
        self.terms = tuple(terms)
        self.sigma, self.residual = sigma, residual

    def __getitem__(self, name: str) -> pd.DataFrame:
        term = self._term(name)
        return pd.DataFrame(term.vcov, index=list(term.columns), columns=list(term.columns))

    def __iter__(self) -> Iterator[str]:
        return (term.name for term in self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def _term(self, name: str) -> TermCovariance:
        for term in self.terms:
            if term.name == name:
                return term
        raise KeyError(f"no random term '{name}'; the terms are {[t.name for t in self.terms]}")

    def stddev(self, name: str) -> pd.Series:
        """Standard deviations of a term."""
        term = self._term(name)
        return pd.Series(term.sd, index=list(term.columns))

    def correlation(self, name: str) -> pd.DataFrame:
        """Correlation matrix of a term."""
        term = self._term(name)
        return pd.DataFrame(term.correlation, index=list(term.columns), columns=list(term.columns))

    def as_frame(self, order: str = "cov.last") -> pd.DataFrame:
        """The components as rows, as R's ``as.data.frame(VarCorr(fit))``.

        Parameters
        ----------
        order : {"cov.last", "lower.tri"}
            Variances of a term before its covariances, or the lower triangle column by column.

        Returns
        -------
        DataFrame
            Columns grp, var1, var2, vcov, sdcor; the residual last. The length-scale of a Gaussian process has a row
            of its own, var1 "lscale", with its value in sdcor.
        """
        if order not in ("cov.last", "lower.tri"):
            raise ValueError(f"order is '{order}': use 'cov.last' or 'lower.tri'.")
        rows: list[tuple[str, str | None, str | None, float, float]] = []
        for term in self.terms:
            rows += _component_rows(term, order)
        if self.residual:
            rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        frame = pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])
        return (
            frame.astype({"var1": object, "var2": object})
            .where(frame.notna(), None)
            .astype({"vcov": float, "sdcor": float})
        )

    def table(self, digits: int = 5, comp: Sequence[str] = ("Std.Dev.",)) -> str:
        """The text lme4 prints.

        Parameters
        ----------
        digits : int
        comp : sequence of {"Variance", "Std.Dev."}
            Which columns to show.
        """
        unknown = [c for c in comp if c not in ("Variance", "Std.Dev.")]
        if unknown or not comp:
            raise ValueError(f"comp is {list(comp)}: use 'Variance', 'Std.Dev.' or both.")
        sds = np.concatenate([_shown(term) for term in self.terms] + ([[self.sigma]] if self.residual else []))
        columns = ["Groups", "Name"] + [c for c in ("Variance", "Std.Dev.") if c in comp]
        cells = [[group, name] for term in self.terms for group, name in _labels(term)]
        cells += [["Residual", ""]] if self.residual else []
        for c, values in (("Variance", sds**2), ("Std.Dev.", sds)):
            if c in comp:
                for row, text in zip(cells, rtext.format_numbers(values, digits, na="NaN"), strict=True):
                    is_scale = row[1] == LSCALE and c == "Variance"
                    row.append("" if is_scale else text)
        widest = max((len(t.columns) for t in self.terms), default=0)
        if widest > 1:
            columns += ["Corr"] + [""] * (widest - 2)
            lines = [line for term in self.terms for line in _correlation_cells(term, widest, digits)]
            for row, line in zip(cells, [*lines, *([[""] * (widest - 1)] if self.residual else [])], strict=True):
                row += line
        return rtext.matrix([""] * len(cells), columns, cells)

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__


def _labels(term: TermCovariance) -> list[tuple[str, str]]:
    names = [*term.columns, *([] if term.lscale is None else [LSCALE])]
    return [(term.name if i == 0 else "", name) for i, name in enumerate(names)]


def _shown(term: TermCovariance) -> FloatArray:
    """Standard deviations, and the length-scale where there is one."""
    return term.sd if term.lscale is None else np.append(term.sd, term.lscale)


def _correlation_cells(term: TermCovariance, widest: int, digits: int) -> list[list[str]]:
    """Lower triangle of the correlations as text, padded to widest - 1 columns."""
    d, shown = len(term.columns), max(2, digits - 2)
    texts = rtext.format_numbers(rtext.r_round(term.correlation, shown), 7, nsmall=shown, na="NaN")
    grid = np.reshape(np.array(texts, dtype=object), (d, d))
    keep = np.tril(np.ones((d, d), dtype=bool), -1) & term.correlated
    grid[~keep] = ""
    rows = [list(row[: widest - 1]) + [""] * (widest - 1 - len(row[: widest - 1])) for row in grid]
    return rows if term.lscale is None else [*rows, [""] * (widest - 1)]


def _component_rows(term: TermCovariance, order: str) -> list[tuple[str, str | None, str | None, float, float]]:
    d, names, sd, corr = len(term.columns), term.columns, term.sd, term.correlation
    lower = [(i, j) for j in range(d) for i in range(j + 1, d)] if term.correlated else []

    def variance(i: int) -> tuple[str, str | None, str | None, float, float]:
        return (term.name, names[i], None, float(term.vcov[i, i]), float(sd[i]))

    def covariance(i: int, j: int) -> tuple[str, str | None, str | None, float, float]:
        return (term.name, names[j], names[i], float(term.vcov[i, j]), float(corr[i, j]))

    scale = [] if term.lscale is None else [(term.name, LSCALE, None, np.nan, term.lscale)]
    if order == "cov.last":
        return [variance(i) for i in range(d)] + [covariance(i, j) for i, j in lower] + scale
    rows = []
    for j in range(d):
        rows += [variance(j)] + [covariance(i, k) for i, k in lower if k == j]
    return rows + scale


def unique_names(groups: Sequence[str]) -> list[str]:
    """Group labels, with ".1", ".2" added to those that came before (R's ``make.unique``)."""
    names: list[str] = []
    taken = set(groups)
    count: dict[str, int] = {}
    for group in groups:
        if group not in names:
            names.append(group)
            continue
        number = count.get(group, 0) + 1
        while f"{group}.{number}" in taken:
            number += 1
        count[group] = number
        taken.add(f"{group}.{number}")
        names.append(f"{group}.{number}")
    return names


def var_corr(design: Design, estimates: Estimates) -> VarCorr:
    """Variance components of a fit: ``sigma^2 Lambda Lambda'`` of each term."""
    names = unique_names([term.group for term in design.random])
    templates = split_theta(design.random, estimates.theta)
    thetas = np.split(estimates.theta, np.cumsum(theta_sizes(design.random))[:-1])
    return VarCorr(
        [
            TermCovariance(
                name,
                term.column_names,
                estimates.sigma**2 * (L @ L.T),
                term.covariance == "us",
                float(theta[1]) if term.covariance == "gp" else None,
            )
            for name, term, L, theta in zip(names, design.random, templates, thetas, strict=True)
        ],
        estimates.sigma,
    )
