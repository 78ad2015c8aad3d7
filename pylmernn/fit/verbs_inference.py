"""The verbs that test and refit: ``confint``, ``anova``, ``drop1``, ``refit``, ``update``, ``bootMer``."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from pylmernn.covariance import split_theta
from pylmernn.fit import inference, profile, refit
from pylmernn.fit.boot import Bootstrap
from pylmernn.fit.influence import Influence
from pylmernn.fit.influence import influence as case_deletion
from pylmernn.fit.networks import table_note
from pylmernn.fit.state import FitState
from pylmernn.fit.update import update_formula
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.networks import Networks

if TYPE_CHECKING:
    from pylmernn.fit.mixedfit import MixedFit


class InferenceVerbs(FitState):
    """Intervals and tests, and the same model fitted again."""

    def _again(self, design: Design | None = None, REML: bool | None = None) -> MixedFit:
        """A fit of another response or by another criterion, with the same settings."""
        design = self.design if design is None else design
        REML = self.estimates.REML if REML is None else REML
        old = self.estimates
        estimates = refit.estimate(design, old.method, REML, self.call.get("control"))
        estimates = dataclasses.replace(estimates, method=old.method, networks=old.networks)
        return cast("MixedFit", type(self)(design, estimates, self.frame, {**self.call, "REML": REML}))  # type: ignore[redundant-cast]

    def refit(self, newresp: Any) -> MixedFit:
        """The same model on another response.

        Parameters
        ----------
        newresp : array, Series or DataFrame with one column
            One value for each row in use (or for each row of the data, before missing values were dropped).

        Raises
        ------
        DesignError
            Where the length is wrong, or the values are constant or not finite.

        Warns
        -----
        UserWarning
            For a singular or failed fit.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
        >>> fit.refit(fit.simulate(seed=1)).nobs()
        30
        """
        y = refit.response_values(newresp, self.design.n, self.frame.all_rows, np.asarray(self.frame.omitted))
        fit = self._again(design=self.design.with_response(y))
        for message in fit._messages:
            warnings.warn(message, UserWarning, stacklevel=2)
        return fit

    def influence(self, groups: str | None = None) -> Influence:
        """The estimates with each row, or each level of a factor, left out; a refit for each.

        Parameters
        ----------
        groups : str, optional
            A grouping factor; by default rows.

        Returns
        -------
        Influence
            With ``dfbeta()``, ``dfbetas()`` and ``cooks_distance()``.
        """
        if groups is None:
            deletions, labels = np.arange(self.design.n), self._row_names
        else:
            known = {term.group: term for term in self.design.random}
            if groups not in known:
                raise DesignError(f"influence knows no factor '{groups}': use one of {', '.join(known)}.")
            deletions, labels = known[groups].codes.astype(np.intp), pd.Index(known[groups].levels, name=groups)
        return case_deletion(
            self.design, self.estimates, deletions, labels, inference.vcov(self.design, self.estimates)
        )

    def refitML(self) -> MixedFit:
        """The fit by maximum likelihood; itself where it already is."""
        return self._again(REML=False) if self.estimates.REML else cast("MixedFit", self)

    def update(self, formula: str | None = None, **arguments: Any) -> MixedFit:
        """The fit with some arguments of :func:`pylmernn.lmernn` changed.

        Parameters
        ----------
        formula : str, optional
            A new formula, in which "." stands for what was there: ". ~ . + x - (1 | g)".
        **arguments
            data, REML, weights, ...

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
        >>> fit.update(". ~ . - Days").formula()
        'Reaction ~ (Days | Subject)'
        """
        from pylmernn.api import lmernn

        call = {**self.call, **arguments}
        call.pop("data_name", None)
        if call.get("data") is None:
            raise DesignError("this fit was loaded from a file and holds no data: give update(data=...).")
        call["formula"] = update_formula(str(self.frame.formula), formula) if formula else str(self.frame.formula)
        return lmernn(**call)  # type: ignore[return-value]

    def anova(
        self, *others: MixedFit, refit: bool = True, model_names: Sequence[str] | None = None
    ) -> inference.AnovaTable:
        """Likelihood ratio tests between fits, or the sequential F ratios of one.

        Parameters
        ----------
        *others : MixedFit
            Models of the same rows. None: the table of sums of squares, without p values, as lme4 has it.
        refit : bool, default True
            Fit REML models by ML first, without which their likelihoods cannot be compared.
        model_names : sequence of str, optional
            Row names, this fit first; by default MODEL1, MODEL2, ...

        Returns
        -------
        AnovaTable
            A DataFrame that prints as R's.

        Examples
        --------
        >>> import pylmernn
        >>> data = pylmernn.datasets.load("sleepstudy")
        >>> one = pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", data, REML=False)
        >>> two = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", data, REML=False)
        >>> one.anova(two)["Chisq"].round(2).tolist()
        [nan, 42.14]
        """
        if not others:
            labels = self.frame.fixed_terms.labels
            kept = [a for j, a in enumerate(self.frame.assign) if j not in set(self.design.dropped_at)]
            assign = ["(Intercept)" if a == 0 else labels[a - 1] for a in kept]
            return self._noted(inference.sequential_table(self.design, self.estimates, assign))
        fits = [cast("MixedFit", self), *others]
        _check_comparable(fits)
        names = list(model_names) if model_names is not None else [f"MODEL{i + 1}" for i in range(len(fits))]
        if len(names) != len(fits):
            raise DesignError(f"model_names has {len(names)} names for {len(fits)} models.")
        if refit and any(fit.isREML() for fit in fits):
            print("refitting model(s) with ML (instead of REML)", file=sys.stderr)
            fits = [fit.refitML() for fit in fits]
        elif len({fit.isREML() for fit in fits}) > 1:
            warnings.warn(
                "some models are fitted by REML, some not: their likelihoods cannot be compared", stacklevel=2
            )
        table = inference.likelihood_ratio_table(
            names, [fit.logLik() for fit in fits], [fit.formula() for fit in fits], self._header.data
        )
        return self._noted(table, [fit.estimates.networks for fit in fits])

    def _noted(self, table: inference.AnovaTable, networks: Sequence[Networks | None] = ()) -> inference.AnovaTable:
        """The table, headed by what it takes as known of the networks of the models in it."""
        table.heading += tuple(table_note(networks or [self.estimates.networks]))
        return table

    def drop1(
        self, scope: Sequence[str] | None = None, test: str | None = None, k: float = 2.0
    ) -> inference.AnovaTable:
        """Each fixed-effect term dropped in turn, by ML.

        Parameters
        ----------
        scope : sequence of str, optional
            Terms to drop; by default those that no other term contains.
        test : {None, "Chisq"}
            Also likelihood ratio tests.
        k : float, default 2
            Penalty of a parameter in AIC.
        """
        terms = self.frame.fixed_terms
        droppable = [
            label
            for label, bits in zip(terms.labels, terms.terms, strict=True)
            if not any(bits != other and bits & ~other == 0 for other in terms.terms)
        ]
        for label in scope or ():
            if label not in terms.labels:
                raise DesignError(f"drop1 cannot drop '{label}': the terms are {', '.join(terms.labels)}.")
        chosen = list(scope) if scope is not None else droppable
        reduced, networks = {}, [self.estimates.networks]
        for label in chosen:
            fit = self.update(f". ~ . - {label}", REML=False)
            if fit.nobs() != self.design.n:
                raise DesignError(
                    f"without '{label}' the model has {fit.nobs()} rows, not {self.design.n}: drop missing values."
                )
            reduced[label] = fit.logLik()
            networks.append(fit.estimates.networks)
        table = inference.single_deletions(self.refitML().logLik(), reduced, str(self.frame.formula), test, k)
        return self._noted(table, networks)

    def confint(
        self,
        parm: str | Sequence[str] | None = None,
        level: float = 0.95,
        method: str = "profile",
        nsim: int = 500,
        boot_type: str = "perc",
        seed: int | None = None,
        old_names: bool = True,
    ) -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Which parameters, by row name; "theta_" all variance parameters, "beta_" all fixed effects.
        level : float, default 0.95
        method : {"profile", "Wald", "boot"}
            Likelihood profiles; normal limits of the fixed effects (variance parameters get NaN); or a parametric
            bootstrap.
        nsim, boot_type, seed
            Of the bootstrap: number of samples, {"perc", "basic", "norm"}, and where to start.
        old_names : bool, default True
            Call the variance parameters .sig01, .sig02, ..., .sigma; else "sd_(Intercept)|g", "cor_x.(Intercept)|g",
            "sigma".

        Returns
        -------
        DataFrame
            Rows parameters, columns "2.5 %" and "97.5 %". Networks count as known, as the printed table says: refits
            by the bootstrap keep them.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
        >>> fit.confint(method="Wald", parm="beta_").round(2).loc["Days"].tolist()
        [7.44, 13.5]
        """
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        chosen = profile.which(parm, self.design)
        names = profile.parameter_names(self.design, old_names)
        if method == "Wald":
            se = np.sqrt(np.diagonal(self.estimates.unscaled_vcov)) * self.estimates.sigma
            fixed = inference.wald_limits(self.estimates.beta, se, level)
            limits = np.vstack([np.full((len(names) - self.design.p, 2), np.nan), fixed])[chosen]
        elif method == "profile":
            self._need_exact("profile intervals")
            limits = profile.profile_limits(self._profiler, chosen, level)
        elif method == "boot":
            booted = self.bootMer(parameter_values, nsim, seed)
            limits = booted.confint(level, boot_type).to_numpy()[chosen]
        else:
            raise DesignError(f"confint has no method '{method}': use 'profile', 'Wald' or 'boot'.")
        index = [names[k] for k in chosen]
        table = pd.DataFrame(limits, index=index, columns=inference.percent_labels(level))
        return inference.limits_table(table, table_note([self.estimates.networks]))

    @property
    def _profiler(self) -> profile.Profiler:
        return profile.Profiler(self.design, self.refitML().estimates)

    def _need_exact(self, what: str) -> None:
        if self.estimates.method == "iterative":
            raise DesignError(f"{what} need the exact method: this fit is iterative; use method='Wald' or 'boot'.")
        for term in self.design.random:
            if term.covariance not in ("us", "diag"):
                raise DesignError(f"{term.label}: {what} are for bars alone; use method='Wald' or 'boot'.")

    def profile(
        self, which: str | Sequence[str] | None = None, alphamax: float = 0.01, points: int = 8
    ) -> pd.DataFrame:
        """Likelihood profiles, by ML.

        Parameters
        ----------
        which : str or sequence of str, optional
            Parameters, as ``parm`` of ``confint``.
        alphamax : float, default 0.01
            The profiles reach the limits of intervals of level ``1 - alphamax``.
        points : int, default 8
            Points on each side of the estimate.

        Returns
        -------
        DataFrame
            Columns .par, value (standard deviations, correlations, sigma, fixed effects) and .zeta, the signed root of
            the rise of the deviance.
        """
        self._need_exact("profiles")
        return profile.profile_frame(self._profiler, profile.which(which, self.design), alphamax, points)

    def bootMer(
        self,
        FUN: Callable[[MixedFit], Any],
        nsim: int = 1,
        seed: int | np.random.Generator | None = None,
        use_u: bool = False,
        re_form: Any = "NA",
    ) -> Bootstrap:
        """Parametric bootstrap: simulate, refit, and take the statistics again.

        Parameters
        ----------
        FUN : callable
            From a fit to a Series, dict, sequence or number.
        nsim : int, default 1
        seed : int or numpy Generator, optional
        use_u, re_form
            What stays fixed, as in :meth:`simulate`.

        Returns
        -------
        Bootstrap
            ``t0``, ``t`` (nsim rows) and ``confint(level, type)``.

        Examples
        --------
        >>> import pylmernn
        >>> fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
        >>> fit.bootMer(lambda f: {"sigma": f.sigma()}, nsim=3, seed=1).t.shape
        (3, 1)
        """
        t0 = as_statistics(FUN(cast("MixedFit", self)))
        draws = self.simulate(nsim, seed, use_u, re_form).to_numpy()  # type: ignore[attr-defined]
        rows = [self._boot_row(FUN, draw, len(t0)) for draw in draws.T]
        return Bootstrap(t0, pd.DataFrame(np.array(rows), columns=t0.index))

    def _boot_row(self, FUN: Callable[[MixedFit], Any], response: np.ndarray, size: int) -> np.ndarray:
        """The statistics of one refit; NaN where it failed, which the Bootstrap counts."""
        try:
            return as_statistics(FUN(self._again(design=self.design.with_response(response)))).to_numpy()
        except (DesignError, np.linalg.LinAlgError):
            return np.full(size, np.nan)


