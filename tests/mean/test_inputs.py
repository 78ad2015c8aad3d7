"""Inputs of networks: which columns belong together, how they are standardised, what a module receives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pylmernn.formula.design import DesignError, NetTerm
from pylmernn.mean.inputs import block_moments, blocks_of
from pylmernn.mean.modules import fresh
from pylmernn.mean.networks import build, specify, weights_of

RNG = np.random.default_rng(0)


class Mixed(nn.Module):
    """One argument an input: a number, a factor, arrays; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(11, 1)
        self.seen = None

    def forward(self, x, kind, s):
        self.seen = (x, kind, s)
        return self.head(torch.cat([x[:, None], self.embedding(kind), s.flatten(1)], dim=1))


def mixed_term(n=60, **options):
    """A number, a factor of 3 levels, arrays (4, 2), and the arrays."""
    arrays = RNG.normal(size=(n, 4, 2)) * [3.0, 0.1] + [10.0, 0.0]
    codes = np.resize([0.0, 1.0, 2.0], n)
    inputs = np.column_stack([np.arange(n), codes, arrays.reshape(n, 8)])
    names = ("x", "kind", *(f"s{j}" for j in range(1, 9)))
    term = NetTerm(
        "nn(x, kind, s)", "nn", inputs, names, (0, 3, *(0,) * 8), options, shapes=((), (), (4, 2)), module=Mixed
    )
    return term, codes, arrays


def test_what_forward_receives():
    term, codes, arrays = mixed_term()
    network = build(specify(term))
    assert network(network.prepare(term.inputs)).shape == (60,)
    x, kind, s = network.module.seen
    assert (x.dtype, kind.dtype, s.dtype) == (torch.float32, torch.int64, torch.float32)
    assert kind.tolist() == codes.tolist()
    assert float(x.mean()) == pytest.approx(0, abs=1e-6)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-6)
    expected = (arrays - arrays.mean(axis=(0, 1))) / arrays.std(axis=(0, 1))
    np.testing.assert_allclose(s.detach().numpy(), expected, atol=1e-5)


def test_numbers_come_in_one_tensor():
    given = []

    class Numbers(nn.Linear):
        def forward(self, x):
            given.append(x)
            return super().forward(x)

    inputs = RNG.normal(size=(30, 3)) + 5
    term = NetTerm("nn(a, b, c)", "nn", inputs, ("a", "b", "c"), (0, 0, 0), {}, module=lambda: Numbers(3, 1))
    specify(term)
    np.testing.assert_allclose(given[0].numpy(), (inputs - inputs.mean(0)) / inputs.std(0), atol=1e-6)


def test_raw_inputs():
    term, codes, arrays = mixed_term(standardize=False)
    network = build(specify(term))
    network(network.prepare(term.inputs))
    x, kind, s = network.module.seen
    assert x.tolist() == list(range(60))
    assert kind.tolist() == codes.tolist()
    np.testing.assert_array_equal(s.detach().numpy(), arrays.astype(np.float32))


def test_blocks_and_their_moments():
    inputs = RNG.normal(size=(50, 5)) * [1, 2, 3, 4, 1] + 7
    blocks = blocks_of(["v1", "v2", "v3", "x", "f"], [0, 0, 0, 0, 4], [(3,), (), ()])
    assert [(block.name, block.size, block.shape, block.levels) for block in blocks] == [
        ("v", 3, (3,), 0), ("x", 1, (), 0), ("f", 1, (), 4),
    ]  # fmt: skip
    centre, scale = block_moments(inputs, blocks)
    np.testing.assert_allclose(centre, [*[inputs[:, :3].mean()] * 3, inputs[:, 3].mean(), 0])
    np.testing.assert_allclose(scale, [*[inputs[:, :3].std()] * 3, inputs[:, 3].std(), 1])
    assert [block.name for block in blocks_of(["a", "b1"], [0, 2])] == ["a", "b1"]


def test_a_constant_input_has_scale_one():
    centre, scale = block_moments(np.full((9, 2), 3.0), blocks_of(["a", "b"], [0, 0]))
    assert centre.tolist() == [3, 3]
    assert scale.tolist() == [1, 1]


def test_lazy_layers_meet_their_inputs_before_training():
    term, _, _ = mixed_term()
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4), nn.ReLU(), nn.LazyLinear(1))
    arrays = NetTerm("nn(s)", "nn", term.inputs[:, 2:], term.input_names[2:], (0,) * 8, {}, ((4, 2),), lazy)
    spec = specify(arrays)
    assert spec.n_parameters == 8 * 4 + 4 + 2 * 4 + 4 + 1
    first = build(spec)
    again = build(spec, weights_of(first)).eval()
    x = again.prepare(arrays.inputs)
    torch.testing.assert_close(again(x), first.eval()(x))


def test_a_module_that_refuses_to_be_copied_is_named():
    with pytest.raises(DesignError, match=r"nets\['tower'\] cannot be copied: ValueError: .* uninitialized"):
        fresh(nn.LazyBatchNorm1d(), "tower")


def test_double_modules_become_single():
    assert fresh(nn.Linear(2, 1).double(), "tower").weight.dtype == torch.float32


def test_attention_starts_anew_too():
    given = nn.MultiheadAttention(4, 2)
    assert not torch.equal(fresh(given, "tower").in_proj_weight, given.in_proj_weight)


def test_one_row_may_come_back_without_an_axis():
    term, _, _ = mixed_term()

    class Squeezes(Mixed):
        def forward(self, x, kind, s):
            return super().forward(x, kind, s).squeeze()

    network = build(specify(NetTerm(**{**term.__dict__, "module": Squeezes})))
    assert network(network.prepare(term.inputs[:1])).shape == (1,)
