"""Inverse links in torch, for networks to be trained on: stable for large predictors, differentiable twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pylmernn.families.links import CLOGLOG_LIMITS, EPSILON, PROBIT_LIMIT

if TYPE_CHECKING:
    import torch


def held(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Values kept between limits, with the derivative of values that are not: a step back is always seen."""
    return values + (values.clamp(low, high) - values).detach()


def log_probabilities(link: str, eta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of mu and of 1 - mu for the links of the binomial."""
    import torch

    if link == "logit":
        return torch.nn.functional.logsigmoid(eta), torch.nn.functional.logsigmoid(-eta)
    if link == "probit":
        return torch.special.log_ndtr(eta), torch.special.log_ndtr(-eta)
    if link == "cloglog":
        rate = torch.exp(held(eta, *CLOGLOG_LIMITS))
        return torch.log(-torch.expm1(-rate)), -rate
    one = torch.ones_like(eta)  # cauchit; the arc tangents add up to pi
    log_pi = 1.1447298858494002
    return torch.log(torch.atan2(one, -eta)) - log_pi, torch.log(torch.atan2(one, eta)) - log_pi


def probability(link: str, eta: torch.Tensor) -> torch.Tensor:
    """The mean, a rounding error away from 0 and 1, for links of the beta family."""
    import torch

    least = max(EPSILON, torch.finfo(eta.dtype).eps)
    if link == "logit":
        mu = torch.sigmoid(eta)
    elif link == "probit":
        mu = torch.special.ndtr(held(eta, -PROBIT_LIMIT, PROBIT_LIMIT))
    else:
        mu = -torch.expm1(-torch.exp(held(eta, *CLOGLOG_LIMITS)))
    return held(mu, least, 1.0 - least)


def log_mean(link: str, eta: torch.Tensor) -> torch.Tensor:
    """The logarithm of a positive mean."""
    import torch

    if link == "log":
        return eta
    if link == "inverse":
        return -torch.log(eta)
    if link == "1/mu^2":
        return -0.5 * torch.log(eta)
    return torch.log(eta)


def reciprocal_mean(link: str, eta: torch.Tensor) -> torch.Tensor:
    """One over a positive mean."""
    import torch

    if link == "log":
        return torch.exp(-eta)
    if link == "inverse":
        return eta
    if link == "1/mu^2":
        return torch.sqrt(eta)
    return 1.0 / eta
