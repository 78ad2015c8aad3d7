"""The random part by sampling: its steps beside the marginal likelihood, draws, and networks trained on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from designs import term
from scipy.special import expit, log_softmax

from pylmernn.engines import pirls, sampledpart, trajectories
from pylmernn.engines.classdensity import ClassDensity
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import held_out, settle, some_rows
from pylmernn.engines.mcem import new_members
from pylmernn.engines.sampledpart import SampledPart, sampler_for, start_dispersion
from pylmernn.engines.sampling_options import Sampling
from pylmernn.families import read_family
from pylmernn.formula.design import DesignError, NetTerm, make_design
from pylmernn.mean.networks import specify
from pylmernn.training.options import GENERALIZED_DECAY, Training

BINOMIAL, POISSON, MULTINOMIAL = (read_family(name) for name in ("binomial", "poisson", "multinomial"))
N = 400


def model(family="binomial", slopes=False, C=1, covariance="us", weights=None, seed=0):
    """400 rows in 20 levels with an offset of all rows; C classes of a multinomial model."""
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=N), np.arange(N) % 20
    X, columns = np.column_stack([np.ones(N), x]), [np.ones(N), x][: 1 + slopes]
    eta = 0.4 * x[:, None] + rng.normal(size=(20, C))[g]
    classes = tuple("abcdefgh"[:C]) if C > 1 else ()
    if C > 1:
        y = (eta + rng.gumbel(size=(N, C))).argmax(axis=1).astype(float)
    elif family == "poisson":
        y = rng.poisson(np.exp(eta[:, 0])).astype(float)
    else:
        y = (rng.uniform(size=N) < expit(eta[:, 0])).astype(float)
    nets = [NetTerm("nn(x)", "nn", x[:, None], ("x",), (0,), {"hidden": (4,)})]
    terms = [term("g", g, *columns, covariance=covariance)]
    return make_design(
        y, X, ["(Intercept)", "x"], terms, weights, nets=nets, generalized=True, classes=classes
    )  # fmt: skip


def part_of(design, family=BINOMIAL, chains=2, seed=1, **settings):
    C = max(1, len(design.classes))
    sampling = Sampling(**settings)
    sampling = sampling.sized(design.n * C, sampler_for(family, design, sampling))
    return SampledPart(design, family, C, sampling, seed, chains)


def zeros(part):
    return np.zeros((part.design.n, part.n_classes))


# ---- draws


def test_transitions_keep_the_last_draws():
    part = part_of(model(slopes=True, C=3), MULTINOMIAL)
    kept = part.transitions(zeros(part), 4, 2)
    assert kept.shape == (2, 2, 40, 3)
    assert torch.equal(kept[-1], part.b)
    assert part.conditional_mean().shape == part.mean.shape == (40, 3)
    before = part.b.clone()
    part.transitions(zeros(part), 1, 1)
    assert not torch.equal(part.b, before)


@pytest.mark.parametrize("sampler", ["polya-gamma", "nuts"])
def test_seeds_repeat_draws(sampler):
    one, same, other = (part_of(model(), seed=seed, sampler=sampler) for seed in (3, 3, 4))
    for part in (one, same, other):
        part.transitions(zeros(part), 3, 1)
    assert torch.equal(one.b, same.b)
    assert not torch.equal(one.b, other.b)


def test_levels_without_rows_have_mean_zero_and_draws_from_the_prior():
    design = model()
    rows = np.flatnonzero(design.random[0].codes != 7)
    design = dataclasses.replace(some_rows(design, rows), nets=())
    part = part_of(design, chains=400)
    part.covariances = [np.full((1, 1, 1), 2.5)]
    draws = part.transitions(np.zeros((len(rows), 1)), 12, 10)
    assert float(part.mean[7, 0]) == 0.0
    assert (part.mean[:7, 0] != 0).all()
    unseen = draws[:, :, 7, 0].flatten()  # 4,000 independent draws
    assert float(unseen.var()) == pytest.approx(2.5, rel=4.5 * np.sqrt(2 / 4000))
    assert abs(float(unseen.mean())) < 4.5 * np.sqrt(2.5 / 4000)


def test_some_classes_are_drawn_in_an_epoch_with_many(monkeypatch):
    """Contrasts between the classes left out stay as they were; what is common to all classes moves."""
    monkeypatch.setattr(sampledpart, "CLASSES_A_SWEEP", 2)
    part = part_of(model(C=5), MULTINOMIAL)
    part.transitions(zeros(part), 1, 1)
    before = part.b.clone()
    part.transitions(zeros(part), 1, 1, every_class=False)
    moved = (part.b - before)[:, :, :, None] - (part.b - before)[:, :, None, :]
    still = (moved.abs().amax(dim=(0, 1)) < 1e-9).numpy()
    assert still.sum() == 3 * 3 + 2  # three classes among themselves, and two with themselves
    assert float((part.b - before).abs().min()) > 0
    part.transitions(zeros(part), 1, 1)
    assert len(part.informations) == 0
    part.step(0.1, fixed=True)
    assert sorted(part.informations) == [0, 1, 2, 3, 4]


# ---- steps


@pytest.mark.parametrize(
    ("family", "sampler"), [("binomial", "polya-gamma"), ("binomial", "nuts"), ("poisson", "nuts")]
)
def test_scores_vanish_on_average_at_the_maximum(family, sampler):
    """Fisher's identity: at the estimates of quadrature the parameters stay, but for Monte Carlo error."""
    family = read_family(family)
    design = dataclasses.replace(model(family.name), nets=())
    exact = pirls.fit(design, family, 25)
    part = part_of(design, family, chains=30 if sampler == "polya-gamma" else 12, sampler=sampler)
    part.beta, part.covariances = exact.beta[:, None].copy(), [np.full((1, 1, 1), exact.theta[0] ** 2)]
    part.transitions(zeros(part), 15, 1)
    part.transitions(zeros(part), 20, 20)
    part.step(1.0, fixed=True, last=True)
    se = np.sqrt(np.diagonal(exact.unscaled_vcov))
    assert (np.abs(part.beta[:, 0] - exact.beta) < 0.15 * se).all()
    moved = np.log(part.covariances[0][0, 0, 0] / exact.theta[0] ** 2)
    assert abs(moved) < 0.15 * part.variance_errors()[0][0, 0]


