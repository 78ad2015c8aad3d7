"""One test for each thing a fit can complain about."""

import re

import numpy as np
import pytest

import pylmernn
from pylmernn import DesignError

SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    return pylmernn.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep):
    return pylmernn.lmernn(SLEEP, sleep)


def refused(text):
    return pytest.raises(DesignError, match=re.escape(text))


def test_new_level(fit, sleep):
    new = sleep.head(2).assign(Subject=["308", "999"])
    with refused("new levels in the grouping factor 'Subject': '999'; set allow_new_levels=True"):
        fit.predict(new)
    with refused("new levels in the grouping factor 'Subject': '999'"):
        fit.simulate(newdata=new)
    assert fit.predict(new, re_form="NA").notna().all()


def test_many_new_levels_are_shortened(fit, sleep):
    with refused("'n0', 'n1', 'n2', 'n3', 'n4', ..."):
        fit.predict(sleep.head(9).assign(Subject=[f"n{i}" for i in range(9)]))


def test_new_data_without_a_column(fit, sleep):
    with refused("Days"):
        fit.predict(sleep[["Subject"]])


def test_re_form_with_an_unknown_factor(fit):
    with refused("re_form names the grouping factor 'item', but those of the model are 'Subject'."):
        fit.predict(re_form="~ (1 | item)")


def test_re_form_with_an_unknown_column(fit):
    with refused("re_form (Weeks | Subject) names 'Weeks', which does not vary by 'Subject' in the model."):
        fit.predict(re_form="~ (Weeks | Subject)")


def test_re_form_without_a_bar(fit):
    with refused("re_form '~ Days' has no random term"):
        fit.predict(re_form="~ Days")


def test_re_form_of_a_wrong_type(fit):
    with refused("re_form is 3: use None, 'NA' or a formula"):
        fit.predict(re_form=3)


def test_unknown_interval_and_level(fit):
    with refused("interval is 'credible': use None, 'confidence' or 'prediction'."):
        fit.predict(interval="credible")
    with refused("level is 95: use a number between 0 and 1."):
        fit.predict(interval="confidence", level=95)
    with refused("level is 1.5"):
        fit.confint(level=1.5)


def test_standard_errors_of_random_parts(fit):
    with refused("standard errors are for whole predictions"):
        fit.predict(random_only=True, se_fit=True)


def test_unknown_residuals(fit):
    with refused("residuals of type 'partial' are not known: use one of response, working, pearson, deviance, scaled."):
        fit.residuals("partial")


def test_newresp_of_wrong_length(fit):
    with refused("newresp has 5 values but the model has 180 rows."):
        fit.refit(np.arange(5.0))


def test_newresp_with_two_columns(fit):
    with refused("newresp has 2 columns"):
        fit.refit(fit.simulate(2, seed=1))


def test_constant_newresp(fit):
    with refused("the response 'Reaction' is constant"):
        fit.refit(np.ones(180))


def test_no_simulation(fit):
    with refused("nsim is 0"):
        fit.simulate(0)


def test_unknown_part(fit):
    with refused("getME does not know 'Omega': use one of X, Z,"):
        fit.getME("Omega")


def test_unknown_matrix(fit):
    with refused("model_matrix has no type 'mixed'"):
        fit.model_matrix("mixed")


def test_anova_of_different_rows(fit, sleep):
    with refused("the models were fitted to 180, 90 rows: compare models of the same rows."):
        fit.anova(pylmernn.lmernn("Reaction ~ 1 + (1 | Subject)", sleep.head(90)))


def test_anova_of_different_responses(fit, sleep):
    with refused("the models have different responses"):
        fit.anova(pylmernn.lmernn("log(Reaction) ~ 1 + (1 | Subject)", sleep))


def test_anova_with_too_few_names(fit):
    with refused("model_names has 1 names for 2 models."):
        fit.anova(fit, model_names=["one"])


def test_unequal_criteria_without_refit(fit):
    with pytest.warns(UserWarning, match="some models are fitted by REML, some not"):
        fit.anova(fit.refitML(), refit=False)


def test_dropping_an_unknown_term(fit):
    with refused("drop1 cannot drop 'Weeks': the terms are Days."):
        fit.drop1(scope=["Weeks"])
    with refused("test is 'F': use None or 'Chisq'."):
        fit.drop1(test="F")


def test_unknown_confidence_intervals(fit):
    with refused("confint has no method 'bayes': use 'profile', 'Wald' or 'boot'."):
        fit.confint(method="bayes")
    with refused(
        "there is no parameter 'Weeks': the parameters are .sig01, .sig02, .sig03, .sigma, (Intercept), Days."
    ):
        fit.confint("Weeks", method="Wald")
    with refused("boot_type is 'bca'"):
        fit.confint(method="boot", nsim=3, boot_type="bca", seed=1)


