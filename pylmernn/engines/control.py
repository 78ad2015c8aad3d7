"""Settings of the engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from pylmernn.engines.sampling_options import Sampling
from pylmernn.training.options import Training


@dataclass(frozen=True)
class Control:
    """How hard to look for the optimum, and how to factor.

    Parameters
    ----------
    tolerance : float, default 1e-9
        Stop when the next step is predicted to lower the objective by less than this (deviance units).
    max_evaluations : int, default 200
        Evaluations of the objective with its gradient.
    singular_tolerance : float, default 1e-4
        A diagonal entry of Lambda below this is called singular, as in lme4's ``isSingular``.
    dense_limit : int, default 12000
        Columns of the random effects that may be left after the first elimination for an exact dense factor; beyond,
        ``method="auto"`` takes the iterative path.
    probes : int, default 50
        Random vectors of the iterative path's log-determinant.
    seed : int, default 0
        Of those vectors.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Where a dense factor is computed; "auto" is CUDA where there is one and at least 2,000 random effects are left.
        Networks are trained on it too, then on CUDA wherever there is one.
    training : Training
        How networks are trained; see :class:`pylmernn.training.options.Training`.
    sampling : Sampling
        How random effects are sampled by method "mcem"; see :class:`pylmernn.engines.sampling_options.Sampling`.
    """

    tolerance: float = 1e-9
    max_evaluations: int = 200
    singular_tolerance: float = 1e-4
    dense_limit: int = 12_000
    probes: int = 50
    seed: int = 0
    device: str = "auto"
    training: Training = field(default_factory=Training)
    sampling: Sampling = field(default_factory=Sampling)
