"""Real classes, MC-GMENN's Table 4: ours beside plain networks and LightGBM, in the same five folds.

    python -W ignore -m benchmarks.mcgmenn.real --data FOLDER churn adult
    python -W ignore -m benchmarks.mcgmenn.real --data FOLDER --methods ours,ignore,te,embedding,lightgbm    # all sets
    python -W ignore -m benchmarks.mcgmenn.real --data FOLDER Diabetes130US --methods te,ours --folds 1
    python -W ignore -m benchmarks.mcgmenn.real --data FOLDER eucalyptus --folds 1 --rows 500 --epochs 2     # a trial

FOLDER holds the .csv.gz files; PYLMERNN_DATA serves where it is not given. All networks are the same, and trained
alike, by ours or by the paper's recipe (``--recipe paper``: baselines only). A set without numeric inputs has no
network: ours is then a generalized linear mixed model, by method "mcem". The paper's target encoding of several classes
is faulty (see baselines.py): its figures are not what the method can do. Rows are written to
build/benchmarks/mcgmenn_real.csv.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tasks import Outcome

import pylmernn
from benchmarks.mcgmenn import baselines
from benchmarks.mcgmenn.baselines import METHODS
from benchmarks.mcgmenn.oracles import auc
from benchmarks.mcgmenn.real_sets import SEED, SETS, folds
from benchmarks.mcgmenn.tasks import ClassTask

COMPARED = ("ours", "ignore", "te", "embedding", "lightgbm", "lightgbm_te")
COLUMNS = ("set", "fold", "method", "recipe", "auc", "seconds", "epochs")
BESIDE = ("mcgmenn", "te", "ohe", "embedding", "ignore")


def main() -> None:
    """Run the sets asked for, and print each as it is done."""
    options = _options()
    torch.set_num_threads(1)
    baselines.choose(baselines.PAPER_REAL if options.recipe == "paper" else baselines.OURS, options.epochs)
    baselines.warm_up()
    paper = pd.read_csv(Path(__file__).parent / "paper.csv").set_index(["cell", "method"])["auc"]
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread, {options.folds} of 5 folds")
    for name in options.names or SETS:
        if not (options.data / f"{name}.csv.gz").exists():
            print(f"\n{name}: no file in {options.data}", flush=True)
            continue
        report(name, run(name, options), paper)


def run(name: str, options: argparse.Namespace) -> pd.DataFrame:
    """One row a method and fold; a failure is told, and the others go on."""
    chosen = SETS[name]
    data = chosen.load(options.data, name)
    if options.rows:
        data = data.sample(min(options.rows, len(data)), random_state=0).reset_index(drop=True)
    rows = []
    for fold, (train, test) in enumerate(folds(np.arange(len(data)))):
        if fold < options.first:
            continue
        if fold == options.first + options.folds:
            break
        task = chosen.task(data, train, test)
        if fold == options.first:
            print(f"\n{name}: {described(task, len(data))}", flush=True)
        for method in options.methods:
            try:
                found = METHODS[method](task, SEED + fold)
            except Exception as problem:  # a failed baseline is a result, too
                print(f"  {method} failed: {type(problem).__name__}: {problem}", flush=True)
                continue
            row = told(task, found) | {"set": name, "fold": fold, "method": method, "recipe": options.recipe}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame([row])[[*COLUMNS]].to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
            print(f"  fold {fold} {method:12s} {row['auc']:.4f} {found.seconds:8.1f} s", flush=True)
            rows.append(row | {f"variance {key}": value for key, value in found.estimates.items()})
    return pd.DataFrame(rows)


def told(task: ClassTask, found: Outcome) -> dict[str, object]:
    """AUC, time and epochs."""
    return {
        "auc": auc(task.codes(test=True), found.predicted),
        "seconds": found.seconds,
        "epochs": found.epochs,
    }


def described(task: ClassTask, n: int) -> str:
    """Rows, inputs, classes, factors and the most levels, as the paper's table counts them."""
    rows = pd.concat([task.train, task.test])
    most = max(rows[name].nunique() for name in task.groups)
    return (
        f"N {n}, D {len(task.numeric)} columns, C {len(task.classes)}, L {len(task.groups)}, Q {most}; "
        f"y ~ {'nn(...)' if task.numeric else '1'} + {task.random}"
    )


def report(name: str, runs: pd.DataFrame, paper: pd.Series) -> None:
    """Means over folds with standard errors, differences to ours in the same folds, and the paper's figures."""
    if runs.empty:
        return
    table = runs.pivot(index="fold", columns="method", values="auc")
    names = f"{'AUC':>7s} {'(se)':>8s} {'less ours':>9s} {'(se)':>8s} {'seconds':>8s} {'epochs':>7s} {'paper':>6s}"
    print(f"  {'method':12s} {names}")
    for method, own in runs.groupby("method", sort=False):
        values = table[method]
        beside = values - table["ours"] if "ours" in table else values * np.nan
        key = (name, "mcgmenn" if method in ("ours", "mcem") else method)
        known = f"{paper[key]:6.2f}" if key in paper.index else ""
        print(
            f"  {method:12s} {values.mean():7.4f} ({values.sem():.4f}) {beside.mean():9.4f} ({beside.sem():.4f})"
            f" {own['seconds'].mean():8.1f} {own['epochs'].mean():7.0f} {known}"
        )
    print("  paper: " + ", ".join(f"{method} {paper[name, method]:.2f}" for method in BESIDE))
    found = [column for column in runs if column.startswith("variance ")]
    means = runs.groupby("method", sort=False)[found].mean().dropna(how="all")
    for method, row in means.iterrows():
        text = ", ".join(f"{c.removeprefix('variance ')} {v:.3g}" for c, v in row.dropna().items())
        print(f"  variances, {method}: {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--data", type=Path, default=os.environ.get("PYLMERNN_DATA"), help="folder of the files")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(COMPARED), help=",".join(METHODS))
    parser.add_argument("--folds", type=int, default=5, help="how many of the five folds")
    parser.add_argument("--first", type=int, default=0, help="the fold to begin with")
    parser.add_argument("--rows", type=int, help="a random sample of the rows, for a trial")
    parser.add_argument("--recipe", choices=("ours", "paper"), default="ours", help="how baseline networks are trained")
    parser.add_argument("--epochs", type=int, default=0, help="of all networks, for a trial")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/mcgmenn_real.csv"))
    options = parser.parse_args()
    for kind, given, choices in (("method", options.methods, METHODS), ("data set", options.names, SETS)):
        for name in given:
            if name not in choices:
                parser.error(f"no {kind} '{name}': choose from {', '.join(choices)}")
    if options.data is None:
        parser.error("give the folder of the data with --data, or in PYLMERNN_DATA")
    options.data = Path(options.data)
    return options


if __name__ == "__main__":
    main()
