"""The verbs that all fits of networks with parameters that vary by group answer alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from pylmernn.fit.networks import history_frame, plot_history
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, FloatArray

if TYPE_CHECKING:
    from pylmernn.fit.varying import VaryingFit


class VaryingVerbs:
    """What the design, the frame and the training tell."""

    design: Design
    estimates: Any
    frame: ModelFrame
    call: dict[str, Any]
    logLik: Any

    def nobs(self) -> int:
        """Rows used."""
        return self.design.n

    def ngrps(self) -> dict[str, int]:
        """Levels of the grouping factor."""
        return {term.group: term.n_levels for term in self.design.varying}

    def AIC(self, k: float = 2.0) -> float:
        """Akaike's criterion, ``-2 logLik + k df``."""
        likelihood = self.logLik()
        return -2.0 * float(likelihood) + k * float(likelihood.df)

    def BIC(self) -> float:
        """Schwarz's criterion, ``-2 logLik + log(nobs) df``."""
        return float(self.logLik().bic)

    def formula(self) -> str:
        """The formula."""
        return str(self.frame.formula)

    def model_frame(self) -> pd.DataFrame:
        """The variables of the model, one row for each row in use."""
        return self.frame.frame.copy()

    def history(self) -> pd.DataFrame:
        """How the network was trained: one row an epoch."""
        return history_frame(self.estimates.networks)

    def plot_history(self, ax: Any = None) -> Any:
        """Training and held-out losses against epochs."""
        return plot_history(self.estimates.networks, ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the fit in one file (safetensors, with JSON text), readable by :func:`pylmernn.load`.

        Parameters
        ----------
        path : path
            Written whole or not at all.
        """
        from pylmernn.fit import save

        save.save(cast("VaryingFit", self), path)

    @property
    def _names(self) -> Any:
        """Of the rows."""
        names = self.frame.row_names
        return pd.RangeIndex(self.design.n) if names is None else names

    def _series(self, numbers: FloatArray) -> pd.Series:
        return pd.Series(numbers, index=self._names)
