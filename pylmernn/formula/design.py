"""The waist of the package: plain arrays and names of one model, whichever language they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pylmernn.formula.varying import VaryingTerm

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]


class DesignError(ValueError):
    """Input that does not make a mixed model; the message names the term, column or level and what to do."""


@dataclass(frozen=True)
class RandomTerm:
    """One bar ``(expr | group)``.

    Attributes
    ----------
    group : str
        Label of the grouping factor, ``"Subject"`` or ``"batch:cask"``.
    codes : ndarray of int32, shape (n,)
        Level of each row, 0 to q - 1.
    levels : ndarray of str, shape (q,)
        Names of the levels; every level occurs in ``codes``.
    columns : ndarray of float64, shape (n, d)
        Model matrix of the expression left of the bar.
    column_names : tuple of str, length d
        Names of those columns, ``"(Intercept)"`` first where there is one.
    covariance : str
        A name in the registry of :mod:`pylmernn.covariance`: ``"us"``, ``"diag"``, ``"gp"`` or ``"embed"``.
    label : str
        The term as the user wrote it, for messages.
    locations : ndarray of float64, shape (q, k), or None
        Coordinates of each level, for ``gp(lon, lat)`` and ``embed(lon, lat)``: levels are distinct locations.
    options : dict
        Arguments of the structure, ``{"cov": "exp_quad"}`` or ``{"dim": 100}``.
    """

    group: str
    codes: IntArray
    levels: NDArray[Any]
    columns: FloatArray
    column_names: tuple[str, ...]
    covariance: str = "us"
    label: str = ""
    locations: FloatArray | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n_levels(self) -> int:
        """Number of levels, q."""
        return len(self.levels)

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return self.columns.shape[1]


@dataclass(frozen=True)
class NetTerm:
    """One ``nn(...)``: a network of some columns that adds to the linear predictor.

    Attributes
    ----------
    label : str
        The term as the user wrote it.
    name : str
        ``"nn"``, or the name of a module in ``nets=``.
    inputs : ndarray of float64, shape (n, k)
        Numbers as they are, factors as level codes; a column that holds arrays gives one column an element.
    input_names : tuple of str, length k
    levels : tuple of int, length k
        Number of levels of each factor, 0 for a number.
    options : dict
        Arguments of the network: hidden, activation, dropout, ...
    shapes : tuple of tuple of int
        One an input of the formula: ``()`` for a number or factor, ``(t, c)`` for a column of such arrays, whose
        elements stand in row-major order in ``inputs``. Empty where every input is a number or factor.
    module : torch.nn.Module, callable that returns one, or None
        The user's own network, from ``nets=``; None for one made from ``options``.
    """

    label: str
    name: str
    inputs: FloatArray
    input_names: tuple[str, ...]
    levels: tuple[int, ...]
    options: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...] = ()
    module: Any = None


@dataclass(frozen=True)
class Design:
    """All arrays of one mixed model, ``y = offset + X beta + f(inputs) + sum_k Z_k b_k + e``.

    Attributes
    ----------
    y : ndarray of float64, shape (n,)
    X : ndarray of float64, shape (n, p)
        Full column rank once :func:`make_design` returned.
    fixed_names : tuple of str, length p
    random : tuple of RandomTerm
        In lme4's order: decreasing number of levels.
    weights : ndarray of float64, shape (n,), or None
        Prior weights: ``Var(e_i) = sigma^2 / weights_i``.
    offset : ndarray of float64, shape (n,), or None
    dropped : tuple of str
        Names of fixed-effect columns left out because X was rank deficient.
    dropped_at : tuple of int
        Their positions among all the columns, so that ``fixef(add_dropped=True)`` can put them back.
    response : str
        The response as written.
    nets : tuple of NetTerm
        Networks in the mean; empty for a linear model.
    classes : tuple of str
        Names of the classes of a categorical response, whose codes 0, 1, ... are ``y``; empty for numbers.
    varying : tuple of VaryingTerm
        Bars by which parameters of a network vary; they are not in ``random``.
    """

    y: FloatArray
    X: FloatArray
    fixed_names: tuple[str, ...]
    random: tuple[RandomTerm, ...]
    weights: FloatArray | None = None
    offset: FloatArray | None = None
    dropped: tuple[str, ...] = ()
    dropped_at: tuple[int, ...] = ()
    response: str = "y"
    nets: tuple[NetTerm, ...] = ()
    classes: tuple[str, ...] = ()
    varying: tuple[VaryingTerm, ...] = ()

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def p(self) -> int:
        """Number of fixed-effect columns."""
        return self.X.shape[1]

    def with_response(self, y: FloatArray) -> Design:
        """The same design with another response, for refit and simulation."""
        y = np.array(y, dtype=np.float64)  # a copy: a column of a table may be read-only
        if y.shape != self.y.shape:
            raise DesignError(f"the new response has {len(y)} values but the model has {self.n} rows.")
        check_response(y, self.response)
        return dataclasses.replace(self, y=y)


@dataclass(frozen=True)
class NewTerm:
    """One random term for new rows: ``codes`` (m,) int32 with -1 for a level the fit has not seen, ``columns`` (m, d),
    ``unseen``: the unseen level names (shortened list, for messages), ``locations`` (m, k): coordinates of the rows
    where the term has locations.
    """

    codes: IntArray
    columns: FloatArray
    unseen: tuple[str, ...] = ()
    locations: FloatArray | None = None


@dataclass(frozen=True)
class NewRows:
    """New data in the columns of a fit: what ``predict`` and ``simulate`` need.

    Attributes
    ----------
    X : ndarray, shape (m, p); columns dropped from the fit are dropped here too
    offset : ndarray, shape (m,)
    random : tuple of NewTerm, in the order of ``Design.random``
    row_names : ndarray of the m row labels (a pandas index in Python)
    nets : tuple of ndarray, shape (m, k), inputs in the order of ``Design.nets``; -1 for an unseen level of a factor
    varying : tuple of ndarray of the levels' names, shape (m,), in the order of ``Design.varying``
    """

    X: FloatArray
    offset: FloatArray
    random: tuple[NewTerm, ...]
    row_names: Any = None
    nets: tuple[FloatArray, ...] = ()
    varying: tuple[NDArray[Any], ...] = ()


def check_response(y: FloatArray, name: str = "y") -> None:
    """Raise DesignError where a response is empty, infinite or constant."""
    if len(y) == 0:
        raise DesignError(f"no rows are left for the response '{name}' after missing values were removed.")
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        raise DesignError(
            f"the response '{name}' has {len(bad)} infinite or missing values (first in row {bad[0] + 1})."
        )
    if y.min() == y.max():
        raise DesignError(f"the response '{name}' is constant: there is no variance to explain.")


def make_design(
    y: FloatArray,
    X: FloatArray,
    fixed_names: Sequence[str],
    random: Sequence[RandomTerm],
    weights: FloatArray | None = None,
    offset: FloatArray | None = None,
    response: str = "y",
    nets: Sequence[NetTerm] = (),
    generalized: bool = False,
    classes: Sequence[str] = (),
    varying: Sequence[VaryingTerm] = (),
    sequences: bool = False,
) -> Design:
    """Check the arrays of a model, drop dependent columns of X and put the terms into lme4's order.

    Parameters
    ----------
    y : array, shape (n,)
    X : array, shape (n, p)
    fixed_names : p names
    random : terms in the order of the formula
    weights, offset : arrays of shape (n,), optional
    response : str
        How the response is called in messages.
    nets : networks in the mean, optional
    generalized : bool, default False
        Without a residual variance a factor may have a level a row.
    classes : sequence of str, optional
        Names of the classes of a categorical response.
    varying : bars of networks, optional
    sequences : bool, default False
        Whether rows are sequences, which need no random effects.

    Returns
    -------
    Design

    Raises
    ------
    DesignError
        For a response, weights, offset, predictor or grouping factor that no linear mixed model can take.
    """
    y = np.ascontiguousarray(y, dtype=np.float64)
    check_response(y, response)
    if not random and not varying and not sequences:
        raise DesignError("the formula has no random effects: add a term such as (1 | group), or fit a linear model.")
    _check_weights(weights, len(y))
    _check_finite_columns(X, fixed_names, "fixed effect")
    if offset is not None and not np.isfinite(offset).all():
        raise DesignError("the offset has infinite or missing values: remove those rows.")
    for term in random:
        _check_term(term, len(y), generalized)
    for net in nets:
        _check_finite_columns(net.inputs, net.input_names, f"input of {net.label}")
    kept = independent_columns(X)
    dropped = tuple(j for j in range(X.shape[1]) if j not in set(kept))
    return Design(
        y=y,
        X=X[:, kept] if dropped else X,
        fixed_names=tuple(fixed_names[j] for j in kept),
        random=lme4_order(random),
        weights=weights,
        offset=offset,
        dropped=tuple(fixed_names[j] for j in dropped),
        dropped_at=dropped,
        response=response,
        nets=tuple(nets),
        classes=tuple(classes),
        varying=tuple(varying),
    )


def lme4_order(random: Sequence[RandomTerm]) -> tuple[RandomTerm, ...]:
    """Terms by decreasing number of levels; where that changes the order, lme4 also reverses ties."""
    sizes = np.array([term.n_levels for term in random])
    if not (np.diff(sizes) > 0).any():
        return tuple(random)
    return tuple(random[i] for i in np.argsort(sizes, kind="stable")[::-1])


def _check_weights(weights: FloatArray | None, n: int) -> None:
    if weights is None:
        return
    if len(weights) != n:
        raise DesignError(f"weights has {len(weights)} values but the model has {n} rows.")
    missing = int(np.isnan(weights).sum())
    if missing:
        raise DesignError(f"weights has {missing} missing values: give every row a weight.")
    if not np.isfinite(weights).all():
        raise DesignError("weights has infinite values: give every row a finite weight.")
    if (weights < 0).any():
        raise DesignError(f"weights has {int((weights < 0).sum())} negative values: weights must be positive.")
    if (weights == 0).any():
        raise DesignError(f"weights has {int((weights == 0).sum())} zeros: leave those rows out with subset.")


def _check_finite_columns(columns: FloatArray, names: Sequence[str], what: str) -> None:
    if np.isfinite(columns.sum()):  # one pass; a sum of finite numbers overflows only where a fit is hopeless too
        return
    for j, name in enumerate(names):
        bad = np.flatnonzero(~np.isfinite(columns[:, j]))
        if len(bad):
            raise DesignError(f"the {what} '{name}' has {len(bad)} infinite values (first in row {bad[0] + 1}).")


def _check_term(term: RandomTerm, n: int, generalized: bool) -> None:
    label = term.label or term.group
    q = term.n_levels
    if term.locations is not None:
        _check_finite_columns(
            term.locations, [str(j + 1) for j in range(term.locations.shape[1])], f"coordinate of {label}"
        )
        if q < 2:
            raise DesignError(f"{label}: all rows are at one location; a field needs at least 2.")
        return
    if q < 2:
        raise DesignError(f"the grouping factor '{term.group}' of {label} has {q} level: it needs at least 2.")
    if q >= n and not generalized:
        raise DesignError(
            f"the grouping factor '{term.group}' of {label} has {q} levels in {n} rows: with one row a level its "
            "effects cannot be told from the residuals."
        )
    if q * term.width >= n and not generalized:
        raise DesignError(
            f"the term {label} has {q * term.width} random effects (levels times columns) in {n} rows, so its "
            "variances and the residual variance are unidentifiable: drop columns left of the bar."
        )
    _check_finite_columns(term.columns, term.column_names, f"column of {label}")


def independent_columns(X: FloatArray, tolerance: float = 1e-7) -> list[int]:
    """Columns that are no linear combination of those before them, as R's pivoting QR keeps them.

    Parameters
    ----------
    X : array, shape (n, p)
    tolerance : float
        A column is dependent when what is left of it, after projection on the kept ones, is shorter than this share of
        its length (R's ``qr(tol = 1e-7)``).

    Returns
    -------
    list of int, increasing
    """
    p = X.shape[1]
    lengths = np.sqrt(np.einsum("ij,ij->j", X, X))
    if (lengths > 0).all() and p:
        gram = (X.T @ X) / np.outer(lengths, lengths)
        try:  # the squared pivots of a Cholesky factor are good to about 1e-15: decide here only what is clear
            if (np.diagonal(np.linalg.cholesky(gram)) > 1e-4).all():
                return list(range(p))
        except np.linalg.LinAlgError:
            pass
    kept: list[int] = []
    basis = np.empty((X.shape[0], 0))
    for j in range(p):
        rest = X[:, j] / (lengths[j] or 1.0)
        for _ in range(2):  # twice is enough for orthogonality to working precision
            rest = rest - basis @ (basis.T @ rest)
        left = float(np.linalg.norm(rest))
        if left > tolerance:
            kept.append(j)
            basis = np.column_stack([basis, rest / left])
    return kept
