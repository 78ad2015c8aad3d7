"""Features of the last hidden layer: what a network would be linear in, were its other layers known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.mean.networks import Networks, build

FloatArray = NDArray[np.float64]


def last_hidden_layer(networks: Networks, inputs: Sequence[FloatArray]) -> FloatArray:
    """Features of the last hidden layer of every network of the first member, side by side.

    Parameters
    ----------
    networks : Networks
    inputs : sequence of ndarray, shape (m, k)
        Raw inputs of each network; none may be missing.

    Returns
    -------
    ndarray, shape (m, h)
        A network adds no columns where its values are not the output of one ``torch.nn.Linear``.
    """
    parts = [
        _features(build(spec, weights), columns)
        for spec, weights, columns in zip(networks.specs, networks.members[0], inputs, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _features(module: Any, inputs: FloatArray) -> FloatArray:
    """What the last linear layer of a network is given, (m, h); (m, 0) where there is no such layer."""
    import torch

    from pylmernn.training.loop import evaluate

    module.eval()
    prepared = module.prepare(inputs)
    head = _head(module, prepared[:2])
    if head is None:
        return np.empty((len(inputs), 0))
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    evaluate([module], [prepared])
    handle.remove()
    return np.asarray(torch.cat(seen).double().cpu().numpy())


def _head(module: Any, prepared: Any) -> Any:
    """The linear layer whose output is the network's, found by running it on a few rows."""
    import torch

    found: list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] = []
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1]
    handles = [m.register_forward_hook(lambda m, x, out: found.append((m, x[0], out))) for m in layers]
    with torch.no_grad():
        values = module(prepared)
    for handle in handles:
        handle.remove()
    for layer, given, out in reversed(found):
        if given.ndim == 2 and out.numel() == values.numel() and torch.equal(out.flatten(), values.flatten()):
            return layer
    return None
