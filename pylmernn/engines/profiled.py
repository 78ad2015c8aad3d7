"""Method ``"profiled"``: linear mixed models by maximum likelihood or REML, exactly.

Beta, b and sigma are profiled out; theta is found by Newton's method on the exact gradient. theta is unconstrained
while searching and rectified at the end: a column of Lambda and its negative are the same model, so a minimum on lme4's
boundary is an ordinary stationary point here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import diagonal_positions, structure, theta_sizes
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.newton import minimize
from pylmernn.engines.pls import DirectElimination, Parameter, Solution, System, by_factor, derivatives, solve
from pylmernn.engines.start import moment_start
from pylmernn.formula.design import Design, RandomTerm
from pylmernn.linalg.crossproducts import GroupRows, cross_products

FloatArray = NDArray[np.float64]

NUDGE = 1e-5  # stands for an exact zero in Lambda where a derivative divides by it


@dataclass(frozen=True)
class Layout:
    """Which rows and columns of which grouping factor each random term has.

    Attributes
    ----------
    factors : tuple of tuple of int
        Terms that share a grouping factor, the factors in order of elimination.
    start : tuple of int, length K
        First column of each term within its factor.
    parameters : tuple of Parameter, length m
        Where each theta stands.
    """

    factors: tuple[tuple[int, ...], ...]
    start: tuple[int, ...]
    parameters: tuple[Parameter, ...]

    def templates(self, random: Sequence[RandomTerm], theta: FloatArray) -> list[FloatArray]:
        """The template of each factor, (d, d) with one block for each of its terms."""
        out = [np.zeros((w, w)) for w in (sum(random[t].width for t in terms) for terms in self.factors)]
        for value, parameter in zip(theta, self.parameters, strict=True):
            out[parameter.block][parameter.row, parameter.column] = value
        return out


def layout(random: Sequence[RandomTerm]) -> Layout:
    """Gather the terms by grouping factor; the factor with most random effects is eliminated first."""
    by_group: dict[tuple[str, int], list[int]] = {}
    for index, term in enumerate(random):
        by_group.setdefault((term.group, term.n_levels), []).append(index)
    factors = [tuple(terms) for terms in by_group.values()]
    factors.sort(key=lambda terms: -random[terms[0]].n_levels * sum(random[t].width for t in terms))
    start, block = [0] * len(random), [0] * len(random)
    for number, terms in enumerate(factors):
        column = 0
        for t in terms:
            start[t], block[t] = column, number
            column += random[t].width
    parameters = [
        Parameter(block[t], start[t] + int(r), start[t] + int(c))
        for t, term in enumerate(random)
        for r, c in zip(*structure(term.covariance).positions(term.width), strict=True)
    ]
    return Layout(tuple(factors), tuple(start), tuple(parameters))


@dataclass(frozen=True)
class WorkingColumns:
    """Fixed effects in coordinates that keep cross-products accurate: ``X_working = X transform``, y less its OLS fit.

    Attributes
    ----------
    transform : ndarray, shape (p, p)
    beta0 : ndarray, shape (p,)
        OLS coefficients of X.
    """

    transform: FloatArray
    beta0: FloatArray

    @property
    def log_determinant(self) -> float:
        """Log |det transform|."""
        return float(np.linalg.slogdet(self.transform)[1])


def working_columns(design: Design) -> tuple[FloatArray, WorkingColumns]:
    """``[X y]`` of the design, centred, scaled and residualized, (n, p + 1) in Fortran order."""
    X, p = design.X, design.p
    R = np.empty((design.n, p + 1), order="F")
    transform = np.eye(p)
    constant = [j for j in range(p) if X[0, j] != 0 and X[0, j] == X[-1, j] and (X[:, j] == X[0, j]).all()]
    for j in range(p):
        column = X[:, j]
        if constant and j != constant[0]:
            shift = float(column.mean())
            transform[constant[0], j] = -shift / X[0, constant[0]]
            column = column - shift
        scale = float(np.sqrt(np.mean(column * column)))
        R[:, j] = column / scale
        transform[:, j] /= scale
    y = design.y if design.offset is None else design.y - design.offset
    W = R[:, :p] if design.weights is None else R[:, :p] * design.weights[:, None]
    gamma = np.linalg.lstsq(W.T @ R[:, :p], W.T @ y, rcond=None)[0] if p else np.empty(0)
    R[:, p] = y - R[:, :p] @ gamma
    return R, WorkingColumns(transform, transform @ gamma)


def system_of(design: Design, plan: Layout | None = None, device: str = "cpu") -> tuple[System, WorkingColumns]:
    """Sum the rows of a design: its cross-products, arranged for elimination."""
    plan = plan or layout(design.random)
    R, working = working_columns(design)
    groups = [
        GroupRows(
            design.random[terms[0]].codes,
            design.random[terms[0]].n_levels,
            tuple(_column(design.random[t], s) for t in terms for s in range(design.random[t].width)),
        )
        for terms in plan.factors
    ]
    return System(cross_products(R, groups, design.weights), device), working


def _column(term: RandomTerm, s: int) -> FloatArray | None:
    """A column left of the bar; None where it is all ones, which saves passes over the rows."""
    column = term.columns[:, s]
    if column[0] == 1.0 and column[-1] == 1.0 and (column == 1.0).all():
        return None
    return np.ascontiguousarray(column)


class Problem:
    """One design ready to be evaluated at any theta.

    Parameters
    ----------
    design : Design
    REML : bool
    device : str, default "cpu"
        Where a large dense factor is computed: "cpu", "cuda", or "auto".
    """

    method = "profiled"
    noise = 0.0  # of the objective, which steps are not judged by

    def __init__(self, design: Design, REML: bool, device: str = "cpu") -> None:
        self.design, self.REML = design, REML
        self.plan = layout(design.random)
        self.system, self.working = system_of(design, self.plan, device)
        self.constant = -2.0 * self.working.log_determinant if REML else 0.0
        self._last: tuple[FloatArray, Solution] | None = None

    def eliminate(self, templates: Sequence[FloatArray]) -> DirectElimination:
        """The factored random effects at templates Lambda."""
        return DirectElimination(self.system, templates)

    @property
    def objective_error(self) -> float:
        """Standard error of the objective: none, it is exact."""
        return 0.0

    def templates(self, theta: FloatArray) -> list[FloatArray]:
        """The templates of the factors at theta."""
        return self.plan.templates(self.design.random, theta)

    def value(self, theta: FloatArray) -> float:
        """The objective: REML criterion or -2 log-likelihood."""
        return (
            solve(self.system, self.eliminate(self.templates(theta)), self.REML, with_score=False).objective
            + self.constant
        )

    def solution(self, theta: FloatArray) -> Solution:
        """All least-squares answers at theta, in working columns."""
        if self._last is not None and np.array_equal(self._last[0], theta):
            return self._last[1]  # the search ends where it last evaluated
        return solve(self.system, self.eliminate(self.templates(theta)), self.REML)

    def value_and_derivatives(self, theta: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The objective, its gradient (m,) and approximate Hessian (m, m)."""
        templates = self.templates(theta)
        for Lambda in templates[1:]:
            diagonal = np.einsum("ss->s", Lambda)
            diagonal[np.abs(diagonal) < NUDGE] = NUDGE
        elimination = self.eliminate(templates)
        at = solve(self.system, elimination, self.REML)
        nudged = any((a != b).any() for a, b in zip(templates, self.templates(theta), strict=True))
        self._last = None if nudged else (theta.copy(), at)
        gradient, hessian = derivatives(self.system, elimination, at, self.plan.parameters, self.REML)
        return at.objective + self.constant, gradient, hessian


