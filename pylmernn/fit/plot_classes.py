"""Pictures of probabilities and of effects by factor: calibration, ROC, distributions with the marks of one row.

Everything takes arrays, so that models of two and of many classes share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
COLOURS = ("#1f6fb4", "#d9622b", "#2a8c57", "#8a4fa3", "#b8860b", "#c2417c", "#4a9aa8", "#6b6b6b")
SHOWN_CLASSES = 8
#: With fewer levels than this a factor's effects are drawn one by one.
DENSITY_FROM = 12


# ---- calibration


def calibration_table(
    probability: FloatArray, share: FloatArray, trials: FloatArray | None = None, bins: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """Predicted probabilities against observed shares in bins of equal size.

    Parameters
    ----------
    probability : ndarray, shape (n,)
    share : ndarray, shape (n,)
        0 or 1, or the share of successes.
    trials : ndarray, shape (n,), optional
        Behind each share; by default 1.
    bins : int, default 10
        Quantiles of the probabilities; fewer where they are tied.
    level : float, default 0.95
        Of Wilson's (1927) limits for the observed share.

    Returns
    -------
    DataFrame
        Columns predicted, observed, lwr, upr, n (trials).
    """
    if bins < 2:
        raise DesignError(f"bins is {bins}: it must be at least 2.")
    trials = np.ones(len(probability)) if trials is None else trials
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, max(len(edges) - 2, 0))
    n = np.bincount(place, trials)
    used = n > 0
    n = n[used]
    predicted = np.bincount(place, trials * probability)[used] / n
    observed = np.bincount(place, trials * share)[used] / n
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (observed + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(observed * (1 - observed) / n + z * z / (4 * n * n))
    return pd.DataFrame(
        {"predicted": predicted, "observed": observed, "lwr": centre - half, "upr": centre + half, "n": n}
    )


def calibration(
    probabilities: FloatArray,
    shares: FloatArray,
    classes: Sequence[str],
    trials: FloatArray | None = None,
    bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Observed shares against predicted probabilities with 95% limits and the line on which they agree.

    Parameters
    ----------
    probabilities : ndarray, shape (n, C)
    shares : ndarray, shape (n, C)
        0 and 1, or shares of trials: :func:`indicators` of codes.
    classes : C names
        For two the second is drawn, else each of the eight most frequent.
    trials : ndarray, shape (n,), optional
    bins : int, default 10
    ax : Axes, optional
    """
    ax = _axes(ax, (5.4, 5.0))
    ax.axline((0, 0), slope=1, color=GREY, lw=1.0)
    shown, top = _shown(shares), 0.1
    for colour, c in zip(COLOURS, shown, strict=False):
        table = calibration_table(probabilities[:, c], shares[:, c], trials, bins)
        x, y = table["predicted"], table["observed"]
        bars = [np.maximum(y - table["lwr"], 0.0), np.maximum(table["upr"] - y, 0.0)]
        ax.errorbar(x, y, bars, color=colour, fmt="-o", ms=4.5, lw=1.2, elinewidth=1.0, label=classes[c])
        top = max(top, float(table[["predicted", "upr"]].to_numpy().max()))
    limits = (-0.02, 1.02) if top > 0.7 else (-0.02 * top, 1.05 * top)  # rare classes fill the picture too
    ax.set(xlim=limits, ylim=limits, ylabel="observed share, with 95% limits")
    ax.set_xlabel(f"predicted probability of {classes[shown[0]]}" if len(shown) == 1 else "predicted probability")
    ax.set_aspect("equal")
    if len(shown) > 1:
        ax.legend(frameon=False, fontsize=9)
    return _bare(ax)


# ---- ROC


