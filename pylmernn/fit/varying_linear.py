"""What fits of linear models with networks that vary answer alike, for one bar or several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_model import constant_twice
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_working import is_generalized
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import DesignError, FloatArray, NewRows
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.response import read_response, response_numbers
from pylmernn.formula.transforms import FUNCTIONS


def new_levels_error(group: str, names: Iterable[Any], instead: str) -> DesignError:
    """The error for levels that the fit has not seen, where they are not allowed.

    Parameters
    ----------
    group : str
        The grouping factor.
    names : iterable
        The levels, in any order and number of times.
    instead : str
        What ``allow_new_levels=True`` does, as in "for the generic network".
    """
    every = list(dict.fromkeys(str(name) for name in names))
    shown = ", ".join(f"'{name}'" for name in every[:5]) + (", ..." if len(every) > 5 else "")
    return DesignError(
        f"new levels in the grouping factor '{group}': {shown}; set allow_new_levels=True {instead}, or learn from "
        "rows of theirs with update_ranef()."
    )


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
        """Fixed effects and theta_bar of what varies; a bias that is the intercept or thresholds too counts once."""
        e = self.estimates
        absorbed = is_generalized(e) and e.family.absorbs_constant
        X = np.ones((1, 1)) if absorbed else self.design.X
        twice = constant_twice(network_of(e).module, e.selected, X)
        outputs = e.beta.shape[1] if e.beta.ndim == 2 else 1
        return int(e.beta.size + e.selected.size - outputs * twice)

    def _learnt_rows(self, newdata: Any) -> tuple[NewRows, FloatArray]:
        """New rows to learn from, with their responses (m,).

        Raises
        ------
        DesignError
            For missing columns or values, or an infinite response.
        """
        rows = self.frame.new_data(newdata, self.design, varying=True, na_action="fail")
        env = Evaluator(as_pandas(newdata), self.frame.state, False, FUNCTIONS)
        y, _ = response_numbers(read_response(env, self.frame.formula, None), self.design.response, None)
        if not np.isfinite(y).all():
            raise DesignError(f"the response '{self.design.response}' has missing or infinite values in the new rows.")
        return rows, y
