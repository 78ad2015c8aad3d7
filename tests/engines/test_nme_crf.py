"""Sequence models: gradients, curvatures and modes beside brute force."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sequence_examples import brute_force, dyads

from pylmernn.engines import nme_crf
from pylmernn.engines.control import Control
from pylmernn.engines.nme_crf_model import (
    GroupPosterior,
    curvatures,
    gradients,
    is_diagonal,
    newton_step,
    next_factor,
    tails,
)
from pylmernn.formula import build
from pylmernn.formula.sequences import read_sequences
from pylmernn.training.options import Training


def training(bars, data, **more):
    design, _ = build(f"state ~ nn(x1, x2, hidden=c(2)) + {bars}", data, family="crf")
    sequences = read_sequences(data, "sequence", "t")
    control = Control(training=Training(epochs=2, **more))
    return nme_crf.SequenceTraining(design, sequences, control)


def log_likelihood_of(fit, group, v):
    """Of the sequences of a group given its deviations (D,), network and paths written out."""
    layers = fit.model.network.mlp.layers
    names = dict(fit.model.network.named_parameters())
    parts = fit.model.selected.split(v[: fit.model.sizes[0]]) if fit.model.selected else {}
    own = {name.removeprefix("mlp."): value + parts.get(name, 0.0) for name, value in names.items()}
    moves = fit.model.transitions + v[fit.model.sizes[0] :].reshape(3, 3)
    total = torch.zeros(())
    for i in torch.nonzero(fit.data.groups == group)[:, 0]:
        T = int(fit.data.lengths[i])
        hidden = layers[1](fit.data.prepared[i, :T] @ own["layers.0.weight"].T + own["layers.0.bias"])
        scores = hidden @ own["layers.2.weight"].T + own["layers.2.bias"] + fit.data.X[i, :T] @ fit.model.beta
        total = total + brute_force(scores, moves, fit.data.states[i, :T])
    return total


@pytest.mark.parametrize("bars", ["(crf | dyad)", "(crf | dyad) + (nn.last | dyad)", "(crf | dyad) + (nn | dyad)"])
def test_gradients_and_curvatures_beside_brute_force(bars):
    data = dyads(3, 4, 2).drop(index=[3, 11, 10])  # sequences of lengths 2, 3 and 4
    fit = training(bars, data)
    fit.model.eval()
    v = 0.3 * torch.randn(3, fit.model.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = gradients(fit.model, fit.data, v[None])[0]
    _, H = curvatures(fit.model, fit.data, v)
    for group in range(3):
        at = v[group].clone().requires_grad_(True)
        expected = torch.autograd.grad(log_likelihood_of(fit, group, at), at)[0]
        np.testing.assert_allclose(gradient[group], expected, atol=1e-10)
        hessian = torch.autograd.functional.hessian(lambda x, g=group: log_likelihood_of(fit, g, x), v[group])
        values, vectors = torch.linalg.eigh(-hessian)
        np.testing.assert_allclose(H[group], (vectors * values.clamp(min=0)) @ vectors.T, atol=2e-3)


def test_newton_steps_reach_the_mode_of_the_posterior():
    fit = training("(crf | dyad)", dyads(2, 3, 2))
    L = 0.8 * torch.eye(9, dtype=torch.float64)
    u = torch.zeros(2, 9, dtype=torch.float64)
    for _ in range(15):
        found = newton_step(fit.model, fit.data, u, L)
        u = found.u
    for group in range(2):

        def penalised(x, g=group):
            at = torch.from_numpy(x).requires_grad_(True)
            value = -2 * log_likelihood_of(fit, g, 0.8 * at) + at @ at
            return float(value.detach()), torch.autograd.grad(value, at)[0].numpy()

        best = minimize(penalised, np.zeros(9), jac=True, tol=1e-10)
        np.testing.assert_allclose(u[group], best.x, atol=1e-5)
    _, H = curvatures(fit.model, fit.data, u @ L.T)
    np.testing.assert_allclose(found.variances @ (0.64 * H + torch.eye(9)), np.stack([np.eye(9)] * 2), atol=1e-6)
    expected = 0.64 * (np.einsum("qi,qj->ij", u, u) + found.variances.sum(0).numpy()) / 2
    next_L = next_factor(found, L, (0, 9), (None, None))
    np.testing.assert_allclose(next_L @ next_L.T, expected, atol=1e-8)
    of_variances = next_factor(found, L, (0, 9), (None, torch.arange(9)))
    np.testing.assert_allclose(of_variances @ of_variances.T, np.diag(np.diagonal(expected)), atol=1e-8)


def test_em_raises_the_likelihood_and_centres_deviations():
    fit = training("(crf | dyad)", dyads(12, 20))
    deviances = []
    for _ in range(12):
        fit._solve(fit.data)
        deviances.append(fit._deviance())
    assert (np.diff(deviances[2:]) < 0.05).all()
    assert deviances[-1] < deviances[0]
    np.testing.assert_allclose(fit.v.mean(0), 0.0, atol=1e-8)


@pytest.mark.parametrize("only", [True, False])
def test_leaps_rest_where_em_does(only):
    rng = np.random.default_rng(0)
    root = 0.3 * rng.normal(size=(3, 4, 4))
    V = torch.from_numpy(root @ root.transpose(0, 2, 1))
    V = V * 0.8 / torch.linalg.eigvalsh(V).max()
    known = torch.eye(4) - V.mean(0)
    u = torch.cat([torch.linalg.cholesky(6 * known).T, torch.zeros(2, 4).double()])  # mean u u' + V = I
    found = GroupPosterior(u, torch.cat([V, V]), 0.0)
    L = torch.diag(torch.from_numpy(rng.uniform(0.5, 2.0, size=4)))
    kinds = (torch.arange(4) if only else None, None)
    for leap in (False, True):
        after = next_factor(found, L, (4, 0), kinds, leap)
        np.testing.assert_allclose(after @ after.T, L @ L.T, atol=1e-10)
    further = GroupPosterior(2 * u, torch.cat([V, V]), 0.0)
    steps = [torch.diagonal(next_factor(further, L, (4, 0), kinds, leap)).norm() for leap in (False, True)]
    assert steps[1] > steps[0] > torch.diagonal(L).norm()


def test_variances_that_are_zero_are_found_to_be():
    fit = training("(crf | dyad)", dyads(16, 25, sd=0.0, seed=5))
    for _ in range(15):
        fit._solve(fit.data)  # what all share
    before = (fit.factor, fit.posterior, copy.deepcopy(fit.model.state_dict()))
    deviance, message = fit.settle()
    spread = fit._spread()
    fit.factor, fit.posterior = before[:2]
    fit.model.load_state_dict(before[2])
    for _ in range(40):  # EM alone creeps
        fit._solve(fit.data)
    assert message == ""
    assert deviance < fit._deviance()
    assert spread < 0.7 * fit._spread()


def test_covariances_need_groups():
    assert not is_diagonal("us", 9, 180, "")
    assert is_diagonal("us", 9, 179, "")
    assert is_diagonal("us", 13, 10_000, "")
    assert is_diagonal("diag", 2, 10_000, "")


def test_tails_are_left_out():
    assert tails(torch.tensor([1, 4, 5, 30]), 0.1).tolist() == [1, 4, 4, 27]
    assert tails(torch.tensor([30]), 0.0).tolist() == [30]
