"""What the verbs promise beyond lme4's numbers: variances against the dense oracle, round trips, padding, seeds."""

import json
import os
import subprocess
import sys

import numpy as np
import oracle
import pandas as pd
import pytest

import pylmernn

SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    return pylmernn.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep):
    return pylmernn.lmernn(SLEEP, sleep)


@pytest.fixture(scope="module")
def crossed():
    return pylmernn.lmernn("diameter ~ 1 + (1 | plate) + (1 | sample)", pylmernn.datasets.load("Penicillin"))


def new_rows_of(fit, data):
    rows = fit.frame.new_data(data, fit.design)
    codes = [term.codes for term in rows.random]
    Z = oracle.dense_Z(fit.design.random, [term.columns for term in rows.random], codes)
    return rows.X, Z


def test_standard_errors_of_predictions(fit, sleep):
    s = oracle.solve(fit.design, fit.estimates.theta)
    new = sleep.iloc[[3, 50, 100]].assign(Days=[0.5, 12.0, 3.0])
    X, Z = new_rows_of(fit, new)
    ours = fit.predict(new, se_fit=True)
    np.testing.assert_allclose(ours["se"] ** 2, oracle.prediction_variance(fit.design, s, X, Z), rtol=1e-8)
    fixed = fit.predict(new, re_form="NA", se_fit=True)
    np.testing.assert_allclose(fixed["se"] ** 2, np.einsum("ij,jk,ik->i", X, fit.vcov(), X), rtol=1e-8)
    slopes = fit.predict(new, re_form="~ (0 + Days | Subject)", se_fit=True)
    Z_slopes = Z * np.tile([0.0, 1.0], 18)
    np.testing.assert_allclose(slopes["se"] ** 2, oracle.prediction_variance(fit.design, s, X, Z_slopes), rtol=1e-8)


def test_conditional_variances(crossed):
    s = oracle.solve(crossed.design, crossed.estimates.theta)
    ours = crossed.ranef(condVar=True).condVar
    for theirs, group in zip(oracle.conditional_variance(crossed.design, s), ("plate", "sample"), strict=True):
        np.testing.assert_allclose(ours[group][0], theirs, rtol=1e-8)


def test_hat_values_are_derivatives(crossed):
    """Moving one response moves its fitted value by the leverage, theta held."""
    design, theta = crossed.design, crossed.estimates.theta

    def fitted(y):
        s = oracle.solve(design.with_response(y), theta)
        return design.X @ s.beta + s.Z @ np.concatenate([b.ravel() for b in s.b])

    bumped = design.y.copy()
    bumped[7] += 1.0
    change = fitted(bumped)[7] - fitted(design.y)[7]
    assert crossed.hatvalues().iloc[7] == pytest.approx(change, rel=1e-6)


def test_intervals_widen_as_they_should(fit, sleep):
    mean = fit.predict(sleep, interval="confidence", level=0.9)
    single = fit.predict(sleep, interval="prediction", level=0.9)
    assert list(mean.columns) == ["fit", "se", "lwr", "upr"]
    half = (single["upr"] - single["fit"]) ** 2 - (mean["upr"] - mean["fit"]) ** 2
    np.testing.assert_allclose(half, 1.6448536269514722**2 * fit.sigma() ** 2, rtol=1e-8)


def test_new_levels_get_the_population_mean_and_all_the_variance(fit, sleep):
    new = sleep.head(1).assign(Subject="999")
    ours = fit.predict(new, allow_new_levels=True, se_fit=True)
    assert ours["fit"].iloc[0] == pytest.approx(fit.predict(new, re_form="NA").iloc[0])
    z = np.array([1.0, 0.0])
    extra = z @ fit.VarCorr()["Subject"].to_numpy() @ z
    assert ours["se"].iloc[0] ** 2 == pytest.approx(fit.vcov().iloc[0, 0] + extra)


def test_re_form_by_terms_adds_up(sleep):
    fit = pylmernn.lmernn("Reaction ~ Days + (Days || Subject)", sleep)
    base = fit.predict(re_form="NA")
    parts = [fit.predict(re_form=f) - base for f in ("~ (1 | Subject)", "~ (0 + Days | Subject)")]
    np.testing.assert_allclose(base + parts[0] + parts[1], fit.fitted(), rtol=1e-12)
    assert fit.predict(re_form="~0").equals(base)
    assert fit.predict(re_form=False).equals(base)
    assert fit.predict(re_form="~ (Days | Subject)").equals(fit.predict())
    np.testing.assert_allclose(fit.predict(random_only=True) + base, fit.predict())


