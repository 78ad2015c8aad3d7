"""Tables 1 to 5, 14 to 18 and 20 to 24 of Simchoni & Rosset (2023): ours beside the paper's numbers and the oracle.

| table | simulation | shows |
|---|---|---|
| 1, 14, 20 | one factor | test error; variances; time |
| 2, 15, 21 | three factors | the same |
| 3, 16, 22 | repeated measures with random curves of time | the same |
| 4, 17, 23 | a field over places | the same |
| 5, 18, 24 | a field and two factors | the same |

Tables 12, 19 and 25 are of responses 0 and 1: ``python -m benchmarks.mcgmenn.tables --table 12``.

    python benchmarks/lmmnn/tables.py --table 1                                  # three seeds, n = 100,000
    python benchmarks/lmmnn/tables.py --table 1 --embedding                      # g(Z) = ZW
    python benchmarks/lmmnn/tables.py --table 2 --crossed                        # factors drawn on their own
    python benchmarks/lmmnn/tables.py --table 3 --mode future --show error estimates time
    python benchmarks/lmmnn/tables.py --table 4 --cells 10,0.1,1000 --seeds 1 --methods ours,lme4,svdkl
    python benchmarks/lmmnn/tables.py --table 1 --scale 0.1 --seeds 1            # a tenth of the rows

``--cells`` takes a row's numbers in the order of the paper's columns. "excess" is the test error less the oracle's on
the same data: the true mean, the true variances and exact conditional modes. The paper's numbers are of n = 100,000
and five draws of its own; its LMMNN is printed in every line "paper". Progress is told on standard error.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import baselines_deep  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from baselines import METHODS  # noqa: E402
from cells import Cell, cells, drawn, task  # noqa: E402
from oracles import oracle_error  # noqa: E402
from tasks import Outcome  # noqa: E402

import pylmernn  # noqa: E402

#: what each table shows, and the simulation it is of
SHOWN = {"error": range(1, 6), "estimates": range(14, 19), "time": range(20, 25)}
TABLES = {table: (1 + k, what) for what, tables in SHOWN.items() for k, table in enumerate(tables)}


def main() -> None:
    """Run the cells asked for and print each as it is done."""
    options = _options()
    torch.set_num_threads(1)
    if options.recipe == "paper":
        baselines_deep.chosen = baselines_deep.PAPER
    simulation, what = TABLES[options.table]
    shown = options.show or [what]
    future = None if options.mode == "both" else options.mode == "future"
    paper = pd.read_csv(Path(__file__).parent / "paper.csv").set_index(["table", "cell", "method"]).sort_index()
    n = int(100_000 * options.scale)
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread, n = {n}, {options.seeds} seeds")
    for cell in cells(simulation, options.embedding, not options.crossed, future, options.places):
        if options.cells and cell.numbers not in options.cells:
            continue
        runs, truths = run(cell, options.methods, options.seeds, n, options.time_in_network)
        known = paper.loc[cell.table, cell.name]
        print(f"\n{cell.name}", flush=True)
        for name in shown:
            PRINTERS[name](cell, runs, truths, known)


def run(
    cell: Cell, methods: list[str], seeds: int, n: int, time_in_network: bool
) -> tuple[pd.DataFrame, dict[str, float]]:
    """One row a method and seed: error, excess, time and estimates; and the mean variances drawn.

    A method that cannot do a cell is told and left out; the others go on.
    """
    rows, truths = [], []
    for seed in range(1, seeds + 1):
        simulation = cell.simulate(seed=seed, n=n)
        oracle = oracle_error(simulation)
        truths.append(drawn(simulation, cell))
        given = task(cell, simulation, time_in_network)
        for method in methods:
            try:
                found = METHODS[method](given, seed)
            except Exception as problem:  # a failed baseline is a result, too
                print(f"  {method} failed: {type(problem).__name__}: {problem}", flush=True)
                continue
            row = _row(cell, method, found, given.error(found.predicted), oracle)
            rows.append(row)
            print(
                f"{cell.name} seed {seed} {method} {row['error']:.4f} {found.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return pd.DataFrame(rows), pd.DataFrame(truths).mean().to_dict()


def _row(cell: Cell, method: str, found: Outcome, error: float, oracle: float) -> dict[str, object]:
    estimates = {column: found.estimates.get(name, np.nan) for column, name in cell.parameters.items()}
    return {
        "method": method,
        "error": error,
        "oracle": oracle,
        "excess": error - oracle,
        "seconds": found.seconds,
        "epochs": found.epochs,
        **estimates,
    }


def print_errors(cell: Cell, runs: pd.DataFrame, truths: dict[str, float], paper: pd.DataFrame) -> None:
    """Test errors and excess over the oracle, means with standard errors."""
    print(f"  {'method':10s} {'error':>7s} {'(se)':>9s} {'oracle':>7s} {'excess':>8s} {'(se)':>9s} {'seconds':>8s}"
          f" {'paper':>8s} {'(se)':>7s}")  # fmt: skip
    for method, own in runs.groupby("method", sort=False):
        mean, error = own.mean(numeric_only=True), own.sem(numeric_only=True)
        theirs = _paper(paper, str(method), "mse", "se")
        print(
            f"  {method:10s} {mean['error']:7.3f} ({error['error']:.4f})  {mean['oracle']:7.3f} {mean['excess']:8.4f}"
            f" ({error['excess']:.4f})  {mean['seconds']:8.1f} {theirs}",
            flush=True,
        )
    print(f"  {'paper':10s} {_paper(paper, 'lmmnn', 'mse', 'se')}")


def print_estimates(cell: Cell, runs: pd.DataFrame, truths: dict[str, float], paper: pd.DataFrame) -> None:
    """Variances and correlations: true, of the effects drawn, and estimated with the standard error over seeds."""
    columns = list(cell.parameters)
    print("  " + " " * 12 + "".join(f"{_short(cell.parameters[c]):>17s}" for c in columns))
    print("  true        " + "".join(f"{cell.truth[c]:17.3f}" for c in columns))
    if truths:
        print("  drawn       " + "".join(f"{truths.get(c, np.nan):17.3f}" for c in columns))
    for method, own in runs.groupby("method", sort=False):
        if own[columns].isna().all(axis=None):
            continue
        mean, error = own[columns].mean(), own[columns].sem()
        print(f"  {method:12s}" + "".join(f"{f'{mean[c]:.3f} ({error[c]:.3f})':>17s}" for c in columns), flush=True)
    for method in ("lme4", "lmmnn"):
        if method in paper.index and paper.loc[method, columns].notna().any():
            print(f"  paper {method:6s}" + "".join(f"{paper.loc[method, c]:17.3f}" for c in columns))


def print_times(cell: Cell, runs: pd.DataFrame, truths: dict[str, float], paper: pd.DataFrame) -> None:
    """Minutes and epochs (trees of a booster); the paper's are of a V100 GPU."""
    print(f"  {'method':10s} {'minutes':>8s} {'epochs':>7s}   {'paper minutes':>13s} (epochs)")
    for method, own in runs.groupby("method", sort=False):
        mean = own.mean(numeric_only=True)
        theirs = _paper(paper, str(method), "minutes", "epochs")
        print(f"  {method:10s} {mean['seconds'] / 60:8.2f} {mean['epochs']:7.0f}   {theirs}", flush=True)
    print(f"  {'paper':10s} {'':16s}   {_paper(paper, 'lmmnn', 'minutes', 'epochs')}")