def devfun(design: Design, REML: bool = True) -> Callable[[FloatArray], float]:
    """The profiled objective as a function of theta, as lme4's ``mkLmerDevfun`` gives it.

    Parameters
    ----------
    design : Design
    REML : bool, default True

    Returns
    -------
    callable
        ``theta (m,) -> float``.
    """
    problem = Problem(design, REML)
    size = sum(theta_sizes(design.random))

    def objective(theta: FloatArray) -> float:
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (size,):
            raise ValueError(f"theta has shape {theta.shape}; the model has {size} variance parameters.")
        return problem.value(theta)

    return objective


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Estimate a linear mixed model.

    Parameters
    ----------
    design : Design
    REML : bool, default True
        REML criterion, else maximum likelihood.
    control : Control, optional
    start : ndarray, shape (m,), optional
        theta to start from; by default from moments.
    callback : callable, optional
        Called after each evaluation with their number and the objective.

    Returns
    -------
    Estimates

    Raises
    ------
    ValueError
        If ``start`` has the wrong length.
    """
    control = control or Control()
    return estimate(Problem(design, REML, control.device), control, start, callback)


def estimate(
    problem: Problem,
    control: Control,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Search theta for a problem; the steps of :func:`fit` after the data are summed."""
    design = problem.design
    begun = time.perf_counter()
    theta = (
        moment_start(problem.system.products, problem.plan.parameters)
        if start is None
        else np.asarray(start, dtype=np.float64)
    )
    if theta.shape != (len(problem.plan.parameters),):
        raise ValueError(f"start has shape {theta.shape}; the model has {len(problem.plan.parameters)} parameters.")
    found = minimize(
        problem.value_and_derivatives,
        theta,
        control.tolerance,
        control.max_evaluations,
        callback,
        noise=problem.noise,
    )
    theta = rectify(design.random, found.x)
    theta = _snap_to_boundary(problem, theta, found.value, control)
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(theta == 0.0, 0.0, found.gradient * np.where(found.x * theta < 0, -1.0, 1.0)),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    return estimates_at(problem, theta, convergence, control)


