"""Networks that vary by group in the file of a fit: arrays and JSON-able data, no code."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
from pylmernn.engines.nme_model import HeldOut
from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_several_bars import BarEstimates
from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates
from pylmernn.engines.nme_several_variance import SeveralRows
from pylmernn.engines.nme_variance import GroupRows
from pylmernn.engines.nme_working import is_generalized
from pylmernn.families import Family
from pylmernn.fit.save import named_family
from pylmernn.mean.varying import Selected

if TYPE_CHECKING:
    from pylmernn.fit.save import Parts

BAR = ("effects", "variances", "factor", "places")
ARRAYS = ("beta", "fixed_covariance", "effects", "variances", "factor", "fitted")


def put_varying(parts: Parts, e: VaryingEstimates | SeveralEstimates) -> dict[str, Any]:
    """Keep the arrays of estimates; returns the rest, but for the networks, as JSON-able data."""
    if isinstance(e, SeveralEstimates):
        return _put_several(parts, e)
    for name in ARRAYS:
        parts.put(f"estimates.{name}", getattr(e, name))
    parts.put("estimates.numbers", np.array([e.sigma, e.objective]))  # exact, unlike decimal text
    parts.put("estimates.gradient", e.convergence.gradient)
    convergence = {name: getattr(e.convergence, name) for name in ("converged", "n_evaluations", "message", "seconds")}
    return {
        "method": e.method,
        "REML": e.REML,
        "exact": e.exact,
        "selected": dataclasses.asdict(e.selected),
        "convergence": convergence,
        "generalized": _put_family(parts, e),
        "held_out": None if e.held_out is None else dataclasses.asdict(e.held_out),
    }


def _put_family(parts: Parts, e: Any) -> dict[str, Any] | None:
    """What a family adds to estimates; None without one."""
    if not is_generalized(e):
        return None
    parts.put("estimates.phi", np.atleast_1d(e.phi))
    return {"family": str(e.family), "several": bool(np.ndim(e.phi)), "classes": e.classes}


def _get_family(parts: Parts, kept: dict[str, Any], family: Family | None) -> dict[str, Any]:
    """Fields of estimates that :func:`_put_family` kept."""
    phi = parts.arrays["estimates.phi"]
    return {
        "family": named_family(kept["family"], family),
        "phi": phi if kept["several"] else float(phi[0]),
        "classes": tuple(kept["classes"]),
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


def _put_several(parts: Parts, e: SeveralEstimates) -> dict[str, Any]:
    for name in ("beta", "fixed_covariance", "fitted"):
        parts.put(f"estimates.{name}", getattr(e, name))
    parts.put("estimates.numbers", np.array([e.sigma, e.objective]))
    parts.put("estimates.gradient", e.convergence.gradient)
    for kind, bars in (("varying", e.varying), ("random", e.random)):
        for k, bar in enumerate(bars):
            for name in BAR:
                parts.put(f"estimates.{kind}.{k}.{name}", getattr(bar, name))
    return {
        **{name: getattr(e, name) for name in ("method", "REML", "exact")},
        "selected": dataclasses.asdict(e.selected),
        "convergence": {
            name: getattr(e.convergence, name) for name in ("converged", "n_evaluations", "message", "seconds")
        },
        "bars": [len(e.varying), len(e.random)],
        "generalized": _put_family(parts, e),
    }


def _get_several(parts: Parts, meta: dict[str, Any], networks: Any, family: Family | None) -> SeveralEstimates:
    sigma, objective = parts.arrays["estimates.numbers"].tolist()
    varying, random = (
        tuple(
            BarEstimates(**{name: parts.arrays.get(f"estimates.{kind}.{k}.{name}") for name in BAR})  # type: ignore[arg-type]
            for k in range(count)
        )
        for kind, count in zip(("varying", "random"), meta["bars"], strict=True)
    )
    generalized = meta.get("generalized")
    kind, more = SeveralEstimates, {}
    if generalized is not None:
        kind, more = SeveralGeneralizedEstimates, _get_family(parts, generalized, family)
    return kind(
        **{name: meta[name] for name in ("method", "REML", "exact")},
        **more,
        beta=parts.arrays["estimates.beta"],
        fixed_covariance=parts.arrays.get("estimates.fixed_covariance"),
        sigma=sigma,
        networks=networks,
        selected=get_selected(meta["selected"]),
        varying=varying,
        random=random,
        fitted=parts.arrays["estimates.fitted"],
        objective=objective,
        convergence=Convergence(gradient=parts.arrays["estimates.gradient"], **meta["convergence"]),
    )


def get_varying(
    parts: Parts, meta: dict[str, Any], networks: Any, family: Family | None
) -> VaryingEstimates | SeveralEstimates:
    """Estimates that :func:`put_varying` kept, with their networks."""
    if "bars" in meta:
        return _get_several(parts, meta, networks, family)
    sigma, objective = parts.arrays["estimates.numbers"].tolist()
    given: dict[str, Any] = {
        **{name: parts.arrays.get(f"estimates.{name}") for name in ARRAYS},
        **{name: meta[name] for name in ("method", "REML", "exact")},
        "sigma": sigma,
        "objective": objective,
        "networks": networks,
        "selected": get_selected(meta["selected"]),
        "convergence": Convergence(gradient=parts.arrays["estimates.gradient"], **meta["convergence"]),
        "held_out": HeldOut(**meta["held_out"]) if meta.get("held_out") else None,
    }
    generalized = meta["generalized"]
    if generalized is None:
        return VaryingEstimates(**given)
    return GeneralizedVaryingEstimates(**given, **_get_family(parts, generalized, family))


def put_added(parts: Parts, added: GroupRows | SeveralRows | None) -> None:
    """Keep the rows from which groups were learnt after the fit, if there are any."""
    if added is None:
        return
    for field in dataclasses.fields(added):
        own = getattr(added, field.name)
        for k, each in enumerate(own if isinstance(own, tuple) else ()):
            parts.put(f"added.{field.name}.{k}", each)
        if not isinstance(own, tuple):
            parts.put(f"added.{field.name}", own)


def get_added(parts: Parts) -> GroupRows | SeveralRows | None:
    """Rows that :func:`put_added` kept."""
    names = [field.name for field in dataclasses.fields(GroupRows)]
    if "added.codes.0" in parts.arrays:
        kept: dict[str, Any] = {name: parts.arrays[f"added.{name}"] for name in ("X", "inputs", "weights")}
        for name in ("codes", "columns"):
            count = sum(key.startswith(f"added.{name}.") for key in parts.arrays)
            kept[name] = tuple(parts.arrays[f"added.{name}.{k}"] for k in range(count))
        return SeveralRows(**kept)
    if f"added.{names[0]}" not in parts.arrays:
        return None
    return GroupRows(**{name: parts.arrays[f"added.{name}"] for name in names})
