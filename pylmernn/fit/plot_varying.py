"""Pictures of networks that vary by group."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, ScalarFormatter

from pylmernn.engines.nme_working import is_generalized
from pylmernn.fit import plot, plot_networks
from pylmernn.fit.networks import plot_history
from pylmernn.formula.design import DesignError, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9622b", "#8a8a8a"
BANDS = ("#d9622b", "#2a9d5c", "#7b52ab", "#c23b75", "#8c6d1f", "#17899a")  # of groups that are named
MOST_CURVES = 300  # groups whose curves are drawn
MOST_ROWS = 100  # at which expected distances are found
POINTS = 60  # along a curve


def draw(fit: Any, kind: str, **options: Any) -> Axes | Figure:
    """A picture by its kind.

    Parameters
    ----------
    fit : VaryingFit or GeneralizedVaryingFit
    kind : str
        A name in ``kinds`` below.
    **options
        Passed to the function of that kind.
    """
    kinds = {
        "curves": curves,
        "shrinkage": shrinkage,
        "baseline": baseline,
        "variances": variances,
        "importance": importance,
        "partial": plot_networks.partial,
        "history": history,
        "predicted": predicted,
        "residuals": residuals,
    }
    if kind not in kinds:
        raise DesignError(f"plot has no kind '{kind}' here: use one of {', '.join(kinds)}.")
    picture: Axes | Figure = kinds[kind](fit, **options)  # type: ignore[operator]
    return picture


def _axes(ax: Axes | None, width: float = 6.2, height: float = 4.4) -> Axes:
    if ax is None:
        ax = plt.figure(figsize=(width, height), layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _is_generalized(fit: Any) -> bool:
    return is_generalized(fit.estimates)


def _one_output(fit: Any, what: str) -> None:
    if fit.estimates.networks.specs[0].outputs > 1:
        raise DesignError(f"{what} are drawn for one linear predictor, and this response has one for each class.")


# ---- curves


def curves(
    fit: Any,
    input: str | None = None,
    groups: str | Sequence[str] | None = None,
    level: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """The generic curve along one input and the curve of each group, all else at its mean.

    Other numbers are at their mean, factors at their most frequent level; linear terms and offsets are left out but for
    the intercept. Of a generalized model the curves are those of the linear predictor.

    Parameters
    ----------
    input : str, optional
        By default the number of most importance.
    groups : str or sequence of str, optional
        Groups drawn in colour, with bands of their mean; at most six.
    level : float, default 0.9
        Coverage of the bands, of each point by itself.
    ax : Axes, optional
    """
    _one_output(fit, "curves")
    term, design = fit.design.varying[0], fit.design
    block = _number(fit, input)
    low, high = np.quantile(design.nets[0].inputs[:, block.columns.start], (0.01, 0.99))
    x = np.linspace(low, high, POINTS)
    inputs = np.tile(_centre(fit), (POINTS, 1))
    inputs[:, block.columns.start] = x
    X = np.where(np.ptp(design.X, axis=0) == 0, design.X[:1], 0.0).repeat(POINTS, axis=0)
    named = [] if groups is None else fit._levels(groups)
    if len(named) > len(BANDS):
        raise DesignError(f"{len(named)} groups are too many to tell apart: name at most {len(BANDS)}.")
    ax = _axes(ax)
    q = len(term.levels)
    shown = range(q) if q <= MOST_CURVES else np.sort(np.random.default_rng(0).permutation(q)[:MOST_CURVES])
    for code in shown:
        if code not in named:
            ax.plot(x, _curve(fit, X, inputs, code), color=GREY, lw=0.7, alpha=max(0.12, min(0.6, 15 / len(shown))))
    errors = fit._errors if named else None
    for code, colour in zip(named, BANDS, strict=False):
        own = _curve(fit, X, inputs, code)
        ax.plot(x, own, color=colour, lw=1.6, label=f"{term.group} {term.levels[code]}")
        frame = _band(errors, own, X, inputs, code, level)
        ax.fill_between(x, frame["lwr"], frame["upr"], color=colour, alpha=0.18, lw=0)
    ax.plot(x, _curve(fit, X, inputs, -1), color="black", lw=2.2, label="generic network")
    scale = "linear predictor of " if _is_generalized(fit) else ""
    ax.set(xlabel=block.name, ylabel=f"{scale}{design.response}")
    more = f", {len(shown)} of them drawn" if len(shown) < q else ""
    ax.set_title(f"{q} curves by {term.group}{more}" + (f", {100 * level:g}% bands" if named else ""), fontsize=10)
    ax.legend(frameon=False, fontsize=9)
    return ax


def _number(fit: Any, name: str | None) -> Any:
    """The block of an input that is a number."""
    spec = fit.estimates.networks.specs[0]
    numbers = {block.name: block for block in spec.blocks if block.size == 1 and not block.levels}
    if name is None:
        if not numbers:
            raise DesignError("no input of the network is a number, so there is no curve along one.")
        table = fit.importance().sort_values("importance", ascending=False, kind="stable")
        name = next(one for one in table["input"] if one in numbers)
    if name not in numbers:
        raise DesignError(f"'{name}' is no number that the network takes: it has {', '.join(numbers) or 'none'}.")
    return numbers[name]


def _centre(fit: Any) -> FloatArray:
    """Means of numbers, most frequent levels of factors, (k,)."""
    inputs, spec = fit.design.nets[0].inputs, fit.estimates.networks.specs[0]
    centre = inputs.mean(axis=0)
    for block in spec.blocks:
        if block.levels:
            at = block.columns.start
            centre[at] = float(np.bincount(inputs[:, at].astype(np.intp)).argmax())
    return np.asarray(centre)


def _curve(fit: Any, X: FloatArray, inputs: FloatArray, code: int) -> FloatArray:
    from pylmernn.engines.nme_predict import values

    return np.asarray(X @ fit.estimates.beta + values(fit.estimates, inputs, np.full(len(X), code, dtype=np.int32)))


def _band(errors: Any, mean: FloatArray, X: FloatArray, inputs: FloatArray, code: int, level: float) -> pd.DataFrame:
    from pylmernn.engines.nme_variance import GroupRows
    from pylmernn.fit.predict import interval_frame

    rows = GroupRows(X, inputs, np.full(len(X), code, dtype=np.int32), np.ones(len(X)))
    return interval_frame(mean, errors.variance(rows), 0.0, "confidence", level, pd.RangeIndex(len(X)))


# ---- groups


def shrinkage(fit: Any, ax: Axes | None = None) -> Axes:
    """How far each group's network lies from the generic one, against its number of rows.

    The distance is the root mean squared difference of the two over rows of all groups (at most 500), the same for
    each. The line is what to expect of it: deviations are shrunken by what is unknown of a group, so that groups with
    few rows lie nearer to the generic network than those with many.

    Parameters
    ----------
    ax : Axes, optional
    """
    _one_output(fit, "distances")
    term = fit.design.varying[0]
    counts = _rows_of_groups(fit)
    distance = distances(fit)
    prior, expected = _expected_distances(fit)
    ax = _axes(ax)
    shown = np.maximum(counts, 0.5)
    ax.plot(shown, distance, "o", ms=5, color=BLUE, alpha=max(0.3, min(0.8, 60 / len(counts))), mec="none")
    at = np.unique(shown[list(expected)])
    line = [np.mean([value for code, value in expected.items() if shown[code] == n]) for n in at]
    ax.plot(at, line, "o" if len(at) == 1 else "-", color=ORANGE, lw=1.6, label="expected, after shrinkage")
    ax.axhline(prior, color=GREY, lw=1.2, ls="--", label="of the groups as they are, by the variances")
    if counts.max() > 8 * max(1, counts.min()):
        ax.set_xscale("log")
        for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis(ScalarFormatter())
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    else:
        ax.set_xlim(0, 1.05 * counts.max())
    ax.set_ylim(0, 1.25 * max(prior, float(distance.max())))
    ax.set(xlabel=f"rows of each {term.group}", ylabel="distance from the generic network (rms)")
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    return ax


def _rows_of_groups(fit: Any) -> Any:
    term = fit.design.varying[0]
    counts = np.bincount(term.codes, minlength=len(term.levels))
    if fit.added is None:
        return counts
    fresh = np.bincount(fit.added.codes, minlength=len(term.levels))
    return np.where(fresh > 0, fresh, counts)


def _expected_distances(fit: Any) -> tuple[float, dict[int, float]]:
    """Root mean square of a group's difference from the generic network, before shrinkage and, for some groups, after.

    What remains after it has the variance of the deviations less what is unknown of a group.
    """
    from pylmernn.engines.nme_variance import GroupRows

    rows = _some_rows(fit)[:MOST_ROWS]
    inputs, X = fit.design.nets[0].inputs[rows], np.zeros((len(rows), fit.design.p))

    def variance(code: int) -> FloatArray:
        own = GroupRows(X, inputs, np.full(len(rows), code, dtype=np.int32), np.ones(len(rows)))
        return np.asarray(fit._errors.model.variance(own)[0])

    prior = variance(-1)
    q = len(fit.estimates.effects)
    shown = np.random.default_rng(0).permutation(q)[:MOST_CURVES]
    found = {int(code): float(np.sqrt(np.maximum(prior - variance(code), 0.0).mean())) for code in shown}
    return float(np.sqrt(prior.mean())), found


def _some_rows(fit: Any) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(fit.design.n)[:500])


def distances(fit: Any) -> FloatArray:
    """Root mean squared differences of each group's network from the generic one, (q,)."""
    from pylmernn.engines.nme_predict import values

    inputs = fit.design.nets[0].inputs[_some_rows(fit)]
    generic = values(fit.estimates, inputs, np.full(len(inputs), -1, dtype=np.int32))
    found = np.zeros(len(fit.estimates.effects))
    for code in range(len(found)):
        own = values(fit.estimates, inputs, np.full(len(inputs), code, dtype=np.int32))
        found[code] = np.sqrt(np.mean((own - generic) ** 2))
    return found


