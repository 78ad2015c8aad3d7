"""Set-up shared by the tests: one thread, no windows, and R tests skipped where there is no R."""

from __future__ import annotations

import os
import shutil

# Before numpy, torch or R start: on few cores, more threads are often far slower, and timings would scatter.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402


def pytest_collection_modifyitems(config, items):
    """Tests marked ``r`` need R with lme4 and rpy2: without them they are skipped, and say what is missing."""
    missing = _missing_for_r() if any(item.get_closest_marker("r") for item in items) else None
    if missing is None:
        return
    if os.environ.get("PYLMERNN_REQUIRE_R"):  # `make test`: what cannot run there is a failure
        raise pytest.UsageError(missing)
    for item in items:
        if item.get_closest_marker("r"):
            item.add_marker(pytest.mark.skip(reason=missing))


def _missing_for_r() -> str | None:
    if shutil.which("R") is None:
        return "R is not installed"
    try:
        import rpy2.rinterface  # noqa: F401
    except ImportError as error:
        return f"rpy2 cannot be imported: {error}"
    return None
