"""Simulated classes: ours beside the figures of MC-GMENN and LMMNN, and what the true parameters reach.

| table | of | shows |
|---|---|---|
| 1 | MC-GMENN: two classes, one factor, nine cells | AUC, variances, time |
| 2 | MC-GMENN: several classes, three factors, nine settings | AUC |
| 3 | MC-GMENN: the same settings | time, error of the variances |
| 12, 19, 25 | LMMNN: the cells of Table 1 | AUC; variances; time |

    python -W ignore -m benchmarks.mcgmenn.tables --table 1 --methods alternating,lmmnn,mcem,known,ignore
    python -W ignore -m benchmarks.mcgmenn.tables --table 1 --cells 10,1000 --methods lmmnn_faithful,mcem_faithful
    python -W ignore -m benchmarks.mcgmenn.tables --table 1 --crossed --methods alternating,mcem,known,ignore,te
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells base dominant irrelevant per_class factors10
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells base --crossed --methods ours,ignore,embedding,te
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells 1m --scale 0.3 --seeds 1
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells d1000 classes100 --scale 0.5 --seeds 1
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells levels20000 --scale 0.2 --shrink-levels --seeds 1
    python -W ignore -m benchmarks.mcgmenn.tables --table 2 --cells base --methods ohe,embedding,te --recipe paper
    python -W ignore -m benchmarks.mcgmenn.tables --table 12 --cells 1,1000 --scale 0.05 --epochs 3   # a trial

Cells of Table 1 are named "variance,levels". ``--scale`` takes a share of the rows, ``--shrink-levels`` that share of
the levels too. ``--crossed`` draws every factor on its own; without it, levels are sorted alike in all factors, as in
the papers. "oracle" is the AUC of the true f plus the effects that the training rows tell with the true variances;
"bound" that of the true effects. Variances are compared with the nominal ones and with those of the effects drawn; the
relative error is over variances of at least 0.01. Rows of all runs are written to build/benchmarks/mcgmenn.csv, and
every variance to mcgmenn_variances.csv beside it, as soon as they are known; ``--out`` changes the name.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tasks import Outcome

import pylmernn
from benchmarks.mcgmenn import baselines
from benchmarks.mcgmenn.baselines import METHODS
from benchmarks.mcgmenn.cells import Cell, binary_cells, class_cells
from benchmarks.mcgmenn.generators import Simulation
from benchmarks.mcgmenn.oracles import auc, bound, oracle
from benchmarks.mcgmenn.tasks import simulated

SHOWN = {
    1: ("auc", "variances", "time"),
    2: ("auc",),
    3: ("time", "variances"),
    12: ("auc",),
    19: ("variances",),
    25: ("time",),
}
SMALL = 0.01  # variances below have no relative error
ERRORS = ("nominal", "drawn", "nominal_relative", "drawn_relative")


def main() -> None:
    """Run the cells asked for and print each as it is done."""
    options = _options()
    torch.set_num_threads(1)
    baselines.choose(baselines.PAPER if options.recipe == "paper" else baselines.OURS, options.epochs)
    baselines.warm_up()
    paper = pd.read_csv(Path(__file__).parent / "paper.csv")
    out = Output(options.out)
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread, {options.seeds} seeds")
    everything = []
    for cell in chosen_cells(options):
        runs, variances = run(cell, options, out)
        if runs.empty:
            continue
        layout = "crossed" if options.crossed else "aligned"
        print(f"\n{cell.name} {layout}, n = {int(cell.rows * options.scale)}", flush=True)
        for name in options.show or SHOWN[options.table]:
            PRINTERS[name](runs, variances, paper[paper["cell"] == cell.name])
        everything.append(runs)
    if len(everything) > 1:
        print_summary(pd.concat(everything))


def chosen_cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The cells of the table that were asked for."""
    found = list(class_cells()) if options.table in (2, 3) else list(binary_cells(options.crossed))
    names = [cell.name for cell in found]
    for name in options.cells or []:
        if name not in names:
            raise SystemExit(f"no cell '{name}': choose from {' '.join(names)}")
    return (cell for cell in found if not options.cells or cell.name in options.cells)


