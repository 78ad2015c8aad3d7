"""The no-U-turn sampler: multinomial, iterative, all chains in step.

Hoffman & Gelman (2014, JMLR 15:1593) with the multinomial weights and the generalised criterion of Betancourt (2017,
arXiv:1701.02434, appendix A). Each pass of the loop is one leapfrog step of every chain that still builds its
trajectory; a chain doubles its trajectory whenever it has walked its own subtree, so that chains need not be equally
deep. Instead of recursion, momenta at the left edges of the open subtrees are kept: after an odd number of leaves the
subtrees that end there, one a trailing one bit, are tested against theirs (Phan, Pradhan & Jankowiak 2019,
arXiv:1912.11554, appendix A).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], tuple[Tensor, Tensor]]
#: An energy error beyond this ends the trajectory as divergent.
LARGEST_ERROR = 1000.0


@dataclass(frozen=True)
class Transition:
    """One transition of S chains.

    Attributes
    ----------
    x : Tensor (S, D)
        New positions.
    accept : Tensor (S,)
        Mean acceptance probability over the leaves of the trajectory.
    depth : Tensor (S,) of int
        Doublings of the trajectory.
    divergent : Tensor (S,) of bool
        Whether the energy error exceeded 1000.
    n_gradients : Tensor (S,) of int
        Gradients of the log-density, that at the start included.
    """

    x: Tensor
    accept: Tensor
    depth: Tensor
    divergent: Tensor
    n_gradients: Tensor


class Nuts:
    """Draws from a density on R^D.

    Parameters
    ----------
    log_density : callable
        Of positions (S, D): log-densities (S,) and gradients (S, D). May be set anew between transitions.
    step_size : float
        Of the leapfrog steps; changed by :meth:`adapt`.
    inverse_mass : Tensor (D,), optional
        Diagonal of the inverse mass matrix, best near the posterior variances; by default 1.
    max_depth : int, default 10
        Of the trajectory: at most ``2^max_depth - 1`` steps.
    generator : torch.Generator, optional

    Examples
    --------
    >>> normal = lambda x: (-0.5 * (x * x).sum(1), -x)
    >>> sampler = Nuts(normal, 0.5, generator=torch.Generator().manual_seed(1))
    >>> sampler.transition(torch.zeros(4, 3, dtype=torch.float64)).x.shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        log_density: LogDensity,
        step_size: float,
        inverse_mass: Tensor | None = None,
        max_depth: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        if not step_size > 0:
            raise ValueError(f"the step size is {step_size:g}: it must be positive.")
        self.log_density, self.step_size, self.inverse_mass = log_density, float(step_size), inverse_mass
        self.max_depth, self.generator = max_depth, generator
        self._averaging = DualAveraging.begin(self.step_size)

    def transition(self, x: Tensor) -> Transition:
        """From positions (S, D), one draw a chain."""
        inverse = torch.ones_like(x[0]) if self.inverse_mass is None else self.inverse_mass
        momentum = torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device) / inverse.sqrt()
        value, gradient = self.log_density(x)
        trajectory = Trajectory(x, momentum, gradient, value, inverse, self.max_depth, self.generator)
        while trajectory.growing():
            trajectory.leap(self.log_density, self.step_size)
        return trajectory.finish()

    def adapt(self, accept: Tensor, target: float = 0.8) -> float:
        """Change the step size by dual averaging, towards a mean acceptance; to be called after each warm-up draw.

        Parameters
        ----------
        accept : Tensor (S,)
            Acceptance of the last transition; the chains share one step size.
        target : float, default 0.8

        Returns
        -------
        float
            The new step size.
        """
        share = float(accept.nan_to_num(0.0).mean())
        self._averaging = self._averaging.update(target - share)
        self.step_size = math.exp(self._averaging.log_step)
        return self.step_size

    def settle(self) -> float:
        """Take the average over the adaptation as the step size, for the draws that are kept."""
        if self._averaging.count:
            self.step_size = math.exp(self._averaging.average)
        self._averaging = DualAveraging.begin(self.step_size)
        return self.step_size


