"""The random part of a generalized model by sampling: the E-step of Monte Carlo EM, and its steps in the parameters.

A chain of all random effects at once goes on while the linear predictor of the fixed part changes. Variances, fixed
effects and the dispersion move by stochastic steps on the marginal likelihood: the score of the complete data,
averaged over draws (Fisher's identity), times the inverse of the information of the model with the effects integrated
out (:mod:`pylmernn.engines.sampled_moments`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pylmernn.covariance import split_theta
from pylmernn.engines import pirls
from pylmernn.engines.classdensity import ClassRows
from pylmernn.engines.classinformation import ClassInformation, class_information, draws_within_reach
from pylmernn.engines.control import Control
from pylmernn.engines.effects import Effects, Prior
from pylmernn.engines.exact import factored_together
from pylmernn.engines.gibbs import Conditional, NormalEffects, PolyaGammaGibbs, draw_shift
from pylmernn.engines.likelihood import Likelihood
from pylmernn.engines.nuts import Nuts
from pylmernn.engines.randompart import DENSE_ENOUGH
from pylmernn.engines.sampled_moments import Information, second_moments
from pylmernn.engines.sampling_options import Sampling
from pylmernn.engines.trajectories import WAIT, Trajectories, many_classes
from pylmernn.families import Family
from pylmernn.formula.design import Design, DesignError

FloatArray = NDArray[np.float64]

SMALLEST_START = 1e-2
CAUTION = 0.25  # of steps by the No-U-Turn sampler, whose chains follow more slowly
WAIT_OF_MANY, STUCK = 10, 0.2  # with many classes: transitions before; an acceptance that is none to follow
CLASSES_A_SWEEP = 20  # drawn in one transition during training, at random, where there are more
# share of the running mean of the effects that gives way at each transition; less where it serves to correct moments,
# for which it should not depend on the draw
FORGOTTEN, REPLACED = 0.3, 0.08


class SampledPart(Trajectories):
    """Chains of all random effects, and the parameters that go with them.

    Parameters
    ----------
    design : Design
        Of the rows to learn from.
    family : Family
    n_classes : int
        C of a multinomial model, else 1.
    sampling : Sampling
    seed : int
    chains : int
    device : str or torch.device

    Attributes
    ----------
    b : Tensor (S, Q, C)
        Effects of each chain.
    beta : ndarray, shape (p, C)
    covariances : list of ndarray, shape (C, d_k, d_k)
    phi : float or ndarray
    divergences : int
    moved : int
        Transitions so far.
    record : list of Tensor (S, Q, C)
        Draws of training, for the faithful preset only.
    starts_at_modes : bool
        Whether chains start at conditional modes instead of draws of the prior.
    joint : ClassInformation or None
        What the standard errors of several classes come from, once it is computed.
    accept : float
        Of the last transition; 1 for Gibbs sampling.
    adapting : bool
        Whether the step size of the No-U-Turn sampler still changes.
    """

    def __init__(
        self,
        design: Design,
        family: Family,
        n_classes: int,
        sampling: Sampling,
        seed: int,
        chains: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self.design, self.family, self.n_classes, self.sampling = design, family, n_classes, sampling
        self.sampler = sampler_for(family, design, sampling)
        self.effects = Effects(design.random, device)
        self.generator = torch.Generator(device=self.effects.device).manual_seed(seed)
        self._chosen = np.random.default_rng(seed)
        self.X = self._send(design.X)
        self.y = self._send(design.y)
        self.weights = self._send(np.ones(design.n) if design.weights is None else design.weights)
        self.covariances = [
            np.broadcast_to(np.eye(t.width), (n_classes, t.width, t.width)).copy() for t in design.random
        ]
        self.beta = np.zeros((design.p, n_classes))
        self.phi = start_dispersion(family, design)
        self.likelihood = Likelihood(family, self.y, self.weights, n_classes, self.phi)
        self.divergences, self.accept, self.moved = 0, 1.0, 0
        self.adapting = True
        self.by_gibbs = self.sampler == "polya-gamma"
        self.by_gradients = not self.by_gibbs and many_classes(n_classes) and sampling.preset != "faithful"
        self._gibbs: PolyaGammaGibbs | None = None
        self._nuts: Nuts | None = None
        self._rows: ClassRows | None = None
        self.joint: ClassInformation | None = None
        if self.sampler == "polya-gamma":
            self._gibbs = PolyaGammaGibbs(self.effects, self.y, self.weights, n_classes, self.generator)
        self.b = self.prior().draw(chains, self.generator)
        self.mean = torch.zeros_like(self.b[0])
        self.known = torch.stack([self._known()] * n_classes, dim=1)
        self.starts_at_modes = self.sampler == "nuts" and n_classes == 1 and sampling.preset != "faithful"
        if self.starts_at_modes:
            self.starts_at_modes = self._start_at_modes()
        self.informations: dict[int, Information] = {}
        self._means: list[list[Tensor]] = []
        self.record: list[Tensor] = []
        self._reset()

    def _send(self, values: FloatArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(self.effects.device)

    def _start_at_modes(self) -> bool:
        """Parameters and effects of Laplace's approximation, where it is in reach; returns whether it is.

        An exponential link may overflow at draws from the prior.
        """
        if factored_together(self.design, DENSE_ENOUGH) > DENSE_ENOUGH:
            return False
        try:
            found = pirls.fit(self.design, self.family, 0, Control(tolerance=1e-2, max_evaluations=20))
        except (np.linalg.LinAlgError, DesignError):
            return False
        self.covariances = [
            (Lambda @ Lambda.T + SMALLEST_START * np.eye(len(Lambda)))[None]
            for Lambda in split_theta(self.design.random, found.theta)
        ]
        self.beta, self.phi = found.beta[:, None], found.phi
        self.likelihood.phi = found.phi
        modes = self.effects.join([self._send(b)[None, :, :, None] for b in found.b])
        self.b, self.mean = modes.expand(len(self.b), -1, -1).clone(), modes[0].clone()
        return True

    def _known(self) -> Tensor:
        """Whether each effect's level has rows (Q,)."""
        seen = [
            np.repeat(np.bincount(term.codes, minlength=term.n_levels) > 0, term.width) for term in self.design.random
        ]
        return torch.from_numpy(np.concatenate(seen)).to(self.effects.device)

    def prior(self) -> Prior:
        """Of the effects, with the present covariances."""
        return Prior(
            self.effects, [self._send(np.asarray(np.linalg.inv(each), dtype=np.float64)) for each in self.covariances]
        )

    # ---- the E-step

    def transitions(
        self, f: FloatArray, number: int, kept: int, every_class: bool = True, fresh: bool = True
    ) -> Tensor:
        """Move the chains for f (n, C) of the rows, and remember what the parameters need of the draws kept.

        Parameters
        ----------
        f : ndarray, shape (n, C)
            Networks and offset.
        number, kept : int
            Transitions, and how many of the last are kept.
        every_class : bool, default True
            Whether to draw the effects of all classes in each, however many.
        fresh : bool, default True
            Whether to forget what the parameters would have needed of earlier draws.

        Returns
        -------
        Tensor (kept, S, Q, C)
        """
        self.offset = self._send(f) + self.X @ self._send(self.beta)
        prior = self.prior()
        if fresh:
            self._reset()
        self._means = [[] for _ in range(self.n_classes)]
        draws = []
        for k in range(number):
            keep = k >= number - kept
            self.b = self._sweep(prior, keep, every_class) if self._gibbs is not None else self._trajectory(prior)
            self.moved += 1
            if keep:
                draws.append(self.b)
                if self._gibbs is None:
                    self._remember(prior)
        self._average()
        return torch.stack(draws)

    def _reset(self) -> None:
        self.moments: list[list[list[Tensor]]] = [[] for _ in range(self.n_classes)]
        self.scores: list[list[Tensor]] = [[] for _ in range(self.n_classes)]
        self.gradients: list[Tensor] = []
        self.last: dict[int, tuple[NormalEffects, Tensor, Tensor]] = {}

    def _sweep(self, prior: Prior, keep: bool, every_class: bool) -> Tensor:
        """One sweep of the Gibbs sampler."""
        assert self._gibbs is not None
        classes = None
        if not every_class and self.n_classes > CLASSES_A_SWEEP:
            classes = sorted(self._chosen.choice(self.n_classes, CLASSES_A_SWEEP, replace=False).tolist())
        self._gibbs.observe = self._see if keep else None
        b = self._gibbs.sweep(self.b, self.offset, prior, classes)
        return b if classes is None else draw_shift(b, prior, self.generator)

    def _see(self, given: Conditional) -> None:
        c = given.c
        self.moments[c].append(second_moments(given))
        self._means[c].append(given.mean.mean(dim=0))
        self.scores[c].append((given.residual @ self.X).mean(dim=0))
        self.last[c] = (given.system, given.omega, given.mean)

    def _average(self) -> None:
        """A running mean of the effects, which forgets."""
        for c, means in enumerate(self._means):
            if means:
                new = torch.stack(means).mean(dim=0)
                share = max(REPLACED, 1.0 / self.moved) if self.by_gradients else FORGOTTEN
                self.mean[:, c] += share * (new - self.mean[:, c])
        self.mean *= self.known

    def conditional_mean(self) -> Tensor:
        """Mean of the effects (Q, C) over chains and the draws kept last, given omega where there is one."""
        return torch.stack([torch.stack(means).mean(dim=0) for means in self._means], dim=1)

    # ---- steps in the parameters

    def settle(self) -> None:
        """Keep the step size of the No-U-Turn sampler from here on."""
        self.adapting = False
        if self._nuts is not None and self.sampling.preset != "faithful":
            self._nuts.settle()

    def inform_of_response(self, draws: Sequence[Tensor] = ()) -> None:
        """Compute the information for standard errors: omega, which nobody has seen, would tell more than there is.

        Of several classes it is that of all together, averaged over some draws (S, Q, C). Where that takes too long it
        is of each class with ``p (1 - p)`` over the share of the other classes: right where shares are small.
        """
        self.joint = None
        C, p, m = self.n_classes, self.design.p, len(self.columns)
        most = draws_within_reach(len(self.y), C, p, m) if C > 1 else 0
        if most:
            chains = torch.cat(list(draws or [self.b]))
            self.joint = self._joint(chains[:: -(-len(chains) // most)])
            return
        omega = self.likelihood.information(self.effects.eta(self.b) + self.offset)
        if C > 1:
            counts = torch.bincount(self.y.long(), self.weights, C)
            omega = omega / (1.0 - counts / counts.sum())
        for c in range(C):
            weights = omega[:, :, c].contiguous()
            system = NormalEffects(self.effects, self.effects.to_cells(weights), self.prior().only(c))
            self.last[c] = (system, weights, self.mean[None, :, c].expand(len(self.b), -1))
            self.informations[c] = self.inform(c)

    def _joint(self, draws: Tensor) -> ClassInformation:
        """The information of all classes together, averaged over draws (R, Q, C)."""
        variances = self._send(np.array([self.covariances[k][:, s, s] for k, s in self.columns]))
        variances = variances.reshape(len(self.columns), self.n_classes)
        found = []
        for b in draws:
            p = torch.softmax(self.effects.eta(b[None])[0] + self.offset, dim=1)
            found.append(
                class_information(
                    self.effects, self.prior(), p, self.weights, self.X, self.mean, self.columns, variances
                )
            )
        names = ("fixed", "variances", "pull")
        return ClassInformation(*(torch.stack([getattr(one, name) for one in found]).mean(dim=0) for name in names))

    def adopt(self, other: SampledPart) -> None:
        """Take over what another part knows of the information in the parameters."""
        self.informations, self.divergences, self.accept = other.informations, other.divergences, other.accept

    def step(self, gain: float, fixed: bool, inform: bool = True, last: bool = False) -> None:
        """Move variances, fixed effects and the dispersion.

        Parameters
        ----------
        gain : float
            1 for a whole step.
        fixed : bool
            Whether the fixed effects move too.
        inform : bool, default True
            Whether to compute the information anew where it is known.
        last : bool, default False
            Whether no draws follow, so that no chain has to keep up.
        """
        if self._gibbs is None and self.sampling.preset != "faithful" and not last:
            many = self.by_gradients
            if self.moved < (WAIT_OF_MANY if many else WAIT) or (many and self.accept < STUCK):
                return
            gain *= 1.0 if many else CAUTION
        if self._gibbs is None:
            inform = inform or not self.informations or not self.by_gradients
            fixed = fixed and inform  # how effects go along with fixed ones has to be that of this draw
            if inform:
                self.inform_all()
        for c in self.moved_classes:
            if self._gibbs is not None and (inform or c not in self.informations):
                self.informations[c] = self.inform(c)
            if self.sampling.preset == "faithful":
                self.last_variances(c)
            else:
                self.step_variances(c, gain)
        if fixed and self.design.p:
            self.step_fixed(gain)
        if np.size(self.family.unconstrained(self.phi)):
            self.step_dispersion(gain)


def sampler_for(family: Family, design: Design, sampling: Sampling) -> str:
    """Which sampler is meant.

    Raises
    ------
    DesignError
        Where Pólya-Gamma variables are asked for, but the model is not logistic or has weights that are not whole.
    """
    weights = design.weights
    whole = weights is None or bool(((weights >= 1) & (weights == np.rint(weights))).all())
    logistic = family.name == "multinomial" or str(family) == "binomial(logit)"
    if sampling.sampler == "polya-gamma" and not (logistic and whole):
        what = str(family) if not logistic else "weights that are not whole numbers"
        raise DesignError(
            f"sampler 'polya-gamma' is for binomial(logit) and multinomial models, not {what}: use 'nuts'."
        )
    if sampling.sampler != "auto":
        return sampling.sampler
    if many_classes(len(design.classes)):
        return "nuts"
    return "polya-gamma" if logistic and whole and sampling.preset != "faithful" else "nuts"


def start_dispersion(family: Family, design: Design) -> float | FloatArray:
    """The dispersion to start from."""
    if family.name == "multinomial":
        return 1.0
    weights = np.ones(design.n) if design.weights is None else design.weights
    return family.begin(design.y, weights)[1]
