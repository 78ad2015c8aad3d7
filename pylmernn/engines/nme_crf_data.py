"""A design and its sequences as padded batches; what makes no sequence model."""

from __future__ import annotations

import numpy as np
import torch

from pylmernn.engines.nme_crf_model import Batch, SequenceScores
from pylmernn.engines.nme_model import constant_column, last_layer
from pylmernn.formula.design import Design, DesignError, FloatArray
from pylmernn.formula.sequences import Sequences
from pylmernn.mean.mlp import TabularNet

Tensor = torch.Tensor


def batch_of(design: Design, sequences: Sequences, prepared: Tensor) -> Batch:
    """The sequences of a design, padded."""
    rows = torch.from_numpy(np.maximum(sequences.rows, 0))
    groups = np.full(len(rows), -1)
    for term in design.varying:
        groups = sequences.constant(term.codes, term.group).astype(np.int64)
    return Batch(
        prepared[rows],
        torch.from_numpy(np.ascontiguousarray(design.X))[rows],
        torch.from_numpy(design.y.astype(np.int64))[rows],
        torch.from_numpy(sequences.lengths),
        torch.from_numpy(groups),
    )


def check(design: Design, sequences: Sequences) -> None:
    """Raise DesignError for a design that is no sequence model."""
    if design.random:
        raise DesignError(
            f"{design.random[0].label}: sequence models have transitions and networks that vary, (crf | group) and "
            "(nn.last | group), but no columns."
        )
    if len(design.nets) != 1:
        raise DesignError("a sequence model has one network: write nn(x1, x2), or nn(x1, hidden=c()) for a linear one.")
    if design.weights is not None:
        raise DesignError("weights: a sequence model takes none.")
    if design.offset is not None:
        raise DesignError("offset: a sequence model takes none.")
    if any(term.net == "crf" and term.selector for term in design.varying):
        raise DesignError("transitions vary as a whole: write (crf | group).")
    if int(sequences.lengths.max()) < 2:
        raise DesignError(
            "every sequence has length 1: there are no transitions without neighbours; look at sequence=."
        )


def absorb_bias(model: SequenceScores, X: FloatArray) -> None:
    """Put the bias of the last layer into the intercept, where network and design have them."""
    module, constant = model.network, constant_column(X)
    if isinstance(module, TabularNet) and constant is not None:
        bias = last_layer(module).bias
        with torch.no_grad():
            model.beta[constant] += bias / X[0, constant]
            bias.zero_()
