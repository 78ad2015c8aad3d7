"""Values of a network that varies by several bars at rows of known and new levels, and effects of new levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_bars import BarEstimates, cells_of
from pylmernn.engines.nme_several_posterior import expected
from pylmernn.formula.design import Design, RandomTerm
from pylmernn.mean.varying import VaryingNetwork

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int32]

STEPS = 10  # of Gauss-Newton, halved where one overshoots
ENOUGH = 1e-6  # of the largest effect's change, relative


def deviations(
    bars: Sequence[BarEstimates], effects: Sequence[FloatArray], levels: NDArray[np.int64], size: int
) -> FloatArray:
    """Deviations of cells (c, D), from effects (q_t, d_t) of each bar and the levels of the cells (c, T), -1 for none.

    Examples
    --------
    >>> bar = BarEstimates(np.ones((1, 1)), np.ones((1, 1)), np.ones(1), np.array([1]))
    >>> deviations([bar], [np.array([[3.0]])], np.array([[0], [-1]]), 2).tolist()
    [[0.0, 3.0], [0.0, 0.0]]
    """
    eta = np.zeros((len(levels), size))
    for k, (bar, own) in enumerate(zip(bars, effects, strict=True)):
        assert bar.places is not None
        known = levels[:, k] >= 0
        eta[np.ix_(known, bar.places)] += own[levels[known, k]]
    return eta


def values(estimates: SeveralEstimates, inputs: FloatArray, codes: Sequence[Codes]) -> FloatArray:
    """F of rows (m, k) with these levels (m,) of each bar, -1 for none; NaN where an input is missing."""
    network = network_of(estimates)
    cells = cells_of(codes)
    effects = [bar.effects for bar in estimates.varying]
    eta = deviations(estimates.varying, effects, cells.levels, estimates.selected.size)
    return _values(network, estimates.networks.scale, inputs, eta, cells.codes)


def _values(
    network: VaryingNetwork, scale: float, inputs: FloatArray, eta: FloatArray, codes: NDArray[np.int32]
) -> FloatArray:
    prepared = network.module.prepare(np.nan_to_num(inputs))
    found = network.rows(prepared, torch.from_numpy(eta).float(), torch.from_numpy(codes.astype(np.int64)))
    out = scale * found.double().numpy()
    out[np.isnan(inputs).any(axis=1)] = np.nan
    return np.asarray(out)


def averaged(
    estimates: SeveralEstimates, inputs: FloatArray, codes: Sequence[Codes], draws: int, seed: int
) -> FloatArray:
    """As :func:`values`, the mean over draws of the deviations of levels that are not known."""
    network, rng = network_of(estimates), np.random.default_rng(seed)
    cells, total = cells_of(codes), np.zeros(len(inputs))
    shown = [np.where(cells.levels[:, k] < 0, len(bar.effects), cells.levels[:, k]) for k, bar in _numbered(estimates)]
    for _ in range(draws):
        effects = [np.vstack([bar.effects, draw_of(bar, rng)]) for bar in estimates.varying]
        eta = deviations(estimates.varying, effects, np.stack(shown, axis=1), estimates.selected.size)
        total += _values(network, estimates.networks.scale, inputs, eta, cells.codes)
    return total / draws


def _numbered(estimates: SeveralEstimates) -> list[tuple[int, BarEstimates]]:
    return list(enumerate(estimates.varying))


def draw_of(bar: BarEstimates, rng: np.random.Generator) -> FloatArray:
    """Effects (d,) of a level that is not known."""
    normal = rng.standard_normal(bar.factor.shape[-1])
    return np.asarray(bar.factor * normal if bar.factor.ndim == 1 else bar.factor @ normal)


class Fresh(NamedTuple):
    """New rows of one bar.

    Attributes
    ----------
    codes : ndarray of int, shape (m,)
        Levels; those from q on are new.
    added : int
        New levels.
    columns : ndarray, shape (m, d), or None
        Of an ordinary bar.
    """

    codes: Codes
    added: int
    columns: FloatArray | None = None


class Response(Protocol):
    """What new rows respond."""

    @property
    def is_number(self) -> bool:
        """Whether the misfit is quadratic, so that no step overshoots where the network does not bend."""

    def working(self, predictor: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Working residuals and weights, (m,) each, at values (m,) of network and random effects; None for ones."""

    def misfit(self, predictor: FloatArray) -> float:
        """In units of twice the log-likelihood, but for a constant."""


class Numbers(NamedTuple):
    """Numbers less offset and ``X beta``, (m,), with the standard deviation of their noise."""

    rest: FloatArray
    sigma: float
    is_number: bool = True

    def working(self, predictor: FloatArray) -> tuple[FloatArray, None]:
        """See :class:`Response`."""
        return self.rest - predictor, None

    def misfit(self, predictor: FloatArray) -> float:
        """See :class:`Response`."""
        return float(((self.rest - predictor) ** 2).sum()) / self.sigma**2


