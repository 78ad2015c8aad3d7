"""The fitted networks of a model, as data: weights as arrays, everything else JSON-able."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.formula.design import NetTerm

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class NetSpec:
    """All that is needed to build one network again, but its weights.

    Attributes
    ----------
    label, name : str
    input_names : tuple of str, length k
    levels : tuple of int, length k
        Levels of each factor among the inputs, 0 for a number.
    options : dict
    centre, scale : tuple of float, length k
    """

    label: str
    name: str
    input_names: tuple[str, ...]
    levels: tuple[int, ...]
    options: dict[str, Any]
    centre: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Networks:
    """Fitted networks: the mean of some members, each the sum of the networks of the formula.

    Attributes
    ----------
    specs : tuple of NetSpec, one a network
    members : tuple of tuple of dict
        ``members[i][k]`` holds the weights of network k in member i; several members where networks were cross-fitted.
    scale, shift : float
        ``f = scale * output - shift``.
    fitted : ndarray, shape (n,)
        f at the rows of the fit: out of fold where there are several members.
    history : dict of list
        epoch, loss, validation, sigma, seconds; one entry an epoch and member.
    best_epoch : tuple of int, one a member
    out_of_fold : bool
    learned : ndarray of bool, shape (members, n), or None
        Which rows each member has learnt from; at the others its values are out of sample. None where unknown.
    """

    specs: tuple[NetSpec, ...]
    members: tuple[tuple[Weights, ...], ...]
    scale: float
    shift: float
    fitted: FloatArray
    history: dict[str, list[float]]
    best_epoch: tuple[int, ...]
    out_of_fold: bool
    learned: NDArray[np.bool_] | None = None

    @property
    def n_parameters(self) -> list[int]:
        """Weights of each network."""
        return [sum(int(np.size(w)) for w in weights.values()) for weights in self.members[0]]

    def values(self, inputs: Sequence[FloatArray]) -> FloatArray:
        """F of new rows, (m,), from raw inputs (m, k) of each network; NaN where an input is missing."""
        from pylmernn.training.loop import evaluate

        missing = np.zeros(len(inputs[0]), dtype=bool)
        for columns in inputs:
            missing |= np.isnan(columns).any(axis=1)
        total = np.zeros(len(inputs[0]))
        for member in self.members:
            modules = [build(spec, weights) for spec, weights in zip(self.specs, member, strict=True)]
            features = [m.prepare(np.nan_to_num(columns)) for m, columns in zip(modules, inputs, strict=True)]
            total += evaluate(modules, features)
        out = self.scale * total / len(self.members) - self.shift
        out[missing] = np.nan
        return np.asarray(out)


def specify(term: NetTerm, options: dict[str, Any]) -> NetSpec:
    """The specification of a network for its training inputs."""
    scale = term.inputs.std(axis=0)
    return NetSpec(
        label=term.label,
        name=term.name,
        input_names=term.input_names,
        levels=term.levels,
        options=options,
        centre=tuple(term.inputs.mean(axis=0).tolist()),
        scale=tuple(np.where(scale > 0, scale, 1.0).tolist()),
    )


def build(spec: NetSpec, weights: Weights | None = None) -> Any:
    """A torch module for a specification, with fresh or given weights."""
    import torch

    from pylmernn.mean.mlp import TabularNet

    module = TabularNet(spec.levels, spec.options, np.array(spec.centre), np.array(spec.scale))
    if weights is not None:
        module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return module


def weights_of(module: torch.nn.Module) -> Weights:
    """A copy of the weights as arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}
