"""Networks that vary by group in the file of a fit: arrays and JSON-able data, no code."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.families import Family
from pylmernn.fit.save import named_family
from pylmernn.mean.varying import Selected

if TYPE_CHECKING:
    from pylmernn.fit.save import Parts

ARRAYS = ("beta", "fixed_covariance", "effects", "variances", "factor", "fitted")


def put_varying(parts: Parts, e: VaryingEstimates) -> dict[str, Any]:
    """Keep the arrays of estimates; returns the rest, but for the networks, as JSON-able data."""
    for name in ARRAYS:
        parts.put(f"estimates.{name}", getattr(e, name))
    parts.put("estimates.numbers", np.array([e.sigma, e.objective]))  # exact, unlike decimal text
    parts.put("estimates.gradient", e.convergence.gradient)
    convergence = {name: getattr(e.convergence, name) for name in ("converged", "n_evaluations", "message", "seconds")}
    generalized = None
    if isinstance(e, GeneralizedVaryingEstimates):
        parts.put("estimates.phi", np.atleast_1d(e.phi))
        generalized = {"family": str(e.family), "several": bool(np.ndim(e.phi)), "classes": e.classes}
    return {
        "method": e.method,
        "REML": e.REML,
        "exact": e.exact,
        "selected": dataclasses.asdict(e.selected),
        "convergence": convergence,
        "generalized": generalized,
    }


def get_selected(meta: dict[str, Any]) -> Selected:
    """What varies of a network, of which JSON has made lists."""
    return Selected(
        tuple(meta["names"]),
        tuple(tuple(shape) for shape in meta["shapes"]),
        tuple(meta["labels"]),
        tuple(meta["layers"]),
        meta["linear"],
    )


def get_varying(parts: Parts, meta: dict[str, Any], networks: Any, family: Family | None) -> VaryingEstimates:
    """Estimates that :func:`put_varying` kept, with their networks."""
    sigma, objective = parts.arrays["estimates.numbers"].tolist()
    given: dict[str, Any] = {
        **{name: parts.arrays.get(f"estimates.{name}") for name in ARRAYS},
        **{name: meta[name] for name in ("method", "REML", "exact")},
        "sigma": sigma,
        "objective": objective,
        "networks": networks,
        "selected": get_selected(meta["selected"]),
        "convergence": Convergence(gradient=parts.arrays["estimates.gradient"], **meta["convergence"]),
    }
    generalized = meta["generalized"]
    if generalized is None:
        return VaryingEstimates(**given)
    phi = parts.arrays["estimates.phi"]
    return GeneralizedVaryingEstimates(
        **given,
        family=named_family(generalized["family"], family),
        phi=phi if generalized["several"] else float(phi[0]),
        classes=tuple(generalized["classes"]),
    )
