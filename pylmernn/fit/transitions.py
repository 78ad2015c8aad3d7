"""What a sequence model says of transitions: their probabilities, and how two sets of groups differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.engines import nme_crf_moves as moves
from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.fit.hsic import IndependenceTest, hsic_test
from pylmernn.formula.design import DesignError, FloatArray

LEAST_GROUPS = 3  # of a set that groups are drawn from


@dataclass(frozen=True)
class TransitionComparison:
    """How the transitions of two sets of groups differ.

    Attributes
    ----------
    names : tuple of str
        Of the first and the second set.
    groups : tuple of int
        How many groups each has.
    first, second : DataFrame, shape (S, S)
        Mean transition probabilities over the groups of a set, from the state of a row to that of a column.
    difference : DataFrame, shape (S, S)
        ``second - first``.
    lower, upper : DataFrame, shape (S, S)
        Limits of the difference, each cell by itself.
    level : float
        Of these limits.
    independence : IndependenceTest
        Whether transitions and sets are independent, all cells together.
    """

    names: tuple[str, str]
    groups: tuple[int, int]
    first: pd.DataFrame
    second: pd.DataFrame
    difference: pd.DataFrame
    lower: pd.DataFrame
    upper: pd.DataFrame
    level: float
    independence: IndependenceTest

    @property
    def apart(self) -> pd.DataFrame:
        """Cells whose interval leaves out zero."""
        return (self.lower > 0) | (self.upper < 0)

    def frame(self) -> pd.DataFrame:
        """A row for each transition: from, to, the two sets, difference, lwr and upr."""
        tables = (self.first, self.second, self.difference, self.lower, self.upper)
        values = {
            name: table.to_numpy().ravel()
            for name, table in zip((*self.names, "difference", "lwr", "upr"), tables, strict=True)
        }
        return pd.DataFrame(pairs_of(list(self.first.index)) | values)

    def __str__(self) -> str:
        low, high, apart = (each.to_numpy() for each in (100 * self.lower, 100 * self.upper, self.apart))
        text = np.vectorize(lambda a, b, mark: f"[{a:.1f}, {b:.1f}]" + (" ", "*")[mark])
        states = list(self.first.index)
        cells = pd.DataFrame(text(low, high, apart.astype(int)), index=states, columns=states)
        return "\n".join(
            [
                f"Transition probabilities of '{self.names[1]}' ({self.groups[1]} groups) less those of "
                f"'{self.names[0]}' ({self.groups[0]} groups)",
                f"{100 * self.level:g}% intervals in percentage points, from row to column (*: zero is outside)",
                cells.to_string(),
                f"Transitions independent of the set? {self.independence}",
            ]
        )


def pairs_of(states: list[str]) -> dict[str, NDArray[Any]]:
    """Columns from and to of all transitions, row by row."""
    return {"from": np.repeat(states, len(states)), "to": np.tile(states, len(states))}


class TransitionVerbs:
    """Verbs of sequence models about transitions."""

    design: Any
    estimates: SequenceEstimates
    _rows: Any

    def transition_probabilities(
        self,
        group: Any = None,
        newdata: Any = None,
        interval: bool = False,
        level: float = 0.95,
        draws: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Probabilities of the next state given the present one.

        By themselves transitions are scores, ``T_bar + T_i``, and their probabilities are ``softmax`` along each row:
        those of a next state where the inputs favour none, as in Figure 6 of Woerner et al. (2023). With ``newdata``
        they are those that the model expects in these sequences, inputs and network counted: expected moves from each
        state to each other over expected moves from it.

        A list of groups gets the mean over them. What is known of a group is drawn to what all groups share; a set of
        groups is drawn to a mean of its own instead, estimated by maximum likelihood, so that sets differ as much as
        their sequences say. The mean is over the posterior distributions of the groups too.

        Parameters
        ----------
        group : str or list of str, optional
            A level of the grouping factor, or several; by default what all groups share.
        newdata : DataFrame, optional
            Sequences with their inputs; states and groups in it are not read.
        interval : bool, default False
            Whether to give limits: of the posterior distribution for one group, by a bootstrap that draws whole groups
            for several, and for what all share by one that draws from all groups. All else is taken as known.
        level : float, default 0.95
        draws : int, default 1000
            From the posterior distribution, or of the bootstrap.
        seed : int, default 0

        Returns
        -------
        DataFrame
            (S, S), from the state of a row to that of a column; with ``interval`` a row for each transition, with
            columns from, to, fit, lwr and upr.

        Raises
        ------
        DesignError
            For unknown groups, an interval with newdata or in a model in which transitions do not vary, or bad newdata.

        Examples
        --------
        >>> import pylmernn
        >>> from pylmernn.engines.control import Control
        >>> from pylmernn.training.options import Training
        >>> rng = np.random.default_rng(0)
        >>> data = pd.DataFrame({"x": rng.normal(size=120), "dyad": np.repeat(list("abcdef"), 20)})
        >>> data["state"] = np.where(data.x + rng.normal(size=120) > 0, "up", "down")
        >>> control = Control(training=Training(epochs=2))
        >>> fit = pylmernn.glmernn("state ~ nn(x, hidden=c(2)) + (crf | dyad)", data, family="crf", sequence="dyad",
        ...                        control=control)
        >>> fit.transition_probabilities("a").sum(axis=1).round(6).tolist()
        [1.0, 1.0]
        """
        states = list(self.estimates.classes)
        several = isinstance(group, list | tuple | np.ndarray | pd.Index | pd.Series)
        if newdata is not None:
            if interval:
                raise DesignError("limits are for transitions by themselves: leave out newdata, or interval.")
            return pd.DataFrame(self._expected(group if several else [group], newdata), index=states, columns=states)
        if interval:
            _check_level(level, draws)
            fit, found = self._drawn(group, several, draws, seed)
            limits = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2], axis=0)
            values = {"fit": fit.ravel(), "lwr": limits[0].ravel(), "upr": limits[1].ravel()}
            return pd.DataFrame(pairs_of(states) | values)
        return pd.DataFrame(self._point(group, several, seed), index=states, columns=states)

    def compare_transitions(
        self,
        by: Any,
        level: float = 0.95,
        draws: int = 1000,
        permutations: int = 4999,
        seed: int = 0,
    ) -> TransitionComparison:
        """How the transition probabilities of two sets of groups differ, with limits and a test.

        The matrices are those of ``transition_probabilities([...])`` of each set. The limits are quantiles of a
        bootstrap that draws groups with replacement within each set (Woerner et al., 2023, Table 5); network, T_bar and
        covariances are taken as known. Each interval is of one cell. The test is of all cells together:
        :func:`pylmernn.hsic_test` of the modes of the groups' transitions, less their mean, and the sets.

        Parameters
        ----------
        by : dict or Series
            From levels of the grouping factor to two labels, such as depressed or not. Groups without one, or with a
            missing one, are left out. The second label is the later one in order, or of the categories.
        level : float, default 0.95
        draws : int, default 1000
            Of the bootstrap.
        permutations : int, default 4999
            Of the test.
        seed : int, default 0

        Raises
        ------
        DesignError
            For unknown groups, other than two labels, fewer than 3 groups with a label, or transitions that do not
            vary.
        """
        _check_level(level, draws)
        names, sets = self._sets(by)
        rng = np.random.default_rng(seed)
        e, means, drawn = self.estimates, [], []
        for which in sets:
            of_set = moves.group_moves(e, which, seed)
            means.append(of_set.at(np.arange(len(which))))
            drawn.append(of_set.bootstrap(draws, rng))
        limits = np.quantile(drawn[1] - drawn[0], [0.5 - level / 2, 0.5 + level / 2], axis=0)
        states = list(e.classes)
        first, second, difference, lower, upper = (
            pd.DataFrame(each, index=states, columns=states) for each in (*means, means[1] - means[0], *limits)
        )
        both = np.concatenate(sets)
        own = e.effects[both, -(len(states) ** 2) :]
        labels = np.repeat([0, 1], [len(which) for which in sets]).astype(str)
        test = hsic_test(own - own.mean(axis=1, keepdims=True), labels, permutations, seed)
        sizes = (len(sets[0]), len(sets[1]))
        return TransitionComparison(names, sizes, first, second, difference, lower, upper, level, test)

    def plot(self, kind: str = "transitions", **options: Any) -> Any:
        """A picture: "transitions" or "history".

        Parameters
        ----------
        kind : {"transitions", "history"}
            Heat maps of transition probabilities, or losses against epochs.
        **options
            For transitions ``by=``, two sets of groups as :meth:`compare_transitions` takes them (or what it returned),
            ``group=`` or ``newdata=``; ``ax=`` for the history.

        Returns
        -------
        Figure or Axes
            Of matplotlib.

        Raises
        ------
        DesignError
            For other kinds, and as the verbs that are drawn.
        """
        from pylmernn.fit import plot_sequences  # matplotlib is loaded for pictures only

        return plot_sequences.draw(self, kind, **options)

    # ---- parts

    def _vary(self) -> list[str]:
        """Names of the groups whose transitions vary."""
        if not self.estimates.moves:
            raise DesignError("transitions do not vary in this model: add a bar such as (crf | dyad).")
        if not self.estimates.factor[-(len(self.estimates.classes) ** 2) :].any():
            raise DesignError(
                "all groups have the same transitions in this fit, as the variances of these are zero: nothing is left "
                "to compare or to draw; vcov() has standard errors of what all share."
            )
        return [str(level) for level in self.design.varying[0].levels]

    def _positions(self, groups: Any) -> NDArray[np.intp]:
        """Of levels; DesignError for one that the fit has not seen."""
        at = {str(name): k for k, name in enumerate(self.design.varying[0].levels)} if self.design.varying else {}
        unknown = [str(each) for each in groups if str(each) not in at]
        if unknown or not len(groups):
            what = f"'{unknown[0]}' is no group" if unknown else "there is no group in the list"
            raise DesignError(f"{what} that the fit has seen: transitions are known of those in ranef().")
        return np.array([at[str(each)] for each in groups], dtype=np.intp)

    def _point(self, group: Any, several: bool, seed: int) -> FloatArray:
        e = self.estimates
        if group is None:
            return moves.shares(e.transitions)
        which = self._positions(group if several else [group])
        if not e.moves:
            return moves.shares(e.transitions)
        if several:
            return moves.group_moves(e, which, seed).at(np.arange(len(which)))
        return moves.shares(e.transitions + e.effects[which[0], -e.transitions.size :].reshape(e.transitions.shape))

    def _drawn(self, group: Any, several: bool, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
        """Probabilities (S, S), and draws of them."""
        e, levels = self.estimates, self._vary()
        point = self._point(group, several, seed)
        if group is not None and not several:
            return point, moves.posterior_draws(e, int(self._positions([group])[0]), draws, seed)
        which = np.arange(len(levels)) if group is None else self._positions(group)
        if len(which) < LEAST_GROUPS:
            raise DesignError(f"there are {len(which)} groups: limits of several groups need at least {LEAST_GROUPS}.")
        of_set, rng = moves.group_moves(e, which, seed), np.random.default_rng(seed)
        if group is not None:
            return point, of_set.bootstrap(draws, rng)
        found = []
        for _ in range(draws):
            some = rng.integers(len(which), size=len(which))
            mean = of_set.L @ moves.own_mean(of_set.u[some], of_set.V[some])
            found.append(moves.shares(e.transitions + mean.reshape(e.transitions.shape)))
        return point, np.stack(found)

    def _expected(self, groups: Any, newdata: Any) -> FloatArray:
        model, data, _, _ = self._rows(newdata, "NA", True)
        none = np.zeros(model.size)
        effects = [none if each is None else self.estimates.effects[self._positions([each])[0]] for each in groups]
        if not effects:
            self._positions(groups)
        return np.asarray(np.mean([moves.expected_moves(model, data, v) for v in effects], axis=0))

    def _sets(self, by: Any) -> tuple[tuple[str, str], list[NDArray[np.intp]]]:
        """Names of two sets, and the positions of their groups."""
        self._vary()
        if not isinstance(by, Mapping | pd.Series):
            raise DesignError("by is a dict or a Series from groups to two labels.")
        labels = pd.Series(dict(by)) if isinstance(by, Mapping) else by
        labels = labels[labels.notna()]
        if labels.index.astype(str).has_duplicates:
            raise DesignError("by names a group twice: give each group one label.")
        kinds = labels.cat.remove_unused_categories().cat.categories if hasattr(labels, "cat") else None
        order = sorted(set(labels)) if kinds is None else list(kinds)
        if len(order) != 2:
            shown = ", ".join(f"'{each}'" for each in order[:5])
            raise DesignError(f"by has {len(order)} labels ({shown}): transitions of two sets of groups are compared.")
        sets = [self._positions(list(labels.index[(labels == each).to_numpy()])) for each in order]
        for name, which in zip(order, sets, strict=True):
            if len(which) < LEAST_GROUPS:
                raise DesignError(
                    f"'{name}' has {len(which)} groups: limits need at least {LEAST_GROUPS} of each label."
                )
        return (str(order[0]), str(order[1])), sets


def _check_level(level: float, draws: int) -> None:
    if not 0.0 < level < 1.0:
        raise DesignError(f"level is {level}: it must be between 0 and 1.")
    if draws < 1:
        raise DesignError(f"draws is {draws}: it must be at least 1.")