@dataclasses.dataclass(frozen=True)
class Output:
    """The files that rows are added to."""

    path: Path

    def add(self, run: dict[str, object], variances: pd.DataFrame) -> None:
        """Write one run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.stem}_variances.csv")
        for path, rows in ((self.path, pd.DataFrame([run])), (beside, variances)):
            if len(rows):
                rows.to_csv(path, mode="a", header=not path.exists(), index=False)


def run(cell: Cell, options: argparse.Namespace, out: Output) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a method and seed, and one a variance.

    A method that cannot do a cell is told and left out; the others go on.
    """
    rows, told = [], []
    for repeat in range(options.first, options.first + options.seeds):
        simulation = cell.simulate(repeat, options.scale, options.crossed, options.shrink_levels)
        best = {"oracle": oracle(simulation), "bound": bound(simulation)}
        task = simulated(simulation)
        for method in options.methods:
            seed = cell.first_seed + repeat
            at = {"table": 1 if cell.is_binary else 2, "cell": cell.name, "crossed": options.crossed}
            at |= {"n": int(cell.rows * options.scale), "recipe": options.recipe, "method": method, "seed": seed}
            try:
                found = METHODS[method](task, seed)
            except Exception as problem:  # a failed baseline is a result, too
                print(f"  {method} failed: {type(problem).__name__}: {problem}", flush=True)
                continue
            variances = compared(simulation, found).assign(**at)
            row = at | {"auc": auc(task.codes(test=True), found.predicted)} | best
            row |= {"seconds": found.seconds, "epochs": found.epochs} | errors(variances)
            out.add(row, variances)
            rows.append(row)
            told.append(variances)
            print(
                f"{cell.name} seed {seed} {method} {row['auc']:.4f} {found.seconds:.1f} s", file=sys.stderr, flush=True
            )
    return pd.DataFrame(rows), pd.concat(told) if told else pd.DataFrame()


def compared(simulation: Simulation, found: Outcome) -> pd.DataFrame:
    """Nominal, drawn and estimated variances, a row each; empty where a method has none."""
    labels = [""] if simulation.variances.shape[1] == 1 else [f" {name}" for name in simulation.classes]
    rows = [
        {
            "factor": factor,
            "class": label.strip(),
            "nominal": simulation.variances[k, c],
            "drawn": simulation.drawn[k, c],
            "estimate": found.estimates.get(f"{factor}{label}", np.nan),
        }
        for k, factor in enumerate(simulation.factors)
        for c, label in enumerate(labels)
    ]
    return pd.DataFrame(rows).dropna(subset=["estimate"])


def errors(variances: pd.DataFrame) -> dict[str, float]:
    """Mean absolute errors against the nominal and the drawn variances; relative ones where these are not small."""
    found = dict.fromkeys(ERRORS, np.nan)
    if variances.empty:
        return found
    for name in ("nominal", "drawn"):
        off = (variances["estimate"] - variances[name]).abs()
        large = variances["nominal"] >= SMALL
        found[name] = float(off.mean())
        found[f"{name}_relative"] = float((off / variances[name])[large].mean())
    return found


def print_auc(runs: pd.DataFrame, variances: pd.DataFrame, paper: pd.DataFrame) -> None:
    """AUC with standard errors over seeds, and what it lacks to the oracle's on the same data."""
    best = runs.groupby("seed")[["oracle", "bound"]].first().mean()
    print(f"  true parameters: oracle {best['oracle']:.4f}, bound {best['bound']:.4f}")
    print(f"  {'method':15s} {'AUC':>7s} {'(se)':>8s} {'less':>8s} {'seconds':>8s}   paper")
    for method, own in runs.groupby("method", sort=False):
        lacking = (own["oracle"] - own["auc"]).mean()
        print(
            f"  {method:15s} {own['auc'].mean():7.4f} ({own['auc'].sem():.4f}) {lacking:8.4f}"
            f" {own['seconds'].mean():8.1f}   {_paper(paper, str(method), 'auc', 'se')}",
            flush=True,
        )
    for method in ("mcgmenn", "lmmnn", "lme4"):
        if text := _paper(paper, method, "auc", "se"):
            print(f"  paper {method:9s} {text}")


