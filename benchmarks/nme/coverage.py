"""How often intervals of networks that vary by group hold what they should, for known and for new persons.

    python benchmarks/nme/coverage.py --truth last all --rows 8 20 --seeds 3

Prints, for each truth, rows a person and model, the share of 90% prediction intervals that hold a new response and of
90% confidence intervals that hold the true mean, at new rows of the 60 persons and of 60 new ones; and the root mean
squared error of predictions beside the mean standard deviation that the intervals are made of.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import pylmernn

PERSONS, TEST_ROWS, NOISE, LEVEL = 60, 30, 0.5, 0.9
NET = "nn(x1, x2, hidden=c(20, 10))"
BARS = {"last": "(nn.last | person)", "all": "(nn | person)"}


def people(truth: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Own parameters of twice as many persons as are fitted."""
    normal = rng.normal(size=(4, 2 * PERSONS))
    if truth == "last":
        return 1 + 0.5 * normal[0], 0.5 + 0.3 * normal[1], 0.5 * normal[2]
    return 2 + 0.4 * normal[0], 0.7 * normal[1], 0.5 * normal[2], 0.7 * normal[3]


def table(truth: str, own: tuple[np.ndarray, ...], first: int, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of 60 persons, with their mean and response."""
    person = np.repeat(np.arange(first, first + PERSONS), rows)
    x1, x2 = rng.uniform(-2, 2, size=(2, len(person)))
    if truth == "last":
        a, b, c = (each[person] for each in own)
        mean = a * np.sin(2 * x1) + b * x2**2 + c
    else:
        w, shift, c, centre = (each[person] for each in own)
        mean = np.sin(w * x1 + shift) + 0.5 * (x2 - centre) ** 2 + c
    y = mean + NOISE * rng.normal(size=len(person))
    return pd.DataFrame({"y": y, "x1": x1, "x2": x2, "mean": mean, "person": person.astype(str)})


def coverage(truth: str, rows: int, seed: int) -> list[dict[str, object]]:
    """One simulated data set, both models, both kinds of persons."""
    rng = np.random.default_rng(seed)
    own = people(truth, rng)
    train = table(truth, own, 0, rows, rng)
    test = {"known": table(truth, own, 0, TEST_ROWS, rng), "new": table(truth, own, PERSONS, TEST_ROWS, rng)}
    found: list[dict[str, object]] = []
    for model, bar in BARS.items():
        fit = pylmernn.lmernn(f"y ~ {NET} + {bar}", train, seed=seed)
        for kind, data in test.items():
            of_new = fit.predict(data, allow_new_levels=True, interval="prediction", level=LEVEL)
            of_mean = fit.predict(data, allow_new_levels=True, interval="confidence", level=LEVEL)
            half = (of_new["upr"] - of_new["lwr"]) / 2 / 1.6449
            found.append({
                "truth": truth, "rows": rows, "model": model, "persons": kind,
                "prediction": data["y"].between(of_new["lwr"], of_new["upr"]).mean(),
                "confidence": data["mean"].between(of_mean["lwr"], of_mean["upr"]).mean(),
                "rmse": np.sqrt(((data["y"] - of_new["fit"]) ** 2).mean()),
                "sd": np.sqrt((half**2).mean()), "sigma": fit.sigma(),
            })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", nargs="+", default=["last"], choices=["last", "all"])
    parser.add_argument("--rows", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    records = []
    for truth in given.truth:
        for rows in given.rows:
            for seed in range(given.seeds):
                records += coverage(truth, rows, seed)
            shown = pd.DataFrame(records).groupby(["truth", "rows", "model", "persons"], sort=False)
            print(shown.mean().round(3).tail(4).to_string(), flush=True)


if __name__ == "__main__":
    main()
