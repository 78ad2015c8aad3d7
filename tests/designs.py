"""Small designs of every shape that the engine distinguishes."""

from __future__ import annotations

import numpy as np

from pylmernn.formula.design import Design, RandomTerm, make_design


def term(name, codes, *columns, covariance="us") -> RandomTerm:
    """A random term from integer codes; every level must occur."""
    levels, codes = np.unique(codes, return_inverse=True)
    names = tuple(f"c{i}" for i in range(len(columns)))
    return RandomTerm(name, codes.astype(np.int32), levels.astype(str), np.column_stack(columns), names, covariance)


def random_design(shape: str, seed: int = 0, n: int = 400) -> Design:
    """A random design; ``shape`` is a key of ``SHAPES``."""
    rng = np.random.default_rng(seed)
    one, x, z = np.ones(n), rng.normal(size=n), rng.normal(size=n)
    a, b, c = rng.integers(0, 40, n), rng.integers(0, 12, n), rng.integers(0, 5, n)
    nested = b // 3
    X, names = np.column_stack([one, x, z + 1000.0]), ["(Intercept)", "x", "z"]
    y = 3.0 + 0.5 * x + rng.normal(size=40)[a] + rng.normal(size=12)[b] * (1 + x) + rng.normal(size=n)
    weights = rng.uniform(0.5, 2.0, n) if "weighted" in shape else None
    offset = z if "offset" in shape else None
    terms = {
        "one": [term("a", a, one)],
        "slope": [term("a", a, one, x)],
        "three_columns": [term("b", b, one, x, z)],
        "double_bar": [term("a", a, one), term("a", a, x)],
        "diagonal": [term("a", a, one, x, covariance="diag"), term("b", b, one)],
        "crossed": [term("a", a, one), term("b", b, one)],
        "crossed_weighted_offset": [term("a", a, one), term("b", b, one)],
        "crossed_slopes": [term("a", a, one, x), term("b", b, one, x), term("c", c, one)],
        "crossed_slopes_weighted": [term("a", a, one), term("b", b, one, x), term("c", c, one, z)],
        "nested": [term("leaf", a * 12 + b, one), term("b", b, one), term("top", nested, one, x)],
        "largest_last": [term("c", c, one, x, z), term("b", b, one)],
    }[shape]
    if shape == "nested":  # leaves inside b, b inside top; the tops share nothing
        terms = [term("leaf", b * 6 + rng.integers(0, 6, n), one), term("b", b, one), term("top", nested, one, x)]
    return make_design(y, X, names, terms, weights, offset)


def field_design(bars=(12, 7), fields=1, weighted=False, cov="matern32", n=300, q=40, seed=0):
    """Fields over q locations, bars of which the first has a slope."""
    rng = np.random.default_rng(seed)
    terms = []
    for f in range(fields):
        codes = rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]).astype(np.int32)
        places = rng.uniform(-2, 2, (q, 2))
        terms.append(RandomTerm(f"gp{f}", codes, np.arange(q), np.ones((n, 1)), (cov,), "gp", "", places, {"cov": cov}))
    for k, levels in enumerate(bars):
        codes = np.r_[np.arange(levels), rng.integers(0, levels, n - levels)].astype(np.int32)
        columns = np.column_stack([np.ones(n), rng.normal(size=n)])[:, : 2 if k == 0 else 1]
        terms.append(RandomTerm(f"g{k}", codes, np.arange(levels), columns, ("(Intercept)", "x")[: columns.shape[1]]))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = 2 * rng.normal(size=n) + terms[0].locations[terms[0].codes, 0]
    return make_design(y, X, ("a", "b"), terms, rng.uniform(0.5, 2, n) if weighted else None)


SHAPES = [
    "one",
    "slope",
    "three_columns",
    "double_bar",
    "diagonal",
    "crossed",
    "crossed_weighted_offset",
    "crossed_slopes",
    "crossed_slopes_weighted",
    "nested",
    "largest_last",
]
