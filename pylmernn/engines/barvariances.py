"""Variances of conditional modes and of predictions of models whose random terms are bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pylmernn.covariance import split_theta
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.iterative import IterativeProblem
from pylmernn.engines.pls import DirectElimination, System, solve
from pylmernn.engines.profiled import Problem
from pylmernn.formula.design import Design, NewRows
from pylmernn.linalg.smallblocks import multiply_blocks

FloatArray = NDArray[np.float64]
CHUNK = 256  # right sides solved together


def conditional_variance(design: Design, estimates: Estimates) -> tuple[FloatArray, ...]:
    """As :func:`pylmernn.engines.variances.conditional_variance`."""
    problem = Problem(design, estimates.REML)
    system = problem.system
    if estimates.method == "iterative" and system.levels.n_columns > Control().dense_limit:
        raise ValueError(
            f"conditional variances need an exact factor of {system.levels.n_columns} random effects, more than the "
            f"{Control().dense_limit} it is offered for; predict(se_fit=True) works row by row."
        )
    return tuple(estimates.sigma**2 * block for block in relative_variances(problem, estimates.theta))


def relative_variances(problem: Problem, theta: FloatArray) -> list[FloatArray]:
    """Conditional variances of every level at sigma 1, (q_k, d_k, d_k) for each term."""
    by_factor = mode_variances(problem.system, DirectElimination(problem.system, problem.templates(theta)))
    out = []
    for index, transform in enumerate(problem.transforms):
        columns = problem.plan.columns(index)
        block = by_factor[problem.plan.factor_of(index)][columns, columns].transpose(2, 0, 1)
        back = np.linalg.inv(transform)  # b = T^-1 b_working
        out.append(np.ascontiguousarray(back @ block @ back.T))
    return out


def mode_variances(system: System, elimination: DirectElimination) -> list[FloatArray]:
    """Diagonal blocks of ``Lambda (Lambda'Z'WZ Lambda + I)^-1 Lambda'``, (d_k, d_k, q_k) for each factor."""
    G = elimination.G
    if not system.levels.sizes:
        return [G]
    schur, levels = system.schur, system.levels
    K = schur.scale(elimination.templates[1:], system.factor.inverse_cells(), transpose=False)
    Q = _quadratic_by_level(system, K)
    out = [G + multiply_blocks(multiply_blocks(G, Q), G)]
    own = schur.multiplicity == 1.0
    rows, columns, values = schur.rows[own], schur.columns[own], K[own]
    inner, level = levels.column_in_level(), levels.level_of_column()
    first_level = np.cumsum([0, *levels.sizes])
    for k, (d, q) in enumerate(zip(levels.widths, levels.sizes, strict=True)):
        mine = (rows >= levels.offsets[k]) & (rows < levels.offsets[k + 1])
        block = np.zeros((d, d, q))
        block[inner[rows[mine]], inner[columns[mine]], level[rows[mine]] - first_level[k]] = values[mine]
        out.append(block)
    return out


def _quadratic_by_level(system: System, K: FloatArray) -> FloatArray:
    """``C_j' K C_j`` of every eliminated level, (d, d, q); the cells of K hold all pairs that a level joins."""
    schur, d, q = system.schur, system.d, system.q
    q_r = system.levels.n_columns
    apart = schur.multiplicity == 2.0
    rows = np.concatenate([schur.rows, schur.columns[apart]])
    columns = np.concatenate([schur.columns, schur.rows[apart]])
    matrix = sp.csr_array((np.concatenate([K, K[apart]]), (rows, columns)), shape=(q_r, q_r))
    by_column = sp.csc_array(system.C)
    Q = np.empty((d, d, q))
    for start in range(0, q, 2048):
        levels = slice(start, min(start + 2048, q))
        parts = [by_column[:, s * q + levels.start : s * q + levels.stop] for s in range(d)]
        for t in range(d):
            product = matrix @ parts[t]
            for s in range(d):
                Q[s, t, levels] = np.asarray(parts[s].multiply(product).sum(axis=0)).ravel()
    return Q


