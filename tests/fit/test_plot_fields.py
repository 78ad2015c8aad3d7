"""Maps and variograms of Gaussian processes."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.fit.plot_fields import _binned

mpl.use("Agg")


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 5, (60, 2))
    at = rng.integers(0, 60, 400)
    d = pd.DataFrame({"lon": places[at, 0], "lat": places[at, 1], "g": rng.integers(0, 8, 400)})
    d["y"] = 2 * np.sin(places[at, 0]) + rng.normal(size=8)[d["g"]] + 0.5 * rng.normal(size=400)
    return pylmernn.lmernn("y ~ gp(lon, lat) + (1 | g)", d)


def test_the_map_shows_the_modes_at_their_places(fit):
    ax = fit.plot(kind="map")
    dots = ax.collections[0]
    k = next(i for i, term in enumerate(fit.design.random) if term.locations is not None)
    shown = pd.DataFrame(np.column_stack([dots.get_offsets(), dots.get_array()]))
    held = pd.DataFrame(np.column_stack([fit.design.random[k].locations, fit.estimates.b[k]]))
    pd.testing.assert_frame_equal(*(t.sort_values([0, 1], ignore_index=True) for t in (shown, held)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lon", "lat")


def test_the_variogram_meets_the_fitted_curve(fit):
    ax = fit.plot(kind="variogram")
    points = np.asarray(ax.collections[0].get_offsets())
    curve = ax.lines[0].get_xydata()
    assert points[0, 0] == 0.0  # rows at one location
    near = points[points[:, 0] < 0.8]
    np.testing.assert_allclose(near[:, 1], np.interp(near[:, 0], *curve.T), rtol=0.25)
    assert curve[0, 1] == pytest.approx(fit.sigma() ** 2)


def test_bins_hold_every_pair_up_to_half_the_largest_distance():
    distance = np.concatenate([np.zeros(40), np.linspace(0.001, 2.0, 2000)])
    middle, mean, pairs = _binned(distance, 3.0 * distance)
    np.testing.assert_allclose(mean, 3.0 * middle)
    assert pairs[0] == 40
    assert pairs.sum() == (distance < 1.0).sum()


def test_what_has_no_field(fit):
    with pytest.raises(pylmernn.DesignError, match="there is no field 'gp\\(x\\)': use one of gp\\(lon, lat\\)"):
        fit.plot(kind="map", term="gp(x)")
    linear = pylmernn.lmernn("Yield ~ 1 + (1 | Batch)", pylmernn.datasets.load("Dyestuff"))
    with pytest.raises(pylmernn.DesignError, match=r"no gp\(\) term"):
        linear.plot(kind="variogram")
