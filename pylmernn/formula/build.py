"""From a formula and a table to the Design."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.contrasts import Contrast, read_contrast
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, FloatArray, RandomTerm, make_design
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.fields import FIELDS, FieldCall, embed_options, field_term, read_fields
from pylmernn.formula.formula import Bar, Formula, parse
from pylmernn.formula.frame import NA_ACTIONS, ModelFrame, Source
from pylmernn.formula.modelmatrix import model_matrix
from pylmernn.formula.networks import NetCall, check_inputs, expand_dots, net_term, read_networks
from pylmernn.formula.nodes import Call, deparse, names_in
from pylmernn.formula.parser import parse_expression
from pylmernn.formula.records import record, sum_offsets
from pylmernn.formula.response import read_response, response_classes, response_numbers
from pylmernn.formula.rows import choose_rows, extra_variable
from pylmernn.formula.table import protected
from pylmernn.formula.terms import Terms, expand, variables_of
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor, Numeric, Value
from pylmernn.formula.varying import split_bars, varying_term


def build(
    formula: str | Formula,
    data: Any,
    *,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    nets: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> tuple[Design, ModelFrame]:
    """The arrays of a mixed model from its formula and a table.

    Parameters
    ----------
    formula : str or Formula
        lme4's grammar; see :func:`pylmernn.formula.parse`.
    data : DataFrame (pandas, polars, or anything narwhals reads) or dict of arrays, n rows
        Never changed. Strings and numbers become factors with sorted levels (by code point, in any locale).
    weights, offset : str or array of n numbers, optional
        A column, an expression of columns, or the values. An offset adds to those of ``offset()`` terms.
    subset : str, array of n booleans, or array of row positions, optional
        A text is a condition on columns, ``"x > 3 and g != 'a'"``. Missing counts as no. As in R, transforms such as
        ``poly`` see all rows.
    na_action : {"omit", "exclude", "fail"}
        What happens to rows with a missing value in any variable, group, weight or offset.
    contrasts : dict, optional
        By variable: ``"treatment"``, ``"sum"``, ``"helmert"``, ``"poly"``, or a matrix with a row a level. They hold
        for the fixed effects; random terms use the defaults, as in lme4.
    nets : dict, optional
        By name, options of networks, ``{"nn": {"hidden": (20, 10)}}``, or torch modules; see :func:`pylmernn.lmernn`.
    family : str, optional
        Name of the family of a generalized model, which says what the response may be; None for a linear model.

    Returns
    -------
    (Design, ModelFrame)

    Raises
    ------
    DesignError
        For input that makes no model; the message names the term, column or level.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> data = pd.DataFrame({"y": np.sin(np.arange(12.0)), "x": np.arange(12.0), "g": list("aabbcc") * 2})
    >>> design, frame = build("y ~ log(x + 1) + (1 | g)", data)
    >>> design.fixed_names
    ('(Intercept)', 'log(x + 1)')
    >>> design.random[0].levels.tolist()
    ['a', 'b', 'c']
    """
    parsed = parse(formula) if isinstance(formula, str) else formula
    if na_action not in NA_ACTIONS:
        raise DesignError(f"na_action='{na_action}' is unknown: use one of {', '.join(NA_ACTIONS)}.")
    table = data if isinstance(data, pd.DataFrame) else as_pandas(data, _wanted(parsed, weights, offset, subset))
    _refuse_later_terms(parsed)
    parsed = expand_dots(parsed, list(table.columns), [extra for extra in (weights, offset) if isinstance(extra, str)])
    networks = read_networks(parsed, nets)
    names = [call.name for call in networks]
    parsed = split_bars(parsed, names, list(table.columns), family == "crf")
    check_inputs(networks, parsed)
    fields = read_fields(parsed)
    env = Evaluator(table, {}, True, FUNCTIONS)
    dot = _dot_columns(parsed, table, weights, offset) if parsed.has_dot else None
    terms = expand(parsed.fixed, dot) if dot is not None else parsed.fixed_terms
    parts = _evaluate(env, parsed, terms, [*networks, *fields], weights, offset, family)
    rows = choose_rows(env, parts.everything(), subset, na_action)
    parts = parts.used(rows.used)
    for name, value in parts.variables.items():
        _check_finite(name, value, "response" if name == parsed.response else "predictor")

    asked = _read_contrasts(contrasts, parts.variables)
    X = model_matrix(terms, parts.variables, rows.n, asked)
    response = parts.variables[parsed.response]
    classes = response_classes(response, parsed.response, family)
    y, trials = response_numbers(response, parsed.response, family)
    prior = np.array(_numbers(parts.extras["(weights)"])) if "(weights)" in parts.extras else None
    design = make_design(
        y,
        X.columns,
        X.names,
        [
            *(_random_term(bar, parts.variables, parts.groups[bar.group_label], rows.n) for bar in parsed.random),
            *(field_term(call, parts.variables) for call in fields),
        ],
        trials if prior is None else prior if trials is None else prior * trials,
        sum_offsets(terms, parts.variables, parts.extras.get("(offset)")),
        parsed.response,
        [net_term(call, parts.variables) for call in networks],
        generalized=family is not None,
        classes=classes,
        varying=[varying_term(bar, [*names, "crf"], parts.groups) for bar in parsed.varying],
        sequences=family == "crf",
    )
    if family == "ordinal":
        design = _thresholds_for_intercept(design)
    frame = ModelFrame(
        formula=parsed,
        na_action=na_action,
        all_rows=rows.total,
        omitted=rows.omitted,
        assign=X.assign if family != "ordinal" else X.assign[1:],
        dot=None if dot is None else tuple(dot),
        contrasts=asked,
        state=env.state,
        records={name: record(v) for name, v in parts.variables.items() if name != parsed.response},
        offset=offset if isinstance(offset, str) or offset is None else "(values)",
        omitted_names=rows.names[rows.omitted],
        row_names=rows.names.delete(rows.omitted) if len(rows.omitted) else rows.names,
        _source=Source(protected(env.columns), {**parts.variables, **parts.extras}, rows.used),
    )
    return design, frame


def _thresholds_for_intercept(design: Design) -> Design:
    """The design of an ordinal model, whose thresholds stand for the intercept: no column may be a constant."""
    if design.fixed_names[:1] != ("(Intercept)",):
        raise DesignError("an ordinal model has thresholds for an intercept: take '0 +' or '- 1' out of the formula.")
    return dataclasses.replace(
        design,
        X=design.X[:, 1:],
        fixed_names=design.fixed_names[1:],
        dropped_at=tuple(j - 1 for j in design.dropped_at),
    )


@dataclass(frozen=True)
class _Parts:
    """Everything that was evaluated: variables of both sides, grouping factors, weights and offset."""

    variables: dict[str, Value]
    groups: dict[str, Factor]
    extras: dict[str, Numeric]

    def everything(self) -> dict[str, Value]:
        return {**self.variables, **self.groups, **self.extras}

    def used(self, rows: NDArray[np.intp] | None) -> _Parts:
        """The rows used (None for all), and of the factors the levels that are left."""
        variables, groups, extras = self.variables, self.groups, self.extras
        if rows is not None:
            variables = {name: value.take(rows) for name, value in variables.items()}
            groups = {name: group.take(rows).drop_unused() for name, group in groups.items()}
            extras = {name: value.take(rows) for name, value in extras.items()}
        dropped = {name: v.drop_unused() if isinstance(v, Factor) else v for name, v in variables.items()}
        return _Parts(dropped, groups, extras)


def _evaluate(
    env: Evaluator,
    formula: Formula,
    terms: Terms,
    specials: Sequence[NetCall | FieldCall],
    weights: Any,
    offset: Any,
    family: str | None,
) -> _Parts:
    if any(formula.response in each.names for each in (terms, *(bar.terms for bar in formula.random))):
        raise DesignError(f"the response '{formula.response}' is also among the predictors: remove it there.")
    variables = {formula.response: read_response(env, formula, family)}
    for each in (terms, *(bar.terms for bar in formula.random)):
        for name, node in zip(each.names, each.variables, strict=True):
            if name not in variables:
                variables[name] = env.variable(node)
    for call in specials:
        for name, node in call.inputs.items():
            if name not in variables:
                variables[name] = env.variable(node)
    groups = {bar.group_label: bar.group for bar in (*formula.random, *formula.varying)}
    extras = {"(weights)": extra_variable(env, weights, "weights"), "(offset)": extra_variable(env, offset, "offset")}
    return _Parts(
        variables,
        {label: env.factor(group) for label, group in groups.items()},
        {name: value for name, value in extras.items() if value is not None},
    )


def _refuse_later_terms(formula: Formula) -> None:
    """Words of the formula language that later versions fit."""
    for call in formula.specials:
        if call.function in ("nn", *FIELDS):
            continue
        raise DesignError(f"'{deparse(call)}': this version does not fit {call.function}() terms yet.")


def _wanted(formula: Formula, *arguments: Any) -> set[str] | None:
    """Every name in the formula and in the arguments that are texts; None where any column may be meant."""
    if formula.has_dot:
        return None
    wanted = set(names_in(formula.tree))
    for text in arguments:
        if isinstance(text, str):
            try:
                wanted.update(names_in(parse_expression(text, query=True)))
            except DesignError:  # a column whose name is no expression, or a mistake that is reported later
                return None
    return wanted


def _dot_columns(formula: Formula, table: pd.DataFrame, weights: Any, offset: Any) -> list[str]:
    """What ``.`` stands for: every column that is not the response, a grouping factor, a weight or an offset."""
    taken = set(names_in(formula.response_node))
    for bar in formula.bars:
        taken.update(names_in(bar.group))
    for name, node in variables_of(formula.fixed, ()).items():
        if name.startswith("offset(") and isinstance(node, Call):
            taken.update(names_in(node))
    taken.update(extra for extra in (weights, offset) if isinstance(extra, str))
    return [str(c) for c in table.columns if str(c) not in taken]


def _check_finite(name: str, value: Value, what: str) -> None:
    if isinstance(value, Factor) or np.isfinite(value.values.sum()):
        return
    bad = np.isinf(value.values.reshape(len(value), -1)).any(axis=1)
    if bad.any():
        first = int(np.argmax(bad)) + 1
        raise DesignError(
            f"the {what} '{name}' has {int(bad.sum())} infinite values (first in row {first} of those used): "
            "remove those rows or change the transform."
        )


def _read_contrasts(contrasts: Mapping[str, Any] | None, values: Mapping[str, Value]) -> dict[str, Contrast]:
    chosen = {}
    for name, asked in (contrasts or {}).items():
        if not isinstance(values.get(name), Factor):
            warnings.warn(f"contrasts names '{name}', which is no factor of the model: it is ignored.", stacklevel=3)
            continue
        chosen[name] = read_contrast(asked, name)
    return chosen


def _random_term(bar: Bar, values: Mapping[str, Value], group: Factor, n: int) -> RandomTerm:
    if bar.terms.offsets:
        raise DesignError(f"{bar.label}: an offset cannot stand left of a bar.")
    matrix = model_matrix(bar.terms, values, n)
    if not matrix.names:
        raise DesignError(
            f"the random term {bar.label} has no column left of the bar: write (1 | group) or (x | group)."
        )
    return RandomTerm(
        bar.group_label,
        group.codes,
        group.levels,
        matrix.columns,
        matrix.names,
        covariance=bar.structure,
        label=bar.label,
        options=_bar_options(bar, matrix.names),
    )


def _bar_options(bar: Bar, columns: Sequence[str]) -> dict[str, Any]:
    """Options of the structure of a bar, as plain values."""
    if bar.structure != "embed":
        return {}
    if list(columns) != ["(Intercept)"]:
        raise DesignError(
            f"{bar.label}: embed() of a factor takes an intercept only: write embed(1 | group, dim = 100)."
        )
    return embed_options({str(a.name): a.value for a in bar.options}, bar.label, ("dim",))


def _numbers(value: Value) -> FloatArray:
    """The numbers of a variable that was checked to have some."""
    assert isinstance(value, Numeric)
    return value.values
