"""Variances of predictions of a network that varies by group.

Linearised at its estimates, the model of row j of group i is ``y = X beta + phi' w + J L u_i + e``: phi are the
derivatives by the weights of the last layer, which all groups share, and J those by what varies, both at
``theta_bar + eta_i``; ``u_i ~ N(0, I)``. That is a linear mixed model with standard normal effects, so variances of
predictions are those of :mod:`pylmernn.engines.variances`, theta and sigma taken as known: beta, the last layer and
all groups' deviations together. Where only the last layer varies that model is the one that was estimated. The layers
below count as known, but for what rows held out in training say of errors (:func:`calibrate`; the ideas are those of
:mod:`pylmernn.engines.network_variance`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.network_variance import Calibration, drawn_slope, slope_and_noise
from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_exact import DEPENDENT
from pylmernn.engines.nme_predict import network_of, values
from pylmernn.engines.nme_working import Rows, is_generalized
from pylmernn.engines.variances import prediction_variance
from pylmernn.formula.design import (
    Design,
    DesignError,
    FloatArray,
    IntArray,
    NewRows,
    NewTerm,
    RandomTerm,
    independent_columns,
)
from pylmernn.mean.varying import VaryingNetwork, select, union

DIRECTIONS = 64  # of the last layer, and of the deviations, that are counted one by one
AT_A_TIME = 4_000_000  # derivatives held together
MOST_LEVERAGE = 0.99
MOST_GROUPS = 50  # that tell how new ones vary
FEWEST = 30  # held-out rows that say anything of errors
LINE = 1e-12  # share of the largest variance of deviations below which a direction is rounding error


@dataclass(frozen=True)
class GroupRows:
    """Rows of groups.

    Attributes
    ----------
    X : ndarray, shape (m, p)
    inputs : ndarray, shape (m, k)
        Raw inputs of the network, none missing.
    codes : ndarray of int, shape (m,)
        Row of ``estimates.effects`` of each, -1 for a group of which nothing is known.
    weights : ndarray, shape (m,)
        What the noise is divided by; of generalized models the information of each row.
    """

    X: FloatArray
    inputs: FloatArray
    codes: IntArray
    weights: FloatArray

    def __len__(self) -> int:
        return len(self.X)

    def take(self, at: NDArray[Any]) -> GroupRows:
        """Some of the rows."""
        return GroupRows(self.X[at], self.inputs[at], self.codes[at], self.weights[at])


def rows_of(design: Design, estimates: VaryingEstimates) -> GroupRows:
    """The rows of a fit.

    Raises
    ------
    DesignError
        For a multinomial model.
    """
    return GroupRows(design.X, design.nets[0].inputs, design.varying[0].codes, information(design, estimates))


def information(design: Design, estimates: Any) -> FloatArray:
    """What rows tell of their linear predictors (n,), in units of sigma: prior weights of a linear model.

    Raises
    ------
    DesignError
        For a multinomial model.
    """
    weights = np.ones(design.n) if design.weights is None else design.weights
    if not is_generalized(estimates):
        return weights
    if estimates.beta.ndim == 2:
        raise DesignError("standard errors of a multinomial model with a network that varies are not known.")
    data = Rows(estimates.family, design.y, weights)
    root, _ = data.working(torch.from_numpy(estimates.fitted.copy())[:, None], estimates.phi)
    return np.asarray(root[:, 0, 0].numpy() ** 2)


def joined(rows: GroupRows, added: GroupRows | None) -> GroupRows:
    """Rows of a fit with those from which further groups were learnt.

    A group of the fit that was learnt anew has the new rows alone: its old ones stay as those of a group of its own.
    """
    if added is None:
        return rows
    codes = rows.codes.copy()
    next_code = max(int(rows.codes.max()), int(added.codes.max())) + 1
    for code in np.unique(added.codes):
        own = rows.codes == code
        codes[own] = next_code
        next_code += int(own.any())
    parts = [(getattr(rows, name), getattr(added, name)) for name in ("X", "inputs", "weights")]
    X, inputs, weights = (np.concatenate(part) for part in parts)
    return GroupRows(X, inputs, np.concatenate([codes, added.codes]).astype(np.int32), weights)


class Linearised:
    """The linear mixed model that a fit is at its estimates.

    Parameters
    ----------
    estimates : VaryingEstimates
    rows : GroupRows
        From which all was learnt.
    sigma : float, optional
        By default that of the fit.
    """

    def __init__(self, estimates: VaryingEstimates, rows: GroupRows, sigma: float | None = None) -> None:
        self.estimates, self.sigma = estimates, estimates.sigma if sigma is None else sigma
        module = network_of(estimates).module
        last = select(module, "last", "nn")
        free = union(module, [estimates.selected, last])
        self.network = VaryingNetwork(module, free)
        self.at_varying, self.at_last = free.places(estimates.selected), free.places(last)
        J, phi = self.derivatives(rows)
        self.turn, self.wide = directions(J, LINE), features(phi)
        X = np.column_stack([rows.X, phi @ self.wide])
        self.kept = np.array(independent_columns(X, DEPENDENT))
        self.p = int(np.searchsorted(self.kept, rows.X.shape[1]))
        levels, codes = np.unique(rows.codes, return_inverse=True)
        self.code_of = np.full(max(int(levels[-1]) + 1, len(estimates.effects)) + 1, -1, dtype=np.int32)
        self.code_of[levels] = np.arange(len(levels))  # the last entry is that of code -1
        A = (J @ self.turn) / self.sigma
        names = tuple(f"u{k}" for k in range(A.shape[1]))
        term = RandomTerm("group", codes.astype(np.int32), levels.astype(str), A, names, "diag", "group")
        y = np.random.default_rng(0).normal(size=len(rows))  # variances do not hang on it, but it may not be fitted
        self.design = Design(y, X[:, self.kept], tuple(str(k) for k in self.kept), (term,), weights=rows.weights)
        self.known = at_unit_variances(self.sigma, A.shape[1])

    def derivatives(self, rows: GroupRows) -> tuple[FloatArray, FloatArray]:
        """``J L`` (m, k) and phi (m, h) of some rows."""
        e, size = self.estimates, self.network.selected.size
        prepared = self.network.module.prepare(rows.inputs)
        eta = torch.zeros(len(e.effects) + 1, size)  # the last one is the generic network's
        eta[:-1, self.at_varying] = torch.from_numpy(e.effects).float()
        codes = torch.from_numpy(np.minimum(rows.codes, len(e.effects))).long()
        found = []
        step = max(1, AT_A_TIME // size)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            J = self.network.jacobian(prepared[part], eta, codes[part])[1].double().numpy() * e.networks.scale
            own = J[:, self.at_varying]
            found.append((own * e.factor if e.factor.ndim == 1 else own @ e.factor, J[:, self.at_last]))
        return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])

    def variance(self, rows: GroupRows, deviations: bool = True) -> tuple[FloatArray, FloatArray]:
        """Variances of the mean at some rows, (m,): with the last layer known, and what that one adds.

        Parameters
        ----------
        rows : GroupRows
        deviations : bool, default True
            Whether those of the groups belong to the prediction; else they add nothing.
        """
        given, new = self.given_last(rows, deviations)
        unknown = np.flatnonzero(rows.codes < 0)
        if deviations and len(unknown) and not self.estimates.selected.linear:
            generic = self.given_last(rows.take(unknown), False)[0]
            given[unknown] = generic + self.between(rows.take(unknown))
        whole = prediction_variance(self.design, self.known, new, [deviations])
        narrow = dataclasses.replace(self.design, X=self.design.X[:, : self.p])
        less = prediction_variance(narrow, self.known, dataclasses.replace(new, X=new.X[:, : self.p]), [deviations])
        return given, np.maximum(whole - less, 0.0)

    def given_last(self, rows: GroupRows, deviations: bool = True) -> tuple[FloatArray, NewRows]:
        """Variances of the mean with the last layer known, (m,), and the rows in the columns of ``design``."""
        J, phi = self.derivatives(rows)
        A = J @ self.turn
        X = np.column_stack([rows.X, phi @ self.wide])[:, self.kept]
        new = NewRows(X, np.zeros(len(rows)), (NewTerm(self.code_of[rows.codes], A / self.sigma),))
        narrow = dataclasses.replace(self.design, X=self.design.X[:, : self.p])
        found = prediction_variance(narrow, self.known, dataclasses.replace(new, X=X[:, : self.p]), [deviations])
        outside = np.maximum((J**2).sum(axis=1) - (A**2).sum(axis=1), 0.0) * deviations
        return np.asarray(found + outside), new

    def between(self, rows: GroupRows) -> FloatArray:
        """Variance of a new group's network at some rows, (m,).

        The mean over known groups (at most 50) of their squared difference from the generic network and of what is
        unknown of it: the step of EM for Sigma, in values of the network. Where those are linear in the deviations it
        is that of Sigma; where not, draws from N(0, Sigma) bend and spread far more than groups do.
        """
        e, m = self.estimates, len(rows)
        known = np.flatnonzero(self.code_of[: len(e.effects)] >= 0)
        known = known[np.sort(np.random.default_rng(0).permutation(len(known))[:MOST_GROUPS])]
        generic = values(e, rows.inputs, np.full(m, -1, dtype=np.int32))
        total = np.zeros(m)
        for code in known:
            own = dataclasses.replace(rows, X=np.zeros_like(rows.X), codes=np.full(m, code, dtype=np.int32))
            total += (values(e, rows.inputs, own.codes) - generic) ** 2 + self.given_last(own)[0]
        return np.asarray(total / len(known))


def directions(columns: FloatArray, thinnest: float) -> FloatArray:
    """Orthonormal columns (k, r) of the directions in which rows (n, k) are widest, the widest first."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    kept = values >= thinnest * values[-1]
    return np.asarray(vectors[:, kept][:, : -DIRECTIONS - 1 : -1])


