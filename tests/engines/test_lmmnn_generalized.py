"""The quadrature likelihood beside integrals by brute force; training by it in its two presets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from designs import term
from scipy.integrate import quad
from scipy.special import logsumexp

from pylmernn.engines import levelquadrature as lq
from pylmernn.engines import lmmnn_generalized, pirls
from pylmernn.engines.batchorders import LevelOrders, level_batches
from pylmernn.engines.batchvariances import LogCholesky, RawVariances
from pylmernn.engines.control import Control
from pylmernn.families import read_family
from pylmernn.formula.design import DesignError, NetTerm, RandomTerm, make_design
from pylmernn.linalg.quadrature import gauss_hermite
from pylmernn.mean.networks import build, specify
from pylmernn.training.options import Training

QUICK = Training(epochs=8, folds=0)
THRESHOLDS = np.array([-0.6, 0.2, 1.0])
FAMILIES = ["binomial", "binomial(probit)", "poisson", "Gamma(log)", "negative.binomial", "ordinal"]


def responses(family, eta, rng):
    """Some that a family can have."""
    if family.name == "ordinal":
        return np.digitize(eta + rng.logistic(size=len(eta)), THRESHOLDS).astype(float)
    if family.name == "binomial":
        return (rng.random(len(eta)) < family.link.inverse(eta)).astype(float)
    if family.name == "Gamma":
        return rng.gamma(2.0, np.exp(eta) / 2.0)
    return rng.poisson(np.exp(eta)).astype(float)


def rows_of(text, sizes, spread, columns=1, seed=0):
    """Family, rows of levels of given sizes, their linear predictors without random effects, and the dispersion."""
    family, rng = read_family(text), np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    Z = np.column_stack([np.ones(len(codes)), rng.normal(size=len(codes))])[:, :columns]
    fixed = 0.5 * rng.normal(size=len(codes))
    b = spread * rng.normal(size=(len(sizes), columns))
    y = responses(family, fixed + (Z * b[codes]).sum(axis=1), rng)
    rows = lq.Observed(y, rng.integers(1, 3, len(y)).astype(float), Z, codes, len(sizes))
    phi = THRESHOLDS if family.name == "ordinal" else 0.7 if family.has_dispersion else 1.0
    return family, rows, fixed, phi


def log_integrand(family, rows, fixed, Lambda, phi, j, u):
    """Log of the integrand of level j at u (K, d), by the family's own log-densities."""
    own = rows.codes == j
    eta = fixed[own][:, None] + rows.Z[own] @ Lambda @ u.T
    y, weights = (np.broadcast_to(x[own][:, None], eta.shape).ravel() for x in (rows.y, rows.weights))
    logs = family.step(y, weights, eta.ravel(), phi).loglik.reshape(eta.shape).sum(axis=0)
    return logs - 0.5 * (u**2).sum(axis=1) - 0.5 * u.shape[1] * np.log(2 * np.pi)


def brute_force(family, rows, fixed, Lambda, phi):
    """Log-likelihood of each level: by adaptive integration, over a plane by a fine grid."""
    of = integral if len(Lambda) == 1 else integral_over_plane
    return np.array(
        [of(lambda u, j=j: log_integrand(family, rows, fixed, Lambda, phi, j, u)) for j in range(rows.n_levels)]
    )


def integral(logs):
    """Log of the integral of exp(logs(u)) over u (1, 1)."""
    grid = np.linspace(-8, 8, 1601)
    on_grid = logs(grid[:, None])
    top, near = on_grid.max(), grid[on_grid > on_grid.max() - 45]
    value = quad(
        lambda u: np.exp(logs(np.array([[u]]))[0] - top), near[0], near[-1],
        points=[grid[on_grid.argmax()]], epsabs=0, epsrel=1e-10, limit=200,
    )[0]  # fmt: skip
    return top + np.log(value)


def integral_over_plane(logs):
    """The same over u (1, 2)."""
    axis = np.linspace(-7, 7, 141)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return logsumexp(logs(grid)) + 2 * np.log(axis[1] - axis[0])


