"""Draws of all random effects by the No-U-Turn sampler, and what they tell of the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pylmernn.engines.classdensity import ClassDensity, ClassRows
from pylmernn.engines.effects import Prior
from pylmernn.engines.gibbs import draw_shift
from pylmernn.engines.likelihood import EffectsDensity
from pylmernn.engines.nuts import Nuts
from pylmernn.engines.sampled_moments import corrected_means, corrected_moments
from pylmernn.engines.sampledsteps import ParameterSteps
from pylmernn.engines.sampling_options import Sampling

MANY_CLASSES = 20  # above, the No-U-Turn sampler is the faster one: omega tells far more than rare classes do
WAIT = 5  # transitions before the running mean of the effects is of use
# doublings of a trajectory at most, and with many classes, whose D effects have a step of at most 3 / D^(1/4); how fast
# that changes with their acceptance, which is near 0 or 1 for single trajectories
LONG_TRAJECTORY, SHORT_TRAJECTORY, STEP_OF_MANY, GENTLE = 10, 4, 3.0, 0.3
LEAST_ACCEPTANCE, TARGET = 1e-3, 0.8  # of the faithful preset, and of the default


def many_classes(n_classes: int) -> bool:
    """Whether a class is so rare that the No-U-Turn sampler with gradients is the faster one."""
    return n_classes > MANY_CLASSES


class Trajectories(ParameterSteps):
    """The part of :class:`pylmernn.engines.sampledpart.SampledPart` that draws by the No-U-Turn sampler.

    Attributes
    ----------
    accept : float
        Of the last transition.
    adapting : bool
        Whether step size and mass matrix still change.
    moved, divergences : int
        Transitions so far, and how many of them diverged.
    """

    sampling: Sampling
    generator: torch.Generator
    y: Tensor
    accept: float
    adapting: bool
    moved: int
    divergences: int
    _nuts: Nuts | None
    _rows: ClassRows | None
    _means: list[list[Tensor]]

    def _density(self, prior: Prior) -> EffectsDensity | ClassDensity:
        """Of the effects at the present offset."""
        if not many_classes(self.n_classes):
            return EffectsDensity(self.effects, prior, self.likelihood, self.offset)
        if self._rows is None:
            self._rows = ClassRows(self.effects, self.y, self.weights, self.n_classes)
        return ClassDensity(self._rows, prior, self.offset)

    def _trajectory(self, prior: Prior) -> Tensor:
        """One transition of the No-U-Turn sampler."""
        density = self._density(prior)
        x = self.b.reshape(len(self.b), -1)
        faithful = self.sampling.preset == "faithful"
        many = self.by_gradients
        if self._nuts is None:
            size, depth = self.sampling.step_size, LONG_TRAJECTORY
            if many:
                size, depth = STEP_OF_MANY * x.shape[1] ** -0.25, SHORT_TRAJECTORY
            self._nuts = Nuts(density, size, None, depth, self.generator)
        nuts = self._nuts
        nuts.log_density = density
        if not faithful and (self.adapting or nuts.inverse_mass is None):
            nuts.inverse_mass = density.inverse_mass(x if self.moved < WAIT else self.mean.reshape(1, -1))
        moved = nuts.transition(x)
        self.accept = float(moved.accept.mean())
        self.divergences += int(moved.divergent.sum())
        if faithful and self.accept < LEAST_ACCEPTANCE:
            nuts.step_size /= 2.0
        elif many and self.adapting:
            longer = nuts.step_size * math.exp(GENTLE * (self.accept - TARGET))
            nuts.step_size = min(longer, STEP_OF_MANY * x.shape[1] ** -0.25)
        elif not faithful and self.adapting:
            nuts.adapt(moved.accept, TARGET)
        b = density.unflatten(moved.x)
        return draw_shift(b, prior, self.generator) if self.n_classes > 1 and not faithful else b

    def _remember(self, prior: Prior) -> None:
        """What the parameters need of a draw by the No-U-Turn sampler.

        With many classes gradients take most of the noise out of means and moments, see :func:`corrected_moments`.
        """
        assert self._nuts is not None
        self._last_density = density = self._density(prior)
        gradient = density.unflatten(density(self.b.reshape(len(self.b), -1))[1])
        spread = torch.zeros_like(self.mean)
        if self.by_gradients and self._nuts.inverse_mass is not None:
            spread = self._nuts.inverse_mass.reshape(self.mean.shape)
        step = spread * gradient
        moments = corrected_moments(self.effects, self.b, self.mean, step, spread)
        means, scores = corrected_means(self.b, self.mean, step), density.fixed_score(self.b, self.X)
        for c in range(self.n_classes):
            self.moments[c].append([moment[:, :, c] for moment in moments])
            self._means[c].append(means[:, c])
            self.scores[c].append(scores[:, c])
        self.gradients.append(gradient.mean(dim=0))
