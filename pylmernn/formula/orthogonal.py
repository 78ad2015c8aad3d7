"""Orthogonal polynomials of a variable, as R's ``poly`` and ``contr.poly`` define them."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from pylmernn.formula.design import FloatArray


class PolynomialState(TypedDict):
    """What new data need: the coefficients of the three-term recurrence (Kennedy and Gentle 1980, p. 343)."""

    alpha: list[float]
    norm2: list[float]


def fit_polynomial(x: FloatArray, degree: int) -> PolynomialState:
    """Coefficients of the monic orthogonal polynomials P_0..P_degree on the points x.

    ``P_{k+1} = (x - alpha_k) P_k - norm2_k / norm2_{k-1} P_{k-1}`` with ``norm2_k = sum P_k(x)^2``.

    Parameters
    ----------
    x : array, shape (n,), without missing values
    degree : int, less than the number of distinct points
    """
    center = x.mean()
    z = x - center  # shifting only moves alpha, and keeps the powers small
    before, now = np.zeros_like(z), np.ones_like(z)
    alpha: list[float] = []
    norm2 = [1.0, float(len(z))]
    for k in range(degree):
        alpha.append(float(z @ (now * now)) / norm2[-1])
        ratio = norm2[-1] / norm2[-2] if k else 0.0
        before, now = now, (z - alpha[-1]) * now - ratio * before
        norm2.append(float(now @ now))
    return {"alpha": [a + float(center) for a in alpha], "norm2": norm2}


def polynomial(x: FloatArray, state: PolynomialState) -> FloatArray:
    """The normed polynomials of degree 1, 2, ... at x, shape (len(x), degree); a constant one is left out."""
    alpha, norm2 = state["alpha"], state["norm2"]
    columns = np.empty((len(x), len(alpha)), order="F")
    before, now = np.zeros_like(x), np.ones_like(x)
    for k, a in enumerate(alpha):
        ratio = norm2[k + 1] / norm2[k] if k else 0.0
        before, now = now, (x - a) * now - ratio * before
        columns[:, k] = now / np.sqrt(norm2[k + 2])
    return columns