def by_nodes(family, rows, fixed, Lambda, phi, k, adaptive=True):
    """Log-likelihood of each level by k nodes in each dimension."""
    nodes = gauss_hermite(k, len(Lambda))
    chosen = lq.fixed_nodes(nodes, rows.n_levels)
    if adaptive:
        start = np.zeros((rows.n_levels, len(Lambda)))
        chosen = lq.adaptive_nodes(nodes, *lq.level_modes(family, rows, fixed, Lambda, phi, start))
    given = torch.from_numpy(fixed), torch.from_numpy(Lambda)
    terms = lq.log_terms(family, lq.as_tensors(rows), *given, chosen, torch.tensor(phi, dtype=torch.float64))
    return torch.logsumexp(terms, dim=1).numpy()


@pytest.mark.parametrize("text", FAMILIES)
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_levels_have_the_likelihood_of_brute_force(text, spread):
    family, rows, fixed, phi = rows_of(text, [1, 2, 5, 30], spread)
    exact = brute_force(family, rows, fixed, np.array([[spread]]), phi)
    np.testing.assert_allclose(by_nodes(family, rows, fixed, np.array([[spread]]), phi, 61), exact, atol=1e-6)


@pytest.mark.parametrize("text", ["binomial", "poisson"])
def test_two_columns_have_the_likelihood_of_brute_force(text):
    family, rows, fixed, phi = rows_of(text, [1, 4, 9], 0.7, columns=2)
    Lambda = np.array([[0.8, 0.0], [0.3, 0.5]])
    exact = brute_force(family, rows, fixed, Lambda, phi)
    np.testing.assert_allclose(by_nodes(family, rows, fixed, Lambda, phi, 21), exact, atol=1e-6)


@pytest.mark.parametrize("text", ["binomial", "poisson", "negative.binomial"])
def test_nodes_are_those_of_the_estimates_given_f(text):
    family, rows, fixed, phi = rows_of(text, [3, 8, 20, 5], 1.0)
    g = term("g", rows.codes, np.ones(len(fixed)))
    design = make_design(rows.y, np.ones((len(fixed), 1)), ["(Intercept)"], [g], rows.weights, fixed)
    objective = pirls.devfun(design, family, 9)(np.array([1.3]), np.array([0.2]), phi)
    ours = by_nodes(family, rows, fixed + 0.2, np.array([[1.3]]), phi, 9).sum() + family.constant(rows.y, rows.weights)
    assert -2 * ours == pytest.approx(objective, abs=1e-7 if text != "negative.binomial" else 1e-2)


def test_adaptive_nodes_are_better_than_fixed_ones_where_effects_are_large():
    family, rows, fixed, phi = rows_of("binomial", [80] * 12, 10**0.5)
    Lambda = np.array([[10**0.5]])
    exact = brute_force(family, rows, fixed, Lambda, phi)
    adaptive = np.abs(by_nodes(family, rows, fixed, Lambda, phi, 7) - exact).max()
    fixed_ones = np.abs(by_nodes(family, rows, fixed, Lambda, phi, 7, adaptive=False) - exact).max()
    assert adaptive < 1e-2
    assert fixed_ones > 1.0


@pytest.mark.parametrize("adaptive", [True, False])
def test_large_levels_do_not_underflow(adaptive):
    family, rows, fixed, phi = rows_of("binomial", [2000, 3], 1.0)
    Lambda = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    nodes = gauss_hermite(7)
    chosen = lq.fixed_nodes(nodes, 2)
    if adaptive:
        start = np.zeros((2, 1))
        chosen = lq.adaptive_nodes(nodes, *lq.level_modes(family, rows, fixed, np.eye(1), phi, start))
    value = torch.logsumexp(lq.log_terms(family, lq.as_tensors(rows), torch.from_numpy(fixed), Lambda, chosen, phi), 1)
    value.sum().backward()
    assert value[0] < -1000  # whose exponential is zero
    assert np.isfinite(Lambda.grad.numpy()).all()
    exact = brute_force(family, rows, fixed, np.eye(1), phi)
    if adaptive:
        np.testing.assert_allclose(value.detach().numpy(), exact, atol=1e-3)
    shares = np.exp(lq.posterior(family, rows, fixed, np.eye(1), chosen, phi))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


