"""``SeveralFit``: a network with parameters that vary by several factors, or beside ordinary random effects."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_predict import new_effects
from pylmernn.fit.intervals import interval_name
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.varying_linear import LinearVaryingVerbs
from pylmernn.fit.varying_several_answers import SeveralAnswers
from pylmernn.fit.varying_several_text import summary_text
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, DesignError


class SeveralFit(SeveralAnswers, LinearVaryingVerbs):
    """A fitted ``y = offset + X beta + f(x; theta_bar + sum_t eta^t) + Z b + e``.

    Made by :func:`pylmernn.lmernn` for formulas such as ``"y ~ nn(x) + (nn.last | culture/person)"`` or
    ``"y ~ nn(x) + (nn.last | person) + (1 | school)"``. Deviations of the factors by which the network varies add up,
    so that a new person of a known culture has the culture's network.

    Attributes
    ----------
    design : Design
    estimates : SeveralEstimates
    frame : ModelFrame
    call : dict
        The arguments.
    """

    def __init__(self, design: Design, estimates: SeveralEstimates, frame: ModelFrame, call: dict[str, Any]) -> None:
        self.design, self.estimates, self.frame, self.call = design, estimates, frame, call

    def logLik(self) -> LogLik:
        """Log-likelihood (the REML one after REML) given the layers below what varies; else of the linearised model.

        Parameters counted are fixed effects, theta_bar of what varies, those of the covariance matrices, and sigma.
        """
        df = self._n_means + self.estimates.n_variances + 1
        return LogLik(-0.5 * self.estimates.objective, df, self.design.n)

    # ---- values

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
        average: int = 0,
        seed: int = 0,
    ) -> pd.Series | pd.DataFrame:
        """Predictions for known levels and new ones.

        Parameters
        ----------
        newdata : DataFrame, optional
            By default the rows of the fit.
        re_form : None, "NA" or str, default None
            "NA" for the generic network and no random effects; a formula such as "~ (nn.last | culture)" for the bars
            that it names.
        random_only : bool, default False
            What the random effects add to the generic prediction, alone.
        allow_new_levels : bool, default False
            Whether levels that the fit has not seen have effects of zero. A new person of a known culture so has the
            culture's network.
        se_fit : bool, default False
            Also standard errors of the mean: random effects of all bars, fixed effects and last layer jointly,
            variances taken as known.
        interval : {None, "confidence", "prediction", True}
            Also limits, for the mean or (True as well) for a new response of weight 1.
        level : float, default 0.95
            Of the limits.
        na_action : {"pass", "omit", "fail"}
            Rows of newdata with missing values: give NaN, leave them out, or refuse.
        average : int, default 0
            So many draws of the deviations of levels that are not known, over which predictions are averaged instead.
        seed : int, default 0
            Of the draws.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr)

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, or a bar that the model has not.

        Notes
        -----
        Variances are those of the model linearised at the estimates, which is the linear mixed model itself where only
        the last layer varies (:mod:`pylmernn.engines.nme_several_variance`). A new level adds the variance of its
        random effects, whereas bars that ``re_form`` leaves out add nothing. Levels learnt by :meth:`update_ranef`
        count as if all had been estimated together. What :meth:`pylmernn.fit.varying.VaryingFit.predict` says of the
        layers below the last and of the noise holds here too.
        """
        interval = interval_name(interval)
        if random_only and (se_fit or interval or average):
            raise DesignError("random_only is for predictions alone: leave out se_fit, interval and average.")
        asked = self._asked(newdata, re_form, allow_new_levels, na_action)
        if random_only:
            added = self._linear_predictors(asked) - self._linear_predictors(asked.generic)
            return pd.Series(added, index=asked.rows.row_names)
        found = self.estimates.fitted if asked.whole else self._linear_predictors(asked, average, seed)
        if not se_fit and interval is None:
            return pd.Series(found, index=asked.rows.row_names)
        weights = self.design.weights if newdata is None else None
        return self._error_frame(asked, found, weights, interval, level)

    def update_ranef(self, newdata: Any) -> SeveralFit:
        """The same fit with the effects of further levels, from rows of theirs; all else stays as it is.

        Effects of levels that the fit knows stay too: rows of a new person of a known culture tell of the person alone.
        Posterior modes by Gauss-Newton steps, with variances of the model linearised there.

        Parameters
        ----------
        newdata : DataFrame
            With the response, and no missing values.

        Returns
        -------
        SeveralFit
            Whose ``ranef`` and ``predict`` know the new levels.

        Raises
        ------
        DesignError
            For rows without a new level, missing columns or values, or an infinite response.
        """
        rows, y = self._learnt_rows(newdata)
        names, columns = self._level_names(rows, newdata)
        fresh, levels = self._fresh(names, columns)
        rest = y - rows.offset - rows.X @ self.estimates.beta
        after = self._grown(new_effects(self.estimates, rows.nets[0], rest, fresh), levels)
        return self._with_learnt(after, rows, fresh, np.ones(len(y)))

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
