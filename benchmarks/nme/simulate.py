"""Person-specific non-linear trends: the generic network, one network a person, and networks that vary by person.

    python benchmarks/nme/simulate.py --truth last --rows 20 --seeds 3
    python benchmarks/nme/simulate.py --models generic,last,all,specific,mlp-lme,gpboost,lme4
    python benchmarks/nme/simulate.py --family binomial --truth last,generic --rows 5,20 --models "last once,last"

Prints the root mean squared error of new rows of the same persons, noise of 0.5 included, by model, and seconds of
processor time; then for each truth and number of rows the mean over seeds, as a ratio to the best of generic, specific,
last and all.

"generic" is one network for all and an intercept a person, "plain" one without the intercept, "slopes" a network
beside random intercepts and slopes, and "lme4" the linear model with random slopes, in which lmernn() has lme4's
numbers. "last once" is "last" without cross-fitting. Others are in baselines.py. MLP-LME as the paper has it is the
model of "last"; "slopes" is the usual mixed model with a network for its mean.

With ``--family binomial`` or ``poisson`` the functions are on the scale of the link (multiplied by LINK_SCALE), and
what is printed is the mean of minus the log-density of new responses less that of the truth, in nats, and the standard
deviation between persons that the model estimates (of linear predictors at test rows) beside that of the truth.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from baselines import BASELINES, Task, a_share_of_each  # noqa: E402

import pylmernn  # noqa: E402
from pylmernn.engines.control import Control  # noqa: E402
from pylmernn.engines.nme_predict import network_of  # noqa: E402
from pylmernn.training.options import Training  # noqa: E402

PERSONS, TEST_ROWS, NOISE = 100, 50, 0.5
HELD = 0.2  # of each person's rows, by which baselines choose when to stop
HIDDEN = (20, 10)
NET = "nn(x1, x2, hidden=c(20, 10))"
FORMULAS = {
    "slopes": f"y ~ {NET} + x1 + x2 + (x1 + x2 | person)",
    "lme4": "y ~ x1 + x2 + (x1 + x2 | person)",
    "generic": f"y ~ {NET} + (1 | person)",
    "last": f"y ~ {NET} + (nn.last | person)",
    "all": f"y ~ {NET} + (nn | person)",
    "all, diagonal": f"y ~ {NET} + (nn || person)",
    "first": f"y ~ {NET} + (nn.first | person)",
}
FAMILIES = ("gaussian", "binomial", "poisson")
LINK_SCALE = {"binomial": 1.5, "poisson": 0.7}
LEVEL = 0.7  # taken off the functions before, so that classes are balanced and counts small
Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def truth_of(kind: str, rng: np.random.Generator) -> Curve:
    """The mean as a function of persons (n,) and predictors (n, 2)."""
    normal = rng.normal(size=(6, PERSONS))
    if kind == "generic":
        return lambda p, x: np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2
    if kind == "last":
        a, b, c = 1 + 0.5 * normal[0], 0.5 + 0.3 * normal[1], 0.5 * normal[2]
        return lambda p, x: a[p] * np.sin(2 * x[:, 0]) + b[p] * x[:, 1] ** 2 + c[p]
    if kind == "all":
        w, shift, c, centre = 2 + 0.4 * normal[0], 0.7 * normal[1], 0.5 * normal[2], 0.7 * normal[3]
        return lambda p, x: np.sin(w[p] * x[:, 0] + shift[p]) + 0.5 * (x[:, 1] - centre[p]) ** 2 + c[p]
    if kind == "specific":  # persons have nothing in common but the features
        return lambda p, x: sum(  # type: ignore[return-value]
            own[p] * part
            for own, part in zip(
                normal,
                (np.sin(2 * x[:, 0]), np.cos(2 * x[:, 0]), x[:, 0], x[:, 1], np.sin(2 * x[:, 1]), x[:, 0] * x[:, 1]),
                strict=True,
            )
        )
    raise SystemExit(f"truth is '{kind}': use generic, last, all or specific.")


def simulate(kind: str, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows of 100 persons."""
    rng = np.random.default_rng(seed)
    curve = truth_of(kind, rng)
    tables = []
    for per_person in (rows, TEST_ROWS):
        p = np.repeat(np.arange(PERSONS), per_person)
        x = rng.uniform(-2, 2, (len(p), 2))
        y = curve(p, x) + NOISE * rng.normal(size=len(p))
        tables.append(pd.DataFrame({"y": y, "x1": x[:, 0], "x2": x[:, 1], "person": p}))
    return tables[0], tables[1]


