"""What is held out: single rows, whole levels, both."""

from __future__ import annotations

import numpy as np
import pytest

from pylmernn.training.holdout import split

N, LEVELS = 2000, 100
CODES = np.random.default_rng(0).integers(0, LEVELS, N).astype(np.int32)


def levels_of(held, member):
    """Levels held out whole from a member, and levels it learns from."""
    return set(CODES[held.whole & (held.member == member)]), set(CODES[held.learned(member)])


@pytest.mark.parametrize("holdout", ["rows", "levels", "both"])
def test_cross_fitting_holds_every_row_out_once(holdout):
    held = split(N, 5, 0.1, holdout, CODES, seed=1)
    assert held.member.min() == 0
    assert np.bincount(held.member).min() > 0.15 * N
    for member in range(5):
        whole, learned = levels_of(held, member)
        assert not whole & learned
    assert held.n_levels == {"rows": 0, "levels": LEVELS, "both": LEVELS // 2}[holdout]


@pytest.mark.parametrize("holdout", ["rows", "levels", "both"])
def test_one_member_gives_up_the_share(holdout):
    held = split(N, 1, 0.2, holdout, CODES, seed=1)
    assert np.mean(held.member == 0) == pytest.approx(0.2, abs=0.02)
    whole, learned = levels_of(held, 0)
    assert len(whole) == held.n_levels
    assert not whole & learned
    assert (held.n_levels > 0) == (holdout != "rows")
    assert (held.whole[held.member == 0].all()) == (holdout == "levels")


def test_few_levels_and_no_levels_mean_rows():
    for codes in (CODES % 19, None):
        held = split(N, 5, 0.1, "levels", codes, seed=1)
        assert not held.whole.any()
        assert (held.member >= 0).all()


def test_a_large_level_is_never_held_out_whole():
    codes = np.where(np.arange(N) < N // 2, 0, CODES + 1)
    held = split(N, 5, 0.1, "levels", codes, seed=1)
    assert not held.whole[codes == 0].any()
    assert held.whole[codes != 0].all()


def test_nothing_is_held_out_of_share_nothing():
    held = split(N, 1, 0.0, "both", CODES, seed=1)
    assert (held.member == -1).all()


def test_the_seed_decides():
    one, two, other = (split(N, 5, 0.1, "both", CODES, seed).member for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
