"""Method "alternating" for generalized models: its loss beside integrals, and fits of simulated data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from designs import term
from scipy.special import expit

from pylmernn.engines import alternating_generalized, generalizedpart, pirls
from pylmernn.engines.alternating_generalized import fit, new_members
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import held_out, settle, with_networks
from pylmernn.families import read_family
from pylmernn.formula.design import DesignError, NetTerm, make_design
from pylmernn.mean.networks import specify
from pylmernn.training.options import GENERALIZED_DECAY, Training

BINOMIAL = read_family("binomial")


def simulate(n=2000, levels=50, family="binomial", trials=None, seed=0, strength=1.5, crossed=False):
    """A design with ``f = strength sin(2 x)``, effects of standard deviation 0.8, and f (n,) and the effects."""
    rng = np.random.default_rng(seed)
    x, noise, t = rng.uniform(-2, 2, n), rng.normal(size=n), rng.normal(size=n)
    g, h = np.arange(n) % levels, rng.integers(0, 12, n)
    b = 0.8 * np.random.default_rng(9).normal(size=levels)
    f, weights, offset, classes = strength * np.sin(2 * x), None, None, ()
    eta = f + 0.5 * t + b[g]
    X, names, random = np.column_stack([np.ones(n), t]), ["(Intercept)", "t"], [term("g", g, np.ones(n))]
    if crossed:
        eta = eta + 0.6 * np.random.default_rng(8).normal(size=12)[h]
        random.append(term("h", h, np.ones(n)))
    if family == "poisson":
        offset = rng.uniform(0, 2.5, n) + 0.8 * noise  # of which f must know nothing
        y = rng.poisson(np.exp(0.5 * eta - 0.5 + offset)).astype(float)
        f = 0.5 * f
    elif family == "ordinal":
        y = np.digitize(eta + rng.logistic(size=n), [-1.0, 1.0]).astype(float)
        X, names, classes = X[:, 1:], names[1:], ("a", "b", "c")
    elif trials is None:
        y = (rng.uniform(size=n) < expit(eta)).astype(float)
    else:
        weights = rng.integers(1, trials + 1, n).astype(float)
        y = rng.binomial(weights.astype(int), expit(eta)) / weights
    nets = [NetTerm("nn(x, noise)", "nn", np.column_stack([x, noise]), ("x", "noise"), (0, 0), {"hidden": (16, 8)})]
    return make_design(y, X, names, random, weights, offset, nets=nets, generalized=True, classes=classes), f, b


def control(**settings):
    return Control(training=Training(**{"epochs": 3, "folds": 0, **settings}), device="cpu")


def members_of(design, family=BINOMIAL, **settings):
    specs = tuple(specify(net) for net in design.nets)
    training = settle(control(**settings).training, design, specs, GENERALIZED_DECAY)
    held = held_out(design, training)
    return new_members(design, family, control(**settings), training, specs, held), held


# ---- the loss


def posterior(design, part, f, level, rows):
    """A grid of effects of a level of the only factor, their posterior given rows, and log p of these rows."""
    u = np.linspace(-9, 9, 4001)
    eta = (part.fixed + f)[rows] + part.sigma * u[:, None]
    y, w = design.y[rows], design.weights[rows]
    logs = (w * (y * eta - np.logaddexp(0, eta))).sum(axis=1) - 0.5 * u**2
    p = np.exp(logs - logs.max())
    integral = logs.max() + np.log(p.sum() * (u[1] - u[0]) / np.sqrt(2 * np.pi))
    return part.sigma * u, p / p.sum(), integral


@pytest.fixture
def many_nodes(monkeypatch):
    monkeypatch.setattr(generalizedpart, "TRAINING_NODES", {1: 41})


def test_the_loss_is_the_expected_deviance_and_its_gradient_that_of_the_likelihood(many_nodes):
    """Beside NumPy on a grid, for binomial counts; Fisher's identity by differences of the marginal likelihood."""
    design, f, _ = simulate(n=240, levels=20, trials=4)
    (member,), _ = members_of(design)
    member.part.update(f)
    part, rows = member.part, member.rows
    output = torch.tensor(f, requires_grad=True)
    values = torch.tensor(part.fixed[:, None] + part.nodes.values)
    losses = member.loss(
        output, torch.tensor(design.y), torch.tensor(design.weights), values, torch.tensor(part.nodes.weights)
    )
    losses.sum().backward()
    codes = design.random[0].codes
    expected = np.empty(design.n)
    for level in range(20):
        mine = np.flatnonzero(codes == level)
        b, p, _ = posterior(design, part, f, level, np.intersect1d(mine, rows))
        eta = (part.fixed + f)[mine, None] + b
        expected[mine] = -2 * ((design.weights * design.y)[mine, None] * eta) @ p
        expected[mine] += 2 * (design.weights[mine, None] * np.logaddexp(0, eta)) @ p
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-6)

    def objective(i, by):
        moved = f.copy()
        moved[i] += by
        return -2 * posterior(design, part, moved, codes[i], np.intersect1d(np.flatnonzero(codes == codes[i]), rows))[2]

    for i in rows[::17]:
        slope = (objective(i, 1e-4) - objective(i, -1e-4)) / 2e-4
        assert output.grad[i].item() == pytest.approx(slope, abs=1e-6)


