"""Training of networks and variance parameters together on the mini-batch likelihood."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.batchvariances import Variances
from pylmernn.engines.learned import CoordinatePart, TablePart
from pylmernn.engines.marginal import Covariance, Rows, negative_log_likelihood
from pylmernn.training.loop import batches
from pylmernn.training.rowadam import RowAdam

FloatArray = NDArray[np.float64]
Order = NDArray[np.intp]


@dataclass(frozen=True)
class Schedule:
    """How parameters move.

    Attributes
    ----------
    batch_size : int
    learning_rate : float
        Of the networks and of learned features.
    variance_rate : float
        Learning rate of variance parameters and linear coefficients.
    weight_decay : float
    epsilon : float
        Of Adam.
    total_steps : int or None
        Length of a one-cycle schedule; None for constant learning rates.
    """

    batch_size: int
    learning_rate: float
    variance_rate: float
    weight_decay: float
    epsilon: float
    total_steps: int | None


class MarginalTrainer:
    """Minimizes eq. 14 of Simchoni & Rosset (2023) over batches of rows.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        Networks of the mean; each takes its features and returns (m,).
    features : sequence of torch.Tensor, shape (n, ...)
        Of all rows, prepared.
    X : ndarray, shape (n, p)
        Columns with linear coefficients.
    y : ndarray, shape (n,)
        Offset taken off.
    covariance : Covariance
    variances : Variances
    schedule : Schedule
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        features: Sequence[torch.Tensor],
        X: FloatArray,
        y: FloatArray,
        covariance: Covariance,
        variances: Variances,
        schedule: Schedule,
    ) -> None:
        self.modules, self.covariance, self.variances, self.schedule = list(modules), covariance, variances, schedule
        self.psi = variances.start().requires_grad_()
        self.beta = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
        self.tables: list[TablePart] = [part for part in covariance.parts if isinstance(part, TablePart)]
        self.coordinates: list[CoordinatePart] = [part for part in covariance.parts if isinstance(part, CoordinatePart)]
        linear = [torch.from_numpy(np.ascontiguousarray(X))] if X.shape[1] else []
        self._data = (torch.from_numpy(y), *features, *linear, *covariance.data)
        self._optimizer()

    def _optimizer(self) -> None:
        s = self.schedule
        networks = [*self.modules, *(part.network for part in self.coordinates)]
        weights = [p for network in networks for p in network.parameters() if p.requires_grad]
        scalars = [self.psi, self.beta] if len(self.beta) else [self.psi]
        groups = [
            {"params": weights, "lr": s.learning_rate, "weight_decay": s.weight_decay},
            {"params": scalars, "lr": s.variance_rate, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, eps=s.epsilon, fused=True)
        self.cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
        if s.total_steps is not None:
            rates = [s.learning_rate, s.variance_rate]
            self.cycle = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=s.total_steps + 1)
        for part in self.tables:
            part.optimizer = RowAdam(part.table, s.learning_rate, epsilon=s.epsilon)

    def epoch(self, order: Order) -> float:
        """One pass over rows in a given order; returns the mean negative log-likelihood of a row met on the way.

        Raises
        ------
        FloatingPointError
            Where the likelihood of a batch is not finite; the parameters are then as before that batch.
        """
        for module in self.modules:
            module.train()
        data = self._arranged(order)
        total = 0.0
        for rows in batches(len(order), self.schedule.batch_size):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(data, rows)
            value = loss.item()
            if not np.isfinite(value):
                raise FloatingPointError("the likelihood is not finite")
            loss.backward()
            self._step()
            total += value
        for part in self.tables:
            part.finish_epoch()
        return total / len(order)

    def _step(self) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        for part in self.tables:
            part.step(rate)
        if self.cycle is not None:
            self.cycle.step()
        with torch.no_grad():
            self.variances.clip(self.psi)

    def evaluate(self, order: Order) -> float:
        """Mean negative log-likelihood of a row over batches of these rows; nothing is learned."""
        for module in self.modules:
            module.eval()
        data = self._arranged(order)
        with torch.no_grad():
            size = self.schedule.batch_size
            total = sum(float(self._loss(data, slice(at, at + size))) for at in range(0, len(order), size))
        return total / max(len(order), 1)

    def _arranged(self, order: Order) -> Rows:
        index = torch.from_numpy(order.astype(np.int64))
        return [column.index_select(0, index) for column in self._data]

    def _loss(self, data: Rows, rows: slice) -> torch.Tensor:
        batch = [column[rows] for column in data]
        k = len(self.modules)
        f = self.modules[0](batch[1])
        for module, feature in zip(self.modules[1:], batch[2 : 1 + k], strict=True):
            f = f + module(feature)
        r = batch[0] - f.double()
        at = 1 + k
        if len(self.beta):
            r = r - batch[at] @ self.beta
            at += 1
        sigma2, parameters = self.variances.unpack(self.psi)
        return negative_log_likelihood(r, self.covariance(batch[at:], sigma2, parameters))

    @property
    def _learned(self) -> list[TablePart | CoordinatePart]:
        return [*self.tables, *self.coordinates]

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        with torch.no_grad():
            return float(self.variances.unpack(self.psi)[0]) ** 0.5

    def state(self) -> dict[str, Any]:
        """A copy of all that is learned."""
        return {
            "modules": [copy.deepcopy(module.state_dict()) for module in self.modules],
            "psi": self.psi.detach().clone(),
            "beta": self.beta.detach().clone(),
            "parts": [part.state() for part in self._learned],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """What an earlier :meth:`state` gave."""
        for module, weights in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        with torch.no_grad():
            self.psi.copy_(state["psi"])
            self.beta.copy_(state["beta"])
        for part, value in zip(self._learned, state["parts"], strict=True):
            part.restore(value)


def level_chunks(codes: NDArray[np.int32], rows: Order, size: int, rng: np.random.Generator) -> Order:
    """Rows in random order, but up to ``size`` rows of one level together.

    Rows that share a level tell of its variance only within a batch; batches of few levels tell little of the rest.

    Parameters
    ----------
    codes : ndarray, shape (n,)
        Level of each row.
    rows : ndarray of int
    size : int
    rng : numpy Generator

    Returns
    -------
    ndarray
        A permutation of ``rows``.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0, 1, 0, 1, 0, 1], dtype=np.int32)
    >>> order = level_chunks(codes, np.arange(6), 3, np.random.default_rng(0))
    >>> len(set(codes[order[:3]]))
    1
    """
    mixed = rng.permutation(rows)
    mixed = mixed[np.argsort(codes[mixed], kind="stable")]
    level = codes[mixed]
    first = np.concatenate([[True], level[1:] != level[:-1]])
    place = np.arange(len(mixed)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    chunk = np.cumsum(first | (place % size == 0)) - 1
    return mixed[np.argsort(rng.permutation(chunk[-1] + 1)[chunk], kind="stable")]
