"""``SeveralFit``: a network with parameters that vary by several factors, or beside ordinary random effects."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_predict import new_effects
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.several_bars import SeveralBars
from pylmernn.fit.varying_linear import LinearVaryingVerbs
from pylmernn.fit.varying_several_text import summary_text
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, FloatArray


class SeveralFit(SeveralBars, LinearVaryingVerbs):
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
        allow_new_levels: bool = False,
        average: int = 0,
        seed: int = 0,
    ) -> pd.Series:
        """Predictions for known levels and new ones.

        Parameters
        ----------
        newdata : DataFrame, optional
            By default the rows of the fit.
        re_form : None, "NA" or str, default None
            "NA" for the generic network and no random effects; a formula such as "~ (nn.last | culture)" for the bars
            that it names.
        allow_new_levels : bool, default False
            Whether levels that the fit has not seen have effects of zero. A new person of a known culture so has the
            culture's network.
        average : int, default 0
            So many draws of the deviations of levels that are not known, over which predictions are averaged instead.
        seed : int, default 0
            Of the draws.

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, or a bar that the model has not.
        """
        asked = self._asked(newdata, re_form, allow_new_levels)
        if asked.whole:
            return self.fitted()
        return pd.Series(self._linear_predictors(asked, average, seed), index=asked.rows.row_names)

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
        return self.with_rows(
            rows.nets[0], y - rows.offset - rows.X @ self.estimates.beta, *self._level_names(rows, newdata)
        )

    def with_rows(
        self,
        inputs: FloatArray,
        rest: FloatArray,
        names: list[NDArray[Any]],
        columns: list[FloatArray | None],
    ) -> SeveralFit:
        """:meth:`update_ranef` for rows as arrays: levels (m,) and, of ordinary bars, columns (m, d) of each bar."""
        fresh, levels = self._fresh(names, columns)
        return self._grown(new_effects(self.estimates, inputs, rest, fresh), levels)

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
