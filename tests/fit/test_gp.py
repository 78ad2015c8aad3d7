"""gp() through the formula and the verbs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import pylmernn
from pylmernn.formula.design import DesignError


@pytest.fixture(scope="module")
def data():
    """120 locations, 20 groups: field sd 1.5, length-scale 1.5, group sd 0.7, residual sd 1."""
    rng = np.random.default_rng(3)
    n, q = 1500, 120
    places = rng.uniform(0, 10, (q, 2))
    K = 1.5**2 * np.exp(-(cdist(places, places) ** 2) / (2 * 1.5**2))
    field = np.linalg.cholesky(K + 1e-8 * np.eye(q)) @ rng.normal(size=q)
    at, g = rng.integers(0, q, n), rng.integers(0, 20, n)
    d = pd.DataFrame({"lon": places[at, 0], "lat": places[at, 1], "x": rng.normal(size=n), "g": g})
    d["field"] = field[at]
    d["y"] = 1 + 2 * d["x"] + d["field"] + 0.7 * rng.normal(size=20)[g] + rng.normal(size=n)
    return d


@pytest.fixture(scope="module")
def fit(data):
    return pylmernn.lmernn("y ~ x + gp(lon, lat) + (1 | g)", data)


def test_it_finds_field_and_groups(fit, data):
    found = fit.VarCorr().as_frame().set_index(["grp", "var1"])["sdcor"]
    assert found["gp(lon, lat)", "exp_quad"] == pytest.approx(1.5, rel=0.4)
    assert found["gp(lon, lat)", "lscale"] == pytest.approx(1.5, rel=0.2)
    assert found["g", "(Intercept)"] == pytest.approx(0.7, rel=0.4)
    assert fit.sigma() == pytest.approx(1.0, rel=0.06)
    values = fit.ranef()["gp(lon, lat)"]["exp_quad"]
    truth = data.drop_duplicates(["lon", "lat"]).sort_values(["lon", "lat"])["field"]
    assert np.corrcoef(values, truth)[0, 1] > 0.97


def test_a_wide_field_of_independent_locations_is_a_random_intercept(data):
    """Where no two locations are close, the field is one independent effect a location."""
    far = data.assign(lon=data["lon"] * 1e3, lat=data["lat"] * 1e3)
    far["place"] = far["lon"].astype(str) + far["lat"].astype(str)
    bars = pylmernn.lmernn("y ~ x + (1 | place)", far)
    field = pylmernn.lmernn("y ~ x + gp(lon, lat)", far.assign(lon=far.groupby("place").ngroup() * 1e6, lat=0.0))
    assert field.REMLcrit() <= bars.REMLcrit() + 1e-3


def test_the_summary_shows_the_length_scale(fit):
    text = str(fit.summary())
    assert "gp(lon, lat) exp_quad" in text
    assert "lscale" in text
    assert "gp(lon, lat), 120; g, 20" in text


def test_prediction_at_known_and_new_locations(fit, data):
    np.testing.assert_allclose(fit.predict(data), fit.fitted(), atol=1e-9)
    near = data.head(20).assign(lon=data["lon"].head(20) + 1e-6)
    np.testing.assert_allclose(fit.predict(near), fit.fitted().head(20), atol=1e-4)
    away = data.head(3).assign(lon=1e4)
    np.testing.assert_allclose(fit.predict(away, re_form="~ (1 | g)"), fit.predict(away), atol=1e-9)
    missing = fit.predict(data.head(2).assign(lat=[np.nan, data["lat"].iloc[1]]))
    assert np.isnan(missing.iloc[0])
    assert np.isfinite(missing.iloc[1])
    limits = fit.predict(away, interval="prediction")
    known = fit.predict(data.head(3), interval="prediction")
    assert (limits["se"] > known["se"]).all()


def test_simulations_have_the_field(fit):
    draws = fit.simulate(200, seed=1)
    assert draws.to_numpy().var() == pytest.approx(4 + 0.5 + 1 + fit.VarCorr().terms[0].vcov[0, 0], rel=0.25)
    assert fit.simulate(2, seed=3).equals(fit.simulate(2, seed=3))


def test_a_saved_fit_is_the_same(fit, data, tmp_path):
    fit.save(tmp_path / "gp.safetensors")
    again = pylmernn.load(tmp_path / "gp.safetensors")
    new = data.head(5).assign(lat=data["lat"].head(5) + 0.1)
    np.testing.assert_array_equal(again.predict(new), fit.predict(new))
    assert str(again.summary()) == str(fit.summary())


def test_other_verbs(fit, data):
    other = pylmernn.lmernn("y ~ x + (1 | g)", data, REML=False)
    table = pylmernn.lmernn("y ~ x + gp(lon, lat) + (1 | g)", data, REML=False).anova(other)
    assert table["Chisq"].iloc[-1] > 100
    assert table["Df"].iloc[-1] == 2
    again = fit.refit(data["y"] + 1.0)
    np.testing.assert_allclose(again.fixef()["x"], fit.fixef()["x"], rtol=1e-4)
    assert list(fit.getME("theta").index)[:2] == ["gp(lon, lat).exp_quad", "gp(lon, lat).lscale"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("y ~ x + gp()", "name the columns of the coordinates"),
        ("y ~ x + gp(lon, lat, cov = 'cubic')", "use one of exp_quad, matern32"),
        ("y ~ x + gp(lon, lat, scale = 2)", "unknown option 'scale'"),
        ("y ~ x + gp(lon, lat) + gp(lon, lat, cov = 'matern32')", "stands in the formula twice"),
        ("y ~ x + gp(f, lat)", "the coordinate 'f' is text or a factor"),
        ("y ~ x + gp(one)", "all rows are at one location"),
    ],
)
def test_messages(data, text, message):
    with pytest.raises(DesignError, match=message):
        pylmernn.lmernn(text, data.assign(f="a", one=1.0))


def test_which_random_effects_take_part(fit, data):
    new = data.head(4)
    whole = fit.predict(new) - fit.predict(new, re_form="NA")
    parts = [fit.predict(new, re_form=form, random_only=True) for form in ("~ gp(lon, lat)", "~ (1 | g)")]
    np.testing.assert_allclose(parts[0] + parts[1], whole, atol=1e-9)
    assert fit.simulate(1, seed=1, newdata=new.assign(lon=3.3)).shape == (4, 1)
    assert list(fit.coef()) == ["g"]
    tidy = fit.tidy(conf_int=True, conf_method="Wald")
    assert tidy["term"].tolist()[2:4] == ["sd__exp_quad", "lscale"]


def test_profiles_say_that_fields_have_none(fit):
    with pytest.raises(DesignError, match=r"gp\(lon, lat\): profiles are for bars"):
        fit.profile()
    with pytest.raises(DesignError, match="is for bars"):
        fit.getME("Lambda")
    assert fit.getME("devfun")(fit.estimates.theta) == pytest.approx(fit.REMLcrit(), abs=1e-9)
    assert (fit.getME("lower") == 0).all()


def test_leverages_count_the_field(fit):
    assert 20 < fit.hatvalues().sum() < 142  # two coefficients, 120 locations and 20 groups, shrunken
