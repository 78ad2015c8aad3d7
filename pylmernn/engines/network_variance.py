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
        :func:`pylmernn.engines.alternating.with_networks` gives it.
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

    With r_k the residual of a row by member k, over the root of one less its leverage, the expected square is the
    error variance of a new row predicted by that member. The mean of K members does better by ``(K - 1) / 2K`` times
    the mean square of the difference of two of them. The slope of these errors in v is that between the thirds of rows
    with the smallest and the largest v (Wald, 1940, *The fitting of straight lines if both variables are subject to
    error*), as least squares would hang on a few rows far out.

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
    nothing = Calibration(1.0, estimates.sigma**2)
    if networks.learned is None:
        return nothing
    unseen = ~networks.learned
    rows = np.flatnonzero(unseen.any(axis=0))
    if len(rows) < FEWEST:
        return nothing
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:ROWS])
    unseen = unseen[:, rows]
    some = _rows_of_fit(design, rows)
    given_f = linear_variance(design, estimates, some)
    weights = np.ones(len(rows)) if design.weights is None else design.weights[rows]
    leverage = np.minimum(weights * given_f / estimates.sigma**2, 0.99)
    values = member_values(networks, some.nets)
    residual = (_without_networks(design, estimates, networks)[rows] - values) * np.sqrt(weights / (1.0 - leverage))
    added = np.array(
        [
            _added_variance(design, estimates, one_member(networks, i), some, given_f)
            for i in range(len(networks.members))
        ]
    )
    level = float(np.mean(residual[unseen] ** 2))
    squares, v = residual[unseen] ** 2, (weights * added)[unseen]
    pairs = _pairs(residual, weights * added, unseen)
    if pairs is not None:
        single, apart, v_pairs = pairs
        gain = (len(values) - 1) / (2 * len(values)) * apart
        level, squares, v = max(level - float(gain.mean()), 0.1 * level), single - gain, v_pairs
    if not networks.out_of_fold:  # sigma of learnt rows is too small if anything
        level = max(level, estimates.sigma**2)
    slope = _slope(squares, v)
    centre = float(v.mean())
    slope = min(slope, 0.75 * level / centre) if centre > 0 else slope
    return Calibration(slope, level - slope * centre)


def _pairs(
    residual: FloatArray, added: FloatArray, unseen: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Of rows that two members have not learnt from: mean square residual, squared difference, mean v."""
    out: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for j in range(len(residual)):
        for k in range(j):
            at = unseen[j] & unseen[k]
            one, two = residual[j, at], residual[k, at]
            out.append(((one**2 + two**2) / 2, (one - two) ** 2, (added[j, at] + added[k, at]) / 2))
    if sum(len(part[0]) for part in out) < FEWEST:
        return None
    single, apart, v = (np.concatenate(parts) for parts in zip(*out, strict=True))
    return single, apart, v


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


def _without_networks(design: Design, estimates: Estimates, networks: Networks) -> FloatArray:
    """What the networks are to explain, ``y - offset - X beta - Z b`` with f put back, (n,)."""
    left = design.y - design.X @ estimates.beta + networks.fitted
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
