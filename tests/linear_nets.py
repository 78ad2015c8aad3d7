"""Networks without hidden layers and with given weights, of which everything is known."""

from __future__ import annotations

import dataclasses

import numpy as np

from pylmernn.engines import profiled
from pylmernn.engines.crossfitting import with_networks
from pylmernn.formula.design import NetTerm, RandomTerm, make_design
from pylmernn.mean.networks import Networks, specify

NAMES = ("a", "b", "c")


def linear_fit(weights, n=400, seed=0, learned=None):
    """Design and estimates of ``y = 1 + 2 a - b + b_g + e`` around members ``f = w' x`` with given weights (K, 3).

    ``learned`` (K, n): each row is out of one member's fold, where there are several, or None.
    """
    rng = np.random.default_rng(seed)
    x, codes = rng.normal(size=(n, 3)), np.arange(n, dtype=np.int32) % 20
    y = 1 + 2 * x[:, 0] - x[:, 1] + rng.normal(size=20)[codes] + 0.7 * rng.normal(size=n)
    random = RandomTerm("g", codes, np.arange(20), np.ones((n, 1)), ("(Intercept)",), label="(1 | g)")
    net = NetTerm("nn(a, b, c)", "nn", x, NAMES, (0, 0, 0), {"hidden": (), "standardize": False})
    design = make_design(y, np.ones((n, 1)), ["(Intercept)"], [random], nets=[net])
    weights = np.atleast_2d(weights)
    crossed = learned is not None and len(weights) > 1
    values = (x @ weights.T)[np.arange(n), np.argmin(learned, axis=0)] if crossed else x @ weights.mean(axis=0)
    networks = Networks(
        specs=(specify(net),),
        members=tuple((_weights(w),) for w in weights),
        scale=1.0,
        shift=float(values.mean()),
        fitted=values - values.mean(),
        history={name: [1.0] for name in ("member", "epoch", "loss", "validation", "sigma", "seconds")},
        best_epoch=(1,) * len(weights),
        out_of_fold=crossed,
        learned=learned,
    )
    design = with_networks(design, networks.fitted)
    return design, dataclasses.replace(profiled.fit(design), method="alternating", networks=networks)


def _weights(w):
    return {
        "mlp.layers.0.weight": np.asarray(w, dtype=np.float32)[None, :],
        "mlp.layers.0.bias": np.zeros(1, dtype=np.float32),
    }