PRINTERS = {"error": print_errors, "estimates": print_estimates, "time": print_times}


def _paper(paper: pd.DataFrame, method: str, value: str, beside: str) -> str:
    """The paper's number with what stands in parentheses beside it, or nothing."""
    if method not in paper.index or np.isnan(paper.loc[method, value]):
        return ""
    return f"{paper.loc[method, value]:8.2f} ({paper.loc[method, beside]:g})"


def _short(name: str) -> str:
    """A parameter's name short enough for a column: "z0 t", or "1, t" for a correlation."""
    group, *columns = name.replace("(Intercept)", "1").replace("length-scale squared", "scale^2").split(" ", 2)
    if len(columns) == 2:
        return f"cor({', '.join(columns)})"
    return " ".join([group, *(c for c in columns if c != "1")])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, choices=sorted(TABLES), default=1)
    parser.add_argument("--show", nargs="+", choices=PRINTERS, help="all that the same runs can tell")
    parser.add_argument("--cells", nargs="+", type=lambda text: tuple(map(float, text.split(","))), help="as in 1,1000")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["ours"], help=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 100,000 rows; of levels in 3 and 5, too")
    parser.add_argument("--embedding", action="store_true", help="g(Z) = ZW in Tables 1 and 2")
    parser.add_argument("--crossed", action="store_true", help="draw every factor on its own (Tables 2 and 5)")
    parser.add_argument("--places", type=int, help="places in Table 5; by default a tenth of the rows, as in the paper")
    parser.add_argument("--mode", choices=("random", "future", "both"), default="both", help="halves of Table 3")
    parser.add_argument("--time-in-network", action="store_true", help="give t to the network of Table 3 too")
    parser.add_argument("--recipe", choices=("ours", "paper"), default="ours", help="how baseline networks are trained")
    options = parser.parse_args()
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        parser.error(f"no method '{unknown[0]}': choose from {', '.join(METHODS)}")
    return options


if __name__ == "__main__":
    main()