@pytest.mark.filterwarnings("ignore:boundary")
def test_re_form_finds_factor_columns():
    cake = pylmernn.datasets.load("cake")
    fit = pylmernn.lmernn("angle ~ temp + (0 + recipe | replicate)", cake)
    assert fit.predict(re_form="~ (0 + recipe | replicate)").equals(fit.fitted())


def test_missing_rows_are_omitted_or_padded(sleep):
    holes = sleep.copy()
    holes.index = [f"row{i}" for i in range(180)]
    holes.loc["row3", "Reaction"] = np.nan
    holes.loc["row9", "Days"] = np.nan
    omit = pylmernn.lmernn(SLEEP, holes)
    exclude = pylmernn.lmernn(SLEEP, holes, na_action="exclude")
    assert len(omit.fitted()) == 178
    for verb in ("fitted", "residuals", "predict", "hatvalues", "cooks_distance"):
        padded = getattr(exclude, verb)()
        assert list(padded.index) == list(holes.index)
        assert list(padded.index[padded.isna()]) == ["row3", "row9"]
        assert padded.dropna().equals(getattr(omit, verb)())
    limits = exclude.predict(interval="confidence")
    assert limits.loc[["row3", "row9"]].isna().all(axis=None)
    new = holes.iloc[[8, 9]]
    assert omit.predict(new).isna().tolist() == [False, True]
    assert omit.predict(new, se_fit=True)["se"].isna().tolist() == [False, True]
    assert len(omit.predict(new, na_action="omit")) == 1


def test_simulated_responses_have_the_models_moments(fit):
    draws = fit.simulate(nsim=4000, seed=5).to_numpy()
    s = oracle.solve(fit.design, fit.estimates.theta)
    covariance = fit.sigma() ** 2 * s.V
    mean = fit.predict(re_form="NA").to_numpy()
    error = np.sqrt(np.diag(covariance) / 4000)
    assert np.abs((draws.mean(axis=1) - mean) / error).max() < 4.5
    ratio = np.cov(draws[:10]) / covariance[:10, :10]  # one subject
    assert np.abs(ratio - 1).max() < 0.25
    assert np.abs(np.cov(draws[:20])[:10, 10:]).max() < 0.25 * covariance[0, 0]
    kept = fit.simulate(nsim=4000, seed=5, use_u=True).to_numpy()
    np.testing.assert_allclose(kept.mean(axis=1), fit.fitted(), atol=4.5 * fit.sigma() / np.sqrt(4000))
    np.testing.assert_allclose(kept.std(axis=1), fit.sigma(), rtol=0.06)


def test_simulation_is_repeatable_and_weights_shrink_the_noise(sleep, fit):
    assert fit.simulate(3, seed=1).equals(fit.simulate(3, seed=1))
    assert not fit.simulate(1, seed=1).equals(fit.simulate(1, seed=2))
    weighted = pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", sleep.assign(w=4.0), weights="w")
    noise = weighted.simulate(2000, seed=1, use_u=True).to_numpy() - weighted.fitted().to_numpy()[:, None]
    assert noise.std() == pytest.approx(weighted.sigma() / 2, rel=0.02)


def test_rows_of_one_new_level_share_its_effect(fit, sleep):
    new = pd.concat([sleep.head(2).assign(Subject="x"), sleep.head(1).assign(Subject="y")], ignore_index=True)
    draws = fit.simulate(3000, seed=2, newdata=new, allow_new_levels=True).to_numpy()
    correlation = np.corrcoef(draws)
    assert correlation[0, 1] > 0.35
    assert abs(correlation[0, 2]) < 0.08


def test_refit_recovers_what_was_simulated(fit):
    y = fit.simulate(seed=3)
    again = fit.refit(y)
    direct = pylmernn.lmernn(SLEEP, fit.model_frame().assign(Reaction=y["sim_1"]))
    assert again.REMLcrit() == pytest.approx(direct.REMLcrit(), rel=1e-10)
    assert again.model_frame()["Reaction"].equals(y["sim_1"].rename("Reaction"))
    assert not fit.refitML().isREML()
    assert fit.refitML().refitML().logLik() == fit.refitML().logLik()


def test_update(fit, sleep):
    assert fit.update(". ~ . - Days").formula() == "Reaction ~ (Days | Subject)"
    assert fit.update(". ~ . - (Days | Subject) + (1 | Subject)").formula() == "Reaction ~ Days + (1 | Subject)"
    assert fit.update("log(.) ~ .").formula().startswith("log(Reaction)") is True
    assert not fit.update(REML=False).isREML()
    assert fit.update(subset="Days > 1").nobs() == 144
    assert fit.update(data=sleep.head(90)).nobs() == 90


