"""Method "nme" of generalized models: with a linear network it is the generalized linear mixed model."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

import pylmernn
from pylmernn.engines import nme_generalized, nme_model
from pylmernn.engines.control import Control
from pylmernn.engines.nme_generalized_model import jacobians
from pylmernn.engines.nme_working import Rows, training_loss
from pylmernn.families import read_family
from pylmernn.formula import build
from pylmernn.formula.design import DesignError
from pylmernn.mean.networks import build as build_network
from pylmernn.mean.networks import specify
from pylmernn.mean.varying import VaryingNetwork, select
from pylmernn.training.options import Training

LINEAR = "y ~ nn(x, hidden=c(), standardize=FALSE) + (nn | g)"


def settings(epochs, **more):
    return Control(training=Training(epochs=epochs, **more))


def simulated(family, groups=40, rows=15, seed=0):
    """Random intercepts and slopes on the scale of the link."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x = rng.normal(size=len(g))
    b = rng.normal(size=(groups, 2)) * [0.8, 0.6]
    eta = 0.3 + 0.5 * x + b[g, 0] + b[g, 1] * x
    if family == "binomial":
        y = (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(float)
    elif family == "poisson":
        y = rng.poisson(np.exp(eta)).astype(float)
    elif family == "Gamma(log)":
        y = rng.gamma(3.0, np.exp(eta) / 3.0)
    else:
        y = (np.add.outer(rng.logistic(size=len(g)) + eta, [1.0, -0.5]) > 0).sum(axis=1)
    return pd.DataFrame({"y": y, "x": x, "g": g})


@pytest.mark.parametrize("family", ["binomial", "poisson", "Gamma(log)", "ordinal"])
def test_a_linear_network_is_the_generalized_linear_mixed_model(family):
    data = simulated(family)
    linear = pylmernn.glmernn("y ~ x + (1 + x | g)", data, family=family)
    fit = pylmernn.glmernn(LINEAR, data, family=family, control=settings(3))
    assert fit.estimates.exact
    assert float(fit.logLik()) == pytest.approx(float(linear.logLik()), abs=1e-3)
    order = [1, 0]  # the bias comes last
    covariance = fit.VarCorr()["g"].to_numpy()[np.ix_(order, order)]
    np.testing.assert_allclose(covariance, linear.VarCorr()["g"], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(fit.fixef()["layers.0.weight[x]"], linear.fixef()["x"], rtol=1e-3)
    np.testing.assert_allclose(fit.estimates.phi, linear.estimates.phi, rtol=1e-3)
    np.testing.assert_allclose(fit.estimates.fitted, linear.estimates.eta, atol=2e-3)
    ours, theirs = (each.ranef(condVar=True).condsd()["g"].to_numpy() for each in (fit, linear))
    np.testing.assert_allclose(ours[:, order], theirs, rtol=2e-3)


def test_laplace_em_against_pirls(monkeypatch):
    chosen = nme_model.select
    monkeypatch.setattr(nme_model, "select", lambda *a: dataclasses.replace(chosen(*a), linear=False))
    data = simulated("Gamma(log)", rows=30)
    linear = pylmernn.glmernn("y ~ x + (1 + x | g)", data, family="Gamma(log)")
    design, _ = build(LINEAR, data, family="Gamma")
    control = settings(15, weight_decay=0.0, validation=0.0)
    found = nme_generalized.fit(design, read_family("Gamma(log)"), 1, control)
    assert not found.exact
    covariance = (found.factor @ found.factor.T)[::-1, ::-1]
    np.testing.assert_allclose(np.diagonal(covariance), np.diagonal(linear.VarCorr()["g"]), rtol=0.01)
    assert found.phi == pytest.approx(linear.estimates.phi, rel=0.005)
    assert found.objective == pytest.approx(linear.estimates.objective, abs=0.1)


def test_working_responses_of_a_softmax():
    rng = np.random.default_rng(1)
    eta, y = rng.normal(size=(6, 4)), rng.integers(0, 4, 6).astype(float)
    rows = Rows(read_family("multinomial"), y, np.ones(6), 4)
    root, residual = rows.working(torch.from_numpy(eta), 1.0)
    p = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    information = np.einsum("nc,cd->ncd", p, np.eye(4)) - p[:, :, None] * p[:, None, :]
    np.testing.assert_allclose(root.transpose(1, 2) @ root, information, atol=1e-12)
    score = np.eye(4)[y.astype(int)] - p
    np.testing.assert_allclose(torch.einsum("nkc,nk->nc", root, residual), score, atol=1e-12)
    logs = np.log(p[np.arange(6), y.astype(int)])
    np.testing.assert_allclose(rows.deviance(torch.from_numpy(eta), 1.0), -2 * logs, rtol=1e-12)


@pytest.mark.parametrize("family", ["binomial(probit)", "poisson", "Gamma(log)", "ordinal", "negative.binomial"])
def test_the_loss_is_the_deviance(family):
    chosen = read_family(family)
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 8).astype(float) + (family == "Gamma(log)")
    weights = np.ones(8) if family != "poisson" else rng.integers(1, 3, 8).astype(float)
    phi = np.array([0.2]) if family == "ordinal" else 1.3 if chosen.has_dispersion else 1.0
    eta, rest = rng.normal(size=(4, 2)), rng.normal(size=8)
    target = torch.from_numpy(np.column_stack([y, weights, rest]).reshape(4, 2, 3))
    loss = training_loss(chosen, 1, torch.from_numpy(eta), target, phi)
    assert loss.shape == (4, 2)
    total = torch.from_numpy(eta.reshape(8, 1) + rest[:, None])
    np.testing.assert_allclose(loss.reshape(-1), Rows(chosen, y, weights).deviance(total, phi), rtol=1e-8)


def classes(groups=30, rows=20, seed=3):
    """Three classes whose borders differ by group."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x, z = rng.normal(size=(2, len(g)))
    shift = rng.normal(size=(groups, 3))
    eta = np.column_stack([np.zeros_like(x), 1.5 * np.tanh(2 * x), z * 1.2]) + shift[g]
    p = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    y = (np.cumsum(p, axis=1)[:, :2] < rng.random(len(g))[:, None]).sum(axis=1)
    return pd.DataFrame({"y": np.array(["a", "b", "c"])[y], "x": x, "z": z, "g": g}), p


def test_derivatives_of_several_outputs():
    data, _ = classes(4, 5)
    design, _ = build("y ~ nn(x, z, hidden=c(3)) + (nn | g)", data, family="multinomial")
    module = build_network(specify(design.nets[0], outputs=3))
    network = VaryingNetwork(module, select(module, "", "nn"))
    eta = 0.1 * torch.randn(4, network.selected.size)
    codes = torch.from_numpy(design.varying[0].codes.astype(np.int64))
    prepared = module.prepare(design.nets[0].inputs)
    values, J = jacobians(network, prepared, eta, codes, 3)
    np.testing.assert_allclose(values, network.rows(prepared, eta, codes), atol=1e-6)
    step = torch.zeros_like(eta)
    step[:, 5] = 1e-2
    change = (network.rows(prepared, eta + step, codes) - network.rows(prepared, eta - step, codes)) / 2e-2
    np.testing.assert_allclose(J[:, :, 5], change, atol=1e-3)


def test_classes_of_groups_are_found():
    data, truth = classes()
    fit = pylmernn.glmernn(
        "y ~ nn(x, z, hidden=c(8)) + (nn.last | g)", data, family="multinomial", control=settings(20), seed=1
    )
    table = fit.predict_proba()
    assert list(table.columns) == ["a", "b", "c"]
    generic = fit.predict_proba(data, re_form="NA")

    def distance(found):
        return np.mean((found.to_numpy() - truth) ** 2)

    assert distance(table) < 0.4 * distance(generic)
    np.testing.assert_allclose(fit.predict_proba(data), table, atol=1e-5)
    assert (fit.predict(type="class") == data.y).mean() > 0.6
    assert "multinomial" in str(fit)


def test_new_groups_get_the_modes_of_their_posterior():
    data = simulated("binomial", groups=25)
    fit = pylmernn.glmernn("y ~ nn(x, hidden=c(2)) + (nn | g)", data, control=settings(8), seed=2)
    new = simulated("binomial", groups=1, rows=12, seed=9).assign(g="new")
    with pytest.raises(DesignError, match="'new'"):
        fit.predict(new)
    generic = fit.predict(new, allow_new_levels=True, type="response")
    average = fit.predict(new, allow_new_levels=True, average=200)
    np.testing.assert_allclose(generic, fit.predict(new, re_form="NA", type="response"))
    assert np.abs(average - 0.5).mean() < np.abs(generic - 0.5).mean() + 0.02
    grown = fit.update_ranef(new)
    own = grown.ranef()["g"].loc["new"].to_numpy()
    factor = fit.estimates.factor

    def penalised(u):
        eta = factor @ u if factor.ndim == 2 else factor * u
        estimates = dataclasses.replace(grown.estimates, effects=np.vstack([grown.estimates.effects[:-1], eta]))
        p = type(grown)(grown.design, estimates, grown.frame, {}).predict(new, type="response")
        return -2 * np.sum(np.log(np.where(new.y == 1, p, 1 - p))) + u @ u

    best = minimize(penalised, np.zeros(factor.shape[-1]), method="Powell").fun
    at = np.linalg.lstsq(factor if factor.ndim == 2 else np.diag(factor), own, rcond=None)[0]
    assert penalised(at) < best + 0.02


@pytest.mark.parametrize(
    "formula, message",
    [
        ('y ~ nn(x) + (nn["layers.9.weight"] | g)', "no parameter 'layers.9.weight'"),
        ("y ~ nn(x, normalization='batch') + (nn | g)", "batch normalisation"),
    ],
)
def test_bad_bars(formula, message):
    with pytest.raises(DesignError, match=message):
        pylmernn.glmernn(formula, simulated("binomial", 5, 4))


def test_quadrature_given_the_layers_below():
    data = simulated("binomial", groups=12, seed=5)
    linear = pylmernn.glmernn("y ~ x + (1 | g)", data, nAGQ=7)
    bar = '(nn["layers.0.bias"] | g)'
    fit = pylmernn.glmernn(f"y ~ nn(x, hidden=c()) + {bar}", data, nAGQ=7, control=settings(2))
    assert float(fit.logLik()) == pytest.approx(float(linear.logLik()), abs=1e-4)
    with pytest.raises(DesignError, match=r"nAGQ is 7: .* Laplace's approximation only"):
        pylmernn.glmernn("y ~ nn(x, hidden=c(2)) + (nn | g)", data, nAGQ=7)


def test_covariances_of_few_groups_are_left_to_em():
    data = simulated("binomial", groups=8)
    fit = pylmernn.glmernn(LINEAR, data, control=settings(2))
    assert not fit.estimates.exact
    assert pylmernn.glmernn(LINEAR, data, nAGQ=0, control=settings(2)).estimates.exact


def test_too_many_derivatives(monkeypatch):
    monkeypatch.setattr(nme_generalized, "MOST_DERIVATIVES", 100)
    with pytest.raises(DesignError, match="let fewer vary"):
        pylmernn.glmernn("y ~ nn(x) + (nn | g)", simulated("binomial", 5, 4))


def test_other_methods_refuse():
    with pytest.raises(DesignError, match="only method 'nme'"):
        pylmernn.glmernn("y ~ nn(x) + (nn | g)", simulated("binomial", 5, 4), method="mcem")
    with pytest.raises(DesignError, match="for networks that vary"):
        pylmernn.glmernn("y ~ nn(x) + (1 | g)", simulated("binomial", 5, 4), method="nme")
