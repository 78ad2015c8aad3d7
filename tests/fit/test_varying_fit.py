"""The verbs of a network that varies by group."""

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.engines.nme_model import HeldOut
from pylmernn.fit.varying_text import held_out_text
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

ORTHODONT = pd.read_csv("tests/golden/data/Orthodont.csv.gz")


def fitted(net, bar, epochs=8, **more):
    return pylmernn.lmernn(
        f"distance ~ nn({net}) + ({bar} | Subject)",
        ORTHODONT,
        control=Control(training=Training(epochs=epochs)),
        **more,
    )


@pytest.fixture(scope="module")
def last():
    return fitted("age, hidden=c(3)", "nn.last")


@pytest.fixture(scope="module")
def deep():
    return fitted("age, Sex, hidden=c(3)", "nn")


def test_tables_have_a_column_a_parameter(last):
    names = [f"layers.2.weight[{j}]" for j in (1, 2, 3)] + ["layers.2.bias"]
    assert list(last.ranef()["Subject"].columns) == names
    assert last.ranef()["Subject"].shape == (27, 4)
    assert list(last.fixef().index) == ["(Intercept)", *names]
    pd.testing.assert_frame_equal(
        last.coef()["Subject"][names], last.ranef()["Subject"] + last.fixef()[names], check_names=False
    )
    assert last.VarCorr()["Subject"].shape == (4, 4)
    assert last.ranef(condVar=True).condVar["Subject"][0].shape == (27, 4, 4)
    assert last.ngrps() == {"Subject": 27}
    assert last.vcov().shape == (1, 1)


def test_variances_by_layer(deep):
    table = deep.VarCorr()
    assert list(table) == ["Subject.embeddings.0", "Subject.layers.0", "Subject.layers.2"]
    assert table["Subject.layers.2"].shape == (4, 4)
    spread = deep.ranef(condVar=True).condsd()["Subject"]
    assert (spread.to_numpy() <= np.sqrt(deep.estimates.prior_variances) + 1e-9).all()
    with pytest.raises(DesignError, match="only where the last layer alone varies"):
        deep.vcov()


@pytest.mark.parametrize("name", ["last", "deep"])
def test_predictions(name, request):
    fit = request.getfixturevalue(name)
    np.testing.assert_allclose(fit.predict(ORTHODONT), fit.fitted(), rtol=1e-5)
    np.testing.assert_allclose(fit.fitted() + fit.residuals(), ORTHODONT["distance"], rtol=1e-12)
    new = ORTHODONT.head(4).assign(Subject="new")
    generic = fit.predict(new, allow_new_levels=True)
    np.testing.assert_allclose(generic, fit.predict(ORTHODONT.head(4), re_form="NA"), rtol=1e-12)
    np.testing.assert_allclose(generic, fit.predict(re_form="NA").head(4), rtol=1e-5)
    with pytest.raises(DesignError, match=r"new levels in the grouping factor 'Subject': 'new'; set allow_new_levels"):
        fit.predict(new)


def test_averages_over_the_prior(last, deep):
    rows = ORTHODONT.head(4)
    straight = last.predict(rows, re_form="NA", average=2000)
    np.testing.assert_allclose(straight, last.predict(rows, re_form="NA"), atol=0.3)  # linear in its deviations
    bent = deep.predict(rows, re_form="NA", average=400)
    assert np.isfinite(bent).all()
    assert np.abs(bent - deep.predict(rows, re_form="NA")).max() > 1e-3


@pytest.mark.parametrize("name, tolerance", [("last", 1e-3), ("deep", 0.02)])
def test_new_groups_are_learnt_from_their_rows(name, tolerance, request):
    fit = request.getfixturevalue(name)
    rows = ORTHODONT[ORTHODONT["Subject"] == "M10"].assign(Subject="new")
    more = fit.update_ranef(rows)
    assert "new" not in fit.ranef()["Subject"].index
    ours = more.predict(rows).to_numpy()  # its twin has the same rows, so the same curve
    np.testing.assert_allclose(ours, fit.predict(ORTHODONT[ORTHODONT["Subject"] == "M10"]), rtol=tolerance)
    spread = more.ranef(condVar=True).condsd()["Subject"]
    np.testing.assert_allclose(spread.loc["new"], spread.loc["M10"], rtol=0.05)
    pd.testing.assert_frame_equal(more.ranef()["Subject"].head(27), fit.ranef()["Subject"])
    few = fit.update_ranef(rows.head(1)).ranef(condVar=True).condsd()["Subject"].loc["new"]
    assert few.sum() > spread.loc["new"].sum()


def test_the_text_says_what_varies(last, deep):
    assert "(nn.last | Subject): 4 of 10 parameters vary" in str(last)
    assert "REML criterion given the layers below" in last.summary()
    assert "linearised at the modes" in str(deep)
    assert "Random effects, standard deviations by layer:" in str(deep)


def test_the_users_own_module_varies():
    import torch

    tower = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    fit = fitted("age, net='tower'", "tower.last", nets={"tower": tower})
    assert list(fit.ranef()["Subject"].columns)[-1] == "2.bias"
    np.testing.assert_allclose(fit.predict(ORTHODONT), fit.fitted(), rtol=1e-5)


@pytest.mark.parametrize("name", ["last", "deep"])
def test_a_file_holds_the_fit(name, request, tmp_path):
    fit = request.getfixturevalue(name)
    fit.save(tmp_path / "fit")
    again = pylmernn.load(tmp_path / "fit")
    assert str(again) == str(fit)
    assert again.formula() == fit.formula()
    rows = ORTHODONT.sample(20, random_state=1)
    pd.testing.assert_series_equal(again.predict(rows), fit.predict(rows))
    for ours, theirs in zip(
        again.ranef(condVar=True).condsd().values(), fit.ranef(condVar=True).condsd().values(), strict=True
    ):
        pd.testing.assert_frame_equal(ours, theirs)
    new = rows.assign(Subject="new")
    pd.testing.assert_series_equal(again.update_ranef(new).predict(new), fit.update_ranef(new).predict(new))


def test_new_rows_need_a_response(last):
    with pytest.raises(DesignError, match="missing"):
        last.update_ranef(ORTHODONT.head(2).assign(distance=np.nan))


def test_the_text_says_which_layers_vary_and_why():
    few = held_out_text(HeldOut(9, None, None, None, "last"))
    assert "too few rows" in " ".join(few)
    last = " ".join(held_out_text(HeldOut(40, 0.25, 0.3, 0.02, "last")))
    assert last.startswith("The last layer alone varies: 40 held-out rows")
    assert "0.25 and 0.3 " in last
    assert "0.3 and 0.5 " in " ".join(held_out_text(HeldOut(40, 0.5, 0.3, 0.02, "all")))
    assert held_out_text(None) == []
