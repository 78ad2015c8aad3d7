"""Learned random effects over coordinates, ``embed(lon, lat)``, as data: what new locations are predicted from.

With g the network of the coordinates and b its random coefficients, the effect at a location s is ``g(s)' b``
(Simchoni & Rosset 2023, eq. 12 and section 5.1.4, LMMNN-E).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pylmernn.mean.featurenet import FeatureNet

FloatArray = NDArray[np.float64]

CHUNK = 8192  # locations whose features are computed at a time


@dataclass(frozen=True)
class Embedding:
    """The fitted g of one term, with the conditional modes of its coefficients.

    Attributes
    ----------
    group : str
        The term, ``"embed(lon, lat)"``.
    centre, scale : tuple of float, length k
        Of the coordinates.
    hidden : tuple of int
    dim : int
        Features.
    activation : str
    gain : float
        Factor of the features.
    weights : dict of ndarray
        Of the network; and ``"coefficients"`` (dim,), in units of the
        response; empty before a fit.
    """

    group: str
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    hidden: tuple[int, ...]
    dim: int
    activation: str
    gain: float
    weights: dict[str, NDArray[Any]]

    def features(self, locations: FloatArray) -> FloatArray:
        """``g`` of m locations (m, k), as (m, dim)."""
        return features_of(self.network(), locations)

    def values(self, locations: FloatArray) -> FloatArray:
        """Effects (m,) at m locations (m, k); NaN where a coordinate is missing."""
        whole = np.isfinite(locations).all(axis=1)
        out = np.full(len(locations), np.nan)
        out[whole] = self.features(locations[whole]) @ self.weights["coefficients"]
        return out

    def network(self) -> FeatureNet:
        """The network with its weights; with fresh ones where there are none."""
        import torch

        from pylmernn.mean.featurenet import FeatureNet

        net = FeatureNet(self.centre, self.scale, self.hidden, self.dim, self.activation, self.gain)
        state = {name: torch.from_numpy(np.array(w)) for name, w in self.weights.items() if name != "coefficients"}
        if state:
            net.load_state_dict(state)
        return net


def features_of(net: FeatureNet, locations: FloatArray) -> FloatArray:
    """Features (m, dim) in float64 of locations (m, k)."""
    import torch

    with torch.no_grad():
        parts = [net(net.prepare(locations[i : i + CHUNK])).double().numpy() for i in range(0, len(locations), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, 0))


def check_embed_options(options: dict[str, Any], label: str) -> tuple[tuple[int, ...], int]:
    """Hidden layers and number of features; ValueError names the option that is wrong."""
    dim, hidden = options.get("dim", 100), options.get("hidden", (100, 100))
    if not _whole(dim):
        raise ValueError(f"{label}: dim is {dim}; it must be a whole number of features, at least 1.")
    hidden = hidden if isinstance(hidden, Sequence) else (hidden,)
    if not all(_whole(units) for units in hidden):
        raise ValueError(f"{label}: hidden must be whole numbers of units such as c(100, 100), not {hidden}.")
    return tuple(int(units) for units in hidden), int(dim)


def _whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and int(value) == value and value >= 1
