"""transition_probabilities(), compare_transitions() and their pictures."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sequence_examples import dyads

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

mpl.use("Agg")
STATES = ["calm", "joy", "row"]


def fitted(data, bars, epochs):
    control = Control(training=Training(epochs=epochs))
    return pylmernn.glmernn(
        f"state ~ nn(x1, x2, hidden=c(4)){bars}", data, family="crf", sequence="sequence", time="t", control=control,
        seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """Dyads of two kinds: the second one's rows end in joy."""
    one, two = dyads(16, 40, sd=0.5, seed=3), dyads(16, 40, sd=0.5, seed=4)
    two["dyad"] = "e" + two.dyad.str[1:]
    two["sequence"] = "e" + two.sequence.str[1:]
    rng = np.random.default_rng(0)
    before = two.groupby("sequence")["state"].shift()
    two.loc[(before == "row") & (rng.random(len(two)) < 0.9), "state"] = "joy"
    return pd.concat([one, two], ignore_index=True)


@pytest.fixture(scope="module")
def fit(data):
    return fitted(data, " + (crf | dyad)", 12)


@pytest.fixture(scope="module")
def kinds(fit):
    levels = fit.ranef()["dyad"].index
    return pd.Series(["two" if level.startswith("e") else "one" for level in levels], index=levels)


def test_probabilities_are_softmax_of_scores(fit):
    np.testing.assert_allclose(fit.transition_probabilities(), softmax(fit.transitions(), axis=1))
    own = fit.transition_probabilities("d3")
    np.testing.assert_allclose(own, softmax(fit.transitions("d3"), axis=1))
    assert list(own.index) == list(own.columns) == STATES
    alone = fit.transition_probabilities(["d3"])
    assert alone.sum(axis=1).tolist() == pytest.approx([1.0] * 3)


def test_probabilities_in_sequences(fit, data):
    table = fit.transition_probabilities(["d3", "e3"], newdata=data.drop(columns=["dyad", "state"]).head(80))
    assert table.sum(axis=1).tolist() == pytest.approx([1.0] * 3)
    each = [fit.transition_probabilities(group, newdata=data.head(80)) for group in ("d3", "e3")]
    np.testing.assert_allclose(table, (each[0] + each[1]) / 2)


def test_expected_moves_are_those_that_happened(data):
    """At the maximum of the likelihood, and beyond what the transitions say by themselves."""
    plain = fitted(data, "", 2)
    happened = pd.crosstab(data.groupby("sequence")["state"].shift(), data["state"], normalize="index").to_numpy()
    np.testing.assert_allclose(plain.transition_probabilities(newdata=data), happened, atol=1e-3)
    assert np.abs(plain.transition_probabilities().to_numpy() - happened).max() > 0.1


def test_limits(fit, kinds):
    two = list(kinds.index[kinds == "two"])
    for group in (None, "d3", two):
        table = fit.transition_probabilities(group, interval=True, draws=200)
        assert list(table) == ["from", "to", "fit", "lwr", "upr"]
        assert (table.lwr < table.fit).all()
        assert (table.fit < table.upr).all()
        np.testing.assert_allclose(table.fit, fit.transition_probabilities(group).to_numpy().ravel())
        again = fit.transition_probabilities(group, interval=True, draws=200)
        pd.testing.assert_frame_equal(again, table)
    wide = fit.transition_probabilities(two, interval=True, draws=200)
    narrow = fit.transition_probabilities(two, interval=True, draws=200, level=0.5)
    assert (narrow.upr - narrow.lwr < wide.upr - wide.lwr).all()


def test_two_sets_differ_where_they_do(fit, kinds):
    found = fit.compare_transitions(kinds, draws=300, permutations=199)
    assert found.names == ("one", "two")
    assert found.groups == (16, 16)
    np.testing.assert_allclose(found.difference, found.second - found.first)
    assert found.lower.loc["row", "joy"] > 0.1
    assert found.upper.loc["row", "row"] < 0
    assert found.apart.loc["row", "joy"]
    assert found.independence.p_value < 0.05
    assert found.frame().shape == (9, 7)
    assert "*" in str(found)
    np.testing.assert_allclose(
        found.second, fit.transition_probabilities(list(kinds.index[kinds == "two"])), atol=1e-12
    )
    turned = kinds.astype(pd.CategoricalDtype(["two", "one"]))
    np.testing.assert_allclose(fit.compare_transitions(turned, draws=2).difference, -found.difference, atol=1e-12)


