"""The verbs that show, tabulate, plot and keep a fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from pylmernn.fit import diagnostics, tidy
from pylmernn.fit import summary as summaries
from pylmernn.fit.networks import network_text, short_network_text
from pylmernn.fit.predict import fixed_part
from pylmernn.fit.verbs_estimates import EstimateVerbs
from pylmernn.fit.verbs_networks import NetworkVerbs
from pylmernn.fit.verbs_prediction import PredictionVerbs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pylmernn.fit.mixedfit import MixedFit


class OutputVerbs(EstimateVerbs, PredictionVerbs, NetworkVerbs):
    """Printing, tables in the shape of broom.mixed, pictures and files."""

    def summary(self) -> summaries.Summary:
        """The fit at a glance; printing it gives lme4's text.

        Returns
        -------
        Summary
            With ``coefficients``, ``varcor``, ``vcov``, ``residuals``, ``ngrps`` and ``text(digits, correlation)``.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
        >>> print(fit.summary().coefficients.round(2).to_string())
                     Estimate  Std. Error  t value
        (Intercept)    1527.5       19.38     78.8
        """
        networks = self.estimates.networks
        return summaries.Summary(
            header=self._header,
            criteria=self._criteria(),
            residuals=self.residuals("scaled"),
            varcor=self.VarCorr(),
            ngrps=self.ngrps(),
            nobs=self.nobs(),
            coefficients=self._coefficient_table(),
            vcov=self.vcov(),
            messages=self._messages,
            networks=() if networks is None else tuple(network_text(networks, self.design, self._importance)),
        )

    def _criteria(self) -> dict[str, float]:
        if self.isREML():
            return {"REML": self.REMLcrit()}
        ll = self.logLik()
        return {
            "AIC": ll.aic,
            "BIC": ll.bic,
            "logLik": float(ll),
            "deviance": self.estimates.objective,
            "df.resid": float(self.df_residual()),
        }

    def _coefficient_table(self) -> pd.DataFrame:
        beta, se = self.fixef(), np.sqrt(np.diagonal(self.vcov().to_numpy()))
        return pd.DataFrame({"Estimate": beta, "Std. Error": se, "t value": beta / se})

    def __str__(self) -> str:
        text = summaries.short_text(
            self._header, self._criteria(), self.VarCorr(), self.ngrps(), self.nobs(), self.fixef(), self._messages
        )
        networks = self.estimates.networks
        return "\n".join([text, *([] if networks is None else short_network_text(networks))])

    __repr__ = __str__

    def tidy(
        self,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
        scales: str = "sdcor",
        conf_int: bool = False,
        conf_level: float = 0.95,
        conf_method: str = "Wald",
    ) -> pd.DataFrame:
        """Estimates as rows, in the shape of broom.mixed.

        Parameters
        ----------
        effects : str or list of {"fixed", "ran_pars", "ran_vals", "ran_coefs"}
        scales : {"sdcor", "vcov"}
            Of the variance parameters.
        conf_int : bool, default False
            Also conf.low and conf.high.
        conf_level : float, default 0.95
        conf_method : {"Wald", "profile", "boot"}
        """
        asked = tidy.check_effects(effects)
        fixed_limits = ran_limits = None
        if conf_int and {"fixed", "ran_pars"} & set(asked):
            limits = self.confint(level=conf_level, method=conf_method)  # type: ignore[attr-defined]
            split = len(limits) - self.design.p
            fixed_limits = limits.iloc[split:]
            ran_limits = limits.iloc[:split] if scales == "sdcor" and conf_method != "Wald" else None
        made = {
            "fixed": lambda: tidy.fixed_rows(self._coefficient_table(), fixed_limits),
            "ran_pars": lambda: tidy.variance_rows(self.VarCorr(), scales, ran_limits),
            "ran_vals": lambda: tidy.mode_rows(self.ranef(condVar=True)),
            "ran_coefs": lambda: tidy.coefficient_rows(self.coef()),
        }
        order = [e for e in tidy.EFFECTS if e in asked]
        return tidy.stack([made[e]() for e in order])

    def glance(self) -> pd.DataFrame:
        """One row of numbers about the fit, in the shape of broom.mixed."""
        ll = self.logLik()
        criterion = "REMLcrit" if self.isREML() else "deviance"
        row = {
            "nobs": self.nobs(), "sigma": self.sigma(), "logLik": float(ll), "AIC": ll.aic, "BIC": ll.bic,
            criterion: self.estimates.objective, "df.residual": self.df_residual(),
        }  # fmt: skip
        return pd.DataFrame([row])

    def augment(self) -> pd.DataFrame:
        """The model frame with fitted values, residuals and leverages beside it, in the shape of broom.mixed."""
        design, mu = self.design, self._mu
        hat = diagnostics.hat_values(design, self.estimates)
        pearson = diagnostics.residuals(design, mu, self.sigma(), "pearson")
        weights = np.ones(design.n) if design.weights is None else design.weights
        offset = np.zeros(design.n) if design.offset is None else design.offset
        return self.model_frame().assign(
            **{
                ".fitted": mu,
                ".resid": design.y - mu,
                ".hat": hat,
                ".cooksd": diagnostics.cooks_distance(hat, pearson, self.sigma(), design.p),
                ".fixed": fixed_part(design, self.estimates),
                ".mu": mu,
                ".offset": offset,
                ".sqrtXwt": np.sqrt(weights),
                ".sqrtrwt": np.sqrt(weights),
                ".weights": weights,
                ".wtres": pearson,
            }
        )

    def extractAIC(self, k: float = 2.0) -> tuple[int, float]:
        """Number of parameters and AIC of the ML fit, as R's ``extractAIC``."""
        ll = self.refitML().logLik()  # type: ignore[attr-defined]
        return ll.df, -2.0 * float(ll) + k * ll.df

    def plot(self, kind: str = "residuals", **options: Any) -> Axes | Figure:
        """A picture of the fit (needs matplotlib).

        Parameters
        ----------
        kind : str, default "residuals"
            "residuals": against fitted values. "ranef": conditional modes with their intervals (a caterpillar plot);
            "qq": their normal quantiles. "shrinkage": the lines of each level, by least squares on its own rows, by
            the fixed effects, and shrunken between the two. "distribution": the effects of every factor on one scale,
            those of one row (``row=``) marked. Of classes: "calibration" and "roc", of the fit or of ``newdata=``.
            "predicted": observed against predicted responses. Of networks: "history", their training; "importance", of
            their inputs; "partial", their partial dependence. Of a ``gp()``: "map", its values at the locations;
            "variogram".
        **options
            ``group=`` picks the grouping factor; ``ax=`` draws into given axes where one is enough; see
            :mod:`pylmernn.fit.plot`.

        Returns
        -------
        matplotlib Axes or Figure
        """
        from pylmernn.fit import plot

        return plot.draw(cast("MixedFit", self), kind, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the fit in one file (safetensors, with JSON text), readable by :func:`pylmernn.load`.

        Parameters
        ----------
        path : path
            Written whole or not at all.
        """
        from pylmernn.fit import save

        save.save(cast("MixedFit", self), path)
