"""How many new rows 90% prediction intervals cover: rows of levels that the fit has seen, and of levels it has not.

| name | data |
|---|---|
| small, medium, large | one factor of random intercepts (Simchoni & Rosset 2023, Table 1), 2,500 to 100,000 rows |
| curves | repeated measures with random curves of time (their Table 3), 12,500 rows |
| egsingle | mathematics scores of children in schools, 7,230 rows |
| InstEval | marks that students gave lecturers, 73,421 rows |

A tenth of the levels (of egsingle's children, InstEval's lecturers) is held out whole; a fifth of the other rows is the
test of levels seen. Seeds draw the simulations, the levels and the rows held out, and the first weights.

    python benchmarks/lmmnn/coverage.py                                    # everything, three seeds
    python benchmarks/lmmnn/coverage.py small egsingle --seeds 5
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from generators import categorical, longitudinal  # noqa: E402

import pylmernn  # noqa: E402

LEVEL = 0.9
PREDICTORS = ", ".join(f"X{j}" for j in range(10))


@dataclass(frozen=True)
class Case:
    """One data set: a formula, the factor whose levels are held out, and the data by seed."""

    formula: str
    factor: str
    data: Callable[[int], pd.DataFrame]


def _one_factor(n: int, q: int) -> Case:
    def data(seed: int) -> pd.DataFrame:
        simulation = categorical((q,), (1.0,), seed, n)
        return pd.concat([simulation.train, simulation.test], ignore_index=True)

    return Case(f"y ~ nn({PREDICTORS}) + (1 | z0)", "z0", data)


def _curves(n: int, q: int) -> Case:
    def data(seed: int) -> pd.DataFrame:
        simulation = longitudinal(q, (1.0, 0.5, 0.5), 0.3, seed, n)
        return pd.concat([simulation.train, simulation.test], ignore_index=True)

    return Case(f"y ~ t + I(t^2) + nn({PREDICTORS}) + (t + I(t^2) | z0)", "z0", data)


def _real(name: str, formula: str, factor: str) -> Case:
    return Case(formula, factor, lambda _: pylmernn.datasets.load(name))


CASES = {
    "small": _one_factor(2_500, 100),
    "medium": _one_factor(12_500, 1_000),
    "large": _one_factor(100_000, 1_000),
    "curves": _curves(12_500, 500),
    "egsingle": _real(
        "egsingle",
        "math ~ year + nn(year, grade, retained, female, black, hispanic, size, lowinc, mobility)"
        " + (year | childid) + (1 | schoolid)",
        "childid",
    ),
    "InstEval": _real("InstEval", "y ~ nn(studage, lectage, service, dept) + (1 | s) + (1 | d)", "d"),
}


def one(case: Case, seed: int) -> dict[str, float]:
    """Coverage of the intervals of one fit, their width, the time of the fit and of the intervals."""
    data = case.data(seed)
    rng = np.random.default_rng(seed)
    levels = data[case.factor].unique()
    unseen = data[case.factor].isin(rng.permutation(levels)[: len(levels) // 10]).to_numpy()
    test = ~unseen & (rng.uniform(size=len(data)) < 0.2)
    begun = time.perf_counter()
    fit = pylmernn.lmernn(case.formula, data[~unseen & ~test], seed=seed)
    fitted = time.perf_counter()
    limits = fit.predict(data, allow_new_levels=True, interval=True, level=LEVEL)
    out = {"fit": fitted - begun, "predict": time.perf_counter() - fitted}
    response = fit.design.response
    inside = ((data[response] >= limits["lwr"]) & (data[response] <= limits["upr"])).to_numpy()
    width = (limits["upr"] - limits["lwr"]).to_numpy()
    known = np.ones(len(data), dtype=bool)
    for term in fit.design.random:  # a row may be of a known child in a new school
        if term.group != case.factor:
            known &= data[term.group].astype(str).isin(term.levels.astype(str)).to_numpy()
    for name, rows in (("seen", test & known), ("unseen", unseen)):
        out |= {name: float(inside[rows].mean()), f"{name} width": float(width[rows].mean())}
        out[f"{name} rows"] = int(rows.sum())
    return out


def main() -> None:
    """Print one row a data set: means over seeds, standard errors in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of the data sets; by default all")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in set(options.names) - set(CASES):
        parser.error(f"there is no data set '{name}': use {', '.join(CASES)}")
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread, {options.seeds} seeds")
    print(f"{LEVEL:.0%} intervals    seen (se)        width   unseen (se)      width   fit s  intervals s")
    for name in options.names or CASES:
        runs = pd.DataFrame([one(CASES[name], seed) for seed in range(1, options.seeds + 1)])
        mean, se = runs.mean(), runs.sem()
        print(
            f"{name:14s}  {mean['seen']:.3f} ({se['seen']:.3f})  {mean['seen width']:8.3f}"
            f"   {mean['unseen']:.3f} ({se['unseen']:.3f})  {mean['unseen width']:8.3f}"
            f"  {mean['fit']:6.1f}  {mean['predict']:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
