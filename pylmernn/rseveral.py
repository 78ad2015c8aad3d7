"""The Python half of the R door for networks that vary by several bars; see :mod:`pylmernn.rvarying`.

Fits travel bar by bar, those of the network first, then ordinary ones in the order of the design.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pylmernn.families import read_family
from pylmernn.formula.design import Design, FloatArray, RandomTerm
from pylmernn.rprotocol import CONVERGED, Reader, read_networks
from pylmernn.rreplies import Reply, answer, send_networks, send_search

if TYPE_CHECKING:
    from pylmernn.engines.nme_several import SeveralEstimates
    from pylmernn.engines.nme_several_bars import BarEstimates


def send_several(formula: str, design: Design, estimates: SeveralEstimates, terms: Sequence[RandomTerm]) -> Reply:
    """What a fit of a network that varies by several bars replies.

    The header has ``order`` of the ordinary bars, labels and layers of all that varies, and ``bars``: of each, named
    ``bar0``, ..., its ``places`` among them (none of an ordinary one) and ``shape`` of its factor. The arrays are beta,
    theta_bar, fitted, those of the network, and of each bar k effects (q, d), variances and factor, ``effects0``, ...
    Generalized models add family, link and phi; their ``fitted`` are linear predictors.
    """
    from pylmernn.engines.nme_working import is_generalized
    from pylmernn.fit.varying_several import SeveralFit
    from pylmernn.fit.varying_several_generalized import SeveralGeneralizedFit

    frame: Any = SimpleNamespace(formula=formula)  # data frames and what reads them stay in R
    kind: Any = SeveralGeneralizedFit if is_generalized(estimates) else SeveralFit
    fit = kind(design, estimates, frame, {})
    header, arrays = send_search(terms, design, estimates.method, estimates.convergence)
    header["networks"], kept = send_networks(estimates.networks, design)
    bars = [*estimates.varying, *estimates.random]
    header |= {
        "sigma": estimates.sigma,
        "objective": estimates.objective,
        "REML": estimates.REML,
        "exact": estimates.exact,
        "labels": estimates.selected.labels,
        "layers": estimates.selected.layers,
        "df": fit.logLik().df,
        "bars": {
            f"bar{k}": {"shape": list(bar.factor.shape), "places": [] if bar.places is None else bar.places.tolist()}
            for k, bar in enumerate(bars)
        },
        "text": fit.summary().splitlines(),
        "variances_text": str(fit.VarCorr()).splitlines() if _is_short(fit) else [],
    }
    arrays |= {
        "beta": estimates.beta,
        "theta_bar": fit.fixef().to_numpy()[len(estimates.beta) :],
        "fitted": estimates.fitted,
    }
    for k, bar in enumerate(bars):
        arrays |= {f"effects{k}": bar.effects, f"variances{k}": bar.variances, f"factor{k}": bar.factor}
    if estimates.fixed_covariance is not None:
        arrays["fixed_covariance"] = estimates.fixed_covariance
    if is_generalized(estimates):
        generalized: Any = estimates
        header |= {"family": generalized.family.name, "link": generalized.family.link.name}
        arrays["phi"] = np.atleast_1d(generalized.phi)
    return header, arrays | kept


def _is_short(fit: Any) -> bool:
    from pylmernn.fit.varying_text import SHOWN

    return all(len(term.columns) <= SHOWN for term in fit.VarCorr().terms)


def read_several(meta: Mapping[str, Any], read: Reader) -> SeveralEstimates:
    """What predictions need of a fit.

    ``meta`` has ``networks``, ``sigma``, ``input_names`` and ``bars``: of each ``label`` and ``selector`` (none of an
    ordinary one), ``n_levels``, ``width``, ``shape`` of the factor and ``in_full``. The buffers are those of the
    network, then factor and effects (q, d) of each bar, and phi where ``meta["family"]`` says that the model is
    generalized.
    """
    from pylmernn.engines.nme_several import SeveralEstimates
    from pylmernn.engines.nme_several_generalized import SeveralGeneralizedEstimates
    from pylmernn.mean.networks import build
    from pylmernn.mean.varying import select, union

    networks = read_networks(meta["networks"], read)
    module = build(networks.specs[0], networks.members[0][0])
    names = meta["input_names"]
    chosen = [
        select(module, bar["selector"], bar["label"], names) for bar in meta["bars"] if bar.get("selector") is not None
    ]
    selected = union(module, chosen, names)
    bars = [_read_bar(bar, read) for bar in meta["bars"]]
    varying = tuple(_with_places(bar, np.array(selected.places(own))) for bar, own in zip(bars, chosen, strict=False))
    kind: Any = SeveralEstimates
    more: dict[str, Any] = {}
    if meta.get("family"):
        family, phi = read_family(meta["family"]), read.vector().copy()
        more = {"family": family, "phi": phi if family.absorbs_constant else float(phi[0])}
        kind = SeveralGeneralizedEstimates
    found: SeveralEstimates = kind(
        **more,
        method="nme",
        REML=False,
        beta=np.empty(0),
        fixed_covariance=None,
        sigma=meta["sigma"],
        networks=networks,
        selected=selected,
        varying=varying,
        random=tuple(bars[len(varying) :]),
        fitted=networks.fitted,
        objective=np.nan,
        exact=False,
        convergence=CONVERGED,
    )
    return found


def _read_bar(meta: Mapping[str, Any], read: Reader) -> BarEstimates:
    from pylmernn.engines.nme_several_bars import BarEstimates

    factor = np.ascontiguousarray(read.array(tuple(meta["shape"])))
    q, d = meta["n_levels"], meta["width"]
    effects = np.ascontiguousarray(read.matrix(q, d))
    return BarEstimates(effects, np.zeros((q, d, d) if meta["in_full"] else (q, d)), factor)


def _with_places(bar: BarEstimates, places: Any) -> BarEstimates:
    return dataclasses.replace(bar, places=places)


@answer
def several_values(meta: dict[str, Any], read: Reader) -> Reply:
    """The network's part of ``meta["rows"]`` new rows, with the levels of each bar of the network, -1 for none.

    It is the mean over ``meta["average"]`` draws of the deviations of levels that are not known, by ``meta["seed"]``,
    where that is not 0. After the fit (see :func:`read_several`) come the codes of each bar, then the inputs.
    """
    from pylmernn.engines.nme_several_predict import averaged, values

    estimates = read_several(meta, read)
    codes = [read.integers() for _ in estimates.varying]
    inputs = np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    if meta["average"]:
        return {}, {"values": averaged(estimates, inputs, codes, meta["average"], meta["seed"])}
    return {}, {"values": values(estimates, inputs, codes)}


@answer
def several_averages(meta: dict[str, Any], read: Reader) -> Reply:
    """Means of the response of a generalized model at ``meta["rows"]`` rows, or probabilities, over draws of effects.

    There are ``meta["average"]`` draws, by ``meta["seed"]``, of the effects of levels with code -1. After the fit (see
    :func:`read_several`) come the codes of each bar, columns of the ordinary ones, the inputs, and offset and
    ``X beta``.
    """
    from pylmernn.engines.nme_several_generalized_predict import averaged_means

    estimates: Any = read_several(meta, read)
    m, count = meta["rows"], len(estimates.varying)
    codes = [read.integers() for _ in meta["bars"]]
    columns = [np.ascontiguousarray(read.matrix(m, bar["width"])) for bar in meta["bars"][count:]]
    inputs, fixed = np.ascontiguousarray(read.matrix(m, meta["width"])), read.vector().copy()
    found = averaged_means(estimates, inputs, fixed, codes, columns, meta["average"], meta["seed"])
    return {}, {"means": found}


@answer
def update_several(meta: dict[str, Any], read: Reader) -> Reply:
    """Effects of new levels from ``meta["rows"]`` rows: ``effects0`` (q', d) and ``variances0``, ... of each bar.

    After the fit (see :func:`read_several`) come the codes of each bar, where levels from ``n_levels`` on are new,
    ``meta["added"]`` of them; then columns of the ordinary bars, the inputs, and responses less offset and ``X beta``.
    Of generalized models come responses, weights, and offset and ``X beta`` instead, and there is ``information``, what
    each row tells of its linear predictor.
    """
    from pylmernn.engines.nme_several_generalized_predict import Responses, information_with
    from pylmernn.engines.nme_several_predict import Fresh, new_effects

    estimates = read_several(meta, read)
    codes = [read.integers() for _ in meta["bars"]]
    m, count = meta["rows"], len(estimates.varying)
    columns: list[FloatArray | None] = [None] * count
    columns += [np.ascontiguousarray(read.matrix(m, bar["width"])) for bar in meta["bars"][count:]]
    inputs = np.ascontiguousarray(read.matrix(m, meta["width"]))
    fresh = [Fresh(own, added, z) for own, added, z in zip(codes, meta["added"], columns, strict=True)]
    rest: Any = read.vector().copy()
    if meta.get("family"):
        y, weights, fixed = rest, read.vector().copy(), read.vector().copy()
        rest = Responses(cast("Any", estimates), y, weights, fixed)
    found = new_effects(estimates, inputs, rest, fresh)
    arrays: dict[str, FloatArray] = {}
    if meta.get("family"):
        arrays["information"] = information_with(cast("Any", estimates), rest, inputs, fresh, found)
    for k, (effects, variances) in enumerate(found):
        arrays |= {f"effects{k}": effects, f"variances{k}": variances}
    return {}, arrays
