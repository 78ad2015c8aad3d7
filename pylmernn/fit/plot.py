"""Pictures of a fit. matplotlib is imported here, when the first one is asked for."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from pylmernn.fit import plot_classes, plot_fields, plot_networks
from pylmernn.fit.networks import plot_history
from pylmernn.fit.predict import fixed_part
from pylmernn.formula.append import new_response
from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pylmernn.fit.mixedfit import MixedFit

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
#: With more levels than this, names on an axis cannot be read.
NAMED_LEVELS = 60


def draw(fit: MixedFit, kind: str, **options: Any) -> Axes | Figure:
    """A picture by its kind.

    Parameters
    ----------
    fit : MixedFit
    kind : str
        A name in ``kinds`` below.
    **options
        Passed to the function of that kind.
    """
    kinds = {
        "residuals": residuals,
        "ranef": caterpillar,
        "caterpillar": caterpillar,
        "qq": qq,
        "shrinkage": shrinkage,
        "distribution": distribution,
        "calibration": calibration,
        "roc": roc,
        "history": history,
        "predicted": plot_networks.predicted,
        "importance": plot_networks.importance,
        "partial": plot_networks.partial,
        "map": plot_fields.field_map,
        "variogram": plot_fields.variogram,
    }
    if kind not in kinds:
        raise DesignError(f"plot has no kind '{kind}': use one of {', '.join(kinds)}.")
    picture: Axes | Figure = kinds[kind](fit, **options)  # type: ignore[operator]
    return picture


def history(fit: MixedFit, ax: Axes | None = None) -> Axes:
    """Training and held-out error of the networks against epochs; DesignError for a model without networks."""
    if fit.estimates.networks is None:
        raise DesignError("this model has no network, so there is no training to show.")
    return plot_history(fit.estimates.networks, ax)


def _bare(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def residuals(fit: MixedFit, ax: Axes | None = None) -> Axes:
    """Scaled residuals against fitted values, with their running mean.

    Parameters
    ----------
    ax : Axes, optional
    """
    if ax is None:
        ax = plt.figure(figsize=(6.4, 4.4), layout="constrained").add_subplot()
    x, y = fit._mu, fit.residuals("scaled").dropna().to_numpy()
    many = len(x) > 5000
    size, alpha = (1.6, max(0.02, min(0.3, 4000 / len(x)))) if many else (4, 0.6)
    ax.plot(x, y, "o", ms=size, alpha=alpha, mec="none", color=BLUE, rasterized=many)
    ax.axhline(0, color=GREY, lw=0.8)
    centre, mean = _running_mean(x, y)
    ax.plot(centre, mean, color=ORANGE, lw=1.8, label="mean of the residuals nearby")
    ax.set(xlabel=f"fitted {fit.design.response}", ylabel="residual / sigma")
    ax.legend(frameon=False, loc="best", fontsize=9)
    return _bare(ax)


def _running_mean(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means of y in windows of neighbouring x, weighted by closeness."""
    centre = np.quantile(x, np.linspace(0.02, 0.98, 60))
    width = 0.12 * (np.quantile(x, 0.98) - np.quantile(x, 0.02)) or 1.0
    pick = np.random.default_rng(0).permutation(len(x))[:20_000]  # enough for a line
    weight = np.exp(-0.5 * ((centre[:, None] - x[pick]) / width) ** 2)
    return centre, (weight @ y[pick]) / weight.sum(axis=1)


def _group(fit: MixedFit, group: str | None, known: list[str]) -> str:
    if group is None:
        return known[0]
    if group not in known:
        raise DesignError(f"there is no grouping factor '{group}' to plot: use one of {', '.join(known)}.")
    return group


