"""What the response can be: a registry of families. A new family is a new file and a line in ``FAMILIES``."""

from __future__ import annotations

import re

from pylmernn.families.beta import Beta
from pylmernn.families.binomial import Binomial
from pylmernn.families.family import Family, FamilyError
from pylmernn.families.gamma import Gamma
from pylmernn.families.inverse_gaussian import InverseGaussian
from pylmernn.families.multinomial import Multinomial
from pylmernn.families.negative_binomial import NegativeBinomial
from pylmernn.families.ordinal import Ordinal
from pylmernn.families.poisson import Poisson
from pylmernn.families.user import UserFamily

FAMILIES: dict[str, type[Family]] = {
    "binomial": Binomial,
    "poisson": Poisson,
    "Gamma": Gamma,
    "inverse.gaussian": InverseGaussian,
    "negative.binomial": NegativeBinomial,
    "beta": Beta,
    "ordinal": Ordinal,
    "multinomial": Multinomial,
}
#: Other spellings: glmmTMB's, brms's, and those without dots and capitals.
SPELLINGS = {
    "gamma": "Gamma",
    "inverse_gaussian": "inverse.gaussian",
    "negative_binomial": "negative.binomial",
    "nbinom2": "negative.binomial",
    "cumulative": "ordinal",
}


def read_family(text: str | Family) -> Family:
    """A family from its name, with a link where one is wanted.

    Parameters
    ----------
    text : str or Family
        ``"binomial"``, ``"binomial(probit)"`` or, as in R, ``'binomial(link = "probit")'``.

    Returns
    -------
    Family

    Raises
    ------
    FamilyError
        For a family or link that is not known.

    Examples
    --------
    >>> str(read_family("binomial")), str(read_family("Gamma(log)"))
    ('binomial(logit)', 'Gamma(log)')
    """
    if isinstance(text, Family):
        return text
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:\(\s*(?:link\s*=\s*)?[\"']?([\w/^]*)[\"']?\s*\))?\s*", str(text))
    name = match.group(1) if match else str(text)
    name = SPELLINGS.get(name, name)
    if name == "gaussian":
        raise FamilyError("family 'gaussian': use lmernn(), which fits linear mixed models exactly.")
    if name not in FAMILIES:
        raise FamilyError(f"family '{text}' is not known: use one of {', '.join(FAMILIES)}, or a UserFamily.")
    return FAMILIES[name]((match.group(2) if match else None) or None)


__all__ = ["FAMILIES", "Family", "FamilyError", "UserFamily", "read_family"]
