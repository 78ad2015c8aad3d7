"""How well predictions do for each group, and whether one model does better than another for most groups.

The protocol of Woerner et al. (2023, section 5.3): a metric is found for each person and then averaged, so that
differences between persons do not pass for accuracy within them; two models are compared by resampling persons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.design import DesignError

FloatArray = NDArray[np.float64]
Measure = Callable[[FloatArray, FloatArray], float]

DRAWS_AT_A_TIME = 4_000_000  # persons drawn, over all resamples held together


def group_metrics(y: Any, predicted: Any, group: Any, metric: str | Measure = "rmse") -> pd.DataFrame:
    """A metric of predictions, for each group.

    Parameters
    ----------
    y, predicted : array_like, shape (n,)
        Responses and predictions, of rows that no model has learnt from.
    group : array_like, shape (n,)
        The group of each row, such as the person.
    metric : {"rmse", "mae", "nrmse", "r", "ccc"} or callable, default "rmse"
        Root mean squared error; mean absolute error; root mean squared error over the standard deviation of all
        responses; Pearson's correlation; Lin's concordance correlation
        ``2 cov / (var y + var predicted + (mean y - mean predicted)^2)``; or a function of the responses and
        predictions of one group that returns a number.

    Returns
    -------
    DataFrame
        A row for each group, in order of their names, with columns rows and the metric ("metric" for a function). Its
        mean over the groups is the figure of the paper. A correlation where responses or predictions of a group are
        constant is NaN; pandas leaves those out of the mean.

    Raises
    ------
    DesignError
        For an unknown metric, arrays of other lengths, or missing values.

    Notes
    -----
    Woerner et al. (2023), "Neural Mixed Effects for Nonlinear Personalized Predictions", sections 5.1 and 5.3. Lin
    (1989), "A concordance correlation coefficient to evaluate reproducibility", with variances over n.

    Examples
    --------
    >>> from pylmernn import group_metrics
    >>> table = group_metrics([1.0, 2.0, 4.0, 4.0], [1.0, 3.0, 4.0, 1.0], ["a", "a", "b", "b"], "mae")
    >>> table["mae"].tolist(), float(table["mae"].mean())
    ([0.5, 1.5], 1.0)
    """
    truth, (guess,), codes, levels = _read(y, group, predicted=predicted)
    name = metric if isinstance(metric, str) else "metric"
    values = _by_group(_measure(metric, truth), truth, guess, codes, len(levels))
    return pd.DataFrame({"rows": np.bincount(codes, minlength=len(levels)), name: values}, index=levels)


@dataclass(frozen=True)
class PairedBootstrap:
    """A comparison of two models over groups.

    Attributes
    ----------
    metric : str
    mean_a, mean_b : float
        Means over the groups.
    difference : float
        ``mean_a - mean_b``.
    lower, upper : float
        Percentile limits of the difference.
    level : float
        Their coverage.
    p_value : float
        Two-sided.
    groups : int
        That were compared.
    left_out : int
        Groups in which the metric is not defined for one of the models.
    n : int
        Resamples.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: float
    lower: float
    upper: float
    level: float
    p_value: float
    groups: int
    left_out: int
    n: int

    def __str__(self) -> str:
        left_out = f", {self.left_out} without a value left out" if self.left_out else ""
        return (
            f"Mean {self.metric} of {self.groups} groups{left_out}: {self.mean_a:.4g} (a), {self.mean_b:.4g} (b)\n"
            f"a - b: {self.difference:.4g}, {100 * self.level:g}% interval {self.lower:.4g} to {self.upper:.4g}, "
            f"p = {self.p_value:.3g} ({self.n:,} resamples of groups)"
        )


