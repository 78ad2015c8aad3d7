"""Partial dependence against what a linear network must give; pictures that are drawn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from linear_nets import linear_fit

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.fit.effects import partial_dependence
from pylmernn.training.options import Training

mpl.use("Agg")


def test_a_linear_network_has_a_straight_line():
    design, estimates = linear_fit([2.0, -1.0, 0.5])
    table = partial_dependence(design, estimates.networks, ["b"], {}, grid_size=11)
    x = design.nets[0].inputs
    assert table["b"].iloc[[0, -1]].tolist() == pytest.approx(np.quantile(x[:, 1], [0.01, 0.99]))
    at_mean = x.mean(axis=0) @ [2.0, 0.0, 0.5] - estimates.networks.shift  # 400 rows: all are averaged over
    np.testing.assert_allclose(table["f"], at_mean - table["b"], atol=1e-5)


def test_a_pair_is_a_plane():
    design, estimates = linear_fit([2.0, -1.0, 0.0])
    table = partial_dependence(design, estimates.networks, ["a", "b"], {}, grid_size=8)
    assert len(table) == 25
    np.testing.assert_allclose(table["f"] - (2 * table["a"] - table["b"]), -estimates.networks.shift, atol=1e-5)


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    d = pd.DataFrame(
        {"x": rng.normal(size=500), "count": rng.integers(0, 4, 500), "kind": rng.choice(list("abc"), 500)}
    )
    d["g"] = np.arange(500) % 20
    d["y"] = d["x"] + 2.0 * (d["kind"] == "b") + rng.normal(size=20)[d["g"]] + 0.3 * rng.normal(size=500)
    control = Control(training=Training(epochs=30, folds=0))
    return pylmernn.lmernn("y ~ nn(x, count, kind, hidden = 16) + (1 | g)", d, control=control, seed=1)


def test_factors_have_names_and_few_numbers_all_their_values(fit):
    kinds = fit.partial_dependence("kind")
    assert kinds["kind"].tolist() == ["a", "b", "c"]
    assert kinds["f"].idxmax() == 1
    assert fit.partial_dependence("count")["count"].tolist() == [0, 1, 2, 3]
    assert len(fit.partial_dependence("x", grid_size=17)) == 17
    pair = fit.partial_dependence(["x", "kind"], grid_size=10)
    assert pair.groupby("kind").size().tolist() == [6, 6, 6]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [("w", "no network has an input 'w': they take x, count, kind"), (["x", "x"], "of one input or a pair")],
)
def test_inputs_that_are_wrong(fit, inputs, message):
    with pytest.raises(pylmernn.DesignError, match=message):
        fit.partial_dependence(inputs)
    with pytest.raises(pylmernn.DesignError, match="at least 2"):
        fit.partial_dependence("x", grid_size=1)


def test_pictures(fit):
    figure = fit.plot(kind="partial")
    assert {ax.get_xlabel() for ax in figure.axes} == {"x", "count", "kind"}
    assert fit.plot(kind="partial", pair=("x", "kind")).axes[0].get_ylabel() == "kind"
    shown = fit.plot(kind="predicted")
    assert "50 rows held out" in shown.get_title()
    linear = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
    assert "30 rows of the fit" in linear.plot(kind="predicted").get_title()
    with pytest.raises(pylmernn.DesignError, match="no input to vary"):
        linear.plot(kind="partial")
