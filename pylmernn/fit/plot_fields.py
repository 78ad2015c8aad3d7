"""Pictures of Gaussian processes: the field over its locations, and the variogram with the fitted curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial.distance import pdist

from pylmernn.covariance import theta_sizes
from pylmernn.covariance.kernels import correlation
from pylmernn.formula.design import DesignError, FloatArray, RandomTerm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pylmernn.fit.mixedfit import MixedFit

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
ROWS = 2000  # whose pairs make the empirical variogram
BINS = 15
FEWEST_PAIRS = 30  # in a bin, or it is not shown


def field_map(fit: MixedFit, term: str | None = None, ax: Axes | None = None) -> Axes:
    """The conditional modes of a field at its locations, as coloured points; a line where there is one coordinate.

    Parameters
    ----------
    term : str, optional
        Which ``gp(...)``, as in ``ranef()``; by default the first.
    ax : Axes, optional
    """
    k = _field(fit, term)
    random, values = fit.design.random[k], fit.estimates.b[k][:, 0]
    places, names = _places(random)
    if ax is None:
        ax = plt.figure(figsize=(6.2, 4.9), layout="constrained").add_subplot()
    if places.shape[1] == 1:
        order = np.argsort(places[:, 0])
        ax.axhline(0, color=GREY, lw=0.8)
        ax.plot(places[order, 0], values[order], "-o", ms=3, lw=1, color=BLUE)
        ax.set(xlabel=names[0], ylabel=f"field, part of {fit.design.response}")
    else:
        reach = float(np.quantile(np.abs(values), 0.99)) or 1.0  # one extreme place must not pale all others
        order = np.argsort(np.abs(values))
        size = float(np.clip(9000 / len(values), 4, 60))
        dots = ax.scatter(
            places[order, 0], places[order, 1], c=values[order], s=size, cmap="RdBu_r", vmin=-reach, vmax=reach,
            edgecolors="0.4", linewidths=0.3 if len(values) < 2000 else 0.0,
        )  # fmt: skip
        ax.figure.colorbar(dots, ax=ax, label=f"field, part of {fit.design.response}", extend="both", shrink=0.85)
        ax.set(xlabel=names[0], ylabel=names[1])
        spans = np.ptp(places[:, :2], axis=0)
        if spans.max() < 4 * spans.min():
            ax.set_aspect("equal")
        ax.margins(0.04)
    ax.set_title(f"{random.group} at {len(values):,} locations", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def variogram(fit: MixedFit, term: str | None = None, ax: Axes | None = None) -> Axes:
    """Half the mean squared difference of field plus residual against distance, and what the fitted model expects.

    The rest of the model (fixed effects, networks, other random effects) is taken off first.

    Parameters
    ----------
    term : str, optional
        Which ``gp(...)``, as in ``ranef()``; by default the first.
    ax : Axes, optional
    """
    k = _field(fit, term)
    random = fit.design.random[k]
    assert random.locations is not None
    left = fit.design.y - fit._mu + fit.estimates.b[k][random.codes, 0]
    rows = np.random.default_rng(0).permutation(fit.design.n)[:ROWS]
    distance = pdist(random.locations[random.codes[rows]])
    half_square = 0.5 * pdist(left[rows, None], "sqeuclidean")
    middle, empirical, pairs = _binned(distance, half_square)
    if ax is None:
        ax = plt.figure(figsize=(6.4, 4.3), layout="constrained").add_subplot()
    ax.scatter(middle, empirical, s=12 + 60 * np.sqrt(pairs / pairs.max()), color=BLUE, lw=0, alpha=0.85,
               label="field + residual, by distance (larger: more pairs)")  # fmt: skip
    h = np.linspace(0.0, float(middle.max()) * 1.03, 200)
    tau, lscale = _theta(fit, k)
    noise = fit.sigma() ** 2 * (1.0 if fit.design.weights is None else float(np.mean(1.0 / fit.design.weights)))
    model = noise + (fit.sigma() * tau) ** 2 * (1.0 - correlation(random.options["cov"], h, lscale))
    ax.plot(h, model, color=ORANGE, lw=1.8, label=f"fitted {random.options['cov']}, length-scale {lscale:.3g}")
    ax.axhline(noise, color=GREY, lw=0.8, ls="--", label="residual variance")
    ax.set(xlabel="distance", ylabel="semivariance", title=random.group, ylim=(0, None), xlim=(-0.02 * h[-1], h[-1]))
    ax.title.set_fontsize(10)
    ax.legend(fontsize=9, loc="lower right", edgecolor="none", framealpha=1.0)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _binned(distance: FloatArray, half_square: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean distance, mean half square and number of pairs by distance up to half the largest, zero apart."""
    edges = np.concatenate([[0.0], np.linspace(0.0, 0.5 * distance.max(), BINS + 1)])
    edges[1] = np.nextafter(0.0, 1.0)
    which = np.digitize(distance, edges) - 1
    count = np.bincount(which, minlength=BINS + 2)[: BINS + 1].astype(np.float64)
    kept = count >= min(FEWEST_PAIRS, count.max())
    sums = [np.bincount(which, values, minlength=BINS + 2)[: BINS + 1][kept] for values in (distance, half_square)]
    return sums[0] / count[kept], sums[1] / count[kept], count[kept]


def _field(fit: MixedFit, term: str | None) -> int:
    fields = [k for k, random in enumerate(fit.design.random) if random.covariance == "gp"]
    if not fields:
        raise DesignError("this model has no gp() term to show: add one such as gp(lon, lat).")
    if term is None:
        return fields[0]
    for k in fields:
        if term in (fit.design.random[k].group, fit.design.random[k].label):
            return k
    known = ", ".join(fit.design.random[k].group for k in fields)
    raise DesignError(f"there is no field '{term}': use one of {known}.")


def _places(random: RandomTerm) -> tuple[FloatArray, list[str]]:
    """Coordinates of the levels (q, k), and their names."""
    assert random.locations is not None
    inside = random.group.partition("(")[2].rpartition(")")[0]
    names = [name.strip() for name in inside.split(",")]
    k = random.locations.shape[1]
    return random.locations, names if len(names) == k else [f"coordinate {j + 1}" for j in range(k)]


def _theta(fit: MixedFit, term: int) -> tuple[float, float]:
    """Standard deviation relative to sigma, and length-scale."""
    parts = np.split(fit.estimates.theta, np.cumsum(theta_sizes(fit.design.random))[:-1])
    return float(parts[term][0]), float(parts[term][1])
