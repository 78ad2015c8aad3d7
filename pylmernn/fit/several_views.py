"""A fit with several bars seen by one of its grouping factors, as pictures and curves of fits with one bar ask for it.

A level of a factor has its own deviations and, where the factor is nested in others, theirs too: the network of a
person is that of the person's culture with the person's own deviations. Crossed factors do not belong to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_bars import cells_of
from pylmernn.engines.nme_several_predict import deviations
from pylmernn.engines.nme_several_variance import SeveralErrors, SeveralRows, rows_of
from pylmernn.engines.nme_variance import GroupRows
from pylmernn.engines.nme_working import is_generalized
from pylmernn.formula.design import Design, DesignError, FloatArray, IntArray
from pylmernn.formula.varying import VaryingTerm
from pylmernn.mean.varying import Selected, select, union


def factor_of(design: Design, factor: str | None) -> VaryingTerm:
    """The first bar of the network by a factor; by default by the one with most levels.

    Raises
    ------
    DesignError
        For a factor by which the network does not vary.
    """
    terms = {term.group: term for term in reversed(design.varying)}
    if factor is None:
        return max(design.varying, key=lambda term: term.n_levels)
    if factor not in terms:
        known = ", ".join(f"'{name}'" for name in dict.fromkeys(term.group for term in design.varying))
        raise DesignError(f"the network does not vary by a grouping factor '{factor}': it varies by {known}.")
    return terms[factor]


def levels_of_bars(design: Design, factor: str, added: SeveralRows | None = None) -> list[NDArray[np.int64]]:
    """Of each bar of the network the level (q,) that each level of a factor belongs to; -1 where factors are crossed.

    Parameters
    ----------
    design : Design
    factor : str
    added : SeveralRows, optional
        Rows from which further levels were learnt.
    """
    groups = [term.group for term in design.varying]
    own, q = groups.index(factor), factor_of(design, factor).n_levels
    every = rows_of(design).joined(added).codes[: len(groups)]
    found = []
    for group, codes in zip(groups, every, strict=True):
        least, most = np.full(q, np.iinfo(np.int64).max), np.full(q, -1)
        np.minimum.at(least, every[own], codes)
        np.maximum.at(most, every[own], codes)
        nested = group == factor or bool((least == most).all())
        found.append(most if nested else np.full(q, -1))
    return found


def by_cells(estimates: SeveralEstimates, codes: Sequence[IntArray]) -> tuple[VaryingEstimates, IntArray]:
    """The same network as if it varied by one factor, the combinations of levels of all bars; and their codes (n,)."""
    cells = cells_of(codes)
    return _as_one(estimates, _deviations(estimates, cells.levels), estimates.selected), cells.codes


def networks_by(estimates: SeveralEstimates, levels: Sequence[NDArray[np.int64]]) -> VaryingEstimates:
    """The same network as if it varied by one factor, whose levels have these levels (q,) of each bar, -1 for none."""
    return _as_one(estimates, _deviations(estimates, np.stack(levels, axis=1)), estimates.selected)


def _deviations(estimates: SeveralEstimates, levels: NDArray[np.int64]) -> FloatArray:
    effects = [bar.effects for bar in estimates.varying]
    return deviations(estimates.varying, effects, levels, estimates.selected.size)


def _as_one(
    e: SeveralEstimates, effects: FloatArray, selected: Selected, factor: FloatArray | None = None
) -> VaryingEstimates:
    kept = {f.name: getattr(e, f.name) for f in dataclasses.fields(VaryingEstimates) if hasattr(e, f.name)}
    unknown = np.zeros_like(effects)
    kind = VaryingEstimates
    if is_generalized(e):
        kind = GeneralizedVaryingEstimates
        kept |= {name: getattr(e, name) for name in ("family", "phi", "classes")}
    return kind(
        **kept | {"selected": selected},
        effects=effects,
        variances=unknown,
        factor=unknown[:0].T if factor is None else factor,
    )


def own_deviations(design: Design, e: SeveralEstimates, factor: str) -> VaryingEstimates:
    """What varies by one factor, with its own deviations alone."""
    module = network_of(e).module
    at = [k for k, term in enumerate(design.varying) if term.group == factor]
    inputs = design.nets[0].input_names
    selected = union(module, [select(module, design.varying[k].selector, "nn", inputs) for k in at], inputs)
    places = e.selected.places(selected)
    levels = np.full((design.varying[at[0]].n_levels, len(design.varying)), -1)
    levels[:, at] = np.arange(len(levels))[:, None]
    roots = [_embedded(e.varying[k], e.selected.size)[places] for k in at]
    return _as_one(e, _deviations(e, levels)[:, places], selected, np.hstack(roots))


def _embedded(bar: Any, size: int) -> FloatArray:
    """L of a bar with a row for each parameter that varies by any factor."""
    out = np.zeros((size, bar.factor.shape[-1]))
    out[bar.places] = np.diag(bar.factor) if bar.factor.ndim == 1 else bar.factor
    return out


@dataclasses.dataclass(frozen=True)
class ErrorsByFactor:
    """How certain the networks of the levels of a factor are, for rows with codes of these.

    Attributes
    ----------
    errors : SeveralErrors
    levels : list of ndarray, shape (q,)
        Of each bar of the network: its level.
    include : list of bool
        Which of these take part.
    """

    errors: SeveralErrors
    levels: list[NDArray[np.int64]]
    include: list[bool]

    @property
    def model(self) -> _ModelByFactor:
        """Variances with the last layer known."""
        return _ModelByFactor(self)

    def rows(self, rows: GroupRows) -> tuple[SeveralRows, list[bool]]:
        """The rows with the levels of all bars, and which of them take part; ordinary ones do not."""
        random = self.errors.model.estimates.random
        nothing = np.full(len(rows), -1, dtype=np.int32)
        codes = [
            np.where(rows.codes < 0, -1, own[rows.codes]).astype(np.int32) if wanted else nothing
            for own, wanted in zip(self.levels, self.include, strict=True)
        ]
        columns = tuple(np.zeros((len(rows), bar.effects.shape[1])) for bar in random)
        every = (*codes, *[nothing] * len(random))
        return SeveralRows(rows.X, rows.inputs, every, columns, rows.weights), [*self.include, *[False] * len(random)]

    def variance(self, rows: GroupRows) -> FloatArray:
        """As :meth:`SeveralErrors.variance`."""
        return self.errors.variance(*self.rows(rows))


@dataclasses.dataclass(frozen=True)
class _ModelByFactor:
    of: ErrorsByFactor

    def variance(self, rows: GroupRows) -> tuple[FloatArray, FloatArray]:
        """As :meth:`SeveralLinearised.variance`."""
        return self.of.errors.model.variance(*self.of.rows(rows))


class FactorView:
    """What pictures of a fit with one bar read, of a fit with several bars and one of its factors.

    Parameters
    ----------
    fit : SeveralFit
    factor : str, optional
        By default the one with most levels by which the network varies.
    whole : bool
        Whether levels have the deviations of the factors in which this one is nested too.
    """

    def __init__(self, fit: Any, factor: str | None, whole: bool) -> None:
        term = factor_of(fit.design, factor)
        self.fit, self.term, self.whole = fit, term, whole
        every = levels_of_bars(fit.design, term.group, fit.added)
        self.include = [
            bool((own >= 0).all()) if whole else other.group == term.group
            for own, other in zip(every, fit.design.varying, strict=True)
        ]
        self.levels = [
            own if wanted else np.full(len(own), -1) for own, wanted in zip(every, self.include, strict=True)
        ]
        self.estimates = (
            networks_by(fit.estimates, self.levels) if whole else own_deviations(fit.design, fit.estimates, term.group)
        )
        self.design = dataclasses.replace(fit.design, varying=(term,), random=())
        self.importance, self.fitted, self.residuals, self.sigma = fit.importance, fit.fitted, fit.residuals, fit.sigma

    @property
    def added(self) -> Any:
        """Rows from which further levels were learnt; those of levels of the fit do not count here."""
        if self.fit.added is None:
            return None
        at = next(k for k, term in enumerate(self.fit.design.varying) if term is self.term)
        codes = self.fit.added.codes[at]
        return cast("Any", _Codes(codes[codes > self.term.codes.max()]))

    @property
    def _errors(self) -> ErrorsByFactor:
        return ErrorsByFactor(self.fit._errors, self.levels, self.include)

    def _levels(self, groups: str | Sequence[str]) -> list[int]:
        return named_levels(self.term, groups)


@dataclasses.dataclass(frozen=True)
class _Codes:
    codes: IntArray


def named_levels(term: VaryingTerm, groups: str | Sequence[str]) -> list[int]:
    """Codes of levels by name; all of them for "all".

    Raises
    ------
    DesignError
        For a level that the factor has not.
    """
    if isinstance(groups, str) and groups == "all":
        return list(range(term.n_levels))
    at = {str(level): code for code, level in enumerate(term.levels)}
    wanted = [groups] if isinstance(groups, str) else [str(name) for name in groups]
    for name in wanted:
        if name not in at:
            raise DesignError(f"the grouping factor '{term.group}' has no level '{name}'.")
    return [at[name] for name in wanted]
