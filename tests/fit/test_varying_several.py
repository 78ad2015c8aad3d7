"""The verbs of a network that varies by several bars, or beside ordinary ones."""

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.engines.nme_predict import network_of
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training


def data_of(seed=0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(36), 10)
    culture, school = person // 6, rng.integers(0, 5, 360)
    x = rng.uniform(-2, 2, 360)
    f = (1 + 0.8 * rng.normal(size=6)[culture] + 0.4 * rng.normal(size=36)[person]) * np.sin(x)
    y = f + 0.5 * rng.normal(size=5)[school] + 0.2 * rng.normal(size=360)
    names = {"culture": [f"c{c}" for c in culture], "person": person, "school": [f"s{s}" for s in school]}
    return pd.DataFrame({"y": y, "x": x, **names})


DATA = data_of()


def fitted(bars, **more):
    control = Control(training=Training(epochs=4))
    return pylmernn.lmernn(f"y ~ nn(x, hidden=c(3)) + {bars}", DATA, control=control, seed=2, **more)


@pytest.fixture(scope="module")
def last():
    return fitted("(nn.last | culture/person) + (1 | school)")


@pytest.fixture(scope="module")
def deep():
    return fitted("(nn.first | culture) + (nn.last || person) + (1 | person)")


LAST = [f"layers.2.weight[{j}]" for j in (1, 2, 3)] + ["layers.2.bias"]


def test_tables_of_all_factors(last, deep):
    effects = last.ranef(condVar=True)
    assert {name: table.shape for name, table in effects.items()} == {
        "person:culture": (36, 4),
        "culture": (6, 4),
        "school": (5, 1),
    }
    assert list(effects["culture"].columns) == LAST
    assert effects.condVar["school"][0].shape == (5, 1, 1)
    assert len(effects.as_frame()) == 36 * 4 + 6 * 4 + 5
    assert last.ngrps() == {"person:culture": 36, "culture": 6, "school": 5}
    coef = last.coef()["culture"]
    np.testing.assert_allclose(coef[LAST], effects["culture"] + last.fixef()[LAST])
    together = deep.ranef(condVar=True)
    assert list(together["person"].columns) == [*LAST, "(Intercept)"]
    assert together.condsd()["person"].shape == (36, 5)
    assert together["culture"].shape == (6, 6)


def test_variances_of_all_terms(last, deep):
    assert next(iter(last.VarCorr())).startswith("person:culture")
    assert "school" in last.VarCorr()
    table = deep.VarCorr()
    assert list(table) == ["person.layers.2", "person.1", "culture"]
    assert table["person.layers.2"].to_numpy()[0, 1] == 0
    assert table.as_frame()["vcov"].iloc[-1] == pytest.approx(deep.sigma() ** 2)
    spread = deep.ranef(condVar=True).condsd()["person"]
    prior = np.sqrt(
        np.concatenate([deep.estimates.varying[1].prior_variances, deep.estimates.random[0].prior_variances])
    )
    assert (spread.to_numpy() <= prior + 1e-9).all()


