"""Method ``"vecchia"``: a Gaussian process over many locations, each conditioned on its nearest neighbours.

Without bars the rows enter a field through the means t of its locations alone, whose covariance relative to sigma^2 is
``S = K + D^-1`` with D the rows (weights) at each. Vecchia (1988) replaces the density of t by the product of the
densities of t_i given its m nearest among those before it in some order (here a random one, as Guinness 2018 advises):

    S^-1 = (I - B)' F^-1 (I - B),     B_i = S_iN S_NN^-1,     F_i = S_ii - B_i S_Ni.

The cost is that of q small systems of m equations. With all predecessors as neighbours it is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pylmernn.covariance.kernels import correlation_and_slope
from pylmernn.engines.control import Control
from pylmernn.engines.fields import Field, best_of_grid, field_between, fields_of, nearest
from pylmernn.engines.profiled import Modes
from pylmernn.engines.working import working_columns
from pylmernn.formula.design import Design
from pylmernn.linalg.crossproducts import sum_by_level

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

NEIGHBOURS = 30
CHUNK = 4000  # locations whose small systems are solved together
GROWTH = 1.05  # predecessors are looked up among the locations before a chunk that grows by this factor


def offered(design: Design) -> bool:
    """Whether the design is one field and no bars."""
    return len(design.random) == 1 and design.random[0].covariance == "gp"


def earlier_neighbours(points: FloatArray, m: int) -> IntArray:
    """The m nearest predecessors of each point in its order, (q, m); -1 where there are fewer.

    Points of the same chunk are not yet predecessors of each other, so a near one is missed now and then.
    """
    q = len(points)
    out = np.full((q, m), -1, dtype=np.intp)
    for i in range(1, min(q, m + 1)):
        out[i, :i] = np.arange(i)
    start = m + 1
    while start < q:
        stop = min(q, max(start + 1, int(start * GROWTH)))
        out[start:stop] = nearest(points[:start], points[start:stop], m)[1]
        start = stop
    return out


@dataclass(frozen=True)
class Conditionals:
    """The factors of S^-1 at one point: ``B`` (q, m) along the neighbours, ``F`` (q,)."""

    B: FloatArray
    F: FloatArray


@dataclass(frozen=True)
class Answers:
    """At one point: working beta (p,), pwrss, field and score ``Z' V^-1 (y - X beta)``, both (q, 1), and RX (p, p)."""

    beta: FloatArray
    pwrss: float
    field: FloatArray
    score: FloatArray
    RX: FloatArray


