r"""Draws of Pólya-Gamma variables, many at once.

``PG(1, z)`` is a quarter of Devroye's ``J*(1, z / 2)`` (Polson, Scott & Windle 2013, JASA 108:1339, appendix S2),
whose density is ``cosh(z / 2) exp(-z^2 x / 8)`` times an alternating series. Two departures make it fast on arrays.
Left of t = 0.64 the series has one form and right of it another, and on each side four terms sum to it within float64,
so that no series is followed until it decides. And left of t the proposal is not the truncated inverse Gaussian but its
simpler neighbour ``x^-2 exp(-1 / 2x)``, under the sharpest bound of the rest; its mass needs no normal distribution
function. Only from ``z / 2 = 2.36`` on is the inverse Gaussian itself better. A proposal is accepted with probability
0.85 to 1 for every z; the rejected rows are drawn again, alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Proposal = Callable[[Tensor, "torch.Generator | None"], tuple[Tensor, Tensor]]
#: Where the two forms of the series meet, and where the inverse Gaussian becomes the better proposal.
MEETING, TILTED = 0.64, 2.36
#: Up to this many draws of PG(1, z) are summed; beyond, the normal approximation is used.
LARGEST_SUM = 50
#: Rows at a time on a CPU: working arrays that fit a cache.
CHUNK = 1 << 14
#: Below this u the cumulants come from ``tanh(u) / u = sum_n c_n u^(2 n)``.
SERIES_RADIUS = 0.25
TANH_SERIES = (
    1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875,
    6404582 / 10854718875, -443861162 / 1856156927625,
)  # fmt: skip


def draw(b: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws of ``PG(b, z)``.

    Parameters
    ----------
    b : Tensor
        Whole numbers of at least 1, of the shape of z or broadcast to it. Exact up to 50; above, a normal draw bent to
        the skewness, with the exact mean and variance.
    z : Tensor
        Any shape.
    generator : torch.Generator, optional

    Returns
    -------
    Tensor of float64, shape of ``b`` and ``z`` together

    Raises
    ------
    ValueError
        Where b is not whole or below 1.

    Examples
    --------
    >>> omega = draw(torch.tensor(1), torch.zeros(20000), torch.Generator().manual_seed(1))
    >>> bool(abs(omega.mean() - 0.25) < 0.005)
    True
    """
    z = z.to(torch.float64)
    shape = torch.broadcast_shapes(b.shape, z.shape)
    if b.numel() == 1 and int(b.reshape(-1)[0]) == 1 and float(b.reshape(-1)[0]) == 1.0:
        return draw_ones(z.expand(shape).reshape(-1), generator).reshape(shape)
    counts, tilt = b.to(z.device).expand(shape).reshape(-1), z.expand(shape).reshape(-1)
    if bool(((counts < 1) | (counts != counts.round())).any()):
        raise ValueError("Pólya-Gamma draws need whole numbers of trials of at least 1: check the weights.")
    if bool((counts == 1).all()):
        return draw_ones(tilt, generator).reshape(shape)
    out = torch.empty_like(tilt)
    large = counts > LARGEST_SUM
    few, many = (~large).nonzero()[:, 0], large.nonzero()[:, 0]
    if len(few):
        out[few] = draw_sums(counts[few].long(), tilt[few], generator)
    if len(many):
        out[many] = draw_normal(counts[many].to(torch.float64), tilt[many], generator)
    return out.reshape(shape)


