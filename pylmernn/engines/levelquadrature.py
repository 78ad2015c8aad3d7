"""Gauss-Hermite quadrature of batches of rows with one grouping factor, and the training of networks by it.

The likelihood of the rows of a level j is an integral over its random effects ``b_j = Lambda u_j``, u_j standard normal
(Simchoni & Rosset 2023, eq. 38, there with one column and fixed nodes):

    log L_j = log sum_k exp(log w_jk + sum_i log f(y_i | fixed_i + z_i' Lambda u_jk))

Fixed nodes are those of the normal prior, the same for all levels. Adaptive ones, ``u_jk = m_j + S_j z_k``, lie about
the mode m_j of the level by its curvature ``(S_j S_j')^-1``, and their weights make up for it (Pinheiro & Bates 1995).
All is summed as logarithms, so that levels of any size have a likelihood. Nodes count as given when derivatives are
taken: these are then quadratures of the exact derivatives themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.engines.batchorders import Order, largest_part, level_batches
from pylmernn.engines.batchvariances import Variances
from pylmernn.engines.marginal import Rows
from pylmernn.engines.minibatch import BatchTrainer
from pylmernn.families.family import Dispersion, Family
from pylmernn.formula.design import Design
from pylmernn.linalg.quadrature import Nodes
from pylmernn.training.loop import evaluate
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]

CLOSE, CLOSER = 0.2, 1e-6  # how near to a mode nodes are centred, in its standard deviations: in a batch, else
STEPS = 30  # of Newton's method, at most


@dataclass(frozen=True)
class Observed:
    """Rows of one grouping factor.

    Attributes
    ----------
    y, weights : ndarray, shape (m,)
    Z : ndarray, shape (m, d)
        Columns left of the bars.
    codes : ndarray of int, shape (m,)
        Level of each row, 0 to q - 1.
    n_levels : int
        q; levels may be without rows.
    """

    y: FloatArray
    weights: FloatArray
    Z: FloatArray
    codes: NDArray[np.int64]
    n_levels: int

    def sums(self, values: FloatArray) -> FloatArray:
        """Sums by level (q,) of values (m,)."""
        return np.asarray(np.bincount(self.codes, values, self.n_levels), dtype=np.float64)

    def take(self, rows: Order) -> Observed:
        """Some of the rows; levels keep their codes."""
        return Observed(self.y[rows], self.weights[rows], self.Z[rows], self.codes[rows], self.n_levels)


@dataclass(frozen=True)
class LevelNodes:
    """Nodes of each level for the integral over a standard normal u.

    Attributes
    ----------
    u : ndarray, shape (q, K, d)
    log_weights : ndarray, shape (q, K)
    """

    u: FloatArray
    log_weights: FloatArray


def fixed_nodes(nodes: Nodes, n_levels: int) -> LevelNodes:
    """The nodes of the prior for every level."""
    u = np.broadcast_to(nodes.z, (n_levels, *nodes.z.shape))
    return LevelNodes(u.copy(), np.tile(nodes.log_weights, (n_levels, 1)))


def adaptive_nodes(nodes: Nodes, u: FloatArray, M: FloatArray) -> LevelNodes:
    """Nodes about modes u (q, d) with curvatures M (q, d, d), with the weights that this asks for."""
    L = np.linalg.cholesky(M)
    S = np.linalg.inv(L).transpose(0, 2, 1)
    at = u[:, None, :] + np.einsum("jst,kt->jks", S, nodes.z)
    log_weights = nodes.log_weights + 0.5 * (nodes.z**2).sum(axis=1) - 0.5 * (at**2).sum(axis=2)
    return LevelNodes(at, log_weights - np.log(np.einsum("jss->js", L)).sum(axis=1)[:, None])


def level_modes(
    family: Family,
    rows: Observed,
    fixed: FloatArray,
    Lambda: FloatArray,
    phi: Dispersion,
    u: FloatArray,
    tolerance: float = CLOSER,
) -> tuple[FloatArray, FloatArray]:
    """Newton's method for the modes of all levels at once; each level halves the steps that do not help it.

    Parameters
    ----------
    family : Family
    rows : Observed
    fixed : ndarray, shape (m,)
        Linear predictors without random effects.
    Lambda : ndarray, shape (d, d)
    phi : float or ndarray
    u : ndarray, shape (q, d)
        Where to start; from zero where that is too far away.
    tolerance : float
        Length of the last step, in standard deviations of the level's posterior.

    Returns
    -------
    u : ndarray, shape (q, d)
    M : ndarray, shape (q, d, d)
        Curvatures there, positive definite: of rows where ``-l''`` is not positive the expected information.
    """
    ZL, d = rows.Z @ Lambda, u.shape[1]
    kept, best = np.zeros_like(u), np.full(len(u), -np.inf)
    M = np.broadcast_to(np.eye(d), (len(u), d, d)).copy()
    move = begin = u
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            u = kept + move
            eta = fixed + np.einsum("is,is->i", ZL, u[rows.codes])
            step = family.step(rows.y, rows.weights, eta, phi)
            value = rows.sums(step.loglik) - 0.5 * (u**2).sum(axis=1)
            better = value >= best - 1e-10 * np.abs(value)
            weight = step.observed
            if not (weight > 0).all():
                weight = np.where(weight > 0, weight, family.information(rows.y, rows.weights, eta, phi))
            kept[better], best[better] = u[better], value[better]
            M[better] = _curvatures(rows, ZL, weight)[better]
            score = np.stack([rows.sums(column * step.score) for column in ZL.T], axis=1) - u
            newton = np.linalg.solve(M, score[:, :, None])[:, :, 0]
            move = np.where(better[:, None], newton, 0.5 * move)
            if np.einsum("js,jst,jt->j", move, M, move).max() < tolerance**2:
                return kept + move, M
    if begin.any():
        return level_modes(family, rows, fixed, Lambda, phi, np.zeros_like(begin), tolerance)
    return kept, M


def _curvatures(rows: Observed, ZL: FloatArray, weight: FloatArray) -> FloatArray:
    """``Lambda' Z_j' W Z_j Lambda + I``, (q, d, d)."""
    d = ZL.shape[1]
    M = np.empty((rows.n_levels, d, d))
    for s in range(d):
        for t in range(s + 1):
            M[:, s, t] = M[:, t, s] = rows.sums(weight * ZL[:, s] * ZL[:, t])
        M[:, s, s] += 1.0
    return M


def log_densities(
    family: Family, rows: Rows, fixed: torch.Tensor, Lambda: torch.Tensor, u: torch.Tensor, phi: Dispersion
) -> torch.Tensor:
    """Log-densities (m, K) of rows at the nodes of their levels.

    Parameters
    ----------
    family : Family
    rows : sequence of torch.Tensor
        y (m,), weights (m,), Z (m, d), codes (m,).
    fixed : torch.Tensor, shape (m,)
    Lambda : torch.Tensor, shape (d, d)
    u : torch.Tensor, shape (q, K, d)
    phi : float or torch.Tensor
    """
    y, weights, Z, codes = rows
    b = (u @ Lambda.T).index_select(0, codes)
    effects = Z * b[:, :, 0] if Z.shape[1] == 1 else torch.einsum("is,iks->ik", Z, b)
    eta = fixed[:, None] + effects
    return family.density(y[:, None], weights[:, None], eta, phi)


def log_terms(
    family: Family, rows: Rows, fixed: torch.Tensor, Lambda: torch.Tensor, nodes: LevelNodes, phi: Dispersion
) -> torch.Tensor:
    """Logarithms (q, K) of the terms of which the likelihood of each level is the sum; parameters as above."""
    logs = log_densities(family, rows, fixed, Lambda, torch.from_numpy(nodes.u), phi)
    return torch.from_numpy(nodes.log_weights).index_add(0, rows[3], logs)


def posterior(
    family: Family, rows: Observed, fixed: FloatArray, Lambda: FloatArray, nodes: LevelNodes, phi: Dispersion
) -> FloatArray:
    """Logarithms (q, K) of the posterior weights of each level's nodes; the prior's for a level without rows."""
    tensors = as_tensors(rows)
    given, factor = torch.from_numpy(fixed), torch.from_numpy(Lambda)
    phi = torch.as_tensor(phi, dtype=torch.float64)
    with torch.no_grad():  # node by node: all of them at all rows may not fit into memory
        parts = []
        for k in range(nodes.u.shape[1]):
            one = LevelNodes(nodes.u[:, k : k + 1], nodes.log_weights[:, k : k + 1])
            parts.append(log_terms(family, tensors, given, factor, one, phi))
        return np.asarray(torch.log_softmax(torch.cat(parts, dim=1), dim=1).numpy())


def as_tensors(rows: Observed) -> Rows:
    """y, weights, Z and codes."""
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in (rows.y, rows.weights, rows.Z, rows.codes)]


class QuadratureTrainer(BatchTrainer):
    """Minimizes the negative log-likelihood of levels of rows, over batches of whole levels or parts of them.

    Parameters
    ----------
    modules, features, X, variances, training
        As in :class:`~pylmernn.engines.minibatch.BatchTrainer`. Of ``variances`` the residual variance is not used.
    design : Design
        All random terms have the same grouping factor.
    family : Family
    nodes : Nodes
    adaptive : bool
        Nodes about each level's mode, batches that end with a level, and held-out rows judged by their predictive
        density given the rows learnt from. Else fixed nodes, batches of so many rows, and the marginal likelihood.
    learn : ndarray of int
        The rows to learn from.
    beta, phi : ndarray, shape (p,), and float or ndarray
        Where the coefficients of X and the dispersion start.
    steps, variance_rate, epsilon
        As in :class:`~pylmernn.engines.minibatch.MarginalTrainer`.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        features: Sequence[torch.Tensor],
        X: FloatArray,
        design: Design,
        family: Family,
        nodes: Nodes,
        adaptive: bool,
        variances: Variances,
        training: Training,
        learn: Order,
        beta: FloatArray,
        phi: Dispersion,
        steps: int,
        variance_rate: float,
        epsilon: float = 1e-8,
    ) -> None:
        self.observed = observed(design)
        self.offset = np.zeros(design.n) if design.offset is None else design.offset
        more = [torch.from_numpy(self.offset), *as_tensors(self.observed)]
        super().__init__(modules, features, X, more, variances, training)
        self.family, self.nodes, self.adaptive, self.learn = family, nodes, adaptive, learn
        self.coordinates = torch.tensor(family.unconstrained(phi), dtype=torch.float64, requires_grad=True)
        self.u = np.zeros((self.observed.n_levels, self.observed.Z.shape[1]))
        self._fresh = False  # whether u are modes at the parameters as they are
        with torch.no_grad():
            self.beta.copy_(torch.from_numpy(beta))
        scalars = [self.psi, self.beta, self.coordinates]
        self._optimize(self.modules, scalars, training, steps, variance_rate, epsilon)

    def _batches(self, order: Order) -> list[slice]:
        if not self.adaptive:
            return super()._batches(order)
        return level_batches(self.observed.codes[order], self.batch_size, largest_part(self.batch_size))

    def _loss(self, fixed: torch.Tensor, more: Rows) -> torch.Tensor:
        offset, y, weights, Z, codes = more
        fixed = fixed + offset
        levels, local = np.unique(codes.numpy(), return_inverse=True)
        Lambda, phi = self._Lambda(), self._phi()
        if self.adaptive:
            rows = Observed(y.numpy(), weights.numpy(), Z.numpy(), local, len(levels))
            given, factor = fixed.detach().numpy(), Lambda.detach().numpy()
            found = level_modes(self.family, rows, given, factor, self.phi, self.u[levels], CLOSE)
            nodes = adaptive_nodes(self.nodes, *found)
        else:
            nodes = fixed_nodes(self.nodes, len(levels))
        batch = [y, weights, Z, torch.from_numpy(local)]
        return -torch.logsumexp(log_terms(self.family, batch, fixed, Lambda, nodes, phi), dim=1).sum()

    def _Lambda(self) -> torch.Tensor:
        """The factor (d, d) of the covariance of a level's effects, term by term."""
        blocks = []
        for value in self.variances.unpack(self.psi)[1]:
            assert isinstance(value, torch.Tensor)
            blocks.append(value.sqrt().reshape(1, 1) if value.ndim == 0 else torch.linalg.cholesky_ex(value)[0])
        return blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)

    def _phi(self) -> Dispersion:
        """The dispersion with its derivative in the coordinates."""
        phi = self.phi
        if not len(self.coordinates):
            return phi
        moved = torch.from_numpy(self.family.chain(phi)) @ (self.coordinates - self.coordinates.detach())
        return torch.as_tensor(phi, dtype=torch.float64) + (moved[0] if np.ndim(phi) == 0 else moved)

    @property
    def phi(self) -> Dispersion:
        """The dispersion, a float or (k,)."""
        return self.family.from_unconstrained(self.coordinates.detach().numpy().copy())

    @property
    def sigma(self) -> float:
        """Standard deviation of the effects of the first column left of the bar."""
        with torch.no_grad():
            return abs(float(self._Lambda()[0, 0]))

    def epoch(self, order: Order) -> float:
        """See :meth:`BatchTrainer.epoch`."""
        if self.adaptive and not self._fresh:
            self._find_modes()
        self._fresh = False
        return super().epoch(order) - self._constant(order)

    def _find_modes(self) -> tuple[FloatArray, FloatArray, LevelNodes]:
        """Linear predictors of all rows without random effects, Lambda, and the nodes about all modes as they are."""
        fixed = self.offset + evaluate(self.modules, self.features) + self.X.numpy() @ self.beta.detach().numpy()
        with torch.no_grad():
            Lambda = np.asarray(self._Lambda().numpy())
        rows = self.observed.take(self.learn)
        self.u, M = level_modes(self.family, rows, fixed[self.learn], Lambda, self.phi, self.u)
        self._fresh = True
        return fixed, Lambda, adaptive_nodes(self.nodes, self.u, M)

    def evaluate(self, order: Order) -> float:
        """Mean over held-out rows of the negative logarithm of their density.

        With adaptive nodes of the predictive density given the rows learnt from, of which the level has none where it
        is held out whole; the modes of all levels are found on the way. Else of the marginal likelihood of batches.
        """
        if not self.adaptive:
            return super().evaluate(order) - self._constant(order)
        fixed, Lambda, nodes = self._find_modes()
        rows, held = self.observed.take(self.learn), self.observed.take(order)
        shares = posterior(self.family, rows, fixed[self.learn], Lambda, nodes, self.phi)
        given = torch.from_numpy(fixed[order]), torch.from_numpy(Lambda), torch.from_numpy(nodes.u)
        phi = torch.as_tensor(self.phi, dtype=torch.float64)
        with torch.no_grad():
            logs = log_densities(self.family, as_tensors(held), *given, phi)
            predictive = torch.logsumexp(logs + torch.from_numpy(shares[held.codes]), dim=1)
        return -float(predictive.mean()) - self._constant(order)

    def _constant(self, order: Order) -> float:
        """Of the mean log-density of these rows: what densities leave out."""
        rows = self.observed.take(order)
        return self.family.constant(rows.y, rows.weights) / max(len(order), 1)

    def state(self) -> dict[str, Any]:
        """See :meth:`BatchTrainer.state`."""
        return {**super().state(), "coordinates": self.coordinates.detach().clone()}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`BatchTrainer.restore`."""
        super().restore(state)
        with torch.no_grad():
            self.coordinates.copy_(state["coordinates"])
        self._fresh = False


def observed(design: Design) -> Observed:
    """The rows of a design whose random terms have one grouping factor."""
    return Observed(
        y=design.y,
        weights=np.ones(design.n) if design.weights is None else design.weights,
        Z=np.concatenate([term.columns for term in design.random], axis=1),
        codes=design.random[0].codes.astype(np.int64),
        n_levels=design.random[0].n_levels,
    )