def test_modes_are_found_from_far_away():
    family = read_family("poisson")
    rows = lq.Observed(np.array([5000.0, 0.0, 4000.0]), np.ones(3), np.ones((3, 1)), np.array([0, 1, 0]), 3)
    u, M = lq.level_modes(family, rows, np.zeros(3), np.array([[2.0]]), 1.0, np.full((3, 1), 300.0))
    score = 2.0 * (rows.sums(rows.y) - rows.sums(np.ones(3)) * np.exp(2.0 * u[:, 0]))
    np.testing.assert_allclose(score, u[:, 0], rtol=1e-6, atol=1e-9)
    assert u[2, 0] == 0.0  # a level without rows
    assert M[2, 0, 0] == 1.0


def network(n, rng, hidden=()):
    return NetTerm("nn(a)", "nn", rng.normal(size=(n, 1)), ("a",), (0,), {"hidden": hidden})


def trainer_for(text, adaptive, learn=None, variances=LogCholesky, k=31, batch=400):
    """A trainer at its start, a network without hidden layers in it, with all that the oracle needs."""
    family, rows, offset, phi = rows_of(text, [3, 8, 20, 5, 1], 1.0)
    rng, n = np.random.default_rng(3), len(offset)
    g = term("g", rows.codes, np.ones(n))
    net = network(n, rng)
    design = make_design(rows.y, np.ones((n, 1)), ["(Intercept)"], [g], rows.weights, offset, nets=[net])
    torch.manual_seed(0)
    module = build(specify(net))
    features = module.prepare(net.inputs)
    trainer = lq.QuadratureTrainer(
        [module], [features], rng.normal(size=(n, 1)), design, family, gauss_hermite(k), adaptive,
        variances(design.random), Training(batch_size=batch, epochs=1, weight_decay=0.0),
        np.arange(n) if learn is None else learn, np.array([0.4]), phi, 10, 0.01,
    )  # fmt: skip
    fixed = offset + module(features).detach().double().numpy() + trainer.X.numpy() @ [0.4]
    return trainer, family, rows, fixed, phi


@pytest.mark.parametrize("text", ["binomial", "Gamma(log)", "ordinal"])
def test_the_loss_and_its_gradient_are_those_of_the_integrals(text):
    trainer, family, rows, fixed, phi = trainer_for(text, adaptive=True)
    data = trainer._arranged(np.arange(len(fixed)))
    loss = trainer._loss_of(data, slice(0, len(fixed)))
    loss.backward()
    sd = trainer.sigma

    def exact(scale=0.0, shift=0.0, coordinate=0.0):
        Lambda = np.array([[sd * np.exp(scale)]])
        x = family.unconstrained(phi)
        x[-1:] += coordinate
        moved = fixed + shift * trainer.X.numpy()[:, 0]
        return -brute_force(family, rows, moved, Lambda, family.from_unconstrained(x)).sum()

    def slope(name, h=1e-3):
        return (exact(**{name: h}) - exact(**{name: -h})) / (2 * h)

    assert loss.item() == pytest.approx(exact(), abs=1e-6)
    assert trainer.psi.grad[1].item() == pytest.approx(slope("scale"), rel=1e-4, abs=1e-4)
    assert trainer.psi.grad[0].item() == 0.0  # there is no residual variance
    assert trainer.beta.grad[0].item() == pytest.approx(slope("shift"), rel=1e-4, abs=1e-4)
    if family.has_dispersion:
        assert trainer.coordinates.grad[-1].item() == pytest.approx(slope("coordinate"), rel=1e-4, abs=1e-4)


def test_held_out_rows_are_judged_given_the_rest_of_their_level():
    held = np.array([0, 5, 15, 36])  # the last is all of its level
    learn = np.setdiff1d(np.arange(37), held)
    trainer, family, rows, fixed, phi = trainer_for("binomial", adaptive=True, learn=learn)
    Lambda = np.array([[trainer.sigma]])
    without = brute_force(family, rows.take(learn), fixed[learn], Lambda, phi)
    expected = []
    for i in held:
        some = np.sort(np.append(learn, i))
        with_it = brute_force(family, rows.take(some), fixed[some], Lambda, phi)
        expected.append(without.sum() - with_it.sum())
    assert trainer.evaluate(held) == pytest.approx(np.mean(expected), abs=1e-6)