def test_steps_go_to_the_maximum():
    design = dataclasses.replace(model(), nets=())
    exact = pirls.fit(design, BINOMIAL, 25)
    part = part_of(design, chains=20)
    part.covariances = [np.full((1, 1, 1), 9.0)]
    for _ in range(15):
        part.transitions(zeros(part), 1, 1)
        part.step(1.0, fixed=True)
    assert np.sqrt(part.covariances[0][0, 0, 0]) == pytest.approx(exact.theta[0], rel=0.1)
    np.testing.assert_allclose(part.beta[:, 0], exact.beta, atol=0.1)


def test_fixed_effects_stay_where_they_are_told_to():
    part = part_of(model())
    part.transitions(zeros(part), 1, 1)
    part.step(1.0, fixed=False)
    assert (part.beta == 0).all()
    assert part.covariances[0][0, 0, 0] != 1.0


def test_steps_of_classes_sum_to_zero():
    part = part_of(model(C=3), MULTINOMIAL)
    for _ in range(3):
        part.transitions(zeros(part), 1, 1)
        part.step(0.5, fixed=True)
    np.testing.assert_allclose(part.beta.sum(axis=1), 0.0, atol=1e-12)
    assert np.ptp(part.beta, axis=1).min() > 0.05


def test_covariances_move_whole_and_diagonal_ones_on_their_own():
    whole, diagonal = (part_of(model(slopes=True, covariance=kind)) for kind in ("us", "diag"))
    assert whole.columns == []
    assert diagonal.columns == [(0, 0), (0, 1)]
    for part in (whole, diagonal):
        part.transitions(zeros(part), 1, 1)
        part.step(1.0, fixed=True)
        assert np.linalg.eigvalsh(part.covariances[0][0]).min() > 0
    assert abs(whole.covariances[0][0, 0, 1]) > 1e-3
    assert diagonal.covariances[0][0, 0, 1] == 0.0


