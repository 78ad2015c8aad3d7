"""Method "nme" with several bars of generalized models: with a linear network it is the model of lme4 and glmmTMB."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

import pylmernn
from pylmernn import datasets
from pylmernn.covariance import split_theta
from pylmernn.engines import nme_several_generalized as engine
from pylmernn.engines import pirls
from pylmernn.engines.control import Control
from pylmernn.engines.nme_several_generalized_model import SeveralGeneralizedModel, predictor_variances
from pylmernn.engines.nme_several_generalized_predict import Responses, averaged_means
from pylmernn.engines.nme_several_model import SeveralModel
from pylmernn.engines.nme_several_predict import Fresh, new_effects, values
from pylmernn.families import read_family
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.training.options import Training

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "several_generalized.json").read_text(encoding="utf-8"))["models"]


def settings(epochs, **more):
    return Control(training=Training(epochs=epochs, **more))


def data_of(name):
    data = datasets.read(HERE.parent / "golden" / "glmm_data", name)
    if name == "Contraception":
        data = data.assign(y=(data["use"] == "Y").astype(float), decades=data["age"] / 10)
    return data


@pytest.mark.parametrize("model", GOLDEN, ids=[model["id"] for model in GOLDEN])
def test_a_linear_network_is_the_generalized_linear_mixed_model(model):
    x = model["x"]
    formula = f"{model['response']} ~ nn({x}, hidden=c(), standardize=FALSE){model['offset']} + {model['network']}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = pylmernn.glmernn(formula, data_of(model["data"]), model["family"], control=settings(2))
    assert fit.estimates.exact
    ours = fit.estimates.objective
    assert ours <= model["objective"] + 1e-4
    assert ours >= model["objective"] - 1e-5 * abs(model["objective"])
    found = [fit.fixef()["(Intercept)"], fit.fixef()[f"layers.0.weight[{x}]"]]
    np.testing.assert_allclose(found, model["beta"], atol=5e-3)
    assert fit.dispersion() == pytest.approx(model["phi"], rel=0.01)
    covariances = fit.VarCorr()
    for group, theirs in model["covariances"].items():
        own = covariances[group].to_numpy()
        order = [1, 0] if len(own) == 2 else [0]  # the bias comes last
        np.testing.assert_allclose(own[np.ix_(order, order)], theirs, rtol=0.03, atol=2e-3)


def straight(family, seed=1, n=400, nested=False):
    rng = np.random.default_rng(seed)
    person = rng.integers(0, 25, n)
    school = person % 5 if nested else rng.integers(0, 5, n)
    x = rng.normal(size=n)
    x = (x - x.mean()) / x.std()
    height, b = 0.6 * rng.normal(size=5), 0.5 * rng.normal(size=(2, 25))
    eta = 0.2 + 0.5 * x + height[school] + b[0][person] + b[1][person] * x
    p = 1 / (1 + np.exp(-eta))
    if family.startswith("binomial"):
        y = (rng.random(n) < p).astype(float)
    elif family == "beta":
        y = rng.beta(5 * p, 5 * (1 - p)).clip(1e-6, 1 - 1e-6)
    elif family == "ordinal":
        y = (np.add.outer(rng.logistic(size=n) + eta, [1.0, -0.5]) > 0).sum(axis=1)
    elif family == "inverse.gaussian(log)":
        y = rng.wald(np.exp(eta), 3 * np.exp(eta))
    else:
        y = rng.gamma(3, np.exp(eta) / 3)
    return pd.DataFrame({"y": y, "x": x, "person": person, "school": school})


LINEAR = "y ~ nn(x, hidden=c(), standardize=FALSE) + "


@pytest.mark.parametrize("family", ["binomial(probit)", "beta", "inverse.gaussian(log)", "Gamma(log)", "ordinal"])
def test_so_it_is_for_other_families(family):
    data = straight(family)
    linear = pylmernn.glmernn("y ~ x + (1 + x | person) + (1 | school)", data, family=family)
    fit = pylmernn.glmernn(LINEAR + "(nn | person) + (1 | school)", data, family=family, control=settings(2))
    assert fit.estimates.objective == pytest.approx(linear.estimates.objective, abs=1e-3)
    assert fit.logLik().df == linear.logLik().df
    np.testing.assert_allclose(fit.estimates.phi, linear.estimates.phi, rtol=1e-3)
    np.testing.assert_allclose(fit.predict(), linear.predict(), atol=2e-3)
    ours, theirs = (each.ranef(condVar=True).condsd() for each in (fit, linear))
    np.testing.assert_allclose(ours["school"], theirs["school"], rtol=5e-3)
    np.testing.assert_allclose(ours["person"].iloc[:, ::-1], theirs["person"], rtol=5e-3)


@pytest.mark.parametrize("likeliest", [True, False])
def test_so_is_the_linearisation(likeliest, monkeypatch):
    """As if the network bent in its deviations: variances by "pirls" in the linearised model, or by EM steps alone."""
    monkeypatch.setattr(SeveralModel, "parameters_of", _bending(SeveralModel.parameters_of))
    if not likeliest:
        monkeypatch.setattr(engine, "likeliest", lambda *_: False)
    data = straight("Gamma(log)", n=500, nested=True)
    linear = pylmernn.glmernn("y ~ x + (1 + x | person) + (1 | school)", data, family="Gamma(log)")
    design, _ = build(LINEAR + "(nn | person) + (1 | school)", data, family="Gamma")
    control = settings(8, weight_decay=0.0, validation=0.0)
    found = engine.fit(design, read_family("Gamma(log)"), 1, control)
    assert not found.exact
    assert found.objective == pytest.approx(linear.estimates.objective, abs=0.3)
    assert found.phi == pytest.approx(linear.estimates.phi, rel=0.02)
    (varying,), _ = found.varying, found.random
    covariance = (varying.factor @ varying.factor.T)[::-1, ::-1]
    np.testing.assert_allclose(np.diagonal(covariance), np.diagonal(linear.VarCorr()["person"]), rtol=0.1)


def _bending(select):
    def chosen(self, module, inputs):
        return dataclasses.replace(select(self, module, inputs), linear=False)

    return chosen


def test_variances_of_linear_predictors_against_dense_algebra():
    rng = np.random.default_rng(0)
    n = 60
    terms = []
    for group, q, d in (("a", 7, 2), ("b", 4, 1), ("c", 3, 2)):
        codes = rng.integers(0, q, n).astype(np.int32)
        codes[:q] = np.arange(q)
        terms.append(RandomTerm(group, codes, np.arange(q), rng.normal(size=(n, d)), tuple(map(str, range(d)))))
    design = Design(rng.integers(0, 2, n).astype(float), np.ones((n, 1)), ("1",), tuple(terms))
    theta, weights = rng.normal(size=7), rng.uniform(0.1, 2, n)
    columns = []
    for term, Lambda in zip(terms, split_theta(terms, theta), strict=True):
        own = np.zeros((n, term.n_levels, term.width))
        own[np.arange(n), term.codes] = term.columns @ Lambda
        columns.append(own.reshape(n, -1))
    A = np.hstack(columns)
    M = A.T @ (weights[:, None] * A) + np.eye(A.shape[1])
    found = predictor_variances(design, read_family("binomial"), weights, theta)
    np.testing.assert_allclose(found, np.einsum("ij,ji->i", A, np.linalg.solve(M, A.T)), rtol=1e-9)


def test_a_step_too_long_is_shortened():
    """Where means are far too small, the step of a Poisson model overshoots by orders of magnitude."""
    data = curves(1, 4, 3)
    design, _ = build("y ~ nn(x, hidden=c(2)) + (nn.last | person) + (1 | culture)", data, family="poisson")
    model = SeveralGeneralizedModel(design, read_family("poisson"), settings(2))
    model.epoch(1)
    model.beta = model.beta - 6.0
    for bar in model.bars:
        bar.factor = 10.0 * torch.eye(bar.width, dtype=torch.float64)
    rows = torch.arange(design.n)
    at = model.linearise(rows)
    linear, columns = model.linear_model(at)
    found = model.expected(linear)
    beta, effects = torch.from_numpy(np.array(found.beta)), model.new_effects(columns, found.b)
    whole = model.misfit(rows, beta, effects, model.values(rows, model.of_cells(effects[:1])))
    before = model.misfit(rows, model.beta, model.effects, at.f)
    model.take(at, linear, columns, beta, effects)
    assert not whole <= before
    assert model.misfit(rows, model.beta, model.effects, model.values(rows, model.eta)) < before


def curves(seed, cultures=8, persons=6, rows=30):
    """Curves on the scale of the link that differ by culture and by person; the last 10 rows are for tests."""
    rng = np.random.default_rng(seed)
    culture = np.repeat(np.arange(cultures), persons * rows)
    person = np.repeat(np.arange(cultures * persons), rows)
    x = rng.uniform(-2, 2, len(culture))
    a, b = 0.8 * rng.normal(size=(2, cultures)), 0.5 * rng.normal(size=(2, cultures * persons))
    f = (1.0 + a[0][culture] + b[0][person]) * np.sin(1.5 * x) + 0.5 * (a[1][culture] + b[1][person]) * x
    data = pd.DataFrame({"x": x, "culture": culture, "person": person, "f": f, "y": rng.poisson(np.exp(f))})
    return data.assign(test=np.tile(np.arange(rows), cultures * persons) >= 20)


def error(fit, rows, **more):
    return float(np.sqrt(np.mean((fit.predict(rows, **more) - rows["f"]) ** 2)))


@pytest.fixture(scope="module")
def nested():
    data = curves(3, persons=8)
    train = data[~data["test"] & (data["person"] % 8 != 0)]
    formula = "y ~ nn(x, hidden=c(5)) + (nn.last | culture/person)"
    return data, pylmernn.glmernn(formula, train, "poisson", seed=1, control=settings(10))


def test_both_factors_do_better_than_one(nested):
    data, fit = nested
    train, test = (data[(data["test"] == which) & (data["person"] % 8 != 0)] for which in (False, True))
    for bar in ("(nn.last | person)", "(nn.last | culture)"):
        one = pylmernn.glmernn(f"y ~ nn(x, hidden=c(5)) + {bar}", train, "poisson", seed=1, control=settings(10))
        assert error(fit, test) < 0.9 * error(one, test)


def test_new_persons_have_the_network_of_their_culture(nested):
    data, fit = nested
    new = data[data["person"] % 8 == 0]
    test = new[new["test"]]
    culture = error(fit, test, allow_new_levels=True)
    assert culture < 0.8 * error(fit, test, re_form="NA")
    assert error(fit.update_ranef(new[~new["test"]]), test) < 0.8 * culture


def test_effects_of_new_levels_are_modes(nested):
    data, fit = nested
    e, rows = fit.estimates, data[data["person"] == 0]
    count, known = len(rows), [len(bar.effects) for bar in e.varying]
    at = {term.group: k for k, term in enumerate(fit.design.varying)}
    person, culture = at["person:culture"], at["culture"]
    codes = [np.zeros(count, np.int32), np.zeros(count, np.int32)]
    codes[person] = np.full(count, known[person], np.int32)
    fresh = [Fresh(own, int(k == person)) for k, own in enumerate(codes)]
    responses = Responses(e, rows["y"].to_numpy(float), np.ones(count), np.full(count, e.beta[0]))
    inputs = rows[["x"]].to_numpy()
    found, variance = new_effects(e, inputs, responses, fresh)[person]
    assert new_effects(e, inputs, responses, fresh)[culture][0].shape[0] == 0
    L = e.varying[person].factor

    def penalised(u):
        bar = dataclasses.replace(e.varying[person], effects=np.vstack([e.varying[person].effects, L @ u]))
        bars = tuple(bar if k == person else own for k, own in enumerate(e.varying))
        return responses.misfit(values(dataclasses.replace(e, varying=bars), inputs, codes)) + u @ u

    best = minimize(penalised, np.zeros(L.shape[1]), method="Powell").fun
    assert penalised(np.linalg.lstsq(L, found[0], rcond=None)[0]) < best + 0.02
    assert variance.shape[0] == 1


def test_averages_against_quadrature():
    data = straight("Gamma(log)", n=300)
    fit = pylmernn.glmernn(LINEAR + "(nn | person) + (1 | school)", data, family="Gamma(log)", control=settings(1))
    e, rows = fit.estimates, data.iloc[:3]
    nothing = np.full(3, -1, np.int32)
    fixed = np.full(3, e.beta[0])
    draws = averaged_means(e, rows[["x"]].to_numpy(), fixed, [nothing, nothing], [np.ones((3, 1))], 1500, 1)
    columns = np.column_stack([rows["x"], np.ones(3)])
    spread = ((columns @ e.varying[0].factor) ** 2).sum(axis=1) + e.random[0].factor.item() ** 2
    np.testing.assert_allclose(draws, np.exp(fit.predict(rows, re_form="NA") + spread / 2), rtol=0.1)


@pytest.mark.parametrize("bars", ["(nn | culture/person)", "rr(nn | person, d = 2) + (1 | culture)"])
def test_deeper_layers(bars):
    data = curves(2, 6, 4)
    train, test = data[~data["test"]], data[data["test"]]
    fit = pylmernn.glmernn(f"y ~ nn(x, hidden=c(3)) + {bars}", train, "poisson", seed=1, control=settings(5))
    assert not fit.estimates.exact
    assert error(fit, test) < 0.9 * error(fit, test, re_form="NA")
    np.testing.assert_allclose(fit.predict(train), fit.predict(), atol=1e-4)


def test_the_same_seed_gives_the_same_fit():
    data = curves(2, 4, 3)
    formula = "y ~ nn(x, hidden=c(2)) + (nn.last | person) + (1 | culture)"
    fits = [pylmernn.glmernn(formula, data, "poisson", seed=1, control=settings(2)) for _ in range(2)]
    pd.testing.assert_series_equal(fits[0].predict(), fits[1].predict())


def test_classes_that_features_tell_apart_are_settled_by_em(monkeypatch):
    def apart(*_arguments, **_more):
        raise np.linalg.LinAlgError("no limit")

    data = straight("binomial", n=200)
    design, _ = build("y ~ nn(x, hidden=c(2)) + (nn.last | person) + (1 | school)", data, family="binomial")
    monkeypatch.setattr(pirls, "fit", apart)
    found = engine.fit(design, read_family("binomial"), 1, settings(2))
    assert not found.exact
    assert np.isfinite(found.fitted).all()


@pytest.mark.parametrize(
    "bars, more, message",
    [
        ("(nn.last | person) + (nn | person)", {}, r"\(nn | person\): 'mlp.layers.1.weight' varies by 'person'"),
        ("(nn | person) + (1 | culture)", {"nAGQ": 5}, "nAGQ is 5: several bars take Laplace's approximation only"),
        ("(nn | person) + (nn | visit)", {"control": Control(dense_limit=2)}, "7 random effects .* more than the 2 of"),
        ("(nn | person) + (1 | culture)", {"control": settings(1, preset="faithful")}, "'faithful' of method 'nme'"),
        (
            "(nn | person) + (1 | culture)",
            {"family": "multinomial"},
            r"\(1 | culture\): a multinomial network varies by one bar alone",
        ),
    ],
)
def test_what_is_refused(bars, more, message):
    data = curves(4, 4, 3, 21)
    data["visit"] = np.arange(len(data)) % 7
    if more.get("family") == "multinomial":
        data["y"] = np.array(["a", "b", "c"])[data["y"] % 3]
    given = {"family": "poisson", "control": settings(1)} | more
    with pytest.raises(DesignError, match=message):
        pylmernn.glmernn(f"y ~ nn(x, hidden=c(2)) + {bars}", data, **given)
