"""Method ``"lmmnn"``: networks and variance parameters trained together on the mini-batch likelihood.

Simchoni & Rosset (2023), eq. 14: the negative log-likelihood of a batch under its own marginal covariance. In two
flavours. The default trains with the settings of :class:`~pylmernn.training.options.Training`, keeps the best epoch by
the likelihood of held-out rows, and then estimates theta, sigma, beta and b exactly on all rows given f, as method
"alternating" does. The preset "faithful" trains as the authors' code does and keeps the trained theta and sigma; b and
beta are exact on all rows, where that code solves some models on 10,000 of them.

Linear columns of X are trained beside the networks; the bias of a network stands for the intercept. In the end beta is
the GLS estimate given f. The random effects of ``embed()`` keep the trained theta and sigma in both flavours: features
that were fitted to the data would let an exact step understate them. Features are scaled so that the variance of such a
term is the mean variance of its levels' effects.

Batches are small and dense, so all runs on the CPU. Single rows are held out whatever ``holdout`` says: the criterion,
their marginal likelihood, does not know the levels' effects.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import theta_sizes
from pylmernn.engines import exact, features
from pylmernn.engines.atfixed import estimates_at_fixed
from pylmernn.engines.batchorders import Order, Orders
from pylmernn.engines.batchtraining import (
    FAITHFUL_EPSILON,
    FAITHFUL_SPREAD,
    VARIANCE_RATE,
    Run,
    faithful_training,
    glorot,
    linear_columns,
    marked,
    networks_of,
    preset_net,
    run_epochs,
    run_folds,
)
from pylmernn.engines.batchvariances import LogCholesky, RawVariances, Variances, theta_and_sigma
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import Callback, response, with_networks
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.learned import CoordinatePart, TablePart, is_learned
from pylmernn.engines.marginal import Covariance, FieldPart, LevelPart, Part
from pylmernn.engines.minibatch import MarginalTrainer
from pylmernn.engines.randompart import DENSE_ENOUGH
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.embedding import Embedding
from pylmernn.mean.networks import NetSpec, build, specify, weights_of
from pylmernn.training.loop import batches, evaluate
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

LARGEST_BATCH = 200  # by default: a batch of m rows costs m^3


@dataclasses.dataclass(frozen=True)
class Trained(Run):
    """One training run of a linear model.

    Attributes
    ----------
    sigma : float
    features : tuple of ndarray (q, dim) or None
        Of each random term that is learned.
    embeddings : tuple of Embedding or None
        Of each random term over coordinates, its coefficients not yet known.
    """

    sigma: float
    features: tuple[FloatArray | None, ...]
    embeddings: tuple[Embedding | None, ...]


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callback | None = None,
) -> Estimates:
    """Estimate a linear mixed model with networks in its mean by the mini-batch likelihood.

    Parameters
    ----------
    design : Design
        With at least one network in ``nets``.
    REML, control, start, callback
        As in :func:`pylmernn.engines.alternating.fit`; the callback is told the held-out negative log-likelihood of a
        row. ``control.training.preset`` is "default" or "faithful".

    Returns
    -------
    Estimates
        Of the linear mixed model given the networks.

    Raises
    ------
    DesignError
        For ``embed()`` beside ``gp()``.
    ValueError
        For an option of a network that does not exist, or where the likelihood is not finite in the first
        epoch.
    KeyboardInterrupt
        Where training is interrupted before its first epoch ends; later, what there is then is returned, marked.
    """
    _check(design)
    control = control or Control()
    training = settle(control.training, design)
    faithful = training.preset == "faithful"
    specs = tuple(specify(preset_net(net) if faithful else net) for net in design.nets)
    scale = 1.0 if faithful else float(np.std(response(design)))
    runs, f = run_folds(
        design, training, lambda rows, seed: _train(design, specs, scale, rows, training, seed, callback)
    )
    networks = networks_of(design, specs, scale, runs, f, "negative log-likelihood of a row")
    run = runs[-1]
    given = with_networks(design, networks.fitted)
    if any(is_learned(term) for term in design.random):
        estimates, coefficients = features.estimates_at(given, run.features, run.theta, run.sigma, REML, control)
        networks = dataclasses.replace(networks, embeddings=_embeddings(design, run, coefficients))
    elif faithful:
        estimates = estimates_at_fixed(given, run.theta, run.sigma, REML, control)
    else:
        first = run.theta if start is None else start
        estimates = exact.fit_by_size(given, REML, control, first, DENSE_ENOUGH)
    return dataclasses.replace(marked(estimates, run.stopped), method="lmmnn", networks=networks)


def _check(design: Design) -> None:
    fields = [term.label for term in design.random if term.covariance == "gp"]
    if fields and any(is_learned(term) for term in design.random):
        raise DesignError(f"{fields[0]}: method 'lmmnn' does not fit embed() beside gp(); take one of them out.")


def settle(training: Training, design: Design) -> Training:
    """The settings with every None replaced, as the preset says."""
    if training.preset == "faithful":
        return faithful_training(training)
    batch = training.batch_size or min(LARGEST_BATCH, max(16, design.n // 160))
    folds = 0 if any(is_learned(term) for term in design.random) else training.folds
    return dataclasses.replace(training, batch_size=batch, folds=folds).sized(design.n)


def _parts(design: Design, faithful: bool, generator: torch.Generator) -> tuple[Part, ...]:
    """What each random term adds to the covariance of a batch."""
    parts: list[Part] = []
    for term in design.random:
        if term.covariance == "gp":
            parts.append(FieldPart(term))
        elif not is_learned(term):
            parts.append(LevelPart(term))
        elif term.locations is None:
            parts.append(TablePart(term, generator, FAITHFUL_SPREAD if faithful else None))
        else:
            parts.append(CoordinatePart(term, "relu" if faithful else "silu", raw=faithful))
    return tuple(parts)


def _train(
    design: Design,
    specs: tuple[NetSpec, ...],
    scale: float,
    rows: Order,
    training: Training,
    seed: int,
    callback: Callback | None,
) -> Trained:
    assert training.epochs is not None
    assert training.batch_size is not None
    assert training.weight_decay is not None
    faithful = training.preset == "faithful"
    torch.manual_seed(seed)
    modules = [build(spec) for spec in specs]
    parts = _parts(design, faithful, torch.Generator().manual_seed(seed))
    if faithful:
        own = [module for module, net in zip(modules, design.nets, strict=True) if net.module is None]
        glorot([*own, *(part.network for part in parts if isinstance(part, CoordinatePart))])
    orders = Orders(design, rows, training, seed)
    steps = len(batches(len(orders.learn), training.batch_size)) * training.epochs
    inputs = [module.prepare(net.inputs) for module, net in zip(modules, design.nets, strict=True)]
    variances: Variances = RawVariances(design.random) if faithful else LogCholesky(design.random)
    trainer = MarginalTrainer(
        modules=modules,
        features=inputs,
        X=linear_columns(design.X),
        y=response(design) / scale,
        covariance=Covariance(parts, design.weights, design.n),
        variances=variances,
        training=training,
        steps=steps,
        variance_rate=training.learning_rate if faithful else VARIANCE_RATE,
        epsilon=FAITHFUL_EPSILON if faithful else 1e-8,
    )
    history, best_epoch, stopped = run_epochs(trainer, orders, training, scale, callback)
    theta, sigma = theta_and_sigma(variances, trainer.psi, design.random)
    theta, learned, embeddings = _rescaled(design, theta, parts)
    return Trained(
        f=scale * evaluate(modules, inputs),
        learned=np.isin(np.arange(design.n), orders.learn),
        weights=tuple(weights_of(module) for module in modules),
        theta=theta,
        sigma=scale * sigma,
        features=learned,
        embeddings=embeddings,
        history=history,
        best_epoch=best_epoch,
        stopped=stopped,
    )


def _rescaled(
    design: Design, theta: FloatArray, parts: tuple[Part, ...]
) -> tuple[FloatArray, tuple[FloatArray | None, ...], tuple[Embedding | None, ...]]:
    """Learned features with a mean square length of one over the levels, and theta to go with them.

    The model is the same; the variance of a term is then the mean of that of its levels' effects.
    """
    theta = theta.copy()
    found: list[FloatArray | None] = []
    embeddings: list[Embedding | None] = []
    starts = np.cumsum([0, *theta_sizes(design.random)])
    for part, at in zip(parts, starts, strict=False):
        if not isinstance(part, TablePart | CoordinatePart):
            found.append(None)
            embeddings.append(None)
            continue
        F = part.features()
        length = float(np.sqrt(np.mean(np.sum(F**2, axis=1)))) or 1.0
        theta[at] *= length
        found.append(F / length)
        whole = part.embedding() if isinstance(part, CoordinatePart) else None
        embeddings.append(None if whole is None else dataclasses.replace(whole, gain=whole.gain / length))
    return theta, tuple(found), tuple(embeddings)


def _embeddings(
    design: Design, run: Trained, coefficients: tuple[FloatArray | None, ...]
) -> tuple[Embedding | None, ...]:
    """The learned functions of coordinates with the conditional modes of their coefficients."""
    out: list[Embedding | None] = []
    for embedding, values in zip(run.embeddings, coefficients, strict=True):
        if embedding is None or values is None:
            out.append(None)
        else:
            weights = {**embedding.weights, "coefficients": values}
            out.append(dataclasses.replace(embedding, weights=weights))
    return tuple(out)
