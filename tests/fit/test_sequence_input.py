"""What a fit of sequences says of new data."""

import numpy as np
import pandas as pd
import pytest
from sequence_examples import STATES, dyads

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training


@pytest.fixture(scope="module")
def data():
    return dyads(6, 5, 2)


def fitted(data, formula="state ~ nn(x1, x2, hidden=c(2)) + (crf | dyad)", **more):
    control = Control(training=Training(epochs=2))
    given = {"family": "crf", "sequence": "sequence", "time": "t", "control": control, "seed": 1, **more}
    return pylmernn.glmernn(formula, data, **given)


@pytest.fixture(scope="module")
def fit(data):
    return fitted(data)


def changed(data, column, row, value):
    out = data.copy()
    out[column] = out[column].astype(object)
    out.loc[out.index[row], column] = value
    return out


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: changed(d, "x2", 3, np.nan), "'x2' is missing in row 4 of the new data"),
        (lambda d: changed(d, "dyad", 7, None), "'dyad' is missing in row 8 of the new data"),
        (lambda d: changed(d, "t", 1, None), "'t' is missing in row 2"),
        (lambda d: changed(d, "sequence", 2, None), "'sequence' is missing in row 3"),
        (lambda d: changed(d, "t", 1, 0), "'d0.0' has the time 0 twice in 't'"),
        (lambda d: d.assign(t=d.t.astype(str)), "'t' is text, which has no order of time"),
        (lambda d: changed(d, "dyad", 1, "d1"), "'d0.0' has rows of several levels of 'dyad'"),
        (lambda d: d.assign(dyad=np.where(d.t < 2, "new", "newer")), "'d0.0' has rows of several levels of 'dyad'"),
        (lambda d: d.drop(columns="sequence"), "no column 'sequence'"),
        (lambda d: d.drop(columns="t"), "no column 't'"),
        (lambda d: d.drop(columns="dyad"), "no column 'dyad'"),
        (lambda d: d.head(0), "the new data have no rows"),
    ],
)
def test_bad_new_data(fit, data, change, message):
    for ask in (fit.predict, fit.predict_proba, fit.deviance):
        with pytest.raises(DesignError, match=message):
            ask(change(data), allow_new_levels=True)
    with pytest.raises(DesignError, match=message):
        fit.update_ranef(change(data))


def test_states_that_the_fit_has_not_seen(fit, data):
    for ask in (fit.deviance, fit.update_ranef):
        with pytest.raises(DesignError, match=r"'state' is 'rage' in row 4 of the new data.* only calm, joy, row"):
            ask(changed(data, "state", 3, "rage"))
        with pytest.raises(DesignError, match="'state' is missing in row 4 of the new data"):
            ask(changed(data, "state", 3, None))
    pd.testing.assert_series_equal(fit.predict(changed(data, "state", 3, "rage")), fit.predict(data))
    pd.testing.assert_series_equal(fit.predict(data.drop(columns="state")), fit.predict(data))


def test_states_by_number_keep_their_names(data):
    numbered = data.assign(state=data.state.map({name: 10 * i for i, name in enumerate(STATES)}))
    fit = fitted(numbered)
    assert list(fit.transitions()) == ["0", "10", "20"]
    assert fit.deviance(numbered) == pytest.approx(fit.deviance())
    assert fit.deviance(numbered.assign(state=numbered.state.astype(float))) == pytest.approx(fit.deviance())
    again = fitted(numbered, "factor(state) ~ nn(x1, x2, hidden=c(2)) + (crf | dyad)")
    assert again.deviance(numbered) == pytest.approx(fit.deviance())
    with pytest.raises(DesignError, match="'state' is '30' in row 1"):
        fit.deviance(changed(numbered, "state", 0, 30))


def test_rows_in_any_order_give_the_same_fit(fit, data):
    within = data.groupby("sequence", sort=False).sample(frac=1.0, random_state=2)
    assert not within.t.is_monotonic_increasing
    again = fitted(within)
    assert again.fitted().index.equals(within.index)
    pd.testing.assert_frame_equal(again.fitted().sort_index(), fit.fitted(), rtol=1e-10)
    assert again.logLik() == pytest.approx(fit.logLik(), rel=1e-12)


def test_a_person_with_one_row(data):
    one = data.head(1).assign(dyad="lone", sequence="lone")
    both = pd.concat([data, one], ignore_index=True)
    fit = fitted(both)
    own = fit.ranef(condVar=True)
    assert np.allclose(own["dyad"].loc["lone"], 0.0, atol=1e-6)  # a single state tells nothing of transitions
    np.testing.assert_allclose(np.diagonal(fit.VarCorr()["dyad.crf"]), own.condsd()["dyad"].loc["lone"] ** 2, rtol=1e-4)
    assert fit.predict(one).iloc[0] in STATES
    again = fit.update_ranef(one.assign(dyad="other"))
    assert np.allclose(again.ranef()["dyad"].loc["other"], 0.0)


def test_rows_missing_at_an_end_are_left_out(data):
    gone = changed(data, "x1", [0, 4], np.nan)
    fit = fitted(gone)
    assert fit.nobs() == len(data) - 2
    assert fit.sequences.lengths[0] == 3
    with pytest.raises(DesignError, match="2 in 'x1'"):
        fitted(gone, na_action="fail")
    padded = fitted(gone, na_action="exclude")
    assert padded.fitted().index.equals(gone.index)
    for found in (padded.fitted()["joy"], padded.predict(), padded.predict(average=2), padded.predict(re_form="NA")):
        assert np.flatnonzero(found.isna()).tolist() == [0, 4]
    pd.testing.assert_frame_equal(padded.fitted().dropna(), fit.fitted())
    pd.testing.assert_series_equal(padded.predict(average=2).dropna(), padded.fitted().dropna().idxmax(axis=1))


def test_a_fit_is_updated(fit, data, tmp_path):
    shared = fit.update(". ~ . - (crf | dyad)")
    assert shared.formula() == "state ~ nn(x1, x2, hidden = c(2))"
    assert shared.ngrps() == {}
    again = fitted(data, "state ~ nn(x1, x2, hidden=c(2))")
    pd.testing.assert_frame_equal(shared.fitted(), again.fitted())
    assert fit.update(subset="dyad != 'd3'").ngrps() == {"dyad": 5}
    likelihood = fit.logLik()
    assert fit.AIC() == -2 * likelihood + 2 * likelihood.df
    assert fit.BIC() == -2 * likelihood + np.log(60) * likelihood.df
    fit.save(tmp_path / "fit")
    loaded = pylmernn.load(tmp_path / "fit")
    with pytest.raises(DesignError, match="holds no data"):
        loaded.update()
    pd.testing.assert_frame_equal(loaded.update(data=data).fitted(), fit.fitted())
