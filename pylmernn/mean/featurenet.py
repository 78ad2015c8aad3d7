"""The network g of ``embed(lon, lat)``: from coordinates to the features that random coefficients multiply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pylmernn.mean.mlp import ACTIVATIONS

FloatArray = NDArray[np.float64]


class FeatureNet(nn.Module):
    """A multilayer perceptron whose last layer, activated too, is the features.

    Parameters
    ----------
    centre, scale : sequence of float, length k
        Of the coordinates.
    hidden : sequence of int
        Units of the layers before the features.
    dim : int
        Features.
    activation : str
        A name in :data:`pylmernn.mean.mlp.ACTIVATIONS`.
    gain : float
        Factor of the features.
    """

    def __init__(
        self,
        centre: Sequence[float],
        scale: Sequence[float],
        hidden: Sequence[int],
        dim: int,
        activation: str,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.centre, self.scale, self.gain = np.array(centre), np.array(scale), gain
        layers: list[nn.Module] = []
        width = len(centre)
        for units in (*hidden, dim):
            layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
            width = units
        self.layers = nn.Sequential(*layers)

    def prepare(self, locations: FloatArray) -> torch.Tensor:
        """Standardised coordinates (m, k) in float32."""
        return torch.from_numpy(((locations - self.centre) / self.scale).astype(np.float32))

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        """Features (m, dim) of prepared coordinates (m, k)."""
        out: torch.Tensor = self.layers(prepared)
        return out * self.gain if self.gain != 1.0 else out
