"""What Monte Carlo EM finds of a multinomial mixed model, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws
    from pylmernn.engines.estimates import Convergence
    from pylmernn.mean.networks import Networks

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class JointDraws:
    """Draws of fixed and random effects together, for standard errors of what depends on both.

    Attributes
    ----------
    beta : ndarray of float32, shape (S, p, C)
        From the normal distribution of the estimates; the estimates themselves where classes are too many for it.
    b : tuple of ndarray of float32, shape (S, q_k, d_k, C)
        Some of the sampler's, moved along with beta.
    """

    beta: NDArray[np.float32]
    b: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class MultinomialEstimates:
    """Estimates of a multinomial mixed model with C classes (Tschalzev et al., 2024, eq. 2, with fixed effects).

    ``P(y_i = c) = softmax_c(offset_i + x_i' beta_c + f_c(inputs_i) + sum_k z_ik' b_kc)``, where the effects of a level
    of term k in class c are ``N(0, Sigma_kc)``, independent over classes. The same number added in all classes changes
    nothing, so only contrasts over classes are identified: beta and b are reported with sum zero over classes.

    Attributes
    ----------
    method : str
        "mcem".
    classes : tuple of str, length C
    beta : ndarray, shape (p, C)
        Fixed effects; each row sums to zero.
    fixed_covariance : ndarray, shape (p * C, p * C), or None
        Covariance of beta in row-major order, of rank p (C - 1).
    b : tuple of ndarray, shape (q_k, d_k, C)
        Posterior means of the effects of each random term; they sum to zero over classes.
    variances : tuple of ndarray, shape (q_k, d_k, C)
        Posterior variances of these.
    covariances : tuple of ndarray, shape (C, d_k, d_k)
        Sigma_kc, prior covariances of the effects of a level.
    covariance_errors : tuple of ndarray, shape (C, d_k)
        Standard errors of the logarithms of the prior variances, the diagonals of ``covariances``.
    eta : ndarray, shape (n, C)
        Linear predictors at the posterior means, networks and offset included.
    draws : Draws
        What was sampled.
    convergence : Convergence
    joint : JointDraws or None
    networks : Networks or None
        The networks, with C outputs; ``networks.fitted`` has shape (n, C).
    """

    method: str
    classes: tuple[str, ...]
    beta: FloatArray
    fixed_covariance: FloatArray | None
    b: tuple[FloatArray, ...]
    variances: tuple[FloatArray, ...]
    covariances: tuple[FloatArray, ...]
    covariance_errors: tuple[FloatArray, ...]
    eta: FloatArray
    draws: Draws
    convergence: Convergence
    joint: JointDraws | None = None
    networks: Networks | None = None
