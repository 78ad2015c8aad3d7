"""What fits of linear models with networks that vary answer alike, for one bar or several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_model import constant_twice
from pylmernn.engines.nme_predict import network_of
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula.design import DesignError, FloatArray


class LinearVaryingVerbs(VaryingVerbs):
    """Coefficients, residual variance and fitted values."""

    def fixef(self) -> pd.Series:
        """Fixed effects, then theta_bar of what varies: the network of a person of whom nothing is known."""
        own = network_of(self.estimates).vector().double().numpy()
        names = [*self.design.fixed_names, *self.estimates.selected.labels]
        return pd.Series(np.concatenate([self.estimates.beta, own]), index=names)

    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(self.estimates.sigma)

    def vcov(self) -> pd.DataFrame:
        """Covariance of the fixed effects, given the network.

        Raises
        ------
        DesignError
            Where more than the last layer varies.
        """
        if self.estimates.fixed_covariance is None:
            raise DesignError("standard errors of the fixed effects are known only where the last layer alone varies.")
        names = list(self.design.fixed_names)
        return pd.DataFrame(self.estimates.fixed_covariance, index=names, columns=names)

    def isREML(self) -> bool:
        """Whether the variances are those of REML."""
        return bool(self.estimates.REML)

    def fitted(self) -> Any:
        """Fitted values, deviations included."""
        return self._series(self.estimates.fitted)

    def residuals(self) -> pd.Series:
        """Response less fitted values."""
        return self._series(self.design.y - self.estimates.fitted)

    @property
    def _n_means(self) -> int:
        """Fixed effects and theta_bar of what varies; a bias that stands for the intercept too counts once."""
        e = self.estimates
        twice = constant_twice(network_of(e).module, e.selected, self.design.X)
        outputs = e.beta.shape[1] if e.beta.ndim == 2 else 1
        return int(e.beta.size + e.selected.size - outputs * twice)

    @property
    def _names(self) -> Any:
        """Of the rows."""
        names = self.frame.row_names
        return pd.RangeIndex(self.design.n) if names is None else names

    def _series(self, numbers: FloatArray) -> pd.Series:
        return pd.Series(numbers, index=self._names)
