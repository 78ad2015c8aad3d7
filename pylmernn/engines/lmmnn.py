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
import time

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import theta_sizes
from pylmernn.engines import exact, features
from pylmernn.engines.atfixed import estimates_at_fixed
from pylmernn.engines.batchorders import Order, Orders
from pylmernn.engines.batchvariances import LogCholesky, RawVariances, Variances, theta_and_sigma
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import Callback, fold_trends, response, with_networks
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.learned import CoordinatePart, TablePart, is_learned
from pylmernn.engines.marginal import Covariance, FieldPart, LevelPart, Part
from pylmernn.engines.minibatch import MarginalTrainer
from pylmernn.engines.randompart import DENSE_ENOUGH
from pylmernn.formula.design import Design, DesignError, NetTerm
from pylmernn.mean.embedding import Embedding
from pylmernn.mean.networks import NetSpec, Networks, Weights, build, specify, weights_of
from pylmernn.training.loop import batches, evaluate
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

LARGEST_BATCH = 200  # by default: a batch of m rows costs m^3
VARIANCE_RATE = 2e-2  # learning rate of variance parameters, on log scale

#: what the preset "faithful" fixes
FAITHFUL_NET = {"activation": "relu", "dropout": 0.25, "standardize": False}
FAITHFUL_BATCH, FAITHFUL_EPOCHS, FAITHFUL_PATIENCE = 100, 500, 10
FAITHFUL_RATE, FAITHFUL_EPSILON, FAITHFUL_SPREAD = 1e-3, 1e-7, 0.05


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training run.

    Attributes
    ----------
    f : ndarray, shape (n,)
    learned : ndarray of bool, shape (n,)
        The rows learnt from.
    weights : tuple of dict
        Of the networks of the mean.
    theta : ndarray, shape (m,)
    sigma : float
    features : tuple of ndarray (q, dim) or None
        Of each random term that is learned.
    embeddings : tuple of Embedding or None
        Of each random term over coordinates, its coefficients not yet known.
    history, best_epoch, stopped
        ``stopped`` says why training ended before its time; empty where it did not.
    """

    f: FloatArray
    learned: NDArray[np.bool_]
    weights: tuple[Weights, ...]
    theta: FloatArray
    sigma: float
    features: tuple[FloatArray | None, ...]
    embeddings: tuple[Embedding | None, ...]
    history: dict[str, list[float]]
    best_epoch: int
    stopped: str


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
    """
    _check(design)
    control = control or Control()
    training = settle(control.training, design)
    faithful = training.preset == "faithful"
    specs = tuple(specify(_preset_net(net) if faithful else net) for net in design.nets)
    scale = 1.0 if faithful else float(np.std(response(design)))
    folds = max(training.folds or 0, 1)
    fold_of = np.random.default_rng(training.seed).permutation(design.n) % folds
    runs: list[Trained] = []
    f = np.empty(design.n)
    for k in range(folds):
        rows = np.flatnonzero(fold_of != k) if folds > 1 else np.arange(design.n)
        runs.append(_train(design, specs, scale, rows, training, training.seed + k, callback))
        f[fold_of == k] = runs[-1].f[fold_of == k]
        if runs[-1].stopped:
            break
    if len(runs) < folds:
        f = np.mean([run.f for run in runs], axis=0)
    elif folds > 1:
        f -= fold_trends(design.X, [run.f for run in runs], fold_of)
    networks = _networks(design, specs, scale, runs, f)
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
    if run.stopped:
        message = f"{run.stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="lmmnn", networks=networks)


def _check(design: Design) -> None:
    fields = [term.label for term in design.random if term.covariance == "gp"]
    if fields and any(is_learned(term) for term in design.random):
        raise DesignError(f"{fields[0]}: method 'lmmnn' does not fit embed() beside gp(); take one of them out.")


