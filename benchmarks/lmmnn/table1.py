"""Tables 1 and 2 of Simchoni & Rosset (2023), g(Z) = Z: our default fit beside the paper's numbers and the oracle.

python benchmarks/lmmnn/table1.py                    # every cell of Table 1, three seeds, n = 100,000
python benchmarks/lmmnn/table1.py --table 2          # three factors, aligned as in the paper
python benchmarks/lmmnn/table1.py --table 2 --crossed
python benchmarks/lmmnn/table1.py --cells 1,1000 10,10000 --seeds 1 --scale 0.2
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from generators import categorical, oracle_error  # noqa: E402

import pylmernn  # noqa: E402

#: test error of LMMNN in the paper, by residual-relative variance and number of levels (Table 1; Table 2)
TABLE_1 = {
    (0.1, 100): 1.10, (0.1, 1000): 1.09, (0.1, 10000): 1.18,
    (1.0, 100): 1.10, (1.0, 1000): 1.10, (1.0, 10000): 1.24,
    (10.0, 100): 1.10, (10.0, 1000): 1.10, (10.0, 10000): 1.29,
}  # fmt: skip
TABLE_2 = {(0.3, 0.3, 0.3): 1.16, (3.0, 3.0, 3.0): 1.17}


def one(sizes: tuple[int, ...], variances: tuple[float, ...], seed: int, n: int, aligned: bool) -> dict[str, float]:
    """One simulated data set: our error, the oracle's, the variances, the time."""
    simulation = categorical(sizes, variances, seed, n, aligned)
    predictors = ", ".join(f"X{j}" for j in range(10))
    bars = " + ".join(f"(1 | z{k})" for k in range(len(sizes)))
    begun = time.perf_counter()
    fit = pylmernn.lmernn(f"y ~ nn({predictors}) + {bars}", simulation.train, seed=seed)
    seconds = time.perf_counter() - begun
    predicted = fit.predict(simulation.test, allow_new_levels=True)
    oracle = oracle_error(simulation, variances)
    found = fit.VarCorr().as_frame().set_index("grp")["vcov"]
    out = {
        "error": float(np.mean((simulation.test["y"] - predicted) ** 2)),
        "oracle": oracle,
        "sigma2": float(found["Residual"]),
        "seconds": seconds,
    }
    for k, b in enumerate(simulation.b):
        out[f"ratio{k}"] = float(found[f"z{k}"] / np.var(b))
    return out


def main() -> None:
    """Print one row a cell: means over seeds, standard errors in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, choices=(1, 2), default=1)
    parser.add_argument("--cells", nargs="*", help="Table 1 cells as variance,levels")
    parser.add_argument("--crossed", action="store_true", help="draw every factor on its own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the paper's 100,000 rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = int(100_000 * options.scale)
    cells: list[tuple[tuple[int, ...], tuple[float, ...], float]]
    if options.table == 2:
        cells = [((1000, 2000, 3000), variances, paper) for variances, paper in TABLE_2.items()]
    else:
        asked = [tuple(map(float, cell.split(","))) for cell in options.cells or []]
        cells = [
            ((q,), (variance,), paper)
            for (variance, q), paper in TABLE_1.items()
            if not asked or (variance, q) in asked
        ]
    print(f"pylmernn {pylmernn.__version__}, torch {torch.__version__}, one thread, n = {n}, {options.seeds} seeds")
    print("variances / levels          paper  oracle   ours   excess (se)      sigma2  var(b) hat/drawn   seconds")
    for sizes, variances, paper in cells:
        runs = [one(sizes, variances, seed, n, not options.crossed) for seed in range(1, options.seeds + 1)]
        mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        excess = [run["error"] - run["oracle"] for run in runs]
        spread = float(np.std(excess, ddof=1) / np.sqrt(len(excess))) if len(excess) > 1 else float("nan")
        ratios = " ".join(f"{mean[name]:.3f}" for name in mean if name.startswith("ratio"))
        label = f"{','.join(map(str, variances))} / {','.join(map(str, sizes))}"
        print(
            f"{label:26s} {paper:6.2f} {mean['oracle']:7.3f} {mean['error']:6.3f}  {np.mean(excess):7.4f}"
            f" ({spread:.4f})"
            f" {mean['sigma2']:8.3f}  {ratios:18s} {mean['seconds']:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
