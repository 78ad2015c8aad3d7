"""Random effects of more rows and new levels, all parameters as they were estimated."""

from __future__ import annotations

import dataclasses

import numpy as np

from pylmernn.engines.atfixed import estimates_at_fixed, fixed_convergence
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.pirls import GeneralizedEstimates, estimates_at
from pylmernn.engines.pirls_variances import problem_at
from pylmernn.formula.design import Design, DesignError, FloatArray
from pylmernn.mean.networks import Networks


def check_terms(design: Design) -> None:
    """Raise DesignError for random terms that are no bars."""
    for term in design.random:
        if term.covariance not in ("us", "diag"):
            raise DesignError(
                f"{term.label}: update_random_effects() is for bars such as (x | group) only: fit the model again."
            )
    if getattr(design, "varying", ()):
        raise DesignError("update_random_effects() does not update networks that vary by group: fit the model again.")


def updated_estimates(design: Design, estimates: Estimates) -> Estimates:
    """Conditional modes of the random effects of a longer design, theta, beta, sigma and dispersion as they were.

    Parameters
    ----------
    design : Design
        Old and new rows; with networks f is part of the offset.
    estimates : Estimates or GeneralizedEstimates
        Of the old rows.

    Returns
    -------
    Estimates
        Of the same class. The objective is that of all rows at these parameters; the covariance of beta is kept.
    """
    if isinstance(estimates, GeneralizedEstimates):
        return _generalized(design, estimates)
    given = dataclasses.replace(
        design, X=np.empty((design.n, 0)), fixed_names=(), offset=_fixed(design, estimates), nets=()
    )
    modes = estimates_at_fixed(given, estimates.theta, estimates.sigma, REML=False)
    whole = estimates_at_fixed(
        dataclasses.replace(design, nets=()), estimates.theta, estimates.sigma, REML=estimates.REML
    )
    return dataclasses.replace(
        estimates,
        b=modes.b,
        u=modes.u,
        ldL2=modes.ldL2,
        pwrss=modes.pwrss,
        wrss=modes.wrss,
        ussq=modes.ussq,
        ldRX2=whole.ldRX2,
        objective=whole.objective if estimates.REML else modes.objective,
        convergence=fixed_convergence(len(estimates.theta)),
    )


def _generalized(design: Design, old: GeneralizedEstimates) -> GeneralizedEstimates:
    """Modes by penalized iteratively reweighted least squares; draws of the old rows are left behind."""
    bare = dataclasses.replace(design, nets=())
    problem, x = problem_at(bare, dataclasses.replace(old, nAGQ=max(1, old.nAGQ)))
    found = estimates_at(problem, x, fixed_convergence(len(x)), Control())
    return dataclasses.replace(
        found,
        method=old.method,
        theta=old.theta,
        beta=old.beta,
        phi=old.phi,
        nAGQ=old.nAGQ,
        unscaled_vcov=old.unscaled_vcov,
        singular=old.singular,
    )


def _fixed(design: Design, estimates: Estimates) -> FloatArray:
    eta = design.X @ estimates.beta
    return eta if design.offset is None else eta + design.offset


def longer_networks(networks: Networks, f: FloatArray) -> Networks:
    """Networks whose fitted values are followed by those of new rows (m,), from which none has learnt."""
    learned = networks.learned
    if learned is not None:
        learned = np.concatenate([learned, np.zeros((len(learned), len(f)), dtype=bool)], axis=1)
    return dataclasses.replace(networks, fitted=np.concatenate([networks.fitted, f]), learned=learned)
