"""What a fit of a network that varies by group answers beyond its estimates: simulation, curves, limits, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pylmernn.engines.nme_variance import Errors, GroupRows, errors_of
from pylmernn.fit import inference, varying_networks
from pylmernn.fit.effects import partial_dependence
from pylmernn.fit.networks import table_note
from pylmernn.fit.varying_intervals import fit_rows
from pylmernn.fit.varying_simulate import linear_predictors, responses
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula.design import DesignError, FloatArray, IntArray, NewRows
from pylmernn.mean.networks import Networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = ("NA", "~0", "~-1", "~ 0")  # re_form without deviations


def is_generic(re_form: Any) -> bool:
    """Whether ``re_form`` asks for the generic network; DesignError for anything but that and None."""
    generic = re_form is not None and (re_form is False or str(re_form).replace(" ", "") in NOTHING)
    if re_form is not None and not generic:
        raise DesignError(f"re_form is {re_form!r}: use None, or 'NA' for the generic network.")
    return generic


class VaryingAnswers(VaryingVerbs):
    """Verbs of a fit with one bar of a network.

    Attributes
    ----------
    added : GroupRows or None
        Rows from which groups were learnt after the fit.
    """

    added: GroupRows | None = None

    def _fixed(self, rows: NewRows) -> FloatArray:
        """Linear predictors but for the network, (m,) or (m, C)."""
        offset = rows.offset[:, None] if self.estimates.beta.ndim == 2 else rows.offset
        return np.asarray(offset + rows.X @ self.estimates.beta)

    @cached_property
    def _errors(self) -> Errors:
        """How certain predictions are; from all rows of the fit, so it is kept."""
        return errors_of(self.design, self.estimates, self.added)

    def _places(self, names: Iterable[Any]) -> IntArray:
        """Codes of levels by name, -1 for those that the fit has not seen."""
        at = {str(level): code for code, level in enumerate(self.design.varying[0].levels)}
        return np.array([at.get(str(name), -1) for name in names], dtype=np.int32)

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
            Keep all deviations as they were estimated (``re_form=None``).
        re_form : None or "NA", default "NA"
            None keeps the deviations; "NA" draws new ones for every group.
        newdata : DataFrame, optional
            By default the rows of the fit.
        allow_new_levels : bool, default False
            Draw deviations for groups the fit has not seen, instead of refusing them.

        Returns
        -------
        DataFrame, shape (rows, nsim)
            Columns sim_1, sim_2, ...; names of classes for a categorical response.

        Raises
        ------
        DesignError
            For new groups without ``allow_new_levels``, or missing columns.

        Examples
        --------
        >>> import pylmernn
        >>> data = pylmernn.datasets.load("sleepstudy")
        >>> fit = pylmernn.lmernn("Reaction ~ nn(Days, hidden=c()) + (nn | Subject)", data)
        >>> fit.simulate(nsim=2, seed=1).shape
        (180, 2)
        """
        if nsim < 1:
            raise DesignError(f"nsim is {nsim}: ask for at least one simulation.")
        drawn = is_generic(re_form) and not use_u
        if newdata is None:
            rows, codes = fit_rows(self.design), self.design.varying[0].codes
            names = self.frame.row_names
            index = pd.RangeIndex(self.design.n) if names is None else names
            weights = self.design.weights
        else:
            rows = self.frame.new_data(newdata, self.design, varying=True)
            codes, weights = self._codes(rows, allow_new_levels), None
            strangers = np.flatnonzero(codes < 0)
            which = np.unique(rows.varying[0][strangers].astype(str), return_inverse=True)[1]
            codes[strangers] = len(self.estimates.effects) + which
            index = pd.Index(rows.row_names)
        rng = np.random.default_rng(seed)
        eta = linear_predictors(self.estimates, self._fixed(rows), rows.nets[0], codes, drawn, nsim, rng)
        return self._responses(eta, weights, rng, index)

    def _responses(
        self, eta: FloatArray, weights: FloatArray | None, rng: np.random.Generator, index: pd.Index
    ) -> pd.DataFrame:
        """Responses drawn at linear predictors (m, nsim) or (m, C, nsim): columns sim_1, ...; names of classes."""
        values: Any = responses(self.estimates, eta, np.ones(len(eta)) if weights is None else weights, rng)
        family = getattr(self.estimates, "family", None)
        if family is not None and family.categorical:
            values = np.array(self.estimates.classes, dtype=object)[values.astype(np.intp)]
        return pd.DataFrame(values, index=index, columns=[f"sim_{i + 1}" for i in range(eta.shape[-1])])

    def _codes(self, rows: NewRows, allow_new_levels: bool) -> IntArray:
        raise NotImplementedError

    # ---- networks

    def _networks(self, lacking: str) -> Networks:
        """The networks, as pictures of other fits ask for them."""
        networks: Networks = self.estimates.networks
        return networks

    def importance(self, n_repeats: int = 5, seed: int = 0) -> pd.DataFrame:
        """Permutation importance of the inputs of the network.

        How much the mean squared error rises when one input is permuted among the rows, as share of the variance of
        the response; of a generalized model the deviance, as share of that of a constant mean. Each row keeps the
        network of its group. Up to 5,000 rows are used, held-out ones of the training where there are any; deviations
        have been estimated on those too.

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
        codes = self.design.varying[0].codes
        return varying_networks.importance(self.design, self.estimates, codes, n_repeats, seed)

    def partial_dependence(
        self,
        inputs: str | Sequence[str],
        grid_size: int = 40,
        seed: int = 0,
        groups: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The network's part of the mean against one or two of its inputs, averaged over the others.

        Of a generalized model it is its part of the linear predictor.

        Parameters
        ----------
        inputs : str or pair of str
            Inputs of ``nn(...)`` as written there. Where one is a fixed effect too, that does not move.
        grid_size : int, default 40
            Values of a number, from its 1% to its 99% quantile; half as many along each of two. Factors and numbers of
            few values take all of theirs.
        seed : int, default 0
            Of the rows averaged over, at most 1,000, the same for all groups.
        groups : str or sequence of str, optional
            Names of groups, whose own networks are asked instead of the generic one; "all" for every group.

        Returns
        -------
        DataFrame
            One column an input, and f; of several classes a row for each, named in a column class; with ``groups`` a
            first column named by the grouping factor.

        Raises
        ------
        DesignError
            For an input that the network has not, or that holds arrays, or a group that is not known.

        Notes
        -----
        The mean of the persons' curves differs from the generic curve where more than the last layer varies.
        """
        names = [inputs] if isinstance(inputs, str) else list(inputs)
        labels = {name: record["levels"] for name, record in self.frame.records.items() if record.get("levels")}
        term = self.design.varying[0]

        def table(group: int | None) -> pd.DataFrame:
            networks = varying_networks.networks_of(self.estimates, group)
            return partial_dependence(self.design, networks, names, labels, grid_size, seed)

        if groups is None:
            return table(None)
        tables = []
        for code in self._levels(groups):
            one = table(code)
            one.insert(0, term.group, str(term.levels[code]))
            tables.append(one)
        return pd.concat(tables, ignore_index=True)

    def _levels(self, groups: str | Sequence[str]) -> list[int]:
        """Codes of groups by name; all of them for "all"."""
        term = self.design.varying[0]
        if isinstance(groups, str) and groups == "all":
            return list(range(len(term.levels)))
        wanted = [groups] if isinstance(groups, str) else [str(name) for name in groups]
        codes = self._places(wanted)
        for name, code in zip(wanted, codes, strict=True):
            if code < 0:
                raise DesignError(f"the grouping factor '{term.group}' has no level '{name}'.")
        return [int(code) for code in codes]

    # ---- tests

    def confint(
        self, parm: str | Sequence[str] | None = None, level: float = 0.95, method: str = "Wald"
    ) -> pd.DataFrame:
        """Wald intervals of the linear coefficients, the network taken as known.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Names of coefficients; by default all.
        level : float, default 0.95
        method : {"Wald"}

        Returns
        -------
        DataFrame
            Rows coefficients, columns "2.5 %" and "97.5 %".

        Raises
        ------
        DesignError
            Where more than the last layer varies, or for another method or name.
        """
        if method != "Wald":
            raise DesignError(f"confint of a network that varies by group has no method '{method}': use 'Wald'.")
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        covariance: pd.DataFrame = self.vcov()  # type: ignore[attr-defined]
        names = list(covariance.index)
        wanted = names if parm is None else [parm] if isinstance(parm, str) else list(parm)
        for name in wanted:
            if name not in names:
                raise DesignError(f"there is no linear coefficient '{name}': there are {', '.join(names) or 'none'}.")
        beta = self.fixef()[: len(names)]  # type: ignore[attr-defined]
        limits = inference.wald_limits(beta.to_numpy(), np.sqrt(np.diagonal(covariance)), level)
        table = pd.DataFrame(limits, index=names, columns=inference.percent_labels(level)).loc[wanted]
        return inference.limits_table(table, table_note([self.estimates.networks]))

    # ---- pictures

    def plot(self, kind: str = "curves", **options: Any) -> Axes | Figure:
        """A picture of the fit (needs matplotlib).

        Parameters
        ----------
        kind : str, default "curves"
            "curves": the generic curve along one input and that of each group, with bands of some; "shrinkage": how
            far groups deviate, against their rows; "baseline": deviations of the last layer's bias against the level
            of each group; "variances": of each layer; "importance" and "partial" of the inputs; "history" of the
            training; "predicted" and "residuals".
        **options
            Of the functions in :mod:`pylmernn.fit.plot_varying`; ``ax=`` draws into given axes.

        Returns
        -------
        matplotlib Axes or Figure
        """
        from pylmernn.fit import plot_varying

        return plot_varying.draw(self, kind, **options)
