"""Likelihood profiles and the intervals they give.

The signed root of the deviance's rise, zeta, is standard normal in large samples (Bates et al. 2015, section 5.1): a
limit is where the zeta of a parameter meets a normal quantile, found by root search and not by interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from pylmernn.covariance import split_theta, structure
from pylmernn.engines import profiled
from pylmernn.engines.estimates import Estimates
from pylmernn.fit.deviance import DevianceSurface, Held, Point
from pylmernn.fit.refit import without_column
from pylmernn.formula.design import Design, DesignError, FloatArray


@dataclass(frozen=True)
class VarianceParameter:
    """A standard deviation (row == column), a correlation, or sigma (term is None).

    Attributes
    ----------
    term : int or None
    row, column : int
    old_name, name : str
        ".sig01" and "sd_(Intercept)|Subject".
    """

    term: int | None
    row: int
    column: int
    old_name: str
    name: str


def variance_parameters(design: Design) -> list[VarianceParameter]:
    """The parameters in lme4's order: by term, lower triangle column by column, sigma last."""
    out: list[VarianceParameter] = []
    for t, term in enumerate(design.random):
        for i, j in zip(*structure(term.covariance).positions(term.width), strict=True):
            a, b = term.column_names[i], term.column_names[j]
            name = f"sd_{a}|{term.group}" if i == j else f"cor_{a}.{b}|{term.group}"
            out.append(VarianceParameter(t, int(i), int(j), f".sig{len(out) + 1:02d}", name))
    return [*out, VarianceParameter(None, 0, 0, ".sigma", "sigma")]


def on_sdcor_scale(design: Design, roots: Sequence[FloatArray], sigma: float) -> FloatArray:
    """The variance parameters as standard deviations, correlations and sigma; NaN for a correlation with nothing."""
    values = []
    for par in variance_parameters(design)[:-1]:
        assert par.term is not None
        M = roots[par.term]
        size = np.sqrt((M**2).sum(axis=1))
        if par.row == par.column:
            values.append(sigma * size[par.row])
        else:
            product = size[par.row] * size[par.column]
            values.append(float(M[par.row] @ M[par.column]) / product if product > 0 else math.nan)
    return np.array([*values, sigma])


class Profiler:
    """The profiles of a model.

    Parameters
    ----------
    design : Design
    estimates : Estimates
        By maximum likelihood.
    """

    def __init__(self, design: Design, estimates: Estimates) -> None:
        self.design, self.estimates = design, estimates
        self.optimum: Point = (split_theta(design.random, estimates.theta), estimates.sigma)
        self.parameters = variance_parameters(design)
        self.at_optimum = np.concatenate([on_sdcor_scale(design, *self.optimum), estimates.beta])
        self.old_names = parameter_names(design, old=True)
        self._surface: DevianceSurface | None = None

    def zeta(self, k: int) -> Callable[[float], float]:
        """The signed root of the rise of the deviance, as a function of parameter k; each search begins at the last."""
        return self._zeta_of_fixed(k - len(self.parameters)) if k >= len(self.parameters) else self._zeta_of_variance(k)

    def _signed(self, k: int, value: float, deviance: float) -> float:
        return math.copysign(math.sqrt(max(deviance - self.estimates.objective, 0.0)), value - self.at_optimum[k])

    def _zeta_of_variance(self, k: int) -> Callable[[float], float]:
        surface = self._surface = self._surface or DevianceSurface(self.design)
        par = self.parameters[k]
        held = Held(self.design, par.term, par.row, par.column)
        last = [self.optimum]

        def zeta(value: float) -> float:
            deviance, last[0] = held.minimum(surface, value, last[0])
            return self._signed(k, value, deviance)

        return zeta

    def _zeta_of_fixed(self, j: int) -> Callable[[float], float]:
        start = [self.estimates.theta]
        k = len(self.parameters) + j

        def zeta(value: float) -> float:
            fit = profiled.fit(without_column(self.design, j, value), REML=False, start=start[0] + 1e-3)
            return self._signed(k, value, fit.objective)

        return zeta

    def step(self, k: int) -> float:
        """A first guess of the standard error."""
        if k >= len(self.parameters):
            j = k - len(self.parameters)
            return self.estimates.sigma * math.sqrt(self.estimates.unscaled_vcov[j, j])
        par = self.parameters[k]
        if par.term is None:
            return self.estimates.sigma / math.sqrt(2 * self.design.n)
        if par.row != par.column:
            return 0.2
        q = self.design.random[par.term].n_levels
        return max(self.at_optimum[k], 0.1 * self.estimates.sigma) / math.sqrt(2 * q)

    def bounds(self, k: int) -> tuple[float, float]:
        """What values a parameter can take."""
        if k >= len(self.parameters):
            return -math.inf, math.inf
        par = self.parameters[k]
        return (-1.0, 1.0) if par.row != par.column else (0.0, math.inf)

    def limit(self, k: int, target: float) -> float:
        """Where zeta of parameter k is ``target``; the bound of the parameter where zeta never gets there."""
        centre, zeta = self.at_optimum[k], self.zeta(k)
        if math.isnan(centre):
            return math.nan
        sign, (low, high) = math.copysign(1.0, target), self.bounds(k)
        bound = low if sign < 0 else high
        if centre == bound:
            return bound
        inner, at_inner, step = centre, 0.0, abs(target) * self.step(k)
        for _ in range(60):
            outer = inner + sign * step
            if sign * (outer - bound) >= 0:  # sigma cannot be zero: come closer by halves
                outer = inner / 2 if k == len(self.parameters) - 1 else bound
            at_outer = zeta(outer)
            if sign * (at_outer - target) >= 0:
                return _crossing(zeta, target, (inner, at_inner), (outer, at_outer))
            if outer == bound:
                return outer
            slope = max(abs(at_outer - at_inner), 1e-8) / abs(outer - inner)
            inner, at_inner, step = outer, at_outer, min(1.2 * abs(target - at_outer) / slope, 3 * abs(outer - centre))
        raise DesignError(
            f"the profile of {self.old_names[k]} never reaches {target:.2f}: use method='boot' or 'Wald'."
        )

    def points(self, k: int, alphamax: float, per_side: int) -> tuple[FloatArray, FloatArray]:
        """The zeta and values of parameter k, from one end of its profile to the other."""
        cutoff = NormalDist().inv_cdf(1 - alphamax / 2)
        ends = [self.limit(k, -cutoff), self.limit(k, cutoff)]
        zeta = self.zeta(k)
        values = np.unique(np.concatenate([
            np.linspace(ends[0], self.at_optimum[k], per_side + 1),
            np.linspace(self.at_optimum[k], ends[1], per_side + 1),
        ]))  # fmt: skip
        middle = int(np.searchsorted(values, self.at_optimum[k]))
        out = np.zeros(len(values))
        for part in (range(middle - 1, -1, -1), range(middle + 1, len(values))):  # outwards, so each start is close
            for i in part:
                out[i] = zeta(float(values[i]))
        return out, values


