"""Means and probabilities on the scale of the response, also of levels that a fit has not seen.

A level without data has the effect zero at its mode, but that is not its mean response: the inverse link is curved, so
the mean over ``b ~ N(0, Sigma)`` is nearer to the middle. Everything here is a function of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp, ndtr, ndtri

from pylmernn.families.links import Link
from pylmernn.formula.design import DesignError, FloatArray, NewRows

REACH = 8.5  # standard deviations integrated over
STEP = 0.25  # between nodes, over 1 + the standard deviation
CHUNK = 2_000_000  # values held at once
POINTS = 1024  # of the rule over several classes


def unseen_variance(
    rows: NewRows, covariances: Sequence[FloatArray], selection: Sequence[np.ndarray] | None = None
) -> FloatArray:
    """Prior variance of ``z' b`` over the levels that the fit has not seen, (m,); 0 where all were seen.

    Parameters
    ----------
    rows : NewRows, m of them
    covariances : sequence of ndarray, shape (d_k, d_k)
        Of the effects of each random term.
    selection : sequence of bool ndarray, shape (d_k,), optional
        The columns that take part; by default all.
    """
    total = np.zeros(len(rows.X))
    for k, (term, Sigma) in enumerate(zip(rows.random, covariances, strict=True)):
        columns = term.columns if selection is None else np.where(selection[k], term.columns, 0.0)
        total += np.where(term.codes < 0, np.einsum("ij,jl,il->i", columns, Sigma, columns), 0.0)
    return total


def normal_mean(function: Callable[[FloatArray], FloatArray], eta: FloatArray, variance: FloatArray) -> FloatArray:
    """``E function(eta + e)`` with ``e ~ N(0, variance)``, row by row.

    The trapezoidal rule, whose error falls exponentially for smooth functions; its step shrinks with the standard
    deviation, so that logistic curves come out to 1e-10 however wide the distribution.

    Parameters
    ----------
    function : callable
        From linear predictors (k,) to values (k,) or (k, C).
    eta, variance : ndarray, shape (m,)

    Returns
    -------
    ndarray, shape (m,) or (m, C)

    Examples
    --------
    >>> mean = normal_mean(expit, np.array([0.0, 1.0]), np.array([4.0, 0.0]))
    >>> mean.round(4).tolist()
    [0.5, 0.7311]
    """
    out = np.array(function(eta), dtype=np.float64)
    spread = np.flatnonzero((variance > 0) & np.isfinite(eta))
    if not len(spread):
        return out
    order = spread[np.argsort(variance[spread], kind="stable")]  # rows of a chunk share the step of its widest
    start = 0
    while start < len(order):
        nodes = 2.0 * REACH * (1.0 + np.sqrt(variance[order[-1]])) / STEP
        part = order[start : start + max(1, int(CHUNK / nodes))]
        sd = np.sqrt(variance[part])
        half = int(np.ceil(REACH * (1.0 + sd[-1]) / STEP))
        t = np.linspace(-REACH, REACH, 2 * half + 1)
        weights = np.exp(-0.5 * t * t)
        values = function((eta[part, None] + sd[:, None] * t).ravel())
        values = values.reshape(len(part), len(t), *values.shape[1:])
        out[part] = np.einsum("t,mt...->m...", weights / weights.sum(), values)
        start += len(part)
    return out


def marginal_mean(link: Link, eta: FloatArray, variance: FloatArray) -> FloatArray:
    """Mean of the response over ``N(eta, variance)`` of the linear predictor, (m,).

    In closed form for the identity, log and probit links.

    Raises
    ------
    DesignError
        For the links inverse and 1/mu^2: their mean over a normal distribution does not exist.
    """
    if link.name == "identity":
        return np.array(eta)
    if link.name == "log":
        return np.asarray(np.exp(eta + 0.5 * variance))
    if link.name == "probit":
        return np.asarray(ndtr(eta / np.sqrt(1.0 + variance)))
    if link.name in ("logit", "cloglog", "cauchit"):
        return normal_mean(link.inverse, eta, variance)
    if (variance > 0).any():
        raise DesignError(
            f"marginal=True: with the link '{link.name}' the mean over unseen levels does not exist; use "
            "marginal=False, which gives them the effect zero."
        )
    return np.asarray(link.inverse(eta))


def softmax(eta: FloatArray) -> FloatArray:
    """Probabilities (m, C) of linear predictors (m, C)."""
    return np.asarray(np.exp(eta - logsumexp(eta, axis=1, keepdims=True)))


def marginal_softmax(eta: FloatArray, variance: FloatArray, seed: int = 0) -> FloatArray:
    """Mean of the softmax over independent ``N(eta_c, variance_c)``, (m, C).

    Two classes are integrated exactly; for more, shifted Sobol points (good to about 1e-3).

    Parameters
    ----------
    eta, variance : ndarray, shape (m, C)
    seed : int, default 0
    """
    from scipy.stats import qmc  # slow to load

    if eta.shape[1] == 2:
        second = normal_mean(expit, eta[:, 1] - eta[:, 0], variance.sum(axis=1))
        return np.column_stack([1.0 - second, second])
    out = softmax(eta)
    spread = np.flatnonzero((variance > 0).any(axis=1) & np.isfinite(eta).all(axis=1))
    if not len(spread):
        return out
    shift = np.random.default_rng(seed).random(eta.shape[1])
    uniform = (qmc.Sobol(eta.shape[1], scramble=False).random(POINTS) + shift) % 1.0
    z = ndtri(np.clip(uniform, 1e-12, 1.0 - 1e-12))
    size = max(1, CHUNK // (POINTS * eta.shape[1]))
    for start in range(0, len(spread), size):
        part = spread[start : start + size]
        values = eta[part, None, :] + np.sqrt(variance[part])[:, None, :] * z
        values = np.exp(values - values.max(axis=2, keepdims=True))
        out[part] = (values / values.sum(axis=2, keepdims=True)).mean(axis=1)
    return out


def two_classes(success: FloatArray) -> FloatArray:
    """Probabilities (m, 2) of failure and success."""
    return np.column_stack([1.0 - success, success])


def class_names(classes: Sequence[str], n: int) -> list[str]:
    """Names of n classes: those of the design, or "0", "1", ..."""
    return [str(name) for name in classes] if len(classes) == n else [str(c) for c in range(n)]


def probability_frame(probabilities: FloatArray, classes: Sequence[str], index: pd.Index) -> pd.DataFrame:
    """Probabilities (m, C) with a column a class."""
    return pd.DataFrame(probabilities, index=index, columns=class_names(classes, probabilities.shape[1]))


def most_likely(frame: pd.DataFrame) -> pd.Series:
    """The most likely class of each row by name; missing where probabilities are."""
    codes = frame.fillna(-1.0).to_numpy(dtype=float).argmax(axis=1)
    codes[frame.isna().any(axis=1).to_numpy()] = -1
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(frame.columns)), index=frame.index)
