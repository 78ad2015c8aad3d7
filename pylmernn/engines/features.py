"""Exact answers where random effects are learned features times random coefficients, at given theta and sigma.

The model given f is ``y = X beta + sum_k G_k c_k + Z b + e`` with ``c_k ~ N(0, sigma^2 tau_k^2 I)`` and the rows of
``G_k`` those of the features F_k (q, dim) of each level. Henderson's equations are solved with the bars b eliminated
first (sparse), then c and beta (dense). Rows enter through level sums only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import splu

from pylmernn.covariance import diagonal_positions, split_theta
from pylmernn.engines.atfixed import at_sigma, fixed_convergence
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.formula.design import Design, RandomTerm

FloatArray = NDArray[np.float64]
Features = tuple[FloatArray | None, ...]


@dataclass(frozen=True)
class Equations:
    """Henderson's equations after elimination of the bars.

    Attributes
    ----------
    dense : ndarray, shape (m + p + 1,) * 2
        Of the m coefficients, X and y, less what the bars explain.
    bars : SuperLU or None
        ``Lambda' Z' W Z Lambda + I``.
    cross : ndarray, shape (bars, m + p + 1)
    log_determinant : float
        Of ``bars``.
    """

    dense: FloatArray
    bars: Any
    cross: FloatArray
    log_determinant: float


def estimates_at(
    design: Design, features: Features, theta: FloatArray, sigma: float, REML: bool, control: Control
) -> tuple[Estimates, Features]:
    """Beta, effects and coefficients given theta and sigma.

    Parameters
    ----------
    design : Design
        With f among the offset, and no ``gp`` term.
    features : tuple of ndarray (q, dim) or None
        Of each random term; None for a bar.
    theta : ndarray, shape (m,)
        For a learned term the relative standard deviation of a coefficient.
    sigma : float
    REML : bool
    control : Control

    Returns
    -------
    Estimates
        ``b`` holds the effect of each level, (q, 1), of a learned term.
    tuple of ndarray (dim,) or None
        The coefficients of each learned term, in units of y.
    """
    templates = split_theta(design.random, theta)
    scaled = [None if F is None else F * Lambda[0, 0] for F, Lambda in zip(features, templates, strict=True)]
    equations = _equations(design, scaled, templates)
    p, m = design.p, len(equations.dense) - design.p - 1
    L = np.linalg.cholesky(equations.dense)  # of coefficients, X and y: the last pivot is the residual
    half = L[-1, :-1]
    solution = solve_triangular(L[:-1, :-1].T, half)
    pwrss = float(L[-1, -1] ** 2)
    RX = L[m:-1, m:-1]
    spherical = _spherical(equations, solution)
    b, u, coefficients = _by_term(design, features, templates, solution[:m], spherical)
    inverse = np.linalg.inv(RX)
    ussq = float(spherical @ spherical + solution[:m] @ solution[:m])
    found = Estimates(
        method="lmmnn",
        REML=REML,
        theta=theta,
        beta=solution[m:],
        sigma=sigma,
        b=b,
        u=u,
        unscaled_vcov=inverse.T @ inverse,
        objective=np.nan,
        ldL2=equations.log_determinant + 2.0 * float(np.log(np.diagonal(L)[:m]).sum()),
        ldRX2=2.0 * float(np.log(np.diagonal(RX)).sum()) if p else 0.0,
        pwrss=pwrss,
        wrss=pwrss - ussq,
        ussq=ussq,
        singular=bool((np.abs(theta[diagonal_positions(design.random)]) < control.singular_tolerance).any()),
        convergence=fixed_convergence(len(theta)),
    )
    return at_sigma(found, sigma, design), coefficients


def _equations(design: Design, scaled: Sequence[FloatArray | None], templates: Sequence[FloatArray]) -> Equations:
    y = design.y if design.offset is None else design.y - design.offset
    weights = np.ones(design.n) if design.weights is None else design.weights
    W: Any = sp.diags_array(weights, format="csr")
    R = np.column_stack([design.X, y])
    learned = [(_indicators(t), F) for t, F in zip(design.random, scaled, strict=True) if F is not None]
    bars = [(t, L) for t, L, F in zip(design.random, templates, scaled, strict=True) if F is None]
    rows = [[F.T @ ((J.T @ W @ K) @ H) for K, H in learned] + [F.T @ (J.T @ (W @ R))] for J, F in learned]
    G_G = np.block([row[:-1] for row in rows])
    G_R = np.concatenate([row[-1] for row in rows])
    dense = np.block([[G_G + np.eye(len(G_G)), G_R], [G_R.T, R.T @ (W @ R)]])
    if not bars:
        return Equations(dense, None, np.empty((0, len(dense))), 0.0)
    Z = sp.hstack([_columns(term, Lambda) for term, Lambda in bars], format="csc")
    cross = np.concatenate([*((Z.T @ W @ J) @ F for J, F in learned), Z.T @ (W @ R)], axis=1)
    own = splu(sp.csc_array(Z.T @ W @ Z + sp.eye_array(Z.shape[1])), diag_pivot_thresh=0.0, permc_spec="MMD_AT_PLUS_A")
    log_determinant = float(np.log(np.abs(own.U.diagonal())).sum())
    return Equations(dense - cross.T @ own.solve(cross), own, cross, log_determinant)


def _indicators(term: RandomTerm) -> sp.csr_array:
    n = len(term.codes)
    return sp.csr_array((np.ones(n), term.codes, np.arange(n + 1)), shape=(n, term.n_levels))


def _columns(term: RandomTerm, Lambda: FloatArray) -> sp.csr_array:
    """``Z Lambda`` of a bar, (n, q d), a level's columns side by side."""
    n, d = term.columns.shape
    at = (term.codes.astype(np.int64)[:, None] * d + np.arange(d)).ravel()
    values = (term.columns @ Lambda).ravel()
    return sp.csr_array((values, at, np.arange(n + 1) * d), shape=(n, term.n_levels * d))


def _spherical(equations: Equations, solution: FloatArray) -> FloatArray:
    """Spherical effects of the bars, all in a row."""
    if equations.bars is None:
        return np.empty(0)
    right = equations.cross[:, -1] - equations.cross[:, :-1] @ solution
    return np.asarray(equations.bars.solve(right))


def _by_term(
    design: Design, features: Features, templates: Sequence[FloatArray], own: FloatArray, spherical: FloatArray
) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...], Features]:
    """Effects b, spherical effects u, and coefficients, one a random term."""
    b: list[FloatArray] = []
    u: list[FloatArray] = []
    coefficients: list[FloatArray | None] = []
    at_own = at_bars = 0
    for term, F, Lambda in zip(design.random, features, templates, strict=True):
        if F is None:
            size = term.n_levels * term.width
            u.append(spherical[at_bars : at_bars + size].reshape(term.n_levels, term.width))
            b.append(u[-1] @ Lambda.T)
            coefficients.append(None)
            at_bars += size
        else:
            part = own[at_own : at_own + F.shape[1]]
            u.append((F @ part)[:, None])
            b.append(u[-1] * Lambda[0, 0])
            coefficients.append(part * Lambda[0, 0])
            at_own += F.shape[1]
    return tuple(b), tuple(u), tuple(coefficients)