def baseline(fit: Any, ax: Axes | None = None) -> Axes:
    """Deviations of the last layer's bias against the level of each group, the mean of its responses.

    Woerner et al. (2023, figure 4): where the bias stands for how high a group lies, the two go together.

    Parameters
    ----------
    ax : Axes, optional
    """
    _one_output(fit, "baselines")
    term, selected = fit.design.varying[0], fit.estimates.selected
    biases = [k for k, label in enumerate(selected.labels) if label.endswith("bias") or ".bias[" in label]
    last = fit.estimates.networks.specs[0]
    own = [k for k in biases if selected.layers[k] == selected.layers[-1]]
    if not own or (not last.class_name and not _is_last(fit, selected.layers[-1])):
        raise DesignError("the bias of the last layer does not vary here: there is no deviation of it to show.")
    n = np.bincount(term.codes, minlength=len(term.levels))
    y = fit.design.y.astype(float)
    level = np.bincount(term.codes, y, minlength=len(term.levels)) / np.maximum(n, 1)
    deviation = fit.estimates.effects[:, own[-1]]
    level, deviation, n = level[n > 0], deviation[n > 0], n[n > 0]
    ax = _axes(ax)
    ax.axhline(0, color=GREY, lw=0.7)
    ax.scatter(level, deviation, s=14 + 60 * n / n.max(), color=BLUE, alpha=max(0.3, min(0.75, 60 / len(n))), lw=0)
    if np.ptp(level) > 0 and np.ptp(deviation) > 0:
        ax.set_title(f"correlation {np.corrcoef(level, deviation)[0, 1]:.2f} over {len(n)} groups", fontsize=10)
    ax.set(xlabel=f"mean {fit.design.response} of each {term.group}", ylabel="deviation of the last layer's bias")
    return ax


