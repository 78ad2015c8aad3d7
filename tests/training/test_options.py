"""Settings of training: what they are by default, and what is refused."""

from __future__ import annotations

import pytest

from pylmernn.training.options import Training


@pytest.mark.parametrize(
    ("n", "batch", "folds", "decay"), [(300, 16, 5, 1.0), (5000, 64, 5, 0.15), (80_000, 500, 0, 0.009375)]
)
def test_settings_follow_the_rows(n, batch, folds, decay):
    sized = Training().sized(n, parameters=5000)
    assert (sized.batch_size, sized.folds) == (batch, folds)
    assert sized.weight_decay == pytest.approx(decay)
    assert 30 <= sized.epochs <= 100


def test_what_is_set_stays():
    given = Training(epochs=7, batch_size=9, weight_decay=0.0, folds=0, patience=3)
    assert given.sized(1000) == given


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0: it must be a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5: it must be a whole number"),
        ({"patience": 0}, "patience is 0"),
        ({"folds": 1}, "folds is 1: use 0"),
        ({"folds": -2}, "folds is -2"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"validation": 0.5}, "validation is 0.5: it must be a share"),
        ({"schedule": "linear"}, "schedule is 'linear': use one of one_cycle, cosine, constant, plateau"),
        ({"holdout": "groups"}, "holdout is 'groups': use one of both, rows, levels"),
        ({"preset": "paper"}, "preset is 'paper'"),
        ({"validation": 0.0, "schedule": "plateau"}, "schedule 'plateau' needs held-out rows"),
        ({"validation": 0.0, "patience": 5}, "patience needs held-out rows"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        Training(**setting)
