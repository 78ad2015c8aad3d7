"""The methods by which a model can be estimated: a new one is a new file and a line in ``METHODS``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pylmernn.engines import alternating, exact, iterative, vecchiafit
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
    "nme": _later("nme"),
}
#: those that train networks
NETWORK_METHODS = ("alternating", "lmmnn", "menets", "nme")


def choose_method(design: Design, control: Control | None = None) -> str:
    """What ``method="auto"`` means.

    "lmmnn" with ``embed(lon, lat)``, "nme" where a network varies by group, else "alternating" with networks, else
    exact unless more than ``dense_limit`` random effects, or locations of a ``gp()``, would have to be factored
    together.

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
    if design.varying:
        return "nme"
    if design.nets:
        return "alternating"
    if exact.has_fields(design):
        return "vecchia" if exact.wants_vecchia(design, control or Control()) else "profiled"
    control = control or Control()
    return "iterative" if exact.factored_together(design, control.dense_limit) > control.dense_limit else "profiled"
