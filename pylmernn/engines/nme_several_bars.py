"""Random terms beside each other in the model of a network that varies: bars of the network, and ordinary ones.

Rows with the same levels of all factors by which the network varies share a cell; the deviations of a cell are the sum
of those of its levels, so that the network itself need not know of several factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines.nme_posterior import Groups, posterior
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.formula.varying import VaryingTerm
from pylmernn.mean.varying import Selected

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

FULL = 12  # parameters that vary up to which a plain bar has a full covariance matrix
RANK = 6  # of the deviations beyond
LEAST_SHARE = 1e-8  # of the largest variance of a term: what an eigenvalue of its covariance matrix is lifted to


class Cells(NamedTuple):
    """Combinations of levels that occur.

    Attributes
    ----------
    codes : ndarray of int32, shape (n,)
        Cell of each row.
    levels : ndarray of int64, shape (c, T)
        Level of each cell in each factor, -1 for none.
    """

    codes: NDArray[np.int32]
    levels: NDArray[np.int64]


def cells_of(codes: Sequence[NDArray[np.int32]]) -> Cells:
    """The cells of rows with these levels of T factors.

    Examples
    --------
    >>> cells_of([np.array([0, 1, 0]), np.array([2, 0, 2])]).codes.tolist()
    [0, 1, 0]
    """
    levels, of_row = np.unique(np.stack(codes, axis=1).astype(np.int64), axis=0, return_inverse=True)
    return Cells(of_row.reshape(-1).astype(np.int32), levels)


class Bar:
    """One random term while the model is fitted.

    Parameters
    ----------
    term : VaryingTerm or RandomTerm
    where : list of int, optional
        Of a bar of the network: places of its parameters among all that vary.

    Attributes
    ----------
    columns : Tensor of float64, shape (n, d), or None
        Of an ordinary bar.
    effects : Tensor of float64, shape (q, d)
    factor : Tensor of float64, shape (d, k) or (d,), or None
        L with ``Sigma = L L'``, k < d where deviations are of reduced rank; None before the first step.
    known : Tensor of bool, shape (q,)
        Levels with rows to learn from.
    """

    def __init__(self, term: VaryingTerm | RandomTerm, where: list[int] | None = None) -> None:
        self.term = term
        self.where = None if where is None else torch.tensor(where)
        self.columns = None if isinstance(term, VaryingTerm) else torch.from_numpy(np.ascontiguousarray(term.columns))
        self.codes = torch.from_numpy(term.codes.astype(np.int64))
        self.width = term.width if isinstance(term, RandomTerm) else len(where or [])
        self.diagonal = term.covariance == "diag"
        many = self.width > FULL
        self.reduced = where is not None and (term.covariance == "rr" or (not self.diagonal and many))
        asked = term.rank if isinstance(term, VaryingTerm) else 0
        self.rank = min(asked or RANK, self.width, max(1, term.n_levels // 2))
        self.effects = torch.zeros(term.n_levels, self.width, dtype=torch.float64)
        self.factor: Tensor | None = None
        self.known = torch.zeros(term.n_levels, dtype=torch.bool)

    @property
    def full(self) -> Tensor:
        """The covariance matrix, (d, d)."""
        assert self.factor is not None
        return torch.diag(self.factor**2) if self.factor.ndim == 1 else self.factor @ self.factor.T

    def learn(self, mean: FloatArray, variances: FloatArray) -> None:
        """The EM step of a covariance matrix that is not of reduced rank: means (q, d) and variances (q, d, d)."""
        second = second_moment(mean, variances)
        self.factor = second.diagonal().sqrt() if self.diagonal else root_of(second)


def second_moment(mean: FloatArray, variances: FloatArray) -> Tensor:
    """What effects with means (q, d) and variances (q, d, d) say of their covariance matrix, (d, d)."""
    return torch.from_numpy((mean.T @ mean + variances.sum(0)) / len(mean))


def spherical(bar: Bar, effects: Tensor) -> Tensor:
    """U (q, k) with ``L u`` the effects (q, d), or next to them."""
    assert bar.factor is not None
    if bar.factor.ndim == 1:
        return effects / bar.factor.clamp(min=1e-300)
    return torch.linalg.lstsq(bar.factor, effects.T, driver="gelsd").solution.T


def root_of(covariance: Tensor) -> Tensor:
    """A lower triangular L with ``L L'`` the covariance (d, d), which may be close to singular."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    values = values.clamp(min=LEAST_SHARE * float(values.max().clamp(min=1e-300)))
    lower = torch.linalg.qr((vectors * values.sqrt()).T).R.T
    return lower * torch.where(lower.diagonal() < 0, -1.0, 1.0)


def in_full(bar: Bar, levels: NDArray[np.int64], b: FloatArray, factor: Tensor | None) -> Tensor:
    """Effects of all levels (q, d), from new ones of some, (.., d), or scores (.., k) for reduced rank."""
    effects, own = bar.effects.clone(), torch.from_numpy(np.array(b))
    if bar.reduced:
        assert factor is not None
        own = own @ factor.T
    effects[levels] = own
    return effects


class Columns(NamedTuple):
    """One random term on some rows of a linear mixed model.

    Attributes
    ----------
    term : RandomTerm
        With the levels that occur.
    levels : ndarray of int64
        Which levels of the bar these are.
    """

    term: RandomTerm
    levels: NDArray[np.int64]


def columns_of(bar: Bar, rows: Tensor, columns: Tensor) -> Columns:
    """The term of a bar on some rows (m,), with columns (m, d), or (m, k) of deviations of reduced rank."""
    levels, codes = np.unique(bar.codes[rows].numpy(), return_inverse=True)
    names = tuple(str(j) for j in range(columns.shape[1]))
    kind = "diag" if bar.diagonal else "us"
    own = np.ascontiguousarray(columns.numpy())
    made = RandomTerm(
        bar.term.group, codes.reshape(-1).astype(np.int32), levels, own, names, kind, label=bar.term.label
    )
    return Columns(made, levels)


