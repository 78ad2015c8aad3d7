"""B-splines and natural cubic splines with the bases of R's ``bs`` and ``ns`` (package splines)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray


class SplineState(TypedDict):
    """What new data need: the knots, and which basis."""

    knots: list[float]
    boundary: list[float]
    degree: int
    intercept: bool
    natural: bool


def fit_spline(
    x: FloatArray,
    df: int | None,
    knots: Sequence[float] | None,
    degree: int,
    intercept: bool,
    boundary: Sequence[float] | None,
    natural: bool,
    where: str,
) -> SplineState:
    """Knots of a spline: those given, or at quantiles of x so that the basis has ``df`` columns.

    Parameters
    ----------
    x : array, shape (n,), finite
    df : int, optional
        Number of columns; the default is the smallest.
    knots, boundary : sequences of numbers, optional
        Inner knots, and the two outer ones (the range of x).
    degree : int
        Of the pieces; natural splines are cubic.
    intercept : bool
        Keep the column that makes the basis sum to one.
    natural : bool
        Linear beyond the boundary knots.
    where : str
        The call, for messages.
    """
    if len(x) == 0:
        raise DesignError(f"'{where}' has no values.")
    if degree < 1:
        raise DesignError(f"the degree in '{where}' must be at least 1.")
    outer = sorted(float(b) for b in boundary) if boundary is not None else [float(x.min()), float(x.max())]
    if len(outer) != 2 or outer[0] == outer[1]:
        raise DesignError(f"'{where}' needs two different boundary knots: is the variable constant?")
    if knots is None:
        smallest = 1 + intercept if natural else degree + intercept
        n_inner = (df if df is not None else smallest) - smallest
        if n_inner < 0:
            raise DesignError(f"df in '{where}' must be at least {smallest}.")
        inside = x[(x >= outer[0]) & (x <= outer[1])]
        knots = np.quantile(inside, np.linspace(0, 1, n_inner + 2)[1:-1]).tolist() if n_inner else []
    return {
        "knots": sorted(float(k) for k in knots),
        "boundary": outer,
        "degree": 3 if natural else degree,
        "intercept": bool(intercept),
        "natural": natural,
    }


def spline(x: FloatArray, state: SplineState) -> FloatArray:
    """The basis at x, shape (len(x), columns); rows of NaN where x is not finite."""
    degree, boundary = state["degree"], state["boundary"]
    sequence = np.sort(np.concatenate([np.repeat(boundary, degree + 1), state["knots"]]))
    finite = np.isfinite(x)
    seen = x[finite]
    basis = _natural(seen, sequence, boundary) if state["natural"] else bspline(seen, sequence, degree)
    if not state["intercept"]:
        basis = basis[:, 1:]
    if state["natural"]:
        basis = _constrain(basis, sequence, boundary, state["intercept"])
    out = np.full((len(x), basis.shape[1]), np.nan, order="F")
    out[finite] = basis
    return out


def _natural(x: FloatArray, sequence: FloatArray, boundary: list[float]) -> FloatArray:
    """Cubic B-splines that go on as straight lines beyond the boundary knots."""
    basis = bspline(np.clip(x, boundary[0], boundary[1]), sequence, 3)
    for edge, outside in ((boundary[0], x < boundary[0]), (boundary[1], x > boundary[1])):
        if outside.any():
            slope = bspline(np.array([edge]), sequence, 3, derivative=1)
            basis[outside] += np.outer(x[outside] - edge, slope[0])
    return basis


def _constrain(basis: FloatArray, sequence: FloatArray, boundary: list[float], intercept: bool) -> FloatArray:
    """Coordinates in the null space of the second derivatives at both ends, by the Householder QR that R uses."""
    curvature = bspline(np.array(boundary), sequence, 3, derivative=2)
    if not intercept:
        curvature = curvature[:, 1:]
    rotation, _ = np.linalg.qr(curvature.T, mode="complete")
    return basis @ rotation[:, 2:]


def bspline(x: FloatArray, sequence: FloatArray, degree: int, derivative: int = 0) -> FloatArray:
    """All B-splines of a knot sequence at x, or a derivative, shape (len(x), len(sequence) - degree - 1).

    Beyond the outer knots the end pieces go on as polynomials.
    """
    return _bspline(x, sequence, degree, derivative, degree)


def _bspline(x: FloatArray, t: FloatArray, degree: int, derivative: int, multiplicity: int) -> FloatArray:
    n_basis = len(t) - degree - 1
    if derivative:
        lower = _bspline(x, t, degree - 1, derivative - 1, multiplicity)
        width = t[degree:] - t[:-degree]  # (n_basis + 1,); empty supports have no spline below them
        factor = np.divide(degree, width, out=np.zeros_like(width), where=width > 0)
        return lower[:, :-1] * factor[:-1] - lower[:, 1:] * factor[1:]
    first, last = multiplicity, len(t) - multiplicity - 2
    at = np.clip(np.searchsorted(t, x, side="right") - 1, first, last)
    local = np.ones((len(x), 1))
    for j in range(1, degree + 1):  # Cox-de Boor on the splines that are not zero, one degree at a time
        wider = np.zeros((len(x), j + 1))
        for r in range(j):
            low, high = t[at + r + 1 - j], t[at + r + 1]
            share = local[:, r] / (high - low)
            wider[:, r] += (high - x) * share
            wider[:, r + 1] += (x - low) * share
        local = wider
    basis = np.zeros((len(x), n_basis))
    basis[np.arange(len(x))[:, None], at[:, None] + np.arange(-degree, 1)] = local
    return basis
