"""Seconds of the log-partition function of a CRF, forward and backward, on one thread.

    python benchmarks/nme/crf_cost.py --times 1000 --batch 64 --states 4,8

Prints the median, the smallest and the largest of the repeats, in milliseconds, for transitions that all sequences
share and for one matrix a sequence, in lengths that are equal and ragged.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from pylmernn.mean.crf import chains, log_partition

WARM_UP = 3


def example(size: int, times: int, states: int, own: bool, ragged: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    """Scores, transitions and lengths of a batch."""
    generator = torch.Generator().manual_seed(states)
    scores = torch.randn(size, times, states, generator=generator, dtype=dtype, requires_grad=True)
    shape = (size, states, states) if own else (states, states)
    transitions = torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)
    lengths = torch.full((size,), times)
    if ragged:
        lengths[1:] = torch.randint(times // 2, times + 1, (size - 1,), generator=generator)
    return [scores, transitions, lengths]


def milliseconds(given: list[torch.Tensor], repeats: int) -> np.ndarray:
    """Processor time of each repeat."""
    found = []
    for repeat in range(WARM_UP + repeats):
        begun = time.process_time()
        total = log_partition(chains(*given)).sum()
        torch.autograd.grad(total, given[:2])
        if repeat >= WARM_UP:
            found.append(1e3 * (time.process_time() - begun))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--states", default="4,8")
    parser.add_argument("--repeats", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"length {arguments.times}, batch {arguments.batch}; milliseconds of forward and backward")
    print(f"{'states':>6}  {'transitions':14}{'lengths':9}{'dtype':9}{'median':>8}{'least':>8}{'most':>8}")
    for states in map(int, arguments.states.split(",")):
        for own in (False, True):
            for ragged in (False, True):
                for dtype in (torch.float64, torch.float32):
                    given = example(arguments.batch, arguments.times, states, own, ragged, dtype)
                    found = milliseconds(given, arguments.repeats)
                    text = f"{'own' if own else 'shared':14}{'ragged' if ragged else 'equal':9}{str(dtype)[6:]:9}"
                    low, middle, high = found.min(), np.median(found), found.max()
                    print(f"{states:6}  {text}{middle:8.1f}{low:8.1f}{high:8.1f}", flush=True)


if __name__ == "__main__":
    main()
