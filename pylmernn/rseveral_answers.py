"""What R asks of a network that varies by several bars after the fit: variances, importance and curves.

What needs torch is imported where it is used: linear models go through the same door.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.formula.design import Design
from pylmernn.rprotocol import Reader, read_design
from pylmernn.rreplies import Reply, answer
from pylmernn.rseveral import read_several

if TYPE_CHECKING:
    from pylmernn.engines.nme_several import SeveralEstimates
    from pylmernn.engines.nme_several_variance import SeveralRows


def read_whole(meta: Mapping[str, Any], read: Reader) -> tuple[Design, SeveralEstimates, SeveralRows | None]:
    """A fit with the rows that it was made of, and those from which levels were learnt later.

    ``meta`` has what :func:`~pylmernn.rprotocol.read_design` and :func:`~pylmernn.rseveral.read_several` take, the
    former in ``meta["design"]``; ``exact``, and ``added``, the number of later rows. The buffers are the design, the
    fit, its fitted values, then later rows (:func:`read_rows`), of generalized models with what each tells of its
    linear predictor.
    """
    _, design = read_design(meta["design"], read)
    estimates = read_several(meta, read)
    beta = np.zeros(design.p)  # only its length counts here
    estimates = dataclasses.replace(estimates, exact=meta["exact"], fitted=np.array(read.vector()), beta=beta)
    varying = tuple(  # levels that were learnt later too
        dataclasses.replace(term, levels=np.arange(len(bar.effects)))
        for term, bar in zip(design.varying, estimates.varying, strict=True)
    )
    added = read_rows(design, meta["added"], read) if meta["added"] else None
    if added is not None and meta.get("family"):
        added = dataclasses.replace(added, weights=read.vector().copy())
    return dataclasses.replace(design, varying=varying), estimates, added


def read_rows(design: Design, m: int, read: Reader) -> SeveralRows:
    """M rows: X, inputs, codes of each bar (-1: none), those of the network first, and columns of each ordinary bar."""
    from pylmernn.engines.nme_several_variance import SeveralRows

    X, inputs = read.matrix(m, design.p), np.ascontiguousarray(read.matrix(m, design.nets[0].inputs.shape[1]))
    codes = tuple(read.integers() for _ in (*design.varying, *design.random))
    columns = tuple(np.ascontiguousarray(read.matrix(m, term.width)) for term in design.random)
    return SeveralRows(X, inputs, codes, columns, np.ones(m))


@answer
def several_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variances of the means of ``meta["rows"]`` new rows, and the noise of a new response beyond them.

    After the fit (:func:`read_whole`) come the rows (:func:`read_rows`), no value missing. ``meta["include"]`` says
    which bars belong to the prediction.
    """
    from pylmernn.engines.nme_several_variance import errors_of

    design, estimates, added = read_whole(meta, read)
    errors = errors_of(design, estimates, added)
    found = errors.variance(read_rows(design, meta["rows"], read), meta["include"])
    return {"noise": errors.calibration.noise}, {"variance": found}


@answer
def several_importance(meta: dict[str, Any], read: Reader) -> Reply:
    """Permutation importance of the inputs: ``meta`` has ``n_repeats`` and ``seed`` beside the fit."""
    from pylmernn.fit.several_views import by_cells
    from pylmernn.fit.varying_networks import importance

    design, estimates, _ = read_whole(meta, read)
    one, codes = by_cells(estimates, [term.codes for term in design.varying])
    table = importance(design, one, codes, meta["n_repeats"], meta["seed"])
    header = {"network": table["network"].tolist(), "input": table["input"].tolist()}
    return header, {"importance": table["importance"].to_numpy(), "se": table["se"].to_numpy()}


@answer
def several_partial_dependence(meta: dict[str, Any], read: Reader) -> Reply:
    """The mean of f against the inputs ``meta["inputs"]``, for each of the levels whose codes are in ``meta["codes"]``.

    They are levels of bar number ``meta["bar"]`` of the network; code -1 is the generic network. The arrays are those
    of the tables, one below the other, and ``group``, the codes; factors come as level codes.
    """
    from pylmernn.fit.effects import partial_dependence
    from pylmernn.fit.several_views import levels_of_bars, networks_by
    from pylmernn.fit.varying_networks import networks_of

    design, estimates, added = read_whole(meta, read)
    own = networks_by(estimates, levels_of_bars(design, design.varying[meta["bar"]].group, added))
    codes: Sequence[int] = meta["codes"]
    tables = []
    for code in codes:
        networks = estimates.networks if code < 0 else networks_of(own, code)
        tables.append(partial_dependence(design, networks, meta["inputs"], {}, meta["grid_size"], meta["seed"]))
    arrays = {str(name): np.concatenate([table[name] for table in tables]) for name in tables[0].columns}
    return {}, {**arrays, "group": np.repeat(np.array(codes, dtype=float), len(tables[0]))}
