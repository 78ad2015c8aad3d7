"""Seconds of `import pylmernn` beyond importing what it stands on: fresh processes in turn, medians.

.venv/bin/python benchmarks/import_time.py [REPEATS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

GROUND = "import torch, pandas, scipy.linalg, scipy.sparse, scipy.optimize"
CODE = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
SIDES = {
    "torch, pandas, scipy": GROUND,
    "and pylmernn": f"{GROUND}; import pylmernn",
    "and all that lmernn() needs": f"{GROUND}; import pylmernn; pylmernn.lmernn",
    "pylmernn alone": "import pylmernn",
    "pylmernn alone, with lmernn": "import pylmernn; pylmernn.lmernn",
}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        for name, code in SIDES.items():
            out = subprocess.run([sys.executable, "-c", CODE.format(code)], capture_output=True, text=True, check=True)
            taken[name].append(float(out.stdout))
    for name, seconds in taken.items():
        print(f"{name:30s} {statistics.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
