"""Simulated data of Simchoni & Rosset (2023), section 4, as their code makes them.

The paper's text leaves out two things that its results need: the constant 1 inside ``s cos(s)``, and level sizes drawn
with weights Poisson(3) + 1, sorted. Both are here. ``aligned=False`` draws every factor on its own instead, so that
several factors are truly crossed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Simulation:
    """One simulated data set.

    Attributes
    ----------
    train, test : DataFrame
        Columns X0 to X9, z0, z1, ..., y.
    f_train, f_test : ndarray
        The true mean without random effects.
    b : tuple of ndarray, shape (q_k,)
        The effects drawn.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    f_train: FloatArray
    f_test: FloatArray
    b: tuple[FloatArray, ...]


def categorical(
    sizes: tuple[int, ...], variances: tuple[float, ...], seed: int, n: int = 100_000, aligned: bool = True
) -> Simulation:
    """Crossed random intercepts (Tables 1 and 2): residual variance 1, ten uniform predictors, 80 to 20 split."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 10))
    s = 1 + X.sum(axis=1)
    f = s * np.cos(s) + 2 * X[:, 0] * X[:, 1]
    y, frame, effects = f + rng.normal(size=n), {f"X{j}": X[:, j] for j in range(10)}, []
    for k, (q, variance) in enumerate(zip(sizes, variances, strict=True)):
        weight = rng.poisson(3, q) + 1.0
        levels = np.repeat(np.arange(q), rng.multinomial(n, weight / weight.sum()))
        if not aligned:
            rng.shuffle(levels)
        b = np.sqrt(variance) * rng.normal(size=q)
        y = y + b[levels]
        frame[f"z{k}"] = levels
        effects.append(b)
    data = pd.DataFrame(frame).assign(y=y)
    order = rng.permutation(n)
    train, test = order[: int(0.8 * n)], order[int(0.8 * n) :]
    return Simulation(
        data.iloc[train].reset_index(drop=True),
        data.iloc[test].reset_index(drop=True),
        f[train],
        f[test],
        tuple(effects),
    )


def oracle_error(simulation: Simulation, variances: tuple[float, ...]) -> float:
    """Test error of the true f, the true variances and the exact conditional modes on the training rows."""
    from pylmernn.engines.profiled import Problem
    from pylmernn.formula import build

    train, test = simulation.train, simulation.test
    bars = " + ".join(f"(1 | z{k})" for k in range(len(variances)))
    design, _ = build(f"r ~ 0 + {bars}", train.assign(r=train["y"] - simulation.f_train))
    problem = Problem(design, REML=False)
    order = [int(term.group[1:]) for term in design.random]
    at = problem.solution(np.sqrt([variances[k] for k in order]))
    prediction = simulation.f_test.copy()
    from pylmernn.engines.pls import by_factor

    modes = by_factor(problem.system, at.b)
    for term, index in zip(design.random, range(len(order)), strict=True):
        b = modes[problem.plan.factor_of(index)][problem.plan.columns(index), 0][0]
        effect = dict(zip(term.levels.astype(int), b, strict=True))
        prediction += test[term.group].map(effect).fillna(0.0).to_numpy()
    return float(np.mean((test["y"] - prediction) ** 2))
