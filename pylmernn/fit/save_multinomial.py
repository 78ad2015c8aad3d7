"""Estimates of a multinomial model in the file of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylmernn.engines.estimates import Convergence
from pylmernn.engines.multinomial import JointDraws, MultinomialEstimates
from pylmernn.fit.save import Parts, get_networks, put_networks
from pylmernn.fit.save_draws import get_draws, put_draws

OF_TERMS = ("b", "variances", "covariances", "covariance_errors")  #: one array a random term


def put_multinomial(parts: Parts, estimates: MultinomialEstimates) -> dict[str, Any]:
    """Keep the arrays of estimates; returns the rest as JSON-able data."""
    for name in ("beta", "fixed_covariance", "eta"):
        parts.put(f"estimates.{name}", getattr(estimates, name))
    for name in OF_TERMS:
        for k, array in enumerate(getattr(estimates, name)):
            parts.put(f"estimates.{k}.{name}", array)
    if estimates.joint is not None:
        parts.put("estimates.joint.beta", estimates.joint.beta)
        for k, array in enumerate(estimates.joint.b):
            parts.put(f"estimates.joint.{k}.b", array)
    c = estimates.convergence
    parts.put("estimates.gradient", np.asarray(c.gradient))
    networks = estimates.networks
    return {
        "method": estimates.method, "classes": list(estimates.classes), "terms": len(estimates.b),
        "converged": bool(c.converged), "n_evaluations": int(c.n_evaluations), "message": c.message,
        "seconds": float(c.seconds), "draws": put_draws(parts, estimates.draws),
        "networks": None if networks is None else put_networks(parts, networks),
    }  # fmt: skip


def get_multinomial(parts: Parts, meta: dict[str, Any]) -> MultinomialEstimates:
    """Estimates that :func:`put_multinomial` kept."""
    arrays = parts.arrays
    of_terms = {name: tuple(arrays[f"estimates.{k}.{name}"] for k in range(meta["terms"])) for name in OF_TERMS}
    beta, joint = arrays.get("estimates.joint.beta"), None
    if beta is not None:
        joint = JointDraws(beta, tuple(arrays[f"estimates.joint.{k}.b"] for k in range(meta["terms"])))
    return MultinomialEstimates(
        method=meta["method"],
        classes=tuple(meta["classes"]),
        beta=arrays["estimates.beta"],
        fixed_covariance=arrays.get("estimates.fixed_covariance"),
        eta=arrays["estimates.eta"],
        draws=get_draws(parts, meta["draws"]),
        convergence=Convergence(
            converged=meta["converged"],
            gradient=arrays["estimates.gradient"],
            n_evaluations=meta["n_evaluations"],
            message=meta["message"],
            seconds=meta["seconds"],
        ),
        joint=joint,
        networks=None if meta["networks"] is None else get_networks(parts, meta["networks"]),
        **of_terms,
    )
