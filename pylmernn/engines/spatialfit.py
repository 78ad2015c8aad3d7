"""The search for the parameters of a model with Gaussian processes: gradient, curvature, start, answers.

With e = V^-1 (y - X beta), P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1 (V^-1 under ML) and c = n - p (n), the objective's
derivative in a parameter a is ``tr(P dV_a) - (c / r^2) e' dV_a e``; its curvature is approximated by average
information as in :mod:`pylmernn.engines.pls`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from pylmernn.covariance import diagonal_positions, split_theta, theta_sizes
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.fields import best_of_grid, nearest
from pylmernn.engines.fields import derivatives as field_derivatives
from pylmernn.engines.newton import minimize
from pylmernn.engines.pls import Columns, by_factor, score_directions
from pylmernn.engines.profiled import Modes
from pylmernn.engines.spatial import FieldElimination, FieldSolution, SpatialModel
from pylmernn.engines.start import moment_start
from pylmernn.engines.vecchia import VecchiaProblem, offered
from pylmernn.engines.working import to_user, to_working
from pylmernn.formula.design import Design
from pylmernn.linalg.smallblocks import sum_outer

FloatArray = NDArray[np.float64]

NUDGE = 1e-5  # stands for an exact zero in Lambda where a derivative divides by it
SAMPLE = 600  # locations from which the search starts


class SpatialProblem(SpatialModel):
    """A model with fields, and the steps of its estimation; the interface of ``profiled.Problem``."""

    def start(self, control: Control) -> FloatArray:
        """Where a search starts."""
        return start_of(self, control)

    def search(self, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The objective, its gradient (m,) and approximate Hessian (m, m) at x."""
        return search(self, x)

    def at(self, x: FloatArray) -> FieldElimination:
        """All at x that does not depend on the response, for :meth:`modes`."""
        return self.eliminate(x)

    def modes(self, elimination: FieldElimination) -> Modes:
        """Fixed effects and conditional modes of the present response, in the user's columns."""
        at = elimination.solve()
        beta = self.working.beta0 + self.working.transform @ at.beta
        return Modes(beta, at.pwrss, _modes_by_term(self, at))


