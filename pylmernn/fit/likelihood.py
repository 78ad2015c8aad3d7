"""Log-likelihood, deviance and information criteria."""

from __future__ import annotations

import math

import numpy as np

from pylmernn.engines.estimates import Estimates
from pylmernn.fit import rtext
from pylmernn.formula.design import Design


class LogLik(float):
    """A log-likelihood that knows its number of parameters and of rows.

    Attributes
    ----------
    df : int
        Fixed effects, variance parameters and sigma.
    nobs : int
    """

    df: int
    nobs: int

    def __new__(cls, value: float, df: int, nobs: int) -> LogLik:
        """Make the number and keep its companions."""
        self = super().__new__(cls, value)
        self.df, self.nobs = df, nobs
        return self

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]
        return float(self), self.df, self.nobs

    def __str__(self) -> str:
        return f"'log Lik.' {rtext.format_number(float(self))} (df={self.df})"

    __repr__ = __str__

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return -2.0 * float(self) + 2.0 * self.df

    @property
    def bic(self) -> float:
        """Schwarz's criterion."""
        return -2.0 * float(self) + math.log(self.nobs) * self.df


def n_parameters(design: Design, estimates: Estimates) -> int:
    """Fixed effects, theta and sigma."""
    return design.p + len(estimates.theta) + 1


def criterion(design: Design, estimates: Estimates, REML: bool) -> float:
    """-2 log-likelihood or the REML criterion, at the estimates whichever of the two they optimize.

    Parameters
    ----------
    design : Design
    estimates : Estimates
    REML : bool

    Returns
    -------
    float
        Exactly ``estimates.objective`` where the fit is by that criterion.
    """
    if estimates.REML == REML:
        return estimates.objective
    df = design.n - design.p if REML else design.n
    log_weights = 0.0 if design.weights is None else float(np.log(design.weights).sum())
    value = estimates.ldL2 + (estimates.ldRX2 if REML else 0.0)
    return value + df * (1.0 + math.log(2.0 * math.pi * estimates.pwrss / df)) - log_weights


def log_likelihood(design: Design, estimates: Estimates, REML: bool | None = None) -> LogLik:
    """The (restricted) log-likelihood; by default the one the fit maximized."""
    value = criterion(design, estimates, estimates.REML if REML is None else REML)
    return LogLik(-value / 2.0, n_parameters(design, estimates), design.n)