def test_sets_by_chance_are_alike(fit, kinds):
    rng = np.random.default_rng(5)
    p_values, apart = [], []
    for _ in range(20):
        some = dict(zip(kinds.index, rng.permutation(np.arange(len(kinds)) % 2), strict=True))
        found = fit.compare_transitions(some, draws=100, permutations=99)
        p_values.append(found.independence.p_value)
        apart.append(found.apart.to_numpy().mean())
    assert np.mean(p_values) == pytest.approx(0.5, abs=3 / np.sqrt(12 * 20))
    assert np.mean(apart) < 0.2


def test_groups_without_a_label_are_left_out(fit, kinds):
    some = kinds.where(np.arange(len(kinds)) % 4 > 0)
    assert sum(fit.compare_transitions(some, draws=5, permutations=9).groups) == 24


def test_pictures(fit, kinds):
    figure = fit.plot("transitions", by=kinds, draws=50, permutations=19)
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["one (16 groups)", "two (16 groups)",
                                                 "two less one, percentage points"]  # fmt: skip
    compared = fit.compare_transitions(kinds, draws=50, permutations=19)
    assert len(panels[2].patches) == compared.apart.to_numpy().sum()
    np.testing.assert_allclose(panels[2].images[0].get_array(), compared.difference)
    one = fit.plot("transitions", group="d3")
    np.testing.assert_allclose(one.axes[0].images[0].get_array(), fit.transition_probabilities("d3"))
    assert fit.plot("history").get_xlabel() != ""
    mpl.pyplot.close("all")


def test_bad_arguments(fit, kinds, data):
    with pytest.raises(DesignError, match="'d99' is no group"):
        fit.transition_probabilities("d99")
    with pytest.raises(DesignError, match="'d99' is no group"):
        fit.compare_transitions({"d1": 0, "d99": 1})
    with pytest.raises(DesignError, match="no group in the list"):
        fit.transition_probabilities([])
    with pytest.raises(DesignError, match="at least 3"):
        fit.transition_probabilities(["d1", "d2"], interval=True)
    with pytest.raises(DesignError, match="leave out newdata"):
        fit.transition_probabilities(newdata=data, interval=True)
    with pytest.raises(DesignError, match="3 labels"):
        fit.compare_transitions({"d1": "a", "d2": "b", "d3": "c"})
    with pytest.raises(DesignError, match="'b' has 1 groups"):
        fit.compare_transitions({"d1": "a", "d2": "a", "d3": "a", "d4": "b"})
    with pytest.raises(DesignError, match="a dict or a Series"):
        fit.compare_transitions(list(kinds))
    with pytest.raises(DesignError, match="names a group twice"):
        fit.compare_transitions(pd.concat([kinds, kinds]))
    with pytest.raises(DesignError, match=r"level is 1\.5"):
        fit.compare_transitions(kinds, level=1.5)
    with pytest.raises(DesignError, match="draws is 0"):
        fit.compare_transitions(kinds, draws=0)
    with pytest.raises(DesignError, match="no kind 'roc'"):
        fit.plot("roc")
    with pytest.raises(DesignError, match="two sets by 'by'"):
        fit.plot("transitions", by=kinds, group="d1")


def test_models_without_varying_transitions(data):
    some = data[data.dyad.isin(["d1", "d2", "d3"])]
    plain = fitted(some, "", 1)
    assert plain.transition_probabilities().shape == (3, 3)
    assert plain.transition_probabilities(newdata=some).sum(axis=1).tolist() == pytest.approx([1.0] * 3)
    with pytest.raises(DesignError, match="transitions do not vary"):
        plain.compare_transitions({"d1": 0, "d2": 1})
    with pytest.raises(DesignError, match="transitions do not vary"):
        plain.transition_probabilities(interval=True)
