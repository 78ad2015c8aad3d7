"""Intervals, simulation, importance, curves and limits of networks that vary by group, against linear mixed models."""

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

ORTHODONT = pd.read_csv("tests/golden/data/Orthodont.csv.gz")
FIVE = Control(training=Training(epochs=5))


def people(q=20, rows=12, seed=1):
    """Persons with a level and a sine of their own."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(q), rows)
    x, z = rng.uniform(-2, 2, size=(2, q * rows))
    level, size = rng.normal(size=(2, q))
    y = level[person] + (1 + 0.5 * size[person]) * np.sin(2 * x) + 0.3 * rng.normal(size=q * rows)
    return pd.DataFrame({"y": y, "x": x, "z": z, "person": [f"p{k}" for k in person]})


@pytest.fixture(scope="module")
def linear():
    """The same model twice: as a network without hidden layers, and as a linear mixed model."""
    return (
        pylmernn.lmernn("distance ~ nn(age, hidden=c()) + (nn | Subject)", ORTHODONT, control=FIVE),
        pylmernn.lmernn("distance ~ age + (age | Subject)", ORTHODONT),
    )


@pytest.fixture(scope="module")
def last():
    return pylmernn.lmernn("y ~ nn(x, z, hidden=c(6)) + (nn.last | person)", people(), control=Control(
        training=Training(epochs=40)), seed=1)  # fmt: skip


@pytest.fixture(scope="module")
def deep():
    return pylmernn.lmernn("y ~ nn(x, z, hidden=c(4)) + (nn | person)", people(), control=Control(
        training=Training(epochs=30)), seed=1)  # fmt: skip


# ---- standard errors


def test_a_linear_network_has_the_errors_of_the_linear_mixed_model(linear):
    ours, theirs = linear
    rows = ORTHODONT.assign(Subject=np.where(np.arange(len(ORTHODONT)) < 40, "new", ORTHODONT["Subject"]))
    for interval in ("confidence", "prediction"):
        a = ours.predict(rows, allow_new_levels=True, se_fit=True, interval=interval, level=0.8)
        b = theirs.predict(rows, allow_new_levels=True, se_fit=True, interval=interval, level=0.8)
        assert list(a.columns) == ["fit", "se", "lwr", "upr"]
        np.testing.assert_allclose(a, b, rtol=2e-5)
    generic = ours.predict(re_form="NA", se_fit=True)
    np.testing.assert_allclose(generic, theirs.predict(re_form="NA", se_fit=True), rtol=2e-5)
    np.testing.assert_allclose(ours.predict(interval=True), theirs.predict(interval=True), rtol=2e-5)


def test_limits_of_weighted_rows():
    data = people()
    weights = np.where(np.arange(len(data)) % 2, 4.0, 1.0)
    ours = pylmernn.lmernn("y ~ nn(x, hidden=c()) + (nn | person)", data, weights=weights, control=FIVE)
    theirs = pylmernn.lmernn("y ~ x + (x | person)", data, weights=weights)
    np.testing.assert_allclose(ours.predict(interval=True), theirs.predict(interval=True), rtol=1e-4, atol=1e-5)


def test_errors_against_dense_algebra(deep):
    """Posterior variance of fixed columns and deviations together, from one matrix."""
    e, rows = deep.estimates, deep._errors.model
    from pylmernn.engines.nme_variance import rows_of

    given = rows_of(deep.design, e)
    J, phi = rows.derivatives(given)
    X = np.column_stack([given.X, phi])[:, rows.kept]
    q, n = len(e.effects), len(given)
    Z = np.zeros((n, q * J.shape[1]))
    for i, code in enumerate(given.codes):
        Z[i, code * J.shape[1] : (code + 1) * J.shape[1]] = J[i]
    C = np.column_stack([X, Z])
    penalty = np.r_[np.zeros(X.shape[1]), np.ones(Z.shape[1])]
    covariance = np.linalg.inv(C.T @ C / e.sigma**2 + np.diag(penalty))
    truth = np.einsum("ij,jk,ik->i", C, covariance, C)
    found, added = rows.variance(given)
    np.testing.assert_allclose(found + added, truth, rtol=1e-4)


def test_new_groups_vary_as_known_ones_do(deep):
    """Mean over the groups of squared differences from the generic network, and of what is unknown of each."""
    rows = people().head(5)
    se = deep.predict(rows.assign(person="new"), allow_new_levels=True, se_fit=True)["se"]
    generic = deep.predict(rows, re_form="NA", se_fit=True)
    apart = np.zeros(5)
    for name in deep.ranef()["person"].index:
        own = deep.predict(rows.assign(person=name), se_fit=True)
        apart += (own["fit"] - generic["fit"]) ** 2 + own["se"] ** 2
    np.testing.assert_allclose(se, np.sqrt(apart / 20), rtol=0.1)


def test_new_groups_of_a_last_layer_spread_as_draws_do(last):
    rows = people().head(5).assign(person="new")
    se = last.predict(rows, allow_new_levels=True, se_fit=True)["se"]
    drawn = last.simulate(3000, seed=3, newdata=rows, allow_new_levels=True)
    spread = drawn.sub(last.predict(rows, re_form="NA"), axis=0).pow(2).mean(axis=1) - last.sigma() ** 2
    shared = last.predict(rows, re_form="NA", se_fit=True)["se"]
    np.testing.assert_allclose(np.sqrt(se**2 - shared**2), np.sqrt(spread), rtol=0.1)


@pytest.mark.parametrize("name", ["last", "deep"])
def test_learnt_groups_are_as_certain_as_their_twins(name, request, tmp_path):
    fit = request.getfixturevalue(name)
    rows = people()[lambda d: d["person"] == "p3"].assign(person="twin")
    more = fit.update_ranef(rows)
    twin = more.predict(rows, se_fit=True)["se"]
    known = fit.predict(people()[lambda d: d["person"] == "p3"], se_fit=True)["se"]
    np.testing.assert_allclose(twin, known, rtol=0.05)
    few = fit.update_ranef(rows.head(2)).predict(rows, se_fit=True)["se"]
    assert (few > 1.2 * known).mean() > 0.8
    again = more.update_ranef(people()[lambda d: d["person"] == "p5"].assign(person="other")).predict(rows, se_fit=True)
    np.testing.assert_allclose(again["se"], twin, rtol=0.02)
    more.save(tmp_path / "fit")
    np.testing.assert_allclose(pylmernn.load(tmp_path / "fit").predict(rows, se_fit=True)["se"], twin, rtol=1e-6)


def test_missing_values(last):
    rows = people().head(4)
    rows.loc[1, "x"] = np.nan
    found = last.predict(rows, interval="prediction")
    assert found.isna().all(axis=1).tolist() == [False, True, False, False]
    assert len(last.predict(rows, se_fit=True, na_action="omit")) == 3


def test_what_deviations_add(last):
    both = last.predict(people(), re_form="NA") + last.predict(people(), random_only=True)
    np.testing.assert_allclose(both, last.predict(people()), rtol=1e-4, atol=1e-5)
    with pytest.raises(DesignError, match="random_only is for predictions alone"):
        last.predict(random_only=True, se_fit=True)


# ---- simulation


def test_draws_have_the_moments_of_the_linear_mixed_model(linear):
    ours, theirs = linear
    a = ours.simulate(2000, seed=1).to_numpy()
    marginal = theirs.sigma() ** 2 + np.einsum(
        "ij,jk,ik->i", theirs.design.X, theirs.VarCorr()["Subject"].to_numpy(), theirs.design.X
    )
    np.testing.assert_allclose(a.var(axis=1), marginal, rtol=0.15)
    np.testing.assert_allclose(a.mean(axis=1), theirs.predict(re_form="NA"), atol=0.2)
    kept = ours.simulate(1000, seed=1, use_u=True).to_numpy()
    np.testing.assert_allclose(kept.mean(axis=1), ours.fitted(), atol=0.15)
    np.testing.assert_allclose(kept.std(), np.sqrt(ours.sigma() ** 2 + ours.fitted().var()), rtol=0.02)
    pd.testing.assert_frame_equal(ours.simulate(2, seed=5), ours.simulate(2, seed=5))


def test_rows_of_a_new_group_share_its_deviations(last):
    rows = people().head(1)
    four = pd.concat([rows.assign(person=name) for name in ("u", "u", "v", "p0")], ignore_index=True)
    with pytest.raises(DesignError, match="new levels"):
        last.simulate(newdata=four)
    drawn = last.simulate(2000, seed=2, re_form=None, newdata=four, allow_new_levels=True).T
    apart = (drawn[0] - drawn[1]).var()
    assert apart == pytest.approx(2 * last.sigma() ** 2, rel=0.1)
    assert (drawn[0] - drawn[2]).var() > 2 * apart
    assert drawn[3].std() == pytest.approx(last.sigma(), rel=0.05)


# ---- what the network found


def test_importance_of_a_linear_network_is_algebra(linear):
    """E over permutations of mean (r + w_i (x - x_p))^2, with each person's own slope, at the rows held out."""
    ours, theirs = linear
    rows = np.flatnonzero(~ours.estimates.networks.learned[0])
    slope = theirs.coef()["Subject"]["age"].loc[ORTHODONT["Subject"]].to_numpy()[rows]
    x, r = ORTHODONT["age"].to_numpy()[rows], theirs.residuals().to_numpy()[rows]
    moved = slope[:, None] * (x[:, None] - x[None])
    expected = ((r[:, None] + moved) ** 2).mean() - (r**2).mean()
    found = ours.importance(n_repeats=400)
    assert list(found.columns) == ["network", "input", "importance", "se"]
    assert found["importance"][0] == pytest.approx(expected / ORTHODONT["distance"].var(ddof=0), rel=0.05)


