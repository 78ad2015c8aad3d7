"""Pictures of a multinomial fit. matplotlib is imported here, when the first one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from pylmernn.fit import plot_classes, plot_networks
from pylmernn.fit.networks import plot_history
from pylmernn.fit.plot_classes import BLUE, DENSITY_FROM, GREY, ORANGE, smooth_density
from pylmernn.fit.ranef import terms_by_group
from pylmernn.formula.append import new_response
from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pylmernn.fit.multinomial import MultinomialFit

#: With more levels than this, names on an axis cannot be read.
NAMED_LEVELS = 60
#: Classes and panels shown when nobody names any.
SHOWN_CLASSES, SHOWN_TRACES = 6, 12


def draw(fit: MultinomialFit, kind: str, **options: Any) -> Axes | Figure:
    """A picture by its kind.

    Parameters
    ----------
    fit : MultinomialFit
    kind : str
        A name in ``kinds`` below.
    **options
        Passed to the function of that kind.
    """
    kinds = {
        "ranef": caterpillar,
        "caterpillar": caterpillar,
        "distribution": distribution,
        "trace": trace,
        "calibration": calibration,
        "roc": roc,
        "history": history,
        "importance": plot_networks.importance,
        "partial": partial,
    }
    if kind not in kinds:
        raise DesignError(f"plot of a multinomial model has no kind '{kind}': use one of {', '.join(kinds)}.")
    picture: Axes | Figure = kinds[kind](fit, **options)  # type: ignore[operator]
    return picture


def caterpillar(
    fit: MultinomialFit,
    group: str | None = None,
    column: str | None = None,
    level: float = 0.95,
    sort_by: str | None = None,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Posterior means with their intervals, levels in one order, a panel for each class.

    Parameters
    ----------
    group : str, optional
        The grouping factor; by default the first.
    column : str, optional
        The column whose effects are shown; by default the first.
    level : float, default 0.95
        Of the intervals.
    sort_by : str, optional
        The class that orders the levels; by default the first shown.
    classes : sequence of str, optional
        Which to show; by default up to six.
    """
    frame = fit.ranef(condVar=True).as_frame()
    name = _one_of("grouping factor", group, list(dict.fromkeys(frame["grpvar"])))
    frame = frame[frame["grpvar"] == name]
    chosen = _one_of(f"column by '{name}'", column, list(dict.fromkeys(frame["term"])))
    frame = frame[frame["term"] == chosen]
    shown = _some_classes(fit, classes)
    value = frame.pivot(index="grp", columns="class", values="condval")
    sd = frame.pivot(index="grp", columns="class", values="condsd")
    order = value[_one_of("class", sort_by, [*shown, *fit.classes])].sort_values(kind="stable").index
    z, q = NormalDist().inv_cdf(0.5 + level / 2), len(order)
    height = max(2.4, 0.19 * q + 1.0)
    size = (max(2.4 * len(shown) + 0.8, 5.4), min(height, 7.0) if q > NAMED_LEVELS else height)
    figure, axes = plt.subplots(
        1, len(shown), figsize=size, sharey=True, sharex=True, squeeze=False, layout="constrained"
    )
    position = np.arange(q)
    for ax, c in zip(axes[0], shown, strict=True):
        mean, half = value.loc[order, c].to_numpy(), z * sd.loc[order, c].to_numpy()
        apart = np.abs(mean) > half
        ax.axvline(0, color=GREY, lw=0.8)
        for mask, colour in ((~apart, BLUE), (apart, ORANGE)):
            ax.hlines(position[mask], (mean - half)[mask], (mean + half)[mask], color=colour, lw=min(1.6, 320 / q),
                      alpha=0.55)  # fmt: skip
            ax.plot(mean[mask], position[mask], "o", ms=4 if q <= NAMED_LEVELS else 1.2, color=colour, mec="none")
        ax.set_title(c, fontsize=10)
        ax.set_ylim(-0.8, q - 0.2)
        ax.spines[["top", "right"]].set_visible(False)
    if q <= NAMED_LEVELS:
        axes[0][0].set_yticks(position, [str(v) for v in order], fontsize=8)
    else:
        axes[0][0].set_yticks([])
        axes[0][0].set_ylabel(f"{q:,} levels of {name}, in the order of {sort_by or shown[0]}")
    what = name if chosen == "(Intercept)" else f"{chosen} by {name}"
    figure.suptitle(f"Random effects of {what}: means and {100 * level:g}% intervals (orange: apart from 0)",
                    fontsize=10)  # fmt: skip
    return figure


