"""The way from the arguments of ``glmernn(family="crf")`` to a fit of sequences."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.api import progress_bar, report_design
from pylmernn.engines import nme_crf
from pylmernn.engines.control import Control
from pylmernn.fit.sequences import SequenceFit
from pylmernn.formula import build, parse
from pylmernn.formula.data import as_pandas, column
from pylmernn.formula.design import DesignError
from pylmernn.formula.nodes import names_in
from pylmernn.formula.sequences import read_sequences


def fit_sequences(
    formula: str,
    data: Any,
    *,
    sequence: str | None,
    time: str | None,
    method: str = "auto",
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    nets: Mapping[str, Any] | None = None,
    control: Control | None = None,
    progress: bool = False,
) -> SequenceFit:
    """Fit a sequence model; the arguments are those of :func:`pylmernn.glmernn`.

    Raises
    ------
    DesignError
        Without ``sequence``, for sequences that have no order, and for all that makes no sequence model.

    Warns
    -----
    UserWarning
        Where training or EM ended early.
    """
    if sequence is None:
        raise DesignError("family 'crf' needs sequence=, the column that says which sequence a row belongs to.")
    if method not in ("auto", "nme"):
        raise DesignError(f"method '{method}' fits no sequences: use method='nme'.")
    table = as_pandas(data)
    for name in (sequence, time):
        if name is not None:
            column(table, name)
    index, named = table.index, set(names_in(parse(formula).tree))
    aside = [name for name in (sequence, time) if name is not None and name not in named]
    numbered = table.drop(columns=aside).set_axis(pd.RangeIndex(len(table)), axis=0)  # nn(.) does not mean these
    design, frame = build(
        formula, numbered, subset=subset, na_action=na_action, contrasts=contrasts, nets=nets, family="crf"
    )
    report_design(design)
    assert frame.row_names is not None
    used, omitted = np.asarray(frame.row_names), np.asarray(frame.omitted_names, dtype=np.intp)
    sequences = read_sequences(table, sequence, time, used, omitted)
    frame = dataclasses.replace(frame, row_names=index[used], omitted_names=index[omitted])
    with progress_bar(progress, "nme", "glmernn") as callback:
        estimates = nme_crf.fit(design, sequences, control, callback)
    if estimates.convergence.message:
        warnings.warn(estimates.convergence.message, UserWarning, stacklevel=3)
    call = {
        "formula": formula, "data": data, "family": "crf", "sequence": sequence, "time": time, "subset": subset,
        "na_action": na_action, "contrasts": contrasts, "nets": nets, "control": control, "method": "nme",
    }  # fmt: skip
    return SequenceFit(design, estimates, frame, sequences, call)
