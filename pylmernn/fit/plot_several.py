"""Pictures of networks that vary by several bars: those of one bar, by one of the factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pylmernn.fit import plot, plot_varying
from pylmernn.fit.several_views import FactorView
from pylmernn.formula.design import DesignError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BY_FACTOR = ("curves", "shrinkage", "baseline", "variances")
OWN = "what its own deviations add to the network (rms)"
OTHERS = ("importance", "partial", "history", "predicted", "residuals")


def draw(fit: Any, kind: str, factor: str | None = None, **options: Any) -> Axes | Figure:
    """A picture by its kind.

    Parameters
    ----------
    fit : SeveralFit
    kind : str
    factor : str, optional
        The grouping factor, of pictures that have one; by default the one with most levels.
    **options
        Passed to the function of that kind.

    Raises
    ------
    DesignError
        For another kind, or a factor that is not there.
    """
    kinds = (*BY_FACTOR, "ranef", *OTHERS)
    if kind not in kinds:
        raise DesignError(f"plot has no kind '{kind}' here: use one of {', '.join(kinds)}.")
    if kind == "ranef":
        return plot.caterpillar(fit, factor, **options)
    if kind in BY_FACTOR:
        picture = plot_varying.draw(FactorView(fit, factor, whole=kind == "curves"), kind, **options)
        if kind == "shrinkage":
            picture.set_ylabel(OWN)  # type: ignore[union-attr]  # one panel
        return picture
    if factor is not None:
        raise DesignError(f"'{kind}' is a picture of all factors together: leave out factor.")
    return plot_varying.draw(fit, kind, **options)
