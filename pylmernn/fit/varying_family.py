"""What fits of generalized models with networks that vary answer alike, for one bar or several: means and responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_generalized_predict import means
from pylmernn.families import Family
from pylmernn.fit.predict_generalized import RESIDUAL_TYPES, residuals_of
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.response import read_response, response_numbers
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor

TYPES = ("link", "response", "prob", "class")  # of predictions


class FamilyVerbs(VaryingVerbs):
    """Verbs that read the family of a fit; ``estimates`` has ``family``, ``phi``, ``classes`` and linear predictors."""

    @property
    def _family(self) -> Family:
        family = self.estimates.family
        assert isinstance(family, Family)
        return family

    def family(self) -> str:
        """The family and link, ``"binomial(logit)"``."""
        return str(self._family)

    def dispersion(self) -> float | FloatArray:
        """Dispersion phi, as :meth:`pylmernn.fit.generalized.GeneralizedFit.dispersion`."""
        phi: float | FloatArray = self.estimates.phi
        return phi

    def fitted(self) -> Any:
        """Means at the rows of the fit, deviations included; probabilities, a column a class, of a categorical one."""
        return self._table(means(self.estimates, self.estimates.fitted), self._names)

    def residuals(self, type: str = "response") -> pd.Series:
        """Residuals.

        Parameters
        ----------
        type : {"response", "deviance", "pearson", "working"}
            "response" is the response less its mean.

        Raises
        ------
        DesignError
            For a categorical response, or another type.
        """
        if type not in RESIDUAL_TYPES:
            raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
        if self._family.categorical:
            raise DesignError("a response of classes has no residuals: look at predict_proba().")
        e, weights = self.estimates, self.design.weights
        weights = np.ones(self.design.n) if weights is None else weights
        mu = means(e, e.fitted)
        return self._series(residuals_of(self._family, type, self.design.y, weights, e.fitted, mu, e.phi))

    def _table(self, numbers: FloatArray, names: Any) -> Any:
        """Numbers (m,) as a Series, (m, C) as a table with the classes for columns."""
        if numbers.ndim == 1:
            return pd.Series(numbers, index=names)
        return pd.DataFrame(numbers, index=names, columns=list(self.estimates.classes))

    def _probability_table(self, found: FloatArray, names: Any) -> pd.DataFrame:
        """Probabilities of the classes, a column each, from means (m,) of two classes or (m, C).

        Raises
        ------
        DesignError
            For a response that has no classes.
        """
        if self._family.name == "binomial":
            found = np.column_stack([1.0 - found, found])
        elif not self._family.categorical:
            raise DesignError(f"the {self._family.name} family has no classes: use predict().")
        return pd.DataFrame(found, index=names, columns=list(self.estimates.classes or ("0", "1")))

    @staticmethod
    def _most_likely(table: pd.DataFrame) -> pd.Series:
        numbers = table.to_numpy()
        missing = np.isnan(numbers).any(axis=1)
        best = np.where(missing, 0, np.nan_to_num(numbers).argmax(axis=1))
        chosen = np.array(table.columns, dtype=object)[best]
        chosen[missing] = None
        return pd.Series(chosen, index=table.index)

    def _new_response(self, newdata: Any, m: int) -> tuple[FloatArray, FloatArray]:
        """Responses of new rows as the family has them, and weights."""
        family, name = self._family, self.design.response
        env = Evaluator(as_pandas(newdata), self.frame.state, False, FUNCTIONS)
        value = read_response(env, self.frame.formula, family.name)
        if isinstance(value, Factor):
            classes = list(self.estimates.classes)
            levels = [str(level) for level in value.levels]
            used = {levels[code] for code in value.codes if code >= 0}
            if family.name == "binomial" and classes[1].startswith("not "):
                return np.array([float(levels[code] != classes[0]) for code in value.codes]), np.ones(m)
            unseen = sorted(used - set(classes))
            if unseen:
                raise DesignError(
                    f"the response '{name}' is '{unseen[0]}' in the new rows, which the fit has not seen."
                )
            if (value.codes < 0).any():
                raise DesignError(f"the response '{name}' has missing values in the new rows.")
            return np.array([float(classes.index(levels[code])) for code in value.codes]), np.ones(m)
        if value.values.ndim == 1:
            y, trials = np.array(value.values, dtype=np.float64), None
        else:
            y, trials = response_numbers(value, name, family.name)
        if not np.isfinite(y).all():
            raise DesignError(f"the response '{name}' has missing or infinite values in the new rows.")
        return y, np.ones(m) if trials is None else trials
