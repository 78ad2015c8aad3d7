"""``MultinomialFit``: an estimated mixed model of several classes."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pylmernn.engines.control import Control
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit import multinomial_tidy, refit
from pylmernn.fit.generalized_summary import sampling_text
from pylmernn.fit.multinomial_rows import ClassPredictionVerbs
from pylmernn.fit.multinomial_summary import ClassHeader, ClassSummary, class_short_text, coefficient_table
from pylmernn.fit.multinomial_verbs import refused
from pylmernn.fit.networks import network_text, short_network_text
from pylmernn.fit.update import update_formula
from pylmernn.fit.update_ranef import longer_networks
from pylmernn.formula import ModelFrame
from pylmernn.formula.append import append_rows
from pylmernn.formula.design import Design, DesignError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is printed beside estimates of a model with networks.
KNOWN = "Estimates and standard errors take the networks as known: their uncertainty is left out."


class MultinomialFit(ClassPredictionVerbs):
    """A fitted multinomial mixed model, made by :func:`pylmernn.glmernn` with ``family="multinomial"``.

    ``P(y_i = c) = softmax_c(x_i' beta_c + f_c(inputs_i) + sum_k z_ik' b_kc)``. The same number added in all classes
    changes no probability, so fixed and random effects are reported with sum zero over classes. Verbs have lme4's
    names; tables have a column or a row for each class.

    Attributes
    ----------
    design : Design
        The arrays of the model; ``design.y`` holds class codes.
    estimates : MultinomialEstimates
        What the engine found.
    frame : ModelFrame
        The door back to the user's columns.
    call : dict
        The arguments.
    """

    def __init__(
        self, design: Design, estimates: MultinomialEstimates, frame: ModelFrame, call: dict[str, Any]
    ) -> None:
        super().__init__(design, estimates, frame, call)  # type: ignore[arg-type]

    def model_frame(self) -> pd.DataFrame:
        """The variables of the model, one row for each row in use; the response as a factor of its classes."""
        table, name = self.frame.frame.copy(), self.design.response
        labels = np.array(self.classes, dtype=object)[self.design.y.astype(np.intp)]
        if name in table and not np.array_equal(table[name].astype(str).to_numpy(dtype=object), labels):
            table[name] = pd.Categorical(labels, categories=list(self.classes))  # of a refit, the new one
        return table

    # ---- the same model again

    def refit(self, newresp: Any) -> MultinomialFit:
        """The same model on another response, by sampling anew.

        Parameters
        ----------
        newresp : array, Series or DataFrame with one column
            A class for each row in use (or for each row of the data, before missing values were dropped).

        Raises
        ------
        DesignError
            Where the length is wrong, a class is not one of the model, or does not occur.
        """
        from pylmernn.engines.generalized_methods import GENERALIZED_METHODS
        from pylmernn.families import FamilyError, read_family

        codes = pd.Index(self.classes).get_indexer(pd.Index(_labels(newresp)))
        y = refit.response_values(codes, self.design.n, self.frame.all_rows, np.asarray(self.frame.omitted))
        if (y < 0).any():
            at = int(np.flatnonzero(y < 0)[0])
            raise DesignError(f"newresp has no class of the model in row {at + 1}: use {', '.join(self.classes)}.")
        design = self.design.with_response(y)
        try:
            family = read_family("multinomial")
            family.check(y, self._row_weights, self.design.response)
        except FamilyError as error:
            raise DesignError(str(error)) from None
        estimates = GENERALIZED_METHODS["mcem"](design, family, 1, self.call.get("control"), None)
        fit = type(self)(design, estimates, self.frame, self.call)
        for message in fit._messages:
            warnings.warn(message, UserWarning, stacklevel=2)
        return fit

    def update_random_effects(self, newdata: Any) -> MultinomialFit:
        """The fit with random effects that know more rows: their posterior given the old and the new ones, by sampling.

        Fixed effects, variances and networks stay as they were estimated, so that a level which the fit has not seen
        gets its effects from a few rows, without a refit.

        Parameters
        ----------
        newdata : DataFrame
            New rows with the response, of old levels, new ones or both. Rows that lack a value are left out.

        Raises
        ------
        DesignError
            For a class that the fit has not seen, or an offset that was given as values.
        """
        from pylmernn.engines.mcem_effects import effects_at

        rows = self.frame.new_data(newdata, self.design)
        design, frame, kept = append_rows(
            self.design, self.frame, newdata, rows, self.call.get("weights"), "multinomial"
        )
        estimates, networks = self.estimates, self.estimates.networks
        if networks is not None:
            f = networks.values([inputs[kept] for inputs in rows.nets])
            estimates = dataclasses.replace(estimates, networks=longer_networks(networks, f))
        estimates = effects_at(design, estimates, self.call.get("control") or Control())
        fit = type(self)(design, estimates, frame, {**self.call, "data": None})
        for message in fit._messages:
            warnings.warn(message, UserWarning, stacklevel=2)
        return fit

    def update(self, formula: str | None = None, **arguments: Any) -> Any:
        """The fit with some arguments of :func:`pylmernn.glmernn` changed; "." stands for what was there."""
        from pylmernn.glm import glmernn

        given = {**self.call, **arguments}
        call = {name: value for name, value in given.items() if name not in ("data_name", "REML")}
        if call.get("data") is None:
            raise DesignError("this fit was loaded from a file and holds no data: give update(data=...).")
        call["formula"] = update_formula(str(self.frame.formula), formula) if formula else str(self.frame.formula)
        return glmernn(**call)

    # ---- text, tables, pictures, files

    @property
    def _header(self) -> ClassHeader:
        plain = super()._header
        counts = np.bincount(self.design.y.astype(np.intp), minlength=len(self.classes))
        classes = tuple(zip(self.classes, counts.tolist(), strict=True))
        how = sampling_text(self.estimates.draws)
        return ClassHeader(**dataclasses.asdict(plain), classes=classes, sampling=how)

    @property
    def _sampling(self) -> dict[str, str | float]:
        draws = self.estimates.draws
        return {
            "sampler": draws.sampler, "chains": draws.n_chains, "draws": draws.n_draws, "R-hat": draws.rhat,
            "ESS": draws.ess, "divergences": draws.divergences,
        }  # fmt: skip

    def summary(self) -> ClassSummary:
        """The fit at a glance; printing it gives lme4's layout.

        Returns
        -------
        ClassSummary
            With ``sampling``, ``deviance``, ``varcor``, ``coefficients``, ``vcov``, ``ngrps`` and ``text(digits)``.
        """
        networks = self.estimates.networks
        return ClassSummary(
            header=self._header,
            sampling=self._sampling,
            deviance=self.deviance(),
            varcor=self.VarCorr(),
            ngrps=self.ngrps(),
            nobs=self.nobs(),
            coefficients=coefficient_table(self.fixef(), self._fixed_errors),
            vcov=pd.DataFrame() if self.estimates.fixed_covariance is None else self.vcov(),
            messages=self._messages,
            networks=() if networks is None else tuple(network_text(networks, self.design, self._importance, KNOWN)),
        )

    def __str__(self) -> str:
        text = class_short_text(
            self._header, self.deviance(), self.VarCorr(), self.ngrps(), self.nobs(), self.fixef(),
            self._messages,
        )  # fmt: skip
        networks = self.estimates.networks
        return "\n".join([text, *([] if networks is None else short_network_text(networks))])

    __repr__ = __str__

    def tidy(
        self,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
        scales: str = "sdcor",
        conf_int: bool = False,
        conf_level: float = 0.95,
    ) -> pd.DataFrame:
        """Estimates as rows, in the shape of broom.mixed, with a column for the class.

        Parameters
        ----------
        effects : str or list of {"fixed", "ran_pars", "ran_vals", "ran_coefs"}
        scales : {"sdcor", "vcov"}
            Standard deviations and correlations, or variances and covariances.
        conf_int : bool, default False
            Also conf.low and conf.high.
        conf_level : float, default 0.95
        """
        table = coefficient_table(self.fixef(), self._fixed_errors)
        return multinomial_tidy.tidy(
            effects, scales, table, self.VarCorr(), self.ranef(condVar=True), self.coef(),
            conf_level if conf_int else None,
        )  # fmt: skip

    def glance(self) -> pd.DataFrame:
        """One row of numbers about the fit."""
        sampling = {name.lower().replace("-", ""): value for name, value in self._sampling.items()}
        row = {"nobs": self.nobs(), "classes": len(self.classes), "deviance": self.deviance(), **sampling}
        return pd.DataFrame([row])

    augment = refused("augment()", "use fitted() and residuals()")

    def plot(self, kind: str = "ranef", **options: Any) -> Axes | Figure:
        """A picture of the fit (needs matplotlib).

        Parameters
        ----------
        kind : str, default "ranef"
            "ranef": posterior means with their intervals, a panel for each class (a caterpillar plot). "distribution":
            of the effects of each factor and class, where ``row=`` marks those of one row (Tschalzev et al., 2024,
            Figure 3). "trace": variances over the draws. "calibration" and "roc": by class, of ``newdata=`` where
            given. Of networks: "history", "importance" and "partial".
        **options
            See :mod:`pylmernn.fit.plot_multinomial`.

        Returns
        -------
        matplotlib Axes or Figure
        """
        from pylmernn.fit import plot_multinomial

        return plot_multinomial.draw(self, kind, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the fit in one file (safetensors, with JSON text), readable by :func:`pylmernn.load`.

        Parameters
        ----------
        path : path
            Written whole or not at all.
        """
        from pylmernn.fit import save

        save.save(self, path)


def _labels(newresp: Any) -> list[str]:
    """A response as class names."""
    if isinstance(newresp, pd.DataFrame):
        if newresp.shape[1] != 1:
            raise DesignError(f"newresp has {newresp.shape[1]} columns: refit takes one response at a time.")
        newresp = newresp.iloc[:, 0]
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in newresp]  # 1.0 is class "1"