def test_predictions_by_parts(last):
    np.testing.assert_allclose(last.predict(DATA), last.fitted(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last.fitted() + last.residuals(), DATA["y"], rtol=1e-9)
    generic = last.predict(DATA, re_form="NA")
    np.testing.assert_allclose(generic, last.predict(re_form="NA"), rtol=1e-6)
    school = last.ranef()["school"]["(Intercept)"]
    alone = last.predict(DATA, re_form="~ (1 | school)") - generic
    np.testing.assert_allclose(alone, school[DATA["school"]].to_numpy(), atol=1e-5)
    culture = last.predict(DATA, re_form="~ (nn.last | culture) + (1 | school)")
    strangers = DATA.assign(person="unknown")
    np.testing.assert_allclose(last.predict(strangers, allow_new_levels=True), culture, atol=1e-6)
    network = network_of(last.estimates)  # by hand: theta_bar plus the deviations of a culture
    network.move(_tensor(last.ranef()["culture"].loc["c2"]))
    rows = DATA[DATA["culture"] == "c2"]
    f = network.module(network.module.prepare(rows[["x"]].to_numpy())).detach().numpy().ravel()
    by_hand = f * last.estimates.networks.scale + last.fixef().iloc[0]
    np.testing.assert_allclose(last.predict(rows, re_form="~ (nn.last | culture)"), by_hand, atol=1e-5)


def _tensor(row):
    import torch

    return torch.tensor(row.to_numpy()).float()


def test_what_predict_refuses(last):
    with pytest.raises(DesignError, match=r"new levels in the grouping factor 'person:culture': 'q:c0'"):
        last.predict(DATA.head(2).assign(person="q"))
    with pytest.raises(DesignError, match=r"new levels in the grouping factor 'school': 'new'"):
        last.predict(DATA.head(2).assign(school="new"))
    with pytest.raises(DesignError, match=r"re_form names \(nn | culture\), but the bars"):
        last.predict(re_form="~ (nn | culture)")
    with pytest.raises(DesignError, match="grouping factor 'person'"):
        last.predict(re_form="~ (1 | person)")


def test_averages_over_unknown_levels(last, deep):
    rows = DATA.head(4).assign(person="q")
    straight = last.predict(rows, allow_new_levels=True, average=2000)
    np.testing.assert_allclose(straight, last.predict(rows, allow_new_levels=True), atol=0.15)
    new = DATA.head(4).assign(culture="q")
    bent = deep.predict(new, allow_new_levels=True, average=200)
    assert np.isfinite(bent).all()
    known = deep.predict(DATA.head(4), average=3)
    np.testing.assert_allclose(known, deep.predict(DATA.head(4)), rtol=1e-6)


@pytest.mark.parametrize("name", ["last", "deep"])
def test_new_levels_learn_from_rows(name, request):
    fit = request.getfixturevalue(name)
    if name == "last":  # the rows of a person once more, under another name: the same effects
        again = DATA[DATA["person"] == 7].assign(person="again")
        updated = fit.update_ranef(again)
        effects = updated.ranef(condVar=True)["person:culture"]
        np.testing.assert_allclose(effects.loc["again:c1"], effects.loc["7:c1"], atol=2e-3)
        sds = updated.ranef(condVar=True).condsd()["person:culture"]
        assert (sds.loc["again:c1"] <= sds.loc["7:c1"] + 1e-6).all()  # the culture counts as known
        known = fit.ranef()["person:culture"]
        pd.testing.assert_frame_equal(effects.loc[known.index], known)
    new = DATA[DATA["culture"] == "c3"].assign(culture="q", person=lambda d: "p" + d["person"].astype(str), school="s9")
    updated = fit.update_ranef(new)
    before = np.mean((new["y"] - fit.predict(new, allow_new_levels=True)) ** 2)
    assert np.mean((new["y"] - updated.predict(new)) ** 2) < before
    assert updated.ngrps()["culture"] == 7
    with pytest.raises(DesignError, match="no level that the fit does not know"):
        fit.update_ranef(DATA.head(20))
    with pytest.raises(DesignError, match="infinite"):
        fit.update_ranef(new.assign(y=np.inf))


def test_a_file_keeps_it(last, deep, tmp_path):
    for fit in (last, deep):
        fit.save(tmp_path / "fit")
        again = pylmernn.load(tmp_path / "fit")
        assert type(again) is type(fit)
        assert str(again) == str(fit)
        pd.testing.assert_series_equal(again.predict(DATA), fit.predict(DATA))
        pd.testing.assert_frame_equal(again.VarCorr().as_frame(), fit.VarCorr().as_frame())
        assert again.logLik() == fit.logLik()
        assert again.update_ranef(DATA.head(10).assign(person="q")).ngrps() == fit.ngrps() | _one_more(fit)


def _one_more(fit):
    group = next(iter(fit.ngrps()))
    return {group: fit.ngrps()[group] + 1}


def test_the_summary_has_all_terms(last):
    text = last.summary()
    for part in (
        "(nn.last | person:culture): 4 of",
        "(nn.last | culture): 4 of",
        " school ",
        "person:culture, 36; culture, 6",
    ):
        assert part in text
    assert last.vcov().shape == (1, 1)
    assert last.history()["epoch"].tolist() == [1, 2, 3, 4]


def test_degrees_of_freedom(last):
    e = last.estimates
    assert last.logLik().df == 1 + 3 + e.n_variances + 1  # the bias of the last layer is the intercept
    assert e.n_variances >= 3