def test_fixed_nodes_take_parts_of_levels_for_levels():
    trainer, _, rows, fixed, _ = trainer_for("binomial", adaptive=False, variances=RawVariances, k=5, batch=10)
    assert trainer.sigma == 1.0
    z, w = np.polynomial.hermite.hermgauss(5)  # as eq. 38 has them
    total = 0.0
    for start in range(0, len(fixed), 10):
        part = slice(start, start + 10)
        for j in np.unique(rows.codes[part]):
            own = np.flatnonzero(rows.codes == j)
            own = own[(own >= start) & (own < start + 10)]
            eta = fixed[own][:, None] + np.sqrt(2.0) * z
            logs = rows.weights[own] @ (rows.y[own][:, None] * eta - np.logaddexp(0, eta))
            total -= np.log(np.exp(logs) @ w / np.sqrt(np.pi))
    assert trainer.evaluate(np.arange(len(fixed))) * len(fixed) == pytest.approx(total, abs=1e-8)


def test_batches_are_of_whole_levels():
    rng = np.random.default_rng(0)
    codes = np.append(rng.integers(0, 60, 1000), np.full(500, 60)).astype(np.int32)
    design = make_design(rng.normal(size=1500), np.ones((1500, 1)), ["a"], [term("g", codes, np.ones(1500))])
    training = Training(validation=0.2, holdout="levels", batch_size=120).sized(1500)
    orders = LevelOrders(design, np.arange(1500), training, 0)
    assert not set(codes[orders.check]) & set(codes[orders.learn])
    order = orders.epoch(1)
    assert sorted(order) == sorted(orders.learn)
    found = level_batches(codes[order], 120, 30)
    assert [part.start for part in found[1:]] == [part.stop for part in found[:-1]]
    seen = [set(codes[order[part]]) for part in found]
    small = [level for levels in seen for level in levels - {60}]
    assert len(small) == len(set(small))
    assert max(part.stop - part.start for part in found) < 120 + 30
    assert sum(60 in levels for levels in seen) > 5  # the large one comes in parts


def simulate(n=3000, q=100, variance=1.0, family="binomial", seed=0, slope=False):
    """Design with a network, the true f and the drawn effects."""
    rng = np.random.default_rng(seed)
    x, codes = rng.uniform(-2, 2, (n, 2)), np.append(np.arange(q), rng.integers(0, q, n - q)).astype(np.int32)
    f = 1.5 * np.sin(2 * x[:, 0]) + 0.5 * x[:, 0] * x[:, 1]
    b = variance**0.5 * rng.normal(size=(q, 1 + slope))
    columns = np.column_stack([np.ones(n), rng.uniform(-1, 1, n)])[:, : 1 + slope]
    chosen = read_family(family)
    y = responses(chosen, 0.3 + f + (columns * b[codes]).sum(axis=1), rng)
    g = RandomTerm("g", codes, np.arange(q).astype(str), columns, ("(Intercept)", "t")[: 1 + slope], label="(1 | g)")
    net = NetTerm("nn(x, z)", "nn", x, ("x", "z"), (0, 0), {"hidden": (16,)})
    design = make_design(y, np.ones((n, 1)), ["(Intercept)"], [g], nets=[net], generalized=True)
    return design, chosen, f, b


@pytest.fixture(scope="module")
def recovered():
    design, family, f, b = simulate()
    told = []
    control = Control(training=Training(epochs=30, folds=0, learning_rate=2e-2))
    return design, lmmnn_generalized.fit(design, family, 1, control, lambda *at: told.append(at)), f, b, told


def test_the_default_learns_f_and_the_variance(recovered):
    _, found, f, b, told = recovered
    assert np.corrcoef(f, found.networks.fitted)[0, 1] > 0.97
    assert found.theta[0] ** 2 == pytest.approx(np.mean(b**2), rel=0.15)
    assert found.beta[0] == pytest.approx(0.3 + f.mean() + b.mean(), abs=0.15)
    assert np.corrcoef(b[:, 0], found.b[0][:, 0])[0, 1] > 0.9
    assert (found.method, found.nAGQ, found.networks.criterion) == ("lmmnn", 9, "negative log-likelihood of a row")
    assert len(told) == len(found.networks.history["epoch"]) == 30
    best = found.networks.best_epoch[0]
    assert found.networks.history["validation"][best - 1] == min(found.networks.history["validation"])


