"""Linear predictors, probabilities and draws of a multinomial mixed model, of the rows of a fit and of new rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import logsumexp

from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit.predict import Selection
from pylmernn.fit.probabilities import softmax
from pylmernn.fit.simulate import draw_codes
from pylmernn.formula.design import Design, FloatArray, IntArray, NewRows

#: Numbers of all draws that are held at a time for standard errors.
AT_A_TIME = 4_000_000


def term_part(codes: IntArray, columns: FloatArray, b: FloatArray) -> FloatArray:
    """``Z b`` of one random term in each class: rows with code -1 get 0, or NaN where a column is missing.

    Parameters
    ----------
    codes : array, shape (m,)
    columns : array, shape (m, d)
    b : array, shape (q, d, C)

    Returns
    -------
    ndarray, shape (m, C)
    """
    values = np.einsum("md,mdc->mc", columns, b[codes])
    strangers = codes < 0
    if strangers.any():
        values[strangers] = np.where(np.isnan(columns[strangers]).any(axis=1), np.nan, 0.0)[:, None]
    return values


def linear_predictor(
    estimates: MultinomialEstimates, rows: NewRows, selection: Selection, f: FloatArray | None = None
) -> FloatArray:
    """``offset + X beta + f + Z b`` of rows over the selected columns, shape (m, C).

    Parameters
    ----------
    estimates : MultinomialEstimates
    rows : NewRows, m of them
        Levels with code -1 get the effect zero.
    selection : one boolean array (d_k,) a term
        Columns that take part.
    f : array, shape (m, C), optional
        What the networks say of these rows.
    """
    eta = rows.X @ estimates.beta + rows.offset[:, None]
    if f is not None:
        eta = eta + f
    for new, b, keep in zip(rows.random, estimates.b, selection, strict=True):
        if keep.any():
            eta += term_part(new.codes, new.columns, b * keep[:, None])
    return eta


def unseen_variance(estimates: MultinomialEstimates, rows: NewRows, selection: Selection) -> FloatArray:
    """Prior variance of the random part of levels that the fit has not seen, (m, C); zero where it has seen them."""
    variance = np.zeros((len(rows.X), len(estimates.classes)))
    for new, covariances, keep in zip(rows.random, estimates.covariances, selection, strict=True):
        at = np.flatnonzero(new.codes < 0)
        if keep.any() and len(at):
            z = np.where(keep, new.columns[at], 0.0)
            variance[at] += np.einsum("md,cde,me->mc", z, covariances, z)
    return variance


def drawn_predictors(
    estimates: MultinomialEstimates, rows: NewRows, selection: Selection, f: FloatArray | None, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Linear predictors (m, C) of each joint draw of fixed and random effects; levels not seen draw from their prior.

    Parameters
    ----------
    estimates : MultinomialEstimates
        With joint draws.
    rows, selection, f
        As for :func:`linear_predictor`.
    rng : numpy Generator
        Of the effects of levels that the fit has not seen.
    """
    assert estimates.joint is not None
    unseen = np.sqrt(unseen_variance(estimates, rows, selection))
    base = rows.offset[:, None] + (0.0 if f is None else f)
    for s, beta in enumerate(estimates.joint.beta):
        eta = base + rows.X @ beta.astype(np.float64)
        for new, b, keep in zip(rows.random, estimates.joint.b, selection, strict=True):
            if keep.any():
                eta += term_part(new.codes, new.columns, b[s].astype(np.float64) * keep[:, None])
        yield eta + unseen * rng.standard_normal(eta.shape)