def error(model: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> float:
    """Root mean squared error at the test rows."""
    if model in BASELINES:
        held = a_share_of_each(train["person"], HELD, seed)
        found = BASELINES[model](Task(train, test, "y", ("x1", "x2"), "person", HIDDEN, held), seed)
    else:
        found = pylmernn.lmernn(FORMULAS[model], train, seed=seed).predict(test)
    return float(np.sqrt(np.mean((np.asarray(found) - test["y"]) ** 2)))


def simulate_family(kind: str, rows: int, seed: int, family: str) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Training and test rows with classes or counts, linear predictors ``eta``, and their deviation between persons."""
    rng = np.random.default_rng(seed)
    curve = truth_of(kind, rng)
    tables = []
    for per_person in (rows, TEST_ROWS):
        p = np.repeat(np.arange(PERSONS), per_person)
        x = rng.uniform(-2, 2, (len(p), 2))
        eta = LINK_SCALE[family] * (curve(p, x) - LEVEL)
        y = rng.random(len(p)) < 1 / (1 + np.exp(-eta)) if family == "binomial" else rng.poisson(np.exp(eta))
        tables.append(pd.DataFrame({"y": y.astype(float), "x1": x[:, 0], "x2": x[:, 1], "person": p, "eta": eta}))
    x = rng.uniform(-2, 2, (400, 2))
    each = np.array([curve(np.full(len(x), p), x) for p in range(PERSONS)])
    return tables[0], tables[1], LINK_SCALE[family] * float(np.sqrt(each.var(axis=0).mean()))


def log_loss(y: np.ndarray, eta: np.ndarray, family: str) -> float:
    """Mean of minus the log-density, but for what does not depend on eta."""
    return float(np.mean((np.logaddexp(0.0, eta) if family == "binomial" else np.exp(eta)) - y * eta))


def between(fit: Any, test: pd.DataFrame) -> float:
    """Standard deviation between persons at test rows, by the variances that were estimated."""
    estimates = fit.estimates
    if not hasattr(estimates, "selected"):
        return float(fit.VarCorr()["person"].iloc[0, 0]) ** 0.5
    network = network_of(estimates)
    prepared = network.module.prepare(test[["x1", "x2"]].to_numpy())
    generic = torch.zeros(1, estimates.selected.size)
    _, J = network.jacobian(prepared, generic, torch.zeros(len(test), dtype=torch.int64))
    return float(np.sqrt(((J.double().numpy() @ estimates.factor) ** 2).sum(axis=1).mean()))


def compare_families(arguments: argparse.Namespace) -> None:
    """Log-losses above that of the truth, and variances."""
    print(f"{'truth':10}{'rows':>6}{'seed':>6}  {'model':14}{'loss':>8}{'sd':>7}{'true sd':>9}{'seconds':>9}")
    runs = []
    for kind in arguments.truth.split(","):
        for rows in map(int, arguments.rows.split(",")):
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                train, test, deviation = simulate_family(kind, rows, seed, arguments.family)
                y, eta = test["y"].to_numpy(), test["eta"].to_numpy()
                for model in arguments.models.split(","):
                    begun = time.process_time()
                    once = Control(training=Training(folds=0)) if model.endswith(" once") else None
                    formula = FORMULAS[model.removesuffix(" once")]
                    fit = pylmernn.glmernn(formula, train, family=arguments.family, seed=seed, control=once)
                    found = fit.predict(test, type="link").to_numpy()
                    loss = log_loss(y, found, arguments.family) - log_loss(y, eta, arguments.family)
                    sd, seconds = between(fit, test), time.process_time() - begun
                    print(
                        f"{kind:10}{rows:6}{seed:6}  {model:14}{loss:8.4f}{sd:7.2f}{deviation:9.2f}{seconds:9.1f}",
                        flush=True,
                    )
                    runs.append(
                        {"truth": kind, "rows": rows, "model": model, "loss": loss, "sd": sd, "true": deviation}
                    )
    table = pd.DataFrame(runs).groupby(["truth", "rows", "model"], sort=False).mean()
    print("\nMeans over seeds\n" + table.round(4).to_string())


def report(runs: pd.DataFrame) -> None:
    """Means over seeds and ratios to the best of the paper's four."""
    table = runs.pivot_table(index=["truth", "rows"], columns="model", values="error", aggfunc="mean", sort=False)
    table = table[list(dict.fromkeys(runs["model"]))]
    print("\nMean errors\n" + table.round(4).to_string())
    four = [model for model in ("generic", "specific", "last", "all") if model in table]
    if four:
        ratios = table.div(table[four].min(axis=1), axis=0)
        print(f"\nRatio to the best of {', '.join(four)}\n" + ratios.round(3).to_string())
    apart = runs.pivot_table(index=["truth", "rows", "seed"], columns="model", values="error", sort=False)
    for model in ("last", "all"):
        if model in apart and "generic" in apart:
            worse = (apart[model] / apart["generic"] - 1).groupby(level=["truth", "rows"], sort=False)
            both = pd.DataFrame({"mean": 100 * worse.mean(), "largest": 100 * worse.max()}).round(2)
            print(f"\n{model} above generic, % (negative is better)\n" + both.to_string())


def main() -> None:
    """All truths, numbers of rows and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", default="generic,last,all,specific")
    parser.add_argument("--rows", default="5,20,200")
    parser.add_argument("--models", default="generic,last,all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--family", default="gaussian", choices=FAMILIES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.family != "gaussian":
        compare_families(arguments)
        return
    print(f"{'truth':10}{'rows':>6}{'seed':>6}  {'model':14}{'RMSE':>8}{'seconds':>9}")
    runs = []
    for kind in arguments.truth.split(","):
        for rows in map(int, arguments.rows.split(",")):
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                train, test = simulate(kind, rows, seed)
                for model in arguments.models.split(","):
                    begun = time.process_time()
                    found = error(model, train, test, seed)
                    seconds = time.process_time() - begun
                    print(f"{kind:10}{rows:6}{seed:6}  {model:14}{found:8.4f}{seconds:9.1f}", flush=True)
                    runs.append({"truth": kind, "rows": rows, "seed": seed, "model": model, "error": found})
    report(pd.DataFrame(runs))


if __name__ == "__main__":
    main()