def test_the_estimates_are_those_of_the_model_given_f(recovered):
    design, found, *_ = recovered
    given = dataclasses.replace(design, offset=found.networks.fitted)
    plain = pirls.fit(given, found.family, 9)
    np.testing.assert_allclose(found.theta, plain.theta, rtol=1e-6)
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-10)
    inputs = [net.inputs for net in design.nets]
    np.testing.assert_allclose(found.networks.values(inputs), found.networks.fitted, atol=1e-5)


def test_large_effects_are_not_understated():
    design, family, _, b = simulate(variance=10.0)
    control = Control(training=Training(epochs=20, folds=0, learning_rate=2e-2))
    found = lmmnn_generalized.fit(design, family, 1, control)
    assert found.theta[0] ** 2 == pytest.approx(np.mean(b**2), rel=0.25)
    assert found.networks.history["sigma"][-1] ** 2 == pytest.approx(np.mean(b**2), rel=0.35)


def test_counts_with_a_random_slope():
    design, family, f, b = simulate(1500, 60, 0.25, "poisson", slope=True)
    found = lmmnn_generalized.fit(design, family, 1, Control(training=Training(epochs=15, folds=0, learning_rate=2e-2)))
    assert np.corrcoef(f, found.networks.fitted)[0, 1] > 0.9
    assert found.b[0].shape == (60, 2)
    assert found.nAGQ == 5
    assert np.corrcoef(b[:, 1], found.b[0][:, 1])[0, 1] > 0.7


def test_ordered_classes_have_thresholds_and_no_intercept():
    design, _, f, _ = simulate(1500, 60, 0.5)
    family, rng = read_family("ordinal"), np.random.default_rng(1)
    eta = f + 0.7 * rng.normal(size=60)[design.random[0].codes] + 5.0
    y = np.digitize(eta + rng.logistic(size=1500), THRESHOLDS + 5.0).astype(float)
    design = dataclasses.replace(design, y=y, X=np.empty((1500, 0)), fixed_names=())
    found = lmmnn_generalized.fit(design, family, 1, Control(training=Training(epochs=20, folds=0, learning_rate=2e-2)))
    assert found.networks.fitted.mean() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(found.phi, THRESHOLDS - f.mean(), atol=0.35)
    assert np.corrcoef(f, found.networks.fitted)[0, 1] > 0.9


def test_folds_give_values_out_of_sample():
    design, family, *_ = simulate(400, 20)
    found = lmmnn_generalized.fit(design, family, 1, Control(training=Training(epochs=2, folds=2)))
    assert found.networks.out_of_fold
    assert len(found.networks.members) == 2


def test_the_seed_makes_it_repeatable():
    design, family, *_ = simulate(400, 20)

    def fitted(seed):
        training = Training(epochs=2, folds=0, seed=seed)
        return lmmnn_generalized.fit(design, family, 1, Control(training=training)).networks.fitted

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert np.abs(fitted(1) - fitted(2)).max() > 0


def test_interrupted_training_keeps_the_best(monkeypatch):
    design, family, *_ = simulate(400, 20)
    real, calls = lq.QuadratureTrainer.epoch, []

    def stops(self, order):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, order)

    whole = lmmnn_generalized.fit(design, family, 1, Control(training=QUICK))
    monkeypatch.setattr(lq.QuadratureTrainer, "epoch", stops)
    found = lmmnn_generalized.fit(design, family, 1, Control(training=QUICK))
    assert not found.convergence.converged
    assert "interrupted; these are the best networks so far" in found.convergence.message
    assert found.networks.history["validation"] == whole.networks.history["validation"][:3]
    assert found.networks.best_epoch[0] == 1 + int(np.argmin(found.networks.history["validation"]))


