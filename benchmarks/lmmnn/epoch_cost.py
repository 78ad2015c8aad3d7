"""Seconds per epoch of method "alternating" beside the same network trained as if there were no groups.

python benchmarks/lmmnn/epoch_cost.py                 # one factor of 1,000 and 10,000 levels, three crossed factors
python benchmarks/lmmnn/epoch_cost.py --scale 0.2

Both run the same Trainer on the same rows in one process, an epoch of each in turn. "Ignoring" is what any network
costs: an epoch of batches, then the error at the held-out rows. "Alternating" adds the exact solution for beta, b and
theta. Medians over epochs.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from generators import categorical  # noqa: E402

from pylmernn.engines import alternating, crossfitting  # noqa: E402
from pylmernn.engines.control import Control  # noqa: E402
from pylmernn.formula import build  # noqa: E402
from pylmernn.mean.networks import specify  # noqa: E402
from pylmernn.training.options import Training  # noqa: E402

CASES: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = (
    ((1000,), (1.0,)),
    ((10_000,), (1.0,)),
    ((1000, 2000, 3000), (0.3, 0.3, 0.3)),
)


def measure(sizes: tuple[int, ...], variances: tuple[float, ...], n: int, epochs: int) -> tuple[float, float]:
    """Median seconds per epoch: ignoring the groups, and alternating."""
    train = categorical(sizes, variances, 1, n, aligned=False).train
    predictors = ", ".join(f"X{j}" for j in range(10))
    bars = " + ".join(f"(1 | z{k})" for k in range(len(sizes)))
    design, _ = build(f"y ~ nn({predictors}) + {bars}", train)
    specs = tuple(specify(net) for net in design.nets)
    training = crossfitting.settle(Training(epochs=2 * epochs, folds=0), design, specs)
    held = crossfitting.held_out(design, training)
    (member,) = alternating.new_members(design, True, Control(), training, specs, held)
    check = torch.from_numpy(np.flatnonzero(held.member == 0))
    target = torch.from_numpy((member.y / member.scale).astype(np.float32))
    clocks: tuple[list[float], list[float]] = ([], [])
    for epoch in range(1, epochs + 1):
        begun = time.perf_counter()
        member.trainer.epoch(target)
        member.trainer.values(check)
        between = time.perf_counter()
        crossfitting.train_epoch([member], held, True, epoch)
        clocks[0].append(between - begun)
        clocks[1].append(time.perf_counter() - between)
    return float(np.median(clocks[0])), float(np.median(clocks[1]))


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--scale", type=float, default=1.0, help="share of 100,000 rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = int(100_000 * options.scale)
    print(f"torch {torch.__version__}, one thread, n = {n}, medians of {options.epochs} epochs")
    print("levels                  ignoring  alternating  ratio")
    for sizes, variances in CASES:
        ignoring, ours = measure(sizes, variances, n, options.epochs)
        print(f"{','.join(map(str, sizes)):22s} {ignoring:8.3f}s {ours:11.3f}s {ours / ignoring:6.2f}", flush=True)


if __name__ == "__main__":
    main()
