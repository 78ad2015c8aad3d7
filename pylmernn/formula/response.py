"""The left side of a formula: numbers for a linear model, also two classes or counts of both for a binomial one."""

from __future__ import annotations

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.formula import Formula
from pylmernn.formula.nodes import Call, deparse
from pylmernn.formula.values import Factor, Numeric, Value


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
    if family == "binomial" and isinstance(value, Factor):
        return value
    if isinstance(value, Factor) or (value.logical and family != "binomial"):
        kind = "a factor or text" if isinstance(value, Factor) else "logical"
        raise DesignError(f"the response '{name}' is {kind}: {what} needs numbers.")
    if value.values.ndim != 1:
        raise DesignError(f"the response '{name}' is a matrix: {what} needs one column.")
    return value


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


def response_numbers(value: Value, name: str) -> tuple[FloatArray, FloatArray | None]:
    """The response (n,) as numbers, and the numbers of trials (n,) where it has them.

    A factor is 0 for its first level and 1 for the others, as in R; counts of successes and failures become the
    proportion of successes.

    Raises
    ------
    DesignError
        For a factor with one level, or counts that are negative, not whole, or both zero.
    """
    if isinstance(value, Factor):
        if len(value.levels) < 2:
            raise DesignError(f"the response '{name}' has one level, '{value.levels[0]}': it needs two.")
        return (value.codes > 0).astype(np.float64), None
    if value.values.ndim == 1:
        return np.array(value.values), None  # a copy: the user may change the data later
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
