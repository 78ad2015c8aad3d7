"""Times lmernn() on a folder of columns: ``fit_ours.py FOLDER FORMULA REPEATS METHOD REML``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from common import report
from lmm_cases import read

import pylmernn

folder, formula, repeats, method, reml = sys.argv[1:]
warnings.simplefilter("ignore")
data = read(Path(folder))
pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))  # what loads on first use


def fit() -> pylmernn.MixedFit:
    return pylmernn.lmernn(formula, data, method=method, REML=reml == "REML")


def describe(model: pylmernn.MixedFit) -> dict[str, Any]:
    return {
        "objective": model.estimates.objective,
        "evaluations": model.estimates.convergence.n_evaluations,
        "variances": model.VarCorr().as_frame()["vcov"].tolist(),
        "fixed": model.fixef().tolist(),
    }


report(fit, describe, int(repeats))
