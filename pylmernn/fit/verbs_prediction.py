"""The verbs about rows: ``fitted``, ``residuals``, ``predict``, ``simulate`` and diagnostics."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from pylmernn.engines.network_variance import Calibration
from pylmernn.fit import diagnostics, intervals, update_ranef
from pylmernn.fit import predict as prediction
from pylmernn.fit import simulate as simulation
from pylmernn.fit.reform import group_codes, selection
from pylmernn.fit.state import FitState
from pylmernn.formula.append import append_rows
from pylmernn.formula.design import DesignError, FloatArray, NewRows


class PredictionVerbs(FitState):
    """Fitted and predicted values of a fit, and how each row bears on it."""

    def fitted(self) -> pd.Series:
        """Fitted values, random effects at their conditional modes; labelled as the data."""
        return self._series(self._mu)

    def residuals(self, type: str = "response", scaled: bool = False) -> pd.Series:
        """Residuals.

        Parameters
        ----------
        type : {"response", "working", "pearson", "deviance", "scaled"}
            "response" is ``y - fitted``; "pearson" multiplies by the root of the weight; "scaled" divides
            that by sigma.
        scaled : bool, default False
            Divide by sigma.
        """
        return self._series(diagnostics.residuals(self.design, self._mu, self.estimates.sigma, type, scaled))

    resid = residuals

    def predict(
        self,
        newdata: Any = None,
        re_form: Any = None,
        random_only: bool = False,
        allow_new_levels: bool = False,
        se_fit: bool = False,
        interval: str | bool | None = None,
        level: float = 0.95,
        na_action: str = "pass",
    ) -> pd.Series | pd.DataFrame:
        """Predicted means, of the data or of new rows.

        Parameters
        ----------
        newdata : DataFrame, optional
            By default the rows of the fit.
        re_form : None, "NA" or str, default None
            Which random effects take part: None all, "NA" (or "~0", False) none, or those of a formula, "~ (1 | g)".
        random_only : bool, default False
            Leave the fixed effects out.
        allow_new_levels : bool, default False
            Give levels the fit has not seen the effect zero, instead of refusing them.
        se_fit : bool, default False
            Also standard errors of the mean: fixed effects, conditional modes and networks jointly, variances taken
            as known.
        interval : {None, "confidence", "prediction", True}
            Also limits, for the mean or (True as well) for a new response of weight 1.
        level : float, default 0.95
            Of the limits.
        na_action : {"pass", "omit", "fail"}
            Rows of newdata with missing values: give NaN, leave them out, or refuse.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr)
            Labelled as newdata.

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, or an ``re_form`` the model does not have.

        Notes
        -----
        A level that the fit has not seen adds its whole variance. Beside a network, the last hidden layer counts as
        columns of X, and rows held out in training say how large errors really are
        (:mod:`pylmernn.engines.network_variance`). A module of your own that does not end in one ``torch.nn.Linear``
        adds nothing to standard errors; its errors still widen prediction intervals.

        Examples
        --------
        >>> import pylmernn
        >>> data = pylmernn.datasets.load("sleepstudy")
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", data)
        >>> fit.predict(data.head(2)).round(2).tolist()
        [253.66, 273.33]
        >>> fit.predict(data.head(2), re_form="NA").round(2).tolist()
        [251.41, 261.87]
        """
        interval = intervals.interval_name(interval)
        rows, chosen, index = self._prediction_rows(newdata, re_form, allow_new_levels, na_action)
        fit = prediction.mean(self.design, self.estimates, rows, chosen, random_only)
        if not se_fit and interval is None:
            return self._labelled(fit, newdata, index)
        if random_only:
            raise DesignError("standard errors are for whole predictions: leave out random_only or se_fit.")
        variance = intervals.mean_variance(self.design, self.estimates, self._calibration, rows, chosen)
        noise: FloatArray | float = self._calibration.noise
        if newdata is None and self.design.weights is not None:
            noise = noise / self.design.weights
        frame = prediction.interval_frame(fit, variance, noise, interval, level, index)
        if newdata is None and self._pads:
            return frame.apply(lambda column: self._series(column.to_numpy()))
        return frame

    def _prediction_rows(
        self, newdata: Any, re_form: Any, allow_new_levels: bool, na_action: str
    ) -> tuple[NewRows, tuple[np.ndarray, ...], pd.Index]:
        """Rows of the fit or new ones, the columns of the random terms that take part, and labels."""
        chosen = selection(self.design, re_form)
        if newdata is None:
            return prediction.rows_of_fit(self.design), chosen, self._row_names
        rows = self._new_rows(newdata, [bool(keep.any()) for keep in chosen], na_action)
        if not allow_new_levels:
            prediction.check_levels(self.design, rows, chosen)
        return rows, chosen, pd.Index(rows.row_names)

    def _labelled(self, values: FloatArray, newdata: Any, index: pd.Index) -> pd.Series:
        return self._series(values) if newdata is None else pd.Series(values, index=index)

    def _new_rows(self, newdata: Any, random: bool | list[bool], na_action: str = "pass") -> NewRows:
        rows = self.frame.new_data(newdata, self.design, random=random, na_action=na_action)
        if self.estimates.networks is None:
            return rows
        return dataclasses.replace(rows, offset=rows.offset + self.estimates.networks.values(rows.nets))

    @cached_property
    def _calibration(self) -> Calibration:
        return intervals.calibration_of(self.design, self.estimates)

    def update_random_effects(self, newdata: Any) -> Self:
        """The fit with random effects that know more rows: conditional modes given the old and the new ones.

        Fixed effects, variances, dispersion and networks stay as they were estimated, so that a level which the fit
        has not seen gets its effect from a few rows, without a refit.

        Parameters
        ----------
        newdata : DataFrame
            New rows with the response, of old levels, new ones or both. Rows that lack a value are left out.

        Returns
        -------
        MixedFit or GeneralizedFit
            Of all rows. What was sampled is left behind: the effects of a model fitted by method "mcem" become modes.

        Raises
        ------
        DesignError
            For random terms that are no bars, or weights or an offset that were given as values.

        Examples
        --------
        >>> import pylmernn
        >>> data = pylmernn.datasets.load("sleepstudy")
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", data[data["Subject"] != "372"])
        >>> after = fit.update_random_effects(data[data["Subject"] == "372"].head(3))
        >>> after.fixef().equals(fit.fixef()), after.ranef()["Subject"].loc["372"].round(1).tolist()
        (True, [15.6])
        """
        update_ranef.check_terms(self.design)
        rows = self._new_rows(newdata, True)
        family = getattr(self.estimates, "family", None)
        design, frame, kept = append_rows(
            self.design, self.frame, newdata, rows, self.call.get("weights"), None if family is None else family.name
        )
        estimates, networks = self.estimates, self.estimates.networks
        if networks is not None:
            f = networks.values([inputs[kept] for inputs in rows.nets])
            networks = update_ranef.longer_networks(networks, f)
        estimates = dataclasses.replace(update_ranef.updated_estimates(design, estimates), networks=networks)
        return type(self)(design, estimates, frame, {**self.call, "data": None})

    def simulate(
        self,
        nsim: int = 1,
        seed: int | np.random.Generator | None = None,
        use_u: bool = False,
        re_form: Any = "NA",
        newdata: Any = None,
        allow_new_levels: bool = False,
    ) -> pd.DataFrame:
        """New responses drawn from the fitted model.

        Parameters
        ----------
        nsim : int, default 1
        seed : int or numpy Generator, optional
        use_u : bool, default False
            Keep all random effects at their conditional modes (``re_form=None``).
        re_form : None, "NA" or str, default "NA"
            Which random effects to keep at their conditional modes; the others are drawn anew.
        newdata : DataFrame, optional
            By default the rows of the fit.
        allow_new_levels : bool, default False
            Draw effects for levels the fit has not seen, instead of refusing them.

        Returns
        -------
        DataFrame, shape (rows, nsim)
            Columns sim_1, sim_2, ...

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
        >>> fit.simulate(nsim=2, seed=1).shape
        (30, 2)
        """
        if nsim < 1:
            raise DesignError(f"nsim is {nsim}: ask for at least one simulation.")
        everything = selection(self.design, None)
        chosen = everything if use_u else selection(self.design, re_form)
        unseen: list[np.ndarray | None] = [None] * len(self.design.random)
        if newdata is None:
            rows, index = prediction.rows_of_fit(self.design), self._row_names
            weights = self.design.weights
        else:
            rows, weights = self._new_rows(newdata, True), None
            index = pd.Index(rows.row_names)
            if not allow_new_levels:
                prediction.check_levels(self.design, rows, everything)
            unseen = [
                None if term.locations is not None else group_codes(self.frame, newdata, term.label)
                for term in self.design.random
            ]
        draws = self._draw(rows, chosen, unseen, weights, nsim, np.random.default_rng(seed))
        return pd.DataFrame(draws, index=index, columns=[f"sim_{i + 1}" for i in range(nsim)])

    def _draw(
        self,
        rows: NewRows,
        chosen: prediction.Selection,
        unseen: list[np.ndarray | None],
        weights: FloatArray | None,
        nsim: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Responses, (rows, nsim)."""
        return simulation.simulate(self.design, self.estimates, rows, chosen, unseen, weights, nsim, rng)

    def hatvalues(self) -> pd.Series:
        """Leverages: how much each fitted value follows its own response, theta held fixed."""
        return self._series(diagnostics.hat_values(self.design, self.estimates))

    def cooks_distance(self) -> pd.Series:
        """Cook's distance of each row on the fixed effects, as lme4's (theta held fixed)."""
        hat = diagnostics.hat_values(self.design, self.estimates)
        pearson = diagnostics.residuals(self.design, self._mu, self.estimates.sigma, "pearson")
        return self._series(diagnostics.cooks_distance(hat, pearson, self.estimates.sigma, self.design.p))

    def rstudent(self) -> pd.Series:
        """Studentized residuals."""
        hat = diagnostics.hat_values(self.design, self.estimates)
        pearson = diagnostics.residuals(self.design, self._mu, self.estimates.sigma, "pearson")
        return self._series(diagnostics.studentized(hat, pearson, self.estimates.sigma))
