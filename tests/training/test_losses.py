"""Training with other losses than the squared error, and networks that return a number a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from pylmernn.formula.design import DesignError, NetTerm
from pylmernn.mean.networks import Networks, build, specify, weights_of
from pylmernn.training.loop import Trainer, evaluate
from pylmernn.training.options import Training

M, C = 96, 3
X = np.random.default_rng(0).normal(size=(M, 2))


def net(module=None, **options):
    """A network of two numbers; a linear one by default."""
    options = options if module is not None else {"hidden": (), "standardize": False, **options}
    return NetTerm("nn(a, b)", "nn", X, ("a", "b"), (0, 0), options, module=module)


def trainer_of(modules, loss, outputs=1, rows=None, weights=None, **settings):
    settings = {"epochs": 5, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0, **settings}
    features = [torch.tensor(X, dtype=torch.float32)] * len(modules)
    rows = np.arange(M) if rows is None else rows
    generator = torch.Generator().manual_seed(1)
    return Trainer(modules, features, rows, Training(**settings).sized(M), generator, weights, loss, outputs)


def linear(outputs=1, seed=0):
    torch.manual_seed(seed)
    return build(specify(net(), outputs=outputs))


def deviance(output, y, weights):
    return -2.0 * weights * (y * output - torch.nn.functional.softplus(output))


def cross_entropy(output, codes):
    return torch.nn.functional.cross_entropy(output, codes, reduction="none")


def plain_gradient(trainer):
    """The gradient that the last step of a trainer saw, of the weights of its first module."""
    return [p.grad.clone() for p in trainer.modules[0].parameters()]


def test_a_step_is_on_the_mean_loss_of_the_batch():
    """Loss and gradient of one batch of all rows, of a binomial deviance with weights of rows, beside NumPy."""
    rng = np.random.default_rng(2)
    y, w = rng.integers(0, 2, M).astype(float), rng.uniform(0.5, 2.0, M)
    module = linear()
    trainer = trainer_of([module], deviance, batch_size=M)
    eta = trainer.values()
    loss = trainer.epoch(*(torch.tensor(v, dtype=torch.float32) for v in (y, w)))
    assert loss == pytest.approx(np.mean(-2 * w * (y * eta - np.logaddexp(0, eta))), rel=1e-5)
    slope = -2 * w * (y - expit(eta)) / M
    weight, bias = plain_gradient(trainer)
    np.testing.assert_allclose(weight.numpy()[0], slope @ X, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(bias.numpy(), [slope.sum()], rtol=1e-4, atol=1e-7)


def test_prior_weights_count_by_their_mean():
    """As many rows of weight 3 as of weight 1 mean 1.5 and 0.5, whatever the loss."""
    prior = torch.tensor(np.where(np.arange(M) % 2, 3.0, 1.0), dtype=torch.float32)
    slopes = []
    for weights, scale in ((prior, 1.0), (None, prior / 2.0)):
        trainer = trainer_of([linear()], lambda output, s: s * output**2, batch_size=M, weights=weights)
        trainer.epoch(torch.ones(M) * scale)
        slopes.append(torch.cat([g.flatten() for g in plain_gradient(trainer)]))
    torch.testing.assert_close(slopes[0], slopes[1])


def test_targets_of_any_width_stay_with_their_rows():
    """Every row brings its own number; a loss that sees a row with another's would not be zero."""
    seen = []

    def loss(output, x, table):
        seen.append(x)
        assert table.shape[1:] == (4, 2)
        return (table[:, 1, 0] - x) ** 2 + 0.0 * output

    marks = torch.arange(M, dtype=torch.float32)
    table = torch.zeros(M, 4, 2)
    table[:, 1, 0] = marks
    rows = np.arange(0, M, 3)
    trainer = trainer_of([linear()], loss, rows=rows)
    assert trainer.epoch(marks, table) == 0.0
    assert sorted(torch.cat(seen).tolist()) == rows.tolist()
    assert torch.cat(seen).tolist() != rows.tolist()  # shuffled


def test_classes_are_learnt_from_several_outputs():
    rng = np.random.default_rng(3)
    B = np.array([[2.0, -1.0, -1.0], [0.0, 2.0, -2.0]])
    p = softmax(X @ B, axis=1)
    codes = torch.tensor([rng.choice(C, p=row) for row in p])
    module = linear(C)
    trainer = trainer_of([module], cross_entropy, C, epochs=200, batch_size=M, learning_rate=0.5)
    losses = [trainer.epoch(codes) for _ in range(200)]
    weight = module.state_dict()["mlp.layers.0.weight"].double().numpy().T
    values = trainer.values()
    assert values.shape == trainer.met.shape == (M, C)
    assert losses[-1] < 0.8 * losses[0]
    ours = softmax(values, axis=1)
    slope = X.T @ (ours - np.eye(C)[codes.numpy()]) / M  # zero where the likelihood is largest
    assert np.abs(slope).max() < 1e-3
    assert np.corrcoef((weight - weight.mean(axis=1, keepdims=True)).ravel(), B.ravel())[0, 1] > 0.95


