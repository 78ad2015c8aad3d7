"""Fits with networks, through the formula and the verbs."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.training.options import Training

QUICK = Control(training=Training(epochs=20, folds=0))


def simulate(n, seed=0):
    """A smooth function of two columns, a treatment, 60 groups."""
    rng = np.random.default_rng(seed)
    d = pd.DataFrame({"x": rng.uniform(-2, 2, n), "z": rng.uniform(-2, 2, n), "g": rng.integers(0, 60, n)})
    d["treat"] = rng.integers(0, 2, n)
    b = np.random.default_rng(99).normal(size=60)
    d["f"] = np.sin(2 * d["x"]) * d["z"]
    d["y"] = d["f"] + 1.5 * d["treat"] + b[d["g"]] + 0.5 * rng.normal(size=n)
    return d


@pytest.fixture(scope="module")
def train():
    return simulate(4000)


@pytest.fixture(scope="module")
def fit(train):
    return pylmernn.lmernn("y ~ treat + nn(x, z, hidden = c(50, 25)) + (1 | g)", train, control=QUICK, seed=1)


def test_it_finds_the_function_the_effect_and_the_variances(fit):
    new = simulate(3000, seed=7)
    error = float(np.mean((new["y"] - fit.predict(new)) ** 2))
    linear = pylmernn.lmernn("y ~ treat + x + z + (1 | g)", simulate(4000)).predict(new)
    assert error < 0.25 * 1.25  # residual variance 0.25
    assert error < 0.4 * float(np.mean((new["y"] - linear) ** 2))
    assert fit.fixef()["treat"] == pytest.approx(1.5, abs=0.1)
    assert fit.sigma() == pytest.approx(0.5, abs=0.05)
    assert fit.VarCorr().as_frame()["sdcor"][0] == pytest.approx(1.0, abs=0.25)


def test_verbs_count_the_network(fit, train):
    np.testing.assert_allclose(fit.predict(train), fit.fitted(), atol=1e-4)
    np.testing.assert_allclose(fit.residuals(), train["y"] - fit.fitted())
    np.testing.assert_allclose(fit.simulate(50, seed=1).mean(axis=1).corr(fit.predict(re_form="NA")), 1.0, atol=0.1)
    without = fit.predict(train.head(5), re_form="NA")
    unknown = fit.predict(train.head(5).assign(g=999), allow_new_levels=True)
    np.testing.assert_allclose(without, unknown)
    missing = fit.predict(train.head(2).assign(x=[np.nan, 0.0]))
    assert np.isnan(missing.iloc[0])
    assert np.isfinite(missing.iloc[1])


def test_the_summary_tells_of_the_network(fit):
    text = str(fit.summary())
    assert "nn(x, z, hidden = c(50, 25))" in text
    assert "2 inputs, hidden layers 50-25, silu, 1451 parameters" in text
    assert "take the networks as known" in text
    history = fit.history()
    assert list(history["epoch"]) == list(range(1, 21))
    assert history["validation"].iloc[-1] < history["validation"].iloc[0]
    assert fit.plot(kind="history").get_xlabel() == "epoch"


def test_a_saved_fit_predicts_the_same(fit, train, tmp_path):
    fit.save(tmp_path / "net.safetensors")
    again = pylmernn.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.predict(train.head(50)), fit.predict(train.head(50)))
    assert str(again.summary()) == str(fit.summary())


def test_refits_keep_the_networks(fit, train):
    ml = fit.refitML()
    assert ml.estimates.networks is fit.estimates.networks
    assert not ml.isREML()
    np.testing.assert_allclose(ml.predict(train.head(5)), fit.predict(train.head(5)), atol=0.01)


def test_the_seed_makes_it_repeatable(train):
    small = train.head(600)
    control = Control(training=Training(epochs=3, folds=0))
    one, two, other = (
        pylmernn.lmernn("y ~ nn(x, z) + (1 | g)", small, control=control, seed=s).predict(small) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0


def test_searches_of_theta_are_rare_where_they_are_dear():
    from pylmernn.engines.randompart import search_every

    assert search_every(0, 80_000, 8_000) == 1
    assert search_every(100, 80_000, 8_000) == 1
    assert search_every(6_000, 80_000, 8_000) > 30


def test_cross_fitting_does_not_understate_sigma():
    """Pure noise inputs and many weights: in-sample residuals would be too small."""
    rng = np.random.default_rng(3)
    n = 300
    d = pd.DataFrame(rng.normal(size=(n, 5)), columns=list("abcde")).assign(g=np.arange(n) % 15)
    d["y"] = rng.normal(size=15)[d["g"]] + rng.normal(size=n)
    training = Training(epochs=120, validation=0.0, folds=5, learning_rate=1e-2, weight_decay=1e-4)
    formula = "y ~ nn(a, b, c, d, e, hidden = c(128, 128)) + (1 | g)"
    honest = pylmernn.lmernn(formula, d, control=Control(training=training), seed=1)
    in_sample = Control(training=dataclasses.replace(training, folds=0))
    naive = pylmernn.lmernn(formula, d, control=in_sample, seed=1)
    assert naive.sigma() < 0.8
    assert honest.sigma() > 0.9
    assert "cross-fitted in 5 folds" in str(honest.summary())


def test_several_networks_and_several_factors(train):
    d = train.assign(h=np.arange(len(train)) % 7, kind=np.resize(list("abc"), len(train)))
    fit = pylmernn.lmernn("y ~ nn(x, z) + nn(kind, hidden = 4) + (1 | g) + (x | h)", d, control=QUICK, seed=1)
    assert len(fit.estimates.networks.specs) == 2
    assert set(fit.ranef()) == {"g", "h"}
    assert np.isfinite(fit.predict(d.head(3))).all()


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ nn(x, hiden = 3) + (1 | g)", "unknown option 'hiden'"),
        ("y ~ nn(x, hidden = 0) + (1 | g)", "hidden must be whole numbers"),
        ("y ~ nn(x, activation = 'sinus') + (1 | g)", "activation is 'sinus'"),
        ("y ~ nn(x, dropout = 1) + (1 | g)", "dropout is 1"),
        ("y ~ nn(x, normalization = 'group') + (1 | g)", "normalization is 'group'"),
    ],
)
def test_options_that_are_wrong(train, formula, message):
    with pytest.raises(ValueError, match=message):
        pylmernn.lmernn(formula, train)


def test_methods_that_do_not_suit(train):
    with pytest.raises(pylmernn.DesignError, match="fits no networks"):
        pylmernn.lmernn("y ~ nn(x) + (1 | g)", train, method="profiled")
    with pytest.raises(pylmernn.DesignError, match="is for networks"):
        pylmernn.lmernn("y ~ x + (1 | g)", train, method="alternating")
    with pytest.raises(pylmernn.DesignError, match="no training"):
        pylmernn.lmernn("y ~ x + (1 | g)", train).history()
    with pytest.raises(pylmernn.DesignError, match="no column"):
        pylmernn.lmernn("y ~ nn(x) + (1 | g)", train, control=QUICK).predict(train.drop(columns="x"))


def test_an_interrupted_training_keeps_the_best_weights(train, monkeypatch):
    from pylmernn.training import loop

    real, calls = loop.Trainer.epoch, []

    def stops(self, target):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(loop.Trainer, "epoch", stops)
    with pytest.warns(UserWarning, match="interrupted"):
        fit = pylmernn.lmernn("y ~ nn(x, z) + (1 | g)", train, control=QUICK, seed=1)
    assert len(fit.history()) == 3
    assert np.isfinite(fit.predict(train.head(3))).all()


def test_a_loss_that_is_not_finite_stops_with_the_epoch(train):
    wild = Control(training=Training(epochs=5, folds=0, learning_rate=1e30))
    with pytest.raises(ValueError, match="not finite in epoch 1"):
        pylmernn.lmernn("y ~ nn(x, z) + (1 | g)", train, control=wild)


def test_prior_weights_reach_the_networks():
    """Half of the rows come from another function, with next to no weight."""
    d = simulate(3000, seed=5)
    other = np.arange(len(d)) % 2 == 0
    d["y"] = np.where(other, d["y"] - 4 * d["f"], d["y"])
    d["w"] = np.where(other, 1e-3, 1.0)
    formula = "y ~ treat + nn(x, z, hidden = c(50, 25)) + (1 | g)"
    weighted = pylmernn.lmernn(formula, d, weights="w", control=QUICK, seed=1)
    plain = pylmernn.lmernn(formula, d, control=QUICK, seed=1)
    new = simulate(1000, seed=7)
    error = [float(np.mean((new["y"] - fit.predict(new)) ** 2)) for fit in (weighted, plain)]
    assert error[0] < 0.5
    assert error[1] > 1.5 * error[0]


def test_random_slopes_of_an_input_want_its_line():
    data = simulate(600)
    with pytest.warns(UserWarning, match=r"'x' has random slopes in \(x \| g\) and is an input of nn"):
        pylmernn.lmernn("y ~ nn(x, z, hidden = c(5)) + (x | g)", data, control=QUICK, seed=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*random slopes.*")
        pylmernn.lmernn("y ~ x + nn(x, z, hidden = c(5)) + (x | g)", data, control=QUICK, seed=1)
