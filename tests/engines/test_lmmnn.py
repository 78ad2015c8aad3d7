"""The mini-batch likelihood against a dense oracle and the exact engine; its two presets; learned embeddings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from designs import SHAPES, random_design, term
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

import pylmernn
from pylmernn.covariance import split_theta
from pylmernn.covariance.kernels import KERNELS as CORRELATIONS
from pylmernn.covariance.kernels import correlation
from pylmernn.engines import features, minibatch
from pylmernn.engines.atfixed import estimates_at_fixed
from pylmernn.engines.batchorders import level_chunks
from pylmernn.engines.batchvariances import LogCholesky, RawVariances, theta_and_sigma
from pylmernn.engines.control import Control
from pylmernn.engines.exact import problem_for
from pylmernn.engines.learned import CoordinatePart, TablePart
from pylmernn.engines.lmmnn import settle
from pylmernn.engines.marginal import Covariance, FieldPart, LevelPart, negative_log_likelihood
from pylmernn.formula.design import RandomTerm, make_design
from pylmernn.training.options import Training
from pylmernn.training.rowadam import RowAdam

QUICK = Control(training=Training(epochs=8, folds=0))
FAITHFUL = Control(training=Training(preset="faithful", epochs=6))


def field_term(
    n: int, rng: np.random.Generator, cov: str = "exp_quad", covariance: str = "gp", **options
) -> RandomTerm:
    """A term over 15 locations."""
    locations = rng.uniform(-1, 1, (15, 2))
    codes = np.concatenate([np.arange(15), rng.integers(0, 15, n - 15)]).astype(np.int32)
    options = {"cov": cov} if covariance == "gp" else options
    return RandomTerm("gp(a, b)", codes, np.arange(15).astype(str), np.ones((n, 1)), (cov,), covariance, "gp(a, b)",
                      locations, options)  # fmt: skip


def moved(variances, seed: int = 0) -> torch.Tensor:
    """Parameters somewhat off their start."""
    psi = variances.start()
    return psi + 0.2 * torch.rand(len(psi), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_value(design, parts, variances, psi, r) -> float:
    """-2 log-likelihood of all rows as one batch."""
    covariance = Covariance(parts, design.weights, design.n)
    V = covariance(covariance.data, *variances.unpack(psi))
    return 2.0 * float(negative_log_likelihood(torch.from_numpy(r), V).detach())


@pytest.mark.parametrize("kind", [LogCholesky, RawVariances])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_batch_of_all_rows_is_the_exact_likelihood(shape, kind):
    design = random_design(shape)
    variances = kind(design.random)
    psi = moved(variances)
    theta, sigma = theta_and_sigma(variances, psi, design.random)
    found = estimates_at_fixed(design, theta, sigma, REML=False)
    r = design.y - design.X @ found.beta - (0.0 if design.offset is None else design.offset)
    value = batch_value(design, [LevelPart(t) for t in design.random], variances, psi, r)
    assert value == pytest.approx(found.objective, abs=1e-6)


@pytest.mark.parametrize("cov", sorted(CORRELATIONS))
def test_fields_beside_bars_have_the_dense_likelihood(cov):
    rng = np.random.default_rng(1)
    n = 60
    g = term("g", rng.integers(0, 6, n), np.ones(n), rng.normal(size=n))
    design = make_design(rng.normal(size=n), np.ones((n, 1)), ["(Intercept)"], [field_term(n, rng, cov), g])
    variances = LogCholesky(design.random)
    psi = moved(variances, 3)
    theta, sigma = theta_and_sigma(variances, psi, design.random)
    value = batch_value(design, [FieldPart(design.random[0]), LevelPart(g)], variances, psi, design.y)
    C = split_theta(design.random, theta)[1]
    field = design.random[0]
    places = field.locations[field.codes]
    V = np.eye(n) + theta[0] ** 2 * correlation(cov, cdist(places, places), theta[1])
    V += (g.columns @ C @ C.T @ g.columns.T) * (g.codes[:, None] == g.codes)
    exact = -2.0 * multivariate_normal(np.zeros(n), sigma**2 * V).logpdf(design.y)
    assert value == pytest.approx(exact, abs=1e-6)
    problem = problem_for(design, False)
    found = estimates_at_fixed(design, theta, sigma, REML=False)
    assert problem.design is design
    shifted = batch_value(design, [FieldPart(field), LevelPart(g)], variances, psi, design.y - design.X @ found.beta)
    assert shifted == pytest.approx(found.objective, abs=1e-6)


def learned_design(weighted: bool):
    """An embedded factor, embedded coordinates and a bar, with their parts."""
    rng = np.random.default_rng(2)
    n = 80
    table = dataclasses.replace(
        term("g", rng.integers(0, 9, n), np.ones(n), covariance="embed"), label="embed(1 | g)", options={"dim": 3}
    )
    places = dataclasses.replace(
        field_term(n, rng, "(Intercept)", "embed", dim=4, hidden=(5,)), group="embed(a, b)", label="embed(a, b)"
    )
    bar = term("h", rng.integers(0, 5, n), np.ones(n), rng.normal(size=n))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    weights = rng.uniform(0.5, 2.0, n) if weighted else None
    design = make_design(rng.normal(size=n), X, ["(Intercept)", "x"], [table, places, bar], weights)
    torch.manual_seed(0)
    kinds = {
        "g": lambda t: TablePart(t, torch.Generator().manual_seed(0)),
        "embed(a, b)": lambda t: CoordinatePart(t, "silu", raw=False),
        "h": LevelPart,
    }
    return design, [kinds[t.group](t) for t in design.random]


@pytest.mark.parametrize("weighted", [False, True])
def test_learned_features_have_the_dense_likelihood_and_answers(weighted):
    design, parts = learned_design(weighted)
    variances = LogCholesky(design.random)
    psi = moved(variances)
    theta, sigma = theta_and_sigma(variances, psi, design.random)
    F = tuple(None if isinstance(part, LevelPart) else part.features() for part in parts)
    V = np.diag(np.ones(design.n) if design.weights is None else 1.0 / design.weights)
    prior = []
    for t, Lambda, own in zip(design.random, split_theta(design.random, theta), F, strict=True):
        left = t.columns @ Lambda if own is None else own[t.codes] * Lambda[0, 0]
        prior.append(left @ left.T * (t.codes[:, None] == t.codes if own is None else 1.0))
        V += prior[-1]
    V_inverse = np.linalg.inv(V)
    beta = np.linalg.solve(design.X.T @ V_inverse @ design.X, design.X.T @ V_inverse @ design.y)
    r = design.y - design.X @ beta
    found, coefficients = features.estimates_at(design, F, theta, sigma, False, Control())
    np.testing.assert_allclose(found.beta, beta, atol=1e-8)
    np.testing.assert_allclose(found.unscaled_vcov, np.linalg.inv(design.X.T @ V_inverse @ design.X), atol=1e-8)
    exact = -2.0 * multivariate_normal(np.zeros(design.n), sigma**2 * V).logpdf(r)
    assert found.objective == pytest.approx(exact, abs=1e-6)
    assert batch_value(design, parts, variances, psi, r) == pytest.approx(exact, abs=1e-4)  # features in float32
    for t, b, K, own, c in zip(design.random, found.b, prior, F, coefficients, strict=True):
        np.testing.assert_allclose(np.sum(t.columns * b[t.codes], axis=1), K @ V_inverse @ r, atol=1e-8)
        if own is not None:
            np.testing.assert_allclose(own @ c, b[:, 0], atol=1e-10)


@pytest.mark.parametrize("kind", [LogCholesky, RawVariances])
def test_the_gradient_is_that_of_the_likelihood(kind):
    design = random_design("crossed_slopes_weighted", n=60)
    variances = kind(design.random)
    covariance = Covariance([LevelPart(t) for t in design.random], design.weights, design.n)
    r = torch.from_numpy(design.y - design.y.mean())

    def value(psi: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(r, covariance(covariance.data, *variances.unpack(psi)))

    psi = moved(variances).requires_grad_()
    assert torch.autograd.gradcheck(value, (psi, r.requires_grad_()), atol=1e-5)


def test_rows_of_a_table_move_as_under_adam():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 4, generator=generator)
    dense = table.clone().requires_grad_()
    adam, rows_only = torch.optim.Adam([dense], lr=1e-2), RowAdam(table, 1e-2)
    for _ in range(100):
        rows = torch.randperm(20, generator=generator)[:2]
        gradient = torch.randn(2, 4, generator=generator)
        dense.grad = torch.zeros_like(dense)
        dense.grad[rows] = gradient
        adam.step()
        rows_only.catch_up(rows)
        rows_only.step(rows, gradient)
    rows_only.catch_up()
    np.testing.assert_allclose(table.numpy(), dense.detach().numpy(), atol=1e-4)


def test_chunks_hold_rows_of_a_level_together():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, 1000).astype(np.int32)
    rows = rng.permutation(1000)[:900]
    order = level_chunks(codes, rows, 8, rng)
    assert sorted(order) == sorted(rows)
    assert np.mean(np.diff(codes[order]) == 0) > 0.8
    assert len(set(codes[order[:100]])) > 8


def simulate(n: int, seed: int) -> pd.DataFrame:
    """Forty levels with an intercept and a slope of t, thirty locations with a smooth field, a mean that is no line."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    b, places = fixed.normal(size=(40, 2)), fixed.uniform(-3, 3, (30, 2))
    d = pd.DataFrame(rng.uniform(-2, 2, (n, 2)), columns=["x", "z"]).assign(t=rng.uniform(0, 1, n))
    d["treat"], d["g"], d["s"] = rng.integers(0, 2, n) * 1.0, rng.integers(0, 40, n), rng.integers(0, 30, n)
    d["h"] = rng.integers(0, 6, n)
    d["lon"], d["lat"] = places[d["s"], 0], places[d["s"], 1]
    d["mean"] = np.sin(2 * d["x"]) + d["x"] * d["z"] + 0.5 * d["treat"]
    d["y"] = d["mean"] + b[d["g"], 0] + b[d["g"], 1] * d["t"] + 0.5 * rng.normal(size=n)
    d["field"] = d["mean"] + np.sin(places[d["s"]].sum(axis=1)) * 1.5 + 0.5 * rng.normal(size=n)
    return d


