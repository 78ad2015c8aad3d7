"""Method ``"iterative"``: linear mixed models whose crossed factors are too large for an exact factorization.

The least-squares answers (beta, b, sigma) are exact to the tolerance of conjugate gradients. The log-determinant and
its derivative are estimated (:mod:`pylmernn.linalg.iterative`); ``Estimates.objective_error`` is the standard error
of the objective. Everything else is the profiled engine's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.pls import DirectElimination, System
from pylmernn.engines.profiled import Problem, estimate
from pylmernn.formula.design import Design
from pylmernn.linalg.iterative import IterativeRest, Probes, level_sums
from pylmernn.linalg.smallblocks import multiply_blocks, shrinkage_blocks, sum_outer

FloatArray = NDArray[np.float64]

TOLERANCE = 1e-4  # deviance units; the sampling error is larger


class IterativeElimination(DirectElimination):
    """The rest by conjugate gradients; see :class:`pylmernn.engines.pls.DirectElimination`."""

    def __init__(self, system: System, templates: Sequence[FloatArray], rest: IterativeRest, C_t: sp.csr_array) -> None:
        self.system, self.templates, self.rest, self._C_t = system, templates, rest, C_t
        self.G, self.log_determinant = shrinkage_blocks(system.A, templates[0])
        cells = system.schur.scale(templates[1:], system.schur.cells(self.G), transpose=True)
        self.log_determinant += rest.factor(cells, self._multiply)

    def _multiply(self, v: FloatArray) -> FloatArray:
        """``M v`` through the cross-products, which have far fewer entries than S."""
        system, levels = self.system, self.system.levels
        w = levels.multiply(self.templates[1:], v)
        t = self._C_t @ w
        if system.d == 1:
            t *= self.G[0, 0][:, None]
        else:
            t = system.flat(multiply_blocks(self.G, t.reshape(system.d, system.q, -1).transpose(0, 2, 1)))
        return v + levels.multiply(self.templates[1:], system.A_rr @ w - system.C @ t, transpose=True)

    def solve_rest(self, B: FloatArray) -> FloatArray:
        """``M^-1 B``."""
        return self.rest.solve(B)

    def information(self) -> list[FloatArray]:
        """``sum_j [Z' V^-1 Z]_jj``: first-order part exact, the remainder from the probes."""
        levels, system = self.system.levels, self.system
        z, y, weights = self.rest.remainder()
        out = self.information_of(self.rest.first_order_inverse(), level_sums(levels, z, y, weights))
        D = self.residual_blocks()
        images = []
        for v in (z, y):
            t = (self._C_t @ levels.multiply(self.templates[1:], v)).reshape(system.d, system.q, -1)
            images.append(multiply_blocks(D, t.transpose(0, 2, 1)))
        extra = sum_outer(images[0] * weights[:, None], images[1])
        out[0] = out[0] - 0.5 * (extra + extra.T)
        return out


class IterativeProblem(Problem):
    """One design ready to be evaluated at any theta by conjugate gradients."""

    method = "iterative"
    noise = 0.25

    def __init__(self, design: Design, REML: bool, control: Control) -> None:
        super().__init__(design, REML)
        if not self.system.levels.sizes:
            raise ValueError(
                "method 'iterative' is for crossed factors; one grouping factor is exact and fast already."
            )
        schur = self.system.schur
        probes = Probes(self.system.levels, control.probes, control.seed)
        self._rest = IterativeRest(schur.rows, schur.columns, schur.multiplicity, probes)
        self._C_t = sp.csr_array(self.system.C).T.tocsr()

    def eliminate(self, templates: Sequence[FloatArray]) -> IterativeElimination:
        """The random effects at templates Lambda."""
        return IterativeElimination(self.system, templates, self._rest, self._C_t)

    @property
    def objective_error(self) -> float:
        """Standard error of the last objective."""
        return self._rest.error


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Estimate a model with large crossed factors; arguments as in :func:`pylmernn.engines.profiled.fit`."""
    control = dataclasses.replace(control or Control(), tolerance=max(TOLERANCE, (control or Control()).tolerance))
    return estimate(IterativeProblem(design, REML, control), control, start, callback)
