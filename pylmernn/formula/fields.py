"""``gp(lon, lat)`` and ``embed(lon, lat)`` in a formula: which columns are coordinates, and the distinct locations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.formula.design import DesignError, FloatArray, NewTerm, RandomTerm
from pylmernn.formula.formula import Formula
from pylmernn.formula.nodes import Call, Node, String, deparse
from pylmernn.formula.options import literal
from pylmernn.formula.values import Factor, Value

#: correlation functions by name, as brms spells them; pylmernn.covariance.kernels has their formulas
COVARIANCES = ("exp_quad", "matern32", "matern52", "exponential")

#: calls whose arguments are coordinates
FIELDS = ("gp", "embed")


@dataclass(frozen=True)
class FieldCall:
    """One ``gp(...)`` or ``embed(...)`` taken apart.

    Attributes
    ----------
    label : str
        The term as written.
    group : str
        Its name without options, ``"gp(lon, lat)"``.
    inputs : dict of Node
        The expressions of its coordinates, by their text.
    covariance : str
        ``"gp"`` or ``"embed"``.
    options : dict
        ``{"cov": "exp_quad"}``, or ``{"dim": 100, "hidden": (100, 100)}``.
    """

    label: str
    group: str
    inputs: dict[str, Node]
    covariance: str
    options: dict[str, Any]


def read_fields(formula: Formula) -> tuple[FieldCall, ...]:
    """The Gaussian processes and learned fields of a formula.

    Raises
    ------
    DesignError
        For a field without coordinates, an unknown option or correlation function, or one written twice.
    """
    calls = tuple(_read(call) for call in formula.specials if call.function in FIELDS)
    groups = [call.group for call in calls]
    for group in groups:
        if groups.count(group) > 1:
            raise DesignError(f"{group} stands in the formula twice: its two fields cannot be told apart.")
    return calls


def _read(call: Call) -> FieldCall:
    label = deparse(call)
    coordinates = {deparse(a.value): a.value for a in call.arguments if a.name is None}
    if not coordinates:
        raise DesignError(f"{label}: name the columns of the coordinates, {call.function}(lon, lat).")
    group = f"{call.function}({', '.join(coordinates)})"
    given = {a.name: a.value for a in call.arguments if a.name is not None}
    if call.function == "embed":
        return FieldCall(label, group, coordinates, "embed", embed_options(given, label, ("dim", "hidden")))
    unknown = sorted(set(given) - {"cov"})
    if unknown:
        raise DesignError(f"{label}: unknown option '{unknown[0]}'; gp() takes cov.")
    value = given.get("cov", String("exp_quad"))
    cov = value.value if isinstance(value, String) else deparse(value)
    if cov not in COVARIANCES:
        raise DesignError(f"{label}: cov is {deparse(value)}; use one of {', '.join(COVARIANCES)}.")
    return FieldCall(label, group, coordinates, "gp", {"cov": cov})


def embed_options(given: Mapping[str, Node], label: str, names: Sequence[str]) -> dict[str, Any]:
    """The options of ``embed(...)`` as plain values.

    Parameters
    ----------
    given : mapping
        Arguments by name.
    label : str
    names : sequence of str
        Those that exist: dim for a factor, dim and hidden for coordinates.
    """
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise DesignError(f"{label}: unknown option '{unknown[0]}'; embed() takes {' and '.join(names)} here.")
    options = {name: literal(value, label) for name, value in given.items()}
    sizes = [("dim", options.get("dim", 1))]
    hidden = options.get("hidden", ())
    sizes += [("hidden", units) for units in (hidden if isinstance(hidden, tuple) else (hidden,))]
    for name, size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise DesignError(f"{label}: {name} holds {size}; it takes whole numbers of at least 1.")
    return options


def coordinates_of(call: FieldCall, values: Mapping[str, Value]) -> FloatArray:
    """The coordinates of every row, (n, k)."""
    columns = []
    for name in call.inputs:
        value = values[name]
        if isinstance(value, Factor):
            raise DesignError(f"{call.label}: the coordinate '{name}' is text or a factor; coordinates are numbers.")
        columns.append(value.values.reshape(len(value), -1))
    return np.hstack(columns)


def distinct_locations(coordinates: FloatArray) -> tuple[NDArray[np.int32], FloatArray, NDArray[Any]]:
    """Codes (n,), distinct locations (q, k) in lexicographic order, and their names (q,)."""
    locations, codes = np.unique(coordinates, axis=0, return_inverse=True)
    return codes.ravel().astype(np.int32), locations, location_names(locations)


def location_names(locations: FloatArray) -> NDArray[Any]:
    """``"12.5, -3"`` for each row (q, k)."""
    return np.array([", ".join(f"{value:.15g}" for value in row) for row in locations.tolist()], dtype=object)


def field_term(call: FieldCall, values: Mapping[str, Value]) -> RandomTerm:
    """The random term of a field: its levels are the distinct locations."""
    coordinates = coordinates_of(call, values)
    codes, locations, names = distinct_locations(coordinates)
    return RandomTerm(
        group=call.group,
        codes=codes,
        levels=names,
        columns=np.ones((len(codes), 1)),
        column_names=(call.options.get("cov", "(Intercept)"),),
        covariance=call.covariance,
        label=call.label,
        locations=locations,
        options=call.options,
    )


def new_field_term(call: FieldCall, term: RandomTerm, values: Mapping[str, Value]) -> NewTerm:
    """The term for new rows: code -1 where a location is new, coordinates for all."""
    coordinates = coordinates_of(call, values)
    return NewTerm(known_locations(term, coordinates), np.ones((len(coordinates), 1)), (), coordinates)


def known_locations(term: RandomTerm, coordinates: FloatArray) -> NDArray[np.int32]:
    """Which location of the fit each row is at, (m,); -1 for none."""
    assert term.locations is not None
    q = term.n_levels
    both = np.concatenate([term.locations, np.nan_to_num(coordinates, nan=np.inf)])
    identity = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    place = np.full(identity.max() + 1, -1, dtype=np.int32)
    place[identity[:q]] = np.arange(q)
    return place[identity[q:]]
