"""Method ``"nme"`` for sequences: a linear-chain CRF on a network, transitions and network varying by group.

The likelihood is that of whole sequences (Lafferty et al., 2001; Woerner et al., 2023, eq. 3, with the logarithm that
it lacks). Between two epochs of Adam on mini-batches of sequences, given the deviations of the groups, these move to
the modes of their posterior by a damped Newton step, ``Sigma := mean(v_i v_i' + H_i^-1)`` as everywhere in method
"nme", and the mean of the deviations moves to what all groups share. The best epoch is that of the best prediction of
the last times of each sequence from its first ones, among the epochs in which deviations are fully in. A term has a
full covariance matrix where it has at most 12 numbers and 4 groups for each variance and covariance, else variances.
At the end Akaike's criterion chooses between these and fewer variances, or none: see
:mod:`pylmernn.engines.nme_crf_choice`. Without the terms of which none is left the network is trained anew.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.alternating import RISE
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import HISTORY
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme import Callback
from pylmernn.engines.nme_crf_choice import Form, choose, kinds
from pylmernn.engines.nme_crf_data import absorb_bias, batch_of, check
from pylmernn.engines.nme_crf_estimates import SequenceEstimates, assembled
from pylmernn.engines.nme_crf_model import (
    Batch,
    GroupPosterior,
    SequenceScores,
    is_diagonal,
    maximise_shared,
    newton_step,
    next_factor,
    tails,
)
from pylmernn.engines.nme_generalized import refuse_faithful
from pylmernn.formula.design import Design, DesignError
from pylmernn.formula.sequences import Sequences
from pylmernn.mean.networks import Networks, build, specify, weights_of
from pylmernn.mean.varying import select
from pylmernn.training.loop import count_matrices, parameter_groups, schedules
from pylmernn.training.options import GENERALIZED_DECAY

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

HELD = 2.0  # times ``validation``: the share of a sequence that is held out, since neighbouring times tell alike
MOST = 150  # numbers that vary in a group: its curvature is found one by one
FIRST_VARIANCE = 0.1  # of each number that varies, at first
AT_LEAST = 8  # sequences of a mini-batch, or a quarter of all where these are fewer
EPOCHS, STEPS = (40, 200), 1500  # if not given: so many epochs, for so many steps
ROUNDS, CHANGE, CALM = 150, 0.02, 2  # of EM at the end, and the change of the deviance, so often, that ends it


def fit(
    design: Design, sequences: Sequences, control: Control | None = None, callback: Callback | None = None
) -> SequenceEstimates:
    """Estimate a sequence model.

    Parameters
    ----------
    design : Design
        With one network, and at most one term in ``varying`` for it and one for transitions.
    sequences : Sequences
        Of the rows of the design.
    control, callback
        As in :func:`pylmernn.engines.alternating.fit`.

    Raises
    ------
    DesignError
        For a design with other terms, several groups in a sequence, sequences of length 1 only, or more than 150
        numbers that vary.
    """
    begun = time.perf_counter()
    control = control or Control()
    refuse_faithful(design, control)
    whole = training = SequenceTraining(design, sequences, control)
    while True:
        history, best_epoch, stopped = training.run(callback)
        deviance, message = choose(training)
        kept = tuple(term for term in training.design.varying if training.forms[term.net == "crf"] != "zero")
        if len(kept) == len(training.design.varying):
            break
        training = SequenceTraining(dataclasses.replace(design, varying=kept), sequences, control)
    absorb_bias(training.model, design.X)
    text = "; ".join(each for each in (stopped, message) if each)
    convergence = Convergence(not text, np.zeros(0), len(history["epoch"]), text, time.perf_counter() - begun)
    return assembled(whole, training, training.networks(best_epoch, history), deviance, convergence)


class SequenceTraining:
    """The fit in progress.

    Parameters
    ----------
    design : Design
    sequences : Sequences
    control : Control
    """

    def __init__(self, design: Design, sequences: Sequences, control: Control) -> None:
        check(design, sequences)
        (net,), self.design = design.nets, design
        S = len(design.classes)
        terms = {term.net: term for term in design.varying}
        self.spec = specify(net, outputs=S)
        training = control.training.sized(design.n, count_matrices([build(self.spec)]), GENERALIZED_DECAY)
        torch.manual_seed(training.seed)
        module = build(self.spec).double()
        bar = terms.get(net.name)
        selected = None if bar is None else select(module, bar.selector, bar.label, net.input_names)
        self.model = SequenceScores(module, selected, "crf" in terms, design.p, S)
        self.training, self.given = training, control.training.epochs
        self.forms: list[Form] = []
        labels, layers = [], []
        for term, size in zip((bar, terms.get("crf")), self.model.sizes, strict=True):
            only = term is not None and is_diagonal(term.covariance, size, term.n_levels, term.label)
            self.forms.append("diagonal" if only else "full")
        if selected is not None:
            labels, layers = list(selected.labels), list(selected.layers)
        if "crf" in terms:
            labels += [f"transitions[{a},{b}]" for a in design.classes for b in design.classes]
            layers += ["transitions"] * S**2
        self.labels, self.layers = tuple(labels), tuple(layers)
        if self.model.size > MOST:
            raise DesignError(
                f"{design.varying[0].label}: {self.model.size} numbers would vary by group, and sequence models take "
                f"up to {MOST}: let fewer vary, such as (nn.last | group), or take fewer hidden units."
            )
        self.data, self.q = batch_of(design, sequences, module.prepare(net.inputs).double()), 0
        if design.varying:
            self.q = design.varying[0].n_levels
        heads = tails(self.data.lengths, HELD * training.validation)
        self.heads = self.data.shortened(heads)
        self.held = int((self.data.lengths - heads).sum())
        D = self.model.size
        self.factor = FIRST_VARIANCE**0.5 * torch.eye(D, dtype=torch.float64)
        self.posterior = GroupPosterior(torch.zeros(self.q, D).double(), torch.zeros(self.q, D, D).double(), 0.0)
        self.rng = np.random.default_rng(training.seed)
        count = len(self.data.lengths)
        wanted = round((training.batch_size or 64) / float(self.data.lengths.double().mean()))
        self.batch = min(count, max(1, wanted, min(AT_LEAST, count // 4)))

    @property
    def v(self) -> Tensor:
        """Deviations as they are, (q, D)."""
        return self.posterior.u @ self.factor.T

    @property
    def epochs(self) -> int:
        """Passes over the sequences."""
        least, most = EPOCHS
        steps = -(-len(self.data.lengths) // self.batch)
        return self.given or min(most, max(least, STEPS // steps))

    def run(self, callback: Callback | None) -> tuple[dict[str, list[float]], int, str]:
        """Train; the best epoch is put back.

        Returns
        -------
        history : dict of list
        best_epoch : int
        stopped : str
            Why training ended before its time; empty where it did not.
        """
        training, history = self.training, {name: list[float]() for name in HISTORY}
        decay = [*parameter_groups([self.model.network], training.weight_decay or 0.0)]
        decay.append({"params": [self.model.beta, self.model.transitions], "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(decay, lr=training.learning_rate)
        epochs = self.epochs
        schedule, plateau = schedules(training, optimizer, epochs * -(-len(self.data.lengths) // self.batch))
        best: tuple[int, float, Any] = (0, np.inf, self.state())
        stopped = ""
        try:
            for epoch in range(1, epochs + 1):
                begun = time.perf_counter()
                share = min(1.0, (epoch - 1) / max(1.0, RISE * epochs))
                loss = self._epoch(optimizer, schedule, share)
                if not np.isfinite(loss):
                    if best[0] == 0:
                        raise ValueError("the loss is not finite: scale the inputs, or lower the learning rate.")
                    stopped = f"the loss is not finite in epoch {epoch}"
                    break
                self._solve(self.heads)
                error = self._held_out()
                entry = (epoch, loss, error, float("nan"), self._spread(), time.perf_counter() - begun)
                for name, value in zip(HISTORY, entry, strict=True):
                    history[name].append(float(value))
                if plateau is not None:
                    plateau.step(error)
                comes_in = share < 1.0 and self.model.size > 0
                if best[0] == 0 or comes_in or error < best[1] or not np.isfinite(error):
                    best = (epoch, error, self.state())
                if callback is not None:
                    callback(epoch, error)
                if training.patience is not None and epoch - best[0] >= training.patience:
                    break
        except KeyboardInterrupt:
            if best[0] == 0:
                raise
            stopped = "training was interrupted"
        self.restore(best[2])
        self.model.eval()
        return history, best[0], stopped

    def state(self) -> tuple[Any, Tensor, GroupPosterior]:
        """What training changes, to be put back by :meth:`restore`."""
        return copy.deepcopy(self.model.state_dict()), self.factor, self.posterior

    def restore(self, state: tuple[Any, Tensor, GroupPosterior]) -> None:
        """Put back what :meth:`state` kept."""
        self.model.load_state_dict(state[0])
        self.factor, self.posterior = state[1:]

    def _spread(self) -> float:
        """Root mean square of the deviations' prior standard deviations."""
        return float((self.factor**2).sum(1).mean().sqrt()) if self.model.size else 0.0

    def _epoch(self, optimizer: Any, schedule: Any, share: float) -> float:
        """Adam over all sequences once; returns the mean deviance a row that was met."""
        self.model.train()
        v, total = share * self.v, 0.0
        order = self.rng.permutation(len(self.heads.lengths))
        for first in range(0, len(order), self.batch):
            part = self.heads.take(torch.from_numpy(order[first : first + self.batch]))
            optimizer.zero_grad(set_to_none=True)
            deviance = self.model.deviances(part, self.model.own(v, part.groups)).sum()
            (deviance / part.lengths.sum()).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            total += float(deviance.detach())
        return total / float(self.heads.lengths.sum())

    def _solve(self, data: Batch) -> None:
        """One EM step: modes, Sigma, and the mean of the deviations to what all groups share."""
        if not self.model.size:
            return
        self.model.eval()
        self._update(newton_step(self.model, data, self.posterior.u, self.factor))

    def _update(self, found: GroupPosterior, leap: bool = False) -> None:
        """The next Sigma, and the mean of the deviations to what all groups share."""
        L = next_factor(found, self.factor, self.model.sizes, kinds(self.forms, self.model.sizes, self.labels), leap)
        v = found.u @ self.factor.T
        mean = v.mean(0)
        self.model.move(mean)
        # deviations stay as they are where Sigma changes, but for directions that it has given up
        u = torch.linalg.lstsq(L, (v - mean).T, driver="gelsd").solution.T
        self.factor, self.posterior = L, GroupPosterior(u, found.variances, found.deviance)

    def _held_out(self) -> float:
        """Mean deviance of the last times of each sequence given the first ones."""
        if not self.held:
            return float("nan")
        self.model.eval()
        with torch.no_grad():
            own = self.model.own(self.v, self.data.groups)
            whole, heads = (self.model.deviances(data, own).sum() for data in (self.data, self.heads))
        return float(whole - heads) / self.held

    def settle(self) -> tuple[float, str]:
        """EM on whole sequences, the network as it is, by leaps where these lower the deviance.

        Returns
        -------
        deviance : float
            -2 log-likelihood.
        message : str
            Empty where EM has converged.
        """
        self.model.eval()
        maximise_shared(self.model, self.data, self.model.own(self.v, self.data.groups))
        if not self.model.size:
            return self._deviance(), ""
        before, leap, small, message = np.inf, True, 0, ""
        kept = self.state()
        for _ in range(ROUNDS):
            self.posterior = newton_step(self.model, self.data, self.posterior.u, self.factor)
            deviance = self._deviance()
            if leap and deviance > before + CHANGE:  # a leap too far
                self.restore(kept)
                leap = False
                continue
            small = small + 1 if before - deviance < CHANGE else 0
            if small == CALM:
                break
            before, kept = deviance, self.state()
            self._update(self.posterior, leap)
            leap = True
        else:
            message = "the likelihood was still rising when EM stopped"
        for _ in range(3):  # modes and variances for the last Sigma
            self.posterior = newton_step(self.model, self.data, self.posterior.u, self.factor)
        return self._deviance(), message

    def _deviance(self) -> float:
        with torch.no_grad():
            rows = self.model.deviances(self.data, self.model.own(self.v, self.data.groups)).sum()
        return float(rows) + self.posterior.deviance

    def networks(self, best_epoch: int, history: dict[str, list[float]]) -> Networks:
        """The network at theta_bar as data."""
        module, inputs = self.model.network, self.design.nets[0].inputs
        with torch.no_grad():
            fitted = module(module.prepare(inputs).double()).numpy()
        return Networks(
            specs=(self.spec,),
            members=((weights_of(module),),),
            scale=1.0,
            shift=0.0,
            fitted=fitted,
            history={"member": [0.0] * len(history["epoch"]), **history},
            best_epoch=(best_epoch,),
            out_of_fold=False,
            criterion="mean deviance",
        )
