"""What the covariance of one random term can be: a registry of structures.

Each structure maps the parameters theta of a term to the template Lambda (d, d), lower triangular, of its relative
covariance ``Lambda Lambda'`` (Bates et al. 2015, eq. 4). A new structure is a new file and a line in ``STRUCTURES``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance.diagonal import Diagonal
from pylmernn.covariance.process import Process
from pylmernn.covariance.structure import Structure
from pylmernn.covariance.unstructured import Unstructured
from pylmernn.formula.design import FloatArray, RandomTerm

STRUCTURES: dict[str, Structure] = {"us": Unstructured(), "diag": Diagonal(), "gp": Process(), "embed": Diagonal()}


def structure(name: str) -> Structure:
    """The covariance structure of that name; ValueError lists the known ones."""
    try:
        return STRUCTURES[name]
    except KeyError:
        raise ValueError(f"unknown covariance structure '{name}': use one of {sorted(STRUCTURES)}.") from None


def theta_sizes(random: Sequence[RandomTerm]) -> list[int]:
    """Number of parameters of each term."""
    return [structure(term.covariance).n_theta(term.width) for term in random]


def split_theta(random: Sequence[RandomTerm], theta: FloatArray) -> list[FloatArray]:
    """The template Lambda (d, d) of each term, from the stacked theta (m,)."""
    sizes = theta_sizes(random)
    theta = np.asarray(theta, dtype=np.float64)
    if theta.shape != (sum(sizes),):
        raise ValueError(f"theta has shape {theta.shape}; the model has {sum(sizes)} variance parameters.")
    parts = np.split(theta, np.cumsum(sizes)[:-1])
    return [structure(term.covariance).Lambda(part, term.width) for term, part in zip(random, parts, strict=True)]


def theta_names(random: Sequence[RandomTerm]) -> list[str]:
    """Names of theta as lme4's ``getME(fit, "theta")`` has them, ``"Subject.Days.(Intercept)"``."""
    return [name for term in random for name in structure(term.covariance).theta_names(term.group, term.column_names)]


def diagonal_positions(random: Sequence[RandomTerm]) -> NDArray[np.bool_]:
    """Boolean (m,): which entries of theta lie on a diagonal of Lambda, hence have the lower bound 0."""
    return np.concatenate([structure(t.covariance).on_diagonal(t.width) for t in random])


__all__ = ["STRUCTURES", "Structure", "diagonal_positions", "split_theta", "structure", "theta_names", "theta_sizes"]
