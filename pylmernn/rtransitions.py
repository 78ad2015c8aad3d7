"""The Python half of the R door for transition probabilities of sequences; see :mod:`pylmernn.rdoor`."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.rprotocol import Reader
from pylmernn.rreplies import Reply, answer
from pylmernn.rsequences import read_new_sequences, read_sequence_fit

if TYPE_CHECKING:
    from pylmernn.fit.transitions import TransitionVerbs


def _read_verbs(meta: Mapping[str, Any], read: Reader) -> TransitionVerbs:
    """Groups as something that answers the verbs; these need no network.

    ``meta`` has ``classes``, ``levels``, ``moves`` (whether transitions vary) and ``size`` (D). The buffers are
    transitions (S, S), and where something varies effects (q, D), variances (D, D, q) and factor (D, D).
    """
    from pylmernn.fit.transitions import TransitionVerbs

    classes, levels, D = meta["classes"], meta["levels"], meta["size"]
    found, verbs = SimpleNamespace(classes=tuple(classes), moves=meta["moves"]), TransitionVerbs()
    found.transitions = np.ascontiguousarray(read.matrix(len(classes), len(classes)))
    if D:
        found.effects = np.ascontiguousarray(read.matrix(len(levels), D))
        found.variances = np.ascontiguousarray(read.array((D, D, len(levels))).transpose(2, 0, 1))
        found.factor = np.ascontiguousarray(read.matrix(D, D))
    verbs.estimates = found  # type: ignore[assignment]
    verbs.design = SimpleNamespace(varying=[SimpleNamespace(levels=levels)] if levels else [])
    return verbs


@answer
def transition_probabilities(meta: dict[str, Any], read: Reader) -> Reply:
    """Probabilities (S, S) of ``meta["group"]`` (null, a text or an array), with ``lower`` and ``upper`` if wanted.

    ``meta`` has what :func:`_read_verbs` needs, ``interval``, ``level``, ``draws`` and ``seed``.
    """
    verbs = _read_verbs(meta, read)
    options = {name: meta[name] for name in ("level", "draws", "seed")}
    table = verbs.transition_probabilities(meta["group"], interval=meta["interval"], **options)
    names = {"fit": "fit", "lwr": "lower", "upr": "upper"}
    if not meta["interval"]:
        return {}, {"fit": table.to_numpy()}
    return {}, {name: table[column].to_numpy() for column, name in names.items()}


@answer
def compare_transitions(meta: dict[str, Any], read: Reader) -> Reply:
    """Two sets of groups: first, second, lower and upper limits of the difference, all (S, S).

    ``meta`` has what :func:`_read_verbs` needs, ``by`` (from levels to 0 or 1), ``level``, ``draws`` and ``seed``.
    """
    verbs = _read_verbs(meta, read)
    options = {name: meta[name] for name in ("level", "draws", "seed")}
    found = verbs.compare_transitions(meta["by"], permutations=1, **options)  # R tests independence itself
    return {}, {name: getattr(found, name).to_numpy() for name in ("first", "second", "lower", "upper")}


@answer
def expected_transitions(meta: dict[str, Any], read: Reader) -> Reply:
    """Shares of moves (S, S) that groups make in sequences, the mean over ``meta["groups"]`` of them.

    The buffers are those of a fit and of rows as :func:`pylmernn.rsequences.sequence_values` has them, then the
    deviations of the groups, (groups, D), where these are not empty.
    """
    from pylmernn.engines.nme_crf_moves import expected_moves

    estimates = read_sequence_fit(meta, read)
    model, data, _ = read_new_sequences(meta, read, estimates)
    wanted = read.matrix(meta["groups"], meta["size"])
    found = [expected_moves(model, data, np.ascontiguousarray(v)) for v in wanted]
    return {}, {"fit": np.asarray(np.mean(found, axis=0))}
