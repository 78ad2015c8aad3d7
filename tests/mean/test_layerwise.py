"""Derivatives by layers are those of one matrix."""

import numpy as np
import pytest
import torch

from pylmernn.mean.layerwise import layerwise
from pylmernn.mean.mlp import DEFAULTS, TabularNet
from pylmernn.mean.varying import VaryingNetwork, select


@pytest.mark.parametrize("normalization, selector", [("layer", ""), ("none", "layers.2"), ("none", "first")])
def test_products_against_the_matrix(normalization, selector):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    options = {**DEFAULTS, "hidden": (12, 7), "normalization": normalization}
    module = TabularNet([0, 0], options, np.zeros(2), np.ones(2)).double()
    network = VaryingNetwork(module, select(module, selector, "bar"))
    prepared = module.prepare(rng.normal(size=(50, 2))).double()
    codes = torch.from_numpy(rng.integers(0, 4, 50))
    eta = 0.3 * torch.from_numpy(rng.normal(size=(4, network.selected.size)))
    f, J = network.jacobian(prepared, eta, codes)
    found = layerwise(network, prepared, eta, codes)
    V, W = torch.from_numpy(rng.normal(size=(J.shape[1], 3))), torch.from_numpy(rng.normal(size=(50, 3)))
    np.testing.assert_allclose(found.values, f.detach(), rtol=1e-12)
    np.testing.assert_allclose(found.own, (J * eta[codes]).sum(1), rtol=1e-10)
    np.testing.assert_allclose(found @ V, J @ V, rtol=1e-10)
    np.testing.assert_allclose(found.transposed(W), J.T @ W, rtol=1e-10)
    np.testing.assert_allclose(found.squares(), (J**2).sum(1), rtol=1e-10)
    rows = torch.tensor([31, 9, 1])
    np.testing.assert_allclose(found.take(rows) @ V, J[rows] @ V, rtol=1e-10)


def test_values_by_groups_are_those_of_single_rows():
    rng = np.random.default_rng(1)
    module = TabularNet([0, 0], {**DEFAULTS, "hidden": (12, 7)}, np.zeros(2), np.ones(2))
    network = VaryingNetwork(module, select(module, "", "bar"))
    prepared, codes = module.prepare(rng.normal(size=(50, 2))), torch.from_numpy(rng.integers(-1, 3, 50))
    eta = torch.from_numpy(rng.normal(size=(3, network.selected.size)).astype(np.float32))
    padded = torch.cat([eta, torch.zeros(1, eta.shape[1])])  # code -1 is none
    single = network(prepared[:, None], padded[codes])[:, 0].detach()
    np.testing.assert_allclose(network.rows(prepared, eta, codes), single, rtol=1e-5, atol=1e-5)
