"""Cross-fitting of networks that vary by group: members side by side, one network from them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import pylmernn
from pylmernn.engines import nme, nme_crossfit, nme_deep, nme_distil, nme_members
from pylmernn.engines.control import Control
from pylmernn.engines.nme_model import HeldOut, VaryingModel
from pylmernn.engines.nme_posterior import Groups, posterior
from pylmernn.formula import build
from pylmernn.mean import networks
from pylmernn.training.options import Training

LAST, ALL = "y ~ nn(x, z, hidden=c(6, 4)) + (nn.last | g)", "y ~ nn(x, z, hidden=c(6, 4)) + (nn | g)"


@pytest.fixture(autouse=True)
def _short(request, monkeypatch):
    if request.node.name != "test_one_network_learns_functions":
        monkeypatch.setattr(nme_distil, "STEPS", 300)


def curves(seed, groups=30, per_group=6, apart=0.5):
    """Waves of other heights by group, which differ by a factor z, too."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), per_group)
    x, z = rng.uniform(-2, 2, len(g)), rng.integers(0, 3, len(g))
    f = (1 + apart * rng.normal(size=groups))[g] * np.sin(1.5 * x) + 0.5 * z
    return pd.DataFrame({"y": f + 0.3 * rng.normal(size=len(g)), "x": x, "z": pd.Categorical(z), "g": g, "f": f})


def control(epochs=10, **more):
    return Control(training=Training(epochs=epochs, **more))


def members_of(formula=LAST, data=None, epochs=5, **more):
    design, _ = build(formula, curves(1) if data is None else data)
    return nme_members.Members(VaryingModel(design, control(epochs, **more)))


@pytest.mark.parametrize(
    "options", ["hidden=c(6, 4)", "hidden=c(5), normalization='layer'", "hidden=c(6, 4), dropout=0.2"]
)
def test_stacked_networks_are_the_networks(options):
    design, _ = build(f"y ~ nn(x, z, {options}) + (nn.last | g)", curves(0))
    spec = networks.specify(design.nets[0])
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        nets.append(networks.build(spec).eval())
    stacked = nme_members.StackedNets(nets)
    stacked.train(False)
    inputs = torch.stack([net.prepare(design.nets[0].inputs[k : k + 20]) for k, net in enumerate(nets)])
    found = torch.einsum("kmd,kd->km", stacked.features(inputs), stacked.weights[:, :-1]) + stacked.weights[:, -1:]
    for k, net in enumerate(nets):
        torch.testing.assert_close(found[k], net(inputs[k]))
    assert sum(len(group["params"]) for group in stacked.groups(0.1)) == len(stacked.parameters)


