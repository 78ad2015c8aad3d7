"""The Python half of the R door: raw bytes and JSON in, raw bytes and JSON out.

reticulate converts arrays differently from version to version, and missing values wrongly in some; bytes survive all of
them. Every function here takes ``meta``, a JSON text, and ``buffers``, a list of bytearrays in the order in which
:mod:`pylmernn.rprotocol` takes them, and returns ``[JSON text, bytearray, ...]``. An error comes back as
``{"error": sentence}``, so that R can stop with that sentence and without a traceback. Generalized models have their
functions in :mod:`pylmernn.rgeneralized`, networks that vary by group in :mod:`pylmernn.rvarying` and
:mod:`pylmernn.rvarying_answers`, sequences of states in :mod:`pylmernn.rsequences` and
:mod:`pylmernn.rtransitions`; R finds them here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pylmernn.api import method_for, progress_bar
from pylmernn.engines import network_variance
from pylmernn.engines.alternating import with_networks
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.methods import METHODS
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_variances import mode_variance
from pylmernn.engines.variances import conditional_variance as _conditional_variance
from pylmernn.engines.variances import prediction_variance as _prediction_variance
from pylmernn.fit import update_ranef
from pylmernn.fit.effects import partial_dependence as _partial_dependence
from pylmernn.fit.importance import permutation_importance
from pylmernn.fit.losses import loss_of
from pylmernn.fit.networks import network_text
from pylmernn.formula.design import Design, DesignError
from pylmernn.mean.networks import Networks
from pylmernn.rgeneralized import (
    fit_generalized,
    marginal_classes,
    marginal_means,
    predictor_variance,
    update_class_effects,
)
from pylmernn.rprotocol import Reader, read_design, read_fit, read_networks, read_new_rows
from pylmernn.rreplies import Reply, answer, known_text, send_estimates, send_networks
from pylmernn.rsequences import fit_sequences, sequence_deviance, sequence_values, update_sequences
from pylmernn.rsettings import read_control
from pylmernn.rseveral import send_several, several_averages, several_values, update_several
from pylmernn.rseveral_answers import several_importance, several_partial_dependence, several_variance
from pylmernn.rtransitions import compare_transitions, expected_transitions, transition_probabilities
from pylmernn.rvarying import send_varying, update_varying, varying_averages, varying_values
from pylmernn.rvarying_answers import varying_importance, varying_partial_dependence, varying_variance

__all__ = [
    "compare_transitions",
    "expected_transitions",
    "fit_generalized",
    "fit_sequences",
    "marginal_classes",
    "marginal_means",
    "predictor_variance",
    "sequence_deviance",
    "sequence_values",
    "transition_probabilities",
    "update_class_effects",
    "several_averages",
    "several_importance",
    "several_partial_dependence",
    "several_values",
    "several_variance",
    "update_sequences",
    "update_several",
    "update_varying",
    "varying_averages",
    "varying_importance",
    "varying_partial_dependence",
    "varying_values",
    "varying_variance",
]


@answer
def fit(meta: dict[str, Any], read: Reader) -> Reply:
    """Estimate a model.

    ``meta`` has the keys of :func:`read_design`, ``REML``, ``method``, ``control`` (a mapping of the fields of
    :class:`~pylmernn.engines.control.Control`), ``device``, ``seed``, ``progress``, and ``condVar``: whether variances
    of the conditional modes are wanted too. The reply names the dropped columns of X and the order of the terms.
    Networks that vary by group come with ``formula`` as text; :func:`~pylmernn.rvarying.send_varying` has their reply.
    """
    method = meta["method"]
    if method not in ("auto", *METHODS):
        raise ValueError(f"method is '{method}': use one of auto, {', '.join(METHODS)}.")
    control = read_control(meta.get("control") or {}, meta.get("device", "auto"), meta.get("seed"))
    terms, design = read_design(meta, read)
    method = method_for(design, method, control)
    with progress_bar(bool(meta.get("progress")), method) as callback:
        estimates: Any = METHODS[method](design, meta["REML"], control, callback=callback)
    if design.varying:
        if design.random or len(design.varying) > 1:
            return send_several(meta["formula"], design, estimates, terms)
        return send_varying(meta["formula"], design, estimates)
    header, arrays = send_estimates(terms, design, estimates)
    if meta.get("condVar") and not _has_learned_features(design, estimates):
        arrays.update({f"v{k}": v for k, v in enumerate(_conditional_variance(design, estimates))})
    if estimates.networks is not None:
        header["networks"], kept = send_networks(estimates.networks, design)
        arrays.update(kept)
    return header, arrays


def _has_learned_features(design: Design, estimates: Estimates) -> bool:
    return estimates.method == "lmmnn" and any(term.covariance == "embed" for term in design.random)


@answer
def network_values(meta: dict[str, Any], read: Reader) -> Reply:
    """The networks' part of the mean of ``meta["rows"]`` new rows: the networks, then the inputs of each."""
    networks = read_networks(meta, read)
    return {}, {"values": networks.values([read.matrix(meta["rows"], width) for width in meta["widths"]])}


