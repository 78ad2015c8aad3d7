"""``GeneralizedVaryingFit``: a generalized model whose network has parameters that vary by group."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.engines.nme_generalized_predict import averaged_means, means, new_effects
from pylmernn.engines.nme_predict import network_of, values
from pylmernn.engines.nme_working import Rows
from pylmernn.fit import rtext
from pylmernn.fit.intervals import interval_name
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.varcorr import VarCorr
from pylmernn.fit.varying import VaryingFit
from pylmernn.fit.varying_answers import is_generic
from pylmernn.fit.varying_family import TYPES, FamilyVerbs
from pylmernn.fit.varying_intervals import fit_rows, generalized_frame, group_rows, informed, with_more
from pylmernn.fit.varying_text import SHOWN, what_varies
from pylmernn.formula.design import DesignError, FloatArray, IntArray, NewRows


class GeneralizedVaryingFit(FamilyVerbs, VaryingFit):
    """A fitted generalized model with linear predictors ``offset + X beta + f(x; theta_bar + eta_i)`` in group i.

    Made by :func:`pylmernn.glmernn` for formulas such as ``"y ~ nn(x) + (nn.last | person)"``; has the verbs of
    :class:`pylmernn.fit.varying.VaryingFit` and probabilities.

    Attributes
    ----------
    design, estimates, frame, call
        As in :class:`pylmernn.fit.varying.VaryingFit`.
    """

    estimates: GeneralizedVaryingEstimates

    @property
    def _several(self) -> bool:
        return self.estimates.beta.ndim == 2

    def fixef(self) -> pd.Series:
        """Fixed effects, of each class in a multinomial model, then theta_bar of what varies."""
        own = network_of(self.estimates).vector().double().numpy()
        names = list(self.design.fixed_names)
        if self._several:
            names = [f"{name}:{level}" for name in names for level in self.estimates.classes]
        index = [*names, *self.estimates.selected.labels]
        return pd.Series(np.concatenate([self.estimates.beta.ravel(), own]), index=index)

    def coef(self) -> Any:
        """Parameters of each group, ``theta_bar + eta_i``, beside the fixed effects."""
        (group, table), *_ = self.ranef().items()
        fixed = self.fixef()
        both = table + fixed[list(table.columns)]
        for name in reversed(list(fixed.index[: self.estimates.beta.size])):
            both.insert(0, name, fixed[name])
        return type(self.ranef())({group: both})

    def VarCorr(self) -> VarCorr:
        """As :meth:`VaryingFit.VarCorr`, on the scale of the link; there is no residual variance."""
        return VarCorr(super().VarCorr().terms, 1.0, residual=False)

    def logLik(self) -> LogLik:
        """Log-likelihood by Laplace's approximation or quadrature, given the layers below what varies."""
        e = self.estimates
        assert e.family is not None
        dispersion = 0 if self._several else len(np.atleast_1d(e.family.unconstrained(e.phi)))
        df = self._n_means + e.n_variances + dispersion
        return LogLik(-0.5 * e.objective, df, self.design.n)

    # ---- values

    def predict(  # type: ignore[override]
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
        """Predictions for known groups and new ones.

        Parameters
        ----------
        newdata, re_form, random_only, allow_new_levels, na_action, average, seed
            As in :meth:`VaryingFit.predict`; averages are of means or probabilities, not of linear predictors.
        type : {"link", "response", "prob", "class"}, optional
            Linear predictors, means (probabilities of a response of several classes), probabilities, or the most
            probable class. By default the class of a multinomial model and the linear predictor of any other, as
            :func:`pylmernn.glmernn` has it for models without a network that varies; with ``average`` means.
        se_fit : bool, default False
            Also standard errors, by the normal approximation at the modes; for "response" by the delta method.
        interval : {None, "confidence", "prediction", True}
            Also limits: "confidence" of the linear predictor (for "response" carried through the inverse link),
            "prediction" (True as well) of a new response by 4,000 draws; needs ``type="response"``.
        level : float, default 0.95
            Of the limits.

        Returns
        -------
        Series, or DataFrame with columns fit, se (and lwr, upr), or one a class

        Raises
        ------
        DesignError
            For new groups without ``allow_new_levels``, missing columns, an unknown type, or standard errors of a
            multinomial model.
        """
        interval = interval_name(interval)
        if type is None:
            type = "class" if self._several else "response" if average else "link"
        if type not in TYPES:
            raise DesignError(f"type is '{type}': use one of {', '.join(TYPES)}.")
        errors = se_fit or interval is not None
        if errors and (type in ("prob", "class") or average or random_only):
            raise DesignError("standard errors are for type='link' or 'response', without average and random_only.")
        if random_only and (type != "link" or average):
            raise DesignError("random_only is for type='link' alone, as deviations add to linear predictors.")
        if type == "prob":
            return self.predict_proba(newdata, re_form, allow_new_levels, average, seed, na_action)
        if type == "class":
            return self._most_likely(self.predict_proba(newdata, re_form, allow_new_levels, average, seed, na_action))
        if type == "link" and average:
            raise DesignError("average is for means and probabilities: leave it out with type='link'.")
        rows, codes = self._rows_to_predict(newdata, re_form, allow_new_levels, na_action)
        if random_only:
            eta = values(self.estimates, rows.nets[0], codes)
            return self._table(eta - values(self.estimates, rows.nets[0], np.full_like(codes, -1)), rows.row_names)
        eta = self._linear_predictors(rows, codes, newdata is None)
        if not errors:
            found = eta if type == "link" else self._means(eta, rows, codes, average, seed)
            return self._table(found, rows.row_names)
        some = group_rows(rows, codes, self.design.weights if newdata is None else None)
        return generalized_frame(
            self._errors, eta, some, not is_generic(re_form), type, interval, level, seed, pd.Index(rows.row_names)
        )

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
        rows, codes = self._rows_to_predict(newdata, re_form, allow_new_levels, na_action)
        found = self._means(self._linear_predictors(rows, codes, newdata is None), rows, codes, average, seed)
        return self._probability_table(found, rows.row_names)

    def _rows_to_predict(
        self, newdata: Any, re_form: Any, allow_new_levels: bool, na_action: str
    ) -> tuple[NewRows, IntArray]:
        """Rows with their names, and codes of their groups; all -1 for the generic network."""
        generic = is_generic(re_form)
        if newdata is None:
            rows = dataclasses.replace(fit_rows(self.design), row_names=self._names)
            return rows, np.full(self.design.n, -1, dtype=np.int32) if generic else self.design.varying[0].codes
        rows = self.frame.new_data(newdata, self.design, varying=not generic, na_action=na_action)
        return rows, np.full(len(rows.X), -1, dtype=np.int32) if generic else self._codes(rows, allow_new_levels)

    def _linear_predictors(self, rows: NewRows, codes: IntArray, of_fit: bool) -> FloatArray:
        """Linear predictors, (m,) or (m, C)."""
        if of_fit and (codes >= 0).all():
            return self.estimates.fitted
        return np.asarray(self._fixed(rows) + values(self.estimates, rows.nets[0], codes))

    def _means(self, eta: FloatArray, rows: NewRows, codes: IntArray, average: int, seed: int) -> FloatArray:
        """Means or probabilities, averaged over draws for groups that are not known where that is wanted."""
        found = means(self.estimates, eta)
        unknown = codes < 0
        if average and unknown.any():
            fixed = self._fixed(rows)[unknown]
            found[unknown] = averaged_means(self.estimates, rows.nets[0][unknown], fixed, average, seed)
        return found

    def update_ranef(self, newdata: Any) -> GeneralizedVaryingFit:
        """The same fit with the deviations of further groups, from rows of theirs; all else stays as it is.

        See :meth:`VaryingFit.update_ranef`.

        Raises
        ------
        DesignError
            For missing columns or values, or a class that the fit has not seen.
        """
        rows = self.frame.new_data(newdata, self.design, varying=True, na_action="fail")
        e, term = self.estimates, self.design.varying[0]
        assert e.family is not None
        y, weights = self._new_response(newdata, len(rows.X))
        given = [str(name) for name in rows.varying[0]]
        if "" in given:
            raise DesignError(f"the grouping factor '{term.group}' has missing values in the new rows.")
        fresh = list(dict.fromkeys(given))
        codes = np.array([fresh.index(name) for name in given], dtype=np.int32)
        data = Rows(e.family, y, weights, len(e.classes) if self._several else 1)
        fixed = self._fixed(rows).reshape(len(y), -1)
        found = new_effects(e, rows.nets[0], fixed, data, codes, len(fresh))
        names = [str(level) for level in term.levels]
        added = [name for name in fresh if name not in names]
        levels = np.array([*names, *added])
        at = [names.index(name) if name in names else len(names) + added.index(name) for name in fresh]
        grown = []
        for old, own in zip((e.effects, e.variances), found, strict=True):
            both = np.concatenate([old, np.zeros((len(added), *old.shape[1:]))])
            both[at] = own
            grown.append(both)
        design = dataclasses.replace(self.design, varying=(dataclasses.replace(term, levels=levels),))
        estimates = dataclasses.replace(e, effects=grown[0], variances=grown[1])
        after = GeneralizedVaryingFit(design, estimates, self.frame, self.call)
        if not self._several:
            places = np.array(at, dtype=np.int32)[codes]
            eta = self._fixed(rows) + values(estimates, rows.nets[0], places)
            after.added = with_more(self.added, informed(estimates, group_rows(rows, places, weights), y, eta))
        return after

    # ---- text

    def summary(self) -> str:
        """The fit at a glance, as text."""
        e, term, spec = self.estimates, self.design.varying[0], self.estimates.networks.specs[0]
        how = "given the layers below" if e.exact else "of the model linearised at the modes"
        lines = [
            "Generalized linear mixed model with a network that varies by group ['nme']",
            f" Family: {e.family}",
            f"Formula: {self.formula()}",
            f"-2 log-likelihood {how}: {rtext.format_number(e.objective)}",
            "",
            f"{term.label}: {e.selected.size} of {spec.n_parameters} parameters vary",
            *what_varies(e),
            "Random effects:",
            str(self.VarCorr()) if e.selected.size <= SHOWN else self._layers(),
            f"Number of obs: {self.design.n}, groups: {term.group}, {term.n_levels}",
            "",
            "Fixed effects:",
        ]
        fixed = self.fixef()
        shown = fixed.iloc[: max(e.beta.size, SHOWN)]
        lines.append(shown.to_string(float_format=lambda number: f"{number:.5g}"))
        if len(shown) < len(fixed):
            lines.append(f"... and {len(fixed) - len(shown)} parameters of the network: see fixef()")
        if e.convergence.message:
            lines.append(e.convergence.message)
        return "\n".join(lines)

    def _layers(self) -> str:
        """Root mean squares of the standard deviations of each layer."""
        layers = pd.Series(self.estimates.prior_variances).groupby(list(self.estimates.selected.layers), sort=False)
        return "\n".join(f" {layer}: {variance**0.5:.4g}" for layer, variance in layers.mean().items())

    def __str__(self) -> str:
        return self.summary()

    __repr__ = __str__
