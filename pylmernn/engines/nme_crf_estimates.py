"""What a fitted sequence model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme_crf_choice import Form
from pylmernn.engines.nme_crf_information import fixed_covariance
from pylmernn.mean.networks import Networks
from pylmernn.mean.varying import Selected

if TYPE_CHECKING:
    from pylmernn.engines.nme_crf import SequenceTraining

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SequenceEstimates:
    """A fitted sequence model.

    Attributes
    ----------
    method : str
    classes : tuple of str, length S
        The states.
    beta : ndarray, shape (p, S)
    transitions : ndarray, shape (S, S)
        Of a group of which nothing is known, T_bar; from row to column.
    networks : Networks
        With theta_bar; ``fitted`` (n, S) is f without deviations.
    selected : Selected or None
        What varies of the network.
    moves : bool
        Whether transitions vary.
    effects : ndarray, shape (q, D)
        Modes of what varies: of the network, then of transitions row by row.
    variances : ndarray, shape (q, D, D)
        Posterior variances.
    factor : ndarray, shape (D, D)
        L with ``Sigma = L L'``.
    fixed_covariance : ndarray, shape (p * S + S * S, p * S + S * S)
        Of beta and transitions, centred; see :mod:`pylmernn.engines.nme_crf_information`.
    labels, layers : tuple of str, length D
        Of what varies.
    forms : tuple of str
        Of Sigma, for what varies of the network and for transitions: "full", "diagonal", "common" (a variance for all
        weights of a layer, for all its biases, for all transitions) or "zero".
    objective : float
        -2 log-likelihood, by Laplace's approximation where something varies, given what all groups share.
    convergence : Convergence
    """

    method: str
    classes: tuple[str, ...]
    beta: FloatArray
    transitions: FloatArray
    networks: Networks
    selected: Selected | None
    moves: bool
    effects: FloatArray
    variances: FloatArray
    factor: FloatArray
    fixed_covariance: FloatArray
    labels: tuple[str, ...]
    layers: tuple[str, ...]
    forms: tuple[Form, Form]
    objective: float
    convergence: Convergence


def assembled(
    whole: SequenceTraining, training: SequenceTraining, networks: Networks, deviance: float, convergence: Convergence
) -> SequenceEstimates:
    """Estimates of all bars, ``whole``, from the training of those that are left: zero for the others."""
    model, posterior, L = training.model, training.posterior, training.factor.numpy()
    left = [size > 0 for size in model.sizes]
    inside = np.flatnonzero(np.repeat(left, whole.model.sizes))
    effects, variances = np.zeros((whole.q, whole.model.size)), np.zeros((whole.q, *[whole.model.size] * 2))
    factor = np.zeros(variances.shape[1:])
    if len(inside):
        effects[:, inside] = posterior.u.numpy() @ L.T
        variances[:, inside[:, None], inside] = L @ posterior.variances.numpy() @ L.T
        factor[inside[:, None], inside] = L
    zero: Form = "zero"
    forms = [
        zero if size and not own else form
        for size, own, form in zip(whole.model.sizes, left, training.forms, strict=True)
    ]
    return SequenceEstimates(
        method="nme",
        classes=whole.design.classes,
        beta=centred(model.beta.detach().numpy()),
        transitions=model.transitions.detach().numpy().copy(),
        networks=networks,
        selected=whole.model.selected,
        moves=whole.model.moves,
        effects=effects,
        variances=variances,
        factor=factor,
        fixed_covariance=fixed_covariance(training),
        labels=whole.labels,
        layers=whole.layers,
        forms=(forms[0], forms[1]),
        objective=deviance,
        convergence=convergence,
    )


def centred(scores: FloatArray) -> FloatArray:
    """Scores (..., S) less their mean over the states, which changes no probability."""
    return scores - scores.mean(axis=-1, keepdims=True)
