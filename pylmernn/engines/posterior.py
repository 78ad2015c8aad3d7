"""What Monte Carlo EM keeps: averages of the parameters while they settle, draws of the random effects after that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.chains import Draws, ess, rhat
from pylmernn.formula.design import RandomTerm

if TYPE_CHECKING:
    from torch import Tensor

    from pylmernn.engines.sampledpart import SampledPart

FloatArray = NDArray[np.float64]

WATCHED = 200  # effects, drawn at random, that R-hat and the effective sample size look at
KEPT_NUMBERS = 20_000_000  # of effects that are kept of all draws; more are thinned


class Averages:
    """Averages of the parameters of a part over transitions (Polyak & Juditsky 1992)."""

    def __init__(self, part: SampledPart) -> None:
        self.part, self.count = part, 0
        self._beta = np.zeros_like(part.beta)
        self._covariances = [np.zeros_like(covariance) for covariance in part.covariances]
        self._phi: FloatArray = np.zeros_like(np.asarray(part.phi, dtype=np.float64))

    def add(self) -> None:
        """Take in the present parameters."""
        self._beta += self.part.beta
        self._phi += self.part.phi
        for total, covariance in zip(self._covariances, self.part.covariances, strict=True):
            total += covariance
        self.count += 1

    def give(self) -> None:
        """Give the part the averages; nothing where there are none."""
        if not self.count:
            return
        part = self.part
        part.beta = self._beta / self.count
        part.covariances = [total / self.count for total in self._covariances]
        phi = np.asarray(self._phi / self.count)
        part.phi = part.likelihood.phi = phi if phi.ndim else float(phi)


class Posterior:
    """What is kept of the draws.

    Parameters
    ----------
    part : SampledPart
    draws : int
        How many there will be.
    """

    def __init__(self, part: SampledPart, draws: int) -> None:
        self.part, self.count = part, 0
        self.terms: Sequence[RandomTerm] = part.design.random
        C = part.n_classes
        numbers = part.effects.size * C * len(part.b) * draws
        self.every = max(1, -(-numbers // KEPT_NUMBERS))
        self._kept: list[list[NDArray[np.float32]]] = [[] for _ in self.terms]
        self._sums = [np.zeros((t.n_levels, t.width, C)) for t in self.terms]
        self._means = [np.zeros((t.n_levels, t.width, C)) for t in self.terms]
        self._products = [np.zeros((t.n_levels, t.width, t.width, C)) for t in self.terms]
        self._variances: list[FloatArray] = []
        self._watched: list[FloatArray] = []
        chosen = np.random.default_rng(0).permutation(part.effects.size)[:WATCHED]
        self._watch = np.sort(chosen)
        self._accept = 0.0

    def add(self, b: Tensor, mean: Tensor) -> None:
        """Take in draws (S, Q, C), and the mean of the distribution that they come from (Q, C)."""
        part = self.part
        drawn_variances = [(drawn**2).mean(dim=1) for drawn in part.effects.split(b)]
        b = b - b.mean(dim=2, keepdim=True) if part.n_classes > 1 else b
        self._variances.append(np.concatenate([v.reshape(len(b), -1).cpu().numpy() for v in drawn_variances], axis=1))
        self._watched.append(b[:, self._watch].cpu().numpy())
        means = part.effects.split(mean[None])
        for k, drawn in enumerate(part.effects.split(b)):
            values = drawn.cpu().numpy()
            self._sums[k] += values.mean(axis=0)
            self._means[k] += means[k][0].cpu().numpy()
            self._products[k] += np.einsum("sqdc,sqec->qdec", values, values) / len(values)
            if self.count % self.every == 0:
                self._kept[k].append(values.astype(np.float32))
        self._accept += part.accept
        self.count += 1

    @property
    def b(self) -> tuple[FloatArray, ...]:
        """Posterior means (q_k, d_k, C), with sum zero over several classes."""
        out = [total / self.count for total in self._means]
        return tuple(b - b.mean(axis=2, keepdims=True) if b.shape[2] > 1 else b for b in out)

    @property
    def covariances(self) -> tuple[FloatArray, ...]:
        """Posterior covariances (q_k, d_k, d_k, C) of each level's effects in each class."""
        out = []
        for total, products in zip(self._sums, self._products, strict=True):
            mean = total / self.count
            out.append(products / self.count - mean[:, :, None] * mean[:, None])
        return tuple(out)

    def draws(self) -> Draws:
        """The draws, with R-hat and the effective sample size."""
        part = self.part
        variances = np.stack(self._variances, axis=1)
        watched = np.stack(self._watched, axis=1).reshape(*variances.shape[:2], -1)
        watched = watched[:, :, np.ptp(watched, axis=(0, 1)) > 0]
        mixing, sizes = np.append(rhat(variances), rhat(watched)), np.append(ess(variances), ess(watched))
        return Draws(
            b=tuple(np.stack(kept, axis=1) for kept in self._kept),
            variances=variances,
            names=tuple(variance_names(self.terms, part.design.classes, part.n_classes)),
            rhat=float(np.nanmax(mixing)),
            ess=float(np.nanmin(sizes)),
            divergences=part.divergences,
            accept=self._accept / self.count,
            sampler=part.sampler,
            n_chains=len(variances),
            n_draws=self.count,
        )


def variance_names(terms: Sequence[RandomTerm], classes: Sequence[str], n_classes: int) -> list[str]:
    """``"var(group.column)"``, with the class where there are several."""
    of_class = [""] if n_classes == 1 else [f".{name}" for name in classes]
    return [f"var({t.group}.{column}{name})" for t in terms for column in t.column_names for name in of_class]
