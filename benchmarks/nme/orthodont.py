"""A linear network with all parameters varying beside lme4, and the authors' example in the preset "faithful".

    python benchmarks/nme/orthodont.py

First part: ``y ~ nn(x, hidden=c()) + (nn | Subject)`` on Orthodont and sleepstudy, by REML and maximum likelihood.
Every estimate beside lme4's own (R with lme4 and rpy2 are needed), and the largest relative difference; it must be
below 1%. The model can be solved exactly, which is what a user gets; "linearised" turns that off, so that the algorithm
for networks that bend in their deviations estimates it (maximum likelihood only).

Second part: the example that Woerner et al. (2023) give with their code. Orthodont with age and distance standardised,
200 full batches, annealing by 0.98, which is ``Training(preset="faithful")``. They ask for estimates within a standard
error of REML's: 0.0547 for the slope, 0.1467 for the intercept, and 0.44 for the variance of intercepts.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

import pylmernn  # noqa: E402
from pylmernn import bridge  # noqa: E402
from pylmernn.engines import nme, nme_model  # noqa: E402
from pylmernn.engines.control import Control  # noqa: E402
from pylmernn.formula import build  # noqa: E402
from pylmernn.training.options import Training  # noqa: E402

BAR = 0.01
DATA = Path(__file__).resolve().parents[2] / "tests" / "golden" / "data" / "Orthodont.csv.gz"
NAMES = ("intercept", "slope", "var(intercept)", "var(slope)", "cov", "sigma^2")


def ours(data: pd.DataFrame, y: str, x: str, REML: bool) -> np.ndarray:
    """Estimates in the order of ``NAMES``, by default settings but for the epochs."""
    text = f"{y} ~ nn({x}, hidden=c(), standardize=FALSE) + (nn | Subject)"
    fit = pylmernn.lmernn(text, data, REML=REML, seed=1, control=Control(training=Training(epochs=3)))
    return numbers(fit.fixef().iloc[:2], fit.VarCorr()["Subject"].to_numpy()[::-1, ::-1], fit.sigma())


def lme4(data: pd.DataFrame, y: str, x: str, REML: bool) -> np.ndarray:
    """The same of R's lme4."""
    tight = "lmerControl(optCtrl = list(xtol_abs = 1e-10, ftol_abs = 1e-12))"
    fit = bridge.lmer(f"{y} ~ {x} + ({x} | Subject)", data, REML=REML)
    refit = fit.evaluate(f"fit <- update(fit, control = {tight}); c(fixef(fit), VarCorr(fit)$Subject, sigma(fit))")
    intercept, slope, first, covariance, _, second, sigma = np.array(refit.value, dtype=float)
    return np.array([intercept, slope, first, second, covariance, sigma**2])


def linearised(data: pd.DataFrame, y: str, x: str) -> np.ndarray:
    """By maximum likelihood, as if the network bent in its deviations; estimates of the raw scale."""
    centre, scale = data[x].mean(), data[x].std(ddof=0)
    scaled = data.assign(z=(data[x] - centre) / scale)
    design, _ = build(f"{y} ~ nn(z, hidden=c(), standardize=FALSE) + (nn | Subject)", scaled)
    select = nme_model.select
    nme_model.select = lambda *arguments: dataclasses.replace(select(*arguments), linear=False)  # type: ignore
    try:
        training = Training(epochs=40, weight_decay=0.0, validation=0.0, seed=1)
        found = nme.fit(design, False, Control(training=training))
    finally:
        nme_model.select = select
    raw = np.array([[1.0, -centre / scale], [0.0, 1 / scale]])  # (intercept, slope) from those of z
    network = found.networks.members[0][0]
    generic = np.array([found.beta[0], network["mlp.layers.0.weight"].item()])
    covariance = (found.factor @ found.factor.T)[::-1, ::-1]
    return numbers(raw @ generic, raw @ covariance @ raw.T, found.sigma)


def numbers(fixed: Any, covariance: np.ndarray, sigma: float) -> np.ndarray:
    """In the order of ``NAMES``."""
    intercept, slope = np.asarray(fixed)
    return np.array([intercept, slope, covariance[0, 0], covariance[1, 1], covariance[0, 1], sigma**2])


def compare(sets: dict[str, tuple[pd.DataFrame, str, str]]) -> bool:
    """Print estimates of all sets; whether all are within the bar."""
    print(f"{'':34}" + "".join(f"{name:>16}" for name in NAMES) + f"{'largest diff.':>15}{'s':>7}")
    good = True
    for name, (data, y, x) in sets.items():
        for REML in (True, False):
            theirs = lme4(data, y, x, REML)
            kind = "REML" if REML else "ML"
            line(f"{name} {kind} lme4", theirs)
            ways = {"ours": lambda d=data, y=y, x=x, r=REML: ours(d, y, x, r)}
            if not REML:
                ways["linearised"] = lambda d=data, y=y, x=x: linearised(d, y, x)
            for way, estimate in ways.items():
                begun = time.perf_counter()
                found = estimate()
                seconds = time.perf_counter() - begun
                apart = float(np.max(np.abs(found / theirs - 1)))
                line(f"{name} {kind} {way}", found, f"{100 * apart:14.5f}%{seconds:7.2f}")
                good &= apart < BAR
    return good


def line(title: str, values: np.ndarray, more: str = "") -> None:
    """One line of estimates."""
    print(f"{title:34}" + "".join(f"{value:16.6g}" for value in values) + more, flush=True)


def faithful(data: pd.DataFrame, seeds: int) -> bool:
    """The authors' example from several starts; whether all are within their tolerance."""
    z = data.assign(**{c: (data[c] - data[c].mean()) / data[c].std() for c in ("age", "distance")})
    theirs = lme4(z, "distance", "age", True)
    reach = np.array([0.1467, 0.0547, 0.44])
    print(f"\n{'the example':20}{'intercept':>12}{'slope':>10}{'var(intercept)':>16}{'sigma^2':>10}{'within':>9}")
    print(f"{'lme4, REML':20}{theirs[0]:12.4f}{theirs[1]:10.4f}{theirs[2]:16.4f}{theirs[5]:10.4f}")
    print(f"{'the tolerance':20}{reach[0]:12.4f}{reach[1]:10.4f}{reach[2]:16.4f}")
    good = True
    for seed in range(1, seeds + 1):
        fit = pylmernn.lmernn(
            "distance ~ nn(age, hidden=c(), standardize=FALSE) + (nn | Subject)",
            z,
            seed=seed,
            control=Control(training=Training(epochs=200, preset="faithful")),
        )
        found = numbers(fit.fixef().iloc[:2], fit.VarCorr()["Subject"].to_numpy()[::-1, ::-1], fit.sigma())
        inside = bool((np.abs(found[:3] - theirs[:3]) < reach).all())
        text = f"{found[0]:12.4f}{found[1]:10.4f}{found[2]:16.4f}{found[5]:10.4f}{inside!s:>9}"
        print(f"{f'faithful, seed {seed}':20}{text}", flush=True)
        good &= inside
    return good


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="starts of the authors' example")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    orthodont = pd.read_csv(DATA)
    sets = {
        "Orthodont": (orthodont, "distance", "age"),
        "sleepstudy": (pylmernn.datasets.load("sleepstudy"), "Reaction", "Days"),
    }
    alike = compare(sets)
    inside = faithful(orthodont, options.seeds)
    print(f"\nall within 1% of lme4: {alike}; the authors' example within their tolerance: {inside}")


if __name__ == "__main__":
    main()
