"""lme4's own fits from Python, answered in the shapes of :class:`pylmernn.MixedFit`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.bridge.from_r import from_r
from pylmernn.bridge.session import Answer, BridgeError, session
from pylmernn.bridge.to_r import to_r
from pylmernn.fit.ranef import Ranef
from pylmernn.fit.varcorr import TermCovariance, VarCorr
from pylmernn.formula.data import as_pandas

_NA_ACTIONS = {"omit": "na.omit", "exclude": "na.exclude", "fail": "na.fail"}


@dataclass(frozen=True)
class Lme4Fit:
    """A ``lmerMod`` in R, with the verbs of :class:`pylmernn.MixedFit`.

    Attributes
    ----------
    r : rpy2 object
        The lmerMod itself.
    place : rpy2 environment
        Holds the model as ``fit`` and its data as ``data``; :meth:`evaluate` works there.
    seconds : float
        Wall time of the fit.
    messages, warnings : tuple of str
        What R said meanwhile.
    """

    r: Any
    place: Any = field(repr=False)
    seconds: float
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def evaluate(self, code: str) -> Answer:
        """Run R code in which ``fit`` is the model, as in ``"anova(fit)"``; the answer's value is an rpy2 object."""
        return session().run(code, self.place)

    def printed(self, code: str) -> str:
        """The text R prints for a piece of code in which ``fit`` is the model."""
        r = session()
        self.place["code"] = r.text(code)
        self.place["printed"] = r.helpers["printed"]
        return str(self.evaluate("printed(code, environment())").value[0])

    def table(self, code: str) -> pd.DataFrame:
        """What a piece of R code gives, as a DataFrame."""
        return from_r(self.evaluate(code).value)

    def summary(self) -> str:
        """What lme4's ``summary`` prints."""
        return self.printed("summary(fit)")

    __str__ = summary

    def fixef(self) -> pd.Series:
        """Fixed effects."""
        return self._named("lme4::fixef(fit)")

    def vcov(self) -> pd.DataFrame:
        """Covariance of the fixed effects."""
        return self._matrix("vcov(fit)")

    def ranef(self) -> Ranef:
        """Conditional modes, a dict from grouping factor to DataFrame."""
        tables = Ranef()
        for group in self.evaluate("names(lme4::ranef(fit))").value:
            table = self._matrix(f"lme4::ranef(fit, condVar = FALSE)[[{_quoted(group)}]]")
            table.index = pd.Index([str(level) for level in table.index], name=group)
            tables[str(group)] = table
        return tables

    def VarCorr(self) -> VarCorr:
        """Variances and correlations of the random effects."""
        terms = []
        for i, name in enumerate(self.evaluate("names(lme4::VarCorr(fit))").value, start=1):
            matrix = self._matrix(f"lme4::VarCorr(fit)[[{i}]]")
            terms.append(TermCovariance(str(name), tuple(matrix.columns), matrix.to_numpy()))
        return VarCorr(terms, self.sigma())

    def sigma(self) -> float:
        """Residual standard deviation."""
        return self._number("sigma(fit)")

    @property
    def objective(self) -> float:
        """REML criterion, or -2 log-likelihood of an ML fit."""
        return self._number("criterion(fit)")

    @property
    def theta(self) -> np.ndarray:
        """Relative covariance parameters, shape (m,)."""
        return np.array(self.evaluate("lme4::getME(fit, 'theta')").value, dtype=float)

    def fitted(self) -> pd.Series:
        """Fitted values; the index holds R's row names."""
        return self._named("fitted(fit)")

    def residuals(self) -> pd.Series:
        """Residuals; the index holds R's row names."""
        return self._named("residuals(fit)")

    def nobs(self) -> int:
        """Rows used."""
        return int(self._number("nobs(fit)"))

    def ngrps(self) -> dict[str, int]:
        """Levels of each grouping factor."""
        return {str(name): int(q) for name, q in self._named("lme4::ngrps(fit)").items()}

    def isREML(self) -> bool:
        """Whether the REML criterion was minimized."""
        return bool(self._number("lme4::isREML(fit)"))

    def isSingular(self) -> bool:
        """Whether a covariance matrix is on its boundary."""
        return bool(self._number("lme4::isSingular(fit)"))

    def _number(self, code: str) -> float:
        return float(self.evaluate(code).value[0])

    def _named(self, code: str) -> pd.Series:
        value = self.evaluate(code).value
        return pd.Series(np.array(value, dtype=float), index=list(value.names))

    def _matrix(self, code: str) -> pd.DataFrame:
        return self.table(f"as_plain_frame({code})")


def lmer(
    formula: str,
    data: Any,
    REML: bool = True,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    control: str | None = None,
) -> Lme4Fit:
    """Fit a linear mixed model with lme4, in R.

    Parameters
    ----------
    formula, data, REML, weights, offset, subset, na_action, contrasts
        As in :func:`pylmernn.lmernn`; text is read by R.
    control : str, optional
        R code, as in ``"lmerControl(optimizer = 'bobyqa')"``.

    Returns
    -------
    Lme4Fit

    Raises
    ------
    BridgeError
        Where R cannot be used, or with R's message where it stops.

    Examples
    --------
    >>> from pylmernn import datasets
    >>> fit = lmer("Reaction ~ Days + (Days | Subject)", datasets.load("sleepstudy"))  # doctest: +SKIP
    >>> round(fit.objective, 3)  # doctest: +SKIP
    1743.628
    """
    arguments = {"weights": weights, "offset": offset, "subset": subset}
    place, call = _prepare(formula, data, REML, arguments, na_action, contrasts)
    if control is not None:
        call.append(f"control = {control}")
    start = time.perf_counter()
    answer = session().run(f"fit <- lmer({', '.join(call)})", place)
    return Lme4Fit(answer.value, place, time.perf_counter() - start, answer.messages, answer.warnings)


