"""Times glmernn() or GPBoost on a folder of columns: ``fit_glmm.py SIDE CASE FOLDER FORMULA FAMILY REPEATS``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import report
from lmm_cases import read

import pylmernn

side, name, folder, formula, family, repeats = sys.argv[1:]
warnings.simplefilter("ignore")
data = read(Path(folder))


def ours() -> dict[str, Any]:
    model = pylmernn.glmernn(formula, data, family=family)
    return {"objective": -2.0 * float(model.logLik()), "fixed": model.fixef().tolist()}


def boosted() -> dict[str, Any]:
    import gpboost as gpb
    from glmm import CASES

    boost = CASES[name].boost
    assert boost is not None
    response, fixed, groups = boost
    coded = pd.get_dummies(data[list(fixed)], drop_first=True).to_numpy(float)
    X = np.column_stack([np.ones(len(data)), coded])
    if "I(age^2)" in formula:
        X = np.column_stack([X, data["age"] ** 2])
    codes = np.column_stack([data[group].cat.codes for group in groups])
    likelihood = {"binomial": "bernoulli_logit", "poisson": "poisson"}[family]
    model = gpb.GPModel(group_data=codes, likelihood=likelihood, num_parallel_threads=1)
    model.fit(y=data[response].to_numpy(float), X=X)
    return {"fixed": np.asarray(model.get_coef()).ravel().tolist()}


fit = ours if side == "ours" else boosted
fit()  # what loads on first use
report(fit, dict, int(repeats))