def draw_ones(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """``PG(1, z)`` (m,)."""
    h = z.abs() * 0.5
    tilted = h > TILTED
    if not bool(tilted.any()):
        return _reject(h, _propose_simple, generator).mul_(0.25)
    out = torch.empty_like(h)
    for mask, propose in ((~tilted, _propose_simple), (tilted, _propose_tilted)):
        rows = mask.nonzero()[:, 0]
        out[rows] = _reject(h[rows], propose, generator)
    return out.mul_(0.25)


def draw_sums(b: Tensor, z: Tensor, generator: torch.Generator | None) -> Tensor:
    """``PG(b, z)`` (m,) as sums of b draws of ``PG(1, z)``."""
    owner = torch.repeat_interleave(torch.arange(len(b), device=b.device), b)
    return torch.zeros_like(z).index_add_(0, owner, draw_ones(z[owner], generator))


def draw_normal(b: Tensor, z: Tensor, generator: torch.Generator | None) -> Tensor:
    """``PG(b, z)`` (m,) for large b: exact mean and variance, skewness to first order (Cornish & Fisher)."""
    mean, variance, third = cumulants(b, z)
    bend = third / (6.0 * variance**1.5)
    normal = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    standard = (normal + bend * (normal * normal - 1.0)) / (1.0 + 2.0 * bend * bend).sqrt()
    return mean + variance.sqrt() * standard


def cumulants(b: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and third cumulant of ``PG(b, z)``.

    With ``u = z / 2``, ``g(u) = tanh(u) / u`` and ``D = u^-1 d/du`` they are ``b g / 4``, ``-b D g / 16`` and
    ``b D^2 g / 64``: derivatives of ``-b log cosh sqrt(u^2 + s / 2)`` in s.
    """
    u = z.to(torch.float64).abs() * 0.5
    small = u < SERIES_RADIUS
    v = torch.where(small, u, torch.zeros_like(u)) ** 2
    c = TANH_SERIES
    near = [torch.zeros_like(u) for _ in range(3)]
    for n in range(len(c)):
        near[0] += c[n] * v**n
        if n >= 1:
            near[1] += 2 * n * c[n] * v ** (n - 1)
        if n >= 2:
            near[2] += 4 * n * (n - 1) * c[n] * v ** (n - 2)
    w = torch.where(small, torch.ones_like(u), u)
    tanh = torch.tanh(w)
    sech2 = 1.0 / torch.cosh(w.clamp(max=300.0)) ** 2
    first = (w * sech2 - tanh) / w**3
    second = (-2.0 * sech2 * tanh / w - 3.0 * first) / w**2
    g, Dg, D2g = (torch.where(small, a, f) for a, f in zip(near, (tanh / w, first, second), strict=True))
    return b * g / 4.0, -b * Dg / 16.0, b * D2g / 64.0


def _reject(h: Tensor, propose: Proposal, generator: torch.Generator | None) -> Tensor:
    """``J*(1, h)`` (m,): proposes again for the rejected rows until none is left."""
    if not len(h):
        return h
    chunk = CHUNK if h.device.type == "cpu" else len(h)
    first = [propose(part, generator) for part in h.split(chunk)]
    out = torch.cat([x for x, _ in first])
    rows = torch.cat([rejected for _, rejected in first]).nonzero()[:, 0]
    while len(rows):
        x, rejected = propose(h[rows], generator)
        out[rows] = x  # those of the rejected are overwritten in a later round
        rows = rows[rejected.nonzero()[:, 0]]
    return out


def _uniform(h: Tensor, generator: torch.Generator | None) -> Tensor:
    """In [0, 1)."""
    return torch.rand(h.shape, generator=generator, dtype=h.dtype, device=h.device)


def _exponential(h: Tensor, generator: torch.Generator | None) -> Tensor:
    """From the logarithm of a uniform number in (0, 1], three times faster than ``exponential_`` on a CPU."""
    return _uniform(h, generator).neg_().add_(1.0).log_().neg_()


def _series(x: Tensor, left: Tensor) -> Tensor:
    """The series over its first term, ``1 - 3 r + 5 r^3 - 7 r^6``, with r at most 0.002; ``left`` is 1 or 0."""
    r = torch.lerp((-(math.pi**2)) * x, -4.0 / x, left).exp_()
    cube = r * r * r
    return r.mul_(-3.0).add_(1.0).add_(cube * (5.0 - 7.0 * cube))


def _propose_simple(h: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Proposals (m,) and whether they are rejected; left of the meeting point from ``x^-2 exp(-1 / 2x)``.

    Choices between the sides are ``lerp`` with weights 0 and 1, which is exact and many times faster than ``where``.
    """
    half = 0.5 * h * h
    rate = half + math.pi**2 / 8.0
    right_mass = torch.exp(-MEETING * rate).mul_(0.5 * math.pi).div_(rate)
    # sqrt(x) exp(-h^2 x / 2) is largest at 1 / h^2, or at t where that lies beyond t
    peak = (0.5 / half).clamp_(max=MEETING)
    bound = torch.exp(-half * peak).mul_(peak.sqrt_())
    left_mass = (2.0 * math.sqrt(2.0 / math.pi) * math.exp(-0.5 / MEETING)) * bound
    place = _uniform(h, generator).mul_(left_mass + right_mass).sub_(right_mass)
    left = (place >= 0.0).to(h.dtype)
    exponential = _exponential(h, generator)
    near = MEETING / exponential.mul(2.0 * MEETING).add_(1.0)
    x = torch.lerp(exponential.div_(rate).add_(MEETING), near, left)
    target = torch.lerp(bound, torch.exp(-x * half).mul_(x.sqrt()), left).mul_(_series(x, left))
    # given the side, the place on it is a second uniform number
    uniform = torch.lerp(-place / right_mass, place / left_mass, left)
    return x, uniform.mul_(bound) > target


def _propose_tilted(h: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Proposals (m,) and whether they are rejected; left of the meeting point from the inverse Gaussian (1 / h, 1)."""
    rate = 0.5 * h * h + math.pi**2 / 8.0
    # the mass on the right over that on the left, 2 exp(-h), which would underflow alone
    odds = torch.exp(h - MEETING * rate).mul_(0.25 * math.pi).div_(rate)
    left = (_uniform(h, generator) * (1.0 + odds) >= odds).to(h.dtype)
    # Michael, Schucany & Haas (1976); the smaller root without cancellation
    y = torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device).square_()
    mean = 1.0 / h
    root = mean / (1.0 + 0.5 * mean * (y + (y * y + 4.0 * h * y).sqrt_()))
    gauss = torch.lerp(mean * mean / root, root, (_uniform(h, generator) * (mean + root) <= mean).to(h.dtype))
    x = torch.lerp(_exponential(h, generator) / rate + MEETING, gauss, left)
    outside = (left > 0) & (x > MEETING)
    return x, outside | (_uniform(h, generator) > _series(x, left))
