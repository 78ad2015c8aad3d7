"""What R asks of a network that varies by group after the fit: variances, importance and curves.

What needs torch is imported where it is used: linear models go through the same door.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.formula.design import Design
from pylmernn.rprotocol import Reader, read_design
from pylmernn.rreplies import Reply, answer
from pylmernn.rvarying import read_varying

if TYPE_CHECKING:
    from pylmernn.engines.nme_variance import GroupRows


def read_whole(meta: Mapping[str, Any], read: Reader) -> tuple[Design, Any, GroupRows | None]:
    """A fit with the rows that it was made of, and those from which groups were learnt later.

    ``meta`` has what :func:`~pylmernn.rprotocol.read_design` and :func:`~pylmernn.rvarying.read_varying` take, the
    former in ``meta["design"]``; ``exact``, and ``added``, the number of later rows. The buffers are the design, the
    fit, its linear predictors, then of later rows X, inputs, codes and weights.
    """
    from pylmernn.engines.nme_variance import GroupRows

    _, design = read_design(meta["design"], read)
    estimates = read_varying(meta, read)
    outputs = estimates.networks.specs[0].outputs
    fitted = np.array(read.vector() if outputs == 1 else read.matrix(design.n, outputs))
    beta = np.zeros(design.p if outputs == 1 else (design.p, outputs))  # only their number counts here
    estimates = dataclasses.replace(estimates, exact=meta["exact"], fitted=fitted, beta=beta)
    m = meta["added"]
    if not m:
        return design, estimates, None
    X, inputs = read.matrix(m, design.p), read.matrix(m, design.nets[0].inputs.shape[1])
    return design, estimates, GroupRows(X, np.ascontiguousarray(inputs), read.integers(), np.array(read.vector()))


@answer
def varying_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variances of the linear predictors of ``meta["rows"]`` new rows, and the noise of a new response beyond them.

    After the fit (:func:`read_whole`) come X, inputs and codes (-1: not known) of the rows, none missing.
    ``meta["deviations"]`` says whether those of the groups belong to the prediction.
    """
    from pylmernn.engines.nme_variance import GroupRows, errors_of

    design, estimates, added = read_whole(meta, read)
    m = meta["rows"]
    X, inputs = read.matrix(m, design.p), np.ascontiguousarray(read.matrix(m, design.nets[0].inputs.shape[1]))
    errors = errors_of(design, estimates, added)
    found = errors.variance(GroupRows(X, inputs, read.integers(), np.ones(m)), meta["deviations"])
    return {"noise": errors.calibration.noise}, {"variance": found}


@answer
def varying_importance(meta: dict[str, Any], read: Reader) -> Reply:
    """Permutation importance of the inputs: ``meta`` has ``n_repeats`` and ``seed`` beside the fit."""
    from pylmernn.fit.varying_networks import importance

    design, estimates, _ = read_whole(meta, read)
    table = importance(design, estimates, design.varying[0].codes, meta["n_repeats"], meta["seed"])
    header = {"network": table["network"].tolist(), "input": table["input"].tolist()}
    return header, {"importance": table["importance"].to_numpy(), "se": table["se"].to_numpy()}


@answer
def varying_partial_dependence(meta: dict[str, Any], read: Reader) -> Reply:
    """The mean of f against the inputs ``meta["inputs"]``, for each of the groups whose codes are in ``meta["codes"]``.

    Code -1 is the generic network. The arrays are those of the tables, one below the other, and ``group``, the codes;
    factors come as level codes, classes as names in the header.
    """
    from pylmernn.fit.effects import partial_dependence
    from pylmernn.fit.varying_networks import networks_of

    design, estimates, _ = read_whole(meta, read)
    tables = []
    for code in meta["codes"]:
        networks = networks_of(estimates, None if code < 0 else code)
        tables.append(partial_dependence(design, networks, meta["inputs"], {}, meta["grid_size"], meta["seed"]))
    header = {"class": [name for table in tables for name in table.pop("class")]} if "class" in tables[0] else {}
    arrays = {str(name): np.concatenate([table[name] for table in tables]) for name in tables[0].columns}
    return header, {**arrays, "group": np.repeat(np.array(meta["codes"], dtype=float), len(tables[0]))}
