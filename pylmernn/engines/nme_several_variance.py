"""Variances of predictions of a network that varies by several bars, or beside ordinary ones.

Linearised at its estimates, the model is ``y = X beta + phi' w + sum_t J_t L_t u_t + sum_k Z_k L_k v_k + e``: phi are
the derivatives by the weights of the last layer, which all rows share, J_t those by the parameters of bar t, both at
``theta_bar + sum_t eta^t``, and Z_k the columns of ordinary bars; all u and v are standard normal. That is a linear
mixed model, so that variances come from the joint posterior of beta, the last layer and the random effects of all bars,
theta and sigma taken as known. What else there is to it is in :mod:`pylmernn.engines.nme_variance`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.network_variance import Calibration
from pylmernn.engines.nme_exact import DEPENDENT
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_bars import cells_of
from pylmernn.engines.nme_several_predict import deviations, values
from pylmernn.engines.nme_variance import (
    AT_A_TIME,
    DIRECTIONS,
    LINE,
    MOST_GROUPS,
    at_unit_variances,
    calibrate,
    directions,
    features,
    information,
)
from pylmernn.engines.variances import prediction_variance
from pylmernn.formula.design import Design, FloatArray, IntArray, NewRows, NewTerm, RandomTerm, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select, union

REMAINING = 6_000  # random effects of each bar but the one with most levels, counted one by one
ROWS_AT_A_TIME = 20_000  # of known levels that tell how new ones vary


@dataclass(frozen=True)
class SeveralRows:
    """Rows with the levels of all bars, those of the network first.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    inputs : ndarray, shape (m, k)
        Raw inputs of the network, none missing.
    codes : tuple of ndarray of int, shape (m,)
        Of each bar: row of its effects, -1 for a level of which nothing is known.
    columns : tuple of ndarray, shape (m, d)
        Of each ordinary bar.
    weights : ndarray, shape (m,)
        What the noise is divided by; of generalized models the information of each row.
    """

    X: FloatArray
    inputs: FloatArray
    codes: tuple[IntArray, ...]
    columns: tuple[FloatArray, ...]
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.X)

    def take(self, at: NDArray[Any]) -> SeveralRows:
        """Some of the rows."""
        codes, columns = (tuple(own[at] for own in each) for each in (self.codes, self.columns))
        return SeveralRows(self.X[at], self.inputs[at], codes, columns, self.weights[at])

    def joined(self, more: SeveralRows | None) -> SeveralRows:
        """These rows and further ones."""
        if more is None:
            return self
        codes = tuple(np.concatenate(pair) for pair in zip(self.codes, more.codes, strict=True))
        columns = tuple(np.concatenate(pair) for pair in zip(self.columns, more.columns, strict=True))
        X, inputs, weights = (np.concatenate([getattr(self, n), getattr(more, n)]) for n in ("X", "inputs", "weights"))
        return SeveralRows(X, inputs, codes, columns, weights)


def rows_of(design: Design, estimates: SeveralEstimates | None = None) -> SeveralRows:
    """The rows of a fit; without estimates their weights are those of a linear model."""
    return SeveralRows(
        design.X,
        design.nets[0].inputs,
        (*(term.codes for term in design.varying), *(term.codes for term in design.random)),
        tuple(term.columns for term in design.random),
        information(design, estimates),
    )


class SeveralLinearised:
    """The linear mixed model that a fit is at its estimates.

    Parameters
    ----------
    estimates : SeveralEstimates
    rows : SeveralRows
        From which all was learnt.
    groups : sequence of str
        The grouping factor of each bar.
    """

    def __init__(self, estimates: SeveralEstimates, rows: SeveralRows, groups: Sequence[str]) -> None:
        self.estimates, self.sigma, self.groups = estimates, estimates.sigma, tuple(groups)
        self.bars = (*estimates.varying, *estimates.random)
        module = network_of(estimates).module
        last = select(module, "last", "nn")
        free = union(module, [estimates.selected, last])
        self.network = VaryingNetwork(module, free)
        self.at_varying, self.at_last = np.array(free.places(estimates.selected)), free.places(last)
        columns, phi = self.columns(rows)
        self.wide = features(phi)
        X = np.column_stack([rows.X, phi @ self.wide])
        self.kept = np.array(independent_columns(X, DEPENDENT))
        self.p = int(np.searchsorted(self.kept, rows.X.shape[1]))
        self.turns, self.code_of, terms = [], [], []
        most_levels = max(len(bar.effects) for bar in self.bars)
        for k, (bar, group, own, given) in enumerate(zip(self.bars, groups, columns, rows.codes, strict=True)):
            q = len(bar.effects)
            most = DIRECTIONS if q == most_levels else max(1, min(DIRECTIONS, REMAINING // q))
            turn = directions(own, LINE)[:, :most]
            levels, codes = np.unique(given, return_inverse=True)
            code_of = np.full(q + 1, -1, dtype=np.int32)  # the last entry is that of code -1
            code_of[levels] = np.arange(len(levels))
            names = tuple(f"u{j}" for j in range(turn.shape[1]))
            label, A = f"bar {k}", np.ascontiguousarray(own @ turn / self.sigma)
            terms.append(RandomTerm(group, codes.astype(np.int32), levels.astype(str), A, names, "diag", label))
            self.turns.append(turn)
            self.code_of.append(code_of)
        y = np.random.default_rng(0).normal(size=len(rows))  # variances do not hang on it, but it may not be fitted
        names = tuple(str(j) for j in self.kept)
        self.design = Design(y, X[:, self.kept], names, tuple(terms), weights=rows.weights)
        self.narrow = dataclasses.replace(self.design, X=self.design.X[:, : self.p], fixed_names=names[: self.p])
        self.known = at_unit_variances(self.sigma, sum(turn.shape[1] for turn in self.turns))

    def columns(self, rows: SeveralRows) -> tuple[list[FloatArray], FloatArray]:
        """Columns times L of each bar, (m, k), and phi (m, h), of some rows."""
        e, size, count = self.estimates, self.network.selected.size, len(self.estimates.varying)
        prepared = self.network.module.prepare(rows.inputs)
        cells = cells_of(rows.codes[:count])
        eta = torch.zeros(len(cells.levels), size)
        own = deviations(e.varying, [bar.effects for bar in e.varying], cells.levels, e.selected.size)
        eta[:, torch.from_numpy(self.at_varying)] = torch.from_numpy(own).float()
        codes, step = torch.from_numpy(cells.codes.astype(np.int64)), max(1, AT_A_TIME // size)
        found, phi = [], []
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            J = self.network.jacobian(prepared[part], eta, codes[part])[1].double().numpy() * e.networks.scale
            found.append([_times(J[:, self.at_varying[bar.places]], bar.factor) for bar in e.varying])
            phi.append(J[:, self.at_last])
        of_network = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        ordinary = [_times(Z, bar.factor) for Z, bar in zip(rows.columns, e.random, strict=True)]
        return [*of_network, *ordinary], np.concatenate(phi)

    def variance(self, rows: SeveralRows, include: Sequence[bool] | None = None) -> tuple[FloatArray, FloatArray]:
        """Variances of the mean at some rows, (m,): with the last layer known, and what that one adds.

        Parameters
        ----------
        rows : SeveralRows
            Where a bar takes no part, its codes are -1.
        include : sequence of bool, optional
            Which bars belong to the prediction; by default all.
        """
        include = [True] * len(self.bars) if include is None else list(include)
        columns, phi = self.columns(rows)
        between = np.zeros(len(rows))
        for t in range(len(self.estimates.varying)):
            unknown = np.flatnonzero(rows.codes[t] < 0)
            if include[t] and len(unknown) and not self.estimates.selected.linear:
                columns[t][unknown] = 0.0
                between[unknown] += self.between(rows.take(unknown), t)
        X = np.column_stack([rows.X, phi @ self.wide])[:, self.kept]
        less, outside = self._given_last(rows, columns, include)
        whole = prediction_variance(self.design, self.known, self._new_rows(rows, X, columns, include), include)
        return less + outside + between, np.maximum(whole - less, 0.0)

    def between(self, rows: SeveralRows, t: int) -> FloatArray:
        """Variance of what a new level of bar t adds to the network at some rows, (m,).

        The mean over known levels (at most 50) of their squared difference from the network without deviations of this
        bar, and of what is unknown of it. Where the network is linear in the deviations, that is Sigma's.
        """
        e, m, count = self.estimates, len(rows), len(self.estimates.varying)
        known = np.flatnonzero(self.code_of[t][:-1] >= 0)
        known = known[np.sort(np.random.default_rng(0).permutation(len(known))[:MOST_GROUPS])]
        generic, total = values(e, rows.inputs, rows.codes[:count]), np.zeros(m)
        only = [k == t for k in range(len(self.bars))]
        for levels in np.array_split(known, max(1, len(known) * m // ROWS_AT_A_TIME)):
            many = rows.take(np.tile(np.arange(m), len(levels)))
            codes = list(many.codes)
            codes[t] = np.repeat(levels, m).astype(np.int32)
            own = dataclasses.replace(many, X=np.zeros_like(many.X), codes=tuple(codes))
            apart = values(e, own.inputs, own.codes[:count]) - np.tile(generic, len(levels))
            unknown = sum(self._given_last(own, self.columns(own)[0], only))
            total += (apart**2 + unknown).reshape(len(levels), m).sum(axis=0)
        return np.asarray(total / len(known))

    def _given_last(
        self, rows: SeveralRows, columns: Sequence[FloatArray], include: Sequence[bool]
    ) -> tuple[FloatArray, FloatArray]:
        """Variances with the last layer known, (m,): along the directions that are counted, and the prior's beyond."""
        X = rows.X[:, self.kept[: self.p]]
        found = prediction_variance(self.narrow, self.known, self._new_rows(rows, X, columns, include), include)
        outside = np.zeros(len(rows))
        for own, turn, wanted in zip(columns, self.turns, include, strict=True):
            if wanted and turn.shape[1] < own.shape[1]:
                outside += np.maximum((own**2).sum(axis=1) - ((own @ turn) ** 2).sum(axis=1), 0.0)
        return found, outside

    def _new_rows(
        self, rows: SeveralRows, X: FloatArray, columns: Sequence[FloatArray], include: Sequence[bool]
    ) -> NewRows:
        """Rows in the columns of ``design``; bars of one factor that take part have the same levels."""
        level_of: dict[str, IntArray] = {}
        for group, codes, wanted in zip(self.groups, rows.codes, include, strict=True):
            if wanted:
                level_of[group] = codes
        terms = []
        for group, own, turn, code_of in zip(self.groups, columns, self.turns, self.code_of, strict=True):
            codes = code_of[level_of[group]] if group in level_of else np.full(len(rows), -1, dtype=np.int32)
            terms.append(NewTerm(codes, own @ turn / self.sigma))
        return NewRows(X, np.zeros(len(rows)), tuple(terms))


