"""``VaryingFit``: a model whose network has parameters that vary by group, with lme4's verbs."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_model import HeldOut
from pylmernn.engines.nme_predict import averaged, new_effects, values
from pylmernn.fit.intervals import interval_name
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.ranef import Ranef
from pylmernn.fit.varcorr import TermCovariance, VarCorr
from pylmernn.fit.varying_answers import NOTHING as NOTHING
from pylmernn.fit.varying_answers import VaryingAnswers, is_generic
from pylmernn.fit.varying_intervals import error_frame, fit_rows, group_rows, with_more
from pylmernn.fit.varying_linear import LinearVaryingVerbs, new_levels_error
from pylmernn.fit.varying_text import summary_text
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, DesignError, FloatArray, IntArray, NewRows


class Deviations(Ranef):
    """Deviations of each group's parameters; where there are no full matrices ``condVar`` holds variances (q, D)."""

    def condsd(self) -> dict[str, pd.DataFrame]:
        """Conditional standard deviations, shaped as the deviations."""
        if self.condVar is None:
            raise ValueError("these random effects have no variances: ask for ranef(condVar=True).")
        out = {}
        for group, table in self.items():
            (own,) = self.condVar[group]
            variances = own if own.ndim == 2 else np.einsum("qdd->qd", own)
            out[group] = pd.DataFrame(np.sqrt(np.maximum(variances, 0)), index=table.index, columns=table.columns)
        return out