def _is_last(fit: Any, layer: str) -> bool:
    from pylmernn.engines.nme_predict import network_of

    module = network_of(fit.estimates).module
    return layer == f"layers.{len(module.mlp.layers) - 1}"


def variances(fit: Any, ax: Axes | None = None) -> Axes:
    """Standard deviations of the parameters by layer: of the model, and of the deviations as they were estimated.

    Parameters
    ----------
    ax : Axes, optional
    """
    e = fit.estimates
    table = pd.DataFrame(
        {"layer": e.selected.layers, "model": np.sqrt(e.prior_variances), "modes": e.effects.std(axis=0)}
    )
    layers = list(dict.fromkeys(table["layer"]))
    ax = _axes(ax, 6.2, 1.4 + 0.75 * len(layers))
    rng = np.random.default_rng(0)
    for at, layer in enumerate(reversed(layers)):
        own = table[table["layer"] == layer]
        jitter = rng.uniform(-0.12, 0.12, len(own)) if len(own) > 3 else np.zeros(len(own))
        for column, shift, colour, label in (
            ("model", 0.16, ORANGE, "of the model, root of the diagonal of Sigma"),
            ("modes", -0.16, BLUE, "of the estimated deviations, which are shrunken"),
        ):
            ax.plot(own[column], at + shift + jitter, "o", ms=4, color=colour, mec="none",
                    alpha=max(0.25, min(0.7, 25 / len(own))), label=label if at == 0 else None)  # fmt: skip
            mean = float(np.sqrt(np.mean(own[column] ** 2)))
            ax.plot([mean, mean], [at + shift - 0.15, at + shift + 0.15], color=colour, lw=2.4)
    names = [f"{layer}\n{(table['layer'] == layer).sum()} parameters" for layer in reversed(layers)]
    ax.set_yticks(range(len(layers)), names, fontsize=9)
    ax.set_ylim(-0.6, len(layers) - 0.4)
    ax.set_xlim(left=0)
    ax.set_xlabel("standard deviation of a parameter (bars: root mean square)")
    ax.tick_params(axis="y", length=0)
    ax.figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=1)
    return ax


