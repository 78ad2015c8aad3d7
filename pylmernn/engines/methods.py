"""The methods by which a model can be estimated: a new one is a new file and a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from pylmernn.engines import alternating, exact, iterative, profiled
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.formula.design import Design

METHODS: dict[str, Callable[..., Estimates]] = {
    "profiled": exact.fit,
    "iterative": iterative.fit,
    "alternating": alternating.fit,
}


def choose_method(design: Design, control: Control | None = None) -> str:
    """What ``method="auto"`` means: alternating with networks, else exact unless the rest is beyond ``dense_limit``.

    Parameters
    ----------
    design : Design
    control : Control, optional

    Returns
    -------
    str
        ``"alternating"``, ``"profiled"`` or ``"iterative"``.
    """
    if design.nets:
        return "alternating"
    if exact.has_fields(design):
        return "profiled"
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