def distribution(fit: MultinomialFit, row: Any = None, classes: Sequence[str] | None = None) -> Figure:
    """The distribution of the effects of each factor in each class, on one scale, those of one row's levels marked.

    This is Figure 3 of Tschalzev et al. (2024). The dotted curve is the estimated normal distribution of the effects,
    less their mean over classes as the effects themselves; levels with few rows are drawn towards zero, so their
    effects spread less than it.

    Parameters
    ----------
    row : label, optional
        A row of the data whose levels are marked.
    classes : sequence of str, optional
        Which to show; by default up to six.
    """
    shown = _some_classes(fit, classes)
    at = None if row is None else _row_position(fit, row)
    panels = [
        (k, j) for members in terms_by_group(fit.design.random).values() for k in members
        for j in range(fit.design.random[k].width)
    ]  # fmt: skip
    places = [fit.classes.index(c) for c in shown]
    reach = 1.08 * max(float(np.abs(fit.estimates.b[k][:, j, places]).max()) for k, j in panels) or 1.0
    figure, axes = plt.subplots(
        len(panels), len(shown), figsize=(max(2.3 * len(shown) + 1.6, 5.6), 1.25 * len(panels) + 1.4), sharex=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for (k, j), line in zip(panels, axes, strict=True):
        term = fit.design.random[k]
        column = term.column_names[j]
        prior = contrast_variances(fit.estimates.covariances[k][:, j, j])
        for c, ax in zip(places, line, strict=True):
            values = fit.estimates.b[k][:, j, c]
            mark = None if at is None else float(values[term.codes[at]])
            _panel(ax, values, float(prior[c]), mark, reach)
        what = term.group if column == "(Intercept)" else f"{column} by {term.group}"
        chosen = "" if at is None else f"\n{term.levels[term.codes[at]]}"
        line[0].set_ylabel(f"{what}\n{term.n_levels:,} levels{chosen}", rotation=0, ha="right", va="center", fontsize=9)
    for name, ax in zip(shown, axes[0], strict=True):
        ax.set_title(name, fontsize=10)
    figure.supxlabel("effect, added to the linear predictor of the class", fontsize=10)
    note = "" if at is None else f"\ndashed: those of row {row}, whose class is {fit.classes[int(fit.design.y[at])]}"
    figure.suptitle(f"Random effects (dotted: their estimated normal distribution){note}", fontsize=10)
    return figure


def contrast_variances(variances: FloatArray) -> FloatArray:
    """Variances (C,) of independent effects with these variances (C,), each less their mean over classes.

    Examples
    --------
    >>> contrast_variances(np.array([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    C = len(variances)
    return np.asarray((1.0 - 2.0 / C) * variances + variances.sum() / C**2)


def _panel(ax: Axes, values: FloatArray, variance: float, mark: float | None, reach: float) -> None:
    """The effects of one factor and class as a density, or one by one where they are few."""
    grid = np.linspace(-reach, reach, 400)
    top = 0.0
    normal = None
    if variance > (reach / 200) ** 2:
        normal = np.exp(-0.5 * grid**2 / variance) / np.sqrt(2.0 * np.pi * variance)
        top = float(normal.max())
    if len(values) >= DENSITY_FROM and np.ptp(values) > 0:
        density = smooth_density(values, grid)
        top = max(top, float(density.max()))
        ax.fill_between(grid, density, color=BLUE, alpha=0.25, lw=0)
        ax.plot(grid, density, color=BLUE, lw=1.3)
    else:
        top = top or 1.0
        ax.vlines(values, 0, 0.5 * top, color=BLUE, lw=1.5, alpha=0.7)
    if normal is not None:
        ax.plot(grid, normal, color="0.35", lw=1.0, ls=":")
    ax.axvline(0, color=GREY, lw=0.7)
    if mark is not None:
        ax.axvline(mark, color=ORANGE, lw=1.6, ls="--")
        right = mark > 0.35 * reach
        ax.annotate(
            f"{mark:+.2f}", (mark, 1.08 * top), (-4 if right else 4, 0), textcoords="offset points",
            ha="right" if right else "left", va="top", fontsize=8, color=ORANGE,
            bbox={"fc": "white", "ec": "none", "pad": 0.4, "alpha": 0.8},
        )  # fmt: skip
    ax.set(ylim=(0, 1.15 * top), xlim=(-reach, reach), yticks=[])
    ax.spines[["top", "right", "left"]].set_visible(False)


def trace(fit: MultinomialFit, names: str | Sequence[str] | None = None) -> Figure:
    """Variances over the draws, a line for each chain: chains that mix cannot be told apart.

    Parameters
    ----------
    names : str or sequence of str, optional
        Of ``fit.draws().names``; by default the first twelve.
    """
    draws = fit.draws()
    asked = [names] if isinstance(names, str) else list(draws.names[:SHOWN_TRACES] if names is None else names)
    chosen = [draws.names.index(_one_of("variance", name, list(draws.names))) for name in asked]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns + 0.4, 1.7 * rows + 0.8), sharex=True, squeeze=False, layout="constrained"
    )
    for ax, k in zip(axes.flat, chosen, strict=False):
        for s, values in enumerate(draws.variances[:, :, k]):
            colour = plot_classes.COLOURS[s % len(plot_classes.COLOURS)]
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, lw=0.8, alpha=0.85)
        ax.set_title(draws.names[k], fontsize=9)
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in list(axes.flat)[len(chosen) :]:
        ax.set_visible(False)
    figure.supxlabel("draw", fontsize=10)
    figure.supylabel("variance", fontsize=10)
    figure.suptitle(f"{draws.n_chains} chains, largest R-hat {draws.rhat:.2f}, smallest ESS {draws.ess:.0f}",
                    fontsize=10)  # fmt: skip
    return figure


def calibration(fit: MultinomialFit, newdata: Any = None, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Observed shares of each class against predicted probabilities; see :func:`plot_classes.calibration`.

    Parameters
    ----------
    newdata : DataFrame, optional
        Rows with the response, best those the model has not learnt from; by default the rows of the fit.
    bins : int, default 10
    ax : Axes, optional
    """
    probabilities, shares, note = _observed(fit, newdata)
    ax = plot_classes.calibration(probabilities, shares, fit.classes, bins=bins, ax=ax)
    ax.set_title(note, fontsize=9)
    return ax


def roc(fit: MultinomialFit, newdata: Any = None, ax: Axes | None = None) -> Axes:
    """ROC curve of each class against the rest, and its area; arguments as :func:`calibration`."""
    probabilities, shares, note = _observed(fit, newdata)
    ax = plot_classes.roc(probabilities, shares, fit.classes, ax=ax)
    ax.set_title(note, fontsize=9)
    return ax


def history(fit: MultinomialFit, ax: Axes | None = None) -> Axes:
    """Training and held-out error of the networks against epochs; DesignError for a model without networks."""
    return plot_history(fit._networks("is no training to show"), ax)


def partial(
    fit: MultinomialFit, inputs: str | Sequence[str] | None = None, grid_size: int = 40, seed: int = 0
) -> Figure:
    """Partial dependence: the networks' part of each class's linear predictor against their inputs, a line a class.

    Parameters
    ----------
    inputs : str or sequence of str, optional
        A panel each; by default the six most important.
    grid_size, seed
        As in :meth:`MultinomialFit.partial_dependence`.
    """
    if inputs is None:
        table = fit.importance().sort_values("importance", ascending=False, kind="stable")
        single = {b.name for spec in fit._networks("is no input to vary").specs for b in spec.blocks if b.size == 1}
        names = [name for name in dict.fromkeys(table["input"]) if name in single][:SHOWN_CLASSES]
    else:
        names = [inputs] if isinstance(inputs, str) else list(inputs)
    if not names:
        raise DesignError("all inputs of the networks hold arrays, so there is no curve of them.")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.0 * columns, 4.8), 2.6 * rows + 0.5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax, name in zip(axes.flat, names, strict=False):
        curves = fit.partial_dependence(name, grid_size, seed)
        for colour, c in zip(plot_classes.COLOURS, fit.classes, strict=False):
            part = curves[curves["class"] == c]
            numeric = np.issubdtype(part[name].to_numpy().dtype, np.number)
            at = part[name] if numeric else [str(v) for v in part[name]]
            ax.plot(at, part["f"], "-" if len(part) > 12 else "-o", ms=3.5, color=colour, lw=1.6, label=c)
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set_xlabel(name)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.supylabel("f, added to each class", fontsize=10)
    return figure