def test_influence_of_an_unknown_factor(fit):
    with refused("influence knows no factor 'item': use one of Subject."):
        fit.influence("item")


def test_updating_what_is_not_there(fit):
    with refused("the formula has no random term (1 | item) to take out."):
        fit.update(". ~ . - (1 | item)")


def test_updating_a_loaded_fit_without_data(fit, tmp_path):
    fit.save(tmp_path / "f")
    with refused("this fit was loaded from a file and holds no data: give update(data=...)."):
        pylmernn.load(tmp_path / "f").update(". ~ . - Days")


def test_loading_what_is_not_a_fit(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    with refused("is not a saved fit"):
        pylmernn.load(tmp_path / "text")
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, tmp_path / "tensors")
    with refused("is a safetensors file, but not a saved fit."):
        pylmernn.load(tmp_path / "tensors")
    save_file({"a": np.ones(2)}, tmp_path / "later", metadata={"format": "pylmernn fit", "version": "99"})
    with refused("was written by a later version"):
        pylmernn.load(tmp_path / "later")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        pylmernn.load(tmp_path / "nothing")


def test_tables_that_do_not_exist(fit):
    with refused("tidy does not know the effects 'random'"):
        fit.tidy(effects="random")
    with refused("scales is 'log'"):
        fit.tidy(effects="ran_pars", scales="log")
    with pytest.raises(ValueError, match=r"comp is \['Precision'\]"):
        fit.VarCorr().table(comp=["Precision"])
    with pytest.raises(ValueError, match="order is 'random'"):
        fit.VarCorr().as_frame("random")
    with pytest.raises(ValueError, match="ask for ranef"):
        fit.ranef().condsd()


def test_pictures_that_do_not_exist(fit):
    with refused("plot has no kind 'pie': use one of residuals, ranef, caterpillar, qq, shrinkage, "):
        fit.plot("pie")
    with refused("there is no grouping factor 'item' to plot"):
        fit.plot("ranef", group="item")
    with refused("'Weeks' does not vary by 'Subject'"):
        fit.plot("ranef", sort_by="Weeks")
    with refused("'Weeks' does not vary by any grouping factor"):
        fit.plot("shrinkage", slope="Weeks")
    with refused("there is no level '999' to plot."):
        fit.plot("shrinkage", levels=["999"])


@pytest.mark.parametrize(
    "options, text",
    [
        ({"method": "bobyqa"}, "method is 'bobyqa': use one of auto, profiled, iterative, "),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"nets": {"nn": {}}}, "nets"),
        ({"control": {"tolerance": 1}}, "control is a dict"),
        ({"na_action": "ignore"}, "na_action='ignore' is unknown"),
    ],
)
def test_options_that_do_not_exist(sleep, options, text):
    with refused(text):
        pylmernn.lmernn(SLEEP, sleep, **options)


def test_singular_fits_warn():
    data = pylmernn.datasets.load("Dyestuff2")
    with pytest.warns(UserWarning, match=re.escape("boundary (singular) fit: see isSingular()")):
        fit = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", data)
    assert fit.isSingular()
    assert "boundary (singular) fit: see isSingular()" in str(fit.summary())
    with pytest.warns(UserWarning, match="singular"):
        fit.refit(data["Yield"])


def test_failed_convergence_warns_with_the_gradient(sleep):
    with pytest.warns(UserWarning, match="failed to converge: largest gradient of the objective is"):
        fit = pylmernn.lmernn(SLEEP, sleep, control=pylmernn.Control(max_evaluations=1))
    assert "convergence code: 1 (not converged)" in str(fit.summary())


def test_predictors_on_different_scales_warn(sleep):
    with pytest.warns(UserWarning, match="very different scales: consider rescaling"):
        pylmernn.lmernn("Reaction ~ I(Days * 1e6) + (1 | Subject)", sleep)


def test_deviance_of_a_reml_fit_warns(fit):
    with pytest.warns(UserWarning, match="use REMLcrit"):
        assert fit.deviance() == fit.REMLcrit()


def test_profiles_of_iterative_fits():
    data = pylmernn.datasets.load("Penicillin")
    fit = pylmernn.lmernn("diameter ~ 1 + (1 | plate) + (1 | sample)", data, method="iterative", seed=1)
    with refused("profile intervals need the exact method: this fit is iterative; use method='Wald' or 'boot'."):
        fit.confint()
    with refused("profiles need the exact method"):
        fit.profile()
    assert fit.confint(method="Wald").notna().loc["(Intercept)"].all()