def test_curves_of_persons(linear, last):
    ours, theirs = linear
    table = ours.partial_dependence("age", groups=["M01", "F03"])
    assert table["Subject"].unique().tolist() == ["M01", "F03"]
    for name, own in table.groupby("Subject"):
        slope = np.polyfit(own["age"], own["f"], 1)[0]
        assert slope == pytest.approx(theirs.coef()["Subject"].loc[name, "age"], rel=1e-4)
    generic = ours.partial_dependence("age")
    assert np.polyfit(generic["age"], generic["f"], 1)[0] == pytest.approx(theirs.fixef()["age"], rel=1e-4)
    assert last.partial_dependence("x", grid_size=5, groups="all").shape == (100, 3)
    with pytest.raises(DesignError, match="'person' has no level 'nobody'"):
        last.partial_dependence("x", groups="nobody")


def test_a_curve_is_a_mean_of_predictions(last):
    curve = last.partial_dependence("x", grid_size=2, groups="p4")
    for x, f in zip(curve["x"], curve["f"], strict=True):
        rows = people().assign(x=x, person="p4")
        assert f == pytest.approx((last.predict(rows) - last.fixef()["(Intercept)"]).mean(), abs=1e-4)


# ---- limits


def test_limits_of_linear_coefficients(last, deep):
    data = ORTHODONT.assign(male=(ORTHODONT["Sex"] == "Male").astype(float))
    ours = pylmernn.lmernn("distance ~ male + nn(age, hidden=c()) + (nn | Subject)", data, control=FIVE)
    theirs = pylmernn.lmernn("distance ~ male + age + (age | Subject)", data).confint(method="Wald", level=0.9)
    np.testing.assert_allclose(ours.confint("male", level=0.9).loc["male"], theirs.loc["male"], rtol=1e-4)
    assert last.confint().shape == (1, 2)
    with pytest.raises(DesignError, match="only where the last layer alone varies"):
        deep.confint()
    with pytest.raises(DesignError, match="no linear coefficient 'age'"):
        ours.confint("age")
    with pytest.raises(DesignError, match="no method 'profile'"):
        ours.confint(method="profile")