def test_held_out_loss_is_the_predictive_density(many_nodes):
    """Of rows of learnt levels under their posterior, of whole levels left out under the prior."""
    design, f, _ = simulate(n=600, levels=30, trials=4)
    (member,), held = members_of(design, validation=0.3)
    member.f = f
    member.part.update(f)
    for whole in (False, True):
        rows = np.flatnonzero((held.member == 0) & (held.whole == whole))
        assert len(rows) > 10
        total = 0.0
        for i in rows:
            level = design.random[0].codes[i]
            known = np.intersect1d(np.flatnonzero(design.random[0].codes == level), member.rows)
            assert (len(known) == 0) == whole
            b, p, _ = posterior(design, member.part, f, level, known)
            eta = (member.part.fixed + f)[i] + b
            y, w = design.y[i], design.weights[i]
            density = BINOMIAL.step(np.full(len(b), y), np.full(len(b), w), eta, 1.0).loglik
            total -= 2 * np.log(np.exp(density) @ p)
        loss, weight = member.held_out_loss(rows)
        assert loss == pytest.approx(total, rel=1e-7)
        assert weight == design.weights[rows].sum()
    assert member.held_out_loss(rows[:0]) == (0.0, 0.0)


def test_the_random_part_comes_in_over_the_first_half_of_the_epochs(monkeypatch):
    (member,), _ = members_of(simulate(n=300)[0], epochs=8)
    seen = []
    real = member.trainer.epoch

    def epoch(y, weights, values, shares):
        spread = (values.double().numpy() - member.part.fixed[:, None]) / np.where(
            abs(member.part.nodes.values) > 1e-3, member.part.nodes.values, np.nan
        )
        seen.append(np.nanmedian(spread))
        return real(y, weights, values, shares)

    monkeypatch.setattr(member.trainer, "epoch", epoch)
    for number in range(1, 9):
        member.epoch(number)
    np.testing.assert_allclose(seen, np.minimum(1.0, np.arange(8) / (8 * alternating_generalized.RISE)), atol=1e-3)


# ---- whole fits


@pytest.fixture(scope="module")
def fitted():
    design, f, b = simulate()
    return design, f, b, fit(design, BINOMIAL, control=control(epochs=30, folds=3, learning_rate=1e-2))


def test_a_simulation_is_found_again(fitted):
    """f out of fold to a correlation of 0.95, sigma to 10% and the coefficient of t to one standard error."""
    design, f, b, found = fitted
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.95
    assert np.std(found.networks.fitted) == pytest.approx(np.std(f), rel=0.15)
    known = pirls.fit(dataclasses.replace(design, offset=f, nets=()), BINOMIAL, 9)
    assert found.theta[0] == pytest.approx(known.theta[0], rel=0.1)
    assert found.beta[1] == pytest.approx(known.beta[1], abs=np.sqrt(known.unscaled_vcov[1, 1]))
    assert np.corrcoef(found.b[0][:, 0], b)[0, 1] > 0.9
    assert found.method == "alternating"
    assert found.networks.criterion == "mean deviance"
    assert found.convergence.converged


