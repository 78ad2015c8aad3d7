"""What fits with several bars of a network answer: intervals, draws, importance, curves, limits and pictures."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.engines.nme_predict import network_of
from pylmernn.engines.nme_several_variance import rows_of
from pylmernn.fit.varying_several_answers import several_rows
from pylmernn.formula.design import DesignError, independent_columns
from pylmernn.mean.varying import VaryingNetwork, select, union
from pylmernn.training.options import Training

FIVE = Control(training=Training(epochs=5))


def lines(nested, seed=1, n=600):
    """Lines whose intercepts and slopes differ by person and by school, with a fixed effect and weights."""
    rng = np.random.default_rng(seed)
    person = rng.integers(0, 30, n)
    school = person % 6 if nested else rng.integers(0, 6, n)
    x, z = rng.normal(size=(2, n))
    height, slope = rng.normal(size=(2, 6)), 0.5 * rng.normal(size=(2, 30))
    y = 1 + 2 * x + 0.7 * z + height[0][school] + 0.5 * height[1][school] * x + slope[0][person] + slope[1][person] * x
    return pd.DataFrame({
        "y": y + 0.5 * rng.normal(size=n), "x": x, "z": z, "person": [f"p{k}" for k in person],
        "school": [f"s{k}" for k in school], "w": rng.uniform(0.5, 2, n),
    })  # fmt: skip


#: Bars of a linear network, those of the linear mixed model that it is, and pairs of re_form.
LINEAR = {
    "nested": ("(nn | school/person)", "(1 + x | school/person)", [("~ (nn | school)", "~ (1 + x | school)")]),
    "crossed": (
        "(nn | person) + (nn | school)",
        "(1 + x | person) + (1 + x | school)",
        [("~ (nn | school)", "~ (1 + x | school)"), ("~ (nn | person)", "~ (1 + x | person)")],
    ),
    "beside": (
        "(nn | person) + (1 + x | school)",
        "(1 + x | person) + (1 + x | school)",
        [("~ (1 + x | school)", "~ (1 + x | school)"), ("~ (nn | person)", "~ (1 + x | person)")],
    ),
    "one factor": (
        '(nn["layers.0.weight"] | person) + (1 | person) + (1 | school)',
        "(0 + x | person) + (1 | person) + (1 | school)",
        [("~ (1 | person)", "~ (1 | person)"), ("~ (1 | school)", "~ (1 | school)")],
    ),
}


@pytest.fixture(scope="module")
def twins():
    """The same models twice: as networks without hidden layers, and as linear mixed models."""
    made = {}

    def both(name):
        if name not in made:
            ours, theirs, re_forms = LINEAR[name]
            data = lines(name == "nested")
            network = "y ~ z + nn(x, hidden=c(), standardize=FALSE) + "
            fit = pylmernn.lmernn(network + ours, data, weights="w", control=FIVE)
            made[name] = data, fit, pylmernn.lmernn("y ~ z + x + " + theirs, data, weights="w"), re_forms
        return made[name]

    return both


def curves(seed=0, schools=5, persons=6, rows=10):
    """Curves that differ by school and person, with ordinary effects of a crossed item."""
    rng = np.random.default_rng(seed)
    n = schools * persons * rows
    person = np.repeat(np.arange(schools * persons), rows)
    school, item, x = person // persons, rng.integers(0, 4, n), rng.uniform(-2, 2, n)
    f = (1 + 0.8 * rng.normal(size=schools)[school] + 0.5 * rng.normal(size=schools * persons)[person]) * np.sin(x)
    y = f + 0.5 * rng.normal(size=4)[item] + 0.3 * rng.normal(size=n)
    names = {"person": [f"p{k}" for k in person], "school": [f"s{k}" for k in school], "item": [f"i{k}" for k in item]}
    return pd.DataFrame({"y": y, "x": x, "z": rng.normal(size=n), "v": rng.normal(size=n), **names})


CURVES = curves()
HALF = Control(training=Training(epochs=25))


@pytest.fixture(scope="module")
def last():
    bars = "(nn.last | school/person) + (1 + v | item)"
    return pylmernn.lmernn(f"y ~ nn(x, z, hidden=c(4)) + {bars}", CURVES, control=HALF, seed=1)


@pytest.fixture(scope="module")
def deep():
    bars = "rr(nn | person, d = 2) + (nn.last || school) + (1 | item)"
    return pylmernn.lmernn(f"y ~ nn(x, hidden=c(3)) + {bars}", CURVES, control=HALF, seed=1)


# ---- standard errors


@pytest.mark.filterwarnings("ignore:'x' has random slopes")
@pytest.mark.parametrize("name", list(LINEAR))
def test_a_linear_network_has_the_errors_of_the_linear_mixed_model(twins, name):
    data, ours, theirs, re_forms = twins(name)
    new = data.head(90).copy()
    new.loc[:29, "person"] = "new"  # of a known school
    new.loc[30:59, "school"] = "new"
    new.loc[60:69, ["school", "person"]] = "new"
    for interval in ("confidence", "prediction"):
        more = {"se_fit": True, "interval": interval, "level": 0.8}
        a, b = (fit.predict(new, allow_new_levels=True, **more) for fit in (ours, theirs))
        assert list(a.columns) == ["fit", "se", "lwr", "upr"]
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
        a, b = (fit.predict(**more) for fit in (ours, theirs))  # the rows of the fit, with their weights
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    for own, same in [("NA", "NA"), *re_forms]:
        for rows in (None, data.tail(50)):
            a, b = ours.predict(rows, re_form=own, se_fit=True), theirs.predict(rows, re_form=same, se_fit=True)
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_some_bars_of_one_factor_have_the_same_errors_for_old_rows_and_for_new_ones(twins):
    data, _, mixed, _ = twins("one factor")
    for re_form in ("~ (1 | person)", "~ (0 + x | person)"):
        old, new = (mixed.predict(rows, re_form=re_form, se_fit=True) for rows in (None, data))
        np.testing.assert_allclose(new, old, rtol=1e-10)


def posterior_of_all(fit):
    """Variances of means at all rows learnt from, by one matrix of all that is estimated; a function of the bars."""
    e, rows = fit.estimates, rows_of(fit.design).joined(fit.added)
    network, n = network_of(e), len(rows)
    last = select(network.module, "last", "nn")
    both = VaryingNetwork(network.module, union(network.module, [e.selected, last]))
    eta, places = torch.zeros(n, both.selected.size), both.selected.places(e.selected)
    for bar, codes in zip(e.varying, rows.codes, strict=False):
        eta[:, [places[k] for k in bar.places]] += torch.from_numpy(bar.effects[codes]).float()
    J = both.jacobian(network.module.prepare(rows.inputs), eta, torch.arange(n))[1].double().numpy() * e.networks.scale
    X = np.column_stack([rows.X, J[:, both.selected.places(last)]])
    columns, given = [X[:, independent_columns(X, 1e-7)]], iter(rows.columns)
    for bar, codes in zip((*e.varying, *e.random), rows.codes, strict=True):
        own = next(given) if bar.places is None else J[:, [places[k] for k in bar.places]]
        own = own * bar.factor if bar.factor.ndim == 1 else own @ bar.factor
        Z = np.zeros((n, len(bar.effects), own.shape[1]))
        Z[np.arange(n), codes] = own
        columns.append(Z.reshape(n, -1))
    sizes = np.cumsum([0, *(each.shape[1] for each in columns)])
    C = np.hstack(columns)
    penalty = np.r_[np.zeros(sizes[1]), np.ones(sizes[-1] - sizes[1])]
    covariance = np.linalg.inv(C.T @ C / e.sigma**2 + np.diag(penalty))

    def variance(*bars):
        kept = np.r_[np.arange(sizes[1]), *[np.arange(sizes[k + 1], sizes[k + 2]) for k in bars]].astype(int)
        some = np.zeros_like(C)
        some[:, kept] = C[:, kept]
        return np.einsum("ij,jk,ik->i", some, covariance, some)

    return variance


@pytest.mark.parametrize("name", ["last", "deep"])
def test_errors_against_dense_algebra(name, request):
    fit = request.getfixturevalue(name)
    truth, rows = posterior_of_all(fit), rows_of(fit.design)
    given, added = fit._errors.model.variance(rows)
    np.testing.assert_allclose(given + added, truth(0, 1, 2), rtol=2e-4)
    if name == "last":  # exact: the errors of predictions are these
        np.testing.assert_allclose(fit.predict(se_fit=True)["se"] ** 2, truth(0, 1, 2), rtol=2e-4)
        of_school = fit.predict(re_form="~ (nn.last | school)", se_fit=True)["se"]
        np.testing.assert_allclose(of_school**2, truth(1), rtol=2e-4)
        beside = fit.predict(CURVES, re_form="~ (nn.last | person:school) + (1 + v | item)", se_fit=True)["se"]
        np.testing.assert_allclose(beside**2, truth(0, 2), rtol=2e-4)


def test_new_levels_vary_as_known_ones_do(deep):
    """Mean over the persons of squared differences from their school's network, and of what is unknown of each."""
    rows = CURVES.head(5)
    new = deep.predict(rows.assign(person="new"), allow_new_levels=True, se_fit=True)["se"] ** 2
    shared = deep.predict(rows, re_form="~ (nn.last || school) + (1 | item)", se_fit=True)
    apart, persons = np.zeros(5), deep.ranef()["person"].index
    for name in persons:
        own = deep.predict(rows.assign(person=name))
        at = several_rows(deep._asked(rows.assign(person=name), None, False))
        unknown = deep._errors.model.variance(dataclasses.replace(at, X=0 * at.X), [True, False, False])[0]
        apart += (own - shared["fit"]) ** 2 + unknown
    np.testing.assert_allclose(new, shared["se"] ** 2 + apart / len(persons), rtol=1e-3)


