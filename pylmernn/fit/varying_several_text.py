"""What a fit of a network that varies by several bars prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pylmernn.engines.nme_several import SeveralEstimates
from pylmernn.engines.nme_working import is_generalized
from pylmernn.fit import rtext
from pylmernn.fit.varcorr import VarCorr
from pylmernn.fit.varying_text import SHOWN
from pylmernn.formula.design import Design


def summary_text(
    design: Design,
    estimates: SeveralEstimates,
    formula: str,
    fixed: pd.Series,
    varcorr: VarCorr,
    groups: Mapping[str, int],
) -> str:
    """The text of ``print(fit)`` and ``fit.summary()``."""
    spec = estimates.networks.specs[0]
    what = "REML criterion" if estimates.REML else "-2 log-likelihood"
    title = ["Linear mixed model with a network that varies by group ['nme']"]
    if is_generalized(estimates):
        family = f" Family: {getattr(estimates, 'family', None)}"
        title = ["Generalized linear mixed model with a network that varies by group ['nme']", family]
    given = "given the layers below" if estimates.exact else "of the model linearised at the modes"
    lines = [
        *title,
        f"Formula: {formula}",
        *textwrap.wrap(f"{what} {given}: {rtext.format_number(estimates.objective)}", 80),
        "",
    ]
    for term, bar in zip(design.varying, estimates.varying, strict=True):
        size = bar.effects.shape[1]
        low = bar.factor.ndim == 2 and bar.factor.shape[1] < size
        rank = f", deviations of rank {bar.factor.shape[1]}" if low else ""
        lines.append(f"{term.label}: {size} of {spec.n_parameters} parameters vary{rank}")
    lines += ["Random effects:", varcorr_text(varcorr)]
    lines += [f"Number of obs: {design.n}, groups: " + "; ".join(f"{name}, {q}" for name, q in groups.items())]
    lines += ["", "Fixed effects:"]
    shown = fixed.iloc[: max(design.p, SHOWN)]
    lines.append(shown.to_string(float_format=lambda number: f"{number:.5g}"))
    if len(shown) < len(fixed):
        lines.append(f"... and {len(fixed) - len(shown)} parameters of the network: see fixef()")
    if estimates.convergence.message:
        lines.append(estimates.convergence.message)
    return "\n".join(lines)


def varcorr_text(varcorr: VarCorr) -> str:
    """The table of variances, where terms of many parameters stand by the root mean square of their deviations."""
    if all(len(term.columns) <= SHOWN for term in varcorr.terms):
        return str(varcorr)
    small = [term for term in varcorr.terms if len(term.columns) <= SHOWN]
    lines = [str(VarCorr(small, varcorr.sigma, varcorr.residual))] if small else []
    if not small and varcorr.residual:
        lines = [f"Residual: {varcorr.sigma:.4g}"]
    for term in varcorr.terms:
        if len(term.columns) > SHOWN:
            size = float(np.sqrt(np.mean(np.diagonal(term.vcov))))
            lines.append(f" {term.name}: {len(term.columns)} parameters, standard deviation {size:.4g} on average")
    return "\n".join(lines)
