"""Simulated data of Simchoni & Rosset (2023), section 5.1, as their code makes them.

The paper's text leaves out two things that its results need: the constant 1 inside ``s cos(s)``, and level sizes drawn
with weights Poisson(3) + 1, sorted. Both are here. Their rows are sorted by level in the same order for every factor,
which makes several factors nearly nested (``aligned=True``); ``aligned=False`` draws every factor on its own instead,
so that they are truly crossed. The residual variance is 1 and there are ten uniform predictors throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

PREDICTORS = tuple(f"X{j}" for j in range(10))


@dataclass(frozen=True)
class Simulation:
    """One simulated data set and its truth.

    Attributes
    ----------
    train, test : DataFrame
        Columns X0 to X9, level numbers z0, z1, ..., then t (longitudinal) or D1 and D2 (spatial), and y.
    f_train, f_test : ndarray
        The true mean without random effects.
    b : tuple of ndarray
        The effects drawn, by factor: (q,), or (q, 3) for slopes, or the field at the q locations.
    intercepts : tuple of (str, float)
        Columns that carry random intercepts, with the variance of a level's effect.
    slopes : ndarray, shape (3, 3), optional
        Covariance of the effects of 1, t and t squared by z0.
    field : (float, float), optional
        Variance and squared length-scale of the field over D1 and D2.
    locations : ndarray, shape (q, 2), optional
        Coordinates of the locations that z0 numbers.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    f_train: FloatArray
    f_test: FloatArray
    b: tuple[FloatArray, ...]
    intercepts: tuple[tuple[str, float], ...] = ()
    slopes: FloatArray | None = None
    field: tuple[float, float] | None = None
    locations: FloatArray | None = None


def categorical(
    sizes: tuple[int, ...],
    variances: tuple[float, ...],
    seed: int,
    n: int = 100_000,
    aligned: bool = True,
    embedding: bool = False,
) -> Simulation:
    """Random intercepts of one or several factors (Tables 1 and 2).

    With ``embedding`` the effects of a factor are g(Z) b = Z W b: W (q, q / 10) uniform on (-1, 1) and b normal, so
    that a level's effect has variance ``variance * (q / 10) / 3``.
    """
    rng = np.random.default_rng(seed)
    frame, f, noise = _predictors(rng, n)
    y, effects, intercepts = _with_intercepts(rng, f + noise, frame, sizes, variances, aligned, embedding)
    train, test = _random_split(rng, n)
    return _simulation(frame, y, f, effects, train, test, intercepts=intercepts)


def binary(
    sizes: tuple[int, ...],
    variances: tuple[float, ...],
    seed: int,
    n: int = 100_000,
    aligned: bool = True,
) -> Simulation:
    """A response of 0 and 1 with random intercepts on the logit scale (Tables 12, 19 and 25).

    ``y ~ Bernoulli(1 / (1 + exp(-(f + Z b))))``; the paper has one factor.
    """
    rng = np.random.default_rng(seed)
    frame, f, _ = _predictors(rng, n)
    eta, effects, intercepts = _with_intercepts(rng, f, frame, sizes, variances, aligned)
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int64)
    train, test = _random_split(rng, n)
    return _simulation(frame, y, f, effects, train, test, intercepts=intercepts)


def longitudinal(
    q: int,
    variances: tuple[float, float, float],
    rho: float,
    seed: int,
    n: int = 100_000,
    future: bool = False,
) -> Simulation:
    """Repeated measures with random effects of 1, t and t squared (Table 3).

    A subject with n_j rows is seen at times 0, 1, ..., n_j - 1, divided by the longest subject's last. ``rho``
    correlates the intercept with both other effects; these two are uncorrelated. The mean holds t + t squared besides
    f. ``future`` tests on the latest fifth of the rows instead of a random fifth.
    """
    rng = np.random.default_rng(seed)
    frame, f, noise = _predictors(rng, n)
    levels = _levels(rng, q, n, aligned=True)
    count = np.bincount(levels, minlength=q)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    t = (np.arange(n) - first[levels]) / (count.max() - 1)
    sd = np.sqrt(np.asarray(variances))
    correlation = np.array([[1.0, rho, rho], [rho, 1.0, 0.0], [rho, 0.0, 1.0]])
    covariance = correlation * np.outer(sd, sd)
    b = rng.multivariate_normal(np.zeros(3), covariance, size=q)
    powers = np.column_stack([np.ones(n), t, t**2])
    mean = f + t + t**2
    y = mean + np.sum(powers * b[levels], axis=1) + noise
    frame |= {"z0": levels, "t": t}
    if future:
        order = np.argsort(t, kind="stable")
        train, test = order[: int(0.8 * n)], order[int(0.8 * n) :]
    else:
        train, test = _random_split(rng, n)
    return _simulation(frame, y, mean, (b,), train, test, slopes=covariance)


def spatial(q: int, variances: tuple[float, float], seed: int, n: int = 100_000) -> Simulation:
    """A Gaussian field over q places in (-10, 10) x (-10, 10), each measured several times (Table 4).

    ``variances`` are s0 and s1 of the covariance ``s0 exp(-d^2 / (2 s1))``: the length-scale is the root of s1.
    """
    rng = np.random.default_rng(seed)
    frame, f, noise = _predictors(rng, n)
    levels = _levels(rng, q, n, aligned=True)
    locations, b = _field(rng, q, variances)
    frame |= {"z0": levels, "D1": locations[levels, 0], "D2": locations[levels, 1]}
    train, test = _random_split(rng, n)
    y = f + b[levels] + noise
    return _simulation(frame, y, f, (b,), train, test, field=variances, locations=locations)


