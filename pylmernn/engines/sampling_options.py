"""Settings of Monte Carlo EM: how random effects are sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

SAMPLERS = ("auto", "polya-gamma", "nuts")
PRESETS = ("default", "faithful")
USUAL_WARMUP = 50
USUAL_DRAWS, LEAST_DRAWS, USUAL_NUMBERS = 200, 40, 20_000_000  # draws, and rows times classes times draws


@dataclass(frozen=True)
class Sampling:
    """Settings of method ``"mcem"``; symbols are those of Tschalzev et al. (2024).

    Parameters
    ----------
    sampler : {"auto", "polya-gamma", "nuts"}, default "auto"
        "polya-gamma" is a Gibbs sampler for binomial (logit) and multinomial models, which has no step size; "nuts" is
        the No-U-Turn sampler for every family. "auto" takes the first where it can, but the second for more than 20
        classes, since Pólya-Gamma variables hold many times what the data tell of a rare class, and follow as slowly.
    chains : int, default 2
        After training; while networks are trained there is one.
    draws : int, optional
        Kept of each chain after training. By default 200; from 100,000 rows (times classes) on fewer, at least 40.
    warmup : int, optional
        Of each chain before these, while the parameters settle: half with whole steps, or more, up to 4 warm-ups,
        while a variance still moves one way, and half with shorter steps. By default half as many as the default
        draws, at most 50, and twice that where the No-U-Turn sampler draws.
    per_epoch : int, optional
        K: transitions in every epoch of training; by default 2 of the No-U-Turn sampler, as in the paper, and 1 of
        "polya-gamma", whose chain goes on from where it was.
    burn_in : int, optional
        R: how many of them are thrown away; by default all but one.
    step_size : float, default 0.1
        epsilon_0 of the No-U-Turn sampler, where it starts; then adapted to an acceptance of 0.8. For more than 20
        classes it starts from the number of effects instead.
    fixed_effects_weight : float, optional
        lambda of their eq. 6: how much the loss without random effects counts in training. 0 by default, which leaves
        the likelihood as it is; 1 for the faithful preset, as in the paper.
    preset : {"default", "faithful"}
        "faithful" does as the authors' code: the No-U-Turn sampler without mass matrix, its step halved whenever
        acceptance falls below 0.001; variances from the last draw alone; effects by the mean of the last 30% of the
        draws of training; no sampling after it.

    Raises
    ------
    ValueError
        For a setting out of its range; the message names it.

    Examples
    --------
    >>> Sampling(chains=4).chains
    4
    >>> Sampling(sampler="gibbs")
    Traceback (most recent call last):
    ...
    ValueError: sampler is 'gibbs': use one of auto, polya-gamma, nuts.
    """

    sampler: str = "auto"
    chains: int = 2
    draws: int | None = None
    warmup: int | None = None
    per_epoch: int | None = None
    burn_in: int | None = None
    step_size: float = 0.1
    fixed_effects_weight: float | None = None
    preset: str = "default"

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("draws", 4), ("warmup", 0), ("per_epoch", 1), ("burn_in", 0)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and int(value) == value and value >= least):
                raise ValueError(f"{name} is {value}: it must be a whole number of at least {least}.")
        if self.burn_in is not None and self.burn_in >= (self.per_epoch or 2):
            raise ValueError(f"burn_in is {self.burn_in} of {self.per_epoch or 2} transitions: keep at least one.")
        if not (_is_number(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size is {self.step_size}: it must be a number above 0.")
        weight = self.fixed_effects_weight
        if weight is not None and not (_is_number(weight) and weight >= 0):
            raise ValueError(f"fixed_effects_weight is {weight}: it must be a number of at least 0.")
        for name, choices in (("sampler", SAMPLERS), ("preset", PRESETS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}': use one of {', '.join(choices)}.")

    def sized(self, numbers: int, sampler: str) -> Sampling:
        """The settings with every None replaced.

        Parameters
        ----------
        numbers : int
            Rows times classes.
        sampler : {"polya-gamma", "nuts"}
            What "auto" means here.

        Examples
        --------
        >>> Sampling().sized(1_000_000, "polya-gamma").draws
        40
        """
        usual = max(LEAST_DRAWS, min(USUAL_DRAWS, USUAL_NUMBERS // numbers))
        usual_warmup = min(USUAL_WARMUP, usual // 2) * (1 if sampler == "polya-gamma" else 2)
        K = self.per_epoch or (1 if sampler == "polya-gamma" else 2)
        return replace(
            self,
            sampler=sampler,
            draws=usual if self.draws is None else self.draws,
            warmup=usual_warmup if self.warmup is None else self.warmup,
            per_epoch=K if self.burn_in is None else max(K, self.burn_in + 1),
            burn_in=K - 1 if self.burn_in is None else self.burn_in,
            fixed_effects_weight=self.weight_of_fixed_effects,
        )

    @property
    def weight_of_fixed_effects(self) -> float:
        """Lambda, with its default filled in."""
        if self.fixed_effects_weight is None:
            return 1.0 if self.preset == "faithful" else 0.0
        return self.fixed_effects_weight


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
