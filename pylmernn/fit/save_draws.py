"""Draws of a sampler in the file of a fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws
    from pylmernn.fit.save import Parts


def put_draws(parts: Parts, draws: Draws) -> dict[str, Any]:
    """Keep the arrays of draws under "draws."; returns the rest as JSON-able data.

    An array is kept in single precision where it is (the effects), all others exactly.
    """
    meta: dict[str, Any] = {}
    for item in dataclasses.fields(draws):
        value = getattr(draws, item.name)
        if isinstance(value, np.ndarray):
            parts.put(f"draws.{item.name}", value)
            meta[item.name] = {"arrays": None}
        elif isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
            for k, array in enumerate(value):
                parts.put(f"draws.{item.name}.{k}", array)
            meta[item.name] = {"arrays": len(value)}
        else:
            meta[item.name] = value.item() if isinstance(value, np.generic) else value
    return meta


def get_draws(parts: Parts, meta: dict[str, Any]) -> Draws:
    """Draws that :func:`put_draws` kept."""
    from pylmernn.engines.chains import Draws

    given: dict[str, Any] = {}
    for name, value in meta.items():
        if isinstance(value, dict) and value["arrays"] is None:
            given[name] = parts.arrays[f"draws.{name}"]
        elif isinstance(value, dict):
            given[name] = tuple(parts.arrays[f"draws.{name}.{k}"] for k in range(value["arrays"]))
        else:
            given[name] = tuple(value) if isinstance(value, list) else value
    return Draws(**given)
