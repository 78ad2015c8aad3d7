"""The models that are timed, and their data: real sets, and simulated ones with fixed seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pylmernn import datasets


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes
    ----------
    formula : str
    data : callable without arguments that returns a DataFrame
    groups : list of tuples of columns
        The grouping factors for GPBoost, one tuple each (two names: their interaction).
    fixed : str
        The fixed effects as patsy-like text for GPBoost: names of numeric columns or factors, "*" for interactions.
    slopes : dict
        For GPBoost: position of a grouping factor to the column with a random slope in it.
    sides : tuple of str
        Who takes part.
    inner : int
        Fits in one process; their median counts.
    slow : tuple of str
        Sides that take minutes and run with ``--slow`` only.
    """

    formula: str
    data: Callable[[], pd.DataFrame]
    groups: tuple[tuple[str, ...], ...] = ()
    fixed: str = "1"
    slopes: tuple[tuple[int, str], ...] = ()
    sides: tuple[str, ...] = ("ours", "ours-R", "lme4", "gpboost", "gpboost-exact")
    inner: int = 1
    slow: tuple[str, ...] = ()


def one_factor(n: int, q: int, slope: bool, seed: int = 1) -> pd.DataFrame:
    """``y = 1 + 2 x1 - x2 + b + e``: Var(b) = 1 (slopes 0.25, correlation 0.3), Var(e) = 1."""
    rng = np.random.default_rng(seed)
    g = rng.integers(0, q, n)
    x1, x2 = rng.normal(size=n), rng.normal(size=n)
    y = 1.0 + 2.0 * x1 - x2 + rng.normal(size=n)
    factor = np.linalg.cholesky(np.array([[1.0, 0.15], [0.15, 0.25]]))
    b = rng.normal(size=(q, 2)) @ factor.T
    y += b[g, 0]
    if slope:
        y += b[g, 1] * x1
    return pd.DataFrame({"y": y, "x1": x1, "x2": x2, "g": as_factor(g, q)})


def crossed(n: int, sizes: dict[str, int], seed: int = 2) -> pd.DataFrame:
    """``y = 1 + x + sum of intercepts + e``: factors drawn independently, every variance 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    frame = {"x": x}
    y = 1.0 + x + rng.normal(size=n)
    for name, q in sizes.items():
        codes = rng.integers(0, q, n)
        y += rng.normal(size=q)[codes]
        frame[name] = as_factor(codes, q)
    return pd.DataFrame({"y": y, **frame})


def as_factor(codes: np.ndarray, q: int) -> pd.Categorical:
    """Codes as a categorical column with levels "1", "2", ..."""
    return pd.Categorical.from_codes(codes, [str(j + 1) for j in range(q)])


CASES = {
    "sleepstudy": Case(
        "Reaction ~ Days + (Days | Subject)",
        lambda: datasets.load("sleepstudy"),
        (("Subject",),),
        "Days",
        ((0, "Days"),),
        inner=30,
    ),
    "penicillin": Case(
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        lambda: datasets.load("Penicillin"),
        (("plate",), ("sample",)),
        inner=30,
    ),
    "insteval_crossed": Case("y ~ 1 + (1 | s) + (1 | d)", lambda: datasets.load("InstEval"), (("s",), ("d",))),
    "insteval_three": Case(
        "y ~ service + (1 | s) + (1 | d) + (1 | dept:service)",
        lambda: datasets.load("InstEval"),
        (("s",), ("d",), ("dept", "service")),
        "service",
    ),
    "insteval_fixed": Case(
        "y ~ service * dept + (1 | s) + (1 | d)",
        lambda: datasets.load("InstEval"),
        (("s",), ("d",)),
        "service * dept",
        slow=("lme4", "gpboost-exact"),
    ),
    "intercept_1e6": Case(
        "y ~ x1 + x2 + (1 | g)",
        lambda: one_factor(1_000_000, 100_000, slope=False),
        (("g",),),
        "x1 + x2",
        sides=("ours", "ours-R", "lme4", "gpboost"),
    ),
    "slope_1e6": Case(
        "y ~ x1 + x2 + (x1 | g)",
        lambda: one_factor(1_000_000, 100_000, slope=True),
        (("g",),),
        "x1 + x2",
        ((0, "x1"),),
        sides=("ours", "ours-R", "lme4", "gpboost"),
    ),
    "crossed_three": Case(
        "y ~ x + (1 | a) + (1 | b) + (1 | c)",
        lambda: crossed(100_000, {"a": 1000, "b": 5000, "c": 10_000}),
        (("a",), ("b",), ("c",)),
        "x",
        sides=("ours", "ours-iterative", "lme4", "gpboost", "gpboost-exact"),
        slow=("lme4", "gpboost-exact"),
    ),
    "crossed_20k": Case(
        "y ~ x + (1 | a) + (1 | b)",
        lambda: crossed(400_000, {"a": 20_000, "b": 20_000}, seed=3),
        (("a",), ("b",)),
        "x",
        sides=("ours", "gpboost"),
        slow=("ours", "gpboost"),
    ),
    "intercept_1e7": Case(
        "y ~ x1 + x2 + (1 | g)",
        lambda: one_factor(10_000_000, 1_000_000, slope=False),
        (("g",),),
        "x1 + x2",
        sides=("ours",),
        slow=("ours",),
    ),
}


def write(frame: pd.DataFrame, folder: Path) -> None:
    """A frame as one binary file a column (little-endian float64 or int32 codes from 1) and ``columns.json``."""
    columns = []
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            values = (column.cat.codes.to_numpy() + 1).astype("<i4")
            columns.append({"name": name, "type": "factor", "levels": list(column.cat.categories)})
        else:
            values = column.to_numpy().astype("<f8")
            columns.append({"name": name, "type": "double"})
        values.tofile(folder / f"{name}.bin")
    (folder / "columns.json").write_text(json.dumps({"n": len(frame), "columns": columns}))


def read(folder: Path) -> pd.DataFrame:
    """What :func:`write` wrote."""
    described = json.loads((folder / "columns.json").read_text())
    out = {}
    for column in described["columns"]:
        path = folder / f"{column['name']}.bin"
        if column["type"] == "factor":
            codes = np.fromfile(path, "<i4") - 1
            out[column["name"]] = pd.Categorical.from_codes(codes, column["levels"])
        else:
            out[column["name"]] = np.fromfile(path, "<f8")
    return pd.DataFrame(out)
