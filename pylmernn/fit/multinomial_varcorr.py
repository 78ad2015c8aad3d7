"""Variance components of each class, ``VarCorr`` of a multinomial model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit import rtext
from pylmernn.fit.varcorr import unique_names
from pylmernn.formula.design import Design, DesignError, FloatArray

LEVEL = 0.95  #: of the limits that are printed


@dataclass(frozen=True)
class ClassCovariance:
    """Covariances of one random term.

    Attributes
    ----------
    name : str
        The grouping factor, with ".1", ".2" added where it has several terms.
    columns : tuple of str, length d
    classes : tuple of str, length C
    vcov : ndarray, shape (C, d, d)
    log_errors : ndarray, shape (C, d)
        Standard errors of the logarithms of the variances.
    correlated : bool
        Whether the covariances are parameters (not so for ``diag``).
    """

    name: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    vcov: FloatArray
    log_errors: FloatArray
    correlated: bool = True

    @property
    def variances(self) -> FloatArray:
        """Variances, shape (C, d)."""
        return np.asarray(np.einsum("cdd->cd", self.vcov))

    @property
    def correlation(self) -> FloatArray:
        """Correlations, shape (C, d, d); NaN where a standard deviation is zero."""
        sd = np.sqrt(self.variances)
        with np.errstate(invalid="ignore", divide="ignore"):
            corr = self.vcov / (sd[:, :, None] * sd[:, None, :])
        corr[:, np.arange(len(self.columns)), np.arange(len(self.columns))] = 1.0
        return corr

    def limits(self, level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
        """Lower and upper limits of the variances, (C, d) each, normal on the log scale."""
        reach = np.exp(NormalDist().inv_cdf(0.5 + level / 2) * self.log_errors)
        return self.variances / reach, self.variances * reach


class ClassVarCorr(Mapping[str, dict[str, pd.DataFrame]]):
    """Variance components: a mapping from term name to the covariance matrix of each class.

    Attributes
    ----------
    terms : tuple of ClassCovariance
    """

    def __init__(self, terms: Sequence[ClassCovariance]) -> None:
        self.terms = tuple(terms)

    def __getitem__(self, name: str) -> dict[str, pd.DataFrame]:
        for term in self.terms:
            if term.name == name:
                columns = list(term.columns)
                return {
                    c: pd.DataFrame(vcov, index=columns, columns=columns)
                    for c, vcov in zip(term.classes, term.vcov, strict=True)
                }
        raise KeyError(f"no random term '{name}'; the terms are {list(self)}")

    def __iter__(self) -> Iterator[str]:
        return (term.name for term in self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def as_data_frame(self, level: float = LEVEL) -> pd.DataFrame:
        """The variances as rows.

        Parameters
        ----------
        level : float, default 0.95
            Of the limits.

        Returns
        -------
        DataFrame
            Columns Groups, Name, Class, Variance, Std.Dev., lower, upper; the last two are limits of the variance.
        """
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        rows = []
        for term in self.terms:
            low, high = term.limits(level)
            for j, column in enumerate(term.columns):
                for c, name in enumerate(term.classes):
                    v = float(term.variances[c, j])
                    rows.append((term.name, column, name, v, float(np.sqrt(v)), float(low[c, j]), float(high[c, j])))
        return pd.DataFrame(rows, columns=["Groups", "Name", "Class", "Variance", "Std.Dev.", "lower", "upper"])

    def table(self, digits: int = 4, limits: bool = True) -> str:
        """The text that is printed: lme4's table with a row for each class.

        Parameters
        ----------
        digits : int, default 4
        limits : bool, default True
            Also 95% limits of the variances.
        """
        shown = self.as_data_frame()
        first = ~shown[["Groups", "Name"]].duplicated().to_numpy()
        again = shown["Groups"].duplicated().to_numpy()
        labels = zip(shown["Groups"], shown["Name"], shown["Class"], first, again, strict=True)
        cells = [["" if old else group, name if new else "", c] for group, name, c, new, old in labels]
        columns = ["Groups", "Name", "Class", "Variance"]
        _add(cells, rtext.format_numbers(shown["Variance"], digits, na="NaN"))
        if limits:
            columns += ["2.5 %", "97.5 %"]
            bounds = rtext.format_numbers(shown[["lower", "upper"]].to_numpy(), min(digits, 3), na="NaN")
            _add(cells, bounds[::2])
            _add(cells, bounds[1::2])
        columns.append("Std.Dev.")
        _add(cells, rtext.format_numbers(shown["Std.Dev."], digits, na="NaN"))
        widest = max((len(term.columns) for term in self.terms if term.correlated), default=1)
        if widest > 1:
            columns += ["Corr"] + [""] * (widest - 2)
            lines = [line for term in self.terms for line in _correlation_cells(term, widest, digits)]
            for row, line in zip(cells, lines, strict=True):
                row += line
        return rtext.matrix([""] * len(cells), columns, cells)

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__


def _add(cells: list[list[str]], texts: Sequence[str]) -> None:
    for row, text in zip(cells, texts, strict=True):
        row.append(text)


def _correlation_cells(term: ClassCovariance, widest: int, digits: int) -> list[list[str]]:
    """Correlations with the columns above as text, in the order column, class, padded to widest - 1."""
    shown, lines = max(2, digits - 2), []
    for j in range(len(term.columns)):
        for c in range(len(term.classes)):
            values = term.correlation[c, j, :j] if term.correlated else np.empty(0)
            texts = rtext.format_numbers(rtext.r_round(values, shown), 7, nsmall=shown, na="NaN")
            lines.append([*texts, *[""] * (widest - 1 - len(texts))])
    return lines


def class_var_corr(design: Design, estimates: MultinomialEstimates) -> ClassVarCorr:
    """Variance components of a fit."""
    names = unique_names([term.group for term in design.random])
    parts = zip(names, design.random, estimates.covariances, estimates.covariance_errors, strict=True)
    return ClassVarCorr(
        [
            ClassCovariance(name, term.column_names, estimates.classes, vcov, errors, term.covariance == "us")
            for name, term, vcov, errors in parts
        ]
    )
