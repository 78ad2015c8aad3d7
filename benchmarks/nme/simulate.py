"""Person-specific non-linear trends: the generic network, one network a person, and networks that vary by person.

    python benchmarks/nme/simulate.py --truth last --rows 20 --seeds 3

Prints the root mean squared error of new rows of the same persons, noise included, by model, and seconds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

import pylmernn

PERSONS, TEST_ROWS, NOISE = 100, 50, 0.5
NET = "nn(x1, x2, hidden=c(20, 10))"
FORMULAS = {
    "generic": f"y ~ {NET} + (1 | person)",
    "last": f"y ~ {NET} + (nn.last | person)",
    "all": f"y ~ {NET} + (nn | person)",
    "all, diagonal": f"y ~ {NET} + (nn || person)",
    "first": f"y ~ {NET} + (nn.first | person)",
}
Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def truth_of(kind: str, rng: np.random.Generator) -> Curve:
    """The mean as a function of persons (n,) and predictors (n, 2)."""
    normal = rng.normal(size=(6, PERSONS))
    if kind == "generic":
        return lambda p, x: np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2
    if kind == "last":
        a, b, c = 1 + 0.5 * normal[0], 0.5 + 0.3 * normal[1], 0.5 * normal[2]
        return lambda p, x: a[p] * np.sin(2 * x[:, 0]) + b[p] * x[:, 1] ** 2 + c[p]
    if kind == "all":
        w, shift, c, centre = 2 + 0.4 * normal[0], 0.7 * normal[1], 0.5 * normal[2], 0.7 * normal[3]
        return lambda p, x: np.sin(w[p] * x[:, 0] + shift[p]) + 0.5 * (x[:, 1] - centre[p]) ** 2 + c[p]
    if kind == "specific":  # persons have nothing in common but the features
        return lambda p, x: sum(  # type: ignore[return-value]
            own[p] * part
            for own, part in zip(
                normal,
                (np.sin(2 * x[:, 0]), np.cos(2 * x[:, 0]), x[:, 0], x[:, 1], np.sin(2 * x[:, 1]), x[:, 0] * x[:, 1]),
                strict=True,
            )
        )
    raise SystemExit(f"truth is '{kind}': use generic, last, all or specific.")


def simulate(kind: str, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows of 100 persons."""
    rng = np.random.default_rng(seed)
    curve = truth_of(kind, rng)
    tables = []
    for per_person in (rows, TEST_ROWS):
        p = np.repeat(np.arange(PERSONS), per_person)
        x = rng.uniform(-2, 2, (len(p), 2))
        y = curve(p, x) + NOISE * rng.normal(size=len(p))
        tables.append(pd.DataFrame({"y": y, "x1": x[:, 0], "x2": x[:, 1], "person": p}))
    return tables[0], tables[1]


def error(formula: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> float:
    fit = pylmernn.lmernn(formula, train, seed=seed)
    return float(np.sqrt(np.mean((fit.predict(test) - test["y"]) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", default="generic,last,all,specific")
    parser.add_argument("--rows", default="5,20,200")
    parser.add_argument("--models", default="generic,last,all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'truth':10}{'rows':>6}{'seed':>6}  {'model':14}{'RMSE':>8}{'seconds':>9}")
    for kind in arguments.truth.split(","):
        for rows in map(int, arguments.rows.split(",")):
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                train, test = simulate(kind, rows, seed)
                for model in arguments.models.split(","):
                    begun = time.perf_counter()
                    found = error(FORMULAS[model], train, test, seed)
                    seconds = time.perf_counter() - begun
                    print(f"{kind:10}{rows:6}{seed:6}  {model:14}{found:8.4f}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
