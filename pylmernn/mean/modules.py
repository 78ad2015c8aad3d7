"""The user's own torch modules as networks in the mean.

What ``forward()`` receives, for m rows:

- where every input is a number, one float32 tensor (m, k), a column an input in the order of the formula;
- else one tensor an input, in that order: numbers (m,) and arrays (m, *shape) in float32, factors as their level
  codes (m,) in int64, from 0. A matrix such as ``poly(x, 2)`` counts as two numbers.

Numbers are standardised by their own mean and standard deviation. An array column has one centre and one scale; where
its arrays have two axes or more, one for each entry of the last axis, which holds the channels: a sequence is
(time, channel), an image (height, width, channel). ``standardize=FALSE`` in ``nn()`` leaves all as it is.

It must return one number a row, (m,) or (m, 1); for a response of C classes C numbers a row, (m, C).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from pylmernn.formula.design import DesignError
from pylmernn.mean.inputs import Block

FloatArray = NDArray[np.float64]

#: rows on which a network is tried before it is trained
TRIAL_ROWS = 500


class ModuleNet(nn.Module):
    """A user's module between the inputs of a formula and one number a row.

    :meth:`prepare` does once what does not depend on weights.

    Parameters
    ----------
    module : torch.nn.Module
        Taken as it is: give it a copy of its own.
    name : str
        Of the network, for messages.
    blocks : sequence of Block
    centre, scale : ndarray, shape (k,)
    outputs : int, default 1
        Numbers a row that it must return.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        blocks: Sequence[Block],
        centre: FloatArray,
        scale: FloatArray,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.module, self.name, self.blocks = module, name, tuple(blocks)
        self.centre, self.scale = centre, scale
        self.together = all(block.levels == 0 and block.shape == () for block in blocks)

    def prepare(self, inputs: FloatArray) -> torch.Tensor:
        """Standardised inputs (m, k) in float32; level codes stay as they are."""
        return torch.from_numpy(((inputs - self.centre) / self.scale).astype(np.float32))

    def arguments(self, prepared: torch.Tensor) -> list[torch.Tensor]:
        """What the module receives of prepared inputs (m, k)."""
        if self.together:
            return [prepared]
        out = []
        for block in self.blocks:
            values = prepared[:, block.columns].reshape(len(prepared), *block.shape)
            out.append(values.round().long() if block.levels else values)
        return out

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        """Values (m,) or (m, outputs) of prepared inputs (m, k); DesignError where the module returns anything else."""
        output = self.module(*self.arguments(prepared))
        m = len(prepared)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
        if self.outputs > 1:
            if shape != (m, self.outputs):
                what = f"the type {type(output).__name__}" if shape is None else f"shape {shape}"
                raise DesignError(
                    f"the network '{self.name}' returns {what} for {m} rows: it must return one number a class, shape "
                    f"({m}, {self.outputs})."
                )
            return output  # type: ignore[no-any-return]
        if shape not in ((m,), (m, 1)) and not (m == 1 and shape == ()):
            what = f"the type {type(output).__name__}" if shape is None else f"shape {shape}"
            raise DesignError(
                f"the network '{self.name}' returns {what} for {m} rows: it must return one number a row, shape ({m},) "
                f"or ({m}, 1)."
            )
        return output.reshape(m)


def fresh(given: nn.Module | Callable[[], nn.Module], name: str) -> nn.Module:
    """A network of one's own, in float32 on the CPU; what was given is not changed.

    A module is copied and its layers get new initial weights from torch's generator, by their ``reset_parameters()``.
    Layers with frozen parameters (``requires_grad=False``) and parameters outside such layers keep their values. The
    module that a callable returns is copied and keeps its weights.

    Raises
    ------
    DesignError
        Where the callable fails or returns something else, or the module cannot be copied.
    """
    if isinstance(given, nn.Module):
        module = _copied(given, name)
        module.apply(_reset)
    else:
        try:
            module = given()
        except Exception as error:
            raise DesignError(f"nets['{name}'] could not be called: {_reason(error)}.") from error
        if not isinstance(module, nn.Module):
            raise DesignError(
                f"nets['{name}'] returns the type {type(module).__name__}: it must return a torch module."
            )
        module = _copied(module, name)
    return module.float().cpu()


def _copied(module: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a user's object may refuse in any way
        raise DesignError(f"nets['{name}'] cannot be copied: {_reason(error)}.") from error


def _reset(layer: nn.Module) -> None:
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    if callable(reset) and all(p.requires_grad for p in layer.parameters(recurse=False)):
        reset()


def with_lazy_layers(net: ModuleNet, k: int) -> ModuleNet:
    """The same network after lazy layers have seen the width of their k inputs."""
    if any(is_lazy(p) for p in (*net.parameters(), *net.buffers())):
        net.eval()
        with torch.no_grad():
            _run(net, torch.zeros(2, k))
    return net


def try_out(net: ModuleNet, inputs: FloatArray) -> None:
    """Run a network on the first rows of its inputs (n, k).

    Raises
    ------
    DesignError
        Where it fails, returns the wrong shape, NaN or infinity, or has nothing to learn.
    """
    net.eval()
    with torch.no_grad():
        output = _run(net, net.prepare(inputs[:TRIAL_ROWS]))
    bad = int((~torch.isfinite(output)).reshape(len(output), -1).any(dim=1).sum())
    if bad:
        raise DesignError(
            f"the network '{net.name}' returns NaN or infinite values before any training ({bad} of {len(output)} "
            "rows): check its layers for divisions, logarithms and roots."
        )
    if count_parameters(net) == 0:
        raise DesignError(f"the network '{net.name}' has no parameters to learn.")


def count_parameters(net: nn.Module) -> int:
    """Parameters that are learned."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _run(net: ModuleNet, prepared: torch.Tensor) -> torch.Tensor:
    try:
        return net(prepared)  # type: ignore[no-any-return]
    except DesignError:
        raise
    except Exception as error:
        given = ", ".join(f"({', '.join(map(str, a.shape))}) {_dtype(a)}" for a in net.arguments(prepared))
        raise DesignError(f"the network '{net.name}' failed on inputs {given}: {_reason(error)}.") from error


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    lines: list[Any] = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
