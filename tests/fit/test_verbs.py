"""Every verb beside lme4's answer (golden/verbs.R): texts to the letter, numbers as closely as R finds the optimum."""

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pylmernn

with gzip.open(Path(__file__).parent / "golden" / "verbs.json.gz", "rt", encoding="utf-8") as text:
    GOLDEN = json.load(text)
MODELS, TABLES = GOLDEN["models"], GOLDEN["tables"]


def load(name):
    data = pylmernn.datasets.load(name)
    data.attrs["name"] = name
    if name == "sleepstudy":
        data = data.assign(w=1 + data["Days"] % 3, o=data["Days"] / 2)
    return data


def quiet_fit(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pylmernn.lmernn(*args, control=pylmernn.Control(tolerance=1e-14), **kwargs)


@pytest.fixture(scope="module", params=MODELS, ids=str)
def both(request):
    m = MODELS[request.param]
    given = {k: m[k] for k in ("weights", "offset") if m.get(k)}
    return m, quiet_fit(m["formula"], load(m["data"]), REML=m["REML"], **given)


def numbers(values):
    flat = np.ravel(np.array(values, dtype=object))
    return np.array([np.nan if v is None or v == "NA" else v for v in flat], float)


def close(ours, theirs, rtol=2e-5, atol=2e-5):
    theirs = numbers(theirs)
    scale = np.nanmax(np.abs(theirs), initial=1e-8)
    np.testing.assert_allclose(np.ravel(np.asarray(ours, float)), theirs, rtol=rtol, atol=atol * scale)


def without_warnings(lines):
    """The text up to what the optimizers say, which differs."""
    at = next(
        (i for i, line in enumerate(lines) if line.startswith(("optimizer (", "Correlation matrix not"))), len(lines)
    )
    return "\n".join(lines[:at]).rstrip("\n").replace("lmerMod", "merModNN")


def test_summary_text(both):
    m, fit = both
    assert without_warnings(str(fit.summary()).split("\n")) == without_warnings(m["summary"])


def test_print_text(both):
    m, fit = both
    assert without_warnings(str(fit).split("\n")) == without_warnings(m["print"])
    assert repr(fit) == str(fit)


def test_varcorr_text_and_frames(both):
    m, fit = both
    components = fit.VarCorr()
    assert str(components).split("\n") == m["varcorr"]
    assert components.table(digits=3, comp=("Variance", "Std.Dev.")).split("\n") == m["varcorr_both"]
    for order, golden in (("cov.last", m["varcorr_frame"]), ("lower.tri", m["varcorr_lower"])):
        frame = components.as_frame(order)
        assert frame["grp"].tolist() == golden["grp"]
        for column in ("var1", "var2"):
            assert [None if pd.isna(v) else v for v in frame[column]] == golden[column]
        close(frame["vcov"], golden["vcov"], atol=1e-5)
        close(frame["sdcor"], golden["sdcor"], atol=1e-5)


def test_modes_and_coefficients(both):
    m, fit = both
    frame = fit.ranef(condVar=True).as_frame()
    for column in ("grpvar", "term", "grp"):
        assert frame[column].astype(str).tolist() == m["ranef"][column]
    close(frame["condval"], m["ranef"]["condval"])
    close(frame["condsd"], m["ranef"]["condsd"])
    tables = fit.coef()
    assert list(tables) == list(m["coef"])
    for group, table in tables.items():
        assert list(table.columns) == list(m["coef"][group])
        for column in table:
            close(table[column], m["coef"][group][column])


def test_criteria(both):
    m, fit = both
    assert fit.logLik() == pytest.approx(m["logLik"], rel=1e-8)
    assert (fit.logLik().df, fit.df_residual()) == (m["df"], m["df_residual"])
    assert str(fit.logLik()).split("\n") == [m["loglik_text"]]
    assert fit.AIC() == pytest.approx(m["AIC"], rel=1e-8)
    assert fit.BIC() == pytest.approx(m["BIC"], rel=1e-8)
    assert fit.deviance(REML=False) == pytest.approx(m["deviance_ml"], rel=1e-7)
    assert fit.extractAIC() == pytest.approx(m["extractAIC"], rel=1e-8)
    assert fit.refitML().logLik() == pytest.approx(m["logLik_ml"], rel=1e-8)


def test_fixed_effect_table_and_intervals(both):
    m, fit = both
    close(fit.vcov(), m["vcov"])
    limits = fit.confint(method="Wald")
    assert list(limits.columns) == list(m["wald"])
    for column in limits:
        close(limits[column], m["wald"][column])


def test_rows(both):
    m, fit = both
    close(fit.fitted(), m["fitted"])
    close(fit.residuals(), m["resid"])
    close(fit.residuals("pearson"), m["pearson"])
    close(fit.residuals("scaled"), m["scaled"])
    close(fit.residuals("pearson", scaled=True), m["scaled"])
    close(fit.hatvalues(), m["hat"], atol=1e-4)
    close(fit.cooks_distance(), m["cook"], atol=1e-4)
    close(fit.rstudent(), m["rstudent"])


def test_predictions(both):
    m, fit = both
    if not m["predict"]:
        pytest.skip("lme4 evaluates the offset argument elsewhere")
    new = load(m["data"]).iloc[[0, 6, 19]]
    close(fit.predict(new), m["predict"])
    close(fit.predict(new, re_form="NA"), m["predict_fixed"])
    close(fit.predict(new, random_only=True), m["predict_random"], atol=1e-4)
    assert fit.predict(new).index.equals(new.index)


def test_sequential_table(both):
    m, fit = both
    ours = fit.anova()
    if not len(ours):
        return
    assert str(ours).split("\n") == m["anova"]
    for column in ours:
        close(ours[column], m["anova_numbers"][column])


def test_principal_components(both):
    m, fit = both
    ours = fit.rePCA()
    assert list(ours) == list(m["repca"])
    for group, table in ours.items():
        close(table.loc["Standard deviation"], m["repca"][group])


def check_frame(ours, golden):
    assert set(ours.columns) == set(golden)
    for column in ours:
        if pd.api.types.is_numeric_dtype(ours[column]):
            close(ours[column], golden[column], atol=1e-4)
        else:
            theirs = [None if v is None else str(v) for v in np.atleast_1d(np.array(golden[column], dtype=object))]
            assert [None if pd.isna(v) else str(v) for v in ours[column]] == theirs


def test_broom_tables(both):
    m, fit = both
    check_frame(fit.tidy(effects=["fixed", "ran_pars", "ran_vals"]), m["tidy"])
    check_frame(fit.tidy(effects="ran_pars", scales="vcov"), m["tidy_vcov"])
    check_frame(fit.glance(), m["glance"])
    augmented = fit.augment()
    for column in (
        ".fitted",
        ".resid",
        ".hat",
        ".cooksd",
        ".fixed",
        ".mu",
        ".offset",
        ".sqrtXwt",
        ".weights",
        ".wtres",
    ):
        close(augmented[column], m["augment"][column], atol=1e-4)


def test_parts(both):
    m, fit = both
    theta = fit.getME("theta")
    assert list(theta.index) == list(m["theta"])
    close(theta, list(m["theta"].values()), rtol=1e-4, atol=1e-4)
    close(fit.getME("beta"), m["beta"])
    close(np.abs(fit.getME("RX")), np.abs(numbers(m["RX"])))
    for name, value in fit.getME("devcomp")["cmp"].items():
        assert value == pytest.approx(m["cmp"][name], rel=1e-4), name
    Z, b = fit.getME("Z"), fit.getME("b")
    mu = fit.getME("X").to_numpy() @ fit.getME("beta") + fit.getME("offset") + Z @ b
    np.testing.assert_allclose(mu, fit.getME("mu"), rtol=1e-10)
    np.testing.assert_allclose(fit.getME("Lambda") @ fit.getME("u"), b, atol=1e-10)
    assert len(fit.getME("ALL")) > 35


SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def fits():
    sleep, cake = load("sleepstudy"), load("cake")
    return {
        "a": quiet_fit("Reaction ~ 1 + (Days | Subject)", sleep, REML=False),
        "b": quiet_fit(SLEEP, sleep, REML=False),
        "k": quiet_fit("angle ~ recipe * temp + (1 | replicate)", cake, REML=False),
        "k2": quiet_fit("angle ~ recipe + temp + (1 | replicate)", cake, REML=False),
    }


def test_likelihood_ratio_table(fits):
    ours = fits["b"].anova(fits["a"], model_names=["b", "a"])
    assert str(ours).split("\n") == TABLES["pair"]
    for column in ours:
        close(ours[column], TABLES["pair_numbers"][column])


@pytest.mark.parametrize("name, test, golden", [("b", "Chisq", "drop_b"), ("b", None, "drop_b_none"),
                                                ("k", "Chisq", "drop_k"), ("k2", "Chisq", "drop_k2")])  # fmt: skip
def test_drop1(fits, name, test, golden):
    assert str(fits[name].drop1(test=test)).split("\n") == TABLES[golden]


def test_profile_intervals(fits):
    for fit, golden, level in (
        (fits["b"], "sleep_profile", 0.95),
        (quiet_fit("diameter ~ 1 + (1 | plate) + (1 | sample)", load("Penicillin")), "penicillin_profile", 0.95),
        (quiet_fit("Yield ~ 1 + (1 | Batch)", load("Dyestuff")), "dyestuff_profile", 0.9),
    ):
        limits = fit.confint(level=level)
        assert list(limits.columns) == list(TABLES[golden])
        for column in limits:
            close(limits[column], TABLES[golden][column], rtol=3e-4)  # lme4 interpolates its profiles


def test_new_names_of_variance_parameters(fits):
    ours = fits["b"].confint(method="Wald", old_names=False)
    assert list(ours.index[:4]) == TABLES["new_names"]


def test_long_formula_is_broken_as_r_does():
    fit = quiet_fit(
        "angle ~ recipe * temperature + I(temp^2) + (1 + temp | recipe:replicate) + (1 | replicate)", load("cake")
    )
    assert str(fit).split("\n")[1:3] == TABLES["long_formula"]
