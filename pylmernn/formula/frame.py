"""What is kept of a formula and its data: the model frame, and new data in the columns of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.contrasts import Contrast
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, FloatArray, NewRows, NewTerm, RandomTerm
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.fields import new_field_term, read_fields
from pylmernn.formula.formula import Bar, Formula, parse
from pylmernn.formula.modelmatrix import model_matrix
from pylmernn.formula.networks import NetCall, net_term, read_networks
from pylmernn.formula.records import like_fit, sum_offsets
from pylmernn.formula.rows import extra_variable, missing_rows
from pylmernn.formula.table import model_frame_table
from pylmernn.formula.terms import Terms, expand, members
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor, Numeric, Value

NA_ACTIONS = ("omit", "exclude", "fail")


@dataclass
class Source:
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
    _source: Source | None = field(default=None, repr=False)
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
        self,
        data: Any,
        design: Design,
        *,
        random: bool | Sequence[bool] = True,
        na_action: str = "pass",
        varying: bool = False,
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
        varying : bool, default False
            Whether the levels by which networks vary are wanted.

        Raises
        ------
        DesignError
            For an unknown column, or a level of a fixed factor that the fit has not seen. Unseen levels of grouping
            factors get code -1.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from pylmernn.formula import build
        >>> data = pd.DataFrame({"y": np.sin(np.arange(12.0)), "x": np.arange(12.0), "g": list("aabbcc") * 2})
        >>> design, frame = build("y ~ scale(x) + (1 | g)", data)
        >>> rows = frame.new_data({"x": [5.5, 9.0], "g": ["c", "z"]}, design)
        >>> rows.X.round(3).tolist()
        [[1.0, 0.0], [1.0, 0.971]]
        >>> rows.random[0].codes.tolist(), rows.random[0].unseen
        ([2, -1], ('z',))
        """
        if na_action not in ("pass", *NA_ACTIONS):
            raise DesignError(f"na_action='{na_action}' is unknown: use pass, {', '.join(NA_ACTIONS)}.")
        table = as_pandas(data)
        wanted = [bool(random)] * len(design.random) if isinstance(random, bool) else [bool(r) for r in random]
        env = Evaluator(table, self.state, False, FUNCTIONS)
        values: dict[str, Value] = {}
        terms = self.fixed_terms
        bars = {bar.label: bar for bar in self.formula.random}
        fields = {call.label: call for call in read_fields(self.formula)}
        of_bars = [(bars[t.label], w) for t, w in zip(design.random, wanted, strict=True) if t.label in bars]
        needed = [(terms, True), *((bar.terms, fill) for bar, fill in of_bars)]
        for each, fill in needed:
            if fill:
                self._evaluate(env, each, values)
        networks = read_networks(self.formula, {net.name: {} for net in design.nets})
        filled = [fields[t.label] for t, w in zip(design.random, wanted, strict=True) if w and t.label in fields]
        for inputs in [*(call.inputs for call in networks), *(call.inputs for call in filled)]:
            for name, node in inputs.items():
                if name not in values:
                    values[name] = like_fit(name, env.variable(node), self.records[name])
        extra = self._new_offset(env)
        given = {} if extra is None else {"(offset)": extra}
        drop = missing_rows({**values, **given}, None, na_action) if na_action in ("omit", "fail") else None
        codes = {bar.group_label: env.factor(bar.group) for bar, fill in of_bars if fill}
        rows = np.arange(len(table)) if drop is None else np.flatnonzero(~drop)
        groups = {bar.group_label: env.factor(bar.group) for bar in self.formula.varying if varying}
        if drop is not None:
            values = {name: value.take(rows) for name, value in values.items()}
            codes = {name: value.take(rows) for name, value in codes.items()}
            extra = None if extra is None else extra.take(rows)
        X = model_matrix(terms, values, len(rows), self.contrasts).columns
        if terms.intercept and "(Intercept)" not in (*design.fixed_names, *design.dropped):
            X = X[:, 1:]  # an ordinal model has thresholds for it
        if design.dropped_at:
            X = np.delete(X, design.dropped_at, axis=1)
        offset = sum_offsets(terms, values, extra)

        def new_term(term: RandomTerm, fill: bool) -> NewTerm:
            if not fill:
                return NewTerm(np.full(len(rows), -1, dtype=np.int32), np.zeros((len(rows), term.width)))
            if term.label in fields:
                return new_field_term(fields[term.label], term, values)
            return _new_term(term, bars[term.label], values, codes[term.group], len(rows))

        return NewRows(
            X=X,
            offset=np.zeros(len(rows)) if offset is None else offset,
            random=tuple(new_term(term, fill) for term, fill in zip(design.random, wanted, strict=True)),
            row_names=table.index[rows],
            nets=tuple(_inputs(call, values) for call in networks),
            varying=tuple(_level_names(groups[bar.group_label], rows) for bar in self.formula.varying if varying),
        )

    def _evaluate(self, env: Evaluator, terms: Terms, values: dict[str, Value]) -> None:
        used = {i for term in terms.terms for i in members(term)} | set(terms.offsets)
        for i in sorted(used):
            name = terms.names[i]
            if name not in values:
                values[name] = like_fit(name, env.variable(terms.variables[i]), self.records[name])

    def _new_offset(self, env: Evaluator) -> Numeric | None:
        if self.offset == "(values)":
            raise DesignError(
                "the offset of the fit was given as values: make it a column and name it, so that new data can have "
                "it too."
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


def _level_names(group: Factor, rows: NDArray[np.intp]) -> NDArray[Any]:
    """The level of each row; empty where it is missing."""
    codes = group.codes[rows]
    return np.where(codes < 0, "", np.asarray(group.levels, dtype=str)[codes])


def _inputs(call: NetCall, values: Mapping[str, Value]) -> FloatArray:
    """Inputs of a network with NaN for missing levels too."""
    term = net_term(call, values)
    return np.where((np.array(term.levels) > 0) & (term.inputs < 0), np.nan, term.inputs)


def _new_term(term: RandomTerm, bar: Bar, values: Mapping[str, Value], group: Factor, n: int) -> NewTerm:
    codes, unseen = group.recoded(term.levels)
    if (group.codes < 0).any():
        unseen = ("NA", *unseen)
    return NewTerm(codes, model_matrix(bar.terms, values, n).columns, unseen[:10])


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
