"""How far variances stay from the nominal ones where all that data can tell of the effects is known exactly.

    python -m benchmarks.mcgmenn.floor

Classes see differences of effects only: a number added to all effects of a level changes no probability, and the mean
of a class's effects is taken by the mean function. So effects are drawn as in Tables 2 and 3, centred over classes and
over levels, and the variances estimated from the centred effects by maximum likelihood (with one degree of freedom less
for the mean). Printed are mean absolute errors beside the nominal variances and beside those of the effects drawn, and
that of the drawn effects' own variances beside the nominal ones. Maximum likelihood of the responses cannot do better
on average: there what rows do not tell of the effects comes on top.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from generators import FloatArray

from benchmarks.mcgmenn.cells import Cell, class_cells


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    paper = pd.read_csv(Path(__file__).parent / "paper.csv").set_index(["cell", "method"])
    rng = np.random.default_rng(0)
    print("setting      drawn to nominal   centred to nominal   to drawn   the paper's error")
    for cell in class_cells():
        drawn, nominal, beside = expected(cell, repeats, rng)
        known = paper["mae"].get((cell.name, "mcgmenn"), np.nan) if "mae" in paper else np.nan
        print(f"{cell.name:12s} {drawn:12.3f} {nominal:18.3f} {beside:14.3f} {known:12.2f}", flush=True)


def expected(cell: Cell, repeats: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean errors of the drawn effects' variances, and of those from centred effects beside nominal and drawn ones."""
    off = []
    for _ in range(repeats):
        for q, variances in zip(cell.sizes, cell.variances, strict=True):
            effects = rng.normal(size=(q, len(variances))) * np.sqrt(variances)
            own, found = np.var(effects, axis=0), from_centred(effects)
            off.append([np.abs(own - variances).mean(), np.abs(found - variances).mean(), np.abs(found - own).mean()])
    return tuple(np.mean(off, axis=0))


def from_centred(effects: FloatArray, steps: int = 500) -> FloatArray:
    """Variances of classes, (C,), by EM from effects (q, C) of which only differences are known."""
    centred = effects - effects.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    q, found = len(effects), np.var(centred, axis=0)
    for _ in range(steps):
        precision = 1 / np.maximum(found, 1e-12)
        common = -(centred @ precision) / precision.sum()  # what all classes of a level may share
        new = ((centred + common[:, None]) ** 2).sum(axis=0) / (q - 1) + 1 / precision.sum()
        if np.abs(new - found).max() < 1e-6 * found.max():
            break
        found = new
    return found


if __name__ == "__main__":
    main()