@pytest.mark.parametrize("C", [1, 2])
def test_standard_errors_are_those_of_the_marginal_likelihood(C):
    """Of fixed effects to 10%, for the contrast of two classes too: those given Pólya-Gamma variables are too small."""
    design = dataclasses.replace(model(), nets=())
    exact = pirls.fit(design, BINOMIAL, 25)
    family = BINOMIAL
    if C == 2:
        design, family = dataclasses.replace(design, classes=("no", "yes")), MULTINOMIAL
    part = part_of(design, family, chains=10)
    part.beta = exact.beta[:, None] * (np.ones(1) if C == 1 else np.array([-0.5, 0.5]))
    part.covariances = [np.full((C, 1, 1), exact.theta[0] ** 2 / C)]
    for _ in range(30):
        part.transitions(zeros(part), 1, 1)
    part.inform_of_response()
    if C == 1:
        V = np.linalg.inv(part.fixed_information(0))
    else:
        difference = np.array([-1.0, 1.0])
        V = np.einsum("iajb,a,b->ij", part.class_covariance().reshape(2, 2, 2, 2), difference, difference)
    np.testing.assert_allclose(np.diagonal(V), np.diagonal(exact.unscaled_vcov), rtol=0.1)
    if C == 1:
        at = pirls.devfun(design, BINOMIAL, 25)
        values = [at(exact.theta * np.exp(0.5 * step), exact.beta) for step in (-0.1, 0.0, 0.1)]
        curvature = 0.5 * (values[0] - 2 * values[1] + values[2]) / 0.1**2
        assert part.variance_errors()[0][0, 0] == pytest.approx(curvature**-0.5, rel=0.15)


# ---- which sampler, and where it starts


def test_the_sampler_that_suits():
    counts = model(weights=np.full(N, 3.0))
    fractions = model(weights=np.full(N, 1.5))
    assert sampler_for(BINOMIAL, counts, Sampling()) == "polya-gamma"
    assert sampler_for(BINOMIAL, fractions, Sampling()) == "nuts"
    assert sampler_for(read_family("binomial(probit)"), counts, Sampling()) == "nuts"
    assert sampler_for(MULTINOMIAL, model(C=3), Sampling()) == "polya-gamma"
    assert sampler_for(MULTINOMIAL, model(C=3), Sampling(preset="faithful")) == "nuts"
    assert sampler_for(BINOMIAL, counts, Sampling(sampler="nuts")) == "nuts"
    asked = Sampling(sampler="polya-gamma")
    with pytest.raises(DesignError, match="not weights that are not whole numbers: use 'nuts'"):
        sampler_for(BINOMIAL, fractions, asked)
    for name in ("poisson", "binomial(probit)"):
        family = read_family(name)
        with pytest.raises(DesignError, match=f"multinomial models, not {str(family)[:7]}.*: use 'nuts'"):
            sampler_for(family, counts, asked)


def test_trajectories_start_at_the_modes():
    """Counts of thousands, whose means overflow at draws from the prior."""
    design = model("poisson")
    large = dataclasses.replace(design, y=design.y + 5000.0, nets=())
    part = part_of(large, POISSON)
    assert part.starts_at_modes
    modes = pirls.fit(large, POISSON, 1)
    np.testing.assert_allclose(part.b[0, :, 0].numpy(), modes.b[0][:, 0], atol=0.05)
    part.transitions(zeros(part), 3, 1)
    assert torch.isfinite(part.b).all()
    assert not part_of(model(C=3), MULTINOMIAL, sampler="nuts").starts_at_modes


def test_many_classes_move_by_trajectories_to_where_polya_gamma_variables_take_them(monkeypatch):
    """With the density of many classes; parameters and conditional means of 8 classes, but for Monte Carlo error."""
    found = {}
    design = dataclasses.replace(model(C=8), nets=())
    for name, many in (("polya-gamma", 20), ("nuts", 5)):
        monkeypatch.setattr(trajectories, "MANY_CLASSES", many)
        assert sampler_for(MULTINOMIAL, design, Sampling()) == name
        part = part_of(design, MULTINOMIAL, chains=8)
        means = []
        for number in range(70):  # of the parameters as they are
            part.transitions(zeros(part), 1, 1)
            if number >= 10:
                means.append(part.conditional_mean().numpy())
        variances, betas = [], []
        for number in range(80):
            part.transitions(zeros(part), 1, 1)
            part.step(1.0 if number < 30 else 0.3, fixed=True)
            if number >= 40:
                variances.append(part.covariances[0][:, 0, 0].copy())
                betas.append(part.beta.copy())
        means = np.mean(means, axis=0)
        found[name] = (np.mean(variances, axis=0), np.mean(betas, axis=0), means - means.mean(axis=1, keepdims=True))
    assert isinstance(part._last_density, ClassDensity)
    for one, other, within in zip(found["nuts"], found["polya-gamma"], (0.25, 0.08, 0.2), strict=True):
        np.testing.assert_allclose(one, other, atol=within)
    assert np.sqrt(np.mean((found["nuts"][2] - found["polya-gamma"][2]) ** 2)) < 0.06


