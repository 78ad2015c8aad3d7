"""The engine that suits the random terms: bars alone, with Gaussian processes, or one field of many locations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pylmernn.engines import iterative, profiled, spatialfit, vecchia, vecchiafit
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.profiled import Problem
from pylmernn.engines.spatialfit import SpatialProblem
from pylmernn.formula.design import Design

FloatArray = NDArray[np.float64]


def has_fields(design: Design) -> bool:
    """Whether a random term is a Gaussian process."""
    return any(term.covariance == "gp" for term in design.random)


def wants_vecchia(design: Design, control: Control) -> bool:
    """Whether the design is one field with more locations than an exact factor is offered for.

    Raises
    ------
    ValueError
        Where so many locations stand beside other random terms.
    """
    count = sum(term.n_levels for term in design.random if term.covariance == "gp")
    if count <= control.dense_limit:
        return False
    if not vecchia.offered(design):
        raise ValueError(
            f"the model has {count} locations beside other random terms, more than the {control.dense_limit} that an "
            "exact factor is offered for: round the coordinates, or raise dense_limit if memory and patience allow."
        )
    return True


def check_features(design: Design) -> None:
    """Raise ValueError where method "lmmnn" has learned the features of a term, which theta says nothing of."""
    for term in design.random:
        if term.covariance == "embed" and (term.locations is not None or term.options.get("learned")):
            raise ValueError(
                f"{term.label}: its features were learned by method 'lmmnn' together with the networks, so this cannot "
                "be computed from the covariance alone; estimates and predictions are there."
            )


def with_learned(design: Design) -> Design:
    """The design after method "lmmnn": terms ``embed(1 | g)`` are marked as learned."""
    random = tuple(
        replace(t, options={**t.options, "learned": True}) if t.covariance == "embed" else t for t in design.random
    )
    return replace(design, random=random)


def problem_for(design: Design, REML: bool, device: str = "cpu") -> Problem | SpatialProblem:
    """The design ready to be evaluated; both kinds offer start, search, at and modes."""
    check_features(design)
    return (SpatialProblem if has_fields(design) else Problem)(design, REML, device)


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Estimates:
    """Estimate a linear mixed model; arguments as in :func:`pylmernn.engines.profiled.fit`.

    Raises
    ------
    ValueError
        If ``start`` has the wrong length.
    """
    control = control or Control()
    if wants_vecchia(design, control):
        return vecchiafit.fit(design, REML, control, start, callback)
    problem = problem_for(design, REML, control.device)
    if isinstance(problem, SpatialProblem):
        return spatialfit.fit(problem, control, start, callback)
    return profiled.estimate(problem, control, start, callback)


def fit_by_size(
    design: Design, REML: bool, control: Control, start: FloatArray | None = None, limit: int = 0
) -> Estimates:
    """:func:`fit`, or the iterative engine where more than ``limit`` effects of bars would be factored together."""
    if not has_fields(design) and factored_together(design, limit) > limit:
        return iterative.fit(design, REML, control, start)
    return fit(design, REML, control, start)


def factored_together(design: Design, limit: int) -> int:
    """Random effects of bars that an exact dense factor holds; where their number is beyond the limit, of those that
    rows tie together.
    """
    plan = profiled.layout(design.random)
    terms = [design.random[t[0]] for t in plan.factors]
    width = [sum(design.random[i].width for i in t) for t in plan.factors]
    total = sum(term.n_levels * d for term, d in zip(terms[1:], width[1:], strict=True))
    if total <= limit:
        return total
    first = np.cumsum([0, *(term.n_levels for term in terms)])
    rows = np.concatenate([terms[0].codes.astype(np.int64)] * (len(terms) - 1))
    columns = np.concatenate([first[k] + terms[k].codes for k in range(1, len(terms))])
    graph = sp.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(first[-1],) * 2).tocsr()
    labels = sp.csgraph.connected_components(graph, directed=False)[1]
    weight = np.repeat([0, *width[1:]], [term.n_levels for term in terms])
    return int(np.bincount(labels, weights=weight).max())


def devfun(design: Design, REML: bool = True) -> Callable[[FloatArray], float]:
    """The profiled objective as a function of theta (m,); as :func:`pylmernn.engines.profiled.devfun`."""
    if not has_fields(design):
        return profiled.devfun(design, REML)
    problem = SpatialProblem(design, REML)
    return lambda theta: problem.search_value(spatialfit.to_search(problem, np.asarray(theta, dtype=np.float64)))