def test_new_levels_of_a_last_layer_spread_as_draws_do(last):
    rows = CURVES.head(5).assign(person="new")
    se = last.predict(rows, allow_new_levels=True, se_fit=True)["se"]
    drawn = last.simulate(3000, seed=3, newdata=rows, allow_new_levels=True, use_u=True)
    shared = last.predict(rows, re_form="~ (nn.last | school) + (1 + v | item)", se_fit=True)["se"]
    np.testing.assert_allclose(se**2 - shared**2 + last.sigma() ** 2, drawn.var(axis=1), rtol=0.1)


@pytest.mark.parametrize("name", ["last", "deep"])
def test_learnt_levels_are_as_certain_as_their_twins(name, request, tmp_path):
    fit = request.getfixturevalue(name)
    own = CURVES[CURVES["person"] == "p3"]
    rows = own.assign(person="twin")
    more = fit.update_ranef(rows)
    twin, known = more.predict(rows, se_fit=True)["se"], fit.predict(own, se_fit=True)["se"]
    np.testing.assert_allclose(twin, known, rtol=0.12)
    assert (twin < known).all()  # the rows tell of the school once more
    few = fit.update_ranef(rows.head(2)).predict(rows, se_fit=True)["se"]
    assert (few > 1.1 * known).mean() > 0.8
    other = more.update_ranef(CURVES[CURVES["person"] == "p5"].assign(person="other", item="i9"))
    given, added = other._errors.model.variance(rows_of(other.design).joined(other.added))
    np.testing.assert_allclose(given + added, posterior_of_all(other)(0, 1, 2), rtol=2e-4)
    again = fit.update_ranef(pd.concat([rows, CURVES.tail(60)]))  # rows without a new level tell nothing new
    np.testing.assert_allclose(again.predict(rows, se_fit=True)["se"], twin, rtol=1e-5)
    other.save(tmp_path / "fit")
    loaded = pylmernn.load(tmp_path / "fit").predict(rows, se_fit=True)
    np.testing.assert_allclose(loaded, other.predict(rows, se_fit=True), rtol=1e-6)


