"""What the fit would be without some rows: case deletion by row or by level."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.engines.estimates import Estimates
from pylmernn.fit.refit import estimate
from pylmernn.formula.design import Design, RandomTerm


@dataclass(frozen=True)
class Influence:
    """Estimates with each row, or each level of a factor, left out.

    Attributes
    ----------
    fixef : DataFrame, one row for each deletion
    sigma : Series
    theta : DataFrame
    original : Series
        Fixed effects of the whole data.
    vcov : DataFrame
        Their covariance.
    se : DataFrame
        Standard errors of the deleted fits.
    """

    fixef: pd.DataFrame
    sigma: pd.Series
    theta: pd.DataFrame
    original: pd.Series
    vcov: pd.DataFrame
    se: pd.DataFrame

    def dfbeta(self) -> pd.DataFrame:
        """Change of each fixed effect when the rows come back."""
        return self.original - self.fixef

    def dfbetas(self) -> pd.DataFrame:
        """The same in standard errors of the fit without the rows."""
        return self.dfbeta() / self.se

    def cooks_distance(self) -> pd.Series:
        """Cook's distance of each deletion on the fixed effects."""
        change = self.dfbeta().to_numpy()
        values = np.einsum("ij,ij->i", change, np.linalg.solve(self.vcov.to_numpy(), change.T).T)
        return pd.Series(values / len(self.original), index=self.fixef.index)


def keep_rows(design: Design, keep: NDArray[np.bool_]) -> Design:
    """The design of some of its rows; levels that occur no more are dropped."""
    return dataclasses.replace(
        design,
        y=design.y[keep],
        X=np.asfortranarray(design.X[keep]),
        random=tuple(_term_rows(term, keep) for term in design.random),
        weights=None if design.weights is None else design.weights[keep],
        offset=None if design.offset is None else design.offset[keep],
    )


def _term_rows(term: RandomTerm, keep: NDArray[np.bool_]) -> RandomTerm:
    used, codes = np.unique(term.codes[keep], return_inverse=True)
    return dataclasses.replace(
        term, codes=codes.astype(np.int32), levels=np.asarray(term.levels)[used], columns=term.columns[keep]
    )


def influence(
    design: Design, estimates: Estimates, deletions: NDArray[np.intp], labels: pd.Index, vcov: pd.DataFrame
) -> Influence:
    """Refit without each group of rows.

    Parameters
    ----------
    design, estimates : the fit
    deletions : array of int, shape (n,)
        Which deletion each row belongs to, 0 to m - 1.
    labels : Index, length m
        Names of the deletions.
    vcov : DataFrame
        Covariance of the fixed effects of the whole data.
    """
    fits = [
        estimate(keep_rows(design, deletions != j), estimates.method, estimates.REML, start=estimates.theta + 1e-3)
        for j in range(len(labels))
    ]
    names = list(design.fixed_names)
    return Influence(
        fixef=pd.DataFrame([f.beta for f in fits], index=labels, columns=names),
        sigma=pd.Series([f.sigma for f in fits], index=labels),
        theta=pd.DataFrame([f.theta for f in fits], index=labels),
        original=pd.Series(estimates.beta, index=names),
        vcov=vcov,
        se=pd.DataFrame([f.sigma * np.sqrt(np.diagonal(f.unscaled_vcov)) for f in fits], index=labels, columns=names),
    )
