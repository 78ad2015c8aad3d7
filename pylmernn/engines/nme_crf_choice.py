"""Which variances of a sequence model pay: Akaike's criterion on the marginal likelihood, the network as it is.

A bar has a full covariance matrix or variances at first. One variance for all numbers of a kind (weights of a layer,
its biases, transitions) takes their place where the criterion is lower. Many weak deviations then stand against one
number, and not against dozens. At last a bar whose variances are all zero, the model without it, is compared. Variances
can only rise from zero, so by chance the likelihood gains about half of what free parameters gain, and the correction
that makes the criterion unbiased is 1 of the deviance for each variance there in place of 2 (Hughes & King, 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from pylmernn.engines.nme_crf_model import GroupPosterior, by_kind

if TYPE_CHECKING:
    from pylmernn.engines.nme_crf import SequenceTraining

Tensor = torch.Tensor
Form = Literal["full", "diagonal", "common", "zero"]

PRICE, ONE_SIDED = 2.0, 1.0  # of the deviance for each variance: between forms, and beside zero


def choose(training: SequenceTraining) -> tuple[float, str]:
    """Settle, try fewer variances for each bar, then none, bar after bar as long as the criterion falls.

    Returns
    -------
    deviance : float
        -2 log-likelihood.
    message : str
        Empty where EM has converged.
    """
    found = training.settle()
    for term, size in enumerate(training.model.sizes):
        if size > count_variances(("common", "common"), training.model.sizes, training.labels)[term] > 0:
            found = _better(training, found, [(term, "common")], PRICE)[0]
    falls = True
    while falls:
        bars = [k for k, size in enumerate(training.model.sizes) if size and training.forms[k] != "zero"]
        found, falls = _better(training, found, [(term, "zero") for term in bars], ONE_SIDED)
    return found


def _better(
    training: SequenceTraining, found: tuple[float, str], changes: Sequence[tuple[int, Form]], price: float
) -> tuple[tuple[float, str], bool]:
    """Make the change of a bar's form that lowers the criterion most, if one does."""

    def criterion() -> float:
        return found[0] + price * sum(count_variances(training.forms, training.model.sizes, training.labels))

    before, state = list(training.forms), training.state()
    best: tuple[float, Any] = (criterion(), (found, before, state))
    for term, form in changes:
        training.restore(state)
        training.forms = [form if k == term else each for k, each in enumerate(before)]
        start(training, term)
        found = training.settle()
        if criterion() < best[0]:
            best = (criterion(), (found, training.forms, training.state()))
    found, training.forms, state = best[1]
    training.restore(state)
    return found, training.forms != before


def start(training: SequenceTraining, term: int) -> None:
    """Bring Sigma to the form of a bar: the mean of the variances of each kind, or zero, where EM leaves it."""
    sizes, posterior = training.model.sizes, training.posterior
    first = sum(sizes[:term])
    inside = torch.zeros(training.model.size, dtype=torch.bool)
    inside[first : first + sizes[term]] = True
    factor, v = training.factor.masked_fill(inside[:, None] | inside, 0.0), training.v
    if training.forms[term] == "common":
        (kind,) = kinds(["common"], [sizes[term]], training.labels[first : first + sizes[term]])
        assert kind is not None
        variances = by_kind((training.factor[inside] ** 2).sum(1), kind)
        factor = factor + torch.diag(torch.zeros(len(inside)).double().masked_scatter(inside, variances.sqrt()))
    u = torch.linalg.lstsq(factor, v.T, driver="gelsd").solution.T
    training.factor, training.posterior = factor, GroupPosterior(u, posterior.variances, posterior.deviance)


def kinds(forms: Sequence[Form], sizes: Sequence[int], labels: Sequence[str]) -> list[Tensor | None]:
    """Of the numbers of each bar, those that have a variance in common (size,); None for a full matrix."""
    found: list[Tensor | None] = []
    first = 0
    for form, size in zip(forms, sizes, strict=True):
        names = [label.partition("[")[0] for label in labels[first : first + size]]
        own = torch.tensor([names.index(name) for name in names], dtype=torch.int64)
        found.append(None if form == "full" else own if form == "common" else torch.arange(size))
        first += size
    return found


def count_variances(forms: Sequence[Form], sizes: Sequence[int], labels: Sequence[str]) -> list[int]:
    """Variances and covariances of each bar."""
    counts = []
    for form, size, kind in zip(forms, sizes, kinds(forms, sizes, labels), strict=True):
        full = size * (size + 1) // 2
        counts.append(0 if form == "zero" else full if kind is None else len(kind.unique()))
    return counts
