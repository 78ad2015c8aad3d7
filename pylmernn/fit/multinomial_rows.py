"""The verbs about rows of a multinomial fit: ``fitted``, ``residuals``, ``predict`` and ``simulate``."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.fit import multinomial_predict
from pylmernn.fit import predict as prediction
from pylmernn.fit.multinomial_verbs import ClassEstimateVerbs
from pylmernn.fit.probabilities import marginal_softmax, most_likely, softmax
from pylmernn.fit.reform import group_codes, selection
from pylmernn.formula.design import DesignError, FloatArray, NewRows

RESIDUAL_TYPES = ("response", "pearson", "deviance")
PREDICTION_TYPES = ("class", "response", "link")


def check_errors(type: str, interval: str | bool | None, level: float, has_draws: bool) -> None:
    """Raise DesignError for standard errors or limits that are not offered."""
    if type == "class":
        raise DesignError("standard errors and limits are of probabilities or linear predictors: use type='response'.")
    if interval not in (None, False, True, "confidence"):
        raise DesignError(f"interval is '{interval}': use 'confidence'; a new class has no limits.")
    if not 0 < level < 1:
        raise DesignError(f"level is {level}: use a number between 0 and 1.")
    if not has_draws:
        raise DesignError("this fit kept no draws for standard errors: fit it again.")


class ClassPredictionVerbs(ClassEstimateVerbs):
    """Fitted and predicted probabilities and classes."""

    def _table(self, values: FloatArray, index: pd.Index | None = None) -> pd.DataFrame:
        """Values (m, C) under the labels of the rows and classes; without an index those of the data."""
        if index is None:
            index = self._all_row_names if self._pads else self._row_names
            values = self.frame.pad(values) if self._pads else values
        return pd.DataFrame(values, index=index, columns=pd.Index(self.classes, name="class"))

    def _new_rows(
        self, newdata: Any, chosen: prediction.Selection, na_action: str = "pass"
    ) -> tuple[NewRows, FloatArray | None, pd.Index | None]:
        """Rows to predict, what the networks say of them, and their labels (None for the rows of the fit)."""
        networks = self.estimates.networks
        if newdata is None:
            return prediction.rows_of_fit(self.design), None if networks is None else networks.fitted, None
        used = [bool(keep.any()) for keep in chosen]
        rows = self.frame.new_data(newdata, self.design, random=used, na_action=na_action)
        return rows, None if networks is None else networks.values(rows.nets), pd.Index(rows.row_names)

    def predict(
        self,
        newdata: Any = None,
        re_form: Any = None,
        allow_new_levels: bool = False,
        type: str = "class",
        marginal: bool = True,
        na_action: str = "pass",
        se_fit: bool = False,
        interval: str | bool | None = None,
        level: float = 0.95,
    ) -> pd.Series | pd.DataFrame:
        """Predictions, of the data or of new rows.

        Parameters
        ----------
        newdata : DataFrame, optional
            By default the rows of the fit.
        re_form : None, "NA" or str, default None
            Which random effects take part: None all, "NA" (or "~0", False) none, or those of a formula, "~ (1 | g)".
        allow_new_levels : bool, default False
            Take levels the fit has not seen, instead of refusing them.
        type : {"class", "response", "link"}
            The most probable class, the probabilities, or the linear predictors, in which unseen levels count zero.
        marginal : bool, default True
            Average probabilities over the effects that an unseen level may have, N(0, Sigma); else take zero for them.
        na_action : {"pass", "omit", "fail"}
            Rows of newdata with missing values: give NaN, leave them out, or refuse.
        se_fit : bool, default False
            Also standard errors of the probabilities or linear predictors: standard deviations over joint draws of
            fixed and random effects. Networks and variances are taken as known, and fixed effects where there are
            many classes.
        interval : {None, "confidence", True}
            Also limits: quantiles over these draws.
        level : float, default 0.95
            Of the limits.

        Returns
        -------
        Series of classes, or DataFrame of rows by classes
            Labelled as newdata. With standard errors or limits the columns are pairs of "fit", "se", "lwr" or "upr"
            and a class, so that ``table["se"]`` is rows by classes.

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, an ``re_form`` the model does not have, or
            standard errors of classes.

        Notes
        -----
        Seen levels are at the posterior means of their effects. The average over unseen ones is exact for two classes
        and by quasi-Monte Carlo for more, always the same, good to about 1e-3. Standard errors and limits draw their
        effects from N(0, Sigma).
        """
        if type not in PREDICTION_TYPES:
            raise DesignError(f"type is '{type}': use one of {', '.join(PREDICTION_TYPES)}.")
        with_errors = se_fit or interval not in (None, False)
        if with_errors:
            check_errors(type, interval, level, self.estimates.joint is not None)
        chosen = selection(self.design, re_form)
        rows, f, index = self._new_rows(newdata, chosen, na_action)
        if not allow_new_levels:
            prediction.check_levels(self.design, rows, chosen, "average over the effects they may have")
        eta = multinomial_predict.linear_predictor(self.estimates, rows, chosen, f)
        if type != "link":
            variance = multinomial_predict.unseen_variance(self.estimates, rows, chosen)
            eta = marginal_softmax(eta, variance if marginal else np.zeros_like(eta))
        table = self._table(eta, index)
        if not with_errors:
            return most_likely(table) if type == "class" else table
        scale = np.asarray if type == "link" else softmax
        se, lower, upper = multinomial_predict.spread_over_draws(self.estimates, rows, chosen, f, scale, level)
        parts = {"fit": table} | ({"se": self._table(se, index)} if se_fit else {})
        if interval not in (None, False):
            parts |= {"lwr": self._table(lower, index), "upr": self._table(upper, index)}
        return pd.concat(parts, axis=1)

    def _classes(self, codes: np.ndarray, index: pd.Index) -> pd.Series:
        """Class codes as a factor; -1 is missing."""
        return pd.Series(pd.Categorical.from_codes(codes.tolist(), dtype=self._dtype), index=index)

    @cached_property
    def _dtype(self) -> pd.CategoricalDtype:
        """Of predicted and simulated classes."""
        return pd.CategoricalDtype(list(self.classes))

    def predict_proba(
        self, newdata: Any = None, re_form: Any = None, allow_new_levels: bool = False, marginal: bool = True
    ) -> pd.DataFrame:
        """Probabilities of the classes, rows by classes; arguments as :meth:`predict`."""
        found = self.predict(newdata, re_form, allow_new_levels, "response", marginal)
        assert isinstance(found, pd.DataFrame)
        return found

    def fitted(self) -> pd.DataFrame:
        """Fitted probabilities, rows by classes, random effects at their posterior means; labelled as the data."""
        return self._table(softmax(self._eta))

    def residuals(self, type: str = "response") -> pd.DataFrame | pd.Series:
        """Residuals.

        Parameters
        ----------
        type : {"response", "pearson", "deviance"}
            "response" is one for the observed class and zero for the others, less the probabilities; "pearson" divides
            that by ``sqrt(p (1 - p) / weight)``; "deviance" is ``sqrt(-2 weight log p)`` of the observed class, one
            number a row, whose squares add up to :meth:`deviance`.
        """
        if type not in RESIDUAL_TYPES:
            raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
        if type == "deviance":
            loglik = multinomial_predict.observed_loglik(self._eta, self.design.y)
            return self._series(np.sqrt(np.maximum(-2.0 * self._row_weights * loglik, 0.0)))
        p = softmax(self._eta)
        raw = (self.design.y[:, None] == np.arange(p.shape[1])) - p
        if type == "pearson":
            raw = raw * np.sqrt(self._row_weights[:, None] / np.maximum(p * (1.0 - p), np.finfo(float).tiny))
        return self._table(raw)

    resid = residuals

    def simulate(
        self,
        nsim: int = 1,
        seed: int | np.random.Generator | None = None,
        use_u: bool = False,
        re_form: Any = "NA",
        newdata: Any = None,
        allow_new_levels: bool = False,
    ) -> pd.DataFrame:
        """New classes drawn from the fitted model.

        Parameters
        ----------
        nsim : int, default 1
        seed : int or numpy Generator, optional
        use_u : bool, default False
            Keep all random effects at their posterior means (``re_form=None``).
        re_form : None, "NA" or str, default "NA"
            Which random effects to keep at their posterior means; the others are drawn anew.
        newdata : DataFrame, optional
            By default the rows of the fit.
        allow_new_levels : bool, default False
            Draw effects for levels the fit has not seen, instead of refusing them.

        Returns
        -------
        DataFrame of factors, shape (rows, nsim)
            Columns sim_1, sim_2, ...
        """
        if nsim < 1:
            raise DesignError(f"nsim is {nsim}: ask for at least one simulation.")
        everything = selection(self.design, None)
        chosen = everything if use_u else selection(self.design, re_form)
        rows, f, index = self._new_rows(newdata, everything)
        unseen: list[np.ndarray | None] = [None] * len(self.design.random)
        if newdata is not None:
            if not allow_new_levels:
                prediction.check_levels(self.design, rows, everything, "draw effects for them")
            unseen = [group_codes(self.frame, newdata, term.label) for term in self.design.random]
        rng = np.random.default_rng(seed)
        codes = multinomial_predict.simulate(self.design, self.estimates, rows, f, chosen, unseen, nsim, rng)
        index = self._row_names if index is None else index
        return pd.DataFrame({f"sim_{i + 1}": self._classes(codes[:, i], index) for i in range(nsim)})
