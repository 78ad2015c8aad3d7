"""``MixedFit``: an estimated model, with every verb."""

from __future__ import annotations

from pylmernn.fit.verbs_inference import InferenceVerbs
from pylmernn.fit.verbs_output import OutputVerbs


class MixedFit(OutputVerbs, InferenceVerbs):
    """A fitted mixed model; what lme4 calls a merMod.

    Made by :func:`pylmernn.lmernn`. Nothing is computed before it is asked for. ``design``, ``estimates``, ``frame`` and
    ``call`` hold the arrays, the engine's answer, the door back to the data, and the arguments.
    """
