"""The methods by which a generalized model can be estimated: a new one is a new file and a line below."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pylmernn.engines import pirls
from pylmernn.engines.alternating_generalized import laplace_is_biased
from pylmernn.engines.control import Control
from pylmernn.engines.exact import factored_together
from pylmernn.families import Family
from pylmernn.formula.design import Design, DesignError

#: random effects in a dense factor that may be computed several times an epoch
DENSE_ENOUGH = 1500

Callback = Callable[[int, float], None]


def _later(engine: str) -> Callable[..., Any]:
    """The fit of an engine that needs torch, which is imported when it is first called."""

    def fit(
        design: Design, family: Family, nAGQ: int, control: Control | None = None, callback: Callback | None = None
    ) -> Any:
        return importlib.import_module(f"pylmernn.engines.{engine}").fit(design, family, nAGQ, control, callback)

    return fit


GENERALIZED_METHODS: dict[str, Callable[..., Any]] = {
    "pirls": pirls.fit,
    "alternating": _later("alternating_generalized"),
    "lmmnn": _later("lmmnn_generalized"),
    "mcem": _later("mcem"),
    "nme": _later("nme_generalized"),
}
#: those that train networks; "mcem" also fits models without
NETWORK_METHODS = ("alternating", "lmmnn", "mcem", "nme")


def choose_method(design: Design, family: Family, dense_limit: int = Control.dense_limit) -> str:
    """What ``method="auto"`` means.

    "nme" where a network varies by group; "mcem" for several classes, for factors that are too large to be factored
    together (with networks: again and again), and with networks beside factors that have few binary rows a level; else
    "alternating" with networks and "pirls" without.
    """
    if design.varying:
        return "nme"
    if family.name == "multinomial":
        return "mcem"
    if not design.nets:
        return "pirls" if factored_together(design, dense_limit) <= dense_limit else "mcem"
    if laplace_is_biased(design, family) or factored_together(design, DENSE_ENOUGH) > DENSE_ENOUGH:
        return "mcem"
    return "alternating"


def method_for(design: Design, family: Family, method: str, dense_limit: int = Control.dense_limit) -> str:
    """The method asked for, or the one that suits.

    ``dense_limit`` is the largest number of random effects that may be factored together; see :class:`Control`.

    Raises
    ------
    DesignError
        For a method that is not known or cannot fit this model.
    """
    if method not in ("auto", *GENERALIZED_METHODS):
        raise DesignError(f"method is '{method}': use one of auto, {', '.join(GENERALIZED_METHODS)}.")
    if method == "auto":
        return choose_method(design, family, dense_limit)
    if design.varying and method != "nme":
        raise DesignError(f"{design.varying[0].label}: only method 'nme' lets a network vary by group, not '{method}'.")
    if method == "nme" and not design.varying:
        raise DesignError("method 'nme' is for networks that vary by group: add a bar such as (nn.last | person).")
    if family.name == "multinomial" and not design.varying and method != "mcem":
        raise DesignError(f"method '{method}' fits no multinomial models: use method='mcem'.")
    if design.nets and method not in NETWORK_METHODS:
        raise DesignError(f"method '{method}' fits no networks: use method='alternating', or take nn() out.")
    if not design.nets and method in ("alternating", "lmmnn"):
        raise DesignError(f"method '{method}' is for networks: add a term such as nn(x1, x2), or use method='auto'.")
    if method in ("pirls", "alternating"):
        together = factored_together(design, dense_limit)
        if together > dense_limit:
            raise DesignError(
                f"method '{method}' would factor {together:,} random effects of crossed factors together, and "
                f"dense_limit is {dense_limit:,}: use method='mcem'."
            )
    return method
