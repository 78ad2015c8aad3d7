"""New responses from a fitted model."""

from __future__ import annotations

import numpy as np

from pylmernn.covariance import split_theta
from pylmernn.engines.estimates import Estimates
from pylmernn.fit.predict import Selection, mean
from pylmernn.formula.design import Design, FloatArray, NewRows


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
    m = len(rows.X)
    base = mean(estimates, rows, conditional)
    out = np.repeat(base[:, None], nsim, axis=1)
    templates = split_theta(design.random, estimates.theta)
    for k, (term, L, keep) in enumerate(zip(rows.random, templates, conditional, strict=True)):
        if keep.all() and (term.codes >= 0).all():
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
    scale = estimates.sigma if weights is None else estimates.sigma / np.sqrt(weights)[:, None]
    return out + scale * rng.standard_normal((m, nsim))
