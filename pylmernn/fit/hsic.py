"""Whether two things depend on each other in any way: a permutation test by the Hilbert-Schmidt independence criterion.

Gretton, Fukumizu, Teo, Song, Schoelkopf & Smola (2008), *A kernel statistical test of independence*, Advances in Neural
Information Processing Systems 20. Woerner et al. (2023) ask with it whether deviations of persons depend on depression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.formula.design import DesignError, FloatArray

MOST_PAIRS = 4_000  # rows of which distances of all pairs are looked at for their median


@dataclass(frozen=True)
class IndependenceTest:
    """What :func:`hsic_test` found.

    Attributes
    ----------
    statistic : float
        n times the squared Hilbert-Schmidt norm, its biased estimate: 0 where x and y are independent, but for chance.
    p_value : float
        The share of permutations with a statistic as large, the data as they are counted as one of them.
    permutations : int
    n : int
        Pairs of x and y.
    bandwidths : tuple of float
        Of the Gaussian kernels of x and y; NaN for categories.
    """

    statistic: float
    p_value: float
    permutations: int
    n: int
    bandwidths: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"HSIC = {self.statistic:.4g}, p = {self.p_value:.4g} ({self.n} pairs, {self.permutations:,} permutations)"
        )


def hsic_test(x: Any, y: Any, permutations: int = 4999, seed: int = 0, scale: bool = False) -> IndependenceTest:
    """Test whether x and y are independent, by the Hilbert-Schmidt independence criterion.

    With kernel matrices K of x and L of y and ``H = I - 1/n`` the statistic is ``trace(K H L H) / n`` (Gretton et al.,
    2008, eq. 4, times n). Numbers have a Gaussian kernel, ``exp(-d^2 / (2 bandwidth^2))``, with the median distance of
    rows that differ as its bandwidth; categories (texts, truth values, categoricals) have 1 for the same and 0 for
    others. The p value is that of random permutations of y, exact for pairs that are exchangeable under independence.

    Any table of effects will do, such as ``fit.ranef()["subject"]`` and an outer variable of each subject. Modes are
    drawn to zero, the more so the fewer rows a group has: where the number of rows depends on y, the spread of the
    modes does too, and the test may find just that.

    Parameters
    ----------
    x, y : array, Series or DataFrame with n rows
        Numbers, (n,) or (n, d), or categories, (n,). Where both are of pandas, y is matched to x by its index; rows of
        y that x has not are left out.
    permutations : int, default 4999
    seed : int, default 0
        Of the permutations.
    scale : bool, default False
        Whether columns of numbers are divided by their standard deviations first, for columns of different units.

    Returns
    -------
    IndependenceTest

    Raises
    ------
    DesignError
        For missing or infinite values, lengths that differ, an x or y that does not vary, or fewer than 5 pairs.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 40)
    >>> hsic_test(x, x**2, permutations=199).p_value
    0.005
    """
    if permutations < 1:
        raise DesignError(f"permutations is {permutations}: it must be at least 1.")
    y = _matched(x, y)
    values = [_values(given, name) for given, name in ((x, "x"), (y, "y"))]
    n = len(values[0])
    if len(values[1]) != n:
        raise DesignError(f"x has {n} rows and y has {len(values[1])}: they must be pairs.")
    if n < 5:
        raise DesignError(f"there are {n} pairs of x and y: the test needs at least 5.")
    (K, of_x), (L, of_y) = (_kernel(each, name, scale) for each, name in zip(values, ("x", "y"), strict=True))
    K = K - K.mean(axis=0)
    K = K - K.mean(axis=1, keepdims=True)
    statistic = float(np.vdot(K, L)) / n
    rng = np.random.default_rng(seed)
    as_large = 0
    for _ in range(permutations):
        order = rng.permutation(n)
        as_large += float(np.vdot(K, L[order[:, None], order])) / n >= statistic * (1.0 - 1e-12)
    return IndependenceTest(statistic, (1 + as_large) / (1 + permutations), permutations, n, (of_x, of_y))


def _matched(x: Any, y: Any) -> Any:
    """Y in the order of x, where both have names."""
    if not all(isinstance(each, pd.DataFrame | pd.Series) for each in (x, y)) or x.index.equals(y.index):
        return y
    names, known = x.index.astype(str), y.index.astype(str)
    if known.has_duplicates or names.has_duplicates:
        raise DesignError("x and y have indices that differ and name rows twice: give arrays in one order.")
    absent = [name for name in names if name not in known]
    if absent:
        raise DesignError(
            f"y has no row '{absent[0]}', which x has: give y the index of x, or an array in the order of its rows."
        )
    return y.set_axis(known, axis=0).loc[list(names)]


def _values(given: Any, name: str) -> NDArray[Any]:
    """Numbers (n, d), or codes of categories (n,)."""
    if isinstance(given, pd.DataFrame):
        given = given.iloc[:, 0] if given.shape[1] == 1 else given.to_numpy()
    series = given if isinstance(given, pd.Series) else None
    if series is None:
        array = np.asarray(given)
        series = pd.Series(array) if array.ndim == 1 else None
        if array.ndim not in (1, 2) or 0 in array.shape:
            raise DesignError(f"{name} has the shape {array.shape}: it must be (rows,) or (rows, columns).")
    if series is not None:
        if series.isna().any():
            raise DesignError(f"{name} has missing values: leave these rows out of both.")
        if not pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
            return np.asarray(pd.factorize(series.astype(object))[0])
        array = series.to_numpy()
    try:
        numbers = np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    except (TypeError, ValueError):
        raise DesignError(f"{name} has several columns, and not all hold numbers: give one column of texts.") from None
    if not np.isfinite(numbers).all():
        raise DesignError(f"{name} has missing or infinite values: leave these rows out of both.")
    return numbers


def _kernel(values: NDArray[Any], name: str, scale: bool) -> tuple[FloatArray, float]:
    """The kernel matrix, and its bandwidth."""
    if (values == values[0]).all():
        raise DesignError(f"{name} does not vary, so nothing can depend on it.")
    if values.ndim == 1:
        return (values[:, None] == values).astype(np.float64), float("nan")
    if scale:
        spread = values.std(axis=0)
        values = values[:, spread > 0] / spread[spread > 0]
    values = values - values.mean(axis=0)
    squares = (values**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2.0 * values @ values.T, 0.0)
    some = distances[:MOST_PAIRS, :MOST_PAIRS]
    pairs = some[np.triu_indices(len(some), 1)]
    apart = pairs[pairs > 1e-12 * pairs.max()]  # few distinct values have many pairs without a distance
    bandwidth = float(np.median(np.sqrt(apart)))
    return np.exp(-0.5 * distances / bandwidth**2), bandwidth