def search(problem: SpatialModel, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """The objective, its gradient (m,) and average-information Hessian (m, m) at x."""
    x = x.copy()
    if problem.bars is not None:
        on_diagonal = diagonal_positions(problem.bars.design.random)
        small = on_diagonal & (np.abs(x[: problem.n_bars]) < NUDGE)
        x[: problem.n_bars][small] = NUDGE
    elimination = problem.eliminate(x, keep=problem.bars is not None)
    at = elimination.solve()
    gradient, H = _derivatives(problem, elimination, at)
    for k, field in enumerate(problem.fields):  # from log length-scale to z
        i = problem.n_bars + 2 * k + 1
        first, second = field.slopes(x[i])
        H[i] *= first
        H[:, i] *= first
        H[i, i] += second * gradient[i]
        gradient[i] *= first
    return at.objective + problem.constant, gradient, H


def _derivatives(
    problem: SpatialModel, elimination: FieldElimination, at: FieldSolution
) -> tuple[FloatArray, FloatArray]:
    df = problem.design.n - (problem.design.p if problem.REML else 0)
    ratio = df / at.pwrss
    W_inverse = _inverse(elimination)
    slopes = _bar_slopes(problem, elimination, at, W_inverse, ratio)
    Q = _location_information(elimination, at, W_inverse, problem.REML)
    m, n_bars = n_parameters(problem), problem.n_bars
    gradient = np.zeros(m)
    images = np.zeros((problem.products.m, m))
    extra = np.zeros((m, m))
    for k, (field, (tau, lscale)) in enumerate(zip(problem.fields, elimination.points, strict=True)):
        i, s = n_bars + 2 * k, at.field_score[field.at]
        d = field_derivatives(field, tau, lscale, Q[field.at, field.at], s)
        images[field.at, i : i + 2] = d.columns
        gradient[i] = d.trace_tau - ratio * float(s @ d.columns[:, 0])
        gradient[i + 1] = d.trace_lscale - ratio * float(s @ d.columns[:, 1])
        extra[i, i] = gradient[i] / tau if tau else 0.0  # V is quadratic in tau
    directions = None
    if problem.bars is not None and at.score is not None:
        templates, parameters = elimination.bars.templates, problem.bars.plan.parameters  # type: ignore[union-attr]
        own = score_directions(problem.bars.system, at.score, templates, parameters)
        directions = own.combine(np.eye(n_bars, m))
        for i, a in enumerate(parameters):
            gradient[i] = 2.0 * slopes[a.block][a.row] @ templates[a.block][:, a.column]
            for j, c in enumerate(parameters):
                if a.block == c.block and a.column == c.column:
                    extra[i, j] += 2.0 * slopes[a.block][a.row, c.row]
    return gradient, _average_information(problem, elimination, at, directions, images, ratio) + extra


def n_parameters(problem: SpatialModel) -> int:
    """Length of x."""
    return problem.n_bars + 2 * len(problem.fields)


def _inverse(elimination: FieldElimination) -> FloatArray:
    """``W^-1``, (m, m); the factor stays."""
    inverse, _ = lapack.dpotri(elimination.W, lower=1, overwrite_c=0)
    lower = inverse.T  # C order, its upper triangle holds the values
    for start in range(0, len(lower), 512):
        block = slice(start, start + 512)
        lower[block, :start] = lower[:start, block].T
        corner = lower[block, block]
        corner[...] = np.triu(corner) + np.triu(corner, 1).T
    return np.asarray(lower)


def _location_information(
    elimination: FieldElimination, at: FieldSolution, W_inverse: FloatArray, REML: bool
) -> FloatArray:
    """``Z_g' P Z_g = L W^-1 L'``, less the fixed effects' share under REML, (m, m); overwrites ``W_inverse``."""
    root = elimination.root
    if root.ndim == 1:
        W_inverse *= root
        W_inverse *= root[:, None]
        Q = W_inverse
    else:
        Q = root @ W_inverse @ root.T
    if REML and at.field_ZVX.shape[1]:
        C = np.linalg.solve(at.RX, at.field_ZVX.T)
        for start in range(0, len(Q), 1024):
            rows = slice(start, start + 1024)
            Q[rows] -= C[:, rows].T @ C
    return Q


def _bar_slopes(
    problem: SpatialModel, elimination: FieldElimination, at: FieldSolution, W_inverse: FloatArray, ratio: float
) -> list[FloatArray]:
    """``E_k - ratio v_k v_k'`` of each factor: with E the sums of diagonal blocks of ``Z_k' P Z_k``, (d_k, d_k)."""
    if problem.bars is None or elimination.bars is None or elimination.U is None:
        return []
    assert at.score is not None
    assert at.ZVX is not None
    system, U = problem.bars.system, elimination.U
    middle = np.eye(len(W_inverse)) - W_inverse
    middle = elimination.half(elimination.half(middle, transpose=True).T, transpose=True)  # G
    UG = Columns(np.einsum("sml,mk->skl", U.first, middle, optimize=True), U.rest @ middle)
    out = []
    parts = zip(
        elimination.bars.information(), by_factor(system, U), by_factor(system, UG),
        by_factor(system, at.score), by_factor(system, at.ZVX), strict=True,
    )  # fmt: skip
    for E, u, ug, v, zvx in parts:
        slope = E - np.einsum("sml,tml->st", ug, u, optimize=True) - ratio * sum_outer(v, v)
        if problem.REML:
            half = np.asarray(np.linalg.solve(at.RX, zvx), dtype=np.float64)
            slope = slope - sum_outer(half, half)
        out.append(np.asarray(0.5 * (slope + slope.T)))
    return out


def _average_information(
    problem: SpatialModel,
    elimination: FieldElimination,
    at: FieldSolution,
    directions: Columns | None,
    images: FloatArray,
    ratio: float,
) -> FloatArray:
    """``ratio (v' P v - q q' / r^2)`` for v_a = dV_a e, given as columns of the bars and of the locations."""
    own = problem.products.weigh(images)
    total = np.zeros((images.shape[1],) * 2)
    q = at.field_score @ images
    t = None
    if problem.bars is not None and directions is not None and at.score is not None:
        own = own + problem.products.against_bars(problem.bars, directions)
        t = problem.bars.system.multiply(directions)
        t = t - problem.products.with_bars(problem.bars, -images)
        total += directions.dot(t)
        q = q + at.score.dot(directions)[0]
    total += images.T @ own
    modes, inside = elimination.without_bars(t, own)
    if t is not None and modes is not None:
        total -= t.dot(modes)
    total -= inside.T @ elimination.posterior(inside)
    if problem.REML and len(at.RX):
        XVv = at.field_ZVX.T @ images
        if directions is not None and at.ZVX is not None:
            XVv = XVv + at.ZVX.dot(directions)
        half = np.linalg.solve(at.RX, XVv)
        total -= half.T @ half
    H = ratio * (total - np.outer(q, q) / at.pwrss)
    return np.asarray(0.5 * (H + H.T))


def start_of(problem: SpatialModel, control: Control) -> FloatArray:
    """Where the search starts: a field alone by Vecchia's approximation, else bars by moments and fields by a sample.

    Half of the sample lies close together, so that short length-scales show, half anywhere.
    """
    if offered(problem.design) and problem.products.m > SAMPLE:
        near = VecchiaProblem(problem.design, problem.REML, seed=control.seed)
        return minimize(near.search, near.start(control), 1e-2, 30).x
    x = np.zeros(n_parameters(problem))
    if problem.bars is not None:
        x[: problem.n_bars] = moment_start(problem.bars.system.products, problem.bars.plan.parameters)
    for k, field in enumerate(problem.fields):
        term = problem.design.random[field.term]
        chosen = _sample(field.locations, control.seed)
        place = np.full(len(field.locations), -1, dtype=np.int32)
        place[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(place[term.codes] >= 0)
        sample = dataclasses.replace(term, codes=place[term.codes[rows]], locations=field.locations[chosen],
                                     levels=term.levels[chosen], columns=term.columns[rows])  # fmt: skip
        design = Design(
            y=problem.R[rows, -1], X=np.ones((len(rows), 1)), fixed_names=("(Intercept)",), random=(sample,),
            weights=None if problem.design.weights is None else problem.design.weights[rows],
        )  # fmt: skip
        whole = len(problem.fields) == 1 and problem.bars is None and len(chosen) == len(field.locations)
        x[problem.n_bars + 2 * k :][:2] = _coarse(SpatialProblem(design, REML=True), polish=not whole)
    return x


def _sample(locations: FloatArray, seed: int) -> NDArray[np.intp]:
    if len(locations) <= SAMPLE:
        return np.arange(len(locations))
    rng = np.random.default_rng(seed)
    near = nearest(locations, locations[[rng.integers(len(locations))]], SAMPLE // 2)[1][0]
    return np.union1d(near, rng.choice(len(locations), SAMPLE // 2, replace=False))


def _coarse(problem: SpatialProblem, polish: bool) -> FloatArray:
    """Tau and z of one field alone: the best of a grid, polished by a few steps."""
    best = best_of_grid(problem.fields[0], problem.search_value)
    return minimize(problem.search, best, 1e-2, 15).x if polish else best


def fit(
    problem: SpatialModel,
    control: Control,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Search the parameters of a problem and return the answers, as :func:`pylmernn.engines.profiled.estimate`."""
    begun = time.perf_counter()
    x = start_of(problem, control) if start is None else to_search(problem, np.asarray(start, dtype=np.float64))
    found = minimize(lambda x: search(problem, x), x, control.tolerance, control.max_evaluations, callback)
    x = _snap(problem, found.x, found.value, control)
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(x == 0.0, 0.0, found.gradient),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    return estimates_at(problem, to_theta(problem, x), convergence, control)


def _snap(problem: SpatialModel, x: FloatArray, value: float, control: Control) -> FloatArray:
    """Set to zero what the search brought close to zero, if that costs nothing."""
    small = np.abs(x) < control.singular_tolerance
    small[problem.n_bars + 1 :: 2] = False
    if problem.bars is not None:
        small[: problem.n_bars] &= diagonal_positions(problem.bars.design.random)
    candidate = np.where(small, 0.0, x)
    if not small.any():
        return x
    return candidate if problem.search_value(candidate) <= value + 1e-8 * max(1.0, abs(value) * 1e-3) else x


def _places(problem: SpatialModel) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the parameters of the bars, and those of the fields, stand in theta."""
    random = problem.design.random
    ends = np.cumsum([0, *theta_sizes(random)])
    is_field = np.repeat([t.covariance == "gp" for t in random], np.diff(ends))
    return np.flatnonzero(~is_field), np.flatnonzero(is_field)


def to_theta(problem: SpatialModel, x: FloatArray) -> FloatArray:
    """Theta of the user's columns, (m,), from x."""
    of_bars, of_fields = _places(problem)
    theta = np.empty(len(x))
    if problem.bars is not None:
        theta[of_bars] = to_user(problem.bars.design.random, problem.bars.transforms, x[: problem.n_bars])
    own = x[problem.n_bars :].reshape(-1, 2)
    lscales = [field.lscale(z) for field, z in zip(problem.fields, own[:, 1], strict=True)]
    theta[of_fields] = np.stack([np.abs(own[:, 0]), lscales], axis=1).ravel()
    return theta


def to_search(problem: SpatialModel, theta: FloatArray) -> FloatArray:
    """X from theta of the user's columns; ValueError for a wrong length or a length-scale that is not positive."""
    split_theta(problem.design.random, theta)  # checks the length
    of_bars, of_fields = _places(problem)
    own = theta[of_fields].reshape(-1, 2)
    if (own[:, 1] <= 0).any():
        raise ValueError("a length-scale in theta is not positive.")
    z = [field.z(lscale) for field, lscale in zip(problem.fields, own[:, 1], strict=True)]
    x = [np.stack([own[:, 0], z], axis=1).ravel()]
    if problem.bars is not None:
        x.insert(0, to_working(problem.bars.design.random, problem.bars.transforms, theta[of_bars]))
    return np.concatenate(x)


def _modes_by_term(problem: SpatialModel, at: FieldSolution) -> tuple[FloatArray, ...]:
    """Conditional modes of each random term, (q, d), in the user's columns."""
    fields = {field.term: field for field in problem.fields}
    of_bars: list[FloatArray] = []
    if problem.bars is not None and at.b is not None:
        plan, modes = problem.bars.plan, by_factor(problem.bars.system, at.b)
        of_bars = [
            np.asarray(np.linalg.solve(T, modes[plan.factor_of(t)][plan.columns(t), 0]).T, dtype=np.float64)
            for t, T in enumerate(problem.bars.transforms)
        ]
    out = []
    for index in range(len(problem.design.random)):
        out.append(at.field[fields[index].at][:, None] if index in fields else of_bars.pop(0))
    return tuple(out)


def estimates_at(problem: SpatialModel, theta: FloatArray, convergence: Convergence, control: Control) -> Estimates:
    """The answers at the user's theta, term by term."""
    design, n = problem.design, problem.design.n
    at = problem.eliminate(to_search(problem, theta)).solve()
    b, u = [], []
    ussq, next_bar = 0.0, 0
    templates = split_theta(design.random, theta)
    fields = {field.term: field for field in problem.fields}
    for index in range(len(design.random)):
        if index in fields:
            part = fields[index].at
            b.append(at.field[part][:, None])
            u.append(at.field_score[part][:, None])
            ussq += float(at.field[part] @ at.field_score[part])
            continue
        assert problem.bars is not None
        assert at.score is not None
        plan = problem.bars.plan
        scores = by_factor(problem.bars.system, at.score)[plan.factor_of(next_bar)][plan.columns(next_bar), 0]
        spherical = templates[index].T @ (problem.bars.transforms[next_bar].T @ scores)
        u.append(np.ascontiguousarray(spherical.T))
        b.append(np.ascontiguousarray((templates[index] @ spherical).T))
        ussq += float((spherical**2).sum())
        next_bar += 1
    T = problem.working.transform
    half = np.linalg.solve(at.RX, T.T)
    on_diagonal = diagonal_positions(design.random)
    points = theta[_places(problem)[1]].reshape(-1, 2)
    at_an_end = any(field.at_an_end(lscale) for field, lscale in zip(problem.fields, points[:, 1], strict=True))
    return Estimates(
        method=problem.method,
        REML=problem.REML,
        theta=theta,
        beta=problem.working.beta0 + T @ at.beta,
        sigma=float(np.sqrt(at.pwrss / (n - (design.p if problem.REML else 0)))),
        b=tuple(b),
        u=tuple(u),
        unscaled_vcov=half.T @ half,
        objective=at.objective + problem.constant,
        ldL2=at.ldL2,
        ldRX2=at.ldRX2 - 2.0 * problem.working.log_determinant,
        pwrss=at.pwrss,
        wrss=at.pwrss - ussq,
        ussq=ussq,
        singular=at_an_end or bool((np.abs(theta[on_diagonal]) < control.singular_tolerance).any()),
        convergence=convergence,
    )
