"""Parametric bootstrap, ``bootMer``."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from pylmernn.fit import rtext
from pylmernn.formula.design import DesignError


@dataclass(frozen=True, repr=False)
class Bootstrap:
    """A bootstrap of some statistics of a fit.

    Attributes
    ----------
    t0 : Series
        The statistics of the fit.
    t : DataFrame, shape (nsim, statistics)
        Those of the refits; NaN rows where a refit failed.
    """

    t0: pd.Series
    t: pd.DataFrame

    @property
    def n_failed(self) -> int:
        """Refits that gave no answer."""
        return int(self.t.isna().all(axis=1).sum())

    def confint(self, level: float = 0.95, type: str = "perc") -> pd.DataFrame:
        """Confidence limits.

        Parameters
        ----------
        level : float, default 0.95
        type : {"perc", "basic", "norm"}
            Percentiles, percentiles turned around the estimate, or normal limits with the bias taken off.
        """
        from pylmernn.fit.inference import percent_labels

        draws = self.t.dropna(how="all").to_numpy(dtype=float)
        if not len(draws):
            raise DesignError("all bootstrap refits failed.")
        estimate = self.t0.to_numpy(dtype=float)
        a = (1 - level) / 2
        if type == "norm":
            z = NormalDist().inv_cdf(1 - a)
            centre, spread = 2 * estimate - np.nanmean(draws, axis=0), np.nanstd(draws, axis=0, ddof=1)
            limits = np.column_stack([centre - z * spread, centre + z * spread])
        elif type in ("perc", "basic"):
            ends = np.array([_interpolated(np.sort(column[~np.isnan(column)]), (a, 1 - a)) for column in draws.T])
            limits = ends if type == "perc" else 2 * estimate[:, None] - ends[:, ::-1]
        else:
            raise DesignError(f"boot_type is '{type}': use 'perc', 'basic' or 'norm'.")
        return pd.DataFrame(limits, index=self.t0.index, columns=percent_labels(level))

    def summary(self) -> pd.DataFrame:
        """Original value, bias and standard error of each statistic."""
        bias = self.t.mean() - self.t0
        return pd.DataFrame({"original": self.t0, "bias": bias, "std. error": self.t.std(ddof=1)})

    def __str__(self) -> str:
        table = self.summary()
        cells = [list(row) for row in zip(*(rtext.format_numbers(table[c], 7) for c in table), strict=True)]
        body = rtext.matrix([str(i) for i in table.index], list(table.columns), cells, right=True)
        return f"Parametric bootstrap, {len(self.t)} samples, {self.n_failed} failed\n{body}"

    __repr__ = __str__


def _interpolated(ordered: np.ndarray, probabilities: tuple[float, float]) -> list[float]:
    """Order statistics (R + 1) p, interpolated on the normal scale (Davison & Hinkley 1997, eq. 5.8)."""
    R, normal, out = len(ordered), NormalDist(), []
    for p in probabilities:
        position = (R + 1) * p
        k = int(np.floor(position + 1e-10))
        if k < 1 or k >= R:
            out.append(float(ordered[0] if k < 1 else ordered[-1]))
        elif abs(position - k) < 1e-10:
            out.append(float(ordered[k - 1]))
        else:
            low, high = normal.inv_cdf(k / (R + 1)), normal.inv_cdf((k + 1) / (R + 1))
            share = (normal.inv_cdf(p) - low) / (high - low)
            out.append(float(ordered[k - 1] + share * (ordered[k] - ordered[k - 1])))
    return out
