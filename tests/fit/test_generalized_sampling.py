"""Verbs of generalized fits whose random effects were sampled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import pylmernn
from pylmernn import DesignError
from pylmernn.engines.control import Control
from pylmernn.engines.sampling_options import Sampling

CONTROL = Control(sampling=Sampling(draws=120, warmup=40))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    d = pd.DataFrame({"x": rng.normal(size=400), "g": rng.integers(0, 15, 400)})
    d["y"] = (rng.uniform(size=400) < expit(d["x"] + rng.normal(size=15)[d["g"]])).astype(float)
    return d


@pytest.fixture(scope="module")
def fit(data):
    return pylmernn.glmernn("y ~ x + (1 | g)", data, method="mcem", control=CONTROL, seed=1)


def test_the_summary_names_the_sampling(fit):
    draws = fit.draws()
    lines = str(fit.summary()).splitlines()
    assert lines[0] == "Generalized linear mixed model fit by Monte Carlo EM [merModNN]"
    assert lines[1] == "Sampled: Polya-Gamma Gibbs sampler, 2 chains of 120 draws"
    assert lines[2].strip() == f"largest R-hat {draws.rhat:.3f}, smallest ESS {draws.ess:.0f}, no divergences"
    assert draws.b[0].shape == (2, 120, 15, 1, 1)


def test_effects_and_variances_are_those_of_the_draws(fit, data):
    b = fit.draws().b[0].reshape(-1, 15).astype(float)
    modes = fit.ranef(condVar=True)
    np.testing.assert_allclose(modes.condsd()["g"].iloc[:, 0], b.std(axis=0), rtol=1e-4)
    assert np.abs(modes["g"].iloc[:, 0].to_numpy() - b.mean(axis=0)).max() < 4 * b.std(axis=0).max() / np.sqrt(60)
    pytest.importorskip("matplotlib").use("Agg")
    lines = fit.plot("ranef").axes[0].collections
    assert sum(len(line.get_segments()) for line in lines) == 15
    laplace = pylmernn.glmernn("y ~ x + (1 | g)", data, nAGQ=9)
    np.testing.assert_allclose(fit.predict(data), laplace.predict(data), atol=0.25)


def test_a_saved_fit_is_the_same(fit, data, tmp_path):
    fit.save(tmp_path / "fit.safetensors")
    after = pylmernn.load(tmp_path / "fit.safetensors")
    assert str(after.summary()) == str(fit.summary())
    for one, two in zip(after.draws().b, fit.draws().b, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(after.draws().variances, fit.draws().variances)
    assert after.draws().names == fit.draws().names
    np.testing.assert_array_equal(after.estimates.mode_variances[0], fit.estimates.mode_variances[0])


def test_refits_sample_again(fit, data):
    again = fit.refit(data["y"])
    assert again.estimates.method == "mcem"
    assert again.draws().n_draws == 120
    np.testing.assert_allclose(again.fixef(), fit.fixef(), atol=0.05)


def test_new_rows_turn_means_into_modes(fit, data):
    after = fit.update_random_effects(data.head(5).assign(g=99, y=1.0))
    assert after.ranef()["g"].loc["99"].iloc[0] > 0
    assert after.ranef(condVar=True).condsd()["g"].shape == (16, 1)
    with pytest.raises(DesignError, match="has no draws"):
        after.draws()
