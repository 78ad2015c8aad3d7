"""Verbs of multinomial models, on estimates of made-up size: what is read off them must be what they say."""

from __future__ import annotations

import dataclasses
import warnings
from statistics import NormalDist

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from class_examples import CLASSES, class_data, class_design, class_draws, class_estimates, class_fit

import pylmernn
from pylmernn import DesignError
from pylmernn.engines.control import Control
from pylmernn.engines.sampling_options import Sampling
from pylmernn.fit.multinomial import MultinomialFit
from pylmernn.fit.multinomial_predict import draw_effects
from pylmernn.fit.plot_multinomial import contrast_variances
from pylmernn.fit.state import fit_messages
from pylmernn.formula import build

NETWORK = "way ~ 1 + nn(x, z, hidden = c(6)) + (1 | g)"

SUMMARY = """\
Generalized linear mixed model fit by Monte Carlo EM [merModNN]
Sampled: Polya-Gamma Gibbs sampler, 2 chains of 40 draws
         largest R-hat 1.020, smallest ESS 160, no divergences
 Family: multinomial  ( softmax )
Formula: way ~ x + (x | g) + (1 | h)
   Data: ways
 Classes: bus (100), car (100), walk (100)

Deviance: 1449.8 at the posterior means of the random effects

Random effects:
 Groups Name        Class Variance 2.5 %  97.5 % Std.Dev. Corr
 g      (Intercept) bus   0.56865  0.2307 1.4014 0.7541
                    car   1.09843  0.6750 1.7875 1.0481
                    walk  1.40005  0.6452 3.0379 1.1832
        x           bus   0.57988  0.2318 1.4508 0.7615   0.97
                    car   0.76297  0.5075 1.1470 0.8735   0.46
                    walk  0.05081  0.0303 0.0853 0.2254   0.99
 h      (Intercept) bus   0.10091  0.0489 0.2080 0.3177
                    car   0.30004  0.1163 0.7739 0.5478
                    walk  0.06252  0.0338 0.1156 0.2500
Number of obs: 300, groups:  g, 12; h, 5

Fixed effects (sum to zero over classes):
             Estimate Std. Error z value Pr(>|z|)
class bus:
 (Intercept)  -0.3616     0.1587  -2.279  0.02269 *
 x            -0.6488     0.2970  -2.184  0.02896 *
class car:
 (Intercept)   1.7191     0.1442  11.925  < 2e-16 ***
 x             0.1806     0.1917   0.942  0.34617
class walk:
 (Intercept)  -1.3574     0.1496  -9.073  < 2e-16 ***
 x             0.4682     0.1747   2.680  0.00737 **
---
Signif. codes:  0 ‘***’ 0.001 ‘**’ 0.01 ‘*’ 0.05 ‘.’ 0.1 ‘ ’ 1"""


@pytest.fixture(scope="module")
def fit():
    return class_fit()


@pytest.fixture(scope="module")
def neural():
    return class_fit(NETWORK, neural_data())


def neural_data():
    data = class_data()
    return data.assign(z=np.sin(np.arange(len(data))))


