"""Method ``"profiled"``: linear mixed models by maximum likelihood or REML, exactly.

Beta, b and sigma are profiled out; theta is found by Newton's method on the exact gradient. theta is unconstrained
while searching: a column of Lambda and its negative are the same model, so a minimum on lme4's boundary is an ordinary
stationary point here. The gradient that judges convergence is that of the working columns, which are centred and
scaled, so it does not depend on the user's units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import diagonal_positions, split_theta, structure, theta_sizes
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.newton import minimize
from pylmernn.engines.pls import DirectElimination, Parameter, Solution, System, by_factor, derivatives, solve
from pylmernn.engines.start import moment_start
from pylmernn.engines.working import to_user, to_working, working_columns, working_term
from pylmernn.formula.design import Design, RandomTerm
from pylmernn.linalg.crossproducts import GroupRows, cross_products, response_products

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

    def factor_of(self, term: int) -> int:
        """The factor that a term belongs to."""
        return next(f for f, terms in enumerate(self.factors) if term in terms)

    def columns(self, term: int) -> slice:
        """The columns of a term within its factor."""
        after = [
            s for t, s in enumerate(self.start) if self.factor_of(t) == self.factor_of(term) and s > self.start[term]
        ]
        return slice(self.start[term], min(after, default=None))

    def multiply(self, transforms: Sequence[FloatArray], templates: Sequence[FloatArray]) -> list[FloatArray]:
        """``T Lambda`` for each factor, T with one block for each of its terms."""
        out = [Lambda.copy() for Lambda in templates]
        for term, T in enumerate(transforms):
            rows = self.columns(term)
            out[self.factor_of(term)][rows] = T @ templates[self.factor_of(term)][rows]
        return out

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
class Modes:
    """Answers at a fixed theta: ``beta`` (p,), the penalized residual sum of squares, ``b`` (q_k, d_k) of each term."""

    beta: FloatArray
    pwrss: float
    b: tuple[FloatArray, ...]


class Problem:
    """One design ready to be evaluated at any theta.

    The search moves in coordinates x, the theta of working columns (:mod:`pylmernn.engines.working`).

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
        R, self.working = working_columns(design)
        terms = [working_term(term) for term in design.random]
        self.transforms = [term.T for term in terms]
        groups = []
        for members in self.plan.factors:
            first = design.random[members[0]]
            columns = tuple(column for t in members for column in terms[t].columns)
            groups.append(GroupRows(first.codes, first.n_levels, columns))
        self.R, self.groups = R, groups
        self.system = System(cross_products(R, groups, design.weights), device)
        self.constant = -2.0 * self.working.log_determinant if REML else 0.0
        self._last: tuple[FloatArray, Solution] | None = None

    def replace_response(self, y: FloatArray) -> None:
        """Go on with another response (n,), offset taken off: only its own cross-products are summed again."""
        R, p, products = self.R, self.design.p, self.system.products
        weights = self.design.weights
        weighted = y if weights is None else y * weights
        gamma = np.linalg.lstsq(products.RR[:p, :p], R[:, :p].T @ weighted, rcond=None)[0] if p else np.empty(0)
        R[:, p] = y - R[:, :p] @ gamma
        self.working = replace(self.working, beta0=self.working.transform @ gamma)
        column = R[:, p] if weights is None else R[:, p] * weights
        self.system.replace_response(response_products(R, column, self.groups))
        self._last = None

    def start(self, control: Control) -> FloatArray:
        """Where a search starts: x from moments."""
        return moment_start(self.system.products, self.plan.parameters)

    def at(self, x: FloatArray) -> DirectElimination:
        """All at x that does not depend on the response, for :meth:`modes`."""
        return self.eliminate(self.plan.templates(self.design.random, x))

    def modes(self, elimination: DirectElimination) -> Modes:
        """Fixed effects and conditional modes of the present response, in the user's columns."""
        at = solve(self.system, elimination, self.REML, with_score=False)
        modes = by_factor(self.system, at.b)
        b = tuple(
            np.asarray(np.linalg.solve(T, modes[self.plan.factor_of(t)][self.plan.columns(t), 0]).T, dtype=np.float64)
            for t, T in enumerate(self.transforms)
        )
        return Modes(self.working.beta0 + self.working.transform @ at.beta, at.pwrss, b)

    def eliminate(self, templates: Sequence[FloatArray]) -> DirectElimination:
        """The factored random effects at templates of the working columns."""
        return DirectElimination(self.system, templates)

    @property
    def objective_error(self) -> float:
        """Standard error of the objective: none, it is exact."""
        return 0.0

    def templates(self, theta: FloatArray) -> list[FloatArray]:
        """The templates of the factors, in working columns, at the user's theta."""
        return self.plan.multiply(self.transforms, self.plan.templates(self.design.random, theta))

    def value(self, theta: FloatArray) -> float:
        """The objective at the user's theta: REML criterion or -2 log-likelihood."""
        return self._value(self.templates(theta))

    def solution(self, theta: FloatArray) -> Solution:
        """All least-squares answers at the user's theta, in working columns."""
        return solve(self.system, self.eliminate(self.templates(theta)), self.REML)

    def search_value(self, x: FloatArray) -> float:
        """The objective at x."""
        return self._value(self.plan.templates(self.design.random, x))

    def search(self, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The objective, its gradient (m,) and approximate Hessian (m, m) at x."""
        templates = self.plan.templates(self.design.random, x)
        nudged = False
        for Lambda in templates[1:]:
            diagonal = np.einsum("ss->s", Lambda)
            small = np.abs(diagonal) < NUDGE
            diagonal[small] = NUDGE
            nudged = nudged or bool(small.any())
        elimination = self.eliminate(templates)
        at = solve(self.system, elimination, self.REML)
        self._last = None if nudged else (x.copy(), at)
        gradient, hessian = derivatives(self.system, elimination, at, self.plan.parameters, self.REML)
        return at.objective + self.constant, gradient, hessian

    def last_solution(self, x: FloatArray) -> Solution | None:
        """What :meth:`search` found at x, if that was its last call."""
        return self._last[1] if self._last is not None and np.array_equal(self._last[0], x) else None

    def _value(self, templates: Sequence[FloatArray]) -> float:
        return solve(self.system, self.eliminate(templates), self.REML, with_score=False).objective + self.constant


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
    random = problem.design.random
    begun = time.perf_counter()
    if start is None:
        x = problem.start(control)
    else:
        x = to_working(random, problem.transforms, _checked_start(start, len(problem.plan.parameters)))
    found = minimize(
        problem.search,
        x,
        control.tolerance,
        control.max_evaluations,
        callback,
        noise=problem.noise,
    )
    x = _snap_to_boundary(problem, found.x, found.value, control)
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(x == 0.0, 0.0, found.gradient),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    theta = to_user(random, problem.transforms, x)
    return estimates_at(problem, theta, problem.last_solution(x) or problem.solution(theta), convergence, control)


def _checked_start(start: FloatArray, size: int) -> FloatArray:
    start = np.asarray(start, dtype=np.float64)
    if start.shape != (size,):
        raise ValueError(f"start has shape {start.shape}; the model has {size} parameters.")
    return start


def _snap_to_boundary(problem: Problem, x: FloatArray, value: float, control: Control) -> FloatArray:
    """Set to zero what the search brought close to zero, if that costs nothing."""
    small = diagonal_positions(problem.design.random) & (np.abs(x) < control.singular_tolerance) & (x != 0)
    if not small.any():
        return x
    candidate = np.where(small, 0.0, x)
    return candidate if problem.search_value(candidate) <= value + 1e-8 * max(1.0, abs(value) * 1e-3) else x


def estimates_at(
    problem: Problem, theta: FloatArray, at: Solution, convergence: Convergence, control: Control
) -> Estimates:
    """The answers at the user's theta, in the user's columns and term by term, from the solution in working ones."""
    design = problem.design
    T = problem.working.transform
    half = np.linalg.solve(at.RX, T.T)
    scores = by_factor(problem.system, at.score)
    b, u = [], []
    for index, Lambda in enumerate(split_theta(design.random, theta)):
        score = problem.transforms[index].T @ scores[problem.plan.factor_of(index)][problem.plan.columns(index), 0]
        spherical = Lambda.T @ score  # u = Lambda' Z' V^-1 (y - X beta)
        u.append(np.ascontiguousarray(spherical.T))
        b.append(np.ascontiguousarray((Lambda @ spherical).T))
    ussq = float(sum((part**2).sum() for part in u))
    df = design.n - design.p if problem.REML else design.n
    on_diagonal = diagonal_positions(design.random)
    x = to_working(design.random, problem.transforms, theta)  # free of the units of the columns
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
        singular=bool((np.abs(x[on_diagonal]) < control.singular_tolerance).any()),
        convergence=convergence,
        objective_error=problem.objective_error,
    )
