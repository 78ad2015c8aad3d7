"""The verbs that all fits of networks with parameters that vary by group answer alike."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pylmernn.fit.networks import history_frame, plot_history
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design


class VaryingVerbs:
    """What the design, the frame and the training tell."""

    design: Design
    estimates: Any
    frame: ModelFrame

    def nobs(self) -> int:
        """Rows used."""
        return self.design.n

    def ngrps(self) -> dict[str, int]:
        """Levels of the grouping factor."""
        return {term.group: term.n_levels for term in self.design.varying}

    def formula(self) -> str:
        """The formula."""
        return str(self.frame.formula)

    def history(self) -> pd.DataFrame:
        """How the network was trained: one row an epoch."""
        return history_frame(self.estimates.networks)

    def plot_history(self, ax: Any = None) -> Any:
        """Training and held-out losses against epochs."""
        return plot_history(self.estimates.networks, ax)