def test_values_met_are_those_before_the_step():
    trainer = trainer_of([linear(C)], cross_entropy, C, batch_size=M, rows=np.arange(M - 6))
    before = trainer.values()
    trainer.epoch(torch.zeros(M, dtype=torch.int64))
    np.testing.assert_allclose(trainer.met[:-6].numpy(), before[:-6], rtol=1e-5, atol=1e-7)
    assert (trainer.met[-6:] == 0).all()
    np.testing.assert_array_equal(trainer.values(torch.tensor([7, 2])), trainer.values()[[7, 2]])


def test_networks_of_several_outputs_are_added_class_by_class(monkeypatch):
    modules = [linear(C, seed) for seed in (1, 2)]
    trainer = trainer_of(modules, cross_entropy, C)
    expected = np.zeros((M, C))
    for module in modules:
        weights = weights_of(module)
        expected += X @ weights["mlp.layers.0.weight"].T + weights["mlp.layers.0.bias"]
    np.testing.assert_allclose(trainer.values(), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("pylmernn.training.loop.CHUNK", 7)
    np.testing.assert_allclose(evaluate(modules, trainer.features, C), expected, rtol=1e-5, atol=1e-6)


def test_fitted_networks_have_a_shift_a_class():
    term = net(hidden=(4,))
    spec = specify(term, outputs=C)
    assert spec.outputs == C
    assert spec.n_parameters == 2 * 4 + 4 + 4 * C + C
    torch.manual_seed(4)
    modules = [build(spec), build(spec)]
    raw = np.mean([evaluate([m], [m.prepare(X)], C) for m in modules], axis=0)
    shift, members = (0.1, 0.2, -0.3), tuple((weights_of(m),) for m in modules)
    networks = Networks((spec,), members, 2.0, shift, 2 * raw - shift, {}, (1, 1), False)
    np.testing.assert_allclose(networks.values([X]), networks.fitted, atol=1e-6)
    spoiled = X.copy()
    spoiled[5, 1] = np.nan
    values = networks.values([spoiled])
    assert np.isnan(values[5]).all()
    np.testing.assert_array_equal(np.delete(values, 5, axis=0), np.delete(networks.values([X]), 5, axis=0))


class Returns(torch.nn.Module):
    """A linear layer whose output is changed."""

    def __init__(self, width, change=lambda out: out):
        super().__init__()
        self.layer, self.change = torch.nn.Linear(2, width), change

    def forward(self, x):
        return self.change(self.layer(x))


def test_modules_of_one_s_own_return_a_number_a_class():
    spec = specify(net(Returns(C)), outputs=C)
    module = build(spec)
    trainer = trainer_of([module], cross_entropy, C)
    first = trainer.epoch(torch.zeros(M, dtype=torch.int64))
    assert trainer.epoch(torch.zeros(M, dtype=torch.int64)) < first
    assert trainer.values().shape == (M, C)
    column = specify(net(Returns(1)))
    assert evaluate([build(column)], [build(column).prepare(X)]).shape == (M,)


@pytest.mark.parametrize(
    ("module", "outputs", "message"),
    [
        (Returns(1), C, rf"the network 'nn' returns shape \({M}, 1\) for {M} rows: .* a class, shape \({M}, {C}\)"),
        (Returns(C + 1), C, rf"shape \({M}, {C + 1}\) .* shape \({M}, {C}\)"),
        (Returns(C, lambda out: out.T), C, rf"shape \({C}, {M}\)"),
        (Returns(C, lambda out: out[:, 0]), C, rf"shape \({M},\)"),
        (Returns(C, lambda out: (out, out)), C, "the type tuple"),
        (Returns(C), 1, rf"shape \({M}, {C}\) .* one number a row, shape \({M},\)"),
        (Returns(C, lambda out: out / 0.0), C, rf"NaN or infinite values .*\({M} of {M} rows\)"),
    ],
)
def test_modules_that_return_something_else(module, outputs, message):
    with pytest.raises(DesignError, match=message):
        specify(net(module), outputs=outputs)
