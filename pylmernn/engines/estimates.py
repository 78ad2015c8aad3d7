"""What every engine returns: the estimates of one model, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pylmernn.mean.networks import Networks

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Convergence:
    """How an optimization ended.

    Attributes
    ----------
    converged : bool
        Whether the true gradient proves a minimum (or a minimum on the boundary).
    gradient : ndarray, shape (m,)
        Of the objective in theta, at the estimate; zero where theta is on its bound and the bound holds it.
    n_evaluations : int
        Evaluations of the objective together with its gradient.
    message : str
    seconds : float
        Wall time of the optimization, without reading the data.
    """

    converged: bool
    gradient: FloatArray
    n_evaluations: int
    message: str
    seconds: float


@dataclass(frozen=True)
class Estimates:
    """Estimates of a linear mixed model, in the notation of Bates et al. (2015).

    Attributes
    ----------
    method : str
    REML : bool
    theta : ndarray, shape (m,)
        Relative covariance parameters, lme4's order.
    beta : ndarray, shape (p,)
        Fixed effects.
    sigma : float
        Residual standard deviation (of a row with weight 1).
    b, u : tuple of ndarray, shape (q_k, d_k)
        Conditional modes and spherical conditional modes of each random term, ``b = Lambda u``.
    unscaled_vcov : ndarray, shape (p, p)
        ``(X' V^-1 X)^-1`` with V relative to sigma^2; times sigma^2 it is the covariance of beta.
    objective : float
        The REML criterion, or -2 log-likelihood; all constants included, as lme4 has it.
    ldL2, ldRX2 : float
        Log-determinants of ``Lambda' Z' W Z Lambda + I`` and of ``X' V^-1 X``.
    pwrss, wrss, ussq : float
        Penalized weighted residual sum of squares and its two parts.
    singular : bool
        Whether theta is on the boundary (a variance of zero or a correlation of one).
    convergence : Convergence
    objective_error : float
        Standard error of the objective where it was estimated by sampling; 0 where it is exact.
    networks : Networks or None
        The networks in the mean. All else is then given them: f counts as known.
    """

    method: str
    REML: bool
    theta: FloatArray
    beta: FloatArray
    sigma: float
    b: tuple[FloatArray, ...]
    u: tuple[FloatArray, ...]
    unscaled_vcov: FloatArray
    objective: float
    ldL2: float
    ldRX2: float
    pwrss: float
    wrss: float
    ussq: float
    singular: bool
    convergence: Convergence
    objective_error: float = 0.0
    networks: Networks | None = None
