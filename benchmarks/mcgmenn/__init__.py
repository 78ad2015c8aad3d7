"""Benchmarks of classification: the tables of Tschalzev et al. (2024), MC-GMENN, and Tables 12, 19, 25 of LMMNN.

Run from the root of the repository as ``python -m benchmarks.mcgmenn.tables``. What they share with benchmarks/lmmnn
(the simulation of inputs and levels, tasks, the training of baseline networks) is imported from there.
"""

import os
import sys
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded
sys.path.insert(0, str(Path(__file__).parents[1] / "lmmnn"))
