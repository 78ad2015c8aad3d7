"""The EM method: its fixed point is the maximum of the likelihood; variances and f are recovered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from designs import random_design

import pylmernn
from pylmernn.engines import profiled
from pylmernn.engines.control import Control
from pylmernn.engines.menets import EffectsByEM
from pylmernn.training.options import Training

QUICK = Control(training=Training(epochs=20, folds=0))


@pytest.mark.parametrize("shape", ["one", "slope", "double_bar"])
def test_em_steps_lead_to_maximum_likelihood(shape):
    design = random_design(shape)
    em = EffectsByEM(design)
    for _ in range(2000):
        em.update(design.y)
    exact = profiled.fit(design, REML=False)
    assert em.sigma == pytest.approx(exact.sigma, rel=1e-3)
    np.testing.assert_allclose(np.abs(em.theta()), np.abs(exact.theta), atol=0.05)  # EM is slow near a boundary
    assert profiled.devfun(design, REML=False)(em.theta()) == pytest.approx(exact.objective, abs=0.02)
    np.testing.assert_allclose(em.beta, exact.beta, rtol=1e-2, atol=0.2)


def test_em_never_lowers_the_likelihood():
    design = random_design("slope")
    objective = profiled.devfun(design, REML=False)
    em = EffectsByEM(design)
    values = []
    for _ in range(60):
        em.update(design.y)
        values.append(objective(em.theta()))
    assert values[-1] < values[0]
    assert np.diff(values[5:]).max() < 1e-3


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(1)
    n = 2500
    d = pd.DataFrame(rng.uniform(-2, 2, (n, 2)), columns=["x", "z"])
    d["t"], d["g"], d["h"] = rng.uniform(-1, 1, n), rng.integers(0, 60, n), rng.integers(0, 5, n)
    b = rng.normal(size=(60, 2)) * [1.0, 0.7]
    d["f"] = np.sin(2 * d["x"]) + d["x"] * d["z"]
    d["y"] = d["f"] + b[d["g"], 0] + b[d["g"], 1] * d["t"] + 0.5 * rng.normal(size=n)
    return d


def test_variances_and_f_are_recovered(train):
    fit = pylmernn.lmernn("y ~ nn(x, z, hidden = c(40, 20)) + (t | g)", train, method="menets", control=QUICK, seed=1)
    sd = fit.VarCorr().stddev("g")
    assert 0.42 < fit.sigma() < 0.58
    assert sd["(Intercept)"] == pytest.approx(1.0, abs=0.25)
    assert sd["t"] == pytest.approx(0.7, abs=0.2)
    assert np.corrcoef(fit.predict(re_form="NA"), train["f"])[0, 1] > 0.98
    assert fit.estimates.method == "menets"
    assert len(fit.history()) == 20


@pytest.mark.parametrize(
    ("random", "message"),
    [("(1 | g) + (1 | h)", "takes one grouping factor, not 2"), ("gp(x, z)", "fits no fields")],
)
def test_models_that_it_does_not_fit(train, random, message):
    with pytest.raises(pylmernn.DesignError, match=message):
        pylmernn.lmernn(f"y ~ nn(x, z) + {random}", train.head(300), method="menets", control=QUICK)
