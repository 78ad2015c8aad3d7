"""Method ``"menets"``: networks and one grouping factor by an EM algorithm.

Mixed effects neural networks (Xiong, Kim & Singh 2019), which follow mixed effects random forests (Hajjem, Bellavance &
Larocque 2014): an epoch of training f on ``y - X beta - Z b``, then the conditional modes b given f, then sigma and the
covariance D of a level's effects. With C_j the conditional covariance of b_j,

    b_j = C_j Z_j' (y_j - X_j beta - f_j) / sigma^2        C_j = (Z_j' Z_j / sigma^2 + D^-1)^-1
    D = mean_j (b_j b_j' + C_j)                            sigma^2 = (sum_i e_i^2 + sum_j tr(Z_j' Z_j C_j)) / n

The mean of squares e is that of the rows that f was trained on, so sigma is understated where f overfits.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines.atfixed import estimates_at_fixed
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import Callback, response, some_rows, with_networks
from pylmernn.engines.estimates import Estimates
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.mean.networks import NetSpec, Networks, Weights, build, specify, weights_of
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]


class EffectsByEM:
    """Random effects of one factor, beta, sigma and D while f changes.

    Parameters
    ----------
    design : Design
        Of the rows to learn from; all random terms have the same grouping factor.

    Examples
    --------
    >>> import numpy as np
    >>> from pylmernn.formula.design import RandomTerm, make_design
    >>> rng = np.random.default_rng(0)
    >>> codes = np.repeat(np.arange(50, dtype=np.int32), 20)
    >>> y = 2 * rng.normal(size=50)[codes] + rng.normal(size=1000)
    >>> term = RandomTerm("g", codes, np.arange(50).astype(str), np.ones((1000, 1)), ("(Intercept)",))
    >>> em = EffectsByEM(make_design(y, np.ones((1000, 1)), ["(Intercept)"], [term]))
    >>> for _ in range(20):
    ...     em.update(y)
    >>> bool(abs(em.sigma - 1) < 0.1), bool(abs(em.D[0, 0] ** 0.5 - 2) < 0.5)
    (True, True)
    """

    def __init__(self, design: Design) -> None:
        self.random, self.X = design.random, design.X
        self.codes, self.q = design.random[0].codes, design.random[0].n_levels
        self.columns = np.concatenate([term.columns for term in design.random], axis=1)
        self.weights = np.ones(design.n) if design.weights is None else design.weights
        self.free = _free_entries(design.random)
        d = self.columns.shape[1]
        products = self.columns[:, :, None] * (self.weights[:, None] * self.columns)[:, None, :]
        self.G = self._sums(products.reshape(design.n, d * d)).reshape(self.q, d, d)
        self.b, self.beta = np.zeros((self.q, d)), np.zeros(design.p)
        self.D, self.sigma = np.zeros((d, d)), float("nan")

    def _sums(self, values: FloatArray) -> FloatArray:
        """Sums by level, (q, k), of values (n, k)."""
        return np.stack([np.bincount(self.codes, column, minlength=self.q) for column in values.T], axis=1)

    def update(self, residual: FloatArray) -> None:
        """One EM step for ``y - f`` (n,): beta, then b, then sigma and D."""
        self.beta = self._regress(residual - self._effects())
        r = residual - self.X @ self.beta
        if np.isnan(self.sigma):
            self._start(r)
        half = _root(self.D)
        inner = half.T @ self.G @ half / self.sigma**2 + np.eye(len(half))
        C = half @ np.linalg.solve(inner, np.broadcast_to(half.T, inner.shape))
        h = self._sums((self.weights * r)[:, None] * self.columns)
        self.b = np.einsum("jst,jt->js", C, h) / self.sigma**2
        squares = float(self.weights @ (r - self._effects()) ** 2) + float(np.einsum("jst,jst->", self.G, C))
        self.sigma = float(np.sqrt(squares / len(r)))
        self.D = np.where(self.free, np.einsum("js,jt->st", self.b, self.b) / self.q + C.mean(axis=0), 0.0)

    def _start(self, r: FloatArray) -> None:
        """Half of the variance for the residuals, the rest in equal shares for the columns."""
        variance = float(np.average(r**2, weights=self.weights))
        size = np.mean(self.columns**2, axis=0) * self.columns.shape[1]
        self.sigma = (0.5 * variance) ** 0.5
        self.D = np.diag(0.5 * variance / np.maximum(size, 1e-12))

    def _regress(self, values: FloatArray) -> FloatArray:
        """Weighted least squares on X."""
        WX = self.X * self.weights[:, None]
        return np.asarray(np.linalg.lstsq(self.X.T @ WX, WX.T @ values, rcond=None)[0])

    def _effects(self) -> FloatArray:
        """``Z b`` of the rows."""
        return np.asarray(np.einsum("is,is->i", self.columns, self.b[self.codes]))

    def mean(self, design: Design) -> FloatArray:
        """``X beta + Z b`` of the rows of a design with the same terms, (n,)."""
        columns = np.concatenate([term.columns for term in design.random], axis=1)
        b = self.b[design.random[0].codes]
        return np.asarray(design.X @ self.beta + np.einsum("is,is->i", columns, b))

    def theta(self) -> FloatArray:
        """Relative parameters (m,), in the order of the exact engines."""
        values, start = [], 0
        for term in self.random:
            own = slice(start, start + term.width)
            factor = _root(self.D[own, own]) / self.sigma
            values.append(factor[structure(term.covariance).positions(term.width)])
            start += term.width
        return np.concatenate(values)


def _free_entries(random: tuple[RandomTerm, ...]) -> NDArray[np.bool_]:
    """Which entries of D (d, d) are parameters: a block for each term, a diagonal for ``diag``."""
    d = sum(term.width for term in random)
    free, start = np.zeros((d, d), dtype=bool), 0
    for term in random:
        rows, columns = structure(term.covariance).positions(term.width)
        free[start + rows, start + columns] = free[start + columns, start + rows] = True
        start += term.width
    return free


def _root(matrix: FloatArray) -> FloatArray:
    """Lower Cholesky factor of a positive definite matrix."""
    return np.asarray(np.linalg.cholesky(matrix + 1e-12 * np.trace(matrix) * np.eye(len(matrix))))


def fit(
    design: Design,
    REML: bool = True,
    control: Control | None = None,
    start: FloatArray | None = None,
    callback: Callback | None = None,
) -> Estimates:
    """Estimate a mixed model with networks in its mean and one grouping factor by EM.

    Parameters
    ----------
    design : Design
        With at least one network in ``nets``.
    REML : bool
        Which objective is reported at the EM estimates, which are of maximum likelihood.
    control : Control, optional
        ``control.training`` says how to train; f is not cross-fitted.
    start : ignored
        EM starts from the spread of the residuals.
    callback : callable, optional
        Told of each epoch and its held-out error.

    Returns
    -------
    Estimates
        beta and b are exact on all rows, given f, D and sigma.

    Raises
    ------
    DesignError
        For more than one grouping factor, or a field.
    ValueError
        For an option of a network that does not exist, or where the loss is not finite in the first epoch.
    """
    _check(design)
    control = control or Control()
    training = dataclasses.replace(control.training, folds=0).sized(design.n)
    specs = tuple(specify(net) for net in design.nets)
    y = response(design)
    run = _Run(design, y, specs, training, control.device, callback)
    run.train()
    has_constant = any(np.ptp(design.X[:, j]) == 0 and design.X[0, j] != 0 for j in range(design.p))
    shift = float(run.f.mean()) if has_constant else 0.0
    networks = Networks(
        specs=specs,
        members=(run.weights(),),
        scale=run.scale,
        shift=shift,
        fitted=run.f - shift,
        history={"member": [0.0] * len(run.history["epoch"]), **run.history},
        best_epoch=(run.best_epoch,),
        out_of_fold=False,
        learned=run.learned[None],
    )
    estimates = estimates_at_fixed(with_networks(design, networks.fitted), run.theta, run.sigma, REML, control)
    if run.stopped:
        message = f"{run.stopped}; these are the best networks so far"
        convergence = dataclasses.replace(estimates.convergence, converged=False, message=message)
        estimates = dataclasses.replace(estimates, convergence=convergence)
    return dataclasses.replace(estimates, method="menets", networks=networks)


def _check(design: Design) -> None:
    for term in design.random:
        if term.locations is not None:
            raise DesignError(f"{term.label}: method 'menets' fits no fields: use 'alternating' or 'lmmnn'.")
    groups = sorted({term.group for term in design.random})
    if len(groups) > 1:
        raise DesignError(
            f"method 'menets' takes one grouping factor, not {len(groups)} ({', '.join(groups)}): use 'alternating' "
            "or 'lmmnn'."
        )


class _Run:
    """Epochs of training and EM steps; the best by held-out rows is kept."""

    def __init__(
        self,
        design: Design,
        y: FloatArray,
        specs: tuple[NetSpec, ...],
        training: Training,
        device: str,
        callback: Callback | None,
    ) -> None:
        import torch

        from pylmernn.training.loop import Trainer, device_for

        torch.manual_seed(training.seed)
        self.design, self.y, self.training, self.callback = design, y, training, callback
        self.device = device_for(device)
        self.modules = [build(spec).to(self.device) for spec in specs]
        inputs = [module.prepare(net.inputs) for module, net in zip(self.modules, design.nets, strict=True)]
        features = [columns.to(self.device) for columns in inputs]
        mixed = np.random.default_rng(training.seed + 1).permutation(design.n)
        held = round(training.validation * design.n)
        self.check, self.rows = np.sort(mixed[:held]), np.sort(mixed[held:])
        weights = (
            None if design.weights is None else torch.from_numpy(design.weights.astype(np.float32)).to(self.device)
        )
        generator = torch.Generator().manual_seed(training.seed)
        self.trainer = Trainer(self.modules, features, self.rows, training, generator, weights)
        self.em = EffectsByEM(some_rows(design, self.rows))
        self.scale, self.stopped, self.best_epoch = float(np.std(y)), "", 0
        self.f, self.theta, self.sigma = np.zeros(design.n), np.zeros(0), float("nan")
        self.learned = np.isin(np.arange(design.n), self.rows)
        self.history: dict[str, list[float]] = {
            name: [] for name in ("epoch", "loss", "validation", "sigma", "seconds")
        }

    def weights(self) -> tuple[Weights, ...]:
        """Of the networks."""
        return tuple(weights_of(module) for module in self.modules)

    def train(self) -> None:
        """Run epochs until they or patience end, or the user interrupts."""
        training = self.training
        assert training.epochs is not None
        best, best_state = np.inf, self.trainer.state()
        self.em.update(self.y[self.rows])
        try:
            for epoch in range(1, training.epochs + 1):
                error, f = self._epoch(epoch)
                if error < best or not len(self.check):
                    best, best_state, self.best_epoch = error, self.trainer.state(), epoch
                    self.f, self.theta, self.sigma = f, self.em.theta(), self.em.sigma
                if self.callback is not None:
                    self.callback(epoch, error)
                if training.patience is not None and epoch - self.best_epoch >= training.patience:
                    break
        except KeyboardInterrupt:
            self.stopped = "training was interrupted"
        except FloatingPointError as error_:
            self.stopped = str(error_)
        if self.best_epoch == 0:
            raise ValueError(f"{self.stopped} before an epoch was complete: scale the inputs, or lower learning_rate.")
        self.trainer.restore(best_state)

    def _epoch(self, epoch: int) -> tuple[float, FloatArray]:
        """One epoch and one EM step; the held-out error and f (n,)."""
        import torch

        begun = time.perf_counter()
        target = (self.y - self.em.mean(self.design)) / self.scale
        loss = self.trainer.epoch(torch.from_numpy(target.astype(np.float32)).to(self.device)) * self.scale**2
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
        f = self.scale * self.trainer.values()
        self.em.update(self.y[self.rows] - f[self.rows])
        error = float("nan")
        if len(self.check):
            rest = (self.y - f)[self.check] - self.em.mean(some_rows(self.design, self.check))
            weights = None if self.design.weights is None else self.design.weights[self.check]
            error = float(np.average(rest**2, weights=weights))
        self.trainer.end_epoch(error)
        entries = (epoch, loss, error, self.em.sigma, time.perf_counter() - begun)
        for name, entry in zip(self.history, entries, strict=True):
            self.history[name].append(float(entry))
        return error, f
