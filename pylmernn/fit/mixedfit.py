"""``MixedFit``: an estimated model, with every verb."""

from __future__ import annotations

from pylmernn.fit.verbs_inference import InferenceVerbs
from pylmernn.fit.verbs_output import OutputVerbs


class MixedFit(OutputVerbs, InferenceVerbs):
    """A fitted mixed model; what lme4 calls a merMod.

    Made by :func:`pylmernn.lmernn`. Nothing is computed before it is asked for.

    Attributes
    ----------
    design : Design
        The arrays of the model.
    estimates : Estimates
        What the engine found, with ``estimates.convergence``.
    frame : ModelFrame
        The door back to the user's columns.
    call : dict
        The arguments.
    """
