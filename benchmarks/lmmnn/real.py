"""Real data, in the same folds for every method: ours beside lme4, XGBoost, LightGBM, GPBoost and plain networks.

    python benchmarks/lmmnn/real.py --data FOLDER insteval            # five random folds
    python benchmarks/lmmnn/real.py --data FOLDER egsingle --later    # the later rows of a fifth of the units
    python benchmarks/lmmnn/real.py --data FOLDER egsingle --future   # the last rows of all units at once
    python benchmarks/lmmnn/real.py --data FOLDER spotify --folds 1 --methods ours,lightgbm

Prints mean test errors with standard errors (over folds; over units with ``--future``), the difference to ours in the
same folds with its standard error, seconds a fit on one thread, and variances where the models are the same. ``--clip``
holds predictions of bounded ratings to their range, as the paper does.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from baselines import METHODS  # noqa: E402
from real_sets import SETS, RealSet, folds, later_folds, later_rows  # noqa: E402
from tasks import Outcome, Task  # noqa: E402

import pylmernn  # noqa: E402


def main() -> None:
    """Run one data set."""
    options = _options()
    torch.set_num_threads(1)
    chosen = SETS[options.name]
    data = chosen.load(options.data)
    if options.rows:
        data = data.sample(min(options.rows, len(data)), random_state=0).reset_index(drop=True)
    methods = options.methods or ["ours", *chosen.methods]
    kind = "folds of units, their last two fifths of rows hidden" if options.later else "random folds"
    split = "the last fifth of every unit's rows hidden" if options.future else f"{options.folds} of 5 {kind}"
    asked = chosen.task(data.head(0), np.arange(0), np.arange(0), False, options.future)
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread", flush=True)
    print(f"{options.name}: {len(data)} rows, {split}; ours: {chosen.response} ~ {asked.mean} + {asked.random}\n")
    runs = pd.DataFrame(
        future(chosen, data, methods, options) if options.future else random(chosen, data, methods, options)
    )
    report(runs)


def random(chosen: RealSet, data: pd.DataFrame, methods: list[str], options: argparse.Namespace) -> list[dict]:
    """One row a method and fold."""
    rows = []
    splits = later_folds(data, *units_of(chosen)) if options.later else folds(len(data))
    for fold, (train, test) in enumerate(splits):
        if fold == options.folds:
            break
        task = chosen.task(data, train, test, options.clip)
        for method in methods:
            found = attempt(method, task, fold)
            if found is not None:
                error = task.error(found.predicted)
                print(f"  fold {fold} {method:10s} {error:.5f} {found.seconds:8.1f} s", flush=True)
                rows.append({"method": method, "part": fold, "error": error, "rows": 1, **_told(found)})
    return rows


def units_of(chosen: RealSet) -> tuple[str, str]:
    """Columns of the units and of time."""
    if chosen.unit is None or chosen.time is None:
        raise SystemExit("this data set has no units followed over time.")
    return chosen.unit, chosen.time


def future(chosen: RealSet, data: pd.DataFrame, methods: list[str], options: argparse.Namespace) -> list[dict]:
    """One row a method and unit, of its last rows."""
    unit, when = units_of(chosen)
    task = chosen.task(data, *later_rows(data, unit, when), options.clip, future=True)
    rows = []
    for method in methods:
        found = attempt(method, task, 0)
        if found is None:
            continue
        print(f"  {method:10s} {task.error(found.predicted):.5f} {found.seconds:8.1f} s", flush=True)
        predicted = np.clip(found.predicted, *task.limits) if task.limits else found.predicted
        squared = (task.test[task.response] - predicted) ** 2
        for name, own in squared.groupby(task.test[unit], observed=True):
            rows.append({"method": method, "part": name, "error": own.mean(), "rows": len(own), **_told(found)})
    return rows


def attempt(method: str, task: Task, seed: int) -> Outcome | None:
    """What a method finds; a failure is told, and the others go on."""
    try:
        return METHODS[method](task, seed)
    except Exception as problem:  # a failed baseline is a result, too
        print(f"  {method} failed: {type(problem).__name__}: {problem}", flush=True)
        return None


def _told(found: Outcome) -> dict[str, float]:
    return {"seconds": found.seconds, "epochs": found.epochs, **found.estimates}


def report(runs: pd.DataFrame) -> None:
    """Means over parts, weighted by their rows, and differences to ours with standard errors."""
    errors = runs.pivot(index="part", columns="method", values="error")
    weight = runs.groupby("part")["rows"].first().reindex(errors.index)
    weight = weight / weight.mean()
    print(
        f"\n{'method':10s} {'error':>10s} {'(se)':>10s} {'less ours':>10s} {'(se)':>10s} {'seconds':>9s} {'epochs':>7s}"
    )
    for method, own in runs.groupby("method", sort=False):
        error, spread = _mean(errors[method], weight)
        difference, beside = _mean(errors[method] - errors["ours"], weight) if "ours" in errors else (np.nan, np.nan)
        print(
            f"{method:10s} {error:10.5f} ({spread:.5f}) {difference:10.5f} ({beside:.5f})"
            f" {own['seconds'].mean():9.1f} {own['epochs'].mean():7.0f}"
        )
    names = [c for c in runs if c not in ("method", "part", "error", "rows", "seconds", "epochs")]
    known = runs.groupby("method", sort=False)[names].mean().dropna(how="all")
    if len(known):
        print("\nvariances and correlations, means")
        print(known.T.to_string(float_format=lambda x: f"{x:.5g}"))


def _mean(values: pd.Series, weight: pd.Series) -> tuple[float, float]:
    """Weighted mean over parts and its standard error."""
    mean = float((weight * values).mean())
    spread = weight * (values - mean)
    return mean, float(spread.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .csv.gz files")
    parser.add_argument("--later", action="store_true", help="predict the later rows of a fifth of the units a fold")
    parser.add_argument("--future", action="store_true", help="predict the last rows of all units, unseen times")
    parser.add_argument("--folds", type=int, default=5, help="how many of the five random folds")
    parser.add_argument("--rows", type=int, help="a random sample of the rows, for a trial")
    parser.add_argument("--methods", type=lambda text: text.split(","), help=",".join(METHODS))
    parser.add_argument("--clip", action="store_true", help="clip predictions of bounded ratings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
