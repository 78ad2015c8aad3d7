"""Standard errors of sequence models beside second derivatives of sums over all paths."""

import numpy as np
import pytest
import torch
from sequence_examples import brute_force, dyads

from pylmernn.engines import nme_crf
from pylmernn.engines.control import Control
from pylmernn.engines.nme_crf_information import centring, fixed_covariance, information_of
from pylmernn.engines.nme_crf_model import newton_step
from pylmernn.formula import build
from pylmernn.formula.sequences import read_sequences
from pylmernn.training.options import Training


def unfitted(bars, data):
    design, _ = build(f"state ~ nn(x1, x2, hidden=c(2)) + {bars}", data, family="crf")
    return nme_crf.SequenceTraining(
        design, read_sequences(data, "sequence", "t"), Control(training=Training(epochs=1, seed=1))
    )


def joint_hessian(fit, u):
    """Minus the Hessian in coefficients, transitions and all u of the penalised log-likelihood, written out."""
    model, data, q = fit.model, fit.data, len(u)
    p, S = model.beta.shape
    f = model.network(data.prepared.reshape(-1, 2)).reshape(*data.prepared.shape[:2], S).detach()

    def value(z):
        beta = model.beta.detach() + z[: p * S].reshape(p, S)
        shared = model.transitions.detach() + z[p * S : p * S + S * S].reshape(S, S)
        own = z[p * S + S * S :].reshape(q, model.size)
        total = -0.5 * (own**2).sum()
        for i, group in enumerate(data.groups.tolist()):
            T = int(data.lengths[i])
            moves = shared + (own[group] @ fit.factor.T).reshape(S, S) if group >= 0 else shared
            total = total + brute_force(f[i, :T] + data.X[i, :T] @ beta, moves, data.states[i, :T])
        return total

    first = torch.cat([torch.zeros(p * S + S * S).double(), u.reshape(-1)])
    return -torch.autograd.functional.hessian(value, first).numpy(), p * S + S * S


@pytest.mark.parametrize("bars", ["(crf | dyad)", ""])
def test_information_beside_brute_force(bars):
    data = dyads(3, 4, 2).drop(index=[3, 11, 10])
    fit = unfitted(f"x1 + {bars}" if bars else "x1", data)
    fit.model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        fit.model.beta.copy_(0.3 * torch.randn(fit.model.beta.shape, generator=generator, dtype=torch.float64))
    u = torch.zeros(fit.q, fit.model.size).double()
    if bars:
        fit.factor = torch.diag(torch.tensor([0.8] * 6 + [0.5, 0.0, 0.3]).double())
        for _ in range(15):
            u = newton_step(fit.model, fit.data, u, fit.factor).u
    H, P = joint_hessian(fit, u)
    expected = H[:P, :P] - H[:P, P:] @ np.linalg.solve(H[P:, P:], H[P:, :P])
    found = information_of(fit.model, fit.data, u, fit.factor)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    fit.posterior = type(fit.posterior)(u, fit.posterior.variances, 0.0)
    covariance, centre = fixed_covariance(fit), centring(fit.model).numpy()
    values = np.linalg.eigvalsh(centre @ expected @ centre)
    if values[-(P - 3)] > 1e-3 * values[-1]:
        np.testing.assert_allclose(covariance, np.linalg.pinv(centre @ expected @ centre, rcond=1e-6), rtol=0.05)
    for column in (slice(0, 3), slice(3, 6), slice(6, 15)):  # a constant, x1, transitions
        np.testing.assert_allclose(covariance[:, column].sum(axis=1), 0.0, atol=1e-6 * np.abs(covariance).max())
