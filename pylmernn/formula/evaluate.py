"""Evaluate an expression of a formula on the columns of a DataFrame."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.formula.data import column, unknown_column
from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.nodes import Binary, Call, Constant, Name, Node, Number, Paren, String, Unary, deparse
from pylmernn.formula.values import Factor, Numeric, Value, as_factor, interaction, read_column, read_factor

#: what an expression may be besides a column: a number, a text, NULL, or the list made by ``c(...)``
Scalar = float | str | None
Result = Value | Scalar | list[Any]
Function = Callable[["Evaluator", Call], Result]

_CONSTANTS = {"TRUE": 1.0, "FALSE": 0.0, "NULL": None, "NA": math.nan, "NaN": math.nan, "Inf": math.inf}
_NAMED = {"pi": math.pi, "T": 1.0, "F": 0.0}
_LOGICAL = frozenset(["==", "!=", "<", ">", "<=", ">=", "&", "&&", "|", "||", "%in%"])
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "^": np.power,
    "%%": np.mod, "%/%": np.floor_divide,
    "==": np.equal, "!=": np.not_equal, "<": np.less, ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal,
}  # fmt: skip


class Evaluator:
    """Expressions on one table.

    Parameters
    ----------
    data : DataFrame
    state : dict
        What data-dependent transforms learned, by the text of their call: filled while ``fitting``, used afterwards, so
        that new data are treated like the old (R's predvars).
    fitting : bool
    functions : dict
        The functions a formula may call.
    """

    def __init__(
        self, data: pd.DataFrame, state: dict[str, Any], fitting: bool, functions: dict[str, Function]
    ) -> None:
        self.data = data
        self.state = state
        self.fitting = fitting
        self.functions = functions
        self.cache: dict[str, Value] = {}
        self.columns: dict[str, pd.Series] = {}

    def variable(self, node: Node) -> Value:
        """The value of a term's variable: one number or level a row."""
        value = self.evaluate(node)
        if not isinstance(value, (Numeric, Factor)):
            raise DesignError(f"'{deparse(node)}' is not a term: it has no value for each row.")
        if len(value) != len(self.data):
            raise DesignError(f"'{deparse(node)}' has {len(value)} values but data has {len(self.data)} rows.")
        return value

    def series(self, name: str) -> pd.Series:
        """A column as it is in the table."""
        if name not in self.columns:
            self.columns[name] = column(self.data, name)
        return self.columns[name]

    def has_column(self, name: str) -> bool:
        """Whether the table has that column."""
        return name in self.data.columns

    def read(self, name: str) -> Value:
        """A column as numbers or factor, converted once."""
        if name not in self.cache:
            self.cache[name] = read_column(self.series(name), name)
        return self.cache[name]

    def factor(self, node: Node) -> Factor:
        """An expression as a grouping factor, without unused levels; ``a:b`` has the combinations that occur."""
        if isinstance(node, Paren):
            return self.factor(node.inner)
        if isinstance(node, Name):
            if not self.has_column(node.id):
                raise unknown_column(self.data, node.id)
            return read_factor(self.series(node.id))
        if isinstance(node, Binary) and node.operator == ":":
            return interaction(self.factor(node.left), self.factor(node.right))
        return as_factor(self.variable(node))

    def remember(self, call: Call, learn: Callable[[], Any]) -> Any:
        """What a transform learns from the data of the fit."""
        key = deparse(call)
        if key not in self.state:
            if not self.fitting:
                raise DesignError(f"the fit has no record of '{key}', so it cannot be applied to new data.")
            self.state[key] = learn()
        return self.state[key]

    def evaluate(self, node: Node) -> Result:
        """The value of any expression."""
        if isinstance(node, Name):
            if node.id in _NAMED and not self.has_column(node.id):
                return _NAMED[node.id]
            return self.read(node.id)
        if isinstance(node, Number):
            return node.value
        if isinstance(node, String):
            return node.value
        if isinstance(node, Constant):
            return _CONSTANTS[node.id]
        if isinstance(node, Paren):
            return self.evaluate(node.inner)
        if isinstance(node, Unary):
            return self.unary(node)
        if isinstance(node, Binary):
            return self.binary(node)
        return self.call(node)

    def call(self, node: Call) -> Result:
        """A function by name; ``np.log`` is ``log``."""
        name = node.function.removeprefix("np.").removeprefix("numpy.")
        function = self.functions.get(name)
        if function is None:
            known = ", ".join(sorted(self.functions))
            raise DesignError(f"unknown function '{node.function}' in '{deparse(node)}': a formula can call {known}.")
        return function(self, node)

    def numbers(self, node: Node, where: Node | None = None) -> FloatArray | float:
        """The value of an expression that must be numeric."""
        return _numbers(self.evaluate(node), node, where or node)

    def unary(self, node: Unary) -> Result:
        """``-x``, ``+x`` and ``!x``."""
        x = self.numbers(node.operand, node)
        if node.operator == "!":
            return _like(np.where(np.isnan(x), np.nan, np.equal(x, 0)), logical=True)
        if node.operator == "~":
            raise DesignError(f"'{deparse(node)}' cannot stand inside a formula.")
        return _like(-x if node.operator == "-" else x)

    def binary(self, node: Binary) -> Result:
        """Arithmetic, comparisons and logic."""
        operator = node.operator
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        if operator == ":":
            return self.colon(node, left, right)
        if operator == "%in%":
            return _member(left, right if isinstance(right, list) else [right], node)
        if isinstance(left, Factor) or isinstance(right, Factor):
            return _compare_levels(node, left, right)
        a, b = _numbers(left, node.left, node), _numbers(right, node.right, node)
        if operator in ("&", "&&", "|", "||"):
            return _like(_logic(operator[0], a, b), logical=True)
        if operator not in _ARITHMETIC:
            raise DesignError(f"cannot evaluate '{operator}' in '{deparse(node)}'.")
        with np.errstate(all="ignore"):
            out = _ARITHMETIC[operator](a, b)
        if operator in _LOGICAL:
            out = np.where(np.isnan(a) | np.isnan(b), np.nan, out)
        return _like(out, logical=operator in _LOGICAL)

    def colon(self, node: Binary, left: Result, right: Result) -> Result:
        """``1:3``, or the interaction of two factors."""
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            step = 1 if right >= left else -1
            return [float(i) for i in np.arange(left, right + step / 2, step)]
        if isinstance(left, Factor) and isinstance(right, Factor):
            return interaction(left, right)
        raise DesignError(f"'{deparse(node)}' inside a function needs two factors or two numbers.")


def as_list(value: Result) -> list[Any]:
    """A scalar or the result of ``c(...)`` as a list."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _numbers(value: Result, node: Node, where: Node) -> FloatArray | float:
    if isinstance(value, Numeric) and not value.array:
        return value.values
    if isinstance(value, (int, float)):
        return value
    what = "a factor" if isinstance(value, Factor) else "a list" if isinstance(value, list) else "no number"
    what = "a column of arrays" if isinstance(value, Numeric) else what
    raise DesignError(f"'{deparse(node)}' is {what}, but '{deparse(where)}' needs numbers.")


def _like(values: Any, logical: bool = False) -> Result:
    array = np.asarray(values, dtype=np.float64)
    return float(array) if array.ndim == 0 else Numeric(array, logical=logical)


def _logic(operator: str, a: FloatArray | float, b: FloatArray | float) -> FloatArray:
    """R's three-valued and/or: NA unless the other side decides."""
    missing = np.isnan(a) | np.isnan(b)
    x, y = np.not_equal(a, 0) & ~np.isnan(a), np.not_equal(b, 0) & ~np.isnan(b)
    if operator == "|":
        return np.where(x | y, 1.0, np.where(missing, np.nan, 0.0))
    no = (np.equal(a, 0)) | (np.equal(b, 0))
    return np.where(no, 0.0, np.where(missing, np.nan, 1.0))


def _member(left: Result, right: list[Any], node: Node) -> Result:
    if isinstance(left, Factor):
        table = np.append(np.isin(left.levels, [_level_name(r) for r in right]), False)
        return Numeric(table[left.codes].astype(np.float64), logical=True)
    values = _numbers(left, node, node)
    return _like(np.isin(values, [r for r in right if isinstance(r, (int, float))]), logical=True)


def _level_name(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _compare_levels(node: Binary, left: Result, right: Result) -> Result:
    """``f == "a"``, and ``<`` for ordered factors."""
    if isinstance(right, Factor) and not isinstance(left, Factor):
        mirrored = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
        operator = mirrored.get(node.operator, node.operator)
        return _compare_levels(Binary(operator, node.right, node.left), right, left)
    if (
        not isinstance(left, Factor)
        or node.operator not in _LOGICAL
        or isinstance(right, (Numeric, list))
        or right is None
    ):
        raise DesignError(f"'{deparse(node)}' mixes a factor with numbers.")
    if isinstance(right, Factor):
        if node.operator not in ("==", "!="):
            raise DesignError(f"'{deparse(node)}': two factors can be compared only by == and !=.")
        same, _ = right.recoded(left.levels)
        out = (left.codes == same) == (node.operator == "==")
        return Numeric(np.where((left.codes < 0) | (right.codes < 0), np.nan, out), logical=True)
    name = _level_name(right)
    if node.operator in ("==", "!="):
        table = (left.levels == name) == (node.operator == "==")
    elif left.ordered and name in left.levels:
        place = int(np.flatnonzero(left.levels == name)[0])
        table = _ARITHMETIC[node.operator](np.arange(len(left.levels)), place)
    else:
        raise DesignError(f"'{deparse(node)}' needs an ordered factor and one of its levels.")
    return Numeric(np.append(table.astype(np.float64), np.nan)[left.codes], logical=True)