def features(phi: FloatArray) -> FloatArray:
    """Columns (h, r) that turn features into those that are counted: all of them, or the widest directions of many."""
    return np.eye(phi.shape[1]) if phi.shape[1] <= DIRECTIONS else directions(phi, DEPENDENT**2)


def at_unit_variances(sigma: float, width: int) -> Estimates:
    """Estimates of a model whose effects, times sigma, have variance sigma squared each."""
    nothing = np.zeros(0)
    return Estimates(
        method="profiled",
        REML=False,
        theta=np.ones(width),
        beta=nothing,
        sigma=sigma,
        b=(),
        u=(),
        unscaled_vcov=np.zeros((0, 0)),
        objective=np.nan,
        ldL2=np.nan,
        ldRX2=np.nan,
        pwrss=np.nan,
        wrss=np.nan,
        ussq=np.nan,
        singular=False,
        convergence=Convergence(True, nothing, 0, "", 0.0),
    )


@dataclass(frozen=True)
class Errors:
    """How certain the predictions of a fit are.

    Attributes
    ----------
    model : Linearised
    calibration : Calibration
    """

    model: Linearised
    calibration: Calibration

    def variance(self, rows: GroupRows, deviations: bool = True) -> FloatArray:
        """Variances of the mean at some rows, (m,); add ``calibration.noise`` for a new response of weight 1."""
        given, added = self.model.variance(rows, deviations)
        return given + self.calibration.slope * added


