"""What stands above and below the numbers of a generalized model: its method, its sampling, its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pylmernn.fit import rtext
from pylmernn.fit.probabilities import class_names
from pylmernn.fit.summary import Header
from pylmernn.formula.design import FloatArray

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws

SAMPLERS = {"polya-gamma": "Polya-Gamma Gibbs sampler", "nuts": "No-U-Turn sampler"}


@dataclass(frozen=True)
class GeneralizedHeader(Header):
    """Title of a generalized model: how its likelihood was approximated, its family, and how it was sampled.

    Attributes
    ----------
    nAGQ : int
    family : str
    method : str
    sampling : str
        A line about chains and their convergence; empty where nothing was sampled.
    """

    nAGQ: int = 1
    family: str = ""
    method: str = "pirls"
    sampling: str = ""

    @property
    def optimizer(self) -> str:
        """What found the optimum."""
        return self.method

    @property
    def title(self) -> str:
        """How the model was fit."""
        if self.method == "mcem":
            return "Generalized linear mixed model fit by Monte Carlo EM [merModNN]"
        how = "Laplace Approximation" if self.nAGQ == 1 else f"Adaptive Gauss-Hermite Quadrature, nAGQ = {self.nAGQ}"
        what = "maximum likelihood" if self.method == "pirls" else f"maximum likelihood, method {self.method}"
        return f"Generalized linear mixed model fit by {what} ({how}) [merModNN]"

    def text(self) -> str:
        """Title, sampling, family, formula and data."""
        title = rtext.cat_fill(self.title.split(" "), 80).replace(" \n", "\n  ")
        rest = super().text().split("\n", 1)[1]
        lines = [title, *([f"Sampled: {self.sampling}"] if self.sampling else []), f" Family: {self.family}", rest]
        return "\n".join(lines)


def sampling_text(draws: Draws | None) -> str:
    """Sampler, draws and convergence in a line; empty without draws."""
    if draws is None:
        return ""
    ends = "no divergences" if not draws.divergences else f"{draws.divergences} divergences"
    return (
        f"{SAMPLERS.get(draws.sampler, draws.sampler)}, {draws.n_chains} chains of {draws.n_draws} draws\n"
        f"         largest R-hat {draws.rhat:.3f}, smallest ESS {draws.ess:.0f}, {ends}"
    )


def threshold_table(phi: FloatArray, covariance: FloatArray, classes: Sequence[str]) -> pd.DataFrame:
    """Thresholds between the classes of an ordinal model with their standard errors, (C - 1) rows.

    Parameters
    ----------
    phi : ndarray, shape (C - 1,)
    covariance : ndarray, shape (C - 1, C - 1)
    classes : C names, or none
    """
    names = class_names(classes, len(phi) + 1)
    se = np.sqrt(np.diagonal(covariance))
    table = {"Estimate": phi, "Std. Error": se, "z value": phi / se}
    return pd.DataFrame(table, index=[f"{low}|{high}" for low, high in pairwise(names)])


def threshold_text(table: pd.DataFrame) -> list[str]:
    """Lines of the summary about the thresholds."""
    cells = rtext.coefficient_cells(table.to_numpy(dtype=float), 4, p_values=False)
    return ["", "Thresholds:", rtext.matrix([str(i) for i in table.index], list(table.columns), cells, right=True)]
