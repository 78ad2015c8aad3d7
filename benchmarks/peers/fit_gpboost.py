"""Times GPBoost on a folder of columns: ``fit_gpboost.py FOLDER CASE REPEATS default|cholesky``.

GPBoost maximizes the likelihood (no REML) and has no correlation between a random intercept and its slope.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gpboost as gpb
import numpy as np
import pandas as pd
from common import report
from lmm_cases import CASES, read

folder, name, repeats, inversion = sys.argv[1:]
case = CASES[name]
data = read(Path(folder))
response = case.formula.split("~")[0].strip()


def columns_of(term: str) -> np.ndarray:
    """Treatment-coded columns of a main effect, or of ``a * b`` with its interaction; one row a row of the data."""
    parts = [part.strip() for part in term.split("*")]
    blocks = []
    for part in parts:
        column = data[part]
        coded = isinstance(column.dtype, pd.CategoricalDtype)
        blocks.append(pd.get_dummies(column, drop_first=True).to_numpy(float) if coded else column.to_numpy()[:, None])
    if len(blocks) == 2:
        blocks.append((blocks[0][:, :, None] * blocks[1][:, None, :]).reshape(len(data), -1))
    return np.hstack(blocks)


def group_codes(names: tuple[str, ...]) -> np.ndarray:
    """Codes of a factor, or of the interaction of two."""
    codes = data[names[0]].cat.codes.to_numpy().astype(np.int64)
    for other in names[1:]:
        codes = codes * len(data[other].cat.categories) + data[other].cat.codes.to_numpy()
    return codes


def fit() -> dict[str, Any]:
    terms = [term.strip() for term in case.fixed.split("+") if term.strip() != "1"]
    X = np.hstack([np.ones((len(data), 1)), *(columns_of(term) for term in terms)])
    groups = np.column_stack([group_codes(names) for names in case.groups])
    options: dict[str, Any] = {}
    if case.slopes:
        options["group_rand_coef_data"] = np.column_stack([data[column] for _, column in case.slopes])
        options["ind_effect_group_rand_coef"] = [position + 1 for position, _ in case.slopes]
    if inversion != "default":
        options["matrix_inversion_method"] = inversion
    model = gpb.GPModel(group_data=groups, likelihood="gaussian", num_parallel_threads=1, **options)
    model.fit(y=data[response].to_numpy(float), X=X)
    return {
        "objective": 2.0 * model.get_current_neg_log_likelihood(),
        "variances": np.asarray(model.get_cov_pars()).ravel().tolist(),
        "fixed": np.asarray(model.get_coef()).ravel().tolist(),
    }


report(fit, dict, int(repeats))