def errors_of(design: Design, estimates: VaryingEstimates, added: GroupRows | None = None) -> Errors:
    """How certain the predictions of a fit are.

    Parameters
    ----------
    design : Design
        Of the fit, with the raw inputs of its network.
    estimates : VaryingEstimates
    added : GroupRows, optional
        Rows from which further groups were learnt.

    Raises
    ------
    DesignError
        For a multinomial model.
    """
    rows = rows_of(design, estimates)
    model = Linearised(estimates, joined(rows, added))
    return Errors(model, calibrate(design, estimates, model, rows))


def calibrate(design: Design, estimates: VaryingEstimates, model: Linearised, rows: GroupRows) -> Calibration:
    """The size of errors, from rows held out while the network was trained.

    The square of such a row's residual over one less its leverage has the variance of the noise as its expectation,
    with the error of what was not estimated on all rows: the layers below the last, or the whole network.

    Parameters
    ----------
    design, estimates : the fit
    model : Linearised
    rows : GroupRows
        Of the fit.

    Returns
    -------
    Calibration
        Slope 1 and noise sigma squared where all was estimated on all rows, or too few were held out.
    """
    nothing = Calibration(1.0, estimates.sigma**2)
    learned = estimates.networks.learned
    if learned is None or is_linear(estimates):
        return nothing
    at = np.flatnonzero(~learned.any(axis=0))
    if len(at) < FEWEST:
        return nothing
    held = rows.take(at)
    given, added = model.variance(held)
    inside = given + added if estimates.exact else given
    leverage = np.minimum(held.weights * inside / estimates.sigma**2, MOST_LEVERAGE)
    squares = held.weights * working_residuals(design, estimates)[at] ** 2 / (1.0 - leverage)
    added = held.weights * added
    if is_generalized(estimates):
        return Calibration(1.0 if estimates.exact else drawn_slope(squares, added, held.weights), nothing.noise)
    level = max(float(squares.mean()), nothing.noise)
    return Calibration(1.0, level) if estimates.exact else slope_and_noise(squares, added, level)


def is_linear(estimates: VaryingEstimates) -> bool:
    """Whether the network has no hidden layers, so that the model was estimated as a whole."""
    spec = estimates.networks.specs[0]
    return estimates.exact and not spec.class_name and not spec.options["hidden"] and not any(spec.levels)


def working_residuals(design: Design, estimates: Any) -> FloatArray:
    """Residuals in units of the linear predictor, (n,)."""
    if not is_generalized(estimates):
        return np.asarray(design.y - estimates.fitted)
    weights = np.ones(design.n) if design.weights is None else design.weights
    root, residual = Rows(estimates.family, design.y, weights).working(
        torch.from_numpy(estimates.fitted.copy())[:, None], estimates.phi
    )
    return np.asarray((residual[:, 0] / root[:, 0, 0]).numpy())