def test_bootstrap(crossed):
    booted = crossed.bootMer(lambda f: {"sigma": f.sigma(), "b0": f.fixef().iloc[0]}, nsim=60, seed=4)
    assert booted.t.shape == (60, 2)
    assert booted.n_failed == 0
    assert booted.t0["sigma"] == crossed.sigma()
    assert booted.t["sigma"].mean() == pytest.approx(crossed.sigma(), rel=0.05)
    for kind in ("perc", "basic", "norm"):
        limits = booted.confint(type=kind)
        assert (limits.iloc[:, 0] < booted.t0).all()
        assert (limits.iloc[:, 1] > booted.t0).all()
    assert "original" in str(booted)
    intervals = crossed.confint(method="boot", nsim=40, seed=1)
    assert intervals.equals(crossed.confint(method="boot", nsim=40, seed=1))


def test_profile_is_zero_at_the_estimate_and_meets_the_limits(crossed):
    ml = crossed.refitML()
    table = ml.profile(which=".sigma", alphamax=0.05, points=3)
    assert table[".zeta"].is_monotonic_increasing
    assert table.loc[table[".zeta"] == 0, "value"].item() == pytest.approx(ml.sigma())
    limits = ml.confint(".sigma").loc[".sigma"]
    np.testing.assert_allclose([table["value"].iloc[0], table["value"].iloc[-1]], limits, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:boundary")
def test_profiles_of_correlations_of_wide_terms():
    """Three columns: the deviance at a held correlation is that of a constrained search from scratch."""
    from scipy.optimize import minimize

    from pylmernn.fit.deviance import DevianceSurface, Held

    cake = pylmernn.datasets.load("cake")
    fit = pylmernn.lmernn("angle ~ temp + (0 + recipe | replicate)", cake, REML=False)
    surface = DevianceSurface(fit.design)
    start = ([fit.getME("Tlist")["replicate"]], fit.sigma())
    value, (roots, _) = Held(fit.design, 0, 2, 1).minimum(surface, 0.5, start)
    covariance = roots[0] @ roots[0].T
    assert covariance[2, 1] / np.sqrt(covariance[1, 1] * covariance[2, 2]) == pytest.approx(0.5)
    rows, columns = np.tril_indices(3)

    def penalized(z):
        L = np.zeros((3, 3))
        L[rows, columns] = z[:6]
        S = L @ L.T
        rho = S[2, 1] / np.sqrt(S[1, 1] * S[2, 2])
        return surface(([L], np.exp(z[6])))[0] + 1e6 * (rho - 0.5) ** 2

    z0 = np.append(np.linalg.cholesky(covariance + 0.01 * np.eye(3))[rows, columns], np.log(fit.sigma()))
    found = minimize(penalized, z0, method="Nelder-Mead", options={"maxiter": 8000, "maxfev": 8000, "adaptive": True})
    assert value == pytest.approx(found.fun, abs=1e-3)  # the penalty gives way a little
    assert value > fit.deviance() + 0.01


def test_influence_by_level(fit, sleep):
    shown = fit.influence("Subject")
    without = pylmernn.lmernn(SLEEP, sleep[sleep["Subject"].astype(str) != "308"])
    np.testing.assert_allclose(shown.fixef.loc["308"], without.fixef(), rtol=1e-5)
    assert shown.cooks_distance().idxmax() in ("337", "335", "309")
    assert shown.dfbetas().shape == (18, 2)


@pytest.fixture
def saved(tmp_path):
    def keep(fit):
        fit.save(tmp_path / "fit.safetensors")
        return pylmernn.load(tmp_path / "fit.safetensors")

    return keep


def test_saved_fits_answer_alike(saved, fit, sleep):
    again = saved(fit)
    assert str(again.summary()) == str(fit.summary())
    assert again.model_frame().equals(fit.model_frame())
    assert again.predict(sleep.head(5)).equals(fit.predict(sleep.head(5)))
    assert again.estimates.objective == fit.estimates.objective
    assert again.confint(method="Wald").equals(fit.confint(method="Wald"))
    assert again.refit(fit.simulate(seed=1)).logLik() == fit.refit(fit.simulate(seed=1)).logLik()
    assert again.update(". ~ . - Days", data=sleep).formula() == "Reaction ~ (Days | Subject)"


def test_saved_fits_keep_transforms_weights_and_column_types(saved, sleep):
    data = sleep.assign(
        w=1.0 + sleep["Days"], when=pd.date_range("2024-01-01", periods=180), text=np.where(sleep["Days"] > 4, "l", "é")
    )
    data["Int"] = pd.array(np.arange(180) % 7, dtype="Int64")
    formula = "Reaction ~ poly(Days, 2) + text + Int + I(Days^2 * 0) + offset(Days) + (1 | Subject)"
    fit = pylmernn.lmernn(formula.replace(" + I(Days^2 * 0)", ""), data, weights="w", subset="Days < 9")
    again = saved(fit)
    assert again.predict(data.head(20)).equals(fit.predict(data.head(20)))
    pd.testing.assert_frame_equal(again.model_frame(), fit.model_frame())
    assert str(again.summary()) == str(fit.summary())
    assert "Weights: w" in str(again)


def test_saving_replaces_a_file_whole(tmp_path, fit, monkeypatch):
    path = tmp_path / "fit.safetensors"
    path.write_text("precious")
    import safetensors.numpy

    def breaks(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", breaks)
    with pytest.raises(OSError, match="disk full"):
        fit.save(path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["fit.safetensors"]


def test_a_saved_file_is_as_readable_as_any_other(tmp_path, fit):
    fit.save(tmp_path / "fit")
    (tmp_path / "other").touch()
    assert (tmp_path / "fit").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_saved_file_is_plain_tensors_and_json(tmp_path, fit):
    from safetensors import safe_open

    fit.save(tmp_path / "f")
    with safe_open(tmp_path / "f", framework="numpy") as file:
        meta = json.loads(file.metadata()["fit"])
    assert meta["frame"]["formula"] == SLEEP


def test_pictures(fit, crossed):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    axes = fit.plot()
    assert isinstance(axes, Axes)
    assert axes.get_xlabel() == "fitted Reaction"
    picture = fit.plot("ranef")
    assert isinstance(picture, Figure)
    assert [a.get_title() for a in picture.axes] == ["(Intercept)", "Days"]
    order = [t.get_text() for t in picture.axes[0].get_yticklabels()]
    assert order == list(fit.ranef()["Subject"].sort_values("(Intercept)").index)
    assert len(fit.plot("qq").axes) == 2
    assert sum(a.get_visible() for a in fit.plot("shrinkage").axes) == 18
    assert len(fit.plot("shrinkage", levels=["308", "335"]).axes) == 2
    assert crossed.plot("ranef", group="sample").axes[0].get_yticklabels()[0].get_text() == "F"


def test_add_dropped_columns(sleep):
    data = sleep.assign(twice=2 * sleep["Days"])
    with pytest.warns(UserWarning, match="rank deficient so dropping 1 column / coefficient: twice"):
        fit = pylmernn.lmernn("Reaction ~ Days + twice + I(Days^2) + (1 | Subject)", data)
    assert list(fit.fixef().index) == ["(Intercept)", "Days", "I(Days^2)"]
    whole = fit.fixef(add_dropped=True)
    assert list(whole.index) == ["(Intercept)", "Days", "twice", "I(Days^2)"]
    assert list(whole.index[whole.isna()]) == ["twice"]
    assert list(fit.anova().index) == ["Days", "I(Days^2)"]
    np.testing.assert_allclose(fit.predict(data), fit.fitted())


def test_importing_is_light():
    code = "import sys, pylmernn; print([m for m in ('torch', 'matplotlib', 'rpy2', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    fits = (
        "data = pylmernn.datasets.load('Dyestuff'); pylmernn.lmernn('Yield ~ 1 + (1 | Batch)', data).summary();",
        "data = pylmernn.datasets.load('cbpp');"
        "pylmernn.glmernn('cbind(incidence, size - incidence) ~ 1 + (1 | herd)', data, family='binomial').summary();",
    )
    for fitted in fits:
        heavy = ("torch", "matplotlib", "rpy2", "polars", "scipy.stats")
        code = f"import sys, pylmernn; {fitted} print([m for m in {heavy} if m in sys.modules])"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "[]"


def test_input_is_not_changed(sleep):
    before = sleep.copy(deep=True)
    fit = pylmernn.lmernn(SLEEP, sleep)
    fit.summary(), fit.predict(sleep), fit.simulate(seed=1), fit.augment()
    pd.testing.assert_frame_equal(sleep, before)
    table = fit.model_frame()
    table["Days"] = 0.0
    assert fit.model_frame()["Days"].max() == 9