def spatial_categorical(
    sizes: tuple[int, int, int],
    variances: tuple[float, float, float, float],
    seed: int,
    n: int = 100_000,
    aligned: bool = True,
) -> Simulation:
    """A field over places, z0, and two factors, z1 and z2 (Table 5).

    ``sizes`` are the numbers of places and of levels; ``variances`` those of the two factors, then s0 and s1 of the
    field as in :func:`spatial`.
    """
    rng = np.random.default_rng(seed)
    frame, f, noise = _predictors(rng, n)
    places = _levels(rng, sizes[0], n, aligned=True)
    locations, b = _field(rng, sizes[0], variances[2:])
    y, effects, intercepts = f + b[places] + noise, [b], []
    frame |= {"z0": places, "D1": locations[places, 0], "D2": locations[places, 1]}
    for k in (1, 2):
        levels = _levels(rng, sizes[k], n, aligned)
        effect = np.sqrt(variances[k - 1]) * rng.normal(size=sizes[k])
        y = y + effect[levels]
        frame[f"z{k}"] = levels
        effects.append(effect)
        intercepts.append((f"z{k}", variances[k - 1]))
    train, test = _random_split(rng, n)
    return _simulation(
        frame, y, f, tuple(effects), train, test, tuple(intercepts), field=variances[2:], locations=locations
    )


def kernel(a: FloatArray, b: FloatArray, variances: tuple[float, float]) -> FloatArray:
    """Covariance ``s0 exp(-d^2 / (2 s1))`` between places a (m, 2) and b (q, 2): shape (m, q)."""
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * (a @ b.T)
    np.clip(squared, 0, None, out=squared)
    squared *= -0.5 / variances[1]
    np.exp(squared, out=squared)
    squared *= variances[0]
    return squared


def _predictors(rng: np.random.Generator, n: int) -> tuple[dict[str, NDArray], FloatArray, FloatArray]:
    """Ten uniform columns, the mean f they make (n,) and the noise (n,)."""
    X = rng.uniform(-1, 1, (n, len(PREDICTORS)))
    s = 1 + X.sum(axis=1)
    f = s * np.cos(s) + 2 * X[:, 0] * X[:, 1]
    return {name: X[:, j] for j, name in enumerate(PREDICTORS)}, f, rng.normal(size=n)


def _with_intercepts(
    rng: np.random.Generator,
    values: FloatArray,
    frame: dict[str, NDArray],
    sizes: tuple[int, ...],
    variances: tuple[float, ...],
    aligned: bool,
    embedding: bool = False,
) -> tuple[FloatArray, tuple[FloatArray, ...], tuple[tuple[str, float], ...]]:
    """Values (n,) plus a drawn effect of each factor, the effects, and their variances; ``frame`` gets the levels."""
    effects, intercepts = [], []
    for k, (q, variance) in enumerate(zip(sizes, variances, strict=True)):
        levels = _levels(rng, q, len(values), aligned)
        if embedding:
            dim = q // 10
            W = rng.uniform(-1, 1, (q, dim))
            effect = W @ (np.sqrt(variance) * rng.normal(size=dim))
            intercepts.append((f"z{k}", variance * dim / 3))
        else:
            effect = np.sqrt(variance) * rng.normal(size=q)
            intercepts.append((f"z{k}", variance))
        values = values + effect[levels]
        frame[f"z{k}"] = levels
        effects.append(effect)
    return values, tuple(effects), tuple(intercepts)


def _levels(rng: np.random.Generator, q: int, n: int, aligned: bool) -> IntArray:
    """Level of each row (n,): sizes multinomial with weights Poisson(3) + 1; sorted where aligned."""
    weight = rng.poisson(3, q) + 1.0
    levels = np.repeat(np.arange(q), rng.multinomial(n, weight / weight.sum()))
    if not aligned:
        rng.shuffle(levels)
    return levels


def _field(rng: np.random.Generator, q: int, variances: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Places (q, 2) and a draw of the field there (q,)."""
    from scipy.linalg import cholesky

    locations = rng.uniform(-10, 10, (q, 2))
    covariance = kernel(locations, locations, variances)
    covariance[np.diag_indices(q)] += 1e-8 * variances[0]  # a smooth field is singular in floating point
    root = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
    return locations, root @ rng.normal(size=q)


def _random_split(rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
    order = rng.permutation(n)
    return order[: int(0.8 * n)], order[int(0.8 * n) :]


def _simulation(
    frame: dict[str, NDArray],
    y: NDArray,
    f: FloatArray,
    b: tuple[FloatArray, ...],
    train: IntArray,
    test: IntArray,
    intercepts: tuple[tuple[str, float], ...] = (),
    slopes: FloatArray | None = None,
    field: tuple[float, float] | None = None,
    locations: FloatArray | None = None,
) -> Simulation:
    data = pd.DataFrame(frame).assign(y=y)
    return Simulation(
        data.iloc[train].reset_index(drop=True),
        data.iloc[test].reset_index(drop=True),
        f[train],
        f[test],
        b,
        intercepts,
        slopes,
        field,
        locations,
    )
