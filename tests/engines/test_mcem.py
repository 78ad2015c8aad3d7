"""Monte Carlo EM: models without networks beside quadrature, several classes beside two, networks on simulated data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from designs import term
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

from pylmernn.engines import pirls
from pylmernn.engines.control import Control
from pylmernn.engines.mcem import fit
from pylmernn.engines.sampling_options import Sampling
from pylmernn.families import read_family
from pylmernn.formula.design import DesignError, NetTerm, make_design
from pylmernn.training.options import Training

BINOMIAL, MULTINOMIAL = read_family("binomial"), read_family("multinomial")


def control(seed=1, draws=100, warmup=40, **settings):
    training = {name: settings.pop(name) for name in ("epochs", "folds", "learning_rate") if name in settings}
    training = {"epochs": 3, "folds": 0, **training}
    sampling = Sampling(draws=draws, warmup=warmup, **settings)
    return Control(training=Training(seed=seed, **training), sampling=sampling, device="cpu")


def rows(n=600, levels=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=n), np.arange(n) % levels


def one_factor(family="binomial", slopes=False, trials=None):
    rng, x, g = rows()
    b = rng.normal(size=(30, 2)) @ np.array([[0.9, 0.3], [0.0, 0.6]])
    eta = 0.3 + 0.7 * x + b[g, 0] + (b[g, 1] * x if slopes else 0.0)
    weights = None
    if family == "poisson":
        y = rng.poisson(np.exp(0.5 * eta)).astype(float)
    elif trials:
        weights = rng.integers(1, trials + 1, 600).astype(float)
        y = rng.binomial(weights.astype(int), expit(eta)) / weights
    else:
        y = (rng.uniform(size=600) < expit(eta)).astype(float)
    columns = [np.ones(600), x] if slopes else [np.ones(600)]
    X = np.column_stack([np.ones(600), x])
    return make_design(y, X, ["(Intercept)", "x"], [term("g", g, *columns)], weights, generalized=True)


# ---- without networks


def test_a_factor_beside_quadrature():
    """Theta within 2%, beta within 0.01, -2 log-likelihood within 0.01 of its smallest; moments of b too."""
    design = one_factor()
    exact = pirls.fit(design, BINOMIAL, 25)
    found = fit(design, BINOMIAL, 25, control(draws=300))
    assert found.draws.sampler == "polya-gamma"
    np.testing.assert_allclose(found.theta, exact.theta, rtol=0.02)
    np.testing.assert_allclose(found.beta, exact.beta, atol=0.01)
    assert 0 <= found.objective - exact.objective < 0.01
    np.testing.assert_allclose(found.unscaled_vcov, exact.unscaled_vcov, rtol=0.05)
    means, variances = posterior(design, found)
    deviations = np.sqrt(variances)
    assert np.abs((found.b[0][:, 0] - means) / deviations).max() < 0.15  # of 600 draws
    np.testing.assert_allclose(np.sqrt(found.mode_variances[0][:, 0, 0]), deviations, rtol=0.15)
    assert abs(np.mean(np.sqrt(found.mode_variances[0][:, 0, 0]) / deviations) - 1) < 0.02


def posterior(design, estimates):
    """Means and variances of the effects of each level of the only factor, on a grid."""
    b = np.linspace(-6, 6, 2001)
    codes, fixed = design.random[0].codes, design.X @ estimates.beta
    means, variances = [], []
    for level in range(design.random[0].n_levels):
        mine = codes == level
        eta = fixed[mine] + b[:, None]
        logs = (design.y[mine] * eta - np.logaddexp(0, eta)).sum(axis=1) - 0.5 * (b / estimates.theta[0]) ** 2
        p = np.exp(logs - logsumexp(logs))
        means.append(b @ p)
        variances.append((b - means[-1]) ** 2 @ p)
    return np.array(means), np.array(variances)


@pytest.mark.parametrize(
    ("case", "sampler", "nodes", "gap"),
    [
        ({"trials": 5}, "polya-gamma", 25, 0.02),
        ({"slopes": True}, "polya-gamma", 9, 0.05),
        ({}, "nuts", 25, 0.05),
        ({"family": "poisson", "slopes": True}, "nuts", 9, 0.15),
    ],
)
def test_the_likelihood_is_near_its_maximum(case, sampler, nodes, gap):
    """-2 log-likelihood by quadrature, above its smallest by less than ``gap``: Monte Carlo error in theta and beta."""
    design, family = one_factor(**case), read_family(case.get("family", "binomial"))
    exact = pirls.fit(design, family, nodes)
    found = fit(
        design, family, nodes, control(draws=200, warmup=40 if sampler == "polya-gamma" else 100, sampler=sampler)
    )
    assert found.draws.sampler == sampler
    assert 0 <= found.objective - exact.objective < gap
    assert found.draws.rhat < 1.1


def crossed_objective(design, theta, beta):
    """-2 log-likelihood of crossed intercepts: a product rule over the 3 levels of h, each level of g a sum apart."""
    x, w = np.polynomial.hermite_e.hermegauss(7)
    x_g, w_g = np.polynomial.hermite_e.hermegauss(11)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(x, x, x)], axis=1)
    total = sum(np.log(axis.ravel() / np.sqrt(2 * np.pi)) for axis in np.meshgrid(w, w, w))
    g, h = (t.codes for t in design.random)
    for level in range(design.random[0].n_levels):
        mine = g == level
        eta = beta[0] + (theta[1] * grid[:, h[mine]])[:, None] + theta[0] * x_g[:, None]
        logs = (design.y[mine] * eta - np.logaddexp(0, eta)).sum(axis=2)
        total = total + logsumexp(logs, axis=1, b=w_g / np.sqrt(2 * np.pi))
    return -2 * logsumexp(total)


def test_crossed_factors_beside_brute_force():
    rng, _, g = rows(160, 20, seed=4)
    h = rng.integers(0, 3, 160)
    eta = 0.2 + rng.normal(size=20)[g] + np.array([-0.9, 0.1, 0.8])[h]
    y = (rng.uniform(size=160) < expit(eta)).astype(float)
    terms = [term("g", g, np.ones(160)), term("h", h, np.ones(160))]
    design = make_design(y, np.ones((160, 1)), ["(Intercept)"], terms, generalized=True)
    found = fit(design, BINOMIAL, 1, control(draws=300, warmup=100))
    near = pirls.fit(design, BINOMIAL)
    best = minimize(
        lambda v: crossed_objective(design, v[:2], v[2:]), [*near.theta, *near.beta], method="Nelder-Mead",
        options={"fatol": 3e-3, "xatol": 3e-2},
    )  # fmt: skip
    assert -5e-3 <= crossed_objective(design, found.theta, found.beta) - best.fun < 0.05
    np.testing.assert_allclose(found.theta, best.x[:2], rtol=0.1)
    assert found.nAGQ == 1


def test_an_offset_counts():
    design = one_factor()
    offset = np.random.default_rng(5).normal(size=600)
    known = dataclasses.replace(design, offset=offset)
    exact = pirls.fit(known, BINOMIAL, 25)
    found = fit(known, BINOMIAL, 25, control(draws=200))
    assert 0 <= found.objective - exact.objective < 0.02
    assert np.abs(exact.beta - pirls.fit(design, BINOMIAL, 25).beta).max() > 0.05


# ---- what is kept


def test_draws_and_their_diagnostics():
    design = one_factor(slopes=True)
    found = fit(design, BINOMIAL, control=control(draws=40, warmup=10, chains=3))
    draws = found.draws
    assert draws.b[0].shape == (3, 40, 30, 2, 1)
    assert draws.b[0].dtype == np.float32
    assert draws.variances.shape == (3, 40, 2)
    assert draws.names == ("var(g.c0)", "var(g.c1)")
    np.testing.assert_allclose(draws.variances, (draws.b[0][..., 0].astype(float) ** 2).mean(axis=2), rtol=1e-5)
    assert (draws.n_chains, draws.n_draws, draws.divergences, draws.accept) == (3, 40, 0, 1.0)
    assert 0.9 < draws.rhat < 1.5
    assert 5 < draws.ess <= 3 * 120
    flat = draws.b[0][..., 0].astype(float).reshape(120, 30, 2)
    covariance = np.einsum("tqd,tqe->qde", flat, flat) / 120 - np.einsum("qd,qe->qde", flat.mean(0), flat.mean(0))
    np.testing.assert_allclose(found.mode_variances[0], covariance, atol=1e-5)


def test_many_draws_are_thinned(monkeypatch):
    monkeypatch.setattr("pylmernn.engines.posterior.KEPT_NUMBERS", 30 * 2 * 10)
    draws = fit(one_factor(), BINOMIAL, control=control(draws=40, warmup=4)).draws
    assert draws.b[0].shape == (2, 10, 30, 1, 1)
    assert draws.variances.shape == (2, 40, 1)


def test_seeds_repeat_a_fit():
    design = one_factor()
    one, same, other = (fit(design, BINOMIAL, control=control(seed, draws=8, warmup=4)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.theta, same.theta)
    np.testing.assert_array_equal(one.draws.b[0], same.draws.b[0])
    assert abs(one.theta[0] - other.theta[0]) > 1e-6


# ---- several classes


def class_design(C, n=1500, seed=0):
    """Classes of a model of one factor, its coefficients (2, C) and variances (C,)."""
    rng, x, g = rows(n, 50, seed)
    beta = rng.normal(size=(2, C))
    variances = np.linspace(0.4, 1.6, C)
    eta = np.column_stack([np.ones(n), x]) @ beta + (rng.normal(size=(50, C)) * np.sqrt(variances))[g]
    codes = np.array([rng.choice(C, p=p) for p in softmax(eta, axis=1)]).astype(float)
    X, classes = np.column_stack([np.ones(n), x]), tuple("abcdef"[:C])
    design = make_design(codes, X, ["(Intercept)", "x"], [term("g", g, np.ones(n))], generalized=True, classes=classes)
    return design, beta - beta.mean(axis=1, keepdims=True), variances


def test_two_classes_are_the_binomial_model():
    """The contrast has its coefficients and standard errors; the variances of both classes sum to its variance."""
    design = one_factor()
    two = dataclasses.replace(design, classes=("no", "yes"))
    found = fit(two, MULTINOMIAL, control=control(draws=150))
    exact = pirls.fit(design, BINOMIAL, 25)
    np.testing.assert_allclose(found.beta[:, 1] - found.beta[:, 0], exact.beta, atol=0.02)
    assert found.covariances[0].sum() == pytest.approx(exact.theta[0] ** 2, rel=0.05)
    contrast = np.array([-1.0, 1.0])
    vcov = np.einsum("iajb,a,b->ij", found.fixed_covariance.reshape(2, 2, 2, 2), contrast, contrast)
    np.testing.assert_allclose(np.diagonal(vcov), np.diagonal(exact.unscaled_vcov), rtol=0.1)
    b = found.b[0][:, 0] @ contrast
    assert np.abs(b - exact.b[0][:, 0]).max() < 0.25


def test_three_classes():
    """Coefficients within three standard errors; everything sums to zero over classes; shapes and names."""
    design, beta, variances = class_design(3)
    found = fit(design, MULTINOMIAL, control=control(draws=60))
    se = np.sqrt(np.diagonal(found.fixed_covariance)).reshape(2, 3)
    assert (np.abs(found.beta - beta) < 3 * se).all()
    assert se.max() < 0.3
    ours = np.array([found.covariances[0][c, 0, 0] for c in range(3)])
    assert (np.abs(np.log(ours / variances)) < 3 * found.covariance_errors[0][:, 0]).all()
    for values in (found.beta, found.b[0], found.draws.b[0]):
        np.testing.assert_allclose(values.sum(axis=-1), 0.0, atol=1e-5)
    assert found.classes == ("a", "b", "c")
    assert found.draws.names == tuple(f"var(g.c0.{c})" for c in "abc")
    assert found.draws.b[0].shape == (2, 60, 50, 1, 3)
    assert found.variances[0].shape == (50, 1, 3)
    eta = design.X @ found.beta + found.b[0][design.random[0].codes, 0]
    np.testing.assert_allclose(found.eta, eta, atol=1e-10)


def test_standard_errors_of_classes_beside_dense_algebra():
    """``X' V^-1 X`` of all classes together, through the dense information of each row: within 5%, slopes too."""
    C, (design, _, _) = 3, class_design(3, n=300, seed=1)
    found = fit(design, MULTINOMIAL, control=control(draws=40))
    p = softmax(found.eta, axis=1)
    W = np.zeros((300, C, 300, C))
    for i in range(300):
        W[i, :, i] = np.diag(p[i]) - np.outer(p[i], p[i])
    W = W.reshape(900, 900)
    Z, A = (np.kron(M, np.eye(C)) for M in (np.eye(50)[design.random[0].codes], design.X))
    M = Z.T @ W @ Z + np.kron(np.eye(50), np.diag(1 / found.covariances[0][:, 0, 0]))
    WA = W @ A
    V = np.linalg.pinv(A.T @ WA - WA.T @ Z @ np.linalg.solve(M, Z.T @ WA), rcond=1e-8)
    contrast = np.kron(np.eye(2), np.eye(C) - 1 / C)
    exact = np.sqrt(np.diagonal(contrast @ V @ contrast))
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.fixed_covariance)), exact, rtol=0.05)


