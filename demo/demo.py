"""The main job on real data: sleepstudy and InstEval with pylmernn, each beside lme4, and three pictures.

Run by `make demo`; alone: python demo/demo.py. Without R the lme4 side is left out, and said so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

import pylmernn
from pylmernn import datasets

mpl.use("Agg")
OUTPUT = Path(__file__).parent / "output"


def seconds_of(run: Callable[[], Any], times: int) -> tuple[Any, float]:
    """The last answer and the median wall time."""
    taken, answer = [], None
    for _ in range(times):
        start = time.perf_counter()
        answer = run()
        taken.append(time.perf_counter() - start)
    return answer, statistics.median(taken)


def lme4_side() -> Any:
    """The bridge to R, or None with the reason printed."""
    try:
        from pylmernn import bridge

        bridge.session()
    except (ImportError, RuntimeError) as error:
        print(f"lme4 is left out: {error}\n")
        return None
    return bridge


def show(title: str, formula: str, data: pd.DataFrame, bridge: Any, times: tuple[int, int]) -> pylmernn.MixedFit:
    """Fit with both, print our summary, the differences and the ratio of the times."""
    print(f"\n{'=' * 80}\n{title}\n{'=' * 80}\n")
    fit, ours = seconds_of(lambda: pylmernn.lmernn(formula, data), times[0])
    print(fit.summary(), "\n")
    if bridge is None:
        print(f"pylmernn {1e3 * ours:.1f} ms")
        return fit
    theirs_fit, _ = seconds_of(lambda: bridge.lmer(formula, data), 1)
    theirs = statistics.median([theirs_fit.seconds] + [bridge.lmer(formula, data).seconds for _ in range(times[1] - 1)])
    table = bridge.compare(fit, theirs_fit).drop(index="seconds", level="part")
    print("Beside lme4:")
    print(readable(table))
    print(f"\nWhole call: pylmernn {1e3 * ours:.1f} ms, lme4 {1e3 * theirs:.1f} ms: {theirs / ours:.1f} times faster")
    return fit


def readable(table: pd.DataFrame) -> str:
    """The comparison with nine digits of each value, and the size of each difference."""
    shown = pd.DataFrame(index=table.index)
    for name in ("pylmernn", "lme4"):
        shown[name] = [f"{value:.9g}" for value in table[name]]
    for name in ("difference", "se_difference"):
        shown[name] = ["" if pd.isna(value) else f"{value:.1e}" for value in table[name]]
    return shown.to_string()


def picture(axes: Any, name: str) -> None:
    """Write a picture and say where."""
    path = OUTPUT / name
    (axes if hasattr(axes, "savefig") else axes.figure).savefig(path, dpi=150)
    print(f"  {path}")


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    bridge = lme4_side()
    sleep = show(
        "sleepstudy: 180 reaction times of 18 drivers",
        "Reaction ~ Days + (Days | Subject)",
        datasets.load("sleepstudy"),
        bridge,
        (21, 5),
    )
    lectures = show(
        "InstEval: 73,421 marks that 2,972 students gave 1,128 lecturers",
        "y ~ service + (1 | s) + (1 | d) + (1 | dept:service)",
        datasets.load("InstEval"),
        bridge,
        (3, 1),
    )
    print("\nPictures:")
    picture(sleep.plot("shrinkage"), "sleepstudy-shrinkage.png")
    picture(sleep.plot("ranef"), "sleepstudy-caterpillar.png")
    picture(sleep.plot("residuals"), "sleepstudy-residuals.png")
    picture(lectures.plot("ranef", group="d"), "InstEval-lecturers.png")


if __name__ == "__main__":
    main()
