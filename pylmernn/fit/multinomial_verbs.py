"""The verbs that read estimates off a multinomial fit: ``fixef``, ``ranef``, ``VarCorr``, ``confint`` and their kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit import inference
from pylmernn.fit.multinomial_getme import get_part
from pylmernn.fit.multinomial_predict import linear_predictor, observed_loglik
from pylmernn.fit.multinomial_ranef import ClassRanef, coefficients, random_effects
from pylmernn.fit.multinomial_varcorr import ClassVarCorr, class_var_corr
from pylmernn.fit.predict import rows_of_fit
from pylmernn.fit.reform import selection
from pylmernn.fit.verbs_data import DataVerbs
from pylmernn.fit.verbs_networks import NetworkVerbs
from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws

NO_LIKELIHOOD = (
    "Monte Carlo EM does not compute the log-likelihood: compare models by the probabilities that predict_proba() "
    "gives the observed classes of rows held out of the fit"
)
NO_REFITS = "it needs many fits, each by sampling: look at VarCorr() and ranef(condVar=True) instead"


def refused(what: str, why: str) -> Callable[..., NoReturn]:
    """A verb that says why there is no answer."""

    def verb(self: Any, *arguments: Any, **named: Any) -> NoReturn:
        raise DesignError(f"{what} is not offered for multinomial models: {why}.")

    verb.__doc__ = "Refused: the message says why, and what to use instead."
    return verb


class ClassEstimateVerbs(DataVerbs, NetworkVerbs):
    """Estimates of a multinomial fit."""

    estimates: MultinomialEstimates  # type: ignore[assignment]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.estimates.classes

    @cached_property
    def _eta(self) -> FloatArray:
        """Linear predictors of the rows in use, (n, C)."""
        networks = self.estimates.networks
        f = None if networks is None else networks.fitted
        return linear_predictor(self.estimates, rows_of_fit(self.design), selection(self.design, None), f)

    # ---- effects and variances

    def fixef(self, add_dropped: bool = False) -> pd.DataFrame:
        """Fixed effects, columns of X by classes; each row sums to zero.

        Parameters
        ----------
        add_dropped : bool, default False
            Also name the coefficients of columns that were dropped because X is rank deficient, as NaN.

        Returns
        -------
        DataFrame, shape (p, C)
        """
        values, names = list(self.estimates.beta), list(self.design.fixed_names)
        if add_dropped:
            for at, name in sorted(zip(self.design.dropped_at, self.design.dropped, strict=True)):
                values.insert(at, np.full(len(self.classes), np.nan))
                names.insert(at, name)
        table = np.array(values).reshape(len(names), len(self.classes))
        return pd.DataFrame(table, index=names, columns=pd.Index(self.classes, name="class"))

    def ranef(self, condVar: bool = False) -> ClassRanef:
        """Posterior means of the random effects, which sum to zero over classes.

        Parameters
        ----------
        condVar : bool, default False
            Also their posterior variances, as ``.condVar`` of the answer.

        Returns
        -------
        ClassRanef
            A dict from grouping factor to DataFrame: levels by classes, or by pairs of column and class where there
            are other columns than the intercept. ``as_frame()`` has one row for each effect.
        """
        return random_effects(self.design, self.estimates, condVar)

    def coef(self) -> ClassRanef:
        """Coefficients by level and class: fixed effects plus posterior means of the random ones."""
        return coefficients(self.fixef(), self.ranef())

    def VarCorr(self) -> ClassVarCorr:
        """Variances and correlations of the random effects of each class.

        Returns
        -------
        ClassVarCorr
            Prints as lme4's table; ``as_data_frame()`` has one row for each variance, with 95% limits.
        """
        return class_var_corr(self.design, self.estimates)

    def sigma(self) -> float:
        """1: a multinomial response has no scale."""
        return 1.0

    def vcov(self) -> pd.DataFrame:
        """Covariance of the fixed effects, (p * C, p * C), rows and columns pairs of column and class.

        Of rank p (C - 1), because the effects sum to zero over classes.

        Raises
        ------
        DesignError
            Where the fit has none.
        """
        if self.estimates.fixed_covariance is None:
            raise DesignError("this fit has no standard errors of its fixed effects: fit with more draws for them.")
        pairs = [(name, c) for name in self.design.fixed_names for c in self.classes]
        index = pd.MultiIndex.from_tuples(pairs, names=["column", "class"])
        return pd.DataFrame(self.estimates.fixed_covariance, index=index, columns=index)

    @property
    def _fixed_errors(self) -> FloatArray:
        """Standard errors of the fixed effects, (p, C); NaN where there are none."""
        beta, covariance = self.estimates.beta, self.estimates.fixed_covariance
        if covariance is None:
            return np.full(beta.shape, np.nan)
        return np.sqrt(np.diagonal(covariance)).reshape(beta.shape)

    def isSingular(self, tol: float = 1e-4) -> bool:
        """Whether a standard deviation of random effects is below ``tol``, or a correlation within it of one."""
        floor = [np.linalg.eigvalsh(covariance).min() for covariance in self.estimates.covariances]
        return bool(min(floor) <= 1.01 * tol**2)  # the sampler keeps variances at 1e-8 and above

    # ---- criteria

    def deviance(self) -> float:
        """-2 times the sum of log-probabilities of the observed classes, at the posterior means of the effects.

        It is that of the rows the model has learnt from, so a richer model always looks better by it.
        """
        return float(-2.0 * np.sum(self._row_weights * observed_loglik(self._eta, self.design.y)))

    @property
    def _row_weights(self) -> FloatArray:
        """Prior weights (n,), 1 where there are none."""
        return np.ones(self.design.n) if self.design.weights is None else self.design.weights

    logLik = refused("logLik()", NO_LIKELIHOOD)
    AIC = refused("AIC()", NO_LIKELIHOOD)
    BIC = refused("BIC()", NO_LIKELIHOOD)
    extractAIC = refused("extractAIC()", NO_LIKELIHOOD)
    REMLcrit = refused("REMLcrit()", NO_LIKELIHOOD)
    anova = refused("anova()", NO_LIKELIHOOD)
    drop1 = refused("drop1()", NO_LIKELIHOOD)
    profile = refused("profile()", NO_LIKELIHOOD + "; confint() gives normal limits")
    bootMer = refused("bootMer()", NO_REFITS)
    influence = refused("influence()", NO_REFITS)
    hatvalues = refused("hatvalues()", "look at residuals(type='deviance')")
    cooks_distance = refused("cooks_distance()", "look at residuals(type='deviance')")
    rstudent = refused("rstudent()", "look at residuals(type='deviance')")
    refitML = refused("refitML()", "it is no REML fit, so there is nothing to refit")

    # ---- the model

    def family(self) -> str:
        """The family and link."""
        return "multinomial(softmax)"

    def isLMM(self) -> bool:
        """Whether the model is linear."""
        return False

    def isGLMM(self) -> bool:
        """Whether the model is generalized linear."""
        return True

    def isREML(self) -> bool:
        """Whether the fit is by REML."""
        return False

    def getME(self, name: str | list[str]) -> Any:
        """A part of the fit by the name lme4 gives it.

        Parameters
        ----------
        name : str or list of str
            "X", "Z", "theta", "b", "beta", "flist", ... or "ALL". A list gives a dict. Theta are Cholesky factors of
            the covariances of each class; b and beta have a column for each class.
        """
        if isinstance(name, str):
            return get_part(self.design, self.estimates, name)
        return {part: get_part(self.design, self.estimates, part) for part in name}

    def draws(self) -> Draws:
        """What was sampled: effects and variances by chain and draw, with R-hat, ESS and divergences."""
        return self.estimates.draws

    def confint(
        self, parm: str | Sequence[str] | None = None, level: float = 0.95, method: str = "Wald"
    ) -> pd.DataFrame:
        """Normal confidence limits, of standard deviations on the log scale and of fixed effects.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Which parameters, by row name; "theta_" all standard deviations, "beta_" all fixed effects.
        level : float, default 0.95
        method : {"Wald"}

        Returns
        -------
        DataFrame
            Rows "sd_(Intercept)|g:class" and "x:class", columns "2.5 %" and "97.5 %".
        """
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        if method != "Wald":
            raise DesignError(f"confint of a multinomial model has no method '{method}': use 'Wald'.")
        parts = self.VarCorr().as_data_frame(level)
        sd_names = [f"sd_{row[1]}|{row[0]}:{row[2]}" for row in parts.itertuples(index=False)]
        fixed_names = [f"{name}:{c}" for name in self.design.fixed_names for c in self.classes]
        z = NormalDist().inv_cdf(0.5 + level / 2)
        beta, half = self.estimates.beta.ravel(), z * self._fixed_errors.ravel()
        limits = np.vstack([np.sqrt(parts[["lower", "upper"]].to_numpy()), np.column_stack([beta - half, beta + half])])
        table = pd.DataFrame(limits, index=sd_names + fixed_names, columns=inference.percent_labels(level))
        if parm is None:
            return table
        groups = {"theta_": sd_names, "beta_": fixed_names}
        asked = [parm] if isinstance(parm, str) else list(parm)
        chosen = [name for each in asked for name in groups.get(each, [each])]
        unknown = [name for name in chosen if name not in table.index]
        if unknown:
            raise DesignError(f"confint knows no parameter '{unknown[0]}': use one of {', '.join(table.index)}.")
        return table.loc[chosen]
