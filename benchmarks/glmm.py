"""Generalized linear mixed models: ours beside lme4 and GPBoost, in turn, one thread each, a fresh process a side.

    .venv/bin/python benchmarks/glmm.py [--only NAME ...] [--repeats 3]

Seconds are medians of the whole call, data already in memory, code already loaded and run once. "-2 logL" has all
constants; lme4's is Laplace's approximation as here (GPBoost's leaves out constants that do not depend on parameters,
so it is not shown).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lmm import PEERS, run, summarize
from lmm_cases import as_factor, write

from pylmernn import datasets

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "glmm_data"
LABELS = {"ours": "pylmernn", "lme4": "lme4", "gpboost": "GPBoost"}


@dataclass(frozen=True)
class Generalized:
    """One model: formula, family, data, repeats inside one process, and what GPBoost is given (None: left out).

    ``boost`` is (response, numeric or coded fixed columns, grouping columns); it holds names of columns.
    """

    formula: str
    family: str
    data: Callable[[], pd.DataFrame]
    inner: int = 1
    boost: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None


def golden(name: str) -> Callable[[], pd.DataFrame]:
    return lambda: datasets.read(GOLDEN, name)


def verbagg() -> pd.DataFrame:
    data = datasets.read(GOLDEN, "VerbAgg")
    return data.assign(r2=(data["r2"] == "Y").astype(float))


def contraception() -> pd.DataFrame:
    data = datasets.read(GOLDEN, "Contraception")
    return data.assign(use=(data["use"] == "Y").astype(float))


def binary(n: int = 100_000, q: int = 10_000, seed: int = 1) -> pd.DataFrame:
    """``logit P(y = 1) = 0.5 x + b``, Var(b) = 1."""
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, q, n), rng.normal(size=n)
    y = rng.uniform(size=n) < 1 / (1 + np.exp(-(0.5 * x + rng.normal(size=q)[g])))
    return pd.DataFrame({"y": y.astype(float), "x": x, "g": as_factor(g, q)})


CASES = {
    "cbpp": Generalized("cbind(incidence, size - incidence) ~ period + (1 | herd)", "binomial", golden("cbpp"), 30),
    "contraception": Generalized(
        "use ~ age + I(age^2) + urban + livch + (1 | district)",
        "binomial",
        contraception,
        20,
        ("use", ("age", "urban", "livch"), ("district",)),
    ),
    "grouseticks": Generalized(
        "TICKS ~ YEAR + HEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        "poisson",
        golden("grouseticks"),
        20,
        ("TICKS", ("YEAR", "HEIGHT"), ("BROOD", "INDEX", "LOCATION")),
    ),
    "verbagg": Generalized(
        "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)",
        "binomial",
        verbagg,
        5,
        ("r2", ("Anger", "Gender", "btype", "situ"), ("id", "item")),
    ),
    "binary_1e5": Generalized("y ~ x + (1 | g)", "binomial", binary, 1, ("y", ("x",), ("g",))),
}


def command(side: str, name: str, folder: str) -> list[str]:
    """The command that times one side."""
    import sys

    case = CASES[name]
    words = [folder, case.formula, case.family, str(case.inner)]
    if side == "lme4":
        return ["Rscript", str(PEERS / "glmer.R"), *words]
    return [sys.executable, str(PEERS / "fit_glmm.py"), side, name, *words]


def show(name: str, results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    base = results["ours"]
    lines = [f"### {name}", "", f"`{CASES[name].formula}`, {CASES[name].family}", ""]
    lines += ["| | CPU s | CPU / ours | -2 logL | less ours | peak MB |", "|---|---:|---:|---:|---:|---:|"]
    for side, r in results.items():
        value = r.get("objective")
        told = "" if value is None else f"{value:.6f}"
        less = "" if value is None or side == "ours" else f"{value - base['objective']:+.2e}"
        ratio = r["cpu"] / base["cpu"]
        lines.append(f"| {LABELS[side]} | {r['cpu']:.4g} | {ratio:.1f} | {told} | {less} | {r['peak']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    for name in options.only or CASES:
        sides = ["ours", "lme4", *(["gpboost"] if CASES[name].boost else [])]
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        with tempfile.TemporaryDirectory() as folder:
            write(CASES[name].data(), Path(folder))
            for _ in range(options.repeats):
                for side in sides:
                    rounds[side].append(run(command(side, name, folder)))
        print(show(name, {side: summarize(found) for side, found in rounds.items()}), flush=True)


if __name__ == "__main__":
    main()
