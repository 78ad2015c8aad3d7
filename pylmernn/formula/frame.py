"""From a formula and a table to the Design, and later from new data to rows in the same columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.contrasts import Contrast, read_contrast
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows, NewTerm, RandomTerm, make_design
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.formula import Bar, Formula, parse
from pylmernn.formula.modelmatrix import ModelMatrix, check_some_columns, model_matrix
from pylmernn.formula.nodes import Call, deparse, names_in
from pylmernn.formula.rows import extra_variable, missing_rows, subset_rows
from pylmernn.formula.table import model_frame_table, protected
from pylmernn.formula.terms import Terms, expand, members, variables_of
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor, Numeric, Value

NA_ACTIONS = ("omit", "exclude", "fail")


def build(
    formula: str | Formula,
    data: Any,
    *,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
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
        By variable: ``"treatment"``, ``"sum"``, ``"helmert"``, ``"poly"``, or a matrix with a row a level. They hold for
        the fixed effects; random terms use the defaults, as in lme4.

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
    _refuse_specials(parsed)
    table = as_pandas(data)
    env = Evaluator(table, {}, True, FUNCTIONS)
    dot = _dot_columns(parsed, table, weights, offset) if parsed.has_dot else None
    terms = expand(parsed.fixed, dot) if dot is not None else parsed.fixed_terms
    if parsed.response in terms.names:
        raise DesignError(f"the response '{parsed.response}' is also among the predictors: remove it there.")

    values = {parsed.response: _response(env, parsed)}
    for each in (terms, *(bar.terms for bar in parsed.random)):
        for name, node in zip(each.names, each.variables, strict=True):
            if name not in values:
                values[name] = env.variable(node)
    groups = {bar.group_label: bar.group for bar in parsed.random}
    codes = {label: env.factor(group) for label, group in groups.items()}
    extras = {"(weights)": extra_variable(env, weights, "weights"), "(offset)": extra_variable(env, offset, "offset")}
    given = {name: value for name, value in extras.items() if value is not None}

    chosen = subset_rows(env, subset)
    drop = missing_rows({**values, **codes, **given}, chosen, na_action)
    all_rows = len(table) if chosen is None else len(chosen)
    rows = chosen
    if drop is not None:
        rows = (np.arange(len(table)) if chosen is None else chosen)[~drop]
    n = len(table) if rows is None else len(rows)
    if n == 0:
        raise DesignError("no rows are left after subset and missing values: look at the data.")
    if rows is not None:
        values = {name: value.take(rows) for name, value in values.items()}
        codes = {name: value.take(rows).drop_unused() for name, value in codes.items()}
        given = {name: value.take(rows) for name, value in given.items()}
    values = {name: v.drop_unused() if isinstance(v, Factor) else v for name, v in values.items()}
    for name, value in values.items():
        _check_finite(name, value, "response" if name == parsed.response else "predictor")

    chosen_contrasts = _read_contrasts(contrasts, values)
    X = model_matrix(terms, values, n, chosen_contrasts)
    random = tuple(_random_term(bar, values, codes[bar.group_label], n) for bar in parsed.random)
    y = np.array(_plain(values[parsed.response]), dtype=np.float64)
    total_offset = _sum_offsets(terms, values, given.get("(offset)"))
    weight = given.get("(weights)")
    design = make_design(
        y,
        X.columns,
        X.names,
        random,
        None if weight is None else np.array(weight.values),
        total_offset,
        parsed.response,
    )
    names = table.index if chosen is None else table.index[chosen]
    omitted = np.flatnonzero(drop) if drop is not None else np.empty(0, dtype=np.intp)
    frame = ModelFrame(
        formula=parsed,
        na_action=na_action,
        all_rows=all_rows,
        omitted=omitted,
        assign=X.assign,
        dot=None if dot is None else tuple(dot),
        contrasts=chosen_contrasts,
        state=env.state,
        records={name: _record(v) for name, v in values.items() if name != parsed.response},
        offset=_offset_name(offset),
        omitted_names=names[omitted],
        row_names=names if drop is None else names[~drop],
    )
    frame._source = _Source(protected(env.columns), {**values, **given}, rows)
    return design, frame


@dataclass
class _Source:
    """What the model frame as a table is made of, once somebody asks for it."""

    columns: dict[str, pd.Series]
    values: dict[str, Value]
    rows: NDArray[np.intp] | None


@dataclass
class ModelFrame:
    """How the columns of a fit came about: what ``predict`` needs to treat new data alike.

    Attributes
    ----------
    formula : Formula
    na_action : str
    all_rows : int
        Rows of the data after ``subset``.
    omitted : ndarray of int
        Positions, among those, of the rows left out for missing values.
    assign : tuple of int
        The term of each fixed-effect column, dropped columns included: 0 for the intercept, then 1, 2, ...
    dot : tuple of str or None
        The columns that ``.`` stood for.
    contrasts : dict
        Contrasts asked for, by variable.
    state : dict
        What data-dependent transforms learned, by call.
    records : dict
        Kind and levels of each variable.
    offset : str or None
        The ``offset`` argument: a column or expression; ``"(values)"`` when it was an array.
    omitted_names, row_names : Index or None
        Labels of the rows left out and of those used.
    """

    formula: Formula
    na_action: str
    all_rows: int
    omitted: NDArray[np.intp]
    assign: tuple[int, ...]
    dot: tuple[str, ...] | None
    contrasts: dict[str, Contrast]
    state: dict[str, Any]
    records: dict[str, dict[str, Any]]
    offset: str | None
    omitted_names: pd.Index
    row_names: pd.Index | None = None
    _source: _Source | None = field(default=None, repr=False)
    _frame: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def fixed_terms(self) -> Terms:
        """The terms of the fixed effects, ``.`` replaced by its columns."""
        return self.formula.fixed_terms if self.dot is None else expand(self.formula.fixed, self.dot)

    @property
    def frame(self) -> pd.DataFrame:
        """The variables of the model as lme4's ``model.frame`` has them, rows used only; made when first asked for."""
        if self._frame is None:
            if self._source is None:
                raise DesignError("this model frame was loaded without its data.")
            source = self._source
            self._frame = model_frame_table(
                self.formula, self.dot, source.columns, source.values, source.rows, self.row_names
            )
            self._source = None
        return self._frame

    def pad(self, values: FloatArray) -> FloatArray:
        """Values of the rows used, spread over all rows with NaN where a row was left out (``na_action="exclude"``)."""
        values = np.asarray(values, dtype=np.float64)
        out = np.full((self.all_rows, *values.shape[1:]), np.nan)
        out[np.delete(np.arange(self.all_rows), self.omitted)] = values
        return out

    def new_data(
        self, data: Any, design: Design, *, random: bool | Sequence[bool] = True, na_action: str = "pass"
    ) -> NewRows:
        """New rows in the columns of the fit: same transforms, levels and contrasts.

        Parameters
        ----------
        data : DataFrame or anything :func:`build` takes, m rows; the response is not needed
        design : Design
            That of the fit.
        random : bool or one bool a random term
            Which random terms to fill. The others get code -1 and zeros, and their columns are not needed.
        na_action : {"pass", "exclude", "omit", "fail"}
            Rows with a missing predictor: kept with NaN ("pass" and "exclude"), left out, or an error.

        Raises
        ------
        DesignError
            For an unknown column, or a level of a fixed factor that the fit has not seen. Unseen levels of grouping
            factors get code -1.
        """
        if na_action not in ("pass", *NA_ACTIONS):
            raise DesignError(f"na_action='{na_action}' is unknown: use pass, {', '.join(NA_ACTIONS)}.")
        table = as_pandas(data)
        wanted = [bool(random)] * len(design.random) if isinstance(random, bool) else [bool(r) for r in random]
        env = Evaluator(table, self.state, False, FUNCTIONS)
        values: dict[str, Value] = {}
        terms = self.fixed_terms
        bars = {bar.label: bar for bar in self.formula.random}
        needed = [(terms, True), *((bars[t.label].terms, w) for t, w in zip(design.random, wanted, strict=True))]
        for each, fill in needed:
            if fill:
                self._evaluate(env, each, values)
        extra = self._new_offset(env)
        given = {} if extra is None else {"(offset)": extra}
        drop = missing_rows({**values, **given}, None, na_action) if na_action in ("omit", "fail") else None
        codes = {
            t.group: env.factor(bars[t.label].group) for t, fill in zip(design.random, wanted, strict=True) if fill
        }
        rows = np.arange(len(table)) if drop is None else np.flatnonzero(~drop)
        if drop is not None:
            values = {name: value.take(rows) for name, value in values.items()}
            codes = {name: value.take(rows) for name, value in codes.items()}
            extra = None if extra is None else extra.take(rows)
        X = model_matrix(terms, values, len(rows), self.contrasts).columns
        if design.dropped_at:
            X = np.delete(X, design.dropped_at, axis=1)
        offset = _sum_offsets(terms, values, extra)
        return NewRows(
            X=X,
            offset=np.zeros(len(rows)) if offset is None else offset,
            random=tuple(
                _new_term(term, bars[term.label], values, codes[term.group], len(rows))
                if fill
                else NewTerm(np.full(len(rows), -1, dtype=np.int32), np.zeros((len(rows), term.width)))
                for term, fill in zip(design.random, wanted, strict=True)
            ),
            row_names=table.index[rows],
        )

    def _evaluate(self, env: Evaluator, terms: Terms, values: dict[str, Value]) -> None:
        used = {i for term in terms.terms for i in members(term)} | set(terms.offsets)
        for i in sorted(used):
            name = terms.names[i]
            if name not in values:
                values[name] = _like_fit(name, env.variable(terms.variables[i]), self.records[name])

    def _new_offset(self, env: Evaluator) -> Numeric | None:
        if self.offset == "(values)":
            raise DesignError(
                "the offset of the fit was given as values: make it a column and name it, so that new data can have it too."
            )
        return extra_variable(env, self.offset, "offset")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the table itself, as JSON-able data."""
        return {
            "formula": str(self.formula),
            "na_action": self.na_action,
            "all_rows": int(self.all_rows),
            "omitted": [int(i) for i in self.omitted],
            "assign": [int(i) for i in self.assign],
            "dot": None if self.dot is None else list(self.dot),
            "contrasts": {name: asdict(contrast) for name, contrast in self.contrasts.items()},
            "state": self.state,
            "records": self.records,
            "offset": self.offset,
            "omitted_names": [_json_label(label) for label in self.omitted_names],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], frame: pd.DataFrame | None = None) -> ModelFrame:
        """The model frame that :meth:`to_dict` described; ``frame`` is its table, where it was kept."""
        given = dict(state)
        given["formula"] = parse(given["formula"])
        given["omitted"] = np.asarray(given["omitted"], dtype=np.intp)
        given["omitted_names"] = pd.Index(given["omitted_names"])
        given["assign"] = tuple(given["assign"])
        given["dot"] = None if given["dot"] is None else tuple(given["dot"])
        given["contrasts"] = {name: _contrast_from(c) for name, c in given["contrasts"].items()}
        return cls(**given, row_names=None if frame is None else frame.index, _frame=frame)


def _refuse_specials(formula: Formula) -> None:
    for call in formula.specials:
        raise DesignError(f"'{deparse(call)}': this version does not fit {call.function}() terms yet.")


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


def _response(env: Evaluator, formula: Formula) -> Value:
    node = formula.response_node
    if isinstance(node, Call) and node.function == "cbind":
        raise DesignError("a cbind() response belongs to a binomial model, which this version does not fit yet.")
    value = env.variable(node)
    if isinstance(value, Factor) or value.logical:
        what = "a factor or text" if isinstance(value, Factor) else "logical"
        raise DesignError(f"the response '{formula.response}' is {what}: a linear mixed model needs numbers.")
    if value.values.ndim != 1:
        raise DesignError(f"the response '{formula.response}' is a matrix: a linear mixed model needs one column.")
    return value


def _check_finite(name: str, value: Value, what: str) -> None:
    if isinstance(value, Factor) or np.isfinite(value.values.sum()):
        return
    bad = np.isinf(value.values) if value.values.ndim == 1 else np.isinf(value.values).any(axis=1)
    if bad.any():
        raise DesignError(
            f"the {what} '{name}' has {int(bad.sum())} infinite values (first in row {int(np.argmax(bad)) + 1} of those used)."
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
    matrix: ModelMatrix = model_matrix(bar.terms, values, n)
    check_some_columns(matrix, bar.label)
    return RandomTerm(
        bar.group_label,
        group.codes,
        group.levels,
        matrix.columns,
        matrix.names,
        covariance=bar.structure,
        label=bar.label,
    )


def _new_term(term: RandomTerm, bar: Bar, values: Mapping[str, Value], group: Factor, n: int) -> NewTerm:
    codes, unseen = group.recoded(term.levels)
    if (group.codes < 0).any():
        unseen = ("NA", *unseen)
    return NewTerm(codes, model_matrix(bar.terms, values, n).columns, unseen[:10])


def _plain(value: Value) -> FloatArray:
    if not isinstance(value, Numeric):
        raise DesignError("a factor stands where numbers are needed.")
    return value.values


def _sum_offsets(terms: Terms, values: Mapping[str, Value], extra: Numeric | None) -> FloatArray | None:
    parts = [_offset_values(terms.names[i], values[terms.names[i]]) for i in terms.offsets]
    if extra is not None:
        parts.append(extra.values)
    return sum(parts[1:], start=np.array(parts[0])) if parts else None


def _offset_values(name: str, value: Value) -> FloatArray:
    if not isinstance(value, Numeric) or value.values.ndim != 1:
        raise DesignError(f"'{name}' is not one column of numbers.")
    return value.values


def _offset_name(offset: Any) -> str | None:
    return offset if isinstance(offset, str) or offset is None else "(values)"


def _record(value: Value) -> dict[str, Any]:
    """What new data must look like, as JSON-able data."""
    if isinstance(value, Factor):
        return {"kind": "factor", "levels": [str(level) for level in value.levels], "ordered": value.ordered}
    return {"kind": "logical" if value.logical else "numeric"}


def _like_fit(name: str, value: Value, record: Mapping[str, Any]) -> Value:
    """A variable of new data with the kind and levels of the fit."""
    if record["kind"] == "factor":
        if not isinstance(value, Factor):
            raise DesignError(
                f"'{name}' was a factor in the fit, but is numeric in the new data: give it the levels of the fit."
            )
        codes, unseen = value.recoded(record["levels"])
        if unseen:
            raise DesignError(
                f"the new data have level '{unseen[0]}' of the factor '{name}', which the fit has not seen: "
                f"its levels are {', '.join(record['levels'][:10])}."
            )
        return replace(value, codes=codes, levels=np.array(record["levels"], dtype=str), ordered=record["ordered"])
    if isinstance(value, Factor):
        if not (value.codes >= 0).any():
            return Numeric(np.full(len(value), np.nan), logical=record["kind"] == "logical")
        raise DesignError(f"'{name}' was numeric in the fit, but is text or a factor in the new data.")
    return replace(value, logical=record["kind"] == "logical")


def _contrast_from(state: Mapping[str, Any]) -> Contrast:
    given = dict(state)
    if given["matrix"] is not None:
        given["matrix"] = tuple(tuple(row) for row in given["matrix"])
    given["names"] = None if given["names"] is None else tuple(given["names"])
    return Contrast(**given)


def _json_label(label: Any) -> Any:
    return (
        label.item() if isinstance(label, np.generic) else label if isinstance(label, (int, float, str)) else str(label)
    )
