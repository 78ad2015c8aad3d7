"""Method ``"lmmnn"`` of generalized models: networks and variances trained together on the marginal likelihood.

Simchoni & Rosset (2023), section 6: the likelihood of the levels of one grouping factor by Gauss-Hermite quadrature
(eq. 38), all in logarithms. In two flavours.

The default has adaptive nodes, 7 in each dimension, about the modes of each level in each batch. Batches are of whole
levels, large ones in parts: likelihoods of parts of the data add up to a composite likelihood, whose score is unbiased
(Varin, Reid & Firth 2011). The best epoch is kept by the density of held-out rows, each given those rows of its level
that were learnt from; of a level held out whole these are none, and it is the marginal density. Theta, beta and the
dispersion are then estimated on all rows given f, with 9 adaptive nodes.

The preset "faithful" trains as the authors' code does: 5 nodes of the prior for all levels, batches of consecutive rows
sorted by level, each part of a level a cluster of its own, a raw variance from 1. It keeps the trained theta; b are
posterior means by the same nodes. With a large variance the outer nodes lie within the effects, and it is understated.

Linear columns of X are trained beside the networks. Batches are small, so all runs on the CPU.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import split_theta
from pylmernn.engines import pirls
from pylmernn.engines.batchorders import LevelOrders, Order
from pylmernn.engines.batchtraining import (
    FAITHFUL_EPSILON,
    VARIANCE_RATE,
    Run,
    faithful_training,
    glorot,
    has_constant,
    linear_columns,
    marked,
    networks_of,
    preset_net,
    run_epochs,
    run_folds,
)
from pylmernn.engines.batchvariances import LogCholesky, RawVariances, Variances, theta_and_sigma
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import Callback, with_networks
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.levelquadrature import QuadratureTrainer, fixed_nodes, observed, posterior
from pylmernn.engines.newton import minimize
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.working import to_working
from pylmernn.families.family import Dispersion, Family
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.linalg.quadrature import gauss_hermite
from pylmernn.mean.networks import NetSpec, build, specify, weights_of
from pylmernn.training.loop import batches, count_matrices, evaluate
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

NODES, FAITHFUL_NODES = 7, 5  # of training, in each dimension
LAST_NODES, LAST_NODES_OF_TWO = 9, 5  # of the estimates given f
MOST_COLUMNS = 2  # random effects of a level


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callback | None = None,
) -> GeneralizedEstimates:
    """Estimate a generalized mixed model with networks and one grouping factor by the quadrature likelihood.

    Parameters
    ----------
    design : Design
        With at least one network; random terms of one grouping factor, with at most two columns together.
    family : Family
    nAGQ : int, default 1
        More nodes than the usual are used where it asks for them, in training and in the estimates given f.
    control : Control, optional
        ``control.training`` says how to train; its preset is "default" or "faithful".
    callback : callable, optional
        Told of each epoch and the negative log-likelihood of a held-out row.

    Returns
    -------
    GeneralizedEstimates
        Given the networks.

    Raises
    ------
    DesignError
        For more than one grouping factor, a field, features that are learned, or more than two random effects a level.
    ValueError
        For an option of a network that does not exist, or where the likelihood is not finite in the first epoch.
    KeyboardInterrupt
        Where training is interrupted before its first epoch ends; later, what there is then is returned, marked.
    """
    control = control or Control()
    faithful = control.training.preset == "faithful"
    _check(design, faithful)
    specs = tuple(specify(preset_net(net) if faithful else net) for net in design.nets)
    training = _settle(control.training, design, specs)
    start = _start(design, family)
    nodes = FAITHFUL_NODES if faithful else max(NODES, nAGQ)
    runs, f = run_folds(
        design,
        training,
        lambda rows, seed: _train(design, family, specs, start, nodes, rows, training, seed, callback),
    )
    networks = networks_of(design, specs, 1.0, runs, f, "negative log-likelihood of a row", family.absorbs_constant)
    given = with_networks(design, networks.fitted)
    last = max(nAGQ, LAST_NODES if _width(design) == 1 else LAST_NODES_OF_TWO)
    if faithful:
        estimates = estimates_at_theta(given, family, runs[-1].theta, last, control)
        estimates = with_posterior_means(given, estimates, FAITHFUL_NODES)
    else:
        estimates = pirls.fit(given, family, last, control)
    return dataclasses.replace(marked(estimates, runs[-1].stopped), method="lmmnn", networks=networks)


def _label(term: RandomTerm) -> str:
    return term.label or f"({' + '.join(term.column_names)} | {term.group})"


def _width(design: Design) -> int:
    """Random effects of a level."""
    return sum(term.width for term in design.random)


def _check(design: Design, faithful: bool) -> None:
    instead = "use method='alternating' or method='mcem'."
    for term in design.random:
        if term.locations is not None or term.covariance in ("gp", "embed"):
            raise DesignError(f"{_label(term)}: method 'lmmnn' takes no fields in generalized models: {instead}")
    labels = list(dict.fromkeys(_label(term) for term in design.random))
    if len({term.group for term in design.random}) > 1:
        raise DesignError(
            f"method 'lmmnn' takes one grouping factor in generalized models, not {' and '.join(labels)}: {instead}"
        )
    most = 1 if faithful else MOST_COLUMNS
    if _width(design) > most:
        what = "preset 'faithful' of method 'lmmnn'" if faithful else "method 'lmmnn'"
        raise DesignError(
            f"a level has {_width(design)} random effects in {' and '.join(labels)}, but {what} takes at most {most} "
            f"in generalized models: {instead}"
        )


def _settle(training: Training, design: Design, specs: tuple[NetSpec, ...]) -> Training:
    if training.preset == "faithful":
        return faithful_training(training)
    return training.sized(design.n, count_matrices([build(spec) for spec in specs]))


@dataclasses.dataclass(frozen=True)
class Start:
    """The model without networks and random effects: ``X beta`` (n,) and the dispersion."""

    linear: FloatArray
    phi: Dispersion


def _start(design: Design, family: Family) -> Start:
    problem = GeneralizedProblem(design, family)
    x, m = problem.start(), problem.n_theta
    beta = x[m : m + design.p]
    linear = design.X @ (problem.working.transform @ beta)
    # thresholds make up for what centred columns leave out
    return Start(linear, family.shifted(problem.phi(x), -problem.constant(beta) - float(linear.mean())))


def _train(
    design: Design,
    family: Family,
    specs: tuple[NetSpec, ...],
    start: Start,
    nodes: int,
    rows: Order,
    training: Training,
    seed: int,
    callback: Callback | None,
) -> Run:
    assert training.epochs is not None
    assert training.batch_size is not None
    faithful = training.preset == "faithful"
    torch.manual_seed(seed)
    modules = [build(spec) for spec in specs]
    X = linear_columns(design.X)
    if faithful:
        glorot([module for module, net in zip(modules, design.nets, strict=True) if net.module is None])
    elif has_constant(design.X):
        X = np.column_stack([np.ones(design.n), X])
    orders = LevelOrders(design, rows, training, seed)
    inputs = [module.prepare(net.inputs) for module, net in zip(modules, design.nets, strict=True)]
    # twice the variance: half of it, 1, is where the effects start
    variances: Variances = RawVariances(design.random) if faithful else LogCholesky(design.random, 2.0)
    beta = np.zeros(X.shape[1]) if faithful else np.linalg.lstsq(X, start.linear, rcond=None)[0]
    trainer = QuadratureTrainer(
        modules=modules,
        features=inputs,
        X=X,
        design=design,
        family=family,
        nodes=gauss_hermite(nodes, _width(design)),
        adaptive=not faithful,
        variances=variances,
        training=training,
        learn=orders.learn,
        beta=np.asarray(beta, dtype=np.float64),
        phi=start.phi,
        steps=len(batches(len(orders.learn), training.batch_size)) * training.epochs,
        variance_rate=training.learning_rate if faithful else VARIANCE_RATE,
        epsilon=FAITHFUL_EPSILON if faithful else 1e-8,
    )
    history, best_epoch, stopped = run_epochs(trainer, orders, training, 1.0, callback)
    theta, residual = theta_and_sigma(variances, trainer.psi, design.random)
    return Run(
        f=evaluate(modules, inputs),
        learned=np.isin(np.arange(design.n), orders.learn),
        weights=tuple(weights_of(module) for module in modules),
        theta=theta * residual,  # relative to nothing
        history=history,
        best_epoch=best_epoch,
        stopped=stopped,
    )


def estimates_at_theta(
    design: Design, family: Family, theta: FloatArray, nAGQ: int, control: Control
) -> GeneralizedEstimates:
    """Beta, the dispersion and the modes on all rows, given theta (m,).

    Parameters
    ----------
    design : Design
        With f among the offset.
    family, theta, nAGQ, control
        As in :func:`pylmernn.engines.pirls.fit`.
    """
    problem = GeneralizedProblem(design, family, nAGQ)
    m = problem.n_theta
    fixed = to_working(design.random, problem.transforms, theta)

    def search(rest: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, gradient, hessian = problem.search(np.append(fixed, rest))
        return value, gradient[m:], hessian[m:, m:]

    begin = problem.start()[m:]
    rest, n_evaluations, message = begin, 0, ""
    if len(begin):
        found = minimize(search, begin, control.tolerance, control.max_evaluations, noise=1e-9)
        rest, n_evaluations = found.x, found.n_evaluations
        message = found.message if found.predicted >= 1e-4 else ""
    x = np.append(fixed, rest)
    convergence = Convergence(not message, np.zeros(len(x)), n_evaluations, message, 0.0)
    return pirls.estimates_at(problem, x, convergence, control)


def with_posterior_means(design: Design, estimates: GeneralizedEstimates, nodes: int) -> GeneralizedEstimates:
    """The same estimates with posterior means by so many nodes of the prior instead of modes."""
    assert estimates.family is not None
    rows = observed(design)
    fixed = design.X @ estimates.beta + (0.0 if design.offset is None else design.offset)
    (Lambda,) = split_theta(design.random, estimates.theta)
    prior = fixed_nodes(gauss_hermite(nodes, rows.Z.shape[1]), rows.n_levels)
    shares = np.exp(posterior(estimates.family, rows, fixed, Lambda, prior, estimates.phi))
    u = np.einsum("jk,jks->js", shares, prior.u)
    b = u @ Lambda.T
    eta = fixed + np.einsum("is,is->i", rows.Z, b[rows.codes])
    return dataclasses.replace(estimates, u=(u,), b=(b,), ussq=float((u**2).sum()), eta=eta)
