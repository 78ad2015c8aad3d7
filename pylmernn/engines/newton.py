"""A trust-region Newton method for smooth functions of a few parameters with exact gradients and approximate Hessians.

What the approximate Hessian misses is learned from the gradients of successive points (a symmetric rank-one secant
correction), so convergence is fast whether the data are many or few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Objective = Callable[[FloatArray], tuple[float, FloatArray, FloatArray]]


@dataclass(frozen=True)
class Minimum:
    """Where the search ended.

    Attributes
    ----------
    x : ndarray, shape (m,)
    value : float
    gradient : ndarray, shape (m,)
    predicted : float
        Decrease that a further step still promises.
    n_evaluations : int
    message : str
        Empty where the tolerance was reached.
    """

    x: FloatArray
    value: float
    gradient: FloatArray
    predicted: float
    n_evaluations: int
    message: str


def minimize(
    objective: Objective,
    start: FloatArray,
    tolerance: float = 1e-9,
    max_evaluations: int = 200,
    callback: Callable[[int, float], None] | None = None,
    noise: float = 0.0,
) -> Minimum:
    """Minimize ``objective(x) -> (value, gradient, approximate Hessian)``.

    Parameters
    ----------
    objective : callable
        May raise numpy.linalg.LinAlgError where x is out of reach: the step is then shortened.
    start : ndarray, shape (m,)
    tolerance : float
        Stop when the next step is predicted to lower the value by less.
    max_evaluations : int
    callback : callable, optional
        Called with the number of evaluations and the best value.
    noise : float, default 0
        Error of the value, beyond rounding, that no step should be judged by.
    """
    x = np.asarray(start, dtype=np.float64).copy()
    value, gradient, hessian = objective(x)
    evaluations, radius, message = 1, max(1.0, float(np.linalg.norm(x))), ""
    missed = np.zeros_like(hessian)
    while True:
        step, predicted = _step(hessian + missed, gradient, radius)
        if predicted < tolerance:
            break
        if evaluations >= max_evaluations:
            message = f"stopped after {evaluations} evaluations"
            break
        try:
            new_value, new_gradient, new_hessian = objective(x + step)
        except np.linalg.LinAlgError:
            new_value, new_gradient, new_hessian = np.inf, gradient, hessian
        except KeyboardInterrupt:
            message = f"interrupted after {evaluations} evaluations; these are the best estimates so far"
            break
        evaluations += 1
        ratio = (value - new_value) / predicted
        length = float(np.linalg.norm(step))
        if np.isfinite(new_value):
            rest = new_gradient - gradient - (0.5 * (hessian + new_hessian) + missed) @ step
            curvature = float(rest @ step)
            if abs(curvature) > 1e-8 * float(np.linalg.norm(rest)) * length and length > 0:
                missed = missed + np.outer(rest, rest) / curvature
        if ratio < 0.25:
            radius = 0.25 * length
        elif ratio > 0.75:
            radius = max(radius, 2.5 * length)
        noise = max(noise, 1e-14 * max(1.0, abs(value)))
        if new_value <= value + noise and (ratio > 1e-4 or predicted < 100 * noise):
            x, value, gradient, hessian = x + step, new_value, new_gradient, new_hessian
        elif predicted < 1e4 * noise:
            break  # rounding decides now
        if callback is not None:
            callback(evaluations, value)
        if radius < 1e-12 * max(1.0, float(np.linalg.norm(x))):
            message = "the steps became too short"
            break
    return Minimum(x, value, gradient, predicted, evaluations, message)


def _step(hessian: FloatArray, gradient: FloatArray, radius: float) -> tuple[FloatArray, float]:
    """Newton step in the metric of the absolute Hessian, no longer than radius, and the decrease it promises."""
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    size = np.abs(values)
    size = np.maximum(size, 1e-8 * max(float(size.max()), 1e-30))
    along = vectors.T @ gradient
    shift = 0.0
    step = -along / size
    while np.linalg.norm(step) > radius * (1 + 1e-9):  # Hebden's iteration for the shift
        norm = float(np.linalg.norm(step))
        slope = -float(np.sum(step**2 / (size + shift))) / norm
        shift = max(shift + (norm / radius) * (radius - norm) / slope, 1e-12)
        step = -along / (size + shift)
    predicted = -float(along @ step + 0.5 * step @ (size * step))
    return vectors @ step, predicted
