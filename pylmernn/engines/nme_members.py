"""Cross-fitting of a network whose last layer varies by group: members that each learn from a part of the rows.

All members train side by side, their weights stacked, so that a step costs little more than that of one network. As in
method "alternating" (:mod:`pylmernn.engines.crossfitting`) the rows that a member has not learnt from choose the epoch.
What is made of the members is in :mod:`pylmernn.engines.nme_crossfit`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.alternating import LinearMember
from pylmernn.engines.nme_model import FIRST_SHARE, VaryingModel
from pylmernn.engines.nme_posterior import Groups, factor_of, posterior_of_scores
from pylmernn.mean.mlp import TabularNet
from pylmernn.mean.networks import build
from pylmernn.training.holdout import split
from pylmernn.training.loop import parameter_groups, schedules, squared_error

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

EM_STEPS = 2  # between two epochs
NOISE = 2.0  # standard errors by which an earlier epoch must be better than the last one


class StackedNets:
    """K multilayer perceptrons of one make, as one computation.

    Parameters
    ----------
    nets : list of TabularNet
    """

    def __init__(self, nets: list[TabularNet]) -> None:
        self.make = nets[0]
        named = [dict(net.named_parameters()) for net in nets]
        self.parameters = {
            name: torch.stack([own[name].detach() for own in named]).requires_grad_(True) for name in named[0]
        }
        self.last = f"mlp.layers.{len(self.make.mlp.layers) - 1}"

    def features(self, prepared: Tensor) -> Tensor:
        """Last hidden layers (K, m, d) of prepared inputs (K, m, k)."""
        x, own = prepared, self.parameters
        if self.make.factors:
            k = len(self.make.numeric)
            members = torch.arange(len(x))[:, None]
            parts = [x[:, :, :k]]
            for i in range(len(self.make.factors)):
                codes = x[:, :, k + i].long()
                parts.append(own[f"embeddings.{i}.weight"][members, codes] * (codes > 0)[:, :, None])
            x = torch.cat(parts, dim=2)
        for j, layer in enumerate(list(self.make.mlp.layers)[:-1]):
            name = f"mlp.layers.{j}"
            if isinstance(layer, torch.nn.Linear):
                x = torch.baddbmm(own[f"{name}.bias"][:, None], x, own[f"{name}.weight"].transpose(1, 2))
            elif isinstance(layer, torch.nn.LayerNorm):
                x = torch.nn.functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
                x = x * own[f"{name}.weight"][:, None] + own[f"{name}.bias"][:, None]
            else:
                x = layer(x)
        return x

    @property
    def weights(self) -> Tensor:
        """Of the last layers, the bias last, (K, d + 1)."""
        return torch.cat([self.parameters[f"{self.last}.weight"][:, 0], self.parameters[f"{self.last}.bias"]], dim=1)

    def move(self, by: Tensor) -> None:
        """Add (K, d + 1) to the last layers."""
        with torch.no_grad():
            self.parameters[f"{self.last}.weight"][:, 0] += by[:, :-1]
            self.parameters[f"{self.last}.bias"] += by[:, -1:]

    def groups(self, weight_decay: float) -> list[dict[str, object]]:
        """What an optimiser learns, with weight decay as :func:`parameter_groups` has it."""
        names = {id(p): name for name, p in self.make.named_parameters()}
        found = parameter_groups([self.make], weight_decay)
        return [{**group, "params": [self.parameters[names[id(p)]] for p in group["params"]]} for group in found]

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self.make.train(mode)

    def state(self) -> dict[str, Tensor]:
        """A copy of all weights."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """An earlier :meth:`state`."""
        with torch.no_grad():
            for name, value in state.items():
                self.parameters[name].copy_(value)


@dataclass
class Random:
    """What stands beside the networks of K members.

    Attributes
    ----------
    beta : Tensor, shape (K, p)
    eta : Tensor, shape (K, q, D)
        Deviations of the last layers, for networks as they are before they are multiplied by ``scale``.
    factor : Tensor, shape (K, D, D), or None
    sigma2 : Tensor, shape (K,)
    phi : tuple
        Dispersions of generalized models.
    """

    beta: Tensor
    eta: Tensor
    factor: Tensor | None
    sigma2: Tensor
    phi: tuple[Any, ...] = ()


@dataclass(frozen=True)
class MembersState:
    """What training keeps of an epoch: weights, the rest, and losses (n,) at rows not learnt from."""

    weights: dict[str, Tensor]
    random: Random
    squares: Tensor


class Members:
    """K members in training.

    Parameters
    ----------
    model : VaryingModel
        Whose data and settings they take; ``training.folds`` says how many there are.
    generic : bool, default False
        Only a constant of each group varies, so that no deviation disturbs what all groups share.
    """

    def __init__(self, model: VaryingModel, generic: bool = False) -> None:
        training, term = model.training, model.term
        self.generic = generic
        self.absorbs_constant = False  # whether something else stands for the bias of the last layer
        self.model, self.training = model, training
        self.count = training.folds or 0
        self.held = split(model.design.n, self.count, training.validation, training.holdout, term.codes, training.seed)
        self.rows = [torch.from_numpy(self.held.learned(k)) for k in range(self.count)]
        nets = []
        for k in range(self.count):
            torch.manual_seed(training.seed + k)
            nets.append(build(model.spec))
        self.nets = StackedNets(nets)
        self.member = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(self.rows)])
        self.row = torch.cat(self.rows)
        codes = (self.member * term.n_levels + model.codes[self.row]).numpy()
        self.width = self.nets.weights.shape[1]
        self.groups = Groups(codes.astype(np.int32), self.count * term.n_levels, self.width)
        self.known = torch.zeros(self.count * term.n_levels, dtype=torch.bool)
        self.known[torch.from_numpy(codes)] = True
        self.known = self.known.reshape(self.count, -1)
        self.root = model.weights.sqrt()
        self.importance = (model.weights / model.weights.mean()).float()
        self.solvers = [torch.linalg.pinv(self.root[r, None] * model.X[r]) for r in self.rows]
        zeros = model.y.new_zeros
        self.random = Random(
            zeros(self.count, model.design.p),
            zeros(self.count, term.n_levels, self.width),
            None,
            torch.full((self.count,), model.scale**2, dtype=torch.float64),
        )
        self.optimizer = torch.optim.AdamW(
            self.nets.groups(training.weight_decay or 0.0), lr=training.learning_rate, fused=True
        )
        self.length = min(len(rows) for rows in self.rows)
        self.batch = min(training.batch_size or self.length, self.length)
        steps = -(-self.length // self.batch) * (training.epochs or 1)
        self.schedule, self.plateau = schedules(training, self.optimizer, steps)
        self.rng = np.random.default_rng(training.seed)
        self.trainer = self  # as training loops ask for it
        self.J = self.columns()
        self.squares = model.weights * model.y**2
        self.settled_squares = self.squares.clone()

    def epoch(self, number: int) -> float:
        """Train over the rows once, then solve for all else; returns the mean squared error met.

        Raises
        ------
        FloatingPointError
            Where the loss is not finite.
        """
        model = self.model
        share = min(1.0, (number - 1) / model.rise)
        drawn = [rows[torch.from_numpy(self.rng.permutation(len(rows))[: self.length])] for rows in self.rows]
        rows = torch.stack(drawn)
        eta = (share * self.random.eta).float()
        own = eta[torch.arange(self.count)[:, None], model.codes[rows]]
        loss = self.learn(model.prepared[rows], self.targets(rows), own, self.importance[rows]) * model.scale**2
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {number}")
        self.solve()
        return loss

    def targets(self, rows: Tensor) -> Tensor:
        """What the networks learn at rows (K, m), as :meth:`loss` takes it."""
        model = self.model
        return ((model.y[rows] - torch.einsum("knp,kp->kn", model.X[rows], self.random.beta)) / model.scale).float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of rows, (K, m)."""
        return squared_error(output, target)

    def learn(self, prepared: Tensor, target: Tensor, own: Tensor, weights: Tensor) -> float:
        """Steps of the optimiser through rows (K, m, ...) in batches; returns the mean loss met."""
        self.nets.train(True)
        total = 0.0
        for first in range(0, self.length, self.batch):
            part = slice(first, first + self.batch)
            self.optimizer.zero_grad(set_to_none=True)
            features = self.nets.features(prepared[:, part])
            varied = self.nets.weights[:, None] + own[:, part]
            output = (features * varied[:, :, :-1]).sum(2) + varied[:, :, -1]
            losses = (weights[:, part] * self.loss(output, target[:, part])).mean(1)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            total += float(losses.detach().mean()) * losses.shape[0] * output.shape[1]
        return total / (self.count * self.length)

    def columns(self, prepared: Tensor | None = None) -> Tensor:
        """Scaled features and a constant at prepared inputs (m, k), by default all rows, (K, m, D)."""
        inputs = self.model.prepared if prepared is None else prepared
        self.nets.train(False)
        with torch.no_grad():
            features = self.nets.features(inputs.expand(self.count, -1, -1)).double()
        return self.model.scale * torch.cat([features, torch.ones_like(features[:, :, :1])], dim=2)

    def solve(self) -> None:
        """EM steps; the mean of the deviations of a member then moves into its network, which changes no value."""
        model, now = self.model, self.random
        self.J = J = self.columns()
        f = torch.einsum("knd,kd->kn", J, self.nets.weights.detach().double())
        rest = model.y - torch.einsum("np,kp->kn", model.X, now.beta) - f
        J, rest = J[self.member, self.row], rest[self.member, self.row]
        counts = torch.tensor([len(rows) for rows in self.rows])
        if now.factor is None:
            now.sigma2 = torch.stack([part.var(correction=0) for part in rest.split(counts.tolist())])
            now.factor = self.first_factor(J, FIRST_SHARE * now.sigma2)
        root, codes = self.root[self.row], model.codes[self.row]
        for _ in range(EM_STEPS):
            noise = (root / now.sigma2.sqrt()[self.member])[:, None]
            A = noise * torch.cat([part @ L for part, L in zip(J.split(counts.tolist()), now.factor, strict=True)])
            found = posterior_of_scores(A, noise[:, 0] * rest, now.factor[0], 1.0, self.groups, variances=True)
            assert found.score_variances is not None
            scores = found.scores.reshape(self.count, -1, self.width)
            spread = found.score_variances.reshape(self.count, -1, self.width, self.width)
            moments = torch.einsum("kqi,kqj->kij", scores, scores) + (spread * self.known[:, :, None, None]).sum(1)
            moments = moments / self.known.sum(1)[:, None, None]
            left = noise[:, 0] * rest - (A * scores[self.member, codes]).sum(1)
            traces = self.width - torch.einsum("kqdd->kq", spread)
            squares = torch.zeros(self.count).double().index_add_(0, self.member, left**2) + traces.sum(1)
            now.eta = scores @ now.factor.transpose(1, 2)
            now.factor = torch.stack([factor_of(L @ M @ L.T) for L, M in zip(now.factor, moments, strict=True)])
            now.sigma2 = (now.sigma2 * squares / counts).clamp(min=1e-10 * model.scale**2)
            left = root * (rest - (J * now.eta[self.member, codes]).sum(1))
            step = torch.stack([s @ e for s, e in zip(self.solvers, left.split(counts.tolist()), strict=True)])
            now.beta = now.beta + step
            rest = rest - (model.X[self.row] * step[self.member]).sum(1)
        mean = (now.eta * self.known[:, :, None]).sum(1) / self.known.sum(1)[:, None]
        self.nets.move(mean.float())
        now.eta = (now.eta - mean[:, None]) * self.known[:, :, None]

    def first_factor(self, J: Tensor, variance: Tensor) -> Tensor:
        """Of deviations with a variance (K,) of values, all weights alike, for features (n_1 + ... + n_K, D)."""
        varies = torch.ones(self.width).double()
        if self.generic:  # what begins at zero stays there
            varies[:-1] = 0.0
        parts = J.split([len(rows) for rows in self.rows])
        size = torch.stack([((part * varies) ** 2).sum(1).mean() for part in parts])
        return torch.diag(varies) * (variance / size).sqrt()[:, None, None]

    def constants(self) -> FloatArray:
        """What members may put into f or beside it, (n, c)."""
        return self.model.design.X

    def criterion(self) -> tuple[float, float, float]:
        """Mean squared errors at rows held out of known groups and of new ones, and both as one number."""
        model, held = self.model, self.held
        self.squares = self.held_out_losses()
        found = []
        for whole in (False, True):
            rows = torch.from_numpy(np.flatnonzero((held.member >= 0) & (held.whole == whole)))
            found.append(float(self.squares[rows].sum() / model.weights[rows].sum()) if len(rows) else float("nan"))
        both = LinearMember.combine(found[0], found[1], held) if self.training.validation > 0 else float("nan")
        return found[0], found[1], both

    def held_out_losses(self) -> Tensor:
        """Weighted squared errors (n,) at rows, each of the member that has not learnt from it."""
        return self.model.weights * (self.model.y - self.out_of_fold()) ** 2

    def out_of_fold(self) -> Tensor:
        """The mean of each row with its group's deviations, by the member that has not learnt from it, (n,)."""
        member = torch.from_numpy(self.held.member)
        own = self.nets.weights.detach().double()[member] + self.random.eta[member, self.model.codes]
        values = (self.J[member, torch.arange(len(member))] * own).sum(1)
        return (self.model.X * self.random.beta[member]).sum(1) + values

    @property
    def sigma2(self) -> float:
        """Mean residual variance of the members."""
        return float(self.random.sigma2.mean())

    def end_epoch(self, error: float) -> None:
        """Tell the schedule the held-out error of the epoch."""
        if self.plateau is not None:
            self.plateau.step(error)

    def state(self) -> MembersState:
        """A copy of all that changes."""
        return MembersState(self.nets.state(), copy.copy(self.random), self.squares)

    def restore(self, best: MembersState, finished: bool) -> bool:
        """Go back to the best epoch; returns whether it did.

        Where training is ``finished`` only if held-out errors were smaller then beyond noise: among epochs that differ
        by noise it would else be an early one, in which weights still jump about.
        """
        gain = self.squares - best.squares
        noise = float(gain.std(correction=0)) / len(gain) ** 0.5
        if finished and float(gain.mean()) <= NOISE * noise:
            return False
        self.nets.restore(best.weights)
        self.random, self.squares, self.J = best.random, best.squares, self.columns()
        return True
