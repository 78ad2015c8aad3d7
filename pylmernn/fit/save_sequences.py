"""Sequence models in the file of a fit: arrays and JSON-able data, no code."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.fit.save_varying import get_selected
from pylmernn.fit.sequences import SequenceFit
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design
from pylmernn.formula.sequences import Sequences
from pylmernn.formula.varying import split_bars

if TYPE_CHECKING:
    from pylmernn.fit.save import Parts

ARRAYS = ("beta", "transitions", "effects", "variances", "factor", "fixed_covariance")
TEXTS = ("method", "classes", "moves", "labels", "layers", "forms")


def put_sequences(parts: Parts, e: SequenceEstimates) -> dict[str, Any]:
    """Keep the arrays of estimates; returns the rest, but for the network, as JSON-able data."""
    for name in ARRAYS:
        parts.put(f"estimates.{name}", getattr(e, name))
    parts.put("estimates.numbers", np.array([e.objective]))  # exact, unlike decimal text
    parts.put("estimates.gradient", e.convergence.gradient)
    return {
        **{name: getattr(e, name) for name in TEXTS},
        "selected": None if e.selected is None else dataclasses.asdict(e.selected),
        "convergence": {
            name: getattr(e.convergence, name) for name in ("converged", "n_evaluations", "message", "seconds")
        },
    }


def get_sequences(parts: Parts, meta: dict[str, Any], networks: Any) -> SequenceEstimates:
    """Estimates that :func:`put_sequences` kept, with their network."""
    given: dict[str, Any] = {name: parts.arrays[f"estimates.{name}"] for name in ARRAYS}
    given |= {name: tuple(meta[name]) if isinstance(meta[name], list) else meta[name] for name in TEXTS}
    (objective,) = parts.arrays["estimates.numbers"].tolist()
    return SequenceEstimates(
        **given,
        networks=networks,
        selected=None if meta["selected"] is None else get_selected(meta["selected"]),
        objective=objective,
        convergence=Convergence(gradient=parts.arrays["estimates.gradient"], **meta["convergence"]),
    )


def put_rows(parts: Parts, sequences: Sequences) -> None:
    """Keep which rows of the fit make which sequence."""
    parts.put_json("sequences.names", [str(name) for name in sequences.names])
    parts.put("sequences.rows", sequences.rows)
    parts.put("sequences.lengths", sequences.lengths)


def sequence_fit(
    parts: Parts, design: Design, estimates: SequenceEstimates, frame: ModelFrame, call: dict[str, Any]
) -> SequenceFit:
    """A fit whose formula knows which of its bars are of transitions and which of the network."""
    names, columns = [net.name for net in design.nets], list(frame.frame.columns)
    frame = dataclasses.replace(frame, formula=split_bars(frame.formula, names, columns, sequences=True))
    arrays = parts.arrays
    sequences = Sequences(
        np.array(parts.get_json("sequences.names")), arrays["sequences.rows"], arrays["sequences.lengths"]
    )
    return SequenceFit(design, estimates, frame, sequences, call)