@dataclass(frozen=True)
class DualAveraging:
    """Hoffman & Gelman (2014), algorithm 5, with their constants gamma 0.05, t0 10 and kappa 0.75."""

    centre: float
    log_step: float
    average: float = 0.0
    error: float = 0.0
    count: int = 0

    @staticmethod
    def begin(step_size: float) -> DualAveraging:
        """From a first step size, drawn towards ten times it."""
        return DualAveraging(math.log(10.0 * step_size), math.log(step_size))

    def update(self, error: float) -> DualAveraging:
        """After a draw whose acceptance fell short of the target by ``error``."""
        count = self.count + 1
        mean = self.error + (error - self.error) / (count + 10.0)
        log_step = self.centre - mean * math.sqrt(count) / 0.05
        weight = count**-0.75
        average = weight * log_step + (1.0 - weight) * self.average
        return dataclasses.replace(self, log_step=log_step, average=average, error=mean, count=count)


class Trajectory:
    """The trajectories of all chains while they grow; (S, D) each unless said otherwise.

    ``ends`` holds position, momentum and gradient at the backward and at the forward end, ``edge`` those where the
    subtree under way now stands. ``total`` is the sum of momenta of the whole trajectory, ``sub_total`` that of the
    subtree; likewise ``log_weight`` and ``sub_log_weight`` (S,), ``proposal`` and ``sub_proposal``.
    """

    def __init__(
        self,
        x: Tensor,
        momentum: Tensor,
        gradient: Tensor,
        value: Tensor,
        inverse: Tensor,
        max_depth: int,
        generator: torch.Generator | None,
    ) -> None:
        chains, size = x.shape
        self.inverse, self.max_depth, self.generator = inverse, max_depth, generator
        self.ends = tuple([part.clone() for part in (x, momentum, gradient)] for _ in range(2))
        self.edge = [part.clone() for part in (x, momentum, gradient)]
        self.energy = self._energy(value, momentum)
        self.proposal, self.sub_proposal = x.clone(), x.clone()
        self.total, self.sub_total = momentum.clone(), torch.zeros_like(x)
        self.log_weight = torch.zeros_like(value)
        self.sub_log_weight = torch.zeros_like(value)
        self.kept = x.new_empty(2, chains, max(max_depth, 1), size)  # momenta and their sums at open left edges
        self.leaf = torch.zeros(chains, dtype=torch.long, device=x.device)
        self.depth, self.n_leaves = self.leaf.clone(), self.leaf.clone()
        self.direction = torch.ones_like(value)
        self.accept = torch.zeros_like(value)
        self.divergent = torch.zeros(chains, dtype=torch.bool, device=x.device)
        self.active = torch.isfinite(self.energy) if max_depth > 0 else self.divergent.clone()
        self._begin_subtree(self.active)

    def growing(self) -> bool:
        """Whether any chain's trajectory is still open."""
        return bool(self.active.any())

    def finish(self) -> Transition:
        """The outcome."""
        accept = self.accept / self.n_leaves.clamp(min=1)
        return Transition(self.proposal, accept, self.depth, self.divergent, self.n_leaves + 1)

    def leap(self, log_density: LogDensity, step_size: float) -> None:
        """One leapfrog step and its bookkeeping for all chains that are active."""
        x, r, gradient = self.edge
        step = (self.direction * step_size * self.active)[:, None]
        r = r + 0.5 * step * gradient
        x = x + step * (self.inverse * r)
        value, gradient = log_density(x)
        r = r + 0.5 * step * gradient
        error = (self._energy(value, r) - self.energy).nan_to_num(nan=math.inf, posinf=math.inf)
        self.edge = [x, r, gradient]
        self.n_leaves += self.active
        self.accept += torch.where(self.active, (-error).clamp(max=0.0).exp(), 0.0)
        broken = self.active & (error > LARGEST_ERROR)
        self.divergent |= broken
        self._add_leaf(self.active & ~broken, -error)
        turning = self._subtree_turns(self.active & ~broken)
        complete = self.active & ~broken & ~turning & (self.leaf + 1 == 2**self.depth)
        self.leaf += 1
        self.active = self.active & ~broken & ~turning
        self._merge(complete)

    def _energy(self, value: Tensor, momentum: Tensor) -> Tensor:
        return 0.5 * (self.inverse * momentum * momentum).sum(dim=1) - value

    def _uniform(self) -> Tensor:
        like = self.log_weight
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def _begin_subtree(self, chains: Tensor) -> None:
        """Choose a direction and stand at that end, for chains (S,) of bool."""
        forward = self._uniform() < 0.5
        self.direction = torch.where(chains, torch.where(forward, 1.0, -1.0).to(self.direction), self.direction)
        for end, there in zip(self.ends, (chains & ~forward, chains & forward), strict=True):
            for mine, theirs in zip(self.edge, end, strict=True):
                mine[there] = theirs[there]
        self.sub_total[chains] = 0.0
        self.sub_log_weight = torch.where(chains, -math.inf, self.sub_log_weight)
        self.leaf = torch.where(chains, 0, self.leaf)

    def _add_leaf(self, chains: Tensor, log_weight: Tensor) -> None:
        """Let the subtrees of chains (S,) of bool take in the point where they stand."""
        x, r, _ = self.edge
        summed = torch.logaddexp(self.sub_log_weight, log_weight)
        self.sub_log_weight = torch.where(chains, summed, self.sub_log_weight)
        chosen = chains & (self._uniform() < (log_weight - summed).exp())
        self.sub_proposal[chosen] = x[chosen]
        self.sub_total[chains] += r[chains]

    def _subtree_turns(self, chains: Tensor) -> Tensor:
        """Whether any subtree that ends at the present leaf makes a U-turn (S,)."""
        r = self.edge[1]
        slot = bit_counts(self.max_depth, str(r.device))[self.leaf >> 1]
        odd = (self.leaf & 1) == 1
        begins = (chains & ~odd).nonzero()[:, 0]
        self.kept[0, begins, slot[begins]] = r[begins]
        self.kept[1, begins, slot[begins]] = self.sub_total[begins]
        turning = torch.zeros_like(chains)
        rows, trailing = (chains & odd).nonzero()[:, 0], self.leaf
        while len(rows):
            left, before = self.kept[0, rows, slot[rows]], self.kept[1, rows, slot[rows]]
            turning[rows] |= self._turns(left, r[rows], self.sub_total[rows] - before + left)
            slot, trailing = slot - 1, trailing >> 1
            rows = rows[(trailing[rows] & 1) == 1]
        return turning

    def _turns(self, left: Tensor, right: Tensor, total: Tensor) -> Tensor:
        """Betancourt's criterion for the momenta at two ends and their sum in between."""
        velocity = self.inverse * total
        return ((velocity * left).sum(dim=1) <= 0) | ((velocity * right).sum(dim=1) <= 0)

    def _merge(self, complete: Tensor) -> None:
        """Join the complete subtrees of chains (S,) of bool to their trajectories, and begin the next ones."""
        if not bool(complete.any()):
            return
        chosen = complete & (self._uniform() < (self.sub_log_weight - self.log_weight).exp())
        self.proposal[chosen] = self.sub_proposal[chosen]
        joined = torch.logaddexp(self.log_weight, self.sub_log_weight)
        self.log_weight = torch.where(complete, joined, self.log_weight)
        forward = (self.direction > 0)[:, None]
        far = torch.where(forward, self.ends[0][1], self.ends[1][1])
        whole = self.total + self.sub_total
        turning = self._turns(far, self.edge[1], whole)
        self.total[complete] = whole[complete]
        for end, there in zip(self.ends, (complete & ~forward[:, 0], complete & forward[:, 0]), strict=True):
            for mine, theirs in zip(end, self.edge, strict=True):
                mine[there] = theirs[there]
        self.depth += complete
        going = complete & ~turning & (self.depth < self.max_depth)
        self.active &= ~complete | going
        self._begin_subtree(going)


@functools.cache
def bit_counts(bits: int, device: str) -> Tensor:
    """Numbers of one bits of 0 to ``2^bits - 1``."""
    return torch.tensor([i.bit_count() for i in range(2**bits)], device=device)
