"""The parts of a fitted model by lme4's names, ``getME``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from pylmernn.covariance import diagonal_positions, split_theta, theta_names, theta_sizes
from pylmernn.engines.estimates import Estimates
from pylmernn.fit.predict import fixed_part, random_part
from pylmernn.fit.ranef import terms_by_group
from pylmernn.formula.design import Design, DesignError, RandomTerm


def term_matrix(term: RandomTerm) -> sp.csr_array:
    """``Z`` of one term, (n, q d), columns in the order level, column."""
    n, d = term.columns.shape
    at = (term.codes.astype(np.int64)[:, None] * d + np.arange(d)).ravel()
    shape = (n, term.n_levels * d)
    return sp.csr_array((term.columns.ravel(), at, np.arange(0, n * d + 1, d)), shape=shape)


def random_matrix(design: Design) -> sp.csr_array:
    """``Z`` of all terms side by side, (n, q)."""
    return sp.hstack([term_matrix(term) for term in design.random], format="csr")


def relative_factor(design: Design, estimates: Estimates) -> sp.csr_array:
    """``Lambda``, (q, q), block diagonal."""
    templates = split_theta(design.random, estimates.theta)
    blocks = [sp.kron(sp.eye_array(t.n_levels), L) for t, L in zip(design.random, templates, strict=True)]
    return sp.block_diag(blocks, format="csr")


def _stack(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def _theta(design: Design, estimates: Estimates) -> pd.Series:
    return pd.Series(estimates.theta, index=theta_names(design.random))


def _lower(design: Design, estimates: Estimates) -> np.ndarray:
    positive = [t.covariance == "gp" for t in design.random]  # a length-scale has the bound too
    return np.where(diagonal_positions(design.random) | np.repeat(positive, theta_sizes(design.random)), 0.0, -np.inf)


def _RX(design: Design, estimates: Estimates) -> np.ndarray:
    return np.linalg.cholesky(np.linalg.inv(estimates.unscaled_vcov)).T


def _Gp(design: Design, estimates: Estimates) -> np.ndarray:
    return np.cumsum([0] + [t.n_levels * t.width for t in design.random])


def _flist(design: Design, estimates: Estimates) -> dict[str, pd.Categorical]:
    first = {group: design.random[members[0]] for group, members in terms_by_group(design.random).items()}
    return {g: pd.Categorical.from_codes(t.codes, categories=pd.Index(t.levels)) for g, t in first.items()}


def _Ztlist(design: Design, estimates: Estimates) -> dict[str, sp.csr_array]:
    out = {}
    for term in design.random:
        Z = term_matrix(term)
        for j, column in enumerate(term.column_names):
            out[f"{term.group}.{column}"] = Z[:, j :: term.width].T.tocsr()
    return out


def _devcomp(design: Design, estimates: Estimates) -> dict[str, dict[str, float]]:
    e = estimates
    cmp = {
        "ldL2": e.ldL2, "ldRX2": e.ldRX2, "wrss": e.wrss, "ussq": e.ussq, "pwrss": e.pwrss,
        "REML" if e.REML else "dev": e.objective, "sigmaREML" if e.REML else "sigmaML": e.sigma,
    }  # fmt: skip
    q = sum(t.n_levels * t.width for t in design.random)
    dims = {"N": design.n, "n": design.n, "p": design.p, "q": q, "nth": len(e.theta), "REML": design.p if e.REML else 0}
    return {"cmp": cmp, "dims": {k: float(v) for k, v in dims.items()}}


#: name -> function of design and estimates
PARTS: dict[str, Callable[[Design, Estimates], Any]] = {
    "X": lambda d, e: pd.DataFrame(d.X, columns=list(d.fixed_names)),
    "Z": lambda d, e: random_matrix(d),
    "Zt": lambda d, e: random_matrix(d).T.tocsr(),
    "Ztlist": _Ztlist,
    "mmList": lambda d, e: {
        t.label or t.group: pd.DataFrame(t.columns, columns=list(t.column_names)) for t in d.random
    },
    "y": lambda d, e: d.y,
    "mu": lambda d, e: fixed_part(d, e) + random_part(d, e),
    "u": lambda d, e: _stack(e.u),
    "b": lambda d, e: _stack(e.b),
    "Gp": _Gp,
    "Lambda": relative_factor,
    "Lambdat": lambda d, e: relative_factor(d, e).T.tocsr(),
    "Tlist": lambda d, e: {t.group: L for t, L in zip(d.random, split_theta(d.random, e.theta), strict=True)},
    "A": lambda d, e: (random_matrix(d) @ relative_factor(d, e)).T.tocsr(),
    "RX": _RX,
    "sigma": lambda d, e: e.sigma,
    "flist": _flist,
    "fixef": lambda d, e: pd.Series(e.beta, index=list(d.fixed_names)),
    "beta": lambda d, e: e.beta,
    "theta": _theta,
    "par": _theta,
    "REML": lambda d, e: d.p if e.REML else 0,
    "is_REML": lambda d, e: e.REML,
    "n_rtrms": lambda d, e: len(d.random),
    "n_rfacs": lambda d, e: len(terms_by_group(d.random)),
    "N": lambda d, e: d.n,
    "n": lambda d, e: d.n,
    "p": lambda d, e: d.p,
    "q": lambda d, e: sum(t.n_levels * t.width for t in d.random),
    "npar": lambda d, e: d.p + len(e.theta) + 1,
    "p_i": lambda d, e: [t.width for t in d.random],
    "l_i": lambda d, e: [t.n_levels for t in d.random],
    "q_i": lambda d, e: [t.n_levels * t.width for t in d.random],
    "k": lambda d, e: len(d.random),
    "m": lambda d, e: len(e.theta),
    "m_i": lambda d, e: [len(p) for p in np.split(e.theta, np.cumsum(theta_sizes(d.random))[:-1])],
    "cnms": lambda d, e: {t.group: list(t.column_names) for t in d.random},
    "devcomp": _devcomp,
    "offset": lambda d, e: np.zeros(d.n) if d.offset is None else d.offset,
    "weights": lambda d, e: np.ones(d.n) if d.weights is None else d.weights,
    "lower": _lower,
}


def _devfun(design: Design, estimates: Estimates) -> Callable[[np.ndarray], float]:
    from pylmernn.engines.exact import devfun

    return devfun(design, estimates.REML)


PARTS["devfun"] = _devfun


#: parts that a Gaussian process does not have: its covariance has no template that is repeated level by level
OF_BARS = ("u", "Lambda", "Lambdat", "Tlist", "A")


def get_part(design: Design, estimates: Estimates, name: str) -> Any:
    """One part of a fit.

    Parameters
    ----------
    name : str
        A name of lme4's ``getME``.

    Raises
    ------
    DesignError
        Listing the known names.
    """
    field = next((term.label for term in design.random if term.covariance == "gp"), None)
    if name == "ALL":
        parts = [part for part in PARTS if field is None or part not in OF_BARS]
        return {part: partial(get_part, design, estimates)(part) for part in parts}
    if field is not None and name in OF_BARS:
        raise DesignError(f"getME('{name}') is for bars: {field} has no factor of its own for each level.")
    if name not in PARTS:
        raise DesignError(f"getME does not know '{name}': use one of {', '.join(PARTS)} or ALL.")
    return PARTS[name](design, estimates)