# ---- generalized models


@pytest.fixture(scope="module")
def counts():
    data = people(30, 10, seed=4)
    rng = np.random.default_rng(1)
    data["k"] = rng.poisson(np.exp(0.5 + 0.4 * data["y"]))
    data["b"] = (rng.uniform(size=len(data)) < 1 / (1 + np.exp(-2 * data["y"]))).astype(int)
    return data


@pytest.mark.parametrize("response, family", [("k", "poisson"), ("b", "binomial")])
def test_a_linear_generalized_network_has_the_errors_of_the_mixed_model(counts, response, family):
    ours = pylmernn.glmernn(f"{response} ~ nn(x, hidden=c()) + (nn | person)", counts, family=family, control=FIVE)
    theirs = pylmernn.glmernn(f"{response} ~ x + (x | person)", counts, family=family)
    rows = counts.assign(person=np.where(np.arange(len(counts)) < 100, "new", counts["person"]))
    for type in ("link", "response"):
        a = ours.predict(rows, allow_new_levels=True, type=type, se_fit=True, interval="confidence")
        b = theirs.predict(rows, allow_new_levels=True, type=type, se_fit=True, interval="confidence")
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.005)
    if family == "poisson":
        a, b = (f.predict(counts, type="response", interval="prediction") for f in (ours, theirs))
        assert (np.abs(a["upr"] - b["upr"]) <= 1).all()
    else:
        with pytest.raises(DesignError, match="one class or another"):
            ours.predict(type="response", interval=True)
    draws = ours.simulate(200, seed=1, use_u=True)
    mean = theirs.predict(type="response") if family == "poisson" else theirs.fitted()
    np.testing.assert_allclose(draws.mean(axis=1).mean(), mean.mean(), rtol=0.05)
    assert ours.importance()["importance"][0] > 0
    twin = ours.update_ranef(counts[counts["person"] == "p2"].assign(person="twin"))
    rows = counts[counts["person"] == "p2"]
    np.testing.assert_allclose(
        twin.predict(rows.assign(person="twin"), se_fit=True)["se"], ours.predict(rows, se_fit=True)["se"], rtol=0.1
    )


