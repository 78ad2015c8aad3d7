"""``summary()`` of a multinomial model, in lme4's layout with a row or a block for each class."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from pylmernn.fit import rtext
from pylmernn.fit.multinomial_varcorr import ClassVarCorr
from pylmernn.fit.summary import Header
from pylmernn.formula.design import FloatArray


@dataclass(frozen=True)
class ClassHeader(Header):
    """Title of a multinomial model: how it was sampled, its family, and its classes with their numbers of rows."""

    classes: tuple[tuple[str, int], ...] = ()
    sampling: str = ""

    @property
    def optimizer(self) -> str:
        """What found the estimates."""
        return "mcem"

    @property
    def title(self) -> str:
        """How the model was fit."""
        return "Generalized linear mixed model fit by Monte Carlo EM [merModNN]"

    def text(self) -> str:
        """Title, sampling, family, formula, data and classes."""
        rest = super().text().split("\n", 1)[1]
        counts = ", ".join(f"{name} ({count})" for name, count in self.classes)
        listed = textwrap.wrap(f"Classes: {counts}", 80, initial_indent=" ", subsequent_indent="   ")
        how = [self.title, f"Sampled: {self.sampling}", " Family: multinomial  ( softmax )"]
        return "\n".join([*how, rest, *listed])


@dataclass(frozen=True, repr=False)
class ClassSummary:
    """What ``summary(fit)`` holds; ``str()`` is the text.

    Attributes
    ----------
    header : ClassHeader
    sampling : dict
        sampler, chains, draws, R-hat, ESS and divergences.
    deviance : float
        -2 times the sum of log-probabilities of the observed classes at the posterior means.
    varcor : ClassVarCorr
    ngrps : dict
        Levels of each grouping factor.
    nobs : int
    coefficients : DataFrame
        Rows pairs of class and column; columns Estimate, Std. Error, z value, Pr(>|z|).
    vcov : DataFrame
    messages : tuple of str
        Warnings of the fit.
    networks : tuple of str
        Lines about the networks; empty without them.
    """

    header: ClassHeader
    sampling: Mapping[str, str | float]
    deviance: float
    varcor: ClassVarCorr
    ngrps: Mapping[str, int]
    nobs: int
    coefficients: pd.DataFrame
    vcov: pd.DataFrame
    messages: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def text(self, digits: int = 4) -> str:
        """The printed summary.

        Parameters
        ----------
        digits : int, default 4
            Significant digits.
        """
        parts = [self.header.text(), "", deviance_text(self.deviance), ""]
        parts.append(class_random_text(self.varcor, self.ngrps, self.nobs, digits, limits=True))
        if len(self.coefficients):
            parts += ["", "Fixed effects (sum to zero over classes):"]
            parts.append(class_coefficient_text(self.coefficients, digits))
        parts += self.networks
        return "\n".join([*parts, *[f"\n{text}" for text in wrapped(self.messages)]])

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__


def coefficient_table(beta: pd.DataFrame, errors: FloatArray) -> pd.DataFrame:
    """Fixed effects with standard errors and z tests, classes one below the other.

    Parameters
    ----------
    beta : DataFrame, shape (p, C)
    errors : array, shape (p, C)
    """
    estimate, se = beta.to_numpy().T.ravel(), errors.T.ravel()
    index = pd.MultiIndex.from_product([beta.columns, beta.index], names=["class", "column"])
    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / se
    table = {"Estimate": estimate, "Std. Error": se, "z value": z, "Pr(>|z|)": 2.0 * ndtr(-np.abs(z))}
    return pd.DataFrame(table, index=index)


def wrapped(messages: Sequence[str]) -> list[str]:
    """Warnings of the fit in lines of at most 80 characters."""
    return ["\n".join(textwrap.wrap(message, 80, break_long_words=False)) for message in messages]


def deviance_text(deviance: float) -> str:
    """The one criterion that sampling gives."""
    value = rtext.format_number(float(rtext.r_round([deviance], 1)[0]))
    return f"Deviance: {value} at the posterior means of the random effects"


def class_random_text(varcor: ClassVarCorr, ngrps: Mapping[str, int], nobs: int, digits: int, limits: bool) -> str:
    """Variance components and the numbers of rows and levels."""
    counts = "; ".join(f"{name}, {count}" for name, count in ngrps.items())
    lines = rtext.cat_fill([f"Number of obs: {nobs}, groups: ", counts])
    return "\n".join(["Random effects:", varcor.table(digits, limits), lines])


def class_coefficient_text(table: pd.DataFrame, digits: int) -> str:
    """The fixed effects, a block for each class, all in one format."""
    values = table.to_numpy(dtype=float)
    cells = rtext.coefficient_cells(values, digits, p_values=True)
    names, legend = [str(c) for c in table.columns], ""
    if (values[:, -1] < 0.1).any():
        stars = rtext.significance_stars(values[:, -1])
        cells = [[*row, star.ljust(max(map(len, stars)))] for row, star in zip(cells, stars, strict=True)]
        names, legend = [*names, ""], "\n" + rtext.STARS_LEGEND
    labels: list[str] = []
    rows: list[Sequence[str]] = []
    before = None
    for (name, column), row in zip(table.index, cells, strict=True):
        if name != before:
            labels.append(f"class {name}:")
            rows.append([""] * len(names))
            before = name
        labels.append(f" {column}")
        rows.append(row)
    text = rtext.matrix(labels, names, rows, right=True)
    return "\n".join(line.rstrip() if line.startswith("class ") else line for line in text.split("\n")) + legend


def class_short_text(
    header: ClassHeader,
    deviance: float,
    varcor: ClassVarCorr,
    ngrps: Mapping[str, int],
    nobs: int,
    fixed: pd.DataFrame,
    messages: tuple[str, ...],
) -> str:
    """What ``print(fit)`` shows."""
    parts = [header.text(), deviance_text(deviance)]
    parts.append(class_random_text(varcor, ngrps, nobs, 4, limits=False))
    if len(fixed):
        texts = rtext.format_numbers(fixed.to_numpy(dtype=float), 4)
        rows = [texts[i : i + fixed.shape[1]] for i in range(0, len(texts), fixed.shape[1])]
        parts.append("Fixed Effects (sum to zero over classes):")
        parts.append(rtext.matrix([str(i) for i in fixed.index], [str(c) for c in fixed.columns], rows, right=True))
    else:
        parts.append("No fixed effect coefficients")
    return "\n".join([*parts, *wrapped(messages)])