class VaryingFit(LinearVaryingVerbs, VaryingAnswers):
    """A fitted ``y = offset + X beta + f(x; theta_bar + eta_i) + e`` with ``eta_i ~ N(0, Sigma)`` in group i.

    Made by :func:`pylmernn.lmernn` for formulas such as ``"y ~ nn(x) + (nn.last | person)"``.

    Attributes
    ----------
    design : Design
    estimates : VaryingEstimates
    frame : ModelFrame
    call : dict
        The arguments.
    """

    def __init__(self, design: Design, estimates: VaryingEstimates, frame: ModelFrame, call: dict[str, Any]) -> None:
        self.design, self.estimates, self.frame, self.call = design, estimates, frame, call

    # ---- estimates

    @property
    def held_out(self) -> HeldOut | None:
        """Where ``(nn | g)`` lets all layers vary and rows are few: what held-out rows say for and against.

        An object with ``rows``, the mean losses ``last`` and ``all`` where the last layer or all vary, ``noise``, the
        standard error of their difference, and ``kept``. None where nothing was compared.
        """
        return self.estimates.held_out

    def ranef(self, condVar: bool = False) -> Deviations:
        """Deviations eta_i of each group, a dict from grouping factor to a table of levels by parameters.

        Parameters
        ----------
        condVar : bool, default False
            Also posterior variances: exact given the layers below where only the last layer varies, else those of the
            model linearised at the modes.
        """
        term = self.design.varying[0]
        table = pd.DataFrame(
            self.estimates.effects,
            index=pd.Index(term.levels, name=term.group),
            columns=list(self.estimates.selected.labels),
        )
        found = Deviations({term.group: table})
        if condVar:
            found.condVar = {term.group: [self.estimates.variances]}
        return found

    def coef(self) -> Ranef:
        """Parameters of each group, ``theta_bar + eta_i``, beside the fixed effects."""
        (group, table), *_ = self.ranef().items()
        fixed = self.fixef()
        both = table + fixed[list(table.columns)]
        for name in reversed(self.design.fixed_names):
            both.insert(0, name, fixed[name])
        return Ranef({group: both})

    def VarCorr(self) -> VarCorr:
        """Variances by layer, named "group.layer"; one matrix, named by the group, where all covariances are free.

        Raises
        ------
        KeyError
            By the result, for a term that there is not.
        """
        selected, factor, group = self.estimates.selected, self.estimates.factor, self.design.varying[0].group
        if factor.ndim == 2 and (len(factor) <= factor.shape[1] or self.estimates.variances.ndim == 3):
            return VarCorr([TermCovariance(group, selected.labels, factor @ factor.T)], self.estimates.sigma)
        terms = []
        for layer in dict.fromkeys(selected.layers):
            inside = [k for k, own in enumerate(selected.layers) if own == layer]
            labels = tuple(selected.labels[k] for k in inside)
            own = factor[inside]
            block = np.diag(own**2) if own.ndim == 1 else own @ own.T
            terms.append(TermCovariance(f"{group}.{layer}", labels, block, correlated=own.ndim == 2))
        return VarCorr(terms, self.estimates.sigma)

    def logLik(self) -> LogLik:
        """Log-likelihood (the REML one after REML) given the layers below what varies; else of the linearised model."""
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
        """Predictions for known groups and new ones.

        Parameters
        ----------
        newdata : DataFrame, optional
            By default the rows of the fit.
        re_form : None or "NA", default None
            "NA" for the generic network, whatever the group.
        random_only : bool, default False
            What the deviations of a group add to the generic prediction, alone.
        allow_new_levels : bool, default False
            Whether groups that the fit has not seen get the generic network.
        se_fit : bool, default False
            Also standard errors of the mean: deviations, fixed effects and last layer jointly, variances taken as
            known.
        interval : {None, "confidence", "prediction", True}
            Also limits, for the mean or (True as well) for a new response of weight 1.
        level : float, default 0.95
            Of the limits.
        na_action : {"pass", "omit", "fail"}
            Rows of newdata with missing values: give NaN, leave them out, or refuse.
        average : int, default 0
            So many draws of deviations from N(0, Sigma), over which predictions for new groups (and all groups with
            ``re_form="NA"``) are averaged instead. A network that bends in its deviations has another mean.
        seed : int, default 0
            Of the draws.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr)

        Raises
        ------
        DesignError
            For new groups without ``allow_new_levels``, or missing columns.

        Notes
        -----
        Variances are those of the model linearised at the estimates, which is the linear mixed model itself where only
        the last layer varies (:mod:`pylmernn.engines.nme_variance`). A new group adds the variance of its deviations.
        The layers below the last count as known in standard errors, so intervals of the mean are too narrow beside
        hidden layers; the noise of a prediction interval counts what rows held out in training show.

        See Also
        --------
        update_ranef : deviations of new groups from a few rows of theirs
        """
        interval = interval_name(interval)
        generic = is_generic(re_form)
        if random_only and (se_fit or interval or average):
            raise DesignError("random_only is for predictions alone: leave out se_fit, interval and average.")
        if newdata is None:
            rows = dataclasses.replace(fit_rows(self.design), row_names=self._names)
            codes = np.full(self.design.n, -1, dtype=np.int32) if generic else self.design.varying[0].codes
        else:
            rows = self.frame.new_data(newdata, self.design, varying=not generic, na_action=na_action)
            codes = np.full(len(rows.X), -1, dtype=np.int32) if generic else self._codes(rows, allow_new_levels)
        inputs, fixed = rows.nets[0], self._fixed(rows)
        if random_only:
            difference = values(self.estimates, inputs, codes) - values(self.estimates, inputs, np.full_like(codes, -1))
            return pd.Series(difference, index=rows.row_names)
        known = newdata is None and not generic
        found = self.estimates.fitted.copy() if known else fixed + values(self.estimates, inputs, codes)
        unknown = codes < 0
        if average and unknown.any():
            found[unknown] = fixed[unknown] + averaged(self.estimates, inputs[unknown], average, seed)
        if not se_fit and interval is None:
            return pd.Series(found, index=rows.row_names)
        some = group_rows(rows, codes, self.design.weights if newdata is None else None)
        return error_frame(self._errors, found, some, not generic, interval, level, pd.Index(rows.row_names))

    def _codes(self, rows: NewRows, allow_new_levels: bool) -> IntArray:
        term = self.design.varying[0]
        codes = self._places(rows.varying[0])
        if (codes < 0).any() and not allow_new_levels:
            raise new_levels_error(term.group, rows.varying[0][codes < 0], "for the generic network")
        return codes

    def update_ranef(self, newdata: Any) -> VaryingFit:
        """The same fit with the deviations of further groups, from rows of theirs; all else stays as it is.

        Posterior modes by Gauss-Newton steps, with variances of the model linearised there. A group that the fit knows
        gets the deviations of the new rows alone, so give all its rows.

        Parameters
        ----------
        newdata : DataFrame
            With the response, and no missing values.

        Returns
        -------
        VaryingFit
            Whose ``ranef`` and ``predict`` know the new groups.

        Raises
        ------
        DesignError
            For missing columns, missing values, or an infinite response.
        """
        return self._with_rows(*self._learnt_rows(newdata))

    def _with_rows(self, rows: NewRows, y: FloatArray) -> VaryingFit:
        term, estimates = self.design.varying[0], self.estimates
        names = [str(level) for level in term.levels]
        given = [str(name) for name in rows.varying[0]]
        if "" in given:
            raise DesignError(f"the grouping factor '{term.group}' has missing values in the new rows.")
        fresh = list(dict.fromkeys(given))
        codes = np.array([fresh.index(name) for name in given], dtype=np.int32)
        rest = y - rows.offset - rows.X @ estimates.beta
        found = new_effects(estimates, rows.nets[0], rest, codes, len(fresh))
        added = [name for name in fresh if name not in names]
        levels = np.array([*names, *added])
        grown = [
            np.concatenate([old, np.zeros((len(added), *old.shape[1:]))])
            for old in (estimates.effects, estimates.variances)
        ]
        at = [list(levels).index(name) for name in fresh]
        for all_groups, own in zip(grown, found, strict=True):
            all_groups[at] = own
        design = dataclasses.replace(self.design, varying=(dataclasses.replace(term, levels=levels),))
        estimates = dataclasses.replace(estimates, effects=grown[0], variances=grown[1])
        after = VaryingFit(design, estimates, self.frame, self.call)
        after.added = with_more(self.added, group_rows(rows, np.array(at, dtype=np.int32)[codes]))
        return after

    # ---- text

    def summary(self) -> str:
        """The fit at a glance, as text."""
        return self._text

    @cached_property
    def _text(self) -> str:
        return summary_text(self.design, self.estimates, self.formula(), self.fixef(), self.VarCorr())

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__
