"""What a fit of a network that varies by group prints."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd

from pylmernn.engines.nme import VaryingEstimates
from pylmernn.engines.nme_model import HeldOut
from pylmernn.fit import rtext
from pylmernn.fit.varcorr import VarCorr
from pylmernn.formula.design import Design

SHOWN = 12  # parameters that are listed one by one


def summary_text(design: Design, estimates: VaryingEstimates, formula: str, fixed: pd.Series, varcorr: VarCorr) -> str:
    """The text of ``print(fit)`` and ``fit.summary()``."""
    term, spec = design.varying[0], estimates.networks.specs[0]
    what = "REML criterion" if estimates.REML else "-2 log-likelihood"
    given = "given the layers below" if estimates.exact else "of the model linearised at the modes"
    lines = [
        "Linear mixed model with a network that varies by group ['nme']",
        f"Formula: {formula}",
        *textwrap.wrap(f"{what} {given}: {rtext.format_number(estimates.objective)}", 80),
        "",
        f"{term.label}: {estimates.selected.size} of {spec.n_parameters} parameters vary",
    ]
    lines += what_varies(estimates)
    if estimates.selected.size <= SHOWN:
        lines += ["Random effects:", str(varcorr)]
    else:
        lines += [
            "Random effects, standard deviations by layer:",
            _layers(estimates),
            f"Residual: {estimates.sigma:.4g}",
        ]
    lines += [f"Number of obs: {design.n}, groups: {term.group}, {term.n_levels}", "", "Fixed effects:"]
    shown = fixed.iloc[: max(design.p, SHOWN)]
    lines.append(shown.to_string(float_format=lambda number: f"{number:.5g}"))
    if len(shown) < len(fixed):
        lines.append(f"... and {len(fixed) - len(shown)} parameters of the network: see fixef()")
    if estimates.convergence.message:
        lines.append(estimates.convergence.message)
    return "\n".join(lines)


def what_varies(estimates: VaryingEstimates) -> list[str]:
    """Lines that say what of the network varies in the end, where the data have chosen less than the bar lets vary."""
    factor, learned = estimates.factor, estimates.networks.learned
    lines = held_out_text(estimates.held_out)
    if factor.ndim == 1 or factor.shape[1] >= estimates.selected.size:
        return lines
    cross_fitted = learned is not None and bool(learned.all())
    if cross_fitted and not factor[:-1].any():
        return [*lines, "Only a constant of each group varies: more is not worth its parameters (Akaike's criterion)"]
    rank = int(np.linalg.matrix_rank(factor)) if cross_fitted else factor.shape[1]
    return [*lines, f"Deviations of rank {rank}"]


def held_out_text(said: HeldOut | None) -> list[str]:
    """Which layers vary, and why."""
    if said is None:
        return []
    if said.last is None:
        text = "The last layer alone varies: too few rows are held out to tell whether others do"
    elif said.kept == "last":
        text = (
            f"The last layer alone varies: {said.rows} held-out rows are not predicted better where all do, "
            f"mean loss {said.last:.4g} and {said.all:.4g} (difference +- {said.noise:.2g})"
        )
    else:
        text = (
            f"All layers vary: {said.rows} held-out rows are predicted better than where the last one does, "
            f"mean loss {said.all:.4g} and {said.last:.4g} (difference +- {said.noise:.2g})"
        )
    return textwrap.wrap(text, 80)


def _layers(estimates: VaryingEstimates) -> str:
    """Root mean square of the standard deviations of each layer, and of the shrunken deviations."""
    table = pd.DataFrame(
        {
            "layer": estimates.selected.layers,
            "parameters": 1,
            "prior": estimates.prior_variances,
            "modes": estimates.effects.var(axis=0),
        }
    )
    means = table.groupby("layer", sort=False).agg({"parameters": "sum", "prior": "mean", "modes": "mean"})
    means[["prior", "modes"]] = np.sqrt(means[["prior", "modes"]])
    return means.to_string(float_format=lambda number: f"{number:.4g}")
