"""Networks some of whose parameters differ by group: ``f(x; theta_bar + eta_i)``, all groups in one computation.

Rows come in chunks of one group each, (K, c, k) with deviations (K, D). Layers of a network that ``nn()`` makes take
them in batched matrix products; any other module goes through :func:`torch.func.functional_call` under ``vmap``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pylmernn.formula.design import DesignError
from pylmernn.mean.mlp import TabularNet

Tensor = torch.Tensor

CHUNK_NUMBERS = 4_000_000  # derivatives held at a time
GATHERED = 64  # deviations up to which every row gathers its own
CHUNK_ROWS = 16  # rows of a group that share one gathered copy beyond
PREFIXES = ("mlp.", "module.")  # of parameter names, which a user need not write


@dataclass(frozen=True)
class Selected:
    """Parameters of a network that vary, laid out in one vector of length D.

    Attributes
    ----------
    names : tuple of str
        As ``named_parameters()`` of the built network has them.
    shapes : tuple of tuple of int
    labels : tuple of str, length D
        One a number, ``"layers.0.weight[1,2]"``.
    layers : tuple of str, length D
        The layer that each number belongs to.
    linear : bool
        Whether the network is linear in them whatever their values: its last layer.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    layers: tuple[str, ...]
    linear: bool

    @property
    def size(self) -> int:
        """Numbers that vary, D."""
        return len(self.labels)

    def split(self, eta: Tensor) -> dict[str, Tensor]:
        """Deviations (..., D) by parameter, (..., *shape)."""
        parts = eta.split([math.prod(shape) for shape in self.shapes], dim=-1)
        lead = eta.shape[:-1]
        return {n: p.reshape(*lead, *s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def places(self, part: Selected) -> list[int]:
        """Where the numbers of a part stand, in its order."""
        sizes = [math.prod(shape) for shape in self.shapes]
        first = {name: sum(sizes[:k]) for k, name in enumerate(self.names)}
        counts = (math.prod(shape) for shape in part.shapes)
        return [first[name] + j for name, count in zip(part.names, counts, strict=True) for j in range(count)]

    def join(self, values: dict[str, Tensor]) -> Tensor:
        """Parameters as one vector, (D,)."""
        return torch.cat([values[name].reshape(-1) for name in self.names])


def select(module: nn.Module, selector: str, label: str, inputs: Sequence[str] = ()) -> Selected:
    """The parameters that a bar means.

    Parameters
    ----------
    module : TabularNet or ModuleNet
    selector : str
        ``""``, ``"last"``, ``"first"``, or the name of a parameter or of a layer.
    label : str
        The bar, for messages.
    inputs : names of the inputs, for labels of the first layer

    Raises
    ------
    DesignError
        For a name that the network has not, batch normalisation in the network, or parameters that are frozen.
    """
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        raise DesignError(
            f"{label}: batch normalisation mixes the rows of groups, so a network that varies by group cannot have it: "
            "use normalization='layer' or nn.LayerNorm."
        )
    owned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    layers = list(dict.fromkeys(_layer(name) for name in owned))
    if selector in ("", "last", "first"):
        layer = {"last": layers[-1], "first": layers[0]}.get(selector)
        names = [name for name in owned if layer is None or _layer(name) == layer]
    else:
        names = [name for name in owned if selector in (name, _short(name), _layer(name), _short(_layer(name)))]
    if not names:
        raise DesignError(
            f"{label}: the network has no parameter '{selector}' that is learned; it has "
            f"{', '.join(_short(name) for name in owned)}."
        )
    return _selected(module, names, inputs)


def union(module: nn.Module, selections: Sequence[Selected], inputs: Sequence[str] = ()) -> Selected:
    """The parameters that any of some selections has, in the order of the network."""
    wanted = {name for each in selections for name in each.names}
    return _selected(module, [name for name, _ in module.named_parameters() if name in wanted], inputs)


def _selected(module: nn.Module, names: Sequence[str], inputs: Sequence[str]) -> Selected:
    owned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    layers = list(dict.fromkeys(_layer(name) for name in owned))
    labels = [text for name in names for text in _labels(name, owned[name], module, inputs)]
    last = _layer(names[0]) == layers[-1] == _layer(names[-1]) and isinstance(module, TabularNet)
    return Selected(
        tuple(names),
        tuple(tuple(owned[name].shape) for name in names),
        tuple(labels),
        tuple(_short(_layer(name)) for name in names for _ in range(owned[name].numel())),
        last,
    )


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _short(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _labels(name: str, parameter: Tensor, module: nn.Module, inputs: Sequence[str]) -> list[str]:
    """A label for each number of a parameter, counted from one; a single output needs no index."""
    axes = [[str(j + 1) for j in range(size)] for size in parameter.shape]
    if isinstance(module, TabularNet) and not module.factors and name == "mlp.layers.0.weight":
        axes[1] = list(inputs) or axes[1]
    if len(axes) == 2 and len(axes[0]) == 1:
        axes = axes[1:]
    if math.prod(parameter.shape) == 1 and len(axes) == 1 and axes[0] == ["1"]:
        return [_short(name)]
    found = [""]
    for axis in axes:
        found = [f"{left},{right}" if left else right for left in found for right in axis]
    return [f"{_short(name)}[{index}]" for index in found]


class VaryingNetwork:
    """A network with deviations of some parameters by group.

    Parameters
    ----------
    module : TabularNet or ModuleNet
        Holds theta_bar.
    selected : Selected
    """

    def __init__(self, module: Any, selected: Selected) -> None:
        self.module, self.selected = module, selected
        self.by_layers = isinstance(module, TabularNet) and all(name.startswith("mlp.") for name in selected.names)

    def __call__(self, prepared: Tensor, eta: Tensor) -> Tensor:
        """Values (K, c) of prepared inputs (K, c, k) with deviations (K, D)."""
        parts = self.selected.split(eta)
        if self.by_layers:
            return self.layers(prepared, parts)
        shared = dict(self.module.named_parameters())

        def one(given: dict[str, Tensor], rows: Tensor) -> Tensor:
            values = {name: shared[name] + deviation for name, deviation in given.items()}
            out: Tensor = torch.func.functional_call(self.module, values, (rows,))
            return out

        try:
            mapped: Tensor = torch.func.vmap(one, randomness="different")(parts, prepared)
        except RuntimeError as error:
            raise DesignError(
                f"the network cannot vary by group: {str(error).strip().splitlines()[0]} Use layers that "
                "torch.func.vmap takes, or a network of nn()."
            ) from error
        return mapped

    def layers(
        self, prepared: Tensor, parts: dict[str, Tensor], record: list[tuple[int, Tensor, Tensor]] | None = None
    ) -> Tensor:
        """A multilayer perceptron layer by layer, (K, c).

        Where there is a ``record``, it gets the number of each layer that varies, its input and its output; the input
        of a normalisation counts as normalised.
        """
        net = self.module
        x = prepared
        if net.factors:
            k = len(net.numeric)
            embedded = [e(prepared[:, :, k + i].long()) for i, e in enumerate(net.embeddings)]
            x = torch.cat([prepared[:, :, :k], *embedded], dim=2)
        for j, layer in enumerate(net.mlp.layers):
            deviations = [parts.get(f"mlp.layers.{j}.{kind}") for kind in ("weight", "bias")]
            if deviations == [None, None]:
                x = layer(x)
                continue
            before, x = x, _varied(layer, x, *deviations)
            if record is not None:
                record.append((j, _normal(layer, before) if isinstance(layer, nn.LayerNorm) else before, x))
        return x.squeeze(2)

    def rows(self, prepared: Tensor, eta: Tensor, codes: Tensor) -> Tensor:
        """Values (m,) of single rows (m, k), each with the deviations of its group; code -1 is none."""
        if self.by_layers and self.selected.size > GATHERED:
            return self._by_groups(prepared, eta, codes)
        known = (codes >= 0).to(eta.dtype)[:, None]
        out = []
        step = max(1, CHUNK_NUMBERS // max(1, self.selected.size))
        with torch.no_grad():
            for first in range(0, len(prepared), step):
                part = slice(first, first + step)
                deviations = eta[codes[part].clamp(min=0)] * known[part]
                out.append(self(prepared[part, None], deviations)[:, 0])
        return torch.cat(out)

    def _by_groups(self, prepared: Tensor, eta: Tensor, codes: Tensor) -> Tensor:
        """:meth:`rows` where rows of a group share one gathered copy."""
        at, inside, groups = group_chunks(codes)
        found = prepared.new_empty(len(prepared))
        size = max(1, CHUNK_NUMBERS // max(1, self.selected.size))
        with torch.no_grad():
            for first in range(0, len(at), size):
                part = slice(first, first + size)
                deviations = eta[groups[part].clamp(min=0)] * (groups[part] >= 0).to(eta.dtype)[:, None]
                out, mask = self(prepared[at[part]], deviations), inside[part]
                if out.ndim == 3:
                    found = found if found.ndim == 2 else prepared.new_empty(len(prepared), out.shape[2])
                found[at[part][mask]] = out[mask]
        return found

    def jacobian(self, prepared: Tensor, eta: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Values (m,) of single rows (m, k) and their derivatives by the deviations of their groups, (m, D)."""
        values, derivatives = [], []
        step = max(1, CHUNK_NUMBERS // max(1, self.selected.size))
        for first in range(0, len(prepared), step):
            part = slice(first, first + step)
            own = eta[codes[part]].detach().requires_grad_(True)
            out = self(prepared[part, None], own)[:, 0]
            derivatives.append(torch.autograd.grad(out.sum(), own)[0])
            values.append(out.detach())
        return torch.cat(values), torch.cat(derivatives)

    def vector(self) -> Tensor:
        """theta_bar of what varies, (D,)."""
        return self.selected.join(dict(self.module.named_parameters())).detach().clone()

    def move(self, by: Tensor) -> None:
        """Add (D,) to theta_bar."""
        parameters = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, step in self.selected.split(by).items():
                parameters[name] += step


def group_chunks(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in chunks of one group each, in the order of the groups.

    Returns
    -------
    at : Tensor of int, shape (K, c)
        Rows; the last one of a short chunk fills it up.
    inside : Tensor of bool, shape (K, c)
        False where a chunk is filled up.
    groups : Tensor of int, shape (K,)

    Examples
    --------
    >>> at, inside, groups = group_chunks(torch.tensor([2, 0, 2, 0]))
    >>> at.tolist(), groups.tolist()
    ([[1, 3], [0, 2]], [0, 2])
    """
    order = torch.argsort(codes, stable=True)
    groups, counts = torch.unique_consecutive(codes[order], return_counts=True)
    size = max(1, min(CHUNK_ROWS, int(counts.max()))) if len(counts) else 1
    chunks = (counts + size - 1) // size
    first = torch.repeat_interleave(torch.cumsum(counts, 0) - counts, chunks)
    own = torch.repeat_interleave(torch.arange(len(counts)), chunks)
    number = torch.arange(len(own)) - torch.repeat_interleave(torch.cumsum(chunks, 0) - chunks, chunks)
    places = number[:, None] * size + torch.arange(size)
    inside = places < counts[own][:, None]
    last = (counts[own] - 1)[:, None]
    return order[first[:, None] + torch.minimum(places, last)], inside, groups[own]


def _normal(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)


def _varied(layer: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """One layer on (K, c, k) with deviations of its weight (K, ...) and bias (K, ...)."""
    if isinstance(layer, nn.LayerNorm):
        normal = _normal(layer, x)
        scale = layer.weight if weight is None else (layer.weight + weight)[:, None]
        return normal * scale + (layer.bias if bias is None else (layer.bias + bias)[:, None])
    assert isinstance(layer, nn.Linear)
    shift = layer.bias[None, None] if bias is None else (layer.bias + bias)[:, None]
    if weight is None:
        return nn.functional.linear(x, layer.weight) + shift
    return torch.baddbmm(shift.expand(len(x), 1, -1), x, (layer.weight + weight).transpose(1, 2))