def test_where_the_dispersion_starts():
    assert start_dispersion(MULTINOMIAL, model(C=3)) == 1.0
    thresholds = start_dispersion(read_family("ordinal"), model(C=3))
    share = np.cumsum(np.bincount(model(C=3).y.astype(int)) / N)[:-1]
    np.testing.assert_allclose(thresholds, np.log(share / (1 - share)), atol=0.05)


# ---- networks on draws


def member_of(design, family=BINOMIAL, **settings):
    C = max(1, len(design.classes))
    sampling = Sampling(**settings)
    sampling = sampling.sized(design.n * C, sampler_for(family, design, sampling))
    control = Control(training=Training(epochs=6, folds=0), sampling=sampling, device="cpu")
    specs = tuple(specify(net, outputs=C) for net in design.nets)
    training = settle(control.training, design, specs, GENERALIZED_DECAY)
    held = held_out(design, training)
    (member,) = new_members(design, family, C, control, training, specs, held)
    return member, np.flatnonzero(held.member == 0)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_the_loss_of_numbers_is_the_mean_deviance_over_draws(weight):
    trials = np.random.default_rng(2).integers(1, 5, N).astype(float)
    design = model(weights=trials)
    member, _ = member_of(design, fixed_effects_weight=weight)
    rng = np.random.default_rng(3)
    output, fixed, values = rng.normal(size=N), rng.normal(size=(N, 1)), rng.normal(size=(N, 3, 1))

    def density(eta):
        return trials[:, None] * (design.y[:, None] * eta - np.logaddexp(0, eta))

    arrays = (torch.tensor(v) for v in (output, design.y, trials, fixed, values))
    eta = output[:, None] + fixed
    expected = -2 * density(eta + values[..., 0]).mean(axis=1) - 2 * weight * density(eta)[:, 0]
    np.testing.assert_allclose(member.loss(*arrays).numpy(), expected, rtol=1e-10)


def test_the_loss_of_classes():
    design = model(C=3)
    member, _ = member_of(design, MULTINOMIAL, fixed_effects_weight=0.5)
    rng = np.random.default_rng(4)
    output, fixed, values = rng.normal(size=(N, 3)), rng.normal(size=(N, 3)), rng.normal(size=(N, 2, 3))
    eta = (output + fixed)[:, None] + values
    at = (np.arange(N), design.y.astype(int))
    expected = -2 * log_softmax(eta, axis=2).mean(axis=1)[at] - log_softmax(output + fixed, axis=1)[at]
    arrays = (torch.tensor(v) for v in (output, design.y, np.ones(N), fixed, values))
    np.testing.assert_allclose(member.loss(*arrays).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("C", [1, 3])
def test_held_out_loss_is_at_the_mean_effects(C):
    design = model(C=C)
    family = BINOMIAL if C == 1 else MULTINOMIAL
    member, rows = member_of(design, family)
    for number in (1, 2):
        member.epoch(number)
    loss, weight = member.held_out_loss(rows)
    b = member.part.mean.numpy()[design.random[0].codes]
    eta = (member.f + design.X @ member.part.beta + b)[rows]
    y = design.y[rows].astype(int)
    logs = log_softmax(np.hstack([np.zeros_like(eta), eta]) if C == 1 else eta, axis=1)[np.arange(len(rows)), y]
    assert loss == pytest.approx(-2 * logs.sum(), rel=1e-6)
    assert weight == len(rows) > 20
    assert member.held_out_loss(rows[:0]) == (0.0, 0.0)


def test_a_member_knows_nothing_of_rows_held_out():
    design = model()
    member, rows = member_of(design)
    y = design.y.copy()
    y[rows] = 1.0 - y[rows]
    other, _ = member_of(dataclasses.replace(design, y=y))
    for one in (member, other):
        one.epoch(1)
        one.epoch(2)
    np.testing.assert_array_equal(member.f, other.f)
    assert torch.equal(member.part.b, other.part.b)
    assert member.held_out_loss(rows)[0] != other.held_out_loss(rows)[0]
