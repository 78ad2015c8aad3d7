"""Cross-fitting of generalized models with a network that varies by group."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar

import pylmernn
from pylmernn.engines import (
    nme_crossfit,
    nme_distil,
    nme_generalized,
    nme_generalized_members,
    nme_members,
    pirls,
    profiled,
)
from pylmernn.engines.control import Control
from pylmernn.engines.nme_generalized_crossfit import GeneralizedSolver
from pylmernn.engines.nme_generalized_members import GeneralizedMembers
from pylmernn.engines.nme_generalized_model import GeneralizedVaryingModel
from pylmernn.engines.nme_model import VaryingModel
from pylmernn.families import read_family
from pylmernn.formula import build
from pylmernn.mean import networks
from pylmernn.training.options import Training

LAST = "y ~ nn(x, hidden=c(6, 4)) + (nn.last | g)"


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(nme_distil, "STEPS", 300)


def curves(family, seed=0, groups=30, rows=10, apart=0.7):
    """Waves of other heights by group, on the scale of the link."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x = rng.uniform(-2, 2, len(g))
    eta = (1 + apart * rng.normal(size=groups))[g] * np.sin(1.5 * x)
    if family == "binomial":
        y = (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(float)
    elif family == "ordinal":
        y = (np.add.outer(rng.logistic(size=len(g)) + eta, [1.0, -0.5]) > 0).sum(axis=1)
    elif family == "Gamma(log)":
        y = rng.gamma(3.0, np.exp(eta) / 3.0)
    else:
        y = rng.poisson(np.exp(eta)).astype(float)
    return pd.DataFrame({"y": y, "x": x, "g": g, "eta": eta})


def control(epochs=6, **more):
    return Control(training=Training(epochs=epochs, **more))


def members_of(family, data, epochs=3, of=5):
    chosen = read_family(family)
    design, _ = build(LAST, data, family=chosen.name)
    members = GeneralizedMembers(GeneralizedVaryingModel(design, chosen, control(of)))
    for number in range(1, epochs + 1):
        members.epoch(number)
    return members


@pytest.mark.parametrize("family", ["binomial", "poisson", "Gamma(log)", "ordinal"])
def test_members_settle_where_their_penalised_deviance_is_least(family, monkeypatch):
    """With variances held the modes of every member solve ``eta = Sigma J'score`` in each group."""
    monkeypatch.setattr(nme_generalized_members, "EM_STEPS", 1)  # the second would have other variances
    members = members_of(family, curves(family))
    model, factor, phi = members.model, members.random.factor, members.random.phi
    for _ in range(40):
        members.solve()
        members.random.factor, members.random.phi = factor, phi
    k, rows = 1, members.rows[1].numpy()
    J = members.J[k, rows].numpy()
    own = members.nets.weights[k].detach().double() + members.random.eta[k, model.codes[rows]]
    eta = (J * own.numpy()).sum(1) + model.design.X[rows] @ members.random.beta[k].numpy()
    score = model.family.step(model.design.y[rows], np.ones(len(rows)), eta, phi[k]).score
    pulled = np.zeros((30, J.shape[1]))
    np.add.at(pulled, model.term.codes[rows], score[:, None] * J)
    Sigma = (factor[k] @ factor[k].T).numpy()
    known = members.known[k].numpy()
    expected = (pulled @ Sigma)[known]
    np.testing.assert_allclose(members.random.eta[k].numpy()[known], expected - expected.mean(0), atol=2e-3)


def test_rows_held_out_are_never_learnt_from():
    data = curves("binomial", 1)
    first = members_of("binomial", data)
    held = first.held.member == 0
    second = members_of("binomial", data.assign(y=np.where(held, 1 - data.y, data.y)))
    torch.testing.assert_close(first.nets.weights[0], second.nets.weights[0])
    torch.testing.assert_close(first.random.eta[0], second.random.eta[0])
    assert not torch.equal(first.nets.weights[1], second.nets.weights[1])


@pytest.mark.parametrize("family", ["binomial", "Gamma(log)"])
def test_held_out_losses_are_deviances_of_the_member_that_has_not_learnt(family):
    members = members_of(family, curves(family, 2))
    members.criterion()
    model, row = members.model, 17
    k = int(members.held.member[row])
    own = members.nets.weights[k].detach().double() + members.random.eta[k, model.codes[row]]
    eta = float(members.J[k, row] @ own + model.X[row] @ members.random.beta[k])
    step = model.family.step(model.design.y[[row]], np.ones(1), np.array([eta]), members.random.phi[k])
    assert float(members.squares[row]) == pytest.approx(-2 * float(step.loglik[0]), rel=1e-9)


def test_a_multiple_of_the_identity_is_found_by_brute_force():
    rng = np.random.default_rng(3)
    data = curves("binomial", 3)
    columns = rng.normal(size=(len(data), 3)) * [1.0, 0.5, 2.0]
    design, _ = build(LAST, data, family="binomial")
    model = GeneralizedVaryingModel(design, read_family("binomial"), control())
    solver = GeneralizedSolver(model.family, Control())
    f = data.eta.to_numpy() * 0.5
    near = solver.estimate(nme_crossfit.linear_design(model, f, columns[:, :0]))
    linear = nme_crossfit.linear_design(model, f, columns)
    found = solver.in_proportion(linear, near)
    assert found.objective == pytest.approx(pirls.devfun(linear, model.family)(found.theta, found.beta), abs=1e-6)
    Lambda = nme_crossfit.structure("us").Lambda(found.theta, 3)
    np.testing.assert_allclose(Lambda, Lambda[0, 0] * np.eye(3), atol=1e-12)
    objective = pirls.devfun(linear, model.family)
    one = nme_crossfit.identity(linear)
    for theta, beta in ((1.05, 0.0), (0.95, 0.0), (1.0, 0.05), (1.0, -0.05)):
        moved = found.theta * theta if found.theta.any() else 0.05 * one
        assert objective(moved, found.beta + beta) > found.objective

    plain, _ = build(LAST, data.assign(y=data.eta + columns @ [0.3, 0.2, 0.1] + rng.normal(size=len(data))))
    gaussian = VaryingModel(plain, control())
    linear_solver = nme_crossfit.LinearSolver(True, Control())
    near = linear_solver.estimate(nme_crossfit.linear_design(gaussian, f, columns[:, :0]))
    linear = nme_crossfit.linear_design(gaussian, f, columns)
    found = linear_solver.in_proportion(linear, near)
    devfun = profiled.devfun(linear, True)
    best = minimize_scalar(lambda t: devfun(t * one), bounds=(0, 5), method="bounded", options={"xatol": 1e-8})
    assert found.objective == pytest.approx(best.fun, abs=1e-5)


@pytest.mark.parametrize("family", ["binomial", "Gamma(log)", "ordinal"])
def test_effects_are_modes_given_the_network(family):
    data = curves(family, 4)
    fit = pylmernn.glmernn(LAST, data, family=family, control=control(8), seed=1)
    e = fit.estimates
    assert e.networks.learned.all()
    assert e.exact
    np.testing.assert_allclose(fit.predict(data), e.fitted, atol=1e-3)
    module = networks.build(e.networks.specs[0], e.networks.members[0][0]).eval()
    with torch.no_grad():
        features = nme_distil.trunk(module, module.prepare(fit.design.nets[0].inputs)).double().numpy()
    A = np.column_stack([features, np.ones(len(data))]) @ e.factor
    score = e.family.step(data.y.to_numpy(), np.ones(len(data)), e.fitted, e.phi).score
    pulled = np.zeros((30, A.shape[1]))
    np.add.at(pulled, data.g.to_numpy(), score[:, None] * A)
    np.testing.assert_allclose(e.effects, pulled @ e.factor.T, atol=2e-3)
    assert np.isfinite(fit.predict(data.head(5), se_fit=True).to_numpy()).all()


def test_where_the_mixed_model_has_no_estimates_there_is_one_network(monkeypatch):
    def refuse(*_):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(nme_crossfit, "finish", refuse)
    fit = pylmernn.glmernn(LAST, curves("binomial", 5), control=control(3))
    assert not fit.estimates.networks.learned.all()


def test_classes_that_are_told_apart_leave_finite_estimates():
    data = curves("binomial", groups=12)
    data["y"] = (data["x"] + 0.3 * (data["g"] % 3 - 1) > 0).astype(float)  # for certain within each group
    fit = pylmernn.glmernn(LAST, data, family="binomial", seed=1, control=control())
    assert np.abs(fit.estimates.fitted).max() < 33
    probability = fit.predict(type="response").to_numpy()
    assert ((probability > 0) & (probability < 1)).all()
    assert ((probability > 0.5) == data["y"]).mean() > 0.9


@pytest.mark.parametrize("options", [{"nAGQ": 2}, {"control": control(3, folds=0)}])
def test_where_it_is_not_done(options, monkeypatch):
    monkeypatch.setattr(nme_generalized, "cross_fitted", None)
    formula = "y ~ nn(x, hidden=c(2)) + (nn.last | g)"
    pylmernn.glmernn(formula, curves("binomial", 6), **{"control": control(3), **options})


def test_an_earlier_epoch_brings_back_its_dispersion():
    members = members_of("Gamma(log)", curves("Gamma(log)", 7))
    members.criterion()
    early, phi = members.state(), members.random.phi
    members.epoch(3)
    assert members.random.phi != phi
    assert members.restore(dataclasses.replace(early, squares=members.squares - 1.0), finished=True)
    assert members.random.phi == phi
    assert isinstance(members, nme_members.Members)
