"""Training of theta_bar on rows that carry the deviations of their groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.mean.varying import CHUNK_ROWS, GATHERED, VaryingNetwork
from pylmernn.training.loop import parameter_groups, schedules, squared_error
from pylmernn.training.options import Training

Tensor = torch.Tensor


class VaryingTrainer:
    """Adam on theta_bar, an epoch at a time, for deviations that stay as they are within an epoch.

    Parameters
    ----------
    network : VaryingNetwork
    prepared : Tensor, shape (n, k)
    codes : ndarray of int, shape (n,)
    rows : ndarray of int
        Rows to learn from.
    training : Training
        Sized settings.
    weights : Tensor, shape (n,), optional
        Prior weights; their mean counts as one.
    loss : callable
        From values (K, c) or (K, c, outputs) and targets of these rows to the loss of each; by default squared errors.
    """

    def __init__(
        self,
        network: VaryingNetwork,
        prepared: Tensor,
        codes: NDArray[np.int32],
        rows: NDArray[np.intp],
        training: Training,
        weights: Tensor | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = squared_error,
    ) -> None:
        assert training.batch_size is not None
        assert training.epochs is not None
        assert training.weight_decay is not None
        self.network, self.prepared, self.codes, self.rows, self.loss = network, prepared, codes, rows, loss
        self.weights = torch.ones(len(prepared)) if weights is None else weights / weights.mean()
        self.rng = np.random.default_rng(training.seed)
        per_group = len(rows) / max(1, len(np.unique(codes[rows])))
        few = network.selected.size <= GATHERED
        self.chunk = 1 if few else int(min(CHUNK_ROWS, max(1, round(per_group))))
        self.batch = max(1, training.batch_size // self.chunk)
        self.optimizer = torch.optim.AdamW(
            parameter_groups([network.module], training.weight_decay), lr=training.learning_rate, fused=True
        )
        chunks = len(chunks_of(codes, rows, self.chunk, self.rng)[0])
        steps = -(-chunks // self.batch) * training.epochs
        self.schedule, self.plateau = schedules(training, self.optimizer, steps)

    def epoch(self, target: Tensor, eta: Tensor) -> float:
        """One pass over the rows for targets (n, ...) with deviations (q, D); returns the mean loss met."""
        self.network.module.train()
        rows, of_group = chunks_of(self.codes, self.rows, self.chunk, self.rng)
        inside = torch.from_numpy(rows >= 0)
        at, groups = torch.from_numpy(np.maximum(rows, 0)), torch.from_numpy(of_group)
        weights, wanted = self.weights[at] * inside, target[at]
        total = 0.0
        for first in range(0, len(rows), self.batch):
            part = slice(first, first + self.batch)
            self.optimizer.zero_grad(set_to_none=True)
            output = self.network(self.prepared[at[part]], eta[groups[part]])
            losses = (weights[part] * self.loss(output, wanted[part])).sum()
            (losses / weights[part].sum()).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            total += float(losses.detach())
        return total / len(self.rows)

    def end_epoch(self, error: float) -> None:
        """Tell the schedule the held-out error of the epoch."""
        if self.plateau is not None:
            self.plateau.step(error)


def chunks_of(
    codes: NDArray[np.int32], rows: NDArray[np.intp], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in random chunks of one group each, in random order.

    Returns
    -------
    rows : ndarray of int64, shape (K, size)
        -1 where a chunk has fewer rows.
    groups : ndarray of int64, shape (K,)

    Examples
    --------
    >>> codes = np.array([0, 0, 0, 1], dtype=np.int32)
    >>> rows, groups = chunks_of(codes, np.arange(4), 2, np.random.default_rng(0))
    >>> sorted(groups.tolist()), sorted(rows.ravel().tolist())
    ([0, 0, 1], [-1, -1, 0, 1, 2, 3])
    """
    shuffled = rng.permutation(rows)
    if size == 1:
        return shuffled[:, None].astype(np.int64), codes[shuffled].astype(np.int64)
    ordered = shuffled[np.argsort(codes[shuffled], kind="stable")]
    of_row = codes[ordered]
    starts = np.flatnonzero(np.concatenate([[True], of_row[1:] != of_row[:-1]]))
    place = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(ordered)]])))
    new = place % size == 0
    chunk = np.cumsum(new) - 1
    out = np.full((int(new.sum()), size), -1, dtype=np.int64)
    out[chunk, place % size] = ordered
    order = rng.permutation(len(out))
    return out[order], of_row[new].astype(np.int64)[order]
