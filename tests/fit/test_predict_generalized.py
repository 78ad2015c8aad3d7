"""Predictions of generalized models: standard errors, limits, means over new levels, probabilities and classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

import pylmernn
from pylmernn import DesignError, datasets

DATA = Path(__file__).parent.parent / "golden" / "glmm_data"
FORMULA = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@pytest.fixture(scope="module")
def cbpp():
    return datasets.read(DATA, "cbpp")


@pytest.fixture(scope="module")
def fit(cbpp):
    return pylmernn.glmernn(FORMULA, cbpp)


@pytest.fixture(scope="module")
def bacteria():
    return datasets.read(DATA, "bacteria")


@pytest.fixture(scope="module")
def binary(bacteria):
    return pylmernn.glmernn("y ~ trt + (1 | ID)", bacteria)


@pytest.fixture(scope="module")
def counts():
    return pylmernn.glmernn("y ~ lbase + trt + (1 | subject)", datasets.read(DATA, "epil"), "poisson")


def joint_covariance(fit, curvature):
    """Of (beta, b) by inverting their whole information matrix."""
    term, theta = fit.design.random[0], fit.estimates.theta[0]
    XZ = np.hstack([fit.design.X, np.eye(term.n_levels)[term.codes]])
    information = XZ.T @ (curvature[:, None] * XZ)
    information[fit.design.p :, fit.design.p :] += np.eye(term.n_levels) / theta**2
    return XZ, np.linalg.inv(information)


def test_standard_errors_are_those_of_the_joint_normal(fit, cbpp):
    mu = fit.fitted().to_numpy()
    XZ, covariance = joint_covariance(fit, cbpp["size"].to_numpy() * mu * (1 - mu))
    se = np.sqrt(np.einsum("ij,jk,ik->i", XZ, covariance, XZ))
    np.testing.assert_allclose(fit.predict(se_fit=True)["se"], se, rtol=1e-7)
    np.testing.assert_allclose(fit.predict(cbpp, se_fit=True)["se"], se, rtol=1e-7)
    response = fit.predict(type="response", se_fit=True)
    np.testing.assert_allclose(response["se"], se * mu * (1 - mu), rtol=1e-7)
    np.testing.assert_allclose(response["fit"], mu)


def test_without_random_effects_the_variance_is_that_of_beta(fit, cbpp):
    X, V = fit.design.X, fit.vcov(use_hessian=False).to_numpy()
    frame = fit.predict(re_form="NA", se_fit=True)
    np.testing.assert_allclose(frame["se"], np.sqrt(np.einsum("ij,jk,ik->i", X, V, X)), rtol=1e-7)
    new = fit.predict(cbpp.head(4).assign(herd="new"), allow_new_levels=True, se_fit=True)
    tau2 = fit.estimates.theta[0] ** 2
    np.testing.assert_allclose(new["se"] ** 2, frame["se"].to_numpy()[:4] ** 2 + tau2, rtol=1e-7)


def test_confidence_limits_are_carried_through_the_link(fit, cbpp):
    link = fit.predict(cbpp, interval="confidence", level=0.9)
    response = fit.predict(cbpp, interval="confidence", type="response", level=0.9)
    np.testing.assert_allclose(link["upr"] - link["fit"], norm.ppf(0.95) * link["se"])
    np.testing.assert_allclose(response["lwr"], expit(link["lwr"]))
    inverse = pylmernn.glmernn("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy"), "Gamma(inverse)")
    limits = inverse.predict(interval="confidence", type="response")
    assert (limits["lwr"] < limits["fit"]).all()
    assert (limits["fit"] < limits["upr"]).all()


def test_a_prediction_interval_is_that_of_a_new_count(counts):
    """Quantiles of the Poisson mixture over the normal linear predictor, its distribution function by integration."""
    frame = counts.predict(type="response", interval="prediction", level=0.8)
    link = counts.predict(se_fit=True)
    from scipy.stats import poisson

    for row in (0, 60, 200):
        eta, se = link["fit"].iloc[row], link["se"].iloc[row]

        def below(k, eta=eta, se=se):
            return quad(lambda t: poisson.cdf(k, np.exp(eta + se * t)) * norm.pdf(t), -8, 8)[0]

        assert below(frame["lwr"].iloc[row]) > 0.08
        assert below(frame["lwr"].iloc[row] - 1) < 0.12
        assert below(frame["upr"].iloc[row]) > 0.88
        assert below(frame["upr"].iloc[row] - 1) < 0.92
    pd.testing.assert_frame_equal(frame, counts.predict(type="response", interval=True, level=0.8))


def test_what_has_no_limits_says_so(fit, binary, bacteria):
    with pytest.raises(DesignError, match="one class or another"):
        binary.predict(type="response", interval="prediction")
    with pytest.raises(DesignError, match="type='response'"):
        fit.predict(interval="prediction")
    with pytest.raises(DesignError, match="leave out marginal"):
        fit.predict(marginal=True, se_fit=True)
    with pytest.raises(DesignError, match="names classes only"):
        fit.predict(type="class", se_fit=True)
    with pytest.raises(DesignError, match="use 'link', 'response' or 'class'"):
        fit.predict(type="terms")
    assert fit.predict(type="response", interval="prediction")["upr"].max() <= 1


def test_means_over_new_levels(fit, cbpp):
    new = cbpp.head(3).assign(herd=["1", "new", "new"])
    eta = fit.predict(new, allow_new_levels=True)
    plain = fit.predict(new, allow_new_levels=True, type="response")
    np.testing.assert_allclose(plain, expit(eta))
    marginal = fit.predict(new, allow_new_levels=True, type="response", marginal=True)
    tau = fit.estimates.theta[0]
    assert marginal.iloc[0] == pytest.approx(plain.iloc[0], abs=1e-14)
    for row in (1, 2):
        expected = quad(lambda t, e=eta.iloc[row]: expit(e + tau * t) * norm.pdf(t), -9, 9)[0]
        assert marginal.iloc[row] == pytest.approx(expected, abs=1e-9)
    simulated = fit.simulate(4000, seed=2, newdata=new, re_form=None, allow_new_levels=True).mean(axis=1)
    np.testing.assert_allclose(marginal, simulated, atol=0.03)


def test_probabilities_of_classes_by_name(binary, bacteria):
    P = binary.predict_proba(bacteria)
    np.testing.assert_allclose(P.iloc[:, 1], binary.fitted())
    np.testing.assert_allclose(P.sum(axis=1), 1.0)
    classes = binary.predict(bacteria, type="class")
    assert ((classes == P.columns[1]) == (binary.fitted() > 0.5).to_numpy()).all()
    new = bacteria.head(2).assign(ID="nobody")
    over, at_zero = (binary.predict_proba(new, allow_new_levels=True, marginal=m).iloc[0, 1] for m in (True, False))
    assert 0.5 < over < at_zero
    gap = binary.predict_proba(new.assign(trt=[None, "drug"]), allow_new_levels=True)
    assert gap.isna().all(axis=1).tolist() == [True, False]


def test_counts_have_no_classes(counts):
    with pytest.raises(DesignError, match="is for classes"):
        counts.predict_proba()


# ---- ordinal


@pytest.fixture(scope="module")
def ordered():
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"x": rng.normal(size=600), "g": rng.integers(0, 40, 600)})
    latent = 1.2 * data["x"] + rng.normal(size=40)[data["g"]] + rng.logistic(size=600)
    data["y"] = np.searchsorted([-1.0, 0.5, 2.0], latent).astype(float)
    return data


@pytest.fixture(scope="module")
def ordinal(ordered):
    return pylmernn.glmernn("y ~ x + (1 | g)", ordered, "ordinal")


def test_ordinal_probabilities(ordinal, ordered):
    alpha = ordinal.dispersion()
    below = expit(alpha - ordinal.predict().to_numpy()[:, None])
    expected = np.diff(np.column_stack([np.zeros(600), below, np.ones(600)]), axis=1)
    np.testing.assert_allclose(ordinal.fitted(), expected, atol=1e-12)
    pd.testing.assert_frame_equal(ordinal.predict_proba(ordered), ordinal.fitted())
    pd.testing.assert_frame_equal(ordinal.predict(type="response"), ordinal.fitted())
    new = ordered.head(1).assign(g=99)
    eta = ordinal.predict(new, allow_new_levels=True).iloc[0]
    tau = ordinal.estimates.theta[0]
    lowest = quad(lambda t: expit(alpha[0] - eta - tau * t) * norm.pdf(t), -9, 9)[0]
    assert ordinal.predict_proba(new, allow_new_levels=True).iloc[0, 0] == pytest.approx(lowest, abs=1e-9)
    assert list(ordinal.predict(type="class")[:3]) == [str(k) for k in expected.argmax(axis=1)[:3]]


def test_ordinal_residuals_simulation_and_text(ordinal, ordered):
    P, y = ordinal.fitted().to_numpy(), ordered["y"].to_numpy()
    loglik = np.log(P[np.arange(600), y.astype(int)]).sum()
    assert ordinal.deviance() == pytest.approx(-2 * loglik, rel=1e-12)
    np.testing.assert_allclose(ordinal.residuals("response"), y - P @ np.arange(4))
    draws = ordinal.simulate(300, seed=1, use_u=True).to_numpy()
    shares = np.stack([(draws == k).mean(axis=1) for k in range(4)], axis=1)
    assert np.abs(shares.mean(axis=0) - P.mean(axis=0)).max() < 0.01
    assert "Thresholds:" in str(ordinal.summary())
    assert "0|1" in str(ordinal.summary())
    assert ordinal.logLik().df == 5
    with pytest.raises(DesignError, match="of the linear predictor"):
        ordinal.predict(type="response", se_fit=True)
    assert ordinal.predict(se_fit=True)["se"].gt(0).all()


# ---- pictures


def test_pictures_of_classes_on_new_rows(binary, bacteria, fit, ordinal):
    pytest.importorskip("matplotlib").use("Agg")
    from pylmernn.fit.plot_classes import auc

    rows = bacteria.sample(120, random_state=1).assign(ID="new")
    p = binary.predict_proba(rows, allow_new_levels=True).iloc[:, 1].to_numpy()
    legend = binary.plot("roc", newdata=rows).get_legend().get_texts()[0].get_text()
    y = (rows["y"] == bacteria["y"].cat.categories[1]).to_numpy(dtype=float)
    assert legend == f"AUC {auc(p, y):.3f}"
    assert "probability of y" in binary.plot("calibration").get_xlabel()
    assert len(ordinal.plot("roc").get_legend().get_texts()) == 4
    figure = fit.plot("distribution", row=3)
    assert figure.axes[0].texts[0].get_text() == f"1: {fit.ranef()['herd'].loc['1'].iloc[0]:+.2f}"
    with pytest.raises(DesignError, match="counted from 0"):
        fit.plot("distribution", row=999)
    with pytest.raises(DesignError, match="for classes"):
        pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff")).plot("roc")
