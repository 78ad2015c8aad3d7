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
from pylmernn.engines.chains import Draws, ess, rhat
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import with_networks
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.exact import factored_together
from pylmernn.engines.generalizedpart import final_nodes
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.pirls_problem import GeneralizedProblem
from pylmernn.engines.working import to_working
from pylmernn.families import Family
from pylmernn.formula.design import Design, RandomTerm
from pylmernn.mean.networks import Networks

if TYPE_CHECKING:
    from pylmernn.engines.sampledpart import SampledPart

FloatArray = NDArray[np.float64]

WATCHED = 200  # effects, drawn at random, that R-hat and the effective sample size look at
KEPT_NUMBERS = 20_000_000  # of effects that are kept of all draws; more are thinned
WHOLE_STEPS = 0.5  # share of the warm-up before steps shorten
FADING = 0.7
OFTEN, SELDOM = 8, 10  # transitions with the information computed anew: all of the first, then every tenth


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
    bare = dataclasses.replace(design, nets=(), offset=None)
    seed = control.training.seed + 1000
    part = SampledPart(bare, family, n_classes, sampling, seed, sampling.chains, device_for(control.device))
    _begin(part, parts or ())
    assert sampling.warmup is not None
    assert sampling.draws is not None
    posterior, count = Posterior(part, sampling.draws), sampling.warmup + sampling.draws
    message = ""
    try:
        for number in range(count):
            part.adapting = number < sampling.warmup
            gain = min(1.0, max(1.0, number + 1 - WHOLE_STEPS * sampling.warmup) ** -FADING)
            part.transitions(f, 1, 1)
            part.step(gain, fixed=True, inform=number < OFTEN or number % SELDOM == 0)
            if number >= sampling.warmup:
                posterior.add()
    except KeyboardInterrupt:
        if posterior.count < 4:
            raise
        message = f"sampling was interrupted after {posterior.count} draws of each chain"
    posterior.settle()
    seconds = time.perf_counter() - begun
    converged = Convergence(not message, np.zeros(0), count, message, seconds)
    if family.name == "multinomial":
        return _multinomial(design, part, posterior, networks, f, converged)
    return _scalar(design, family, part, posterior, networks, nAGQ, control, converged)


def _begin(part: SampledPart, members: Sequence[SampledPart]) -> None:
    """Start where the members ended, on average; chains from the prior there."""
    if not members:
        return
    part.covariances = [np.mean(each, axis=0) for each in zip(*(m.covariances for m in members), strict=True)]
    part.beta = np.mean([m.beta for m in members], axis=0)
    phi = np.mean(np.stack([np.asarray(m.phi, dtype=np.float64) for m in members]), axis=0)
    part.phi = part.likelihood.phi = phi if phi.ndim else float(phi)
    part.b = part.prior().draw(len(part.b), part.generator)


