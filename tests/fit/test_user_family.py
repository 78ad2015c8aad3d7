"""Verbs of fits whose family the user wrote."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import pylmernn
from pylmernn import DesignError
from pylmernn.families.user import UserFamily


def log_density(y, eta, phi):
    """Zero-inflated Poisson; phi[0] are the odds of a sure zero."""
    import torch

    sure = torch.where(y == 0, phi[0].log(), -torch.inf)
    return torch.logaddexp(sure, y * eta - eta.exp() - torch.lgamma(y + 1)) - torch.log1p(phi[0])


def draw(rng, mu, phi):
    return np.where(rng.uniform(size=len(mu)) < phi[0] / (1 + phi[0]), 0, rng.poisson(mu)).astype(float)


ZIP = UserFamily("zip", log_density, "log", {"odds": 0.5}, mean=lambda mu, phi: mu / (1 + phi[0]), draw=draw)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    d = pd.DataFrame({"x": rng.normal(size=500), "g": rng.integers(0, 25, 500)})
    mu = np.exp(0.8 + 0.5 * d["x"] + 0.5 * rng.normal(size=25)[d["g"]])
    d["y"] = draw(rng, mu, [0.4])
    return d


@pytest.fixture(scope="module")
def fit(data):
    return pylmernn.glmernn("y ~ x + (1 | g)", data, ZIP)


def test_means_are_the_familys(fit, data):
    mu = np.exp(fit.predict()) / (1 + fit.dispersion())
    np.testing.assert_allclose(fit.fitted(), mu)
    np.testing.assert_allclose(fit.predict(data, type="response"), mu)
    np.testing.assert_allclose(fit.residuals("response"), data["y"] - mu)
    errors = fit.predict(data, type="response", se_fit=True)
    np.testing.assert_allclose(errors["se"], mu * fit.predict(se_fit=True)["se"], rtol=1e-6)


def test_means_over_new_levels_are_the_familys(fit, data):
    new = data.head(2).assign(g=99)
    variance = fit.estimates.theta[0] ** 2
    at_zero = fit.predict(new, allow_new_levels=True, type="response")
    over = fit.predict(new, allow_new_levels=True, type="response", marginal=True)
    np.testing.assert_allclose(over, at_zero * np.exp(variance / 2), rtol=1e-9)


def test_a_prediction_interval_draws_by_the_family(fit):
    frame = fit.predict(type="response", interval="prediction", level=0.9)
    inside = (frame["lwr"] <= fit.design.y) & (fit.design.y <= frame["upr"])
    assert 0.87 < inside.mean() < 1.0
    assert (frame["lwr"] == 0).all()  # a third of the rows are sure zeros
    z = norm.ppf(0.95)
    link = fit.predict(interval="confidence", level=0.9)
    np.testing.assert_allclose(link["upr"], link["fit"] + z * link["se"])


def test_update_refit_and_file(fit, data, tmp_path):
    assert fit.update(". ~ . - x").family() == "zip(log)"
    assert fit.refit(fit.simulate(1, seed=1)).family() == "zip(log)"
    fit.save(tmp_path / "fit.safetensors")
    with pytest.raises(DesignError, match="family of your own"):
        pylmernn.load(tmp_path / "fit.safetensors")
    again = pylmernn.load(tmp_path / "fit.safetensors", family=ZIP)
    pd.testing.assert_series_equal(again.predict(data.head()), fit.predict(data.head()))
    assert again.dispersion() == fit.dispersion()
