"""Values of a fitted sequence model: states, their probabilities, and what varies in new groups."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.engines.nme_crf_model import Batch, SequenceScores, newton_step
from pylmernn.formula.sequences import Sequences
from pylmernn.mean.crf import log_steps, marginals, viterbi
from pylmernn.mean.networks import build

FloatArray = NDArray[np.float64]

STEPS, ENOUGH = 30, 1e-8  # of Newton, and the change that ends them


def model_of(estimates: SequenceEstimates) -> SequenceScores:
    """Network, coefficients and transitions of a fit, in evaluation mode."""
    module = build(estimates.networks.specs[0]).double()
    weights = estimates.networks.members[0][0]
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    p, S = estimates.beta.shape
    model = SequenceScores(module, estimates.selected, estimates.moves, p, S)
    with torch.no_grad():
        model.beta.copy_(torch.from_numpy(estimates.beta))
        model.transitions.copy_(torch.from_numpy(estimates.transitions))
    model.eval()
    return model


def batch_for(
    model: SequenceScores,
    sequences: Sequences,
    X: FloatArray,
    inputs: FloatArray,
    codes: NDArray[np.int32],
    states: NDArray[np.int64] | None = None,
) -> Batch:
    """Padded sequences of rows with columns X (n, p), inputs (n, k), and the group (B,) of each sequence."""
    rows = torch.from_numpy(np.maximum(sequences.rows, 0))
    known = np.zeros(len(X), dtype=np.int64) if states is None else states
    return Batch(
        model.network.prepare(inputs).double()[rows],
        torch.from_numpy(np.ascontiguousarray(X))[rows],
        torch.from_numpy(known)[rows],
        torch.from_numpy(sequences.lengths),
        torch.from_numpy(codes.astype(np.int64)),
    )


def best_states(model: SequenceScores, data: Batch, v: FloatArray) -> NDArray[np.int64]:
    """The most probable states (B, T) of each sequence as a whole, by Viterbi; v (q, D) are deviations."""
    with torch.no_grad():
        found = viterbi(model.batch(data, model.own(torch.from_numpy(v), data.groups)))[0]
    return np.asarray(found.numpy())


def probabilities(model: SequenceScores, data: Batch, v: FloatArray) -> FloatArray:
    """The probability (B, T, S) of each state at each time given the inputs of the whole sequence."""
    with torch.no_grad():
        found = marginals(model.batch(data, model.own(torch.from_numpy(v), data.groups)))
    return np.asarray(found.numpy())


def log_probabilities(model: SequenceScores, data: Batch, v: FloatArray) -> FloatArray:
    """The log-probability (B, T) of each observed state given those before it and the inputs of the whole sequence."""
    with torch.no_grad():
        found = log_steps(model.batch(data, model.own(torch.from_numpy(v), data.groups)), data.states)
    return np.asarray(found.numpy())


def averaged_probabilities(model: SequenceScores, data: Batch, factor: FloatArray, draws: int, seed: int) -> FloatArray:
    """:func:`probabilities`, the mean over draws of deviations from N(0, Sigma)."""
    rng = np.random.default_rng(seed)
    first = Batch(data.prepared, data.X, data.states, data.lengths, torch.zeros_like(data.groups))
    total = np.zeros((*data.states.shape, model.states))
    for _ in range(draws):
        total += probabilities(model, first, (factor @ rng.normal(size=factor.shape[1]))[None])
    return total / draws


def all_probabilities(
    model: SequenceScores, data: Batch, estimates: SequenceEstimates, average: int = 0, seed: int = 0
) -> FloatArray:
    """:func:`probabilities` of the fit; of sequences without deviations the mean over ``average`` draws, if not 0."""
    found = probabilities(model, data, estimates.effects)
    unknown = data.groups.numpy() < 0
    if average and model.size and unknown.any():
        mean = averaged_probabilities(model, data, estimates.factor, average, seed)
        found = np.where(unknown[:, None, None], mean, found)
    return found


def new_effects(model: SequenceScores, data: Batch, factor: FloatArray, q: int) -> tuple[FloatArray, FloatArray]:
    """Deviations of groups from sequences of theirs, all else known.

    Parameters
    ----------
    model : SequenceScores
    data : Batch
        Whose groups are 0 to q - 1.
    factor : ndarray, shape (D, D)
    q : int

    Returns
    -------
    effects : ndarray, shape (q, D)
        Posterior modes.
    variances : ndarray, shape (q, D, D)
    """
    L = torch.from_numpy(factor)
    u = L.new_zeros(q, L.shape[1])
    for _ in range(STEPS):
        found = newton_step(model, data, u, L)
        change, u = float((found.u - u).abs().max()), found.u
        if change < ENOUGH:
            break
    return u.numpy() @ factor.T, factor @ found.variances.numpy() @ factor.T


def deviance(model: SequenceScores, data: Batch, v: FloatArray) -> float:
    """-2 log-likelihood of the states of all sequences, given deviations (q, D)."""
    with torch.no_grad():
        return float(model.deviances(data, model.own(torch.from_numpy(v), data.groups)).sum())