def _observed(fit: MultinomialFit, newdata: Any) -> tuple[FloatArray, FloatArray, str]:
    """Probabilities and observed classes, (n, C) each, and what rows they are of."""
    C = len(fit.classes)
    if newdata is None:
        shares = plot_classes.indicators(fit.design.y, C)
        return fit.predict_proba().dropna().to_numpy(), shares, f"{fit.nobs():,} rows of the fit"
    probabilities = fit.predict_proba(newdata, allow_new_levels=True)
    codes = new_response(fit.design, fit.frame, newdata, family="multinomial")[0]
    whole = ~probabilities.isna().any(axis=1).to_numpy() & np.isfinite(codes)
    shares = plot_classes.indicators(codes[whole], C)
    return probabilities.to_numpy()[whole], shares, f"{int(whole.sum()):,} new rows"


def _row_position(fit: MultinomialFit, row: Any) -> int:
    """Where a row of the data stands among those in use."""
    found = np.flatnonzero(np.asarray(fit._row_names == row))
    if not len(found):
        raise DesignError(f"there is no row '{row}' in use: give a label of the data's index.")
    return int(found[0])


def _one_of(what: str, name: str | None, known: Sequence[str]) -> str:
    """The name asked for, by default the first."""
    if name is None:
        return str(known[0])
    if name not in known:
        raise DesignError(f"there is no {what} '{name}': use one of {', '.join(dict.fromkeys(map(str, known)))}.")
    return name


def _some_classes(fit: MultinomialFit, classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        return list(fit.classes[:SHOWN_CLASSES])
    given = [classes] if isinstance(classes, str) else list(classes)
    return [_one_of("class", name, fit.classes) for name in given]
