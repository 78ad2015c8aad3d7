"""Fits of lme4 from Python, comparisons, and our fits as lmerMod."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn import bridge, datasets
from pylmernn.bridge import BridgeError

pytestmark = pytest.mark.r
SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    return datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def pair(sleep):
    return pylmernn.lmernn(SLEEP, sleep), bridge.lme4.lmer(SLEEP, sleep)


def test_lmer_answers_in_our_shapes(pair):
    ours, theirs = pair
    pd.testing.assert_series_equal(theirs.fixef(), ours.fixef(), rtol=1e-8)
    pd.testing.assert_frame_equal(theirs.vcov(), ours.vcov(), rtol=1e-4)
    assert list(theirs.ranef()) == list(ours.ranef())
    pd.testing.assert_frame_equal(theirs.ranef()["Subject"], ours.ranef()["Subject"], rtol=1e-3)
    pd.testing.assert_frame_equal(theirs.VarCorr()["Subject"], ours.VarCorr()["Subject"], rtol=1e-3)
    assert theirs.sigma() == pytest.approx(ours.sigma(), rel=1e-5)
    np.testing.assert_allclose(theirs.theta, ours.estimates.theta, rtol=1e-3)
    np.testing.assert_allclose(theirs.fitted(), ours.fitted(), rtol=1e-4)
    np.testing.assert_allclose(theirs.residuals(), ours.residuals(), atol=0.01)
    assert theirs.nobs() == 180
    assert theirs.ngrps() == {"Subject": 18}
    assert theirs.isREML()
    assert not theirs.isSingular()
    assert theirs.seconds > 0


def test_arguments_reach_lme4(sleep):
    weights = 1.0 + np.arange(180) % 3
    offset = np.linspace(0, 5, 180)
    mine = {"REML": False, "weights": weights, "offset": offset, "subset": "Days > 1"}
    theirs = bridge.lmer("Reaction ~ Days + (1 | Subject)", sleep, **mine)
    ours = pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", sleep, **mine)
    assert theirs.objective == pytest.approx(ours.estimates.objective, rel=1e-7)
    assert theirs.nobs() == 144
    assert not theirs.isREML()
    positions = np.flatnonzero(sleep["Days"] > 1)
    for subset in (positions, (sleep["Days"] > 1).to_numpy()):
        again = bridge.lmer("Reaction ~ Days + (1 | Subject)", sleep, **{**mine, "subset": subset})
        assert again.objective == pytest.approx(theirs.objective, rel=1e-12)
    cake = datasets.load("cake")
    helmert = bridge.lmer("angle ~ recipe + (1 | replicate)", cake, contrasts={"recipe": "helmert"})
    assert list(helmert.fixef().index) == ["(Intercept)", "recipe1", "recipe2"]
    bobyqa = bridge.lmer(SLEEP, sleep, control="lmerControl(optimizer = 'bobyqa')")
    assert bobyqa.evaluate("fit@optinfo$optimizer").value[0] == "bobyqa"


def test_the_call_stays_short(pair):
    text = pair[1].printed("fit@call")
    assert text == "lmer(formula = Reaction ~ Days + (Days | Subject), data = data, \n    REML = TRUE)"


def test_messages_and_warnings_are_kept(sleep):
    fit = bridge.lmer("Yield ~ 1 + (1 | Batch)", datasets.load("Dyestuff2"))
    assert fit.messages == ("boundary (singular) fit: see help('isSingular')",)
    wide = sleep.assign(huge=sleep["Days"] * 1e6)
    assert any(
        "very different scales" in text for text in bridge.lmer("Reaction ~ huge + (1 | Subject)", wide).warnings
    )


def test_columns_that_r_cannot_hold_do_not_matter_unless_used(sleep):
    odd = sleep.assign(things=[object()] * 180)
    assert bridge.lmer(SLEEP, odd).nobs() == 180
    doubled = sleep.set_index(sleep["Subject"].astype(str))
    assert bridge.lmer(SLEEP, doubled).nobs() == 180


def test_rs_error_is_one_sentence(sleep):
    with pytest.raises(BridgeError, match=r"R stopped: .*nothing"):
        bridge.lmer("Reaction ~ nothing + (1 | Subject)", sleep)
    with pytest.raises(BridgeError, match="na_action is 'drop'"):
        bridge.lmer(SLEEP, sleep, na_action="drop")


def test_compare(pair):
    table = bridge.compare(*pair)
    assert list(table.loc["fixed"].index) == ["(Intercept)", "Days"]
    assert list(table.loc["sd"].index) == ["Subject (Intercept)", "Subject Days"]
    assert list(table.loc["cor"].index) == ["Subject (Intercept), Days"]
    assert not table[["pylmernn", "lme4", "difference"]].isna().any(axis=None)
    assert table["difference"].drop("seconds", level="part").abs().max() < 1e-3
    assert table.loc["objective", "difference"].item() < 1e-6
    assert table.loc["fixed", "se_difference"].abs().max() < 1e-3
    np.testing.assert_allclose(table["difference"], table["pylmernn"] - table["lme4"])
    assert (table.loc["seconds", ["pylmernn", "lme4"]] > 0).all(axis=None)


def test_compare_several_terms():
    data = datasets.load("Penicillin")
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    table = bridge.compare(pylmernn.lmernn(formula, data), bridge.lmer(formula, data))
    assert list(table.loc["sd"].index) == ["plate (Intercept)", "sample (Intercept)"]
    assert table["difference"].drop("seconds", level="part").abs().max() < 1e-3


MODELS = {
    "intercept": ("Reaction ~ Days + (1 | Subject)", "sleepstudy", {}),
    "slope, ML": (SLEEP, "sleepstudy", {"REML": False}),
    "double bar": ("Reaction ~ Days + (Days || Subject)", "sleepstudy", {}),
    "transforms": ("log(Reaction) ~ poly(Days, 2) + (scale(Days) | Subject)", "sleepstudy", {}),
    "crossed": ("diameter ~ 1 + (1 | sample) + (1 | plate)", "Penicillin", {}),
    "nested": ("strength ~ 1 + (1 | batch / cask)", "Pastes", {"REML": False}),
    "ordered": ("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", {}),
    "singular": ("Yield ~ 1 + (1 | Batch)", "Dyestuff2", {}),
    "arguments": (
        "Reaction ~ Days + (Days | Subject)",
        "sleepstudy",
        {"weights": 1.0 + np.arange(180) % 2, "offset": np.linspace(0, 9, 180), "subset": "Days < 8"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:boundary")
def test_as_lme4_is_the_same_fit(name):
    formula, data, arguments = MODELS[name]
    fit = pylmernn.lmernn(formula, datasets.load(data), **arguments)
    made = bridge.as_lme4(fit)
    assert made.evaluate("class(fit)").value[0] == "lmerMod"
    assert made.objective == pytest.approx(fit.estimates.objective, rel=1e-9)
    np.testing.assert_array_equal(made.theta, fit.estimates.theta)
    pd.testing.assert_series_equal(made.fixef(), fit.fixef(), rtol=1e-7, atol=1e-9)
    pd.testing.assert_frame_equal(made.vcov(), fit.vcov(), rtol=1e-6, atol=1e-9)
    assert made.sigma() == pytest.approx(fit.sigma(), rel=1e-8)
    for group, table in fit.ranef().items():
        np.testing.assert_allclose(made.ranef()[group], table, rtol=1e-6, atol=1e-6)


def test_as_lme4_with_missing_values(sleep):
    gaps = sleep.assign(Days=sleep["Days"].where(sleep.index % 10 != 3))
    fit = pylmernn.lmernn(SLEEP, gaps, na_action="exclude")
    made = bridge.as_lme4(fit)
    assert made.nobs() == 162
    assert made.evaluate("length(fitted(fit))").value[0] == 180


def test_as_lme4_serves_rs_verbs(pair):
    made = bridge.as_lme4(pair[0])
    assert "Linear mixed model fit by REML ['lmerMod']" in made.summary()
    assert made.table("as.data.frame(anova(fit))")["F value"].item() == pytest.approx(45.853, abs=1e-3)
    intervals = made.table("as.data.frame(confint(fit, method = 'profile', quiet = TRUE))")
    np.testing.assert_allclose(intervals.loc["Days"], [7.3586533, 13.575919], rtol=1e-4)
    refitted = made.evaluate("lme4::fixef(refit(fit, data$Reaction + 1))").value
    np.testing.assert_allclose(np.array(refitted), pair[0].fixef() + [1.0, 0.0], rtol=1e-6)
    assert made.evaluate("nrow(as.data.frame(bootMer(fit, lme4::fixef, nsim = 2)))").value[0] == 2
    assert made.evaluate("AIC(update(fit, . ~ . - Days, REML = FALSE))").value[0] > 0


def test_as_lme4_notices_other_data(sleep):
    fit = pylmernn.lmernn(SLEEP, sleep)
    with pytest.raises(BridgeError, match="the data are not those of the fit"):
        bridge.as_lme4(fit, sleep.assign(Reaction=sleep["Reaction"] + sleep["Days"] ** 2))


def test_as_lme4_refuses_what_lme4_lacks(sleep):
    fit = pylmernn.lmernn("Reaction ~ Days + diag(Days | Subject)", sleep)
    with pytest.raises(BridgeError, match=r"lme4 has no .*diag"):
        bridge.as_lme4(fit)
