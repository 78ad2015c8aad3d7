"""What a generalized fit says of rows: means, probabilities and classes, their uncertainty, residuals, simulation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.covariance import split_theta
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.network_variance import Calibration
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.working_model import working_model
from pylmernn.families import Family
from pylmernn.families.family import Dispersion
from pylmernn.fit import intervals, probabilities
from pylmernn.fit import predict as prediction
from pylmernn.fit import simulate as simulation
from pylmernn.fit.verbs_prediction import PredictionVerbs
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows

RESIDUAL_TYPES = ("deviance", "pearson", "response", "working")
PREDICTION_TYPES = ("link", "response", "class")
#: Half the width of the differences that give the slope of the mean in eta.
SLOPE_STEP = 1e-5
#: Draws behind the limits of a new response.
DRAWS = 4000


class GeneralizedPrediction(PredictionVerbs):
    """The verbs about rows, where a family stands between the linear predictor and the response."""

    estimates: GeneralizedEstimates

    @property
    def _family(self) -> Family:
        assert self.estimates.family is not None
        return self.estimates.family

    @property
    def _weights(self) -> FloatArray:
        return np.ones(self.design.n) if self.design.weights is None else self.design.weights

    @cached_property
    def _eta(self) -> FloatArray:
        return prediction.fixed_part(self.design, self.estimates) + prediction.random_part(self.design, self.estimates)

    @cached_property
    def _mu(self) -> FloatArray:
        """Means of the rows; for classes in order, of their codes."""
        if self._family.categorical:
            P = self._probabilities(self._eta)
            return np.asarray(P @ np.arange(P.shape[1]))
        return self._mean(self._eta)

    def _mean(self, eta: FloatArray) -> FloatArray:
        """Means (m,) at linear predictors (m,)."""
        return self._family.mean(eta, self.estimates.phi)

    def _probabilities(self, eta: FloatArray) -> FloatArray:
        """Probabilities of the classes (m, C) at linear predictors (m,)."""
        if self._family.categorical:
            return self._family.probabilities(eta, self.estimates.phi)
        return probabilities.two_classes(self._mean(eta))

    def fitted(self) -> pd.Series | pd.DataFrame:  # type: ignore[override]
        """Fitted means, random effects at their conditional modes; of an ordinal model a column of probabilities a
        class. Labelled as the data.
        """
        if not self._family.categorical:
            return self._series(self._mu)
        return self._padded(probabilities.probability_frame(
            self._probabilities(self._eta), self.design.classes, self._row_names
        ))  # fmt: skip

    def _padded(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows in use, with NaN where rows were excluded."""
        return frame.apply(lambda column: self._series(column.to_numpy())) if self._pads else frame

    # ---- residuals

    def _residuals(self, type: str) -> FloatArray:
        if type not in RESIDUAL_TYPES:
            raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
        e = self.estimates
        return residuals_of(self._family, type, self.design.y, self._weights, self._eta, self._mu, e.phi)

    def residuals(self, type: str = "deviance", scaled: bool = False) -> pd.Series:
        """Residuals.

        Parameters
        ----------
        type : {"deviance", "pearson", "response", "working", "scaled"}
            "scaled" is "pearson" over sigma. Of an ordinal model "response" is of the codes 0, 1, ... of the classes,
            which also gives the others their sign; "pearson" sums over the classes.
        scaled : bool, default False
            Divide by sigma.
        """
        values = self._residuals("pearson" if type == "scaled" else type)
        return self._series(values / self.sigma() if scaled or type == "scaled" else values)  # type: ignore[attr-defined]

    resid = residuals

    # ---- predictions

    def predict(  # type: ignore[override]
        self,
        newdata: Any = None,
        re_form: Any = None,
        random_only: bool = False,
        allow_new_levels: bool = False,
        type: str = "link",
        na_action: str = "pass",
        se_fit: bool = False,
        interval: str | bool | None = None,
        level: float = 0.95,
        marginal: bool = False,
        seed: int = 0,
    ) -> pd.Series | pd.DataFrame:
        """Predictions, of the data or of new rows.

        Parameters
        ----------
        newdata, re_form, random_only, allow_new_levels, na_action
            As for a linear mixed model, :meth:`MixedFit.predict`.
        type : {"link", "response", "class"}
            The linear predictor; the mean (of an ordinal model the probabilities, a column a class); or, of binomial
            and ordinal models, the most likely class.
        se_fit : bool, default False
            Also standard errors: fixed effects, conditional modes and networks jointly, by the normal approximation at
            the modes, variances taken as known. For "response" by the delta method.
        interval : {None, "confidence", "prediction", True}
            Also limits: "confidence" of the linear predictor (for "response" carried through the inverse link),
            "prediction" (True as well) of a new response with the row's weight, by 4,000 draws; needs
            ``type="response"``.
        level : float, default 0.95
            Of the limits.
        marginal : bool, default False
            For "response" and levels the fit has not seen: the mean over their distribution, ``b ~ N(0, Sigma)``,
            instead of that at ``b = 0``, which is lme4's.
        seed : int, default 0
            Of the draws behind a prediction interval.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr), or one a class
            Labelled as newdata.

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, limits for new binary responses or classes, or a mean over new
            levels that does not exist (inverse links).

        Notes
        -----
        A level that the fit has not seen adds its whole prior variance. Networks add that of their last layer,
        calibrated on held-out rows of the working linear model (:mod:`pylmernn.engines.working_model`), as for linear
        mixed models. The uncertainty of thresholds and dispersions is left out.
        """
        if type not in PREDICTION_TYPES:
            raise DesignError(f"type is '{type}': use 'link', 'response' or 'class'.")
        interval = intervals.interval_name(interval)
        if type == "class":
            if se_fit or interval or random_only:
                raise DesignError("type='class' names classes only: use predict_proba() to see how certain they are.")
            return probabilities.most_likely(
                self.predict_proba(newdata, re_form, allow_new_levels, marginal, na_action)
            )
        rows, chosen, index = self._prediction_rows(newdata, re_form, allow_new_levels, na_action)
        eta = prediction.mean(self.design, self.estimates, rows, chosen, random_only)
        if se_fit or interval is not None:
            if random_only or marginal:
                what = "random_only" if random_only else "marginal"
                raise DesignError(f"standard errors are for whole predictions given b: leave out {what} or se_fit.")
            frame = self._with_errors(eta, rows, chosen, type, interval, level, newdata is None, seed, index)
            return self._padded(frame) if newdata is None else frame
        if type == "link":
            return self._labelled(eta, newdata, index)
        variance = self._unseen_variance(rows, chosen) if marginal else np.zeros(len(eta))
        if self._family.categorical:
            P = probabilities.normal_mean(self._probabilities, eta, variance)
            frame = probabilities.probability_frame(P, self.design.classes, index)
            return self._padded(frame) if newdata is None else frame
        return self._labelled(self._marginal_mean(eta, variance), newdata, index)

    def predict_proba(
        self,
        newdata: Any = None,
        re_form: Any = None,
        allow_new_levels: bool = False,
        marginal: bool = True,
        na_action: str = "pass",
    ) -> pd.DataFrame:
        """Probabilities of the classes of a binomial or ordinal response, one column each.

        Parameters
        ----------
        newdata, re_form, allow_new_levels, na_action
            As in :meth:`predict`.
        marginal : bool, default True
            For levels the fit has not seen: the mean over ``b ~ N(0, Sigma)``, which is the probability for a level
            drawn at random; False takes ``b = 0``, as ``predict`` does by default.

        Returns
        -------
        DataFrame, shape (rows, classes)
            Columns are the levels of a factor (of a binomial one the first is failure), else "0" and "1".

        Raises
        ------
        DesignError
            For a response that has no classes; otherwise as :meth:`predict`.
        """
        if not self._family.categorical and self._family.name != "binomial":
            raise DesignError(
                f"predict_proba() is for classes, not for the {self._family.name} family: use predict(type='response')."
            )
        found = self.predict(newdata, re_form, False, allow_new_levels, "response", na_action, marginal=marginal)
        if isinstance(found, pd.DataFrame):
            return found
        P = probabilities.two_classes(found.to_numpy(dtype=float))
        return probabilities.probability_frame(P, self.design.classes, found.index)

    def _marginal_mean(self, eta: FloatArray, variance: FloatArray) -> FloatArray:
        """Means over the effects of unseen levels, (m,)."""
        if type(self._family).mean is Family.mean:
            return probabilities.marginal_mean(self._family.link, eta, variance)
        return probabilities.normal_mean(self._mean, eta, variance)

    def _unseen_variance(self, rows: NewRows, chosen: prediction.Selection) -> FloatArray:
        roots = split_theta(self.design.random, self.estimates.theta)
        return probabilities.unseen_variance(rows, [root @ root.T for root in roots], chosen)

    @cached_property
    def _working(self) -> tuple[Design, Estimates]:
        return working_model(self.design, self.estimates)

    @cached_property
    def _calibration(self) -> Calibration:
        return intervals.working_calibration(*self._working)

    def _with_errors(
        self,
        eta: FloatArray,
        rows: NewRows,
        chosen: prediction.Selection,
        type: str,
        interval: str | None,
        level: float,
        of_fit: bool,
        seed: int,
        index: pd.Index,
    ) -> pd.DataFrame:
        """Columns fit, se, and lwr, upr where limits are asked for."""
        variance = intervals.mean_variance(*self._working, self._calibration, rows, chosen)
        limits = None if interval is None else "confidence"
        frame = prediction.interval_frame(eta, variance, 0.0, limits, level, index)
        if interval == "prediction":
            if type != "response":
                raise DesignError("a new response is on its own scale: use type='response' with interval='prediction'.")
            weights = self._weights if of_fit else np.ones(len(eta))
            se = np.sqrt(np.maximum(variance, 0.0))
            lower, upper = response_limits(self._family, self.estimates.phi, eta, se, weights, level, seed)
        if type == "link":
            return frame
        if self._family.categorical:
            raise DesignError("standard errors of an ordinal model are of the linear predictor: use type='link'.")
        slope = np.abs(self._mean(eta + SLOPE_STEP) - self._mean(eta - SLOPE_STEP)) / (2.0 * SLOPE_STEP)
        out = pd.DataFrame({"fit": self._mean(eta), "se": frame["se"].to_numpy() * slope}, index=index)
        if interval == "confidence":
            ends = np.sort([self._mean(frame[end].to_numpy()) for end in ("lwr", "upr")], axis=0)
            out["lwr"], out["upr"] = ends
        elif interval == "prediction":
            out["lwr"], out["upr"] = lower, upper
        return out

    # ---- simulation

    def _draw(
        self,
        rows: NewRows,
        chosen: prediction.Selection,
        unseen: list[np.ndarray | None],
        weights: FloatArray | None,
        nsim: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        eta = simulation.linear_predictors(self.design, self.estimates, rows, chosen, unseen, nsim, rng)
        given = np.ones(len(eta)) if weights is None else weights
        draws = [
            self._family.draw(rng, self._family.link.inverse(column), given, self.estimates.phi) for column in eta.T
        ]
        return np.column_stack(draws)


def residuals_of(
    family: Family, type: str, y: FloatArray, weights: FloatArray, eta: FloatArray, mu: FloatArray, phi: Dispersion
) -> FloatArray:
    """Residuals (n,) of a type of RESIDUAL_TYPES, for linear predictors eta and means mu."""
    raw = y - mu
    if type == "response":
        return raw
    if type == "pearson":
        return np.asarray(np.sign(raw) * np.sqrt(family.pearson(y, weights, eta, phi)))
    if type == "deviance":
        deviance = weights * family.unit_deviance(y, family.link.inverse(eta), phi)
        return np.asarray(np.sign(raw) * np.sqrt(np.maximum(deviance, 0.0)))
    if family.categorical:
        step = family.step(y, weights, eta, phi)
        return step.score / step.observed
    return np.asarray(raw / family.link.derivatives(eta)[1])


def response_limits(
    family: Family, phi: Dispersion, eta: FloatArray, se: FloatArray, weights: FloatArray, level: float, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Quantiles of new responses whose linear predictors are normal, (m,) each.

    Parameters
    ----------
    family, phi : the family and its dispersion
    eta, se : ndarray, shape (m,)
        Linear predictors and their standard errors.
    weights : ndarray, shape (m,)
    level : float
    seed : int
        Of the draws.

    Raises
    ------
    DesignError
        For single binary responses, or classes.
    """
    if family.categorical or (family.name == "binomial" and (weights == 1).all()):
        raise DesignError(
            "a new response of one trial is one class or another, which no interval tells: use predict_proba(), or "
            "interval='confidence' for its probability."
        )
    rng = np.random.default_rng(seed)
    a = (1.0 - level) / 2.0
    ends = np.full((2, len(eta)), np.nan)
    known = np.flatnonzero(np.isfinite(eta) & np.isfinite(se))
    size = max(1, 2_000_000 // DRAWS)
    for start in range(0, len(known), size):
        part = known[start : start + size]
        draws = eta[part] + se[part] * rng.standard_normal((DRAWS, len(part)))
        given = np.tile(weights[part], DRAWS)
        values = family.draw(rng, family.link.inverse(draws.ravel()), given, phi)
        ends[:, part] = np.quantile(values.reshape(DRAWS, -1), [a, 1.0 - a], axis=0)
    return ends[0], ends[1]
