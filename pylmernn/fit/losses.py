"""How badly rows are predicted, as a function of the networks' values there: what importance is measured in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from pylmernn.engines.estimates import Estimates
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.working_model import linear_predictor
from pylmernn.fit.predict import fixed_part, random_part
from pylmernn.formula.design import Design, FloatArray
from pylmernn.mean.networks import Networks

RowArray = NDArray[np.intp]


@dataclass(frozen=True)
class Loss:
    """Mean loss of some rows, as share of that of a constant prediction of all rows; but for a constant.

    Attributes
    ----------
    value : callable
        ``(f, rows) -> float`` for values f (m,) or (m, C) of the networks at rows (m,), all else as in the fit.
    unit : str
        What it is a share of: "variance" or "deviance".
    """

    value: Callable[[FloatArray, RowArray], float]
    unit: str


def loss_of(design: Design, estimates: Estimates | MultinomialEstimates, networks: Networks) -> Loss:
    """Squared error of a linear model, deviance of a generalized one.

    Parameters
    ----------
    design, estimates, networks : the fit; f is part of ``design.offset`` but for several classes
    """
    if isinstance(estimates, MultinomialEstimates):
        return class_deviance(design, estimates.eta - networks.fitted)
    if isinstance(estimates, GeneralizedEstimates):
        return mean_deviance(design, estimates, linear_predictor(design, estimates) - networks.fitted)
    return squared_error(design, target_of(design, estimates, networks))


def target_of(design: Design, estimates: Estimates, networks: Networks, f_in_offset: bool = True) -> FloatArray:
    """What the networks of a linear model are to explain, ``y - offset - X beta - Z b``, shape (n,).

    Parameters
    ----------
    design, estimates, networks : the fit
    f_in_offset : bool, default True
        Whether ``design.offset`` holds ``networks.fitted``, as that of a :class:`MixedFit` does.
    """
    rest = design.y - fixed_part(design, estimates) - random_part(design, estimates)
    return rest + networks.fitted if f_in_offset else rest


def squared_error(design: Design, target: FloatArray) -> Loss:
    """Mean squared error over the variance of the response.

    Parameters
    ----------
    design : Design
    target : ndarray, shape (n,)
        :func:`target_of`.
    """
    weights = design.weights
    unit = float(np.average((design.y - np.average(design.y, weights=weights)) ** 2, weights=weights))

    def value(f: FloatArray, rows: RowArray) -> float:
        given = None if weights is None else weights[rows]
        return float(np.average((target[rows] - f) ** 2, weights=given)) / unit

    return Loss(value, "variance")


def mean_deviance(design: Design, estimates: GeneralizedEstimates, rest: FloatArray) -> Loss:
    """Mean deviance over that of a constant mean.

    Parameters
    ----------
    design : Design
    estimates : GeneralizedEstimates
        Family and phi are read.
    rest : ndarray, shape (n,)
        Linear predictors without the networks.
    """
    family, phi = estimates.family, estimates.phi
    assert family is not None
    weights = np.ones(design.n) if design.weights is None else design.weights
    with np.errstate(all="ignore"):
        if family.categorical:
            shares = np.bincount(design.y.astype(np.intp), weights) / weights.sum()
            unit = float(-2.0 * (shares * np.log(shares)).sum())
        else:
            constant = np.full(design.n, np.average(design.y, weights=weights))
            unit = float(np.average(family.unit_deviance(design.y, constant, phi), weights=weights))
            unit /= float(phi) if family.has_scale else 1.0

    def value(f: FloatArray, rows: RowArray) -> float:
        with np.errstate(all="ignore"):
            step = family.step(design.y[rows], weights[rows], rest[rows] + f, phi)
        return float(-2.0 * step.loglik.sum() / weights[rows].sum()) / unit

    return Loss(value, "deviance")


def class_deviance(design: Design, rest: FloatArray) -> Loss:
    """Mean of -2 log-probability of the class that came, over that of the shares of the classes.

    Parameters
    ----------
    design : Design
        With class codes in ``y``.
    rest : ndarray, shape (n, C)
        Linear predictors without the networks.
    """
    codes = design.y.astype(np.intp)
    weights = np.ones(design.n) if design.weights is None else design.weights
    shares = np.bincount(codes, weights) / weights.sum()
    present = shares[shares > 0]
    unit = float(-2.0 * (present * np.log(present)).sum())

    def value(f: FloatArray, rows: RowArray) -> float:
        eta = rest[rows] + f
        log_probability = eta[np.arange(len(rows)), codes[rows]] - logsumexp(eta, axis=1)
        return float(-2.0 * np.average(log_probability, weights=weights[rows])) / unit

    return Loss(value, "deviance")
