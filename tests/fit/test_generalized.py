"""Verbs and messages of generalized models."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn import DesignError, datasets

DATA = Path(__file__).parent.parent / "golden" / "glmm_data"
FORMULA = "cbind(incidence, size - incidence) ~ period + (1 | herd)"

#: lme4 1.1-31's text of ``summary(glmer(...))``, at the exact optimum and Hessian, without spaces at line ends.
SUMMARY = """\
Generalized linear mixed model fit by maximum likelihood (Laplace
  Approximation) [merModNN]
 Family: binomial  ( logit )
Formula: cbind(incidence, size - incidence) ~ period + (1 | herd)
   Data: cbpp

     AIC      BIC   logLik deviance df.resid
   194.1    204.2    -92.0    184.1       51

Scaled residuals:
    Min      1Q  Median      3Q     Max
-2.3818 -0.7888 -0.2024  0.5146  2.8796

Random effects:
 Groups Name        Variance Std.Dev.
 herd   (Intercept) 0.4125   0.6423
Number of obs: 56, groups:  herd, 15

Fixed effects:
            Estimate Std. Error z value Pr(>|z|)
(Intercept)  -1.3985     0.2325  -6.016 1.79e-09 ***
period2      -0.9923     0.3066  -3.236 0.001212 **
period3      -1.1287     0.3266  -3.455 0.000549 ***
period4      -1.5803     0.4274  -3.697 0.000218 ***
---
Signif. codes:  0 ‘***’ 0.001 ‘**’ 0.01 ‘*’ 0.05 ‘.’ 0.1 ‘ ’ 1

Correlation of Fixed Effects:
        (Intr) perid2 perid3
