"""The log-density of all random effects of a multinomial model with many classes, for samplers of vectors.

With classes last and rows sorted by cell of Z, ``exp(eta) = exp(offset) exp(Z b)`` is a product of numbers that are
known for as long as the offset is and of few exponentials, one a cell and class. A gradient then reads the first factor
twice and has no exponential a row; with classes before rows (:mod:`pylmernn.engines.likelihood`) it takes ten times as
long.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pylmernn.engines.effects import Effects, Prior

#: From so many rows times classes on probabilities are computed in float32; sums of them always are in float64.
SINGLE = 1_000_000
#: Sums of exponentials are kept above this, whose inverse is finite in float32.
SMALLEST = 1e-30


class ClassRows:
    """The rows of a multinomial model, sorted by cell, and what does not depend on the offset.

    Parameters
    ----------
    effects : Effects
    y : Tensor (n,)
        Codes of classes.
    weights : Tensor (n,)
    n_classes : int
    """

    def __init__(self, effects: Effects, y: Tensor, weights: Tensor, n_classes: int) -> None:
        self.effects, self.n_classes = effects, n_classes
        cells = effects.cell_of_row
        self.order = torch.argsort(cells, stable=True)
        self.cells = cells[self.order]
        self.counts = torch.bincount(cells, minlength=effects.cells)
        self.codes = y.long()[self.order, None]
        self.weights = weights.to(torch.float64)[self.order]
        self.dtype = torch.float32 if len(y) * n_classes >= SINGLE else torch.float64
        #: Sums of the weights by cell and observed class.
        self.observed = torch.zeros((effects.cells, n_classes), dtype=torch.float64, device=y.device)
        self.observed.index_put_((self.cells, self.codes[:, 0]), self.weights, accumulate=True)
        self._offset: tuple[Tensor, Tensor, Tensor] | None = None

    def scales(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(offset - top)`` of the sorted rows (n, C), and the weighted sum of ``offset_y - top``."""
        if self._offset is None or self._offset[0] is not offset:
            sorted_rows = offset.index_select(0, self.order)
            shifted = sorted_rows - sorted_rows.amax(dim=1, keepdim=True)
            base = self.weights @ shifted.gather(1, self.codes)[:, 0]
            self._offset = (offset, shifted.exp_().to(self.dtype), base)
        return self._offset[1], self._offset[2]


class ClassDensity:
    """As :class:`pylmernn.engines.likelihood.EffectsDensity`, for many classes.

    Parameters
    ----------
    rows : ClassRows
    prior : Prior
    offset : Tensor (n, C)
        The rest of the linear predictor; its exponentials are kept for as long as it is the same tensor.
    """

    def __init__(self, rows: ClassRows, prior: Prior, offset: Tensor) -> None:
        self.rows, self.effects, self.prior, self.n_classes = rows, rows.effects, prior, rows.n_classes
        self._scale, self._base = rows.scales(offset)

    def unflatten(self, x: Tensor) -> Tensor:
        """Vectors (S, Q * C) as effects (S, Q, C)."""
        return x.reshape(len(x), self.effects.size, self.n_classes)

    def _spread(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of effects (Q, C): Z b by cell less its top (cells, C), its exponential, that of the rows, and their sums."""
        eta = self.effects.cells_by_class(b)
        eta = eta - eta.amax(dim=1, keepdim=True)
        powers = eta.exp().to(self.rows.dtype)
        spread = powers.repeat_interleave(self.rows.counts, 0).mul_(self._scale)
        return eta, powers, spread, spread.sum(dim=1).clamp_(min=SMALLEST)

    def _summed(self, values: Tensor) -> Tensor:
        """Sums by cell (cells, C) of what is multiplied with the scale of sorted rows, a number a row."""
        out = torch.zeros((self.effects.cells, self.n_classes), dtype=self.rows.dtype, device=values.device)
        return out.index_add_(0, self.rows.cells, self._scale * values[:, None])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density (S,), without constants, and gradient (S, Q * C) at x (S, Q * C)."""
        b = self.unflatten(x)
        pull = self.prior.apply(b)
        values, gradients = [], []
        for effects in b:
            eta, powers, _, sums = self._spread(effects)
            values.append((self.rows.observed * eta).sum() + self._base - self.rows.weights @ sums.log().double())
            expected = (self._summed(self.rows.weights.to(sums.dtype) / sums) * powers).double()
            gradients.append(self.effects.effects_by_class(self.rows.observed - expected))
        value = torch.stack(values) - 0.5 * (b * pull).sum(dim=(1, 2))
        return value, (torch.stack(gradients) - pull).reshape(x.shape)

    def _probabilities(self, effects: Tensor) -> Tensor:
        """Of the sorted rows (n, C)."""
        _, _, spread, sums = self._spread(effects)
        return spread.div_(sums[:, None])

    def _unsorted(self, values: Tensor) -> Tensor:
        """Values of sorted rows (n, C) in the order of the rows."""
        return torch.empty_like(values).index_copy_(0, self.rows.order, values)

    def fixed_score(self, b: Tensor, X: Tensor) -> Tensor:
        """Gradient in the fixed effects (p, C) of columns (n, p), averaged over chains (S, Q, C)."""
        weighted = X.index_select(0, self.rows.order) * self.rows.weights[:, None]
        observed = torch.zeros((X.shape[1], self.n_classes), dtype=torch.float64, device=X.device)
        observed.index_add_(1, self.rows.codes[:, 0], weighted.T)
        means = [weighted.T.to(self.rows.dtype) @ self._probabilities(effects) for effects in b]
        return observed - torch.stack(means).double().mean(dim=0)

    def omega(self, b: Tensor) -> Tensor:
        """``w p (1 - p)`` by class and row (C, n), averaged over chains (S, Q, C)."""
        total = torch.zeros((self.effects.n, self.n_classes), dtype=torch.float64, device=b.device)
        for effects in b:
            share = self._probabilities(effects)
            total += share * (1.0 - share)
        return self._unsorted(total.mul_(self.rows.weights[:, None]).div_(len(b))).T.contiguous()

    def inverse_mass(self, x: Tensor) -> Tensor:
        """Rough posterior variances (Q * C,) for the mass matrix, at the mean of the chains (S, Q * C)."""
        share = self._probabilities(self.unflatten(x.mean(dim=0, keepdim=True))[0])
        share = share.mul_(1.0 - share).mul_(self.rows.weights.to(share.dtype)[:, None])
        cells = torch.zeros((self.effects.cells, self.n_classes), dtype=share.dtype, device=share.device)
        cells = cells.index_add_(0, self.rows.cells, share).double()
        precision = self.effects.effects_by_class(cells, square=True) + self.prior.diagonal()
        return (1.0 / precision).reshape(-1)