@pytest.mark.parametrize("last", [0, 2])
def test_interrupted_before_an_epoch_is_over(monkeypatch, last):
    """In the first fold there is nothing to return; in the second there are the networks of the first."""
    design, family, *_ = simulate(400, 20)
    real, calls = lq.QuadratureTrainer.epoch, []

    def stops(self, order):
        if len(calls) == last:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, order)

    monkeypatch.setattr(lq.QuadratureTrainer, "epoch", stops)
    control = Control(training=Training(epochs=2, folds=2))
    if not last:
        with pytest.raises(KeyboardInterrupt):
            lmmnn_generalized.fit(design, family, 1, control)
        return
    found = lmmnn_generalized.fit(design, family, 1, control)
    assert len(found.networks.members) == 1
    assert not found.convergence.converged


def test_an_effect_without_variance_stays_at_zero():
    design, family, *_ = simulate(400, 20)
    at = lmmnn_generalized.estimates_at_theta(design, family, np.array([1e-9]), 9, Control())
    means = lmmnn_generalized.with_posterior_means(design, at, 5)
    assert np.isfinite(at.objective)
    assert np.abs(means.b[0]).max() < 1e-8


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_faithful_keeps_the_trained_variance_and_posterior_means(family):
    design, chosen, _, b = simulate(1500, 50, 0.5, family)
    found = lmmnn_generalized.fit(design, chosen, 1, Control(training=Training(preset="faithful", epochs=6)))
    networks = found.networks
    assert networks.specs[0].options["dropout"] == 0.25
    assert networks.best_epoch[0] <= 6
    assert not networks.learned[0][np.argsort(design.random[0].codes, kind="stable")[-150:]].any()
    assert found.theta[0] == pytest.approx(networks.history["sigma"][-1], rel=1e-12)
    z, w = np.polynomial.hermite_e.hermegauss(5)
    fixed = found.beta[0] + networks.fitted
    for j in (0, 30):
        own = design.random[0].codes == j
        at = found.theta[0] * z
        logs = chosen.step(design.y[own][:, None], np.ones((1, 1)), fixed[own][:, None] + at, 1.0).loglik.sum(axis=0)
        shares = np.exp(logs - logs.max()) * w
        assert found.b[0][j, 0] == pytest.approx(shares @ at / shares.sum(), abs=1e-9)
    assert np.corrcoef(b[:, 0], found.b[0][:, 0])[0, 1] > 0.5


def test_faithful_beta_is_the_best_given_theta():
    design, family, *_ = simulate(400, 20)
    at = lmmnn_generalized.estimates_at_theta(design, family, np.array([0.8]), 9, Control())
    objective = pirls.devfun(design, family, 9)
    values = [objective(np.array([0.8]), at.beta + step) for step in (-0.01, 0.0, 0.01)]
    assert values[1] == pytest.approx(at.objective, abs=1e-8)
    assert values[1] < min(values[0], values[2])


def test_more_factors_are_refused():
    design, family, *_ = simulate(400, 20)
    rng = np.random.default_rng(0)
    other = dataclasses.replace(term("h", rng.integers(0, 5, 400), np.ones(400)), label="(1 | h)")
    both = dataclasses.replace(design, random=(*design.random, other))
    with pytest.raises(DesignError, match=r"one grouping factor.*\(1 \| g\) and \(1 \| h\).*'alternating'.*'mcem'"):
        lmmnn_generalized.fit(both, family)
    field = dataclasses.replace(design.random[0], covariance="gp", label="gp(a, b)", locations=rng.normal(size=(20, 2)))
    with pytest.raises(DesignError, match=r"gp\(a, b\): method 'lmmnn' takes no fields"):
        lmmnn_generalized.fit(dataclasses.replace(design, random=(field,)), family)


def test_many_columns_are_refused():
    design, family, *_ = simulate(400, 20, slope=True)
    with pytest.raises(DesignError, match=r"2 random effects in \(1 \| g\), but preset 'faithful'"):
        lmmnn_generalized.fit(design, family, 1, Control(training=Training(preset="faithful")))


@pytest.mark.parametrize("slope", [False, True])
def test_a_likelihood_that_is_not_finite_is_told(slope):
    design, family, *_ = simulate(400, 20, family="poisson", slope=slope)
    with pytest.raises(ValueError, match="not finite in epoch 1"):
        lmmnn_generalized.fit(design, family, 1, Control(training=Training(epochs=3, folds=0, learning_rate=1e30)))
