"""What fits with several bars of a network, or with ordinary bars beside one, answer whatever the response is."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.engines.nme_several_bars import BarEstimates
from pylmernn.engines.nme_several_predict import Fresh, averaged, values
from pylmernn.fit.predict import term_part
from pylmernn.fit.ranef import Ranef, coefficients
from pylmernn.fit.reform import selection
from pylmernn.fit.varcorr import TermCovariance, VarCorr, unique_names
from pylmernn.fit.varying_linear import new_levels_error
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula import ModelFrame
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import DesignError, FloatArray, IntArray, NewRows, NewTerm, RandomTerm
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.formula import parse
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.varying import VaryingTerm, split_bars

NOTHING = ("NA", "~0", "~-1")  # re_form without random effects
ALLOWED = "to give them effects of zero"  # what allow_new_levels does


@dataclasses.dataclass(frozen=True)
class OneBar:
    """A random term of the design with its estimates and the names of its columns."""

    term: VaryingTerm | RandomTerm
    found: BarEstimates
    columns: tuple[str, ...]
    layers: tuple[str, ...]


class Asked(NamedTuple):
    """Rows of which something is asked, and the random effects that take part.

    Attributes
    ----------
    rows : NewRows
    codes : list of ndarray, shape (m,)
        Of each bar of the network: the level of each row, -1 for none.
    columns : tuple of bool ndarray, shape (d,)
        Of each ordinary bar: which columns take part.
    whole : bool
        Whether these are the rows of the fit with all random effects.
    include : list of bool
        Which bars take part, those of the network first.
    """

    rows: NewRows
    codes: list[IntArray]
    columns: tuple[NDArray[np.bool_], ...]
    whole: bool
    include: list[bool]

    @property
    def generic(self) -> Asked:
        """The same rows without random effects."""
        codes = [np.full_like(own, -1) for own in self.codes]
        columns = tuple(np.zeros_like(own) for own in self.columns)
        return Asked(self.rows, codes, columns, False, [False] * len(self.include))


class Effects(Ranef):
    """Random effects of all bars; variances are (q, d, d), or (q, d) where only they are known."""

    def condsd(self) -> dict[str, pd.DataFrame]:
        """Conditional standard deviations, shaped as the effects."""
        if self.condVar is None:
            raise ValueError("these random effects have no variances: ask for ranef(condVar=True).")
        out = {}
        for group, table in self.items():
            each = [v if v.ndim == 2 else np.einsum("qdd->qd", v) for v in self.condVar[group]]
            sds = np.sqrt(np.maximum(np.hstack(each), 0))
            out[group] = pd.DataFrame(sds, index=table.index, columns=table.columns)
        return out


class SeveralBars(VaryingVerbs):
    """Random effects of all bars, by factor, and linear predictors of rows.

    A fit that has it keeps ``estimates.varying`` and ``estimates.random``, tuples of
    :class:`~pylmernn.engines.nme_several_bars.BarEstimates`, and what
    :func:`pylmernn.engines.nme_several_predict.values` reads.
    """

    fixef: Any

    @cached_property
    def _bars(self) -> list[OneBar]:
        """All random terms, by decreasing number of levels."""
        selected = self.estimates.selected
        bars = []
        for term, found in zip(self.design.varying, self.estimates.varying, strict=True):
            places = [] if found.places is None else found.places.tolist()
            labels = tuple(selected.labels[j] for j in places)
            bars.append(OneBar(term, found, labels, tuple(selected.layers[j] for j in places)))
        for ordinary, found in zip(self.design.random, self.estimates.random, strict=True):
            bars.append(OneBar(ordinary, found, ordinary.column_names, ()))
        return sorted(bars, key=lambda bar: -bar.term.n_levels)

    # ---- estimates

    def ngrps(self) -> dict[str, int]:
        """Levels of each grouping factor."""
        return {bar.term.group: bar.term.n_levels for bar in self._bars}

    def ranef(self, condVar: bool = False) -> Effects:
        """Random effects of all bars, a dict from grouping factor to a table of levels by parameters and columns.

        Parameters
        ----------
        condVar : bool, default False
            Also posterior variances: exact given the layers below where only the last layer varies, else those of the
            model linearised at the modes.
        """
        groups: dict[str, list[OneBar]] = {}
        for bar in self._bars:
            groups.setdefault(bar.term.group, []).append(bar)
        found = Effects()
        for group, bars in groups.items():
            found[group] = pd.DataFrame(
                np.hstack([bar.found.effects for bar in bars]),
                index=pd.Index(bars[0].term.levels, name=group),
                columns=[name for bar in bars for name in bar.columns],
            )
        if condVar:
            found.condVar = {group: [bar.found.variances for bar in bars] for group, bars in groups.items()}
        return found

    def coef(self) -> Ranef:
        """Coefficients and parameters of each level of each factor: the fixed ones plus the level's own deviations."""
        return coefficients(self.fixef(), self.ranef())

    def VarCorr(self) -> VarCorr:
        """Variances of all bars, named by their grouping factor as in lme4.

        Where the deviations of a network have no free covariance matrix they come by layer, named "group.layer".
        """
        terms = []
        names = unique_names([bar.term.group for bar in self._bars])
        for name, bar in zip(names, self._bars, strict=True):
            factor = bar.found.factor
            whole = np.diag(factor**2) if factor.ndim == 1 else factor @ factor.T
            free = factor.ndim == 2
            if not bar.layers or bar.found.variances.ndim == 3:
                terms.append(TermCovariance(name, bar.columns, whole, free))
                continue
            for layer in dict.fromkeys(bar.layers):
                at = [k for k, own in enumerate(bar.layers) if own == layer]
                labels = tuple(bar.columns[k] for k in at)
                terms.append(TermCovariance(f"{name}.{layer}", labels, whole[np.ix_(at, at)], free))
        return VarCorr(terms, self.estimates.sigma)

    # ---- rows

    def _asked(self, newdata: Any, re_form: Any, allow_new_levels: bool, na_action: str = "pass") -> Asked:
        """Rows of new data, or of the fit for None, with the random effects that ``re_form`` names.

        Raises
        ------
        DesignError
            For new levels that are not allowed, missing columns, or a bar that the model has not.
        """
        wanted, columns = self._taken(re_form)
        if newdata is None:
            random = tuple(NewTerm(term.codes, term.columns) for term in self.design.random)
            offset = np.zeros(self.design.n) if self.design.offset is None else self.design.offset
            rows = NewRows(self.design.X, offset, random, self._names, (self.design.nets[0].inputs,))
            codes = [term.codes for term in self.design.varying]
        else:
            used = [bool(own.any()) for own in columns]
            rows = self.frame.new_data(newdata, self.design, random=used, varying=any(wanted), na_action=na_action)
            codes = self._level_codes(rows, wanted, allow_new_levels)
            self._check_levels(rows, used, allow_new_levels)
        codes = [own if want else np.full(len(own), -1, np.int32) for own, want in zip(codes, wanted, strict=True)]
        whole = newdata is None and all(wanted) and all(bool(own.all()) for own in columns)
        return Asked(rows, codes, columns, whole, [*wanted, *(bool(own.any()) for own in columns)])

    def _taken(self, re_form: Any) -> tuple[list[bool], tuple[NDArray[np.bool_], ...]]:
        """Which bars of the network take part, and which columns of the ordinary ones."""
        if re_form is None:
            return [True] * len(self.design.varying), selection(self.design, None)
        if re_form is False or str(re_form).replace(" ", "") in NOTHING:
            return [False] * len(self.design.varying), selection(self.design, "NA")
        text = str(re_form).strip()
        parsed = parse("y " + (text if text.startswith("~") else "~ " + text))
        asked = split_bars(parsed, [net.name for net in self.design.nets], [])
        labels = [term.label for term in self.design.varying]
        for bar in asked.varying:
            if bar.label not in labels:
                raise DesignError(f"re_form names {bar.label}, but the bars of the network are {', '.join(labels)}.")
        if not asked.bars:
            raise DesignError(f"re_form '{re_form}' has no random term: write it as '~ (1 | g)', or 'NA' for none.")
        others = " + ".join(bar.label for bar in asked.random)
        columns = selection(self.design, f"~ {others}" if others else "NA")
        return [label in {bar.label for bar in asked.varying} for label in labels], columns

    def _level_codes(self, rows: NewRows, wanted: list[bool], allow_new_levels: bool) -> list[IntArray]:
        """Levels of new rows by each bar of the network, -1 where they are new."""
        codes = []
        for k, (term, want) in enumerate(zip(self.design.varying, wanted, strict=True)):
            if not want:
                codes.append(np.full(len(rows.X), -1, dtype=np.int32))
                continue
            at = {str(level): code for code, level in enumerate(term.levels)}
            own = np.array([at.get(str(name), -1) for name in rows.varying[k]], dtype=np.int32)
            if (own < 0).any() and not allow_new_levels:
                raise new_levels_error(term.group, rows.varying[k][own < 0], ALLOWED)
            codes.append(own)
        return codes

    def _check_levels(self, rows: NewRows, used: list[bool], allow_new_levels: bool) -> None:
        for term, new, want in zip(self.design.random, rows.random, used, strict=True):
            if want and not allow_new_levels and (new.codes < 0).any():
                raise new_levels_error(term.group, new.unseen, ALLOWED)

    def _linear_predictors(self, asked: Asked, average: int = 0, seed: int = 0) -> FloatArray:
        """Offset, fixed effects, network and random effects of rows, (m,); see :meth:`predict` for the average."""
        rows, e = asked.rows, self.estimates
        inputs = rows.nets[0]
        found = averaged(e, inputs, asked.codes, average, seed) if average else values(e, inputs, asked.codes)
        found = found + rows.offset + rows.X @ e.beta
        for new, bar, keep in zip(rows.random, e.random, asked.columns, strict=True):
            found = found + term_part(new.codes, new.columns, bar.effects * keep)
        return np.asarray(found)

    # ---- new levels

    def _level_names(self, rows: NewRows, newdata: Any) -> tuple[list[NDArray[Any]], list[FloatArray | None]]:
        """Names of the levels (m,) of new rows in each bar and, of ordinary ones, columns (m, d)."""
        names = [*rows.varying, *(level_names(self.frame, newdata, term) for term in self.design.random)]
        return names, [*[None] * len(rows.varying), *(new.columns for new in rows.random)]

    def _fresh(
        self, names: list[NDArray[Any]], columns: list[FloatArray | None]
    ) -> tuple[list[Fresh], list[NDArray[Any]]]:
        """New rows of each bar as the engine takes them, and the levels of each bar with the new ones.

        Raises
        ------
        DesignError
            For missing levels, or none that is new.
        """
        terms: list[VaryingTerm | RandomTerm] = [*self.design.varying, *self.design.random]
        fresh, levels = [], []
        for term, given, own in zip(terms, names, columns, strict=True):
            known = [str(level) for level in term.levels]
            if "" in given.tolist():
                raise DesignError(f"the grouping factor '{term.group}' has missing values in the new rows.")
            every = list(dict.fromkeys([*known, *map(str, given)]))
            place = {name: k for k, name in enumerate(every)}
            codes = np.array([place[str(name)] for name in given], dtype=np.int32)
            fresh.append(Fresh(codes, len(every) - len(known), own))
            levels.append(np.array(every))
        if not any(own.added for own in fresh):
            raise DesignError("the new rows have no level that the fit does not know: fit the model again with them.")
        return fresh, levels

    def _grown(self, found: list[tuple[FloatArray, FloatArray]], levels: list[NDArray[Any]]) -> Self:
        """The fit with effects and variances of new levels of each bar after the known ones, named by ``levels``."""
        bars = [
            dataclasses.replace(
                bar, effects=np.concatenate([bar.effects, b]), variances=np.concatenate([bar.variances, v])
            )
            for bar, (b, v) in zip([*self.estimates.varying, *self.estimates.random], found, strict=True)
        ]
        count = len(self.design.varying)
        varying = [
            dataclasses.replace(t, levels=own) for t, own in zip(self.design.varying, levels[:count], strict=True)
        ]
        random = [dataclasses.replace(t, levels=own) for t, own in zip(self.design.random, levels[count:], strict=True)]
        design = dataclasses.replace(self.design, varying=tuple(varying), random=tuple(random))
        estimates = dataclasses.replace(self.estimates, varying=tuple(bars[:count]), random=tuple(bars[count:]))
        return type(self)(design, estimates, self.frame, self.call)  # type: ignore[call-arg]


def level_names(frame: ModelFrame, newdata: Any, term: RandomTerm) -> NDArray[Any]:
    """Names of the levels of an ordinary bar in new rows, empty where they are missing."""
    bar = next(bar for bar in frame.formula.random if bar.label == term.label)
    factor = Evaluator(as_pandas(newdata), frame.state, False, FUNCTIONS).factor(bar.group)
    return np.where(factor.codes < 0, "", np.asarray(factor.levels, dtype=str)[factor.codes])
