"""Method ``"pirls"``: generalized linear mixed models by maximum likelihood.

The log-likelihood is Laplace's approximation, or adaptive Gauss-Hermite quadrature where there is one grouping factor.
Theta, beta and the dispersion are found together by Newton's method on the exact gradient, with the average
information of the working linear mixed model for curvature; theta is unconstrained while searching, as in
:mod:`pylmernn.engines.profiled`. For ``nAGQ=0`` beta minimizes the penalized deviance instead, as in lme4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import diagonal_positions, split_theta, theta_sizes
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.newton import minimize
from pylmernn.engines.pirls_laplace import Curvature, Slopes, laplace_derivatives, laplace_value, working_curvature
from pylmernn.engines.pirls_modes import Modes, Observations, find_modes
from pylmernn.engines.pirls_quadrature import Quadrature
from pylmernn.engines.pirls_system import ReweightedSystem
from pylmernn.engines.pls import DirectElimination
from pylmernn.engines.profiled import NUDGE, layout
from pylmernn.engines.start import moment_start
from pylmernn.engines.working import to_user, to_working, working_columns, working_term
from pylmernn.families.family import Family
from pylmernn.formula.design import Design, DesignError
from pylmernn.linalg.crossproducts import GroupRows, cross_products
from pylmernn.linalg.quadrature import gauss_hermite

FloatArray = NDArray[np.float64]

MAX_NODES = 100_000  # nodes of a product rule that are still worth their time
LOG_PHI_LIMIT = 25.0


@dataclass(frozen=True)
class GeneralizedEstimates(Estimates):
    """Estimates of a generalized linear mixed model; ``b = Lambda u`` without a scale, so sigma is 1.

    Attributes
    ----------
    family : Family
    phi : float
        Dispersion; 1 for families without.
    nAGQ : int
    eta : ndarray, shape (n,)
        Linear predictors at the modes.
    """

    family: Family | None = None
    phi: float = 1.0
    nAGQ: int = 1
    eta: FloatArray | None = None


@dataclass(frozen=True)
class Evaluation:
    """The objective at one point, with the modes there; derivatives where they were asked for."""

    value: float
    modes: Modes
    elimination: DirectElimination
    slopes: Slopes | None = None
    curvature: Curvature | None = None


class GeneralizedProblem:
    """One design and family, ready to be evaluated at any (theta, beta, phi).

    Parameters
    ----------
    design : Design
    family : Family
    nAGQ : int
    device : str

    Raises
    ------
    DesignError
        For quadrature over more than one grouping factor.
    """

    def __init__(self, design: Design, family: Family, nAGQ: int = 1, device: str = "cpu") -> None:
        self.design, self.family, self.nAGQ = design, family, nAGQ
        self.plan = layout(design.random)
        R, self.working = working_columns(design)
        terms = [working_term(term) for term in design.random]
        self.transforms = [term.T for term in terms]
        groups = []
        for members in self.plan.factors:
            first = design.random[members[0]]
            columns = tuple(column for t in members for column in terms[t].columns)
            groups.append(GroupRows(first.codes, first.n_levels, columns))
        self.system = ReweightedSystem(R[:, : design.p], groups, device)
        self.data = Observations.of(family, design.y, design.weights)
        self.offset = np.zeros(design.n) if design.offset is None else design.offset
        self.joint = nAGQ == 0
        self.nodes = None
        if nAGQ > 1:
            if len(groups) > 1:
                raise DesignError(f"nAGQ is {nAGQ}: quadrature is for one grouping factor; use nAGQ=1 or nAGQ=0.")
            if nAGQ ** groups[0].width > MAX_NODES:
                raise DesignError(f"nAGQ={nAGQ} in {groups[0].width} dimensions has too many nodes: use fewer.")
            self.nodes = gauss_hermite(nAGQ, groups[0].width)
        self._u = [np.zeros((g.width, g.n_levels)) for g in groups]
        self._beta = np.zeros(design.p)

    @property
    def n_theta(self) -> int:
        """Number of variance parameters, m."""
        return len(self.plan.parameters)

    def begin_at(self, beta: FloatArray) -> None:
        """Where the modes are looked for first: at beta (p,) of the working columns."""
        self._beta = beta

    def evaluate(
        self, templates: Sequence[FloatArray], beta: FloatArray, phi: float, derivatives: bool = False
    ) -> Evaluation:
        """The objective at templates and beta (p,) of the working columns.

        Raises
        ------
        numpy.linalg.LinAlgError
            Where it is not finite, or the modes are not found.
        """
        system, data = self.system, self.data
        beta = self._beta if self.joint else beta
        with np.errstate(all="ignore"):
            modes = find_modes(system, data, templates, self.offset, beta, self._u, phi, self.joint)
            value, elimination, weights, slope = laplace_value(system, data, templates, modes, phi)
            quadrature = None
            if self.nodes is not None:
                quadrature = Quadrature(system, data, templates[0], modes, phi, self.nodes)
                value = quadrature.value
            self._u, self._beta = modes.u, modes.beta
            if not derivatives:
                return Evaluation(value, modes, elimination)
            parameters = self.plan.parameters
            if quadrature is not None:
                curvature = working_curvature(system, elimination, modes, elimination.information(), parameters)
                return Evaluation(value, modes, elimination, quadrature.slopes(slope), curvature)
            slopes, curvature = laplace_derivatives(
                system, data, elimination, modes, weights, slope, phi, self.joint, parameters
            )
        return Evaluation(value, modes, elimination, slopes, curvature)

    def search(self, x: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Objective, gradient and approximate Hessian at x: theta and beta of working columns, log dispersion."""
        m, p = self.n_theta, 0 if self.joint else self.design.p
        templates = self.templates(x)
        for Lambda in templates[1:]:  # the gradient divides by their diagonals
            diagonal = np.einsum("ss->s", Lambda)
            diagonal[np.abs(diagonal) < NUDGE] = NUDGE
        phi = self.phi(x)
        at = self.evaluate(templates, x[m : m + p], phi, derivatives=True)
        assert at.slopes is not None and at.curvature is not None
        slopes, curvature = at.slopes, at.curvature
        gradient = np.array([slopes.templates[a.block][a.row, a.column] for a in self.plan.parameters])
        hessian = np.zeros((len(x), len(x)))
        hessian[:m, :m] = curvature.theta
        if self.joint:
            hessian[:m, :m] -= curvature.mixed.T @ np.linalg.solve(curvature.beta, curvature.mixed)
        else:
            gradient = np.append(gradient, slopes.beta)
            hessian[m : m + p, m : m + p] = curvature.beta
            hessian[m : m + p, :m], hessian[:m, m : m + p] = curvature.mixed, curvature.mixed.T
        if self.family.has_dispersion:
            gradient = np.append(gradient, phi * slopes.phi)
            hessian[-1, -1] = self._dispersion_curvature(at.modes.eta, phi)
        return at.value, gradient, hessian

    def templates(self, x: FloatArray) -> list[FloatArray]:
        """Templates of the factors, in working columns, at a point of the search."""
        return self.plan.templates(self.design.random, x[: self.n_theta])

    def phi(self, x: FloatArray) -> float:
        """The dispersion at a point of the search."""
        if not self.family.has_dispersion:
            return 1.0
        if abs(x[-1]) > LOG_PHI_LIMIT:
            raise np.linalg.LinAlgError("the dispersion is out of reach")
        return float(np.exp(x[-1]))

    def user_templates(self, theta: FloatArray) -> list[FloatArray]:
        """Templates of the factors, in working columns, at the user's theta."""
        return self.plan.multiply(self.transforms, self.plan.templates(self.design.random, theta))

    def working_beta(self, beta: FloatArray) -> FloatArray:
        """Beta (p,) of the working columns from the user's."""
        return np.asarray(np.linalg.solve(self.working.transform, beta), dtype=np.float64)

    def _dispersion_curvature(self, eta: FloatArray, phi: float) -> float:
        """Second derivative of -2 log f in log phi, eta held."""
        width = 1e-4
        up, down = (
            f * phi * float(self.data.by_dispersion(eta, f * phi).loglik.sum()) for f in (np.exp(width), np.exp(-width))
        )
        return max(-(up - down) / width, 1e-3)

    def start(self) -> FloatArray:
        """Beta of the model without random effects, and variances from the moments of its working residuals."""
        data, X, family = self.data, self.system.X, self.family
        eta = family.link.forward(family.start(data.y, data.weights))
        beta = np.zeros(self.design.p)
        mu = family.link.inverse(eta)
        phi = family.start_dispersion(data.y, data.weights, mu) if family.has_dispersion else 1.0
        with np.errstate(all="ignore"):
            for _ in range(4):
                step = data.step(eta, phi)
                weights = data.fisher(eta, phi)
                WX = X * weights[:, None]
                right = WX.T @ (eta - self.offset) + X.T @ step.score
                new = np.asarray(np.linalg.lstsq(X.T @ WX, right, rcond=None)[0], dtype=np.float64)
                new_eta = self.offset + X @ new
                if not np.isfinite(data.step(new_eta, phi).loglik.sum()):
                    break
                beta, eta = new, new_eta
            if family.has_dispersion:
                phi = family.start_dispersion(data.y, data.weights, family.link.inverse(eta))
            weights, score = data.fisher(eta, phi), data.step(eta, phi).score
        R = np.asfortranarray(np.column_stack([X, score / weights]))
        theta = moment_start(cross_products(R, self.system.groups, weights), self.plan.parameters)
        if family.link.name == "log":
            theta, beta = self._from_marginal(theta, beta)
        self.begin_at(beta)
        parts = [theta] if self.joint else [theta, beta]
        return np.concatenate([*parts, [np.log(phi)]] if family.has_dispersion else parts)


    def _from_marginal(self, theta: FloatArray, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Start values given random effects, where the mean is log-normal in them.

        A variance v of eta multiplies the mean by ``exp(v / 2)`` and adds a squared coefficient of variation of
        ``exp(v) - 1``, which is what the moments of the working residuals see.
        """
        spread = np.zeros(self.design.n)
        for group, Lambda in zip(self.system.groups, self.templates(theta), strict=True):
            block = (Lambda @ Lambda.T)[:, :, None]
            spread += self.system.quadratic_rows(group, np.broadcast_to(block, (*Lambda.shape, group.n_levels)))
        total = max(float(spread.mean()), 1e-8)
        share = np.log1p(total) / total
        X = self.system.X
        shift = np.linalg.lstsq(X.T @ X, X.T @ (0.5 * share * spread), rcond=None)[0]
        return theta * np.sqrt(share), np.asarray(beta - shift, dtype=np.float64)


def devfun(design: Design, family: Family, nAGQ: int = 1) -> Callable[..., float]:
    """-2 log-likelihood as a function of theta, beta and the dispersion, as lme4's ``mkGlmerDevfun`` has it.

    Parameters
    ----------
    design : Design
    family : Family
    nAGQ : int, default 1
        For 0 beta is not read.

    Returns
    -------
    callable
        ``(theta (m,), beta (p,), phi=1.0) -> float``.
    """
    problem = GeneralizedProblem(design, family, nAGQ)
    size = sum(theta_sizes(design.random))

    def objective(theta: FloatArray, beta: FloatArray | None = None, phi: float = 1.0) -> float:
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (size,):
            raise ValueError(f"theta has shape {theta.shape}; the model has {size} variance parameters.")
        given = problem.working_beta(np.zeros(design.p) if beta is None else beta)
        return problem.evaluate(problem.user_templates(theta), given, phi).value

    return objective


def fit(
    design: Design,
    family: Family,
    nAGQ: int = 1,
    control: Control | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> GeneralizedEstimates:
    """Estimate a generalized linear mixed model.

    Parameters
    ----------
    design : Design
    family : Family
    nAGQ : int, default 1
        Nodes of adaptive quadrature in each dimension; 1 is Laplace's approximation, 0 also finds beta with the modes.
    control : Control, optional
    callback : callable, optional
        Called after each evaluation with their number and the objective.

    Returns
    -------
    GeneralizedEstimates
    """
    control = control or Control()
    begun = time.perf_counter()
    problem = GeneralizedProblem(design, family, nAGQ, control.device)
    found = minimize(problem.search, problem.start(), control.tolerance, control.max_evaluations, callback, noise=1e-9)
    x = _snap_to_boundary(problem, found.x, found.value, control)
    convergence = Convergence(
        converged=not found.message or found.predicted < 1e-4,
        gradient=np.where(x == 0.0, 0.0, found.gradient),
        n_evaluations=found.n_evaluations,
        message=found.message,
        seconds=time.perf_counter() - begun,
    )
    return estimates_at(problem, x, convergence, control)


def _snap_to_boundary(problem: GeneralizedProblem, x: FloatArray, value: float, control: Control) -> FloatArray:
    """Set to zero the standard deviations that the search brought close to zero, if that costs nothing."""
    m = problem.n_theta
    small = np.zeros(len(x), dtype=bool)
    small[:m] = diagonal_positions(problem.design.random) & (np.abs(x[:m]) < control.singular_tolerance)
    if not small.any():
        return x
    candidate = np.where(small, 0.0, x)
    at = problem.evaluate(problem.templates(candidate), candidate[m : m + problem.design.p], problem.phi(candidate))
    return candidate if at.value <= value + 1e-7 else x


def estimates_at(
    problem: GeneralizedProblem, x: FloatArray, convergence: Convergence, control: Control
) -> GeneralizedEstimates:
    """The answers at a point of the search, in the user's columns and term by term."""
    design, m = problem.design, problem.n_theta
    phi = problem.phi(x)
    at = problem.evaluate(problem.templates(x), x[m : m + design.p], phi)
    modes, system = at.modes, problem.system
    theta = to_user(design.random, problem.transforms, x[:m])
    V = system.products.RR - system.R.dot(at.elimination.modes(system.R))
    RX = np.linalg.cholesky(V)
    half = np.linalg.solve(RX, problem.working.transform.T)
    scores = system.by_level(modes.step.score)
    b, u = [], []
    for index, Lambda in enumerate(split_theta(design.random, theta)):
        score = problem.transforms[index].T @ scores[problem.plan.factor_of(index)][problem.plan.columns(index)]
        spherical = Lambda.T @ score  # u = Lambda' Z' dl/deta
        u.append(np.ascontiguousarray(spherical.T))
        b.append(np.ascontiguousarray((Lambda @ spherical).T))
    mu = problem.family.link.inverse(modes.eta)
    wrss = float((problem.data.weights * (design.y - mu) ** 2 / problem.family.variance(mu, phi)).sum())
    scaled = to_working(design.random, problem.transforms, theta)
    return GeneralizedEstimates(
        method="pirls",
        REML=False,
        theta=theta,
        beta=problem.working.transform @ modes.beta,
        sigma=1.0,
        b=tuple(b),
        u=tuple(u),
        unscaled_vcov=half.T @ half,
        objective=at.value,
        ldL2=at.elimination.log_determinant,
        ldRX2=float(2.0 * np.log(np.diagonal(RX)).sum() - 2.0 * problem.working.log_determinant),
        pwrss=wrss + modes.ussq,
        wrss=wrss,
        ussq=modes.ussq,
        singular=bool((np.abs(scaled[diagonal_positions(design.random)]) < control.singular_tolerance).any()),
        convergence=convergence,
        family=problem.family,
        phi=phi,
        nAGQ=problem.nAGQ,
        eta=modes.eta,
    )
