"""Adam for a large table of which a batch touches few rows: the cost of a step is that of those rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

HORIZON = 300  # steps after which momentum has died out


class RowAdam:
    """Adam (Kingma & Ba 2015) on the rows of a table, the steps of untouched rows made up when they are next touched.

    A row without gradient still moves under Adam, by its decaying momentum. Those moves are summed in one go, which is
    exact but for epsilon, whose share grows there as the root of the second moment falls.

    Parameters
    ----------
    table : torch.Tensor, shape (q, d), float32
        Changed in place.
    learning_rate : float
    betas : pair of float, default (0.9, 0.999)
    epsilon : float, default 1e-8

    Examples
    --------
    >>> import torch
    >>> table = torch.zeros(3, 2)
    >>> optimizer = RowAdam(table, 0.1)
    >>> optimizer.step(torch.tensor([1]), torch.ones(1, 2))
    >>> table[:, 0].double().numpy().round(3).tolist()
    [0.0, -0.1, 0.0]
    """

    def __init__(
        self,
        table: torch.Tensor,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.table, self.learning_rate, self.betas, self.epsilon = table, learning_rate, betas, epsilon
        self.mean, self.square = torch.zeros_like(table), torch.zeros_like(table)
        self.last = torch.zeros(len(table), dtype=torch.int64)
        self.tail = torch.zeros(len(table), dtype=table.dtype)  # of each row at its last step
        self.steps = 0

    def catch_up(self, rows: torch.Tensor | None = None) -> None:
        """Make up the steps that some rows (all by default) have missed."""
        rows = torch.arange(len(self.table)) if rows is None else rows
        missed = (self.steps - self.last[rows]).to(self.table.dtype)[:, None]
        first, second = self.betas
        tail = self._tail(self.steps)
        moves = self.tail[rows][:, None] - (first / second**0.5) ** missed * tail
        mean, square = self.mean[rows], self.square[rows]
        self.table[rows] -= self.learning_rate * moves * mean / (square.sqrt() + self.epsilon)
        self.mean[rows] = mean * first**missed
        self.square[rows] = square * second**missed
        self.last[rows], self.tail[rows] = self.steps, tail

    def step(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """One step: a gradient (k, d) for distinct rows that :meth:`catch_up` brought up to date, zero elsewhere."""
        first, second = self.betas
        self.steps += 1
        mean = first * self.mean[rows] + (1.0 - first) * gradient
        square = second * self.square[rows] + (1.0 - second) * gradient**2
        rate = self.learning_rate * float(self._correction(np.array(self.steps)))
        self.table[rows] -= rate * mean / (square.sqrt() + self.epsilon)
        self.mean[rows], self.square[rows] = mean, square
        self.last[rows], self.tail[rows] = self.steps, self._tail(self.steps)

    def _correction(self, step: NDArray[Any]) -> NDArray[np.float64]:
        """What both bias corrections multiply the learning rate by."""
        first, second = self.betas
        return np.asarray(np.sqrt(1.0 - second**step) / (1.0 - first**step))

    def _tail(self, step: int) -> float:
        """The moves of all steps after this one, for a first moment and a root of the second of one at this step."""
        ahead = np.arange(1, HORIZON + 1)
        first, second = self.betas
        return float((self._correction(step + ahead) * (first / second**0.5) ** ahead).sum())