def test_classes_have_draws_and_importance_but_no_errors(counts):
    counts = counts.assign(c=np.where(counts["y"] < -0.7, "low", np.where(counts["y"] > 0.7, "top", "mid")))
    formula = "c ~ nn(x, z, hidden=c()) + (nn || person)"
    fit = pylmernn.glmernn(formula, counts, family="multinomial", control=FIVE)
    assert set(np.unique(fit.simulate(3, seed=1))) == {"low", "mid", "top"}
    assert list(fit.importance()["input"]) == ["x", "z"]
    assert set(fit.partial_dependence("x", groups="p1")["class"]) == {"low", "mid", "top"}
    with pytest.raises(DesignError, match="multinomial model with a network that varies are not known"):
        fit.predict(type="link", se_fit=True)


# ---- pictures


@pytest.mark.parametrize("kind", ["curves", "shrinkage", "baseline", "variances", "importance", "partial", "predicted"])
@pytest.mark.parametrize("name", ["last", "deep"])
def test_pictures_show_every_group(kind, name, request):
    plt = pytest.importorskip("matplotlib.pyplot")
    fit = request.getfixturevalue(name)
    picture = fit.plot(kind)
    if kind == "curves":
        assert len(picture.lines) == 21  # 20 persons and the generic network
        generic = fit.predict(pd.DataFrame({"x": picture.lines[-1].get_xdata(), "z": people()["z"].mean()}), "NA")
        np.testing.assert_allclose(picture.lines[-1].get_ydata(), generic, atol=1e-4)
    if kind == "shrinkage":
        assert len(picture.lines[0].get_xdata()) == 20
        assert (picture.lines[0].get_xdata() == 12).all()
    if kind == "baseline":
        level, deviation = picture.collections[0].get_offsets().T
        np.testing.assert_allclose(level, people().groupby("person", sort=False)["y"].mean().loc[
            fit.ranef()["person"].index])  # fmt: skip
        np.testing.assert_allclose(deviation, fit.ranef()["person"].iloc[:, -1])
    plt.close("all")


def test_bands_of_named_persons(last):
    plt = pytest.importorskip("matplotlib.pyplot")
    picture = last.plot("curves", input="x", groups=["p1", "p2"], level=0.8)
    assert [text.get_text() for text in picture.get_legend().get_texts()] == [
        "person p1",
        "person p2",
        "generic network",
    ]
    x = picture.lines[-2].get_xdata()
    rows = pd.DataFrame({"x": x, "z": people()["z"].mean(), "person": "p2"})
    limits = last.predict(rows, interval="confidence", level=0.8)
    edge = picture.collections[1].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(limits["upr"].max(), abs=1e-4)
    assert edge.min() == pytest.approx(limits["lwr"].min(), abs=1e-4)
    plt.close("all")


def test_pictures_that_there_are_not(last, deep):
    pytest.importorskip("matplotlib")
    first = pylmernn.lmernn("y ~ nn(x, hidden=c(3)) + (nn.first | person)", people(), control=FIVE)
    with pytest.raises(DesignError, match="the bias of the last layer does not vary"):
        first.plot("baseline")
    with pytest.raises(DesignError, match="no kind 'map' here: use one of curves"):
        last.plot("map")
    with pytest.raises(DesignError, match="'w' is no number that the network takes: it has x, z"):
        deep.plot("curves", input="w")
