"""New responses from a fitted model."""

from __future__ import annotations

import numpy as np

from pylmernn.covariance import split_theta, theta_sizes
from pylmernn.covariance.kernels import correlation
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.exact import check_features
from pylmernn.engines.fields import distances
from pylmernn.fit.predict import Selection, mean
from pylmernn.formula.design import Design, FloatArray, NewRows, NewTerm, RandomTerm


def simulate(
    design: Design,
    estimates: Estimates,
    rows: NewRows,
    conditional: Selection,
    unseen: list[np.ndarray | None],
    weights: FloatArray | None,
    nsim: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Draw responses: some random effects at their modes, the others and the residuals anew.

    Parameters
    ----------
    design, estimates : the fit
    rows : NewRows
        Where to draw.
    conditional : one boolean array (d_k,) a term
        Columns whose effects stay at their conditional modes.
    unseen : one array (m,) of int a term, or None
        Identity of the level of each row, for levels the fit has not seen: rows that share one share its effect.
    weights : array, shape (m,), or None
        Prior weights of the rows.
    nsim : int
    rng : numpy Generator

    Returns
    -------
    ndarray, shape (m, nsim)
    """
    eta = linear_predictors(design, estimates, rows, conditional, unseen, nsim, rng)
    scale = estimates.sigma if weights is None else estimates.sigma / np.sqrt(weights)[:, None]
    return eta + scale * rng.standard_normal(eta.shape)


def linear_predictors(
    design: Design,
    estimates: Estimates,
    rows: NewRows,
    conditional: Selection,
    unseen: list[np.ndarray | None],
    nsim: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Linear predictors with new random effects, without residuals, (m, nsim); arguments as in :func:`simulate`."""
    base = mean(design, estimates, rows, conditional)
    out = np.repeat(base[:, None], nsim, axis=1)
    templates = split_theta(design.random, estimates.theta)
    thetas = np.split(estimates.theta, np.cumsum(theta_sizes(design.random))[:-1])
    for k, (term, L, keep) in enumerate(zip(rows.random, templates, conditional, strict=True)):
        if keep.all() and (term.locations is not None or (term.codes >= 0).all()):
            continue
        check_features(design)
        if design.random[k].covariance == "gp":
            out += draw_field(design.random[k], term, estimates.sigma, thetas[k], nsim, rng)
            continue
        codes, extra = term.codes, 0
        strangers = codes < 0
        if strangers.any():
            names = unseen[k]
            label = np.zeros(len(codes), dtype=int) if names is None else names
            identity = np.unique(label[strangers], return_inverse=True)[1]
            extra = int(identity.max()) + 1
            codes = codes.copy()
            codes[strangers] = design.random[k].n_levels + identity
        q, d = design.random[k].n_levels + extra, L.shape[0]
        free = np.where((codes >= design.random[k].n_levels)[:, None], True, ~keep) * term.columns
        for s in range(nsim):
            b = rng.standard_normal((q, d)) @ (estimates.sigma * L).T
            out[:, s] += np.einsum("ij,ij->i", b[codes], free)
    return out


def draw_codes(probabilities: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Codes 0, 1, ... of classes drawn with the probabilities (m, C) of each row, (m,)."""
    total = np.cumsum(probabilities, axis=1)
    codes = (rng.uniform(size=len(total))[:, None] * total[:, -1:] >= total).sum(axis=1)
    return np.asarray(np.minimum(codes, probabilities.shape[1] - 1), dtype=np.float64)


def draw_field(
    term: RandomTerm, new: NewTerm, sigma: float, theta: FloatArray, nsim: int, rng: np.random.Generator
) -> FloatArray:
    """Draws of a Gaussian process at the rows, (m, nsim), one field for each simulation.

    Parameters
    ----------
    term : RandomTerm
    new : NewTerm
    sigma : float
    theta : array, shape (2,)
        Standard deviation relative to sigma, and length-scale.
    nsim : int
    rng : numpy Generator
    """
    assert term.locations is not None
    places = term.locations[new.codes] if new.locations is None else new.locations
    distinct, at = np.unique(places, axis=0, return_inverse=True)
    K = correlation(term.options["cov"], distances(distinct, distinct), theta[1])
    values, vectors = np.linalg.eigh(K)  # smooth kernels are singular to rounding, so no Cholesky factor
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(sigma * theta[0] * (root @ rng.standard_normal((len(distinct), nsim)))[at.ravel()])
