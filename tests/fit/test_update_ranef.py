"""Random effects of more rows, against the formulas with full matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit

import pylmernn
from pylmernn import DesignError, datasets
from pylmernn.engines.control import Control
from pylmernn.training.options import Training

DATA = Path(__file__).parent.parent / "golden" / "glmm_data"


@pytest.fixture(scope="module")
def sleep():
    return datasets.load("sleepstudy")


def blup(fit, rows):
    """``Sigma Z' V^-1 (y - X beta)`` of the rows, levels by columns."""
    groups = pd.factorize(rows["Subject"], sort=True)
    X = np.column_stack([np.ones(len(rows)), rows["Days"]])
    Sigma = fit.VarCorr()["Subject"].to_numpy()
    Z = np.zeros((len(rows), 2 * len(groups[1])))
    for i, (g, x) in enumerate(zip(groups[0], X, strict=True)):
        Z[i, 2 * g : 2 * g + 2] = x
    prior = np.kron(np.eye(len(groups[1])), Sigma)
    V = Z @ prior @ Z.T + fit.sigma() ** 2 * np.eye(len(rows))
    b = prior @ Z.T @ np.linalg.solve(V, rows["Reaction"] - X @ fit.fixef())
    return pd.DataFrame(b.reshape(-1, 2), index=groups[1].astype(str))


@pytest.mark.parametrize("REML", [True, False])
def test_linear_effects_are_the_best_predictions_of_all_rows(sleep, REML):
    old = sleep[(sleep["Subject"] != "372") & (sleep["Days"] < 8)]
    new = sleep.drop(old.index)
    fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", old, REML=REML)
    after = fit.update_random_effects(new)
    expected = blup(fit, sleep)
    ours = after.ranef()["Subject"]
    np.testing.assert_allclose(ours.loc[expected.index], expected, rtol=1e-7)
    assert ours.index[-1] == "372"
    assert after.nobs() == len(sleep)
    assert after.fixef().equals(fit.fixef())
    assert after.sigma() == fit.sigma()
    assert str(after.VarCorr()) == str(fit.VarCorr())
    np.testing.assert_allclose(after.predict(new), after.fitted().loc[new.index], rtol=1e-9)
    assert after.model_frame()["Reaction"].tolist() == pd.concat([old, new])["Reaction"].tolist()
    assert after.predict(new, se_fit=True)["se"].gt(0).all()


def test_twice_is_once_and_nothing_new_changes_nothing(sleep):
    fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", sleep[sleep["Days"] < 6])
    six, seven = sleep[sleep["Days"] == 6], sleep[sleep["Days"] == 7]
    twice = fit.update_random_effects(six).update_random_effects(seven)
    once = fit.update_random_effects(pd.concat([six, seven]))
    pd.testing.assert_frame_equal(twice.ranef()["Subject"], once.ranef()["Subject"])
    holes = pd.concat([six, seven.assign(Reaction=np.nan)])
    np.testing.assert_allclose(
        fit.update_random_effects(holes).ranef()["Subject"], fit.update_random_effects(six).ranef()["Subject"]
    )


def test_generalized_effects_minimize_the_penalized_deviance():
    cbpp = datasets.read(DATA, "cbpp")
    fit = pylmernn.glmernn("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp[cbpp["herd"] != "15"])
    new = cbpp[cbpp["herd"] == "15"]
    after = fit.update_random_effects(new)
    pd.testing.assert_frame_equal(after.ranef()["herd"].iloc[:-1], fit.ranef()["herd"], atol=1e-8)
    eta = fit.predict(new, re_form="NA").to_numpy()
    k, m, tau = new["incidence"].to_numpy(), new["size"].to_numpy(), fit.estimates.theta[0]

    def deviance(b):
        p = expit(eta + b[0])
        return -2 * np.sum(k * np.log(p) + (m - k) * np.log(1 - p)) + (b[0] / tau) ** 2

    best = minimize(deviance, [0.0], tol=1e-12).x[0]
    assert after.ranef()["herd"].loc["15"].iloc[0] == pytest.approx(best, abs=1e-5)
    assert (after.fixef().equals(fit.fixef()), after.nobs(), after.isGLMM()) == (True, 56, True)
    np.testing.assert_allclose(after.predict(new), after.predict().loc[new.index])


def test_factor_responses_crossed_factors_and_weights():
    rng = np.random.default_rng(1)
    d = pd.DataFrame({"x": rng.normal(size=300), "g": rng.integers(0, 12, 300), "h": rng.integers(0, 9, 300)})
    eta = d["x"] + rng.normal(size=12)[d["g"]] + 1.5 * rng.normal(size=9)[d["h"]]
    d["y"] = np.where(rng.uniform(size=300) < expit(eta), "yes", "no")
    fit = pylmernn.glmernn("y ~ scale(x) + (1 | g) + (1 | h)", d.head(200))
    ones = d.tail(100).query("y == 'yes'").assign(h=77)
    after = fit.update_random_effects(ones)
    assert after.ranef()["h"].loc["77"].iloc[0] > 0
    assert after.design.y[200:].tolist() == [1.0] * len(ones)
    with pytest.raises(DesignError, match="'maybe', which the fit has not seen"):
        fit.update_random_effects(ones.assign(y="maybe"))
    d["z"], d["w"] = eta + rng.normal(size=300), rng.uniform(1, 3, 300)
    weighted = pylmernn.lmernn("z ~ x + (1 | g)", d.head(200), weights="w").update_random_effects(d.tail(100))
    np.testing.assert_allclose(weighted.weights(), d["w"])
    values = pylmernn.lmernn("z ~ x + (1 | g)", d.head(200), weights=d["w"].head(200))
    with pytest.raises(DesignError, match="given as values"):
        values.update_random_effects(d.tail(100))


@pytest.mark.parametrize("family", [None, "binomial"])
def test_networks_stay(family, tmp_path):
    rng = np.random.default_rng(2)
    d = pd.DataFrame({"x": rng.uniform(-2, 2, 400), "g": rng.integers(0, 20, 400)})
    d["y"] = np.sin(d["x"]) + rng.normal(size=20)[d["g"]] + 0.5 * rng.normal(size=400)
    if family:
        d["y"] = (d["y"] > 0).astype(float)
    control = Control(training=Training(epochs=3, folds=2))
    formula, old = "y ~ nn(x, hidden = 4) + (1 | g)", d.head(300)
    fit = pylmernn.glmernn(formula, old, family, control=control, seed=1) if family else pylmernn.lmernn(
        formula, old, control=control, seed=1
    )  # fmt: skip
    after = fit.update_random_effects(d.tail(100))
    networks = after.estimates.networks
    assert networks.fitted.shape == (400,)
    assert not networks.learned[:, 300:].any()
    np.testing.assert_allclose(after.predict(d.tail(100)), after.predict().tail(100), rtol=1e-5, atol=1e-6)
    after.save(tmp_path / "fit.safetensors")
    again = pylmernn.load(tmp_path / "fit.safetensors")
    pd.testing.assert_series_equal(again.predict(d.head(5)), after.predict(d.head(5)))


def test_fields_are_refused():
    rng = np.random.default_rng(3)
    d = pd.DataFrame({"u": rng.uniform(size=60), "v": rng.uniform(size=60), "y": rng.normal(size=60)})
    fit = pylmernn.lmernn("y ~ 1 + gp(u, v)", d)
    with pytest.raises(DesignError, match="is for bars"):
        fit.update_random_effects(d.head())
