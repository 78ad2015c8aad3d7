"""What a fit holds, and how its numbers get their labels."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pylmernn.engines.estimates import Estimates
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit.predict import fixed_part, random_part
from pylmernn.fit.summary import Header, argument_name
from pylmernn.fit.varcorr import VarCorr, var_corr
from pylmernn.formula import Formula, ModelFrame, parse
from pylmernn.formula.design import Design, FloatArray
from pylmernn.mean.networks import size_messages

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws

#: R-hat above this says that chains have not mixed (Gelman & Rubin, 1992; Vehtari et al., 2021, would stop at 1.01).
RHAT_LIMIT = 1.1


class FitState:
    """The parts of a fit; its verbs are mixed in from the other files.

    Parameters
    ----------
    design : Design
        The arrays of the model.
    estimates : Estimates
        What the engine found.
    frame : ModelFrame
        The door back to the user's columns.
    call : dict
        The arguments of :func:`pylmernn.lmernn`, for ``update`` and for printing.
    """

    def __init__(self, design: Design, estimates: Estimates, frame: ModelFrame, call: dict[str, Any]) -> None:
        self.design = design
        self.estimates = estimates
        self.frame = frame
        self.call = call

    @cached_property
    def _mu(self) -> FloatArray:
        """Fitted values of the rows in use."""
        return fixed_part(self.design, self.estimates) + random_part(self.design, self.estimates)

    @cached_property
    def _varcorr(self) -> VarCorr:
        return var_corr(self.design, self.estimates)

    def _series(self, values: FloatArray) -> pd.Series:
        """Values of the rows in use under the labels of the data; NaN for omitted rows where na_action is "exclude"."""
        if self._pads:
            return pd.Series(self.frame.pad(values), index=self._all_row_names)
        return pd.Series(values, index=self._row_names)

    @property
    def _pads(self) -> bool:
        return self.frame.na_action == "exclude" and len(self.frame.omitted) > 0

    @property
    def _row_names(self) -> pd.Index:
        """Labels of the rows in use."""
        names = self.frame.row_names
        return pd.RangeIndex(self.design.n) if names is None else names

    @property
    def _all_row_names(self) -> pd.Index:
        """Labels of the rows used and omitted, in the order of the data."""
        used = np.delete(np.arange(self.frame.all_rows), self.frame.omitted)
        order = np.argsort(np.concatenate([used, self.frame.omitted]))
        return self._row_names.append(pd.Index(self.frame.omitted_names))[order]

    @property
    def _header(self) -> Header:
        name = getattr(self.call.get("data"), "attrs", {}).get("name") or self.call.get("data_name")
        return Header(
            getattr(self.estimates, "REML", False),  # a fit by sampling has no such criterion
            expanded_text(self.frame.formula),
            argument_name(name),
            argument_name(self.call.get("weights")),
            argument_name(self.call.get("offset")),
            argument_name(self.call.get("subset")),
        )

    @cached_property
    def _messages(self) -> tuple[str, ...]:
        """Warnings of the fit, as text."""
        return fit_messages(self.estimates)


def expanded_text(formula: Formula) -> str:
    """The formula as lme4 prints it: ``(x || g)`` written out as ``((1 | g) + (0 + x | g))``."""
    text = str(formula)
    for bar in formula.bars:
        if bar.double:
            prefix = f"{formula.response} ~ "
            parts = " + ".join(single.label for single in parse(prefix + bar.label).random)
            text = text.replace(bar.label, f"({parts})", 1)
    return text


def fit_messages(estimates: Estimates | MultinomialEstimates) -> tuple[str, ...]:
    """What is wrong with the optimum or the sampling, and too large in the networks, in words."""
    found = []
    convergence = estimates.convergence
    if not convergence.converged:
        steepest = float(np.max(np.abs(convergence.gradient), initial=0.0))
        where = f"largest gradient of the objective is {steepest:.3g} after {convergence.n_evaluations} evaluations"
        why = f"{where} ({convergence.message})" if len(convergence.gradient) else convergence.message
        found.append(f"Model failed to converge: {why}")
    if getattr(estimates, "singular", False):
        found.append("boundary (singular) fit: see isSingular()")
    draws = getattr(estimates, "draws", None)
    if draws is not None:
        found += sampling_messages(draws)
    if estimates.networks is not None:
        found += size_messages(estimates.networks)
    return tuple(found)


def sampling_messages(draws: Draws) -> list[str]:
    """What is wrong with the draws of a sampler, and what to try."""
    found = []
    nuts = draws.sampler == "nuts"
    if draws.rhat > RHAT_LIMIT:
        other = ", or sampler='polya-gamma' for a binomial (logit) or multinomial model" if nuts else ""
        found.append(
            f"the chains do not agree: R-hat is {draws.rhat:.3f} (1 where they do, above {RHAT_LIMIT} too large), so "
            f"variances and effects are uncertain; try Sampling(warmup=..., draws=...) with larger numbers{other}"
        )
    if draws.divergences > 0:
        found.append(
            f"{draws.divergences} draws diverged, so parts of the posterior may be left out; try Sampling(step_size="
            "...) with a smaller number, or a longer warmup"
        )
    return found
