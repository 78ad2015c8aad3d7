"""Residuals and standard errors of sequences of states."""

import numpy as np
import pandas as pd
import pytest
from sequence_examples import dyads

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

CONTROL = Control(training=Training(epochs=15))


def fitted(bars, data, **more):
    formula = f"state ~ x1 + nn(x2, hidden=c(2)){bars}"
    return pylmernn.glmernn(formula, data, family="crf", sequence="sequence", time="t", control=CONTROL, seed=1, **more)


@pytest.fixture(scope="module")
def data():
    return dyads(12, 20, 2)


@pytest.fixture(scope="module")
def fit(data):
    return fitted(" + (crf | dyad)", data)


def test_residuals(fit, data):
    raw, p = fit.residuals(), fit.fitted()
    assert raw.index.equals(data.index)
    np.testing.assert_allclose(raw, pd.get_dummies(data.state).to_numpy(float) - p, atol=1e-12)
    np.testing.assert_allclose(fit.resid("pearson"), raw / np.sqrt(p * (1 - p)), atol=1e-12)
    steps = fit.residuals("deviance")
    assert (steps**2).sum() == pytest.approx(fit.deviance(), rel=1e-10)
    one = data[data.sequence == "d3.1"]
    assert (steps[one.index] ** 2).sum() == pytest.approx(fit.deviance(one), rel=1e-10)
    with pytest.raises(DesignError, match="residuals of type 'working' are not known"):
        fit.residuals("working")


def test_rows_that_were_left_out_have_no_residuals(data):
    some = data[data.dyad.isin(["d0", "d1", "d2"])].copy()
    some.loc[some.index[0], "x1"] = np.nan
    fit = fitted("", some, na_action="exclude")
    for type in ("response", "pearson", "deviance"):
        found = fit.residuals(type)
        assert found.index.equals(some.index)
        assert np.isnan(np.atleast_2d(found.to_numpy().T).T[0]).all()
        assert np.isfinite(found.iloc[1:].to_numpy()).all()


def test_covariances_and_intervals(fit, tmp_path):
    beta, covariance = fit.fixef(), fit.vcov()
    assert list(covariance.index) == list(covariance.columns) == list(beta.index)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-10)
    errors = np.sqrt(np.diagonal(covariance))
    assert (errors > 0).all()
    limits = fit.confint()
    np.testing.assert_allclose(limits.mean(axis=1), beta)
    np.testing.assert_allclose(limits["97.5 %"] - limits["2.5 %"], 2 * 1.959964 * errors, rtol=1e-6)
    assert fit.confint("x1:joy", level=0.5).shape == (1, 2)
    text = str(fit)
    assert "Std. Error" in text
    assert "Their standard errors:" in text
    for asked, message in [({"parm": "x3"}, "no coefficient 'x3'"), ({"level": 2}, "level is 2"),
                           ({"method": "profile"}, "no method 'profile'")]:  # fmt: skip
        with pytest.raises(DesignError, match=message):
            fit.confint(**asked)
    path = tmp_path / "fit"
    fit.save(path)
    again = pylmernn.load(path)
    pd.testing.assert_frame_equal(again.vcov(), covariance)
    assert again.estimates.forms == fit.estimates.forms
    pd.testing.assert_series_equal(again.residuals("deviance"), fit.residuals("deviance"))


def test_bars_that_go_leave_nothing_behind():
    data = dyads(16, 20, 2, sd=0.0, seed=3)
    fit, alone = fitted(" + (nn.last | dyad) + (crf | dyad)", data), fitted("", data)
    assert fit.estimates.forms == ("zero", "zero")
    pd.testing.assert_frame_equal(fit.fitted(), alone.fitted())
    pd.testing.assert_frame_equal(fit.vcov(), alone.vcov())
    assert float(fit.logLik()) == float(alone.logLik())
    assert fit.logLik().df == alone.logLik().df
    table = fit.ranef(condVar=True)
    assert table["dyad"].shape == (16, 9 + 9)
    assert not table["dyad"].to_numpy().any()
    assert not np.concatenate([each.to_numpy() for each in fit.VarCorr().values()], axis=None).any()
    new = fit.update_ranef(data.head(20).assign(dyad="new"))
    assert new.ngrps() == {"dyad": 17}
    assert not new.ranef()["dyad"].to_numpy().any()
    with pytest.raises(DesignError, match="all groups have the same transitions in this fit"):
        fit.compare_transitions({f"d{i}": i % 2 for i in range(16)})
    np.testing.assert_array_equal(fit.transition_probabilities("d3"), fit.transition_probabilities())
    text = str(fit)
    assert text.count("its variances are zero, by Akaike's criterion") == 2


def test_a_coefficient_is_within_its_errors():
    rng, data = np.random.default_rng(0), dyads(30, 60, 2, sd=0.0, seed=6)
    data["x3"] = rng.normal(size=len(data))  # plays no part
    found = pylmernn.glmernn(
        "state ~ x3 + nn(x1, x2, hidden=c(4)) + (crf | dyad)", data, family="crf", sequence="sequence", time="t",
        control=CONTROL, seed=1,
    )  # fmt: skip
    z = found.fixef()[3:6] / np.sqrt(np.diagonal(found.vcov()))[3:6]
    assert np.abs(z).max() < 3
    assert "its variances are zero, by Akaike's criterion" in str(found)
    assert found.logLik().df == found.estimates.beta.size + 9 + found.estimates.networks.specs[0].n_parameters
    noisy = 1 / np.sqrt(len(data))
    errors = np.sqrt(np.diagonal(found.vcov()))[3:6]
    assert (errors > 0.8 * noisy).all()
    assert (errors < 4 * noisy).all()