def rectify(random: Sequence[RandomTerm], theta: FloatArray) -> FloatArray:
    """The same model with no negative diagonal entry of Lambda: columns are turned to their negatives."""
    theta = theta.copy()
    position = 0
    for term in random:
        rows, columns = structure(term.covariance).positions(term.width)
        part = theta[position : position + len(rows)]
        for c in columns[(rows == columns) & (part < 0)]:
            part[columns == c] *= -1.0
        position += len(rows)
    return theta


def _snap_to_boundary(problem: Problem, theta: FloatArray, value: float, control: Control) -> FloatArray:
    """Set to zero what the search brought close to zero, if that costs nothing."""
    small = diagonal_positions(problem.design.random) & (theta < control.singular_tolerance) & (theta > 0)
    if not small.any():
        return theta
    candidate = np.where(small, 0.0, theta)
    return candidate if problem.value(candidate) <= value + 1e-8 * max(1.0, abs(value) * 1e-3) else theta


def estimates_at(problem: Problem, theta: FloatArray, convergence: Convergence, control: Control) -> Estimates:
    """The answers at a given theta, in the user's columns and term by term."""
    design, at = problem.design, problem.solution(theta)
    T = problem.working.transform
    half = np.linalg.solve(at.RX, T.T)
    scores = by_factor(problem.system, at.score)
    b, u = [], []
    templates = problem.templates(theta)
    for index, term in enumerate(design.random):
        factor = next(f for f, terms in enumerate(problem.plan.factors) if index in terms)
        columns = slice(problem.plan.start[index], problem.plan.start[index] + term.width)
        Lambda = templates[factor][columns, columns]
        spherical = Lambda.T @ scores[factor][columns, 0]  # u = Lambda' Z' V^-1 (y - X beta)
        u.append(np.ascontiguousarray(spherical.T))
        b.append(np.ascontiguousarray((Lambda @ spherical).T))
    ussq = float(sum((part**2).sum() for part in u))
    df = design.n - design.p if problem.REML else design.n
    on_diagonal = diagonal_positions(design.random)
    return Estimates(
        method=problem.method,
        REML=problem.REML,
        theta=theta,
        beta=problem.working.beta0 + T @ at.beta,
        sigma=float(np.sqrt(at.pwrss / df)),
        b=tuple(b),
        u=tuple(u),
        unscaled_vcov=half.T @ half,
        objective=at.objective + problem.constant,
        ldL2=at.ldL2,
        ldRX2=at.ldRX2 - 2.0 * problem.working.log_determinant,
        pwrss=at.pwrss,
        wrss=at.pwrss - ussq,
        ussq=ussq,
        singular=bool((theta[on_diagonal] < control.singular_tolerance).any()),
        convergence=convergence,
        objective_error=problem.objective_error,
    )
