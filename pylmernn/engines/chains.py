"""Draws of several chains, and how well they have mixed.

R-hat and the effective sample size follow Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021, Bayesian Analysis
16:667): chains are split in halves and ranks are made normal (their eq. 14), R-hat is the larger one of the ranks and
of the folded ranks (section 4.1), and the bulk effective sample size sums autocorrelations by Geyer's initial monotone
sequence (eqs. 10 to 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """What a sampler kept.

    Attributes
    ----------
    b : tuple of ndarray of float32, shape (chains, draws, q_k, d_k, C)
        Random effects by term, C = 1 for families with one linear predictor; may be thinned.
    variances : ndarray, shape (chains, draws, m)
        Prior variances of the effects.
    names : tuple of str, length m
        Their names.
    rhat, ess : float
        The largest R-hat and the smallest bulk effective sample size over all quantities that were watched.
    divergences : int
        Divergent transitions; 0 for Gibbs sampling.
    accept : float
        Mean acceptance probability; 1 for Gibbs sampling.
    sampler : str
        ``"polya-gamma"`` or ``"nuts"``.
    n_chains, n_draws : int
        Chains, and draws of each before thinning.
    """

    b: tuple[NDArray[np.float32], ...]
    variances: FloatArray
    names: tuple[str, ...]
    rhat: float
    ess: float
    divergences: int
    accept: float
    sampler: str
    n_chains: int
    n_draws: int

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Arrays (chains, draws, ...) by name: variances by theirs, the effects of term k as ``"b_k"``, k from 1."""
        out: dict[str, NDArray[Any]] = {name: self.variances[:, :, j] for j, name in enumerate(self.names)}
        return out | {f"b_{k}": b for k, b in enumerate(self.b, start=1)}

    def to_arviz(self) -> Any:
        """The draws as ArviZ holds them, for its plots and summaries.

        Variances and effects are two groups of draws where the effects are thinned.

        Returns
        -------
        arviz.InferenceData, or xarray.DataTree from ArviZ 1.0 on

        Raises
        ------
        ImportError
            Where ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError("draws go to ArviZ only where it is installed: pip install 'pylmernn[arviz]'.") from error
        values = self.to_dict()
        lengths = {v.shape[1] for v in values.values()}
        groups = {"posterior": values}
        if len(lengths) > 1:
            effects = {name: v for name, v in values.items() if name not in self.names}
            groups = {"posterior": {name: values[name] for name in self.names}, "effects": effects}
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict(groups)
        data = arviz.from_dict(posterior=groups["posterior"])
        if "effects" in groups:
            data.add_groups({"effects": arviz.dict_to_dataset(groups["effects"])})
        return data


def rhat(x: ArrayLike) -> FloatArray:
    """Rank-normalised split R-hat.

    Parameters
    ----------
    x : array_like, shape (chains, draws, ...)
        At least 4 draws a chain; with an odd number the middle one is left out.

    Returns
    -------
    ndarray of float64, shape (...)
        Near 1 where the chains agree; nan where a quantity never changes.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(4, 200))
    >>> bool(rhat(x) < 1.02)
    True
    """
    halves = split(x)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_plain_rhat(normal_scores(halves)), _plain_rhat(normal_scores(folded)))


def ess(x: ArrayLike) -> FloatArray:
    """Bulk effective sample size.

    Parameters
    ----------
    x : array_like, shape (chains, draws, ...)
        At least 8 draws a chain.

    Returns
    -------
    ndarray of float64, shape (...)
        The number of independent draws that would give a mean as precise; nan where a quantity never changes.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(4, 200))
    >>> bool(600 < ess(x) < 1000)
    True
    """
    z = normal_scores(split(x))
    chains, draws = z.shape[:2]
    covariances = autocovariances(z).mean(axis=0)
    within = covariances[0] * draws / (draws - 1.0)
    total = covariances[0] + z.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = 1.0 - (within - covariances) / total
    correlations[0] = 1.0
    last = 2 * ((draws - 3) // 2)
    even, odd = correlations[0:last:2], correlations[1:last:2]
    pairs = even + odd
    positive = np.logical_and.accumulate(pairs > 0.0, axis=0)
    monotone = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
    # the even lag after the last positive pair still counts where it is positive
    ends = positive.sum(axis=0)
    following = np.take_along_axis(correlations[0 : last + 1 : 2], ends[None], axis=0)[0]
    time = -1.0 + 2.0 * monotone.sum(axis=0) + np.maximum(following, 0.0)
    time = np.maximum(time, 1.0 / np.log10(chains * draws))
    return np.where(within > 0.0, chains * draws / time, np.nan)


def split(x: ArrayLike) -> FloatArray:
    """Chains (chains, draws, ...) in halves (2 chains, draws // 2, ...)."""
    values = np.asarray(x, dtype=np.float64)
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, values.shape[1] - half :]])


def normal_scores(x: FloatArray) -> FloatArray:
    """Normal quantiles of the ranks over all chains and draws (chains, draws, ...), ties at their mean rank."""
    from scipy.stats import rankdata  # slow to load

    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    ranks = rankdata(flat, axis=0)
    return np.asarray(ndtri((ranks - 0.375) / (len(flat) + 0.25))).reshape(x.shape)


def autocovariances(x: FloatArray) -> FloatArray:
    """Autocovariances of each chain (chains, draws, ...) at lags 0 to draws - 1, all over the number of draws."""
    draws = x.shape[1]
    size = 1 << (2 * draws - 1).bit_length()
    spectrum = np.fft.rfft(x - x.mean(axis=1, keepdims=True), size, axis=1)
    return np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)[:, :draws] / draws


def _plain_rhat(x: FloatArray) -> FloatArray:
    """Square root of the variance over all chains over that within (their eqs. 1 to 4)."""
    draws = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(axis=0)
    between = x.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((draws - 1.0) / draws + between / within))