def settle(training: Training, design: Design) -> Training:
    """The settings with every None replaced, as the preset says."""
    if training.preset == "faithful":
        return dataclasses.replace(
            training,
            epochs=training.epochs or FAITHFUL_EPOCHS,
            batch_size=training.batch_size or FAITHFUL_BATCH,
            patience=training.patience or FAITHFUL_PATIENCE,
            learning_rate=FAITHFUL_RATE,
            schedule="constant",
            weight_decay=0.0,
            validation=0.1,
            folds=0,
        )
    batch = training.batch_size or min(LARGEST_BATCH, max(16, design.n // 160))
    folds = 0 if any(is_learned(term) for term in design.random) else training.folds
    return dataclasses.replace(training, batch_size=batch, folds=folds).sized(design.n)


def _preset_net(net: NetTerm) -> NetTerm:
    """The network of the paper where the formula does not say otherwise; a user's own module stays as it is."""
    return net if net.module is not None else dataclasses.replace(net, options={**FAITHFUL_NET, **net.options})


def _networks(design: Design, specs: tuple[NetSpec, ...], scale: float, runs: list[Trained], f: FloatArray) -> Networks:
    has_constant = any(np.ptp(design.X[:, j]) == 0 and design.X[0, j] != 0 for j in range(design.p))
    shift = float(f.mean()) if has_constant else 0.0
    history: dict[str, list[float]] = {"member": [float(i) for i, run in enumerate(runs) for _ in run.history["epoch"]]}
    for name in runs[0].history:
        history[name] = [value for run in runs for value in run.history[name]]
    return Networks(
        specs=specs,
        members=tuple(run.weights for run in runs),
        scale=scale,
        shift=shift,
        fitted=f - shift,
        history=history,
        best_epoch=tuple(run.best_epoch for run in runs),
        out_of_fold=len(runs) > 1,
        learned=np.array([run.learned for run in runs]),
        criterion="negative log-likelihood of a row",
    )


def _linear_columns(X: FloatArray) -> FloatArray:
    """The columns that are not constant, standardised: they are trained beside the networks."""
    spread = X.std(axis=0)
    moving = spread > 1e-12 * np.maximum(1.0, np.abs(X).max(axis=0, initial=0.0))
    return np.asarray((X[:, moving] - X[:, moving].mean(axis=0)) / spread[moving])


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


def _glorot(networks: list[torch.nn.Module]) -> None:
    """Weights uniform as Glorot & Bengio (2010) have it, biases zero: the initial state of Keras' layers."""
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
            elif isinstance(layer, torch.nn.Embedding):
                torch.nn.init.uniform_(layer.weight, -FAITHFUL_SPREAD, FAITHFUL_SPREAD)


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
        _glorot([*own, *(part.network for part in parts if isinstance(part, CoordinatePart))])
    orders = Orders(design, rows, training, seed)
    steps = len(batches(len(orders.learn), training.batch_size)) * training.epochs
    inputs = [module.prepare(net.inputs) for module, net in zip(modules, design.nets, strict=True)]
    variances: Variances = RawVariances(design.random) if faithful else LogCholesky(design.random)
    trainer = MarginalTrainer(
        modules=modules,
        features=inputs,
        X=_linear_columns(design.X),
        y=response(design) / scale,
        covariance=Covariance(parts, design.weights, design.n),
        variances=variances,
        training=training,
        steps=steps,
        variance_rate=training.learning_rate if faithful else VARIANCE_RATE,
        epsilon=FAITHFUL_EPSILON if faithful else 1e-8,
    )
    history, best_epoch, stopped = _run(trainer, orders, training, scale, callback)
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


def _run(
    trainer: MarginalTrainer, orders: Orders, training: Training, scale: float, callback: Callback | None
) -> tuple[dict[str, list[float]], int, str]:
    """Epochs until the schedule or patience ends, or the user; history, best epoch, why it stopped early."""
    assert training.epochs is not None
    history: dict[str, list[float]] = {"epoch": [], "loss": [], "validation": [], "sigma": [], "seconds": []}
    best = (np.inf, 0, trainer.state())
    stopped = ""
    restore = training.preset != "faithful"
    try:
        for epoch in range(1, training.epochs + 1):
            begun = time.perf_counter()
            loss = trainer.epoch(orders.epoch(epoch)) + np.log(scale)
            value = trainer.evaluate(orders.check) + np.log(scale) if len(orders.check) else float("nan")
            entries = (epoch, loss, value, scale * trainer.sigma, time.perf_counter() - begun)
            for name, entry in zip(history, entries, strict=True):
                history[name].append(float(entry))
            if value < best[0] or not len(orders.check):
                best = (value, epoch, trainer.state() if restore else best[2])
            trainer.end_epoch(value)
            if callback is not None:
                callback(epoch, value)
            if training.patience is not None and epoch - best[1] >= training.patience:
                break
    except KeyboardInterrupt:
        stopped = "training was interrupted"
    except FloatingPointError as error:
        epoch = len(history["epoch"]) + 1
        if epoch == 1:
            raise ValueError(f"{error} in epoch 1: scale the inputs, or lower the learning rate.") from None
        stopped = f"{error} in epoch {epoch}"
    if restore:
        trainer.restore(best[2])
    return history, best[1], stopped


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
