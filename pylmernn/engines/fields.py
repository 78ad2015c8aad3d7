"""Gaussian processes of a model as one covariance matrix over all their locations, and its derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance.kernels import correlation, correlation_and_slope
from pylmernn.formula.design import RandomTerm

FloatArray = NDArray[np.float64]

CHUNK = 4_000_000  # entries of a kernel computed at a time
SHORT, LONG = 0.02, 5.0  # the reach, in distances between neighbours and in diameters of the map


@dataclass(frozen=True)
class Field:
    """One ``gp(...)`` term.

    Attributes
    ----------
    term : int
        Its place among the random terms of the design.
    cov : str
        A name in :mod:`pylmernn.covariance.kernels`.
    locations : ndarray, shape (q, k)
    start : int
        Its first location among those of all fields.
    reach : (float, float)
        Length-scales outside cannot be told from 0 and infinity at these locations.

    The search moves in z with ``log(length-scale) = middle + half sin(z)``, so that an end of the reach is an ordinary
    stationary point.
    """

    term: int
    cov: str
    locations: FloatArray
    start: int
    reach: tuple[float, float]

    @property
    def at(self) -> slice:
        """Its locations among those of all fields."""
        return slice(self.start, self.start + len(self.locations))

    @property
    def _middle_and_half(self) -> tuple[float, float]:
        low, high = math.log(self.reach[0]), math.log(self.reach[1])
        return 0.5 * (low + high), 0.5 * (high - low)

    def lscale(self, z: float) -> float:
        """The length-scale at z."""
        middle, half = self._middle_and_half
        return math.exp(middle + half * math.sin(z))

    def z(self, lscale: float) -> float:
        """The z of a length-scale; those out of reach count as its ends."""
        middle, half = self._middle_and_half
        return math.asin(min(1.0, max(-1.0, (math.log(lscale) - middle) / half)))

    def slopes(self, z: float) -> tuple[float, float]:
        """First and second derivative of the log length-scale in z."""
        half = self._middle_and_half[1]
        return half * math.cos(z), -half * math.sin(z)

    def at_an_end(self, lscale: float) -> bool:
        """Whether a length-scale is at an end of the reach."""
        return not 1.01 * self.reach[0] < lscale < 0.99 * self.reach[1]


def fields_of(random: Sequence[RandomTerm]) -> tuple[Field, ...]:
    """The processes among the random terms, their locations numbered one field after the other."""
    out: list[Field] = []
    start = 0
    for index, term in enumerate(random):
        if term.covariance == "gp":
            assert term.locations is not None
            out.append(Field(index, term.options["cov"], term.locations, start, _reach(term.locations)))
            start += len(term.locations)
    return tuple(out)


def _reach(locations: FloatArray) -> tuple[float, float]:
    return SHORT * spacing(locations), LONG * float(np.linalg.norm(np.ptp(locations, axis=0)))


def spacing(locations: FloatArray) -> float:
    """Median distance of a location (q, k) to its nearest neighbour."""
    return float(np.median(nearest(locations, locations, 2)[0][:, 1]))


def distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """Euclidean distances (r, q) of the rows of a (r, k) and b (q, k)."""
    from scipy.spatial.distance import cdist  # slow to import, and only fields need it

    return np.asarray(cdist(a, b))


def nearest(points: FloatArray, queries: FloatArray, m: int) -> tuple[FloatArray, NDArray[np.intp]]:
    """Distances and places (r, m) of the m points nearest to each query (r, k)."""
    from scipy.spatial import KDTree

    found = KDTree(points).query(queries, k=m)
    shape = (len(queries), m)
    return np.asarray(found[0], dtype=np.float64).reshape(shape), np.asarray(found[1], dtype=np.intp).reshape(shape)


def _chunks(q: int) -> Iterator[slice]:
    size = max(1, CHUNK // q)
    for start in range(0, q, size):
        yield slice(start, min(start + size, q))


def fill_covariance(field: Field, tau: float, lscale: float, out: FloatArray) -> None:
    """Write ``tau^2 R(lscale)`` of a field into out (q, q)."""
    for rows in _chunks(len(field.locations)):
        distance = distances(field.locations[rows], field.locations)
        out[rows] = tau**2 * correlation(field.cov, distance, lscale)


def multiply(field: Field, tau: float, lscale: float, B: FloatArray) -> FloatArray:
    """``tau^2 R(lscale) B`` for B (q, m), without keeping the matrix."""
    return field_between(field, tau, lscale, field.locations, B)


def field_between(field: Field, tau: float, lscale: float, new: FloatArray, B: FloatArray) -> FloatArray:
    """``tau^2 R(new, locations) B``, (r, m), for new locations (r, k) and B (q, m)."""
    out = np.empty((len(new), B.shape[1]))
    size = max(1, CHUNK // len(field.locations))
    for start in range(0, len(new), size):
        rows = slice(start, start + size)
        out[rows] = correlation(field.cov, distances(new[rows], field.locations), lscale) @ B
    return tau**2 * out


@dataclass(frozen=True)
class FieldDerivatives:
    """What the gradient needs of one field at tau and length-scale.

    Attributes
    ----------
    trace_tau, trace_lscale : float
        ``tr(Q dK)`` for the derivatives of K in tau and in log(length-scale).
    columns : ndarray, shape (q, 2)
        ``dK s`` for the same two.
    """

    trace_tau: float
    trace_lscale: float
    columns: FloatArray


def derivatives(field: Field, tau: float, lscale: float, Q: FloatArray, s: FloatArray) -> FieldDerivatives:
    """Traces with a symmetric Q (q, q) and products with s (q,), in one pass over the kernel."""
    value_trace = slope_trace = 0.0
    columns = np.empty((len(s), 2))
    for rows in _chunks(len(s)):
        value, slope = correlation_and_slope(field.cov, distances(field.locations[rows], field.locations), lscale)
        value_trace += float(np.einsum("ij,ij->", Q[rows], value))
        slope_trace += float(np.einsum("ij,ij->", Q[rows], slope))
        columns[rows, 0], columns[rows, 1] = value @ s, slope @ s
    columns *= np.array([2.0 * tau, tau**2])
    return FieldDerivatives(2.0 * tau * value_trace, tau**2 * slope_trace, columns)


def best_of_grid(field: Field, value: Callable[[FloatArray], float]) -> FloatArray:
    """The tau and z (2,) of the lowest value among 21, from neighbours to half the map."""
    best = (np.inf, np.zeros(2))
    for lscale in np.geomspace(0.3 / SHORT * field.reach[0], 0.5 / LONG * field.reach[1], 7):
        for tau in (0.3, 1.0, 3.0):
            x = np.array([tau, field.z(lscale)])
            at = value(x)
            if at < best[0]:
                best = (at, x)
    return best[1]
