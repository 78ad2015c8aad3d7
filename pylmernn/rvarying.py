"""The Python half of the R door for networks that vary by group; see :mod:`pylmernn.rdoor`.

What needs torch is imported where it is used: linear models go through the same door.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.formula.design import Design
from pylmernn.rprotocol import CONVERGED, Reader, read_networks
from pylmernn.rreplies import Reply, answer, send_networks, send_search

if TYPE_CHECKING:
    from pylmernn.engines.nme import VaryingEstimates

SHOWN = 12  # parameters that vary up to which their variances are a text


def send_varying(formula: str, design: Design, estimates: VaryingEstimates) -> Reply:
    """What a fit of a network that varies by group replies.

    The header has labels and layers of what varies, ``shape`` of the factor (one number for a diagonal covariance
    matrix), and the texts of the fit and of its variances; the arrays are beta, theta_bar, effects (q, D), variances
    (q, D, D) or (q, D), factor, fitted (n,) and those of the network.
    """
    from pylmernn.fit.varying import VaryingFit

    frame: Any = SimpleNamespace(formula=formula)  # data frames and what reads them stay in R
    fit = VaryingFit(design, estimates, frame, {})
    header, arrays = send_search([], design, estimates.method, estimates.convergence)
    header["networks"], kept = send_networks(estimates.networks, design)
    header |= {
        "sigma": estimates.sigma,
        "objective": estimates.objective,
        "REML": estimates.REML,
        "exact": estimates.exact,
        "labels": estimates.selected.labels,
        "layers": estimates.selected.layers,
        "n_variances": estimates.n_variances,
        "shape": estimates.factor.shape,
        "text": fit.summary().splitlines(),
        "variances_text": str(fit.VarCorr()).splitlines() if estimates.selected.size <= SHOWN else [],
    }
    arrays |= {
        "beta": estimates.beta,
        "theta_bar": fit.fixef().to_numpy()[design.p :],
        "effects": estimates.effects,
        "variances": estimates.variances,
        "factor": estimates.factor,
        "fitted": estimates.fitted,
    }
    if estimates.fixed_covariance is not None:
        arrays["fixed_covariance"] = estimates.fixed_covariance
    return header, arrays | kept


def read_varying(meta: Mapping[str, Any], read: Reader) -> VaryingEstimates:
    """What predictions need of a fit.

    ``meta`` has ``networks`` (see :func:`~pylmernn.rprotocol.read_networks`), ``selector``, ``label`` and
    ``input_names`` of the bar, ``n_levels``, ``shape`` of the factor, ``sigma``, and ``in_full``: whether posterior
    variances are matrices. The buffers are those of the network, the factor, then the effects (q, D).
    """
    from pylmernn.engines.nme import VaryingEstimates
    from pylmernn.mean.networks import build
    from pylmernn.mean.varying import select

    networks = read_networks(meta["networks"], read)
    module = build(networks.specs[0], networks.members[0][0])
    selected = select(module, meta["selector"], meta["label"], meta["input_names"])
    q, size = meta["n_levels"], selected.size
    factor = read.array(tuple(meta["shape"]))
    return VaryingEstimates(
        method="nme",
        REML=False,
        beta=np.empty(0),
        fixed_covariance=None,
        sigma=meta["sigma"],
        networks=networks,
        selected=selected,
        effects=np.ascontiguousarray(read.matrix(q, size)),
        variances=np.empty((0, size, size) if meta["in_full"] else (0, size)),
        factor=np.ascontiguousarray(factor),
        fitted=networks.fitted,
        objective=np.nan,
        exact=False,
        convergence=CONVERGED,
    )


@answer
def varying_values(meta: dict[str, Any], read: Reader) -> Reply:
    """The network's part of ``meta["rows"]`` new rows, generic where a group is not known (code -1).

    There it is the mean over ``meta["average"]`` draws of deviations, by ``meta["seed"]``, where that is not 0. After
    the fit (see :func:`read_varying`) come the codes, then the inputs.
    """
    from pylmernn.engines.nme_predict import averaged, values

    estimates = read_varying(meta, read)
    codes, inputs = read.integers(), np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    found = values(estimates, inputs, codes)
    unknown = codes < 0
    if meta["average"] and unknown.any():
        found[unknown] = averaged(estimates, inputs[unknown], meta["average"], meta["seed"])
    return {}, {"values": found}


@answer
def update_varying(meta: dict[str, Any], read: Reader) -> Reply:
    """Deviations of ``meta["q"]`` groups from ``meta["rows"]`` rows of theirs: effects (q, D) and their variances.

    After the fit (see :func:`read_varying`) come the codes, the inputs, then the response less offset and ``X beta``.
    """
    from pylmernn.engines.nme_predict import new_effects

    estimates = read_varying(meta, read)
    codes, inputs = read.integers(), np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    effects, variances = new_effects(estimates, inputs, read.vector().copy(), codes, meta["q"])
    return {}, {"effects": effects, "variances": variances}