def as_lme4(fit: Any, data: Any = None) -> Lme4Fit:
    """A genuine lmerMod in R at the estimates of a fit, for anything that R packages do with one.

    Parameters
    ----------
    fit : MixedFit
    data : DataFrame, optional
        The data of the fit; needed only for a fit that was loaded from a file.

    Returns
    -------
    Lme4Fit
        Its ``r`` is the lmerMod; ``summary()``, ``evaluate("anova(fit)")`` and ``table("as.data.frame(...)")`` use it.

    Raises
    ------
    BridgeError
        Where lme4 does not have the model (``diag(x | g)``), or the data are not those of the fit.

    Examples
    --------
    >>> import pylmernn
    >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
    >>> print(as_lme4(fit).printed("anova(fit)"))  # doctest: +SKIP
    Analysis of Variance Table
         npar Sum Sq Mean Sq F value
    Days    1  30031   30031  45.853
    """
    data = fit.call.get("data") if data is None else data
    if data is None:
        raise BridgeError("this fit was loaded without its data: give them, as in as_lme4(fit, data).")
    for term in fit.design.random:
        if term.covariance != "us":
            raise BridgeError(f"lme4 has no {term.label}: write it as (x || g) where that is the same model.")
    arguments = {name: fit.call.get(name) for name in ("weights", "offset", "subset")}
    reml = fit.estimates.REML
    na_action, contrasts = fit.call.get("na_action") or "omit", fit.call.get("contrasts")
    place, call = _prepare(str(fit.frame.formula), data, reml, arguments, na_action, contrasts)
    r = session()
    place["call_text"] = r.text(f"lmer({', '.join(call)})")
    place["theta"] = r.ri.FloatSexpVector([float(x) for x in fit.estimates.theta])
    start = time.perf_counter()
    answer = r.run("fit <- lmer_at(call_text, environment(), theta)", place)
    made = Lme4Fit(answer.value, place, time.perf_counter() - start, answer.messages, answer.warnings)
    ours, theirs = fit.estimates.objective, made.objective
    if not np.isclose(ours, theirs, rtol=1e-7, atol=1e-6):
        raise BridgeError(
            f"lme4 computes another objective at these estimates ({theirs:.6f}, here {ours:.6f}): the data are not "
            "those of the fit, or R reads the formula otherwise."
        )
    return made


def _prepare(
    formula: str,
    data: Any,
    REML: bool,
    arguments: Mapping[str, Any],
    na_action: str,
    contrasts: Mapping[str, Any] | None,
) -> tuple[Any, list[str]]:
    """A place in R that holds the data and arrays, and the arguments of a call in which they are symbols.

    The data frame itself must not stand in the call: a fit keeps its call, and would print all of it.
    """
    if na_action not in _NA_ACTIONS:
        raise BridgeError(f"na_action is '{na_action}': use one of {', '.join(_NA_ACTIONS)}.")
    r = session()
    r.attach("lme4", "splines")
    place = r.place()
    for helper in ("lmer_at", "criterion", "as_plain_frame"):
        place[helper] = r.helpers[helper]
    texts = [formula, *(value for value in arguments.values() if isinstance(value, str))]
    place["data"] = to_r(_needed(as_pandas(data), " ".join(texts)))
    call = [formula, "data = data", f"REML = {'TRUE' if REML else 'FALSE'}"]
    for name, value in arguments.items():
        if value is None:
            continue
        if not isinstance(value, str):
            place[f".{name}"] = _values(name, value)
        call.append(f"{name} = {value if isinstance(value, str) else '.' + name}")
    if contrasts:
        call.append(f"contrasts = list({', '.join(_contrast(*item) for item in contrasts.items())})")
    if na_action != "omit":
        call.append(f"na.action = {_NA_ACTIONS[na_action]}")
    return place, call


def _needed(data: pd.DataFrame, text: str) -> pd.DataFrame:
    """The columns a formula may use, so that others need no counterpart in R; row labels where R can have them."""
    if not re.search(r"(?<![\w.])\.(?![\w.])", text):  # "." means every column
        data = data.loc[:, [bool(re.search(rf"(?<![\w.]){re.escape(str(c))}(?![\w.])", text)) for c in data.columns]]
    index = data.index
    labels = pd.api.types.is_integer_dtype(index.dtype) or pd.api.types.is_string_dtype(index.dtype)
    if labels and index.is_unique and not index.hasnans and not isinstance(index, pd.MultiIndex):
        return data
    return data.reset_index(drop=True)


def _values(name: str, value: Any) -> Any:
    """Weights, offset or subset given as values; positions count from 0 in Python."""
    ri = session().ri
    array = np.asarray(value)
    if array.dtype == object:
        array = np.asarray(value, dtype=bool if name == "subset" else float)
    if name == "subset":
        return ri.BoolSexpVector(array.tolist()) if array.dtype == bool else ri.IntSexpVector((array + 1).tolist())
    return ri.FloatSexpVector.from_memoryview(np.ascontiguousarray(array, dtype=np.float64).data)


def _contrast(variable: str, kind: Any) -> str:
    if not isinstance(kind, str):
        raise BridgeError(f"the contrasts of '{variable}' are a matrix: the bridge takes names such as 'sum' only.")
    return f"`{variable}` = {_quoted(kind if kind.startswith('contr.') else 'contr.' + kind)}"


def _quoted(text: str) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
