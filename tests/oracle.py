"""A linear mixed model in dense NumPy, straight from the marginal distribution: the oracle for every faster kernel.

The notation is that of Bates, Maechler, Bolker & Walker (2015), "Fitting linear mixed-effects models using lme4",
sections 2 and 3. Everything here goes through the n by n matrix ``V = W^-1 + Z Lambda Lambda' Z'`` (the covariance of y
relative to sigma^2) and shares no algebra with the package, which never forms V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import minimize

from pylmernn.covariance import diagonal_positions, split_theta
from pylmernn.formula.design import Design


def dense_Z(random, columns=None, codes=None) -> np.ndarray:
    """The model matrix of all random effects, (n, sum_k q_k d_k), columns in the order term, level, column."""
    blocks = []
    for k, term in enumerate(random):
        J = np.asarray(codes[k] if codes else term.codes)
        C = np.asarray(columns[k] if columns else term.columns)
        Z = np.zeros((len(J), term.n_levels, term.width))
        seen = J >= 0
        Z[np.flatnonzero(seen), J[seen]] = C[seen]
        blocks.append(Z.reshape(len(J), -1))
    return np.hstack(blocks)


def dense_Lambda(random, theta) -> np.ndarray:
    """The relative covariance factor: the template of each term once per level (eq. 4)."""
    return block_diag(
        *[np.kron(np.eye(t.n_levels), T) for t, T in zip(random, split_theta(random, theta), strict=True)]
    )


@dataclass
class Solution:
    """Everything that follows from theta."""

    objective: float
    beta: np.ndarray
    sigma: float
    b: list[np.ndarray]
    unscaled_vcov: np.ndarray
    ldL2: float
    ldRX2: float
    pwrss: float
    V: np.ndarray
    Z: np.ndarray
    D: np.ndarray


def solve(design: Design, theta: np.ndarray, REML: bool = True) -> Solution:
    """The model at a given theta: generalized least squares, its criterion and the conditional modes."""
    n, p = design.X.shape
    w = np.ones(n) if design.weights is None else design.weights
    y = design.y - (0.0 if design.offset is None else design.offset)
    Z, L = dense_Z(design.random), dense_Lambda(design.random, theta)
    D = L @ L.T
    V = np.diag(1 / w) + Z @ D @ Z.T
    Vi = np.linalg.inv(V)
    information = design.X.T @ Vi @ design.X
    M = np.linalg.inv(information) if p else np.zeros((0, 0))
    beta = M @ design.X.T @ Vi @ y
    r = y - design.X @ beta
    pwrss = float(r @ Vi @ r)
    logdet_V = np.linalg.slogdet(V)[1]
    ldRX2 = np.linalg.slogdet(information)[1] if p else 0.0
    m = n - p if REML else n
    objective = logdet_V + (ldRX2 if REML else 0.0) + m * (1 + np.log(2 * np.pi * pwrss / m))
    b = D @ Z.T @ Vi @ r
    sizes = np.cumsum([t.n_levels * t.width for t in design.random])[:-1]
    return Solution(
        objective=float(objective),
        beta=beta,
        sigma=float(np.sqrt(pwrss / m)),
        b=[part.reshape(t.n_levels, t.width) for part, t in zip(np.split(b, sizes), design.random, strict=True)],
        unscaled_vcov=M,
        ldL2=float(logdet_V + np.log(w).sum()),
        ldRX2=float(ldRX2),
        pwrss=pwrss,
        V=V,
        Z=Z,
        D=D,
    )


def conditional_covariance(design: Design, s: Solution) -> np.ndarray:
    """Var(b | y) at known beta, all random effects jointly: ``sigma^2 (D - D Z' V^-1 Z D)``."""
    ZD = s.Z @ s.D
    return s.sigma**2 * (s.D - ZD.T @ np.linalg.solve(s.V, ZD))


def conditional_variance(design: Design, s: Solution) -> list[np.ndarray]:
    """The diagonal blocks of :func:`conditional_covariance`, (q_k, d_k, d_k) per term (lme4's condVar)."""
    C, blocks, at = conditional_covariance(design, s), [], 0
    for t in design.random:
        d = t.width
        blocks.append(np.array([C[i : i + d, i : i + d] for i in range(at, at + t.n_levels * d, d)]))
        at += t.n_levels * d
    return blocks


def prediction_variance(design: Design, s: Solution, X, Z) -> np.ndarray:
    """Var(x' beta_hat + z' (b_hat - b)) of rows x (m, p) and z (m, all random effects)."""
    Vi = np.linalg.inv(s.V)
    adjusted = X - Z @ s.D @ s.Z.T @ Vi @ design.X
    C = conditional_covariance(design, s)
    fixed = s.sigma**2 * np.einsum("ij,jk,ik->i", adjusted, s.unscaled_vcov, adjusted)
    return fixed + np.einsum("ij,jk,ik->i", Z, C, Z)


def optimum(design: Design, REML: bool = True, tolerance: float = 1e-12) -> np.ndarray:
    """theta of a small model by a general-purpose optimizer; slow and sure."""
    diagonal = diagonal_positions(design.random)
    start = np.where(diagonal, 1.0, 0.0)
    bounds = [(0.0, None) if on else (None, None) for on in diagonal]
    best = None
    for scale in (1.0, 0.3):
        found = minimize(
            lambda t: solve(design, t, REML).objective,
            start * scale,
            method="Nelder-Mead" if len(start) < 4 else "L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 4000, **({"xatol": 1e-8, "fatol": tolerance} if len(start) < 4 else {"ftol": 1e-14})},
        )
        best = found if best is None or found.fun < best.fun else best
    return best.x