def test_missing_values_and_what_random_effects_add(last):
    rows = CURVES.head(4).copy()
    rows.loc[1, "x"] = np.nan
    found = last.predict(rows, interval="prediction")
    assert found.isna().all(axis=1).tolist() == [False, True, False, False]
    assert len(last.predict(rows, se_fit=True, na_action="omit")) == 3
    alone = last.predict(CURVES, random_only=True)
    np.testing.assert_allclose(last.predict(CURVES, re_form="NA") + alone, last.predict(CURVES), rtol=1e-4, atol=1e-5)
    with pytest.raises(DesignError, match="random_only is for predictions alone"):
        last.predict(random_only=True, interval=True)
    with pytest.raises(DesignError, match="interval is 'wide'"):
        last.predict(interval="wide")


# ---- simulation


@pytest.mark.parametrize("name", ["nested", "one factor"])
def test_draws_have_the_moments_of_the_linear_mixed_model(twins, name):
    data, ours, theirs, re_forms = twins(name)
    a, b = (fit.simulate(1500, seed=1) for fit in (ours, theirs))
    np.testing.assert_allclose(a.var(axis=1), b.var(axis=1), rtol=0.25)
    assert a.var(axis=1).mean() == pytest.approx(b.var(axis=1).mean(), rel=0.03)
    np.testing.assert_allclose(a.mean(axis=1), theirs.predict(re_form="NA"), atol=0.3)
    of_ours, of_theirs = re_forms[0]
    kept, same = ours.simulate(1500, seed=2, re_form=of_ours), theirs.predict(re_form=of_theirs)
    np.testing.assert_allclose(kept.mean(axis=1), same, atol=0.2)
    assert kept.var(axis=1).mean() < 0.9 * a.var(axis=1).mean()
    known = ours.simulate(500, seed=1, use_u=True)
    np.testing.assert_allclose(known.mean(axis=1), ours.fitted(), atol=0.2)
    np.testing.assert_allclose(known.std(axis=1), ours.sigma() / np.sqrt(data["w"]), rtol=0.15)
    pd.testing.assert_frame_equal(ours.simulate(2, seed=5), ours.simulate(2, seed=5))


