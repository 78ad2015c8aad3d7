"""Verbs of a generalized model whose network varies by group."""

import numpy as np
import pandas as pd
import pytest

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training


def control(epochs=6, **more):
    return Control(training=Training(epochs=epochs, **more))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(15), 20)
    x = rng.normal(size=len(g))
    eta = np.column_stack([np.zeros_like(x), x + rng.normal(size=15)[g], -x + rng.normal(size=15)[g]])
    codes = (eta + rng.gumbel(size=eta.shape)).argmax(axis=1)
    counts = rng.poisson(np.exp(0.4 * x + 0.5 * rng.normal(size=15)[g]))
    return pd.DataFrame({"y": np.array(["a", "b", "c"])[codes], "n": counts, "x": x, "g": g})


@pytest.fixture(scope="module")
def fit(data):
    return pylmernn.glmernn(
        "y ~ nn(x, hidden=c(3)) + (nn.last | g)", data, family="multinomial", control=control(), seed=1
    )


@pytest.fixture(scope="module")
def counts(data):
    formula = "n ~ nn(x, hidden=c(2)) + (nn.last | g)"
    return pylmernn.glmernn(formula, data, family="poisson", control=control(folds=0), seed=1)


def test_classes(fit, data):
    table = fit.predict(type="response")
    assert list(table.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    link = fit.predict(type="link").to_numpy()
    np.testing.assert_allclose(table, np.exp(link) / np.exp(link).sum(axis=1, keepdims=True))
    pd.testing.assert_frame_equal(table, fit.predict_proba())
    pd.testing.assert_frame_equal(table, fit.predict(type="prob"))
    assert (fit.predict() == table.idxmax(axis=1)).all()
    assert fit.ranef()["g"].shape == (15, 3 * 4)
    assert fit.coef()["g"].shape == (15, 3 * 4 + 3)
    assert not fit.VarCorr().residual
    missing = fit.predict(data.head(3).assign(x=[0.1, np.nan, 0.2]), type="class")
    assert missing.isna().tolist() == [False, True, False]
    with pytest.raises(DesignError, match="no residuals"):
        fit.residuals()


def test_likelihood_of_a_linear_predictor(counts, data):
    mean = counts.fitted()
    np.testing.assert_allclose(np.log(mean), counts.predict(), rtol=1e-10)
    np.testing.assert_allclose(counts.residuals(), data.n - mean)
    np.testing.assert_allclose(counts.predict(data, type="response"), mean, rtol=1e-4)
    assert counts.logLik().df == 1 + 3 + 6 - 1  # the bias of the last layer is the intercept
    with pytest.raises(DesignError, match="has no classes"):
        counts.predict_proba()
    with pytest.raises(DesignError, match="leave it out"):
        counts.predict(data, type="link", average=5)


def test_averages_over_the_prior(counts, data):
    new = data.head(5).assign(g="new")
    generic = counts.predict(new, allow_new_levels=True, type="link")
    network = counts.predict(new, re_form="NA", type="link")
    np.testing.assert_allclose(generic, network)
    average = counts.predict(new, allow_new_levels=True, average=4000)
    factor = counts.estimates.factor
    # the last layer is linear in its deviations, so that the mean of exp() is known
    slopes = []
    for k in range(factor.shape[0]):
        moved = counts.update_ranef(new.head(1))
        moved.estimates.effects[-1] = np.eye(factor.shape[0])[k]
        slopes.append(moved.predict(new, type="link").to_numpy() - generic.to_numpy())
    variance = ((np.column_stack(slopes) @ factor) ** 2).sum(axis=1)
    np.testing.assert_allclose(average, np.exp(generic + variance / 2), rtol=0.1)


def test_known_groups_updated_by_their_rows_stay(fit, counts, data):
    for each, tolerance in ((counts, 1e-2), (fit, 0.05)):
        own = data[data.g == 3]
        again = each.update_ranef(own.assign(g="new"))
        difference = again.predict(own.assign(g="new"), type="link") - each.predict(own, type="link")
        assert np.abs(difference.to_numpy()).max() < tolerance
        assert again.ngrps() == {"g": 16}


def test_bad_new_rows(fit, data):
    rows = data.head(2).assign(g="new")
    with pytest.raises(DesignError, match="'z' in the new rows"):
        fit.update_ranef(rows.assign(y=["a", "z"]))
    with pytest.raises(DesignError, match="missing values"):
        fit.update_ranef(rows.assign(x=[0.0, np.nan]))
    with pytest.raises(DesignError, match="use one of link, response, prob, class"):
        fit.predict(type="margin")
    with pytest.raises(DesignError, match="preset 'faithful'"):
        pylmernn.glmernn("n ~ nn(x) + (nn | g)", data, family="poisson", control=control(preset="faithful"))
