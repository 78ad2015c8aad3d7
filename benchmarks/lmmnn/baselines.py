"""Every method the benchmarks compare, each a function of a task and a seed that gives an outcome.

``METHODS`` is the list. Ours and its variants are here, with lme4 and the boosters; baselines that are networks are in
baselines_deep.py and baselines_spatial.py. Everything runs on one thread. Boosters choose their number of trees on a
random tenth of the training rows and are then trained on all of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import baselines_deep as deep
import baselines_spatial as spatial
import numpy as np
import pandas as pd
from tasks import FloatArray, Outcome, Task, codes

import pylmernn

Method = Callable[[Task, int], Outcome]

#: most trees, learning rate, and trees without improvement before a booster stops
TREES, RATE, PATIENCE = 2000, 0.05, 50


def ours(task: Task, seed: int, random: str = "", **options: Any) -> Outcome:
    """Our default fit, or with ``options`` of :func:`pylmernn.lmernn`."""
    begun = time.perf_counter()
    fit = pylmernn.lmernn(f"{task.response} ~ {task.mean} + {random or task.random}", task.train, seed=seed, **options)
    seconds = time.perf_counter() - begun
    predicted = fit.predict(task.test, allow_new_levels=True)
    return Outcome(np.asarray(predicted, float), seconds, float(fit.history()["epoch"].max()), components(fit))


def lmmnn(task: Task, seed: int, random: str = "") -> Outcome:
    """The paper's mini-batch likelihood, as its authors train it."""
    from pylmernn.engines.control import Control
    from pylmernn.training.options import Training

    return ours(task, seed, random, method="lmmnn", control=Control(training=Training(preset="faithful")))


def lmmnn_e(task: Task, seed: int) -> Outcome:
    """The paper's method with a learned g(Z)."""
    return lmmnn(task, seed, random=task.embedded)


def embed(task: Task, seed: int) -> Outcome:
    """Our training with a learned g(Z)."""
    return ours(task, seed, random=task.embedded)


def menets(task: Task, seed: int) -> Outcome:
    """MeNets (Xiong et al. 2019)."""
    return ours(task, seed, method="menets")


def known(task: Task, seed: int) -> Outcome:
    """Variances estimated by REML where the true mean is known: what no estimate with a network can beat."""
    del seed
    if task.f is None:
        raise ValueError("method 'known' needs simulated data.")
    rows = task.train.assign(_residual=task.train[task.response] - task.f[0])
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular fits
        fit = pylmernn.lmernn(f"_residual ~ 0 + {task.random}", rows)
    seconds = time.perf_counter() - begun
    effect = np.asarray(fit.predict(task.test, allow_new_levels=True), float)
    return Outcome(task.f[1] + effect, seconds, estimates=components(fit))


def lme4(task: Task, seed: int) -> Outcome:
    """R's lme4, linear in every input."""
    del seed
    from pylmernn import bridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = bridge.lmer(f"{task.response} ~ {task.linear} + {task.linear_random or task.random}", task.train)
    fit.place["unseen"] = bridge.to_r(task.test)
    predicted = fit.evaluate("predict(fit, newdata = unseen, allow.new.levels = TRUE)").value
    return Outcome(np.array(predicted, dtype=float), fit.seconds, estimates=components(fit))


def linear(task: Task, seed: int) -> Outcome:
    """The same linear mixed model by this package: lme4's numbers in less time."""
    del seed
    begun = time.perf_counter()
    text = f"{task.response} ~ {task.linear} + {task.linear_random or task.random}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pylmernn.lmernn(text, task.train)
    seconds = time.perf_counter() - begun
    return Outcome(np.asarray(fit.predict(task.test, allow_new_levels=True)), seconds, estimates=components(fit))


def components(fit: Any) -> dict[str, float]:
    """Variances and correlations of a fit of ours or lme4's.

    ``"sigma2"``; ``"group column"`` for a variance; ``"group column column"`` for a correlation; ``"gp variance"`` and
    ``"gp length-scale squared"``.
    """
    found: dict[str, float] = {}
    for row in fit.VarCorr().as_frame().itertuples():
        if row.grp == "Residual":
            found["sigma2"] = row.vcov
        elif str(row.grp).startswith("gp("):
            if row.var1 == "lscale":
                found["gp length-scale squared"] = row.sdcor**2
            else:
                found["gp variance"] = row.vcov
        elif row.var2 is None:
            found[f"{row.grp} {row.var1}"] = row.vcov
        else:
            found[f"{row.grp} {row.var1} {row.var2}"] = row.sdcor
    return found


def xgboost(task: Task, seed: int) -> Outcome:
    """XGBoost with the groups as categories."""
    import xgboost as xgb

    train, test = _with_categories(task)
    y = task.train[task.response].to_numpy(float)
    settings = {"eta": RATE, "nthread": 1, "seed": seed, "tree_method": "hist"}

    def matrix(frame: pd.DataFrame, response: FloatArray | None = None) -> Any:
        return xgb.DMatrix(frame, response, enable_categorical=True)

    begun = time.perf_counter()
    learn, held = _held_out(len(y), seed)
    chosen = xgb.train(
        settings,
        matrix(train.iloc[learn], y[learn]),
        TREES,
        evals=[(matrix(train.iloc[held], y[held]), "held")],
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
    )
    model = xgb.train(settings, matrix(train, y), chosen.best_iteration + 1)
    seconds = time.perf_counter() - begun
    return Outcome(model.predict(matrix(test)).astype(float), seconds, chosen.best_iteration + 1)