def test_it_predicts_new_rows_better_than_a_linear_model(fitted):
    design, _, _, found = fitted
    new, f_new, _ = simulate(seed=5)
    linear = dataclasses.replace(design, X=np.column_stack([design.X, design.nets[0].inputs]), nets=())
    straight = pirls.fit(linear, BINOMIAL, 9)
    codes, inputs = new.random[0].codes, new.nets[0].inputs
    networks = new.X @ found.beta + found.networks.values([inputs]) + found.b[0][codes, 0]
    lines = np.column_stack([new.X, inputs]) @ straight.beta + straight.b[0][codes, 0]

    def deviance(eta):
        return -2 * np.mean(new.y * eta - np.logaddexp(0, eta))

    truth = deviance(f_new + 0.5 * new.X[:, 1] + simulate()[2][codes])
    assert deviance(networks) < deviance(lines) - 0.1
    assert deviance(networks) - truth < 0.2 * (deviance(lines) - truth)


def test_what_is_left_is_the_model_given_the_network(fitted):
    design, _, _, found = fitted
    assert found.nAGQ == 9
    given = dataclasses.replace(with_networks(design, found.networks.fitted), nets=())
    again = pirls.fit(given, BINOMIAL, 9)
    assert found.objective == pytest.approx(again.objective, abs=1e-8)
    np.testing.assert_allclose(found.theta, again.theta, atol=1e-6)
    eta = design.X @ found.beta + found.networks.fitted + found.b[0][design.random[0].codes, 0]
    np.testing.assert_allclose(found.eta, eta, atol=1e-6)


def test_cross_fitting_gives_values_out_of_fold(fitted):
    design, _, _, found = fitted
    networks = found.networks
    assert networks.out_of_fold
    np.testing.assert_array_equal(networks.learned.sum(axis=0), 2)
    assert abs(networks.fitted.mean()) < 1e-12
    alone = fit(design, BINOMIAL, control=control()).networks
    assert not alone.out_of_fold
    np.testing.assert_allclose(alone.values([design.nets[0].inputs]), alone.fitted, atol=1e-6)


def test_a_member_knows_nothing_of_the_rows_it_predicts():
    design, _, _ = simulate(n=500)
    settings = {"folds": 3, "validation": 0.0, "epochs": 2}
    _, held = members_of(design, **settings)
    mine, y = np.flatnonzero(held.member == 0), design.y.copy()
    y[mine] = 1.0 - y[mine]
    one, other = (
        fit(at, BINOMIAL, control=control(**settings)).networks for at in (design, dataclasses.replace(design, y=y))
    )
    for member, same in ((0, True), (1, False)):
        weights = [networks.members[member][0]["mlp.layers.0.weight"] for networks in (one, other)]
        assert (np.abs(weights[0] - weights[1]).max() < 1e-6) == same


