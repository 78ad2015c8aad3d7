"""Learned g(Z) in the covariance of a batch: ``variance * G G'`` with G the features of its rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from pylmernn.engines.marginal import Rows
from pylmernn.formula.design import FloatArray, RandomTerm
from pylmernn.mean.embedding import Embedding, check_embed_options, features_of
from pylmernn.mean.networks import weights_of
from pylmernn.training.rowadam import RowAdam


class TablePart:
    """``embed(1 | g)``: each level has a row of W (q, dim), learned; the effect of a level is ``W_j b``.

    Parameters
    ----------
    term : RandomTerm
    spread : float, optional
        W starts uniform on (-spread, spread); by default normal with variance 1 / dim.
    generator : torch.Generator
    """

    def __init__(self, term: RandomTerm, generator: torch.Generator, spread: float | None = None) -> None:
        _, dim = check_embed_options(term.options, term.label)
        self.data = (torch.from_numpy(term.codes.astype(np.int64)),)
        shape = (term.n_levels, dim)
        if spread is None:
            self.table = torch.randn(shape, generator=generator) / dim**0.5
        else:
            self.table = (2.0 * torch.rand(shape, generator=generator) - 1.0) * spread
        self.optimizer: RowAdam | None = None
        self._touched: tuple[torch.Tensor, torch.Tensor] | None = None

    def covariance(self, rows: Rows, parameters: torch.Tensor) -> torch.Tensor:
        """The part of V, (m, m); while learning it holds on to the rows of W, for :meth:`step`."""
        if not torch.is_grad_enabled():
            G = self.table[rows[0]]
        else:
            levels, inverse = torch.unique(rows[0], return_inverse=True)
            if self.optimizer is not None:
                self.optimizer.catch_up(levels)
            learned = self.table[levels].requires_grad_()
            self._touched = (levels, learned)
            G = learned[inverse]
        return (G @ G.T).double() * parameters

    def step(self, learning_rate: float) -> None:
        """Move the rows of W that the last batch touched, by their gradient."""
        assert self.optimizer is not None
        assert self._touched is not None
        levels, learned = self._touched
        assert learned.grad is not None
        self.optimizer.learning_rate = learning_rate
        self.optimizer.step(levels, learned.grad)

    def finish_epoch(self) -> None:
        """Make up the steps that rows of W have missed."""
        if self.optimizer is not None:
            self.optimizer.catch_up()

    def features(self) -> FloatArray:
        """Features of every level, (q, dim)."""
        return self.table.double().numpy()

    def state(self) -> Any:
        """A copy of what is learned."""
        return self.table.clone()

    def restore(self, state: Any) -> None:
        """What :meth:`state` gave."""
        self.table.copy_(state)


class CoordinatePart:
    """``embed(lon, lat)``: the features of a location are a network of its coordinates.

    Parameters
    ----------
    term : RandomTerm
        With ``locations``.
    activation : str
    raw : bool
        Take coordinates and features as they are, instead of coordinates standardised and features over sqrt(dim).
    """

    def __init__(self, term: RandomTerm, activation: str, raw: bool) -> None:
        assert term.locations is not None
        hidden, dim = check_embed_options(term.options, term.label)
        self.locations = term.locations
        k = self.locations.shape[1]
        centre = np.zeros(k) if raw else self.locations.mean(axis=0)
        scale = np.ones(k) if raw else np.where(np.ptp(self.locations, axis=0) > 0, self.locations.std(axis=0), 1.0)
        self._shape = Embedding(
            group=term.group,
            centre=tuple(centre.tolist()),
            scale=tuple(scale.tolist()),
            hidden=hidden,
            dim=dim,
            activation=activation,
            gain=1.0 if raw else float(dim**-0.5),
            weights={},
        )
        self.network = self._shape.network()
        self.data = (self.network.prepare(self.locations)[torch.from_numpy(term.codes.astype(np.int64))],)

    def covariance(self, rows: Rows, parameters: torch.Tensor) -> torch.Tensor:
        """The part of V, (m, m)."""
        G = self.network(rows[0])
        return (G @ G.T).double() * parameters

    def features(self) -> FloatArray:
        """Features of every location, (q, dim)."""
        return features_of(self.network, self.locations)

    def embedding(self) -> Embedding:
        """The network as data, without coefficients."""
        return dataclasses.replace(self._shape, weights=weights_of(self.network))

    def state(self) -> Any:
        """A copy of what is learned."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def restore(self, state: Any) -> None:
        """What :meth:`state` gave."""
        self.network.load_state_dict(state)


def is_learned(term: RandomTerm) -> bool:
    """Whether the features of a term are learned."""
    return term.covariance == "embed"
