"""What a fit with several bars of a network answers beyond its estimates: simulation, curves, limits, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from pylmernn.engines.nme_several_predict import Fresh
from pylmernn.engines.nme_several_variance import SeveralErrors, SeveralRows, errors_of
from pylmernn.fit import varying_networks
from pylmernn.fit.effects import partial_dependence
from pylmernn.fit.predict import interval_frame
from pylmernn.fit.several_bars import Asked, SeveralBars, level_names
from pylmernn.fit.several_simulate import linear_predictors
from pylmernn.fit.several_views import by_cells, factor_of, levels_of_bars, named_levels, networks_by
from pylmernn.fit.varying_answers import VaryingAnswers
from pylmernn.formula.design import DesignError, FloatArray, IntArray, NewRows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class SeveralAnswers(SeveralBars, VaryingAnswers):
    """Verbs of a fit with several bars of a network, or with ordinary ones beside it.

    Attributes
    ----------
    added : SeveralRows or None
        Rows from which levels were learnt after the fit.
    """

    added: SeveralRows | None = None  # type: ignore[assignment]

    # ---- standard errors

    @cached_property
    def _errors(self) -> SeveralErrors:  # type: ignore[override]
        """How certain predictions are; from all rows of the fit, so it is kept."""
        return errors_of(self.design, self.estimates, self.added)

    def _error_frame(
        self, asked: Asked, mean: FloatArray, weights: FloatArray | None, interval: str | None, level: float
    ) -> pd.DataFrame:
        """Columns fit and se, and lwr and upr where limits are asked for."""
        rows = several_rows(asked, weights)
        noise = self._errors.calibration.noise / rows.weights
        variance = self._variances(asked, rows)
        return interval_frame(mean, variance, noise, interval, level, pd.Index(asked.rows.row_names))

    def _variances(self, asked: Asked, rows: SeveralRows) -> FloatArray:
        """Variances of means (m,), or of linear predictors; NaN where a value is missing."""
        inside = [rows.X, rows.inputs, *rows.columns]
        whole = np.flatnonzero(np.logical_and.reduce([np.isfinite(each).all(axis=1) for each in inside]))
        variance = np.full(len(rows), np.nan)
        if len(whole):
            variance[whole] = self._errors.variance(rows.take(whole), asked.include)
        return variance

    def _with_learnt(self, after: Self, rows: NewRows, fresh: list[Fresh], weights: FloatArray) -> Self:
        """A fit that has learnt new levels from rows, with what these weigh (m,), which its errors then count."""
        own = SeveralRows(
            rows.X,
            rows.nets[0],
            tuple(each.codes for each in fresh),
            tuple(each.columns for each in fresh if each.columns is not None),
            weights,
        )
        bars = [*self.estimates.varying, *self.estimates.random]
        new = [each.codes >= len(bar.effects) for each, bar in zip(fresh, bars, strict=True)]
        learnt = own.take(np.logical_or.reduce(new))
        after.added = learnt if self.added is None else self.added.joined(learnt)
        return after

    # ---- simulation

    def simulate(
        self,
        nsim: int = 1,
        seed: int | np.random.Generator | None = None,
        use_u: bool = False,
        re_form: Any = "NA",
        newdata: Any = None,
        allow_new_levels: bool = False,
    ) -> pd.DataFrame:
        """New responses drawn from the fitted model.

        Parameters
        ----------
        nsim : int, default 1
        seed : int or numpy Generator, optional
        use_u : bool, default False
            Keep all random effects as they were estimated (``re_form=None``).
        re_form : None, "NA" or str, default "NA"
            None keeps the random effects; "NA" draws new ones for every level of every factor; a formula such as
            "~ (nn.last | culture)" keeps those of the bars that it names.
        newdata : DataFrame, optional
            By default the rows of the fit.
        allow_new_levels : bool, default False
            Draw random effects of levels the fit has not seen, instead of refusing them.

        Returns
        -------
        DataFrame, shape (rows, nsim)
            Columns sim_1, sim_2, ...

        Raises
        ------
        DesignError
            For new levels without ``allow_new_levels``, missing columns, or a bar that the model has not.
        """
        if nsim < 1:
            raise DesignError(f"nsim is {nsim}: ask for at least one simulation.")
        wanted, columns = self._taken(None if use_u else re_form)
        kept = [np.full(bar.effects.shape[1], want) for bar, want in zip(self.estimates.varying, wanted, strict=True)]
        asked = self._asked(newdata, None, allow_new_levels)
        codes = [*asked.codes, *(new.codes for new in asked.rows.random)]
        if newdata is not None:
            codes = self._with_strangers(codes, asked, newdata)
        rng, rows = np.random.default_rng(seed), asked.rows
        fixed = rows.offset + rows.X @ self.estimates.beta
        Z = [new.columns for new in rows.random]
        eta = linear_predictors(self.estimates, fixed, rows.nets[0], codes, Z, [*kept, *columns], nsim, rng)
        return self._responses(eta, self.design.weights if newdata is None else None, rng, pd.Index(rows.row_names))

    def _with_strangers(self, codes: list[IntArray], asked: Asked, newdata: Any) -> list[IntArray]:
        """Codes in which each level that the fit has not seen has one of its own."""
        names = [*asked.rows.varying, *(level_names(self.frame, newdata, term) for term in self.design.random)]
        out = []
        for own, given, bar in zip(codes, names, [*self.estimates.varying, *self.estimates.random], strict=True):
            strangers = np.flatnonzero(own < 0)
            own = own.copy()
            own[strangers] = len(bar.effects) + np.unique(given[strangers].astype(str), return_inverse=True)[1]
            out.append(own)
        return out

    # ---- networks

    def importance(self, n_repeats: int = 5, seed: int = 0) -> pd.DataFrame:
        """Permutation importance of the inputs of the network.

        How much the mean squared error rises when one input is permuted among the rows, as share of the variance of
        the response. Each row keeps its network, with the deviations of its levels of all factors, and its other random
        effects. Up to 5,000 rows are used, held-out ones of the training where there are any; random effects have been
        estimated on those too.

        Parameters
        ----------
        n_repeats : int, default 5
            Permutations of each input.
        seed : int, default 0
            Of the rows and the permutations.

        Returns
        -------
        DataFrame
            Columns network, input, importance and se (standard error over the permutations, of these rows).
        """
        if n_repeats < 1:
            raise DesignError(f"n_repeats is {n_repeats}: ask for at least one permutation.")
        estimates, codes = by_cells(self.estimates, [term.codes for term in self.design.varying])
        return varying_networks.importance(self.design, estimates, codes, n_repeats, seed)

    def partial_dependence(
        self,
        inputs: str | Sequence[str],
        grid_size: int = 40,
        seed: int = 0,
        groups: str | Sequence[str] | None = None,
        factor: str | None = None,
    ) -> pd.DataFrame:
        """The network's part of the mean against one or two of its inputs, averaged over the others.

        Parameters
        ----------
        inputs : str or pair of str
            Inputs of ``nn(...)`` as written there. Where one is a fixed effect too, that does not move.
        grid_size : int, default 40
            Values of a number, from its 1% to its 99% quantile; half as many along each of two. Factors and numbers of
            few values take all of theirs.
        seed : int, default 0
            Of the rows averaged over, at most 1,000, the same for all levels.
        groups : str or sequence of str, optional
            Levels of a grouping factor whose own networks are asked instead of the generic one; "all" for every level.
            A level nested in one of another factor has the deviations of both, as a person of a culture.
        factor : str, optional
            The grouping factor; by default the one with most levels by which the network varies.

        Returns
        -------
        DataFrame
            One column an input, and f; with ``groups`` a first column named by the grouping factor.

        Raises
        ------
        DesignError
            For an input that the network has not, or that holds arrays, or a factor or level that is not known.
        """
        names = [inputs] if isinstance(inputs, str) else list(inputs)
        labels = {name: record["levels"] for name, record in self.frame.records.items() if record.get("levels")}

        def table(networks: Any) -> pd.DataFrame:
            return partial_dependence(self.design, networks, names, labels, grid_size, seed)

        if groups is None:
            return table(self.estimates.networks)
        term = factor_of(self.design, factor)
        own = networks_by(self.estimates, levels_of_bars(self.design, term.group, self.added))
        tables = []
        for code in named_levels(term, groups):
            one = table(varying_networks.networks_of(own, code))
            one.insert(0, term.group, str(term.levels[code]))
            tables.append(one)
        return pd.concat(tables, ignore_index=True)

    # ---- pictures

    def plot(self, kind: str = "curves", **options: Any) -> Axes | Figure:
        """A picture of the fit (needs matplotlib).

        Parameters
        ----------
        kind : str, default "curves"
            "curves": the generic curve along one input and that of each level of a factor, with the deviations of what
            it is nested in, and bands of some; "shrinkage": how far levels deviate by their own deviations, against
            their rows; "baseline": deviations of the last layer's bias against the mean response of each level;
            "variances": of each layer; "ranef": random effects of a factor with intervals; "importance" and "partial"
            of the inputs; "history" of the training; "predicted" and "residuals".
        **options
            ``factor=``, the grouping factor, of the first five kinds: by default the one with most levels. Others are
            those of the functions in :mod:`pylmernn.fit.plot_varying`; ``ax=`` draws into given axes.

        Returns
        -------
        matplotlib Axes or Figure
        """
        from pylmernn.fit import plot_several

        return plot_several.draw(self, kind, **options)


def several_rows(asked: Asked, weights: FloatArray | None = None) -> SeveralRows:
    """Rows of a prediction as the engine takes them; missing values stay."""
    rows = asked.rows
    codes = [
        new.codes if bool(keep.any()) else np.full_like(new.codes, -1)
        for new, keep in zip(rows.random, asked.columns, strict=True)
    ]
    columns = tuple(np.where(keep, new.columns, 0.0) for new, keep in zip(rows.random, asked.columns, strict=True))
    every = (*asked.codes, *codes)
    return SeveralRows(rows.X, rows.nets[0], every, columns, np.ones(len(rows.X)) if weights is None else weights)