def paired_bootstrap(
    y: Any,
    predicted_a: Any,
    predicted_b: Any,
    group: Any,
    metric: str | Measure = "rmse",
    n: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedBootstrap:
    """Compare two models' predictions of the same rows by a bootstrap over groups.

    The metric is found for each group and model. The differences of the groups are drawn with replacement, as many as
    there are groups, and averaged, ``n`` times; limits are percentiles of these means.

    Parameters
    ----------
    y, predicted_a, predicted_b, group : array_like, shape (rows,)
        Responses, predictions of both models, and the group of each row.
    metric
        As in :func:`group_metrics`.
    n : int, default 10000
        Resamples.
    seed : int, default 0
    level : float, default 0.95
        Coverage of the limits.

    Returns
    -------
    PairedBootstrap
        Its p value is twice the smaller share of the means on one side of zero, with the sample itself counted:
        ``2 (1 + count) / (n + 1)``, at most 1.

    Raises
    ------
    DesignError
        As :func:`group_metrics`; for fewer than two groups with a value.

    Notes
    -----
    Woerner et al. (2023), section 5.3 and footnote 3. The interval is too narrow where groups are few.

    Examples
    --------
    >>> import numpy as np
    >>> from pylmernn import paired_bootstrap
    >>> rng = np.random.default_rng(1)
    >>> person = np.repeat(np.arange(30), 20)
    >>> y = rng.normal(size=600)
    >>> found = paired_bootstrap(y, y + 0.5 * rng.normal(size=600), y + rng.normal(size=600), person)
    >>> found.difference < 0, found.upper < 0, found.p_value < 0.001
    (True, True, True)
    """
    if n < 1:
        raise DesignError(f"n is {n}: ask for at least one resample.")
    if not 0 < level < 1:
        raise DesignError(f"level is {level}: use a number between 0 and 1.")
    truth, both, codes, levels = _read(y, group, predicted_a=predicted_a, predicted_b=predicted_b)
    measure = _measure(metric, truth)
    a, b = (_by_group(measure, truth, guess, codes, len(levels)) for guess in both)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2:
        raise DesignError(f"{len(a)} groups have a value of the metric: a bootstrap over groups needs two or more.")
    means = _resampled_means(a - b, n, np.random.default_rng(seed))
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return PairedBootstrap(
        metric=metric if isinstance(metric, str) else "metric",
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(a.mean() - b.mean()),
        lower=float(lower),
        upper=float(upper),
        level=level,
        p_value=min(1.0, 2 * (1 + rarer) / (n + 1)),
        groups=len(a),
        left_out=int((~known).sum()),
        n=n,
    )


def _resampled_means(differences: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """Means of ``n`` samples with replacement, (n,)."""
    q = len(differences)
    step = max(1, DRAWS_AT_A_TIME // q)
    parts = [differences[rng.integers(q, size=(min(step, n - at), q))].mean(axis=1) for at in range(0, n, step)]
    return np.concatenate(parts)


def _read(
    y: Any, group: Any, **predicted: Any
) -> tuple[FloatArray, tuple[FloatArray, ...], NDArray[np.intp], pd.Index]:
    """Responses, predictions, codes of groups and their names."""
    truth = _numbers("y", y)
    guesses = tuple(_numbers(name, given) for name, given in predicted.items())
    names = np.asarray(group)
    for name, values in zip([*predicted, "group"], [*guesses, names], strict=True):
        if values.shape != truth.shape:
            raise DesignError(f"{name} has {len(values)} values and y {len(truth)}: give one for each row.")
    codes, levels = pd.factorize(names, sort=True)
    if (codes < 0).any():
        raise DesignError(f"group is missing in {int((codes < 0).sum())} rows: leave them out.")
    return truth, guesses, codes, pd.Index(levels, name="group")


def _numbers(name: str, given: Any) -> FloatArray:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise DesignError(f"{name} is not numeric: these metrics are for numbers.") from None
    if values.ndim != 1 or len(values) == 0:
        raise DesignError(f"{name} has shape {values.shape}: give one number for each row.")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise DesignError(f"{name} is missing or infinite in {bad} rows: leave them out, in all that is compared.")
    return values


def _measure(metric: str | Measure, truth: FloatArray) -> Measure:
    """A function of the responses and predictions of one group."""
    if callable(metric):
        return metric
    spread = float(truth.std())
    known: dict[str, Measure] = {
        "rmse": lambda y, f: float(np.sqrt(np.mean((y - f) ** 2))),
        "mae": lambda y, f: float(np.mean(np.abs(y - f))),
        "nrmse": lambda y, f: float(np.sqrt(np.mean((y - f) ** 2)) / spread) if spread > 0 else np.nan,
        "r": _correlation,
        "ccc": _concordance,
    }
    if metric not in known:
        raise DesignError(f"metric is '{metric}': use one of {', '.join(known)}, or a function of y and predictions.")
    return known[metric]


def _correlation(y: FloatArray, f: FloatArray) -> float:
    if np.ptp(y) == 0 or np.ptp(f) == 0:
        return np.nan
    a, b = y - y.mean(), f - f.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _concordance(y: FloatArray, f: FloatArray) -> float:
    if np.ptp(y) == 0 and np.ptp(f) == 0:
        return np.nan
    covariance = np.mean((y - y.mean()) * (f - f.mean()))
    return float(2 * covariance / (y.var() + f.var() + (y.mean() - f.mean()) ** 2))


def _by_group(measure: Measure, y: FloatArray, f: FloatArray, codes: NDArray[np.intp], q: int) -> FloatArray:
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=q))[:-1]
    return np.array([measure(y[rows], f[rows]) for rows in np.split(order, ends)], dtype=np.float64)
