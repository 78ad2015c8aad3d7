"""Generalized models beside lme4 and glmmTMB: optima, and objectives at fixed parameters (make_golden_glmm.R)."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import pylmernn
from pylmernn import datasets
from pylmernn.engines import pirls
from pylmernn.families import read_family
from pylmernn.formula import build

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "glmm_models.json").read_text(encoding="utf-8"))
MODELS = {model["id"]: model for model in GOLDEN["models"]}
LME4 = [name for name, model in MODELS.items() if model["program"] == "lme4"]
TMB = [name for name, model in MODELS.items() if model["program"] == "glmmTMB"]


def family_of(model):
    return model["family"] if model["link"] is None else f"{model['family']}({model['link']})"


@functools.cache
def data_of(name):
    return datasets.read(HERE / "glmm_data", name)


@functools.cache
def our_fit(name):
    """Our fit of a golden model."""
    model = MODELS[name]
    with warnings.catch_warnings():  # a singular fit and predictors on different scales are among them
        warnings.simplefilter("ignore", UserWarning)
        return pylmernn.glmernn(
            model["formula"], data_of(model["data"]), family_of(model), model["nAGQ"], weights=model["weights"]
        )


def test_there_are_enough_models():
    assert len(LME4) >= 20
    assert {MODELS[name]["nAGQ"] for name in LME4} >= {0, 1, 9, 25}
    assert {MODELS[name]["family"] for name in TMB} == {"Gamma", "beta", "negative.binomial"}


@pytest.mark.parametrize("name", MODELS)
def test_objective_is_no_higher_than_theirs(name):
    model, ours = MODELS[name], our_fit(name).estimates.objective
    assert ours <= model["objective"] + 1e-6 * abs(model["objective"])
    assert ours >= model["objective"] - 1e-5 * abs(model["objective"])  # far below would be another criterion


@pytest.mark.parametrize("name", LME4)
def test_objective_at_fixed_parameters(name):
    model = MODELS[name]
    family = read_family(family_of(model))
    design, _ = build(model["formula"], data_of(model["data"]), weights=model["weights"], family=family.name)
    objective = pirls.devfun(design, family, model["nAGQ"])
    ours = [objective(np.atleast_1d(point["theta"]), np.array(point["beta"], float)) for point in model["points"]]
    np.testing.assert_allclose(ours, model["point_objective"], rtol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_fixed_effects(name):
    model, fit = MODELS[name], our_fit(name)
    ours, errors = fit.fixef(), np.sqrt(np.diag(fit.vcov(use_hessian=False)))
    assert list(ours.index) == list(model["fixef"])
    apart = np.abs(ours.to_numpy() - np.array(list(model["fixef"].values()))) / errors
    assert apart.max() < 0.02  # of a standard error: the other optimizers stop early
    assert (fit.nobs(), fit.logLik().df) == (model["nobs"], model["df"])


@pytest.mark.parametrize("name", [name for name in LME4 if MODELS[name]["ranef"] is not None])
def test_conditional_modes(name):
    for group, theirs in MODELS[name]["ranef"].items():
        ours = our_fit(name).ranef()[group].to_numpy()
        np.testing.assert_allclose(ours, np.array(theirs, float), atol=0.01 * np.abs(theirs).max())


@pytest.mark.parametrize("name", TMB)
def test_dispersion_and_deviations(name):
    model, fit = MODELS[name], our_fit(name)
    sd = np.sqrt(np.concatenate([np.diag(block) for block in fit.VarCorr().values()]))
    np.testing.assert_allclose(np.sort(sd), np.sort(model["sd"]), rtol=1e-3)
    ours = fit.sigma() if model["family"] == "Gamma" else fit.dispersion()
    assert ours == pytest.approx(model["sigma"], rel=1e-3)


def test_standard_errors_are_those_of_the_hessian():
    errors = np.sqrt(np.diag(our_fit("cbpp").vcov()))
    np.testing.assert_allclose(errors, list(GOLDEN["cbpp_se"].values()), rtol=1e-4)
