"""``SeveralGeneralizedFit``: a generalized model whose network varies by several factors, or beside ordinary bars."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_generalized_predict import means
from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates
from pylmernn.engines.nme_several_generalized_predict import Responses, averaged_means, information_with
from pylmernn.engines.nme_several_predict import new_effects
from pylmernn.fit.intervals import interval_name
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.several_bars import Asked
from pylmernn.fit.varcorr import VarCorr
from pylmernn.fit.varying_family import TYPES, FamilyVerbs
from pylmernn.fit.varying_intervals import generalized_limits
from pylmernn.fit.varying_linear import LinearVaryingVerbs
from pylmernn.fit.varying_several_answers import SeveralAnswers, several_rows
from pylmernn.fit.varying_several_text import summary_text
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, DesignError, FloatArray


class SeveralGeneralizedFit(FamilyVerbs, SeveralAnswers, LinearVaryingVerbs):
    """A fitted generalized model with linear predictors ``offset + X beta + f(x; theta_bar + sum_t eta^t) + Z b``.

    Made by :func:`pylmernn.glmernn` for formulas such as ``"y ~ nn(x) + (nn.last | culture/person)"`` or
    ``"y ~ nn(x) + (nn.last | person) + (1 | school)"``. Has the verbs of
    :class:`pylmernn.fit.varying_several.SeveralFit`, and those of a family.

    Attributes
    ----------
    design : Design
    estimates : SeveralGeneralizedEstimates
    frame : ModelFrame
    call : dict
        The arguments.
    """

    estimates: SeveralGeneralizedEstimates

    def __init__(
        self, design: Design, estimates: SeveralGeneralizedEstimates, frame: ModelFrame, call: dict[str, Any]
    ) -> None:
        self.design, self.estimates, self.frame, self.call = design, estimates, frame, call

    # ---- estimates

    def VarCorr(self) -> VarCorr:
        """As :meth:`SeveralFit.VarCorr`, on the scale of the link; there is no residual variance."""
        return VarCorr(super().VarCorr().terms, 1.0, residual=False)

    def logLik(self) -> LogLik:
        """Log-likelihood by Laplace's approximation, given the layers below what varies; else of the linearised model.

        Parameters counted are fixed effects, theta_bar of what varies, those of the covariance matrices, and the
        dispersion or thresholds.
        """
        e = self.estimates
        df = self._n_means + e.n_variances + len(np.atleast_1d(self._family.unconstrained(e.phi)))
        return LogLik(-0.5 * e.objective, df, self.design.n)

    # ---- values

    def predict(
        self,
        newdata: Any = None,
        re_form: Any = None,
        random_only: bool = False,
        allow_new_levels: bool = False,
        type: str | None = None,
        na_action: str = "pass",
        se_fit: bool = False,
        interval: str | bool | None = None,
        level: float = 0.95,
        average: int = 0,
        seed: int = 0,
    ) -> Any:
        """Predictions for known levels and new ones.

        Parameters
        ----------
        newdata, re_form, random_only, allow_new_levels, na_action
            As in :meth:`pylmernn.fit.varying_several.SeveralFit.predict`.
        type : {"link", "response", "prob", "class"}, optional
            Linear predictors, means (probabilities of a response of several classes), probabilities, or the most
            probable class. By default linear predictors; with ``average`` means.
        se_fit : bool, default False
            Also standard errors, by the normal approximation at the modes; for "response" by the delta method.
        interval : {None, "confidence", "prediction", True}
            Also limits: "confidence" of the linear predictor (for "response" carried through the inverse link),
            "prediction" (True as well) of a new response by 4,000 draws; needs ``type="response"``.
        level : float, default 0.95
            Of the limits.
        average : int, default 0
            So many draws of the random effects of levels that are not known, and of bars of the network that
            ``re_form`` leaves out, over which means are averaged instead.
        seed : int, default 0
            Of the draws.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr), or one a class

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, a bar that the model has not, or an unknown
            type.
        """
        interval = interval_name(interval)
        if type is None:
            type = "response" if average else "link"
        if type not in TYPES:
            raise DesignError(f"type is '{type}': use one of {', '.join(TYPES)}.")
        errors = se_fit or interval is not None
        if errors and (type in ("prob", "class") or average or random_only):
            raise DesignError("standard errors are for type='link' or 'response', without average and random_only.")
        if type == "link" and average:
            raise DesignError("average is for means and probabilities: leave it out with type='link'.")
        if random_only and type != "link":
            raise DesignError("random_only is for type='link' alone, as random effects add to linear predictors.")
        if type == "prob":
            return self.predict_proba(newdata, re_form, allow_new_levels, average, seed, na_action)
        if type == "class":
            return self._most_likely(self.predict_proba(newdata, re_form, allow_new_levels, average, seed, na_action))
        asked = self._asked(newdata, re_form, allow_new_levels, na_action)
        eta = self._eta(asked)
        if random_only:
            return self._table(eta - self._linear_predictors(asked.generic), asked.rows.row_names)
        if not errors:
            found = eta if type == "link" else self._means(asked, eta, average, seed)
            return self._table(found, asked.rows.row_names)
        rows = several_rows(asked, self.design.weights if newdata is None else None)
        variance, index = self._variances(asked, rows), pd.Index(asked.rows.row_names)
        return generalized_limits(self.estimates, eta, variance, rows.weights, type, interval, level, seed, index)

    def predict_proba(
        self,
        newdata: Any = None,
        re_form: Any = None,
        allow_new_levels: bool = False,
        average: int = 0,
        seed: int = 0,
        na_action: str = "pass",
    ) -> pd.DataFrame:
        """Probabilities of the classes, a column each; of failure and success for a binomial response.

        Parameters
        ----------
        newdata, re_form, allow_new_levels, average, seed, na_action
            As in :meth:`predict`.

        Raises
        ------
        DesignError
            For a response that has no classes.
        """
        asked = self._asked(newdata, re_form, allow_new_levels, na_action)
        return self._probability_table(self._means(asked, self._eta(asked), average, seed), asked.rows.row_names)

    def _eta(self, asked: Asked) -> FloatArray:
        return self.estimates.fitted if asked.whole else self._linear_predictors(asked)

    def _means(self, asked: Asked, eta: FloatArray, average: int, seed: int) -> FloatArray:
        """Means (m,) or probabilities (m, C), averaged over draws for levels that take no part where that is wanted."""
        if not average:
            return means(self.estimates, eta)
        rows, e = asked.rows, self.estimates
        some = several_rows(asked)
        fixed = rows.offset + rows.X @ e.beta
        found = averaged_means(e, rows.nets[0], fixed, some.codes, some.columns, average, seed)
        found[np.isnan(eta)] = np.nan
        return found

    def update_ranef(self, newdata: Any) -> SeveralGeneralizedFit:
        """The same fit with the effects of further levels, from rows of theirs; all else stays as it is.

        See :meth:`pylmernn.fit.varying_several.SeveralFit.update_ranef`.

        Parameters
        ----------
        newdata : DataFrame
            With the response, and no missing values.

        Raises
        ------
        DesignError
            For rows without a new level, missing columns or values, or a class that the fit has not seen.
        """
        rows, e = self.frame.new_data(newdata, self.design, varying=True, na_action="fail"), self.estimates
        y, weights = self._new_response(newdata, len(rows.X))
        names, columns = self._level_names(rows, newdata)
        fresh, levels = self._fresh(names, columns)
        responses = Responses(e, y, weights, rows.offset + rows.X @ e.beta)
        found = new_effects(e, rows.nets[0], responses, fresh)
        information = information_with(e, responses, rows.nets[0], fresh, found)
        return self._with_learnt(self._grown(found, levels), rows, fresh, information)

    # ---- text

    def summary(self) -> str:
        """The fit at a glance, as text."""
        return self._text

    @cached_property
    def _text(self) -> str:
        return summary_text(self.design, self.estimates, self.formula(), self.fixef(), self.VarCorr(), self.ngrps())

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__
