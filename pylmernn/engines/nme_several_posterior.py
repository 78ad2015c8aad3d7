"""Random effects of several bars given the data, by dense algebra: the E-step between two epochs.

In the linear mixed model ``r = X beta + sum_k A_k b_k + e`` the factor with most effects is eliminated level by level;
what it leaves of the others (a Schur complement) is one dense matrix. The answers are those of the exact engine, whose
sparse patterns would have to be laid out anew for every linearisation. That engine is taken where the dense matrices
would be too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import split_theta
from pylmernn.engines import barvariances
from pylmernn.engines.atfixed import fixed_convergence
from pylmernn.engines.control import Control
from pylmernn.engines.profiled import Problem, estimates_at
from pylmernn.formula.design import Design, RandomTerm

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

DENSE = 20_000_000  # numbers of the products between the first factor and the others, up to which they are dense
PRODUCTS = 4_000_000  # products of rows held at a time


class Expected(NamedTuple):
    """Answers at given theta, of maximum likelihood.

    Attributes
    ----------
    beta : ndarray, shape (p,)
    sigma : float
        That goes with theta.
    b : list of ndarray, shape (q_k, d_k)
        Conditional modes.
    variances : list of ndarray, shape (q_k, d_k, d_k)
        Of the modes, beta known.
    objective : float
        -2 log-likelihood.
    log_determinant : float
        Of ``Lambda'Z'WZ Lambda + I``.
    """

    beta: FloatArray
    sigma: float
    b: list[FloatArray]
    variances: list[FloatArray]
    objective: float
    log_determinant: float


def expected(design: Design, theta: FloatArray) -> Expected:
    """Conditional modes and variances at theta (m,), relative covariance parameters in the order of the terms."""
    factors = _by_group(design.random)
    sizes = [design.random[own[0]].n_levels * sum(design.random[k].width for k in own) for own in factors]
    if max(sizes) * (sum(sizes) - max(sizes)) > DENSE:
        return by_engine(design, theta)
    return _dense(design, theta, factors)


def by_engine(design: Design, theta: FloatArray) -> Expected:
    """The same by the engine of method "profiled"."""
    problem = Problem(design, False, "cpu")
    found = estimates_at(problem, theta, problem.solution(theta), fixed_convergence(len(theta)), Control())
    variances = [found.sigma**2 * each for each in barvariances.relative_variances(problem, theta)]
    return Expected(found.beta, found.sigma, list(found.b), variances, found.objective, found.ldL2)


def _by_group(random: Sequence[RandomTerm]) -> list[list[int]]:
    """Terms that share a factor, the factor with most effects first."""
    groups: dict[str, list[int]] = {}
    for k, term in enumerate(random):
        groups.setdefault(term.group, []).append(k)
    return sorted(groups.values(), key=lambda own: -random[own[0]].n_levels * sum(random[k].width for k in own))


class _Factor(NamedTuple):
    """Columns times Lambda of the terms of one factor, (n, d), and its levels."""

    A: Tensor
    codes: Tensor
    q: int


def _dense(design: Design, theta: FloatArray, by_group: list[list[int]]) -> Expected:
    templates = split_theta(design.random, theta)
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    R = torch.from_numpy(root[:, None] * np.column_stack([design.X, y]))
    factors = []
    for own in by_group:
        columns = np.column_stack([design.random[k].columns @ templates[k] for k in own])
        codes = torch.from_numpy(design.random[own[0]].codes.astype(np.int64))
        factors.append(_Factor(torch.from_numpy(root[:, None] * columns), codes, design.random[own[0]].n_levels))
    u, V, logdet = _solve(factors, R)
    p = design.p
    AR = [(f.A[:, :, None] * each[f.codes]).sum(1) for f, each in zip(factors, u, strict=True)]  # (n, p + 1)
    rest = R - sum(AR, torch.zeros(()))
    gram = R[:, :p].T @ rest
    beta = torch.linalg.lstsq(gram[:, :p], gram[:, p:], driver="gelsd").solution[:, 0] if p else R.new_zeros(0)
    modes = [each[:, :, p] - each[:, :, :p] @ beta for each in u]
    errors = rest[:, p] - rest[:, :p] @ beta
    pwrss = float((errors**2).sum()) + sum(float((each**2).sum()) for each in modes)
    sigma = (pwrss / design.n) ** 0.5
    b: list[FloatArray] = [np.empty(0)] * len(templates)
    variances = list(b)
    for own, mode, variance in zip(by_group, modes, V, strict=True):
        first = 0
        for k in own:
            part, L = slice(first, first + design.random[k].width), templates[k]
            b[k] = mode[:, part].numpy() @ L.T
            variances[k] = sigma**2 * (L @ variance[:, part, part].numpy() @ L.T)
            first = part.stop
    objective = (
        design.n * (1.0 + float(np.log(2 * np.pi * pwrss / design.n))) + logdet - 2.0 * float(np.log(root).sum())
    )
    return Expected(beta.numpy(), sigma, b, variances, objective, logdet)


def _solve(factors: list[_Factor], R: Tensor) -> tuple[list[Tensor], list[Tensor], float]:
    """By factor solutions of ``(A'A + I) u = A'R`` (q, d, r) and blocks of the inverse (q, d, d); log-determinant."""
    first, *others = factors
    d = first.A.shape[1]
    eye = torch.eye(d, dtype=torch.float64)
    lower = torch.linalg.cholesky(_within(first) + eye)
    right = _sums(first, R)
    inverse = torch.cholesky_inverse(lower)
    if not others:
        return [inverse @ right], [inverse], _logdet(lower)
    between = torch.cat([_between(other, first) for other in others])  # (Q, q d)
    Q = len(between)
    half = torch.linalg.solve_triangular(lower, between.reshape(Q, first.q, d).permute(1, 2, 0), upper=False)
    whitened = half.reshape(first.q * d, Q)
    rows = [torch.cat([_between(a, b) for b in others], dim=1) for a in others]
    schur = torch.cat(rows) + torch.eye(Q, dtype=torch.float64) - whitened.T @ whitened
    root = torch.linalg.cholesky(schur)
    solved = torch.linalg.solve_triangular(lower, right, upper=False)
    other_right = torch.cat([_sums(other, R).reshape(-1, R.shape[1]) for other in others])
    u_rest = torch.cholesky_solve(other_right - whitened.T @ solved.reshape(first.q * d, -1), root)
    upper = lower.transpose(1, 2)
    u_first = torch.linalg.solve_triangular(upper, solved - half @ u_rest, upper=True)
    spread = torch.linalg.solve_triangular(root, whitened.T, upper=False).reshape(Q, first.q, d).permute(1, 0, 2)
    spread = torch.linalg.solve_triangular(lower.transpose(1, 2), spread.transpose(1, 2), upper=True)  # (q, d, Q)
    u, V = [u_first], [inverse + spread @ spread.transpose(1, 2)]
    whole, at = torch.cholesky_inverse(root), 0
    for other in others:
        width = other.A.shape[1]
        part = slice(at, at + other.q * width)
        u.append(u_rest[part].reshape(other.q, width, -1))
        blocks = whole[part, part].reshape(other.q, width, other.q, width)
        V.append(blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1))
        at = part.stop
    return u, V, _logdet(lower) + _logdet(root)


def _logdet(lower: Tensor) -> float:
    return 2.0 * float(lower.diagonal(dim1=-2, dim2=-1).log().sum())


def _within(factor: _Factor) -> Tensor:
    """``A_i'A_i`` of each level, (q, d, d)."""
    return _products(factor.A, factor.A, factor.codes, factor.q)


def _sums(factor: _Factor, R: Tensor) -> Tensor:
    """``A_i'R`` of each level, (q, d, r)."""
    return _products(factor.A, R, factor.codes, factor.q)


def _between(a: _Factor, b: _Factor) -> Tensor:
    """``A'B`` of all levels of two factors, (q_a d_a, q_b d_b)."""
    blocks = _products(a.A, b.A, a.codes * b.q + b.codes, a.q * b.q)
    blocks = blocks.reshape(a.q, b.q, a.A.shape[1], b.A.shape[1]).transpose(1, 2)
    return blocks.reshape(a.q * a.A.shape[1], b.q * b.A.shape[1])


def _products(A: Tensor, B: Tensor, cells: Tensor, count: int) -> Tensor:
    """Sums over the rows of each cell of ``a b'``, (count, d, e)."""
    out = A.new_zeros(count, A.shape[1], B.shape[1])
    step = max(1, PRODUCTS // max(1, A.shape[1] * B.shape[1]))
    for first in range(0, len(A), step):
        part = slice(first, first + step)
        out.index_add_(0, cells[part], A[part, :, None] * B[part, None, :])
    return out
