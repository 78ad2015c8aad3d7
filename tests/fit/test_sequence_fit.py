"""glmernn() of sequences of states."""

import numpy as np
import pandas as pd
import pytest
from sequence_examples import STATES, dyads

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

NETWORK = "state ~ nn(x1, x2, hidden=c(4))"


def fitted(bars, data, epochs=40, **more):
    control = Control(training=Training(epochs=epochs))
    return pylmernn.glmernn(
        f"{NETWORK}{bars}", data, family="crf", sequence="sequence", time="t", control=control, seed=1, **more
    )


@pytest.fixture(scope="module")
def data():
    return dyads(24, 30, 2)


@pytest.fixture(scope="module")
def parts(data):
    later = data.sequence.str.endswith(".1")
    return data[~later], data[later]


@pytest.fixture(scope="module")
def fit(parts):
    return fitted(" + (crf | dyad)", parts[0])


def test_transitions_that_vary_beat_shared_and_separate_ones(fit, parts):
    train, test = parts
    varied = [dyad for dyad, own in train.groupby("dyad", sort=False) if own.state.nunique() == 3]
    some = test[test.dyad.isin(varied[:6])]
    generic = fitted("", train)
    separate = sum(
        fitted("", train[train.dyad == dyad], epochs=60).deviance(own) for dyad, own in some.groupby("dyad", sort=False)
    )
    ours = fit.deviance(some)
    assert ours < 0.95 * generic.deviance(some)
    assert ours < 0.95 * separate
    assert fit.deviance(test) < 0.95 * generic.deviance(test)
    right = (fit.predict(test) == test.state).mean()
    assert right > (generic.predict(test) == test.state).mean()
    assert fit.deviance(test, re_form="NA") > fit.deviance(test)


def test_variances_are_near_the_truth():
    long = fitted(" + (crf | dyad)", dyads(40, 100, sd=0.7, seed=2), epochs=12)
    table = long.VarCorr()["dyad.crf"].to_numpy()
    centre = np.eye(9) - 1 / 9  # a constant of all transitions changes nothing
    assert np.trace(centre @ table @ centre) == pytest.approx(8 * 0.49, rel=0.25)
    assert (table == np.diag(np.diagonal(table))).all()  # 40 groups are few for covariances


def test_answers_have_the_order_of_the_rows(fit, data):
    shuffled = data.sample(frac=1.0, random_state=3)
    shuffled = shuffled[shuffled.sequence.str.endswith(".1")]
    table = fit.predict_proba(shuffled)
    assert table.index.equals(shuffled.index)
    assert list(table.columns) == sorted(STATES)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-10)
    sorted_table = fit.predict_proba(shuffled.sort_index())
    np.testing.assert_allclose(table.sort_index(), sorted_table, atol=1e-10)
    pd.testing.assert_series_equal(fit.predict(shuffled).sort_index(), fit.predict(shuffled.sort_index()))
    assert fit.fitted().shape == (fit.nobs(), 3)


def test_updating_a_known_group_changes_nothing(fit, parts):
    own = parts[0][parts[0].dyad == "d3"]
    again = fit.update_ranef(own.assign(dyad="new"))
    np.testing.assert_allclose(again.ranef()["dyad"].loc["new"], fit.ranef()["dyad"].loc["d3"], atol=1e-4)
    sds = again.ranef(condVar=True).condsd()["dyad"]
    np.testing.assert_allclose(sds.loc["new"], sds.loc["d3"], atol=1e-4)
    assert again.deviance(own.assign(dyad="new")) == pytest.approx(fit.deviance(own), abs=1e-3)
    assert again.ngrps() == {"dyad": 25}
    np.testing.assert_allclose(again.transitions("new"), fit.transitions("d3"), atol=1e-4)


def test_new_groups(fit, parts):
    new = parts[1].head(30).assign(dyad="new")
    with pytest.raises(DesignError, match=r"new levels .* 'new'"):
        fit.predict(new)
    generic = fit.predict_proba(new, allow_new_levels=True)
    np.testing.assert_allclose(generic, fit.predict_proba(new, re_form="NA"))
    average = fit.predict_proba(new, allow_new_levels=True, average=20)
    np.testing.assert_allclose(average.sum(axis=1), 1.0)
    assert np.abs(average - generic).to_numpy().max() > 0.01


def test_network_and_transitions_vary_together(data):
    some = data[data.dyad.isin([f"d{i}" for i in range(8)])]
    fit = fitted(" + (nn.last | dyad) + (crf | dyad)", some, epochs=8)
    table = fit.ranef()["dyad"]
    assert table.shape == (8, 3 * 5 + 9)
    assert list(fit.VarCorr()) == ["dyad.nn", "dyad.crf"]
    assert "Transitions" in str(fit)
    assert fit.history().shape[0] == 8
    alone = fitted("", some, epochs=2)
    with pytest.raises(DesignError, match="nothing varies"):
        alone.ranef()
    assert "Transitions" in str(alone)