@pytest.fixture(scope="module")
def train():
    return simulate(2000, 1)


@pytest.fixture(scope="module")
def new():
    return simulate(1000, 2)


def error(fit, new, response) -> float:
    return float(np.mean((new[response] - fit.predict(new)) ** 2))


NET = "nn(x, z, t, hidden = c(40, 20))"


def test_the_default_learns_f_and_the_variances(train, new):
    control = Control(training=Training(epochs=20, folds=0))
    fit = pylmernn.lmernn(f"y ~ treat + {NET} + (t | g)", train, method="lmmnn", control=control, seed=1)
    assert error(fit, new, "y") < 0.36
    assert 0.4 < fit.sigma() < 0.56
    assert fit.VarCorr().stddev("g")["t"] == pytest.approx(1.0, abs=0.4)
    assert abs(fit.fixef()["treat"] - 0.5) < 0.15
    assert fit.estimates.method == "lmmnn"
    assert np.isfinite(fit.predict(new.head(3), se_fit=True).to_numpy()).all()


def test_folds_give_values_out_of_sample(train):
    control = Control(training=Training(epochs=2, folds=2))
    fit = pylmernn.lmernn(f"y ~ {NET} + (1 | g)", train, method="lmmnn", control=control, seed=1)
    assert fit.estimates.networks.out_of_fold
    assert len(fit.estimates.networks.members) == 2


