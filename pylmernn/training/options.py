"""How networks are trained: the settings a user can change, and what they are when nobody does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

SCHEDULES = ("one_cycle", "cosine", "constant", "plateau")
HOLDOUTS = ("both", "rows", "levels")
PRESETS = ("default", "faithful")

#: up to so many rows networks are cross-fitted
CROSS_FITTED_ROWS = 20_000
#: weight decay for one weight a row, and at most: of numbers, and of classes and counts
DECAY, GENERALIZED_DECAY = (0.15, 1.0), (1.2, 0.5)


@dataclass(frozen=True)
class Training:
    """Settings of the training loop; None means chosen from the size of the data.

    Parameters
    ----------
    epochs : int, optional
        Passes over the data at the most. By default enough for 5,000 steps (6,000 up to 20,000 rows), between
        30 and 100.
    batch_size : int, optional
        By default n / 32 up to 64, from 10,240 rows on n / 160; between 16 and 500.
    learning_rate : float, default 5e-3
        Of Adam; the peak of the one-cycle schedule, the start of the others.
    weight_decay : float, optional
        Decoupled from the gradient (AdamW), for weight matrices: see :func:`pylmernn.training.loop.parameter_groups`.
        By default 0.15 times the weights in these matrices over n, at most 1: the fewer rows there are for a weight,
        the smaller it should be. In generalized models 8 times as much, at most 0.5, since a class or count tells less
        than a number of little noise.
    schedule : {"one_cycle", "cosine", "constant", "plateau"}, default "one_cycle"
        Of the learning rate: up and down to nothing (Smith & Topin, 2019); down to nothing; as it is; times 0.3
        whenever the held-out error has not fallen for 5 epochs.
    validation : float, default 0.1
        Share of the rows held out to choose the best epoch; 0 to keep the last one. Where networks are cross-fitted,
        the rows that each fold leaves out serve instead, all of them.
    holdout : {"both", "rows", "levels"}, default "both"
        What is held out: single rows, whole levels of the random term with most levels, or half of each. Errors at rows
        of known levels cannot show that a network has learnt the levels from inputs that are constant within them. With
        fewer than 20 levels always rows.
    patience : int, optional
        Stop after so many epochs without improvement; by default never before the schedule ends.
    folds : int, optional
        Cross-fitting: so many sets of networks, each trained without one part of the rows, which it predicts for the
        variance components; their mean predicts new rows. 0 for one set of networks. By default 5 up to 20,000 rows
        (unless more than 1,500 random effects have to be factored together), else 0.
    seed : int, default 0
    preset : {"default", "faithful"}
        "faithful" trains method "lmmnn" as the code of Simchoni & Rosset (2023) does, so that their tables can be
        reproduced: batches of 100 rows (their text; their shipped settings have 30 for one factor) in the same order
        every epoch, sorted by level; at most 500 epochs; the last tenth of the sorted rows held out; stop after 10
        epochs without improvement, keeping the last weights; Adam with learning rate 1e-3; raw variances from 1;
        networks with ReLU, dropout 0.25 and inputs as they are, unless the formula says otherwise; in generalized
        models 5 nodes of the prior, not adaptive. Only epochs, batch_size, patience and seed can be set beside it.
        Method "nme" it trains as the code of Woerner et al. (2023) does, in :func:`pylmernn.lmernn` only: Adam with
        learning rate 0.01 on the network and all deviations at once, full batches, 200 epochs unless ``epochs`` says
        otherwise, the epoch with the smallest training error kept; variances are those of the deviations, falling
        from 1 by at most 2% an epoch, without what is unknown of each group.

    Raises
    ------
    ValueError
        For a setting out of its range; the message names it.

    Examples
    --------
    >>> Training(epochs=20).sized(1000).batch_size
    31
    >>> Training(schedule="linear")
    Traceback (most recent call last):
    ...
    ValueError: schedule is 'linear': use one of one_cycle, cosine, constant, plateau.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 5e-3
    weight_decay: float | None = None
    schedule: str = "one_cycle"
    validation: float = 0.1
    holdout: str = "both"
    patience: int | None = None
    folds: int | None = None
    seed: int = 0
    preset: str = "default"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("folds", self.folds, 0)
        _require_whole("seed", self.seed, 0)
        if self.folds == 1:
            raise ValueError("folds is 1: use 0 for networks that learn from all rows, or at least 2.")
        if not (_is_number(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be a number above 0.")
        if self.weight_decay is not None and not (_is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be a number of at least 0.")
        if not (_is_number(self.validation) and 0 <= self.validation < 0.5):
            raise ValueError(f"validation is {self.validation}: it must be a share of at least 0 and below 0.5.")
        for name, choices in (("schedule", SCHEDULES), ("holdout", HOLDOUTS), ("preset", PRESETS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}': use one of {', '.join(choices)}.")
        if self.validation == 0 and (self.schedule == "plateau" or self.patience is not None):
            what = "schedule 'plateau'" if self.schedule == "plateau" else "patience"
            raise ValueError(f"validation is 0, but {what} needs held-out rows: set validation above 0.")

    def sized(self, n: int, parameters: int = 0, decay: tuple[float, float] = DECAY) -> Training:
        """The settings with every None but that of patience replaced for n rows and so many weights in matrices.

        ``decay`` is the weight decay for one weight a row, and the most that it may be.
        """
        batch = self.batch_size or min(500, max(16, min(64, n // 32), n // 160))
        steps = max(1, -(-n // batch))
        wanted = 6000 if n <= CROSS_FITTED_ROWS else 5000
        return replace(
            self,
            batch_size=batch,
            epochs=self.epochs or min(100, max(30, -(-wanted // steps))),
            weight_decay=min(decay[1], decay[0] * parameters / n) if self.weight_decay is None else self.weight_decay,
            folds=(5 if n <= CROSS_FITTED_ROWS else 0) if self.folds is None else self.folds,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require_whole(name: str, value: Any, least: int) -> None:
    if value is not None and not (_is_number(value) and int(value) == value and value >= least):
        raise ValueError(f"{name} is {value}: it must be a whole number of at least {least}.")
