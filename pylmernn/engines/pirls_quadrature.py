"""Adaptive Gauss-Hermite quadrature for models with one grouping factor, scalar or vector terms, with its gradient.

For level j with modes u_j, ``M_j = Lambda' Z_j' W Z_j Lambda + I = L_j L_j'`` and ``S_j = L_j^-T``, the integral over
its random effects is (Pinheiro & Bates 1995, section 2.4)

    |M_j|^-1/2 sum_k w_k exp(|z_k|^2 / 2 + h_j(u_j + S_j z_k)),    h_j(u) = sum_i log f(y_i | eta_i(u)) - |u|^2 / 2

with nodes z_k and weights w_k of the standard normal density. One node is Laplace's approximation, so log-likelihoods
of different nAGQ can be compared; lme4 leaves constants out where nAGQ > 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.pirls_laplace import Slopes
from pylmernn.engines.pirls_modes import Modes, Observations
from pylmernn.engines.pirls_system import ReweightedSystem
from pylmernn.families.family import Dispersion, Step
from pylmernn.linalg.quadrature import Nodes
from pylmernn.linalg.smallblocks import cholesky_blocks, forward_solve_blocks, multiply_blocks

FloatArray = NDArray[np.float64]


class Quadrature:
    """The approximation at given modes.

    Parameters
    ----------
    system : ReweightedSystem
        Of one factor, with the curvature weights of the modes.
    data : Observations
    Lambda : ndarray, shape (d, d)
    modes : Modes
    phi : float, or ndarray of shape (k,)
    nodes : Nodes

    Attributes
    ----------
    value : float
        -2 log-likelihood.
    """

    def __init__(
        self,
        system: ReweightedSystem,
        data: Observations,
        Lambda: FloatArray,
        modes: Modes,
        phi: Dispersion,
        nodes: Nodes,
    ) -> None:
        self.system, self.data, self.Lambda, self.modes, self.phi, self.nodes = system, data, Lambda, modes, phi, nodes
        L = cholesky_blocks(_precision(system.A, Lambda))
        self.S = _inverse_transposed(L)
        log_determinant = 2.0 * sum(float(np.log(L[s, s]).sum()) for s in range(len(L)))
        codes, q = system.groups[0].codes, system.q
        u = modes.u[0]
        self.u: list[FloatArray] = []
        self.steps: list[Step] = []
        self.etas: list[FloatArray] = []
        logs = np.empty((len(nodes.z), q))
        for k, z in enumerate(nodes.z):
            shift = np.einsum("stj,t->sj", self.S, z)
            eta = modes.eta + system.rows_of([Lambda @ shift])
            step = data.step(eta, phi)
            self.u.append(u + shift)
            self.etas.append(eta)
            self.steps.append(step)
            penalty = (self.u[k] ** 2).sum(axis=0) - z @ z
            logs[k] = np.bincount(codes, step.loglik, q) - 0.5 * penalty + nodes.log_weights[k]
        top = logs.max(axis=0)
        shares = np.exp(logs - top)
        total = shares.sum(axis=0)
        self.shares = shares / total
        self.value = float(log_determinant - 2.0 * (top + np.log(total)).sum() - 2.0 * data.constant)
        if not np.isfinite(self.value):
            raise np.linalg.LinAlgError("the quadrature is not finite")

    def slopes(self, slope: FloatArray) -> Slopes:
        """The exact gradient; ``slope`` (n,) is the derivative of the curvature weights in eta.

        The nodes move with the modes and with M: ``Gamma`` collects the derivative in S, and adds to ``M^-1`` what
        moving nodes do, the rest is as for Laplace's approximation.
        """
        system, data, Lambda, modes = self.system, self.data, self.Lambda, self.modes
        group, S, shares = system.groups[0], self.S, self.shares
        d, q = S.shape[0], system.q
        at_nodes = np.zeros(system.n)
        in_Lambda, in_u = np.zeros((d, d)), np.zeros((d, q))
        Gamma = np.zeros((d, d, q))
        in_phi = np.zeros(len(data.family.unconstrained(self.phi)))
        for z, u, eta, step, share in zip(self.nodes.z, self.u, self.etas, self.steps, shares, strict=True):
            weighted = share[group.codes] * step.score
            at_nodes += weighted
            sums = system.by_level(weighted)[0]
            in_Lambda -= 2.0 * sums @ u.T
            pull = Lambda.T @ sums - share * u
            in_u -= 2.0 * pull
            Gamma += pull[:, None, :] * z[None, :, None]
            if data.family.has_dispersion:
                in_phi -= 2.0 * data.by_dispersion(eta, self.phi).loglik @ share[group.codes]
        N = multiply_blocks(S, S.transpose(1, 0, 2)) + 2.0 * _sandwich(S, _half_upper(_left(S, Gamma)))
        h = system.quadratic_rows(group, _sandwich(_broadcast(Lambda, q), N))
        in_Lambda += 2.0 * np.einsum("stj,tu,uvj->sv", system.A, Lambda, N, optimize=True)
        c, score, V = h * slope, modes.step.score, modes.step.observed
        inverse = _inverse(_precision(system.own_products(group, V), Lambda))
        a = np.einsum("stj,tj->sj", inverse, Lambda.T @ system.by_level(c)[0] + in_u)
        r = system.rows_of([Lambda @ a])
        rest = c - V * r
        in_Lambda += system.by_level(rest)[0] @ modes.u[0].T + system.by_level(score)[0] @ a.T
        by = data.by_dispersion(modes.eta, self.phi)
        in_phi += by.weight @ h + by.score @ r
        return Slopes([in_Lambda], system.X.T @ (rest - 2.0 * at_nodes), in_phi)


def _precision(A: FloatArray, Lambda: FloatArray) -> FloatArray:
    """``Lambda' A_j Lambda + I``, (d, d, q)."""
    M = np.ascontiguousarray(np.einsum("ts,tuj,uv->svj", Lambda, A, Lambda, optimize=True))
    for s in range(len(M)):
        M[s, s] += 1.0
    return M


def _inverse_transposed(L: FloatArray) -> FloatArray:
    """``L_j^-T``."""
    return forward_solve_blocks(L, _broadcast(np.eye(len(L)), L.shape[2])).transpose(1, 0, 2)


def _inverse(M: FloatArray) -> FloatArray:
    S = _inverse_transposed(cholesky_blocks(M))
    return multiply_blocks(S, S.transpose(1, 0, 2))


def _broadcast(matrix: FloatArray, q: int) -> FloatArray:
    return np.broadcast_to(matrix[:, :, None], (*matrix.shape, q))


def _left(S: FloatArray, B: FloatArray) -> FloatArray:
    """``S_j' B_j``."""
    return multiply_blocks(S.transpose(1, 0, 2), B)


def _sandwich(S: FloatArray, B: FloatArray) -> FloatArray:
    """``S_j B_j S_j'``."""
    return multiply_blocks(multiply_blocks(S, B), S.transpose(1, 0, 2))


def _half_upper(Y: FloatArray) -> FloatArray:
    """Half the upper triangle of each block, mirrored: how a Cholesky factor passes derivatives on."""
    out = np.empty_like(Y)
    for s in range(len(Y)):
        for t in range(s, len(Y)):
            out[s, t] = out[t, s] = 0.5 * Y[s, t]
    return out
