"""Method "nme" with several bars: with a linear network it is the linear mixed model with the same bars."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pylmernn
from pylmernn.covariance import split_theta
from pylmernn.engines import nme_several, nme_several_model, nme_several_posterior
from pylmernn.engines.control import Control
from pylmernn.engines.nme_exact import Candidate
from pylmernn.engines.nme_several_bars import BarEstimates, cells_of, root_of
from pylmernn.engines.nme_several_final import chosen
from pylmernn.engines.nme_several_model import SeveralModel
from pylmernn.engines.nme_several_posterior import by_engine, expected
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.training.options import Training


def settings(epochs, **more):
    return Control(training=Training(epochs=epochs, **more))


def straight(seed=0, nested=False):
    """Lines whose intercepts and slopes differ by person and by school, with weights."""
    rng = np.random.default_rng(seed)
    n = 900
    person = rng.integers(0, 40, n)
    school = person % 8 if nested else rng.integers(0, 8, n)
    x = rng.normal(size=n)
    height, slope = rng.normal(size=(2, 8)), 0.5 * rng.normal(size=(2, 40))
    y = 1 + 2 * x + height[0][school] + 0.5 * height[1][school] * x + slope[0][person] + slope[1][person] * x
    return pd.DataFrame(
        {"y": y + 0.5 * rng.normal(size=n), "x": x, "person": person, "school": school, "w": rng.uniform(0.5, 2, n)}
    )


BARS = [
    ("(nn | person) + (1 | school)", "(1 + x | person) + (1 | school)", False),
    ("(nn | person) + (nn | school)", "(1 + x | person) + (1 + x | school)", False),
    ("(nn || person) + (1 + x | school)", "(1 + x || person) + (1 + x | school)", False),
    ("(nn | school/person)", "(1 + x | school/person)", True),
]


@pytest.mark.parametrize("bars, ordinary, nested", BARS)
@pytest.mark.parametrize("REML", [True, False])
def test_a_linear_network_is_the_linear_mixed_model(bars, ordinary, nested, REML):
    data = straight(1, nested)
    linear = pylmernn.lmernn(f"y ~ x + {ordinary}", data, weights="w", REML=REML)
    fit = pylmernn.lmernn(
        f"y ~ nn(x, hidden=c(), standardize=FALSE) + {bars}", data, weights="w", REML=REML, control=settings(2)
    )
    np.testing.assert_allclose(fit.fixef().iloc[:2], linear.fixef(), rtol=1e-5)
    assert fit.estimates.objective == pytest.approx(linear.estimates.objective, rel=1e-4)
    assert fit.estimates.objective == pytest.approx(linear.estimates.objective, abs=1e-3)
    assert fit.sigma() == pytest.approx(linear.sigma(), rel=1e-4)
    names = {"layers.0.weight[x]": "x", "layers.0.bias": "(Intercept)"}
    ours, theirs = fit.ranef(condVar=True), linear.ranef(condVar=True)
    assert list(ours) == list(theirs)
    for group, table in ours.items():
        columns = list(theirs[group].columns)
        np.testing.assert_allclose(table.rename(columns=names)[columns], theirs[group], atol=1e-4)
        spread = ours.condsd()[group].rename(columns=names)[columns]
        np.testing.assert_allclose(spread, theirs.condsd()[group], rtol=1e-3)
    np.testing.assert_allclose(_total(fit.VarCorr(), names), _total(linear.VarCorr(), {}), rtol=1e-4, atol=2e-6)
    assert fit.logLik().df == linear.logLik().df
    np.testing.assert_allclose(fit.fitted(), linear.fitted(), atol=1e-5)
    assert fit.isREML() == REML


def _total(varcorr, names):
    """All variances and covariances in one order, (k,)."""
    found = {}
    for term in varcorr.terms:
        columns = [names.get(c, c) for c in term.columns]
        for i, a in enumerate(columns):
            for j, b in enumerate(columns):
                if a == b or term.correlated:
                    found[term.name.partition(".")[0], a, b] = term.vcov[i, j]
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize("nested", [False, True])
def test_so_is_the_linearisation(nested, monkeypatch):
    """As if the network bent in its deviations: linearised, EM between epochs, then until it settles."""
    monkeypatch.setattr(SeveralModel, "parameters_of", _bending(SeveralModel.parameters_of))
    data = straight(2, nested)
    data["x"] = (data["x"] - data["x"].mean()) / data["x"].std(ddof=0)
    linear = pylmernn.lmernn("y ~ x + (1 + x | person) + (1 | school)", data, REML=False)
    design, _ = build("y ~ nn(x, hidden=c(), standardize=FALSE) + (nn | person) + (1 | school)", data)
    found = nme_several.fit(design, False, settings(40, weight_decay=0.0, validation=0.0))
    assert not found.exact
    (varying,), (random,) = found.varying, found.random
    order = [1, 0]
    covariance = (varying.factor @ varying.factor.T)[np.ix_(order, order)]
    np.testing.assert_allclose(covariance, linear.VarCorr()["person"], rtol=0.02, atol=1e-3)
    assert random.factor.item() ** 2 == pytest.approx(linear.VarCorr()["school"].to_numpy().item(), rel=0.02)
    assert found.sigma == pytest.approx(linear.sigma(), rel=0.005)
    assert found.objective == pytest.approx(linear.estimates.objective, abs=0.1)


def _bending(select):
    def chosen(self, module, inputs):
        return dataclasses.replace(select(self, module, inputs), linear=False)

    return chosen


def several_terms(n=300):
    rng = np.random.default_rng(0)

    def term(group, q, d, kind="us"):
        codes = rng.integers(0, q, n).astype(np.int32)
        codes[:q] = np.arange(q)
        return RandomTerm(group, codes, np.arange(q), rng.normal(size=(n, d)), tuple(map(str, range(d))), kind)

    first = term("a", 30, 2)
    also = RandomTerm("a", first.codes, first.levels, rng.normal(size=(n, 1)), ("k",), "us")
    terms = (first, term("b", 7, 3), term("c", 9, 1, "diag"), also)
    design = Design(rng.normal(size=n), rng.normal(size=(n, 2)), ("u", "v"), terms, rng.uniform(0.5, 2, n))
    return design, 0.5 * rng.normal(size=3 + 6 + 1 + 1)


def test_effects_against_dense_algebra(monkeypatch):
    design, theta = several_terms()
    found, n = expected(design, theta), design.n
    Z, prior = [], []
    for term, Lambda in zip(design.random, split_theta(design.random, theta), strict=True):
        own = np.zeros((n, term.n_levels, term.width))
        own[np.arange(n), term.codes] = term.columns
        Z.append(own.reshape(n, -1))
        prior.append(np.kron(np.eye(term.n_levels), Lambda @ Lambda.T))
    Z = np.hstack(Z)
    Psi = np.zeros((Z.shape[1],) * 2)
    at = 0
    for block in prior:
        Psi[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    V = np.linalg.inv(Z @ Psi @ Z.T + np.diag(1 / design.weights))
    beta = np.linalg.solve(design.X.T @ V @ design.X, design.X.T @ V @ design.y)
    rest = design.y - design.X @ beta
    sigma2 = rest @ V @ rest / n
    b, spread = Psi @ Z.T @ V @ rest, sigma2 * np.diagonal(Psi - Psi @ Z.T @ V @ Z @ Psi)
    np.testing.assert_allclose(found.beta, beta, rtol=1e-8)
    assert found.sigma**2 == pytest.approx(sigma2, rel=1e-10)
    logdet = -np.linalg.slogdet(V)[1]
    assert found.objective == pytest.approx(n * (1 + np.log(2 * np.pi * sigma2)) + logdet, rel=1e-10)
    np.testing.assert_allclose(np.concatenate([own.ravel() for own in found.b]), b, atol=1e-10)
    ours = np.concatenate([np.einsum("qdd->qd", own).ravel() for own in found.variances])
    np.testing.assert_allclose(ours, spread, atol=1e-10)
    monkeypatch.setattr(nme_several_posterior, "DENSE", 10)  # too large for dense algebra: the exact engine
    other = expected(design, theta)
    assert by_engine(design, theta).sigma == other.sigma
    assert other.objective == pytest.approx(found.objective, rel=1e-10)
    for ours, theirs in zip([*found.b, *found.variances], [*other.b, *other.variances], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_directions_are_found_where_one_alone_is_worse_than_a_constant():
    """With crossed factors, whose search ends after two in turn that are worse; criteria are given."""
    design, _ = several_terms()
    first, second, *_ = design.random
    one = [Candidate(dataclasses.replace(first, label=str(k)), np.eye(2), k) for k in range(6)]
    criteria, asked = [10.0, 11.0, 4.0, 5.0, 6.0, -99.0], []

    def fit(linear, control, start):
        k = int(linear.random[0].label)
        asked.append(k)
        return SimpleNamespace(objective=criteria[k] - 2 * k)

    crossed = dataclasses.replace(design, random=(first, second))
    taken, _ = chosen(crossed, [one, [Candidate(second, np.eye(3), 6)]], fit, Control())
    assert taken[0] is one[2]
    assert asked == [0, 1, 2, 3, 4, 1, 3, 2]  # beside the one taken again, and at last that one in full


def test_cells_and_roots():
    cells = cells_of([np.array([1, 0, 1, 1], np.int32), np.array([0, 0, 0, 2], np.int32)])
    assert cells.levels.tolist() == [[0, 0], [1, 0], [1, 2]]
    assert cells.codes.tolist() == [1, 0, 1, 2]
    half = np.random.default_rng(0).normal(size=(4, 2))  # of rank two
    covariance = half @ half.T
    lower = root_of(torch.from_numpy(covariance)).numpy()
    assert (np.triu(lower, 1) == 0).all()
    np.testing.assert_allclose(lower @ lower.T, covariance, atol=1e-6)


def test_free_parameters():
    whole = BarEstimates(np.zeros((3, 4)), np.zeros((3, 4, 4)), np.tril(np.ones((4, 4))))
    low = BarEstimates(np.zeros((3, 4)), np.zeros((3, 4)), np.ones((4, 2)))
    only = BarEstimates(np.zeros((3, 4)), np.zeros((3, 4)), np.ones(4))
    assert [bar.n_variances for bar in (whole, low, only)] == [10, 7, 4]


def curves(seed, cultures=12, persons=10, rows=20):
    """Curves that differ by culture (sd .8) and person (sd .4) in height and slope; the last 8 rows are for tests."""
    rng = np.random.default_rng(seed)
    culture = np.repeat(np.arange(cultures), persons * rows)
    person = np.repeat(np.arange(cultures * persons), rows)
    x = rng.uniform(-2, 2, len(culture))
    a, b = 0.8 * rng.normal(size=(2, cultures)), 0.4 * rng.normal(size=(2, cultures * persons))
    f = (1.5 + a[0][culture] + b[0][person]) * np.sin(1.5 * x) + (a[1][culture] + b[1][person]) * x
    data = pd.DataFrame({"x": x, "culture": culture, "person": person, "f": f})
    return data.assign(y=f + 0.4 * rng.normal(size=len(f)), test=np.tile(np.arange(rows), cultures * persons) >= 12)


def error(fit, rows, **more):
    return float(np.sqrt(np.mean((fit.predict(rows, **more) - rows["f"]) ** 2)))


@pytest.fixture(scope="module")
def both_levels():
    data = curves(1)
    train = data[~data["test"] & (data["person"] % 10 != 0)]
    formula = "y ~ nn(x, hidden=c(6)) + (nn.last | culture/person)"
    return data, pylmernn.lmernn(formula, train, seed=1, control=settings(40))


def test_both_levels_do_better_than_one(both_levels):
    data, fit = both_levels
    train, test = (data[(data["test"] == which) & (data["person"] % 10 != 0)] for which in (False, True))
    one = pylmernn.lmernn("y ~ nn(x, hidden=c(6)) + (nn.last | person)", train, seed=1, control=settings(40))
    assert error(fit, test) < 0.95 * error(one, test)
    assert fit.sigma() == pytest.approx(0.4, rel=0.05)


def test_curves_vary_as_they_do_in_truth(both_levels):
    data, fit = both_levels
    rows = data.iloc[:200]
    for group, sd in (("culture", 0.8), ("person:culture", 0.4)):
        bar = next(b for b, t in zip(fit.estimates.varying, fit.design.varying, strict=True) if t.group == group)
        found = ((_features(fit, rows) @ bar.factor) ** 2).sum(axis=1)  # the variance of curves at x
        truth = sd**2 * (np.sin(1.5 * rows["x"]) ** 2 + rows["x"] ** 2)
        assert found.mean() == pytest.approx(truth.mean(), rel=0.3)


def _features(fit, rows):
    from pylmernn.engines.nme_predict import network_of

    network = network_of(fit.estimates)
    prepared = network.module.prepare(rows[["x"]].to_numpy())
    zeros = torch.zeros(1, network.selected.size)
    return network.jacobian(prepared, zeros, torch.zeros(len(rows), dtype=torch.int64))[1].double().numpy()


def test_new_persons_have_the_network_of_their_culture(both_levels):
    data, fit = both_levels
    new = data[data["person"] % 10 == 0]
    test = new[new["test"]]
    generic, culture = error(fit, test, re_form="NA"), error(fit, test, allow_new_levels=True)
    assert culture < 0.6 * generic
    updated = fit.update_ranef(new[~new["test"]])
    assert error(updated, test) < 0.5 * culture


@pytest.mark.parametrize("bars", ["(nn | culture/person)", "rr(nn | person, d = 2) + (1 | culture)"])
def test_deeper_layers(bars):
    data = curves(2, 10, 4)
    train = data[~data["test"]]
    fit = pylmernn.lmernn(f"y ~ nn(x, hidden=c(4)) + {bars}", train, seed=1, control=settings(20))
    test = data[data["test"]]
    assert error(fit, test) < 0.5 * error(fit, test, re_form="NA")
    assert not fit.isREML()
    assert np.isfinite(fit.logLik())
    np.testing.assert_allclose(fit.predict(train), fit.fitted(), atol=1e-4)


def test_derivatives_in_portions(monkeypatch):
    """Where derivatives of all rows do not fit into memory, columns are made in parts: they are the same columns."""
    design, _ = build("y ~ nn(x, hidden=c(3)) + rr(nn | person, d = 2) + (nn.last | culture)", curves(5, 4, 3))
    model = nme_several_model.SeveralModel(design, settings(2))
    model.epoch(1)
    rows = torch.arange(design.n)
    whole = model.linearise(rows)
    monkeypatch.setattr(nme_several_model, "PORTION", 50 * model.selected.size)
    parts = model.linearise(rows)
    assert len(parts.some) == 50
    torch.testing.assert_close(parts.f, whole.f)
    for ours, theirs in zip([*parts.own, *parts.columns], [*whole.own, *whole.columns], strict=True):
        torch.testing.assert_close(ours, theirs)
    effects = [bar.effects + 0.1 for bar in model.varying]
    for ours, theirs in zip(model.promised(parts, effects), model.promised(whole, effects), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert np.isfinite(model.epoch(2))


def test_a_module_of_your_own():
    module = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    formula = "y ~ nn(x, net='own') + (own.last | person) + (1 | culture)"
    data = curves(6, 5, 4)
    fit = pylmernn.lmernn(formula, data, nets={"own": module}, seed=1, control=settings(3))
    np.testing.assert_allclose(fit.predict(data), fit.fitted(), atol=1e-4)
    assert fit.ngrps() == {"person": 20, "culture": 5}


def test_the_same_seed_gives_the_same_fit():
    data = curves(3, 6, 2)
    formula = "y ~ nn(x, hidden=c(2)) + (nn.last | culture) + (nn.last | person)"
    fits = [pylmernn.lmernn(formula, data, seed=4, control=settings(3)) for _ in range(2)]
    pd.testing.assert_series_equal(fits[0].fitted(), fits[1].fitted())


@pytest.mark.parametrize(
    "bars, more, message",
    [
        ("(nn.last | person) + (nn | person)", {}, r"\(nn | person\): 'mlp.layers.2.weight' varies by 'person'"),
        ("(nn | person) + embed(1 | culture)", {}, r"embed\(1 | culture\): beside .* bars such as"),
        ("(nn | person) + (1 | culture)", {"preset": "faithful"}, "knows one bar only"),
    ],
)
def test_what_cannot_stand_together(bars, more, message):
    with pytest.raises(DesignError, match=message):
        pylmernn.lmernn(f"y ~ nn(x, hidden=c(3)) + {bars}", curves(4, 4, 3), control=settings(1, **more))
