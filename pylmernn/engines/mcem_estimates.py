"""The last part of Monte Carlo EM: f is known, several chains find the parameters and the posterior of the effects."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import split_theta, structure
from pylmernn.engines import pirls
from pylmernn.engines.classdraws import joint_draws
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import with_networks
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.exact import factored_together
from pylmernn.engines.generalizedpart import final_nodes
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.posterior import Averages, Posterior
from pylmernn.engines.working import to_working
from pylmernn.families import Family
from pylmernn.formula.design import Design, RandomTerm
from pylmernn.mean.networks import Networks

if TYPE_CHECKING:
    from torch import Tensor

    from pylmernn.engines.sampledpart import SampledPart

FloatArray = NDArray[np.float64]

WHOLE_STEPS, LONGEST_SEARCH = 0.5, 4  # share of the warm-up before steps shorten; how many warm-ups that may take
WINDOW, MOVING = 10, 0.03  # transitions that are compared with as many before, and how far they may be apart
FADING = 0.7
DISCARDED, FEWEST = 0.7, 4  # share of the recorded draws that is thrown away; draws that are worth keeping
BETWEEN, SMALL_NUMBERS = 2, 400_000  # sweeps over several classes a draw, where rows times classes are this few
LOOKS = 4  # draws of each chain that the information of several classes is averaged over
OFTEN, SELDOM = 8, 5  # transitions with the information computed anew: all of the first, then every fifth


def estimates_of(
    design: Design,
    family: Family,
    n_classes: int,
    networks: Networks | None,
    parts: Sequence[SampledPart] | None,
    nAGQ: int,
    control: Control,
) -> GeneralizedEstimates | MultinomialEstimates:
    """Sample with f known until the parameters have settled, then keep draws.

    Parameters
    ----------
    design : Design
    family : Family
    n_classes : int
    networks : Networks or None
    parts : sequence of SampledPart or None
        Of the members in training, where the parameters begin.
    nAGQ : int
        Of the log-likelihood that is reported.
    control : Control
    """
    from pylmernn.engines.sampledpart import SampledPart
    from pylmernn.training.loop import device_for

    begun = time.perf_counter()
    sampling = control.sampling
    f = np.zeros((design.n, n_classes)) if networks is None else networks.fitted.reshape(design.n, n_classes)
    if design.offset is not None:
        f = f + design.offset[:, None]
    bare = dataclasses.replace(design, nets=(), offset=f[:, 0] if n_classes == 1 else None)
    seed = control.training.seed + 1000
    part = SampledPart(bare, family, n_classes, sampling, seed, sampling.chains, device_for(control.device))
    if parts and not part.starts_at_modes:
        _begin(part, parts)
    message = ""
    if parts and sampling.preset == "faithful":
        posterior = _recorded(part, parts[0])
    else:
        _find_parameters(part, f, sampling.warmup or 0)
        posterior, message, seen = _sample(part, f, sampling.draws or 0)
        part.step(1.0, fixed=True, last=True)
        part.inform_of_response(seen)
    seconds = time.perf_counter() - begun
    converged = Convergence(not message, np.zeros(0), part.moved, message, seconds)
    if family.name == "multinomial":
        return _multinomial(design, part, posterior, networks, f, converged)
    return _scalar(design, family, part, posterior, networks, nAGQ, control, converged)


def _find_parameters(part: SampledPart, f: FloatArray, warmup: int) -> None:
    """Whole steps until the variances have settled, then shorter ones, whose averages the part is given."""
    whole = int(WHOLE_STEPS * warmup)
    deviations: list[FloatArray] = []
    while len(deviations) < whole or (still_moving(deviations) and len(deviations) < LONGEST_SEARCH * warmup):
        number = len(deviations)
        part.transitions(f, 1, 1)
        part.step(1.0, fixed=True, inform=number < OFTEN or number % SELDOM == 0)
        variances = [np.einsum("css->cs", covariance).ravel() for covariance in part.covariances]
        deviations.append(np.sqrt(np.concatenate(variances)))
    averages = Averages(part)
    for number in range(warmup - whole):
        part.transitions(f, 1, 1)
        part.step((number + 1.0) ** -FADING, fixed=True, inform=number % SELDOM == 0)
        averages.add()
    averages.give()
    part.settle()


def still_moving(deviations: Sequence[FloatArray]) -> bool:
    """Whether a standard deviation goes on in one direction: between the last two windows, beyond its noise.

    Variances that the data do not call for creep towards zero in the steps of EM.
    """
    if len(deviations) < 2 * WINDOW:
        return bool(deviations)
    last, before = np.array(deviations[-WINDOW:]), np.array(deviations[-2 * WINDOW : -WINDOW])
    move = np.abs(last.mean(axis=0) - before.mean(axis=0))
    noise = np.sqrt((last.var(axis=0) + before.var(axis=0)) / WINDOW)
    return bool((move > np.maximum(MOVING * (last.mean(axis=0) + 0.1), 3.0 * noise)).any())


def _sample(part: SampledPart, f: FloatArray, draws: int) -> tuple[Posterior, str, list[Tensor]]:
    """Draws with the parameters as they are, and a few that are far apart; the part remembers the moments of all."""
    seen: list[Tensor] = []
    posterior = Posterior(part, draws)
    between = max(1, min(BETWEEN, SMALL_NUMBERS // (part.n_classes * len(f)))) if part.n_classes > 1 else 1
    try:
        for number in range(draws):
            part.transitions(f, between, 1, fresh=number == 0)
            posterior.add(part.b, part.conditional_mean())
            if (number + 1) % max(1, draws // LOOKS) == 0:
                seen.append(part.b)
    except KeyboardInterrupt:
        if posterior.count < FEWEST:
            raise
        return posterior, f"sampling was interrupted after {posterior.count} draws of each chain", seen
    return posterior, "", seen


def _recorded(part: SampledPart, member: SampledPart) -> Posterior:
    """The last draws of training, as the authors' code averages them; the parameters are those of the very last."""
    drawn = member.record[int(DISCARDED * len(member.record)) :]
    posterior = Posterior(part, len(drawn))
    for b in drawn:
        posterior.add(b, b.mean(dim=0))
    part.covariances, part.beta, part.phi = member.covariances, member.beta, member.phi
    part.adopt(member)
    return posterior


