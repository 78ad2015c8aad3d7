"""Cross-fitting of :mod:`pylmernn.engines.nme_crossfit` for generalized models of one linear predictor.

Given networks the model of all rows is a generalized linear mixed model; Laplace's approximation estimates it, as
method "pirls" does, with the mean of the member that has not learnt from a row in its offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines import pirls, pirls_variances
from pylmernn.engines.atfixed import fixed_convergence
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.newton import minimize
from pylmernn.engines.nme_crossfit import identity, restricted
from pylmernn.engines.nme_generalized_model import GeneralizedVaryingModel
from pylmernn.engines.nme_model import Given
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.families import Family
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]

OF_CLASSES = ("binomial", "ordinal")
CERTAIN = 33.0  # logits beyond which a probability is 0 or 1 to the last digit


@dataclass(frozen=True)
class GeneralizedSolver:
    """How a generalized linear mixed model given networks is estimated: a ``Solver``.

    Attributes
    ----------
    family : Family
    control : Control
    """

    family: Family
    control: Control
    plain: float = np.inf  # deviances have no scale of their own

    def estimate(self, design: Design) -> Estimates:
        """All of it, by Laplace's approximation; LinAlgError as :meth:`bounded`."""
        return self.bounded(pirls.fit(design, self.family, 1, self.control))

    def bounded(self, found: GeneralizedEstimates) -> GeneralizedEstimates:
        """The same estimates.

        Raises
        ------
        numpy.linalg.LinAlgError
            Where classes are told apart for certain: with few rows variances then grow without end.
        """
        assert found.eta is not None
        origin = np.mean(found.phi) if self.family.name == "ordinal" else 0.0  # thresholds may lie anywhere
        if self.family.name in OF_CLASSES and np.abs(found.eta - origin).max() > CERTAIN:
            raise np.linalg.LinAlgError("probabilities of 0 and 1")
        return found

    def in_proportion(self, design: Design, near: Estimates) -> Estimates:
        """With a covariance matrix that is a multiple of the identity; LinAlgError as :meth:`bounded`."""
        assert isinstance(near, GeneralizedEstimates)
        problem = GeneralizedProblem(design, self.family, 1, self.control.device)
        start = problem.point(identity(design), near.beta, near.phi)
        m = problem.n_theta
        along = np.eye(len(start))[:, m - 1 :]
        along[:m, 0] = start[:m]
        search = restricted(problem.search, along)
        found = minimize(search, np.append(1.0, start[m:]), self.control.tolerance, noise=1e-9)
        x = along @ np.append(abs(found.x[0]), found.x[1:])
        return self.bounded(pirls.estimates_at(problem, x, fixed_convergence(len(x)), self.control))

    def at(self, design: Design, given: Estimates) -> tuple[FloatArray, FloatArray]:
        """Coefficients (p,) and effects (q, r) that minimise the penalised deviance at variances that are given."""
        assert isinstance(given, GeneralizedEstimates)
        problem = GeneralizedProblem(design, self.family, 0, self.control.device)
        x = problem.point(given.theta, np.zeros(design.p), given.phi)
        found = pirls.estimates_at(problem, x, fixed_convergence(len(x)), self.control)
        return found.beta, found.b[0]

    def losses(self, design: Design, predictor: FloatArray, given: Estimates) -> FloatArray:
        """Minus twice the log-densities."""
        assert isinstance(given, GeneralizedEstimates)
        weights = np.ones(design.n) if design.weights is None else design.weights
        eta = predictor if design.offset is None else predictor + design.offset
        return np.asarray(-2.0 * self.family.step(design.y, weights, eta, given.phi).loglik)

    def settled(self, model: GeneralizedVaryingModel, design: Design, along: FloatArray, given: Estimates) -> Given:
        """Effects of all rows, given variances, coefficients and the network, (r, D) along which it varies."""
        assert isinstance(given, GeneralizedEstimates)
        theta = structure("us").on_diagonal(len(along)).astype(np.float64)
        problem = GeneralizedProblem(design, self.family, 1, self.control.device)
        x = problem.point(theta, given.beta, given.phi)
        found = pirls.estimates_at(problem, x, fixed_convergence(len(x)), self.control)
        model.beta, model.phi = torch.tensor(found.beta[:, None]), found.phi
        effects = found.b[0] @ along
        model.eta = torch.tensor(effects)
        spread = along.T @ pirls_variances.mode_variance(design, found)[0] @ along
        return Given(
            sigma=1.0,
            effects=effects,
            variances=np.einsum("qdd->qd", spread) if model.reduced else spread,
            factor=along.T,
            fixed_covariance=given.unscaled_vcov,
            objective=given.objective,
            exact=True,
            converged=given.convergence.converged,
            message="" if given.convergence.converged else given.convergence.message,
        )
