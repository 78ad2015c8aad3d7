"""Data that no estimate fits: separation, levels of one class, means beyond what numbers hold."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from pylmernn import DesignError, glmernn

N = 300
RNG = np.random.default_rng(0)
DATA = pd.DataFrame({"g": np.repeat(np.arange(30), 10), "x": RNG.normal(size=N)})
DATA["f"] = np.array(list("abc"))[RNG.integers(0, 3, N)]
DATA["yes"] = RNG.binomial(1, 1 / (1 + np.exp(-DATA["x"])))
DATA["count"] = RNG.poisson(np.exp(0.3 * DATA["x"]))
DATA["rating"] = RNG.integers(0, 3, N)


def fitted(formula, data, nAGQ=1, **arguments):
    """A fit whose numbers are finite, and the warnings it gave."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit = glmernn(formula, data, nAGQ=nAGQ, **arguments)
    effects = fit.ranef()["g"].to_numpy()
    for numbers in (fit.fixef(), fit.vcov(), fit.estimates.theta, effects, float(fit.logLik()), fit.fitted()):
        assert np.isfinite(np.asarray(numbers)).all()
    return fit, " ".join(str(warning.message) for warning in told)


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_levels_of_zeros_and_of_ones(link, nAGQ):
    data = DATA.assign(y=np.where(DATA["g"] == 0, 0, np.where(DATA["g"] == 1, 1, DATA["yes"])))
    fit, told = fitted("y ~ x + (1 | g)", data, nAGQ, family=f"binomial({link})")
    effects = fit.ranef()["g"]["(Intercept)"].to_numpy()
    assert effects[0] < -0.3
    assert effects[1] > 0.3
    assert "separation" not in told


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
@pytest.mark.parametrize("family", ["poisson", "negative.binomial"])
def test_levels_without_counts(family, nAGQ):
    data = DATA.assign(y=np.where(DATA["g"] < 3, 0, DATA["count"]))
    fit, _ = fitted("y ~ x + (1 | g)", data, nAGQ, family=family)
    effects = fit.ranef()["g"]["(Intercept)"].to_numpy()
    assert effects[:3].max() < effects[3:].mean()


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
def test_every_level_of_one_class(nAGQ):
    fitted("y ~ x + (1 | g)", DATA.assign(y=DATA["g"] % 2), nAGQ)


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_separation_names_the_column(link, nAGQ):
    data = DATA.assign(y=(DATA["x"] > 0).astype(int))
    _, told = fitted("y ~ x + (1 | g)", data, nAGQ, family=f"binomial({link})")
    assert "separation:" in told
    assert "x tells successes from failures" in told


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
@pytest.mark.parametrize(
    "family, y",
    [
        ("binomial", np.where(DATA["f"] == "b", 1, DATA["yes"])),
        ("binomial(probit)", np.where(DATA["f"] == "b", 0, DATA["yes"])),
        ("poisson", np.where(DATA["f"] == "b", 0, DATA["count"])),
        ("negative.binomial", np.where(DATA["f"] == "b", 0, DATA["count"])),
        ("ordinal", np.where(DATA["f"] == "b", 2, DATA["rating"])),
    ],
)
def test_a_level_of_one_class_is_named(family, y, nAGQ):
    _, told = fitted("y ~ x + f + (1 | g)", DATA.assign(y=y), nAGQ, family=family)
    assert "separation: fb tells" in told


def test_many_trials_of_one_class():
    y = np.where(DATA["f"] == "b", 1, DATA["yes"])
    _, told = fitted("y ~ x + f + (1 | g)", DATA.assign(y=y, w=50), 9, weights="w")
    assert "separation: fb tells" in told


@pytest.mark.parametrize("nAGQ", [0, 1])
def test_separated_classes_in_order(nAGQ):
    data = DATA.assign(y=(DATA["x"] > -0.5).astype(int) + (DATA["x"] > 0.5))
    fit, told = fitted("y ~ x + (1 | g)", data, nAGQ, family="ordinal")
    assert "separation: x tells classes apart" in told
    assert np.isfinite(fit.estimates.phi).all()


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
def test_strong_effects_are_no_separation(nAGQ):
    probability = 1 / (1 + np.exp(-4.0 * DATA["x"]))
    data = DATA.assign(y=np.random.default_rng(1).binomial(1, probability))
    _, told = fitted("y ~ x + (1 | g)", data, nAGQ)
    assert "separation" not in told


@pytest.mark.parametrize(
    "change, formula, family, message",
    [
        ({"o": np.where(np.arange(N) == 3, 800.0, 0.0)}, "count ~ x + offset(o) + (1 | g)", "poisson", "from 0 to 800"),
        ({"y": np.where(np.arange(N) == 3, 1e300, 1.0)}, "y ~ x + (1 | g)", "poisson", "the means overflow"),
        ({"y": np.resize([1e-200, 1e200], N)}, "y ~ x + (1 | g)", "Gamma(log)", "the means overflow"),
    ],
)
def test_overflow_is_told_in_a_sentence(change, formula, family, message):
    for nAGQ in (0, 1, 9):
        with pytest.raises(DesignError, match=message):
            glmernn(formula, DATA.assign(**change), family=family, nAGQ=nAGQ)


@pytest.mark.parametrize("family", ["poisson", "negative.binomial", "Gamma(log)"])
def test_large_offsets_that_the_intercept_takes_back(family):
    data = DATA.assign(y=DATA["count"] + (family == "Gamma(log)"), o=-1000.0)
    with_offset, _ = fitted("y ~ x + offset(o) + (1 | g)", data, family=family)
    without, _ = fitted("y ~ x + (1 | g)", data, family=family)
    assert with_offset.fixef().iloc[0] == pytest.approx(without.fixef().iloc[0] + 1000.0, abs=1e-3)
    assert with_offset.fixef().iloc[1] == pytest.approx(without.fixef().iloc[1], abs=1e-3)
