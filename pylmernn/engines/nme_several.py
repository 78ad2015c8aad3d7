"""Method ``"nme"`` with several bars: ``y = offset + X beta + f(x; theta_bar + sum_t eta^t) + Z b + e``.

Parameters of the network vary by several factors, nested or crossed, and ordinary bars may stand beside them: the
multilevel extension that Woerner et al. (2023) leave open. Training is that of :mod:`pylmernn.engines.nme`; between two
epochs all random effects and variances come from one linear mixed model, linearised at the deviations
(:mod:`pylmernn.engines.nme_several_model`), and so do the last estimates (:mod:`pylmernn.engines.nme_several_final`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.nme import train
from pylmernn.engines.nme_several_bars import BarEstimates
from pylmernn.engines.nme_several_final import Settled, given_trunk, settle
from pylmernn.engines.nme_several_model import SeveralModel
from pylmernn.formula.design import Design
from pylmernn.mean.networks import Networks
from pylmernn.mean.varying import Selected

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SeveralEstimates:
    """A fitted network with parameters that vary by several bars, or beside ordinary ones.

    Attributes
    ----------
    method : str
    REML : bool
        Whether the variances are those of REML; never so where more than the last layer varies.
    beta : ndarray, shape (p,)
    fixed_covariance : ndarray, shape (p, p), or None
        Of beta, where it is known.
    sigma : float
    networks : Networks
        With theta_bar: one member; ``fitted`` is f without deviations.
    selected : Selected
        All parameters that vary by any factor.
    varying, random : tuple of BarEstimates
        In the order of ``Design.varying`` and ``Design.random``.
    fitted : ndarray, shape (n,)
        Random effects included.
    objective : float
        -2 log-likelihood or REML criterion given the network below what varies; of the linearised model where
        ``exact`` is False.
    exact : bool
    convergence : Convergence
    """

    method: str
    REML: bool
    beta: FloatArray
    fixed_covariance: FloatArray | None
    sigma: float
    networks: Networks
    selected: Selected
    varying: tuple[BarEstimates, ...]
    random: tuple[BarEstimates, ...]
    fitted: FloatArray
    objective: float
    exact: bool
    convergence: Convergence

    @property
    def n_variances(self) -> int:
        """Free parameters of all covariance matrices."""
        return sum(bar.n_variances for bar in (*self.varying, *self.random))


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> SeveralEstimates:
    """Estimate a model with a network that varies by several bars, or beside ordinary ones.

    Parameters
    ----------
    design : Design
        With terms in ``varying``, one network, and any bars in ``random``.
    REML, control, callback
        As in :func:`pylmernn.engines.nme.fit`.
    start
        Not used.

    Raises
    ------
    DesignError
        For terms that cannot stand beside each other, or a parameter that the network has not.
    ValueError
        Where the loss is not finite in the first epoch.
    """
    control = control or Control()
    begun = time.perf_counter()
    model = SeveralModel(design, control)
    best, history, stopped = train(model, callback)
    model.restore(best.state)
    model.absorb_scale()
    found = given_trunk(model, REML, control) if model.selected.linear else settle(model, control)
    return collected(model, found, REML, best.epoch, history, stopped, begun)


def collected(
    model: SeveralModel,
    found: Settled,
    REML: bool,
    epoch: int,
    history: dict[str, list[float]],
    stopped: str,
    begun: float,
) -> SeveralEstimates:
    """What a model was estimated to be, which began at a time by :func:`time.perf_counter`; its bias is absorbed."""
    model.absorb_bias()
    design = model.whole
    offset = 0.0 if design.offset is None else design.offset
    message = "; ".join(text for text in (stopped, found.message) if text)
    seconds = time.perf_counter() - begun
    return SeveralEstimates(
        method="nme",
        REML=REML and found.exact,
        beta=model.beta.numpy(),
        fixed_covariance=found.fixed_covariance,
        sigma=found.sigma,
        networks=model.networks(epoch, history),
        selected=model.selected,
        varying=found.varying,
        random=found.random,
        fitted=model.mean() + model.ordinary_part().numpy() + offset,
        objective=found.objective,
        exact=found.exact,
        convergence=Convergence(found.converged and not stopped, np.zeros(0), len(history["epoch"]), message, seconds),
    )
