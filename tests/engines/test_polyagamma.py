"""Draws of Pólya-Gamma variables beside closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pylmernn.engines import polyagamma


def moments(b, z):
    """Mean and variance in closed form (Polson, Scott & Windle 2013, section 2.3)."""
    if z == 0:
        return b / 4, b / 24
    if z > 100:  # cosh would overflow; tanh is 1
        return b / (2 * z), b / (2 * z**3)
    return b / (2 * z) * math.tanh(z / 2), b / (4 * z**3) * (math.sinh(z) - z) / math.cosh(z / 2) ** 2


@pytest.mark.parametrize("b", [1, 2, 7, 60])
@pytest.mark.parametrize("z", [0.0, 1.0, 3.0, 4.8, 10.0, 40.0, 4000.0])
def test_moments(b, z):
    m = 40_000
    x = polyagamma.draw(torch.tensor(b), torch.full((m,), z), torch.Generator().manual_seed(1))
    assert x.shape == (m,)
    assert x.dtype == torch.float64
    assert float(x.min()) > 0
    mean, variance = moments(b, z)
    centred = (x - mean) ** 2
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / m)
    assert abs(float(centred.mean()) - variance) < 4.5 * float(centred.std()) / math.sqrt(m)


@pytest.mark.parametrize("z", [0.0, 0.3, 2.0, 2.6, 4.7, 4.75, 7.0])
def test_distribution_is_that_of_the_weighted_sum_of_exponentials(z):
    """PG(1, z) is sum_k E_k / (2 pi^2 (k - 1/2)^2 + z^2 / 2); its tail beyond k = 2000 is replaced by its mean."""
    m, k = 20_000, np.arange(1, 2001)
    rates = 2 * math.pi**2 * (k - 0.5) ** 2 + z * z / 2
    rng = np.random.default_rng(2)
    oracle = np.zeros(m)
    for rate in rates[:200]:
        oracle += rng.exponential(1 / rate, m)
    oracle += moments(1, z)[0] - (1 / rates[:200]).sum()
    x = polyagamma.draw(torch.tensor(1), torch.full((m,), z), torch.Generator().manual_seed(3))
    assert stats.ks_2samp(x.numpy(), oracle).pvalue > 1e-3


@pytest.mark.parametrize("z", [1e-3, 0.2, 0.4999, 0.5001, 1.0, 10.0, 800.0])
def test_cumulants(z):
    """Against derivatives of b log cosh by Cauchy's integral."""
    mean, variance, third = (
        float(c) for c in polyagamma.cumulants(torch.tensor(3.0), torch.tensor(z, dtype=torch.float64))
    )
    if z < 100:
        # Taylor coefficients in s of -3 log cosh sqrt(z^2 / 4 + s / 2) by Cauchy's integral on a circle
        points, radius = np.exp(2j * np.pi * np.arange(64) / 64), 1.0
        values = -3 * np.log(np.cosh(np.sqrt(z * z / 4 + radius * points / 2) + 0j))
        coefficients = np.fft.fft(values).real / 64
        expected = (-coefficients[1], 2 * coefficients[2], -6 * coefficients[3])
    else:  # the inverse Gaussian with mean 3 / (2 z) and shape 9 / 4
        expected = (1.5 / z, 1.5 / z**3, 4.5 / z**5)
    np.testing.assert_allclose((mean, variance, third), expected, rtol=1e-9)


def test_skewness_of_many_trials():
    b, z, m = 60, 1.0, 200_000
    x = polyagamma.draw(torch.tensor(b), torch.full((m,), z), torch.Generator().manual_seed(4))
    mean, _, third = polyagamma.cumulants(torch.tensor(float(b)), torch.tensor(z))
    cubes = (x - mean) ** 3
    assert abs(float(cubes.mean() / third) - 1) < 4.5 * float(cubes.std() / third) / math.sqrt(m) + 0.03


def test_numbers_of_trials_by_row():
    b = torch.tensor([1, 5, 50, 51, 2]).repeat(20_000)
    z = torch.tensor([0.0, 1.0, -2.0, 3.0, 9.0]).repeat(20_000)
    x = polyagamma.draw(b, z, torch.Generator().manual_seed(5)).reshape(-1, 5)
    for j in range(5):
        mean, variance = moments(float(b[j]), abs(float(z[j])))
        assert abs(float(x[:, j].mean()) - mean) < 4.5 * math.sqrt(variance / len(x))


def test_seed_and_shapes():
    z = torch.randn(3, 4, 5)
    one = polyagamma.draw(torch.tensor(1), z, torch.Generator().manual_seed(6))
    two = polyagamma.draw(torch.ones(5), z, torch.Generator().manual_seed(6))
    assert one.shape == z.shape
    assert torch.equal(one, two)
    assert polyagamma.draw(torch.tensor(1), torch.zeros(0)).shape == (0,)


def test_messages():
    with pytest.raises(ValueError, match="whole numbers"):
        polyagamma.draw(torch.tensor([1.0, 2.5]), torch.zeros(2))