def print_variances(runs: pd.DataFrame, variances: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Mean estimates by factor and class, and their errors."""
    if not variances.empty:
        keys = ["factor", "class"] if variances["class"].any() else ["factor"]
        if variances["class"].nunique() > 10:
            keys = ["factor"]
        first = variances[variances["method"] == variances["method"].iloc[0]]
        table = first.groupby(keys)[["nominal", "drawn"]].mean().T
        means = variances.groupby(["method", *keys], sort=False)["estimate"].mean().unstack(keys)
        shown = pd.concat([table, means.reindex(columns=table.columns)])
        print("\n".join(f"  {line}" for line in shown.T.to_string(float_format=lambda x: f"{x:.4g}").splitlines()))
        print(f"  {'mean |error|':15s} {'nominal':>9s} {'drawn':>9s} {'relative':>9s} {'relative':>9s}")
        for method, own in runs.groupby("method", sort=False):
            if own["nominal"].notna().any():
                print(f"  {method:15s}" + "".join(f" {own[name].mean():9.4f}" for name in ERRORS), flush=True)
    for method in ("mcgmenn", "lmmnn", "lme4"):
        for column in ("variance", "mae"):
            if text := _paper(paper, method, column, ""):
                print(f"  paper {method} {column} {text}")


def print_times(runs: pd.DataFrame, variances: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Minutes, epochs (trees of a booster) and both relative to the network that ignores the groups."""
    base = runs[runs["method"] == "ignore"]
    whole = base["seconds"].mean() if len(base) else np.nan
    each = (base["seconds"] / base["epochs"]).mean() if len(base) else np.nan
    print(
        f"  {'method':15s} {'minutes':>8s} {'epochs':>7s} {'/ignore':>8s} {'an epoch':>9s}   paper's minutes (epochs)"
    )
    for method, own in runs.groupby("method", sort=False):
        seconds = own["seconds"].mean()
        epoch = (own["seconds"] / own["epochs"]).mean()
        print(
            f"  {method:15s} {seconds / 60:8.2f} {own['epochs'].mean():7.0f} {seconds / whole:8.2f} {epoch / each:9.2f}"
            f"   {_paper(paper, str(method), 'minutes', 'epochs')}",
            flush=True,
        )
    if text := _paper(paper, "mcgmenn", "ratio", ""):
        print(f"  paper mcgmenn, time relative to ignoring {text}")
    if text := _paper(paper, "lmmnn", "minutes", "epochs"):
        print(f"  paper lmmnn, minutes (epochs) {text}")


def print_summary(runs: pd.DataFrame) -> None:
    """Over all cells, as the papers' last rows: rank and distance to the best method in AUC, time, variances.

    The error of variances that MC-GMENN prints in Table 1 is the relative one to the nominal variances.
    """
    means = runs.groupby(["cell", "method"], sort=False)[["auc", "oracle", "seconds", *ERRORS]].mean()
    area = means["auc"].unstack()
    rank = area.rank(axis=1, ascending=False).rdiv(1)
    distance = 100 * (1 - area.div(area.max(axis=1), axis=0))
    lacking = (means["oracle"] - means["auc"]).unstack()
    seconds = means["seconds"].unstack()
    ratio = seconds.div(seconds["ignore"], axis=0) if "ignore" in seconds else seconds * np.nan
    names = "".join(f" {name:>16s}" for name in ERRORS)
    print(f"\nall {len(area)} cells\n  {'':15s}     MRR  diff %    less  /ignore{names}")
    for method in area.columns:
        off = means.xs(method, level="method")[list(ERRORS)].mean()
        print(
            f"  {method:15s} {rank[method].mean():7.2f} {distance[method].mean():7.2f} {lacking[method].mean():7.4f}"
            f" {ratio[method].mean():8.2f}" + "".join(f" {off[e]:16.4f}" for e in ERRORS),
            flush=True,
        )


PRINTERS = {"auc": print_auc, "variances": print_variances, "time": print_times}


def _paper(paper: pd.DataFrame, method: str, value: str, beside: str) -> str:
    """The papers' figures for a method, with what stands in parentheses beside them; or nothing."""
    texts = []
    for row in paper[(paper["method"] == method) & paper[value].notna()].to_dict("records"):
        extra = f" ({row[beside]:g})" if beside and not np.isnan(row[beside]) else ""
        texts.append(f"{row['paper'].upper()} {row[value]:g}{extra}")
    return ", ".join(texts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, choices=sorted(SHOWN), default=1)
    parser.add_argument("--show", nargs="+", choices=PRINTERS, help="all that the same runs can tell")
    parser.add_argument("--cells", nargs="+", help="as in 1,1000 or base")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["ours"], help=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="repeats before the first")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--shrink-levels", action="store_true", help="take that share of the levels, too")
    parser.add_argument("--crossed", action="store_true", help="draw every factor on its own")
    parser.add_argument("--recipe", choices=("ours", "paper"), default="ours", help="how baseline networks are trained")
    parser.add_argument("--epochs", type=int, default=0, help="of all networks, for a trial")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/mcgmenn.csv"))
    options = parser.parse_args()
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        parser.error(f"no method '{unknown[0]}': choose from {', '.join(METHODS)}")
    return options


if __name__ == "__main__":
    main()