def test_rows_of_a_new_level_share_its_effects(last):
    one = CURVES.head(1)
    people = [("u", "s0"), ("u", "s0"), ("v", "s0"), ("u", "q"), ("p0", "s0")]
    rows = pd.concat([one.assign(person=person, school=school) for person, school in people], ignore_index=True)
    with pytest.raises(DesignError, match="new levels in the grouping factor 'person:school'"):
        last.simulate(newdata=rows)
    drawn = last.simulate(2000, seed=2, re_form=None, newdata=rows, allow_new_levels=True).T
    noise = 2 * last.sigma() ** 2
    assert (drawn[0] - drawn[1]).var() == pytest.approx(noise, rel=0.1)
    assert (drawn[0] - drawn[2]).var() > 1.5 * noise  # another person
    assert (drawn[0] - drawn[3]).var() > (drawn[0] - drawn[2]).var()  # in another school
    assert drawn[4].std() == pytest.approx(last.sigma(), rel=0.05)


# ---- what the network found


def test_importance_of_a_linear_network_is_algebra(twins):
    """E over permutations of mean w (r + slope_i (x - x_p))^2, with each row's own slope, at the rows held out."""
    data, ours, theirs, _ = twins("nested")
    rows = np.flatnonzero(~ours.estimates.networks.learned[0])
    slope = theirs.coef()
    own = (
        theirs.ranef()["person:school"]["x"].loc[data["person"] + ":" + data["school"]].to_numpy()
        + slope["school"]["x"].loc[data["school"]].to_numpy()
    )[rows]
    x, r, w = data["x"].to_numpy()[rows], theirs.residuals().to_numpy()[rows], data["w"].to_numpy()[rows]
    moved = own[:, None] * (x[:, None] - x[None])
    rise = np.average(((r[:, None] + moved) ** 2).mean(axis=1) - r**2, weights=w)
    mean = np.average(data["y"], weights=data["w"])
    expected = rise / np.average((data["y"] - mean) ** 2, weights=data["w"])
    found = ours.importance(n_repeats=400)
    assert list(found.columns) == ["network", "input", "importance", "se"]
    assert found["importance"][0] == pytest.approx(expected, rel=0.05)