def lightgbm(task: Task, seed: int) -> Outcome:
    """LightGBM with the groups as categories."""
    import lightgbm as lgb

    train, test = _with_categories(task)
    y = task.train[task.response].to_numpy(float)
    settings = {"learning_rate": RATE, "num_threads": 1, "seed": seed, "verbosity": -1, "deterministic": True}
    begun = time.perf_counter()
    learn, held = _held_out(len(y), seed)
    data = lgb.Dataset(train.iloc[learn], y[learn])
    chosen = lgb.train(
        settings,
        data,
        TREES,
        valid_sets=[lgb.Dataset(train.iloc[held], y[held], reference=data)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    model = lgb.train(settings, lgb.Dataset(train, y), chosen.best_iteration)
    seconds = time.perf_counter() - begun
    return Outcome(np.asarray(model.predict(test)), seconds, chosen.best_iteration)


def gpboost(task: Task, seed: int) -> Outcome:
    """GPBoost: boosted trees for the mean, with random intercepts, slopes of time or a field."""
    import gpboost as gpb

    y = task.train[task.response].to_numpy(float)
    centre, spread = y.mean(), y.std()  # its first variances go astray for responses of another size
    y = (y - centre) / spread
    train, test = task.train[list(task.numeric)].to_numpy(float), task.test[list(task.numeric)].to_numpy(float)
    effects, effects_test = _gpboost_effects(task)
    settings = {"learning_rate": RATE, "num_threads": 1, "seed": seed, "verbose": -1}

    def model_of(rows: Any) -> Any:
        taken = {name: value[rows] if isinstance(value, np.ndarray) else value for name, value in effects.items()}
        return gpb.GPModel(likelihood="gaussian", num_parallel_threads=1, **taken)

    begun = time.perf_counter()
    learn, held = _held_out(len(y), seed)
    model = model_of(learn)
    model.set_prediction_data(
        **{f"{name}_pred": value[held] for name, value in effects.items() if isinstance(value, np.ndarray)}
    )
    data = gpb.Dataset(train[learn], y[learn])
    chosen = gpb.train(
        params=settings,
        train_set=data,
        gp_model=model,
        num_boost_round=TREES // 4,
        valid_sets=gpb.Dataset(train[held], y[held], reference=data),
        early_stopping_rounds=PATIENCE // 2,
        use_gp_model_for_validation=True,
        verbose_eval=False,
    )
    model = model_of(slice(None))
    booster = gpb.train(
        params=settings, train_set=gpb.Dataset(train, y), gp_model=model, num_boost_round=max(chosen.best_iteration, 1)
    )
    seconds = time.perf_counter() - begun
    predicted = booster.predict(test, **effects_test, predict_var=False, pred_latent=False)["response_mean"]
    return Outcome(centre + spread * np.asarray(predicted), seconds, chosen.best_iteration)


def _gpboost_effects(task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that describe the random part to GPBoost, for the training and the test rows."""
    if task.coordinates:
        where = list(task.coordinates)
        return (
            {"gp_coords": task.train[where].to_numpy(float), "cov_function": "gaussian", "gp_approx": "vecchia_latent"},
            {"gp_coords_pred": task.test[where].to_numpy(float)},
        )
    train, test, _ = codes(task)
    if not task.slopes:
        return {"group_data": train}, {"group_data_pred": test}
    scale = slope_columns(task, task.train).std(axis=0)  # of one size, or its search does not end
    slopes, slopes_test = slope_columns(task, task.train) / scale, slope_columns(task, task.test) / scale
    return (
        {
            "group_data": train,
            "group_rand_coef_data": slopes,
            "ind_effect_group_rand_coef": [1] * slopes.shape[1],
        },
        {"group_data_pred": test, "group_rand_coef_data_pred": slopes_test},
    )


def slope_columns(task: Task, rows: pd.DataFrame) -> FloatArray:
    """Values with random slopes (n, k); "t^2" is t squared."""
    powers = [name.partition("^") for name in task.slopes]
    return np.column_stack([rows[name].to_numpy(float) ** int(power or 1) for name, _, power in powers])


def _with_categories(task: Task) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Inputs with the groups as categories; a level not seen in training is missing."""
    train = task.train[[*task.numeric, *task.coordinates]].astype(float)
    test = task.test[[*task.numeric, *task.coordinates]].astype(float)
    for column in task.groups:
        if task.coordinates and column == "z0":
            continue  # the place is known by its coordinates
        levels = pd.unique(task.train[column])
        train[column] = pd.Categorical(task.train[column], categories=levels)
        test[column] = pd.Categorical(task.test[column], categories=levels)
    return train, test


def _held_out(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from, and a tenth to choose the number of trees on."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n // 10 :], order[: n // 10]


METHODS: dict[str, Method] = {
    "ours": ours,
    "embed": embed,
    "lmmnn": lmmnn,
    "lmmnn_e": lmmnn_e,
    "menets": menets,
    "known": known,
    "linear": linear,
    "lme4": lme4,
    "ignore": deep.ignore,
    "ohe": deep.one_hot,
    "embedding": deep.embedding,
    "te": deep.target_encoding,
    "lstm": deep.lstm,
    "cnn": spatial.cnn,
    "svdkl": spatial.svdkl,
    "gpboost": gpboost,
    "xgboost": xgboost,
    "lightgbm": lightgbm,
}
