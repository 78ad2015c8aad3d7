"""The error nobody can beat on a simulated data set: true mean, true variances, exact conditional modes.

Plain numpy and scipy, independent of the package: what it is measured against should not share its code. The residual
variance is 1 in all simulations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from generators import FloatArray, Simulation, kernel
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg


def oracle_error(simulation: Simulation) -> float:
    """Mean squared test error of the true mean plus the conditional modes given the training rows."""
    if simulation.slopes is not None:
        effect = _slopes(simulation)
    elif simulation.field is not None:
        effect = _field_and_intercepts(simulation)
    else:
        effect = _intercepts(simulation)
    error = simulation.test["y"].to_numpy() - simulation.f_test - effect
    return float(np.mean(error**2))


def _residual(simulation: Simulation) -> FloatArray:
    return simulation.train["y"].to_numpy() - simulation.f_train


def _slopes(simulation: Simulation) -> FloatArray:
    """Effects at the test rows (m,) where each subject has a curve of its own: one 3 by 3 system a subject."""
    assert simulation.slopes is not None
    q = len(simulation.b[0])
    z, powers = simulation.train["z0"].to_numpy(), _powers(simulation.train["t"].to_numpy())
    cross, right = np.zeros((q, 3, 3)), np.zeros((q, 3))
    np.add.at(cross, z, powers[:, :, None] * powers[:, None, :])
    np.add.at(right, z, powers * _residual(simulation)[:, None])
    b = np.linalg.solve(cross + np.linalg.inv(simulation.slopes), right[:, :, None])[:, :, 0]
    return np.sum(_powers(simulation.test["t"].to_numpy()) * b[simulation.test["z0"].to_numpy()], axis=1)


def _powers(t: FloatArray) -> FloatArray:
    return np.column_stack([np.ones(len(t)), t, t**2])


def _intercepts(simulation: Simulation) -> FloatArray:
    """Effects at the test rows where there are factors only."""
    Z, Z_test, precision = _factors(simulation)
    return Z_test @ _modes(Z, precision, _residual(simulation), lambda v: v)


def _field_and_intercepts(simulation: Simulation) -> FloatArray:
    """Effects at the test rows with a field: repeats of a place are collapsed into one, then one Cholesky.

    The rows' covariance without the factors is ``I + P K P'`` (P: rows to places seen, N = P'P), whose inverse is
    ``I - P (N^-1 - N^-1 A^-1 N^-1) P'`` with ``A = K + N^-1``. The factors' effects solve their own system under it,
    and the field follows from what they leave.
    """
    assert simulation.field is not None
    assert simulation.locations is not None
    seen, place = np.unique(simulation.train["z0"].to_numpy(), return_inverse=True)
    count = np.bincount(place)
    at = simulation.locations[seen]
    A = kernel(at, at, simulation.field)
    A[np.diag_indices_from(A)] += 1 / count
    factor = cho_factor(A, lower=True, overwrite_a=True, check_finite=False)

    def solve(means: FloatArray) -> FloatArray:
        return cho_solve(factor, means, check_finite=False)

    def whiten(v: FloatArray) -> FloatArray:
        means = np.bincount(place, v) / count
        return v - (means - solve(means) / count)[place]

    residual = _residual(simulation)
    effect = np.zeros(len(simulation.test))
    if simulation.intercepts:
        Z, Z_test, precision = _factors(simulation)
        b = _modes(Z, precision, residual, whiten)
        residual, effect = residual - Z @ b, Z_test @ b
    weights = solve(np.bincount(place, residual) / count)
    asked, row = np.unique(simulation.test["z0"].to_numpy(), return_inverse=True)
    return effect + (kernel(simulation.locations[asked], at, simulation.field) @ weights)[row]


def _factors(simulation: Simulation) -> tuple[sparse.csr_array, sparse.csr_array, FloatArray]:
    """Indicators of all levels in the training and the test rows, and the prior precision of each level's effect."""
    train, test, precision = [], [], []
    shift = len(simulation.b) - len(simulation.intercepts)  # a field comes first
    for k, (column, variance) in enumerate(simulation.intercepts):
        q = len(simulation.b[shift + k])
        for rows, blocks in ((simulation.train, train), (simulation.test, test)):
            codes = rows[column].to_numpy()
            blocks.append(sparse.csr_array((np.ones(len(rows)), (np.arange(len(rows)), codes)), (len(rows), q)))
        precision.append(np.full(q, 1 / variance))
    return sparse.hstack(train, "csr"), sparse.hstack(test, "csr"), np.concatenate(precision)


def _modes(
    Z: sparse.csr_array, precision: FloatArray, residual: FloatArray, whiten: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Solve ``(Z' W Z + precision) b = Z' W residual`` by conjugate gradients to ten digits; W is ``whiten``."""
    q = len(precision)
    diagonal = np.asarray(Z.sum(axis=0)).ravel() + precision
    system = LinearOperator((q, q), matvec=lambda b: Z.T @ whiten(Z @ b) + precision * b, dtype=np.float64)
    inverse = LinearOperator((q, q), matvec=lambda v: v / diagonal, dtype=np.float64)
    b, stopped = cg(system, Z.T @ whiten(residual), rtol=1e-10, maxiter=5000, M=inverse)
    if stopped:
        raise ArithmeticError("conjugate gradients did not converge")
    return b
