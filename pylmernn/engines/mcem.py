"""Method ``"mcem"``: generalized models with or without networks by Monte Carlo EM (Tschalzev et al., 2024).

Each epoch has an E-step, a few transitions of a chain of all random effects at once given the linear predictor of the
fixed part (their eq. 3), and an M-step in two halves: the networks are trained on the mean log-density of each row over
the draws kept, and lambda times that without random effects (eq. 6); variances, fixed effects and the dispersion move
by stochastic Newton steps (:mod:`pylmernn.engines.sampledpart`; the paper sets variances to those of the last draw,
eq. 5b, as the preset "faithful" does). The draws of the last few epochs serve together, which keeps the noise of
single draws out of the networks.

After training f is known, and several chains on all rows find the parameters by stochastic approximation (Robbins &
Monro, 1951; averages as Polyak & Juditsky, 1992) and the posterior of the random effects.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.alternating import RISE
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import (
    Callback,
    Fresh,
    Member,
    fitted_networks,
    fresh_networks,
    held_out,
    settle,
    some_rows,
    train,
)
from pylmernn.engines.mcem_estimates import estimates_of
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.sampling_options import Sampling
from pylmernn.families import Family
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.networks import NetSpec, specify
from pylmernn.training.holdout import Split
from pylmernn.training.options import GENERALIZED_DECAY, Training

if TYPE_CHECKING:
    from torch import Tensor

    from pylmernn.engines.sampledpart import SampledPart

FloatArray = NDArray[np.float64]

CRITERION = "mean deviance"
MEMORY = 4  # epochs whose draws train the networks together
SETTLED, FADING = 0.3, 0.6  # share of the epochs with whole steps, and the power by which steps then shorten
EVERY = 5  # epochs between two computations of the information


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callback | None = None,
) -> GeneralizedEstimates | MultinomialEstimates:
    """Estimate a generalized linear mixed model by Monte Carlo EM.

    Parameters
    ----------
    design : Design
        With or without networks.
    family : Family
    nAGQ : int, default 1
        Of the log-likelihood that is reported at the estimates of a model with one linear predictor.
    control : Control, optional
        ``control.sampling`` says how to sample, ``control.training`` how to train, ``control.device`` where.
    callback : callable, optional
        Told of each epoch and its held-out mean deviance.

    Returns
    -------
    GeneralizedEstimates or MultinomialEstimates
        With ``draws``, and ``networks`` where there are any.

    Raises
    ------
    DesignError
        For a sampler that cannot sample this model, or ``nAGQ`` of a multinomial one.
    ValueError
        For an option of a network that does not exist, or where the loss is not finite in the first epoch.
    """
    from pylmernn.engines.sampledpart import sampler_for

    control = control or Control()
    n_classes = len(design.classes) if family.name == "multinomial" else 1
    if n_classes > 1 and nAGQ != 1:
        raise DesignError(
            f"nAGQ is {nAGQ}, but a multinomial model is fitted by sampling, without nodes: leave it out."
        )
    sampling = control.sampling.sized(design.n * n_classes, sampler_for(family, design, control.sampling))
    control = dataclasses.replace(control, sampling=sampling)
    if not design.nets:
        return estimates_of(design, family, n_classes, None, None, nAGQ, control)
    specs = tuple(specify(net, outputs=n_classes) for net in design.nets)
    training = settle(control.training, design, specs, GENERALIZED_DECAY)
    held = held_out(design, training)
    members = new_members(design, family, n_classes, control, training, specs, held)
    best, stopped = train(members, held, training, callback)
    networks = fitted_networks(design, specs, members, held, best, CRITERION, family.absorbs_constant)
    parts = [member.part for member in members]
    estimates = estimates_of(design, family, n_classes, networks, parts, nAGQ, control)
    if stopped:
        message = f"{stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return estimates


class SampledMember(Member):
    """One set of networks in training on the draws of a chain.

    Parameters
    ----------
    design : Design
        Of all rows.
    family : Family
    fresh : Fresh
        Networks and the rows to learn from.
    training : Training
        Sized settings.
    sampling : Sampling
    part : SampledPart
        Of the rows learnt from.
    """

    def __init__(
        self,
        design: Design,
        family: Family,
        fresh: Fresh,
        training: Training,
        sampling: Sampling,
        part: SampledPart,
    ) -> None:
        from pylmernn.engines.effects import Effects
        from pylmernn.training.loop import Trainer

        super().__init__()
        self.design, self.family, self.rows, self.sampling, self.part = design, family, fresh.rows, sampling, part
        self.weights = np.ones(design.n) if design.weights is None else design.weights
        C = part.n_classes
        self.trainer = Trainer(
            fresh.modules, fresh.features, fresh.rows, training, fresh.generator, loss=self.loss, outputs=C
        )
        self._effects = Effects(design.random, part.effects.device)
        self._offset = np.zeros((design.n, 1)) if design.offset is None else design.offset[:, None]
        self._epochs = training.epochs or 1
        self.rise = max(1.0, RISE * self._epochs)
        self._y = self.send(design.y)
        self._w = self.send(self.weights / self.weights.mean())
        kept = 1 if sampling.preset == "faithful" else MEMORY
        self._draws: deque[Tensor] = deque(maxlen=kept)
        self.f = np.zeros((design.n, C))
        self._sample(1)

    @property
    def sigma(self) -> float:
        """Root of the mean over classes of the variance of the first random effects."""
        return float(np.sqrt(self.part.covariances[0][:, 0, 0].mean()))

    def _sample(self, number: int) -> None:
        """The E-step, and the steps in the parameters, for f as it is."""
        K, R = self.sampling.per_epoch or 1, self.sampling.burn_in or 0
        draws = self.part.transitions((self._offset + self.f)[self.rows], K, K - R, every_class=False)
        gain = min(1.0, max(1.0, number - SETTLED * self._epochs) ** -FADING)
        self.part.step(gain, fixed=True, inform=number % EVERY == 1)
        if self.sampling.preset == "faithful":
            self.part.record.append(self.part.b)
        values = self._effects.eta(draws.reshape(-1, *draws.shape[2:])).transpose(0, 1)  # (n, kept, C)
        self._draws.append(values.float().to(self.trainer.device))
        self.fixed = self._offset + self.design.X @ self.part.beta
        self._mean = self._effects.eta(self.part.mean[None])[0].cpu().numpy()

    def loss(self, output, y, weights, fixed, values):  # type: ignore[no-untyped-def]
        """Minus twice the mean log-density of each row (m,) over draws, values (m, K, C), and lambda times without."""
        output = output.reshape(len(output), 1, -1) + fixed[:, None]
        density = self._density(y[:, None], weights[:, None], output + values).mean(dim=1)
        weight = self.sampling.weight_of_fixed_effects
        if weight > 0:
            density = density + weight * self._density(y[:, None], weights[:, None], output)[:, 0]
        return -2.0 * density

    def _density(self, y: Tensor, weights: Tensor, eta: Tensor) -> Tensor:
        """Log-densities (m, K) at linear predictors (m, K, C)."""
        import torch

        phi = self.part.phi
        if isinstance(phi, np.ndarray):
            phi = torch.as_tensor(phi, dtype=eta.dtype, device=eta.device)  # type: ignore[assignment]
        return self.family.density(y, weights, eta if self.part.n_classes > 1 else eta[..., 0], phi)

    def epoch(self, number: int) -> float:
        """See :meth:`Member.epoch`; the loss is the mean deviance at the draws, but for constants."""
        import torch

        share = min(1.0, (number - 1) / self.rise)
        values = share * torch.cat(list(self._draws), dim=1)
        loss, f = self.train_networks(number, self._y, self._w, self.send(self.fixed), values)
        self.f = f.reshape(self.design.n, -1)
        self._sample(number)
        return loss

    def held_out_loss(self, rows: NDArray[np.intp]) -> tuple[float, float]:
        """Minus twice the log-densities of some rows at the mean effects, zero for levels not learnt from."""
        import torch

        if not len(rows):
            return 0.0, 0.0
        eta = torch.from_numpy((self.f + self.fixed + self._mean)[rows, None])
        y, weights = (torch.from_numpy(v[rows, None]) for v in (self.design.y, self.weights))
        return float(-2.0 * self._density(y, weights, eta).sum()), float(self.weights[rows].sum())


def new_members(
    design: Design,
    family: Family,
    n_classes: int,
    control: Control,
    training: Training,
    specs: tuple[NetSpec, ...],
    held: Split,
) -> list[SampledMember]:
    """Fresh networks and a chain for every member."""
    from pylmernn.engines.sampledpart import SampledPart
    from pylmernn.training.loop import device_for

    members = []
    for fresh in fresh_networks(design, specs, training, held, control.device):
        offset = None if design.offset is None else design.offset[fresh.rows]
        learned = dataclasses.replace(some_rows(design, fresh.rows), offset=offset)
        device = device_for(control.device)
        part = SampledPart(learned, family, n_classes, control.sampling, fresh.seed, device=device)
        members.append(SampledMember(design, family, fresh, training, control.sampling, part))
    return members
