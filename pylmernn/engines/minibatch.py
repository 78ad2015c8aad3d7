"""Training of networks and variance parameters together on the mini-batch likelihood."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.batchorders import Order
from pylmernn.engines.batchvariances import Variances
from pylmernn.engines.learned import CoordinatePart, TablePart
from pylmernn.engines.marginal import Covariance, Rows, negative_log_likelihood
from pylmernn.training.loop import batches, parameter_groups, schedules
from pylmernn.training.options import Training
from pylmernn.training.rowadam import RowAdam

FloatArray = NDArray[np.float64]


class BatchTrainer(ABC):
    """Minimizes a negative log-likelihood over batches of rows, in networks, coefficients and variances together.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        Networks of the mean; each takes its features and returns (m,).
    features : sequence of torch.Tensor, shape (n, ...)
        Of all rows, prepared.
    X : ndarray, shape (n, p)
        Columns with linear coefficients.
    more : sequence of torch.Tensor, shape (n, ...)
        What else the likelihood takes of the rows.
    variances : Variances
    training : Training
        Sized settings.

    Attributes
    ----------
    psi : torch.Tensor
        Of the variances.
    beta : torch.Tensor, shape (p,)
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        features: Sequence[torch.Tensor],
        X: FloatArray,
        more: Sequence[torch.Tensor],
        variances: Variances,
        training: Training,
    ) -> None:
        assert training.batch_size is not None
        self.modules, self.features, self.variances = list(modules), list(features), variances
        self.batch_size = training.batch_size
        self.psi = variances.start().requires_grad_()
        self.beta = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
        self.X = torch.from_numpy(np.ascontiguousarray(X))
        linear = [self.X] if X.shape[1] else []
        self._data = (*self.features, *linear, *more)

    @property
    @abstractmethod
    def sigma(self) -> float:
        """A standard deviation to follow: that of the residuals where there is one."""

    @abstractmethod
    def _loss(self, fixed: torch.Tensor, more: Rows) -> torch.Tensor:
        """The negative log-likelihood of a batch, from ``f + X beta`` (m,) and what else it takes of the rows."""

    def _optimize(
        self,
        networks: Sequence[torch.nn.Module],
        scalars: Sequence[torch.Tensor],
        training: Training,
        steps: int,
        variance_rate: float,
        epsilon: float,
    ) -> None:
        """One Adam for networks, one for variances and coefficients; a schedule for both, over all steps."""
        assert training.weight_decay is not None
        groups = parameter_groups(networks, training.weight_decay)
        chosen = [scalar for scalar in scalars if scalar.numel()]
        self.optimizers = [
            torch.optim.AdamW(groups, lr=training.learning_rate, eps=epsilon, fused=True),
            torch.optim.AdamW(chosen, lr=variance_rate, weight_decay=0.0, eps=epsilon, fused=True),
        ]
        rates = (training.learning_rate, variance_rate)
        self._schedules = [
            schedules(replace(training, learning_rate=rate), optimizer, steps)
            for rate, optimizer in zip(rates, self.optimizers, strict=True)
        ]

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
        for rows in self._batches(order):
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss = self._loss_of(data, rows)
            value = loss.item()
            if not np.isfinite(value):
                raise FloatingPointError("the likelihood is not finite")
            loss.backward()
            self._step()
            total += value
        return total / len(order)

    def _batches(self, order: Order) -> list[slice]:
        return batches(len(order), self.batch_size)

    def _step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        for by_step, _ in self._schedules:
            if by_step is not None:
                by_step.step()
        with torch.no_grad():
            self.variances.clip(self.psi)

    def end_epoch(self, value: float) -> None:
        """Tell the schedule the held-out likelihood of the epoch."""
        for _, by_epoch in self._schedules:
            if by_epoch is not None:
                by_epoch.step(value)

    def evaluate(self, order: Order) -> float:
        """Mean negative log-likelihood of a row over batches of these rows; nothing is learned."""
        for module in self.modules:
            module.eval()
        data = self._arranged(order)
        with torch.no_grad():
            total = sum(float(self._loss_of(data, rows)) for rows in self._batches(order))
        return total / max(len(order), 1)

    def _arranged(self, order: Order) -> Rows:
        index = torch.from_numpy(order.astype(np.int64))
        return [column.index_select(0, index) for column in self._data]

    def _loss_of(self, data: Rows, rows: slice) -> torch.Tensor:
        batch = [column[rows] for column in data]
        at = len(self.modules)
        f = self.modules[0](batch[0])
        for module, feature in zip(self.modules[1:], batch[1:at], strict=True):
            f = f + module(feature)
        fixed = f.double()
        if len(self.beta):
            fixed = fixed + batch[at] @ self.beta
            at += 1
        return self._loss(fixed, batch[at:])

    def state(self) -> dict[str, Any]:
        """A copy of all that is learned."""
        return {
            "modules": [copy.deepcopy(module.state_dict()) for module in self.modules],
            "psi": self.psi.detach().clone(),
            "beta": self.beta.detach().clone(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """What an earlier :meth:`state` gave."""
        for module, weights in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        with torch.no_grad():
            self.psi.copy_(state["psi"])
            self.beta.copy_(state["beta"])


class MarginalTrainer(BatchTrainer):
    """Minimizes eq. 14 of Simchoni & Rosset (2023): the exact likelihood of each batch.

    Parameters
    ----------
    modules, features, X, variances, training
        As in :class:`BatchTrainer`.
    y : ndarray, shape (n,)
        Offset taken off.
    covariance : Covariance
    steps : int
        Of all epochs, for the schedule.
    variance_rate : float
        Learning rate of variance parameters and linear coefficients.
    epsilon : float
        Of Adam.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        features: Sequence[torch.Tensor],
        X: FloatArray,
        y: FloatArray,
        covariance: Covariance,
        variances: Variances,
        training: Training,
        steps: int,
        variance_rate: float,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(modules, features, X, [torch.from_numpy(y), *covariance.data], variances, training)
        self.covariance = covariance
        self.tables: list[TablePart] = [part for part in covariance.parts if isinstance(part, TablePart)]
        self.coordinates: list[CoordinatePart] = [part for part in covariance.parts if isinstance(part, CoordinatePart)]
        networks = [*self.modules, *(part.network for part in self.coordinates)]
        self._optimize(networks, [self.psi, self.beta], training, steps, variance_rate, epsilon)
        for part in self.tables:
            part.optimizer = RowAdam(part.table, training.learning_rate, epsilon=epsilon)

    def epoch(self, order: Order) -> float:
        """See :meth:`BatchTrainer.epoch`."""
        loss = super().epoch(order)
        for part in self.tables:
            part.finish_epoch()
        return loss

    def _step(self) -> None:
        rate = self.optimizers[0].param_groups[0]["lr"]
        super()._step()
        for part in self.tables:
            part.step(rate)

    def _loss(self, fixed: torch.Tensor, more: Rows) -> torch.Tensor:
        sigma2, parameters = self.variances.unpack(self.psi)
        return negative_log_likelihood(more[0] - fixed, self.covariance(more[1:], sigma2, parameters))

    @property
    def _learned(self) -> list[TablePart | CoordinatePart]:
        return [*self.tables, *self.coordinates]

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        with torch.no_grad():
            return float(self.variances.unpack(self.psi)[0]) ** 0.5

    def state(self) -> dict[str, Any]:
        """See :meth:`BatchTrainer.state`."""
        return {**super().state(), "parts": [part.state() for part in self._learned]}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`BatchTrainer.restore`."""
        super().restore(state)
        for part, value in zip(self._learned, state["parts"], strict=True):
            part.restore(value)
