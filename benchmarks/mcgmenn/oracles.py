"""What nobody can beat on simulated classes: AUC with the true f, the true variances, and what the data tell of b.

Plain numpy and scipy, independent of the package: what it is measured against should not share its code.

* "oracle": the true f plus the effects given the training rows: exact posterior means for one factor and two classes
  (quadrature level by level), else the joint posterior mode, which is close to the mean for all but tiny levels.
* "bound": the true f and the true effects, also those of levels that no training row shows.
"""

from __future__ import annotations

import numpy as np
from generators import FloatArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.metrics import roc_auc_score

from benchmarks.mcgmenn.generators import Simulation, probabilities

NODES = 61  # of the quadrature; 31 give the same eight digits


def auc(codes: np.ndarray, probability: FloatArray) -> float:
    """Area under the ROC curve of probabilities (n, C); for several classes the mean over pairs of classes."""
    if probability.shape[1] == 2:
        return float(roc_auc_score(codes, probability[:, 1]))
    wide = np.clip(np.asarray(probability, float), 1e-300, None)
    wide /= wide.sum(axis=1, keepdims=True)
    return float(roc_auc_score(codes, wide, multi_class="ovo", average="macro", labels=np.arange(probability.shape[1])))


def bound(simulation: Simulation) -> float:
    """AUC with the true f and the true effects."""
    eta = simulation.f_test + simulation.effect(simulation.b, test=True)
    return auc(simulation.codes(test=True), probabilities(eta))


def oracle(simulation: Simulation) -> float:
    """AUC with the true f and the effects as the training rows tell them."""
    single = len(simulation.b) == 1 and len(simulation.classes) == 2
    b = (posterior_means(simulation)[:, None],) if single else modes(simulation)
    eta = simulation.f_test + simulation.effect(b, test=True)
    return auc(simulation.codes(test=True), probabilities(eta))


def posterior_means(simulation: Simulation) -> FloatArray:
    """E(b | y) of each level (q,) for one factor and two classes, by Gauss-Hermite quadrature around each mode."""
    q, variance = len(simulation.b[0]), float(simulation.variances[0, 0])
    level, y, f = simulation.train["z0"].to_numpy(), simulation.codes(), simulation.f_train[:, 0]
    centre = np.zeros(q)
    for _ in range(50):
        p = expit(f + centre[level])
        curvature = np.bincount(level, p * (1 - p), q) + 1 / variance
        step = (np.bincount(level, y - p, q) - centre / variance) / curvature
        centre += np.clip(step, -2, 2)
        if np.max(np.abs(step)) < 1e-10:
            break
    nodes, weights = np.polynomial.hermite.hermgauss(NODES)
    scale = np.sqrt(2 / curvature)
    logs = np.empty((NODES, q))
    for k, node in enumerate(nodes):
        b = centre + scale * node
        logs[k] = np.bincount(level, log_expit(np.where(y == 1, 1, -1) * (f + b[level])), q)
        logs[k] += -0.5 * b**2 / variance + node**2 + np.log(weights[k])
    mass = np.exp(logs - logs.max(axis=0))
    return np.asarray(centre + scale * (nodes @ mass) / mass.sum(axis=0))


def modes(simulation: Simulation, rounds: int = 200) -> tuple[FloatArray, ...]:
    """The effects of all factors (q, K) that maximise likelihood times prior, with the true f and variances."""
    sizes = [len(b) for b in simulation.b]
    K, y, f = simulation.f_train.shape[1], simulation.codes(), simulation.f_train
    sd = [np.sqrt(v) for v in simulation.variances]
    levels = [simulation.train[name].to_numpy() for name in simulation.factors]
    hit = np.eye(len(simulation.classes))[y] if K > 1 else y[:, None].astype(float)

    def split(u: FloatArray) -> list[FloatArray]:
        return [part.reshape(-1, K) for part in np.split(u, np.cumsum(sizes)[:-1] * K)]

    def objective(u: FloatArray) -> tuple[float, FloatArray]:
        """Of standardised effects u = b / sd, so that all have the same curvature in the prior."""
        parts = split(u)
        eta = f + sum(s * part[level] for s, part, level in zip(sd, parts, levels, strict=True))
        if K > 1:
            loglik, score = float(np.sum(log_softmax(eta, axis=1)[np.arange(len(y)), y])), hit - softmax(eta, axis=1)
        else:
            loglik, score = float(np.sum(log_expit(np.where(hit == 1, eta, -eta)))), hit - expit(eta)
        gradient = [
            s * np.column_stack([np.bincount(level, score[:, c], q) for c in range(K)])
            for s, level, q in zip(sd, levels, sizes, strict=True)
        ]
        return 0.5 * float(u @ u) - loglik, u - np.concatenate([g.ravel() for g in gradient])

    found = minimize(
        objective,
        np.zeros(sum(sizes) * K),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": rounds, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-3},
    )
    return tuple(s * part for s, part in zip(sd, split(found.x), strict=True))