def _crossing(
    zeta: Callable[[float], float], target: float, inner: tuple[float, float], outer: tuple[float, float]
) -> float:
    """Where zeta is ``target`` between two points on either side: false position, Illinois variant, zeta to 1e-7."""
    (a, fa), (b, fb) = (inner[0], inner[1] - target), (outer[0], outer[1] - target)
    side = 0
    for _ in range(60):
        if abs(fb - fa) < 1e-14:
            break
        v = b - fb * (b - a) / (fb - fa)
        f = zeta(v) - target
        if abs(f) < 1e-7:
            return v
        if (f < 0) == (fb < 0):
            b, fb = v, f
            fa = fa / 2 if side == 1 else fa
            side = 1
        else:
            a, fa = v, f
            fb = fb / 2 if side == -1 else fb
            side = -1
    return (a + b) / 2


def parameter_names(design: Design, old: bool) -> list[str]:
    """Names of all parameters: the variance parameters under their old or new names, then the fixed effects."""
    return [p.old_name if old else p.name for p in variance_parameters(design)] + list(design.fixed_names)


def which(parm: str | Sequence[str] | None, design: Design) -> list[int]:
    """Positions of the named parameters; "theta_" and "beta_" are all variance parameters and all fixed effects."""
    old, new = parameter_names(design, True), parameter_names(design, False)
    if parm is None:
        return list(range(len(old)))
    found: list[int] = []
    m = len(old) - design.p
    for name in [parm] if isinstance(parm, str) else parm:
        if name == "theta_":
            found += range(m)
        elif name == "beta_":
            found += range(m, len(old))
        elif name in old or name in new:
            found.append((new if name in new else old).index(name))
        else:
            raise DesignError(f"there is no parameter '{name}': the parameters are {', '.join(old)}.")
    return found


def profile_limits(profiler: Profiler, chosen: Sequence[int], level: float) -> FloatArray:
    """Profile likelihood limits of the chosen parameters, shape (len(chosen), 2)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return np.array([[profiler.limit(k, -z), profiler.limit(k, z)] for k in chosen]).reshape(-1, 2)


def profile_frame(profiler: Profiler, chosen: Sequence[int], alphamax: float, per_side: int) -> pd.DataFrame:
    """Profiles as rows: columns .par, value, .zeta."""
    parts = []
    for k in chosen:
        if math.isnan(profiler.at_optimum[k]):
            continue
        zeta, values = profiler.points(k, alphamax, per_side)
        parts.append(pd.DataFrame({".par": profiler.old_names[k], "value": values, ".zeta": zeta}))
    return pd.concat(parts, ignore_index=True)
