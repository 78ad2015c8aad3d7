"""Variance parameters of the mini-batch likelihood: one vector psi that a gradient method can move.

Two parametrisations of the same covariances. ``LogCholesky`` is free of constraints. ``RawVariances`` are variances and
correlations as they are, clipped after each step, as Simchoni & Rosset (2023) train them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.formula.design import RandomTerm

FloatArray = NDArray[np.float64]
#: of one term: a variance (), a covariance (d, d), or variance and length-scale of a field
Parameters = torch.Tensor | tuple[torch.Tensor, torch.Tensor]

SMALLEST = 1e-18  # to which raw variances are clipped


class Variances(Protocol):
    """A parametrisation of the residual variance and of the covariances of the random terms."""

    def start(self) -> torch.Tensor:
        """Where training starts, psi (k,) in float64."""
        ...

    def unpack(self, psi: torch.Tensor) -> tuple[torch.Tensor, list[Parameters]]:
        """Residual variance, and the parameters of each term; differentiable in psi."""
        ...

    def clip(self, psi: torch.Tensor) -> None:
        """Move psi to where it means something, in place."""
        ...


class LogCholesky:
    """Logarithms of standard deviations, and Cholesky factors with the logarithm of their diagonal.

    psi holds log sigma, then of each term the entries of its absolute factor ``sigma Lambda`` in the order of theta,
    those of the diagonal as logarithms; of a field log standard deviation and log length-scale.

    Parameters
    ----------
    random : sequence of RandomTerm
    variance : float, default 1
        Of the response, half of which is the residual's at the start.
    """

    def __init__(self, random: Sequence[RandomTerm], variance: float = 1.0) -> None:
        self.random, self.variance = tuple(random), variance

    def start(self) -> torch.Tensor:
        """Equal shares of half of the variance for the terms; no correlations; a tenth of the map as length-scale."""
        share = 0.5 * self.variance / len(self.random)
        values = [0.5 * np.log(0.5 * self.variance)]
        for term in self.random:
            if term.covariance == "gp":
                assert term.locations is not None
                values += [0.5 * np.log(share), np.log(0.1 * np.linalg.norm(np.ptp(term.locations, axis=0)))]
                continue
            size = np.mean(term.columns**2, axis=0) * term.width
            for row, column in zip(*structure(term.covariance).positions(term.width), strict=True):
                values.append(0.5 * np.log(share / max(float(size[row]), 1e-12)) if row == column else 0.0)
        return torch.tensor(values, dtype=torch.float64)

    def unpack(self, psi: torch.Tensor) -> tuple[torch.Tensor, list[Parameters]]:
        """Residual variance, and the parameters of each term."""
        values = psi.unbind()
        out: list[Parameters] = []
        at = 1
        for term in self.random:
            if term.covariance == "gp":
                out.append((torch.exp(2.0 * values[at]), torch.exp(values[at + 1])))
                at += 2
            elif term.width == 1:
                out.append(torch.exp(2.0 * values[at]))
                at += 1
            else:
                rows, columns = structure(term.covariance).positions(term.width)
                entries = values[at : at + len(rows)]
                factor = _matrix(
                    term.width,
                    {(r, c): torch.exp(v) if r == c else v for r, c, v in zip(rows, columns, entries, strict=True)},
                )
                out.append(factor @ factor.T)
                at += len(rows)
        return torch.exp(2.0 * values[0]), out

    def clip(self, psi: torch.Tensor) -> None:
        """Every psi means something."""


class RawVariances:
    """Variances from 1 and correlations from 0, moved as they are and clipped.

    psi holds the residual variance, then of each term its variances and, for ``us``, its correlations row by row; of a
    field its variance and the *square* of its length-scale.

    Parameters
    ----------
    random : sequence of RandomTerm
    """

    def __init__(self, random: Sequence[RandomTerm]) -> None:
        self.random = tuple(random)
        lower, start = [SMALLEST], [1.0]
        for term in self.random:
            d = term.width
            correlations = d * (d - 1) // 2 if term.covariance == "us" else 0
            variances = 2 if term.covariance == "gp" else d
            lower += [SMALLEST] * variances + [-1.0] * correlations
            start += [1.0] * variances + [0.0] * correlations
        self._start = torch.tensor(start, dtype=torch.float64)
        self._lower = torch.tensor(lower, dtype=torch.float64)
        self._upper = torch.where(self._lower < 0, 1.0, torch.inf)

    def start(self) -> torch.Tensor:
        """One for every variance, zero for every correlation."""
        return self._start.clone()

    def unpack(self, psi: torch.Tensor) -> tuple[torch.Tensor, list[Parameters]]:
        """Residual variance, and the parameters of each term."""
        values = psi.unbind()
        out: list[Parameters] = []
        at = 1
        for term in self.random:
            d = term.width
            if term.covariance == "gp":
                out.append((values[at], values[at + 1].sqrt()))
                at += 2
            elif d == 1:
                out.append(values[at])
                at += 1
            else:
                variances, at = values[at : at + d], at + d
                entries = {(i, i): variances[i] for i in range(d)}
                if term.covariance == "us":
                    for i in range(d):
                        for j in range(i):
                            covariance = values[at] * (variances[i] * variances[j]).sqrt()
                            entries[i, j] = entries[j, i] = covariance
                            at += 1
                out.append(_matrix(d, entries))
        return values[0], out

    def clip(self, psi: torch.Tensor) -> None:
        """Variances to at least 1e-18, correlations to [-1, 1]; a matrix of three may still be indefinite."""
        psi.clamp_(self._lower, self._upper)


def _matrix(d: int, entries: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    """A (d, d) matrix of scalars; zero where none is given."""
    zero = next(iter(entries.values())).new_zeros(())
    return torch.stack([entries.get((i, j), zero) for i in range(d) for j in range(d)]).reshape(d, d)


def theta_and_sigma(variances: Variances, psi: torch.Tensor, random: Sequence[RandomTerm]) -> tuple[FloatArray, float]:
    """The relative parameters theta (m,) as the exact engines have them, and sigma.

    A covariance that is not positive semidefinite is replaced by the nearest that is.
    """
    with torch.no_grad():
        residual, parameters = variances.unpack(psi.detach())
    sigma = float(residual) ** 0.5
    theta: list[float] = []
    for term, value in zip(random, parameters, strict=True):
        if isinstance(value, tuple):
            theta += [float(value[0]) ** 0.5 / sigma, float(value[1])]
            continue
        factor = _lower_factor(value.detach().numpy().reshape(term.width, term.width)) / sigma
        theta += factor[structure(term.covariance).positions(term.width)].tolist()
    return np.array(theta), sigma


def _lower_factor(matrix: FloatArray) -> FloatArray:
    """Lower triangular L with nonnegative diagonal and ``L L'`` the nearest positive semidefinite matrix."""
    if np.count_nonzero(matrix - np.diag(np.diagonal(matrix))) == 0:
        return np.sqrt(np.maximum(matrix, 0.0))  # exact for variances
    size, vectors = np.linalg.eigh(matrix)
    R = np.linalg.qr((vectors * np.sqrt(np.maximum(size, 0.0))).T)[1]
    return np.asarray((R * np.where(np.diagonal(R) < 0, -1.0, 1.0)[:, None]).T)
