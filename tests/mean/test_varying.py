"""Networks whose parameters differ by group, against one network a group."""

import copy

import numpy as np
import pytest
import torch

from pylmernn.formula.design import DesignError, NetTerm
from pylmernn.mean.networks import build, specify
from pylmernn.mean.varying import VaryingNetwork, select


def network(levels=(0, 0), module=None, **options):
    """A network on two inputs, its parameters nothing special."""
    torch.manual_seed(1)
    inputs = np.random.default_rng(0).normal(size=(30, len(levels)))
    for j, q in enumerate(levels):
        inputs[:, j] = np.arange(30) % q if q else inputs[:, j]
    names = tuple(f"x{j + 1}" for j in range(len(levels)))
    term = NetTerm("nn(x1, x2)", "nn", inputs, names, levels, options, module=module)
    built = build(specify(term)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return built, built.prepare(inputs)


def one_by_one(module, selected, prepared, eta):
    """The oracle: a copy of the network a group."""
    out = []
    for rows, own in zip(prepared, eta, strict=True):
        copied = copy.deepcopy(module)
        parameters = dict(copied.named_parameters())
        with torch.no_grad():
            for name, change in selected.split(own).items():
                parameters[name] += change
        out.append(copied(rows).detach())
    return torch.stack(out)


class Gated(torch.nn.Module):
    """A module that is no chain of layers."""

    def __init__(self):
        super().__init__()
        self.gate, self.value = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        self.last = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.last(torch.sigmoid(self.gate(x)) * self.value(x))


CASES = [
    ({"hidden": (4, 3)}, ""),
    ({"hidden": (4, 3)}, "last"),
    ({"hidden": (4, 3)}, "first"),
    ({"hidden": (4,)}, "layers.0.bias"),
    ({"hidden": (4,)}, "layers.0"),
    ({"hidden": (4, 3), "normalization": "layer"}, ""),
    ({"hidden": (3,), "levels": (0, 4)}, ""),
    ({"hidden": (3,), "levels": (0, 4)}, "last"),
    ({"hidden": ()}, ""),
    ({"module": Gated}, ""),
    ({"module": Gated}, "gate.weight"),
]


@pytest.mark.parametrize("options, selector", CASES)
def test_all_groups_at_once_are_one_network_a_group(options, selector):
    module, prepared = network(**options)
    selected = select(module, selector, "(nn | g)")
    eta = 0.5 * torch.randn(5, selected.size)
    together = VaryingNetwork(module, selected)(prepared.reshape(5, 6, -1), eta)
    torch.testing.assert_close(
        together, one_by_one(module, selected, prepared.reshape(5, 6, -1), eta), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"hidden": (4, 3)}, {"module": Gated}])
def test_derivatives(options):
    module, prepared = network(**options)
    varying = VaryingNetwork(module.double(), select(module, "", "(nn | g)"))
    codes, eta = torch.arange(30) % 5, 0.1 * torch.randn(5, varying.selected.size, dtype=torch.float64)
    values, J = varying.jacobian(prepared.double(), eta, codes)
    torch.testing.assert_close(values, varying.rows(prepared.double(), eta, codes))
    for k in range(0, varying.selected.size, 5):
        step = torch.zeros_like(eta)
        step[:, k] = 1e-5
        above, below = (varying.rows(prepared.double(), eta + sign * step, codes) for sign in (1, -1))
        torch.testing.assert_close(J[:, k], (above - below) / 2e-5, rtol=1e-6, atol=1e-8)


def test_moving_theta_bar_is_moving_every_group():
    module, prepared = network(hidden=(4, 3))
    varying = VaryingNetwork(module, select(module, "last", "(nn | g)"))
    codes, eta = torch.arange(30) % 5, torch.randn(5, varying.selected.size)
    before, mean = varying.rows(prepared, eta, codes), eta.mean(0)
    start = varying.vector()
    varying.move(mean)
    torch.testing.assert_close(varying.rows(prepared, eta - mean, codes), before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(varying.vector(), start + mean)
    assert varying.rows(prepared, eta, torch.full((30,), -1)).tolist() == module(prepared).tolist()


def test_names_of_parameters():
    module, _ = network(hidden=(2,))
    labels = select(module, "", "(nn | g)", ("age", "height")).labels
    assert labels[:2] == ("layers.0.weight[1,age]", "layers.0.weight[1,height]")
    assert labels[4:] == (
        "layers.0.bias[1]",
        "layers.0.bias[2]",
        "layers.2.weight[1]",
        "layers.2.weight[2]",
        "layers.2.bias",
    )
    assert select(module, "last", "").linear
    assert not select(module, "", "").linear
    assert select(network(hidden=())[0], "", "").linear


def test_bad_selections():
    module, _ = network(hidden=(2,))
    with pytest.raises(DesignError, match=r"no parameter 'layers.9.weight' that is learned; it has layers.0.weight"):
        select(module, "layers.9.weight", "(nn | g)")
    with pytest.raises(DesignError, match="use normalization='layer'"):
        select(network(hidden=(2,), normalization="batch")[0], "", "(nn | g)")
