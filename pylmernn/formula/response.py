"""The left side of a formula: numbers for a linear model, also two classes or counts of both for a binomial one, and
classes for a multinomial or ordinal one.
"""

from __future__ import annotations

import warnings

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.formula import Formula
from pylmernn.formula.nodes import Call, deparse
from pylmernn.formula.values import Factor, Numeric, Value, as_factor

CATEGORICAL = ("multinomial", "ordinal", "crf")
MAX_CLASSES = 1000


def read_response(env: Evaluator, formula: Formula, family: str | None) -> Value:
    """The response as it is in the data.

    Parameters
    ----------
    env : Evaluator
    formula : Formula
    family : str or None
        Name of the family; None for a linear model.

    Raises
    ------
    DesignError
        For a factor, logical or ``cbind()`` where the family takes numbers only.
    """
    node, name = formula.response_node, formula.response
    what = "a linear mixed model" if family is None else f"the {family} family"
    if isinstance(node, Call) and node.function == "cbind":
        if family != "binomial":
            raise DesignError(f"the response '{name}': cbind() belongs to a binomial model: use family='binomial'.")
        return _read_counts(env, node)
    value = env.variable(node)
    if isinstance(value, Factor) and (family == "binomial" or family in CATEGORICAL):
        return value
    if isinstance(value, Numeric) and value.values.ndim == 1 and family in CATEGORICAL:
        return _whole_classes(value, name, what)
    if isinstance(value, Factor) or (value.logical and family != "binomial"):
        kind = "a factor or text" if isinstance(value, Factor) else "logical"
        raise DesignError(f"the response '{name}' is {kind}: {what} needs numbers.")
    if value.values.ndim != 1:
        raise DesignError(f"the response '{name}' is a matrix: {what} needs one column.")
    return value


def _whole_classes(value: Numeric, name: str, what: str) -> Factor:
    """Whole numbers, TRUE and FALSE as classes."""
    present = value.values[~np.isnan(value.values)]
    broken = present[present != np.rint(present)]
    if len(broken):
        raise DesignError(
            f"the response '{name}' has the value {broken[0]:g}: {what} needs classes, a factor, text or whole numbers."
        )
    return as_factor(value)


def _read_counts(env: Evaluator, node: Call) -> Numeric:
    """``cbind(successes, failures)`` as two columns."""
    if len(node.arguments) != 2:
        raise DesignError(f"the response '{deparse(node)}' has {len(node.arguments)} columns: write cbind(yes, no).")
    columns = []
    for argument in node.arguments:
        value = env.variable(argument.value)
        if isinstance(value, Factor) or value.values.ndim != 1:
            raise DesignError(f"'{deparse(argument.value)}' in '{deparse(node)}' is not one column of counts.")
        columns.append(value.values)
    return Numeric(np.column_stack(columns), names=tuple(f".{i}" for i in (1, 2)))


def response_classes(value: Value, name: str, family: str | None) -> tuple[str, ...]:
    """Names of the classes of a response, in the order of their codes; empty for numbers and counts.

    For a binomial response these are failure and success: of more than two levels, the first and what is not the first.

    Parameters
    ----------
    value : Factor or Numeric
        As :func:`read_response` gives it, rows used and levels in use only.
    name : str
    family : str or None

    Raises
    ------
    DesignError
        For one class, or more than 1000.

    Warns
    -----
    UserWarning
        For text as the response of an ordinal model: its classes are in alphabetical order.
    """
    if isinstance(value, Numeric):
        return ("FALSE", "TRUE") if value.logical and family == "binomial" else ()
    levels = tuple(str(level) for level in value.levels)
    if len(levels) == 1:
        raise DesignError(f"the response '{name}' has one class only, '{levels[0]}': it needs two.")
    if family == "binomial":
        return (levels[0], levels[1] if len(levels) == 2 else f"not {levels[0]}")
    if len(levels) > MAX_CLASSES:
        raise DesignError(
            f"the response '{name}' has {len(levels)} classes, more than {MAX_CLASSES}: did you mean a number, for "
            "lmernn() or a family of counts?"
        )
    if family == "ordinal" and not value.ordered and len(levels) > 2 and _looks_sorted(levels):
        order = " < ".join(levels[:5]) + (" ..." if len(levels) > 5 else "")
        warnings.warn(
            f"the classes of '{name}' are taken in the order {order}: make it an ordered factor if they have another.",
            UserWarning,
            stacklevel=4,
        )
    return levels


def _looks_sorted(levels: tuple[str, ...]) -> bool:
    """Whether the order is alphabetical, as of a text that nobody put into order, and not that of numbers."""
    return list(levels) == sorted(levels) and not all(level.lstrip("-").isdigit() for level in levels)


def response_numbers(value: Value, name: str, family: str | None = None) -> tuple[FloatArray, FloatArray | None]:
    """The response (n,) as numbers, and the numbers of trials (n,) where it has them.

    A factor is 0 for its first level and 1 for the others, as in R, and class codes for a family of several classes;
    counts of successes and failures become the proportion of successes.

    Raises
    ------
    DesignError
        For zeros or ones only, or counts that are negative, not whole, or both zero.
    """
    if isinstance(value, Factor):
        codes = value.codes if family in CATEGORICAL else value.codes > 0
        return codes.astype(np.float64), None
    if value.values.ndim == 1:
        y = np.array(value.values)  # a copy: the user may change the data later
        if family == "binomial" and len(y) and y[0] in (0.0, 1.0) and (y == y[0]).all():
            only = str(bool(y[0])).upper() if value.logical else f"{y[0]:g}"
            raise DesignError(f"the response '{name}' has one class only, {only}: it needs two.")
        return y, None
    counts = value.values
    bad = np.flatnonzero(((counts < 0) | (counts != np.rint(counts))).any(axis=1))
    if len(bad):
        i = bad[0]
        raise DesignError(
            f"'{name}' is {counts[i, 0]:g} and {counts[i, 1]:g} in row {i + 1}: counts are whole numbers."
        )
    total = counts.sum(axis=1)
    if (total == 0).any():
        raise DesignError(f"'{name}' has {int((total == 0).sum())} rows without trials: leave them out with subset.")
    return counts[:, 0] / total, total
