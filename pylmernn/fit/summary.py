"""``summary()`` and the short print, in lme4's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.fit import rtext
from pylmernn.fit.varcorr import VarCorr
from pylmernn.formula.design import FloatArray

#: Correlations of more fixed effects than this are not printed by default.
CORRELATION_LIMIT = 12


@dataclass(frozen=True)
class Header:
    """What stands above the numbers.

    Attributes
    ----------
    REML : bool
    formula : str
    data, weights, offset, subset : str or None
        How the arguments were called, where that is known.
    """

    REML: bool
    formula: str
    data: str | None = None
    weights: str | None = None
    offset: str | None = None
    subset: str | None = None

    @property
    def optimizer(self) -> str:
        """What found the optimum, for messages."""
        return "profiled"

    @property
    def title(self) -> str:
        """How the model was fit."""
        return f"Linear mixed model fit by {'REML' if self.REML else 'maximum likelihood '}"

    def text(self) -> str:
        """Title, formula and data, without a newline at the end."""
        lines = [f"{self.title} ['merModNN']", rtext.cat_fill(["Formula:", *rtext.deparse(self.formula)])]
        titles = ("   Data:", "Weights:", " Offset:", " Subset:")
        named = zip(titles, (self.data, self.weights, self.offset, self.subset), strict=True)
        return "\n".join(lines + [f"{name} {value}" for name, value in named if value is not None])


@dataclass(frozen=True, repr=False)
class Summary:
    """What ``summary(fit)`` holds; ``str()`` is lme4's text.

    Attributes
    ----------
    header : Header
    criteria : dict
        {"REML": value} or AIC, BIC, logLik, deviance and df.resid.
    residuals : Series
        Scaled residuals.
    varcor : VarCorr
    ngrps : dict
        Levels of each grouping factor.
    nobs : int
    coefficients : DataFrame
        Columns Estimate, Std. Error, t value.
    vcov : DataFrame
    messages : tuple of str
        Warnings of the fit.
    networks : tuple of str
        Lines about the networks; empty without them.
    """

    header: Header
    criteria: Mapping[str, float]
    residuals: pd.Series
    varcor: VarCorr
    ngrps: Mapping[str, int]
    nobs: int
    coefficients: pd.DataFrame
    vcov: pd.DataFrame
    messages: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.varcor.sigma

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlation of the fixed effects."""
        sd = np.sqrt(np.diagonal(self.vcov.to_numpy()))
        values = self.vcov.to_numpy() / np.outer(sd, sd)
        return pd.DataFrame(values, index=self.vcov.index, columns=self.vcov.columns)

    def text(self, digits: int = 4, correlation: bool | None = None, show_residuals: bool = True) -> str:
        """The printed summary.

        Parameters
        ----------
        digits : int, default 4
            Significant digits.
        correlation : bool, optional
            Show the correlation of the fixed effects; by default where there are at most 12.
        show_residuals : bool, default True
            Show the quantiles of the scaled residuals.
        """
        parts = [self.header.text(), "", criteria_text(self.criteria, 1), ""]
        if show_residuals:
            parts += [residual_text(self.residuals.to_numpy(), digits), ""]
        parts.append(random_text(self.varcor, self.ngrps, self.nobs, digits, ("Variance", "Std.Dev.")))
        if len(self.coefficients):
            parts += ["", "Fixed effects:", coefficient_text(self.coefficients, digits)]
            parts += self._correlation_text(correlation)
        parts += self.networks
        parts += message_text(self.messages, self.header.optimizer)
        return "\n".join(parts)

    def _correlation_text(self, show: bool | None) -> list[str]:
        p = len(self.coefficients)
        if show is None and p > CORRELATION_LIMIT:
            return [
                "",
                f"Correlation matrix not shown by default, as p = {p} > {CORRELATION_LIMIT}.",
                "Use print(summary.text(correlation=True))  or",
                "    vcov()        if you need it",
            ]
        if show is False or p < 2:
            return []
        return ["", "Correlation of Fixed Effects:", correlation_text(self.correlation)]

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__