def new_effects(
    estimates: SeveralEstimates, inputs: FloatArray, rest: FloatArray | Response, fresh: Sequence[Fresh]
) -> list[tuple[FloatArray, FloatArray]]:
    """Effects of new levels from rows of theirs, all else known, the effects of known levels too.

    Parameters
    ----------
    estimates : SeveralEstimates
    inputs : ndarray, shape (m, k)
    rest : ndarray, shape (m,), or Response
        Response less offset and ``X beta``; or what else the rows respond.
    fresh : one for each bar, those of the network first

    Returns
    -------
    list of (effects, variances)
        Of the new levels of each bar: posterior modes (q', d), and their variances (q', d, d) or (q', d).
    """
    response: Response = Numbers(rest, estimates.sigma) if isinstance(rest, np.ndarray) else rest
    bars = [*estimates.varying, *estimates.random]
    network, scale = network_of(estimates), estimates.networks.scale
    effects = [
        np.vstack([bar.effects, np.zeros((own.added, bar.effects.shape[1]))])
        for bar, own in zip(bars, fresh, strict=True)
    ]
    count = len(estimates.varying)
    cells = cells_of([own.codes for own in fresh[:count]])
    prepared, at = network.module.prepare(inputs), torch.from_numpy(cells.codes.astype(np.int64))

    def eta_of(these: list[FloatArray]) -> FloatArray:
        return deviations(estimates.varying, these[:count], cells.levels, estimates.selected.size)

    def ordinary(these: list[FloatArray]) -> FloatArray:
        parts = [
            (own.columns * mine[own.codes]).sum(1)
            for own, mine in zip(fresh, these, strict=True)
            if own.columns is not None
        ]
        return np.asarray(sum(parts, np.zeros(len(inputs))))

    def misfit(these: list[FloatArray]) -> float:
        return response.misfit(ordinary(these) + _values(network, scale, inputs, eta_of(these), cells.codes))

    for _ in range(STEPS):
        f, J = (
            scale * each.double().numpy()
            for each in network.jacobian(prepared, torch.from_numpy(eta_of(effects)).float(), at)
        )
        predictor = ordinary(effects) + f
        errors, weights = response.working(predictor)
        found = _solved(estimates.sigma, bars, fresh, effects, errors, np.asarray(J), weights)
        steps = [new - old for (new, _), old in zip(found, _new_rows(effects, fresh), strict=True)]
        before, length = response.misfit(predictor), 1.0
        while not (estimates.selected.linear and response.is_number) and length > 0.1:
            if misfit(_moved(effects, steps, length)) <= before + 2.0:
                break
            length /= 2
        effects = _moved(effects, steps, length)
        largest = max((np.abs(each).max() for each in _new_rows(effects, fresh) if each.size), default=0.0)
        if max((np.abs(each).max() for each in steps if each.size), default=0.0) * length <= ENOUGH * largest:
            break
    return [(new, variance) for new, (_, variance) in zip(_new_rows(effects, fresh), found, strict=True)]


def _new_rows(effects: Sequence[FloatArray], fresh: Sequence[Fresh]) -> list[FloatArray]:
    """Effects of the new levels."""
    return [each[len(each) - own.added :] for each, own in zip(effects, fresh, strict=True)]


def _moved(effects: Sequence[FloatArray], steps: Sequence[FloatArray], length: float) -> list[FloatArray]:
    """Effects with those of the new levels moved."""
    out = []
    for each, step in zip(effects, steps, strict=True):
        moved = each.copy()
        moved[len(each) - len(step) :] += length * step
        out.append(moved)
    return out


def _solved(
    sigma: float,
    bars: Sequence[BarEstimates],
    fresh: Sequence[Fresh],
    effects: Sequence[FloatArray],
    errors: FloatArray,
    J: FloatArray,
    weights: FloatArray | None,
) -> list[tuple[FloatArray, FloatArray]]:
    """Modes and variances of the new levels in the linearised model."""
    terms, work, n = [], errors.copy(), len(errors)
    for k, (bar, own, mine) in enumerate(zip(bars, fresh, effects, strict=True)):
        if not own.added:
            continue
        q = len(mine) - own.added
        is_new = own.codes >= q
        natural = J[:, bar.places] if own.columns is None else own.columns
        natural = np.where(is_new[:, None], natural, 0.0)
        work += (natural * mine[own.codes]).sum(1)
        spherical = natural * bar.factor if bar.factor.ndim == 1 else natural @ bar.factor
        codes = np.where(is_new, own.codes - q, 0).astype(np.int32)
        names = tuple(map(str, range(spherical.shape[1])))
        terms.append(RandomTerm(f"bar {k}", codes, np.arange(own.added), spherical, names))
    theta = [np.eye(term.width)[structure("us").positions(term.width)] / sigma for term in terms]
    found = expected(Design(work, np.empty((n, 0)), (), tuple(terms), weights), np.concatenate(theta))
    solved, out = iter(zip(found.b, found.variances, strict=True)), []
    for bar, own in zip(bars, fresh, strict=True):
        if not own.added:
            out.append((np.empty((0, bar.effects.shape[1])), np.empty((0, *bar.variances.shape[1:]))))
            continue
        scores, spread = next(solved)
        L = np.diag(bar.factor) if bar.factor.ndim == 1 else bar.factor
        variance = (sigma / found.sigma) ** 2 * (L @ spread @ L.T)
        out.append((scores @ L.T, variance if bar.variances.ndim == 3 else np.einsum("qdd->qd", variance)))
    return out
