"""The posterior of the random effects of a multinomial model where its parameters are known."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from pylmernn.engines.classdraws import joint_draws
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.families import read_family
from pylmernn.formula.design import Design


def effects_at(design: Design, estimates: MultinomialEstimates, control: Control) -> MultinomialEstimates:
    """Draw the random effects of a design, fixed effects, variances and networks as they were estimated.

    Parameters
    ----------
    design : Design
        Of any rows and levels, with the columns and terms of the fit.
    estimates : MultinomialEstimates
        Beta and covariances are read, and ``networks.fitted`` (n, C) of these rows.
    control : Control
        ``control.sampling`` says how to sample.

    Returns
    -------
    MultinomialEstimates
        With b, their variances, eta and draws of this design.
    """
    from pylmernn.engines.posterior import Posterior
    from pylmernn.engines.sampledpart import SampledPart, sampler_for
    from pylmernn.training.loop import device_for

    begun = time.perf_counter()
    C, networks, family = len(estimates.classes), estimates.networks, read_family("multinomial")
    sampling = control.sampling.sized(design.n * C, sampler_for(family, design, control.sampling))
    assert sampling.warmup is not None
    assert sampling.draws is not None
    f = np.zeros((design.n, C)) if networks is None else networks.fitted
    if design.offset is not None:
        f = f + design.offset[:, None]
    bare = dataclasses.replace(design, nets=(), offset=None)
    part = SampledPart(
        bare, family, C, sampling, control.training.seed + 2000, sampling.chains, device_for(control.device)
    )
    part.beta = estimates.beta
    part.covariances = [np.array(each) for each in estimates.covariances]
    part.b = part.prior().draw(sampling.chains, part.generator)
    posterior = Posterior(part, sampling.draws)
    for number in range(sampling.warmup + sampling.draws):
        if number == sampling.warmup:
            part.settle()
        part.transitions(f, 1, 1)
        if number >= sampling.warmup:
            posterior.add(part.b, part.conditional_mean())
    part.inform_of_response()
    b, drawn = posterior.b, posterior.draws()
    pull = None if part.joint is None else part.joint.pull
    eta = f + design.X @ estimates.beta
    for term, effects in zip(design.random, b, strict=True):
        eta += np.einsum("id,idc->ic", term.columns, effects[term.codes])
    seconds = time.perf_counter() - begun
    return dataclasses.replace(
        estimates,
        b=b,
        variances=tuple(np.einsum("qddc->qdc", each) for each in posterior.covariances),
        eta=eta,
        draws=drawn,
        joint=joint_draws(drawn, estimates.beta, estimates.fixed_covariance, pull, posterior.count),
        convergence=Convergence(True, np.zeros(0), posterior.count, "parameters were known", seconds),
    )