def test_each_member_has_the_posterior_of_its_own_rows(monkeypatch):
    monkeypatch.setattr(nme_members, "EM_STEPS", 1)
    members = members_of()
    members.epoch(1)
    before, weights = dataclasses.replace(members.random), members.nets.weights.detach().double().clone()
    members.solve()
    model = members.model
    for k, rows in enumerate(members.rows):
        J = members.J[k, rows]
        rest = model.y[rows] - model.X[rows] @ before.beta[k] - J @ weights[k]
        groups = Groups(model.term.codes[rows.numpy()], model.term.n_levels, members.width)
        found = posterior(J, rest, before.factor[k], float(before.sigma2[k]), groups)
        own = members.known[k]
        centred = found.effects - found.effects[own].mean(0)
        torch.testing.assert_close(members.random.eta[k][own], centred[own], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(members.random.factor[k] @ members.random.factor[k].T, found.second)
        assert float(members.random.sigma2[k]) == pytest.approx(found.squares / len(rows), rel=1e-8)
        assert (members.random.eta[k][~own] == 0).all()


def test_rows_held_out_are_never_learnt_from():
    """Their responses change nothing of the member."""
    data = curves(2)
    found = []
    for shift in (0.0, 100.0):
        design, _ = build(LAST, data)
        members = nme_members.Members(VaryingModel(design, control(3)))
        members.model.y = members.model.y + shift * torch.from_numpy(members.held.member == 0)
        for number in (1, 2):
            members.epoch(number)
        found.append((members.nets.state(), members.random.eta[0]))
    for name, weights in found[0][0].items():
        torch.testing.assert_close(weights[0], found[1][0][name][0], rtol=0, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_principal_functions_make_up_the_deviations():
    members = members_of(epochs=3)
    for number in (1, 2, 3):
        members.epoch(number)
    members.known[:] = True
    one = members.random.eta[0]
    members.random.eta = one.expand(members.count, -1, -1)
    members.J = members.J[:1].expand(members.count, -1, -1)  # members that agree
    found = nme_crossfit.functions(members)
    deviations = members.J[0] @ one.T
    columns = members.J[0] @ found.principal[0]
    left = deviations - columns @ torch.linalg.lstsq(columns, deviations).solution
    assert left.norm() < 1e-2 * deviations.norm()
    sizes = columns.norm(dim=0)
    assert (sizes[:-1] >= sizes[1:]).all()
    members.random.eta = torch.zeros_like(one).expand(members.count, -1, -1)
    assert nme_crossfit.functions(members).principal.shape[2] == 0


def test_generic_members_vary_by_a_constant_alone():
    design, _ = build(LAST, curves(1))
    members = nme_members.Members(VaryingModel(design, control(4)), generic=True)
    for number in range(1, 5):
        members.epoch(number)
    eta = members.random.eta
    assert (eta[:, :, :-1].abs() < 1e-12).all()
    assert (eta[:, :, -1][members.known] != 0).all()


def test_the_mean_is_of_generic_members_unless_groups_plainly_differ(monkeypatch):
    made = []

    class Counted(nme_members.Members):
        def __init__(self, model, generic=False):
            made.append(generic)
            super().__init__(model, generic)

    monkeypatch.setattr(nme, "Members", Counted)
    monkeypatch.setattr(nme_crossfit, "MOST", 1)
    alike = pylmernn.lmernn(LAST, curves(3, 30, 10, apart=0.0), control=control(30))
    assert made == [False, True]
    assert (alike.estimates.factor[:-1] == 0).all()  # a constant of each group
    assert (alike.estimates.effects[:, :-1] == 0).all()
    made.clear()
    apart = pylmernn.lmernn(LAST, curves(3, 30, 10, apart=1.0), control=control(20))
    assert made == [False]
    assert (apart.estimates.factor[:-1] != 0).any()


def test_variances_that_are_given_stay():
    """The mean of generic members beside functions of others: coefficients by generalised least squares."""
    design, _ = build(LAST, curves(4))
    model = VaryingModel(design, control(5))
    members, generic = nme_members.Members(model), nme_members.Members(model, generic=True)
    for number in range(1, 6):
        members.epoch(number)
        generic.epoch(number)
    found = dataclasses.replace(nme_crossfit.functions(members), of_mean=generic)
    solver = nme_crossfit.LinearSolver(True, Control())
    choice = nme_crossfit.chosen(model, found, solver)
    again, losses = nme_crossfit.solved_again(found, choice, solver)
    k, rows = 2, generic.rows[2].numpy()
    A = (members.J[k] @ found.principal[k][:, : choice.rank]).numpy()
    A = A if choice.rank else np.ones((design.n, 1))
    L = choice.estimates.sigma * nme_crossfit.structure("us").Lambda(choice.estimates.theta, A.shape[1])
    codes = model.term.codes
    V = (A @ L @ L.T @ A.T) * (codes[:, None] == codes) + choice.estimates.sigma**2 * np.eye(design.n)
    X = np.column_stack([design.X, generic.J[k].numpy()])
    W = np.linalg.inv(V[np.ix_(rows, rows)])
    beta = np.linalg.lstsq(X[rows].T @ W @ X[rows], X[rows].T @ W @ design.y[rows], rcond=1e-10)[0]
    held = np.flatnonzero(generic.held.member == k)
    predicted = X[held] @ beta + V[np.ix_(held, rows)] @ W @ (design.y - X @ beta)[rows]
    np.testing.assert_allclose(losses[held], (design.y[held] - predicted) ** 2, rtol=1e-3, atol=1e-3)
    assert again.mean.shape == found.mean.shape


def test_one_network_learns_functions():
    design, _ = build("y ~ nn(x, z, hidden=c(12, 8)) + (nn.last | g)", curves(3))
    model = VaryingModel(design, control())

    def wanted(prepared):
        x = prepared[:, 0].double()
        return torch.stack([torch.sin(1.5 * x) + 0.2 * prepared[:, 1], x], dim=1)

    found = nme_distil.distil(model, model.network.module.state_dict(), wanted)
    assert found.shape == (2, 9)
    with torch.no_grad():
        H = nme_distil.trunk(model.network.module, model.prepared).double()
    target = wanted(model.prepared)
    errors = torch.cat([H, torch.ones(len(H), 1).double()], dim=1) @ found.T - target
    assert (errors.var(0) < 0.02 * target.var(0)).all()


def test_effects_are_those_of_the_mixed_model_given_the_network():
    data = curves(4)
    fit = pylmernn.lmernn(LAST, data, control=control(20))
    e = fit.estimates
    H = np.column_stack([fit.predict(data.assign(g=level)) for level in (0, 1)])
    assert np.isfinite(H).all()
    np.testing.assert_allclose(fit.predict(data), fit.fitted(), rtol=1e-4, atol=1e-4)
    generic = fit.predict(data, re_form="NA").to_numpy()
    module = networks.build(e.networks.specs[0], e.networks.members[0][0]).eval()
    with torch.no_grad():
        features = nme_distil.trunk(module, module.prepare(fit.design.nets[0].inputs)).double().numpy()
    J = np.column_stack([features, np.ones(len(data))])
    Sigma = e.factor @ e.factor.T
    for i in range(30):
        own = (data.g == i).to_numpy()
        V = J[own] @ Sigma @ J[own].T + e.sigma**2 * np.eye(own.sum())
        eta = Sigma @ J[own].T @ np.linalg.solve(V, (data.y - generic)[own])
        np.testing.assert_allclose(e.effects[i], eta, rtol=1e-3, atol=1e-4)
    assert e.networks.learned.all()


def test_sigma_is_not_what_is_left_of_rows_learnt_from():
    data = curves(5, 30, 4, apart=0.0)
    formula = "y ~ nn(x, z, hidden=c(30, 10)) + (nn.last | g)"
    fits = [pylmernn.lmernn(formula, data, control=control(60, folds=folds, weight_decay=0.001)) for folds in (0, 5)]
    errors = [np.sqrt(0.3**2 + np.mean((fit.predict(data) - data.f) ** 2)) for fit in fits]
    assert fits[0].sigma() < errors[0]  # the error of a single network at its own rows
    assert fits[1].sigma() > errors[1] * 0.95  # it may hold the error of one member


def test_an_earlier_epoch_is_taken_only_beyond_noise():
    members = members_of()
    members.epoch(1)
    members.criterion()
    early = members.state()
    members.epoch(2)
    members.criterion()
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=members.model.design.n))
    for gain, goes_back in ((0.5, True), (0.0, False)):
        members.squares = early.squares + gain + noise - noise.mean()
        assert members.restore(early, finished=True) == goes_back
    members.squares = early.squares - 1.0
    assert members.restore(early, finished=False)
    torch.testing.assert_close(
        members.nets.weights[0],
        early.weights["mlp.layers.4.weight"][0, 0].new_tensor(
            [*early.weights["mlp.layers.4.weight"][0, 0].tolist(), float(early.weights["mlp.layers.4.bias"][0, 0])]
        ),
    )


