"""Method "alternating": which epoch is kept, what is held out, what is left when training stops early."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pylmernn.engines import alternating, crossfitting
from pylmernn.engines.control import Control
from pylmernn.formula import build
from pylmernn.training.loop import Trainer
from pylmernn.training.options import Training

FORMULA = "y ~ nn(x, z, hidden = c(16, 8)) + (1 | g)"


def design(n=500, levels=40, formula=FORMULA, seed=0):
    """A smooth function of x; u is constant within the levels of g."""
    rng = np.random.default_rng(seed)
    d = pd.DataFrame({"x": rng.uniform(-2, 2, n), "z": rng.normal(size=n), "g": rng.integers(0, levels, n)})
    d["h"] = rng.integers(0, levels, n)
    d["u"] = rng.normal(size=levels)[d["g"]]
    d["y"] = np.sin(2 * d["x"]) + rng.normal(size=levels)[d["g"]] + 0.5 * rng.normal(size=n)
    return build(formula, d)[0]


def fit(at=None, **settings):
    settings = {"epochs": 4, "folds": 0, **settings}
    return alternating.fit(design() if at is None else at, control=Control(training=Training(**settings), device="cpu"))


def values(at, estimates):
    """What the networks kept say at the rows of the fit."""
    return estimates.networks.values([net.inputs for net in at.nets])


def test_history_tells_of_rows_and_levels():
    networks = fit(folds=3).networks
    history = pd.DataFrame(networks.history)
    assert list(history) == ["member", *crossfitting.HISTORY]
    assert list(history["member"].unique()) == [0, 1, 2]
    assert np.isfinite(history.to_numpy()).all()
    assert (history["validation_levels"] > history["validation"]).all()  # b is not known there
    assert len(set(networks.best_epoch)) == 1


def test_few_levels_are_not_held_out_whole():
    history = fit(design(levels=10)).networks.history
    assert np.isnan(history["validation_levels"]).all()
    assert np.isfinite(history["validation"]).all()


def test_a_member_knows_nothing_of_the_rows_it_predicts():
    at = design()
    settings = {"folds": 4, "validation": 0.0, "epochs": 2}
    mine = np.flatnonzero(crossfitting.held_out(at, Training(**settings).sized(at.n)).member == 0)
    y = at.y.copy()
    y[mine] = y[mine[::-1]]
    one, other = (fit(each, **settings).networks for each in (at, dataclasses.replace(at, y=y)))
    np.testing.assert_array_equal(one.learned.sum(axis=0), 3)
    first, second = (abs(first_layer(one, k) - first_layer(other, k)).max() for k in (0, 1))
    assert first < 1e-6
    assert second > 1e-4


def first_layer(networks, member):
    weights = networks.members[member][0]
    return next(w for w in weights.values() if w.ndim == 2)


def test_patience_stops_and_the_best_weights_come_back():
    at = design(n=300)
    estimates = fit(
        at, epochs=200, patience=5, schedule="constant", learning_rate=0.05, weight_decay=0.0, holdout="rows"
    )
    networks = estimates.networks
    validation = networks.history["validation"]
    assert len(validation) == networks.best_epoch[0] + 5 < 200
    assert networks.best_epoch[0] == 1 + int(np.argmin(validation))
    np.testing.assert_allclose(values(at, estimates), networks.fitted, atol=1e-5)
    assert estimates.convergence.converged


def test_a_function_of_the_levels_is_found():
    """u is constant within levels: b could stand for all of its function."""
    formula = "y ~ nn(u, hidden = c(32, 16)) + (1 | g)"
    at = design(n=1200, levels=80, formula=formula)
    u = at.nets[0].inputs[:, 0]
    truth = 2 * np.sin(2 * u)
    estimates = fit(dataclasses.replace(at, y=at.y + truth), epochs=60, learning_rate=0.01)
    f = estimates.networks.fitted
    assert np.corrcoef(f, truth)[0, 1] > 0.9
    assert np.std(f) > 0.8 * np.std(truth)


def test_whole_levels_can_choose_the_epoch():
    networks = fit(holdout="levels", validation=0.2, epochs=8).networks
    assert networks.best_epoch[0] == 1 + int(np.argmin(networks.history["validation_levels"]))
    assert np.isnan(networks.history["validation"]).all()


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant", "plateau"])
def test_every_schedule_lowers_the_error(schedule):
    history = fit(schedule=schedule, epochs=30).networks.history
    assert min(history["validation"]) < 0.9 * history["validation"][0]


def fails_in_call(monkeypatch, number, action):
    """Training as it is, but ``action`` in the ``number``-th epoch of a member."""
    real, calls = Trainer.epoch, []

    def epoch(self, target):
        calls.append(1)
        return action(self) if len(calls) == number else real(self, target)

    monkeypatch.setattr(Trainer, "epoch", epoch)


def interrupt(_trainer):
    raise KeyboardInterrupt


def test_an_interruption_keeps_the_last_whole_epoch(monkeypatch):
    at = design()
    fails_in_call(monkeypatch, 8, interrupt)  # second member, third epoch
    estimates = fit(at, folds=3)
    assert not estimates.convergence.converged
    assert "interrupted" in estimates.convergence.message
    assert estimates.networks.out_of_fold
    assert estimates.networks.history["epoch"] == [1.0, 2.0] * 3


def test_an_interruption_before_anything_is_learnt_goes_on(monkeypatch):
    fails_in_call(monkeypatch, 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit()


def test_a_loss_that_is_not_finite_later_keeps_the_last_good_state(monkeypatch):
    def spoil(trainer):
        for parameter in trainer.modules[0].parameters():
            parameter.data.fill_(float("nan"))
        return float("nan")

    at = design()
    fails_in_call(monkeypatch, 4, spoil)
    estimates = fit(at, epochs=6)
    assert "not finite in epoch 4" in estimates.convergence.message
    assert len(estimates.networks.history["epoch"]) == 3
    np.testing.assert_allclose(values(at, estimates), estimates.networks.fitted, atol=1e-5)


def test_many_effects_in_a_dense_factor_are_not_cross_fitted():
    at = design()
    crossed = design(n=4000, levels=1800, formula="y ~ nn(x) + (1 | g) + (1 | h)")
    assert crossfitting.settle(Training(), at, []).folds == 5
    assert crossfitting.settle(Training(), crossed, []).folds == 0
    assert crossfitting.settle(Training(folds=2), crossed, []).folds == 2
