"""The functions a formula may call: arithmetic, summaries and the basis expansions poly, scale, ns and bs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pylmernn.formula import splines
from pylmernn.formula.design import DesignError, FloatArray
from pylmernn.formula.evaluate import Evaluator, Function, Result, as_list
from pylmernn.formula.factors import FACTOR_FUNCTIONS
from pylmernn.formula.nodes import Call, Node, Number, deparse
from pylmernn.formula.options import bind, flag, number
from pylmernn.formula.orthogonal import fit_polynomial, polynomial
from pylmernn.formula.values import Factor, Numeric


def _elementwise(function: Callable[[Any], Any]) -> Function:
    def apply(env: Evaluator, call: Call) -> Result:
        x = env.numbers(bind(call, "x")["x"], call)
        with np.errstate(all="ignore"):  # log(-1) is NaN, hence a missing value, as in R
            out = np.asarray(function(x), dtype=np.float64)
        return float(out) if out.ndim == 0 else Numeric(out)

    return apply


def _log(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "base")
    x = env.numbers(options["x"], call)
    with np.errstate(all="ignore"):
        out = np.log(x)
        if "base" in options:
            out = out / np.log(number(env, options["base"], call))
    return float(out) if np.ndim(out) == 0 else Numeric(np.asarray(out))


def _round(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "digits")
    digits = int(number(env, options["digits"], call)) if "digits" in options else 0
    return Numeric(np.round(_vector(env, options["x"], call), digits))


def _summary(function: Callable[[FloatArray], Any]) -> Function:
    """``mean(x)`` and its like: one number, learned in the fit and kept for new data."""

    def apply(env: Evaluator, call: Call) -> Result:
        options = bind(call, "x", "na.rm")
        x = _vector(env, options["x"], call)
        return float(env.remember(call, lambda: float(function(x[~np.isnan(x)]))))

    return apply


def _between(function: Any) -> Function:
    def apply(env: Evaluator, call: Call) -> Result:
        if not call.arguments:
            raise DesignError(f"'{deparse(call)}' needs arguments.")
        out = env.numbers(call.arguments[0].value, call)
        for argument in call.arguments[1:]:
            out = function(out, env.numbers(argument.value, call))
        return float(out) if np.ndim(out) == 0 else Numeric(np.asarray(out))

    return apply


def _as_is(env: Evaluator, call: Call) -> Result:
    return env.evaluate(bind(call, "x")["x"])


def _combine(env: Evaluator, call: Call) -> Result:
    values: list[Any] = []
    for argument in call.arguments:
        value = env.evaluate(argument.value)
        if isinstance(value, (Numeric, Factor)):
            raise DesignError(f"'{deparse(call)}' may hold numbers and texts only.")
        values.extend(as_list(value))
    return values


def _is_missing(env: Evaluator, call: Call) -> Result:
    value = env.variable(bind(call, "x")["x"])
    mask = value.missing()
    return Numeric(np.zeros(len(value)) if mask is None else mask.astype(np.float64), logical=True)


def _ifelse(env: Evaluator, call: Call) -> Result:
    options = bind(call, "test", "yes", "no")
    test = _vector(env, options["test"], call)
    out = np.where(test != 0, env.numbers(options["yes"], call), env.numbers(options["no"], call))
    return Numeric(np.where(np.isnan(test), np.nan, out))


def _scale(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "center", "scale")
    x = _vector(env, options["x"], call)
    if call.function == "center":
        options["scale"] = Number(0)

    def learn() -> dict[str, float]:
        seen = x[~np.isnan(x)]
        center = _center_or_scale(env, options.get("center"), call, lambda: float(seen.mean()), 0.0)
        rest = seen - center
        spread = _center_or_scale(
            env, options.get("scale"), call, lambda: float(np.sqrt(rest @ rest / max(len(rest) - 1, 1))), 1.0
        )
        return {"center": center, "scale": spread}

    state = env.remember(call, learn)
    with np.errstate(all="ignore"):
        return Numeric((x - state["center"]) / state["scale"])


def _center_or_scale(env: Evaluator, node: Node | None, call: Call, learn: Callable[[], float], off: float) -> float:
    """TRUE means learn, FALSE means leave, a number means itself."""
    if node is None or deparse(node) in ("TRUE", "T"):
        return learn()
    if deparse(node) in ("FALSE", "F", "0"):
        return off
    return number(env, node, call)


def _poly(env: Evaluator, call: Call) -> Result:
    options = bind(call, "x", "degree", "raw", "coefs", "simple")
    x = _vector(env, options["x"], call)
    degree = int(number(env, options["degree"], call)) if "degree" in options else 1
    if degree < 1:
        raise DesignError(f"the degree in '{deparse(call)}' must be at least 1.")
    names = tuple(str(i) for i in range(1, degree + 1))
    if flag(env, options.get("raw"), call):
        return Numeric(np.column_stack([x**i for i in range(1, degree + 1)]), names=names)
    seen = x[np.isfinite(x)]
    if env.fitting and degree >= len(np.unique(seen)):
        raise DesignError(f"the degree in '{deparse(call)}' must be less than the number of distinct values.")
    return Numeric(polynomial(x, env.remember(call, lambda: fit_polynomial(seen, degree))), names=names)


def _spline(env: Evaluator, call: Call) -> Result:
    natural = call.function == "ns"
    allowed = ["x", "df", "knots", "intercept", "Boundary.knots"]
    if not natural:
        allowed.insert(3, "degree")
    options = bind(call, *allowed)
    x = _vector(env, options["x"], call)

    def learn() -> splines.SplineState:
        knots = as_list(env.evaluate(options["knots"])) if "knots" in options else None
        boundary = as_list(env.evaluate(options["Boundary.knots"])) if "Boundary.knots" in options else None
        return splines.fit_spline(
            x[np.isfinite(x)],
            df=int(number(env, options["df"], call)) if "df" in options else None,
            knots=knots,
            degree=int(number(env, options["degree"], call)) if "degree" in options else 3,
            intercept=flag(env, options.get("intercept"), call),
            boundary=boundary,
            natural=natural,
            where=deparse(call),
        )

    basis = splines.spline(x, env.remember(call, learn))
    return Numeric(basis, names=tuple(str(i) for i in range(1, basis.shape[1] + 1)))


def _vector(env: Evaluator, node: Node, call: Call) -> FloatArray:
    x = env.numbers(node, call)
    if np.ndim(x) != 1:
        raise DesignError(f"'{deparse(call)}' needs one column of numbers.")
    return np.asarray(x)


#: functions that numpy calls as R does
_SAME_NAME = [
    "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin",
    "cos", "tan", "sinh", "cosh", "tanh", "floor", "sign",
]  # fmt: skip

#: every function a formula may call
FUNCTIONS: dict[str, Function] = {
    **{name: _elementwise(getattr(np, name)) for name in _SAME_NAME},
    "asin": _elementwise(np.arcsin),
    "acos": _elementwise(np.arccos),
    "atan": _elementwise(np.arctan),
    "ceiling": _elementwise(np.ceil),
    "trunc": _elementwise(np.trunc),
    "as.numeric": _elementwise(lambda x: x),
    "as.integer": _elementwise(np.trunc),
    "log": _log,
    "round": _round,
    "mean": _summary(np.mean),
    "median": _summary(np.median),
    "sd": _summary(lambda x: np.std(x, ddof=1)),
    "var": _summary(lambda x: np.var(x, ddof=1)),
    "min": _summary(np.min),
    "max": _summary(np.max),
    "pmin": _between(np.minimum),
    "pmax": _between(np.maximum),
    "I": _as_is,
    "offset": _as_is,
    "c": _combine,
    "is.na": _is_missing,
    "ifelse": _ifelse,
    "scale": _scale,
    "center": _scale,
    "standardize": _scale,
    "poly": _poly,
    "ns": _spline,
    "bs": _spline,
    **FACTOR_FUNCTIONS,
}