def softmax(eta):
    values = np.exp(eta - eta.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def by_hand(fit, data, use=("g", "x", "h")):
    """Linear predictors, row by row from the tables of effects."""
    fixed, effects = fit.fixef(), fit.ranef()
    out = []
    for row in data.itertuples():
        eta = fixed.loc["(Intercept)"].to_numpy() + row.x * fixed.loc["x"].to_numpy()
        g, h = effects["g"], effects["h"]
        if "g" in use and row.g in g.index:
            eta = eta + g.loc[row.g, "(Intercept)"].to_numpy()
        if "x" in use and row.g in g.index:
            eta = eta + row.x * g.loc[row.g, "x"].to_numpy()
        if "h" in use and row.h in h.index:
            eta = eta + h.loc[row.h].to_numpy()
        out.append(eta)
    return np.array(out)


# ---- estimates


def test_effects_are_tables_by_class_that_sum_to_zero(fit):
    fixed, effects = fit.fixef(), fit.ranef()
    assert list(fixed.index) == ["(Intercept)", "x"]
    assert list(fixed.columns) == list(CLASSES) == list(effects["h"].columns)
    np.testing.assert_allclose(fixed.sum(axis=1), 0, atol=1e-12)
    assert effects["g"].columns.tolist() == [(v, c) for v in ("(Intercept)", "x") for c in CLASSES]
    np.testing.assert_array_equal(effects["g"]["x"], fit.estimates.b[0][:, 1])
    long = fit.ranef(condVar=True).as_frame()
    one = long[(long["grpvar"] == "g") & (long["term"] == "x") & (long["class"] == "car") & (long["grp"] == "g3")]
    level = list(fit.design.random[0].levels).index("g3")
    assert one["condval"].item() == fit.estimates.b[0][level, 1, 1]
    assert one["condsd"].item() == pytest.approx(np.sqrt(fit.estimates.variances[0][level, 1, 1]), rel=1e-14)
    with pytest.raises(DesignError, match="condVar=True"):
        effects.condsd()


def test_coefficients_are_fixed_plus_random(fit):
    coef = fit.coef()
    assert coef["h"].loc["h2", ("x", "walk")] == fit.fixef().loc["x", "walk"]
    expected = fit.fixef().loc["x"].to_numpy() + fit.ranef()["g"]["x"].to_numpy()
    np.testing.assert_allclose(coef["g"]["x"], expected, rtol=1e-14)
    plain = class_fit("way ~ 1 + (1 | g)")
    assert list(plain.coef()["g"].columns) == list(CLASSES)
    random_alone = class_fit("way ~ 1 + (0 + x | g)").coef()["g"]
    assert random_alone.columns.get_level_values("column").unique().tolist() == ["x", "(Intercept)"]


def test_terms_that_share_a_factor_share_a_table():
    fit = class_fit("way ~ x + (x || g)")
    assert fit.ranef()["g"].columns.get_level_values("column").unique().tolist() == ["(Intercept)", "x"]
    assert list(fit.VarCorr()) == ["g", "g.1"]
    assert "Corr" not in str(fit.VarCorr())


def test_variance_components_have_limits_on_the_log_scale(fit):
    table = fit.VarCorr().as_data_frame(level=0.9)
    assert list(table.columns) == ["Groups", "Name", "Class", "Variance", "Std.Dev.", "lower", "upper"]
    one = table.iloc[4]  # x by g in class car
    assert (one["Groups"], one["Name"], one["Class"]) == ("g", "x", "car")
    v, se = fit.estimates.covariances[0][1, 1, 1], fit.estimates.covariance_errors[0][1, 1]
    z = NormalDist().inv_cdf(0.95)
    assert one["Variance"] == v
    assert one["lower"] == pytest.approx(v * np.exp(-z * se), rel=1e-12)
    assert one["upper"] == pytest.approx(v * np.exp(z * se), rel=1e-12)
    np.testing.assert_array_equal(fit.VarCorr()["g"]["walk"], fit.estimates.covariances[0][2])
    with pytest.raises(KeyError, match="the terms are"):
        fit.VarCorr()["k"]


def test_confidence_limits(fit):
    table = fit.confint()
    V, beta = fit.estimates.fixed_covariance, fit.estimates.beta
    half = NormalDist().inv_cdf(0.975) * np.sqrt(V[5, 5])  # x, walk
    np.testing.assert_allclose(table.loc["x:walk"], [beta[1, 2] - half, beta[1, 2] + half], rtol=1e-12)
    rows = fit.VarCorr().as_data_frame()
    np.testing.assert_allclose(table.loc["sd_(Intercept)|h:bus"] ** 2, rows.loc[6, ["lower", "upper"]].astype(float))
    assert fit.confint("beta_").shape == (6, 2)
    assert list(fit.confint(["x:car", "sd_x|g:bus"], level=0.5).columns) == ["25 %", "75 %"]
    assert fit.vcov().loc[("x", "walk"), ("x", "walk")] == V[5, 5]


def test_theta_is_the_cholesky_factor_of_each_class(fit):
    theta = fit.getME("theta")
    L = np.zeros((2, 2))
    L[0, 0], L[1, 0], L[1, 1] = theta["g.(Intercept).car"], theta["g.x.(Intercept).car"], theta["g.x.car"]
    np.testing.assert_allclose(L @ L.T, fit.estimates.covariances[0][1], rtol=1e-12)
    assert len(theta) == 3 * 3 + 3
    assert fit.getME("b").shape == (12 * 2 + 5, 3)
    assert set(fit.getME(["X", "beta"])) == {"X", "beta"}
    assert {"Z", "flist", "eta"} <= set(fit.getME("ALL"))
    singular = np.array([[4.0, 2.0], [2.0, 1.0]])
    covariances = (np.stack([singular] * 3), fit.estimates.covariances[1])
    flat = copy_of(fit, covariances=covariances)
    assert flat.getME("theta")["g.x.bus"] == pytest.approx(0.0, abs=1e-7)
    assert flat.isSingular()
    assert not fit.isSingular()


def copy_of(fit, **changes):
    return type(fit)(fit.design, dataclasses.replace(fit.estimates, **changes), fit.frame, fit.call)


# ---- rows


def test_probabilities_are_the_softmax_of_the_sum_of_effects(fit):
    data = class_data()
    eta = by_hand(fit, data)
    np.testing.assert_allclose(fit.predict(type="link"), eta, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fit.estimates.eta, eta, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fit.fitted(), softmax(eta), rtol=1e-12)
    new = data.iloc[[5, 1, 200]]
    np.testing.assert_allclose(fit.predict_proba(new), softmax(eta[[5, 1, 200]]), rtol=1e-12)
    assert fit.predict_proba(new).index.tolist() == [5, 1, 200]
    assert fit.predict(new).astype(str).tolist() == [CLASSES[c] for c in eta[[5, 1, 200]].argmax(axis=1)]
    fixed_only = fit.predict(new.drop(columns=["g", "h"]), re_form="NA", type="link")
    np.testing.assert_allclose(fixed_only, by_hand(fit, new, use=()), rtol=1e-12)
    slopes = fit.predict(new, re_form="~ (0 + x | g)", type="link")
    np.testing.assert_allclose(slopes, by_hand(fit, new, use=("x",)), rtol=1e-12)


def test_new_levels_are_averaged_over_their_distribution(fit):
    new = class_data().iloc[:2].assign(g="new", x=[0.7, -1.2])
    eta = by_hand(fit, new)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
    mass = np.einsum("i,j,k->ijk", *[weights / weights.sum()] * 3).ravel()
    z = np.array([[1.0, 0.7], [1.0, -1.2]])
    sd = np.sqrt(np.einsum("md,cde,me->mc", z, fit.estimates.covariances[0], z))
    expected = np.array([mass @ softmax(eta[i] + sd[i] * grid) for i in range(2)])
    found = fit.predict_proba(new, allow_new_levels=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(fit.predict_proba(new, allow_new_levels=True, marginal=False), softmax(eta), rtol=1e-12)
    assert np.abs(expected - softmax(eta)).max() > 0.03
    pd.testing.assert_frame_equal(found, fit.predict(new, None, True, "response"))  # the same points every time


def test_residuals(fit):
    observed = pd.get_dummies(class_data()["way"]).astype(float).to_numpy()
    P = fit.fitted().to_numpy()
    np.testing.assert_allclose(fit.residuals(), observed - P, atol=1e-15)
    np.testing.assert_allclose(fit.residuals("pearson"), (observed - P) / np.sqrt(P * (1 - P)), rtol=1e-10)
    deviance = -2 * np.log((observed * P).sum(axis=1))
    np.testing.assert_allclose(fit.residuals("deviance") ** 2, deviance, rtol=1e-12)
    assert fit.deviance() == pytest.approx(deviance.sum(), rel=1e-12)


def test_rows_left_out_are_padded():
    data = class_data()
    data.loc[3, "x"] = np.nan
    design, frame = build("way ~ x + (1 | g)", data, family="multinomial", na_action="exclude")
    fit = MultinomialFit(design, class_estimates(design), frame, {})
    assert fit.fitted().loc[3].isna().all()
    assert len(fit.fitted()) == len(data)
    assert pd.isna(fit.predict().loc[3])
    assert np.isnan(fit.predict_proba(data.loc[[3]])).all(axis=None)
    assert fit.residuals("deviance").isna().sum() == 1


def test_simulated_classes_have_the_probabilities_of_the_model(fit):
    data, copies = class_data().iloc[:3], 3000
    many = data.loc[data.index.repeat(copies)].reset_index(drop=True)
    drawn = fit.simulate(1, seed=1, use_u=True, newdata=many)["sim_1"]
    assert drawn.dtype.categories.tolist() == list(CLASSES)
    close(drawn, fit.predict_proba(data).to_numpy(), copies)
    new = many.assign(g=np.char.add("n", np.arange(3 * copies).astype(str)))
    free = fit.simulate(1, seed=2, newdata=new, re_form="~ (1 | h)", allow_new_levels=True)["sim_1"]
    P = fit.predict_proba(new.iloc[::copies], allow_new_levels=True).to_numpy()
    close(free, P, copies)
    pairs = new.iloc[:copies].assign(g=np.char.add("n", (np.arange(copies) // 2).astype(str)))
    twin = fit.simulate(1, seed=3, newdata=pairs, allow_new_levels=True, re_form="~ (1 | h)")["sim_1"].to_numpy()
    assert (twin[::2] == twin[1::2]).mean() > (P[0] ** 2).sum() + 0.05  # rows of one new level share its effects
    assert fit.simulate(2, seed=3).equals(fit.simulate(2, seed=3))
    missing = fit.simulate(1, seed=1, newdata=data.assign(x=[np.nan, 0.1, 0.2]))
    assert missing["sim_1"].isna().tolist() == [True, False, False]


def close(drawn, P, copies):
    """Shares of the classes in each block of rows are within four standard errors of the probabilities."""
    codes = drawn.cat.codes.to_numpy().reshape(-1, copies)
    shares = np.stack([(codes == c).mean(axis=1) for c in range(len(CLASSES))], axis=1)
    assert (np.abs(shares - P) < 4 * np.sqrt(P * (1 - P) / copies)).all()


def test_drawn_effects_have_their_covariance():
    covariances = np.array([[[2.0, -0.6], [-0.6, 0.5]], [[1.0, 1.0], [1.0, 1.0]]])
    b = draw_effects(covariances, 40_000, np.random.default_rng(1))
    for c in range(2):
        np.testing.assert_allclose(np.cov(b[:, :, c].T), covariances[c], atol=0.04)
    np.testing.assert_allclose(b[:, 0, 1], b[:, 1, 1], atol=1e-7)  # of rank one


# ---- text, tables, files


def test_summary_is_in_lme4s_layout(fit):
    assert "\n".join(line.rstrip() for line in str(fit.summary()).split("\n")) == SUMMARY
    short = str(fit)
    assert "97.5 %" not in short
    assert "                bus     car    walk\n(Intercept) -0.3616  1.7191 -1.3574" in short
    assert str(fit.ranef(condVar=True)).endswith("with conditional variances for “g” “h”")


def test_summary_without_standard_errors_or_fixed_effects(fit):
    bare = copy_of(fit, fixed_covariance=None)
    assert "NA" in str(bare.summary())
    with pytest.raises(DesignError, match="no standard errors"):
        bare.vcov()
    design, frame = class_design("way ~ 0 + (1 | g)")
    nothing = type(fit)(design, class_estimates(design), frame, {})
    assert "Fixed effects" not in str(nothing.summary())
    assert "No fixed effect coefficients" in str(nothing)


def test_chains_that_do_not_mix_are_told_in_words(fit):
    draws = dataclasses.replace(fit.estimates.draws, rhat=1.34, sampler="nuts", divergences=12)
    (mixing, diverged) = fit_messages(dataclasses.replace(fit.estimates, draws=draws))
    assert "R-hat is 1.340" in mixing
    assert "sampler='polya-gamma'" in mixing
    assert diverged.startswith("12 draws diverged")
    assert fit_messages(fit.estimates) == ()
    text = str(copy_of(fit, draws=draws).summary())
    assert "R-hat is 1.340" in text
    assert max(map(len, text.split("\n"))) <= 80
    stopped = dataclasses.replace(fit.estimates.convergence, converged=False, message="sampling was interrupted")
    assert fit_messages(dataclasses.replace(fit.estimates, convergence=stopped)) == (
        "Model failed to converge: sampling was interrupted",
    )
    scalar = pylmernn.glmernn("incidence / size ~ period + (1 | herd)", cbpp(), weights="size").estimates
    sampled = dataclasses.replace(scalar, draws=draws)
    assert len(fit_messages(sampled)) == len(fit_messages(scalar)) + 2


def cbpp():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"herd": np.repeat(np.arange(15), 4).astype(str), "period": list("1234") * 15, "size": 10.0})
    return data.assign(incidence=rng.binomial(10, 1 / (1 + np.exp(1 - rng.normal(size=15).repeat(4)))).astype(float))


def test_tidy_and_glance(fit):
    table = fit.tidy(["fixed", "ran_pars", "ran_vals"], conf_int=True)
    one = table[(table["term"] == "x") & (table["class"] == "walk") & (table["effect"] == "fixed")]
    assert one[["conf.low", "conf.high"]].to_numpy().tolist() == [fit.confint().loc["x:walk"].tolist()]
    pars = table[table["effect"] == "ran_pars"]
    assert pars["term"].tolist()[:3] == ["sd__(Intercept)", "sd__x", "cor__(Intercept).x"]
    correlation = fit.estimates.covariances[0][0]
    assert pars["estimate"].iloc[2] == pytest.approx(correlation[0, 1] / np.sqrt(np.prod(np.diagonal(correlation))))
    assert (table["effect"] == "ran_vals").sum() == (12 * 2 + 5) * 3
    assert fit.tidy("ran_pars", scales="vcov")["term"].iloc[2] == "cov__(Intercept).x"
    row = fit.glance().iloc[0]
    assert (row["nobs"], row["classes"], row["rhat"], row["divergences"]) == (300, 3, 1.02, 0)


@pytest.mark.parametrize("which", ["fit", "neural"])
def test_files_hold_the_whole_fit(which, request, tmp_path):
    fit = request.getfixturevalue(which)
    fit.call["control"] = Control(sampling=Sampling(chains=3))
    fit.save(tmp_path / "fit.safetensors")
    again = pylmernn.load(tmp_path / "fit.safetensors")
    assert type(again) is type(fit)
    assert str(again.summary()) == str(fit.summary())
    assert again.call["control"] == fit.call["control"]
    for name in ("b", "variances", "covariances", "covariance_errors"):
        for old, new in zip(getattr(fit.estimates, name), getattr(again.estimates, name), strict=True):
            np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(again.draws().b[0], fit.draws().b[0])
    np.testing.assert_array_equal(again.draws().variances, fit.draws().variances)
    assert again.draws().names == fit.draws().names
    new = neural_data().iloc[:4].assign(g=["g1", "zz", "g2", "g3"])
    one, other = (f.predict_proba(new, allow_new_levels=True) for f in (fit, again))
    pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(fit.model_frame(), again.model_frame(), check_dtype=False)
    with pytest.raises(DesignError, match=r"update\(data"):
        again.update()


# ---- networks


def test_networks_add_to_every_class(neural):
    networks, data = neural.estimates.networks, neural_data()
    assert networks.fitted.shape == (300, 3)
    expected = neural.estimates.beta + neural.estimates.b[0][neural.design.random[0].codes, 0] + networks.fitted
    np.testing.assert_allclose(neural.predict(type="link"), expected, rtol=1e-12)
    np.testing.assert_allclose(neural.predict_proba(data.head(7)), softmax(expected[:7]), atol=1e-6)  # float32 f
    text = str(neural.summary())
    assert "nn(x, z, hidden = c(6))\n   2 inputs, hidden layers 6, silu, 39 parameters" in text
    assert "explains" in text
    assert "AIC" not in text
    assert str(neural).endswith("Networks, taken as known by all of the above:\n nn(x, z, hidden = c(6))")
    assert len(neural.history()) == 2
    assert neural.importance()["input"].tolist() == ["x", "z"]
    assert neural.partial_dependence("z")["class"].unique().tolist() == list(CLASSES)


# ---- pictures


def test_pictures(fit, neural):
    matplotlib.use("Agg")
    panels = fit.plot("ranef", column="x", classes=["walk", "bus"]).axes
    assert [ax.get_title() for ax in panels] == ["walk", "bus"]
    shown = np.concatenate([line.get_xdata() for line in panels[0].lines[1:]])
    np.testing.assert_allclose(np.sort(shown), np.sort(fit.ranef()["g"]["x"]["walk"]))
    figure = fit.plot("distribution", row=4)
    assert len(figure.axes) == 3 * 3
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    level = fit.design.random[0].codes[4]
    assert dashed[0].get_xdata()[0] == fit.estimates.b[0][level, 0, 0]
    assert len(fit.plot("trace", names="var(h.(Intercept).car)").axes) == 1
    assert len(fit.plot("calibration", newdata=class_data().head(150)).lines) > 3
    assert "AUC" in fit.plot("roc").get_legend().get_texts()[0].get_text()
    assert neural.plot("partial", inputs="z").axes[0].get_xlabel() == "z"
    assert neural.plot("importance").get_yticklabels()
    assert neural.plot("history").get_ylabel() == "mean deviance"
    plt.close("all")


def test_variance_of_effects_less_their_mean():
    variances = np.array([2.0, 0.5, 0.1, 1.0])
    M = np.eye(4) - 0.25
    np.testing.assert_allclose(contrast_variances(variances), np.diagonal(M @ np.diag(variances) @ M), rtol=1e-12)


# ---- the same model again, and mistakes


QUICK = Control(sampling=Sampling(chains=2, draws=12, warmup=8))


@pytest.fixture(scope="module")
def real():
    """A fit by the sampler itself, of classes that follow x."""
    data = class_data(240)
    eta = np.outer(data["x"], [-1.5, 0.0, 1.5]) + np.random.default_rng(1).gumbel(size=(240, 3))
    data["way"] = pd.Categorical(np.array(CLASSES)[eta.argmax(axis=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of so few draws R-hat may be large
        return pylmernn.glmernn("way ~ x + (1 | g)", data, family="multinomial", control=QUICK, seed=1)


@pytest.mark.filterwarnings("ignore:the chains do not agree")
def test_a_sampled_fit_answers_alike(real, tmp_path):
    assert isinstance(real, MultinomialFit)
    np.testing.assert_allclose(real.predict(type="link"), real.estimates.eta, atol=1e-10)
    estimate = real.confint("beta_", level=0.999).loc["x:walk"]
    assert estimate.iloc[0] < 1.5 < estimate.iloc[1]
    accuracy = (real.predict().astype(str) == real.model_frame()["way"].astype(str)).mean()
    assert accuracy > 0.5
    real.save(tmp_path / "real")
    assert str(pylmernn.load(tmp_path / "real")) == str(real)
    drawn = real.simulate(1, seed=1)["sim_1"]
    again = real.refit(drawn)
    assert (again.model_frame()["way"].astype(str) == drawn.astype(str)).all()
    other = real.update(". ~ . - x")
    assert other.formula() == "way ~ (1 | g)"
    assert other.deviance() > real.deviance()


def test_new_rows_give_new_levels_their_posterior():
    fit = class_fit("way ~ 1 + (1 | g)", class_data(60))
    fit.call["control"] = Control(sampling=Sampling(chains=2, draws=300, warmup=20))
    new = pd.DataFrame({"way": ["bus"] * 9 + ["car"] * 2 + ["walk"], "x": 0.0, "g": "new"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        longer = fit.update_random_effects(new)
    assert longer.nobs() == 72
    assert longer.ngrps() == {"g": 13}
    pd.testing.assert_frame_equal(longer.fixef(), fit.fixef())
    axis = np.linspace(-5, 5, 81)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    sd = np.sqrt(fit.estimates.covariances[0][:, 0, 0])
    P = softmax(fit.estimates.beta[0] + sd * grid)
    density = np.exp(-0.5 * (grid**2).sum(axis=1)) * P[:, 0] ** 9 * P[:, 1] ** 2 * P[:, 2]
    mean = sd * (density @ grid) / density.sum()
    np.testing.assert_allclose(longer.ranef()["g"].loc["new"], mean - mean.mean(), atol=0.05)
    assert np.abs(mean - mean.mean()).max() > 0.3
    np.testing.assert_allclose(longer.predict(type="link"), longer.estimates.eta, atol=1e-10)
    with pytest.raises(DesignError, match="class 'tram', which the fit has not seen"):
        fit.update_random_effects(new.assign(way="tram"))


@pytest.mark.filterwarnings("ignore:the chains do not agree")
def test_two_classes_are_the_binomial_model():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"x": rng.normal(size=600), "g": np.arange(600) % 20})
    eta = 0.8 * data["x"] + rng.normal(size=20)[data["g"]]
    data["y"] = (rng.random(600) < 1 / (1 + np.exp(-eta))).astype(float)
    binomial = pylmernn.glmernn("y ~ x + (1 | g)", data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        settings = Control(sampling=Sampling(draws=60, warmup=30))
        two = pylmernn.glmernn("y ~ x + (1 | g)", data, family="multinomial", control=settings, seed=1)
    difference = two.fixef()["1"] - two.fixef()["0"]
    se = np.sqrt(np.diagonal(binomial.vcov()))
    assert (np.abs(difference - binomial.fixef()) < 0.3 * se).all()
    np.testing.assert_allclose(two.fitted()["1"], binomial.fitted(), atol=0.05)
    assert two.refit(data["y"]).deviance() == pytest.approx(two.deviance(), rel=0.02)  # 1.0 is class "1"


MISTAKES = [
    (lambda f: f.predict(class_data().head(1).assign(g="zz")), "new levels in the grouping factor 'g': 'zz'"),
    (lambda f: f.simulate(1, newdata=class_data().head(1).assign(g="zz")), "draw effects for them"),
    (lambda f: f.predict(type="prob"), "type is 'prob': use one of class, response, link"),
    (lambda f: f.predict(pd.DataFrame({"g": ["g1"], "h": ["h1"]})), "'x'"),
    (lambda f: f.predict(re_form="~ (1 | k)"), "grouping factor 'k'"),
    (lambda f: f.residuals("working"), "'working' are not known"),
    (lambda f: f.simulate(0), "nsim is 0"),
    (lambda f: f.logLik(), "does not compute the log-likelihood"),
    (lambda f: f.AIC(), "held out"),
    (lambda f: f.anova(f), "held out"),
    (lambda f: f.confint(method="profile"), "has no method 'profile'"),
    (lambda f: f.confint("y"), "no parameter 'y'"),
    (lambda f: f.confint(level=2), "level is 2"),
    (lambda f: f.VarCorr().as_data_frame(level=0), "level is 0"),
    (lambda f: f.getME("u"), "does not know 'u'"),
    (lambda f: f.tidy("all"), "'all'"),
    (lambda f: f.tidy(scales="log"), "scales is 'log'"),
    (lambda f: f.plot("density"), "no kind 'density'"),
    (lambda f: f.plot("ranef", group="k"), "no grouping factor 'k'"),
    (lambda f: f.plot("ranef", column="z"), "no column by 'g' 'z'"),
    (lambda f: f.plot("ranef", classes="tram"), "no class 'tram'"),
    (lambda f: f.plot("distribution", row=-5), "no row '-5'"),
    (lambda f: f.plot("trace", names="v"), "no variance 'v'"),
    (lambda f: f.plot("roc", newdata=pd.DataFrame({"x": [0.0], "g": ["g1"], "h": ["h1"]})), "'way'"),
    (lambda f: f.history(), "no network"),
    (lambda f: f.refit(["bus"] * 300), "one class only|is constant"),
    (lambda f: f.refit(["bus", "tram"] * 150), "no class of the model in row 2: use bus, car, walk"),
    (lambda f: f.refit(["bus"] * 7), "7 values"),
    (lambda f: f.influence(), "not offered"),
    (lambda f: f.update(data=None), "holds no data"),
]


@pytest.mark.parametrize("mistake, words", MISTAKES)
def test_mistakes_are_told_in_one_sentence(fit, mistake, words):
    with pytest.raises(DesignError, match=words) as caught:
        mistake(fit)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_draws_are_given_back(fit):
    assert fit.draws() is fit.estimates.draws
    again = class_draws(fit.design, fit.estimates.b, fit.estimates.covariances)
    np.testing.assert_array_equal(fit.draws().variances, again.variances)
    assert fit.family() == "multinomial(softmax)"
    assert fit.isGLMM()
    assert not fit.isLMM()
    assert not fit.isREML()
    assert fit.sigma() == 1.0
    assert fit.ngrps() == {"g": 12, "h": 5}
    assert fit.nobs() == 300


# ---- standard errors of predictions, weights


@pytest.fixture(scope="module")
def sampled():
    """A fit of 150 rows, and one with weights 1 and 2."""
    data = class_data(150, seed=5)
    rng = np.random.default_rng(6)
    eta = (
        0.8 * data["x"].to_numpy()[:, None] * np.array([1.0, 0.0, -1.0]) + rng.normal(size=(12, 3))[np.arange(150) % 12]
    )
    data["way"] = np.array(CLASSES)[(eta + rng.gumbel(size=(150, 3))).argmax(axis=1)]
    data["w"] = 1.0 + np.arange(150) % 2
    control = Control(sampling=Sampling(draws=60, warmup=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {"data": data, "family": "multinomial", "control": control, "seed": 1}
        plain = pylmernn.glmernn("way ~ x + (1 | g)", **arguments)
        weighted = pylmernn.glmernn("way ~ x + (1 | g)", **arguments, weights="w")
    return data, plain, weighted


def test_standard_errors_of_probabilities_are_the_spread_of_the_joint_draws(sampled):
    data, fit, _ = sampled
    found = fit.predict(data.head(4), type="response", se_fit=True, interval="confidence", level=0.9)
    assert found.columns.get_level_values(0).unique().tolist() == ["fit", "se", "lwr", "upr"]
    pd.testing.assert_frame_equal(found["fit"], fit.predict_proba(data.head(4)))
    joint, term = fit.estimates.joint, fit.design.random[0]
    assert len(joint.beta) == 120
    for i in range(4):
        eta = np.einsum("p,spc->sc", fit.design.X[i], joint.beta) + joint.b[0][:, term.codes[i], 0]
        p = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found["se"].iloc[i], p.std(axis=0, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(found["lwr"].iloc[i], np.quantile(p, 0.05, axis=0), rtol=1e-5)
        np.testing.assert_allclose(found["upr"].iloc[i], np.quantile(p, 0.95, axis=0), rtol=1e-5)
    spread = joint.beta.reshape(120, -1).std(axis=0) / np.sqrt(np.diagonal(fit.estimates.fixed_covariance))
    assert (np.abs(spread - 1.0) < 0.3).all()


def test_joint_draws_let_effects_make_up_for_fixed_ones(sampled):
    """The errors of linear predictors are no larger than those of effects and coefficients drawn apart."""
    fit = sampled[1]
    together = fit.predict(type="link", se_fit=True)["se"].to_numpy()
    X, term = fit.design.X, fit.design.random[0]
    V = fit.estimates.fixed_covariance.reshape(2, 3, 2, 3)
    apart = np.einsum("np,pcqc,nq->nc", X, V, X) + fit.estimates.variances[0][term.codes, 0]
    assert together.mean() < np.sqrt(apart).mean()
    alone = np.sqrt(fit.estimates.variances[0][term.codes, 0])
    assert together.mean() > 0.8 * alone.mean()


def test_levels_not_seen_add_their_variance_and_missing_rows_are_missing(sampled, tmp_path):
    data, fit, _ = sampled
    new = data.head(3).copy()
    new.loc[1, "g"], new.loc[2, "x"] = "other", np.nan
    new.loc[0, "x"] = new.loc[1, "x"]
    found = fit.predict(new, type="response", se_fit=True, allow_new_levels=True)
    assert (found["se"].iloc[1] > found["se"].iloc[0]).sum() >= 2
    assert found.iloc[2].isna().all()
    fit.save(tmp_path / "fit")
    pd.testing.assert_frame_equal(
        pylmernn.load(tmp_path / "fit").predict(new, type="response", se_fit=True, allow_new_levels=True), found
    )


def test_errors_that_are_not_offered_are_refused(sampled, fit):
    with pytest.raises(DesignError, match="use type='response'"):
        sampled[1].predict(se_fit=True)
    with pytest.raises(DesignError, match="interval is 'prediction': use 'confidence'"):
        sampled[1].predict(type="response", interval="prediction")
    with pytest.raises(DesignError, match="level is 2"):
        sampled[1].predict(type="response", interval=True, level=2)
    with pytest.raises(DesignError, match="kept no draws"):
        fit.predict(type="response", se_fit=True)


def test_a_weight_counts_a_row_as_often(sampled):
    """As rows that are repeated; fractions are sampled by the No-U-Turn sampler."""
    data, plain, weighted = sampled
    control = weighted.call["control"]
    repeated = data.loc[data.index.repeat(data["w"].astype(int))].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pylmernn.glmernn("way ~ x + (1 | g)", repeated, "multinomial", control=control, seed=1)
        half = pylmernn.glmernn(
            "way ~ x + (1 | g)", repeated.assign(w=0.5), "multinomial", weights="w", control=control, seed=1
        )
    np.testing.assert_allclose(weighted.fixef(), other.fixef(), atol=0.1)
    assert weighted.deviance() == pytest.approx(other.deviance(), rel=0.02)
    assert np.sum(weighted.residuals("deviance") ** 2) == pytest.approx(weighted.deviance())
    ratio = weighted.residuals("pearson") / (
        weighted.residuals() / np.sqrt(weighted.fitted() * (1 - weighted.fitted()))
    )
    np.testing.assert_allclose(ratio.iloc[:, 0], np.sqrt(data["w"]))
    errors = np.diagonal(weighted.vcov()) / np.diagonal(plain.vcov())
    assert (errors[3:] < 0.95).all()  # of slopes
    assert half.estimates.draws.sampler == "nuts"
    assert np.abs(half.fixef() - other.fixef()).to_numpy().max() < 0.4
    assert weighted.update_random_effects(data.head(5)).design.weights[-5:].tolist() == data["w"].head(5).tolist()


def test_nodes_are_refused(sampled):
    data = sampled[0]
    with pytest.raises(DesignError, match="nAGQ is 5, but a multinomial model is fitted by sampling"):
        pylmernn.glmernn("way ~ x + (1 | g)", data, "multinomial", nAGQ=5)
