"""The state of a network that varies by group while it is fitted, and the steps that change it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines import nme_layers
from pylmernn.engines.alternating import RISE, LinearMember
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import response
from pylmernn.engines.nme_posterior import Groups, Posterior, factor_of, posterior
from pylmernn.engines.nme_reduced import reduced_factor
from pylmernn.engines.nme_training import VaryingTrainer
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.mlp import TabularNet
from pylmernn.mean.networks import Networks, build, specify, weights_of
from pylmernn.mean.varying import GATHERED, Selected, VaryingNetwork, select
from pylmernn.training.holdout import split
from pylmernn.training.loop import count_matrices, squared_error
from pylmernn.training.options import DECAY

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

FULL = 12  # parameters that vary up to which a plain bar has a full covariance matrix
RANKS, ROWS_EACH = (6, 20), 16  # of the deviations beyond: one for so many rows a level, within these limits
FIRST_SHARE = 0.2  # of the variance of what beta leaves, which deviations stand for at first
EM_STEPS = 3  # between two epochs
LAST_ROUNDS, LAST_STEPS = 15, 20  # given theta_bar
LAST_CHANGE = 0.02  # of the deviance by one of these rounds, which ends them
PRIOR_SHARE = 1.0  # of the variance of the response: what deviations of reduced rank stand for before the data speak
COLLAPSED = 1e-3  # share of the variance below which a factor of reduced rank starts anew
PORTION = 8_000_000  # derivatives up to which every epoch solves for all groups, else for some
LAYERED = 100_000_000  # the same where derivatives are held by layers
EVERY = 4  # epochs from one step to the next where derivatives take more than 12 times as much
VISIT = 3  # epochs in which every group has its turn where derivatives are in parts
LEAST_SHARE = 0.1  # of a step in the variances that a portion of the groups may take
HALVINGS = 3  # of a step that linearisation promised too much of


@dataclass(frozen=True)
class State:
    """What training keeps of an epoch."""

    weights: dict[str, Any]
    beta: Tensor
    eta: Tensor
    factor: Tensor | None
    sigma2: float


@dataclass(frozen=True)
class HeldOut:
    """What rows that were not learnt from say of which layers vary, where a bar lets all of them.

    Attributes
    ----------
    rows : int
        Of known groups, learnt from by neither network.
    last, all : float
        Mean loss at these rows where the last layer varies, and where all do: squared error, or deviance.
    noise : float
        Standard error of the difference. None, as both losses, where there are too few rows.
    kept : {"last", "all"}
        "all" where it is better by more than the noise.
    """

    rows: int
    last: float | None
    all: float | None
    noise: float | None
    kept: str


@dataclass(frozen=True)
class Given:
    """What was estimated given theta_bar; see :class:`pylmernn.engines.nme.VaryingEstimates`."""

    sigma: float
    effects: FloatArray
    variances: FloatArray
    factor: FloatArray
    fixed_covariance: FloatArray | None
    objective: float
    exact: bool
    converged: bool = True
    message: str = ""
    held_out: HeldOut | None = None


def usual_rank(n: int, levels: int) -> int:
    """Of the deviations of more parameters than a full covariance matrix takes, where the formula asks for none."""
    least, most = RANKS
    return max(least, min(most, n // (ROWS_EACH * levels)))


class VaryingModel:
    """Network, deviations and variances of one design.

    Parameters
    ----------
    design : Design
        With one term in ``varying`` and one network.
    control : Control
    outputs : int, default 1
        Numbers a row that the network returns.
    decay
        As :meth:`pylmernn.training.options.Training.sized` takes it.
    loss : callable
        Of :class:`VaryingTrainer`.

    Attributes
    ----------
    network : VaryingNetwork
        ``f = scale * network``.
    beta : Tensor of float64, shape (p,)
    eta : Tensor of float64, shape (q, D)
    factor : Tensor of float64, shape (D, D) or (D,), or None
        L with ``Sigma = L L'``; None before the first step.
    sigma2 : float
    """

    def __init__(
        self,
        design: Design,
        control: Control,
        outputs: int = 1,
        decay: Any = DECAY,
        loss: Callable[[Tensor, Tensor], Tensor] = squared_error,
    ) -> None:
        check(design)
        (net,), (term,) = design.nets, design.varying
        self.design, self.term, self.spec = design, term, specify(net, outputs=outputs)
        training = control.training.sized(design.n, count_matrices([build(self.spec)]), decay)
        torch.manual_seed(training.seed)
        module = build(self.spec)
        self.selected = self.parameters_of(module, net.input_names)
        self.network = VaryingNetwork(module, self.selected)
        self.prepared = module.prepare(net.inputs)
        self.codes = torch.from_numpy(term.codes.astype(np.int64))
        # copies by torch: sums by its library depend on where in memory an array begins
        self.y = torch.tensor(response(design))
        self.X = torch.tensor(np.ascontiguousarray(design.X))
        self.weights = torch.ones(design.n).double() if design.weights is None else torch.tensor(design.weights)
        self.scale = float(self.y.std(correction=0))
        self.beta = self.X.new_zeros(design.p)
        self.eta = self.X.new_zeros(term.n_levels, self.selected.size)
        self.factor: Tensor | None = None
        self.sigma2 = self.scale**2
        self.diagonal = term.covariance == "diag"
        self.reduced = term.covariance == "rr" or (not self.diagonal and self.selected.size > FULL)
        self.rank = min(term.rank or usual_rank(design.n, term.n_levels), self.selected.size, term.n_levels)
        self.training = training
        self.held = split(design.n, 1, training.validation, training.holdout, term.codes, training.seed)
        self.rows = torch.from_numpy(self.held.learned(0))
        self.groups = Groups(term.codes[self.rows.numpy()], term.n_levels, self.selected.size)
        numbers = len(self.rows) * self.selected.size
        layered = self.network.by_layers and self.selected.size > GATHERED
        self.by_layers = self.reduced and outputs == 1 and (layered or numbers > PORTION)
        self.every = max(1, min(EVERY, numbers // (4 * PORTION))) if self.by_layers else 1
        self.queue: list[tuple[Tensor, Groups]] = []
        self.known = torch.zeros(term.n_levels, dtype=torch.bool)
        self.trainer = VaryingTrainer(
            self.network, self.prepared, term.codes, self.rows.numpy(), training, self.weights.float(), loss
        )
        self.rise = max(1.0, RISE * (training.epochs or 1))

    def parameters_of(self, module: torch.nn.Module, inputs: Sequence[str]) -> Selected:
        """What varies of the network."""
        return select(module, self.term.selector, self.term.label, inputs)

    def values(self, rows: Tensor, eta: Tensor) -> Tensor:
        """F at some rows with deviations (q, D), (m,)."""
        self.network.module.eval()
        return self.scale * self.network.rows(self.prepared[rows], eta.float(), self.codes[rows]).double()

    def linearised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """F at some rows (m,) and its derivatives (m, D) at the deviations as they are."""
        self.network.module.eval()
        f, J = self.network.jacobian(self.prepared[rows], self.eta.float(), self.codes[rows])
        return self.scale * f.double(), self.scale * J.double()

    def epoch(self, number: int) -> float:
        """Train theta_bar over the rows once, then solve for all else; returns the mean squared error met.

        Raises
        ------
        FloatingPointError
            Where the loss or a deviation is not finite.
        """
        share = min(1.0, (number - 1) / self.rise)
        target = (self.y - self.X @ self.beta) / self.scale
        loss = self.trainer.epoch(target.float(), (share * self.eta).float()) * self.scale**2
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        if len(self.rows) * self.selected.size <= PORTION:
            self.solve(self.rows, self.groups, EM_STEPS)
        elif (number - 1) % self.every == 0:
            for part in self.next_portions():
                self.solve(*part, EM_STEPS if self.every < EVERY else EM_STEPS - 1)
        if not torch.isfinite(self.eta).all():
            raise FloatingPointError(f"the deviations are not finite in epoch {number}")
        return loss

    def solve(self, rows: Tensor, groups: Groups, steps: int, learn: bool = True) -> Posterior:
        """EM steps in the model linearised at the deviations; they then move, and their mean goes to theta_bar."""
        if self.by_layers:
            return nme_layers.solve(self, rows, groups, steps, learn)
        f, J = self.linearised(rows)
        codes, X, root = self.codes[rows], self.X[rows], self.weights[rows].sqrt()
        rest = self.y[rows] - X @ self.beta - f + (J * self.eta[codes]).sum(1)
        if self.factor is None or (self.reduced and learn and self.stands_for_nothing(J @ self.factor, rest)):
            self._start(J, rest, codes)
        assert self.factor is not None
        penalty = self.rank * float((J**2).sum(1).mean()) / (PRIOR_SHARE * self.scale**2)
        share = self.share_of(groups)
        solver = torch.linalg.pinv(root[:, None] * X)
        weighted = root[:, None] * J
        for _ in range(steps):
            found = posterior(weighted, root * rest, self.factor, self.sigma2, groups, self.reduced)
            if not self.reduced:
                old = self.factor**2 if self.diagonal else self.factor @ self.factor.T
                self.factor = factor_of(old + share * (found.second - old))
            elif learn:
                better = reduced_factor(weighted, root * rest, codes, self.factor, found, self.sigma2, penalty)
                self.factor = self.factor + share * (better - self.factor)
            self.sigma2 += share * (max(found.squares / len(rows), 1e-10 * self.scale**2) - self.sigma2)
            step = solver @ (root * (rest - (J * found.effects[codes]).sum(1)))
            self.beta = self.beta + step
            rest = rest - X @ step
        eta = found.effects
        if not self.selected.linear:
            own = self.eta[codes]
            eta = self.shortened(rows, eta, rest - (J * own).sum(1), (J * (eta[codes] - own)).sum(1))
        self.move(eta, codes)
        return found

    def share_of(self, groups: Groups) -> float:
        """Of a step in the variances that groups may take: few say little."""
        return max(LEAST_SHARE, min(1.0, groups.present / self.groups.present))

    def move(self, eta: Tensor, codes: Tensor) -> None:
        """New deviations (q, D) of the groups in ``codes``; the mean of all goes to theta_bar."""
        seen = torch.bincount(codes, minlength=len(eta)) > 0
        eta = torch.where(seen[:, None], eta, self.eta)
        self.known = self.known | seen
        mean = eta[self.known].mean(0)
        self.network.move(mean.float())
        self.eta = torch.where(self.known[:, None], eta - mean, torch.zeros_like(eta))

    def portions(self, rows: Tensor, by_matrix: bool = False) -> list[tuple[Tensor, Groups]]:
        """Rows of random groups, in parts whose derivatives fit into memory; a group is in one part.

        ``by_matrix`` makes parts for derivatives in one matrix even where they could be held by layers.
        """
        codes = self.codes[rows]
        place = torch.from_numpy(self.trainer.rng.permutation(self.term.n_levels))[codes]
        order = torch.argsort(place, stable=True)
        layers = self.by_layers and not by_matrix
        size = sum(sum(shape) for shape in self.selected.shapes) if layers else self.selected.size
        numbers = torch.arange(1, len(rows) + 1) * size // (LAYERED if layers else PORTION)
        ends = torch.searchsorted(place[order], place[order], right=True) - 1  # where each row's group ends
        own = [rows[order[numbers[ends] == k]] for k in numbers[ends].unique()]
        return [(r, Groups(self.term.codes[r.numpy()], self.term.n_levels, self.selected.size)) for r in own]

    def next_portions(self) -> list[tuple[Tensor, Groups]]:
        """Those of the rows to learn from whose turn it is in an epoch."""
        self.queue = self.queue or self.portions(self.rows)
        count = 1 if self.by_layers else -(-len(self.queue) // VISIT)
        taken = self.queue[:count]
        self.queue = self.queue[count:] + taken
        return taken

    def rows_at_a_time(self, most: int) -> int:
        """Rows whose derivatives may be held together."""
        return most if self.network.by_layers else min(most, max(1, PORTION // self.selected.size))

    def start_on(self, rows: Tensor) -> None:
        """First variances from some rows."""
        f, J = self.linearised(rows)
        codes = self.codes[rows]
        self._start(J, self.y[rows] - self.X[rows] @ self.beta - f + (J * self.eta[codes]).sum(1), codes)

    def _start(self, J: Tensor, rest: Tensor, codes: Tensor) -> None:
        """First variances: deviations stand for a share of the variance, all parameters alike."""
        self.sigma2 = float(rest.var(correction=0))
        deviation = (FIRST_SHARE * self.sigma2 / float((J**2).sum(1).mean())) ** 0.5
        ones = J.new_full((J.shape[1],), deviation)
        self.factor = ones if self.diagonal else torch.diag(ones)
        if self.reduced:
            groups = Groups(codes.numpy().astype(np.int32), self.term.n_levels, len(ones))
            effects = posterior(J, rest, ones, self.sigma2, groups).effects
            _, values, vectors = torch.linalg.svd(effects, full_matrices=False)
            self.factor = vectors[: self.rank].T * values[: self.rank] / groups.present**0.5

    @staticmethod
    def stands_for_nothing(A: Tensor, rest: Tensor) -> bool:
        """Whether a factor of reduced rank does, with ``A = J U``; it may before the network has learnt anything."""
        return float((A**2).sum(1).mean()) < COLLAPSED * float(rest.var(correction=0))

    def shortened(self, rows: Tensor, eta: Tensor, rest: Tensor, change: Tensor) -> Tensor:
        """New deviations (q, D), nearer to the old ones in groups whose rows they fit far worse than promised.

        ``rest`` (m,) is the response less the mean at the old ones, ``change`` (m,) what the linearised model adds.
        """
        codes, weights, q = self.codes[rows], self.weights[rows], len(eta)

        def squares(errors: Tensor) -> Tensor:
            return torch.zeros(q, dtype=torch.float64).index_add_(0, codes, weights * errors**2)

        known = self.y[rows] - self.X[rows] @ self.beta
        before = squares(rest)
        for _ in range(HALVINGS):
            promised = squares(rest - change)
            found = squares(known - self.values(rows, eta))
            worse = found > promised + 0.5 * (before - promised).abs() + 2.0 * self.sigma2
            if not worse.any():
                break
            eta = torch.where(worse[:, None], (eta + self.eta) / 2, eta)
            change = torch.where(worse[codes], change / 2, change)
        return eta

    def criterion(self) -> tuple[float, float, float]:
        """Held-out mean squared errors at rows of known groups and of new ones, and both as one number."""
        held = self.held
        found = []
        for whole in (False, True):
            rows = torch.from_numpy(np.flatnonzero((held.member == 0) & (held.whole == whole)))
            if not len(rows):
                found.append(float("nan"))
                continue
            errors = self.y[rows] - self.X[rows] @ self.beta - self.values(rows, self.eta)
            found.append(float((self.weights[rows] * errors**2).sum() / self.weights[rows].sum()))
        both = LinearMember.combine(found[0], found[1], held) if self.training.validation > 0 else float("nan")
        return found[0], found[1], both

    def state(self) -> State:
        """A copy of all that changes."""
        weights = copy.deepcopy(self.network.module.state_dict())
        return State(weights, self.beta.clone(), self.eta.clone(), self.factor, self.sigma2)

    def restore(self, state: State) -> None:
        """An earlier :meth:`state`."""
        self.network.module.load_state_dict(state.weights)
        self.beta, self.eta, self.factor, self.sigma2 = state.beta, state.eta, state.factor, state.sigma2

    def absorb_scale(self) -> None:
        """Put the scale into the last layer, where it is known which one that is."""
        module = self.network.module
        if not isinstance(module, TabularNet):
            return
        last, change = last_layer(module), self.change_of_scale()
        with torch.no_grad():
            last.weight.mul_(self.scale)
            last.bias.mul_(self.scale)
        self.eta = self.eta * change
        if self.factor is not None:
            self.factor = self.factor * (change if self.factor.ndim == 1 else change[:, None])
        self.scale = 1.0

    def change_of_scale(self) -> Tensor:
        """What deviations of each parameter are multiplied by where the last layer takes the scale, (D,)."""
        name = f"mlp.layers.{len(self.network.module.mlp.layers) - 1}"
        sizes = {n: int(np.prod(s)) for n, s in zip(self.selected.names, self.selected.shapes, strict=True)}
        parts = [torch.full((size,), self.scale if n.startswith(name) else 1.0) for n, size in sizes.items()]
        return torch.cat(parts).double()

    def absorb_bias(self) -> None:
        """Put the bias of the last layer into the intercept, where network and design have them."""
        module, constant = self.network.module, constant_column(self.design.X)
        if isinstance(module, TabularNet) and constant is not None:
            last = last_layer(module)
            self.beta[constant] += float(last.bias.detach()) / self.design.X[0, constant]
            torch.nn.init.zeros_(last.bias)

    def mean(self, eta: bool = True) -> FloatArray:
        """``X beta + f`` at all rows, with or without deviations, (n,)."""
        deviations = self.eta if eta else torch.zeros_like(self.eta)
        found = self.X @ self.beta + self.values(torch.arange(self.design.n), deviations)
        return np.asarray(found.numpy())

    def networks(self, best_epoch: int, history: dict[str, list[float]]) -> Networks:
        """The network at theta_bar as data."""
        fitted = self.mean(eta=False) - self.design.X @ self.beta.numpy()
        return Networks(
            specs=(self.spec,),
            members=((weights_of(self.network.module),),),
            scale=self.scale,
            shift=0.0,
            fitted=fitted,
            history={"member": [0.0] * len(history["epoch"]), **history},
            best_epoch=(best_epoch,),
            out_of_fold=False,
            learned=(self.held.member != 0)[None],
        )


def last_layer(module: TabularNet) -> torch.nn.Linear:
    """The layer that returns the values."""
    found = module.mlp.layers[-1]
    assert isinstance(found, torch.nn.Linear)
    return found


def constant_twice(module: torch.nn.Module, selected: Selected, X: FloatArray) -> bool:
    """Whether the bias of the last layer varies and X has a constant too: one parameter then stands in two places."""
    if not isinstance(module, TabularNet) or constant_column(X) is None:
        return False
    return f"mlp.layers.{len(module.mlp.layers) - 1}.bias" in selected.names


def constant_column(X: FloatArray) -> int | None:
    """The first column of X that is constant and not zero."""
    found = [j for j in range(X.shape[1]) if np.ptp(X[:, j]) == 0 and X[0, j] != 0]
    return found[0] if found else None


def check(design: Design) -> None:
    """Raise DesignError for a design that method "nme" does not fit."""
    label = design.varying[0].label
    if len(design.varying) > 1:
        raise DesignError(f"{design.varying[1].label}: this model lets a network vary by one bar only: take it out.")
    if len(design.nets) > 1:
        raise DesignError(f"{label}: this version lets a network vary by group where it is the only one: join them.")
    if design.random:
        raise DesignError(
            f"{label}: this model has no other random terms beside it: take {design.random[0].label} out."
        )