def roc_curve(score: FloatArray, share: FloatArray, trials: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); tied scores are one step.

    Parameters
    ----------
    score : ndarray, shape (n,)
        Larger for rows more likely to be successes.
    share : ndarray, shape (n,)
        0 or 1, or the share of successes among the trials.
    trials : ndarray, shape (n,), optional

    Returns
    -------
    ndarray, ndarray
        Both of one length.
    """
    trials = np.ones(len(score)) if trials is None else trials
    values, place = np.unique(-score, return_inverse=True)
    hits = np.bincount(place, trials * share, len(values))
    misses = np.bincount(place, trials * (1.0 - share), len(values))
    if not (hits.sum() > 0 and misses.sum() > 0):
        raise DesignError("a ROC curve needs rows of both classes.")
    true = np.append(0.0, np.cumsum(hits) / hits.sum())
    false = np.append(0.0, np.cumsum(misses) / misses.sum())
    return false, true


def auc(score: FloatArray, share: FloatArray, trials: FloatArray | None = None) -> float:
    """Area under the ROC curve: how often a success scores above a failure, ties counted half.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.75
    """
    false, true = roc_curve(score, share, trials)
    return float(np.sum(np.diff(false) * 0.5 * (true[1:] + true[:-1])))


def roc(
    probabilities: FloatArray,
    shares: FloatArray,
    classes: Sequence[str],
    trials: FloatArray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """ROC curves with their areas: the second of two classes, or each of many against the rest.

    Parameters
    ----------
    probabilities, shares : ndarray, shape (n, C)
    classes : C names
    trials : ndarray, shape (n,), optional
    ax : Axes, optional
    """
    ax = _axes(ax, (5.4, 5.0))
    ax.axline((0, 0), slope=1, color=GREY, lw=0.8, ls="--")
    shown = _shown(shares)
    for colour, c in zip(COLOURS, shown, strict=False):
        false, true = roc_curve(probabilities[:, c], shares[:, c], trials)
        area = auc(probabilities[:, c], shares[:, c], trials)
        name = f"AUC {area:.3f}" if len(shown) == 1 else f"{classes[c]}: AUC {area:.3f}"
        ax.plot(false, true, color=colour, lw=1.8, label=name, drawstyle="default")
    what = f"of {classes[shown[0]]}" if len(shown) == 1 else "of each class against the rest"
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel=f"true positive rate {what}")
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="lower right")
    return _bare(ax)


def indicators(codes: FloatArray, n_classes: int) -> FloatArray:
    """0 and 1 for each class, (n, C), from codes (n,)."""
    return (np.asarray(codes)[:, None] == np.arange(n_classes)).astype(np.float64)


def _shown(shares: FloatArray) -> list[int]:
    """Classes that are drawn: the second of two, else the most frequent, in order."""
    n_classes = shares.shape[1]
    if n_classes == 2:
        return [1]
    total = shares.sum(axis=0)
    frequent = np.argsort(-total, kind="stable")[:SHOWN_CLASSES]
    return sorted(int(c) for c in frequent if 0 < total[c] < len(shares))


# ---- distributions of effects


@dataclass(frozen=True)
class Effects:
    """The effects of one factor, for a picture of their distribution.

    Attributes
    ----------
    name : str
        ``"manufacturer"``, or ``"school: x"`` for a slope.
    values : ndarray, shape (q,)
    mark : float or None
        The effect of the row's level; None for a level the fit has not seen.
    level : str
        Its name.
    """

    name: str
    values: FloatArray
    mark: float | None = None
    level: str = ""


def distributions(effects: Sequence[Effects], xlabel: str, title: str = "") -> Figure:
    """The distribution of each factor's effects, a panel each on one scale, with the effects of one row marked.

    This is Figure 3 of Tschalzev et al. (2024, *Enabling mixed effects neural networks for diverse, clustered data
    using Monte Carlo methods*).

    Parameters
    ----------
    effects : sequence of Effects
        From the widest to the narrowest or as the model has them.
    xlabel : str
        What the effects are added to.
    title : str, optional
    """
    figure, axes = plt.subplots(
        len(effects), 1, figsize=(6.6, 1.15 * len(effects) + 1.3), sharex=True, squeeze=False, layout="constrained"
    )
    reach = max(float(np.abs(e.values).max(initial=0.0)) + 2.5 * bandwidth(e.values) for e in effects) or 1.0
    grid = np.linspace(-reach, reach, 400)
    for ax, effect in zip(axes[:, 0], effects, strict=True):
        top = 1.0
        if len(effect.values) >= DENSITY_FROM and np.ptp(effect.values) > 0:
            density = smooth_density(effect.values, grid)
            top = float(density.max())
            ax.fill_between(grid, density, color=BLUE, alpha=0.25, lw=0)
            ax.plot(grid, density, color=BLUE, lw=1.4)
        else:
            ax.vlines(effect.values, 0, 0.5, color=BLUE, lw=1.6, alpha=0.7)
        if effect.mark is not None:
            ax.axvline(effect.mark, color=ORANGE, lw=1.6, ls="--")
            right = effect.mark > 0.55 * reach
            ax.annotate(
                f"{effect.level}: {effect.mark:+.2f}", (effect.mark, 0.93 * top), (-5 if right else 5, 0),
                textcoords="offset points", ha="right" if right else "left", va="top", fontsize=9, color=ORANGE,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )  # fmt: skip
        ax.axvline(0, color=GREY, lw=0.7)
        ax.set(ylim=(0, 1.12 * top), xlim=(-reach, reach), yticks=[])
        ax.set_ylabel(f"{effect.name}\n{len(effect.values):,} levels", rotation=0, ha="right", va="center", fontsize=9)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[-1, 0].set_xlabel(xlabel)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def bandwidth(values: FloatArray) -> float:
    """Silverman's (1986) rule for a Gaussian kernel; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    quartiles = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std()), float(quartiles[1] - quartiles[0]) / 1.349) or float(values.std())
    return 0.9 * spread * len(values) ** -0.2


def smooth_density(values: FloatArray, grid: FloatArray) -> FloatArray:
    """Gaussian kernel density of values on a grid, bandwidth by Silverman's (1986) rule, (g,)."""
    width = max(bandwidth(values), float(grid[1] - grid[0]))
    pick = np.random.default_rng(0).permutation(len(values))[:20_000]  # enough for a curve
    z = (grid[:, None] - values[pick]) / width
    return np.asarray(np.exp(-0.5 * z * z).mean(axis=1) / (width * np.sqrt(2.0 * np.pi)))


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.figure(figsize=size, layout="constrained").add_subplot() if ax is None else ax


def _bare(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
