"""The methods by which a model can be estimated: a new one is a new file and a line in ``METHODS``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from pylmernn.engines import alternating, exact, iterative, profiled, vecchiafit
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.formula.design import Design


def _later(engine: str) -> Callable[..., Estimates]:
    """The fit of an engine that needs torch, which is imported when it is first called."""

    def fit(design: Design, *arguments: Any, **settings: Any) -> Estimates:
        found: Estimates = importlib.import_module(f"pylmernn.engines.{engine}").fit(design, *arguments, **settings)
        return found

    return fit


METHODS: dict[str, Callable[..., Estimates]] = {
    "profiled": exact.fit,
    "iterative": iterative.fit,
    "vecchia": vecchiafit.fit,
    "alternating": alternating.fit,
    "lmmnn": _later("lmmnn"),
    "menets": _later("menets"),
}
#: those that train networks
NETWORK_METHODS = ("alternating", "lmmnn", "menets")


def choose_method(design: Design, control: Control | None = None) -> str:
    """What ``method="auto"`` means.

    "lmmnn" with ``embed(lon, lat)``, else "alternating" with networks, else exact unless more than ``dense_limit``
    random effects, or locations of a ``gp()``, would have to be factored together.

    Parameters
    ----------
    design : Design
    control : Control, optional

    Returns
    -------
    str
        ``"alternating"``, ``"lmmnn"``, ``"profiled"``, ``"iterative"`` or ``"vecchia"``.
    """
    if any(t.covariance == "embed" and t.locations is not None for t in design.random):
        return "lmmnn"
    if design.nets:
        return "alternating"
    if exact.has_fields(design):
        return "vecchia" if exact.wants_vecchia(design, control or Control()) else "profiled"
    control = control or Control()
    plan = profiled.layout(design.random)
    sizes = [design.random[t[0]].n_levels * sum(design.random[i].width for i in t) for t in plan.factors]
    if sum(sizes[1:]) <= control.dense_limit:
        return "profiled"
    return "profiled" if _largest_component(design, plan) <= control.dense_limit else "iterative"


def _largest_component(design: Design, plan: profiled.Layout) -> int:
    """Random effects of the rest in the largest set of levels that rows tie together."""
    terms = [design.random[t[0]] for t in plan.factors]
    start = np.cumsum([0, *(term.n_levels for term in terms)])
    width = [sum(design.random[i].width for i in t) for t in plan.factors]
    rows = np.concatenate([terms[0].codes.astype(np.int64)] * (len(terms) - 1))
    columns = np.concatenate([start[k] + terms[k].codes for k in range(1, len(terms))])
    graph = sp.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(start[-1], start[-1])).tocsr()
    _, labels = sp.csgraph.connected_components(graph, directed=False)
    weight = np.repeat([0, *width[1:]], [term.n_levels for term in terms])
    return int(np.bincount(labels, weights=weight).max())