def prediction_variance(
    design: Design, estimates: Estimates, rows: NewRows, include: Sequence[bool] | None = None
) -> FloatArray:
    """As :func:`pylmernn.engines.variances.prediction_variance`."""
    exact = estimates.method != "iterative"
    problem = Problem(design, estimates.REML) if exact else IterativeProblem(design, estimates.REML, Control())
    system, plan = problem.system, problem.plan
    elimination = problem.eliminate(problem.templates(estimates.theta))
    at = solve(system, elimination, estimates.REML)
    include = [True] * len(design.random) if include is None else list(include)
    m = len(rows.X)
    unseen = np.zeros(m)
    for term, Lambda, used in zip(rows.random, split_theta(design.random, estimates.theta), include, strict=True):
        if used:
            spread = ((term.columns @ Lambda) ** 2).sum(axis=1)
            unseen += np.where(term.codes < 0, spread, 0.0)
    z = [rows_of_factor(problem, rows, plan.factors[f], include) for f in range(len(plan.factors))]
    modes_X = elimination.modes(system.R).combine(np.eye(system.p + 1)[:, : system.p])
    x = rows.X @ problem.working.transform
    codes, columns = z[0]
    x = x - np.einsum("is,spi->ip", columns, modes_X.first[:, :, codes])
    G = elimination.G[:, :, codes]
    s = np.einsum("sti,it->is", G, columns)  # G_j z_0
    variance = np.einsum("is,is->i", s, columns)
    if system.levels.sizes:
        right = _right_sides(system, codes, s, z[1:])
        Z_rest = _right_sides(system, codes, np.zeros_like(s), z[1:])
        x = x - Z_rest @ modes_X.rest
        for start in range(0, m, CHUNK):
            part = slice(start, min(start + CHUNK, m))
            B = system.levels.multiply(elimination.templates[1:], right[part].T.toarray(), transpose=True)
            variance[part] += np.einsum("am,am->m", B, elimination.solve_rest(B))
    half = np.linalg.solve(at.RX, x.T)
    return np.asarray(estimates.sigma**2 * (variance + unseen + (half**2).sum(axis=0)))


def rows_of_factor(
    problem: Problem, rows: NewRows, terms: Sequence[int], include: Sequence[bool]
) -> tuple[NDArray[np.int64], FloatArray]:
    """Level and working columns of every new row for one grouping factor; zeros where it is unseen or not included."""
    asked = [t for t in terms if include[t]] or list(terms)  # the levels of the others need not be there
    codes = rows.random[asked[0]].codes.astype(np.int64)
    working = [rows.random[t].columns @ np.linalg.inv(problem.transforms[t]) * float(include[t]) for t in terms]
    columns = np.concatenate(working, axis=1)
    columns = np.where(codes[:, None] < 0, 0.0, columns)
    return np.maximum(codes, 0), columns


def _right_sides(
    system: System, codes: NDArray[np.int64], s: FloatArray, rest: Sequence[tuple[NDArray[np.int64], FloatArray]]
) -> sp.csr_array:
    """``z_r - C_j s`` of every row, (m, q_r)."""
    m, q_r = len(codes), system.levels.n_columns
    at_row, at_column, values = [], [], []
    for k, (level, columns) in enumerate(rest):
        d = system.levels.widths[k]
        for t in range(d):
            at_row.append(np.arange(m))
            at_column.append(system.levels.offsets[k] + level * d + t)
            values.append(columns[:, t])
    own = sp.csr_array((np.concatenate(values), (np.concatenate(at_row), np.concatenate(at_column))), shape=(m, q_r))
    if not s.any():
        return own
    index = [codes + t * system.q for t in range(system.d)]
    pick = sp.csr_array(
        (s.T.ravel(), (np.tile(np.arange(m), system.d), np.concatenate(index))), shape=(m, system.d * system.q)
    )
    return (own - pick @ sp.csr_array(system.C).T).tocsr()
