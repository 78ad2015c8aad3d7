"""What networks that vary by person cost: an epoch beside other ways, and the memory of many persons.

    python benchmarks/nme/cost.py                       # 1,000 persons, 100,000 rows
    python benchmarks/nme/cost.py --memory 10000        # a whole fit of 10,000 persons and 100,000 rows

All layers of a network of (64, 32) with ten inputs vary: 2,817 parameters a person. Processor seconds of an epoch, one
thread, every way in turns in one process:

- "generic": the same network that knows no person, batches and held-out rows as ours has them;
- "ours": an epoch of ``(nn | person)`` with its step for deviations and variances and the held-out rows. Its step is
  taken in every fourth epoch, so epochs are counted in fours;
- "a module a person": the way of the authors' code. The generic and the own parameters are added into the module of
  each person, a loop in Python calls every one on its rows, and Adam moves all. An epoch of the paper is one full
  batch; "in batches" takes as many batches an epoch as ours does, timed on a few of them.

``--memory`` fits the model by default settings in a process of its own and tells its peak memory and time.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

import pylmernn  # noqa: E402
from pylmernn.engines import alternating, crossfitting  # noqa: E402
from pylmernn.engines.control import Control  # noqa: E402
from pylmernn.engines.nme_model import VaryingModel  # noqa: E402
from pylmernn.formula import build  # noqa: E402
from pylmernn.mean.networks import specify  # noqa: E402
from pylmernn.training.options import Training  # noqa: E402

HIDDEN, INPUTS = (64, 32), 10
NET = f"nn({', '.join(f'x{j}' for j in range(INPUTS))}, hidden=c(64, 32))"
Tensor = torch.Tensor


def simulate(persons: int, n: int, seed: int = 1) -> pd.DataFrame:
    """Curves whose phase, height and level differ by person."""
    rng = np.random.default_rng(seed)
    person, x = np.arange(n) % persons, rng.uniform(-2, 2, (n, INPUTS))
    height, phase, level = 1 + 0.5 * rng.normal(size=persons), 0.5 * rng.normal(size=persons), rng.normal(size=persons)
    f = height[person] * np.sin(x[:, 0] + phase[person]) + 0.5 * x[:, 1] ** 2 + 0.3 * x[:, 2] + level[person]
    columns = {f"x{j}": x[:, j] for j in range(INPUTS)}
    return pd.DataFrame({"y": f + 0.5 * rng.normal(size=n), "person": person, **columns})


def generic_epochs(data: pd.DataFrame, epochs: int) -> Callable[[int], object]:
    """An epoch of the network alone."""
    design, _ = build(f"y ~ {NET} + (1 | person)", data)
    specs = tuple(specify(net) for net in design.nets)
    training = crossfitting.settle(Training(epochs=epochs, folds=0), design, specs)
    held = crossfitting.held_out(design, training)
    (member,) = alternating.new_members(design, True, Control(), training, specs, held)
    check = torch.from_numpy(np.flatnonzero(held.member == 0))
    target = torch.from_numpy((member.y / member.scale).astype(np.float32))

    def epoch(number: int) -> None:
        del number
        member.trainer.epoch(target)
        member.trainer.values(check)

    return epoch


class ModuleEach:
    """A module a person, trained on the loss and the penalty of the paper's equations 1 and 2."""

    def __init__(self, data: pd.DataFrame) -> None:
        x = torch.from_numpy(data[[f"x{j}" for j in range(INPUTS)]].to_numpy(np.float32))
        y = torch.from_numpy(((data["y"] - data["y"].mean()) / data["y"].std()).to_numpy(np.float32))
        self.persons = [(x[rows], y[rows]) for rows in data.groupby("person").indices.values()]
        self.modules = [self.network() for _ in self.persons]
        self.generic = [p.detach().clone().requires_grad_() for p in self.modules[0].parameters()]
        self.own = [torch.zeros(len(self.persons), *p.shape, requires_grad=True) for p in self.generic]
        self.variances = [torch.ones_like(p) for p in self.generic]
        self.sigma2 = 0.1
        self.optimizer = torch.optim.Adam([*self.generic, *self.own], lr=0.001)
        self.names = [name for name, _ in self.modules[0].named_parameters()]

    @staticmethod
    def network() -> torch.nn.Module:
        """Of one person."""
        first, second = HIDDEN
        layers = (torch.nn.Linear(INPUTS, first), torch.nn.ReLU(), torch.nn.Linear(first, second), torch.nn.ReLU())
        return torch.nn.Sequential(*layers, torch.nn.Linear(second, 1))

    def step(self, share: float, rng: np.random.Generator) -> None:
        """A step of Adam on a random share of every person's rows."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, penalty, count = torch.zeros(()), torch.zeros(()), 0
        for i, (x, y) in enumerate(self.persons):
            size = len(y) if share == 1 else rng.binomial(len(y), share)
            if not size:
                continue
            if share < 1:
                rows = torch.from_numpy(rng.choice(len(y), size, replace=False))
                x, y = x[rows], y[rows]
            both = [shared + own[i] for shared, own in zip(self.generic, self.own, strict=True)]
            values = dict(zip(self.names, both, strict=True))
            guess = torch.func.functional_call(self.modules[i], values, (x,))
            loss = loss + ((guess[:, 0] - y) ** 2).sum()
            for own, variance in zip(self.own, self.variances, strict=True):
                penalty = penalty + size / len(self.persons[i][1]) * (own[i] ** 2 / variance).sum()
            count += size
        ((loss / self.sigma2 + penalty) / count).backward()
        self.optimizer.step()
        self.sigma2 = float(loss.detach()) / count

    def end_epoch(self) -> None:
        """New variances."""
        self.variances = [torch.clamp(own.detach().var(0), min=1e-8) for own in self.own]


def seconds_of(work: Callable[[int], object], number: int) -> float:
    """Of the processor."""
    begun = time.process_time()
    work(number)
    return time.process_time() - begun


def epochs(persons: int, n: int, count: int) -> None:
    """Print seconds an epoch by all ways."""
    data = simulate(persons, n)
    design, _ = build(f"y ~ {NET} + (nn | person)", data)
    model = VaryingModel(design, Control(training=Training(epochs=4 * count)))
    generic = generic_epochs(data, 4 * count)

    def ours(number: int) -> None:
        model.epoch(number)
        model.criterion()

    batches = -(-len(model.rows) // (model.trainer.batch * model.trainer.chunk))
    each, rng = ModuleEach(data), np.random.default_rng(0)
    clocks: dict[str, list[float]] = {"generic": [], "ours": [], "a module a person": [], "in batches": []}
    for four in range(count):
        for name, work in (("generic", generic), ("ours", ours)):
            numbers = range(4 * four + 1, 4 * four + 5)
            clocks[name].append(sum(seconds_of(work, number) for number in numbers) / 4)
        clocks["a module a person"].append(seconds_of(lambda _: (each.step(1.0, rng), each.end_epoch()), 0))
        clocks["in batches"].append(batches * seconds_of(lambda _: each.step(1 / batches, rng), 0))
        line = "  ".join(f"{name} {found[-1]:.2f}" for name, found in clocks.items())
        print(f"epochs {4 * four + 1} to {4 * four + 4}: {line}", flush=True)
    base = float(np.median(clocks["generic"]))
    print(f"\n{persons} persons, {n} rows, {model.selected.size} parameters vary, {batches} batches an epoch")
    print(f"{'':24}{'CPU s':>9}{'to generic':>12}{'to ours':>10}")
    for name, found in clocks.items():
        middle = float(np.median(found))
        ratio = middle / float(np.median(clocks["ours"]))
        print(f"{name:24}{middle:9.2f}{middle / base:12.2f}{ratio:10.2f}")


def whole_fit(persons: int, n: int, longest: int | None) -> None:
    """In this process: fit, then tell peak memory, time and the error."""
    data = simulate(persons, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begun = time.process_time()
    training = Training() if longest is None else Training(epochs=longest)
    fit = pylmernn.lmernn(f"y ~ {NET} + (nn | person)", data, seed=1, control=Control(training=training))
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    test = simulate(persons, 2 * n).iloc[n:]  # not the same persons' curves: only the time of predicting counts
    begun = time.process_time()
    fit.predict(test)
    print(
        f"{persons} persons, {n} rows: {len(fit.history())} epochs, {seconds:.0f} s of CPU, {peak:.2f} GB at its peak "
        f"({before:.2f} before), sigma {fit.sigma():.3f} (drawn 0.5), {time.process_time() - begun:.1f} s to predict"
    )


def main() -> None:
    """Epochs, or memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--fours", type=int, default=3, help="times four epochs")
    parser.add_argument("--memory", type=int, help="persons of a whole fit instead")
    parser.add_argument("--epochs", type=int, help="of the whole fit, if not the default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.child:
        whole_fit(options.memory, options.rows, options.epochs)
    elif options.memory:
        subprocess.run([sys.executable, *sys.argv, "--child"], check=True)
    else:
        epochs(options.persons, options.rows, options.fours)


if __name__ == "__main__":
    main()
