"""Pictures of what the networks of a fit found: importance, partial dependence, predicted against observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pylmernn.fit.mixedfit import MixedFit

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
MANY_ROWS = 3000  # from here on density is shown, not points
SHOWN_BARS = 25
PANELS = 6  # inputs shown when nobody names any


def importance(fit: MixedFit, ax: Axes | None = None, n_repeats: int = 5, seed: int = 0) -> Axes:
    """Permutation importance of each input, the largest on top, with two standard errors.

    Parameters
    ----------
    ax : Axes, optional
    n_repeats, seed
        As in :meth:`MixedFit.importance`.
    """
    table = fit.importance(n_repeats, seed)
    several = table["network"].nunique() > 1
    order = table.sort_values("importance", ascending=False, kind="stable").head(SHOWN_BARS).iloc[::-1]
    names = order["input"] + ("  in " + order["network"].str.slice(0, 24) if several else "")
    if ax is None:
        ax = plt.figure(figsize=(6.4, 0.27 * len(order) + 1.3), layout="constrained").add_subplot()
    at = np.arange(len(order))
    ax.barh(at, order["importance"], xerr=2 * order["se"].fillna(0.0), color=BLUE, height=0.65,
            error_kw={"ecolor": "0.25", "lw": 1.2})  # fmt: skip
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(at, names, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(_rise_label(fit))
    if len(table) > len(order):
        ax.set_title(f"the {len(order)} most important of {len(table)} inputs", fontsize=10)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _rise_label(fit: MixedFit) -> str:
    if fit.isLMM():
        return f"rise of the squared error when permuted, share of var({fit.design.response})"
    return f"rise of the deviance when permuted, share of that of a constant {fit.design.response}"


def predicted(fit: MixedFit, ax: Axes | None = None) -> Axes:
    """Observed against predicted responses with the line on which they agree.

    Where networks were cross-fitted, each row's networks have not learnt from it; otherwise the rows held out in
    training are shown, if there are any. Random effects are conditional modes, to which each row has contributed.

    Parameters
    ----------
    ax : Axes, optional
    """
    rows, note = _rows_to_show(fit)
    x, y = fit._mu[rows], fit.design.y[rows]
    if ax is None:
        ax = plt.figure(figsize=(5.6, 5.2), layout="constrained").add_subplot()
    limits = _limits(np.concatenate([x, y]))
    if len(x) > MANY_ROWS:
        hexes = ax.hexbin(x, y, gridsize=60, bins="log", mincnt=1, cmap="Blues", extent=(*limits, *limits), lw=0.1)
        ax.figure.colorbar(hexes, ax=ax, label="rows", shrink=0.8, pad=0.02)
    else:
        ax.plot(x, y, "o", ms=3.2, alpha=max(0.15, min(0.6, 500 / len(x))), mec="none", color=BLUE)
    ax.axline((0, 0), slope=1, color=ORANGE, lw=1.4)
    ax.set(
        xlim=limits, ylim=limits, xlabel=f"predicted {fit.design.response}", ylabel=f"observed {fit.design.response}"
    )
    ax.set_aspect("equal")
    rmse = float(np.sqrt(np.mean((y - x) ** 2)))
    ax.set_title(f"{note}\nroot mean squared error {rmse:.4g}, correlation {np.corrcoef(x, y)[0, 1]:.3f}", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _rows_to_show(fit: MixedFit) -> tuple[np.ndarray, str]:
    everything, networks = np.arange(fit.design.n), fit.estimates.networks
    if networks is None:
        return everything, f"{len(everything):,} rows of the fit"
    if networks.out_of_fold:
        return everything, f"{len(everything):,} rows, networks out of fold"
    if networks.learned is not None and not networks.learned.all(axis=0).all():
        rows = np.flatnonzero(~networks.learned.any(axis=0))
        if len(rows) >= 2:
            return rows, f"{len(rows):,} rows held out while networks were trained"
    return everything, f"{len(everything):,} rows that the networks learnt from"


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def partial(
    fit: MixedFit,
    inputs: str | Sequence[str] | None = None,
    pair: tuple[str, str] | None = None,
    grid_size: int = 40,
    seed: int = 0,
) -> Figure:
    """Partial dependence: the networks' part of the mean against their inputs, averaged over the others.

    Parameters
    ----------
    inputs : str or sequence of str, optional
        A panel each; by default the six most important. Ticks below a curve are rows of the data; factors are points.
    pair : two inputs, optional
        Instead, a map of f over both.
    grid_size, seed
        As in :meth:`MixedFit.partial_dependence`.
    """
    if pair is not None:
        return _map_of_pair(fit, pair, grid_size, seed)
    names = [inputs] if isinstance(inputs, str) else list(inputs) if inputs is not None else _most_important(fit)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.0 * columns, 4.8), 2.6 * rows + 0.5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax, name in zip(axes.flat, names, strict=False):
        _curve(ax, fit, name, fit.partial_dependence(name, grid_size, seed))
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    figure.supylabel(f"f, part of {fit.design.response}", fontsize=10)
    return figure


def _most_important(fit: MixedFit) -> list[str]:
    """Inputs that have a curve, by importance."""
    networks = fit._networks("is no input to vary")
    single = {b.name for spec in networks.specs for b in spec.blocks if b.size == 1}
    table = fit.importance().sort_values("importance", ascending=False, kind="stable")
    names = [name for name in dict.fromkeys(table["input"]) if name in single]
    if not names:
        raise DesignError("all inputs of the networks hold arrays, so there is no curve of them.")
    return names[:PANELS]


def _values_of(fit: MixedFit, name: str) -> tuple[FloatArray, int]:
    """An input at the rows of the fit, and its number of levels."""
    networks = fit._networks("is no input to vary")
    for net, spec in zip(fit.design.nets, networks.specs, strict=True):
        for block in spec.blocks:
            if block.name == name:
                return net.inputs[:, block.columns.start], block.levels
    raise DesignError(f"no network has an input '{name}'.")


def _curve(ax: Axes, fit: MixedFit, name: str, table: pd.DataFrame) -> None:
    values, levels = _values_of(fit, name)
    ax.axhline(0, color=GREY, lw=0.6)
    if levels:
        at = np.arange(len(table))
        ax.vlines(at, 0, table["f"], color=BLUE, lw=1.2, alpha=0.5)
        ax.plot(at, table["f"], "o", ms=5, color=BLUE)
        texts = [str(v) for v in table[name]]
        turned = sum(map(len, texts)) > 24
        ax.set_xticks(at, texts, fontsize=8, rotation=45 if turned else 0, ha="right" if turned else "center")
        ax.set_xlim(-0.5, len(at) - 0.5)
    else:
        few = len(table) <= 12
        ax.plot(table[name], table["f"], "-o" if few else "-", ms=3.5, color=BLUE, lw=1.8)
        low, high = float(table[name].iloc[0]), float(table[name].iloc[-1])
        shown = np.random.default_rng(0).permutation(values[(values >= low) & (values <= high)])[:200]
        ax.plot(shown, np.full(len(shown), 0.02), "|", ms=6, color="0.3", alpha=0.45, mew=0.6,
                transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set_xlabel(name)
    ax.spines[["top", "right"]].set_visible(False)


def _map_of_pair(fit: MixedFit, pair: tuple[str, str], grid_size: int, seed: int) -> Figure:
    if len(pair) != 2:
        raise DesignError(f"pair has {len(pair)} inputs: name two.")
    table = fit.partial_dependence(list(pair), grid_size, seed)
    first, second = pair
    x, y = table[first].unique(), table[second].unique()
    f = table["f"].to_numpy().reshape(len(x), len(y)).T
    figure, ax = plt.subplots(figsize=(5.8, 4.6), layout="constrained")
    reach = float(np.abs(f).max()) or 1.0
    at = [np.arange(len(v)) if _values_of(fit, name)[1] else v for v, name in ((x, first), (y, second))]
    picture = ax.pcolormesh(*at, f, cmap="RdBu_r", vmin=-reach, vmax=reach, shading="nearest", rasterized=True)
    figure.colorbar(picture, ax=ax, label=f"f, part of {fit.design.response}")
    if all(not _values_of(fit, name)[1] for name in pair):
        ax.contour(*at, f, levels=8, colors="0.25", linewidths=0.5, alpha=0.6)
    ax.set(xlabel=first, ylabel=second)
    if _values_of(fit, first)[1]:
        ax.set_xticks(at[0], [str(v) for v in x], fontsize=8)
    if _values_of(fit, second)[1]:
        ax.set_yticks(at[1], [str(v) for v in y], fontsize=8)
    return figure
