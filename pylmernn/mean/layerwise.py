"""Derivatives of a multilayer perceptron by the deviations of its groups, layer by layer and never as one matrix.

The derivative of a value by the weights of a layer is the outer product of its derivative by the output of the layer
(delta) and the input of the layer. Products with a few columns need only these: n times the width of the network in
memory instead of n times the number of parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pylmernn.mean.varying import CHUNK_NUMBERS, VaryingNetwork, group_chunks

Tensor = torch.Tensor

BLOCK = 16_384  # rows multiplied at a time, for the cache


@dataclass(frozen=True)
class Piece:
    """One parameter that varies.

    Attributes
    ----------
    kind : str
        "matrix" for the weights of a linear layer, "scale" for those of a normalisation, "shift" for a bias.
    shape : tuple of int
    inputs : Tensor, shape (n, inputs), or None
        Of the layer; None for a bias.
    delta : Tensor, shape (n, outputs)
    """

    kind: str
    shape: tuple[int, ...]
    inputs: Tensor | None
    delta: Tensor

    def take(self, at: Tensor | slice) -> Piece:
        """Some rows."""
        return Piece(self.kind, self.shape, None if self.inputs is None else self.inputs[at], self.delta[at])

    def times(self, V: Tensor) -> Tensor:
        """Derivatives times V (size, k), (n, k)."""
        if self.inputs is None:
            return self.delta @ V
        if self.kind == "scale":
            return (self.delta * self.inputs) @ V
        (o, i), k = self.shape, V.shape[1]
        V = V.reshape(o, i, k)
        if i <= o:  # sum over the longer side by a matrix product
            first = (self.delta @ V.reshape(o, i * k)).reshape(-1, i, k)
            return (first * self.inputs[:, :, None]).sum(1)
        first = (self.inputs @ V.transpose(0, 1).reshape(i, o * k)).reshape(-1, o, k)
        return (first * self.delta[:, :, None]).sum(1)

    def transposed(self, W: Tensor) -> Tensor:
        """Transposed derivatives times W (n, k), (size, k)."""
        if self.inputs is None:
            return self.delta.T @ W
        if self.kind == "scale":
            return (self.delta * self.inputs).T @ W
        (o, i), k = self.shape, W.shape[1]
        if i <= o:
            short = (self.inputs[:, :, None] * W[:, None, :]).reshape(-1, i * k)
            return (self.delta.T @ short).reshape(o * i, k)
        short = (self.delta[:, :, None] * W[:, None, :]).reshape(-1, o * k)
        return (self.inputs.T @ short).reshape(i, o, k).transpose(0, 1).reshape(o * i, k)


@dataclass(frozen=True)
class LayerDerivatives:
    """Of n rows.

    Attributes
    ----------
    values : Tensor, shape (n,)
    own : Tensor, shape (n,)
        Derivatives times the deviations of the row's group.
    pieces : tuple of Piece
        In the order of the parameters; rows in the order of the groups.
    order : Tensor of int, shape (n,)
        The row that stands at each place of the pieces.
    """

    values: Tensor
    own: Tensor
    pieces: tuple[Piece, ...]
    order: Tensor

    def __matmul__(self, V: Tensor) -> Tensor:
        """``J V`` for V (D, k), (n, k) in float64."""
        own = self.pieces[0].delta.dtype
        parts = V.to(own).split([math.prod(piece.shape) for piece in self.pieces])
        found = torch.empty(len(self.order), V.shape[1], dtype=own)
        for first in range(0, len(self.order), BLOCK):
            at = slice(first, first + BLOCK)
            found[at] = torch.stack(
                [piece.take(at).times(part) for piece, part in zip(self.pieces, parts, strict=True)]
            ).sum(0)
        out = torch.empty(found.shape, dtype=torch.float64)
        out[self.order] = found.double()
        return out

    def transposed(self, W: Tensor) -> Tensor:
        """``J' W`` for W (n, k), (D, k) in float64."""
        given, size = W[self.order].to(self.pieces[0].delta.dtype), sum(math.prod(piece.shape) for piece in self.pieces)
        total = torch.zeros(size, W.shape[1], dtype=torch.float64)
        for first in range(0, len(given), BLOCK):
            at = slice(first, first + BLOCK)
            total += torch.cat([piece.take(at).transposed(given[at]) for piece in self.pieces])
        return total

    def squares(self) -> Tensor:
        """Sum of the squared derivatives of each row, (n,)."""
        total = torch.zeros(len(self.order), dtype=torch.float64)
        for piece in self.pieces:
            if piece.kind == "scale" and piece.inputs is not None:
                total += ((piece.delta * piece.inputs) ** 2).sum(1)
            else:
                total += (piece.delta**2).sum(1) * (1.0 if piece.inputs is None else (piece.inputs**2).sum(1))
        out = torch.empty_like(total)
        out[self.order] = total
        return out

    def take(self, rows: Tensor) -> LayerDerivatives:
        """Some rows."""
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order))
        pieces = tuple(piece.take(place[rows]) for piece in self.pieces)
        return LayerDerivatives(self.values[rows], self.own[rows], pieces, torch.arange(len(rows)))


