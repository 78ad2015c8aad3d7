"""Which variances of a sequence model pay: Akaike's criterion on the marginal likelihood, the network as it is.

A bar has a full covariance matrix or variances at first. One variance for all numbers of a kind (weights of a layer,
its biases, transitions) takes their place where the criterion is lower. Many weak deviations then stand against one
number, and not against dozens. At last a bar whose variances are all zero, the model without it, is compared. Variances
can only rise from zero, so by chance the likelihood gains about half of what free parameters gain, and the correction
that makes the criterion unbiased is 1 of the deviance for each variance there in place of 2 (Hughes & King, 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from pylmernn.engines.nme_crf_model import GroupPosterior, by_kind

if TYPE_CHECKING:
    from pylmernn.engines.nme_crf import SequenceTraining

Tensor = torch.Tensor
Form = Literal["full", "diagonal", "common", "zero"]

PRICE, ONE_SIDED = 2.0, 1.0  # of the deviance for each variance: between forms, and beside zero


def choose(training: SequenceTraining) -> tuple[float, str]:
    """Settle, try one variance for the numbers of a kind, then none, bar after bar as long as the criterion falls.

    None has to be better than the first form of a bar, too. Where it is not, but better than one variance for all, few
    of many numbers vary, and the bar gets its first form back.

    Returns
    -------
    deviance : float
        -2 log-likelihood.
    message : str
        Empty where EM has converged.
    """
    first, found, lost = list(training.forms), training.settle(), [0.0, 0.0]
    own, fewer = counts(training, first), counts(training, ["common", "common"])
    for term in range(len(first)):
        if fewer[term] < own[term]:
            now = found[0]
            found, _ = _better(training, found, [(term, "common")], lambda: PRICE * sum(counts(training)))
            lost[term] = found[0] - now if training.forms[term] == "common" else 0.0

    def one_sided() -> float:
        each = zip(counts(training), own, lost, strict=True)
        return ONE_SIDED * sum(min(now, most - gone) if now else 0.0 for now, most, gone in each)

    while True:
        bars = [term for term, count in enumerate(counts(training)) if count]
        before = list(training.forms)
        found, zeros = _better(training, found, [(term, "zero") for term in bars], one_sided)
        if training.forms == before:
            break
    for term, deviance in zip(bars, zeros, strict=True):
        if training.forms[term] == "common" and deviance < found[0] + ONE_SIDED * fewer[term]:
            training.forms[term] = first[term]
            found = training.settle()
    return found


def _better(
    training: SequenceTraining,
    found: tuple[float, str],
    changes: Sequence[tuple[int, Form]],
    price: Callable[[], float],
) -> tuple[tuple[float, str], list[float]]:
    """Make the change of a bar's form that lowers the criterion most, if one does; also returns all their deviances."""
    before, state = list(training.forms), training.state()
    deviances: list[float] = []
    best: tuple[float, Any] = (found[0] + price(), (found, before, state))
    for term, form in changes:
        training.restore(state)
        training.forms = [form if k == term else each for k, each in enumerate(before)]
        start(training, term)
        tried = training.settle()
        deviances.append(tried[0])
        if tried[0] + price() < best[0]:
            best = (tried[0] + price(), (tried, training.forms, training.state()))
    found, training.forms, state = best[1]
    training.restore(state)
    return found, deviances


def counts(training: SequenceTraining, forms: Sequence[Form] | None = None) -> list[int]:
    """Variances and covariances of each bar in these forms, by default those of now."""
    return count_variances(training.forms if forms is None else forms, training.model.sizes, training.labels)


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
