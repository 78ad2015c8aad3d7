"""The training loop: schedules, decay, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pylmernn.training.loop import Trainer, batches, count_matrices, device_for, evaluate, parameter_groups
from pylmernn.training.options import Training


def line(m=64, **settings):
    """A linear module and its trainer on m rows of y = 2 x."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Flatten(0))
    x = torch.linspace(-1, 1, m)[:, None]
    training = Training(**{"epochs": 10, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.0, **settings})
    trainer = Trainer([module], [x], np.arange(m), training.sized(m), torch.Generator().manual_seed(0))
    return trainer, 2 * x[:, 0]


def rates(schedule):
    """The learning rate before every epoch and after the last, the held-out error never falling."""
    trainer, target = line(schedule=schedule)
    out = [trainer.learning_rate]
    for _ in range(10):
        trainer.epoch(target)
        trainer.end_epoch(1.0)
        out.append(trainer.learning_rate)
    return np.array(out)


def test_schedules_move_the_learning_rate():
    assert (rates("constant") == 0.1).all()
    assert (np.diff(rates("cosine")) < 0).all()
    assert rates("cosine")[-1] == pytest.approx(0.0, abs=1e-9)
    cycle = rates("one_cycle")
    assert cycle[0] < 0.01
    assert cycle.argmax() == 3
    assert cycle[-1] < 1e-4
    assert sorted(set(np.round(rates("plateau"), 9))) == [0.03, 0.1]


def test_it_learns_a_line():
    trainer, target = line(epochs=40)
    losses = [trainer.epoch(target) for _ in range(40)]
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(trainer.values(), target.numpy(), atol=0.02)


def test_values_met_on_the_way_are_those_before_the_step():
    trainer, target = line(batch_size=64)
    trainer.rows = torch.arange(60)
    before = trainer.values()
    trainer.epoch(target)
    np.testing.assert_allclose(trainer.met[:60].numpy(), before[:60], rtol=1e-6)
    assert (trainer.met[60:] == 0).all()
    np.testing.assert_array_equal(trainer.values(torch.tensor([3, 5])), trainer.values()[[3, 5]])


def test_weights_come_back():
    trainer, target = line()
    before, state = trainer.values(), trainer.state()
    trainer.epoch(target)
    assert np.abs(trainer.values() - before).max() > 0.01
    trainer.restore(state)
    np.testing.assert_array_equal(trainer.values(), before)


def test_matrices_decay_those_of_few_inputs_less():
    module = torch.nn.Sequential(
        torch.nn.Embedding(7, 2), torch.nn.Linear(2, 20), torch.nn.LayerNorm(20), torch.nn.Linear(20, 1)
    )
    decay = {id(p): group["weight_decay"] for group in parameter_groups([module, module], 0.5) for p in group["params"]}
    assert decay[id(module[1].weight)] == pytest.approx(0.1)
    assert decay[id(module[3].weight)] == 0.5
    assert {decay[id(p)] for p in (module[0].weight, module[1].bias, *module[2].parameters())} == {0.0}
    assert len(decay) == len(list(module.parameters()))
    assert count_matrices([module]) == 60


def test_rows_left_out_are_not_learnt_from():
    trainer, target = line()
    trainer.rows = torch.arange(0, 64, 2)
    spoiled = target.clone()
    spoiled[1::2] = torch.nan
    assert np.isfinite(trainer.epoch(spoiled))


def test_batches_cover_the_rows_and_leave_no_single_one():
    assert [(b.start, b.stop) for b in batches(9, 4)] == [(0, 4), (4, 9)]
    assert [(b.start, b.stop) for b in batches(10, 4)] == [(0, 4), (4, 8), (8, 10)]


def test_values_do_not_depend_on_chunks(monkeypatch):
    trainer, _ = line()
    whole = trainer.values()
    monkeypatch.setattr("pylmernn.training.loop.CHUNK", 7)
    np.testing.assert_allclose(evaluate(trainer.modules, trainer.features), whole, rtol=1e-6)


def test_the_device():
    assert device_for("cpu").type == "cpu"
    assert device_for("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
