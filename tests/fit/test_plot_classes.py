"""Calibration tables, ROC curves and pictures of effects."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from pylmernn import DesignError
from pylmernn.fit import plot_classes as pc

matplotlib.use("Agg")


def by_pairs(score, y):
    """How often a success scores above a failure, counted."""
    above = score[y == 1][:, None] - score[y == 0][None, :]
    return np.mean((above > 0) + 0.5 * (above == 0))


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    score, y = np.round(rng.normal(size=300), 1), rng.integers(0, 2, 300).astype(float)
    assert pc.auc(score, y) == pytest.approx(by_pairs(score, y), abs=1e-12)
    with pytest.raises(DesignError, match="both classes"):
        pc.auc(score, np.ones(300))


def test_trials_are_rows_written_once():
    score, share, trials = np.array([0.2, 0.5, 0.9]), np.array([0.25, 0.5, 0.75]), np.array([4.0, 2.0, 8.0])
    long_score = np.repeat(score, trials.astype(int))
    long_y = np.concatenate([np.arange(m) < s * m for s, m in zip(share, trials, strict=True)]).astype(float)
    assert pc.auc(score, share, trials) == pytest.approx(by_pairs(long_score, long_y))
    one = pc.calibration_table(score, share, trials, bins=3)
    two = pc.calibration_table(long_score, long_y, bins=3)
    assert one["n"].sum() == two["n"].sum() == 14


def test_calibration_bins_hold_equal_numbers_and_wilson_limits():
    rng = np.random.default_rng(2)
    p = rng.uniform(size=2000)
    y = (rng.uniform(size=2000) < p).astype(float)
    table = pc.calibration_table(p, y)
    assert table["n"].tolist() == [200.0] * 10
    inside = (table["lwr"] <= table["predicted"]) & (table["predicted"] <= table["upr"])
    assert inside.sum() >= 8
    from scipy.stats import binomtest

    k = round(float(table["observed"][0]) * 200)
    limits = binomtest(k, 200).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose([table["lwr"][0], table["upr"][0]], [limits.low, limits.high], rtol=1e-9)


def test_pictures_of_many_classes():
    rng = np.random.default_rng(3)
    eta = rng.normal(size=(500, 3))
    P = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    codes = np.array([rng.choice(3, p=row) for row in P])
    shares = pc.indicators(codes, 3)
    names = [text.get_text() for text in pc.roc(P, shares, "abc").get_legend().get_texts()]
    assert names[0] == f"a: AUC {pc.auc(P[:, 0], shares[:, 0]):.3f}"
    assert len(names) == 3
    assert len(pc.calibration(P, shares, "abc").containers) == 3


def test_a_distribution_integrates_to_one_and_marks_the_row():
    values = np.random.default_rng(4).normal(size=400)
    grid = np.linspace(-8, 8, 2000)
    assert np.trapezoid(pc.smooth_density(values, grid), grid) == pytest.approx(1.0, abs=1e-3)
    effects = [pc.Effects("g", values, 1.2, "a7"), pc.Effects("h", np.array([-0.4, 0.4]))]
    figure = pc.distributions(effects, "effect")
    assert figure.axes[0].texts[0].get_text() == "a7: +1.20"
    assert not figure.axes[1].texts
