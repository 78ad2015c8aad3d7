"""The cells of the paper's Tables 1 to 5: how each is simulated, modelled, and what its parameters are called."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from generators import PREDICTORS, Simulation, categorical, longitudinal, spatial, spatial_categorical
from tasks import Task

NETWORK = f"nn({', '.join(PREDICTORS)})"
LINEAR = " + ".join(PREDICTORS)
#: random part of Table 3, and the names of its variances and correlations
SLOPES = "(t + I(t^2) | z0)"
SLOPE_NAMES = ("z0 (Intercept)", "z0 t", "z0 I(t^2)", "z0 (Intercept) t", "z0 (Intercept) I(t^2)")
FIELD_NAMES = ("gp variance", "gp length-scale squared")
VARIANCES = (0.3, 3.0)


@dataclass(frozen=True)
class Cell:
    """One row of a table.

    Attributes
    ----------
    table : int
    name : str
        As in paper.csv.
    numbers : tuple of float
        What picks it on the command line.
    simulate : callable
        ``simulate(seed=, n=)`` gives a :class:`Simulation`.
    parameters : dict
        Column of paper.csv -> name among a method's estimates.
    truth : dict
        Column of paper.csv -> true value.
    """

    table: int
    name: str
    numbers: tuple[float, ...]
    simulate: Callable[..., Simulation]
    parameters: dict[str, str]
    truth: dict[str, float]


def cells(
    table: int,
    embedding: bool = False,
    aligned: bool = True,
    future: bool | None = None,
    places: int | None = None,
) -> Iterator[Cell]:
    """The rows of one of Tables 1 to 5, in the paper's order.

    ``embedding`` is g(Z) = ZW (Tables 1 and 2), ``aligned=False`` draws factors on their own (2 and 5), ``future``
    picks a half of Table 3; None is both. ``places`` is the number of places in Table 5, by default a tenth of the
    rows.
    """
    if table == 1:
        for v, q in itertools.product((0.1, 1.0, 10.0), (100, 1000, 10_000)):
            yield _categorical(1, (q,), (v,), (v, q), embedding, aligned)
    elif table == 2:
        for v in itertools.product(VARIANCES, repeat=3):
            yield _categorical(2, (1000, 2000, 3000), v, v, embedding, aligned)
    elif table == 3:
        modes = (False, True) if future is None else (future,)
        for late, v in itertools.product(modes, itertools.product(VARIANCES, repeat=3)):
            yield _longitudinal(v, late)
    elif table == 4:
        for v0, v1, q in itertools.product((0.1, 1.0, 10.0), (0.1, 1.0, 10.0), (100, 1000, 10_000)):
            yield _spatial((v0, v1), q)
    else:
        for v in itertools.product(VARIANCES, repeat=3):
            yield _spatial_categorical(v, aligned, places)


def drawn(simulation: Simulation, cell: Cell) -> dict[str, float]:
    """Empirical variances and correlations of the effects that were drawn, by column of paper.csv."""
    if cell.table == 3:
        covariance = np.cov(simulation.b[0].T)
        sd = np.sqrt(np.diag(covariance))
        found = {f"v{j}": float(covariance[j, j]) for j in range(3)}
        return found | {f"rho0{j}": float(covariance[0, j] / sd[0] / sd[j]) for j in (1, 2)}
    effects = simulation.b[1:] if cell.table == 5 else simulation.b if cell.table < 3 else ()
    return {f"v{k}": float(np.var(b)) for k, b in enumerate(effects)}


def task(cell: Cell, simulation: Simulation, time_in_network: bool = False) -> Task:
    """The cell's data and models; ``time_in_network`` gives t to the network of Table 3 too, as the paper does."""
    common = {
        "train": simulation.train,
        "test": simulation.test,
        "response": "y",
        "f": (simulation.f_train, simulation.f_test),
    }
    if cell.table < 3:
        names = [name for name, _ in simulation.intercepts]
        return Task(
            **common,
            numeric=PREDICTORS,
            groups=tuple(names),
            mean=NETWORK,
            random=" + ".join(f"(1 | {name})" for name in names),
            linear=LINEAR,
            embedded=" + ".join(
                f"embed(1 | {name}, dim={len(b) // 10})" for name, b in zip(names, simulation.b, strict=True)
            ),
        )
    if cell.table == 3:
        inputs = (*PREDICTORS, "t")
        network = f"nn({', '.join(inputs)})" if time_in_network else NETWORK
        return Task(
            **common,
            numeric=inputs,
            groups=("z0",),
            mean=f"t + I(t^2) + {network}",
            random=SLOPES,
            linear=f"{LINEAR} + t + I(t^2)",
            time="t",
            slopes=("t", "t^2"),
        )
    factors = [name for name, _ in simulation.intercepts]
    bars = "".join(f" + (1 | {name})" for name in factors)
    return Task(
        **common,
        numeric=PREDICTORS,
        groups=("z0", *factors),
        mean=NETWORK,
        random="gp(D1, D2)" + bars,
        linear=LINEAR,
        linear_random="(1 | z0)" + bars,
        embedded="embed(D1, D2, dim=1000)" + bars,
        coordinates=("D1", "D2"),
    )


