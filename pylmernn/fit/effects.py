"""Partial dependence: what a network says of some of its inputs, averaged over the others (Friedman, 2001)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.fit.probabilities import class_names
from pylmernn.formula.design import Design, DesignError, FloatArray
from pylmernn.mean.inputs import Block
from pylmernn.mean.networks import Networks

ROWS = 1000  # averaged over
INNER = (0.01, 0.99)  # quantiles between which a number moves


def partial_dependence(
    design: Design,
    networks: Networks,
    names: Sequence[str],
    labels: Mapping[str, Sequence[Any]],
    grid_size: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """The mean of f over rows whose named inputs are set to each point of a grid.

    Parameters
    ----------
    design : Design
        With the raw inputs of the networks in ``nets``.
    networks : Networks
    names : one or two inputs
    labels : mapping of sequences
        Names of the levels of factors; codes without them.
    grid_size : int, default 40
    seed : int, default 0
        Of the rows.

    Returns
    -------
    DataFrame
        One column an input, and f; where networks return one number a class, a row for each class, named in a column
        class.

    Raises
    ------
    DesignError
        For an input that no network has or that holds arrays, more than two of them, or a grid of fewer than 2.
    """
    if not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise DesignError(f"partial dependence is of one input or a pair, not of {', '.join(names) or 'none'}.")
    if grid_size < 2:
        raise DesignError(f"grid_size is {grid_size}: it must be at least 2.")
    places = [_places(networks, name) for name in names]
    axes = [_axis(design, place, grid_size if len(names) == 1 else grid_size // 2 + 1) for place in places]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    n = ROWS if len(names) == 1 else ROWS // 4
    rows = np.sort(np.random.default_rng(seed).permutation(design.n)[:n])
    f = _means(networks, [net.inputs[rows] for net in design.nets], places, points)
    out: dict[str, Any] = {}
    for name, place, values in zip(names, places, points.T, strict=True):
        levels = labels.get(name) if place[0][1].levels else None
        out[name] = values if levels is None else np.array(levels, dtype=object)[values.astype(int)]
    if f.ndim == 1:
        return pd.DataFrame({**out, "f": f})
    classes = class_names(design.classes, f.shape[1])
    repeated = {name: np.repeat(values, len(classes)) for name, values in out.items()}
    return pd.DataFrame({**repeated, "class": np.tile(classes, len(points)), "f": f.ravel()})


def _places(networks: Networks, name: str) -> list[tuple[int, Block]]:
    """Where an input stands: each network that takes it, and its columns there."""
    found = [(k, block) for k, spec in enumerate(networks.specs) for block in spec.blocks if block.name == name]
    if not found:
        known = ", ".join(dict.fromkeys(block.name for spec in networks.specs for block in spec.blocks))
        raise DesignError(f"no network has an input '{name}': they take {known}.")
    if found[0][1].size > 1:
        raise DesignError(f"'{name}' holds arrays, so there is no curve of it: choose a number or a factor.")
    return found


def _axis(design: Design, place: list[tuple[int, Block]], size: int) -> FloatArray:
    """Values that an input takes: all of a factor or of few numbers, else evenly spaced ones."""
    network, block = place[0]
    if block.levels:
        return np.arange(block.levels, dtype=np.float64)
    column = design.nets[network].inputs[:, block.columns.start]
    distinct = np.unique(column)
    if len(distinct) <= min(size, 12):
        return distinct
    low, high = np.quantile(column, INNER)
    if low == high:
        low, high = distinct[0], distinct[-1]
    return np.asarray(np.linspace(low, high, size))


def _means(
    networks: Networks, inputs: Sequence[FloatArray], places: Sequence[list[tuple[int, Block]]], points: FloatArray
) -> FloatArray:
    """Means of f over the rows at each point, (points,) or (points, C), several points in one pass."""
    m, outputs = len(inputs[0]), networks.specs[0].outputs
    at_once = max(1, 50_000 // m)
    f = np.empty((len(points), outputs) if outputs > 1 else len(points))
    for start in range(0, len(points), at_once):
        part = points[start : start + at_once]
        repeated = [np.tile(columns, (len(part), 1)) for columns in inputs]
        for j, place in enumerate(places):
            for network, block in place:
                repeated[network][:, block.columns] = np.repeat(part[:, j], m)[:, None]
        f[start : start + at_once] = networks.values(repeated).reshape(len(part), m, *f.shape[1:]).mean(axis=1)
    return f
