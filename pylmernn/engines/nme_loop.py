"""The epochs of method "nme": of one network that varies by group, and of cross-fitted ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pylmernn.engines.crossfitting import HISTORY
from pylmernn.training.options import Training

Callback = Callable[[int, float], None]


class Trained(Protocol):
    """What :func:`train` trains."""

    training: Training
    trainer: Any

    @property
    def sigma2(self) -> float:
        """Residual variance."""

    def epoch(self, number: int) -> float:
        """Train over the rows once; returns the loss met."""

    def criterion(self) -> tuple[float, float, float]:
        """Held-out losses at rows of known groups and of new ones, and both as one number."""

    def state(self) -> Any:
        """A copy of all that changes."""


@dataclass(frozen=True)
class Best:
    """What training keeps: an epoch (0 for none yet) and its state."""

    epoch: int
    criterion: float
    state: Any


def train(model: Trained, callback: Callback | None) -> tuple[Best, dict[str, list[float]], str]:
    """Epochs until the schedule or patience ends, or the user.

    Returns
    -------
    best : Best
    history : dict of list
    stopped : str
        Why training ended before its time; empty where it did not.
    """
    training = model.training
    history: dict[str, list[float]] = {name: [] for name in HISTORY}
    best = Best(0, np.inf, model.state())
    try:
        for epoch in range(1, (training.epochs or 0) + 1):
            begun = time.perf_counter()
            loss = model.epoch(epoch)
            rows, levels, criterion = model.criterion()
            entry = (epoch, loss, rows, levels, model.sigma2**0.5, time.perf_counter() - begun)
            for name, value in zip(HISTORY, entry, strict=True):
                history[name].append(float(value))
            model.trainer.end_epoch(criterion)
            if criterion < best.criterion or not np.isfinite(criterion):
                best = Best(epoch, criterion, model.state())
            if callback is not None:
                callback(epoch, criterion)
            if training.patience is not None and epoch - best.epoch >= training.patience:
                break
    except KeyboardInterrupt:
        if best.epoch == 0:
            raise
        return best, history, "training was interrupted"
    except FloatingPointError as error:
        if best.epoch == 0:
            raise ValueError(f"{error}: scale the inputs, or lower the learning rate.") from None
        return best, history, str(error)
    return best, history, ""
