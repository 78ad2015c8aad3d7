"""The marginal covariance of a few rows, and their negative log-likelihood (Simchoni & Rosset 2023, eq. 14).

``V = sigma^2 W^-1 + sum_k (part of term k)`` is dense, (m, m) for a batch of m rows. The likelihood of a batch is that
of a sub-vector of y, so the sum over batches is a composite likelihood: its score has mean zero at the true parameters
whatever the batches are. Batches decide how much it tells: a variance is learned from rows that share a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.batchvariances import Parameters
from pylmernn.formula.design import RandomTerm

Rows = Sequence[torch.Tensor]


class GaussianNLL(torch.autograd.Function):
    """``(m log 2 pi + log det V + r' V^-1 r) / 2`` of residuals r (m,) and covariance V (m, m), both float64.

    The gradient is written out, ``V^-1 r`` and ``(V^-1 - V^-1 r r' V^-1) / 2``: that costs one inverse, where
    differentiating through the Cholesky factor costs several triangular solves.
    """

    @staticmethod
    def forward(ctx: Any, r: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        """The value; NaN where V is not positive definite."""
        L, failed = torch.linalg.cholesky_ex(V)
        alpha = torch.cholesky_solve(r[:, None], L)[:, 0]
        ctx.save_for_backward(L, alpha)
        value = 0.5 * len(r) * math.log(2.0 * math.pi) + L.diagonal().log().sum() + 0.5 * r.dot(alpha)
        return torch.where(failed == 0, value, torch.nan)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With respect to r and V."""
        L, alpha = ctx.saved_tensors
        slope = torch.cholesky_inverse(L).addr_(alpha, alpha, alpha=-1.0)
        return alpha * gradients[0], slope * (0.5 * gradients[0])


def negative_log_likelihood(r: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of a batch, differentiable in residuals r (m,) and covariance V (m, m)."""
    return GaussianNLL.apply(r, V)  # type: ignore[no-untyped-call, no-any-return]


class Part(Protocol):
    """What one random term adds to the covariance of a batch.

    ``data`` holds tensors with a row for each row of the design; ``covariance`` takes the same of a batch.
    """

    @property
    def data(self) -> tuple[torch.Tensor, ...]:
        """Rows of the design."""
        ...

    def covariance(self, rows: Rows, parameters: Any) -> torch.Tensor:
        """The part of V, (m, m) in float64."""
        ...


class LevelPart:
    """A bar: ``(columns C columns') * [same level]`` with C the covariance of the effects of a level.

    Parameters
    ----------
    term : RandomTerm
    """

    def __init__(self, term: RandomTerm) -> None:
        codes = torch.from_numpy(term.codes.astype(np.int32))
        constant = term.width == 1 and bool((term.columns == 1.0).all())
        columns = () if constant else (torch.from_numpy(np.ascontiguousarray(term.columns)),)
        self.data: tuple[torch.Tensor, ...] = (codes, *columns)

    def covariance(self, rows: Rows, parameters: torch.Tensor) -> torch.Tensor:
        """The part of V, (m, m)."""
        codes = rows[0]
        same = codes[:, None] == codes
        if len(rows) == 1:
            return same * parameters
        columns = rows[1]
        return columns @ parameters.reshape(columns.shape[1], -1) @ columns.T * same


class FieldPart:
    """A random field: ``variance * correlation(distance / lscale)``.

    Parameters
    ----------
    term : RandomTerm
        With ``locations``.
    """

    def __init__(self, term: RandomTerm) -> None:
        assert term.locations is not None
        self.data = (torch.from_numpy(term.locations[term.codes]),)
        self.kernel = KERNELS[term.options["cov"]]

    def covariance(self, rows: Rows, parameters: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The part of V, (m, m)."""
        variance, lscale = parameters
        locations = rows[0]
        square = torch.zeros((), dtype=torch.float64)
        for coordinate in locations.unbind(1):
            square = square + (coordinate[:, None] - coordinate) ** 2
        return variance * self.kernel(square / lscale**2)


def _matern32(square: torch.Tensor) -> torch.Tensor:
    a = (3.0 * square + TINY).sqrt()
    return (1.0 + a) * torch.exp(-a)


def _matern52(square: torch.Tensor) -> torch.Tensor:
    a = (5.0 * square + TINY).sqrt()
    return (1.0 + a + a * a / 3.0) * torch.exp(-a)


TINY = 1e-30  # the root of a squared distance of zero has no derivative
#: the correlations of :mod:`pylmernn.covariance.kernels` by squared distance in units of the length-scale
KERNELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp_quad": lambda square: torch.exp(-0.5 * square),
    "matern32": _matern32,
    "matern52": _matern52,
    "exponential": lambda square: torch.exp(-(square + TINY).sqrt()),
}


class Covariance:
    """V of a batch: the residual variance and the parts of the terms.

    Parameters
    ----------
    parts : sequence of Part
        One a random term.
    weights : ndarray, shape (n,), optional
        Prior weights: ``Var(e_i) = sigma^2 / weights_i``.
    n : int
        Rows of the design.
    """

    def __init__(self, parts: Sequence[Part], weights: NDArray[np.float64] | None, n: int) -> None:
        self.parts = tuple(parts)
        noise = torch.ones(n, dtype=torch.float64) if weights is None else torch.from_numpy(1.0 / weights)
        self.data = (noise, *(column for part in parts for column in part.data))

    def __call__(self, rows: Rows, sigma2: torch.Tensor, parameters: Sequence[Parameters]) -> torch.Tensor:
        """V (m, m) of a batch from the rows of ``data``, the residual variance and the parameters of each term."""
        V = torch.diag(rows[0] * sigma2)
        at = 1
        for part, value in zip(self.parts, parameters, strict=True):
            after = at + len(part.data)
            V = V + part.covariance(rows[at:after], value)
            at = after
        return V