class Posterior:
    """What is kept of the draws, and the averages of the parameters over them.

    Parameters
    ----------
    part : SampledPart
    draws : int
        How many there will be.
    """

    def __init__(self, part: SampledPart, draws: int) -> None:
        self.part, self.count = part, 0
        self.terms: Sequence[RandomTerm] = part.design.random
        C = part.n_classes
        numbers = part.effects.size * C * len(part.b) * draws
        self.every = max(1, -(-numbers // KEPT_NUMBERS))
        self._kept: list[list[NDArray[np.float32]]] = [[] for _ in self.terms]
        self._sums = [np.zeros((t.n_levels, t.width, C)) for t in self.terms]
        self._means = [np.zeros((t.n_levels, t.width, C)) for t in self.terms]
        self._products = [np.zeros((t.n_levels, t.width, t.width, C)) for t in self.terms]
        self._variances: list[FloatArray] = []
        self._watched: list[FloatArray] = []
        chosen = np.random.default_rng(0).permutation(part.effects.size)[:WATCHED]
        self._watch = np.sort(chosen)
        self._beta = np.zeros_like(part.beta)
        self._covariances = [np.zeros_like(covariance) for covariance in part.covariances]
        self._phi: FloatArray = np.zeros_like(np.asarray(part.phi, dtype=np.float64))
        self._accept = 0.0

    def add(self) -> None:
        """Take in the present draws and parameters."""
        part = self.part
        b = part.b - part.b.mean(dim=2, keepdim=True) if part.n_classes > 1 else part.b
        self._variances.append(
            np.concatenate(
                [(drawn**2).mean(dim=1).reshape(len(part.b), -1).cpu().numpy() for drawn in part.effects.split(part.b)],
                axis=1,
            )
        )
        self._watched.append(b[:, self._watch].cpu().numpy())
        means = part.effects.split(part.conditional_mean()[None])
        for k, drawn in enumerate(part.effects.split(b)):
            values = drawn.cpu().numpy()
            self._sums[k] += values.mean(axis=0)
            self._means[k] += means[k][0].cpu().numpy()
            self._products[k] += np.einsum("sqdc,sqec->qdec", values, values) / len(values)
            if self.count % self.every == 0:
                self._kept[k].append(values.astype(np.float32))
        self._beta += part.beta
        self._phi += part.phi
        self._accept += part.accept
        for total, covariance in zip(self._covariances, part.covariances, strict=True):
            total += covariance
        self.count += 1

    def settle(self) -> None:
        """Give the part the averages of the parameters over the draws."""
        part = self.part
        part.beta = self._beta / self.count
        part.covariances = [total / self.count for total in self._covariances]
        phi = np.asarray(self._phi / self.count)
        part.phi = part.likelihood.phi = phi if phi.ndim else float(phi)

    @property
    def b(self) -> tuple[FloatArray, ...]:
        """Posterior means (q_k, d_k, C), with sum zero over several classes."""
        out = [total / self.count for total in self._means]
        return tuple(b - b.mean(axis=2, keepdims=True) if b.shape[2] > 1 else b for b in out)

    @property
    def covariances(self) -> tuple[FloatArray, ...]:
        """Posterior covariances (q_k, d_k, d_k, C) of each level's effects in each class."""
        out = []
        for total, products in zip(self._sums, self._products, strict=True):
            mean = total / self.count
            out.append(products / self.count - mean[:, :, None] * mean[:, None])
        return tuple(out)

    def draws(self) -> Draws:
        """The draws, with R-hat and the effective sample size."""
        part = self.part
        variances = np.stack(self._variances, axis=1)
        watched = np.stack(self._watched, axis=1).reshape(*variances.shape[:2], -1)
        watched = watched[:, :, np.ptp(watched, axis=(0, 1)) > 0]
        mixing, sizes = np.append(rhat(variances), rhat(watched)), np.append(ess(variances), ess(watched))
        return Draws(
            b=tuple(np.stack(kept, axis=1) for kept in self._kept),
            variances=variances,
            names=tuple(variance_names(self.terms, part.design.classes, part.n_classes)),
            rhat=float(np.nanmax(mixing)),
            ess=float(np.nanmin(sizes)),
            divergences=part.divergences,
            accept=self._accept / self.count,
            sampler=part.sampler,
            n_chains=len(part.b),
            n_draws=self.count,
        )


def variance_names(terms: Sequence[RandomTerm], classes: Sequence[str], n_classes: int) -> list[str]:
    """``"var(group.column)"``, with the class where there are several."""
    of_class = [""] if n_classes == 1 else [f".{name}" for name in classes]
    return [f"var({t.group}.{column}{name})" for t in terms for column in t.column_names for name in of_class]


def _multinomial(
    design: Design,
    part: SampledPart,
    posterior: Posterior,
    networks: Networks | None,
    f: FloatArray,
    convergence: Convergence,
) -> MultinomialEstimates:
    b, C = posterior.b, part.n_classes
    eta = f + design.X @ part.beta
    for term, effects in zip(design.random, b, strict=True):
        eta += np.einsum("id,idc->ic", term.columns, effects[term.codes])
    contrast = np.eye(C) - 1.0 / C
    covariance = None
    if design.p:
        inverse = np.stack([np.linalg.pinv(part.fixed_information(c)) for c in range(C)])
        covariance = np.einsum("ac,cij,bc->iajb", contrast, inverse, contrast).reshape(design.p * C, design.p * C)
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
        draws=posterior.draws(),
        convergence=convergence,
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
