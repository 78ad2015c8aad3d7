"""Fits of sequences in a file."""

import numpy as np
import pandas as pd
import pytest
import torch
from sequence_examples import dyads

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.fit.sequences import SequenceFit
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

BARS = ["", " + (crf | dyad)", " + (nn.last | dyad) + (crf | dyad)"]


@pytest.fixture(scope="module")
def data():
    return dyads(6, 6, 2).sample(frac=1.0, random_state=1)


def fitted(formula, data, **more):
    control = Control(training=Training(epochs=2))
    return pylmernn.glmernn(formula, data, family="crf", sequence="sequence", time="t", control=control, seed=1, **more)


@pytest.mark.parametrize("bars", BARS)
def test_a_saved_fit_is_the_same(bars, data, tmp_path):
    before = fitted(f"state ~ x2 + nn(x1, hidden=c(2)){bars}", data)
    before.save(tmp_path / "fit")
    after = pylmernn.load(tmp_path / "fit")
    assert isinstance(after, SequenceFit)
    assert str(after) == str(before)
    assert [*tmp_path.iterdir()] == [tmp_path / "fit"]
    pd.testing.assert_frame_equal(after.fitted(), before.fitted())
    pd.testing.assert_frame_equal(after.predict_proba(data), before.predict_proba(data))
    pd.testing.assert_series_equal(after.predict(), before.predict())
    pd.testing.assert_series_equal(after.fixef(), before.fixef())
    pd.testing.assert_frame_equal(after.model_frame(), before.model_frame())
    pd.testing.assert_frame_equal(after.history(), before.history())
    likelihoods = [(float(fit.logLik()), fit.logLik().df, fit.logLik().nobs) for fit in (before, after)]
    assert likelihoods[0] == likelihoods[1]
    assert after.deviance(data) == before.deviance(data)
    if bars:
        ours, theirs = (fit.ranef(condVar=True) for fit in (after, before))
        pd.testing.assert_frame_equal(ours["dyad"], theirs["dyad"])
        pd.testing.assert_frame_equal(ours.condsd()["dyad"], theirs.condsd()["dyad"])
        new = data[data.dyad == "d2"].assign(dyad="new")
        grown = [fit.update_ranef(new).ranef()["dyad"] for fit in (before, after)]
        pd.testing.assert_frame_equal(*grown)
        average = [fit.predict_proba(new, allow_new_levels=True, average=3, seed=2) for fit in (before, after)]
        pd.testing.assert_frame_equal(*average)


def test_what_update_ranef_has_learnt_is_saved(data, tmp_path):
    new = data[data.dyad == "d2"].assign(dyad="new")
    grown = fitted("state ~ nn(x1, hidden=c(2)) + (crf | dyad)", data).update_ranef(new)
    grown.save(tmp_path / "fit")
    after = pylmernn.load(tmp_path / "fit")
    assert after.ngrps() == {"dyad": 7}
    pd.testing.assert_frame_equal(after.transitions("new"), grown.transitions("new"))


def test_a_module_is_given_back(data, tmp_path):
    tower = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    fit = fitted('state ~ nn(x1, x2, net="tower") + (crf | dyad)', data, nets={"tower": tower})
    fit.save(tmp_path / "fit")
    np.testing.assert_array_equal(pylmernn.load(tmp_path / "fit").transitions(), fit.transitions())
    after = pylmernn.load(tmp_path / "fit", nets={"tower": tower})
    pd.testing.assert_frame_equal(after.fitted(), fit.fitted())
    with pytest.raises(DesignError, match="module"):
        pylmernn.load(tmp_path / "fit").predict(data)