# ---- as of other fits


def importance(fit: Any, ax: Axes | None = None, n_repeats: int = 5, seed: int = 0) -> Axes:
    """Permutation importance of each input; arguments as in :func:`pylmernn.fit.plot_networks.importance`."""
    ax = plot_networks.importance(_like_mixed(fit), ax, n_repeats, seed)
    return ax


def history(fit: Any, ax: Axes | None = None) -> Axes:
    """Training and held-out errors against epochs."""
    return plot_history(fit.estimates.networks, ax)


def _like_mixed(fit: Any) -> Any:
    """The parts of a fit that pictures of other fits read."""
    view = SimpleNamespace(design=fit.design, estimates=fit.estimates, importance=fit.importance)
    view.isLMM = lambda: not _is_generalized(fit)
    view._mu = fit.fitted().to_numpy() if fit.estimates.networks.specs[0].outputs == 1 else None
    view.residuals = lambda kind: fit.residuals() / fit.sigma()
    return view


def _numeric(fit: Any, kind: str) -> None:
    family = getattr(fit.estimates, "family", None)
    if family is not None and family.categorical:
        raise DesignError(f"'{kind}' is for numbers, and this response is a class.")


def predicted(fit: Any, ax: Axes | None = None) -> Axes:
    """Observed against fitted responses, of rows held out in training where there are any.

    Deviations have been estimated on all rows.
    """
    _numeric(fit, "predicted")
    return plot_networks.predicted(_like_mixed(fit), ax)


def residuals(fit: Any, ax: Axes | None = None) -> Axes:
    """Residuals over sigma against fitted values, with their running mean."""
    _numeric(fit, "residuals")
    return plot.residuals(_like_mixed(fit), ax)
