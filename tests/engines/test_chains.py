"""Diagnostics of chains beside plain loops, closed forms, and ArviZ where it is installed."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import stats

from pylmernn.engines.chains import Draws, ess, rhat


def autoregressive(rho, chains, draws, size=4, shift=0.0, seed=1):
    e = np.random.default_rng(seed).normal(size=(chains, draws, size))
    x = np.empty_like(e)
    x[:, 0] = e[:, 0] / math.sqrt(1 - rho * rho)
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + e[:, t]
    x[0] += shift
    return x


def loop_scores(chains):
    """Rank-normalised halves of the chains (chains, draws) of one quantity, a list a half."""
    n = chains.shape[1] // 2
    halves = [list(c[:n]) for c in chains] + [list(c[-n:]) for c in chains]
    everything = sorted(v for h in halves for v in h)
    ranks = {v: np.mean([i + 1 for i, w in enumerate(everything) if w == v]) for v in set(everything)}
    return [[stats.norm.ppf((ranks[v] - 3 / 8) / (len(everything) + 1 / 4)) for v in h] for h in halves]


def loop_rhat(chains):
    def plain(halves):
        n = len(halves[0])
        means = [sum(h) / n for h in halves]
        within = np.mean([sum((v - m) ** 2 for v in h) / (n - 1) for h, m in zip(halves, means, strict=True)])
        between = sum((m - np.mean(means)) ** 2 for m in means) / (len(means) - 1)
        return math.sqrt(((n - 1) / n * within + between) / within)

    n = chains.shape[1] // 2
    kept = np.concatenate([chains[:, :n], chains[:, -n:]], axis=1)
    folded = np.abs(chains - np.median(kept))
    return max(plain(loop_scores(chains)), plain(loop_scores(folded)))


def loop_ess(chains):
    halves = loop_scores(chains)
    m, n = len(halves), len(halves[0])
    means = [np.mean(h) for h in halves]

    def covariance(lag):
        return np.mean(
            [
                sum((h[t] - mean) * (h[t + lag] - mean) for t in range(n - lag)) / n
                for h, mean in zip(halves, means, strict=True)
            ]
        )

    within = covariance(0) * n / (n - 1)
    total = covariance(0) + np.var(means, ddof=1)
    rho = [1.0] + [1 - (within - covariance(lag)) / total for lag in range(1, n)]
    time, lowest, lag = -1.0, math.inf, 0
    while rho[lag] + rho[lag + 1] > 0 and lag < 2 * ((n - 3) // 2):
        lowest = min(lowest, rho[lag] + rho[lag + 1])
        time += 2 * lowest
        lag += 2
    time += max(rho[lag], 0.0)
    return m * n / max(time, 1 / math.log10(m * n))


@pytest.mark.parametrize("rho, chains, draws, shift", [(0.0, 4, 40, 0.0), (0.8, 2, 61, 0.0), (-0.5, 3, 50, 0.4)])
def test_beside_plain_loops(rho, chains, draws, shift):
    x = autoregressive(rho, chains, draws, shift=shift)
    np.testing.assert_allclose(rhat(x), [loop_rhat(x[:, :, j]) for j in range(4)], rtol=1e-12)
    np.testing.assert_allclose(ess(x), [loop_ess(x[:, :, j]) for j in range(4)], rtol=1e-10)


def test_ties_have_their_mean_rank():
    x = np.random.default_rng(2).poisson(1.0, (3, 30)).astype(float)
    assert float(rhat(x)) == pytest.approx(loop_rhat(x), rel=1e-12)
    assert float(ess(x)) == pytest.approx(loop_ess(x), rel=1e-10)


def test_trailing_dimensions():
    x = autoregressive(0.5, 2, 40, size=6)
    for function in (rhat, ess):
        shaped = function(x.reshape(2, 40, 3, 2))
        assert shaped.shape == (3, 2)
        np.testing.assert_array_equal(shaped.reshape(-1), function(x))
        assert function(x[:, :, 0]).shape == ()


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.6, 0.9])
def test_ess_of_an_autoregression(rho):
    """``n (1 - rho) / (1 + rho)``, on average over 200 quantities."""
    found = ess(autoregressive(rho, 4, 2000, size=200)).mean()
    assert found == pytest.approx(8000 * (1 - rho) / (1 + rho), rel=0.06)


def test_rhat_sees_shifts_and_scales():
    good = autoregressive(0.0, 4, 500)
    assert rhat(good).max() < 1.01
    assert rhat(autoregressive(0.0, 4, 500, shift=1.0)).min() > 1.05
    wide = good.copy()
    wide[0] *= 4.0  # same mean: only the folded ranks see it
    assert rhat(wide).min() > 1.05


def test_constant_quantities():
    x = np.ones((2, 20))
    assert np.isnan(rhat(x))
    assert np.isnan(ess(x))


def example_draws(thin=1):
    rng = np.random.default_rng(3)
    b = tuple(rng.normal(size=(2, 60 // thin, q, 1, 1)).astype(np.float32) for q in (3, 2))
    variances = rng.gamma(2.0, size=(2, 60, 2))
    return Draws(b, variances, ("g", "h"), 1.0, 100.0, 0, 1.0, "polya-gamma", 2, 60)


def test_draws_by_name():
    draws = example_draws()
    values = draws.to_dict()
    assert list(values) == ["g", "h", "b_1", "b_2"]
    np.testing.assert_array_equal(values["h"], draws.variances[:, :, 1])
    assert values["b_1"].shape == (2, 60, 3, 1, 1)


def test_arviz_is_asked_for_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install"):
        example_draws().to_arviz()


@pytest.mark.parametrize("thin", [1, 5])
def test_arviz(thin):
    arviz = pytest.importorskip("arviz")
    draws = example_draws(thin)
    data = draws.to_arviz()
    np.testing.assert_array_equal(data["posterior"]["g"].values, draws.variances[:, :, 0])
    where = data["posterior" if thin == 1 else "effects"]
    np.testing.assert_array_equal(where["b_2"].values, draws.b[1])
    x = autoregressive(0.7, 4, 200)
    dataset = arviz.convert_to_dataset({"x": x})
    np.testing.assert_allclose(arviz.rhat(dataset)["x"].values, rhat(x), rtol=1e-10)
    np.testing.assert_allclose(arviz.ess(dataset)["x"].values, ess(x), rtol=1e-8)
