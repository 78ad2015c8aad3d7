"""How networks are trained: the settings a user can change, and what they are when nobody does."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Training:
    """Settings of the training loop; None means chosen from the size of the data.

    Parameters
    ----------
    epochs : int, optional
        Passes over the data at the most. By default 30, more for few rows, so that there are about 5,000 steps.
    batch_size : int, optional
        By default n / 160, between 16 and 500.
    learning_rate : float, default 3e-3
        Peak of the one-cycle schedule of Adam.
    weight_decay : float, default 1e-4
    validation : float, default 0.1
        Share of the rows held out to choose the best epoch; 0 to keep the last one.
    patience : int, optional
        Stop after so many epochs without improvement; by default never before the schedule ends.
    folds : int, optional
        Out-of-fold predictions for the variance components: by default 5 up to 20,000 rows, else 0 (in sample).
    seed : int, default 0
    preset : {"default", "faithful"}
        "faithful" trains method "lmmnn" as the code of Simchoni & Rosset (2023) does, so that their tables can be
        reproduced: batches of 30 rows for one factor, else 100, in the same order every epoch, sorted by level; at most
        500 epochs; the last tenth of the sorted rows held out; stop after 10 epochs without improvement, keeping the
        last weights; Adam with learning rate 1e-3; raw variances from 1; networks with ReLU, dropout 0.25 and inputs as
        they are, unless the formula says otherwise. Only epochs, batch_size, patience and seed can be set beside it.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    validation: float = 0.1
    patience: int | None = None
    folds: int | None = None
    seed: int = 0
    preset: str = "default"

    def sized(self, n: int) -> Training:
        """The settings with every None replaced for n rows."""
        batch = self.batch_size or min(500, max(16, n // 160))
        steps = max(1, -(-n // batch))
        return replace(
            self,
            batch_size=batch,
            epochs=self.epochs or min(100, max(30, -(-5000 // steps))),
            folds=(5 if n <= 20_000 else 0) if self.folds is None else self.folds,
        )