class VecchiaProblem:
    """One field and its fixed effects; the interface of :class:`pylmernn.engines.profiled.Problem`.

    Parameters
    ----------
    design : Design
        Its only random term is a field.
    REML : bool
    neighbours : int
    seed : int
        Of the order of the locations.
    """

    method = "vecchia"
    noise = 0.0

    def __init__(self, design: Design, REML: bool, neighbours: int = NEIGHBOURS, seed: int = 0) -> None:
        if not offered(design):
            raise ValueError("method 'vecchia' fits one gp() and no other random term; use method='profiled'.")
        self.design, self.REML = design, REML
        self.field: Field = fields_of(design.random)[0]
        codes, q, weights = design.random[0].codes, len(self.field.locations), design.weights
        D = sum_by_level(codes, weights, q)
        seen = np.random.default_rng(seed).permutation(np.flatnonzero(D > 0))
        self.order, self.D = seen, D[seen]
        self.points = self.field.locations[seen]
        self.neighbours = earlier_neighbours(self.points, min(neighbours, len(seen) - 1))
        self._place = np.full(q, -1)
        self._place[seen] = np.arange(len(seen))
        self.R, self.working = working_columns(design)
        self.RR = self.R.T @ self._weigh(self.R)
        self._sum_means()
        self.sum_log_weights = 0.0 if weights is None else float(np.log(weights).sum())
        self.constant = -2.0 * self.working.log_determinant if REML else 0.0

    def _weigh(self, columns: FloatArray) -> FloatArray:
        weights = self.design.weights
        return columns if weights is None else columns * (weights if columns.ndim == 1 else weights[:, None])

    def _sum_means(self) -> None:
        """Means of the columns of R at each location, (q, p + 1), and what varies within locations."""
        at = self._place[self.design.random[0].codes].astype(np.int32)
        WR = self._weigh(self.R)
        sums = np.stack([sum_by_level(at, column, len(self.D)) for column in WR.T], axis=1)
        self.t = sums / self.D[:, None]
        self.within = self.RR - sums.T @ self.t

    def replace_response(self, y: FloatArray) -> None:
        """Go on with another response (n,), offset taken off."""
        p = self.design.p
        gamma = np.linalg.lstsq(self.RR[:p, :p], self.R[:, :p].T @ self._weigh(y), rcond=None)[0] if p else np.empty(0)
        self.R[:, p] = y - self.R[:, :p] @ gamma
        self.working = dataclasses.replace(self.working, beta0=self.working.transform @ gamma)
        self.RR[-1] = self.RR[:, -1] = self.R.T @ self._weigh(self.R[:, p])
        self._sum_means()

    def start(self, control: Control) -> FloatArray:
        """The best tau and z of a grid."""
        return best_of_grid(self.field, self.search_value)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.D), CHUNK):
            yield slice(start, min(start + CHUNK, len(self.D)))

    def _systems(self, rows: slice, tau: float, lscale: float) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
        """``S`` of the neighbours (then the location itself) of some locations, derivatives in tau and log lscale.

        Returns
        -------
        S, dS_tau, dS_lscale : ndarray, shape (c, m + 1, m + 1)
            Rows of neighbours that a location lacks are those of the identity.
        together : ndarray of int, shape (c, m + 1)
        """
        own = np.arange(rows.start, rows.stop)[:, None]
        together = np.concatenate([self.neighbours[rows], own], axis=1)
        places = self.points[together]
        gaps = places[:, :, None, :] - places[:, None, :, :]
        distance = np.sqrt(np.einsum("cijk,cijk->cij", gaps, gaps))
        value, slope = correlation_and_slope(self.field.cov, distance, lscale)
        lacking = together < 0
        if lacking.any():
            known = ~(lacking[:, :, None] | lacking[:, None, :])
            value, slope = value * known, slope * known
        S = tau**2 * value
        diagonal = np.einsum("cii->ci", S)
        diagonal += np.where(lacking, 1.0, 1.0 / self.D[together])
        return S, 2.0 * tau * value, tau**2 * slope, together

    def conditionals(self, x: FloatArray) -> Conditionals:
        """B and F at x = (tau, z)."""
        q, m = self.neighbours.shape
        B, F = np.empty((q, m)), np.empty(q)
        for rows in self._chunks():
            S, *_ = self._systems(rows, float(x[0]), self.field.lscale(x[1]))
            B[rows] = np.linalg.solve(S[:, :m, :m], S[:, :m, m:])[:, :, 0]
            F[rows] = S[:, m, m] - np.einsum("cm,cm->c", B[rows], S[:, :m, m])
        return Conditionals(B, F)

    def _residuals(self, B: FloatArray, t: FloatArray) -> FloatArray:
        """``(I - B) t`` for t (q, j)."""
        return np.asarray(t - np.einsum("qm,qmj->qj", B, t[self.neighbours]))

    def _least_squares(self, V: FloatArray, log_determinant: float) -> tuple[float, FloatArray, FloatArray, float]:
        p = self.design.p
        RX: FloatArray = np.asarray(np.linalg.cholesky(V[:p, :p]), dtype=np.float64)
        beta = np.linalg.solve(RX.T, np.linalg.solve(RX, V[:p, p]))
        pwrss = float(V[p, p] - V[:p, p] @ beta)
        if not pwrss > 0:
            raise np.linalg.LinAlgError("the residual sum of squares is not positive")
        df = self.design.n - p if self.REML else self.design.n
        objective = log_determinant + df * (1.0 + math.log(2.0 * math.pi * pwrss / df)) - self.sum_log_weights
        if self.REML:
            objective += float(2.0 * np.log(np.diagonal(RX)).sum())
        return objective + self.constant, beta, RX, pwrss

    def search_value(self, x: FloatArray) -> float:
        """The objective at x."""
        at = self.conditionals(x)
        r = self._residuals(at.B, self.t)
        V = self.within + r.T @ (r / at.F[:, None])
        return self._least_squares(V, float(np.log(at.F).sum() + np.log(self.D).sum()))[0]

    def search(self, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The objective, its gradient (2,) and its expected Hessian (2, 2) at x = (tau, z)."""
        p1, m = self.t.shape[1], self.neighbours.shape[1]
        V, dV = self.within.copy(), np.zeros((2, p1, p1))
        log_determinant, trace, traces = float(np.log(self.D).sum()), np.zeros(2), np.zeros((2, 2))
        moves = []
        for rows in self._chunks():
            S, *dS, together = self._systems(rows, float(x[0]), self.field.lscale(x[1]))
            inner = np.linalg.inv(S[:, :m, :m])
            B = np.einsum("cij,cj->ci", inner, S[:, :m, m])
            F = S[:, m, m] - np.einsum("cm,cm->c", B, S[:, :m, m])
            near = self.t[together[:, :m]]
            r = self.t[rows] - np.einsum("cm,cmj->cj", B, near)
            V += r.T @ (r / F[:, None])
            log_determinant += float(np.log(F).sum())
            slopes, shifts = np.empty((2, len(F))), np.empty((2, *r.shape))
            for a, d in enumerate(dS):
                BdS = np.einsum("cij,cj->ci", d[:, :m, :m], B)
                dB = np.einsum("cij,cj->ci", inner, d[:, :m, m] - BdS)
                dF = d[:, m, m] - 2.0 * np.einsum("cm,cm->c", B, d[:, :m, m]) + np.einsum("cm,cm->c", B, BdS)
                slopes[a], shifts[a] = dF / F, -np.einsum("cm,cmj->cj", dB, near)
                half = shifts[a].T @ (r / F[:, None])
                dV[a] += half + half.T - r.T @ (r * (slopes[a] / F)[:, None])
            trace += slopes.sum(axis=1)
            traces += slopes @ slopes.T
            moves.append((shifts, F))
        value, beta, RX, pwrss = self._least_squares(V, log_determinant)
        u = np.append(-beta, 1.0)
        df = self.design.n - self.design.p if self.REML else self.design.n
        gradient = trace + df / pwrss * np.einsum("i,aij,j->a", u, dV, u)
        if self.REML and self.design.p:
            inverse = np.linalg.inv(RX @ RX.T)
            gradient += np.einsum("ij,aji->a", inverse, dV[:, :-1, :-1])
        H = traces - np.outer(trace, trace) / df
        for shifts, F in moves:
            moved = shifts @ u
            H += 2.0 * df / pwrss * (moved / F) @ moved.T
        first, second = self.field.slopes(x[1])
        J = np.array([1.0, first])
        H = H * np.outer(J, J)
        H[1, 1] += second * gradient[1]
        return value, gradient * J, H

    def at(self, x: FloatArray) -> tuple[FloatArray, Conditionals]:
        """All at x that does not depend on the response, for :meth:`modes`."""
        return x, self.conditionals(x)

    def modes(self, at: tuple[FloatArray, Conditionals]) -> Modes:
        """Fixed effects and conditional modes of the present response, in the user's columns."""
        found = self.answers(at)
        return Modes(self.working.beta0 + self.working.transform @ found.beta, found.pwrss, (found.field,))

    def answers(self, at: tuple[FloatArray, Conditionals]) -> Answers:
        """The least-squares answers of the present response."""
        x, given = at
        r = self._residuals(given.B, self.t)
        V = self.within + r.T @ (r / given.F[:, None])
        _, beta, RX, pwrss = self._least_squares(V, 0.0)
        u = np.append(-beta, 1.0)
        q, m = self.neighbours.shape
        known = self.neighbours >= 0
        at_row = np.broadcast_to(np.arange(q)[:, None], (q, m))[known]
        B = sp.csr_array((given.B[known], (at_row, self.neighbours[known])), shape=(q, q))
        half = (r @ u) / given.F
        own = half - B.T @ half  # S^-1 t u
        score = np.zeros((len(self.field.locations), 1))
        score[self.order, 0] = own
        field = np.zeros_like(score)
        field[self.order, 0] = self.t @ u - own / self.D  # K = S - D^-1
        empty = np.flatnonzero(self._place < 0)
        if len(empty):
            tau, lscale = float(x[0]), self.field.lscale(x[1])
            field[empty] = field_between(self.field, tau, lscale, self.field.locations[empty], score)
        return Answers(beta, pwrss, field, score, RX)
