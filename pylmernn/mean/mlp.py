"""Networks made from the arguments of ``nn(...)``: multilayer perceptrons on standardised, embedded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

FloatArray = NDArray[np.float64]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}
NORMALIZATIONS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}

#: arguments of ``nn(...)`` and their defaults
DEFAULTS: dict[str, Any] = {
    "hidden": (100, 50, 25, 12),
    "activation": "silu",
    "dropout": 0.0,
    "normalization": "none",
    "embedding": 0,
    "standardize": True,
}


class TabularNet(nn.Module):
    """A multilayer perceptron on standardised numbers and embedded factors.

    :meth:`prepare` does once what does not depend on weights; an unseen level gets the embedding zero.

    Parameters
    ----------
    levels : sequence of int, length k
        Levels of each factor, 0 for numbers.
    options : dict
        Checked options of ``nn(...)``.
    centre, scale : ndarray, shape (k,)
        Of the training inputs; not used for factors.
    outputs : int, default 1
        Numbers a row.
    """

    def __init__(
        self,
        levels: Sequence[int],
        options: Mapping[str, Any],
        centre: FloatArray,
        scale: FloatArray,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.numeric = [j for j, q in enumerate(levels) if q == 0]
        self.factors = [j for j, q in enumerate(levels) if q > 0]
        self.centre, self.scale = centre, scale
        widths = [options["embedding"] or min(16, int(np.ceil(np.sqrt(levels[j])))) for j in self.factors]
        self.embeddings = nn.ModuleList(
            nn.Embedding(levels[j] + 1, width, padding_idx=0) for j, width in zip(self.factors, widths, strict=True)
        )
        self.mlp = MLP(
            len(self.numeric) + sum(widths),
            options["hidden"],
            options["activation"],
            options["dropout"],
            options["normalization"],
            outputs,
        )

    def prepare(self, inputs: FloatArray) -> torch.Tensor:
        """Standardised numbers, then level codes counted from 1; (m, k) in float32."""
        numbers = (inputs[:, self.numeric] - self.centre[self.numeric]) / self.scale[self.numeric]
        return torch.tensor(np.concatenate([numbers, inputs[:, self.factors] + 1], axis=1), dtype=torch.float32)

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        """Values (m,), or (m, outputs) where there are several, of prepared inputs (m, k)."""
        if not self.factors:
            return self.mlp(prepared)  # type: ignore[no-any-return]
        k = len(self.numeric)
        parts = [prepared[:, :k]]
        parts += [embedding(prepared[:, k + i].long()) for i, embedding in enumerate(self.embeddings)]
        return self.mlp(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """A multilayer perceptron.

    Parameters
    ----------
    width : int
        Features.
    hidden : sequence of int
        Units of each hidden layer; none for a linear network.
    activation : str
        A name in ``ACTIVATIONS``.
    dropout : float
        After each hidden layer but the last.
    normalization : {"none", "layer", "batch"}
    outputs : int, default 1
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (100, 50, 25, 12),
        activation: str = "silu",
        dropout: float = 0.0,
        normalization: str = "none",
        outputs: int = 1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, units in enumerate(hidden):
            layers.append(nn.Linear(width, units))
            if normalization != "none":
                layers.append(NORMALIZATIONS[normalization](units))
            layers.append(ACTIVATIONS[activation]())
            if dropout > 0 and i < len(hidden) - 1:
                layers.append(nn.Dropout(dropout))
            width = units
        self.outputs = outputs
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Values (m,), or (m, outputs) where there are several, of features (m, width)."""
        out: torch.Tensor = self.layers(features)
        return out.squeeze(1) if self.outputs == 1 else out


def check_options(options: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The options with defaults filled in; ValueError names the one that is wrong."""
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"{label}: unknown option '{unknown[0]}'; nn() takes {', '.join(DEFAULTS)}.")
    out = {**DEFAULTS, **options}
    hidden = out["hidden"] if isinstance(out["hidden"], (list, tuple)) else (out["hidden"],)
    if any(not _is_number(h) or int(h) != h or h < 1 for h in hidden):
        raise ValueError(f"{label}: hidden must be whole numbers of units such as c(100, 50), not {out['hidden']}.")
    out["hidden"] = tuple(int(h) for h in hidden)
    if out["activation"] not in ACTIVATIONS:
        raise ValueError(f"{label}: activation is '{out['activation']}'; use one of {', '.join(ACTIVATIONS)}.")
    if not _is_number(out["dropout"]) or not 0 <= out["dropout"] < 1:
        raise ValueError(f"{label}: dropout is {out['dropout']}; it must be at least 0 and below 1.")
    if out["normalization"] not in ("none", *NORMALIZATIONS):
        raise ValueError(f"{label}: normalization is '{out['normalization']}'; use none, layer or batch.")
    if not _is_number(out["embedding"]) or out["embedding"] < 0:
        raise ValueError(f"{label}: embedding is {out['embedding']}; it must be a whole number of columns, or 0.")
    out["embedding"] = int(out["embedding"])
    if not isinstance(out["standardize"], bool):
        raise ValueError(f"{label}: standardize is {out['standardize']}; it must be TRUE or FALSE.")
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
