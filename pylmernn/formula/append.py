"""More rows for a design: new responses, and levels of grouping factors that it has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows, RandomTerm
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.frame import ModelFrame
from pylmernn.formula.nodes import Name
from pylmernn.formula.response import read_response, response_numbers
from pylmernn.formula.rows import extra_variable
from pylmernn.formula.table import model_frame_table
from pylmernn.formula.terms import variables_of
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor, Value


def append_rows(
    design: Design, frame: ModelFrame, data: Any, rows: NewRows, weights: Any = None, family: str | None = None
) -> tuple[Design, ModelFrame, NDArray[np.intp]]:
    """The design of a fit with more rows; levels and columns keep their places, new levels come after.

    Parameters
    ----------
    design : Design
    frame : ModelFrame
    data : DataFrame or anything :func:`build` takes, m rows
        With the response. Rows that lack a value are left out.
    rows : NewRows
        The same rows by :meth:`ModelFrame.new_data` with ``na_action="pass"``; an offset may have been added.
    weights : str, optional
        The ``weights`` argument of the fit.
    family : str, optional
        Name of the family of a generalized model.

    Returns
    -------
    Design, ModelFrame, ndarray of int
        The last are the positions in ``data`` of the rows taken.

    Raises
    ------
    DesignError
        For a response that lacks in the data or has a class the fit has not seen, weights that were given as values,
        or no complete row.
    """
    table = as_pandas(data)
    env = Evaluator(table, frame.state, False, FUNCTIONS)
    value, y, prior = _read(env, design, frame, weights, family)
    groups = [_group(env, frame, term) for term in design.random]
    whole = _complete(rows, [np.asarray(g.codes) for g in groups]) & np.isfinite(y)
    if prior is not None:
        whole &= np.isfinite(prior)
    kept = np.flatnonzero(whole)
    if not len(kept):
        raise DesignError("no row of the new data is complete: each needs the response and every predictor.")
    random = tuple(
        _longer_term(term, group.take(kept), rows.random[k].columns[kept])
        for k, (term, group) in enumerate(zip(design.random, groups, strict=True))
    )
    longer = dataclasses.replace(
        design,
        y=np.append(design.y, y[kept]),
        X=np.vstack([design.X, rows.X[kept]]),
        random=random,
        weights=None if prior is None else np.append(_ones(design.weights, design.n), prior[kept]),
        offset=_join_offsets(design, rows.offset[kept]),
        nets=tuple(
            dataclasses.replace(net, inputs=np.vstack([net.inputs, rows.nets[k][kept]]))
            for k, net in enumerate(design.nets)
        ),
    )
    return longer, _longer_frame(frame, design.n, env, value, table, kept, weights), kept


def new_response(
    design: Design, frame: ModelFrame, data: Any, weights: Any = None, family: str | None = None
) -> tuple[FloatArray, FloatArray | None]:
    """The response of new data as that of a fit, (m,), NaN where missing, and weights (m,) where the fit has them.

    Parameters and errors as in :func:`append_rows`.
    """
    _, y, prior = _read(Evaluator(as_pandas(data), frame.state, False, FUNCTIONS), design, frame, weights, family)
    return y, prior


def _read(
    env: Evaluator, design: Design, frame: ModelFrame, weights: Any, family: str | None
) -> tuple[Value, FloatArray, FloatArray | None]:
    value = _like_classes(read_response(env, frame.formula, family), design)
    y, trials = _numbers(value, design, family)
    return value, y, _weights(env, design, weights, trials)


def _like_classes(value: Value, design: Design) -> Value:
    """A factor with the classes of the fit as levels."""
    if not isinstance(value, Factor) or not design.classes:
        return value
    names = [str(level) for level in value.levels]
    if design.classes == (design.classes[0], f"not {design.classes[0]}"):
        place = np.array([int(name != design.classes[0]) for name in names], dtype=np.int32)
    else:
        codes, unseen = value.recoded(list(design.classes))
        if unseen:
            raise DesignError(
                f"the response '{design.response}' has the class '{unseen[0]}', which the fit has not seen: its "
                f"classes are {', '.join(design.classes[:10])}."
            )
        return dataclasses.replace(value, codes=codes, levels=np.array(design.classes))
    codes = np.append(place, np.int32(-1))[value.codes]
    return dataclasses.replace(value, codes=codes, levels=np.array(design.classes))


def _numbers(value: Value, design: Design, family: str | None) -> tuple[FloatArray, FloatArray | None]:
    """Responses and trials; NaN where missing. Unlike in a fit, one class alone will do."""
    if isinstance(value, Factor) or value.values.ndim == 2:
        y, trials = response_numbers(value, design.response, family)
        if isinstance(value, Factor):
            y = np.where(value.codes < 0, np.nan, y)
        return y, trials
    return np.array(value.values), None


def _weights(env: Evaluator, design: Design, weights: Any, trials: FloatArray | None) -> FloatArray | None:
    if weights is None and trials is None:
        if design.weights is not None:
            raise DesignError(
                "the weights of the fit were given as values: make them a column and name it, so that new data can "
                "have them too."
            )
        return None
    if weights is not None and not isinstance(weights, str):
        raise DesignError(
            "the weights of the fit were given as values: make them a column and name it, so that new data can have "
            "them too."
        )
    found = np.ones(len(env.data)) if trials is None else trials
    extra = extra_variable(env, weights, "weights")
    found = found if extra is None else found * extra.values
    if (found <= 0).any():
        raise DesignError("the weights of the new data must be positive.")
    return found


def _ones(weights: FloatArray | None, n: int) -> FloatArray:
    return np.ones(n) if weights is None else weights


def _join_offsets(design: Design, new: FloatArray) -> FloatArray | None:
    if design.offset is None and not new.any():
        return None
    old = np.zeros(design.n) if design.offset is None else design.offset
    return np.append(old, new)


def _group(env: Evaluator, frame: ModelFrame, term: RandomTerm) -> Factor:
    bar = next(bar for bar in frame.formula.random if bar.label == term.label)
    return env.factor(bar.group)


def _complete(rows: NewRows, groups: Sequence[np.ndarray]) -> NDArray[np.bool_]:
    whole = np.isfinite(rows.X).all(axis=1) & np.isfinite(rows.offset)
    for term, codes in zip(rows.random, groups, strict=True):
        whole &= np.isfinite(term.columns).all(axis=1) & (codes >= 0)
    for inputs in rows.nets:
        whole &= np.isfinite(inputs).all(axis=1)
    return np.asarray(whole)


def _longer_term(term: RandomTerm, group: Factor, columns: FloatArray) -> RandomTerm:
    """A random term with more rows; levels it has not seen are added in the order of the new factor."""
    codes, _ = group.recoded(term.levels)
    strange = codes < 0
    new = np.unique(group.codes[strange])
    codes = codes.copy()
    codes[strange] = term.n_levels + np.searchsorted(new, group.codes[strange])
    return dataclasses.replace(
        term,
        codes=np.concatenate([term.codes, codes]).astype(np.int32),
        levels=np.concatenate([np.asarray(term.levels, dtype=str), np.asarray(group.levels, dtype=str)[new]]),
        columns=np.vstack([term.columns, columns]),
    )


def _longer_frame(
    frame: ModelFrame,
    n: int,
    env: Evaluator,
    response: Value,
    table: pd.DataFrame,
    kept: NDArray[np.intp],
    weights: Any,
) -> ModelFrame:
    """The model frame with the rows taken; its table holds what can be read off the new data."""
    formula = frame.formula
    values: dict[str, Value] = {formula.response: response.take(kept)}
    for name, node in variables_of(formula.subbars, frame.dot).items():
        if name not in values and node not in formula.specials:
            values[name] = env.variable(node).take(kept)
    for special in formula.specials:
        for argument in special.arguments:
            if argument.name is None and isinstance(argument.value, Name):
                env.variable(argument.value)  # read, for the table
    for label, given in (("(weights)", weights), ("(offset)", frame.offset)):
        extra = extra_variable(env, given, label) if isinstance(given, str) else None
        if extra is not None:
            values[label] = extra.take(kept)
    names = table.index[kept]
    new = model_frame_table(formula, frame.dot, env.columns, values, kept, names)
    old = frame.frame
    joined = pd.DataFrame(
        {c: _join(old[c], new[c]) if c in new else _join(old[c], pd.Series([None] * len(new))) for c in old.columns}
    )
    before = pd.RangeIndex(n) if frame.row_names is None else frame.row_names
    joined.index = before.append(names)
    left_out = np.setdiff1d(np.arange(len(table)), kept)
    return dataclasses.replace(
        frame,
        all_rows=frame.all_rows + len(table),
        omitted=np.append(frame.omitted, frame.all_rows + left_out).astype(np.intp),
        omitted_names=pd.Index(frame.omitted_names).append(table.index[left_out]),
        row_names=joined.index,
        _source=None,
        _frame=joined,
    )


def _join(old: pd.Series, new: pd.Series) -> Any:
    """One column under the other; a factor stays one."""
    if isinstance(old.dtype, pd.CategoricalDtype):
        labels = new.astype(object)
        more = [c for c in pd.unique(labels.dropna()) if c not in old.cat.categories]
        values = np.concatenate([old.astype(object).to_numpy(), labels.to_numpy()])
        return pd.Categorical(values, categories=[*old.cat.categories, *more], ordered=old.cat.ordered)
    return pd.concat([old, new], ignore_index=True).array