def layerwise(network: VaryingNetwork, prepared: Tensor, eta: Tensor, codes: Tensor) -> LayerDerivatives:
    """Derivatives of a network by layers at rows (n, k) of known groups with deviations (q, D)."""
    at, inside, groups = group_chunks(codes)
    found: dict[str, list[tuple[Tensor | None, Tensor]]] = {name: [] for name in network.selected.names}
    values, own, rows = [], [], []
    size = max(1, BLOCK // at.shape[1])
    for first in range(0, len(at), size):
        part, mask = at[first : first + size], inside[first : first + size]
        deviations = network.selected.split(eta[groups[first : first + size]])
        record: list[tuple[int, Tensor, Tensor]] = []
        out = network.layers(prepared[part], deviations, record)
        deltas = torch.autograd.grad(out.sum(), [after for _, _, after in record])
        along = torch.zeros_like(out)
        for (j, before, _), delta in zip(record, deltas, strict=True):
            weight, bias = f"mlp.layers.{j}.weight", f"mlp.layers.{j}.bias"
            before = before.detach()
            if weight in found:
                found[weight].append((before[mask], delta[mask]))
                step = deviations[weight]
                moved = before * step[:, None] if step.ndim == 2 else before @ step.transpose(1, 2)
                along += (moved * delta).sum(2)
            if bias in found:
                found[bias].append((None, delta[mask]))
                along += (deviations[bias][:, None] * delta).sum(2)
        values.append(out.detach()[mask])
        own.append(along[mask])
        rows.append(part[mask])
    pieces = []
    for name, shape in zip(network.selected.names, network.selected.shapes, strict=True):
        inputs = [before for before, _ in found[name] if before is not None]
        kind = "shift" if not inputs else "matrix" if len(shape) == 2 else "scale"
        joined = torch.cat(inputs) if inputs else None
        pieces.append(Piece(kind, shape, joined, torch.cat([delta for _, delta in found[name]])))
    order = torch.cat(rows)
    ordered = []
    for numbers in (torch.cat(values), torch.cat(own)):
        whole = torch.empty(len(codes), dtype=torch.float64)
        whole[order] = numbers.double()
        ordered.append(whole)
    return LayerDerivatives(ordered[0], ordered[1], tuple(pieces), order)


class MatrixDerivatives:
    """Derivatives of any network, computed by parts of the rows whenever a product needs them.

    Has values, own, ``@``, take and squares as :class:`LayerDerivatives`; its rows are those of ``codes``.

    Parameters
    ----------
    network : VaryingNetwork
    prepared : Tensor, shape (n, k)
    eta : Tensor, shape (q, D)
    codes : Tensor of int, shape (n,)
    factor : Tensor, shape (D, k), optional
        A matrix whose product comes with the first pass over the rows.
    """

    def __init__(
        self, network: VaryingNetwork, prepared: Tensor, eta: Tensor, codes: Tensor, factor: Tensor | None = None
    ) -> None:
        self.network, self.prepared, self.eta, self.codes, self.factor = network, prepared, eta, codes, factor
        V = torch.zeros(network.selected.size, 0) if factor is None else factor
        values, own, products, squares = [], [], [], []
        size = max(1, CHUNK_NUMBERS // network.selected.size)
        for first in range(0, len(codes), size):
            part = slice(first, first + size)
            f, J = network.jacobian(prepared[part], eta, codes[part])
            values.append(f.double())
            own.append((J * eta[codes[part]]).sum(1).double())
            products.append((J @ V.to(J.dtype)).double())
            squares.append((J**2).sum(1).double())
        self.values, self.own, self.product = torch.cat(values), torch.cat(own), torch.cat(products)
        self._squares = torch.cat(squares)

    def __matmul__(self, V: Tensor) -> Tensor:
        """``J V`` for V (D, k), (n, k) in float64."""
        if V is self.factor:
            return self.product
        return MatrixDerivatives(self.network, self.prepared, self.eta, self.codes, V).product

    def squares(self) -> Tensor:
        """Sum of the squared derivatives of each row, (n,)."""
        return self._squares

    def take(self, rows: Tensor) -> Matrix:
        """Some rows, whose derivatives are then held as a matrix."""
        J = self.network.jacobian(self.prepared[rows], self.eta, self.codes[rows])[1]
        return Matrix(self.values[rows], self.own[rows], J)


@dataclass(frozen=True)
class Matrix:
    """Values, derivatives times the deviations, and derivatives J (n, D) as they are."""

    values: Tensor
    own: Tensor
    J: Tensor

    def __matmul__(self, V: Tensor) -> Tensor:
        """``J V``, (n, k) in float64."""
        return (self.J @ V.to(self.J.dtype)).double()

    def transposed(self, W: Tensor) -> Tensor:
        """``J' W``, (D, k) in float64."""
        return (self.J.T @ W.to(self.J.dtype)).double()
