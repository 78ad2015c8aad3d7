"""``GeneralizedFit``: an estimated generalized linear mixed model, what lme4 calls a glmerMod."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
from scipy.special import ndtr

from pylmernn.engines.generalized_methods import GENERALIZED_METHODS
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_variances import dispersion_covariance, fixed_covariance, mode_variance
from pylmernn.families import FamilyError
from pylmernn.fit import inference, profile
from pylmernn.fit.generalized_summary import GeneralizedHeader, sampling_text, threshold_table, threshold_text
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.mixedfit import MixedFit
from pylmernn.fit.networks import table_note
from pylmernn.fit.predict_generalized import GeneralizedPrediction
from pylmernn.fit.ranef import Ranef, random_effects, terms_by_group
from pylmernn.fit.summary import Header, Summary
from pylmernn.fit.update import update_formula
from pylmernn.fit.varcorr import VarCorr, var_corr
from pylmernn.fit.verbs_inference import parameter_values
from pylmernn.formula import parse
from pylmernn.formula.design import Design, DesignError, FloatArray

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws


class GeneralizedFit(GeneralizedPrediction, MixedFit):
    """A fitted generalized linear mixed model, made by :func:`pylmernn.glmernn`.

    Fitted values and residuals are on the scale of the response; ``predict`` gives the linear predictor unless asked
    otherwise, as in lme4.

    Attributes
    ----------
    estimates : GeneralizedEstimates
        With ``family``, ``phi`` (the dispersion) and ``nAGQ``.
    """

    estimates: GeneralizedEstimates

    # ---- what the family changes

    @property
    def _header(self) -> Header:
        plain, e = super()._header, self.estimates
        family = f"{self._family.name}  ( {self._family.link.name} )"
        if self._family.has_dispersion and not self._family.has_scale and np.ndim(e.phi) == 0:
            family = f"{self._family.name}({e.phi:.4g})  ( {self._family.link.name} )"
        return GeneralizedHeader(
            **dataclasses.asdict(plain), nAGQ=e.nAGQ, family=family, method=e.method, sampling=sampling_text(e.draws)
        )

    def summary(self) -> Summary:
        """The fit at a glance, as :meth:`MixedFit.summary`; of an ordinal model with its thresholds."""
        found = super().summary()
        if not self._family.categorical:
            return found
        return dataclasses.replace(found, networks=(*threshold_text(self.thresholds()), *found.networks))

    def thresholds(self) -> pd.DataFrame:
        """Thresholds between the classes of an ordinal model, which stand for the intercept.

        Returns
        -------
        DataFrame, one row a threshold, ``"low|middle"``, ``"middle|high"``
            Columns Estimate, Std. Error and z value; errors as those of :meth:`vcov`.

        Raises
        ------
        DesignError
            For any other family.
        """
        if not self._family.categorical:
            raise DesignError(f"thresholds are for ordinal models, not for the {self._family.name} family.")
        covariance = dispersion_covariance(self.design, self.estimates)
        return threshold_table(np.asarray(self.estimates.phi), covariance, self.design.classes)

    def draws(self) -> Draws:
        """What method "mcem" sampled.

        Raises
        ------
        DesignError
            For a fit by another method.
        """
        if self.estimates.draws is None:
            raise DesignError("this fit has no draws: fit with method='mcem' to sample the random effects.")
        return self.estimates.draws

    @cached_property
    def _varcorr(self) -> VarCorr:
        plain = var_corr(self.design, self.estimates)
        return VarCorr(plain.terms, self.sigma(), residual=self._family.has_scale)

    def family(self) -> str:
        """The family and link, ``"binomial(logit)"``."""
        return str(self._family)

    def sigma(self) -> float:
        """Root of the dispersion of Gamma and inverse Gaussian models, 1 for the others."""
        return float(np.sqrt(self.estimates.phi)) if self._family.has_scale else 1.0

    def dispersion(self) -> float | FloatArray:
        """Dispersion phi: 1 for binomial and Poisson, the thresholds (C - 1,) of an ordinal model.

        ``Var(y)`` is ``phi mu^2`` for Gamma, ``phi mu^3`` for inverse Gaussian, ``mu + mu^2 / phi`` for negative
        binomial and ``mu (1 - mu) / (1 + phi)`` for beta.
        """
        return self.estimates.phi

    def isLMM(self) -> bool:
        """Whether the model is linear."""
        return False

    def isGLMM(self) -> bool:
        """Whether the model is generalized linear."""
        return True

    # ---- criteria

    @property
    def _n_parameters(self) -> int:
        return self.design.p + len(self.estimates.theta) + self._family.has_dispersion * np.size(self.estimates.phi)

    def logLik(self, REML: bool | None = None) -> LogLik:
        """Log-likelihood, all constants included: fits by different nAGQ can be compared, unlike lme4's."""
        if REML:
            raise DesignError("REML is for linear mixed models: leave it out.")
        return LogLik(-0.5 * self.estimates.objective, self._n_parameters, self.design.n)

    def df_residual(self) -> int:
        """Rows less parameters."""
        return self.design.n - self._n_parameters

    def deviance(self, REML: bool | None = None) -> float:
        """Sum of the squared deviance residuals at the conditional modes, as lme4's; not -2 log-likelihood."""
        return float((self._residuals("deviance") ** 2).sum())

    def vcov(self, use_hessian: bool = True) -> pd.DataFrame:
        """Covariance of the fixed effects, shape (p, p).

        Parameters
        ----------
        use_hessian : bool, default True
            From the curvature of the log-likelihood in all parameters; else, and by method "mcem", with the variances
            taken as known.
        """
        if not use_hessian or self.estimates.nAGQ == 0 or self.estimates.method == "mcem":
            return inference.vcov(self.design, self.estimates)
        names = list(self.design.fixed_names)
        return pd.DataFrame(self._fixed_covariance, index=names, columns=names)

    @cached_property
    def _fixed_covariance(self) -> FloatArray:
        return fixed_covariance(self.design, self.estimates)

    def _coefficient_table(self) -> pd.DataFrame:
        beta, se = self.fixef(), np.sqrt(np.diagonal(self.vcov().to_numpy()))
        z = beta / se
        name = "t value" if self._family.has_scale else "z value"
        return pd.DataFrame({"Estimate": beta, "Std. Error": se, name: z, "Pr(>|z|)": 2.0 * ndtr(-np.abs(z))})

    def model_frame(self) -> pd.DataFrame:
        """The variables of the model, one row for each row in use; a factor stays a factor."""
        table, name = self.frame.frame.copy(), self.design.response
        if name in table and not (
            isinstance(table[name].dtype, pd.CategoricalDtype)
            and np.array_equal(table[name].cat.codes > 0, self.design.y > 0)
        ):
            table[name] = self.design.y
        return table

    # ---- random effects and intervals

    def ranef(self, condVar: bool = False) -> Ranef:
        """Conditional modes of the random effects, and with ``condVar`` variances of their normal approximation.

        By method "mcem" they are means and variances of what was sampled.
        """
        effects = random_effects(self.design, self.estimates)
        if condVar:
            variances = self.estimates.mode_variances or mode_variance(self.design, self.estimates)
            groups = terms_by_group(self.design.random)
            effects.condVar = {group: [variances[k] for k in members] for group, members in groups.items()}
        return effects

    def confint(
        self,
        parm: str | Sequence[str] | None = None,
        level: float = 0.95,
        method: str = "Wald",
        nsim: int = 500,
        boot_type: str = "perc",
        seed: int | None = None,
        old_names: bool = True,
    ) -> pd.DataFrame:
        """Confidence intervals by normal limits or a parametric bootstrap; arguments as :meth:`MixedFit.confint`."""
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        names = profile.parameter_names(self.design, old_names)
        sigma = len(names) - self.design.p - 1
        chosen = [k for k in profile.which(parm, self.design) if k != sigma]
        if method == "Wald":
            se = np.sqrt(np.diagonal(self.vcov().to_numpy()))
            fixed = inference.wald_limits(self.estimates.beta, se, level)
            limits = np.vstack([np.full((sigma + 1, 2), np.nan), fixed])[chosen]
        elif method == "boot":
            limits = self.bootMer(parameter_values, nsim, seed).confint(level, boot_type).to_numpy()[chosen]
        else:
            raise DesignError(f"confint of a generalized model has no method '{method}': use 'Wald' or 'boot'.")
        table = pd.DataFrame(limits, index=[names[k] for k in chosen], columns=inference.percent_labels(level))
        return inference.limits_table(table, table_note([self.estimates.networks]))

    # ---- the same model again

    def _again(self, design: Design | None = None, REML: bool | None = None) -> GeneralizedFit:
        design = self.design if design is None else design
        old, method = self.estimates, self.estimates.method
        try:
            self._family.check(design.y, self._weights, design.response)
        except FamilyError as error:
            raise DesignError(str(error)) from None
        if old.networks is not None:  # they are kept: f is part of the offset
            design, method = dataclasses.replace(design, nets=()), "mcem" if method == "mcem" else "pirls"
        estimates = GENERALIZED_METHODS[method](design, self._family, old.nAGQ, self.call.get("control"))
        estimates = dataclasses.replace(estimates, method=old.method, networks=old.networks)
        design = dataclasses.replace(design, nets=self.design.nets)
        return type(self)(design, estimates, self.frame, self.call)

    def update(self, formula: str | None = None, **arguments: Any) -> Any:
        """The fit with some arguments of :func:`pylmernn.glmernn` changed; "." stands for what was there.

        Networks are trained anew. Where a new formula brings or drops them the method is chosen again.
        """
        from pylmernn.glm import glmernn

        given = {**self.call, "family": self._family, **arguments}
        call = {name: value for name, value in given.items() if name not in ("data_name", "REML")}
        if call.get("data") is None:
            raise DesignError("this fit holds no data: give update(data=...).")
        old = str(self.frame.formula)
        call["formula"] = update_formula(old, formula) if formula else old
        neural = any(special.function == "nn" for special in parse(call["formula"]).specials)
        if "method" not in arguments and neural != bool(self.design.nets):
            call["method"] = "auto"
        return glmernn(**call)

    def extractAIC(self, k: float = 2.0) -> tuple[int, float]:
        """Number of parameters and AIC."""
        ll = self.logLik()
        return ll.df, -2.0 * float(ll) + k * ll.df

    # ---- verbs of linear models

    def _only_linear(self, what: str, instead: str) -> NoReturn:
        raise DesignError(f"{what} is offered for linear mixed models only: {instead}.")

    def REMLcrit(self) -> float:
        """Refused: a generalized model has no REML criterion."""
        self._only_linear("REMLcrit()", "use logLik()")

    def plot(self, kind: str = "residuals", **options: Any) -> Any:
        """A picture of the fit: "residuals", "ranef", "qq", "distribution" (of the effects of every factor, with the
        marks of one row) and, of classes, "calibration" or "roc"; see :meth:`MixedFit.plot`.
        """
        if kind == "shrinkage":
            self._only_linear("plot('shrinkage')", "use kind='ranef'")
        return super().plot(kind, **options)

    def profile(
        self, which: str | Sequence[str] | None = None, alphamax: float = 0.01, points: int = 8
    ) -> pd.DataFrame:
        """Refused."""
        self._only_linear("profile()", "use confint(method='Wald') or 'boot'")

    def influence(self, groups: str | None = None) -> Any:
        """Refused."""
        self._only_linear("influence()", "refit with update(subset=...)")

    def hatvalues(self) -> pd.Series:
        """Refused."""
        self._only_linear("hatvalues()", "look at residuals(type='pearson')")

    def cooks_distance(self) -> pd.Series:
        """Refused."""
        self._only_linear("cooks_distance()", "look at residuals(type='pearson')")

    def rstudent(self) -> pd.Series:
        """Refused."""
        self._only_linear("rstudent()", "look at residuals(type='pearson')")

    def augment(self) -> pd.DataFrame:
        """Refused."""
        self._only_linear("augment()", "use fitted() and residuals()")
