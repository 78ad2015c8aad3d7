"""The verbs that read estimates off a fit: ``fixef``, ``ranef``, ``VarCorr``, ``logLik`` and their kin."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.covariance import diagonal_positions, split_theta
from pylmernn.engines.variances import conditional_variance
from pylmernn.fit import getme, inference, likelihood
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.ranef import Ranef, coefficients, random_effects, terms_by_group
from pylmernn.fit.varcorr import VarCorr
from pylmernn.fit.verbs_data import DataVerbs


class EstimateVerbs(DataVerbs):
    """Estimates and criteria of a fit."""

    def fixef(self, add_dropped: bool = False) -> pd.Series:
        """Fixed effects.

        Parameters
        ----------
        add_dropped : bool, default False
            Also name the coefficients of columns that were dropped because X is rank deficient, as NaN.

        Returns
        -------
        Series, shape (p,)

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
        >>> fit.fixef().round(3).to_dict()
        {'(Intercept)': 251.405, 'Days': 10.467}
        """
        values, names = list(self.estimates.beta), list(self.design.fixed_names)
        if add_dropped:
            for at, name in sorted(zip(self.design.dropped_at, self.design.dropped, strict=True)):
                values.insert(at, np.nan)
                names.insert(at, name)
        return pd.Series(values, index=names, dtype=float)

    def ranef(self, condVar: bool = False) -> Ranef:
        """Conditional modes of the random effects (BLUPs).

        Parameters
        ----------
        condVar : bool, default False
            Also their conditional variances, as ``.condVar`` of the answer.

        Returns
        -------
        Ranef
            A dict from grouping factor to DataFrame, levels by columns; ``as_frame()`` has one row for each effect.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
        >>> fit.ranef()["Subject"].loc["308"].round(2).to_dict()
        {'(Intercept)': 2.26, 'Days': 9.2}
        """
        effects = random_effects(self.design, self.estimates)
        if condVar:
            variances = conditional_variance(self.design, self.estimates)
            groups = terms_by_group(self.design.random)
            effects.condVar = {group: [variances[k] for k in members] for group, members in groups.items()}
        return effects

    def coef(self) -> Ranef:
        """Coefficients by level: fixed effects plus conditional modes.

        Returns
        -------
        Ranef
            A dict from grouping factor to DataFrame.
        """
        effects = self.ranef()
        fields = {term.group for term in self.design.random if term.locations is not None}
        return coefficients(self.fixef(), {group: table for group, table in effects.items() if group not in fields})

    def VarCorr(self) -> VarCorr:
        """Variances, standard deviations and correlations of the random effects.

        Returns
        -------
        VarCorr
            Prints as lme4's; a mapping from term to covariance matrix; ``as_frame()`` gives the components as rows.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
        >>> fit.VarCorr().as_frame()["sdcor"].round(2).tolist()
        [42.0, 49.51]
        """
        return self._varcorr

    def sigma(self) -> float:
        """Residual standard deviation, of a row with weight 1."""
        return self.estimates.sigma

    def vcov(self) -> pd.DataFrame:
        """Covariance of the fixed effects, shape (p, p)."""
        return inference.vcov(self.design, self.estimates)

    def logLik(self, REML: bool | None = None) -> LogLik:
        """Log-likelihood, with ``.df`` and ``.nobs``.

        Parameters
        ----------
        REML : bool, optional
            Restricted or not; by default the one that was maximized.
        """
        return likelihood.log_likelihood(self.design, self.estimates, REML)

    def deviance(self, REML: bool | None = None) -> float:
        """-2 log-likelihood.

        Parameters
        ----------
        REML : bool, optional
            For a REML fit: False gives the deviance at the REML estimates. None gives the REML criterion with a
            warning, as in lme4.
        """
        if self.estimates.REML and REML is None:
            warnings.warn(
                "deviance() of a REML fit is its REML criterion: use REMLcrit() for that, or deviance(REML=False) for "
                "the deviance at the REML estimates.",
                UserWarning,
                stacklevel=2,
            )
        return likelihood.criterion(self.design, self.estimates, self.estimates.REML if REML is None else REML)

    def REMLcrit(self) -> float:
        """The REML criterion at the optimum; -2 log-likelihood for an ML fit, as in lme4."""
        return self.estimates.objective

    def AIC(self, k: float = 2.0) -> float:
        """Akaike's criterion, ``-2 logLik + k df``."""
        ll = self.logLik()
        return -2.0 * float(ll) + k * ll.df

    def BIC(self) -> float:
        """Schwarz's criterion, ``-2 logLik + log(nobs) df``."""
        return self.logLik().bic

    def df_residual(self) -> int:
        """Rows less parameters."""
        return self.design.n - likelihood.n_parameters(self.design, self.estimates)

    def isREML(self) -> bool:
        """Whether the fit is by REML."""
        return self.estimates.REML

    def isLMM(self) -> bool:
        """Whether the model is linear."""
        return True

    def isGLMM(self) -> bool:
        """Whether the model is generalized linear."""
        return False

    def isSingular(self, tol: float = 1e-4) -> bool:
        """Whether a variance is zero or a correlation is one: a diagonal entry of Lambda below ``tol``."""
        return bool((self.estimates.theta[diagonal_positions(self.design.random)] < tol).any())

    def rePCA(self) -> dict[str, pd.DataFrame]:
        """Principal components of the random effects of each factor, relative to sigma."""
        templates = split_theta(self.design.random, self.estimates.theta)
        return inference.random_effects_pca([(t.group, L) for t, L in zip(self.design.random, templates, strict=True)])

    def getME(self, name: str | list[str]) -> Any:
        """A part of the fit by the name lme4 gives it.

        Parameters
        ----------
        name : str or list of str
            "X", "Z", "theta", "Lambda", "flist", "devcomp", ... or "ALL". A list gives a dict.
        """
        if isinstance(name, str):
            return getme.get_part(self.design, self.estimates, name)
        return {part: getme.get_part(self.design, self.estimates, part) for part in name}

    def family(self) -> str:
        """The family and link."""
        return "gaussian(identity)"

    def model_frame(self) -> pd.DataFrame:
        """The variables of the model, one row for each row in use."""
        table = self.frame.frame.copy()
        if self.design.response in table:
            table[self.design.response] = self.design.y  # of a refit, the new one
        return table
