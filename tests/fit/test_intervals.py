"""Intervals of predictions beside networks: exact where the network is linear, calibrated where it is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from linear_nets import linear_fit

import pylmernn
from pylmernn.engines import network_variance
from pylmernn.engines.control import Control
from pylmernn.engines.network_variance import Calibration
from pylmernn.engines.variances import prediction_variance
from pylmernn.fit.predict import rows_of_fit
from pylmernn.training.options import Training

WEIGHTS = np.array([2.0, -1.0, 0.0])


def test_a_network_without_hidden_layers_is_part_of_x():
    design, estimates = linear_fit(WEIGHTS)
    rows = rows_of_fit(design)
    found = network_variance.prediction_variance(
        design, estimates, estimates.networks, rows, calibration=Calibration(1.0, estimates.sigma**2)
    )
    X = np.column_stack([design.X, design.nets[0].inputs])
    linear = dataclasses.replace(design, X=X, fixed_names=("(Intercept)", "a", "b", "c"), nets=())
    expected = prediction_variance(linear, estimates, dataclasses.replace(rows, X=X))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (found > prediction_variance(design, estimates, rows)).all()


def test_the_level_is_the_error_of_the_mean_of_the_members():
    """Members apart from the truth by chance: each row's residual is one member's, new rows are predicted by all."""
    n, K = 3000, 4
    apart = 0.4 * np.random.default_rng(3).normal(size=(K, 3))
    fold_of = np.arange(n) // 20 % K
    learned = fold_of != np.arange(K)[:, None]
    design, estimates = linear_fit(WEIGHTS + apart, n, learned=learned)
    found = network_variance.calibrate(design, estimates, estimates.networks)
    rows = rows_of_fit(design)
    given_f = prediction_variance(design, estimates, rows)
    whole = network_variance.prediction_variance(design, estimates, estimates.networks, rows, calibration=found)
    expected = 0.7**2 + np.sum(apart.mean(axis=0) ** 2)
    assert estimates.sigma**2 > 1.2 * expected  # that of single members
    assert found.noise + np.mean(whole - given_f) == pytest.approx(expected, rel=0.08)
    assert found.slope >= 1


def test_nothing_held_out_leaves_sigma():
    design, estimates = linear_fit(WEIGHTS, learned=np.ones((1, 400), dtype=bool))
    assert network_variance.calibrate(design, estimates, estimates.networks) == Calibration(1.0, estimates.sigma**2)


def simulate(n, seed, levels=60):
    rng = np.random.default_rng(seed)
    d = pd.DataFrame({"x": rng.uniform(-2, 2, n), "z": rng.uniform(-2, 2, n), "g": rng.integers(0, levels, n)})
    b = np.random.default_rng(99).normal(size=1000)
    b[:60] = (b[:60] - b[:60].mean()) / b[:60].std()  # what can be learnt from 60 levels is right
    return d.assign(y=np.sin(2 * d["x"]) * d["z"] + b[d["g"]] + 0.5 * rng.normal(size=n))


@pytest.fixture(scope="module", params=[0, 3], ids=["held_out_rows", "folds"])
def fit(request):
    control = Control(training=Training(epochs=25, folds=request.param))
    return pylmernn.lmernn("y ~ nn(x, z, hidden = c(30, 15)) + (1 | g)", simulate(1200, 0), control=control, seed=1)


@pytest.mark.parametrize("levels", [60, 1000], ids=["seen", "mostly_unseen"])
def test_intervals_cover_new_rows(fit, levels):
    new = simulate(4000, 5, levels)
    limits = fit.predict(new, allow_new_levels=True, interval=True, level=0.9)
    covered = ((new["y"] >= limits["lwr"]) & (new["y"] <= limits["upr"])).mean()
    assert 0.87 < covered < 0.93


def test_standard_errors_hold_the_network(fit):
    new = simulate(50, 6)
    limits = fit.predict(new, interval="confidence")
    rows = fit._new_rows(new, [True])
    assert (limits["se"] ** 2 > prediction_variance(fit.design, fit.estimates, rows)).all()
    pd.testing.assert_frame_equal(fit.predict(new, interval=True), fit.predict(new, interval="prediction"))
    np.testing.assert_allclose(fit.predict(new), limits["fit"])
    population = fit.predict(new, re_form="NA", se_fit=True)
    assert (population["se"] > 0).all()
    far = fit.predict(new.assign(x=20.0, z=20.0), se_fit=True)["se"]
    assert far.min() > limits["se"].max()


def test_missing_inputs_and_wrong_kinds(fit):
    new = simulate(3, 6).assign(x=[np.nan, 0.0, 1.0])
    limits = fit.predict(new, interval=True)
    assert limits.iloc[0].isna().all()
    assert limits.iloc[1:].notna().all(axis=None)
    with pytest.raises(pylmernn.DesignError, match="interval is 'both'"):
        fit.predict(new, interval="both")


def test_a_saved_fit_has_the_same_intervals(fit, tmp_path):
    new = simulate(20, 6)
    fit.save(tmp_path / "fit.safetensors")
    again = pylmernn.load(tmp_path / "fit.safetensors")
    pd.testing.assert_frame_equal(again.predict(new, interval=True), fit.predict(new, interval=True))
