"""Variances of conditional modes and of predictions of models with Gaussian processes.

Every one is a prior variance less ``c' V^-1 c`` with c = Cov(y, what is predicted) = Z a + Z_g k, which takes the same
products as the average information of the search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import split_theta
from pylmernn.covariance.kernels import correlation
from pylmernn.engines.barvariances import mode_variances, rows_of_factor
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.fields import distances
from pylmernn.engines.pls import Columns, by_factor
from pylmernn.engines.spatial import FieldElimination, FieldSolution
from pylmernn.engines.spatialfit import SpatialProblem, to_search
from pylmernn.formula.design import Design, NewRows, NewTerm

FloatArray = NDArray[np.float64]

CHUNK = 256  # rows predicted together


def conditional_variance(design: Design, estimates: Estimates) -> tuple[FloatArray, ...]:
    """As :func:`pylmernn.engines.variances.conditional_variance`."""
    problem = SpatialProblem(design, estimates.REML)
    elimination = problem.eliminate(to_search(problem, estimates.theta))
    G = elimination.posterior(np.eye(problem.products.m))
    of_bars = _bar_variances(problem, elimination, G)
    fields = {field.term: field for field in problem.fields}
    out = []
    for index in range(len(design.random)):
        if index in fields:
            block = np.diagonal(G)[fields[index].at][:, None, None]
        else:
            block = of_bars.pop(0)
        out.append(np.ascontiguousarray(estimates.sigma**2 * block))
    return tuple(out)


def _bar_variances(problem: SpatialProblem, elimination: FieldElimination, G: FloatArray) -> list[FloatArray]:
    """Relative variances (q, d, d) of the terms that are bars: ``Var(b | y, fields) + N G N'``."""
    bars = problem.bars
    if bars is None or elimination.bars is None:
        return []
    N = elimination.bars.modes(problem.products.with_bars(bars, np.eye(len(G))))
    spread = Columns(np.einsum("sml,mk->skl", N.first, G, optimize=True), N.rest @ G)
    total = mode_variances(bars.system, elimination.bars)  # spends the factor
    parts = zip(total, by_factor(bars.system, spread), by_factor(bars.system, N), strict=True)
    blocks = [own + np.einsum("sml,tml->stl", a, b, optimize=True) for own, a, b in parts]
    out = []
    for index, T in enumerate(bars.transforms):
        columns = bars.plan.columns(index)
        block = blocks[bars.plan.factor_of(index)][columns, columns].transpose(2, 0, 1)
        back = np.linalg.inv(T)
        out.append(back @ block @ back.T)
    return out


def prediction_variance(
    design: Design, estimates: Estimates, rows: NewRows, include: Sequence[bool] | None = None
) -> FloatArray:
    """As :func:`pylmernn.engines.variances.prediction_variance`."""
    problem = SpatialProblem(design, estimates.REML)
    elimination = problem.eliminate(to_search(problem, estimates.theta))
    at = elimination.solve()
    include = [True] * len(design.random) if include is None else list(include)
    out = np.empty(len(rows.X))
    for start in range(0, len(out), CHUNK):
        part = slice(start, min(start + CHUNK, len(out)))
        out[part] = _chunk(problem, elimination, at, estimates, _take(rows, part), include)
    return estimates.sigma**2 * out


def _take(rows: NewRows, part: slice) -> NewRows:
    random = tuple(
        NewTerm(t.codes[part], t.columns[part], (), None if t.locations is None else t.locations[part])
        for t in rows.random
    )
    return NewRows(rows.X[part], rows.offset[part], random)


def _chunk(
    problem: SpatialProblem,
    elimination: FieldElimination,
    at: FieldSolution,
    estimates: Estimates,
    rows: NewRows,
    include: Sequence[bool],
) -> FloatArray:
    m, products = len(rows.X), problem.products
    prior = np.zeros(m)
    k = np.zeros((products.m, m))
    for field, (tau, lscale) in zip(problem.fields, elimination.points, strict=True):
        if not include[field.term]:
            continue
        term = rows.random[field.term]
        places = field.locations[term.codes] if term.locations is None else term.locations
        k[field.at] = tau**2 * correlation(field.cov, distances(field.locations, places), lscale)
        prior += tau**2
    own = products.weigh(k)
    x = rows.X @ problem.working.transform - k.T @ at.field_ZVX
    t: Columns | None = None
    if problem.bars is not None and at.ZVX is not None:
        a, spread = _bar_covariances(problem, elimination, estimates, rows, include)
        prior += spread
        own = own + products.against_bars(problem.bars, a)
        t = problem.bars.system.multiply(a) - products.with_bars(problem.bars, -k)
        x = x - a.dot(at.ZVX)
        prior -= _dots(a, t)
    modes, inside = elimination.without_bars(t, own)
    if t is not None and modes is not None:
        prior += _dots(t, modes)
    explained = np.einsum("im,im->m", k, own) - np.einsum("im,im->m", inside, elimination.posterior(inside))
    half = np.linalg.solve(at.RX, x.T)
    return np.asarray(prior - explained + (half**2).sum(axis=0))


def _bar_covariances(
    problem: SpatialProblem,
    elimination: FieldElimination,
    estimates: Estimates,
    rows: NewRows,
    include: Sequence[bool],
) -> tuple[Columns, FloatArray]:
    """``a = Omega z`` of the rows as columns, and the prior variance of their bars, (m,)."""
    bars = problem.bars
    assert bars is not None
    assert elimination.bars is not None
    m, system, plan = len(rows.X), bars.system, bars.plan
    is_bar = [i for i, term in enumerate(problem.design.random) if term.covariance != "gp"]
    used = [include[i] for i in is_bar]
    own = NewRows(rows.X, rows.offset, tuple(rows.random[i] for i in is_bar))
    spread = np.zeros(m)
    templates = split_theta(problem.design.random, estimates.theta)
    for i in is_bar:
        if include[i]:
            spread += ((rows.random[i].columns @ templates[i]) ** 2).sum(axis=1)
    first = np.zeros((system.d, m, system.q))
    rest = np.zeros((system.levels.n_columns, m))
    at = np.arange(m)
    for f, members in enumerate(plan.factors):
        codes, z = rows_of_factor(bars, own, members, used)
        a = z @ (elimination.bars.templates[f] @ elimination.bars.templates[f].T)
        for s in range(a.shape[1]):
            if f == 0:
                first[s, at, codes] = a[:, s]
            else:
                rest[system.levels.offsets[f - 1] + codes * a.shape[1] + s, at] = a[:, s]
    return Columns(first, rest), spread


def _dots(a: Columns, b: Columns) -> FloatArray:
    """Inner products of equal columns, (m,)."""
    return np.asarray(np.einsum("sml,sml->m", a.first, b.first) + np.einsum("rm,rm->m", a.rest, b.rest))