def test_curves_of_levels(twins, last):
    _, ours, theirs, _ = twins("nested")
    table = ours.partial_dependence("x", groups=["p1:s1", "p9:s3"])  # with the deviations of their schools
    assert table["person:school"].unique().tolist() == ["p1:s1", "p9:s3"]
    of_person, of_school = theirs.ranef()["person:school"]["x"], theirs.coef()["school"]["x"]
    for name, own in table.groupby("person:school"):
        slope = np.polyfit(own["x"], own["f"], 1)[0]
        assert slope == pytest.approx(of_person[name] + of_school[name.split(":")[1]], rel=1e-3)
    (school,) = (own for _, own in ours.partial_dependence("x", groups="s2", factor="school").groupby("school"))
    assert np.polyfit(school["x"], school["f"], 1)[0] == pytest.approx(of_school["s2"], rel=1e-3)
    _, crossed, mixed, _ = twins("crossed")
    own = crossed.partial_dependence("x", groups="p4", factor="person")  # a school is not the person's own
    assert np.polyfit(own["x"], own["f"], 1)[0] == pytest.approx(mixed.coef()["person"].loc["p4", "x"], rel=1e-3)
    assert last.partial_dependence("x", grid_size=5, groups="all").shape == (150, 3)
    with pytest.raises(DesignError, match="'person:school' has no level 'nobody'"):
        last.partial_dependence("x", groups="nobody")
    with pytest.raises(
        DesignError, match="does not vary by a grouping factor 'item': it varies by 'person:school', 'sch"
    ):
        last.partial_dependence("x", groups="i1", factor="item")


def test_a_curve_is_a_mean_of_predictions(last):
    curve = last.partial_dependence("x", grid_size=2, groups="p4:s0")
    for x, f in zip(curve["x"], curve["f"], strict=True):
        rows = CURVES.assign(x=x, person="p4", school="s0")
        own = last.predict(rows, re_form="~ (nn.last | school/person)")
        assert f == pytest.approx((own - last.fixef()["(Intercept)"]).mean(), abs=1e-4)


def test_limits_of_linear_coefficients(twins, deep):
    _, ours, theirs, _ = twins("crossed")
    np.testing.assert_allclose(
        ours.confint("z", level=0.9).loc["z"], theirs.confint("z", 0.9, "Wald").loc["z"], rtol=1e-4
    )
    with pytest.raises(DesignError, match="only where the last layer alone varies"):
        deep.confint()


def test_metrics_of_persons(last):
    table = pylmernn.group_metrics(CURVES["y"], last.fitted(), CURVES["person"])
    by_hand = (CURVES["y"] - last.fitted()).pow(2).groupby(CURVES["person"]).mean() ** 0.5
    np.testing.assert_allclose(table["rmse"], by_hand[table.index])


# ---- pictures


@pytest.mark.parametrize("factor, q", [(None, 30), ("person:school", 30), ("school", 5)])
def test_pictures_show_every_level(last, factor, q):
    plt = pytest.importorskip("matplotlib.pyplot")
    group = factor or "person:school"
    for kind in ("curves", "shrinkage", "baseline", "variances", "ranef"):
        picture = last.plot(kind, factor=factor)
        if kind == "curves":
            assert len(picture.lines) == q + 1  # levels and the generic network
        if kind == "shrinkage":
            assert len(picture.lines[0].get_xdata()) == q
        if kind == "baseline":
            _, deviation = picture.collections[0].get_offsets().T
            np.testing.assert_allclose(deviation, last.ranef()[group]["layers.2.bias"])
        plt.close("all")
    for kind in ("importance", "partial", "history", "predicted", "residuals"):
        last.plot(kind)
        plt.close("all")


def test_curves_have_the_bands_of_predictions(last, deep):
    plt = pytest.importorskip("matplotlib.pyplot")
    picture = last.plot("curves", input="x", groups=["p1:s0"], level=0.8)
    rows = pd.DataFrame({"x": picture.lines[-2].get_xdata(), "z": CURVES["z"].mean(), "person": "p1", "school": "s0"})
    limits = last.predict(rows, "~ (nn.last | school/person)", interval="confidence", level=0.8)
    np.testing.assert_allclose(picture.lines[-2].get_ydata(), limits["fit"], atol=1e-4)
    edge = picture.collections[0].get_paths()[0].vertices[:, 1]
    assert (edge.max(), edge.min()) == pytest.approx((limits["upr"].max(), limits["lwr"].min()), abs=1e-4)
    for kind in ("curves", "shrinkage", "baseline", "variances"):
        for factor in ("person", "school"):
            deep.plot(kind, factor=factor)
            plt.close("all")
    with pytest.raises(DesignError, match="no kind 'map' here: use one of curves"):
        last.plot("map")
    with pytest.raises(DesignError, match="'history' is a picture of all factors together"):
        last.plot("history", factor="school")
