"""The random effects of all terms as one vector, and their prior, for samplers.

Samplers hold the effects of S chains and C classes in one tensor (S, Q, C), ``Q = sum_k q_k d_k``, term by term and
level by level. Rows with the same levels and columns in every term share a cell; products with Z run over the cells, of
which aligned factors have far fewer than rows. A gather and a scatter by column of Z are several times faster on a CPU
than products with sparse matrices, and run on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pylmernn.formula.design import RandomTerm

#: Cells are used where they are at most this share of the rows: the map from cells to rows costs one gather.
CELL_SHARE = 0.7


class Effects:
    """Products with Z, the model matrix (n, Q) of all random effects.

    Parameters
    ----------
    random : sequence of RandomTerm
        Terms whose levels have effects of their own; n rows each.
    device : str or torch.device, default "cpu"

    Attributes
    ----------
    n, size : int
        Rows, and effects Q.
    shapes : tuple of (q_k, d_k)
    offsets : tuple of int
        Where each term begins; effect ``offset_k + level * d_k + column``.
    cells : int
        Distinct rows of Z, or n where they are too many to be of use.

    Examples
    --------
    >>> import numpy as np
    >>> term = RandomTerm("g", np.array([0, 1, 1], np.int32), np.array(["a", "b"]), np.ones((3, 1)), ("(Intercept)",))
    >>> effects = Effects([term])
    >>> effects.eta(torch.tensor([[[1.0], [2.0]]], dtype=torch.float64))[0, :, 0].tolist()
    [1.0, 2.0, 2.0]
    """

    def __init__(self, random: Sequence[RandomTerm], device: str | torch.device = "cpu") -> None:
        if not random:
            raise ValueError("samplers of random effects need at least one term: add (1 | group) to the formula.")
        self.device = torch.device(device)
        self.n = len(random[0].codes)
        self.shapes = tuple((term.n_levels, term.width) for term in random)
        starts = np.cumsum([0, *(q * d for q, d in self.shapes)])
        self.offsets = tuple(int(start) for start in starts[:-1])
        self.size = int(starts[-1])
        first, row_cells = distinct_rows(random)
        self.cells = len(first) if len(first) <= CELL_SHARE * self.n else self.n
        rows = first if self.cells < self.n else np.arange(self.n)
        self._row_cells = self._tensor(row_cells) if self.cells < self.n else None
        #: One entry a column of a term: where its effects are (cells,), and its values, None where they are all 1.
        self._entries: list[tuple[Tensor, Tensor | None]] = []
        for term, offset in zip(random, self.offsets, strict=True):
            for j in range(term.width):
                index = offset + term.codes[rows].astype(np.int64) * term.width + j
                values = np.asarray(term.columns[rows, j], dtype=np.float64)
                ones = bool((term.columns[:, j] == 1.0).all())
                self._entries.append((self._tensor(index), None if ones else self._tensor(values)))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def to_rows(self, v: Tensor) -> Tensor:
        """From cells (R, cells) to rows (R, n)."""
        return v if self._row_cells is None else v.gather(1, self._row_cells.expand(len(v), -1))

    def to_cells(self, v: Tensor) -> Tensor:
        """Sums of rows (R, n) by cell (R, cells)."""
        if self._row_cells is None:
            return v
        return v.new_zeros(len(v), self.cells).scatter_add_(1, self._row_cells.expand(len(v), -1), v)

    def _chosen(self, terms: Sequence[int] | None) -> list[tuple[Tensor, Tensor | None]]:
        """Entries of some terms."""
        if terms is None:
            return self._entries
        ends = np.cumsum([d for _, d in self.shapes])
        return [entry for k in terms for entry in self._entries[ends[k] - self.shapes[k][1] : ends[k]]]

    def cell_eta(self, b: Tensor, terms: Sequence[int] | None = None) -> Tensor:
        """``Z b`` by cell (R, cells) of effects (R, Q); of some terms alone."""
        total: Tensor | None = None
        for index, values in self._chosen(terms):
            part = b.gather(1, index.expand(len(b), -1))
            part = part if values is None else part.mul_(values)
            total = part if total is None else total.add_(part)
        return b.new_zeros(len(b), self.cells) if total is None else total

    def cell_sums(self, v: Tensor, terms: Sequence[int] | None = None) -> Tensor:
        """``Z' v`` (R, Q) of sums by cell (R, cells); of some terms alone, and 0 for the others."""
        out = v.new_zeros(len(v), self.size)
        for index, values in self._chosen(terms):
            out.scatter_add_(1, index.expand(len(v), -1), v if values is None else v * values)
        return out

    def cells_by_class(self, b: Tensor) -> Tensor:
        """``Z b`` by cell (cells, C) of effects (Q, C), with classes last: faster where they are many."""
        total: Tensor | None = None
        for index, values in self._entries:
            part = b.index_select(0, index)
            part = part if values is None else part.mul_(values[:, None])
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def effects_by_class(self, v: Tensor, square: bool = False) -> Tensor:
        """``Z' v`` (Q, C) of sums by cell (cells, C), or with the squares of Z; classes last."""
        out = v.new_zeros(self.size, v.shape[1])
        for index, values in self._entries:
            times = values if values is None or not square else values * values
            out.index_add_(0, index, v if times is None else v * times[:, None])
        return out

    @property
    def cell_of_row(self) -> Tensor:
        """The cell of each row (n,)."""
        return torch.arange(self.n, device=self.device) if self._row_cells is None else self._row_cells

    def cell_diagonal(self, w: Tensor) -> Tensor:
        """``diag(Z' W Z)`` (R, Q) of weights by cell (R, cells)."""
        out = w.new_zeros(len(w), self.size)
        for index, values in self._entries:
            out.scatter_add_(1, index.expand(len(w), -1), w if values is None else w * (values * values))
        return out

    def cell_blocks(self, w: Tensor, term: int) -> Tensor:
        """The blocks of ``Z' W Z`` of each level of a term (R, q_k, d_k, d_k), of weights by cell (R, cells)."""
        q, d = self.shapes[term]
        first = sum(width for _, width in self.shapes[:term])
        level = (self._entries[first][0] - self.offsets[term]) // d
        out = w.new_zeros(len(w), d, d, q)
        for i in range(d):
            for j in range(i + 1):
                part = w
                for values in (self._entries[first + i][1], self._entries[first + j][1]):
                    part = part if values is None else part * values
                out[:, i, j].scatter_add_(1, level.expand(len(w), -1), part)
                out[:, j, i] = out[:, i, j]
        return out.permute(0, 3, 1, 2)

    def eta(self, b: Tensor) -> Tensor:
        """``Z b`` (S, n, C) of effects (S, Q, C)."""
        return unfold(self.to_rows(self.cell_eta(fold(b))), b.shape[-1])

    def by_effect(self, v: Tensor) -> Tensor:
        """``Z' v`` (S, Q, C) of v (S, n, C)."""
        return unfold(self.cell_sums(self.to_cells(fold(v))), v.shape[-1])

    def weighted_diagonal(self, w: Tensor) -> Tensor:
        """``diag(Z' W Z)`` (S, Q, C) of weights (S, n, C)."""
        return unfold(self.cell_diagonal(self.to_cells(fold(w))), w.shape[-1])

    def split(self, b: Tensor) -> list[Tensor]:
        """Effects (S, Q, C) by term, (S, q_k, d_k, C) each."""
        return [
            b[:, offset : offset + q * d].reshape(b.shape[0], q, d, b.shape[-1])
            for offset, (q, d) in zip(self.offsets, self.shapes, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Effects (S, Q, C) from those by term, (S, q_k, d_k, C) each."""
        return torch.cat([part.reshape(part.shape[0], -1, part.shape[-1]) for part in parts], dim=1)


class Prior:
    """Independent normal effects of all levels: precision ``P_kc`` (d_k, d_k) for term k and class c.

    Parameters
    ----------
    effects : Effects
    precisions : list of Tensor (C, d_k, d_k)
        Symmetric and positive definite, one a term.

    Raises
    ------
    ValueError
        Where a precision is not positive definite.
    """

    def __init__(self, effects: Effects, precisions: Sequence[Tensor]) -> None:
        self.effects = effects
        self.precisions = [p.to(device=effects.device, dtype=torch.float64) for p in precisions]
        self.n_classes = len(self.precisions[0])
        self.factors: list[Tensor] = []
        for k, precision in enumerate(self.precisions):
            factor, failed = torch.linalg.cholesky_ex(precision)
            if bool(failed.any()):
                raise ValueError(f"the prior precision of term {k + 1} is not positive definite: check its covariance.")
            self.factors.append(factor)
        #: Whether the effects of a level are independent.
        self.is_diagonal = all(bool((p == p.diagonal(dim1=1, dim2=2).diag_embed()).all()) for p in self.precisions)
        parts = [
            p.diagonal(dim1=1, dim2=2).T.repeat(q, 1) for p, (q, _) in zip(self.precisions, effects.shapes, strict=True)
        ]
        self._diagonal = torch.cat(parts)

    def diagonal(self) -> Tensor:
        """Diagonal of the precision (Q, C)."""
        return self._diagonal

    def only(self, c: int) -> Prior:
        """The prior of class c alone."""
        return Prior(self.effects, [p[c : c + 1] for p in self.precisions])

    def _by_level(self, matrices: Sequence[Tensor], b: Tensor) -> Tensor:
        """Each level's effects times the matrix (C, d_k, d_k) of its term and class."""
        parts = [
            torch.einsum("cij,sqjc->sqic", matrix, part)
            for matrix, part in zip(matrices, self.effects.split(b), strict=True)
        ]
        return self.effects.join(parts)

    def apply(self, b: Tensor) -> Tensor:
        """Precision times effects (S, Q, C)."""
        return self._diagonal * b if self.is_diagonal else self._by_level(self.precisions, b)

    def apply_rows(self, b: Tensor) -> Tensor:
        """The same of rows (R, Q): chains where there is one class, else one row a class."""
        if self.n_classes == 1:
            return self.apply(b[:, :, None])[:, :, 0]
        return self.apply(b.T[None])[0].T

    def _normal(self, chains: int, generator: torch.Generator | None) -> Tensor:
        shape = (chains, self.effects.size, self.n_classes)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=self.effects.device)

    def noise(self, chains: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (S, Q, C) whose covariance is the precision."""
        z = self._normal(chains, generator)
        return self._diagonal.sqrt() * z if self.is_diagonal else self._by_level(self.factors, z)

    def draw(self, chains: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (S, Q, C) of the effects."""
        z = self._normal(chains, generator)
        if self.is_diagonal:
            return z / self._diagonal.sqrt()
        roots = []
        for factor in self.factors:
            unit = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
            roots.append(torch.linalg.solve_triangular(factor, unit, upper=False).transpose(1, 2))
        return self._by_level(roots, z)

    def log_density(self, b: Tensor) -> Tensor:
        """Log-densities (S,) of effects (S, Q, C), with their constants."""
        logs = sum(
            q * factor.diagonal(dim1=1, dim2=2).log().sum()
            for factor, (q, _) in zip(self.factors, self.effects.shapes, strict=True)
        )
        constant = 0.5 * self.effects.size * self.n_classes * float(np.log(2.0 * np.pi))
        return logs - constant - 0.5 * (b * self.apply(b)).sum(dim=(1, 2))


def fold(v: Tensor) -> Tensor:
    """(S, m, C) as contiguous rows (S * C, m)."""
    return v.transpose(1, 2).reshape(-1, v.shape[1])


def unfold(v: Tensor, classes: int) -> Tensor:
    """Rows (S * C, m) as (S, m, C); a view."""
    return v.reshape(-1, classes, v.shape[1]).transpose(1, 2)


def distinct_rows(random: Sequence[RandomTerm]) -> tuple[np.ndarray, np.ndarray]:
    """A row (m,) of each distinct row of Z, and which of them each row is (n,)."""
    cell = np.zeros(len(random[0].codes), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for term in random:
        for values in (term.codes, *term.columns.T):
            if (values == values[0]).all():
                continue
            code = np.unique(values, return_inverse=True)[1].astype(np.int64)
            _, first, cell = np.unique(cell * (code.max() + 1) + code, return_index=True, return_inverse=True)
    return first, cell