def _categorical(
    table: int,
    sizes: tuple[int, ...],
    variances: tuple[float, ...],
    numbers: tuple[float, ...],
    embedding: bool,
    aligned: bool,
) -> Cell:
    level = [v * (q // 10) / 3 if embedding else v for v, q in zip(variances, sizes, strict=True)]
    return Cell(
        table,
        " ".join(["ZW" if embedding else "Z", *(f"{x:g}" for x in numbers)]),
        numbers,
        partial(categorical, sizes, variances, aligned=aligned, embedding=embedding),
        {"sigma2": "sigma2"} | {f"v{k}": f"z{k} (Intercept)" for k in range(len(sizes))},
        {"sigma2": 1.0} | {f"v{k}": v for k, v in enumerate(level)},
    )


def _longitudinal(variances: tuple[float, ...], future: bool) -> Cell:
    columns = ("v0", "v1", "v2", "rho01", "rho02")
    return Cell(
        3,
        " ".join(["future" if future else "random", *(f"{x:g}" for x in variances)]),
        variances,
        partial(_subjects, variances, future),
        {"sigma2": "sigma2"} | dict(zip(columns, SLOPE_NAMES, strict=True)),
        {"sigma2": 1.0} | dict(zip(columns, (*variances, 0.3, 0.3), strict=True)),
    )


def _spatial(variances: tuple[float, float], q: int) -> Cell:
    numbers = (*variances, q)
    return Cell(
        4,
        " ".join(f"{x:g}" for x in numbers),
        numbers,
        partial(spatial, q, variances),
        {"sigma2": "sigma2", "v0": FIELD_NAMES[0], "v1": FIELD_NAMES[1]},
        {"sigma2": 1.0, "v0": variances[0], "v1": variances[1]},
    )


def _spatial_categorical(variances: tuple[float, ...], aligned: bool, places: int | None) -> Cell:
    names = ("z1 (Intercept)", "z2 (Intercept)", *FIELD_NAMES)
    return Cell(
        5,
        " ".join(f"{x:g}" for x in variances),
        variances,
        partial(_places_and_levels, (*variances, 1.0), aligned, places),
        {"sigma2": "sigma2"} | {f"v{k}": name for k, name in enumerate(names)},
        {"sigma2": 1.0} | {f"v{k}": v for k, v in enumerate((*variances, 1.0))},
    )


def _subjects(variances: tuple[float, float, float], future: bool, seed: int, n: int) -> Simulation:
    """Ten rows a subject: fewer rows are of fewer subjects, as slopes cannot be told from noise otherwise."""
    return longitudinal(n // 10, variances, 0.3, seed, n, future)


def _places_and_levels(
    variances: tuple[float, float, float, float], aligned: bool, places: int | None, seed: int, n: int
) -> Simulation:
    """Places and levels in proportion to the rows: 10,000, 3,000 and 3,000 for 100,000."""
    levels = 3 * n // 100
    return spatial_categorical((places or n // 10, levels, levels), variances, seed, n, aligned)
