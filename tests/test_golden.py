"""Our numbers beside lme4's, for the models of golden/make_golden.R (optima, estimates, objectives at random theta)."""

from __future__ import annotations

import functools
import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import pylmernn
from pylmernn import datasets
from pylmernn.engines import profiled
from pylmernn.formula import build

HERE = Path(__file__).parent / "golden"
with gzip.open(HERE / "models.json.gz", "rt", encoding="utf-8") as text:
    MODELS = {model["id"]: model for model in json.load(text)["models"]}


def data_of(model):
    folder = HERE / "data"
    own = (folder / f"{model['data']}.csv.gz").exists()  # as R had it when the numbers were made
    return datasets.read(folder, model["data"]) if own else datasets.load(model["data"])


def extras(model, data):
    """The weights and offset arguments of the call."""
    return {name: data[model[name]] for name in ("weights", "offset") if model[name] is not None}


@functools.cache
def our_fit(name):
    """Our fit of a golden model."""
    model = MODELS[name]
    data = data_of(model)
    with warnings.catch_warnings():  # several are singular or rank deficient on purpose
        warnings.simplefilter("ignore", UserWarning)
        return pylmernn.lmernn(model["formula"], data, REML=model["REML"], **extras(model, data))


@pytest.fixture(params=MODELS, ids=str)
def both(request):
    """One golden model and our fit of it."""
    return MODELS[request.param], our_fit(request.param)


def test_there_are_enough_models():
    assert len(MODELS) >= 40
    assert len({model["data"] for model in MODELS.values()}) >= 14
    assert {model["REML"] for model in MODELS.values()} == {True, False}


def test_objective_is_no_higher_than_lme4s(both):
    model, fit = both
    ours, theirs = fit.estimates.objective, model["objective"]
    assert ours <= theirs + 1e-6 * abs(theirs)
    assert ours >= theirs - 1e-4 * abs(theirs)  # far below would be another criterion, not a better optimum


def test_fixed_effects_and_their_errors(both):
    model, fit = both
    names, estimates = list(model["fixef"]), np.array(list(model["fixef"].values()))
    errors = np.array(list(model["se"].values()))
    ours = fit.fixef()
    assert list(ours.index) == names
    scale = np.maximum(np.abs(estimates), errors)
    np.testing.assert_array_less(np.abs(ours.to_numpy() - estimates) / scale, 1e-4)
    own_errors = np.sqrt(np.diag(np.asarray(fit.vcov())))
    np.testing.assert_allclose(own_errors, errors, rtol=1e-4)


def test_scale_and_groups(both):
    model, fit = both
    assert fit.sigma() == pytest.approx(model["sigma"], rel=1e-4)
    assert fit.nobs() == model["nobs"]
    assert dict(fit.ngrps()) == model["ngrps"]
    assert bool(fit.isSingular()) is model["singular"]


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model["ranef"] is not None])
def test_conditional_modes(name):
    model, ours = MODELS[name], our_fit(name).ranef()
    assert list(ours) == list(model["ranef"])
    for group, theirs in model["ranef"].items():
        values = np.array(theirs["values"], dtype=float)
        assert list(ours[group].columns) == theirs["columns"]
        assert [str(level) for level in ours[group].index] == theirs["levels"]
        scale = np.abs(values).max(axis=0) + 1e-3 * model["sigma"]
        # lme4's theta is good to about four digits, and the modes inherit that
        np.testing.assert_array_less(np.abs(ours[group].to_numpy() - values) / scale, 2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_objective_at_random_theta(name):
    model = MODELS[name]
    data = data_of(model)
    design, _ = build(model["formula"], data, **extras(model, data))
    objective = profiled.devfun(design, model["REML"])
    ours = [objective(np.array(theta, dtype=float)) for theta in model["random_theta"]]
    np.testing.assert_allclose(ours, model["random_objective"], rtol=1e-9)
