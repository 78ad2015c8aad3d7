"""Pictures of sequence models: matrices of transition probabilities, of one group or of two sets beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from pylmernn.fit.networks import plot_history
from pylmernn.fit.transitions import TransitionComparison
from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
PROBABILITIES = LinearSegmentedColormap.from_list("probabilities", ["#ffffff", "#a9cbe6", BLUE, "#0c2f4d"])
DIFFERENCES = LinearSegmentedColormap.from_list("differences", [BLUE, "#ffffff", ORANGE])
DARK = 0.55  # of the scale: numbers are white from here
WRITTEN = 8  # states: with more, cells have no numbers


def draw(fit: Any, kind: str, **options: Any) -> Axes | Figure:
    """A picture of a sequence model by its kind, "transitions" or "history"."""
    kinds = {"transitions": transitions, "history": lambda fit, ax=None: plot_history(fit.estimates.networks, ax)}
    if kind not in kinds:
        raise DesignError(f"plot has no kind '{kind}' for sequences: use one of {', '.join(kinds)}.")
    picture: Axes | Figure = kinds[kind](fit, **options)  # type: ignore[operator]
    return picture


def transitions(fit: Any, by: Any = None, group: Any = None, newdata: Any = None, **options: Any) -> Figure:
    """Heat maps of transition probabilities, from the state of a row to that of a column.

    Parameters
    ----------
    fit : SequenceFit
    by : dict, Series or TransitionComparison, optional
        Two sets of groups, as :meth:`SequenceFit.compare_transitions` takes them, or what it returned: a panel each and
        their difference with its limits, framed where these leave out zero (Woerner et al., 2023, Figure 6, Table 5).
    group, newdata : optional
        Without ``by``, whose transitions, as :meth:`SequenceFit.transition_probabilities` takes them.
    **options
        Passed on to those two.
    """
    if by is not None:
        if group is not None or newdata is not None:
            raise DesignError("plot('transitions') takes two sets by 'by', or one matrix by 'group' and 'newdata'.")
        found = by if isinstance(by, TransitionComparison) else fit.compare_transitions(by, **options)
        return comparison(found, fit.design.response)
    table = fit.transition_probabilities(group, newdata, **options)
    if "from" in table.columns:
        raise DesignError("a heat map has no limits: leave out interval=.")
    figure, ax = plt.subplots(figsize=_size(len(table), 1), layout="constrained")
    what = "that all share" if group is None else f"of {len(group)} groups" if _several(group) else f"of {group}"
    image = _heat(ax, table, _percent(table.to_numpy()), PROBABILITIES, (0.0, 1.0))
    ax.set_title(f"transition probabilities {what}, %", fontsize=10)
    _axis_names(ax, fit.design.response)
    _bar(figure, image, [ax], "probability")
    return figure


def comparison(found: TransitionComparison, response: str) -> Figure:
    """Two matrices and their difference."""
    figure, axes = plt.subplots(1, 3, figsize=_size(len(found.first), 3), layout="constrained")
    highest = max(float(table.to_numpy().max()) for table in (found.first, found.second))
    for ax, table, name, count in zip(axes, (found.first, found.second), found.names, found.groups, strict=False):
        image = _heat(ax, table, _percent(table.to_numpy()), PROBABILITIES, (0.0, highest))
        ax.set_title(f"{name} ({count} groups)", fontsize=10)
    reach = float(np.abs(found.difference.to_numpy()).max()) or 1.0
    limits = np.vectorize(lambda d, a, b: f"{100 * d:+z.0f}\n[{100 * a:z.0f}, {100 * b:z.0f}]")
    texts = limits(found.difference, found.lower, found.upper)
    of_difference = _heat(axes[2], found.difference, texts, DIFFERENCES, (-reach, reach), small=True)
    for a, b in np.argwhere(found.apart.to_numpy()):
        axes[2].add_patch(Rectangle((b - 0.47, a - 0.47), 0.94, 0.94, fill=False, ec="black", lw=1.8))
    axes[2].set_title(f"{found.names[1]} less {found.names[0]}, percentage points", fontsize=10)
    for k, ax in enumerate(axes):
        _axis_names(ax, response, rows=k == 0)
        if k:
            ax.set_yticklabels([])
    _bar(figure, image, list(axes[:2]), "probability")
    _bar(figure, of_difference, [axes[2]], "difference")
    test = found.independence
    figure.suptitle(
        f"Transition probabilities, %; framed: the {100 * found.level:g}% interval leaves out zero. "
        f"HSIC {test.statistic:.2g}, p = {test.p_value:.2g}",
        fontsize=10,
    )
    return figure


def _heat(
    ax: Axes, table: pd.DataFrame, texts: Any, colours: Any, limits: tuple[float, float], small: bool = False
) -> Any:
    values = table.to_numpy()
    image = ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    states = [str(state) for state in table.index]
    ax.set_xticks(range(len(states)), states, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_yticks(range(len(states)), states, fontsize=9)
    ax.set_xticks(np.arange(len(states) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(states) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if len(states) <= WRITTEN:
        for a, b in np.ndindex(values.shape):
            dark = values[a, b] > DARK * limits[1] and not small
            ax.text(b, a, texts[a, b], ha="center", va="center", fontsize=7.5 if small else 9.5,
                    color="white" if dark else "black")  # fmt: skip
    return image


def _percent(values: FloatArray) -> Any:
    return np.vectorize(lambda value: f"{100 * value:.0f}")(values)


def _several(group: Any) -> bool:
    return isinstance(group, list | tuple | np.ndarray | pd.Index | pd.Series)


def _size(states: int, panels: int) -> tuple[float, float]:
    side = min(max(3.3, 0.75 * states + 0.6), 7.0)
    return panels * side + 1.6, side + 1.1


def _axis_names(ax: Axes, response: str, rows: bool = True) -> None:
    ax.set_xlabel(f"next {response}", fontsize=9)
    if rows:
        ax.set_ylabel(f"{response} now", fontsize=9)


def _bar(figure: Figure, image: Any, axes: list[Axes], label: str) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, aspect=25)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(label, fontsize=8)