def test_all_of_a_network_varies_only_where_rows_say_so(monkeypatch):
    data = curves(6)
    last = pylmernn.lmernn(LAST, data, control=control(6))
    found = {}
    for better in (False, True):
        said = HeldOut(20, 1.0, 1.0 - better, 0.1, "all" if better else "last")
        monkeypatch.setattr(nme_deep, "judged", lambda *_, said=said: (said, 1.5))
        found[better] = pylmernn.lmernn(ALL, data, control=control(6))
    np.testing.assert_allclose(found[False].predict(data), last.predict(data), rtol=1e-4, atol=1e-4)
    assert found[False].sigma() == pytest.approx(last.sigma(), rel=1e-6)
    above = [label.startswith("layers.4") for label in found[False].ranef()["g"].columns]
    assert (found[False].ranef()["g"].loc[:, ~np.array(above)] == 0).all(axis=None)
    assert (found[True].ranef()["g"].loc[:, ~np.array(above)] != 0).any(axis=None)


def test_held_out_rows_judge():
    data = curves(7, 40, 12)
    design, _ = build(ALL, data)
    model = VaryingModel(design, control(5))
    members = nme_members.Members(nme_deep.last_model(model, lambda own: VaryingModel(own, control(5))))
    for number in range(1, 6):
        model.epoch(number)
    held = torch.from_numpy(np.flatnonzero((model.held.member == 0) & ~model.held.whole))
    squares = (model.y[held] - model.X[held] @ model.beta - model.values(held, model.eta)) ** 2
    for shift, better in ((1.0, True), (-1.0, False)):
        members.settled_squares[held] = squares + shift
        found, inflation = nme_deep.judged(model, members, held)
        assert (found.kept == "all") == better
        assert found.rows == len(held)
        assert found.last - found.all == pytest.approx(shift)
        assert 1.0 <= inflation <= float((squares / model.sigma2).mean()) + 1.0
    few, inflation = nme_deep.judged(model, members, held[:5])
    assert few.kept == "last"
    assert inflation == 1.0


@pytest.mark.parametrize(
    "bar, folds, offered",
    [("nn.last", None, True), ("nn.last", 0, False), ("nn.last", 3, True), ("nn.first", None, False)],
)
def test_where_it_is_done(bar, folds, offered):
    design, _ = build(f"y ~ nn(x, hidden=c(4)) + ({bar} | g)", curves(8))
    found = nme.fit(design, control=control(3, folds=folds))
    assert bool(found.networks.learned.all()) == offered


def test_prior_weights_and_offsets():
    data = curves(9).assign(w=2.0, o=1.0)
    plain = pylmernn.lmernn(LAST, data, control=control(4))
    moved = pylmernn.lmernn(LAST, data.assign(y=data.y + 1.0), offset=np.ones(len(data)), control=control(4))
    np.testing.assert_allclose(moved.fitted() - 1.0, plain.fitted(), rtol=1e-3, atol=1e-3)
    doubled = pylmernn.lmernn(LAST, data, weights="w", control=control(4))
    np.testing.assert_allclose(doubled.fitted(), plain.fitted(), rtol=0.02, atol=0.05)  # training rounds otherwise
    assert doubled.sigma() == pytest.approx(2**0.5 * plain.sigma(), rel=0.02)