def class_loglik(design, beta, variances):
    """Log-likelihood of three classes and one factor: of contrasts of the effects with the last class, on a grid."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(13)
    unit = np.stack([axis.ravel() for axis in np.meshgrid(nodes, nodes)], axis=1)
    logs = np.log(np.outer(weights, weights).ravel() / (2 * np.pi))
    root = np.linalg.cholesky(np.diag(variances[:2]) + variances[2])
    b = np.column_stack([unit @ root.T, np.zeros(len(unit))])
    codes, fixed, y = design.random[0].codes, design.X @ beta, design.y.astype(int)
    total = 0.0
    for level in range(design.random[0].n_levels):
        mine = np.flatnonzero(codes == level)
        eta = fixed[mine] + b[:, None]
        rows = eta[:, np.arange(len(mine)), y[mine]] - logsumexp(eta, axis=2)
        total += logsumexp(rows.sum(axis=1) + logs)
    return total


def test_standard_errors_of_classes_beside_the_curvature_of_the_likelihood():
    """By quadrature, at the estimates: of intercepts and slopes within 3%, of log-variances within 10%."""
    design, _, _ = class_design(3, n=600, seed=2)
    found = fit(design, MULTINOMIAL, control=control(draws=60))
    contrasts = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]
    basis = np.kron(np.eye(2), contrasts)
    start = np.concatenate([basis.T @ found.beta.reshape(-1), np.log(found.covariances[0][:, 0, 0])])

    def value(v):
        return class_loglik(design, (basis @ v[:4]).reshape(2, 3), np.exp(v[4:]))

    h, size = 0.02, len(start)
    steps, H = h * np.eye(size), np.empty((size, size))
    at = {(i, s): value(start + s * steps[i]) for i in range(size) for s in (-1, 1)}
    middle = value(start)
    for i in range(size):
        H[i, i] = -(at[i, 1] - 2 * middle + at[i, -1]) / h**2
        for j in range(i):
            both = value(start + steps[i] + steps[j]) + value(start - steps[i] - steps[j])
            H[i, j] = H[j, i] = -(both - at[i, 1] - at[i, -1] - at[j, 1] - at[j, -1] + 2 * middle) / (2 * h**2)
    exact = np.sqrt(np.diagonal(basis @ np.linalg.inv(H[:4, :4]) @ basis.T))
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.fixed_covariance)), exact, rtol=0.03)
    np.testing.assert_allclose(
        found.covariance_errors[0][:, 0], np.sqrt(np.diagonal(np.linalg.inv(H[4:, 4:]))), rtol=0.1
    )


# ---- with networks


def neural(n=1500, C=1, seed=0, family="binomial"):
    rng, x, g = rows(n, 40, seed)
    z = rng.uniform(-2, 2, n)
    f = 1.5 * np.sin(2 * z)[:, None] * (np.array([1.0]) if C == 1 else np.linspace(-1, 1, C))
    b = 0.8 * rng.normal(size=(40, C))
    eta = f + b[g] + 0.5 * x[:, None] * (1.0 if C == 1 else np.arange(C) - (C - 1) / 2)
    if C > 1:
        y = np.array([rng.choice(C, p=p) for p in softmax(eta, axis=1)]).astype(float)
    else:
        y = (rng.uniform(size=n) < expit(eta[:, 0])).astype(float)
    nets = [NetTerm("nn(z)", "nn", z[:, None], ("z",), (0,), {"hidden": (16, 8)})]
    X = np.column_stack([np.ones(n), x])
    design = make_design(
        y, X, ["(Intercept)", "x"], [term("g", g, np.ones(n))], nets=nets, generalized=True,
        classes=tuple("abcdef"[:C]) if C > 1 else (),
    )  # fmt: skip
    return design, f[:, 0] if C == 1 else f


def test_a_network_is_found():
    design, f = neural()
    found = fit(design, BINOMIAL, control=control(epochs=25, folds=2, learning_rate=1e-2, draws=60))
    networks = found.networks
    assert np.corrcoef(networks.fitted, f)[0, 1] > 0.93
    assert networks.out_of_fold
    assert networks.criterion == "mean deviance"
    assert found.method == "mcem"
    known = pirls.fit(dataclasses.replace(design, offset=f, nets=()), BINOMIAL, 9)
    assert found.theta[0] == pytest.approx(known.theta[0], rel=0.1)
    assert found.beta[1] == pytest.approx(known.beta[1], abs=np.sqrt(known.unscaled_vcov[1, 1]))
    given = dataclasses.replace(design, offset=networks.fitted, nets=())
    assert 0 <= found.objective - pirls.fit(given, BINOMIAL, 9).objective < 0.05


def test_networks_of_several_classes_are_found():
    design, f = neural(C=3)
    found = fit(design, MULTINOMIAL, control=control(epochs=20, learning_rate=1e-2, draws=30, warmup=20))
    fitted = found.networks.fitted
    assert fitted.shape == (1500, 3)
    contrasts = fitted - fitted.mean(axis=1, keepdims=True)
    assert np.corrcoef(contrasts.ravel(), f.ravel())[0, 1] > 0.95
    np.testing.assert_allclose(found.networks.values([design.nets[0].inputs]), fitted, atol=1e-5)
    np.testing.assert_allclose(fitted.mean(axis=0), 0.0, atol=1e-12)
    slope = found.beta[1]
    assert np.abs(slope - [-0.5, 0.0, 0.5]).max() < 0.25


def test_seeds_repeat_a_network():
    design, _ = neural(n=400)
    one, same, other = (fit(design, BINOMIAL, control=control(seed, draws=8, warmup=4)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.networks.fitted, same.networks.fitted)
    np.testing.assert_array_equal(one.draws.b[0], same.draws.b[0])
    assert np.abs(one.networks.fitted - other.networks.fitted).max() > 1e-3


@pytest.mark.parametrize("C", [1, 3])
def test_an_interruption_keeps_the_best_epoch_so_far(C):
    design, _ = neural(n=400, C=C)
    told = []

    def callback(epoch, criterion):
        told.append(criterion)
        if epoch == 2:
            raise KeyboardInterrupt

    family = BINOMIAL if C == 1 else MULTINOMIAL
    found = fit(design, family, control=control(epochs=20, draws=8, warmup=4), callback=callback)
    assert found.networks.best_epoch == (1 + int(np.argmin(told)),)
    assert not found.convergence.converged
    assert found.convergence.message.startswith("training was interrupted")


def test_poisson_networks_with_exposures():
    rng, _, g = rows(800, 40, seed=6)
    z, offset = rng.uniform(-2, 2, 800), rng.uniform(0, 2, 800)
    f = 0.7 * np.sin(2 * z)
    y = rng.poisson(np.exp(f + 0.5 * rng.normal(size=40)[g] + offset)).astype(float)
    nets = [NetTerm("nn(z)", "nn", z[:, None], ("z",), (0,), {"hidden": (16, 8)})]
    design = make_design(
        y, np.ones((800, 1)), ["(Intercept)"], [term("g", g, np.ones(800))], offset=offset, nets=nets, generalized=True
    )
    poisson = read_family("poisson")
    found = fit(design, poisson, control=control(epochs=20, learning_rate=1e-2, draws=60))
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.97
    given = dataclasses.replace(design, offset=offset + found.networks.fitted, nets=())
    exact = pirls.fit(given, poisson, 9)
    assert 0 <= found.objective - exact.objective < 0.1
    assert found.beta[0] == pytest.approx(exact.beta[0], abs=0.03)


def test_a_sampler_that_cannot_is_told():
    with pytest.raises(DesignError, match="'polya-gamma' is for binomial\\(logit\\) and multinomial models, not pois"):
        fit(one_factor("poisson"), read_family("poisson"), control=control(sampler="polya-gamma"))