class Linearised(NamedTuple):
    """The model linearised at the deviations, on m rows.

    Attributes
    ----------
    rows : Tensor of int, shape (m,)
    f : Tensor, shape (m,)
        Values of the network.
    own : list of Tensor, shape (m,)
        What the deviations of each bar of the network add to f by the derivatives.
    columns : list of Tensor, shape (m, d_k)
        Of each bar: derivatives (times U_k for reduced rank), or its own columns.
    some : Tensor of int
        Places among the rows whose derivatives were kept.
    derivatives : Tensor, shape (len(some), D)
    """

    rows: Tensor
    f: Tensor
    own: list[Tensor]
    columns: list[Tensor]
    some: Tensor
    derivatives: Tensor


def first_factor(
    bar: Bar, codes: Tensor, columns: Tensor, share: float, weighted: Tensor, rest: Tensor, noise: float
) -> Tensor:
    """First L of a bar with columns (m, d) at rows of levels (m,), which then stands for a variance of ``share``.

    All parameters are alike; directions of reduced rank are those of the modes for weighted columns (m, d) and a rest
    (m,) with this variance of its noise.
    """
    size = float((columns**2).sum(1).mean()) or 1.0
    ones = columns.new_full((bar.width,), (share / size) ** 0.5)
    if not bar.reduced:
        return ones if bar.diagonal else torch.diag(ones)
    groups = Groups(codes.numpy().astype(np.int32), bar.term.n_levels, bar.width)
    effects = posterior(weighted, rest, ones, noise, groups).effects
    _, values, vectors = torch.linalg.svd(effects, full_matrices=False)
    return vectors[: bar.rank].T * values[: bar.rank] / groups.present**0.5


def theta_of(bar: Bar, sigma: float) -> FloatArray:
    """Relative covariance parameters of a bar as it is, in the order of the engine."""
    assert bar.factor is not None
    if bar.factor.ndim == 1:
        return np.asarray(bar.factor.numpy() / sigma)
    if bar.reduced:
        own = np.eye(bar.factor.shape[1])
    else:
        own = root_of(bar.full).numpy()
    return np.asarray(own[structure("us").positions(len(own))] / sigma)


def check_bars(design: Design, selections: Sequence[Selected]) -> None:
    """Raise DesignError for random terms that cannot stand beside each other."""
    for bar in design.random:
        if bar.covariance not in ("us", "diag"):
            raise DesignError(
                f"{bar.label}: beside {design.varying[0].label} there may be bars such as (x | group) only: take "
                f"{bar.label} out."
            )
    for k, (term, own) in enumerate(zip(design.varying, selections, strict=True)):
        for other, theirs in zip(design.varying[:k], selections[:k], strict=True):
            both = set(own.names) & set(theirs.names)
            if term.group == other.group and both:
                name = sorted(both)[0]
                raise DesignError(
                    f"{term.label}: '{name}' varies by '{term.group}' in {other.label} already: take one of them out."
                )


def refuse_faithful(design: Design, preset: str) -> None:
    """Raise DesignError for the preset that knows one bar only."""
    if preset != "faithful":
        return
    label = (*(term.label for term in design.varying), *(term.label for term in design.random))[1]
    raise DesignError(f"{label}: preset 'faithful' knows one bar only; use 'default'.")


@dataclass(frozen=True)
class BarEstimates:
    """Estimates of one random term.

    Attributes
    ----------
    effects : ndarray, shape (q, d)
        Posterior modes.
    variances : ndarray, shape (q, d, d), or (q, d) where Sigma is diagonal or of reduced rank
        Posterior variances.
    factor : ndarray, shape (d, k) or (d,)
        L with ``Sigma = L L'``; a vector of standard deviations for a diagonal Sigma.
    places : ndarray of int, shape (d,), or None
        Of a bar of the network: where its parameters stand among all that vary.
    """

    effects: FloatArray
    variances: FloatArray
    factor: FloatArray
    places: NDArray[np.int64] | None = None

    @property
    def prior_variances(self) -> FloatArray:
        """The diagonal of Sigma, (d,)."""
        return self.factor**2 if self.factor.ndim == 1 else np.asarray((self.factor**2).sum(axis=1))

    @property
    def n_variances(self) -> int:
        """Free parameters of Sigma."""
        if self.factor.ndim == 1:
            return len(self.factor)
        size, rank = self.factor.shape
        if size != rank:
            size = int(self.factor.any(axis=1).sum())
            rank = min(size, rank)
        return size * rank - rank * (rank - 1) // 2


def bar_estimates(
    bar: Bar, effects: FloatArray, variances: FloatArray, factor: FloatArray, basis: FloatArray | None = None
) -> BarEstimates:
    """Estimates of a bar, of which those of its levels may be along a basis (d, k)."""
    if basis is not None:
        effects, factor = effects @ basis.T, basis @ factor
        variances = basis @ variances @ basis.T
    if bar.diagonal and bar.where is not None:
        factor = np.abs(np.diagonal(factor)) if factor.ndim == 2 else factor
    elif bar.diagonal:
        factor = np.diagonal(factor).copy() if factor.ndim == 2 else factor
    if bar.where is not None and (bar.diagonal or bar.reduced):
        variances = np.einsum("qdd->qd", variances)
    places = None if bar.where is None else bar.where.numpy()
    return BarEstimates(np.ascontiguousarray(effects), np.ascontiguousarray(variances), factor, places)
