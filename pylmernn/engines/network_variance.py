"""Variances of predictions where part of the mean is a network, calibrated on rows that it has not learnt from.

Given its other layers, a network is linear in the features phi of its last hidden layer. With phi as columns beside X
the model is a linear mixed model, and the variance of a prediction follows exactly: fixed effects, last layer and
random effects together. What this adds to the variance with the network known is v(x), of the right shape but too
small, as the other layers were learnt too. Errors on held-out rows say by how much, and how large the error of a new
response is (:func:`calibrate`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.estimates import Estimates
from pylmernn.engines.variances import prediction_variance as linear_variance
from pylmernn.formula.design import Design, NewRows, NewTerm, independent_columns
from pylmernn.mean.features import last_hidden_layer
from pylmernn.mean.members import member_values, one_member
from pylmernn.mean.networks import Networks

FloatArray = NDArray[np.float64]

ROWS = 5000  # held-out rows that calibrate
FEWEST = 60  # with fewer rows (or pairs of members) nothing is read off them
DIRECTIONS = 64  # of the last hidden layer, by their variance
#: What the slope was for binary data of 4,000 rows with a function of two inputs, and how much it varied.
USUAL_SLOPE, USUAL_SPREAD = 4.0, 2.0
THINNEST = 1e-6  # share of the largest variance below which a direction is rounding error


@dataclass(frozen=True)
class Calibration:
    """What held-out rows say of the size of errors.

    Attributes
    ----------
    slope : float
        Variance of f in units of the last layer's v; at least 1.
    noise : float
        Variance of a new response of weight 1 beyond that of its estimated mean, ``slope v`` included there.
    """

    slope: float
    noise: float


def prediction_variance(
    design: Design,
    estimates: Estimates,
    networks: Networks,
    rows: NewRows,
    include: Sequence[bool] | None = None,
    calibration: Calibration | None = None,
) -> FloatArray:
    """``Var(f_hat - f + x' beta_hat + z' (b_hat - b))`` for new rows, theta and sigma taken as known.

    Parameters
    ----------
    design : Design
        Of the fit, with the raw inputs of the networks in ``nets`` and ``networks.fitted`` as part of the offset, as
        :func:`pylmernn.engines.crossfitting.with_networks` gives it.
    estimates : Estimates
        Theta, sigma, beta and b are read (beta and b for the calibration alone).
    networks : Networks
    rows : NewRows
        m rows, with the raw inputs of the networks in ``nets``, none missing.
    include : sequence of bool, optional
        Which random terms belong to the prediction; by default all.
    calibration : Calibration, optional
        By default that of :func:`calibrate`, which is the dearer part: keep it for further rows.

    Returns
    -------
    ndarray, shape (m,)
        In the units of y squared. Add ``calibration.noise`` for a new response of weight 1. A network whose values are
        not the output of a linear layer adds nothing of its own here; its errors are part of the noise.
    """
    calibration = calibration or calibrate(design, estimates, networks)
    given_f = linear_variance(design, estimates, rows, include)
    members = range(len(networks.members))
    added = [_added_variance(design, estimates, one_member(networks, i), rows, given_f, include) for i in members]
    return np.asarray(given_f + calibration.slope * np.mean(added, axis=0))


def calibrate(design: Design, estimates: Estimates, networks: Networks, seed: int = 0) -> Calibration:
    """The size of errors, from rows of the fit that some member has not learnt from.

    The square of such a row's residual, over one less its leverage, has the error variance of a new row as its
    expectation. Where networks were cross-fitted that is the error of one member; the mean of K of them does better by
    ``(K - 1) / 2K`` times the mean square of the difference of two, taken from members that have learnt from the row,
    which agree too well if anything. The slope of these errors in v is that between the thirds of rows with the
    smallest and the largest v (Wald, 1940, *The fitting of straight lines if both variables are subject to error*), as
    least squares would hang on a few rows far out.

    Parameters
    ----------
    design, estimates, networks
        As in :func:`prediction_variance`.
    seed : int, default 0
        Of the choice among more than 5,000 rows.

    Returns
    -------
    Calibration
        Slope 1 and noise sigma squared where all rows were learnt from.
    """
    found = _held_out_errors(design, estimates, networks, seed)
    if found is None:
        return Calibration(1.0, estimates.sigma**2)
    return slope_and_noise(found.squares, found.v, found.level)


def slope_and_noise(squares: FloatArray, v: FloatArray, level: float) -> Calibration:
    """The calibration from squared errors (m,) of mean ``level``, and what the last layer adds to their expectation."""
    centre = float(v.mean())
    slope = min(_slope(squares, v), 0.75 * level / centre) if centre > 0 else 1.0
    return Calibration(slope, level - slope * centre)


def calibrate_working(design: Design, estimates: Estimates, networks: Networks, seed: int = 0) -> Calibration:
    """The size of errors of a generalized model, from its working linear model, whose noise is 1.

    Squares of single binary responses say little of the slope, so it is drawn to what simulations of binary data gave,
    :func:`drawn_slope`.

    Parameters
    ----------
    design, estimates : the working model, :func:`pylmernn.engines.working_model.working_model`
    networks : Networks
    seed : int, default 0
        Of the choice among more than 5,000 rows.

    Returns
    -------
    Calibration
        With noise 1.
    """
    found = _held_out_errors(design, estimates, networks, seed)
    if found is None:
        return Calibration(USUAL_SLOPE, 1.0)
    return Calibration(drawn_slope(found.squares, found.v, found.weights), 1.0)


def drawn_slope(squares: FloatArray, v: FloatArray, weights: FloatArray) -> float:
    """Slope of squared errors in v, drawn to the usual one by its own standard error; at least 1.

    Least squares with weights ``1 / (2 + 1 / w)``, near the variances of squared Pearson residuals (exactly so for
    Poisson), the standard error robust (White, 1980), combined with a normal prior.

    Parameters
    ----------
    squares, v, weights : ndarray, shape (m,)
        Squared errors in units of weight 1, what the last layer adds to their expectation, and the weights w.
    """
    apart = v - v.mean()
    if not (apart**2).sum() > 0:
        return USUAL_SLOPE
    V = np.column_stack([np.ones(len(v)), v])
    precision = 1.0 / (2.0 + 1.0 / weights)
    inverse = np.linalg.inv(V.T @ (precision[:, None] * V))
    coefficients = inverse @ (V.T @ (precision * squares))
    spread = V * (precision * (squares - V @ coefficients))[:, None]
    variance = float((inverse @ (spread.T @ spread) @ inverse)[1, 1])
    prior = USUAL_SPREAD**2
    return max(1.0, float((coefficients[1] * prior + USUAL_SLOPE * variance) / (prior + variance)))


@dataclass(frozen=True)
class _HeldOut:
    """Rows that some member has not learnt from, (m,) each: weights, squared errors, what the last layer adds."""

    weights: FloatArray
    squares: FloatArray
    v: FloatArray
    level: float


def _held_out_errors(design: Design, estimates: Estimates, networks: Networks, seed: int) -> _HeldOut | None:
    """Errors of held-out rows in units of weight 1; None where they are too few."""
    unseen = np.zeros((1, design.n), dtype=bool) if networks.learned is None else ~networks.learned
    rows = np.flatnonzero(unseen.any(axis=0))
    if len(rows) < FEWEST:
        return None
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:ROWS])
    unseen, some = unseen[:, rows], _rows_of_fit(design, rows)
    weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
    given_f = linear_variance(design, estimates, some)
    leverage = np.minimum(weights * given_f / estimates.sigma**2, 0.99)
    squares = weights * _residuals(design, estimates)[rows] ** 2 / (1.0 - leverage)
    if networks.out_of_fold:
        gain = weights * _gain_of_mean(design.X[rows], member_values(networks, some.nets), unseen)
        level = max(float(np.mean(squares - gain)), 0.1 * float(np.mean(squares)))
        squares = squares - gain
    else:  # sigma of rows learnt from is too small if anything
        level = max(float(np.mean(squares)), estimates.sigma**2)
    added = np.zeros(len(rows))
    for i, own in enumerate(unseen):
        if own.any():
            at = np.flatnonzero(own)
            member = one_member(networks, i)
            added[at] = _added_variance(design, estimates, member, _rows_of_fit(design, rows[at]), given_f[at])
    return _HeldOut(weights, squares, weights * added, level)


def _gain_of_mean(X: FloatArray, values: FloatArray, unseen: NDArray[np.bool_]) -> FloatArray:
    """How much smaller the squared error of the members' mean is than that of one member, (m,).

    Parameters
    ----------
    X : ndarray, shape (m, p)
        What members hold of these columns beyond their mean is taken off first: beta makes up for it.
    values : ndarray, shape (K, m)
    unseen : ndarray of bool, shape (K, m)
    """
    K = len(values)
    apart = (values - values.mean(axis=0)).T
    apart = apart - X @ np.linalg.lstsq(X, apart, rcond=None)[0]
    total, count = np.zeros(len(X)), np.zeros(len(X))
    for j in range(K):
        for k in range(j):
            learnt = ~unseen[j] & ~unseen[k]
            total += np.where(learnt, (apart[:, j] - apart[:, k]) ** 2, 0.0)
            count += learnt
    return np.asarray((K - 1) / (2 * K) * total / np.maximum(count, 1.0))


def _slope(squares: FloatArray, v: FloatArray) -> float:
    """Slope of squared errors in v between the outer thirds of v, at least 1."""
    low, high = np.quantile(v, [1 / 3, 2 / 3])
    below, above = v <= low, v >= high
    apart = float(v[above].mean() - v[below].mean())
    return max(1.0, float(squares[above].mean() - squares[below].mean()) / apart) if apart > 0 else 1.0


def _added_variance(
    design: Design,
    estimates: Estimates,
    member: Networks,
    rows: NewRows,
    given_f: FloatArray,
    include: Sequence[bool] | None = None,
) -> FloatArray:
    """What the last layer of one member adds to the variances given f, (m,)."""
    phi, phi_new = _directions(
        last_hidden_layer(member, [net.inputs for net in design.nets]), last_hidden_layer(member, rows.nets)
    )
    X = np.column_stack([design.X, phi])
    kept = independent_columns(X, tolerance=1e-4)
    if len(kept) <= design.p:
        return np.zeros(len(given_f))
    wider = dataclasses.replace(design, X=X[:, kept])
    variance = linear_variance(
        wider, estimates, dataclasses.replace(rows, X=np.column_stack([rows.X, phi_new])[:, kept]), include
    )
    return np.maximum(variance - given_f, 0.0)


def _directions(phi: FloatArray, phi_new: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Principal components of features (n, h), of unit variance, and the same of new rows."""
    if not phi.shape[1]:
        return phi, phi_new
    centre = phi.mean(axis=0)
    phi = phi - centre
    values, vectors = np.linalg.eigh(phi.T @ phi / len(phi))
    kept = np.flatnonzero(values > THINNEST * values[-1])[-DIRECTIONS:]
    turn = vectors[:, kept] / np.sqrt(values[kept])
    return phi @ turn, (phi_new - centre) @ turn


def _residuals(design: Design, estimates: Estimates) -> FloatArray:
    """``y - offset - X beta - Z b``, f being part of the offset, (n,)."""
    left = design.y - design.X @ estimates.beta
    if design.offset is not None:
        left = left - design.offset
    for term, b in zip(design.random, estimates.b, strict=True):
        left = left - np.einsum("ij,ij->i", term.columns, b[term.codes])
    return np.asarray(left)


def _rows_of_fit(design: Design, rows: NDArray[np.intp]) -> NewRows:
    return NewRows(
        X=design.X[rows],
        offset=np.zeros(len(rows)),
        random=tuple(NewTerm(t.codes[rows], t.columns[rows]) for t in design.random),
        nets=tuple(net.inputs[rows] for net in design.nets),
    )
