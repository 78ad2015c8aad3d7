"""Deviations of each group given the data, in the linear model ``r = J eta_i + e``: modes, variances, EM steps.

With ``Sigma = L L'``, ``eta = L u`` and ``A = J L`` the posterior of u is normal with precision
``M = A'A / sigma^2 + I`` and mean ``M^-1 A'r / sigma^2`` (Lindstrom & Bates 1990; with a linear network it is that of
the linear mixed model). Groups are padded to a common number of rows and solved together, with M, or with
``V = A A' + sigma^2 I`` where a group has fewer rows than A has columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

GROUPS = 500  # whose variances are multiplied out at a time
BUCKET_NUMBERS = 8_000_000  # of padded J and of M held at a time


@dataclass(frozen=True)
class Posterior:
    """Of all q groups.

    Attributes
    ----------
    effects : Tensor, shape (q, D)
    second : Tensor, shape (D, D) or (D,)
        Mean over the groups with rows of ``eta eta'`` plus the posterior variance; the diagonal of a diagonal Sigma.
    scores : Tensor, shape (q, k)
        Of u.
    score_variances : Tensor, shape (q, k, k) or (q, k), or None
        Of u, where they were asked for.
    squares : float
        Expected sum of squares ``sum (r - J eta)^2``.
    deviance : float
        -2 log-likelihood.
    """

    effects: Tensor
    second: Tensor
    scores: Tensor
    score_variances: Tensor | None
    squares: float
    deviance: float

    def effect_variances(self, L: Tensor, in_full: bool = True) -> Tensor:
        """Of the effects, for the L that the posterior was made with.

        Returns
        -------
        Tensor, shape (q, D, D), or (q, D) where L is a vector or no covariances are wanted
        """
        assert self.score_variances is not None
        if L.ndim == 1:
            return self.score_variances * L**2
        if in_full:
            return L @ self.score_variances @ L.T
        return torch.cat([((L @ part) * L).sum(2) for part in self.score_variances.split(GROUPS)])


class Groups:
    """Rows of each group, in padded blocks of groups of similar size.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
    q : int
        Groups; some may have no rows.
    width : int
        Columns of J.
    """

    def __init__(self, codes: NDArray[np.int32], q: int, width: int) -> None:
        self.n, self.q = len(codes), q
        self.present = int(np.count_nonzero(np.bincount(codes, minlength=q)))
        order = np.argsort(codes, kind="stable")
        sizes = np.bincount(codes, minlength=q)
        first = np.concatenate([[0], np.cumsum(sizes)])
        by_size = np.argsort(sizes, kind="stable")
        self.blocks: list[tuple[Tensor, Tensor]] = []
        at = q - self.present
        while at < q:
            least = int(sizes[by_size[at]])
            end = at + 1
            while end < q:
                most = int(sizes[by_size[end]])
                numbers = (end - at + 1) * width * max(most, min(most, width))
                if most > 1.5 * least + 2 or numbers > BUCKET_NUMBERS:
                    break
                end += 1
            chosen = by_size[at:end]
            places = np.arange(sizes[chosen].max())
            within = places < sizes[chosen][:, None]
            rows = np.where(within, order[np.minimum(first[chosen][:, None] + places, self.n - 1)], self.n)
            self.blocks.append((torch.from_numpy(chosen.copy()), torch.from_numpy(rows)))
            at = end


def posterior(J: Tensor, r: Tensor, L: Tensor, sigma2: float, groups: Groups, variances: bool = False) -> Posterior:
    """The posterior of all groups.

    Parameters
    ----------
    J : Tensor, shape (n, D)
        Rows times the root of their weights.
    r : Tensor, shape (n,)
        Response less the mean at ``eta = 0`` by the linear model, times the same roots.
    L : Tensor, shape (D, k) or (D,)
        Factor of Sigma; a vector for a diagonal Sigma, of standard deviations.
    sigma2 : float
    groups : Groups
    variances : bool, default False
        Whether to keep those of each group's u.
    """
    return posterior_of_scores(J * L if L.ndim == 1 else J @ L, r, L, sigma2, groups, variances, second=True)


def posterior_of_scores(
    spherical: Tensor,
    r: Tensor,
    L: Tensor,
    sigma2: float,
    groups: Groups,
    variances: bool = False,
    second: bool = False,
) -> Posterior:
    """The posterior of all groups, for ``A = J L`` (n, k).

    Parameters
    ----------
    spherical : Tensor, shape (n, k)
    r, L, sigma2, groups, variances
        As in :func:`posterior`.
    second : bool, default False
        Whether ``second`` of the result is wanted, D times D numbers; else it is empty.
    """
    q = groups.q
    diagonal = L.ndim == 1
    k, J = spherical.shape[1], spherical
    spherical = torch.cat([spherical, spherical.new_zeros(1, k)])
    padded = torch.cat([r, r.new_zeros(1)])
    scores = J.new_zeros(q, k)
    moments = J.new_zeros(k) if diagonal else J.new_zeros(k, k)
    kept = None
    if variances:  # a group without rows has its prior
        kept = J.new_ones(q, k) if diagonal else torch.eye(k, dtype=J.dtype).repeat(q, 1, 1)
    squares, deviance = 0.0, groups.n * float(np.log(2 * np.pi * sigma2))
    for chosen, rows in groups.blocks:
        A, rb = spherical[rows], padded[rows]
        solved = _solve(A, rb, sigma2, diagonal, variances)
        rest = rb - torch.einsum("gnk,gk->gn", A, solved.u)
        trace = solved.spread.sum() if diagonal else solved.spread.trace()
        squares += float((rest**2).sum() + sigma2 * (k * len(chosen) - trace))
        deviance += float(solved.logdet + (rb * rest).sum() / sigma2)
        scores[chosen] = solved.u
        moments += ((solved.u**2).sum(0) if diagonal else solved.u.T @ solved.u) + solved.spread
        if kept is not None:
            assert solved.each is not None
            kept[chosen] = solved.each
    moments = moments / groups.present
    wanted = J.new_zeros(0)
    if second:
        wanted = moments * L**2 if diagonal else L @ moments @ L.T
    return Posterior(scores * L if diagonal else scores @ L.T, wanted, scores, kept, squares, deviance)


@dataclass(frozen=True)
class _Solved:
    """Posterior of u in g groups: means (g, k), variances summed over the groups and, if asked for, of each."""

    u: Tensor
    spread: Tensor
    each: Tensor | None
    logdet: Tensor


def _solve(A: Tensor, r: Tensor, sigma2: float, diagonal: bool, variances: bool) -> _Solved:
    """Solve padded groups, A (g, n, k) and r (g, n), by the smaller of M and V."""
    g, n, k = A.shape
    eye = torch.eye(min(n, k), dtype=A.dtype)
    each = None
    if n >= k:
        factor = torch.linalg.cholesky(A.transpose(1, 2) @ A / sigma2 + eye)
        u = torch.cholesky_solve(torch.einsum("gnk,gn->gk", A, r)[:, :, None] / sigma2, factor)[:, :, 0]
        each = torch.cholesky_inverse(factor)
        each = torch.einsum("gkk->gk", each) if diagonal else each
        spread = each.sum(0)
    else:
        factor = torch.linalg.cholesky(A @ A.transpose(1, 2) / sigma2 + eye)
        u = torch.einsum("gnk,gn->gk", A, torch.cholesky_solve(r[:, :, None], factor)[:, :, 0]) / sigma2
        half = torch.linalg.solve_triangular(factor, A, upper=False) / sigma2**0.5
        if diagonal:
            each = 1.0 - (half**2).sum(1)
            spread = each.sum(0)
        else:  # the variance of each group would take g times k^2 numbers
            rows = half.reshape(g * n, k)
            spread = g * torch.eye(k, dtype=A.dtype) - rows.T @ rows
            each = torch.eye(k, dtype=A.dtype) - half.transpose(1, 2) @ half if variances else None
    return _Solved(u, spread, each, 2.0 * torch.einsum("gnn->gn", factor).log().sum())


def factor_of(covariance: Tensor) -> Tensor:
    """L of a covariance (D, D) or of variances (D,); a variance of zero stays zero."""
    if covariance.ndim == 1:
        return covariance.clamp(min=0.0).sqrt()
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * values.clamp(min=0.0).sqrt()
