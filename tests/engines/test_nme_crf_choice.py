"""Akaike's choice between forms of Sigma, beside criteria computed again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sequence_examples import dyads

from pylmernn.engines import nme_crf
from pylmernn.engines.control import Control
from pylmernn.engines.nme_crf_choice import choose, count_variances, kinds, start
from pylmernn.engines.nme_crf_model import GroupPosterior, next_factor
from pylmernn.formula import build
from pylmernn.formula.sequences import read_sequences
from pylmernn.training.options import Training

BOTH = "(nn.last | dyad) + (crf | dyad)"


def training(bars, data, epochs=12):
    design, _ = build(f"state ~ nn(x1, x2, hidden=c(2)) + {bars}", data, family="crf")
    control = Control(training=Training(epochs=epochs, seed=1))
    fit = nme_crf.SequenceTraining(design, read_sequences(data, "sequence", "t"), control)
    fit.run(None)
    return fit


@pytest.mark.parametrize("bars", ["(crf | dyad)", BOTH])
def test_bars_of_groups_that_are_alike_go(bars):
    fit = training(bars, dyads(24, 20, 2, sd=0.0, seed=3))
    before = fit.settle()[0]
    deviance, message = choose(fit)
    assert message == ""
    assert all(form == "zero" for form, size in zip(fit.forms, fit.model.sizes, strict=True) if size)
    assert not fit.factor.any()
    assert not fit.v.any()
    alone = fit.model.deviances(fit.data, torch.zeros(48, fit.model.size)).detach().sum()
    assert deviance == pytest.approx(float(alone), abs=1e-8)
    assert before < deviance < before + fit.model.size


def test_what_varies_stays_and_what_does_not_goes():
    fit = training(BOTH, dyads(24, 30, 2, sd=1.0, seed=4), epochs=20)
    full = fit.settle()[0]
    deviance, _ = choose(fit)
    assert fit.forms[0] == "zero"
    assert fit.forms[1] in ("common", "diagonal")
    assert fit.factor[9:, 9:].diagonal().min() > 0.3
    assert not fit.factor[:9].any()
    assert deviance + 2 * count_variances(fit.forms, fit.model.sizes, fit.labels)[1] < full + 2 * (9 + 9)
    state, forms = fit.state(), list(fit.forms)
    fit.forms = ["zero", "zero"]
    start(fit, 1)
    assert fit.settle()[0] > deviance + 9
    fit.restore(state)
    fit.forms = forms
    assert fit.settle()[0] == pytest.approx(deviance, abs=0.1)


def test_kinds_and_counts():
    labels = ("a.weight[1,1]", "a.weight[1,2]", "a.bias[1]", "transitions[x,y]", "transitions[y,x]")
    found = kinds(["common", "common"], (3, 2), labels)
    assert [each.tolist() for each in found] == [[0, 0, 2], [0, 0]]
    assert kinds(["full", "diagonal"], (3, 2), labels)[0] is None
    assert count_variances(["common", "common"], (3, 2), labels) == [2, 1]
    assert count_variances(["full", "diagonal"], (3, 2), labels) == [6, 2]
    assert count_variances(["zero", "full"], (3, 0), labels[:3]) == [0, 0]


def test_a_variance_in_common_is_the_mean_of_its_kind():
    rng = np.random.default_rng(0)
    u, root = rng.normal(size=(7, 4)), 0.3 * rng.normal(size=(7, 4, 4))
    V = root @ root.transpose(0, 2, 1)
    found = GroupPosterior(torch.from_numpy(u), torch.from_numpy(V), 0.0)
    L, kind = torch.diag(torch.tensor([0.5, 0.5, 2.0, 0.5]).double()), torch.tensor([0, 0, 2, 0])
    after = next_factor(found, L, (4, 0), (kind, None))
    moments = (u**2).mean(0) + np.diagonal(V.mean(0))
    same = 0.25 * moments[[0, 1, 3]].mean()
    np.testing.assert_allclose(after @ after.T, np.diag([same, same, 4 * moments[2], same]), atol=1e-12)
    leap = next_factor(found, L, (4, 0), (kind, None), leap=True)
    known = 1 - np.diagonal(V.mean(0))
    same = 0.25 * (u[:, [0, 1, 3]] ** 2).mean(0).sum() / known[[0, 1, 3]].sum()
    np.testing.assert_allclose(leap[0, 0] ** 2, same, atol=1e-12)


class Table:
    """A training of 4 weights and 2 transitions whose deviances are given by the forms of Sigma."""

    labels = (*[f"a.weight[1,{k}]" for k in range(4)], "transitions[x,y]", "transitions[y,x]")
    model = SimpleNamespace(sizes=(4, 2), size=6)
    v = torch.zeros(3, 6).double()

    def __init__(self, **deviances):
        self.forms, self.deviances = ["diagonal", "diagonal"], deviances
        self.restore((torch.eye(6).double(), GroupPosterior(self.v, torch.eye(6).expand(3, 6, 6).double(), 0.0)))

    def settle(self):
        return self.deviances["_".join(self.forms)], ""

    def state(self):
        return self.factor, self.posterior

    def restore(self, state):
        self.factor, self.posterior = state


@pytest.mark.parametrize(
    "alike, less, expected",
    [
        (5.9, 2.0, "common"),  # 3 variances fewer are worth 6
        (6.1, 2.0, "diagonal"),
        (5.0, 1.1, "common"),  # zero loses more than 1
        (2.0, 0.9, "zero"),
        (5.0, 0.9, "diagonal"),  # zero is better than one variance, but loses more than 4 to four
    ],
)
def test_criteria(alike, less, expected):
    small = {"zero": 100.0, "common": 40.0, "diagonal": 20.0}  # of transitions, all of which count
    first = {"diagonal": 0.0, "common": alike, "zero": alike + less}
    every = {f"{a}_{b}": first[a] + small[b] for a in first for b in small}
    fit = Table(**every)
    assert choose(fit) == (every[f"{expected}_diagonal"], "")
    assert fit.forms == [expected, "diagonal"]
    assert fit.factor[4:, 4:].equal(torch.eye(2).double())
    assert bool(fit.factor[:4].any()) == (expected != "zero")