def _times(columns: FloatArray, factor: FloatArray) -> FloatArray:
    return np.asarray(columns * factor if factor.ndim == 1 else columns @ factor)


@dataclass(frozen=True)
class SeveralErrors:
    """How certain the predictions of a fit are.

    Attributes
    ----------
    model : SeveralLinearised
    calibration : Calibration
    """

    model: SeveralLinearised
    calibration: Calibration

    def variance(self, rows: SeveralRows, include: Sequence[bool] | None = None) -> FloatArray:
        """Variances of the mean at some rows, (m,); add ``calibration.noise`` for a new response of weight 1."""
        given, added = self.model.variance(rows, include)
        return given + self.calibration.slope * added


def errors_of(design: Design, estimates: SeveralEstimates, added: SeveralRows | None = None) -> SeveralErrors:
    """How certain the predictions of a fit are.

    Parameters
    ----------
    design : Design
        Of the fit, with the raw inputs of its network.
    estimates : SeveralEstimates
    added : SeveralRows, optional
        Rows from which further levels were learnt.
    """
    rows = rows_of(design, estimates)
    groups = [*(term.group for term in design.varying), *(term.group for term in design.random)]
    model = SeveralLinearised(estimates, rows.joined(added), groups)
    found = calibrate(design, cast("Any", estimates), cast("Any", model), cast("Any", rows))
    return SeveralErrors(model, found)