period2 -0.364
period3 -0.340  0.278
period4 -0.261  0.212  0.196"""


@pytest.fixture(scope="module")
def cbpp():
    data = datasets.read(DATA, "cbpp")
    data.attrs["name"] = "cbpp"
    return data


@pytest.fixture(scope="module")
def fit(cbpp):
    return pylmernn.glmernn(FORMULA, cbpp)


def test_summary_is_lme4s_text(fit):
    text = "\n".join(line.rstrip() for line in str(fit.summary()).split("\n"))
    assert text == SUMMARY
    assert "Adaptive\n  Gauss-Hermite Quadrature, nAGQ = 9)" in str(fit.update(nAGQ=9))


def test_the_four_ways_to_write_a_binomial_response(fit, cbpp):
    long = cbpp.loc[cbpp.index.repeat(cbpp["size"])].copy()
    trial = long.groupby(level=0).cumcount()
    long["yes"] = (trial < long["incidence"]).astype(float)
    long["sick"] = pd.Categorical(np.where(long["yes"] == 1, "sick", "well"), categories=["well", "sick"])
    long["logical"] = long["yes"] == 1
    weighted = pylmernn.glmernn("incidence / size ~ period + (1 | herd)", cbpp, weights="size")
    assert weighted.estimates.objective == pytest.approx(fit.estimates.objective, abs=1e-8)
    fits = [pylmernn.glmernn(f"{name} ~ period + (1 | herd)", long) for name in ("yes", "sick", "logical")]
    for other in fits:
        np.testing.assert_allclose(other.fixef(), fit.fixef(), atol=1e-5)
        assert other.estimates.objective == pytest.approx(fits[0].estimates.objective, abs=1e-9)


def test_residuals_and_predictions_are_lme4s(fit, cbpp):
    np.testing.assert_allclose(fit.residuals()[:3], [-1.43771, 0.98847, 2.35669], atol=2e-3)
    np.testing.assert_allclose(fit.residuals("working")[:2], [-0.77537, 0.88948], atol=2e-3)
    np.testing.assert_allclose(fit.predict()[:3], [-0.80871, -1.80064, -1.93693], atol=1e-3)
    np.testing.assert_allclose(fit.predict(type="response"), fit.fitted(), rtol=1e-12)
    np.testing.assert_allclose(fit.predict(cbpp.iloc[:5]), fit.predict()[:5], rtol=1e-12)
    np.testing.assert_allclose(fit.residuals("response"), cbpp["incidence"] / cbpp["size"] - fit.fitted())
    pearson = fit.residuals("response") * np.sqrt(cbpp["size"] / (fit.fitted() * (1 - fit.fitted())))
    np.testing.assert_allclose(fit.residuals("pearson"), pearson)
    assert fit.deviance() == pytest.approx(73.47428, abs=0.01)


def test_new_levels_have_the_effect_zero(fit, cbpp):
    new = cbpp.iloc[:2].assign(herd=["99", "1"])
    with pytest.raises(DesignError, match="new levels"):
        fit.predict(new)
    ours = fit.predict(new, allow_new_levels=True)
    assert ours.iloc[0] == pytest.approx(fit.predict(new, re_form="NA").iloc[0])


def test_conditional_variances_are_lme4s(fit):
    frame = fit.ranef(condVar=True).as_frame()
    np.testing.assert_allclose(frame["condsd"][:3], [0.34822, 0.36550, 0.29729], atol=3e-4)


def test_criteria(fit):
    assert fit.logLik().df == 5
    assert -2 * float(fit.logLik()) == fit.estimates.objective
    assert (fit.AIC(), fit.BIC()) == pytest.approx((194.0526, 204.1793), abs=1e-3)
    assert (fit.isGLMM(), fit.isLMM(), fit.isREML()) == (True, False, False)
    assert (fit.family(), fit.sigma(), fit.dispersion()) == ("binomial(logit)", 1.0, 1.0)
    assert list(fit.VarCorr().as_frame()["grp"]) == ["herd"]


def test_tests_and_intervals(fit):
    table = fit.anova(fit.update(". ~ . - period"))
    assert table["Chisq"].iloc[1] == pytest.approx(25.61, abs=0.01)
    assert fit.drop1(test="Chisq")["LRT"].iloc[1] == pytest.approx(25.61, abs=0.01)
    limits = fit.confint(parm="beta_")
    np.testing.assert_allclose(limits.loc["period2"], [-1.5933, -0.3913], atol=1e-3)
    assert list(fit.confint().index)[:2] == [".sig01", "(Intercept)"]
    assert fit.confint(method="boot", nsim=3, seed=1).notna().all().all()


def test_tidy_has_p_values(fit):
    table = fit.tidy(effects="fixed", conf_int=True)
    assert list(table.columns)[2:] == ["estimate", "std.error", "statistic", "p.value", "conf.low", "conf.high"]
    assert table["p.value"].iloc[1] == pytest.approx(0.001212, rel=1e-3)
    assert len(fit.glance()) == 1


def test_an_offset_argument_is_an_offset_term():
    data = datasets.read(DATA, "Mmmec").assign(known=lambda d: np.log(d["expected"]))
    one = pylmernn.glmernn("deaths ~ uvb + (1 | region)", data, "poisson", offset="known")
    two = pylmernn.glmernn("deaths ~ uvb + offset(log(expected)) + (1 | region)", data, "poisson")
    np.testing.assert_allclose(one.fixef(), two.fixef(), rtol=1e-8)
    np.testing.assert_allclose(one.predict(data.head()), one.predict()[:5])


def test_simulated_responses_are_counts_and_refit(fit, cbpp):
    draws = fit.simulate(200, seed=1)
    successes = draws.mul(cbpp["size"].to_numpy(), axis=0).to_numpy()
    np.testing.assert_allclose(successes, np.rint(successes), atol=1e-9)
    assert draws.to_numpy().mean() == pytest.approx(fit.fitted().mean(), abs=0.03)
    assert fit.refit(draws["sim_1"]).nobs() == 56
    pd.testing.assert_frame_equal(fit.simulate(2, seed=3), fit.simulate(2, seed=3))


def test_likelihoods_of_different_nAGQ_can_be_compared(fit):
    values = [fit.update(nAGQ=k).estimates.objective for k in (0, 1, 9, 25)]
    assert np.ptp(values) < 0.2
    assert values[2] == pytest.approx(values[3], abs=1e-4)


@pytest.mark.parametrize("family", ["binomial(probit)", "Gamma(log)"])
def test_a_saved_fit_is_the_same(family, cbpp, tmp_path):
    data = cbpp.assign(y=cbpp["size"].astype(float)) if family == "Gamma(log)" else cbpp
    formula = "y ~ period + (1 | herd)" if family == "Gamma(log)" else FORMULA
    before = pylmernn.glmernn(formula, data, family)
    before.save(tmp_path / "fit.safetensors")
    after = pylmernn.load(tmp_path / "fit.safetensors")
    assert str(after.summary()) == str(before.summary())
    assert after.dispersion() == before.dispersion()
    pd.testing.assert_series_equal(
        after.predict(data.head(), type="response"), before.predict(data.head(), type="response")
    )
    assert after.update(data=data).fixef().equals(before.fixef())


def test_pictures(fit):
    pytest.importorskip("matplotlib").use("Agg")
    for kind in ("residuals", "ranef", "qq", "calibration", "roc", "distribution"):
        assert fit.plot(kind) is not None
    with pytest.raises(DesignError, match="linear mixed models only"):
        fit.plot("shrinkage")


def test_the_model_frame_keeps_the_factor():
    bacteria = datasets.read(DATA, "bacteria")
    fit = pylmernn.glmernn("y ~ trt + (1 | ID)", bacteria)
    assert fit.model_frame()["y"].tolist() == bacteria["y"].tolist()


def test_missing_rows_are_padded(cbpp):
    holes = cbpp.assign(incidence=cbpp["incidence"].astype(float).where(cbpp.index != 4))
    fit = pylmernn.glmernn(FORMULA, holes, na_action="exclude")
    assert fit.nobs() == 55
    assert len(fit.fitted()) == 56
    assert np.isnan(fit.fitted().iloc[4])


def test_negative_binomial_and_gamma_tell_their_dispersion():
    epil = datasets.read(DATA, "epil")
    fit = pylmernn.glmernn("y ~ lbase + trt + (1 | subject)", epil, "negative.binomial")
    assert f"negative.binomial({fit.dispersion():.4g})  ( log )" in str(fit)
    assert (fit.logLik().df, fit.sigma()) == (5, 1.0)
    assert "Residual" not in str(fit.VarCorr())
    gamma = pylmernn.glmernn("Reaction ~ Days + (1 | Subject)", datasets.load("sleepstudy"), "Gamma(log)")
    assert "Residual" in str(gamma.VarCorr())
    assert gamma.sigma() == pytest.approx(np.sqrt(gamma.dispersion()))
    assert (gamma.simulate(3, seed=1) > 0).all().all()


@pytest.mark.parametrize("verb", ["profile", "influence", "hatvalues", "cooks_distance", "rstudent", "REMLcrit"])
def test_verbs_of_linear_models_say_so(fit, verb):
    with pytest.raises(DesignError, match="linear mixed models only"):
        getattr(fit, verb)()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"family": "binomal"}, "family 'binomal' is not known"),
        ({"family": "gaussian"}, "use lmernn"),
        ({"nAGQ": 2.5}, "use a whole number"),
        ({"nAGQ": 5, "formula": FORMULA + " + (1 | obs)"}, "one grouping factor"),
        ({"formula": "size ~ period + (1 | herd)"}, "a binomial response is 0 or 1"),
        ({"formula": FORMULA, "family": "poisson"}, "belongs to a binomial model"),
        ({"formula": "period ~ 1 + (1 | herd)", "family": "poisson"}, "the poisson family needs numbers"),
        ({"formula": "cbind(size - 99, size) ~ 1 + (1 | herd)"}, "counts are whole numbers"),
        ({"formula": "cbind(size) ~ 1 + (1 | herd)"}, "has 1 columns"),
        ({"formula": "cbind(0 * size, 0 * size) ~ 1 + (1 | herd)"}, "rows without trials"),
        ({"formula": "size > 0 ~ 1 + (1 | herd)"}, "has one class only, TRUE"),
        ({"formula": FORMULA + " + nn(size)", "method": "pirls"}, "fits no networks"),
        ({"method": "alternating"}, "is for networks"),
    ],
)
def test_messages(cbpp, change, message):
    with pytest.raises(DesignError, match=message):
        pylmernn.glmernn(**{"formula": FORMULA, "data": cbpp, **change})


def test_separation_is_named():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 10), "x": np.tile([0.0, 1.0], 100)})
    data["y"] = np.where(data["x"] == 1, 1.0, rng.integers(0, 2, 200))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit = pylmernn.glmernn("y ~ x + (1 | g)", data)
    assert any(str(warning.message).startswith("separation: x tells") for warning in told)
    assert np.isfinite(fit.fixef()).all()


def test_no_warning_without_reason(cbpp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pylmernn.glmernn(FORMULA, cbpp)
