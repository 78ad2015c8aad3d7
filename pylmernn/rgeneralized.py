"""The Python half of the R door for generalized models; see :mod:`pylmernn.rdoor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pylmernn.api import progress_bar
from pylmernn.engines.alternating import with_networks
from pylmernn.engines.generalized_methods import GENERALIZED_METHODS, method_for
from pylmernn.engines.mcem_effects import effects_at
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_variances import dispersion_covariance, fixed_covariance, mode_variance
from pylmernn.engines.working_model import working_model
from pylmernn.families import read_family
from pylmernn.fit import intervals, probabilities, update_ranef
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.glm import check_design, separation
from pylmernn.rprotocol import Reader, read_design, read_fit, read_new_rows
from pylmernn.rreplies import Reply, answer, send_draws, send_estimates, send_networks, send_search
from pylmernn.rsettings import read_control
from pylmernn.rseveral import send_several
from pylmernn.rvarying import send_varying


@answer
def fit_generalized(meta: dict[str, Any], read: Reader) -> Reply:
    """Estimate a generalized linear mixed model.

    ``meta`` has the keys of :func:`~pylmernn.rprotocol.read_design`, ``family`` as text, ``nAGQ``, ``method``,
    ``control``, ``device``, ``seed`` and ``progress``. The response of a binomial model is the proportion of successes,
    its weights the numbers of trials. Beyond what :func:`pylmernn.rdoor.fit` replies there are the family, its link and
    dispersion, ``vcov`` (p, p) from the curvature of the log-likelihood, and warnings.
    """
    family, nAGQ = read_family(meta["family"]), meta["nAGQ"]
    settings = meta.get("control") or {}
    control = read_control(settings, meta.get("device", "auto"), meta.get("seed"), generalized=True)
    terms, design = read_design({**meta, "generalized": True}, read)
    check_design(design, family)
    method = method_for(design, family, meta.get("method", "auto"), control.dense_limit)
    try:
        with progress_bar(bool(meta.get("progress")), method, "glmernn") as callback:
            estimates = GENERALIZED_METHODS[method](design, family, nAGQ, control, callback)
    except np.linalg.LinAlgError as error:
        raise DesignError(
            f"the model cannot be fitted: {error}; look at the response, the link and the scales."
        ) from None
    if design.varying and (design.random or len(design.varying) > 1):
        return send_several(meta["formula"], design, estimates, terms)
    if design.varying:
        return send_varying(meta["formula"], design, estimates)
    if isinstance(estimates, MultinomialEstimates):
        return _send_multinomial(terms, design, estimates)
    header, arrays = send_estimates(terms, design, estimates)
    header |= {"family": family.name, "link": family.link.name, "nAGQ": estimates.nAGQ}
    header["has_dispersion"] = family.has_dispersion
    header["messages"] = separation(design, estimates)
    arrays["phi"] = np.atleast_1d(estimates.phi)
    if estimates.draws is not None:
        header["draws"], drawn = send_draws(estimates.draws)
        arrays |= drawn
    if estimates.networks is not None:
        header["networks"], kept = send_networks(estimates.networks, design)
        arrays |= kept
        design = with_networks(design, estimates.networks.fitted)
    given = estimates.nAGQ == 0 or estimates.method == "mcem"
    arrays["vcov"] = estimates.unscaled_vcov if given else fixed_covariance(design, estimates)
    if family.absorbs_constant:
        arrays["threshold_vcov"] = dispersion_covariance(design, estimates)
    variances = estimates.mode_variances or mode_variance(design, estimates)
    arrays |= {f"v{k}": v for k, v in enumerate(variances)}
    return header, arrays


def _send_multinomial(terms: Sequence[RandomTerm], design: Design, estimates: MultinomialEstimates) -> Reply:
    """Effects by class, as :class:`~pylmernn.engines.multinomial.MultinomialEstimates` has them, and the sampling."""
    header, arrays = send_search(terms, design, estimates.method, estimates.convergence)
    header |= {"family": "multinomial", "classes": list(estimates.classes)}
    arrays |= {"beta": estimates.beta}
    if estimates.fixed_covariance is not None:
        arrays["fixed_covariance"] = estimates.fixed_covariance
    parts = {"c": estimates.covariances, "e": estimates.covariance_errors}
    arrays |= {f"{letter}{k}": values for letter, of_terms in parts.items() for k, values in enumerate(of_terms)}
    effects, of_effects = _send_class_effects(design, estimates)
    return header | effects, arrays | of_effects


def _send_class_effects(design: Design, estimates: MultinomialEstimates) -> Reply:
    """What was sampled: effects, linear predictors and draws; the networks with it."""
    header: dict[str, Any] = {}
    header["draws"], arrays = send_draws(estimates.draws)
    arrays["eta"] = estimates.eta
    arrays |= {f"b{k}": values for k, values in enumerate(estimates.b)}
    arrays |= {f"v{k}": values for k, values in enumerate(estimates.variances)}
    if estimates.joint is not None:
        header["joint"] = len(estimates.joint.beta)
        arrays["joint.beta"] = estimates.joint.beta.astype(np.float64)
        arrays |= {f"joint.b{k}": values.astype(np.float64) for k, values in enumerate(estimates.joint.b)}
    if estimates.networks is not None:
        header["networks"], kept = send_networks(estimates.networks, design)
        arrays |= kept
    return header, arrays


@answer
def update_class_effects(meta: dict[str, Any], read: Reader) -> Reply:
    """Random effects of a multinomial fit whose design has grown, by sampling; effects and eta sent are not read.

    Of the rows the first ``meta["known"]`` are those of the fit; ``control``, ``device`` and ``seed`` are its settings,
    ``fixed_covariance`` the covariance (p * C, p * C) of the fixed effects where there is one.
    """
    control = read_control(meta.get("control") or {}, meta.get("device", "auto"), meta.get("seed"), generalized=True)
    design, estimates = read_fit(meta, read)
    if meta.get("fixed_covariance"):
        covariance = np.asarray(meta["fixed_covariance"], dtype=np.float64)
        estimates = dataclasses.replace(estimates, fixed_covariance=covariance)
    networks = estimates.networks
    if networks is not None:
        f = networks.values([net.inputs[meta["known"] :] for net in design.nets])
        estimates = dataclasses.replace(estimates, networks=update_ranef.longer_networks(networks, f))
    return _send_class_effects(design, effects_at(design, estimates, control))


@answer
def marginal_means(meta: dict[str, Any], read: Reader) -> Reply:
    """Means of the response (or probabilities of its classes) over normal linear predictors.

    ``meta`` has ``family``; the buffers are phi, the means of the linear predictors (m,) and their variances (m,).
    """
    family = read_family(meta["family"])
    phi, eta, variance = read.vector(), read.vector(), read.vector()
    if family.absorbs_constant:
        values = probabilities.normal_mean(lambda x: family.probabilities(x, phi), eta, variance)
    else:
        values = probabilities.marginal_mean(family.link, eta, variance)
    return {}, {"means": values}


@answer
def marginal_classes(meta: dict[str, Any], read: Reader) -> Reply:
    """Mean probabilities (rows, classes) of a multinomial model over normal linear predictors, means then variances."""
    shape = meta["rows"], meta["classes"]
    eta, variance = read.matrix(*shape), read.matrix(*shape)
    return {}, {"probabilities": probabilities.marginal_softmax(eta, variance)}


@answer
def predictor_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variances of linear predictors: fixed effects, conditional modes and networks, by the normal approximation.

    Buffers and ``meta`` are those of :func:`pylmernn.rdoor.prediction_variance`.
    """
    design, estimates = read_fit(meta, read)
    assert isinstance(estimates, GeneralizedEstimates)
    rows = read_new_rows(meta, read, design)
    chosen = [np.full(term.width, on) for term, on in zip(design.random, meta["include"], strict=True)]
    working = working_model(design, estimates)
    variance = intervals.mean_variance(*working, intervals.working_calibration(*working), rows, chosen)
    return {}, {"variance": variance}
