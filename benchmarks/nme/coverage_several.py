"""How often intervals of networks that vary by two factors hold what they should, for known levels and for new ones.

    python benchmarks/nme/coverage_several.py --design nested crossed --seeds 12

16 schools of 10 persons (nested), or 160 persons who each meet 16 schools (crossed), with 12 rows a person; all of two
schools, and every tenth person, are held out. Prints the share of 90% prediction intervals that hold a new response and
of 90% confidence intervals that hold the true mean, at new rows of known levels, of new persons in known schools, and
in new schools.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import pylmernn

SCHOOLS, PERSONS, ROWS, NOISE, LEVEL = 16, 10, 12, 0.5, 0.9
NET = "nn(x, z, hidden=c(16, 8))"
BARS = {"nested": "(nn.last | school/person)", "crossed": "(nn.last | person) + (nn.last | school)"}


def table(design: str, seed: int) -> pd.DataFrame:
    """Rows with their mean and response, half of them for tests."""
    rng = np.random.default_rng(seed)
    count = SCHOOLS * PERSONS
    person = np.repeat(np.arange(count), 2 * ROWS)
    school = person // PERSONS if design == "nested" else rng.integers(0, SCHOOLS, len(person))
    x, z = rng.uniform(-2, 2, len(person)), rng.uniform(-2, 2, len(person))
    a, b = 0.7 * rng.normal(size=(3, SCHOOLS)), 0.5 * rng.normal(size=(3, count))
    own = a[:, school] + b[:, person]
    mean = (1.5 + own[0]) * np.sin(1.5 * x) + own[1] * x * z / 2 + own[2]
    data = pd.DataFrame({"x": x, "z": z, "school": school, "person": person, "mean": mean})
    return data.assign(
        y=mean + NOISE * rng.normal(size=len(mean)),
        test=np.arange(len(mean)) % 2 == 1,
        new_person=person % PERSONS == 0,
        new_school=school >= SCHOOLS - 2,
    )


def coverage(design: str, seed: int) -> list[dict[str, object]]:
    """One simulated data set, all kinds of levels."""
    data = table(design, seed)
    train = data[~data["test"] & ~data["new_person"] & ~data["new_school"]]
    fit = pylmernn.lmernn(f"y ~ {NET} + {BARS[design]}", train, seed=seed)
    test = data[data["test"]]
    known_person = ~test["new_person"] | (design == "nested")  # of a new school all persons are new
    kinds = {
        "known": test[~test["new_person"] & ~test["new_school"]],
        "new person": test[test["new_person"] & ~test["new_school"]],
        "new school": test[known_person & test["new_school"]],
    }
    found: list[dict[str, object]] = []
    for kind, rows in kinds.items():
        of_new = fit.predict(rows, allow_new_levels=True, interval="prediction", level=LEVEL)
        of_mean = fit.predict(rows, allow_new_levels=True, interval="confidence", level=LEVEL)
        found.append({
            "design": design, "levels": kind,
            "prediction": rows["y"].between(of_new["lwr"], of_new["upr"]).mean(),
            "confidence": rows["mean"].between(of_mean["lwr"], of_mean["upr"]).mean(),
            "sigma": fit.sigma(),
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", nargs="+", default=["nested"], choices=list(BARS))
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for design in given.design:
        records = [record for seed in range(given.seeds) for record in coverage(design, seed)]
        shown = pd.DataFrame(records).groupby(["design", "levels"], sort=False)
        print(shown.mean().round(3).to_string(), flush=True)
        print("standard deviation between seeds", shown["prediction"].std().round(3).tolist(), flush=True)


if __name__ == "__main__":
    main()
