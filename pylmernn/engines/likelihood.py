"""Log-densities of the response and their gradients in the linear predictor, for samplers: hand-written, no graphs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pylmernn.engines.effects import Effects, Prior
from pylmernn.families import Family, read_family
from pylmernn.families.family import Dispersion, FloatArray
from pylmernn.families.ordinal import FAR


class Likelihood:
    """The likelihood of the rows given linear predictors of S chains.

    Parameters
    ----------
    family : str or Family
        ``"multinomial"``, or a family of one linear predictor. Binomial (logit), Poisson (log), ordinal and multinomial
        models are computed where ``y`` lies; other families by :meth:`Family.step`, on the CPU.
    y, weights : Tensor (n,)
        Responses, for multinomial models codes of classes 0 to C - 1; and prior weights or numbers of trials.
    n_classes : int, default 1
        C of multinomial models.
    phi : float or ndarray, default 1.0
        Dispersion; may be set anew between draws.

    Examples
    --------
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> value, score = Likelihood("binomial", one, one).value_and_score(torch.zeros(1, 2, 1, dtype=torch.float64))
    >>> round(float(value[0]), 4), score[0, :, 0].tolist()
    (-1.3863, [0.5, 0.5])
    """

    def __init__(
        self, family: str | Family, y: Tensor, weights: Tensor, n_classes: int = 1, phi: Dispersion = 1.0
    ) -> None:
        self.y, self.weights, self.phi, self.n_classes = y, weights.to(torch.float64), phi, n_classes
        name = family if isinstance(family, str) else family.name
        self.family = None if name == "multinomial" else read_family(family)
        self.kind = "multinomial" if self.family is None else str(self.family)
        if self.family is None:
            self._codes = y.long()
        self._arrays: dict[int, tuple[FloatArray, FloatArray]] = {}
        self._cuts_of: tuple[FloatArray, tuple[Tensor, Tensor, Tensor]] | None = None

    def value_and_score(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (S,), without constants, and its gradient (S, n, C) at eta (S, n, C)."""
        if self.kind == "multinomial":
            return self._multinomial(eta)
        values, score = self._scalar(eta[:, :, 0])
        return values, score[:, :, None]

    def _scalar(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Of families with one linear predictor (S, n)."""
        y, weights = self.y, self.weights
        if self.kind == "binomial(logit)":
            loss = torch.nn.functional.softplus(eta)
            return (y * eta - loss) @ weights, weights * (y - torch.sigmoid(eta))
        if self.kind == "poisson(log)":
            mu = eta.exp()
            return (y * eta - mu) @ weights, weights * (y - mu)
        if self.kind == "ordinal(logit)":
            upper, lower, inside = self._cuts()
            above, below = upper - eta, lower - eta
            logs = torch.nn.functional.logsigmoid(above) + torch.nn.functional.logsigmoid(-below) + inside
            return logs @ weights, weights * (torch.sigmoid(below) - torch.sigmoid(-above))
        assert self.family is not None
        step = self.family.step(*self._tiled(len(eta)), eta.cpu().numpy().reshape(-1), self.phi)
        values = torch.from_numpy(np.asarray(step.loglik)).reshape(eta.shape).sum(dim=1)
        return values.to(eta.device), torch.from_numpy(np.asarray(step.score)).reshape(eta.shape).to(eta.device)

    def _cuts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Thresholds above and below each row's class (n,), and ``log(1 - exp(lower - upper))``, for phi as it is."""
        if self._cuts_of is None or not np.array_equal(self._cuts_of[0], self.phi):
            phi = np.asarray(self.phi, dtype=np.float64)
            padded = torch.from_numpy(np.concatenate([[-FAR], phi, [FAR]])).to(self.y.device)
            codes = self.y.long()
            upper, lower = padded[codes + 1], padded[codes]
            self._cuts_of = (phi.copy(), (upper, lower, torch.log(-torch.expm1(lower - upper))))
        return self._cuts_of[1]

    def _tiled(self, chains: int) -> tuple[FloatArray, FloatArray]:
        """Responses and weights of all chains after each other (S * n,)."""
        if chains not in self._arrays:
            both = (self.y.to(torch.float64), self.weights)
            y, weights = (np.tile(v.cpu().numpy(), chains) for v in both)
            self._arrays[chains] = (y, weights)
        return self._arrays[chains]

    def _multinomial(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """With classes before rows, as products with Z leave them: several times faster than classes last."""
        codes = self._codes.expand(len(eta), 1, -1)
        logs = torch.log_softmax(eta.transpose(1, 2), dim=1)
        values = logs.gather(1, codes)[:, 0] @ self.weights
        score = logs.exp_().neg_().scatter_add_(1, codes, torch.ones_like(logs[:, :1]))
        return values, score.mul_(self.weights).transpose(1, 2)

    def information(self, eta: Tensor) -> Tensor:
        """Expected information (S, n, C) of each row in each linear predictor on its own."""
        if self.kind == "multinomial":
            p = torch.softmax(eta, dim=2)
            return p * (1.0 - p) * self.weights[:, None]
        if self.kind == "binomial(logit)":
            p = torch.sigmoid(eta)
            return p * (1.0 - p) * self.weights[:, None]
        if self.kind == "poisson(log)":
            return eta.exp() * self.weights[:, None]
        if self.kind == "ordinal(logit)":
            upper, lower, _ = (part[:, None] for part in self._cuts())
            slopes = [torch.sigmoid(cut) * torch.sigmoid(-cut) for cut in (upper - eta, lower - eta)]
            return (slopes[0] + slopes[1]).clamp_min(1e-300) * self.weights[:, None]
        assert self.family is not None
        y, weights = self._tiled(len(eta))
        out = self.family.information(y, weights, eta.cpu().numpy().reshape(-1), self.phi)
        return torch.from_numpy(np.asarray(out)).reshape(eta.shape).to(eta.device)


class EffectsDensity:
    """The log-density of all random effects given the response, as samplers of vectors want it.

    Parameters
    ----------
    effects : Effects
    prior : Prior
    likelihood : Likelihood
    offset : Tensor (n, C)
        The rest of the linear predictor.
    """

    def __init__(self, effects: Effects, prior: Prior, likelihood: Likelihood, offset: Tensor) -> None:
        self.effects, self.prior, self.likelihood = effects, prior, likelihood
        self.offset = offset.to(torch.float64).T.contiguous().T  # in memory as the linear predictors are
        self.n_classes = offset.shape[1]

    def unflatten(self, x: Tensor) -> Tensor:
        """Vectors (S, Q * C) as effects (S, Q, C)."""
        return x.reshape(len(x), self.effects.size, self.n_classes)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density (S,), without constants, and gradient (S, Q * C) at x (S, Q * C)."""
        b = self.unflatten(x)
        values, score = self.likelihood.value_and_score(self.effects.eta(b) + self.offset)
        pull = self.prior.apply(b)
        gradient = self.effects.by_effect(score) - pull
        return values - 0.5 * (b * pull).sum(dim=(1, 2)), gradient.reshape(x.shape)

    def inverse_mass(self, x: Tensor) -> Tensor:
        """Rough posterior variances (Q * C,) for the mass matrix, at the mean of the chains (S, Q * C)."""
        b = self.unflatten(x.mean(dim=0, keepdim=True))
        information = self.likelihood.information(self.effects.eta(b) + self.offset)
        precision = self.effects.weighted_diagonal(information)[0] + self.prior.diagonal()
        return (1.0 / precision).reshape(-1)

    def fixed_score(self, b: Tensor, X: Tensor) -> Tensor:
        """Gradient in the fixed effects (p, C) of columns (n, p), averaged over chains (S, Q, C)."""
        score = self.likelihood.value_and_score(self.effects.eta(b) + self.offset)[1]
        return torch.einsum("snc,nj->jc", score, X) / len(b)

    def omega(self, b: Tensor) -> Tensor:
        """Expected information of each row by class (C, n), averaged over chains (S, Q, C)."""
        information = self.likelihood.information(self.effects.eta(b) + self.offset)
        return information.mean(dim=0).T.contiguous()