def test_the_seed_makes_it_repeatable(train):
    def predictions(seed):
        control = Control(training=Training(epochs=2, folds=0))
        formula = f"y ~ {NET} + embed(1 | g, dim = 4)"
        return pylmernn.lmernn(formula, train, method="lmmnn", control=control, seed=seed).predict()

    np.testing.assert_array_equal(predictions(1), predictions(1))
    assert np.abs(predictions(1) - predictions(2)).max() > 0


@pytest.mark.parametrize(
    ("random", "response"),
    [("(t | g) + (1 | h)", "y"), ("gp(lon, lat)", "field"), ("embed(1 | g, dim = 5)", "y")],
)
def test_faithful_keeps_the_variances_of_training(train, new, random, response):
    fit = pylmernn.lmernn(f"{response} ~ {NET} + {random}", train, method="lmmnn", control=FAITHFUL, seed=1)
    networks = fit.estimates.networks
    assert networks.specs[0].options["activation"] == "relu"
    assert networks.specs[0].options["dropout"] == 0.25
    assert networks.scale == 1.0
    assert fit.sigma() == pytest.approx(networks.history["sigma"][-1])
    assert error(fit, new, response) < 0.9 * np.var(new[response])


def test_faithful_settings():
    design = random_design("one")
    training = settle(Training(preset="faithful", learning_rate=0.1, validation=0.3), design)
    assert (training.batch_size, training.epochs, training.patience) == (100, 500, 10)
    assert (training.learning_rate, training.validation, training.weight_decay) == (1e-3, 0.1, 0.0)
    assert settle(Training(preset="faithful", batch_size=50), design).batch_size == 50