def test_seeds_repeat_a_fit():
    design, _, _ = simulate(n=400)
    one, same, other = (fit(design, BINOMIAL, control=control(seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.networks.fitted, same.networks.fitted)
    np.testing.assert_array_equal(one.theta, same.theta)
    assert np.abs(one.networks.fitted - other.networks.fitted).max() > 1e-3


def test_an_interruption_keeps_the_best_epoch_so_far():
    design, _, _ = simulate(n=400)
    told = []

    def callback(epoch, criterion):
        told.append(criterion)
        if epoch == 3:
            raise KeyboardInterrupt

    found = fit(design, BINOMIAL, control=control(epochs=30, folds=2), callback=callback)
    assert len(told) == 3
    assert found.networks.best_epoch == (1 + int(np.argmin(told)),) * 2
    assert found.networks.history["epoch"] == [1.0, 2.0, 3.0] * 2
    assert not found.convergence.converged
    assert found.convergence.message.startswith("training was interrupted")
    assert np.isfinite(found.objective)


def test_values_that_are_not_finite_are_told():
    design, _, _ = simulate(n=300)
    with pytest.raises(ValueError, match="not finite in epoch 1: scale the inputs, or lower the learning rate"):
        fit(design, BINOMIAL, control=control(learning_rate=1e30, schedule="constant"))


def test_counts_of_trials_are_trials():
    """Given the same f, one row a trial has the same estimates; weights are not scaled away."""
    design, f, _ = simulate(n=500, trials=6)
    found = fit(design, BINOMIAL, control=control(epochs=25, learning_rate=1e-2))
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.95
    count = design.weights.astype(int)
    rows = np.repeat(np.arange(design.n), count)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    y = (place < np.round(design.y * count)[rows]).astype(float)
    single = make_design(
        y, design.X[rows], design.fixed_names, [term("g", design.random[0].codes[rows], np.ones(len(rows)))],
        offset=found.networks.fitted[rows], generalized=True,
    )  # fmt: skip
    trials = pirls.fit(single, BINOMIAL, 9)
    np.testing.assert_allclose(found.theta, trials.theta, atol=1e-5)
    np.testing.assert_allclose(found.beta, trials.beta, atol=1e-5)


def test_an_offset_is_known_and_not_learnt():
    """Counts with exposures: f does not know them, and a constant in the offset is the intercept's alone."""
    design, f, _ = simulate(n=1000, family="poisson")
    poisson = read_family("poisson")
    settings = control(epochs=25, learning_rate=1e-2)
    found = fit(design, poisson, control=settings)
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.97
    np.testing.assert_allclose(
        found.eta - found.networks.fitted - design.X @ found.beta - found.b[0][design.random[0].codes, 0],
        design.offset,
        atol=1e-6,
    )
    ignored = fit(dataclasses.replace(design, offset=None), poisson, control=settings)
    assert np.corrcoef(ignored.networks.fitted, f)[0, 1] < 0.9
    moved = fit(dataclasses.replace(design, offset=design.offset + np.log(10.0)), poisson, control=settings)
    np.testing.assert_allclose(moved.networks.fitted, found.networks.fitted, atol=0.01)
    np.testing.assert_allclose(moved.beta, found.beta - [np.log(10.0), 0.0], atol=0.01)


def test_ordered_classes():
    """f is centred, since thresholds make up for a constant; they are those of the model with f known."""
    design, f, _ = simulate(family="ordinal")
    family = read_family("ordinal")
    found = fit(design, family, control=control(epochs=25, folds=2, learning_rate=1e-2))
    assert abs(found.networks.fitted.mean()) < 1e-12
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.95
    known = pirls.fit(dataclasses.replace(design, offset=f - f.mean(), nets=()), family, 9)
    np.testing.assert_allclose(found.phi, known.phi, atol=0.1)
    np.testing.assert_allclose(found.theta, known.theta, rtol=0.1)
    given = dataclasses.replace(with_networks(design, found.networks.fitted), nets=())
    np.testing.assert_allclose(pirls.fit(given, family, 9).phi, found.phi, atol=1e-5)


def test_folds_share_constant_and_trends():
    """Thresholds stand for a constant in each fold: beside f of its own member, a row has the mean ones of all."""
    design, _, _ = simulate(n=400, family="ordinal")
    networks = fit(design, read_family("ordinal"), control=control(folds=3)).networks
    inputs = [design.nets[0].inputs]
    values = np.array([dataclasses.replace(networks, members=(one,)).values(inputs) for one in networks.members])
    assert np.ptp(values.mean(axis=1)) > 1e-3
    A = np.column_stack([np.ones(design.n), design.X])
    trends = np.linalg.lstsq(A, values.T, rcond=None)[0]
    values -= (A @ (trends - trends.mean(axis=1, keepdims=True))).T
    own = np.argmin(networks.learned, axis=0)
    f = values[own, np.arange(design.n)]
    np.testing.assert_allclose(networks.fitted, f - f.mean(), atol=1e-6)


def test_crossed_factors():
    design, f, _ = simulate(crossed=True, seed=1)
    found = fit(design, BINOMIAL, control=control(epochs=25, learning_rate=1e-2))
    assert found.nAGQ == 1
    assert np.corrcoef(found.networks.fitted, f)[0, 1] > 0.95
    known = pirls.fit(dataclasses.replace(design, offset=f, nets=()), BINOMIAL)
    np.testing.assert_allclose(found.theta, known.theta, rtol=0.15)


def test_one_value_of_the_response_in_the_rows_learnt_from():
    design, _, _ = simulate(n=300)
    y = np.zeros(300)
    y[np.flatnonzero(members_of(design)[1].member == 0)[0]] = 1.0
    with pytest.raises(DesignError, match="'y' has one value in the rows that networks learn from: set folds=0"):
        fit(dataclasses.replace(design, y=y), BINOMIAL, control=control())
