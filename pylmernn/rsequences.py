"""The Python half of the R door for sequences of states; see :mod:`pylmernn.rdoor`.

What needs torch is imported where it is used: linear models go through the same door.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.api import progress_bar
from pylmernn.formula.design import Design, DesignError
from pylmernn.formula.sequences import Sequences, read_sequences
from pylmernn.rprotocol import CONVERGED, Reader, read_design, read_networks
from pylmernn.rreplies import Reply, answer, send_networks, send_search
from pylmernn.rsettings import read_control
from pylmernn.rvarying import SHOWN

if TYPE_CHECKING:
    from pylmernn.engines.nme_crf_estimates import SequenceEstimates
    from pylmernn.engines.nme_crf_model import Batch, SequenceScores


@answer
def fit_sequences(meta: dict[str, Any], read: Reader) -> Reply:
    """Estimate a sequence model.

    ``meta`` has the keys of :func:`~pylmernn.rprotocol.read_design`, ``formula`` as text, ``method``, ``control``,
    ``device``, ``seed``, ``progress``, and ``sequences`` for :func:`_read_rows`, whose buffers follow those of the
    design. See :func:`_send` for the reply.
    """
    from pylmernn.engines import nme_crf

    if meta["method"] not in ("auto", "nme"):
        raise DesignError(f"method '{meta['method']}' fits no sequences: use method = \"nme\".")
    settings = meta.get("control") or {}
    control = read_control(settings, meta.get("device", "auto"), meta.get("seed"), generalized=True)
    _, design = read_design({**meta, "generalized": True}, read)
    sequences = _read_rows(meta["sequences"], read, design.n)
    with progress_bar(bool(meta.get("progress")), "nme", "glmernn") as callback:
        estimates = nme_crf.fit(design, sequences, control, callback)
    return _send(meta["formula"], design, estimates, sequences)


def _read_rows(meta: Mapping[str, Any], read: Reader, n: int) -> Sequences:
    """Sequences of n rows; the buffers are codes into ``meta["names"]`` and ranks in time.

    Rows that were left out for missing values follow the n rows in both buffers: amid a sequence they are an error.
    """
    names = np.array(meta["names"], dtype=object)
    table = pd.DataFrame({"sequence": names[read.integers()], "time": read.integers()})
    rows = np.arange(len(table))
    return read_sequences(table, "sequence", "time", rows[:n], rows[n:])


def _send(formula: str, design: Design, estimates: SequenceEstimates, sequences: Sequences) -> Reply:
    """What R keeps of a fit.

    The header has ``moves`` (whether transitions vary), labels and layers of what varies, ``diagonal`` (of the network
    and of transitions, whether there are variances only), df, and the texts of the fit and of its variances; the arrays
    are beta (p, S), transitions (S, S), effects (q, D), variances (q, D, D), factor (D, D), fixed_covariance of beta
    and transitions, probabilities (n, S), states (n,), log_steps (n,), the log-probability of each observed state given
    those before it, and those of the network.
    """
    from pylmernn.engines import nme_crf_predict as values
    from pylmernn.fit.save_sequences import ARRAYS
    from pylmernn.fit.sequences import SequenceFit

    frame: Any = SimpleNamespace(formula=formula)  # data frames and what reads them stay in R
    fit = SequenceFit(design, estimates, frame, sequences, {})
    header, arrays = send_search([], design, estimates.method, estimates.convergence)
    header["networks"], kept = send_networks(estimates.networks, design)
    few = 0 < len(estimates.labels) <= SHOWN
    header |= {
        "objective": estimates.objective,
        "moves": estimates.moves,
        "labels": estimates.labels,
        "layers": estimates.layers,
        "diagonal": [form != "full" for form in estimates.forms],
        "df": fit.logLik().df,
        "text": fit.summary().splitlines(),
        "variances_text": str(fit.VarCorr()).splitlines() if few else [],
    }
    groups = np.full(len(sequences.names), -1, dtype=np.int32)
    if design.varying:
        groups = sequences.constant(design.varying[0].codes, design.varying[0].group)
    model = values.model_of(estimates)
    data = values.batch_for(model, sequences, design.X, design.nets[0].inputs, groups, design.y.astype(np.int64))
    arrays |= {name: getattr(estimates, name) for name in ARRAYS}
    arrays["log_steps"] = sequences.spread(values.log_probabilities(model, data, estimates.effects), design.n)
    arrays["probabilities"] = sequences.spread(values.all_probabilities(model, data, estimates), design.n)
    arrays["states"] = sequences.spread(values.best_states(model, data, estimates.effects), design.n)
    return header, arrays | kept


def read_sequence_fit(meta: Mapping[str, Any], read: Reader) -> SequenceEstimates:
    """What predictions need of a fit.

    ``meta`` has ``networks`` (see :func:`~pylmernn.rprotocol.read_networks`), ``classes``, ``p``, ``moves``,
    ``n_levels`` (q), ``size`` (D), and ``bar``, the selector, label and input names of a network that varies, or null.
    The buffers are those of the network, beta (p, S), transitions (S, S), factor (D, D) and effects (q, D), where these
    are not empty.
    """
    from pylmernn.engines.nme_crf_estimates import SequenceEstimates
    from pylmernn.mean.networks import build
    from pylmernn.mean.varying import select

    networks, bar = read_networks(meta["networks"], read), meta["bar"]
    classes, q, D = tuple(meta["classes"]), meta["n_levels"], meta["size"]
    selected = None
    if bar:
        module = build(networks.specs[0], networks.members[0][0])
        selected = select(module, bar["selector"], bar["label"], bar["input_names"])
    beta, transitions = read.matrix(meta["p"], len(classes)), read.matrix(len(classes), len(classes))
    factor, effects = (np.ascontiguousarray(read.matrix(rows, D)) for rows in (D, q))
    return SequenceEstimates(
        method="nme",
        classes=classes,
        beta=np.ascontiguousarray(beta),
        transitions=np.ascontiguousarray(transitions),
        networks=networks,
        selected=selected,
        moves=meta["moves"],
        effects=effects,
        variances=np.empty((q, D, D)),
        factor=factor,
        fixed_covariance=np.empty((0, 0)),
        labels=(),
        layers=(),
        forms=("diagonal", "diagonal"),
        objective=np.nan,
        convergence=CONVERGED,
    )


def read_new_sequences(
    meta: Mapping[str, Any], read: Reader, estimates: SequenceEstimates, new_groups: bool = False
) -> tuple[SequenceScores, Batch, Sequences]:
    """Rows of sequences: X, inputs, those of :func:`_read_rows`, the group of each row, then states if ``observed``.

    Groups from ``n_levels`` on have no deviations, unless these are wanted (``new_groups``).
    """
    from pylmernn.engines import nme_crf_predict as values

    m = meta["rows"]
    X, inputs = read.matrix(m, meta["p"]), np.ascontiguousarray(read.matrix(m, meta["width"]))
    sequences = _read_rows(meta["sequences"], read, m)
    codes = sequences.constant(read.integers(), meta["group"])
    groups = codes if new_groups else np.where(codes < meta["n_levels"], codes, -1).astype(np.int32)
    states: NDArray[np.int64] | None = read.integers().astype(np.int64) if meta["observed"] else None
    model = values.model_of(estimates)
    return model, values.batch_for(model, sequences, X, inputs, groups, states), sequences


@answer
def sequence_values(meta: dict[str, Any], read: Reader) -> Reply:
    """States of sequences of ``meta["rows"]`` rows, or their probabilities where these are wanted.

    After the fit (see :func:`read_sequence_fit`) come the rows (see :func:`read_new_sequences`). Probabilities of
    groups without deviations are means over ``meta["average"]`` draws, by ``meta["seed"]``, where that is not 0.
    """
    from pylmernn.engines import nme_crf_predict as values

    estimates = read_sequence_fit(meta, read)
    model, data, sequences = read_new_sequences(meta, read, estimates)
    if meta["probabilities"]:
        found = values.all_probabilities(model, data, estimates, meta["average"], meta["seed"])
        return {}, {"probabilities": sequences.spread(found, meta["rows"])}
    return {}, {"states": sequences.spread(values.best_states(model, data, estimates.effects), meta["rows"])}


@answer
def sequence_deviance(meta: dict[str, Any], read: Reader) -> Reply:
    """-2 log-likelihood of observed states given the deviations; buffers as :func:`sequence_values` has them."""
    from pylmernn.engines import nme_crf_predict as values

    estimates = read_sequence_fit(meta, read)
    model, data, _ = read_new_sequences(meta, read, estimates)
    return {}, {"deviance": np.array([values.deviance(model, data, estimates.effects)])}


@answer
def update_sequences(meta: dict[str, Any], read: Reader) -> Reply:
    """Deviations of ``meta["q"]`` groups from observed sequences of theirs: effects (q, D), variances (q, D, D)."""
    from pylmernn.engines import nme_crf_predict as values

    estimates = read_sequence_fit(meta, read)
    model, data, _ = read_new_sequences(meta, read, estimates, new_groups=True)
    effects, variances = values.new_effects(model, data, estimates.factor, meta["q"])
    return {}, {"effects": effects, "variances": variances}
