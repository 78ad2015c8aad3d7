"""Verbs of generalized fits with networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.fit.losses import loss_of
from pylmernn.training.options import Training

FORMULA = "y ~ treat + nn(x, noise, hidden = c(16, 8)) + (1 | g)"
QUICK = Control(training=Training(epochs=60, folds=2, learning_rate=1e-2))


def simulate(n, seed=0):
    rng = np.random.default_rng(seed)
    d = pd.DataFrame({"x": rng.uniform(-2, 2, n), "noise": rng.normal(size=n), "g": rng.integers(0, 40, n)})
    d["treat"] = rng.integers(0, 2, n)
    b = np.random.default_rng(9).normal(size=40)
    d["eta"] = 2.5 * np.sin(2 * d["x"]) + d["treat"] + b[d["g"]] - 0.5
    d["y"] = (rng.uniform(size=n) < expit(d["eta"])).astype(float)
    return d


@pytest.fixture(scope="module")
def data():
    return simulate(1500)


@pytest.fixture(scope="module")
def fit(data):
    return pylmernn.glmernn(FORMULA, data, control=QUICK, seed=1)


def test_predictions_hold_the_network(fit, data):
    np.testing.assert_allclose(fit.predict(data, type="response"), fit.fitted(), atol=0.25)
    new = simulate(1500, seed=4)
    assert np.corrcoef(fit.predict(new), new["eta"])[0, 1] > 0.9
    np.testing.assert_allclose(logit(fit.predict_proba(new)["1"]), fit.predict(new), rtol=1e-6)
    assert fit.history()["loss"].notna().all()
    assert fit.plot("history").get_ylabel() == "mean deviance"


def test_standard_errors_grow_by_the_network(fit, data):
    import dataclasses

    new = data.head(40)
    with_f = fit.predict(new, se_fit=True)["se"]
    known = dataclasses.replace(fit.estimates, networks=None)
    frozen = type(fit)(dataclasses.replace(fit.design, nets=()), known, fit.frame, fit.call)
    without = frozen.predict(se_fit=True)["se"][:40]
    assert (with_f.to_numpy() > without.to_numpy() * 0.999).all()
    assert with_f.mean() > 1.05 * without.mean()
    far = fit.predict(new.assign(g=99), allow_new_levels=True, interval="confidence", type="response")
    assert ((far["lwr"] < far["fit"]) & (far["fit"] < far["upr"])).all()


def test_importance_is_a_share_of_the_deviance(fit):
    table = fit.importance().set_index("input")["importance"]
    assert table["x"] > 0.1
    assert table["x"] > 10 * abs(table["noise"])
    loss = loss_of(fit.design, fit.estimates, fit.estimates.networks)
    rows = np.arange(fit.design.n)
    y, p = fit.design.y, fit.fitted().to_numpy()
    share = y.mean()
    null = -2 * (share * np.log(share) + (1 - share) * np.log(1 - share))
    ours = -2 * np.mean(np.log(np.where(y == 1, p, 1 - p)))
    assert loss.value(fit.estimates.networks.fitted, rows) == pytest.approx(ours / null, rel=1e-9)
    text = " ".join(str(fit.summary()).split())
    assert "of the deviance of y" in text
    assert "rise of the deviance of" in text
    assert "method alternating" in text
    assert "deviance when permuted" in fit.plot("importance").get_xlabel()


def test_partial_dependence_is_on_the_scale_of_the_link(fit):
    curve = fit.partial_dependence("x")
    assert np.corrcoef(curve["f"], np.sin(2 * curve["x"]))[0, 1] > 0.9


def test_refits_keep_the_networks(fit, data):
    again = fit.refit(data["y"])
    assert again.estimates.networks is fit.estimates.networks
    assert again.estimates.method == "alternating"
    np.testing.assert_allclose(again.fixef(), fit.fixef(), atol=1e-5)
    np.testing.assert_allclose(again.predict(data.head()), fit.predict(data.head()), atol=1e-4)
    draws = fit.simulate(2, seed=1)
    assert set(np.unique(draws)) == {0.0, 1.0}
    booted = fit.bootMer(lambda f: f.fixef(), nsim=2, seed=1)
    assert booted.n_failed == 0


def test_updating_the_formula_chooses_the_method_again(fit, data):
    plain = fit.update("y ~ treat + x + (1 | g)")
    assert plain.estimates.method == "pirls"
    short = Control(training=Training(epochs=2, folds=0))
    neural = plain.update(". ~ . + nn(x, hidden = 4)", control=short)
    assert neural.estimates.method == "alternating"
    table = plain.anova(neural)
    assert any("trained anew" in line for line in table.heading)


def test_a_saved_fit_is_the_same(fit, data, tmp_path):
    fit.save(tmp_path / "fit.safetensors")
    after = pylmernn.load(tmp_path / "fit.safetensors")
    assert str(after.summary()) == str(fit.summary())
    pd.testing.assert_frame_equal(after.predict_proba(data.head()), fit.predict_proba(data.head()))
    pd.testing.assert_frame_equal(after.predict(data.head(), se_fit=True), fit.predict(data.head(), se_fit=True))


def test_residuals_and_modes(fit):
    assert fit.deviance() == pytest.approx((fit.residuals() ** 2).sum())
    assert fit.ranef(condVar=True).condsd()["g"].gt(0).all().all()


def test_the_size_of_errors_is_read_off_many_rows_and_guessed_of_few():
    from pylmernn.engines.network_variance import USUAL_SLOPE, drawn_slope

    rng = np.random.default_rng(0)
    v = rng.uniform(0, 0.5, 200_000)
    squares = (1 + 9 * v) * rng.chisquare(1, len(v))
    assert drawn_slope(squares, v, np.full(len(v), 0.2)) == pytest.approx(9.0, abs=0.2)
    few = slice(0, 20)
    assert drawn_slope(squares[few], 1e-3 * v[few], np.full(20, 0.2)) == pytest.approx(USUAL_SLOPE, abs=0.1)
    assert drawn_slope(squares[few], np.ones(20), np.ones(20)) == USUAL_SLOPE
