"""Responses of every family, shared by the tests."""

from __future__ import annotations

import numpy as np

from pylmernn.families import FAMILIES, read_family

NAMES = [name for name, family in FAMILIES.items() if not family.categorical]
EVERY = [f"{name}({link})" for name in NAMES for link in FAMILIES[name].links]


def example(text, n=40):
    """A family with responses, weights, linear predictors and a dispersion."""
    rng, family = np.random.default_rng(3), read_family(text)
    eta = rng.uniform(0.3, 2.0, n)
    phi = 0.7 if family.has_dispersion else 1.0
    weights = rng.integers(1, 5, n).astype(float)
    draw = {
        "binomial": lambda: rng.integers(0, weights + 1) / weights,
        "poisson": lambda: rng.poisson(2.0, n).astype(float),
        "negative.binomial": lambda: rng.poisson(2.0, n).astype(float),
        "beta": lambda: rng.beta(2.0, 3.0, n),
    }.get(family.name, lambda: rng.gamma(2.0, 1.0, n))
    return family, draw(), weights, eta, phi
