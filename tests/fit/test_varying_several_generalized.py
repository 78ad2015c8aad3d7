"""The verbs of a generalized model whose network varies by several bars, or beside ordinary ones."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training


def data_of(seed=0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(24), 12)
    culture, school = person // 6, rng.integers(0, 5, 288)
    x = rng.uniform(-2, 2, 288)
    f = (1 + 0.8 * rng.normal(size=4)[culture] + 0.4 * rng.normal(size=24)[person]) * np.sin(x)
    eta = f + 0.5 * rng.normal(size=5)[school]
    names = {"culture": [f"c{c}" for c in culture], "person": person, "school": [f"s{s}" for s in school]}
    successes, grades = rng.binomial(4, expit(eta)), (np.add.outer(rng.logistic(size=288) + eta, [1, -0.5]) > 0).sum(1)
    grade = pd.Categorical(np.array(["low", "mid", "high"])[grades], ["low", "mid", "high"], ordered=True)
    return pd.DataFrame(
        {"x": x, "k": successes, "m": 4 - successes, "n": rng.poisson(np.exp(eta)), "grade": grade} | names
    )


DATA = data_of()


def fitted(response, bars, family):
    control = Control(training=Training(epochs=2))
    return pylmernn.glmernn(f"{response} ~ nn(x, hidden=c(3)) + {bars}", DATA, family, control=control, seed=2)


@pytest.fixture(scope="module")
def nested():
    return fitted("cbind(k, m)", "(nn.last | culture/person) + (1 | school)", "binomial")


@pytest.fixture(scope="module")
def counts():
    return fitted("n", "(nn.last || person) + (1 | school)", "poisson")


@pytest.fixture(scope="module")
def classes():
    return fitted("grade", "(nn.last | person) + (1 | school)", "ordinal")


def test_tables(nested):
    assert {name: table.shape for name, table in nested.ranef().items()} == {
        "person:culture": (24, 4),
        "culture": (4, 4),
        "school": (5, 1),
    }
    assert not nested.VarCorr().residual
    assert nested.family() == "binomial(logit)"
    assert nested.dispersion() == 1.0
    text = nested.summary()
    assert "Generalized linear mixed model" in text
    assert "Family: binomial(logit)" in text
    assert "Residual" not in text
    assert nested.AIC() == pytest.approx(-2 * float(nested.logLik()) + 2 * nested.logLik().df)


def test_scales_of_predictions(nested):
    link, mean = nested.predict(DATA), nested.predict(DATA, type="response")
    np.testing.assert_allclose(link, nested.predict(), atol=1e-5)
    np.testing.assert_allclose(mean, expit(link))
    np.testing.assert_allclose(nested.fitted(), expit(nested.predict()))
    table = nested.predict(DATA.head(3), type="prob")
    np.testing.assert_allclose(table["1"], mean[:3])
    assert (nested.predict(DATA.head(3), type="class") == np.where(mean[:3] > 0.5, "1", "0")).all()
    parts = [nested.predict(DATA, re_form=f"~ {bar}", random_only=True) for bar in ("(1 | school)",)]
    whole = nested.predict(DATA, random_only=True)
    of_network = nested.predict(DATA, re_form="~ (nn.last | culture/person)", random_only=True)
    np.testing.assert_allclose(sum(parts) + of_network, whole, atol=1e-5)
    np.testing.assert_allclose(whole, link - nested.predict(DATA, re_form="NA"), atol=1e-5)


def test_residuals(nested, counts):
    y, weights, mu = nested.design.y, nested.design.weights, nested.fitted()
    np.testing.assert_allclose(nested.residuals(), y - mu)
    np.testing.assert_allclose(nested.residuals("pearson"), (y - mu) * np.sqrt(weights / (mu * (1 - mu))))
    np.testing.assert_allclose(counts.residuals("working"), DATA["n"] / counts.fitted() - 1)
    deviance = (counts.residuals("deviance") ** 2).sum()
    n, mu = DATA["n"].to_numpy(), counts.fitted().to_numpy()
    logs = np.where(n > 0, n * np.log(np.maximum(n, 1) / mu), 0)
    assert deviance == pytest.approx(2 * (logs - (n - mu)).sum())
    with pytest.raises(DesignError, match="'strange' are not known"):
        counts.residuals("strange")


def test_errors_and_limits(counts):
    rows = DATA.head(4)
    link = counts.predict(rows, se_fit=True, interval="confidence", level=0.9)
    mean = counts.predict(rows, type="response", se_fit=True, interval="confidence", level=0.9)
    np.testing.assert_allclose(mean["se"], link["se"] * mean["fit"], rtol=1e-4)
    np.testing.assert_allclose(mean["lwr"], np.exp(link["lwr"]))
    new = rows.assign(person=999)
    assert (counts.predict(new, se_fit=True, allow_new_levels=True)["se"] > link["se"]).all()
    limits = counts.predict(rows, type="response", interval="prediction")
    assert (limits["upr"] >= mean["upr"]).all()
    with pytest.raises(DesignError, match="a new response is on its own scale"):
        counts.predict(rows, interval="prediction")
    with pytest.raises(DesignError, match="standard errors are for"):
        counts.predict(rows, type="class", se_fit=True)


def test_new_levels(counts):
    new = DATA.head(6).assign(person=999)
    with pytest.raises(DesignError, match="new levels in the grouping factor 'person': '999'"):
        counts.predict(new)
    mean = counts.predict(new, type="response", allow_new_levels=True)
    averaged = counts.predict(new, average=400, allow_new_levels=True)
    assert (averaged > 0.95 * mean).all()  # the exponential is convex
    assert averaged.mean() > mean.mean()
    known = counts.predict(DATA.head(3), average=3)
    np.testing.assert_allclose(known, counts.predict(DATA.head(3), type="response"), rtol=1e-6)
    updated = counts.update_ranef(new)
    assert updated.ngrps() == {"person": 25, "school": 5}
    pd.testing.assert_frame_equal(updated.ranef()["school"], counts.ranef()["school"])
    before = counts.predict(new, se_fit=True, allow_new_levels=True)["se"]
    assert (updated.predict(new, se_fit=True)["se"] < before).all()
    with pytest.raises(DesignError, match="no level that the fit does not know"):
        counts.update_ranef(DATA.head(3))
    with pytest.raises(DesignError, match="average is for means"):
        counts.predict(new, type="link", average=3, allow_new_levels=True)
    with pytest.raises(DesignError, match="type is 'odds'"):
        counts.predict(type="odds")


def test_draws_and_what_the_network_found(nested, counts):
    drawn = nested.simulate(3, seed=1)
    assert drawn.shape == (288, 3)
    assert np.isin(np.round(4 * drawn.to_numpy(), 9), range(5)).all()
    kept = counts.simulate(300, seed=1, use_u=True).mean(axis=1)
    assert np.corrcoef(kept, counts.fitted())[0, 1] > 0.98
    assert counts.importance(2)["input"].tolist() == ["x"]
    curves = nested.partial_dependence("x", grid_size=4, groups="all", factor="culture")
    assert curves.shape == (16, 3)


def test_classes_in_order(classes):
    table = classes.fitted()
    assert list(table.columns) == ["low", "mid", "high"]
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    np.testing.assert_allclose(table["low"], expit(classes.dispersion()[0] - classes.predict()))
    assert set(classes.simulate(1, seed=3)["sim_1"]) <= {"low", "mid", "high"}
    np.testing.assert_allclose(classes.predict(DATA.head(2), re_form="NA", average=5).sum(axis=1), 1.0)
    with pytest.raises(DesignError, match="no residuals"):
        classes.residuals()


@pytest.mark.parametrize("name", ["nested", "classes"])
def test_a_saved_fit(name, request, tmp_path):
    fit = request.getfixturevalue(name)
    fit.save(tmp_path / "fit.lm")
    again = pylmernn.load(tmp_path / "fit.lm")
    assert type(again) is type(fit)
    assert again.summary() == fit.summary()
    np.testing.assert_allclose(again.predict(DATA, se_fit=True), fit.predict(DATA, se_fit=True), rtol=1e-9)
    np.testing.assert_array_equal(again.dispersion(), fit.dispersion())