def caterpillar(fit: MixedFit, group: str | None = None, level: float = 0.95, sort_by: str | None = None) -> Figure:
    """Conditional modes with their intervals, levels in order, a panel for each column.

    Parameters
    ----------
    group : str, optional
        The grouping factor; by default the first.
    level : float, default 0.95
        Of the intervals.
    sort_by : str, optional
        The column that orders the levels; by default the first.
    """
    effects = fit.ranef(condVar=True)
    name = _group(fit, group, list(effects))
    table, spread = effects[name], effects.condsd()[name]
    column = sort_by or str(table.columns[0])
    if column not in table.columns:
        raise DesignError(f"'{column}' does not vary by '{name}': use one of {', '.join(map(str, table.columns))}.")
    order = np.argsort(table.iloc[:, list(table.columns).index(column)].to_numpy(), kind="stable")
    z, q, d = NormalDist().inv_cdf(0.5 + level / 2), len(table), table.shape[1]
    height = min(max(2.2, 0.19 * q + 0.9), 7.0) if q > NAMED_LEVELS else max(2.2, 0.19 * q + 0.9)
    size = (max(3.4 * d, 5.4), height)
    figure, axes = plt.subplots(1, d, figsize=size, sharey=True, squeeze=False, layout="constrained")
    position = np.arange(q)
    for j, ax in enumerate(axes[0]):
        value, sd = table.iloc[order, j].to_numpy(), spread.iloc[order, j].to_numpy()
        off_zero = np.abs(value) > z * sd
        ax.axvline(0, color=GREY, lw=0.8)
        for mask, colour in ((~off_zero, BLUE), (off_zero, ORANGE)):
            low, high = (value - z * sd)[mask], (value + z * sd)[mask]
            ax.hlines(position[mask], low, high, color=colour, lw=min(1.6, 320 / q), alpha=0.55)
            ax.plot(value[mask], position[mask], "o", ms=4 if q <= NAMED_LEVELS else 1.2, color=colour, mec="none")
        ax.set_title(str(table.columns[j]), fontsize=10)
        ax.set_ylim(-0.8, q - 0.2)
        _bare(ax)
    first = axes[0][0]
    if q <= NAMED_LEVELS:
        first.set_yticks(position, [str(v) for v in table.index[order]], fontsize=8)
    else:
        first.set_yticks([])
        first.set_ylabel(f"{q:,} levels of {name}, in order")
    figure.suptitle(
        f"Random effects of {name}: modes and {100 * level:g}% intervals (orange: apart from zero)", fontsize=10
    )
    return figure


def distribution(fit: MixedFit, row: int = 0, mark: bool = True) -> Figure:
    """The distribution of the effects of every grouping factor on one scale, with the marks of one row.

    Wide ones matter most; the marks say what the model holds of this row (Tschalzev et al. 2024, Figure 3).

    Parameters
    ----------
    row : int, default 0
        Position among the rows in use.
    mark : bool, default True
        Whether to mark its effects.
    """
    n = fit.design.n
    if not -n <= row < n:
        raise DesignError(f"row is {row}, but the model has {n} rows (counted from 0).")
    panels = []
    for term, b in zip(fit.design.random, fit.estimates.b, strict=True):
        level = int(term.codes[row])
        for j, column in enumerate(term.column_names):
            name = term.group if column == "(Intercept)" else f"{term.group}: {column}"
            value = float(b[level, j]) if mark else None
            panels.append(plot_classes.Effects(name, b[:, j], value, str(term.levels[level])))
    scale = f"the linear predictor of {fit.design.response}" if fit.isGLMM() else fit.design.response
    title = f"Random effects; dashed: those of row {fit._row_names[row]}" if mark else "Random effects"
    return plot_classes.distributions(panels, f"effect on {scale}", title)


def calibration(fit: MixedFit, bins: int = 10, newdata: Any = None, ax: Axes | None = None) -> Axes:
    """Observed shares against predicted probabilities in bins of equal size, with 95% limits.

    Parameters
    ----------
    bins : int, default 10
    newdata : DataFrame, optional
        Rows with the response, whose levels may be new; by default those of the fit, which flatter it: random effects
        have learnt from them.
    ax : Axes, optional
    """
    return plot_classes.calibration(*_classes(fit, "calibration", newdata), bins=bins, ax=ax)


def roc(fit: MixedFit, newdata: Any = None, ax: Axes | None = None) -> Axes:
    """True against false positive rates at every threshold, with the area under the curve.

    Parameters
    ----------
    newdata : DataFrame, optional
        As in :func:`calibration`.
    ax : Axes, optional
    """
    return plot_classes.roc(*_classes(fit, "roc", newdata), ax=ax)


def _classes(fit: MixedFit, kind: str, newdata: Any) -> tuple[FloatArray, FloatArray, list[str], FloatArray | None]:
    """Probabilities (n, C), shares (n, C), names of the classes, and trials (n,)."""
    if not hasattr(fit, "predict_proba"):
        raise DesignError(f"plot('{kind}') is for classes, and this is a linear model: use kind='predicted'.")
    if newdata is None:
        table, y, trials = fit.predict_proba().dropna(), fit.design.y, fit.design.weights
    else:
        y, trials = new_response(fit.design, fit.frame, newdata, fit.call.get("weights"), fit._family.name)  # type: ignore[attr-defined]
        table = fit.predict_proba(newdata, allow_new_levels=True)
        whole = np.isfinite(y) & table.notna().all(axis=1).to_numpy()
        table, y, trials = table[whole], y[whole], None if trials is None else trials[whole]
    shares = np.column_stack([1.0 - y, y]) if table.shape[1] == 2 else plot_classes.indicators(y, table.shape[1])
    return table.to_numpy(), shares, [str(name) for name in table.columns], trials


