"""The linear-chain CRF against sums over all paths."""

import itertools

import numpy as np
import pytest
import torch

from pylmernn.linalg.pathsums import ROOM, steps_between_scalings
from pylmernn.mean.crf import CRF, chains, log_likelihood, log_partition, log_steps, marginals, pair_marginals, viterbi


def example(size, times, states, seed, by_group=False, forbid=False):
    """A batch in float64 with ragged lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 1.5

    transitions = draw(*([size] if by_group else []), states, states)
    if forbid:
        transitions[..., 0, 1] = -torch.inf
    lengths = torch.randint(1, times + 1, (size,), generator=generator)
    return draw(size, times, states), transitions, lengths, draw(states), draw(states)


def all_paths(scores, transitions, start, end):
    """Paths and their scores of one sequence, in plain NumPy."""
    times, states = scores.shape
    paths = list(itertools.product(range(states), repeat=times))
    values = [
        start[p[0]]
        + sum(scores[t, s] for t, s in enumerate(p))
        + sum(transitions[a, b] for a, b in itertools.pairwise(p))
        + end[p[-1]]
        for p in paths
    ]
    return paths, np.array(values)


CASES = [(times, states, by_group, forbid) for times in (1, 2, 6) for states in (2, 4) for by_group in (False, True)
         for forbid in (False, True)]  # fmt: skip


@pytest.mark.parametrize("by_group", [False, True])
def test_states_given_those_before_them(by_group):
    scores, transitions, lengths, start, end = example(4, 5, 3, 2, by_group)
    lengths[:2] = torch.tensor([5, 1])
    scores[1, 1:] = torch.nan
    batch = chains(scores, transitions, lengths, start, end)
    states = torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(0))
    found = log_steps(batch, states)
    for i, length in enumerate(lengths.tolist()):
        own = transitions[i] if by_group else transitions
        paths, values = all_paths(scores[i, :length].numpy(), own.numpy(), start.numpy(), end.numpy())
        weights, seen, before = np.exp(values), states[i, :length].tolist(), np.ones(len(paths), dtype=bool)
        for t in range(length):
            now = before & np.array([path[t] == seen[t] for path in paths])
            assert found[i, t].item() == pytest.approx(np.log(weights[now].sum() / weights[before].sum()), abs=1e-10)
            before = now
        assert (found[i, length:] == 0).all()
    np.testing.assert_allclose(found.sum(1), log_likelihood(batch, states), atol=1e-10)


@pytest.mark.parametrize("times, states, by_group, forbid", CASES)
def test_sums_over_all_paths(times, states, by_group, forbid):
    scores, transitions, lengths, start, end = example(3, times, states, 10 * times + states, by_group, forbid)
    lengths[0] = times
    scores[1, lengths[1] :] = torch.nan  # padding may hold anything
    batch = chains(scores, transitions, lengths, start, end)
    log_z, at, pairs, (best, score) = log_partition(batch), marginals(batch), pair_marginals(batch), viterbi(batch)
    for i, length in enumerate(lengths.tolist()):
        own = transitions[i] if by_group else transitions
        paths, values = all_paths(scores[i, :length].numpy(), own.numpy(), start.numpy(), end.numpy())
        with np.errstate(divide="ignore"):
            expected = np.logaddexp.reduce(values)
        probability = np.exp(values - expected)
        assert abs(log_z[i].item() - expected) < 1e-10
        assert best[i, :length].tolist() == list(paths[int(values.argmax())])
        assert (best[i, length:] == -1).all()
        assert abs(score[i].item() - values.max()) < 1e-10
        by_time, moves = np.zeros((times, states)), np.zeros((states, states))
        for path, share in zip(paths, probability, strict=True):
            by_time[np.arange(length), list(path)] += share
            for a, b in itertools.pairwise(path):
                moves[a, b] += share
        np.testing.assert_allclose(at[i].numpy(), by_time, atol=1e-12)
        np.testing.assert_allclose(pairs[i].numpy(), moves, atol=1e-12)


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_gradients(by_group, wide, monkeypatch):
    if wide:  # every pair its own exponential
        monkeypatch.setitem(ROOM, torch.float64, 0.0)
    scores, transitions, lengths, start, end = example(3, 4, 3, 5, by_group)
    for each in (scores, transitions, start, end):
        each.requires_grad_(True)
    states = torch.randint(0, 3, (3, 4), generator=torch.Generator().manual_seed(0))

    def loss(*given):
        return log_likelihood(chains(given[0], given[1], lengths, *given[2:]), states)

    assert torch.autograd.gradcheck(loss, (scores, transitions, start, end))


@pytest.mark.parametrize("dtype, span, tolerance", [(torch.float32, 15.0, 1e-5), (torch.float64, 160.0, 1e-12)])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_both_ways_of_a_step_agree_up_to_the_span(dtype, span, tolerance, share, monkeypatch):
    assert steps_between_scalings(span, 4, dtype) == 1  # and no room for a second step
    scores, transitions, lengths, start, end = example(4, 100, 4, 8)
    transitions = (transitions - transitions.min()) / (transitions.max() - transitions.min()) * span * share
    start, end = start * 100, end / (end.max() - end.min()) * span * share
    given = [each.to(dtype) for each in (100 * scores, transitions, start, end)]
    for each in given:
        each.requires_grad_(True)
    found = []
    for room in (ROOM[dtype], 0.0):
        monkeypatch.setitem(ROOM, dtype, room)
        log_z = log_partition(chains(given[0], given[1], lengths, *given[2:]))
        found.append((log_z.detach(), *torch.autograd.grad(log_z.sum(), given)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=tolerance, atol=0)
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=1000 * tolerance)


def test_no_room_for_a_wide_span():
    assert steps_between_scalings(4.0, 4, torch.float64) > 40
    assert steps_between_scalings(400.0, 4, torch.float64) == 0
    assert steps_between_scalings(float("inf"), 4, torch.float64) == 0
    assert steps_between_scalings(float("nan"), 4, torch.float64) == 0
    assert steps_between_scalings(1.0, 4, torch.float16) == 0


def test_starts_and_scores_that_pull_apart():
    scores = torch.zeros(1, 3, 2, dtype=torch.float64)
    scores[0, 0, 1] = scores[0, 2, 0] = 2000.0
    start = torch.tensor([2000.0, 0.0], dtype=torch.float64)
    batch = chains(scores, torch.zeros(2, 2, dtype=torch.float64), start=start, end=-start / 100)
    _, values = all_paths(
        *(each[0].numpy() for each in (scores,)), np.zeros((2, 2)), start.numpy(), -start.numpy() / 100
    )
    assert log_partition(batch).item() == pytest.approx(np.logaddexp.reduce(values), rel=1e-14)
    np.testing.assert_allclose(marginals(batch)[0].sum(1), 1.0)


def test_long_sequences_lose_no_digits():
    given = example(2, 3000, 3, 1)
    exact, rounded = (chains(*(each.to(dtype) for each in given)) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(marginals(rounded).double(), marginals(exact), rtol=0, atol=1e-5)
    torch.testing.assert_close(log_partition(rounded).double(), log_partition(exact), rtol=1e-6, atol=0)
    large = chains(1e3 * given[0], *given[1:])
    assert (log_partition(large) >= viterbi(large)[1]).all()


def test_uniform_transitions_are_independent_times():
    scores, _, lengths, _, _ = example(5, 7, 3, 2)
    crf = CRF(3)
    states = torch.randint(0, 3, (5, 7), generator=torch.Generator().manual_seed(1))
    alone = torch.log_softmax(scores, 2).gather(2, states[:, :, None])[:, :, 0]
    inside = torch.arange(7) < lengths[:, None]
    torch.testing.assert_close(crf(scores, states, lengths), (alone * inside).sum(1), rtol=1e-12, atol=0)


def test_groups_learn_their_own_transitions():
    generator = torch.Generator().manual_seed(3)
    groups = torch.arange(20) % 2
    states = torch.zeros(20, 40, dtype=torch.int64)
    for t in range(1, 40):  # the first group stays where it is, the second moves on
        likely = torch.where(groups == 0, states[:, t - 1], 1 - states[:, t - 1])
        states[:, t] = torch.where(torch.rand(20, generator=generator) < 0.8, likely, 1 - likely)
    crf = CRF(2, groups=2).double()
    optimizer = torch.optim.LBFGS(crf.parameters(), max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
    scores = torch.zeros(20, 40, 2, dtype=torch.float64)

    def loss():
        optimizer.zero_grad()
        value = -crf(scores, states, groups=groups).sum()
        value.backward()
        return value

    optimizer.step(loss)
    moves = pair_marginals(crf.batch(scores, groups=groups))
    for group in (0, 1):  # at the maximum moves are expected as often as they happened
        own = states[groups == group]
        happened = torch.zeros(2, 2, dtype=torch.float64)
        happened.index_put_((own[:, :-1].flatten(), own[:, 1:].flatten()), torch.tensor(1.0).double(), accumulate=True)
        torch.testing.assert_close(moves[groups == group].sum(0), happened, rtol=0, atol=1e-3)
    common = crf.batch(scores, groups=torch.full((20,), -1))
    torch.testing.assert_close(common.each_transition, crf.transitions.expand(20, 2, 2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": torch.zeros(2, 3)}, "scores has shape"),
        ({"transitions": torch.zeros(2, 3)}, "transitions has shape"),
        ({"start": torch.zeros(4)}, "start has shape"),
        ({"lengths": torch.tensor([0, 3])}, "lengths must be 2 whole numbers from 1 to 3"),
    ],
)
def test_bad_batches(change, message):
    given = {"scores": torch.zeros(2, 3, 3), "transitions": torch.zeros(3, 3)} | change
    with pytest.raises(ValueError, match=message):
        chains(**given)


def test_bad_states():
    batch = chains(torch.zeros(1, 3, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="from 0 to 2"):
        log_likelihood(batch, torch.tensor([[0, 1, 3]]))
    with pytest.raises(ValueError, match="states has shape"):
        log_likelihood(batch, torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="at least 2"):
        CRF(1)
