"""Seconds per epoch of our methods beside the same network trained as if there were no groups.

    python -W ignore -m benchmarks.mcgmenn.epoch_cost                        # all cases
    python -W ignore -m benchmarks.mcgmenn.epoch_cost --scale 0.05 --epochs 2 4   # a trial

The cases are two classes with one factor, and five classes with three factors, aligned and crossed. Every model is
fitted twice, with few and with more epochs: the difference in seconds over that in epochs is the cost of one epoch,
without what is done once before and after. The batches are of the same size in all methods; a tenth of the rows chooses
the epoch. One thread; the seconds are those of the processor, which other programs do not lengthen much.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from benchmarks.mcgmenn import baselines
from benchmarks.mcgmenn.baselines import METHODS
from benchmarks.mcgmenn.cells import Cell, binary_cells, class_cells
from benchmarks.mcgmenn.tasks import ClassTask, simulated

#: cells, whether their factors are crossed, and methods beside the ignoring network
CASES: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("1,1000", False, ("alternating", "lmmnn", "mcem", "mcem_nuts")),
    ("1,10000", False, ("alternating", "lmmnn", "mcem")),
    ("base", False, ("mcem", "mcem_nuts")),
    ("base", True, ("mcem", "mcem_nuts")),
)


def measure(cell: Cell, crossed: bool, methods: Sequence[str], scale: float, epochs: tuple[int, int]) -> None:
    """Print the cost of an epoch by every method."""
    task, small = (simulated(cell.simulate(0, share, crossed)) for share in (scale, 0.01))
    base = float("nan")
    for method in ("ignore", *methods):
        try:
            seconds(method, small, 1)  # what is done once in a process
            few, more = (seconds(method, task, count) for count in epochs)
        except Exception as problem:  # a failed method is a result, too
            print(f"  {method} failed: {type(problem).__name__}: {problem}", flush=True)
            continue
        each = (more[0] - few[0]) / max(1.0, more[1] - few[1])
        base = each if method == "ignore" else base
        print(f"{cell.name:10s} {method:14s} {each:9.3f}s {each / base:7.2f} {more[0]:9.1f}s", flush=True)


def seconds(method: str, task: ClassTask, epochs: int) -> tuple[float, float]:
    """Of the processor for a fit of so many epochs, and the epochs it took."""
    baselines.choose(baselines.OURS, epochs, folds=0)
    begun = time.process_time()
    found = METHODS[method](task, 0)
    return time.process_time() - begun, found.epochs


def main() -> None:
    """Print one line a case and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs=2, default=(5, 20), help="few and more")
    parser.add_argument("--scale", type=float, default=1.0, help="share of 100,000 rows")
    parser.add_argument("--cells", nargs="+", help="as in 1,1000 or base")
    options = parser.parse_args()
    torch.set_num_threads(1)
    baselines.warm_up()
    cells = {cell.name: cell for cell in (*binary_cells(), *class_cells())}
    print(f"torch {torch.__version__}, one thread, n = {int(100_000 * options.scale)}, {options.epochs} epochs")
    print("cell       method         an epoch   ratio  all of it")
    for name, crossed, methods in CASES:
        if not options.cells or name in options.cells:
            print("crossed" if crossed else "aligned")
            measure(cells[name], crossed, methods, options.scale, tuple(options.epochs))


if __name__ == "__main__":
    main()
