"""Simulated classes: the binary data of LMMNN and the multi-class data of MC-GMENN, as their authors' code makes them.

Binary data is one logit, ``logit P(y = 1) = f + sum_l b_l``; data of C classes has C logits, ``P(y = c)`` being the
softmax of ``f_c + sum_l b_lc``. As published, rows are sorted by level in the same order for every factor, which makes
factors nearly nested (``aligned=True``); ``aligned=False`` draws every factor on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import generators as lmmnn
import numpy as np
import pandas as pd
from generators import FloatArray
from scipy.special import expit, softmax


@dataclass(frozen=True)
class Simulation:
    """One simulated data set and its truth, with K logits: one where there are two classes, else one a class.

    Attributes
    ----------
    train, test : DataFrame
        Columns X0, X1, ..., level numbers z0, z1, ..., and y: 0 and 1, or a categorical of class names.
    f_train, f_test : ndarray, shape (n, K)
        The true logits without random effects.
    b : tuple of ndarray, shape (q, K)
        The effects drawn, by factor.
    variances : ndarray, shape (L, K)
        Of the effects' distribution.
    classes : tuple of str
    predictors : tuple of str
    """

    train: pd.DataFrame
    test: pd.DataFrame
    f_train: FloatArray
    f_test: FloatArray
    b: tuple[FloatArray, ...]
    variances: FloatArray
    classes: tuple[str, ...]
    predictors: tuple[str, ...]

    @property
    def factors(self) -> tuple[str, ...]:
        """Columns of level numbers."""
        return tuple(f"z{k}" for k in range(len(self.b)))

    @property
    def drawn(self) -> FloatArray:
        """Variances of the effects that were drawn, (L, K)."""
        return np.array([np.var(b, axis=0) for b in self.b])

    def codes(self, test: bool = False) -> np.ndarray:
        """Number of each row's class, (n,)."""
        y = (self.test if test else self.train)["y"]
        return np.asarray(y.cat.codes if len(self.classes) > 2 else y, dtype=np.int64)

    def effect(self, b: tuple[FloatArray, ...], test: bool = False) -> FloatArray:
        """Sums of effects ``b`` at the rows, (n, K)."""
        rows = self.test if test else self.train
        return sum(
            (effect[rows[name].to_numpy()] for name, effect in zip(self.factors, b, strict=True)), np.zeros((1, 1))
        )


def binary(
    sizes: tuple[int, ...], variances: tuple[float, ...], seed: int, n: int = 100_000, aligned: bool = True
) -> Simulation:
    """Two classes, ten inputs: LMMNN's "glmm" mode for one factor, and the same with several."""
    made = lmmnn.binary(sizes, variances, seed, n, aligned)
    return Simulation(
        made.train,
        made.test,
        made.f_train[:, None],
        made.f_test[:, None],
        tuple(b[:, None] for b in made.b),
        np.array([[variance] for _, variance in made.intercepts]),
        ("0", "1"),
        lmmnn.PREDICTORS,
    )


def classes(
    sizes: tuple[int, ...],
    variances: FloatArray,
    seed: int,
    n: int = 100_000,
    aligned: bool = True,
    n_predictors: int = 10,
) -> Simulation:
    """Several classes (MC-GMENN, section 3.2, as its code has it).

    ``f_c = s_c cos(s_c) + 2 X0 X1 u_c`` with ``s_c = 1 + X beta_c``; X is uniform on (-1, 1), beta and u on (0, 1).
    ``variances`` (L, C) are by factor and class.
    """
    rng = np.random.default_rng(seed)
    n_classes = variances.shape[1]
    X = rng.uniform(-1, 1, (n, n_predictors))
    s = 1 + X @ rng.uniform(0, 1, (n_predictors, n_classes))
    f = s * np.cos(s) + 2 * (X[:, 0] * X[:, 1])[:, None] * rng.uniform(0, 1, n_classes)
    names = tuple(f"X{j}" for j in range(n_predictors))
    columns, eta, effects = {}, f.copy(), []
    for k, (q, variance) in enumerate(zip(sizes, variances, strict=True)):
        levels = lmmnn._levels(rng, q, n, aligned)
        b = np.sqrt(variance) * rng.normal(size=(q, n_classes))
        eta += b[levels]
        columns[f"z{k}"] = levels
        effects.append(b)
    y = np.argmax(eta + rng.gumbel(size=eta.shape), axis=1)  # a draw from the softmax of eta
    labels = tuple(f"c{c:0{len(str(n_classes - 1))}d}" for c in range(n_classes))
    data = pd.DataFrame(X, columns=list(names)).assign(**columns, y=pd.Categorical.from_codes(y, list(labels)))
    train, test = lmmnn._random_split(rng, n)
    return Simulation(
        data.iloc[train].reset_index(drop=True),
        data.iloc[test].reset_index(drop=True),
        f[train],
        f[test],
        tuple(effects),
        variances,
        labels,
        names,
    )


def probabilities(eta: FloatArray) -> FloatArray:
    """Of all classes, (n, C), from logits (n, K)."""
    if eta.shape[1] > 1:
        return softmax(eta, axis=1)
    p = expit(eta)
    return np.hstack([1 - p, p])