def test_a_dot_means_neither_sequences_nor_times():
    data = dyads(3, 6)
    control = Control(training=Training(epochs=1))
    dot = pylmernn.glmernn(
        "state ~ nn(., hidden=c(2)) + (crf | dyad)", data, family="crf", sequence="sequence", time="t", control=control
    )
    assert dot.design.nets[0].input_names == ("x1", "x2")
    table = data.to_dict("list")
    again = pylmernn.glmernn(
        "state ~ nn(., hidden=c(2)) + (crf | dyad)", table, family="crf", sequence="sequence", time="t", control=control
    )
    np.testing.assert_allclose(again.fitted(), dot.fitted())


def bad(data, column, at, value):
    changed = data.copy()
    changed[column] = changed[column].astype(object)
    changed.loc[at, column] = value
    return changed


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: bad(d, "t", 4, 3), "'d0.0' has the time 3 twice"),
        (lambda d: bad(d, "t", 4, None), "'t' is missing in row 5"),
        (lambda d: bad(d, "sequence", 4, None), "'sequence' is missing in row 5"),
        (lambda d: d.assign(x1=d.x1.where(d.index != 4)), "'d0.0' has a row with missing values amid others"),
        (lambda d: d.assign(sequence=np.arange(len(d))), "every sequence has length 1"),
        (lambda d: bad(d, "dyad", 4, "d1"), "'d0.0' has rows of several levels of 'dyad'"),
        (lambda d: d.drop(columns="t"), "no column 't'"),
    ],
)
def test_bad_data(change, message):
    with pytest.raises(DesignError, match=message):
        fitted(" + (crf | dyad)", change(dyads(3, 6)), epochs=1)


@pytest.mark.parametrize(
    "formula, message",
    [
        (f'{NETWORK} + (nn["layers.9.weight"] | dyad)', "no parameter 'layers.9.weight'"),
        (f"{NETWORK} + (1 | dyad)", "but no columns"),
        ("state ~ x1 + (crf | dyad)", "a sequence model has one network"),
        (f"{NETWORK} + rr(crf | dyad, d = 2)", "take no rr"),
        (f"{NETWORK} + (crf.last | dyad)", "vary as a whole"),
        ("state ~ nn(x1, hidden=c(50)) + (nn | dyad)", "253 numbers would vary"),
        (f"{NETWORK} + (crf | dyad) + (nn.last | sequence)", "vary by one factor only"),
        (f"{NETWORK} + (crf | dyad) + (crf || dyad)", "vary by one factor only"),
    ],
)
def test_bad_formulas(formula, message):
    with pytest.raises(DesignError, match=message):
        pylmernn.glmernn(formula, dyads(3, 6), family="crf", sequence="sequence", time="t")


def test_bad_arguments(fit, parts):
    data = parts[0]
    with pytest.raises(DesignError, match="needs sequence="):
        pylmernn.glmernn(NETWORK, data, family="crf")
    with pytest.raises(DesignError, match="are for family='crf'"):
        pylmernn.glmernn(f"{NETWORK} + (1 | dyad)", data, family="multinomial", sequence="sequence")
    faithful = Control(training=Training(preset="faithful"))
    with pytest.raises(DesignError, match="preset 'faithful'"):
        pylmernn.glmernn(NETWORK, data, family="crf", sequence="sequence", time="t", control=faithful)
    with pytest.raises(DesignError, match="neither weights"):
        pylmernn.glmernn(NETWORK, data, family="crf", sequence="sequence", weights="t")
    with pytest.raises(DesignError, match="fits no sequences"):
        pylmernn.glmernn(NETWORK, data, family="crf", sequence="sequence", method="mcem")
    with pytest.raises(DesignError, match="transitions belong to sequences"):
        pylmernn.glmernn(f"{NETWORK} + (crf | dyad)", data, family="multinomial")
    with pytest.raises(DesignError, match="'rage' in row 1 of the new data"):
        fit.deviance(bad(parts[1], "state", parts[1].index[0], "rage"))
    with pytest.raises(DesignError, match="no level of 'dyad'"):
        fit.transitions("nobody")
    with pytest.raises(DesignError, match="use one of class, response"):
        fit.predict(type="link")


def test_a_sequence_of_one_row_is_no_trouble(fit, parts):
    one = parts[1].iloc[[0]]
    assert fit.predict(one).iloc[0] in STATES
    longer = pd.concat([parts[0], one])
    assert fitted(" + (crf | dyad)", longer, epochs=1).nobs() == len(longer)
