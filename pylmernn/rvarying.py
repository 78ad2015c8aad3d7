"""The Python half of the R door for networks that vary by group; see :mod:`pylmernn.rdoor`.

What needs torch is imported where it is used: linear models go through the same door.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.families import read_family
from pylmernn.formula.design import Design, FloatArray
from pylmernn.rprotocol import CONVERGED, Reader, read_networks
from pylmernn.rreplies import Reply, answer, send_networks, send_search

if TYPE_CHECKING:
    from pylmernn.engines.nme import VaryingEstimates

SHOWN = 12  # parameters that vary up to which their variances are a text


def send_varying(formula: str, design: Design, estimates: VaryingEstimates) -> Reply:
    """What a fit of a network that varies by group replies.

    The header has labels and layers of what varies, ``shape`` of the factor (one number for a diagonal covariance
    matrix), and the texts of the fit and of its variances; the arrays are beta (p,) or (p, C), theta_bar, effects
    (q, D), variances (q, D, D) or (q, D), factor, fitted (n,) or (n, C) and those of the network. Generalized models
    add family, link and phi; their ``fitted`` are linear predictors.
    """
    from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
    from pylmernn.fit.varying import VaryingFit
    from pylmernn.fit.varying_generalized import GeneralizedVaryingFit

    frame: Any = SimpleNamespace(formula=formula)  # data frames and what reads them stay in R
    generalized = isinstance(estimates, GeneralizedVaryingEstimates)
    fit = (GeneralizedVaryingFit if generalized else VaryingFit)(design, estimates, frame, {})
    header, arrays = send_search([], design, estimates.method, estimates.convergence)
    header["networks"], kept = send_networks(estimates.networks, design)
    header |= {
        "sigma": estimates.sigma,
        "objective": estimates.objective,
        "REML": estimates.REML,
        "exact": estimates.exact,
        "labels": estimates.selected.labels,
        "layers": estimates.selected.layers,
        "df": fit.logLik().df,
        "held_out": None if estimates.held_out is None else dataclasses.asdict(estimates.held_out),
        "shape": estimates.factor.shape,
        "text": fit.summary().splitlines(),
        "variances_text": str(fit.VarCorr()).splitlines() if estimates.selected.size <= SHOWN else [],
    }
    arrays |= {
        "beta": estimates.beta,
        "theta_bar": fit.fixef().to_numpy()[estimates.beta.size :],
        "effects": estimates.effects,
        "variances": estimates.variances,
        "factor": estimates.factor,
        "fitted": estimates.fitted,
    }
    if estimates.fixed_covariance is not None:
        arrays["fixed_covariance"] = estimates.fixed_covariance
    if isinstance(estimates, GeneralizedVaryingEstimates) and estimates.family is not None:
        header |= {"family": estimates.family.name, "link": estimates.family.link.name}
        arrays["phi"] = np.atleast_1d(estimates.phi)
    return header, arrays | kept


def read_varying(meta: Mapping[str, Any], read: Reader) -> Any:
    """What predictions need of a fit.

    ``meta`` has ``networks`` (see :func:`~pylmernn.rprotocol.read_networks`), ``selector``, ``label`` and
    ``input_names`` of the bar, ``n_levels``, ``shape`` of the factor, ``sigma``, and ``in_full``: whether posterior
    variances are matrices. The buffers are those of the network, the factor, the effects (q, D), then phi where
    ``meta["family"]`` says that the model is generalized.

    Returns
    -------
    VaryingEstimates or GeneralizedVaryingEstimates
    """
    from pylmernn.engines.nme import VaryingEstimates
    from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
    from pylmernn.mean.networks import build
    from pylmernn.mean.varying import select

    networks = read_networks(meta["networks"], read)
    module = build(networks.specs[0], networks.members[0][0])
    selected = select(module, meta["selector"], meta["label"], meta["input_names"])
    q, size = meta["n_levels"], selected.size
    factor = read.array(tuple(meta["shape"]))
    known = VaryingEstimates(
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
    if not meta.get("family"):
        return known
    family, phi = read_family(meta["family"]), read.vector()
    fields = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    return GeneralizedVaryingEstimates(**fields, family=family, phi=phi if family.absorbs_constant else float(phi[0]))


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
def varying_averages(meta: dict[str, Any], read: Reader) -> Reply:
    """Means of the response of a generalized model at rows of new groups, over ``meta["average"]`` draws.

    After the fit (see :func:`read_varying`) come the inputs of ``meta["rows"]`` rows, then their linear predictors but
    for the network, (m,) or (m, C).
    """
    from pylmernn.engines.nme_generalized_predict import averaged_means

    estimates = read_varying(meta, read)
    inputs = np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    fixed = _linear_part(meta, read, estimates.networks.specs[0].outputs)
    return {}, {"means": averaged_means(estimates, inputs, fixed, meta["average"], meta["seed"])}


def _linear_part(meta: Mapping[str, Any], read: Reader, outputs: int) -> FloatArray:
    """Linear predictors but for the network: (m,), or (m, C) of multinomial models."""
    return np.array(read.vector() if outputs == 1 else read.matrix(meta["rows"], outputs))


@answer
def update_varying(meta: dict[str, Any], read: Reader) -> Reply:
    """Deviations of ``meta["q"]`` groups from ``meta["rows"]`` rows of theirs: effects (q, D) and their variances.

    Of a generalized model with one linear predictor also ``information``, what each row tells of it.

    After the fit (see :func:`read_varying`) come the codes, the inputs, offset and ``X beta`` (m,) or (m, C), the
    responses, then the weights of generalized models.
    """
    import torch

    from pylmernn.engines import nme_generalized_predict, nme_predict
    from pylmernn.engines.nme_working import Rows

    estimates = read_varying(meta, read)
    outputs = estimates.networks.specs[0].outputs
    codes, inputs = read.integers(), np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    fixed, y, q = _linear_part(meta, read, outputs), read.vector().copy(), meta["q"]
    if not meta.get("family"):
        effects, variances = nme_predict.new_effects(estimates, inputs, y - fixed, codes, q)
    else:
        data = Rows(estimates.family, y, read.vector().copy(), outputs)
        by_class = fixed.reshape(len(y), -1)
        effects, variances = nme_generalized_predict.new_effects(estimates, inputs, by_class, data, codes, q)
        if outputs == 1:
            now = dataclasses.replace(estimates, effects=effects)
            root, _ = data.working(torch.from_numpy(fixed + nme_predict.values(now, inputs, codes))[:, None], now.phi)
            return {}, {"effects": effects, "variances": variances, "information": root[:, 0, 0].numpy() ** 2}
    return {}, {"effects": effects, "variances": variances}
