"""Linear mixed models: ours beside lme4 and GPBoost, in turn, one thread each, a fresh process a fit.

    .venv/bin/python -m pip install -c constraints-debian12.txt -e '.[benchmarks]'
    tools/r-package.sh install
    .venv/bin/python benchmarks/lmm.py [--only NAME ...] [--repeats 3] [--slow] [--json FILE]

Seconds are medians of the whole call (formula, model frame and fit), data already in memory as the language's own data
frame, code already loaded. Peak memory is that of the whole process (`getrusage`), and what the fit added to it.
GPBoost is ML only, so its objective is compared with our ML fit; the others use REML. It cannot correlate a random
intercept with its slope: there its objective is that of a smaller model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmm_cases import CASES, Case, write

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
R_LIBRARY = HERE.parent / "build" / "R-library"  # where tools/r-package.sh puts the R package
SETTINGS = {**ONE_THREAD, "RETICULATE_PYTHON": sys.executable, "R_LIBS": str(R_LIBRARY)}
LABELS = {
    "ours": "pylmernn",
    "ours-iterative": "pylmernn (iterative)",
    "ours-ml": "pylmernn (ML)",
    "ours-R": "pylmernn from R",
    "lme4": "lme4",
    "gpboost": "GPBoost (default)",
    "gpboost-exact": "GPBoost (exact)",
}


def command(side: str, name: str, case: Case, folder: str) -> list[str]:
    """The command that times one side."""
    inner = str(case.inner)
    if side in ("lme4", "ours-R"):
        package = "lme4" if side == "lme4" else "pylmernn"
        return ["Rscript", str(PEERS / "fit_in_r.R"), folder, case.formula, inner, "REML", package]
    if side.startswith("gpboost"):
        inversion = "cholesky" if side.endswith("exact") else "default"
        return [sys.executable, str(PEERS / "fit_gpboost.py"), folder, name, inner, inversion]
    method = "iterative" if side == "ours-iterative" else "auto"
    criterion = "ML" if side == "ours-ml" else "REML"
    return [sys.executable, str(PEERS / "fit_ours.py"), folder, case.formula, inner, method, criterion]


def run(words: list[str]) -> dict[str, Any]:
    """Run one side in a process of its own: what it prints, and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(words, stdout=out, env={**os.environ, **SETTINGS})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}")
        out.seek(0)
        found: dict[str, Any] = json.loads(out.read().strip().splitlines()[-1])
    found["peak"] = usage.ru_maxrss / 1024
    return found


def time_case(name: str, case: Case, repeats: int, slow: bool) -> dict[str, dict[str, Any]]:
    """All sides of a case, in turn, ``repeats`` rounds; medians."""
    sides = [side for side in case.sides if slow or side not in case.slow]
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        write(case.data(), Path(folder))
        for i in range(repeats):
            for side in sides:
                if i and side in case.slow:  # once is enough for what takes minutes
                    continue
                rounds[side].append(run(command(side, name, case, folder)))
        if any(side.startswith("gpboost") for side in sides):
            rounds["ours-ml"] = [run(command("ours-ml", name, case, folder))]
    return {side: summarize(found) for side, found in rounds.items()}


def summarize(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds."""
    return {
        **found[-1],
        "wall": statistics.median(x for one in found for x in one["wall"]),
        "cpu": statistics.median(x for one in found for x in one["cpu"]),
        "peak": statistics.median(one["peak"] for one in found),
        "added": statistics.median(max(one["peak"] - one["memory_before"], 0.0) for one in found),
    }


def show(name: str, case: Case, results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    base = results.get("ours", {}).get("cpu")
    blas = next((f"; R's BLAS: {r['blas']}" for r in results.values() if "blas" in r), "")
    lines = [
        f"### {name}",
        "",
        f"`{case.formula}`{blas}",
        "",
        "| | CPU s | wall s | CPU / ours | objective | less ours | evaluations | peak MB | added by the fit MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for side, r in results.items():
        other = results.get("ours-ml" if side.startswith("gpboost") else "ours")
        less = "" if other is None or other is r or side == "ours-ml" else f"{r['objective'] - other['objective']:+.2e}"
        ratio = f"{r['cpu'] / base:.1f}" if base else ""
        lines.append(
            f"| {LABELS[side]} | {r['cpu']:.4g} | {r['wall']:.4g} | {ratio} | {r['objective']:.6f} | {less} | "
            f"{r.get('evaluations') or ''} | {r['peak']:.0f} | {r['added']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes")
    parser.add_argument("--without", nargs="+", default=[], choices=list(LABELS), help="sides to leave out")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    arguments = parser.parse_args()
    everything = {}
    for name in arguments.only or CASES:
        case = CASES[name]
        sides = tuple(side for side in case.sides if side not in arguments.without)
        case = Case(**{**case.__dict__, "sides": sides})
        if arguments.slow or set(sides) - set(case.slow):
            everything[name] = time_case(name, case, arguments.repeats, arguments.slow)
            print(show(name, case, everything[name]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