@answer
def embedding_values(meta: dict[str, Any], read: Reader) -> Reply:
    """Effects of ``meta["group"]``, an ``embed(lon, lat)``, at new locations: the networks, then the coordinates."""
    networks = read_networks(meta, read)
    places = np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    found = [one for one in networks.embeddings if one is not None and one.group == meta["group"]]
    return {}, {"values": found[0].values(places)}


@answer
def importance(meta: dict[str, Any], read: Reader) -> Reply:
    """Permutation importance of the inputs of a fit's networks, and the lines of its summary that tell of it."""
    design, estimates = read_fit(meta, read)
    networks = _networks_of(estimates)
    loss = loss_of(design, estimates, networks)
    found = permutation_importance(design, networks, loss, meta["n_repeats"], meta["seed"])
    table = found.table
    header = {
        "network": table["network"].tolist(),
        "input": table["input"].tolist(),
        "lines": network_text(networks, design, found, known_text(networks)),
    }
    return header, {"importance": table["importance"].to_numpy(), "se": table["se"].to_numpy()}


@answer
def partial_dependence(meta: dict[str, Any], read: Reader) -> Reply:
    """The mean of f against the inputs ``meta["inputs"]``; factors as level codes, classes as names in the header."""
    design, estimates = read_fit(meta, read)
    networks = _networks_of(estimates)
    table = _partial_dependence(design, networks, meta["inputs"], {}, meta["grid_size"], meta["seed"])
    header = {"class": table.pop("class").tolist()} if design.classes and "class" in table else {}
    return header, {str(name): column.to_numpy() for name, column in table.items()}


def _networks_of(estimates: Any) -> Networks:
    if estimates.networks is None:
        raise DesignError("this model has no network.")
    return estimates.networks


@answer
def conditional_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """``Var(b | y)`` of a fitted model, sent as :func:`~pylmernn.rprotocol.read_fit` has it."""
    design, estimates = read_fit(meta, read)
    return {}, {f"v{k}": v for k, v in enumerate(_conditional_variance(design, estimates))}


@answer
def update_random_effects(meta: dict[str, Any], read: Reader) -> Reply:
    """Random effects of a fit whose design has grown: effects sent (zeros) are not read.

    The offset of the first ``meta["known"]`` rows has the networks in it, that of the new ones has not; the values of
    the networks there come back as ``networks.fitted`` of all rows.
    """
    design, estimates = read_fit(meta, read)
    update_ranef.check_terms(design)
    networks, known = estimates.networks, meta["known"]
    if networks is not None:
        f = networks.values([net.inputs[known:] for net in design.nets])
        networks = update_ranef.longer_networks(networks, f)
        design = with_networks(design, np.concatenate([np.zeros(known), f]))
    found = dataclasses.replace(update_ranef.updated_estimates(design, estimates), networks=networks)
    header, arrays = send_estimates(design.random, design, found)
    if isinstance(found, GeneralizedEstimates):
        arrays |= {f"v{k}": v for k, v in enumerate(mode_variance(design, found))}
    if networks is not None:
        header["networks"], kept = send_networks(networks, design)
        arrays |= kept
    return header, arrays


@answer
def prediction_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variances of predictions, and ``noise``, that of a new response of weight 1 beyond them.

    After the fit come the new rows, as :func:`~pylmernn.rprotocol.read_new_rows` has them; ``meta["include"]`` says
    which random terms take part. Where networks are sent, their uncertainty counts.
    """
    design, estimates = read_fit(meta, read)
    rows = read_new_rows(meta, read, design)
    include = tuple(meta["include"])
    if estimates.networks is None:
        return {"noise": estimates.sigma**2}, {"variance": _prediction_variance(design, estimates, rows, include)}
    sizes = network_variance.calibrate(design, estimates, estimates.networks)
    variance = network_variance.prediction_variance(design, estimates, estimates.networks, rows, include, sizes)
    return {"noise": sizes.noise}, {"variance": variance}
