"""Which random effects take part in a prediction: lme4's ``re.form``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pylmernn.formula import ModelFrame
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.fields import read_fields
from pylmernn.formula.formula import Bar, parse
from pylmernn.formula.transforms import FUNCTIONS

#: Ways to say "no random effects at all".
_NOTHING = ("NA", "~0", "~-1", "~ 0")


def selection(design: Design, re_form: Any) -> tuple[np.ndarray, ...]:
    """The columns of each random term that ``re_form`` names.

    Parameters
    ----------
    design : Design
    re_form : None, "NA", False, nan or str
        None is all random effects; "NA", "~0", False or nan none; a formula such as "~ (1 | g)" those it names.

    Returns
    -------
    tuple of bool ndarray, shape (d_k,)

    Raises
    ------
    DesignError
        Where the formula names a factor or a column that is no random term of the fit.
    """
    if re_form is None:
        return tuple(np.ones(term.width, dtype=bool) for term in design.random)
    nothing = tuple(np.zeros(term.width, dtype=bool) for term in design.random)
    if re_form is False or (isinstance(re_form, float) and math.isnan(re_form)):
        return nothing
    if not isinstance(re_form, str):
        raise DesignError(f"re_form is {re_form!r}: use None, 'NA' or a formula of random terms such as '~ (1 | g)'.")
    text = re_form.strip()
    if text.replace(" ", "") in _NOTHING:
        return nothing
    formula = parse("y " + (text if text.startswith("~") else "~ " + text))
    fields = read_fields(formula)
    if not formula.random and not fields:
        raise DesignError(f"re_form '{re_form}' has no random term: write it as '~ (1 | g)', or 'NA' for none.")
    for bar in formula.random:
        _mark(design.random, bar, nothing)
    for field in fields:
        places = [k for k, term in enumerate(design.random) if term.group == field.group]
        if not places:
            raise DesignError(f"re_form names {field.group}, which the model does not have.")
        nothing[places[0]][:] = True
    return nothing


def _mark(random: Sequence[RandomTerm], bar: Bar, marks: tuple[np.ndarray, ...]) -> None:
    """Turn on what one bar of re_form names."""
    wanted = sorted(bar.group_label.split(":"))
    members = [k for k, term in enumerate(random) if sorted(term.group.split(":")) == wanted]
    if not members:
        known = ", ".join(f"'{g}'" for g in dict.fromkeys(term.group for term in random))
        raise DesignError(f"re_form names the grouping factor '{bar.group_label}', but those of the model are {known}.")
    labels = (["(Intercept)"] if bar.terms.intercept else []) + list(bar.terms.labels)
    for label in labels:
        found = False
        for k in members:
            hits = _columns_of(label, random[k].column_names)
            for j in hits:
                marks[k][j] = found = True
        if not found:
            raise DesignError(
                f"re_form {bar.label} names '{label}', which does not vary by '{bar.group_label}' in the model."
            )


def _columns_of(label: str, names: Sequence[str]) -> list[int]:
    """Columns of a term label: the one of that name, else those with levels added to its variables ("fA", "fB")."""
    exact = [j for j, name in enumerate(names) if name == label]
    if exact or label == "(Intercept)":
        return exact
    variables = label.split(":")
    return [
        j
        for j, name in enumerate(names)
        if len(name.split(":")) == len(variables)
        and all(part.startswith(variable) for part, variable in zip(name.split(":"), variables, strict=True))
    ]


def group_codes(frame: ModelFrame, newdata: Any, label: str) -> np.ndarray:
    """The grouping factor of a random term in new data as integers; rows that share a level share a number.

    Parameters
    ----------
    frame : ModelFrame
    newdata : DataFrame, m rows
    label : str
        The random term as written.

    Returns
    -------
    ndarray of int, shape (m,)
    """
    bar = next(bar for bar in frame.formula.random if bar.label == label)
    return np.asarray(Evaluator(as_pandas(newdata), frame.state, False, FUNCTIONS).factor(bar.group).codes)
