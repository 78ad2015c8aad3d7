"""Functions of a formula that make factors: factor, ordered, C, relevel, cut, interaction."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from pylmernn.formula.contrasts import Contrast, read_contrast
from pylmernn.formula.design import DesignError
from pylmernn.formula.evaluate import Evaluator, Function, Result, as_list
from pylmernn.formula.nodes import Call, Name, Node, String, deparse, r_number
from pylmernn.formula.options import bind, flag, number
from pylmernn.formula.values import Factor, interaction


def _factor(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "levels", "labels", "ordered")
    found = env.factor(options["x"])
    ordered = found.ordered or call.function == "ordered"
    if "ordered" in options:
        ordered = flag(env, options["ordered"], call)
    if "levels" in options:
        levels = [_name(v) for v in as_list(env.evaluate(options["levels"]))]
        found = Factor(found.recoded(levels)[0], np.array(levels, dtype=str))
    if "labels" in options:
        found = _relabelled(env, call, found, [_name(v) for v in as_list(env.evaluate(options["labels"]))])
    return replace(found, ordered=ordered, contrast=None)


def _relabelled(env: Evaluator, call: Call, found: Factor, labels: list[str]) -> Factor:
    """Other names for the levels, which are those of the fit: labels go by position."""
    levels = env.remember(call, lambda: [str(level) for level in found.levels])
    if len(labels) != len(levels):
        raise DesignError(f"'{deparse(call)}' has {len(labels)} labels for {len(levels)} levels.")
    codes, unseen = found.recoded(levels)
    if unseen:
        raise DesignError(f"'{deparse(call)}' has the level '{unseen[0]}', which the fit has not seen.")
    return Factor(codes, np.array(labels, dtype=str))


def _with_contrast(env: Evaluator, call: Call) -> Result:
    """``C(f)``, ``C(f, sum)``, ``C(f, contr.treatment, base = 2)``, and patsy's ``C(f, Treatment("b"))``."""
    options = bind(call, "x", "contr", "base")
    found = env.factor(options["x"])
    if "contr" not in options:
        return found
    return replace(found, contrast=_asked_contrast(env, call, options["contr"], options.get("base")))


def _asked_contrast(env: Evaluator, call: Call, asked: Node, base: Node | None) -> Contrast:
    if isinstance(asked, Call):
        inner = bind(asked, "reference", "base") if asked.arguments else {}
        base = inner.get("reference", inner.get("base", base))
        name = asked.function
    elif isinstance(asked, (Name, String)):
        name = asked.id if isinstance(asked, Name) else asked.value
    else:
        raise DesignError(
            f"'{deparse(asked)}' in '{deparse(call)}' is no contrast: use sum, treatment, helmert or poly."
        )
    contrast = read_contrast(name, deparse(call))
    if base is None:
        return contrast
    level = env.evaluate(base)
    if not isinstance(level, (str, int, float)):
        raise DesignError(f"the reference level in '{deparse(call)}' must be a name or a number.")
    return replace(contrast, base=level if isinstance(level, str) else int(level))


def _relevel(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "ref")
    found = env.factor(options["x"])
    if "ref" not in options:
        raise DesignError(f"'{deparse(call)}' needs ref=, the level to put first.")
    first = _name(env.evaluate(options["ref"]))
    levels = env.remember(call, lambda: [str(level) for level in found.levels])
    if first not in levels:
        raise DesignError(f"'{first}' in '{deparse(call)}' is no level: there are {', '.join(levels[:10])}.")
    order = (
        [first] + [level for level in levels if level != first] + [x for x in found.levels.tolist() if x not in levels]
    )
    return Factor(found.recoded(order)[0], np.array(order, dtype=str))


def _cut(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "breaks", "labels", "include.lowest", "right", "dig.lab", "ordered_result")
    x = np.asarray(env.numbers(options["x"], call))
    asked = as_list(env.evaluate(options["breaks"])) if "breaks" in options else []
    breaks = env.remember(call, lambda: _breaks(x, [float(b) for b in asked], call))
    right = "right" not in options or flag(env, options["right"], call)
    lowest = flag(env, options.get("include.lowest"), call)
    labels = [_name(v) for v in as_list(env.evaluate(options["labels"]))] if "labels" in options else []
    if not labels:
        digits = int(number(env, options["dig.lab"], call)) if "dig.lab" in options else 3
        labels = _interval_names(breaks, right, lowest, digits)
    if len(labels) != len(breaks) - 1:
        raise DesignError(f"'{deparse(call)}' has {len(labels)} labels for {len(breaks) - 1} intervals.")
    at = np.searchsorted(breaks, x, side="left" if right else "right") - 1
    if lowest:
        at = np.where(x == breaks[0 if right else -1], 0 if right else len(breaks) - 2, at)
    codes = np.where((at < len(breaks) - 1) & ~np.isnan(x), at, -1).astype(np.int32)
    return Factor(codes, np.array(labels, dtype=str), ordered=flag(env, options.get("ordered_result"), call))


def _breaks(x: Any, asked: list[float], call: Call) -> list[float]:
    if len(asked) > 1:
        return sorted(asked)
    if not asked or asked[0] < 2:
        raise DesignError(f"'{deparse(call)}' needs breaks: the limits of the intervals, or their number, at least 2.")
    low, high = float(np.nanmin(x)), float(np.nanmax(x))
    width = (high - low) or abs(low) or 1.0
    inner = np.linspace(low, high, int(asked[0]) + 1)
    inner[0], inner[-1] = low - width / 1000, high + width / 1000  # R widens the outer limits by a thousandth
    return [float(b) for b in inner]


def _interval_names(breaks: list[float], right: bool, lowest: bool, digits: int) -> list[str]:
    """R's names, ``"(0,10]"``, with as many digits as tell the limits apart."""
    for k in range(digits, max(12, digits) + 1):
        shown = [f"{b:.{k}g}" for b in breaks]
        if len(set(shown)) == len(shown):
            break
    names = [f"({a},{b}]" if right else f"[{a},{b})" for a, b in pairwise(shown)]
    if lowest and right:
        names[0] = "[" + names[0][1:]
    elif lowest:
        names[-1] = names[-1][:-1] + "]"
    return names


def _interaction(env: Evaluator, call: Call) -> Result:
    if not call.arguments:
        raise DesignError("interaction() needs factors.")
    found = env.factor(call.arguments[0].value)
    for argument in call.arguments[1:]:
        if argument.name is not None:
            raise DesignError(f"'{deparse(call)}': options of interaction() are not known here; write a:b.")
        found = interaction(found, env.factor(argument.value))
    return found


def _as_character(env: Evaluator, call: Call) -> Result:
    found = env.factor(bind(call, "x")["x"])
    levels = sorted(found.levels.tolist())
    return Factor(found.recoded(levels)[0], np.array(levels, dtype=str))


def _name(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.15g}" if value == round(value) else r_number(value)
    return str(value)


FACTOR_FUNCTIONS: dict[str, Function] = {
    "factor": _factor,
    "as.factor": _factor,
    "ordered": _factor,
    "as.ordered": _factor,
    "C": _with_contrast,
    "relevel": _relevel,
    "cut": _cut,
    "interaction": _interaction,
    "as.character": _as_character,
}