def test_options_of_the_formula_come_before_the_preset(train):
    control = Control(training=Training(preset="faithful", epochs=1))
    formula = "y ~ nn(x, z, activation = 'tanh', hidden = 4) + (1 | g)"
    fit = pylmernn.lmernn(formula, train.head(300), method="lmmnn", control=control)
    assert fit.estimates.networks.specs[0].options["activation"] == "tanh"


@pytest.mark.parametrize("control", [QUICK, FAITHFUL])
def test_embedded_coordinates_predict_new_places(train, new, control, tmp_path):
    formula = f"field ~ {NET} + embed(lon, lat, dim = 30, hidden = c(30, 30)) + (1 | h)"
    fit = pylmernn.lmernn(formula, train, control=control, seed=1)
    assert fit.estimates.method == "lmmnn"  # what "auto" chooses
    assert error(fit, new, "field") < 0.8 * np.var(new["field"])
    elsewhere = new.head(50).assign(lon=0.123, lat=-0.5)
    assert np.isfinite(fit.predict(elsewhere)).all()
    moved_by = fit.predict(elsewhere) - fit.predict(elsewhere, re_form="~ (1 | h)")
    assert np.ptp(moved_by) == pytest.approx(0.0, abs=1e-5)  # one place, one effect
    assert np.abs(moved_by).max() > 0
    fit.save(tmp_path / "fit.safetensors")
    again = pylmernn.load(tmp_path / "fit.safetensors")
    np.testing.assert_array_equal(again.predict(elsewhere), fit.predict(elsewhere))
    assert "embed(lon, lat)" in str(again.summary())
    with pytest.raises(ValueError, match="its features were learned"):
        fit.predict(elsewhere, se_fit=True)


def test_an_embedded_factor_predicts_zero_for_unseen_levels(train, new):
    fit = pylmernn.lmernn(f"y ~ {NET} + embed(1 | g, dim = 5)", train, method="lmmnn", control=QUICK, seed=1)
    assert error(fit, new, "y") < 0.3 * np.var(new["y"])
    stranger = new.head(5).assign(g=1000)
    np.testing.assert_array_equal(fit.predict(stranger, allow_new_levels=True), fit.predict(stranger, re_form="NA"))
    assert fit.ranef()["g"].shape == (40, 1)
    assert 0.5 < fit.VarCorr().stddev("g").iloc[0] < 2.5  # the mean spread of the levels' effects
    with pytest.raises(ValueError, match="its features were learned"):
        fit.predict(new.head(3), se_fit=True)


def test_by_the_exact_methods_an_embedded_factor_is_a_random_intercept(train):
    embedded = pylmernn.lmernn("y ~ x + embed(1 | g, dim = 7)", train)
    plain = pylmernn.lmernn("y ~ x + (1 | g)", train)
    assert embedded.REMLcrit() == pytest.approx(plain.REMLcrit(), abs=1e-9)
    np.testing.assert_allclose(embedded.ranef()["g"], plain.ranef()["g"])


@pytest.mark.parametrize(
    ("formula", "method", "message"),
    [
        ("y ~ x + (1 | g)", "lmmnn", "method 'lmmnn' is for networks"),
        ("y ~ x + embed(lon, lat)", "auto", "beside a network"),
        ("y ~ nn(x) + embed(lon, lat)", "alternating", "learned by method 'lmmnn' only"),
        ("y ~ nn(x) + embed(lon, lat, hidden = 0)", "lmmnn", "hidden holds 0"),
        ("y ~ nn(x) + gp(lon, lat) + embed(1 | g)", "lmmnn", "embed\\(\\) beside gp\\(\\)"),
    ],
)
def test_models_that_do_not_suit(train, formula, method, message):
    with pytest.raises(pylmernn.DesignError, match=message):
        pylmernn.lmernn(formula, train, method=method, control=QUICK)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset is 'faithfull'"):
        Training(preset="faithfull")


def test_a_likelihood_that_is_not_finite_is_told(train):
    wild = Control(training=Training(epochs=3, folds=0, learning_rate=1e30))
    with pytest.raises(ValueError, match="not finite in epoch 1"):
        pylmernn.lmernn(f"y ~ {NET} + (1 | g)", train, method="lmmnn", control=wild)


def test_interrupted_training_keeps_the_best(train, monkeypatch):
    real, calls = minibatch.MarginalTrainer.epoch, []

    def stops(self, order):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, order)

    monkeypatch.setattr(minibatch.MarginalTrainer, "epoch", stops)
    with pytest.warns(UserWarning, match="interrupted"):
        fit = pylmernn.lmernn(f"y ~ {NET} + (1 | g)", train, method="lmmnn", control=QUICK, seed=1)
    assert len(fit.history()) == 2
