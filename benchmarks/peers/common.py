"""What the timing programs of this folder share."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def memory_now() -> float:
    """Memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024


def report(fit: Callable[[], Any], describe: Callable[[Any], dict[str, Any]], repeats: int) -> None:
    """Time a fit, and print wall and CPU seconds, memory before and what is said of the last one as JSON."""
    before = memory_now()
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        found = fit()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    print(json.dumps({"wall": wall, "cpu": cpu, "memory_before": before, **describe(found)}))
