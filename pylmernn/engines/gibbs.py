r"""Gibbs sampling of all random effects of a logistic or multinomial model, with Pólya-Gamma variables.

Given ``omega_i ~ PG(m_i, psi_i)`` the logistic likelihood is normal in the linear predictor (Polson, Scott & Windle
2013, JASA 108:1339, eq. 7), so that the effects of all terms are jointly normal with precision ``Z' Omega Z + P``. They
are drawn by perturbation: the solution b of ``(Z' Omega Z + P) b = Z'(kappa - omega (offset - A)) + e`` is an exact
draw where ``e ~ N(0, Z' Omega Z + P)`` (Papandreou & Yuille 2010). Multinomial models go class by class, where
``psi_ic = eta_ic - A_ic`` and ``A_ic`` is the log-sum of the other classes (Holmes & Held 2006; Polson et al.). Adding
the same number to an effect in all classes leaves the likelihood as it is; that shift is drawn from its conditional
prior at the end of each sweep, without which it would be a slow random walk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pylmernn.engines import polyagamma
from pylmernn.engines.effects import Effects, Prior

#: Conjugate gradients end at this share of the right side, or after this many iterations.
TOLERANCE, MAX_ITERATIONS = 1e-4, 2000
#: Sums of exponentials are kept above this, whose logarithm is finite.
SMALLEST = 1e-290


@dataclass(frozen=True)
class Conditional:
    """The normal distribution that the effects of one class were drawn from, given omega.

    Attributes
    ----------
    c : int
        The class.
    system : NormalEffects
        Its precision.
    omega : Tensor (S, n)
    mean, deviation : Tensor (S, Q)
        Whose sum was drawn.
    noise : Tensor (S, Q)
        The precision times the deviation.
    residual : Tensor (S, n)
        ``kappa - omega psi`` with psi at the mean, the score of the linear predictor.
    """

    c: int
    system: NormalEffects
    omega: Tensor
    mean: Tensor
    deviation: Tensor
    noise: Tensor
    residual: Tensor


class PolyaGammaGibbs:
    """Draws the effects of a binomial (logit) or multinomial (softmax) model given their prior.

    Parameters
    ----------
    effects : Effects
    y : Tensor (n,)
        Binomial: proportions of successes. Multinomial: codes of classes, 0 to C - 1.
    trials : Tensor (n,) or None
        Whole numbers of trials, by default 1.
    n_classes : int
        1 for binomial models, otherwise C.
    generator : torch.Generator, optional

    Attributes
    ----------
    iterations : int
        The largest number of iterations of the conjugate gradients in the last sweep.
    observe : callable or None
        Told the :class:`Conditional` of each draw, which then takes two solutions instead of one.

    Raises
    ------
    ValueError
        Where trials are not whole.
    """

    def __init__(
        self,
        effects: Effects,
        y: Tensor,
        trials: Tensor | None,
        n_classes: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.effects, self.n_classes, self.generator = effects, n_classes, generator
        self.iterations = 0
        self.observe: Callable[[Conditional], None] | None = None
        self.y = y.to(effects.device)
        ones = torch.ones(1, dtype=torch.float64, device=effects.device)
        trials = ones if trials is None else trials.to(device=effects.device, dtype=torch.float64)
        if bool(((trials < 1) | (trials != trials.round())).any()):
            raise ValueError("the sampler 'polya-gamma' needs whole weights of at least 1: use sampler 'nuts'.")
        self.trials = ones if bool((trials == 1).all()) else trials

    def sweep(self, b: Tensor, offset: Tensor, prior: Prior, classes: Sequence[int] | None = None) -> Tensor:
        """Draw the effects of all classes, or of some, once.

        Parameters
        ----------
        b : Tensor (S, Q, C)
            Current effects of each chain.
        offset : Tensor (n, C)
            The rest of the linear predictor.
        prior : Prior
        classes : sequence of int, optional
            Classes to draw, in increasing order. The shift common to all classes is drawn only where this is left out.

        Returns
        -------
        Tensor (S, Q, C)
        """
        self.iterations = 0
        rows = b.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        base = offset.to(torch.float64).T.contiguous()
        if self.n_classes == 1:
            eta = self.effects.to_rows(self.effects.cell_eta(rows[:, 0])) + base
            kappa = self.trials * (self.y - 0.5)
            rows[:, 0] = self._draw(0, rows[:, 0], eta, base, kappa, prior)
            return rows.transpose(1, 2)
        self._sweep_classes(rows, base, prior, range(self.n_classes) if classes is None else classes)
        out = rows.transpose(1, 2)
        return draw_shift(out, prior, self.generator) if classes is None else out

    def _sweep_classes(self, rows: Tensor, base: Tensor, prior: Prior, classes: Sequence[int]) -> None:
        """Draw classes in turn, in place; rows (S, C, Q), base (C, n)."""
        effects, chains = self.effects, len(rows)
        eta = effects.to_rows(effects.cell_eta(rows.reshape(-1, effects.size))).reshape(chains, self.n_classes, -1)
        eta = eta + base
        top = eta.amax(dim=1)
        weights = (eta - top[:, None]).exp_()
        # sums over the classes after c, and while going on over those before it: no differences of large sums
        after = torch.zeros_like(weights)
        for c in range(self.n_classes - 2, -1, -1):
            torch.add(after[:, c + 1], weights[:, c + 1], out=after[:, c])
        before = torch.zeros_like(top)
        for c in range(self.n_classes):
            if c in classes:
                others = top + (before + after[:, c]).clamp_(min=SMALLEST).log_()
                kappa = self.trials * ((self.y == c).to(torch.float64) - 0.5)
                rows[:, c] = self._draw(c, rows[:, c], eta[:, c] - others, base[c] - others, kappa, prior.only(c))
                new = effects.to_rows(effects.cell_eta(rows[:, c])) + base[c]
                weights[:, c] = torch.exp((new - top).clamp_(max=600.0))
            before += weights[:, c]

    def _draw(self, c: int, b: Tensor, psi: Tensor, shift: Tensor, kappa: Tensor, prior: Prior) -> Tensor:
        """Effects (S, Q) of class c given the linear predictor psi (S, n), which is ``shift + Z b``."""
        effects = self.effects
        omega = polyagamma.draw(self.trials, psi, self.generator)
        system = NormalEffects(effects, effects.to_cells(omega), prior)
        right = effects.cell_sums(effects.to_cells(kappa - omega * shift))
        noise = system.noise(self.generator)
        if self.observe is None:
            out, iterations = system.solve(right.add_(noise), b)
            self.iterations = max(self.iterations, iterations)
            return out
        mean, iterations = system.solve(right, b)
        deviation, more = system.solve(noise, system.by_blocks(noise))
        self.iterations = max(self.iterations, iterations, more)
        residual = kappa - omega * (shift + effects.to_rows(effects.cell_eta(mean)))
        self.observe(Conditional(c, system, omega, mean, deviation, noise, residual))
        return mean + deviation


class NormalEffects:
    """The precision ``Z' Omega Z + P`` of the effects, as an operator on (S, Q).

    The term with most effects is eliminated exactly, level by level; conjugate gradients solve for the others, with the
    blocks of their levels as the preconditioner. A single term needs no iterations.

    Parameters
    ----------
    effects : Effects
    weights : Tensor (S, cells)
        Omega, summed by cell.
    prior : Prior
        Of one class, whose chains the S rows are; or of C = S classes, whose precisions the rows stand for.
    """

    def __init__(self, effects: Effects, weights: Tensor, prior: Prior) -> None:
        self.effects, self.weights, self.prior = effects, weights, prior
        sizes = [q * d for q, d in effects.shapes]
        self.largest = sizes.index(max(sizes))
        self.rest = [k for k in range(len(sizes)) if k != self.largest]
        self._first = slice(effects.offsets[self.largest], effects.offsets[self.largest] + sizes[self.largest])
        self._inverses: list[Tensor] = []
        if all(d == 1 for _, d in effects.shapes):
            self._inverse = 1.0 / (effects.cell_diagonal(weights) + prior.diagonal().T)
            return
        for k, precision in enumerate(prior.precisions):
            self._inverses.append(invert_blocks(effects.cell_blocks(weights, k) + precision[:, None]))

    def noise(self, generator: torch.Generator | None) -> Tensor:
        """Draws (S, Q) whose covariance is the precision."""
        shape, device = self.weights.shape, self.weights.device
        z = torch.randn(shape, generator=generator, dtype=self.weights.dtype, device=device)
        out = self.effects.cell_sums(z.mul_(self.weights.sqrt()))
        return out.add_(self.prior.noise(shape[0], generator)[:, :, 0])

    def apply(self, b: Tensor) -> Tensor:
        """The precision times b (S, Q)."""
        out = self.effects.cell_sums(self.effects.cell_eta(b).mul_(self.weights))
        return out.add_(self.prior.apply_rows(b))

    def by_blocks(self, r: Tensor) -> Tensor:
        """The inverse of the diagonal blocks of all levels times r (S, Q)."""
        if not self._inverses:
            return r * self._inverse
        parts = self.effects.split(r[:, :, None])
        solved = [(inverse @ part) for inverse, part in zip(self._inverses, parts, strict=True)]
        return self.effects.join(solved)[:, :, 0]

    def inverse_blocks(self, term: int) -> Tensor:
        """The inverses of the diagonal blocks of the levels of a term (S, q_k, d_k, d_k)."""
        if self._inverses:
            return self._inverses[term]
        q, d = self.effects.shapes[term]
        begin = self.effects.offsets[term]
        return self._inverse[:, begin : begin + q * d, None, None]

    def _only_first(self, r: Tensor) -> Tensor:
        """``r`` with zeros for all terms but the eliminated one."""
        out = torch.zeros_like(r)
        out[:, self._first] = r[:, self._first]
        return out

    def _eliminate(self, eta: Tensor) -> Tensor:
        """What the eliminated term adds to the linear predictor (S, cells) eta of the others, at its mean."""
        pulled = self.effects.cell_sums(eta * self.weights, [self.largest])
        return self.effects.cell_eta(self.by_blocks(pulled), [self.largest])

    def _reduced(self, x: Tensor) -> Tensor:
        """The Schur complement of the eliminated term times x (S, Q), which is 0 for that term."""
        eta = self.effects.cell_eta(x, self.rest)
        eta -= self._eliminate(eta)
        out = self.effects.cell_sums(eta.mul_(self.weights), self.rest)
        return out.add_(self.prior.apply_rows(x))

    def solve(self, right: Tensor, start: Tensor) -> tuple[Tensor, int]:
        """The effects (S, Q) for a right side (S, Q), and the number of iterations."""
        mean = self.by_blocks(self._only_first(right))
        if not self.rest:
            return mean, 0
        pulled = self.effects.cell_sums(self.effects.cell_eta(mean, [self.largest]).mul_(self.weights), self.rest)
        reduced = right - self._only_first(right) - pulled
        x, iterations = conjugate_gradients(self._reduced, self.by_blocks, reduced, start - self._only_first(start))
        pulled = self.effects.cell_sums(self.effects.cell_eta(x, self.rest).mul_(self.weights), [self.largest])
        return x + mean - self.by_blocks(pulled), iterations


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], right: Tensor, start: Tensor
) -> tuple[Tensor, int]:
    """Solve for each chain (S, m) on its own; a chain that has converged stands still."""
    x, r = start.clone(), right - apply(start)
    limit = TOLERANCE**2 * (right * precondition(right)).sum(dim=1)
    z = precondition(r)
    p, rz = z, (r * z).sum(dim=1)
    for iteration in range(MAX_ITERATIONS):
        active = rz > limit
        if not bool(active.any()):
            return x, iteration
        q = apply(p)
        alpha = torch.where(active, rz / (p * q).sum(dim=1), 0.0)[:, None]
        x.addcmul_(p, alpha)
        r.addcmul_(q, alpha, value=-1.0)
        z = precondition(r)
        new = (r * z).sum(dim=1)
        p = z + p * torch.where(active, new / rz, 0.0)[:, None]
        rz = new
    return x, MAX_ITERATIONS


def invert_blocks(blocks: Tensor) -> Tensor:
    """Inverses of symmetric positive definite blocks (..., d, d)."""
    d = blocks.shape[-1]
    if d == 1:
        return 1.0 / blocks
    if d == 2:
        a, b, c = blocks[..., 0, 0], blocks[..., 0, 1], blocks[..., 1, 1]
        determinant = a * c - b * b
        return torch.stack([c, -b, -b, a], dim=-1).reshape(blocks.shape) / determinant[..., None, None]
    return torch.cholesky_inverse(torch.linalg.cholesky(blocks))


def draw_shift(b: Tensor, prior: Prior, generator: torch.Generator | None) -> Tensor:
    """Draw what is common to all classes of each level's effects (S, Q, C) from its conditional prior.

    ``b_c + s`` with the precisions P_c has ``s ~ N(-(sum P_c)^-1 sum P_c b_c, (sum P_c)^-1)``: an exact move where the
    likelihood does not see s.
    """
    pull = prior.effects.split(prior.apply(b).sum(dim=2, keepdim=True))
    parts = []
    for part, right, precision in zip(prior.effects.split(b), pull, prior.precisions, strict=True):
        factor = torch.linalg.cholesky(precision.sum(dim=0))
        z = torch.randn(right.shape[:-1], generator=generator, dtype=b.dtype, device=b.device)
        # s = L'^-1 (z - L^-1 right), for all chains and levels at once
        half = torch.linalg.solve_triangular(factor, right[..., 0].reshape(-1, len(factor)).T, upper=False)
        shift = torch.linalg.solve_triangular(factor.T, z.reshape(-1, len(factor)).T - half, upper=True)
        parts.append(part + shift.T.reshape(right.shape))
    return prior.effects.join(parts)


__all__ = ["NormalEffects", "PolyaGammaGibbs", "conjugate_gradients", "draw_shift"]