def qq(fit: MixedFit, group: str | None = None) -> Figure:
    """Conditional modes against normal quantiles, a panel for each column.

    Parameters
    ----------
    group : str, optional
        The grouping factor; by default the first.
    """
    effects = fit.ranef()
    name = _group(fit, group, list(effects))
    table = effects[name]
    d, q = table.shape[1], len(table)
    quantile = np.array([NormalDist().inv_cdf((i + 0.5) / q) for i in range(q)])
    figure, axes = plt.subplots(1, d, figsize=(max(3.6 * d, 4.2), 3.8), squeeze=False, layout="constrained")
    for j, ax in enumerate(axes[0]):
        value = np.sort(table.iloc[:, j].to_numpy())
        ax.plot(quantile, value, "o", ms=4 if q < 200 else 2, color=BLUE, alpha=0.7, mec="none")
        ax.axline((0, float(value.mean())), slope=float(value.std()) or 1e-12, color=GREY, lw=0.8)
        ax.set(title=str(table.columns[j]), xlabel="normal quantile")
        _bare(ax)
    axes[0][0].set_ylabel("conditional mode")
    figure.suptitle(f"Random effects of {name}", fontsize=11)
    return figure


def shrinkage(
    fit: MixedFit, group: str | None = None, slope: str | None = None, levels: list[str] | None = None
) -> Figure:
    """Each level's rows with three lines: its own least squares, the fixed effects alone, and the mixed model's.

    Parameters
    ----------
    group : str, optional
        The grouping factor; by default the first with a slope.
    slope : str, optional
        The column on the horizontal axis; by default the first that is not the intercept.
    levels : list of str, optional
        Which levels to show; by default up to 18.
    """
    term = _slope_term(fit, group, slope)
    column = slope or next(c for c in term.column_names if c != "(Intercept)")
    x, y = term.columns[:, term.column_names.index(column)], fit.design.y
    shown = _levels(term.levels, levels)
    columns = min(6, len(shown))
    rows = int(np.ceil(len(shown) / columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns + 0.4, 1.75 * rows + 0.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    population = fixed_part(fit.design, fit.estimates)
    own = [_own_line(x[term.codes == j], y[term.codes == j]) for j in shown]
    order = np.argsort([line[1] for line in own])
    for ax, place in zip(axes.flat, order, strict=False):
        j = shown[place]
        mine = np.flatnonzero(term.codes == j)
        mine = mine[np.argsort(x[mine], kind="stable")]
        ends = np.array([x[mine].min(), x[mine].max()])
        ax.plot(x[mine], y[mine], "o", ms=2.6, color="0.35", mec="none")
        line = own[place][0] + own[place][1] * ends
        ax.plot(ends, line, color=ORANGE, lw=1.4, ls="--", label="this level's rows alone")
        ax.plot(x[mine], population[mine], color=GREY, lw=1.2, label="fixed effects alone")
        ax.plot(x[mine], fit._mu[mine], color=BLUE, lw=1.8, label="mixed model")
        ax.set_title(str(term.levels[j]), fontsize=8, pad=2)
        ax.tick_params(labelsize=7)
        _bare(ax)
    for ax in list(axes.flat)[len(shown) :]:
        ax.set_visible(False)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel(column, fontsize=10)
    figure.supylabel(fit.design.response, fontsize=10)
    return figure


def _own_line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Intercept and slope by least squares; flat where x does not vary."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread if spread > 0 else 0.0
    return float(y.mean()) - slope * float(x.mean()), slope


def _slope_term(fit: MixedFit, group: str | None, slope: str | None) -> Any:
    for term in fit.design.random:
        named = [c for c in term.column_names if c != "(Intercept)"]
        if (group is None or term.group == group) and (slope in named if slope else named):
            return term
    what = f"'{slope}'" if slope else "a slope"
    where = f"by '{group}'" if group else "by any grouping factor"
    raise DesignError(f"a shrinkage plot needs a column left of the bar: {what} does not vary {where}.")


def _levels(names: Any, wanted: list[str] | None) -> list[int]:
    if wanted is None:
        return list(range(min(len(names), 18)))
    position = {str(name): j for j, name in enumerate(names)}
    unknown = [name for name in map(str, wanted) if name not in position]
    if unknown:
        raise DesignError(f"there is no level '{unknown[0]}' to plot.")
    return [position[str(name)] for name in wanted]