def parameter_values(fit: MixedFit) -> pd.Series:
    """Standard deviations, correlations, sigma and fixed effects: the statistics of ``confint(method="boot")``."""
    roots = split_theta(fit.design.random, fit.estimates.theta)
    values = np.concatenate([profile.on_sdcor_scale(fit.design, roots, fit.estimates.sigma), fit.estimates.beta])
    names = [p.old_name for p in profile.variance_parameters(fit.design)] + list(fit.design.fixed_names)
    return pd.Series(values, index=names)


def as_statistics(value: Any) -> pd.Series:
    """Whatever a statistic returns, as a Series of floats."""
    if isinstance(value, (pd.Series, dict)):
        return pd.Series(value, dtype=float)
    values = np.atleast_1d(np.asarray(value, dtype=float))
    return pd.Series(values, index=[f"t{i + 1}" for i in range(len(values))])


def _check_comparable(fits: Sequence[MixedFit]) -> None:
    sizes = [fit.nobs() for fit in fits]
    if len(set(sizes)) > 1:
        shown = ", ".join(map(str, sizes))
        raise DesignError(f"the models were fitted to {shown} rows: compare models of the same rows.")
    if any(not np.array_equal(fit.design.y, fits[0].design.y) for fit in fits):
        raise DesignError("the models have different responses: compare models of the same response.")
