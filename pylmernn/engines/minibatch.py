"""Training of networks and variance parameters together on the mini-batch likelihood."""

from __future__ import annotations

import copy
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
    training : Training
        Sized settings.
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
        assert training.batch_size is not None
        self.modules, self.covariance, self.variances = list(modules), covariance, variances
        self.batch_size = training.batch_size
        self.psi = variances.start().requires_grad_()
        self.beta = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
        self.tables: list[TablePart] = [part for part in covariance.parts if isinstance(part, TablePart)]
        self.coordinates: list[CoordinatePart] = [part for part in covariance.parts if isinstance(part, CoordinatePart)]
        linear = [torch.from_numpy(np.ascontiguousarray(X))] if X.shape[1] else []
        self._data = (torch.from_numpy(y), *features, *linear, *covariance.data)
        self._optimize_by(training, steps, variance_rate, epsilon)

    def _optimize_by(self, training: Training, steps: int, variance_rate: float, epsilon: float) -> None:
        """One Adam for the networks, one for variances and coefficients, one for each table; a schedule for both."""
        assert training.weight_decay is not None
        networks = [*self.modules, *(part.network for part in self.coordinates)]
        scalars = [self.psi, self.beta] if len(self.beta) else [self.psi]
        groups = parameter_groups(networks, training.weight_decay)
        self.optimizers = [
            torch.optim.AdamW(groups, lr=training.learning_rate, eps=epsilon, fused=True),
            torch.optim.AdamW(scalars, lr=variance_rate, weight_decay=0.0, eps=epsilon, fused=True),
        ]
        rates = (training.learning_rate, variance_rate)
        self._schedules = [
            schedules(replace(training, learning_rate=rate), optimizer, steps)
            for rate, optimizer in zip(rates, self.optimizers, strict=True)
        ]
        for part in self.tables:
            part.optimizer = RowAdam(part.table, training.learning_rate, epsilon=epsilon)

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
        for rows in batches(len(order), self.batch_size):
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
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
        rate = self.optimizers[0].param_groups[0]["lr"]
        for optimizer in self.optimizers:
            optimizer.step()
        for part in self.tables:
            part.step(rate)
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
            total = sum(float(self._loss(data, rows)) for rows in batches(len(order), self.batch_size))
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
