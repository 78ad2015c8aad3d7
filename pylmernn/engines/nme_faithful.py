"""The objective of Woerner et al. (2023), eq. 1 and 2, as their code has it, for the preset "faithful".

Layers start as torch's own do. Full batches, Adam on theta_bar and all eta_i at once, the mean squared error over
sigma^2 plus the sum of ``eta_i' Sigma^-1 eta_i`` over the number of rows; eta_i less their mean over persons. sigma^2
starts at 0.1 and is the loss of the last epoch; variances start at 1 and are those of the estimated deviations, but
fall no faster than by the factor ``ANNEALING`` an epoch. Without the posterior variance they are smaller than those of
the mixed model that it resembles.
"""

from __future__ import annotations

import time

import torch

from pylmernn.engines.crossfitting import HISTORY
from pylmernn.engines.nme_model import VaryingModel, constant_column
from pylmernn.formula.design import DesignError
from pylmernn.mean.mlp import TabularNet

Tensor = torch.Tensor

ANNEALING, FIRST_SIGMA2, LEARNING_RATE, EPOCHS = 0.98, 0.1, 0.01, 200  # of the authors' example
LEAST_VARIANCE = 1e-8


def train(model: VaryingModel, epochs: int | None) -> dict[str, list[float]]:
    """Train a model in place, keeping the epoch with the smallest training error.

    Parameters
    ----------
    model : VaryingModel
    epochs : int, optional
        200 by default.

    Returns
    -------
    dict of list
        The history, as other methods have it.

    Raises
    ------
    DesignError
        For fixed effects beside the intercept, which the paper's model has not.
    """
    constant = constant_column(model.design.X)
    if model.design.p > (constant is not None):
        raise DesignError(f"{model.term.label}: the preset 'faithful' takes no fixed effects but the intercept.")
    centre = model.y.mean() if constant is not None else model.y.new_zeros(())
    if constant is not None:
        model.beta = centre[None] / model.X[0, constant]
    target = ((model.y - centre) / model.scale).float()
    network, codes = model.network, model.codes
    if isinstance(network.module, TabularNet):  # as theirs; 200 steps of 0.01 do not lead far from a start
        for layer in network.module.mlp.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    eta = torch.zeros(model.eta.shape, requires_grad=True)
    optimizer = torch.optim.Adam([*network.module.parameters(), eta], lr=LEARNING_RATE)
    variances, sigma2 = torch.ones(eta.shape[1], dtype=torch.float64), FIRST_SIGMA2
    covariance = torch.diag(variances)
    history: dict[str, list[float]] = {name: [] for name in HISTORY}
    best, smallest = None, float("inf")
    for epoch in range(1, (epochs or EPOCHS) + 1):
        begun = time.perf_counter()
        network.module.train()
        optimizer.zero_grad()
        loss = ((network(model.prepared[:, None], eta[codes])[:, 0] - target) ** 2).mean()
        deviation = eta - eta.mean(0)
        penalty = ((deviation @ torch.linalg.inv(covariance).float()) * deviation).sum() / len(target)
        if loss.item() < smallest:
            smallest = loss.item()
            best = (model.state(), eta.detach().double().clone(), covariance, sigma2)
        (loss / sigma2 + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sigma2 = loss.item()
        variances, covariance = _annealed(eta.detach().double(), variances, model.diagonal or model.reduced)
        entry = (epoch, loss.item() * model.scale**2, float("nan"), float("nan"), model.scale * sigma2**0.5)
        for name, value in zip(HISTORY, (*entry, time.perf_counter() - begun), strict=True):
            history[name].append(float(value))
    if best is None:
        raise ValueError("the loss is not finite in epoch 1: scale the inputs.")
    state, effects, covariance, sigma2 = best
    model.restore(state)
    mean = effects.mean(0)
    network.move(mean.float())
    model.eta, model.sigma2, model.reduced = effects - mean, max(sigma2, smallest) * model.scale**2, False
    model.by_layers = False
    diagonal = bool((covariance == torch.diag(torch.diagonal(covariance))).all())
    model.factor = torch.diagonal(covariance).sqrt() if diagonal else torch.linalg.cholesky(covariance)
    return history


def _annealed(eta: Tensor, variances: Tensor, diagonal: bool) -> tuple[Tensor, Tensor]:
    """The next variances (D,) and covariance (D, D); where that is not positive definite, the identity."""
    sample = torch.atleast_2d(torch.cov(eta.T))
    variances = torch.maximum(ANNEALING * variances, torch.diagonal(sample)).clamp(min=LEAST_VARIANCE)
    covariance = torch.diag(variances) if diagonal else sample - torch.diag(torch.diagonal(sample) - variances)
    good = int(torch.linalg.cholesky_ex(covariance).info) == 0
    return variances, covariance if good else torch.eye(len(variances), dtype=torch.float64)
