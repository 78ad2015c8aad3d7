"""``GeneralizedFit``: an estimated generalized linear mixed model, what lme4 calls a glmerMod."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn, cast

import numpy as np
import pandas as pd
from scipy.special import ndtr

from pylmernn.engines import pirls
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_variances import fixed_covariance, mode_variance
from pylmernn.families import Family, FamilyError
from pylmernn.fit import inference, profile, rtext
from pylmernn.fit import predict as prediction
from pylmernn.fit import simulate as simulation
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.mixedfit import MixedFit
from pylmernn.fit.ranef import Ranef, random_effects, terms_by_group
from pylmernn.fit.summary import Header
from pylmernn.fit.update import update_formula
from pylmernn.fit.varcorr import VarCorr, var_corr
from pylmernn.fit.verbs_inference import parameter_values
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows

RESIDUAL_TYPES = ("deviance", "pearson", "response", "working")


@dataclasses.dataclass(frozen=True)
class GeneralizedHeader(Header):
    """Title of a generalized model: how its likelihood was approximated, and its family."""

    nAGQ: int = 1
    family: str = ""

    @property
    def optimizer(self) -> str:
        """What found the optimum."""
        return "pirls"

    @property
    def title(self) -> str:
        """How the model was fit."""
        how = "Laplace Approximation" if self.nAGQ == 1 else f"Adaptive Gauss-Hermite Quadrature, nAGQ = {self.nAGQ}"
        return f"Generalized linear mixed model fit by maximum likelihood ({how}) [merModNN]"

    def text(self) -> str:
        """Title, family, formula and data."""
        title = rtext.cat_fill(self.title.split(" "), 80).replace(" \n", "\n  ")
        rest = super().text().split("\n", 1)[1]
        return f"{title}\n Family: {self.family}\n{rest}"


class GeneralizedFit(MixedFit):
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
        return self._family.link.inverse(self._eta)

    @property
    def _header(self) -> Header:
        plain = super()._header
        family = f"{self._family.name}  ( {self._family.link.name} )"
        if self._family.has_dispersion and not self._family.has_scale:
            family = f"{self._family.name}({self.estimates.phi:.4g})  ( {self._family.link.name} )"
        return GeneralizedHeader(**dataclasses.asdict(plain), nAGQ=self.estimates.nAGQ, family=family)

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

    def dispersion(self) -> float:
        """Dispersion phi: 1 for binomial and Poisson.

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
        return self.design.p + len(self.estimates.theta) + int(self._family.has_dispersion)

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
            From the curvature of the log-likelihood in all parameters; else with the variances taken as known.
        """
        if not use_hessian or self.estimates.nAGQ == 0:
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

    # ---- rows

    def _residuals(self, type: str) -> FloatArray:
        if type not in RESIDUAL_TYPES:
            raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
        y, mu, phi, family = self.design.y, self._mu, self.estimates.phi, self._family
        raw = y - mu
        if type == "response":
            return raw
        if type == "working":
            return raw / family.link.derivatives(self._eta)[1]
        if type == "pearson":
            return raw * np.sqrt(self._weights / family.variance(mu, phi))
        return np.sign(raw) * np.sqrt(np.maximum(self._weights * family.unit_deviance(y, mu, phi), 0.0))

    def residuals(self, type: str = "deviance", scaled: bool = False) -> pd.Series:
        """Residuals.

        Parameters
        ----------
        type : {"deviance", "pearson", "response", "working", "scaled"}
            "scaled" is "pearson" over sigma.
        scaled : bool, default False
            Divide by sigma.
        """
        values = self._residuals("pearson" if type == "scaled" else type)
        return self._series(values / self.sigma() if scaled or type == "scaled" else values)

    resid = residuals

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
    ) -> pd.Series:
        """Predictions, of the data or of new rows.

        Parameters
        ----------
        newdata, re_form, random_only, allow_new_levels, na_action
            As for a linear mixed model, :meth:`MixedFit.predict`.
        type : {"link", "response"}
            The linear predictor or the mean.
        se_fit, interval
            Refused: standard errors of predictions are for linear mixed models.

        Returns
        -------
        Series
            Labelled as newdata.
        """
        if se_fit or interval:
            self._only_linear("predict() with se_fit or interval", "draw with simulate() or bootMer()")
        if type not in ("link", "response"):
            raise DesignError(f"type is '{type}': use 'link' or 'response'.")
        eta = super().predict(newdata, re_form, random_only, allow_new_levels, na_action=na_action)
        if type == "link":
            return cast("pd.Series", eta)
        return pd.Series(self._family.link.inverse(eta.to_numpy(dtype=float)), index=eta.index)

    def model_frame(self) -> pd.DataFrame:
        """The variables of the model, one row for each row in use; a factor stays a factor."""
        table, name = self.frame.frame.copy(), self.design.response
        if name in table and not (
            isinstance(table[name].dtype, pd.CategoricalDtype)
            and np.array_equal(table[name].cat.codes > 0, self.design.y > 0)
        ):
            table[name] = self.design.y
        return table

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

    # ---- random effects and intervals

    def ranef(self, condVar: bool = False) -> Ranef:
        """Conditional modes of the random effects; variances of their normal approximation with ``condVar``."""
        effects = random_effects(self.design, self.estimates)
        if condVar:
            variances = mode_variance(self.design, self.estimates)
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
        return pd.DataFrame(limits, index=[names[k] for k in chosen], columns=inference.percent_labels(level))

    # ---- the same model again

    def _again(self, design: Design | None = None, REML: bool | None = None) -> GeneralizedFit:
        design = self.design if design is None else design
        try:
            self._family.check(design.y, self._weights, design.response)
        except FamilyError as error:
            raise DesignError(str(error)) from None
        estimates = pirls.fit(design, self._family, self.estimates.nAGQ, self.call.get("control"))
        return type(self)(design, estimates, self.frame, self.call)

    def update(self, formula: str | None = None, **arguments: Any) -> GeneralizedFit:
        """The fit with some arguments of :func:`pylmernn.glmernn` changed; "." stands for what was there."""
        from pylmernn.glm import glmernn

        given = {**self.call, **arguments}
        call = {name: value for name, value in given.items() if name not in ("data_name", "nets", "REML")}
        if call.get("data") is None:
            raise DesignError("this fit holds no data: give update(data=...).")
        call["formula"] = update_formula(str(self.frame.formula), formula) if formula else str(self.frame.formula)
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
        """A picture of the fit: "residuals", "ranef" or "qq"; see :meth:`MixedFit.plot`."""
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
