"""``glmernn``: generalized linear mixed models, as lme4's ``glmer``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.api import check_control, progress_bar, report_design
from pylmernn.engines import pirls
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import with_networks
from pylmernn.engines.generalized_methods import GENERALIZED_METHODS, method_for
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.families import Family, FamilyError, read_family
from pylmernn.fit.generalized import GeneralizedFit
from pylmernn.fit.multinomial import MultinomialFit
from pylmernn.fit.state import fit_messages
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError

if TYPE_CHECKING:
    from pylmernn.fit.sequences import SequenceFit
    from pylmernn.fit.varying_generalized import GeneralizedVaryingFit
    from pylmernn.fit.varying_several_generalized import SeveralGeneralizedFit

#: Linear predictors beyond this hold probabilities or means that no data can tell from 0, 1 or infinity.
SEPARATED = 15.0
#: The same for links whose probabilities reach 0 and 1 sooner.
STEEP, PROBIT_SEPARATED = ("probit", "cloglog"), 5.0
#: Families with estimates that can run off, and what a column then does.
SEPARABLE = {
    "binomial": "successes from failures without error",
    "ordinal": "classes apart without error",
    "poisson": "rows of zeros from the others without error",
    "negative.binomial": "rows of zeros from the others without error",
}


def glmernn(
    formula: str,
    data: Any,
    family: str | Family = "binomial",
    nAGQ: int = 1,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    nets: Mapping[str, Any] | None = None,
    method: str = "auto",
    control: Control | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: bool = False,
    sequence: str | None = None,
    time: str | None = None,
) -> GeneralizedFit | MultinomialFit | GeneralizedVaryingFit | SeveralGeneralizedFit | SequenceFit:
    """Fit a generalized linear mixed model by maximum likelihood, with or without networks in its linear predictor.

    Parameters
    ----------
    formula : str
        lme4's grammar and networks, ``nn(x1, x2)``, also with parameters that vary by group, ``(nn.last | g)``, by
        several factors, ``(nn.last | culture/person)``, or beside ordinary bars, ``(nn.last | person) + (1 | school)``,
        as in :func:`pylmernn.lmernn`; by several they take Laplace's approximation, and the multinomial family has one
        such bar alone. A binomial response is 0/1, logical, a factor (its first level is failure),
        ``cbind(successes, failures)``, or a proportion with the numbers of trials as weights.
    data : DataFrame
        pandas, polars, a dict of arrays, or anything narwhals reads. Never changed.
    family : str, default "binomial"
        "binomial" (links logit, probit, cloglog, cauchit), "poisson" (log), "Gamma" (inverse, log, identity),
        "inverse.gaussian" (1/mu^2, log, inverse), "negative.binomial" (log), "beta" (logit, probit, cloglog); a link
        other than the first is written "binomial(probit)". Dispersions are estimated with the other parameters: Var(y)
        is ``phi mu^2 / weight`` for Gamma, ``phi mu^3 / weight`` for inverse Gaussian, ``mu + mu^2 / phi`` for negative
        binomial, ``mu (1 - mu) / (1 + phi)`` for beta. "ordinal" is the cumulative logit model for ordered factors,
        ``P(y <= k) = logistic(phi_k - eta)``, whose thresholds phi stand for the intercept; "multinomial" (softmax) is
        for unordered classes and fitted by method "mcem". :class:`pylmernn.UserFamily` makes a family of a log-density.
    nAGQ : int, default 1
        1 is Laplace's approximation; more is adaptive Gauss-Hermite quadrature, for one grouping factor with one or
        several columns; 0 is Laplace's approximation with beta found together with the modes, faster and rougher. The
        log-likelihood has all its constants for every value and can be compared; lme4's cannot. Not for multinomial
        models, which are sampled.
    weights : str or array, optional
        Prior weights; for proportions the numbers of trials. Of classes a weight a counts a row a times; weights that
        are not whole numbers are sampled by the No-U-Turn sampler.
    offset : str or array, optional
        Known part of the linear predictor.
    subset, na_action, contrasts, nets
        As in :func:`pylmernn.lmernn`.
    method : {"auto", "pirls", "alternating", "lmmnn", "mcem", "nme"}
        "pirls" fits models without networks. With networks: "alternating" trains them between steps that find the
        random effects and their variances on all rows, with quadrature over each row's random part in the loss;
        "lmmnn" is the quadrature likelihood of Simchoni & Rosset (2023, eq. 38) for one grouping factor, adaptive, or
        with their five fixed nodes by ``Training(preset="faithful")``; "mcem" is the Monte Carlo EM algorithm of
        Tschalzev et al. (2024), see :class:`pylmernn.engines.sampling_options.Sampling`, which also fits multinomial
        models with or without networks; "nme" lets parameters of a network vary by group, after Woerner et al. (2023).
        "auto" chooses.
    control : Control, optional
        Tolerances of the search, settings of training and of sampling.
    device : {"auto", "cpu", "cuda"}
        Where networks are trained and effects sampled; "auto" is CUDA where there is one.
    seed : int, optional
        Of training and sampling.
    progress : bool, default False
        Show a progress bar on the standard error stream.
    sequence, time : str, optional
        For ``family="crf"``, a conditional random field over states, ``"state ~ nn(x1, x2) + (crf | dyad)"``: the
        columns that say which sequence a row belongs to and in which order its rows are (by default that of the data).
        The network scores the states; transitions between them are shared, or vary around shared ones where
        ``(crf | dyad)`` stands, and so may the network, ``(nn.last | dyad)``; their covariances are estimated where
        groups are many, else variances only.

    Returns
    -------
    GeneralizedFit, or MultinomialFit for ``family="multinomial"``, or GeneralizedVaryingFit where a network varies by
    one bar alone, SeveralGeneralizedFit by several or beside ordinary ones, or SequenceFit for ``family="crf"``

    Raises
    ------
    DesignError
        For input that makes no mixed model, a response outside the family, or quadrature over several factors.

    Warns
    -----
    UserWarning
        For a singular fit, failed convergence, separation, dropped columns of a rank deficient X, or predictors on
        very different scales.

    Notes
    -----
    The curvature in Laplace's approximation is the expected information for binomial and Poisson models, as in lme4,
    and the observed information for families with a dispersion, as in glmmTMB. They agree for canonical links.

    Examples
    --------
    >>> import pandas as pd
    >>> import pylmernn
    >>> data = pd.DataFrame({"k": [2, 3, 4, 0, 3, 1, 3, 3, 2, 0], "n": [14, 12, 9, 5, 22, 18, 21, 22, 16, 16]})
    >>> data["x"], data["herd"] = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2], list("aaaabbbccc")
    >>> fit = pylmernn.glmernn("cbind(k, n - k) ~ x + (1 | herd)", data)
    >>> round(float(fit.logLik()), 3)
    -17.164
    """
    if family == "crf":
        from pylmernn.sequences import fit_sequences

        if weights is not None or offset is not None:
            raise DesignError("family 'crf' takes neither weights nor an offset.")
        return fit_sequences(
            formula, data, sequence=sequence, time=time, method=method, subset=subset, na_action=na_action,
            contrasts=contrasts, nets=nets, control=check_control(control, device, seed), progress=progress,
        )  # fmt: skip
    if sequence is not None or time is not None:
        raise DesignError("sequence and time are for family='crf', states in sequences.")
    try:
        chosen = read_family(family)
    except FamilyError as error:
        raise DesignError(str(error)) from None
    if isinstance(nAGQ, bool) or nAGQ != int(nAGQ) or nAGQ < 0:
        raise DesignError(f"nAGQ is {nAGQ}: use a whole number, 0 or more.")
    control = check_control(control, device, seed)
    design, frame = build(
        formula,
        data,
        weights=weights,
        offset=offset,
        subset=subset,
        na_action=na_action,
        contrasts=contrasts,
        nets=nets,
        family=chosen.name,
    )
    check_design(design, chosen)
    method = method_for(design, chosen, method, (control or Control()).dense_limit)
    report_design(design)
    try:
        with progress_bar(progress, method, "glmernn") as callback:
            estimates = GENERALIZED_METHODS[method](design, chosen, int(nAGQ), control, callback)
    except np.linalg.LinAlgError as error:
        raise DesignError(
            f"the model cannot be fitted: {error}; look at the response, the link and the scales."
        ) from None
    call: dict[str, Any] = {
        "formula": formula, "data": data, "family": str(chosen), "nAGQ": nAGQ, "weights": weights, "offset": offset,
        "subset": subset, "na_action": na_action, "contrasts": contrasts, "nets": nets, "method": method,
        "control": control, "device": device, "seed": seed,
    }  # fmt: skip
    if design.varying:
        from pylmernn.fit.varying_generalized import GeneralizedVaryingFit
        from pylmernn.fit.varying_several_generalized import SeveralGeneralizedFit

        alone = len(design.varying) == 1 and not design.random
        return (GeneralizedVaryingFit if alone else SeveralGeneralizedFit)(design, estimates, frame, call)
    multinomial = isinstance(estimates, MultinomialEstimates)
    for message in (*fit_messages(estimates), *([] if multinomial else separation(design, estimates))):
        warnings.warn(message, UserWarning, stacklevel=2)
    if multinomial:
        return MultinomialFit(design, estimates, frame, call)
    if estimates.networks is not None:
        design = with_networks(design, estimates.networks.fitted)
    return GeneralizedFit(design, estimates, frame, call)


def check_design(design: Design, family: Family) -> None:
    """Raise DesignError where the terms or the response are not for this family."""
    for term in design.random:
        if term.covariance not in ("us", "diag"):
            raise DesignError(f"{term.label}: glmernn fits bars such as (x | group) only; use lmernn for {term.label}.")
    if family.name == "multinomial" and design.varying and design.weights is not None:
        raise DesignError("weights: a multinomial model whose network varies by group takes none; repeat the rows.")
    weights = np.ones(design.n) if design.weights is None else design.weights
    try:
        family.check(design.y, weights, design.response)
    except FamilyError as error:
        raise DesignError(str(error)) from None


def separation(design: Design, estimates: pirls.GeneralizedEstimates) -> list[str]:
    """A warning where a coefficient has run off: its column separates successes from failures, or has zeros only."""
    family = estimates.family
    if family is None or family.name not in SEPARABLE:
        return []
    spread = np.array([float(column.max() - column.min()) or 1.0 for column in design.X.T])
    far = np.abs(estimates.beta) * spread > (PROBIT_SEPARATED if family.link.name in STEEP else SEPARATED)
    unknown = np.sqrt(np.diagonal(estimates.unscaled_vcov)) * spread > SEPARATED
    if family.categorical and estimates.eta is not None:  # where thresholds run off too, errors are small
        likely = family.probabilities(estimates.eta, estimates.phi)[np.arange(design.n), design.y.astype(np.intp)]
        unknown |= bool(likely.min() > 0.99)
    names = [name for name, off in zip(design.fixed_names, far & unknown, strict=True) if off]
    if not names:
        return []
    return [f"separation: {', '.join(names)} tells {SEPARABLE[family.name]}, so its estimate has no limit"]