def criteria_text(criteria: Mapping[str, float], digits: int) -> str:
    """The REML criterion, or the line of AIC to residual degrees of freedom."""
    if set(criteria) == {"REML"}:
        value = rtext.format_number(float(rtext.r_round(criteria["REML"], digits)))
        return f"REML criterion at convergence: {value}"
    values = rtext.r_round(list(criteria.values()), digits)
    texts = [t.strip() for t in rtext.format_numbers(values, 7)]
    texts[-1] = rtext.format_number(values[-1]).strip()
    return rtext.named_vector(list(criteria), texts)


def residual_text(scaled: FloatArray, digits: int) -> str:
    """Quantiles of the scaled residuals."""
    quantiles = rtext.zapsmall(np.quantile(scaled, [0, 0.25, 0.5, 0.75, 1]), digits + 1)
    line = rtext.named_vector(["Min", "1Q", "Median", "3Q", "Max"], rtext.format_numbers(quantiles, digits))
    return f"Scaled residuals: \n{line}"


def random_text(varcor: VarCorr, ngrps: Mapping[str, int], nobs: int, digits: int, comp: tuple[str, ...]) -> str:
    """Variance components and the numbers of rows and levels."""
    counts = "; ".join(f"{name}, {count}" for name, count in ngrps.items())
    return "\n".join(
        ["Random effects:", varcor.table(digits, comp), rtext.cat_fill([f"Number of obs: {nobs}, groups: ", counts])]
    )


def coefficient_text(table: pd.DataFrame, digits: int) -> str:
    """The fixed effects."""
    names = [str(c) for c in table.columns]
    p_values = names[-1].startswith("Pr(")
    values = table.to_numpy(dtype=float)
    cells = rtext.coefficient_cells(values, digits, p_values=p_values)
    legend = ""
    if p_values and (values[:, -1] < 0.1).any():
        stars = rtext.significance_stars(values[:, -1])
        cells = [[*row, star.ljust(max(map(len, stars)))] for row, star in zip(cells, stars, strict=True)]
        names, legend = [*names, ""], "\n" + rtext.STARS_LEGEND
    return rtext.matrix([str(i) for i in table.index], names, cells, right=True) + legend


def correlation_text(correlation: pd.DataFrame) -> str:
    """Correlations of the fixed effects below the diagonal, under short names."""
    p, names = len(correlation), [str(i) for i in correlation.index]
    texts = rtext.format_numbers(rtext.r_round(correlation.to_numpy(), 3), 7, nsmall=3, na="NaN")
    grid = np.reshape(np.array(texts, dtype=object), (p, p))
    cells = [[grid[i, j] if j < i else "" for j in range(p - 1)] for i in range(1, p)]
    return rtext.matrix(rtext.abbreviate(names, 11)[1:], rtext.abbreviate(names, 6)[:-1], cells)


def message_text(messages: tuple[str, ...], optimizer: str) -> list[str]:
    """What the optimizer has to say."""
    if not messages:
        return []
    failed = any("converge" in m for m in messages)
    verdict = "not converged" if failed else "OK"
    return [f"optimizer ({optimizer}) convergence code: {int(failed)} ({verdict})", *messages, ""]


def short_text(
    header: Header,
    criteria: Mapping[str, float],
    varcor: VarCorr,
    ngrps: Mapping[str, int],
    nobs: int,
    fixed: pd.Series,
    messages: tuple[str, ...],
) -> str:
    """What ``print(fit)`` shows."""
    parts = [header.text(), criteria_text(criteria, 4), random_text(varcor, ngrps, nobs, 4, ("Std.Dev.",))]
    if len(fixed):
        texts = rtext.format_numbers(fixed.to_numpy(dtype=float), 4)
        parts += ["Fixed Effects:", rtext.named_vector([str(i) for i in fixed.index], texts, gap=2)]
    else:
        parts.append("No fixed effect coefficients")
    if messages:
        failed = int(any("converge" in m for m in messages))
        parts.append(
            f"optimizer ({header.optimizer}) convergence code: {failed} ({'not converged' if failed else 'OK'}) "
            f"; 0 optimizer warnings; {len(messages)} lme4 warnings"
        )
    return "\n".join(parts)


def argument_name(value: Any) -> str | None:
    """How an argument was called: known where it was given as text."""
    return value if isinstance(value, str) else None
