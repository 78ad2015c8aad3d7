"""What networks explain, in total and by input, against formulas for linear networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from linear_nets import linear_fit

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.fit.importance import permutation_importance
from pylmernn.fit.losses import loss_of, target_of
from pylmernn.mean.members import held_out
from pylmernn.training.options import Training

WEIGHTS = np.array([2.0, -1.0, 0.0])


def importance_of(design, estimates, **options):
    loss = loss_of(design, estimates, estimates.networks)
    return permutation_importance(design, estimates.networks, loss, **options)


def test_permuting_a_linear_input_costs_what_algebra_says():
    """E over permutations of mean (r + w (x - x_p))^2 is mean r^2 + 2 w cov(r, x) + 2 w^2 var(x)."""
    design, estimates = linear_fit(WEIGHTS)
    found = importance_of(design, estimates, n_repeats=60)
    residual = target_of(design, estimates, estimates.networks) - estimates.networks.fitted
    x = design.nets[0].inputs
    cov = np.array([np.mean((residual - residual.mean()) * (column - column.mean())) for column in x.T])
    expected = (2 * WEIGHTS * cov + 2 * WEIGHTS**2 * x.var(axis=0)) / design.y.var()
    assert list(found.table["input"]) == ["a", "b", "c"]
    np.testing.assert_allclose(found.table["importance"][:2], expected[:2], rtol=0.05)
    assert found.table["importance"][2] == 0.0
    assert (np.abs(found.table["importance"] - expected) <= 4 * found.table["se"] + 1e-12).all()


def test_the_explained_share_is_the_error_without_the_network():
    design, estimates = linear_fit(WEIGHTS)
    found = importance_of(design, estimates)
    target = target_of(design, estimates, estimates.networks)
    f = estimates.networks.fitted
    expected = (np.mean(target**2) - np.mean((target - f) ** 2)) / design.y.var()
    assert found.explained[0] == pytest.approx(expected, rel=1e-5)
    assert not found.held_out


def test_rows_are_judged_by_members_that_have_not_learnt_from_them():
    learned = np.ones((2, 400), dtype=bool)
    learned[0, :150] = learned[1, 100:300] = False
    design, estimates = linear_fit([WEIGHTS, 2 * WEIGHTS], learned=learned)
    seen = []
    for member, rows in held_out(estimates.networks, 1000, seed=0):
        index = next(i for i, m in enumerate(estimates.networks.members) if m is member.members[0])
        assert not learned[index, rows].any()
        seen += rows.tolist()
    assert sorted(seen) == list(range(300))
    found = importance_of(design, estimates)
    assert found.held_out
    assert found.n_rows == 300


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    d = pd.DataFrame(rng.normal(size=(800, 3)), columns=["x", "z", "noise"]).assign(g=np.arange(800) % 20)
    d["kind"] = rng.choice(list("abc"), 800)
    d["y"] = d["x"] ** 2 + (d["kind"] == "b") + rng.normal(size=20)[d["g"]] + 0.3 * rng.normal(size=800)
    control = Control(training=Training(epochs=20, folds=2))
    return pylmernn.lmernn(
        "y ~ nn(x, noise, hidden = 20) + nn(kind, z, hidden = 8) + (1 | g)", d, control=control, seed=1
    )


def test_a_fit_ranks_its_inputs(fit):
    table = fit.importance().set_index("input")["importance"]
    assert list(fit.importance().columns) == ["network", "input", "importance", "se"]
    assert table["x"] > table["kind"] > max(table["noise"], table["z"])
    assert abs(table["noise"]) < 0.05
    pd.testing.assert_frame_equal(fit.importance(), fit.importance(seed=0, n_repeats=5))
    assert not fit.importance(seed=1).equals(fit.importance())


def test_the_summary_prints_them(fit):
    text = str(fit.summary())
    assert text.count("of the variance of y\n") == 2
    assert "importance of inputs: x" in text
    assert "importance of inputs: kind" in text
    assert "AIC and BIC do not count their parameters" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert fit.plot(kind="importance").get_xlabel().startswith("rise of the squared error")


def test_what_cannot_be_asked(fit):
    with pytest.raises(pylmernn.DesignError, match="at least one permutation"):
        fit.importance(n_repeats=0)
    linear = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
    with pytest.raises(pylmernn.DesignError, match="no inputs to permute"):
        linear.importance()


def test_tables_say_that_networks_count_as_known(fit):
    assert "Networks, taken as known" in str(fit)
    assert "Networks count as known" in str(fit.anova())
    assert "Networks count as known" in str(fit.confint(method="Wald"))
    assert "trained anew" not in str(fit.refitML().anova(fit.refitML()))
    linear = pylmernn.lmernn("y ~ x + (1 | g)", fit.model_frame(), REML=False)
    assert "trained anew for each model" in str(fit.refitML().anova(linear))
    assert "Networks" not in str(linear.anova()) + str(linear.confint(method="Wald"))
