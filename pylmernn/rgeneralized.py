"""The Python half of the R door for generalized models; see :mod:`pylmernn.rdoor`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylmernn.api import progress_bar
from pylmernn.engines.alternating import with_networks
from pylmernn.engines.generalized_methods import GENERALIZED_METHODS, method_for
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_variances import fixed_covariance, mode_variance
from pylmernn.families import read_family
from pylmernn.formula.design import Design, DesignError
from pylmernn.glm import check_design, separation
from pylmernn.rprotocol import Reader, read_design
from pylmernn.rreplies import Reply, answer, send_estimates, send_networks
from pylmernn.rsettings import read_control


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
    method = method_for(design, family, meta.get("method", "auto"))
    try:
        with progress_bar(bool(meta.get("progress")), method, "glmernn") as callback:
            estimates = GENERALIZED_METHODS[method](design, family, nAGQ, control, callback)
    except np.linalg.LinAlgError as error:
        raise DesignError(
            f"the model cannot be fitted: {error}; look at the response, the link and the scales."
        ) from None
    header, arrays = send_estimates(terms, design, estimates)
    header |= {"family": family.name, "link": family.link.name, "nAGQ": estimates.nAGQ}
    header["has_dispersion"] = family.has_dispersion
    header["messages"] = separation(design, estimates)
    arrays["phi"] = np.atleast_1d(estimates.phi)
    if estimates.networks is not None:
        header["networks"], kept = send_networks(estimates.networks, design)
        arrays.update(kept)
        design = with_networks(design, estimates.networks.fitted)
    arrays["vcov"] = estimates.unscaled_vcov if estimates.nAGQ == 0 else fixed_covariance(design, estimates)
    arrays.update({f"v{k}": v for k, v in enumerate(_mode_variance(design, estimates))})
    return header, arrays


def _mode_variance(design: Design, estimates: GeneralizedEstimates) -> tuple[np.ndarray, ...]:
    """Posterior covariances (q, d, d) of each term's effects."""
    if estimates.mode_variances is not None:
        return estimates.mode_variances
    return tuple(mode_variance(design, estimates))