def spread_over_draws(
    estimates: MultinomialEstimates,
    rows: NewRows,
    selection: Selection,
    f: FloatArray | None,
    scale: Callable[[FloatArray], FloatArray],
    level: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Standard deviations and quantiles (m, C) of what ``scale`` makes of the linear predictors of all joint draws."""
    assert estimates.joint is not None
    rng = np.random.default_rng(0)
    m, numbers = len(rows.X), len(estimates.joint.beta) * len(estimates.classes)
    out = np.empty((3, m, len(estimates.classes)))
    size = max(1, AT_A_TIME // numbers)
    for start in range(0, m, size):
        part = slice(start, start + size)
        some = dataclasses.replace(
            rows,
            X=rows.X[part],
            offset=rows.offset[part],
            random=tuple(dataclasses.replace(t, codes=t.codes[part], columns=t.columns[part]) for t in rows.random),
        )
        of_networks = None if f is None else f[part]
        drawn = np.stack([scale(eta) for eta in drawn_predictors(estimates, some, selection, of_networks, rng)])
        out[0, part] = drawn.std(axis=0, ddof=1)
        out[1:, part] = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return out[0], out[1], out[2]


def observed_loglik(eta: FloatArray, codes: FloatArray) -> FloatArray:
    """Logarithms of the probabilities of the observed classes, shape (n,).

    Parameters
    ----------
    eta : array, shape (n, C)
    codes : array of whole numbers, shape (n,)

    Examples
    --------
    >>> observed_loglik(np.zeros((1, 4)), np.array([2.0])).round(4).tolist()
    [-1.3863]
    """
    return np.asarray(np.take_along_axis(eta, codes.astype(np.intp)[:, None], axis=1)[:, 0] - logsumexp(eta, axis=1))


def draw_classes(probabilities: FloatArray, rng: np.random.Generator) -> IntArray:
    """A class code for each row of probabilities (m, C); -1 where they are missing."""
    codes = draw_codes(np.nan_to_num(probabilities, nan=1.0), rng).astype(np.int32)
    codes[np.isnan(probabilities).any(axis=1)] = -1
    return codes


def simulate(
    design: Design,
    estimates: MultinomialEstimates,
    rows: NewRows,
    f: FloatArray | None,
    conditional: Selection,
    unseen: list[np.ndarray | None],
    nsim: int,
    rng: np.random.Generator,
) -> IntArray:
    """Class codes drawn from the model, (m, nsim): some random effects at their posterior means, the others anew.

    Parameters
    ----------
    design, estimates : the fit
    rows : NewRows, m of them
    f : array, shape (m, C), or None
        What the networks say of these rows.
    conditional : one boolean array (d_k,) a term
        Columns whose effects stay at their posterior means.
    unseen : one array (m,) of int a term, or None
        Identity of the level of each row, for levels the fit has not seen: rows that share one share its effect.
    nsim : int
    rng : numpy Generator
    """
    base = linear_predictor(estimates, rows, conditional, f)
    known = [term.n_levels for term in design.random]
    codes = [_with_strangers(new.codes, names, q) for new, names, q in zip(rows.random, unseen, known, strict=True)]
    parts = zip(rows.random, codes, known, conditional, strict=True)
    free = [np.where((code >= q)[:, None], True, ~keep) * new.columns for new, code, q, keep in parts]
    drawn = [k for k, columns in enumerate(free) if columns.any()]
    out = np.empty((len(base), nsim), dtype=np.int32)
    for s in range(nsim):
        eta = base.copy()
        for k in drawn:
            b = draw_effects(estimates.covariances[k], int(codes[k].max()) + 1, rng)
            eta += np.einsum("md,mdc->mc", free[k], b[codes[k]])
        out[:, s] = draw_classes(softmax(eta), rng)
    return out


def _with_strangers(codes: IntArray, names: np.ndarray | None, q: int) -> IntArray:
    """Codes in which each unseen level has a number of its own, from q on."""
    strangers = codes < 0
    if not strangers.any():
        return codes
    label = np.zeros(len(codes), dtype=int) if names is None else names
    out = codes.copy()
    out[strangers] = q + np.unique(label[strangers], return_inverse=True)[1]
    return out


def draw_effects(covariances: FloatArray, q: int, rng: np.random.Generator) -> FloatArray:
    """Effects of q levels from their prior, (q, d, C), for covariances (C, d, d) that may be singular."""
    values, vectors = np.linalg.eigh(covariances)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    z = rng.standard_normal((q, len(covariances), covariances.shape[1]))
    return np.asarray(np.einsum("cde,qce->qdc", roots, z))
