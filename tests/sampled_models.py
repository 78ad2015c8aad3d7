"""Tiny models with random effects whose posterior moments are found by integration on a grid, for tests of samplers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from scipy.special import log_softmax, logsumexp

from pylmernn.engines.effects import Effects, Prior
from pylmernn.formula.design import RandomTerm


def random_term(codes, columns=None):
    """A term of intercepts, or of the columns (n, d)."""
    codes = np.asarray(codes, dtype=np.int32)
    columns = np.ones((len(codes), 1)) if columns is None else np.asarray(columns, dtype=float)
    names = tuple(f"x{j}" for j in range(columns.shape[1]))
    return RandomTerm("g", codes, np.arange(codes.max() + 1).astype(str), columns, names)


@dataclass(frozen=True)
class Model:
    """Terms, prior covariances (C, d_k, d_k) a term, offset (n, C), responses (n,), weights (n,) and family."""

    terms: list
    covariances: list
    offset: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    family: str

    @property
    def n_classes(self):
        return self.offset.shape[1]

    def effects(self):
        return Effects(self.terms)

    def prior(self, effects):
        return Prior(effects, [torch.linalg.inv(torch.as_tensor(c)) for c in self.covariances])

    def moments(self, nodes=20):
        """Means (D,) and second moments (D, D) of all effects, D = Q C in the order of samplers (Q, C).

        By a Gauss-Hermite rule in every dimension, around the mode and in units of the curvature there.
        """
        C = self.n_classes
        blocks = [(np.eye(t.n_levels)[t.codes][:, :, None] * t.columns[:, None]) for t in self.terms]
        Z = np.hstack([block.reshape(len(self.y), -1) for block in blocks])
        Q = Z.shape[1]
        covariance = np.zeros((Q, C, Q, C))
        for c in range(C):
            start = 0
            for t, S in zip(self.terms, self.covariances, strict=True):
                for s in range(start, start + t.n_levels * t.width, t.width):
                    covariance[s : s + t.width, c, s : s + t.width, c] = S[c]
                start += t.n_levels * t.width
        precision = np.linalg.inv(covariance.reshape(Q * C, Q * C))

        def log_posterior(points):
            eta = np.einsum("iq,gqc->gic", Z, points.reshape(-1, Q, C)) + self.offset
            prior = 0.5 * np.einsum("gi,ij,gj->g", points, precision, points)
            return (self.weights * self._log_density(eta)).sum(axis=1) - prior

        found = optimize.minimize(lambda x: -log_posterior(x[None])[0], np.zeros(Q * C))
        root = np.linalg.cholesky(found.hess_inv)
        x, w = np.polynomial.hermite_e.hermegauss(nodes)
        unit = np.array(list(itertools.product(x, repeat=Q * C)))
        logs = np.array(list(itertools.product(np.log(w) + 0.5 * x * x, repeat=Q * C))).sum(axis=1)
        grid = found.x + unit @ root.T
        logs += log_posterior(grid)
        p = np.exp(logs - logsumexp(logs))
        return p @ grid, grid.T @ (p[:, None] * grid)

    def _log_density(self, eta):
        if self.family == "multinomial":
            return log_softmax(eta, axis=2)[:, np.arange(len(self.y)), self.y.astype(int)]
        if self.family == "poisson":
            return self.y * eta[:, :, 0] - np.exp(eta[:, :, 0])
        return self.y * eta[:, :, 0] - np.logaddexp(0.0, eta[:, :, 0])


def tiny_model(name):
    """One level, crossed intercepts, correlated slopes, binomial counts, three classes, or counts."""
    rng = np.random.default_rng(7)
    n, ones = 12, np.ones(12)
    if name == "one level":
        return Model(
            [random_term(np.zeros(n))],
            [np.full((1, 1, 1), 1.7)],
            rng.normal(size=(n, 1)),
            (rng.uniform(size=n) < 0.8) * 1.0,
            ones,
            "binomial",
        )
    if name == "crossed":
        terms = [random_term([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), random_term([0, 1] * 6)]
        covariances = [np.full((1, 1, 1), 2.0), np.full((1, 1, 1), 0.5)]
        return Model(
            terms, covariances, 0.3 * ones[:, None], np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0.0]), ones, "binomial"
        )
    slopes = random_term([0] * 6 + [1] * 6, np.column_stack([ones, np.linspace(-1.5, 2.0, n)]))
    correlated = np.array([[[1.0, 0.6], [0.6, 1.5]]])
    if name == "slopes":
        return Model([slopes], [correlated], 0.2 * ones[:, None], (rng.uniform(size=n) < 0.6) * 1.0, ones, "binomial")
    trials = rng.integers(1, 9, n).astype(float)
    if name == "counts of trials":
        y = rng.binomial(trials.astype(int), 0.7) / trials
        return Model([slopes], [correlated], -0.2 * ones[:, None], y, trials, "binomial")
    if name == "poisson":
        return Model(
            [slopes], [correlated * 0.5], 0.1 * ones[:, None], rng.poisson(2.0, n).astype(float), ones, "poisson"
        )
    variances = np.array([0.5, 1.0, 3.0]).reshape(3, 1, 1)
    y = np.array([0, 0, 1, 2, 2, 2, 2, 1, 2, 2, 0, 2.0])
    return Model([random_term(np.zeros(n))], [variances], 0.5 * rng.normal(size=(n, 3)), y, ones, "multinomial")


def moment_errors(sample, model):
    """Errors of means and second moments of draws (chains, draws, D), in standard errors of the means over chains."""
    mean, second = model.moments()
    upper = np.triu_indices(len(mean))
    of_chains = np.hstack(
        [sample.mean(axis=1), np.einsum("sti,stj->sij", sample, sample)[:, upper[0], upper[1]] / sample.shape[1]]
    )
    truth = np.concatenate([mean, second[upper]])
    return (of_chains.mean(axis=0) - truth) / (of_chains.std(axis=0, ddof=1) / np.sqrt(len(sample)))
