"""The one loop that trains networks: batches, a schedule, weights kept and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

CHUNK = 65_536  # rows of one forward pass when nothing is learned
CHUNK_NUMBERS = 1_000_000  # and inputs: the layers of a convolution hold many times as many
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.3, 5
FULL_DECAY = 10  # inputs of a matrix from which on its weights decay at the full rate


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of each row, (m,)."""
    return (output - target) ** 2


class Trainer:
    """Trains the sum of some networks, an epoch at a time, for targets that change between epochs.

    All stays on the device of the features: within an epoch no step waits for a value.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        Each takes its features (m, k) and returns (m,).
    features : sequence of torch.Tensor, shape (n, k)
        Of all rows, on the device of the modules.
    rows : ndarray of int
        Rows to learn from.
    training : Training
        Sized settings.
    generator : torch.Generator
        Of the shuffling, on the CPU.
    weights : torch.Tensor, shape (n,), optional
        Prior weights of the rows, on the device; their mean counts as one.
    loss : callable
        From the output of the networks, (m,) or (m, outputs), and what :meth:`epoch` was given of the same rows, to
        the loss of each row (m,). By default the squared error.
    outputs : int, default 1
        Numbers a row that the networks return.

    Attributes
    ----------
    met : torch.Tensor, shape (n,) or (n, outputs)
        Values of the networks at the rows learnt from, as they were in the last epoch, before the step that used them.
        They cost nothing; elsewhere zero.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        features: Sequence[torch.Tensor],
        rows: NDArray[np.intp],
        training: Training,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
        loss: Callable[..., torch.Tensor] = squared_error,
        outputs: int = 1,
    ) -> None:
        assert training.batch_size is not None
        assert training.epochs is not None
        assert training.weight_decay is not None
        self.modules, self.features, self.training, self.generator = list(modules), list(features), training, generator
        self.rows = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        self.device = features[0].device
        self.weights = None if weights is None else weights / weights.mean()
        self.loss, self.outputs = loss, outputs
        shape = (len(features[0]),) if outputs == 1 else (len(features[0]), outputs)
        self.met = torch.zeros(shape, device=self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.modules, training.weight_decay), lr=training.learning_rate, fused=True
        )
        steps = len(batches(len(rows), training.batch_size)) * training.epochs
        self.schedule, self.plateau = schedules(training, self.optimizer, steps)

    def epoch(self, *targets: torch.Tensor) -> float:
        """One pass over the rows for what the loss takes, (n, ...) each; returns the mean loss met on the way."""
        for module in self.modules:
            module.train()
        order = self.rows[torch.randperm(len(self.rows), generator=self.generator)].to(self.device)
        total = torch.zeros((), device=self.device)
        shuffled = [feature.index_select(0, order) for feature in self.features]
        wanted = [target.index_select(0, order) for target in targets]
        weights = None if self.weights is None else self.weights.index_select(0, order)
        outputs = torch.empty((len(order), *self.met.shape[1:]), device=self.device)
        for part in batches(len(order), self.training.batch_size or len(order)):
            self.optimizer.zero_grad(set_to_none=True)
            output = self.modules[0](shuffled[0][part])
            for module, feature in zip(self.modules[1:], shuffled[1:], strict=True):
                output = output + module(feature[part])
            losses = self.loss(output, *(target[part] for target in wanted))
            loss = losses.mean() if weights is None else (weights[part] * losses).mean()
            loss.backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            total += loss.detach() * len(losses)
            outputs[part] = output.detach()
        self.met.index_copy_(0, order, outputs)
        return float(total) / len(order)

    def end_epoch(self, error: float) -> None:
        """Tell the schedule the held-out error of the epoch."""
        if self.plateau is not None:
            self.plateau.step(error)

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def values(self, rows: torch.Tensor | None = None) -> FloatArray:
        """The sum of the networks on all or some rows, in evaluation mode."""
        if rows is None:
            return evaluate(self.modules, self.features, self.outputs)
        return evaluate(self.modules, [feature.index_select(0, rows) for feature in self.features], self.outputs)

    def state(self) -> list[dict[str, torch.Tensor]]:
        """A copy of all weights."""
        return [copy.deepcopy(module.state_dict()) for module in self.modules]

    def restore(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Weights of an earlier :meth:`state`."""
        for module, weights in zip(self.modules, state, strict=True):
            module.load_state_dict(weights)


def device_for(device: str) -> torch.device:
    """The device that networks are trained on; "auto" is CUDA where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def parameter_groups(modules: Sequence[torch.nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """What is learned, in groups of one weight decay each.

    Matrices decay, those with fewer than 10 inputs in proportion less: a unit of few inputs needs larger weights to
    bend as much. Biases, scales of normalisation and embeddings do not decay.
    """
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for parameter, is_matrix in _learned(modules):
        fan_in = parameter.numel() / max(1, parameter.shape[0]) if is_matrix else 0
        groups.setdefault(weight_decay * min(1.0, fan_in / FULL_DECAY), []).append(parameter)
    return [{"params": chosen, "weight_decay": decay} for decay, chosen in groups.items()]


def count_matrices(modules: Sequence[torch.nn.Module]) -> int:
    """Weights that decay."""
    return sum(parameter.numel() for parameter, is_matrix in _learned(modules) if is_matrix)


def _learned(modules: Sequence[torch.nn.Module]) -> Iterator[tuple[torch.nn.Parameter, bool]]:
    """Every parameter that is learned, once, and whether it is a matrix of weights."""
    seen: set[int] = set()
    for layer in (layer for module in modules for layer in module.modules()):
        for parameter in layer.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter, parameter.ndim > 1 and not isinstance(layer, torch.nn.Embedding)


def schedules(
    training: Training, optimizer: torch.optim.Optimizer, steps: int
) -> tuple[torch.optim.lr_scheduler.LRScheduler | None, torch.optim.lr_scheduler.ReduceLROnPlateau | None]:
    """The schedule that moves with every step, and the one that moves with every epoch; None for what there is not."""
    rates = torch.optim.lr_scheduler
    if training.schedule == "one_cycle":
        return rates.OneCycleLR(optimizer, training.learning_rate, total_steps=steps + 1), None
    if training.schedule == "cosine":
        return rates.CosineAnnealingLR(optimizer, steps), None
    if training.schedule == "plateau":
        return None, rates.ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_EPOCHS)
    return None, None


def batches(n: int, size: int) -> list[slice]:
    """Consecutive batches of n rows; a single row that is left joins the last one, for the sake of batch norms."""
    starts = list(range(0, n, size))
    if n % size == 1 and len(starts) > 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], n], strict=True)]


def evaluate(modules: Sequence[torch.nn.Module], features: Sequence[torch.Tensor], outputs: int = 1) -> FloatArray:
    """The sum of networks on their features, (m,) or (m, outputs), in evaluation mode."""
    shape = (len(features[0]),) if outputs == 1 else (len(features[0]), outputs)
    total = torch.zeros(shape, dtype=torch.float64, device=features[0].device)
    with torch.no_grad():
        for module, feature in zip(modules, features, strict=True):
            module.eval()
            rows = min(CHUNK, max(1, CHUNK_NUMBERS // feature.shape[1]))
            for start in range(0, len(feature), rows):
                part = slice(start, start + rows)
                total[part] += module(feature[part]).double()
    return np.asarray(total.cpu().numpy())
