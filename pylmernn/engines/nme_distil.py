"""One network that does what several do together: distillation (Hinton, Vinyals & Dean, 2015).

Weights of different networks cannot be averaged, their functions can. The one network learns these at inputs of the
data and at mixtures of them. They have no noise and can be had without end, so that nothing is overfitted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pylmernn.engines.nme_model import VaryingModel, last_layer
from pylmernn.mean.mlp import TabularNet

Tensor = torch.Tensor

ROWS, BATCH, STEPS, RATE = 4000, 256, 1500, 5e-3
JITTER = 0.1  # of mixed inputs, in standard deviations
RIDGE = 1e-7  # of the mean square of a feature: keeps least squares solvable


def distil(model: VaryingModel, start: dict[str, Tensor], functions: Callable[[Tensor], Tensor]) -> Tensor:
    """Train the layers below the last one until functions are sums of what they return.

    Parameters
    ----------
    model : VaryingModel
        Whose network is trained; its last layer stays as in ``start``.
    start : dict
        Weights to begin with.
    functions : callable
        From prepared inputs (m, k) to values (m, F) in units of the response, in float64. Their squared errors add up.

    Returns
    -------
    Tensor, shape (F, D)
        Weights of each function in the last hidden layer, that of the constant last.
    """
    module = model.network.module
    rng = np.random.default_rng(model.training.seed)
    inputs = mixed(model, rng)
    wanted = (functions(inputs) / model.scale).float()
    module.load_state_dict(start)
    module.eval()
    last = last_layer(module)
    head = torch.nn.Linear(last.in_features, wanted.shape[1])
    below = [p for p in module.parameters() if p is not last.weight and p is not last.bias]
    solve_head(head, trunk(module, inputs), wanted)
    optimizer = torch.optim.Adam([*below, *head.parameters()], lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1)
    for _ in range(STEPS):
        at = torch.from_numpy(rng.integers(0, len(inputs), BATCH))
        optimizer.zero_grad(set_to_none=True)
        errors = head(trunk(module, inputs[at])) - wanted[at]
        (errors**2).sum(1).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    found = solve_head(head, trunk(module, inputs), wanted)
    return model.scale * found


def solve_head(head: torch.nn.Linear, features: Tensor, wanted: Tensor) -> Tensor:
    """Least squares for a last layer, which changes to it; returns its weights, (F, D)."""
    with torch.no_grad():
        H = torch.cat([features, torch.ones_like(features[:, :1])], dim=1).double()
        gram = H.T @ H
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
        solution = torch.linalg.solve(gram, H.T @ wanted.double()).T
        head.weight.copy_(solution[:, :-1])
        head.bias.copy_(solution[:, -1])
    return solution


def trunk(module: TabularNet, prepared: Tensor) -> Tensor:
    """Prepared inputs (m, k) to the last hidden layer (m, d)."""
    k = len(module.numeric)
    parts = [prepared[:, :k]]
    parts += [embedding(prepared[:, k + i].long()) for i, embedding in enumerate(module.embeddings)]
    out: Tensor = module.mlp.layers[:-1](torch.cat(parts, dim=1))
    return out


def mixed(model: VaryingModel, rng: np.random.Generator) -> Tensor:
    """Inputs of rows, and as many whose columns come from two rows at random, a little moved, (m, k)."""
    n, half = model.design.n, ROWS // 2
    own = model.prepared[torch.from_numpy(rng.permutation(n)[:half])]
    first, second = (model.prepared[torch.from_numpy(rng.integers(0, n, half))] for _ in range(2))
    mixture = torch.where(torch.from_numpy(rng.random(first.shape) < 0.5), first, second)
    numeric = len(model.network.module.numeric)
    mixture[:, :numeric] += JITTER * torch.from_numpy(rng.normal(size=(half, numeric))).float()
    return torch.cat([own, mixture])