def _begin(part: SampledPart, members: Sequence[SampledPart]) -> None:
    """Start where the members ended, on average; chains from the prior there."""
    part.covariances = [np.mean(each, axis=0) for each in zip(*(m.covariances for m in members), strict=True)]
    part.beta = np.mean([m.beta for m in members], axis=0)
    phi = np.mean(np.stack([np.asarray(m.phi, dtype=np.float64) for m in members]), axis=0)
    part.phi = part.likelihood.phi = phi if phi.ndim else float(phi)
    part.b = part.prior().draw(len(part.b), part.generator)


def _multinomial(
    design: Design,
    part: SampledPart,
    posterior: Posterior,
    networks: Networks | None,
    f: FloatArray,
    convergence: Convergence,
) -> MultinomialEstimates:
    b = posterior.b
    eta = f + design.X @ part.beta
    for term, effects in zip(design.random, b, strict=True):
        eta += np.einsum("id,idc->ic", term.columns, effects[term.codes])
    covariance, drawn = part.class_covariance() if design.p else None, posterior.draws()
    pull = None if part.joint is None else part.joint.pull
    return MultinomialEstimates(
        method="mcem",
        classes=design.classes,
        beta=part.beta,
        fixed_covariance=covariance,
        b=b,
        variances=tuple(np.einsum("qddc->qdc", each) for each in posterior.covariances),
        covariances=tuple(np.array(each) for each in part.covariances),
        covariance_errors=tuple(part.variance_errors()),
        eta=eta,
        draws=drawn,
        convergence=convergence,
        joint=joint_draws(drawn, part.beta, covariance, pull, posterior.count),
        networks=networks,
    )


def theta_of(terms: Sequence[RandomTerm], covariances: Sequence[FloatArray]) -> FloatArray:
    """Theta (m,) whose templates are Cholesky factors of the covariances (d_k, d_k)."""
    parts = []
    for term, covariance in zip(terms, covariances, strict=True):
        parts.append(np.linalg.cholesky(covariance)[structure(term.covariance).positions(term.width)])
    return np.concatenate(parts)


def _scalar(
    design: Design,
    family: Family,
    part: SampledPart,
    posterior: Posterior,
    networks: Networks | None,
    nAGQ: int,
    control: Control,
    convergence: Convergence,
) -> GeneralizedEstimates:
    """Means and variances are those of the draws; the log-likelihood is that of quadrature or Laplace, if in reach."""
    given = dataclasses.replace(design, nets=())
    if networks is not None:
        given = with_networks(given, networks.fitted)
    theta = theta_of(design.random, [each[0] for each in part.covariances])
    convergence = dataclasses.replace(convergence, gradient=np.zeros(len(theta)))
    b = tuple(each[:, :, 0] for each in posterior.b)
    templates = split_theta(design.random, theta)
    u = tuple(np.linalg.lstsq(L, effects.T, rcond=None)[0].T for L, effects in zip(templates, b, strict=True))
    sampled: dict[str, Any] = {
        "method": "mcem",
        "b": b,
        "u": u,
        "mode_variances": tuple(each[..., 0] for each in posterior.covariances),
        "draws": posterior.draws(),
        "networks": networks,
    }
    beta, phi = part.beta[:, 0], part.phi
    if factored_together(design, control.dense_limit) <= control.dense_limit:
        problem = GeneralizedProblem(given, family, final_nodes(design, nAGQ))
        working = problem.working_beta(beta)
        shifted = family.shifted(phi, problem.constant(working))
        x = [to_working(design.random, problem.transforms, theta), working, family.unconstrained(shifted)]
        problem.begin_at(working)
        found = pirls.estimates_at(problem, np.concatenate(x), convergence, control)
        return dataclasses.replace(found, **sampled)
    eta = given.X @ beta + (0.0 if given.offset is None else given.offset)
    for term, effects in zip(design.random, b, strict=True):
        eta += np.einsum("ij,ij->i", term.columns, effects[term.codes])
    nothing = float("nan")
    return GeneralizedEstimates(
        REML=False,
        theta=theta,
        beta=beta,
        sigma=1.0,
        unscaled_vcov=np.asarray(np.linalg.pinv(part.fixed_information(0)), dtype=np.float64),
        objective=nothing,
        ldL2=nothing,
        ldRX2=nothing,
        pwrss=nothing,
        wrss=nothing,
        ussq=float(sum(np.vdot(each, each) for each in u)),
        singular=False,
        convergence=convergence,
        family=family,
        phi=phi,
        nAGQ=1,
        eta=eta,
        **sampled,
    )
