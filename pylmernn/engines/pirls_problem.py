"""One generalized linear mixed model, ready to be evaluated at any parameters: objective, gradient and start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.pirls_laplace import (
    Curvature,
    Slopes,
    dispersion_curvature,
    laplace_derivatives,
    laplace_value,
    working_curvature,
)
from pylmernn.engines.pirls_modes import NO_INFORMATION, Modes, Observations, find_modes, solve_fixed
from pylmernn.engines.pirls_quadrature import Quadrature
from pylmernn.engines.pirls_system import ReweightedSystem
from pylmernn.engines.pls import DirectElimination
from pylmernn.engines.profiled import NUDGE, layout
from pylmernn.engines.start import moment_start
from pylmernn.engines.working import WorkingColumns, to_working, working_columns, working_term
from pylmernn.families.family import Dispersion, Family
from pylmernn.formula.design import Design, DesignError
from pylmernn.linalg.crossproducts import GroupRows, cross_products
from pylmernn.linalg.quadrature import gauss_hermite

FloatArray = NDArray[np.float64]

MAX_NODES = 100_000  # nodes of a product rule that are still worth their time
LOG_LIMIT = 700.0  # beyond which exponentials overflow
PHI_LIMIT = 40.0  # of the unconstrained coordinates of the dispersion
NEAR_SINGULAR = 0.05  # diagonal of Lambda below which u is not taken from b


@dataclass(frozen=True)
class Evaluation:
    """The objective at one point, with the modes there; derivatives where they were asked for."""

    value: float
    modes: Modes
    elimination: DirectElimination
    phi: Dispersion
    slopes: Slopes | None = None
    curvature: Curvature | None = None
    quadrature: Quadrature | None = None


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
        _check_offset(design, family)
        self.plan = layout(design.random)
        X, self.working, self._constants = _fixed_columns(design, family)
        terms = [working_term(term) for term in design.random]
        self.transforms = [term.T for term in terms]
        groups = []
        for members in self.plan.factors:
            first = design.random[members[0]]
            columns = tuple(column for t in members for column in terms[t].columns)
            groups.append(GroupRows(first.codes, first.n_levels, columns))
        self.system = ReweightedSystem(X, groups, device)
        self.data = Observations.of(family, design.y, design.weights)
        self.replace_offset(np.zeros(design.n) if design.offset is None else design.offset)
        self.joint = nAGQ == 0
        self.nodes = None
        if nAGQ > 1:
            if len(groups) > 1:
                raise DesignError(f"nAGQ is {nAGQ}: quadrature is for one grouping factor; use nAGQ=1 or nAGQ=0.")
            if nAGQ ** groups[0].width > MAX_NODES:
                raise DesignError(f"nAGQ={nAGQ} in {groups[0].width} dimensions has too many nodes: use fewer.")
            self.nodes = gauss_hermite(nAGQ, groups[0].width)
        self._u = [np.zeros((g.width, g.n_levels)) for g in groups]
        self._b = self._u
        self._beta = np.zeros(design.p)

    @property
    def n_theta(self) -> int:
        """Number of variance parameters, m."""
        return len(self.plan.parameters)

    def replace_offset(self, offset: FloatArray) -> None:
        """Another known part of the linear predictor (n,)."""
        self._offset_mean = float(offset.mean()) if self.family.absorbs_constant else 0.0
        self.offset = offset - self._offset_mean

    def begin_at(self, beta: FloatArray) -> None:
        """Where the modes are looked for first: at beta (p,) of the working columns."""
        self._beta = beta

    def evaluate(
        self, templates: Sequence[FloatArray], beta: FloatArray, phi: Dispersion, derivatives: bool = False
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
            modes = find_modes(system, data, templates, self.offset, beta, self._begin(templates), phi, self.joint)
            value, elimination, weights, slope = laplace_value(system, data, templates, modes, phi)
            quadrature = None
            if self.nodes is not None:
                quadrature = Quadrature(system, data, templates[0], modes, phi, self.nodes)
                value = quadrature.value
            self._u, self._b, self._beta = modes.u, modes.b, modes.beta
            if not derivatives:
                return Evaluation(value, modes, elimination, phi, quadrature=quadrature)
            parameters = self.plan.parameters
            if quadrature is not None:
                by_phi = data.by_dispersion(modes.eta, phi).score
                information = elimination.information()
                curvature = working_curvature(system, elimination, modes, information, parameters, by_phi)
                return Evaluation(value, modes, elimination, phi, quadrature.slopes(slope), curvature)
            slopes, curvature = laplace_derivatives(
                system, data, elimination, modes, weights, slope, phi, self.joint, parameters
            )
        return Evaluation(value, modes, elimination, phi, slopes, curvature)

    def _begin(self, templates: Sequence[FloatArray]) -> list[FloatArray]:
        """Where the modes are looked for: b as it was, which depends on theta less than u does, unless Lambda is near
        singular.
        """
        return [
            np.asarray(np.linalg.solve(L, b), dtype=np.float64) if np.abs(np.diagonal(L)).min() > NEAR_SINGULAR else u
            for L, b, u in zip(templates, self._b, self._u, strict=True)
        ]

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
        in_theta = np.array([slopes.templates[a.block][a.row, a.column] for a in self.plan.parameters])
        chain = self.family.chain(phi)
        beta_phi = curvature.beta_phi @ chain
        in_phi = chain.T @ curvature.phi @ chain + self._dispersion_curvature(at.modes.eta, x[m + p :])
        hessian = np.zeros((len(x), len(x)))
        hessian[:m, :m], hessian[m + p :, m + p :] = curvature.theta, in_phi
        if self.joint:
            both = np.append(curvature.mixed, beta_phi, axis=1)
            hessian -= both.T @ solve_fixed(curvature.beta, both)
        else:
            fixed = slice(m, m + p)
            hessian[fixed, fixed] = curvature.beta
            hessian[fixed, :m], hessian[:m, fixed] = curvature.mixed, curvature.mixed.T
            hessian[fixed, m + p :], hessian[m + p :, fixed] = beta_phi, beta_phi.T
        in_beta = np.empty(0) if self.joint else slopes.beta
        gradient = np.concatenate([in_theta, in_beta, chain.T @ slopes.phi])
        if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            raise np.linalg.LinAlgError("the gradient is not finite")
        return at.value, gradient, hessian

    def templates(self, x: FloatArray) -> list[FloatArray]:
        """Templates of the factors, in working columns, at a point of the search."""
        return self.plan.templates(self.design.random, x[: self.n_theta])

    def phi(self, x: FloatArray) -> Dispersion:
        """The dispersion at a point of the search."""
        given = x[self.n_theta + (0 if self.joint else self.design.p) :]
        if (np.abs(given) > PHI_LIMIT).any():
            raise np.linalg.LinAlgError("the dispersion is out of reach")
        return self.family.from_unconstrained(given)

    def point(self, theta: FloatArray, beta: FloatArray, phi: Dispersion) -> FloatArray:
        """The point of the search at the user's theta, beta and dispersion, near which modes are then looked for."""
        parts, working = [to_working(self.design.random, self.transforms, theta)], self.working_beta(beta)
        if not self.joint:
            parts.append(working)
        shifted = self.family.shifted(phi, self.constant(working))
        self.begin_at(working)
        return np.concatenate([*parts, self.family.unconstrained(shifted)])

    def fixed_factor(self, at: Evaluation) -> FloatArray:
        """Lower Cholesky factor (p, p) of ``X' V^-1 X`` at the modes just found, less what thresholds take of it.

        Where separation left no information on a direction, a rounding error of it stands for zero.
        """
        system, elimination = self.system, at.elimination
        taken = self._taken_by_thresholds(at)
        try:
            V = system.products.RR - system.R.dot(elimination.modes(system.R)) - taken
            return np.asarray(np.linalg.cholesky(V), dtype=np.float64)
        except np.linalg.LinAlgError:  # observed weights may be negative, expected ones are not
            system.reweight(self.data.fisher(at.modes.eta, at.phi), with_X=True)
            elimination = DirectElimination(system, elimination.templates)
            V = system.products.RR - system.R.dot(elimination.modes(system.R)) - taken
            values, vectors = np.linalg.eigh(0.5 * (V + V.T))
            half = np.sqrt(np.maximum(values, NO_INFORMATION * values[-1]))[:, None] * vectors.T
            R = np.linalg.qr(half)[1]
            return np.asarray(R.T * np.where(np.diagonal(R) < 0, -1.0, 1.0), dtype=np.float64)

    def _taken_by_thresholds(self, at: Evaluation) -> FloatArray:
        """The information on beta (p, p) that goes to thresholds, as otherwise to the intercept."""
        if not self.family.absorbs_constant:
            return np.zeros((self.design.p, self.design.p))
        eta, chain = at.modes.eta, self.family.chain(at.phi)
        by_phi = self.data.by_dispersion(eta, at.phi).score
        in_phi, beta_phi = dispersion_curvature(self.system, at.elimination, by_phi)
        own = chain.T @ in_phi @ chain + self._dispersion_curvature(eta, self.family.unconstrained(at.phi))
        mixed = beta_phi @ chain
        return np.asarray(0.5 * mixed @ np.linalg.solve(own, mixed.T), dtype=np.float64)

    def user_templates(self, theta: FloatArray) -> list[FloatArray]:
        """Templates of the factors, in working columns, at the user's theta."""
        return self.plan.multiply(self.transforms, self.plan.templates(self.design.random, theta))

    def working_beta(self, beta: FloatArray) -> FloatArray:
        """Beta (p,) of the working columns from the user's."""
        return np.asarray(np.linalg.solve(self.working.transform, beta), dtype=np.float64)

    def constant(self, beta: FloatArray) -> float:
        """What the working linear predictor has beyond the user's, at beta (p,) of the working columns."""
        return float(self._constants @ beta) - self._offset_mean

    def _dispersion_curvature(self, eta: FloatArray, x: FloatArray) -> FloatArray:
        """Second derivatives (k, k) of -2 log f in the coordinates x (k,) of the dispersion, eta held."""
        width, k = 1e-4, len(x)
        if not k:
            return np.zeros((0, 0))

        def gradient(at: FloatArray) -> FloatArray:
            phi = self.family.from_unconstrained(at)
            score = self.family.dispersion_score(self.data.y, self.data.weights, eta, phi)
            return np.asarray(self.family.chain(phi).T @ score, dtype=np.float64)

        H = np.empty((k, k))
        for j, step in enumerate(width * np.eye(k)):
            H[j] = (gradient(x - step) - gradient(x + step)) / width
        H[np.diag_indices(k)] = np.maximum(np.diagonal(H), 1e-3)
        return 0.5 * (H + H.T)

    def start(self) -> FloatArray:
        """Beta of the model without random effects, and variances from the moments of its working residuals."""
        data, X, family = self.data, self.system.X, self.family
        eta, phi = family.begin(data.y, data.weights)
        beta = np.zeros(self.design.p)
        with np.errstate(all="ignore"):
            for _ in range(4):
                step = data.step(eta, phi)
                weights = data.fisher(eta, phi)
                WX = X * weights[:, None]
                right = WX.T @ (eta - self.offset) + X.T @ step.score
                if not np.isfinite(right.sum() + WX.sum()):
                    raise np.linalg.LinAlgError("the means overflow where the search begins")
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
        return np.concatenate([*parts, family.unconstrained(phi)])

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


def _fixed_columns(design: Design, family: Family) -> tuple[FloatArray, WorkingColumns, FloatArray]:
    """Working columns (n, p), what makes them, and the constants (p,) that centring added to each.

    Where the family's parameters stand for the intercept, columns are centred as if it were there, so that the
    parameters and beta are found apart.
    """
    if not family.absorbs_constant:
        R, working = working_columns(design)
        return R[:, : design.p], working, np.zeros(design.p)
    R, whole = working_columns(dataclasses.replace(design, X=np.column_stack([np.ones(design.n), design.X])))
    return R[:, 1:-1], WorkingColumns(whole.transform[1:, 1:], whole.beta0[1:]), whole.transform[0, 1:]


def _check_offset(design: Design, family: Family) -> None:
    if design.offset is None or family.link.name != "log" or np.ptp(design.offset) < LOG_LIMIT:
        return
    raise DesignError(
        f"the offset goes from {design.offset.min():g} to {design.offset.max():g}, which the exponential of the log "
        "link cannot take: give the logarithm of exposures."
    )
